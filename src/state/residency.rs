//! Which pages of a table are in memory, and how the others come back.
//!
//! A page is *absent* when its bytes are elsewhere: in the pieces of the restored checkpoint, if it did not change since, or in the spill
//! file. Its entry in `pages` stays, with its flags and counts; its bytes are none, and its directory entries carry a mark that makes
//! every lookup fail its bounds check and come here. So pages in memory cost no further test. A key group whose part of the page map
//! was not read yet is marked likewise.
//!
//! Here: bringing in, asked for ahead or waited for. Not here: which page leaves for it (`eviction`), files (`pager`), building a page of its pieces
//! (`restore`).
//!
//! Invariants: an absent page has a place (or is known to be empty); a page in memory has no spill slot; the pieces kept for a page in memory give its content.
//! A page that cannot be read back ends the task: it unwinds with the reason, so that no wrong result leaves it.

use super::directory::{Bucket, IN_RUNS, NO_PAGE, UNLOADED, without_mark};
use super::page::{LISTED, PAGE_LEN, Page, SlotAt, block_size};
use super::pager::{Pager, sectors_around};
use super::restore::Check;
use super::stage::StagedImage;
use super::table::Table;
use super::{KeyGroup, KeyGroupRange, StateError};
use crate::checkpoint::{PageKey, PieceKind, PieceRef};
use crate::io::{Io, IoError, IoOutput, IoToken};
use crate::memory::{Block, Buffer};
use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

/// A table's part of the pager's work.
#[derive(Default)]
pub(super) struct Residency {
    pub pager: Option<Rc<RefCell<Pager>>>,
    /// By page: where its bytes are besides memory.
    pub(super) places: Vec<Place>,
    /// Pages without bytes, key groups whose pages are not known yet, and those with runs.
    pub absent: usize,
    reading: Vec<Reading>,
    /// Pages whose bytes are on their way to the spill file.
    pub(super) writing: Vec<u32>,
    /// Copies nobody needs any more, while they are on their way there.
    dropped: Vec<(IoToken, u32)>,
    /// The next page to consider for eviction.
    pub(super) hand: usize,
    /// How many pages have left so far.
    pub(super) left: u64,
    /// There was no memory for a page asked for ahead, and nothing has come or gone since.
    is_short: bool,
    /// A page that is being worked on while others may come in.
    pub pinned: Option<usize>,
    /// Everything must be read before the first record: how far that is.
    read_ahead: Option<usize>,
}

#[derive(Default)]
pub(super) struct Place {
    /// The pieces of the restored checkpoint that give the page's content.
    pub(super) chain: Option<Box<[PieceRef]>>,
    pub(super) spilled: Option<Spilled>,
    /// The snapshot these dirty bits were for was given up while the page was absent.
    bits_are_stale: bool,
    /// It held no entries when it left memory: it comes back as an empty page.
    pub(super) emptied: bool,
    /// It is on its way in.
    is_requested: bool,
    /// How many pages had left when this one was asked for last, of those that are asked for ahead.
    pub(super) asked_for_at: u64,
    /// The page built of the first pieces of its chain, while nobody needs it and the others have yet to be read.
    arriving: Option<Box<Arriving>>,
}

struct Arriving {
    page: Page,
    pieces: usize,
}

/// A page in the spill file.
pub(super) struct Spilled {
    pub slot: u32,
    pub crc: u32,
    pub len: u32,
    pub writing: Option<IoToken>,
}

/// A page on its way in.
struct Reading {
    page: u32,
    parts: Vec<Part>,
}

struct Part {
    token: IoToken,
    /// `None`: the whole page from the spill file.
    piece: Option<PieceRef>,
    read: Option<Result<Buffer, String>>,
}

/// Reads of one table under way at most: those of two frames of records.
const READS_MAX: usize = 256;

impl Table {
    /// The page that holds a hash of a key group, in memory. Unwinds when it cannot be read.
    #[inline(always)]
    pub fn page_in(&mut self, group: KeyGroup, hash: u64) -> Option<usize> {
        let index = self.directories.page(self.directory_of(group), hash) as usize;
        if index < self.pages.len() {
            return Some(index);
        }
        self.bring(group, hash).unwrap_or_else(|error| give_up_task(&error))
    }

    /// As `page_in`, for those who can refuse.
    #[inline(always)]
    pub fn try_page_in(&mut self, group: KeyGroup, hash: u64) -> Result<Option<usize>, StateError> {
        let index = self.directories.page(self.directory_of(group), hash) as usize;
        if index < self.pages.len() { Ok(Some(index)) } else { self.bring(group, hash) }
    }

    #[cold]
    #[inline(never)]
    fn bring(&mut self, group: KeyGroup, hash: u64) -> Result<Option<usize>, StateError> {
        let directory = self.directory_of(group);
        let mut marked = self.directories.page(directory, hash);
        if marked == UNLOADED {
            self.load_groups(KeyGroupRange { start: group.0, end: group.0 + 1 })?;
            marked = self.directories.page(directory, hash);
        }
        if marked == IN_RUNS {
            self.merge_runs(directory);
            marked = self.directories.page(directory, hash);
        }
        if marked == NO_PAGE {
            return Ok(None);
        }
        let index = without_mark(marked);
        self.bring_page(index)?;
        Ok(Some(index))
    }

    /// Whether the page is in memory.
    pub fn is_in(&self, index: usize) -> bool {
        !self.pages[index].bytes().is_empty()
    }

    /// Makes sure that a page is in memory; waits for the disk.
    pub fn bring_page(&mut self, index: usize) -> Result<(), StateError> {
        self.merge_runs_of(index);
        if self.is_in(index) {
            return Ok(());
        }
        loop {
            // Again, if it has come and left: others that come in at the same time may need its memory.
            self.request_page(index)?;
            self.collect_pages()?;
            if self.is_in(index) {
                return Ok(());
            }
            self.wait_for_disk();
        }
    }

    pub(super) fn wait_for_disk(&mut self) {
        if let Some(pager) = &self.residency.pager {
            let mut io = pager.borrow().io.clone();
            io.drive();
            io.wait(Duration::from_millis(1));
        }
    }

    /// Whether the page of a hash is in memory or does not exist; if not, starts to read it. For callers that can wait.
    pub fn look_ahead(&mut self, group: KeyGroup, hash: u64) -> Result<bool, StateError> {
        let directory = self.directory_of(group);
        let mut marked = self.directories.page(directory, hash);
        if let Some(place) = self.residency.places.get_mut(marked as usize) {
            place.asked_for_at = self.residency.left;
            return Ok(true);
        }
        // Runs are merged when somebody needs the whole.
        if marked == NO_PAGE || marked == IN_RUNS {
            return Ok(true);
        }
        if marked == UNLOADED {
            self.load_groups(KeyGroupRange { start: group.0, end: group.0 + 1 })?;
            marked = self.directories.page(directory, hash);
            if marked == NO_PAGE {
                return Ok(true);
            }
        }
        if self.residency.reading.len() < READS_MAX && !self.residency.is_short {
            self.request_ahead(without_mark(marked))?;
        }
        Ok(false)
    }

    /// Starts to read an absent page if there is memory for it; if there is none, others begin to leave, and it is to be asked for again.
    fn request_ahead(&mut self, index: usize) -> Result<(), StateError> {
        self.residency.places[index].asked_for_at = self.residency.left;
        match self.residency.places[index].spilled {
            Some(Spilled { len, writing: None, .. }) if !self.residency.places[index].is_requested => {
                match self.try_block(block_size(len as usize)) {
                    Ok(into) => self.read_spilled(index, into),
                    Err(_) => {
                        self.evict_spare(self.few_pages(), len as usize);
                        self.residency.is_short = self.is_moving_pages();
                    }
                }
                Ok(())
            }
            _ => self.request_page(index),
        }
    }

    /// Starts to read a page from the spill file.
    fn read_spilled(&mut self, index: usize, into: Block) {
        let slot = self.residency.places[index].spilled.as_ref().map(|spilled| spilled.slot);
        let token = self.pager().zip(slot).and_then(|(pager, slot)| pager.borrow_mut().read_slot(slot, into));
        let part = Part { token: token.expect("a page was written to the spill file"), piece: None, read: None };
        self.note_reading(index, vec![part]);
    }

    fn note_reading(&mut self, index: usize, parts: Vec<Part>) {
        self.residency.places[index].is_requested = true;
        self.residency.reading.push(Reading { page: index as u32, parts });
    }

    /// Says that the state must be known as a whole before the first record.
    pub fn read_before_first_record(&mut self) {
        self.residency.read_ahead = Some(0);
    }

    /// Goes on reading what must be known before the first record. Whether nothing is left.
    pub fn read_all_ahead(&mut self) -> Result<bool, StateError> {
        let Some(mut next) = self.residency.read_ahead else { return Ok(true) };
        self.load_groups(self.range)?;
        self.collect_pages()?;
        while next < self.pages.len() && self.is_in(next) {
            next += 1;
        }
        self.residency.read_ahead = Some(next);
        let ahead = self.pages.len().min(next + READS_MAX);
        (next..ahead).try_for_each(|index| self.request_page(index))?;
        Ok(next == self.pages.len())
    }

    /// Gives up what is being read or written.
    pub fn forget_reads(&mut self) {
        let Some(pager) = self.pager() else { return };
        self.clear_stage();
        let reading = std::mem::take(&mut self.residency.reading);
        reading.iter().for_each(|reading| self.residency.places[reading.page as usize].is_requested = false);
        let reads = reading.into_iter().flat_map(|reading| reading.parts);
        let writes = std::mem::take(&mut self.residency.writing);
        let places = &mut self.residency.places;
        let writes = writes.into_iter().filter_map(|page| places[page as usize].spilled.as_mut()?.writing.take());
        let dropped = std::mem::take(&mut self.residency.dropped).into_iter().map(|(token, _)| token);
        let unread = reads.filter(|part| part.read.is_none()).map(|part| part.token);
        let writes = writes.chain(self.runs.iter_mut().flat_map(|runs| runs.forget()));
        unread.chain(writes).chain(dropped).for_each(|token| pager.borrow_mut().io.forget(token));
    }

    /// How many pages are on their way in.
    pub fn reads_under_way(&self) -> usize {
        self.residency.reading.len()
    }

    /// Whether pages are on their way in or out.
    pub fn is_moving_pages(&self) -> bool {
        !self.residency.reading.is_empty() || !self.residency.writing.is_empty()
    }

    /// Starts to read a page that is absent, unless that is under way.
    pub fn request_page(&mut self, index: usize) -> Result<(), StateError> {
        if self.is_in(index) || self.residency.places[index].is_requested {
            return Ok(());
        }
        if self.residency.places[index].emptied {
            return self.show_empty(index);
        }
        let place = &mut self.residency.places[index];
        let parts = match (&mut place.spilled, place.chain.clone()) {
            (Some(Spilled { writing: Some(token), .. }), _) => {
                // Its bytes come back with the answer to the write.
                let part = Part { token: *token, piece: None, read: None };
                self.residency.writing.retain(|page| *page as usize != index);
                vec![part]
            }
            (Some(Spilled { len, .. }), _) => {
                let len = *len as usize;
                let into = self.take_block(len, index)?;
                self.read_spilled(index, into);
                return Ok(());
            }
            (None, Some(chain)) => {
                let pager = self.pager().expect("pages come from a checkpoint only through a pager");
                let mut parts: Vec<Part> = Vec::with_capacity(chain.len());
                for piece in &chain {
                    match self.with_room(index, |_| pager.borrow_mut().read_piece(piece)) {
                        Ok(token) => parts.push(Part { token, piece: Some(*piece), read: None }),
                        Err(error) => {
                            parts.iter().for_each(|part| pager.borrow_mut().io.forget(part.token));
                            return Err(error);
                        }
                    }
                }
                parts
            }
            (None, None) => unreachable!("an absent page has a place"),
        };
        self.note_reading(index, parts);
        Ok(())
    }

    /// Tries something that needs memory for a read, evicting pages while it is refused.
    fn with_room<R>(
        &mut self,
        keep: usize,
        mut attempt: impl FnMut(&mut Self) -> Result<R, String>,
    ) -> Result<R, StateError> {
        const ATTEMPTS: usize = 8;
        for _ in 0..ATTEMPTS {
            match attempt(self) {
                Ok(done) => return Ok(done),
                Err(_) if self.make_space(keep, PAGE_LEN) => {}
                Err(reason) => return Err(self.unreadable(keep, reason)),
            }
        }
        attempt(self).map_err(|reason| self.unreadable(keep, reason))
    }

    /// Takes in what has been read and forgets what has been written; never waits. Answers whether anything had come.
    pub fn collect_pages(&mut self) -> Result<bool, StateError> {
        let Some(pager) = self.pager() else { return Ok(false) };
        let mut worked = self.collect_writes(&pager);
        let mut at = 0;
        while let Some(reading) = self.residency.reading.get_mut(at) {
            for part in reading.parts.iter_mut().filter(|part| part.read.is_none()) {
                part.read = pager.borrow_mut().io.take(part.token).map(read_buffer);
            }
            if reading.parts.iter().any(|part| part.read.is_none()) {
                at += 1;
                continue;
            }
            let reading = self.residency.reading.swap_remove(at);
            self.take_in(&pager, reading)?;
            self.residency.is_short = false;
            worked = true;
        }
        Ok(worked)
    }

    /// Forgets what has been written. A page that could not be is missed when it is needed again, as its slot holds other bytes.
    pub(super) fn collect_writes(&mut self, pager: &Rc<RefCell<Pager>>) -> bool {
        self.residency.dropped.retain(|&(token, slot)| {
            let mut pager = pager.borrow_mut();
            let is_written = pager.io.take(token).is_some();
            if is_written {
                pager.free_slot(slot);
            }
            !is_written
        });
        let before = self.residency.writing.len();
        let state = &self.identity.name;
        let is_written = |spilled: &mut Spilled| {
            let Some(token) = spilled.writing else { return true };
            let Some(answer) = pager.borrow_mut().io.take(token) else { return false };
            if let Err(error) = answer {
                tracing::error!(%error, state, "a page of state left memory and could not be written");
            }
            spilled.writing = None;
            true
        };
        let mut runs_worked = false;
        if let Some(runs) = &mut self.runs {
            runs_worked = runs.each_being_written(is_written);
        }
        let places = &mut self.residency.places;
        self.residency.writing.retain(|&page| {
            let spilled = places[page as usize].spilled.as_mut();
            spilled.is_some_and(|spilled| !is_written(spilled))
        });
        self.stage.each_being_written(is_written);
        let has_freed = self.residency.writing.len() < before || runs_worked;
        self.residency.is_short &= !has_freed;
        has_freed
    }

    fn take_in(&mut self, pager: &Rc<RefCell<Pager>>, reading: Reading) -> Result<(), StateError> {
        let index = reading.page as usize;
        self.residency.places[index].is_requested = false;
        if let Some(spilled) = &mut self.residency.places[index].spilled {
            // If its bytes came back with the answer to the write, that is taken.
            spilled.writing = None;
        }
        let mut buffers = Vec::with_capacity(reading.parts.len());
        for part in reading.parts {
            match part.read {
                Some(Ok(buffer)) => buffers.push((part.piece, buffer)),
                Some(Err(reason)) => return Err(self.unreadable(index, reason)),
                None => unreachable!("a page is taken in when all its parts have come"),
            }
        }
        if let Some(Spilled { slot, crc, len, .. }) = self.residency.places[index].spilled {
            let (_, buffer) = buffers.pop().expect("a spilled page is one part");
            if buffer.len() != len as usize || crc32c(buffer.filled()) != crc {
                return Err(self.unreadable(index, "the spill file holds other bytes than were written".to_owned()));
            }
            self.residency.places[index].spilled = None;
            pager.borrow_mut().free_slot(slot);
            self.show(index, buffer.into_block());
        } else {
            self.take_in_pieces(pager, index, &buffers)?;
        }
        Ok(())
    }

    fn take_in_pieces(
        &mut self,
        pager: &Rc<RefCell<Pager>>,
        index: usize,
        buffers: &[(Option<PieceRef>, Buffer)],
    ) -> Result<(), StateError> {
        let suspect = |table: &Self, what: String| {
            if let Some(restored) = pager.borrow().restored() {
                restored.suspect();
            }
            table.unreadable(index, what)
        };
        let key = self.page_key(index);
        let mut pieces = Vec::with_capacity(buffers.len());
        for (piece, buffer) in buffers {
            let piece = piece.as_ref().expect("a page that was not spilled is read from pieces");
            let span = piece.offset..piece.offset + u64::from(piece.len);
            let skip = (piece.offset - sectors_around(span).start) as usize;
            match buffer.filled().get(skip..skip + piece.len as usize) {
                Some(bytes) if key.checksum(bytes) == piece.crc => pieces.push((piece.kind, bytes)),
                Some(_) => return Err(suspect(self, "its checksum is not the one that was stored".to_owned())),
                None => return Err(suspect(self, "its file ends before it".to_owned())),
            }
        }
        self.install(index, &pieces).map_err(|error| suspect(self, error.to_string()))
    }

    pub(super) fn page_key(&self, index: usize) -> PageKey {
        let page = &self.pages[index];
        PageKey { state: self.identity.id, key_group: page.group, page: page.number }
    }

    /// Builds a page of its pieces and puts it where it belongs.
    pub(super) fn install(&mut self, index: usize, pieces: &[(PieceKind, &[u8])]) -> Result<(), StateError> {
        let built = self.page_of_pieces(self.page_key(index), index, pieces, self.check())?;
        self.put_built(index, built)
    }

    /// What is to be checked of pages of the restored checkpoint beside the checksums of their pieces.
    fn check(&self) -> Check {
        let is_doubted = |pager: Rc<RefCell<Pager>>| pager.borrow().restored().is_some_and(|from| from.is_doubted());
        if self.pager().is_some_and(is_doubted) { Check::Content } else { Check::Form }
    }

    fn put_built(&mut self, index: usize, built: Page) -> Result<(), StateError> {
        let old = &self.pages[index];
        if (built.prefix, built.depth) != (old.prefix, old.depth) {
            return Err(self.damaged(self.page_key(index), "the page holds other hashes than the page map says"));
        }
        let Page { live, used, heap_start, garbage, .. } = built;
        let page = &mut self.pages[index];
        (page.live, page.used, page.heap_start, page.garbage) = (live, used, heap_start, garbage);
        self.show(index, built.into_block());
        Ok(())
    }

    fn show(&mut self, index: usize, block: Block) {
        self.residency.places[index].arriving = None;
        let page = &mut self.pages[index];
        if page.flags.iter().any(|flags| flags & LISTED != 0) {
            // It was asked for while it was absent: its first change will not be noticed as such.
            self.residency.places[index].chain = None;
        }
        page.set_block(block);
        if std::mem::take(&mut self.residency.places[index].bits_are_stale) {
            let grid = self.layout.grid(page.bytes());
            (0..grid.groups).for_each(|group| page.set_bits(grid, SlotAt { group, lane: 0 }, 0));
        }
        let bucket = Bucket { prefix: page.prefix, depth: page.depth, index: index as u32 };
        let directory = usize::from(page.group - self.range.start);
        self.directories.show(directory, bucket);
        self.residency.absent -= 1;
    }

    /// Brings a page back that left without entries.
    fn show_empty(&mut self, index: usize) -> Result<(), StateError> {
        let block = self.take_block(self.layout.first_page_len(), index)?;
        let old = &self.pages[index];
        let empty = Page::empty(block, old.group, old.number, old.prefix, old.depth);
        self.residency.places[index].emptied = false;
        self.put_built(index, empty)
    }

    /// Puts a copy of a page into the spill file; where that has no room it stays in memory.
    pub(super) fn spill_image(&mut self, block: Block) -> StagedImage {
        let pager = self.pager().filter(|pager| pager.borrow().can_spill());
        let Some(pager) = pager else { return StagedImage::Here(block) };
        let Ok(slot) = pager.borrow_mut().take_slot() else { return StagedImage::Here(block) };
        let (crc, len) = (crc32c(&block), block.len() as u32);
        let writing = pager.borrow_mut().write_slot(slot, block);
        StagedImage::Spilled(Spilled { slot, crc, len, writing })
    }

    /// Brings such a copy of page `index` back; waits for the disk.
    pub(super) fn bring_image(&mut self, index: usize, spilled: Spilled) -> Result<Block, StateError> {
        let Spilled { slot, crc, len, writing } = spilled;
        let token = match writing {
            // Its bytes come back with the answer to the write.
            Some(token) => token,
            None => {
                let into = self.take_block(len as usize, index)?;
                let token = self.pager().and_then(|pager| pager.borrow_mut().read_slot(slot, into));
                token.expect("a copy was written to the spill file")
            }
        };
        let pager = self.pager().expect("copies are spilled through a pager");
        let answer = loop {
            let answer = pager.borrow_mut().io.take(token);
            match answer {
                Some(answer) => break read_buffer(answer),
                None => self.wait_for_disk(),
            }
        };
        pager.borrow_mut().free_slot(slot);
        match answer {
            Ok(buffer) if buffer.len() == len as usize && crc32c(buffer.filled()) == crc => Ok(buffer.into_block()),
            Ok(_) => Err(self.unreadable(index, "the spill file holds other bytes than were written".to_owned())),
            Err(reason) => Err(self.unreadable(index, reason)),
        }
    }

    /// Forgets such a copy.
    pub(super) fn drop_image(&mut self, Spilled { slot, writing, .. }: Spilled) {
        match writing {
            Some(token) => self.residency.dropped.push((token, slot)),
            None => self.pager().into_iter().for_each(|pager| pager.borrow_mut().free_slot(slot)),
        }
    }

    pub(super) fn pager(&self) -> Option<Rc<RefCell<Pager>>> {
        self.residency.pager.clone()
    }

    /// Adds a page; answers its index.
    pub(super) fn push_page(&mut self, page: Page) -> usize {
        self.pages.push(page);
        self.residency.places.push(Place::default());
        self.pages.len() - 1
    }

    /// The page's content is no longer that of the checkpoint.
    #[inline]
    pub(super) fn forget_chain(&mut self, index: usize) {
        if let Some(place) = self.residency.places.get_mut(index) {
            place.chain = None;
        }
    }

    /// The dirty bits of an absent page no longer mean anything.
    pub(super) fn stale_bits(&mut self, index: usize) {
        self.residency.places[index].bits_are_stale = true;
    }

    /// Says that the key groups of this table are in the restored checkpoint, and nothing of them is known yet.
    pub(super) fn attach(&mut self, pager: &Rc<RefCell<Pager>>, is_stored_as_it_is: bool) {
        assert!(self.pages.is_empty(), "a table is attached before it is used");
        let restored = pager
            .borrow()
            .restored()
            .is_some_and(|restored| !restored.map_blocks_of(self.identity.id, self.range).is_empty());
        if restored && is_stored_as_it_is {
            self.directories = super::directory::Directories::empty(self.range.len());
            (0..self.range.len()).for_each(|directory| self.directories.set_unloaded(directory));
            self.residency.absent = self.range.len();
        }
        self.residency.pager = Some(pager.clone());
    }

    /// Reads where the pages of some key groups lie, if that is not known; waits for the disk.
    pub(super) fn load_groups(&mut self, groups: KeyGroupRange) -> Result<(), StateError> {
        let Some(pager) = self.pager() else { return Ok(()) };
        let missing = (groups.start..groups.end)
            .filter(|group| self.directories.is_unloaded(usize::from(group - self.range.start)))
            .collect::<Vec<_>>();
        let (Some(&first), Some(&last)) = (missing.first(), missing.last()) else { return Ok(()) };
        let range = KeyGroupRange { start: first, end: last + 1 };
        let index = pager.borrow_mut().index(self.identity.id, range);
        let index = index.map_err(|error| StateError::PageMapUnreadable {
            operator: self.identity.operator.clone(),
            state: self.identity.name.clone(),
            reason: error.to_string(),
        })?;
        for group in missing {
            self.load_group(group, index.pages(self.identity.id, KeyGroupRange { start: group, end: group + 1 }))?;
        }
        Ok(())
    }

    fn load_group<'a>(
        &mut self,
        group: u16,
        pages: impl Iterator<Item = (PageKey, &'a [PieceRef])>,
    ) -> Result<(), StateError> {
        let directory = usize::from(group - self.range.start);
        let mut buckets = Vec::new();
        for (key, chain) in pages {
            let Some(image) = chain.first().filter(|_| key.page as usize == buckets.len()) else {
                return Err(self.damaged(key, "the page before it is missing"));
            };
            let span = image.span;
            if span.depth > 63 || (span.prefix << span.depth) != 0 {
                return Err(self.damaged(key, "the page's prefix is longer than its depth"));
            }
            let page = Page::absent(Block::nothing(&self.arena), group, key.page, span.prefix, span.depth);
            let index = self.push_page(page);
            self.residency.places[index].chain = Some(chain.into());
            buckets.push(Bucket { prefix: span.prefix, depth: span.depth, index: index as u32 });
        }
        self.residency.absent += buckets.len();
        self.residency.absent -= 1;
        let key = PageKey { state: self.identity.id, key_group: group, page: 0 };
        self.directories.set_empty(directory);
        if !buckets.is_empty() {
            self.directories.rebuild(directory, &buckets).map_err(|what| self.damaged(key, what))?;
            buckets.into_iter().for_each(|bucket| self.directories.hide(directory, bucket));
        }
        Ok(())
    }

    /// Every key group whose pages are not known yet.
    pub(super) fn unloaded_groups(&self) -> impl Iterator<Item = u16> + '_ {
        let start = self.range.start;
        (0..self.directories.groups()).filter(|&at| self.directories.is_unloaded(at)).map(move |at| start + at as u16)
    }

    /// The pieces of a page that is only in the restored checkpoint.
    pub(super) fn stored_chain(&self, index: usize) -> Option<&[PieceRef]> {
        let place = &self.residency.places[index];
        if place.spilled.is_some() || self.is_in(index) { None } else { place.chain.as_deref() }
    }

    /// Whether pages, or what is known of them, are not in memory.
    pub(super) fn has_absent(&self) -> bool {
        self.residency.absent > 0
    }

    /// The restored checkpoint is not needed any more: all pages are in memory.
    pub(super) fn forget_chains(&mut self) {
        self.residency.places.iter_mut().for_each(|place| place.chain = None);
    }

    /// Takes in the `nth` piece of a page's chain, read before anybody asked for the page; the others before it were taken in likewise,
    /// or whoever needs the page reads it.
    pub(super) fn take_in_early(&mut self, index: usize, nth: usize, bytes: &[u8]) -> Result<(), StateError> {
        let key = self.page_key(index);
        let arriving = self.residency.places[index].arriving.take();
        let Some(chain) = self.stored_chain(index) else { return Ok(()) };
        let (Some(piece), is_last) = (chain.get(nth).copied(), nth + 1 == chain.len()) else { return Ok(()) };
        let is_next = arriving.as_ref().map_or(0, |arriving| arriving.pieces) == nth;
        let under_way = self.residency.places[index].is_requested;
        // Damage is judged by whoever needs the page.
        if under_way || !is_next || key.checksum(bytes) != piece.crc {
            return Ok(());
        }
        let page = self.page_with_piece(key, index, arriving.map(|arriving| arriving.page), piece.kind, bytes)?;
        if !is_last {
            self.residency.places[index].arriving = Some(Box::new(Arriving { page, pieces: nth + 1 }));
            return Ok(());
        }
        self.check_page(&page, self.check()).map_err(|what| self.damaged(key, what))?;
        self.put_built(index, page)
    }

    /// Gives up pages of which not all pieces have come.
    pub(super) fn forget_arriving(&mut self) {
        self.residency.places.iter_mut().for_each(|place| place.arriving = None);
    }

    pub(super) fn unreadable(&self, index: usize, reason: String) -> StateError {
        let page = &self.pages[index];
        StateError::PageUnreadable {
            operator: self.identity.operator.clone(),
            state: self.identity.name.clone(),
            key_group: page.group,
            page: page.number,
            reason,
        }
    }
}

/// Ends the task: its supervisor restarts the job from its last checkpoint.
#[cold]
pub(super) fn give_up_task(error: &StateError) -> ! {
    std::panic::resume_unwind(Box::new(error.to_string()))
}

pub(super) fn read_buffer(answer: Result<IoOutput, IoError>) -> Result<Buffer, String> {
    match answer {
        Ok(IoOutput::Buffer(buffer)) => Ok(buffer),
        Ok(other) => Err(format!("the driver answered {other:?}")),
        Err(error) => Err(error.to_string()),
    }
}

pub(super) fn crc32c(bytes: &[u8]) -> u32 {
    crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, bytes) as u32
}
