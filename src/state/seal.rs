//! What a snapshot sees of a table while records go on changing it.
//!
//! Here: the two epochs of a table, staging what the sealed one still needs, and harvesting its pages.
//! Not here: the bytes of pieces (`piece`), all tables together (`snapshot`).
//!
//! A page is in the list of every epoch in which it changed. In the sealed epoch it leaves as a delta of the slots whose sealed bit is
//! set or whose old content is staged; or, if the page was laid out anew or an image was asked for, as an image.
//! Invariant: when no snapshot is in progress all sealed bits and flags are clear and nothing is staged.
//! Semantics: copy-on-first-write of CALC (Ren et al. 2016), slot by slot.

use super::StateError;
use super::layout::Layout;
use super::page::{CONTROL_LEN, DELETED, EMPTY, IMAGE, LISTED, NONE, Page, PageBytes, SlotAt, block_size, lanes};
use super::piece::{self, PieceBuffer, SlotState};
use super::stage::{StagedImage, StagedSlot};
use super::table::{EntryAt, Table, WHO};
use crate::memory::MemoryError;

/// What a slot takes of a delta beside its cell, with some allowance for the work of taking it apart again.
const CHANGE_LEN: usize = 6;

impl Table {
    /// Seals the current epoch and begins the next. Takes the same time at any size.
    ///
    /// # Panics
    /// Asserts that the epoch sealed before is harvested.
    pub fn seal(&mut self) {
        assert!(self.sealed_left() == 0, "a barrier while the last snapshot is still being harvested");
        // Kept until now, in case the snapshot had to be given up after its harvest.
        self.lists[1 - self.parity].clear();
        self.parity = 1 - self.parity;
        self.harvested = 0;
        self.in_memory_first = self.lists[1 - self.parity].len();
        if let Some(runs) = &mut self.runs {
            runs.seal();
        }
    }

    /// How many sealed pages are left to harvest.
    pub fn sealed_left(&self) -> usize {
        self.lists[1 - self.parity].len() - self.harvested
    }

    /// The next piece of the page must be an image.
    pub fn mark_image(&mut self, index: usize) {
        if self.is_in(index) {
            self.forget_chain(index);
        }
        let page = &mut self.pages[index];
        if page.flags[self.parity] & LISTED == 0 {
            self.lists[self.parity].push(index as u32);
        }
        page.flags[self.parity] |= LISTED | IMAGE;
    }

    /// The rare part of `touch`: the page's first change in this epoch, or the slot's first since the barrier.
    #[cold]
    #[inline(never)]
    pub(super) fn touch_first(&mut self, entry: EntryAt) {
        let sealed = 1 - self.parity;
        let page = &mut self.pages[entry.page];
        if page.flags[self.parity] & LISTED == 0 {
            page.flags[self.parity] |= LISTED;
            self.lists[self.parity].push(entry.page as u32);
            self.forget_chain(entry.page);
        }
        let page = &mut self.pages[entry.page];
        if page.flags[sealed] & IMAGE != 0 {
            self.preserve(entry.page);
        } else {
            let bit = Page::bit(entry.at, sealed);
            let grid = self.layout.grid(page.bytes());
            let bits = page.bits(grid, entry.at);
            if bits & bit != 0 {
                page.set_bits(grid, entry.at, bits & !bit);
                self.stage_slots(entry.page, &[entry.at]);
            }
        }
        let page = &mut self.pages[entry.page];
        let grid = self.layout.grid(page.bytes());
        page.mark(grid, entry.at, self.parity, page.bits(grid, entry.at));
    }

    /// Stages all that the sealed epoch still needs of a page.
    pub(super) fn preserve(&mut self, index: usize) {
        let sealed = 1 - self.parity;
        let page = &mut self.pages[index];
        let grid = self.layout.grid(page.bytes());
        if page.flags[sealed] & IMAGE != 0 {
            page.clear_bits(grid, sealed);
            piece::write_page_head(page, self.identity.id, self.layout);
            match self.keep_image(index) {
                Ok(image) => {
                    self.stage.put_image(index as u32, image);
                    self.pages[index].flags[sealed] &= !IMAGE;
                }
                Err(refusal) => self.give_up(refusal),
            }
        } else if page.flags[sealed] & LISTED != 0 {
            let mut slots = Vec::new();
            page.take_bits(grid, sealed, |at| slots.push(at));
            self.stage_slots(index, &slots);
        }
    }

    fn stage_slots(&mut self, index: usize, slots: &[SlotAt]) {
        for &at in slots {
            let page = &mut self.pages[index];
            let (state, cell) = slot_content(page.bytes(), self.layout, at);
            let slot = StagedSlot { previous: page.staged, slot: piece::slot_word(at.slot(), state), cell };
            match self.stage.push(&self.arena, &slot) {
                Ok(position) => page.staged = position,
                Err(refusal) => return self.give_up(refusal),
            }
        }
    }

    /// Whether the next sealed page is in memory. Pages that are not come last, when those harvested before them can make room; they are
    /// asked for some ahead.
    ///
    /// # Panics
    /// Asserts that a sealed page is left.
    pub(super) fn next_is_in_memory(&mut self) -> Result<bool, StateError> {
        /// How many pages are read ahead.
        const AHEAD: usize = 32;
        self.merge_sealed_runs();
        let sealed = 1 - self.parity;
        while self.harvested < self.in_memory_first {
            let index = self.lists[sealed][self.harvested];
            if self.is_in(index as usize) {
                return Ok(true);
            }
            self.lists[sealed].push(index);
            self.harvested += 1;
        }
        self.collect_pages()?;
        let ahead = self.lists[sealed].len().min(self.harvested + AHEAD);
        for at in self.harvested..ahead {
            self.request_page(self.lists[sealed][at] as usize)?;
        }
        Ok(self.is_in(self.lists[sealed][self.harvested] as usize))
    }

    /// Harvests the next sealed page into `out`, which has room for two pages; answers how many bytes were looked at.
    pub(super) fn harvest_page(&mut self, out: &mut PieceBuffer) -> Result<usize, StateError> {
        let sealed = 1 - self.parity;
        let index = self.lists[sealed][self.harvested] as usize;
        self.harvested += 1;
        self.fetch_sealed();
        let before = out.len();
        let page = &mut self.pages[index];
        let flags = std::mem::take(&mut page.flags[sealed]);
        if let Some(image) = self.stage.take_image(index as u32) {
            match image {
                StagedImage::Here(block) => piece::put_image(out, &block, self.layout),
                StagedImage::Spilled(spilled) => {
                    let block = self.bring_image(index, spilled)?;
                    piece::put_image(out, &block, self.layout);
                }
            }
        } else if flags & IMAGE != 0 {
            self.put_image(index, out);
        } else {
            self.put_changes(index, out);
        }
        if self.sealed_left() == 0 {
            self.clear_stage();
        }
        Ok(self.layout.grid(self.pages[index].bytes()).groups * CONTROL_LEN + out.len() - before)
    }

    /// Asks for what the harvest will read of the pages behind the next: their changes lie far apart, and none of it was read since the
    /// barrier. First what is known of a page, then its controls, then the cells that they name.
    fn fetch_sealed(&self) {
        /// How many pages ahead, and how many groups of each: with more changes a page is read from one end to the other.
        const PAGES: usize = 12;
        const CONTROLS: usize = 6;
        const CELLS: usize = 3;
        const GROUPS: usize = 12;
        let sealed = 1 - self.parity;
        let page_ahead = |pages: usize| self.pages.get(*self.lists[sealed].get(self.harvested + pages)? as usize);
        // Loads that nothing waits for, one at each end: it may lie in two lines.
        std::hint::black_box(page_ahead(PAGES).map(|page| (page.bytes().len(), page.flags)));
        let ahead = |pages: usize| {
            let page = page_ahead(pages)?;
            (!page.bytes().is_empty()).then(|| (page, self.layout.grid(page.bytes())))
        };
        if let Some((page, grid)) = ahead(CONTROLS) {
            let groups = page.changed_groups(grid, sealed).take(GROUPS);
            groups.for_each(|group| page.prefetch(grid.control_offset(group)));
        }
        if let Some((page, grid)) = ahead(CELLS) {
            for group in page.changed_groups(grid, sealed).take(GROUPS) {
                let cells = lanes(page.lanes(grid, group, sealed)).map(|lane| SlotAt { group, lane });
                cells.for_each(|at| page.prefetch(self.layout.cell(page.bytes(), at).start));
            }
        }
    }

    pub(super) fn clear_stage(&mut self) {
        let spilled: Vec<_> = self.stage.take_spilled().collect();
        spilled.into_iter().for_each(|image| self.drop_image(image));
        self.stage.clear();
    }

    /// Keeps a copy of a page: in memory, or in the spill file where memory is short.
    fn keep_image(&mut self, index: usize) -> Result<StagedImage, MemoryError> {
        let len = self.pages[index].bytes().len();
        let block = self.block_with_evictions(len, index).map_or_else(|| self.arena.take(WHO, block_size(len)), Ok);
        let mut block = block?;
        block.copy_from_slice(self.pages[index].bytes());
        // As long as all pages are in memory there is room for copies of some.
        if !self.has_absent() {
            return Ok(StagedImage::Here(block));
        }
        Ok(self.spill_image(block))
    }

    fn put_image(&mut self, index: usize, out: &mut PieceBuffer) {
        let page = &mut self.pages[index];
        page.clear_bits(self.layout.grid(page.bytes()), 1 - self.parity);
        piece::write_page_head(page, self.identity.id, self.layout);
        piece::put_image(out, page.bytes(), self.layout);
    }

    fn put_changes(&mut self, index: usize, out: &mut PieceBuffer) {
        let page = &self.pages[index];
        let grid = self.layout.grid(page.bytes());
        let mut changed = std::mem::take(&mut self.changed);
        changed.clear();
        for group in page.changed_groups(grid, 1 - self.parity) {
            let set = page.lanes(grid, group, 1 - self.parity);
            if set != 0 {
                changed.push((group as u16, set));
            }
        }
        // Only a page that did not change since the barrier may still leave as a whole.
        let unchanged = page.flags[self.parity] & LISTED == 0 && page.staged == NONE;
        if unchanged && self.changes_len(page, &changed) * 2 >= page.bytes().len() {
            self.put_image(index, out);
        } else {
            self.put_delta(index, &changed, out);
        }
        self.changed = changed;
    }

    fn put_delta(&mut self, index: usize, changed: &[(u16, u8)], out: &mut PieceBuffer) {
        let sealed = 1 - self.parity;
        let first_staged = std::mem::replace(&mut self.pages[index].staged, NONE);
        self.stage.collect(first_staged);
        let page = &self.pages[index];
        let (bytes, grid) = (page.bytes(), self.layout.grid(page.bytes()));
        let mut delta = piece::Delta::begin(out, self.page_key(index));
        let put = |delta: &mut piece::Delta<'_>, at: SlotAt| {
            let (state, cell) = slot_content(bytes, self.layout, at);
            delta.add(piece::slot_word(at.slot(), state), cell);
        };
        if first_staged == NONE {
            for (group, set) in changed {
                lanes(*set).for_each(|lane| put(&mut delta, SlotAt { group: usize::from(*group), lane }));
            }
        } else {
            // The page may have been longer when the epoch was sealed.
            for group in 0..grid.groups.max(self.stage.collected_groups()) {
                let staged = self.stage.collected_lanes(group);
                let in_place = if group < grid.groups { page.lanes(grid, group, sealed) } else { 0 };
                for lane in lanes(staged | in_place) {
                    let at = SlotAt { group, lane };
                    if staged & 1 << lane == 0 {
                        put(&mut delta, at);
                    } else {
                        let staged = self.stage.collected(at);
                        delta.add(staged.slot, staged.cell);
                    }
                }
            }
        }
        delta.end();
        self.stage.forget_collected();
        self.pages[index].clear_lanes(grid, sealed, changed);
    }

    /// How many bytes a delta of these changes of a page would take, about.
    fn changes_len(&self, page: &Page, changed: &[(u16, u8)]) -> usize {
        if let Layout::Fixed(shape) = self.layout {
            let slots: u32 = changed.iter().map(|(_, set)| set.count_ones()).sum();
            return slots as usize * (shape.cell_len() + CHANGE_LEN);
        }
        let slots = changed.iter().flat_map(|(group, set)| {
            let group = usize::from(*group);
            lanes(*set).map(move |lane| SlotAt { group, lane })
        });
        slots.map(|at| slot_content(page.bytes(), self.layout, at).1.len() + CHANGE_LEN).sum()
    }

    /// Gives up the last snapshot, harvested or not: the next one takes images of all its pages.
    /// Records go on; a checkpoint that finds no memory must not fail the job.
    pub(super) fn abandon(&mut self) {
        let sealed = 1 - self.parity;
        for index in std::mem::take(&mut self.lists[sealed]) {
            if self.is_in(index as usize) {
                let page = &mut self.pages[index as usize];
                page.clear_bits(self.layout.grid(page.bytes()), sealed);
            } else {
                self.stale_bits(index as usize);
            }
            let page = &mut self.pages[index as usize];
            page.flags[sealed] = 0;
            page.staged = NONE;
            self.mark_image(index as usize);
        }
        self.harvested = 0;
        self.clear_stage();
    }

    #[cold]
    fn give_up(&mut self, refusal: MemoryError) {
        self.abandon();
        self.given_up = Some(StateError::SnapshotGivenUp {
            operator: self.identity.operator.clone(),
            state: self.identity.name.clone(),
            source: refusal,
        });
    }
}

fn slot_content(bytes: &PageBytes, layout: Layout, at: SlotAt) -> (SlotState, &[u8]) {
    match bytes[layout.grid(bytes).tag_offset(at)] {
        EMPTY => (SlotState::Empty, &[]),
        DELETED => (SlotState::Deleted, &[]),
        _ => (SlotState::Live, &bytes[layout.cell(bytes, at)]),
    }
}
