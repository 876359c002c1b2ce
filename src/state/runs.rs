//! Runs: what is added to values whose pages are not in memory, kept apart until somebody needs the whole.
//!
//! A table whose values merge (accumulators of a window) need not read a value to add to it: where the state has outgrown its memory, the
//! first addition to a page that is absent sets the page's key group aside, and from then on what is added to the group goes into a *run*: a
//! page of its own with the sums of the additions alone. A run that is full leaves for the spill file, 16 KiB at a time, and a new one begins.
//! Whoever needs a value (a window that fires, a snapshot) has all runs of the key group merged into its pages first, side by side with
//! reading those; then the group is as any other.
//!
//! Here: adding to runs, writing them, merging them. Not here: which pages are in memory (`residency`), how directories hide the pages of a
//! key group with runs (`directory`).
//!
//! A snapshot needs what was added before its barrier and not what was added after: a run belongs to one epoch. Runs of the sealed epoch are
//! merged before the first page of their key group is harvested, as if the epoch had not ended yet; nothing else has changed in those pages
//! since, because their key group was set aside at the barrier already.
//!
//! Invariants: every page that an entry of a run belongs to is listed in the run's epoch. While a key group is set aside nobody looks into
//! its pages. Merging in any order gives the same value bit for bit, or the state was not registered as one that merges.

use super::directory::{NO_PAGE, UNLOADED, without_mark};
use super::layout::Layout;
use super::page::{EMPTY, LISTED, PAGE_LEN, PAGE_LEN_STEP, Page, PageBytes, Probe, SlotAt, block_size, probe, tag_of};
use super::residency::{Spilled, crc32c, give_up_task, read_buffer};
use super::slotted_page::{self, CellHead};
use super::table::{Address, EntryAt, Spot, Table, live_slots};
use super::{KeyGroup, KeyGroupRange, StateError};
use crate::io::{Io, IoToken};
use crate::memory::Block;
use std::collections::VecDeque;
use std::rc::Rc;

/// Runs of one key group are merged into its pages once there are so many beside so many for each of its pages: however often keys come
/// again, what lies in runs stays in proportion to the state.
const RUNS_BESIDE: usize = 16;
const RUNS_PER_PAGE: usize = 4;
/// Runs read side by side, and those on their way to the file.
const RUN_READS_MAX: usize = 16;
const RUN_WRITES_MAX: usize = 32;
/// Pages of a key group read side by side.
const PAGE_READS_MAX: usize = 32;

/// A table adds blindly where a run for each key group takes at most this share of the budget, which all subtasks have in common,
const BUDGET_SHARE: usize = 256;
/// or it has so many pages for each.
const PAGES_PER_GROUP_MIN: usize = 4;

/// Adds the second value to the first.
pub(super) type Merge = Rc<dyn Fn(&mut [u8], &[u8])>;

/// The runs of a table.
pub(super) struct Runs {
    merge: Merge,
    /// By key group, from the first of the range; empty before the first run.
    groups: Vec<GroupRuns>,
    /// How many key groups have runs.
    open: usize,
    /// Counts the barriers.
    epoch: u64,
    /// The sealed pages of this epoch were put in the order of their key groups.
    sorted_for: u64,
    /// Runs on their way to the spill file: of which key group, and the how manieth of it.
    writing: Vec<(usize, usize)>,
    /// The next key group whose run leaves when memory is needed.
    hand: usize,
    /// Runs of the sealed epoch are being merged.
    pub are_merged_into_sealed: bool,
}

/// The runs of one key group.
#[derive(Default)]
struct GroupRuns {
    /// What takes additions, and the epoch it belongs to.
    filling: Option<(Page, u64)>,
    /// In the spill file, in the order of their epochs.
    written: Vec<(Spilled, u64)>,
}

impl GroupRuns {
    fn has_older_than(&self, epoch: u64) -> bool {
        let first_written = self.written.first().map(|(_, of)| *of);
        let filling = self.filling.as_ref().map(|(_, of)| *of);
        first_written.or(filling).is_some_and(|of| of < epoch)
    }
}

impl Runs {
    pub fn new(merge: Merge) -> Self {
        Self {
            merge,
            groups: Vec::new(),
            open: 0,
            epoch: 1,
            sorted_for: 0,
            writing: Vec::new(),
            hand: 0,
            are_merged_into_sealed: false,
        }
    }

    /// The epoch ends.
    pub fn seal(&mut self) {
        self.epoch += 1;
    }

    /// How many runs are on their way to the spill file.
    pub fn writes_under_way(&self) -> usize {
        self.writing.len()
    }

    /// Calls `is_written` for every run on its way to the spill file, until it says so. Whether it did for any.
    pub fn each_being_written(&mut self, mut is_written: impl FnMut(&mut Spilled) -> bool) -> bool {
        let (groups, before) = (&mut self.groups, self.writing.len());
        self.writing.retain(|&(group, nth)| !is_written(&mut groups[group].written[nth].0));
        self.writing.len() < before
    }

    /// Gives the writes under way up; answers them.
    pub fn forget(&mut self) -> Vec<IoToken> {
        let groups = &mut self.groups;
        let writing = std::mem::take(&mut self.writing).into_iter();
        writing.filter_map(|(group, nth)| groups[group].written[nth].0.writing.take()).collect()
    }
}

/// Where something that is added goes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum AddTo {
    /// Into the page, which is in memory, does not exist yet, or is worth reading.
    Page,
    /// Into the key group's run.
    Run,
}

impl Table {
    /// Whether additions need no pages that are not in memory. A small table whose pages had to leave for those of others is read back
    /// with less memory than a run for each of its key groups takes.
    pub fn adds_blindly(&self) -> bool {
        if self.runs.is_none() || !self.outgrew_memory() {
            return false;
        }
        let groups = self.range.len();
        let costs_little = groups * PAGE_LEN * BUDGET_SHARE <= self.arena.budget().limit_bytes();
        costs_little || self.pages.len() >= groups * PAGES_PER_GROUP_MIN
    }

    /// Where an addition to the value of this hash goes.
    #[inline(always)]
    pub fn add_to(&mut self, group: KeyGroup, hash: u64) -> Result<AddTo, StateError> {
        let index = self.directories.page(self.directory_of(group), hash) as usize;
        if index < self.pages.len() { Ok(AddTo::Page) } else { self.add_to_absent(group, hash) }
    }

    #[cold]
    #[inline(never)]
    fn add_to_absent(&mut self, group: KeyGroup, hash: u64) -> Result<AddTo, StateError> {
        let directory = self.directory_of(group);
        if self.directories.is_aside(directory) {
            return Ok(AddTo::Run);
        }
        let mut marked = self.directories.page(directory, hash);
        if marked == UNLOADED {
            self.load_groups(KeyGroupRange { start: group.0, end: group.0 + 1 })?;
            marked = self.directories.page(directory, hash);
        }
        if marked == NO_PAGE || !self.adds_blindly() {
            return Ok(AddTo::Page);
        }
        // An empty page costs no read, only its memory.
        if self.is_emptied(without_mark(marked)) && self.has_room() {
            return Ok(AddTo::Page);
        }
        self.directories.set_aside(directory);
        self.residency.absent += 1;
        if let Some(runs) = &mut self.runs {
            runs.open += 1;
            runs.groups.resize_with(self.directories.groups(), GroupRuns::default);
        }
        Ok(AddTo::Run)
    }

    fn has_room(&self) -> bool {
        self.residency.pager.as_ref().is_some_and(|pager| pager.borrow().has_room())
    }

    /// The bytes of a value in the run of its key group, and whether they are new, of arbitrary content. `None`: the run found no room on
    /// the disk or became too many, so that all were merged, and the addition goes into the page.
    pub fn run_value(
        &mut self,
        layout: Layout,
        address: Address,
        value_len: usize,
    ) -> Result<Option<(&mut [u8], bool)>, StateError> {
        let head = CellHead { kind: address.kind, key_len: address.key.len(), value_len, chunked: false };
        if head.key_len > super::entries::KEY_LEN_MAX {
            return Err(self.key_too_long(head.key_len));
        }
        let directory = self.directory_of(address.group);
        self.list_behind_runs(directory, address.hash);
        let (at, is_new) = loop {
            match self.place_in_run(layout, directory, address, head) {
                Some(Probe::Found(at)) => break (at, false),
                Some(Probe::Absent(Some(at))) => break (at, true),
                _ => {}
            }
            self.begin_run(directory, address.group)?;
            if !self.directories.is_aside(directory) {
                return Ok(None);
            }
        };
        let (page, _) = self.filling_mut(directory).expect("it was just found");
        if is_new {
            let grid = layout.grid(page.bytes());
            page.live += 1;
            page.used += u16::from(page.bytes()[grid.tag_offset(at)] == EMPTY);
            page.set_tag(grid, at, tag_of(address.hash));
            match layout {
                Layout::Fixed(shape) => page.bytes_mut()[shape.key(at)].copy_from_slice(address.key),
                Layout::Slotted => {
                    slotted_page::allocate(page, at, head, address.key);
                }
            }
        }
        let range = layout.value(page.bytes(), at);
        Ok(Some((&mut page.bytes_mut()[range], is_new)))
    }

    /// Where an entry lies or would lie in the run that takes additions; `None` without one of this epoch that has room.
    fn place_in_run(&self, layout: Layout, directory: usize, address: Address, head: CellHead) -> Option<Probe> {
        let runs = self.runs.as_ref()?;
        let (page, epoch) = runs.groups[directory].filling.as_ref()?;
        if *epoch != runs.epoch {
            return None;
        }
        let bytes = page.bytes();
        let found =
            probe(bytes, layout.grid(bytes), address.hash, |at| layout.is_key(bytes, at, address.kind, address.key));
        let has_room = usize::from(page.used) < layout.used_max(bytes) && layout.fits(page, head.cell_len());
        (has_room || matches!(found, Probe::Found(_))).then_some(found)
    }

    fn filling_mut(&mut self, directory: usize) -> Option<&mut (Page, u64)> {
        self.runs.as_mut()?.groups[directory].filling.as_mut()
    }

    /// Lists the page of a hash as changed, as whoever changes it in place does.
    fn list_behind_runs(&mut self, directory: usize, hash: u64) {
        let index = without_mark(self.directories.page_behind_runs(directory, hash));
        let page = &mut self.pages[index];
        if page.flags[self.parity] & LISTED == 0 {
            page.flags[self.parity] |= LISTED;
            self.lists[self.parity].push(index as u32);
            if self.is_in(index) {
                self.forget_chain(index);
            }
        }
    }

    /// Lets a full run leave and begins the next, or merges all runs of the key group if they are many or cannot leave.
    fn begin_run(&mut self, directory: usize, group: KeyGroup) -> Result<(), StateError> {
        let runs_max = self.runs_max(directory);
        let written = self.runs.as_ref().map_or(0, |runs| runs.groups[directory].written.len());
        if written >= runs_max || !self.write_run(directory) {
            self.merge_runs(directory);
            return Ok(());
        }
        let block = self.block_for_run()?;
        if let Some(runs) = &mut self.runs {
            runs.groups[directory].filling = Some((Page::empty(block, group.0, 0, 0, 0), runs.epoch));
        }
        Ok(())
    }

    /// How many runs of a key group may be in the spill file.
    fn runs_max(&self, directory: usize) -> usize {
        RUNS_BESIDE + RUNS_PER_PAGE * self.directories.pages_of(directory).len()
    }

    /// Memory for a run, as much as a page may have if that is there.
    fn block_for_run(&mut self) -> Result<Block, StateError> {
        let first_len = self.layout.first_page_len();
        let lens = (first_len..=PAGE_LEN).rev().step_by(PAGE_LEN_STEP);
        for len in lens {
            if let Ok(block) = self.try_block(block_size(len)) {
                return Ok(block);
            }
        }
        match self.block_with_evictions(PAGE_LEN, usize::MAX) {
            Some(block) => Ok(block),
            None => self.take_block(first_len, usize::MAX),
        }
    }

    /// Starts to write the run of a key group, if there is one. `false`: it has no place in the spill file.
    fn write_run(&mut self, directory: usize) -> bool {
        let Some(pager) = self.pager() else { return false };
        while self.runs.as_ref().is_some_and(|runs| runs.writing.len() >= RUN_WRITES_MAX) {
            self.wait_for_disk();
            self.collect_writes(&pager);
        }
        let (state, runs_max) = (&self.identity.name, self.runs_max(directory));
        let Some(runs) = &mut self.runs else { return false };
        let GroupRuns { filling, written } = &mut runs.groups[directory];
        if filling.is_none() {
            return true;
        }
        let slot = match pager.borrow_mut().take_slot() {
            Ok(slot) => slot,
            Err(reason) => {
                tracing::warn!(reason, state, "a run of state cannot leave memory: it is merged into pages");
                return false;
            }
        };
        if let Some((page, epoch)) = filling.take() {
            let block = page.into_block();
            let (crc, len) = (crc32c(&block), block.len() as u32);
            let writing = pager.borrow_mut().write_slot(slot, block);
            runs.writing.push((directory, written.len()));
            written.push((Spilled { slot, crc, len, writing }, epoch));
            // The last of them was begun when they were not too many yet.
            let count = written.len();
            assert!(
                count <= runs_max + 1,
                "{count} runs of a key group of state \"{state}\", {runs_max} are the limit"
            );
        }
        true
    }

    /// Lets the run of some key group leave, not full: memory is needed for something else.
    pub(super) fn write_some_run(&mut self) {
        let Some(runs) = &mut self.runs else { return };
        let count = runs.groups.len();
        let with_filling = (0..count).map(|step| (runs.hand + step) % count);
        let next = with_filling.into_iter().find(|&at| runs.groups[at].filling.is_some());
        if let Some(directory) = next {
            runs.hand = (directory + 1) % count;
            self.write_run(directory);
        }
    }

    /// Merges the runs of the key group of a page, if it has any.
    pub(super) fn merge_runs_of(&mut self, index: usize) {
        let directory = usize::from(self.pages[index].group - self.range.start);
        if self.directories.is_aside(directory) {
            self.merge_runs(directory);
        }
    }

    /// Merges the runs of all key groups.
    pub(super) fn merge_all_runs(&mut self) {
        for directory in 0..self.directories.groups() {
            if self.directories.is_aside(directory) {
                self.merge_runs(directory);
            }
        }
    }

    /// Before the next sealed page is harvested: merges what its key group took in before the barrier. The pages are put in the order of their
    /// key groups, so that those of one are harvested while they are in memory.
    pub(super) fn merge_sealed_runs(&mut self) {
        let Some(runs) = self.runs.as_mut().filter(|runs| runs.open > 0) else { return };
        let epoch = runs.epoch;
        let sealed = &mut self.lists[1 - self.parity];
        if runs.sorted_for < epoch {
            runs.sorted_for = epoch;
            let pages = &self.pages;
            sealed[self.harvested..].sort_by_key(|&index| pages[index as usize].group);
            self.in_memory_first = self.harvested;
        }
        let next = sealed[self.harvested] as usize;
        let directory = usize::from(self.pages[next].group - self.range.start);
        if runs.groups.get(directory).is_some_and(|group| group.has_older_than(epoch)) {
            self.merge_runs(directory);
        }
    }

    /// Merges the runs of a key group into its pages; waits for the disk. What was taken out of runs is nowhere else until it is merged, so
    /// an error ends the task.
    pub(super) fn merge_runs(&mut self, directory: usize) {
        self.try_merge_runs(directory).unwrap_or_else(|error| give_up_task(&error));
    }

    fn try_merge_runs(&mut self, directory: usize) -> Result<(), StateError> {
        let Some(runs) = &mut self.runs else { return Ok(()) };
        let GroupRuns { filling, written } = std::mem::take(&mut runs.groups[directory]);
        runs.writing.retain(|(of, _)| *of != directory);
        runs.open -= 1;
        let (epoch, is_sealing) = (runs.epoch, self.sealed_left() > 0);
        let is_sealed = |of: u64| of < epoch && is_sealing;
        self.directories.take_back(directory);
        self.residency.absent -= 1;
        self.bring_group(directory)?;
        let group = KeyGroup(self.range.start + directory as u16);
        let mut written = VecDeque::from(written);
        let mut reading = VecDeque::new();
        let mut merge_written = || {
            while let Some((next, of)) = self.next_run(&mut written, &mut reading)? {
                self.merge_run(directory, group, &next, is_sealed(of))?;
            }
            Ok(())
        };
        if let Err(error) = merge_written() {
            let reads = reading.into_iter().map(|(token, ..)| token);
            let writes = written.into_iter().filter_map(|(run, _)| run.writing);
            if let Some(pager) = self.pager() {
                reads.chain(writes).for_each(|token| pager.borrow_mut().io.forget(token));
            }
            return Err(error);
        }
        if let Some((page, of)) = filling {
            self.merge_run(directory, group, page.bytes(), is_sealed(of))?;
        }
        Ok(())
    }

    /// Brings the pages of a key group into memory, side by side, if they are few enough to stay there.
    pub(super) fn bring_group(&mut self, directory: usize) -> Result<(), StateError> {
        let limit = self.arena.budget().limit_bytes();
        let indices = self.directories.pages_of(directory).to_vec();
        if indices.len() * PAGE_LEN > limit / 2 {
            return Ok(());
        }
        for some in indices.chunks(PAGE_READS_MAX) {
            some.iter().try_for_each(|&index| self.request_page(index as usize))?;
            some.iter().try_for_each(|&index| self.bring_page(index as usize))?;
        }
        Ok(())
    }

    /// The next run that was written, read back; others are asked for ahead.
    fn next_run(
        &mut self,
        written: &mut VecDeque<(Spilled, u64)>,
        reading: &mut VecDeque<(IoToken, Spilled, u64)>,
    ) -> Result<Option<(Block, u64)>, StateError> {
        let Some(pager) = self.pager() else { return Ok(None) };
        while reading.len() < RUN_READS_MAX
            && let Some((run, epoch)) = written.pop_front()
        {
            let token = match run.writing {
                // Its bytes come back with the answer to the write.
                Some(token) => token,
                None => {
                    let into = match self.try_block(block_size(run.len as usize)) {
                        Ok(block) => block,
                        Err(_) if reading.is_empty() => self.take_block(run.len as usize, usize::MAX)?,
                        Err(_) => {
                            written.push_front((run, epoch));
                            break;
                        }
                    };
                    pager.borrow_mut().read_slot(run.slot, into).expect("a run was written to the spill file")
                }
            };
            reading.push_back((token, run, epoch));
        }
        let Some((token, run, epoch)) = reading.pop_front() else { return Ok(None) };
        let answer = loop {
            let answer = pager.borrow_mut().io.take(token);
            match answer {
                Some(answer) => break read_buffer(answer),
                None => self.wait_for_disk(),
            }
        };
        pager.borrow_mut().free_slot(run.slot);
        match answer {
            Ok(buffer) if buffer.len() == run.len as usize && crc32c(buffer.filled()) == run.crc => {
                Ok(Some((buffer.into_block(), epoch)))
            }
            Ok(_) => Err(self.unreadable_run("the spill file holds other bytes than were written".to_owned())),
            Err(reason) => Err(self.unreadable_run(reason)),
        }
    }

    fn unreadable_run(&self, reason: String) -> StateError {
        StateError::RunUnreadable {
            operator: self.identity.operator.clone(),
            state: self.identity.name.clone(),
            reason,
        }
    }

    /// Merges one run, in the order of hashes: where not all pages fit into memory each is then needed once.
    fn merge_run(
        &mut self,
        directory: usize,
        group: KeyGroup,
        run: &PageBytes,
        into_sealed: bool,
    ) -> Result<(), StateError> {
        let layout = self.layout;
        let mut slots: Vec<(u64, SlotAt)> = live_slots(run, layout).map(|at| (layout.hash(run, at), at)).collect();
        slots.sort_unstable_by_key(|(hash, _)| *hash);
        let Some(merge) = self.runs.as_ref().map(|runs| runs.merge.clone()) else { return Ok(()) };
        let hidden = if into_sealed { self.reopen_sealed(directory) } else { Vec::new() };
        for (hash, at) in slots {
            let (kind, key) = layout.key(run, at);
            let address = Address { group, hash, kind, key: &run[key] };
            let value = &run[layout.value(run, at)];
            match self.find(layout, address) {
                Some(entry) => merge(self.value_mut(layout, entry), value),
                None => self.value_for(address, value.len(), false)?.copy_from_slice(value),
            }
        }
        if into_sealed {
            self.close_sealed(hidden);
        }
        Ok(())
    }

    /// Makes changes count for the sealed epoch, as if it had not ended. Nothing of the key group has changed since, except that pages may
    /// be listed for what is in later runs, or because images were asked for: that is hidden meanwhile, and answered.
    fn reopen_sealed(&mut self, directory: usize) -> Vec<(u32, u8)> {
        let open = self.parity;
        self.parity = 1 - open;
        if let Some(runs) = &mut self.runs {
            runs.are_merged_into_sealed = true;
        }
        let pages = &mut self.pages;
        let hide = |&index: &u32| (index, std::mem::take(&mut pages[index as usize].flags[open]));
        self.directories.pages_of(directory).iter().map(hide).collect()
    }

    fn close_sealed(&mut self, hidden: Vec<(u32, u8)>) {
        self.parity = 1 - self.parity;
        if let Some(runs) = &mut self.runs {
            runs.are_merged_into_sealed = false;
        }
        for (index, flags) in hidden {
            self.pages[index as usize].flags[self.parity] |= flags;
        }
    }

    /// Calls `each` for every entry of a key group: where it is, kind, key. Reads what is not in memory.
    pub fn for_each_of(&mut self, group: KeyGroup, mut each: impl FnMut(Spot, u8, &[u8])) -> Result<(), StateError> {
        if !self.range.contains(group) {
            return Ok(());
        }
        self.load_groups(KeyGroupRange { start: group.0, end: group.0 + 1 })?;
        let directory = self.directory_of(group);
        if self.directories.is_aside(directory) {
            self.merge_runs(directory);
        }
        if self.has_absent() {
            self.bring_group(directory)?;
        }
        for nth in 0..self.directories.pages_of(directory).len() {
            let index = self.directories.pages_of(directory)[nth] as usize;
            if self.is_emptied(index) {
                continue;
            }
            self.bring_page(index)?;
            let bytes = self.pages[index].bytes();
            for at in live_slots(bytes, self.layout) {
                let (kind, key) = self.layout.key(bytes, at);
                each(Spot::of(EntryAt { page: index, at }), kind, &bytes[key]);
            }
        }
        Ok(())
    }
}
