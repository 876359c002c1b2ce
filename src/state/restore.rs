//! How a table comes back from its pieces. Any bytes give the table that was sealed or a typed error, never a panic.
//!
//! Here: applying images and deltas, then checking every page as a whole and rebuilding the directories.
//! Not here: the form of a piece (`piece`), finding the pieces (the store).
//!
//! Two stages: a piece is applied when its form is sound; whether its content is (keys hash into the page, are reachable, occur once) is
//! checked when the page is complete, unless the checksums of its pieces already say that they are what was written.

use super::directory::{Bucket, Directories};
use super::layout::Layout;
use super::page::{DELETED, EMPTY, LANES, Page, Probe, SlotAt, probe, tag_of};
use super::piece::{self, ImageHead, KIND_ENTRIES, KIND_PAGE, SlotState};
use super::residency::Residency;
use super::table::{Table, live_slots};
use super::{KeyGroup, StateError};
use crate::checkpoint::{PageKey, PieceKind};
use crate::memory::Block;
use std::collections::BTreeMap;

/// How much of a page that was built of its pieces is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Check {
    /// That it has the form of a page. For pieces with the checksums of those that were written, as what was written was such a page:
    /// otherwise each of its keys would have to be hashed and looked for.
    Form,
    /// That every entry is one that the state could have put there.
    Content,
}

/// The pages of a table while its pieces arrive.
#[derive(Default)]
pub(super) struct Restoring {
    /// By key group and page number: the page's index in the table.
    pages: BTreeMap<(u16, u32), usize>,
}

impl Restoring {
    /// Applies one piece; those of one page must come in order.
    ///
    /// # Panics
    /// Asserts that the table was not used before.
    pub fn apply(&mut self, table: &mut Table, key: PageKey, kind: PieceKind, bytes: &[u8]) -> Result<(), StateError> {
        assert!(table.directories.is_empty(), "pieces are restored before the first record");
        if key.key_group < table.range.start || key.key_group >= table.range.end {
            return Err(table.foreign(key.key_group));
        }
        match kind {
            PieceKind::Image => {
                let page = table.page_of_image(key, usize::MAX, bytes)?;
                match self.pages.get(&(key.key_group, key.page)) {
                    Some(&index) => table.pages[index] = page,
                    None => {
                        self.pages.insert((key.key_group, key.page), table.push_page(page));
                    }
                }
                Ok(())
            }
            PieceKind::Delta => {
                let Some(&index) = self.pages.get(&(key.key_group, key.page)) else {
                    return Err(table.damaged(key, "a delta comes before any image of its page"));
                };
                let applied = apply_delta(&mut table.pages[index], table.layout, bytes);
                applied.map_err(|what| table.damaged(key, what))
            }
        }
    }

    /// Checks every page and rebuilds the directories. On an error the table is empty.
    pub fn finish(self, table: &mut Table) -> Result<(), StateError> {
        match self.directories(table) {
            Ok(directories) => {
                table.directories = directories;
                Ok(())
            }
            Err(error) => {
                table.pages.clear();
                table.residency = Residency::default();
                Err(error)
            }
        }
    }

    fn directories(&self, table: &Table) -> Result<Directories, StateError> {
        if self.pages.is_empty() {
            return Ok(Directories::default());
        }
        let mut directories = Directories::empty(table.range.len());
        let mut pages = self.pages.iter().peekable();
        let mut buckets = Vec::new();
        while let Some((&(key_group, number), &index)) = pages.next() {
            let key = PageKey { state: table.identity.id, key_group, page: number };
            let page = &table.pages[index];
            table.check_page(page, Check::Content).map_err(|what| table.damaged(key, what))?;
            if number as usize != buckets.len() {
                return Err(table.damaged(key, "the page before it is missing"));
            }
            buckets.push(Bucket { prefix: page.prefix, depth: page.depth, index: index as u32 });
            if pages.peek().is_none_or(|next| next.0.0 != key_group) {
                let directory = table.directory_of(KeyGroup(key_group));
                directories.rebuild(directory, &buckets).map_err(|what| table.damaged(key, what))?;
                buckets.clear();
            }
        }
        Ok(directories)
    }
}

impl Table {
    /// A page built of its pieces, an image and then deltas; `keep` is the page it is going to be.
    pub(super) fn page_of_pieces(
        &mut self,
        key: PageKey,
        keep: usize,
        pieces: &[(PieceKind, &[u8])],
        check: Check,
    ) -> Result<Page, StateError> {
        let mut page = None;
        for &(kind, bytes) in pieces {
            page = Some(self.page_with_piece(key, keep, page, kind, bytes)?);
        }
        let page = page.ok_or_else(|| self.damaged(key, "the page has no pieces"))?;
        self.check_page(&page, check).map_err(|what| self.damaged(key, what))?;
        Ok(page)
    }

    /// What a page becomes with the next of its pieces, not checked as a whole.
    pub(super) fn page_with_piece(
        &mut self,
        key: PageKey,
        keep: usize,
        page: Option<Page>,
        kind: PieceKind,
        bytes: &[u8],
    ) -> Result<Page, StateError> {
        match (kind, page) {
            (PieceKind::Image, _) => self.page_of_image(key, keep, bytes),
            (PieceKind::Delta, Some(mut page)) => {
                apply_delta(&mut page, self.layout, bytes).map_err(|what| self.damaged(key, what))?;
                Ok(page)
            }
            (PieceKind::Delta, None) => Err(self.damaged(key, "a delta comes before any image of its page")),
        }
    }

    pub(super) fn damaged(&self, key: PageKey, what: &'static str) -> StateError {
        StateError::Damaged {
            operator: self.identity.operator.clone(),
            state: self.identity.name.clone(),
            key_group: key.key_group,
            page: key.page,
            what,
        }
    }

    fn page_of_image(&mut self, key: PageKey, keep: usize, bytes: &[u8]) -> Result<Page, StateError> {
        let (head, body) = ImageHead::read(bytes).map_err(|what| self.damaged(key, what))?;
        if head.page_key() != key {
            return Err(self.damaged(key, "the image is of another page"));
        }
        if head.depth > 63 || (head.prefix << head.depth) != 0 {
            return Err(self.damaged(key, "the page's prefix is longer than its depth"));
        }
        if !self.layout.is_page_len(head.page_len()) {
            return Err(self.damaged(key, "the image is of a page length this state does not use"));
        }
        let block = self.take_block(head.page_len(), keep)?;
        let built = match (head.kind, self.layout) {
            (KIND_PAGE, Layout::Fixed(_)) => whole_page(block, &head, bytes, self.layout),
            (KIND_ENTRIES, _) => {
                let mut page = Page::empty(block, key.key_group, key.page, head.prefix, head.depth);
                let read = piece::read_entries(body, head.entries, &mut page, self.layout, |page, entry| {
                    if entry.state == SlotState::Empty {
                        return Err("an image lists an empty slot");
                    }
                    put_entry(page, self.layout, &entry)
                });
                read.map(|()| page)
            }
            _ => Err("the image is of no kind this state writes"),
        };
        built.map_err(|what| self.damaged(key, what))
    }

    pub(super) fn check_page(&self, page: &Page, check: Check) -> Result<(), &'static str> {
        let layout = self.layout;
        let bytes = page.bytes();
        if usize::from(page.used) > layout.used_max(bytes) {
            return Err("more slots are in use than a page allows");
        }
        if check == Check::Form {
            return Ok(());
        }
        let grid = layout.grid(bytes);
        for at in live_slots(bytes, layout) {
            let (kind, key) = layout.key(bytes, at);
            let key = &bytes[key];
            let hash = layout.hash(bytes, at);
            if bytes[grid.tag_offset(at)] != tag_of(hash) {
                return Err("a slot's tag is not its key's");
            }
            if (hash ^ page.prefix) >> 1 >> (63 - u32::from(page.depth)) != 0 {
                return Err("a key belongs to another page");
            }
            let found = probe(bytes, grid, hash, |at| layout.is_key(bytes, at, kind, key));
            if found != Probe::Found(at) {
                return Err("a key is out of reach or occurs twice");
            }
            if !(self.identity.check)(kind, key, &bytes[layout.value(bytes, at)]) {
                return Err("an entry is none that this state writes");
            }
        }
        Ok(())
    }
}

fn apply_delta(page: &mut Page, layout: Layout, bytes: &[u8]) -> Result<(), &'static str> {
    let (count, entries) = piece::read_delta_head(bytes)?;
    // First all old cells go, then the new ones come: in any other order they might not fit in between.
    piece::read_entries(entries, count, page, layout, |page, entry| {
        clear_slot(page, layout, entry.at);
        Ok(())
    })?;
    piece::read_entries(entries, count, page, layout, |page, entry| put_entry(page, layout, &entry))
}

/// A page of an image that is the page itself.
fn whole_page(mut block: Block, head: &ImageHead, bytes: &[u8], layout: Layout) -> Result<Page, &'static str> {
    if bytes.len() != block.len() {
        return Err("the image is not as long as a page");
    }
    block.copy_from_slice(bytes);
    let PageKey { key_group, page: number, .. } = head.page_key();
    let mut page = Page::with_block(block, key_group, number, head.prefix, head.depth);
    let grid = layout.grid(page.bytes());
    for at in (0..grid.groups).map(|group| SlotAt { group, lane: 0 }) {
        page.set_bits(grid, at, 0);
        let tags = &page.bytes()[grid.tag_offset(at)..][..LANES];
        let count = |is: fn(&u8) -> bool| tags.iter().map(|tag| u16::from(is(tag))).sum::<u16>();
        let (live, used) = (count(|tag| *tag > DELETED), count(|tag| *tag != EMPTY));
        page.live += live;
        page.used += used;
    }
    let is_whole = page.used == head.entries;
    if is_whole { Ok(page) } else { Err("the page does not hold as many entries as its head says") }
}

fn clear_slot(page: &mut Page, layout: Layout, at: SlotAt) {
    let grid = layout.grid(page.bytes());
    let tag = page.bytes()[grid.tag_offset(at)];
    page.used -= u16::from(tag != EMPTY);
    if tag > DELETED {
        layout.release(page, at);
        page.live -= 1;
    }
    page.set_tag(grid, at, EMPTY);
}

/// Puts an entry into a slot that is empty.
fn put_entry(page: &mut Page, layout: Layout, entry: &piece::Entry) -> Result<(), &'static str> {
    let grid = layout.grid(page.bytes());
    match entry.state {
        SlotState::Empty => return Ok(()),
        SlotState::Deleted => page.set_tag(grid, entry.at, DELETED),
        SlotState::Live => {
            if !layout.fits(page, entry.cell.len()) {
                return Err("the entries do not fit in a page");
            }
            layout.put_cell(page, entry.at, entry.cell);
            page.set_tag(grid, entry.at, tag_of(layout.cell_hash(entry.cell)));
            page.live += 1;
        }
    }
    page.used += 1;
    Ok(())
}
