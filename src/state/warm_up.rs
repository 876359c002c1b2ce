//! Brings the restored state into memory in the background, while records already flow: first where pages lie, then their pieces, in the
//! order in which they lie on the disk and a megabyte at a time, until all pages are in or memory is full.
//!
//! Extents are numbered and filled in the order of time, so a page's image comes before its deltas, and these come in the order in which they
//! are applied: each piece is applied as it comes, and the page is shown with the last one. Where that order does not hold, or a piece cannot be
//! read, the page is left to whoever needs it.
//!
//! Here: what is read next. Not here: building pages (`restore`), pages that a record asks for before their turn (`residency`).

use super::KeyGroupRange;
use super::StateError;
use super::backend::{SharedTable, StateBackend};
use super::pager::{Pager, sectors_around};
use crate::io::{Io, IoOutput, IoToken};
use crate::memory::Buffer;
use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::rc::Rc;

/// Blocks of the page map read in one step beside those that every key group needs: some hundred microseconds.
const MAP_BLOCKS_PER_STEP: usize = 1;
/// Pieces put in order in one step: some tens of microseconds.
const PIECES_PLANNED_PER_STEP: usize = 512;
/// Bytes of pieces taken in in one step, some tens of microseconds; each piece counts as some more.
const BYTES_PER_STEP: usize = 80 << 10;
const PIECE_COST_BYTES: usize = 512;
/// The longest read.
const READ_BYTES_MAX: u64 = 1 << 20;
/// The pieces that begin in so many bytes of an extent are put in order together, and read at once if no gap divides them.
const STRETCH_BYTES: u64 = READ_BYTES_MAX - (64 << 10);
/// Gaps up to this length are read over.
const GAP_BYTES_MAX: u64 = 16 << 10;
const READS_IN_FLIGHT_MAX: usize = 4;

/// How far it is.
pub(super) enum WarmUp {
    /// Where the pages lie is being read.
    Index,
    /// The pages are being read.
    Pages(Reads),
}

/// Reads to do and under way.
#[derive(Default)]
pub(super) struct Reads {
    /// The next page to be planned: of which table, and which of its pages.
    unplanned: (usize, usize),
    /// By extent and stretch: what begins there.
    stretches: BTreeMap<(u32, u64), Vec<InRun>>,
    /// What is to be read of the stretch that was begun.
    runs: VecDeque<Run>,
    under_way: VecDeque<(IoToken, Run)>,
    /// A run that was read, and how many of its pieces are taken in.
    arrived: Option<(Buffer, Run, usize)>,
}

/// Pieces that lie side by side.
struct Run {
    extent: u32,
    span: Range<u64>,
    pieces: Vec<InRun>,
}

struct InRun {
    offset: u64,
    len: u32,
    table: u32,
    page: u32,
    /// Its place in the page's chain.
    nth: u32,
}

impl StateBackend {
    /// Whether state of the restored checkpoint is still being brought into memory.
    pub fn is_warming_up(&self) -> bool {
        self.warm_up.is_some()
    }

    /// Brings some more of the restored checkpoint into memory. Answers whether anything was done.
    pub fn warm_up(&mut self) -> Result<bool, StateError> {
        let (Some(warm_up), Some(pager)) = (self.warm_up.take(), self.pager.clone()) else { return Ok(false) };
        match warm_up {
            WarmUp::Index => {
                let more = self.tables.iter().find(|table| table.borrow().unloaded_groups().next().is_some());
                self.warm_up = Some(match more {
                    Some(table) => {
                        load_some_groups(table, &pager)?;
                        WarmUp::Index
                    }
                    None => WarmUp::Pages(Reads::default()),
                });
                Ok(true)
            }
            WarmUp::Pages(mut reads) => {
                let has_room = pager.borrow().has_room();
                if !has_room || reads.is_done(&self.tables) {
                    reads.close(&self.tables, &pager);
                    self.warm_up_ends(&pager);
                    return Ok(true);
                }
                let worked = match reads.plan(&self.tables) {
                    true => Ok(true),
                    false => reads.step(&self.tables, &pager),
                };
                self.warm_up = Some(WarmUp::Pages(reads));
                worked
            }
        }
    }

    /// Gives up what is being read.
    pub(super) fn close_warm_up(&mut self) {
        if let (Some(WarmUp::Pages(mut reads)), Some(pager)) = (self.warm_up.take(), &self.pager) {
            reads.close(&self.tables, pager);
        }
    }

    /// Lets the checkpoint go once nothing more can come from it.
    fn warm_up_ends(&mut self, pager: &Rc<RefCell<Pager>>) {
        let all_are_in = self.tables.iter().all(|table| !table.borrow().has_absent());
        if all_are_in {
            self.tables.iter().for_each(|table| table.borrow_mut().forget_chains());
            pager.borrow_mut().forget_restored();
        }
    }
}

fn load_some_groups(table: &SharedTable, pager: &Rc<RefCell<Pager>>) -> Result<(), StateError> {
    let mut table = table.borrow_mut();
    let groups: Vec<u16> = table.unloaded_groups().collect();
    let Some(&start) = groups.first() else { return Ok(()) };
    let until = |end: u16| KeyGroupRange { start, end };
    let id = table.identity.id;
    let blocks = |groups| pager.borrow().restored().map_or(0, |from| from.map_blocks_of(id, groups).len());
    // The blocks of small checkpoints are about all key groups: to read them for each again would take long.
    let blocks_max = blocks(until(start + 1)) + MAP_BLOCKS_PER_STEP;
    let ends = groups.iter().map(|group| group + 1).take_while(|end| blocks(until(*end)) < blocks_max);
    let end = ends.last().unwrap_or(start + 1);
    table.load_groups(until(end))
}

impl Reads {
    fn is_done(&self, tables: &[SharedTable]) -> bool {
        let nothing_left = self.stretches.is_empty() && self.runs.is_empty();
        let nothing_read = self.under_way.is_empty() && self.arrived.is_none();
        // What a record asked for meanwhile is with its table.
        let nothing_asked = || tables.iter().all(|table| table.borrow().reads_under_way() == 0);
        self.unplanned.0 == tables.len() && nothing_left && nothing_read && nothing_asked()
    }

    /// Puts the pieces of some more pages in order. Whether there were any.
    fn plan(&mut self, tables: &[SharedTable]) -> bool {
        let (number, first) = self.unplanned;
        let Some(table) = tables.get(number) else { return false };
        let table = table.borrow();
        let mut planned = 0;
        for page in first..table.pages.len() {
            self.unplanned = (number, page + 1);
            let chain = table.stored_chain(page).unwrap_or_default();
            for (nth, piece) in chain.iter().enumerate() {
                let (table, page, nth) = (number as u32, page as u32, nth as u32);
                let begins_there = self.stretches.entry((piece.file, piece.offset / STRETCH_BYTES)).or_default();
                begins_there.push(InRun { offset: piece.offset, len: piece.len, table, page, nth });
            }
            planned += 1 + chain.len();
            if planned >= PIECES_PLANNED_PER_STEP {
                return true;
            }
        }
        self.unplanned = (number + 1, 0);
        true
    }

    fn step(&mut self, tables: &[SharedTable], pager: &Rc<RefCell<Pager>>) -> Result<bool, StateError> {
        let mut worked = self.start_reads(pager);
        if self.arrived.is_none()
            && let Some((token, _)) = self.under_way.front()
            && let Some(answer) = pager.borrow_mut().io.take(*token)
            && let Some((_, run)) = self.under_way.pop_front()
        {
            // A read that fails here fails again, and is reported, when the page is touched.
            if let Ok(IoOutput::Buffer(buffer)) = answer {
                self.arrived = Some((buffer, run, 0));
            }
            worked = true;
        }
        if let Some((buffer, run, taken)) = &mut self.arrived {
            let mut work_bytes = 0;
            while let Some(piece) = run.pieces.get(*taken)
                && work_bytes < BYTES_PER_STEP
                && pager.borrow().has_room()
            {
                let skip = (piece.offset - run.span.start) as usize;
                if let Some(bytes) = buffer.filled().get(skip..skip + piece.len as usize) {
                    let mut table = tables[piece.table as usize].borrow_mut();
                    table.take_in_early(piece.page as usize, piece.nth as usize, bytes)?;
                }
                work_bytes += piece.len as usize + PIECE_COST_BYTES;
                *taken += 1;
            }
            if *taken == run.pieces.len() {
                self.arrived = None;
            }
            worked = true;
        }
        if !worked {
            for table in tables {
                worked |= table.borrow_mut().collect_pages()?;
            }
        }
        Ok(worked)
    }

    fn start_reads(&mut self, pager: &Rc<RefCell<Pager>>) -> bool {
        let mut worked = false;
        while self.under_way.len() < READS_IN_FLIGHT_MAX
            && let Some(run) = self.next_run()
        {
            let mut pager = pager.borrow_mut();
            match pager.read_extent(run.extent, run.span.clone()) {
                Ok(token) => self.under_way.push_back((token, run)),
                // No memory for it: what is needed is read when it is touched.
                Err(_) => {
                    self.runs.clear();
                    self.stretches.clear();
                }
            }
            // So that the disk is busy while what came before is taken in.
            pager.io.drive();
            worked = true;
        }
        worked
    }

    fn next_run(&mut self) -> Option<Run> {
        if self.runs.is_empty() {
            let ((extent, _), mut pieces) = self.stretches.pop_first()?;
            pieces.sort_unstable_by_key(|piece| piece.offset);
            for piece in pieces {
                let span = sectors_around(piece.offset..piece.offset + u64::from(piece.len));
                match self.runs.back_mut() {
                    Some(run)
                        if span.start <= run.span.end + GAP_BYTES_MAX
                            && span.end - run.span.start <= READ_BYTES_MAX =>
                    {
                        run.span.end = run.span.end.max(span.end);
                        run.pieces.push(piece);
                    }
                    _ => self.runs.push_back(Run { extent, span, pieces: vec![piece] }),
                }
            }
        }
        self.runs.pop_front()
    }

    fn close(&mut self, tables: &[SharedTable], pager: &Rc<RefCell<Pager>>) {
        for (token, _) in self.under_way.drain(..) {
            pager.borrow_mut().io.forget(token);
        }
        tables.iter().for_each(|table| table.borrow_mut().forget_arriving());
    }
}
