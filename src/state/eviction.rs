//! Which page of a table leaves when memory is full, and the memory that pages get.
//!
//! A hand goes round over the pages, as in the clock algorithm; those asked for lately stay if any other can go, and one that did not change
//! since the last barrier goes first. A page whose content the restored checkpoint gives leaves at once; any other is
//! written to the spill file. Not here: how a page comes back (`residency`), the spill file itself (`pager`).
//!
//! Invariant: only as many pages leave at once as are a small part of those in memory.

use super::StateError;
use super::directory::Bucket;
use super::page::{LISTED, PAGE_LEN, PAGE_LEN_STEP, block_size};
use super::residency::{Spilled, crc32c};
use super::table::Table;
use crate::memory::{Block, BlockSize, MemoryError};

/// Spill writes of one table under way at most.
const WRITES_MAX: usize = 128;

impl Table {
    /// A block for a page of exactly this length, evicting others while the budget refuses; `keep` is the page at work.
    pub(super) fn take_block(&mut self, page_len: usize, keep: usize) -> Result<Block, StateError> {
        if let Some(block) = self.block_with_evictions(page_len, keep) {
            return Ok(block);
        }
        // The reserve is for others, but a page that no other can make room for needs it more.
        self.arena.take(super::table::WHO, block_size(page_len)).map_err(|source| StateError::Memory {
            operator: self.identity.operator.clone(),
            state: self.identity.name.clone(),
            source,
        })
    }

    /// A block for a page of at least this length. Blocks of one length do not become blocks of another: where memory is full of pages of
    /// another length, the new page takes the place of one of those.
    pub(super) fn take_block_from(&mut self, page_len: usize, keep: usize) -> Result<Block, StateError> {
        self.spare_block_from(page_len, keep).map_or_else(|| self.take_block(page_len, keep), Ok)
    }

    /// The same without touching the reserve.
    pub(super) fn spare_block_from(&mut self, page_len: usize, keep: usize) -> Option<Block> {
        (page_len..=PAGE_LEN).step_by(PAGE_LEN_STEP).find_map(|len| self.block_with_evictions(len, keep))
    }

    pub(super) fn block_with_evictions(&mut self, page_len: usize, keep: usize) -> Option<Block> {
        loop {
            if let Ok(block) = self.try_block(block_size(page_len)) {
                return Some(block);
            }
            if !self.make_space(keep, page_len) {
                return None;
            }
        }
    }

    pub(super) fn try_block(&self, size: BlockSize) -> Result<Block, MemoryError> {
        match &self.residency.pager {
            Some(pager) => pager.borrow().take_block(super::table::WHO, size),
            None => self.arena.take(super::table::WHO, size),
        }
    }

    /// Makes some pages leave, of this length if there are any, and waits until the memory of one at least is free. `false`: none can.
    pub(super) fn make_space(&mut self, keep: usize, len: usize) -> bool {
        /// So many writes share a wait.
        const AT_ONCE: usize = 16;
        if !self.has_pager_that_spills() {
            return false;
        }
        let mut evicted = 0;
        let at_once = AT_ONCE.min(self.few_pages());
        while evicted < at_once && self.residency.writing.len() < WRITES_MAX {
            // Pages of other lengths help if those that leave lay side by side.
            let Some(victim) = self.next_victim(keep, Some(len)).or_else(|| self.next_victim(keep, None)) else {
                break;
            };
            self.residency.hand = (victim + 1) % self.pages.len();
            if !self.evict(victim) {
                break;
            }
            evicted += 1;
            if self.residency.places[victim].spilled.is_none() {
                return true;
            }
        }
        if evicted == 0 && self.residency.writing.is_empty() {
            self.write_some_run();
        }
        let writes = self.writes_under_way();
        while writes > 0 && self.writes_under_way() == writes {
            self.wait_for_disk();
            let Some(pager) = self.pager() else { return false };
            self.collect_writes(&pager);
        }
        writes > 0
    }

    /// Lets pages leave ahead of need, of one length or any, without waiting, until `pages` are on their way or gone.
    pub fn evict_some(&mut self, pages: usize, len: Option<usize>) {
        self.evict_while(pages, |table| table.next_victim(usize::MAX, len));
    }

    /// The same for pages of this length that nobody asked for lately.
    pub(super) fn evict_spare(&mut self, pages: usize, len: usize) {
        self.evict_while(pages, |table| table.next_spare(usize::MAX, Some(len)));
    }

    fn evict_while(&mut self, pages: usize, next: impl Fn(&Self) -> Option<usize>) {
        for _ in 0..pages {
            if self.residency.writing.len() >= WRITES_MAX {
                return;
            }
            let Some(victim) = next(self) else { return };
            self.residency.hand = (victim + 1) % self.pages.len();
            if !self.evict(victim) {
                return;
            }
        }
    }

    /// A page that may leave: not `keep`, of this length if one is asked for and there is one near, rather one that nobody asked for lately.
    fn next_victim(&self, keep: usize, len: Option<usize>) -> Option<usize> {
        self.next_spare(keep, len).or_else(|| self.victim_among(self.pages.len(), keep, len, |_| true))
    }

    /// The same, but none that somebody asked for lately; rather one that did not change since the last barrier.
    fn next_spare(&self, keep: usize, len: Option<usize>) -> Option<usize> {
        /// How far to look for the best.
        const NEAR: usize = 64;
        let lately = (self.pages_in_memory() / 4).max(1);
        let before = self.residency.left.saturating_sub(lately as u64);
        let is_spare = |table: &Self, index: usize| table.residency.places[index].asked_for_at <= before;
        let is_unchanged =
            |table: &Self, index: usize| table.pages[index].flags.iter().all(|flags| flags & LISTED == 0);
        let best = |table: &Self, index| is_spare(table, index) && is_unchanged(table, index);
        self.victim_among(NEAR, keep, len, |index| best(self, index))
            .or_else(|| self.victim_among(self.pages.len(), keep, len, |index| is_spare(self, index)))
    }

    /// The first such page, from the hand on.
    fn victim_among(
        &self,
        steps: usize,
        keep: usize,
        len: Option<usize>,
        is_such: impl Fn(usize) -> bool,
    ) -> Option<usize> {
        /// How far to look for one of the right length.
        const LESS_NEAR: usize = 512;
        let (count, hand) = (self.pages.len(), self.residency.hand);
        let steps = if len.is_some() { steps.min(LESS_NEAR) } else { steps };
        let mut from_hand = (0..count.min(steps)).map(|step| (hand + step) % count);
        from_hand.find(|&index| self.may_leave(index, keep, len) && is_such(index))
    }

    fn may_leave(&self, index: usize, keep: usize, len: Option<usize>) -> bool {
        let is_free = index != keep && self.residency.pinned != Some(index) && self.is_in(index);
        is_free && len.is_none_or(|len| self.pages[index].bytes().len() == len)
    }

    /// So many leave at once: a small part of those in memory, or they would not be there long enough to be used.
    pub(super) fn few_pages(&self) -> usize {
        self.pages_in_memory() / 8 + 1
    }

    /// Takes the bytes of a page out of memory. `false`: they must stay.
    pub(super) fn evict(&mut self, index: usize) -> bool {
        if self.leave_empty(index) {
            return true;
        }
        let Some(pager) = self.pager() else { return false };
        let block = if self.residency.places[index].chain.is_some() {
            None
        } else {
            match pager.borrow_mut().take_slot() {
                Ok(slot) => Some(slot),
                Err(reason) => {
                    tracing::warn!(reason, state = self.identity.name, "a page of state cannot leave memory");
                    return false;
                }
            }
        };
        let page = &mut self.pages[index];
        let bytes = page.set_block(Block::nothing(&self.arena));
        let bucket = Bucket { prefix: page.prefix, depth: page.depth, index: index as u32 };
        self.directories.hide(usize::from(page.group - self.range.start), bucket);
        self.residency.absent += 1;
        self.residency.left += 1;
        if let Some(slot) = block {
            let (crc, len) = (crc32c(&bytes), bytes.len() as u32);
            let writing = pager.borrow_mut().write_slot(slot, bytes);
            self.residency.places[index].spilled = Some(Spilled { slot, crc, len, writing });
            self.residency.writing.push(index as u32);
        }
        true
    }

    /// Lets a page without entries go without a copy of its bytes, where values are merged: pages that windows have left come back empty.
    fn leave_empty(&mut self, index: usize) -> bool {
        let page = &self.pages[index];
        let is_sealed = page.flags[1 - self.parity] & LISTED != 0;
        let may = self.runs.as_ref().is_some_and(|runs| !runs.are_merged_into_sealed);
        if page.live != 0 || is_sealed || !may || self.residency.places[index].chain.is_some() {
            return false;
        }
        self.mark_image(index);
        let page = &mut self.pages[index];
        let grid = self.layout.grid(page.bytes());
        (0..2).for_each(|parity| page.clear_bits(grid, parity));
        (page.used, page.garbage) = (0, 0);
        drop(page.set_block(Block::nothing(&self.arena)));
        let bucket = Bucket { prefix: page.prefix, depth: page.depth, index: index as u32 };
        self.directories.hide(usize::from(page.group - self.range.start), bucket);
        self.residency.places[index].emptied = true;
        self.residency.absent += 1;
        self.residency.left += 1;
        true
    }

    /// Whether a page that is not in memory is known to be empty.
    pub(super) fn is_emptied(&self, index: usize) -> bool {
        self.residency.places[index].emptied
    }

    /// Lets the pages of a key group go that are in memory and hold nothing, if memory is short.
    pub(super) fn release_empty(&mut self, directory: usize) {
        if !self.outgrew_memory() {
            return;
        }
        for at in 0..self.directories.pages_of(directory).len() {
            let index = self.directories.pages_of(directory)[at] as usize;
            if self.is_in(index) {
                self.leave_empty(index);
            }
        }
    }

    /// How many pages are in memory, about.
    pub fn pages_in_memory(&self) -> usize {
        self.pages.len().saturating_sub(self.residency.absent)
    }

    /// Whether pages of this subtask's state have gone to the spill file.
    pub(super) fn outgrew_memory(&self) -> bool {
        self.residency.pager.as_ref().is_some_and(|pager| pager.borrow().has_spilled())
    }

    fn writes_under_way(&self) -> usize {
        self.residency.writing.len() + self.runs.as_ref().map_or(0, |runs| runs.writes_under_way())
    }

    fn has_pager_that_spills(&self) -> bool {
        self.residency.pager.as_ref().is_some_and(|pager| pager.borrow().can_spill())
    }
}
