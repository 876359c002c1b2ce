//! Brings the restored state into memory in the background, while records already flow: first where pages lie, then the pages, in the
//! order in which they lie on the disk and a megabyte at a time, until all are in or memory is full.
//!
//! Here: what is read next. Not here: building pages (`restore`), pages that a record asks for before their turn (`residency`).

use super::KeyGroupRange;
use super::StateError;
use super::backend::{SharedTable, StateBackend};
use super::pager::{Pager, sectors_around};
use crate::checkpoint::{PieceKind, PieceRef};
use crate::io::{Io, IoOutput, IoToken};
use crate::memory::Buffer;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::ops::Range;
use std::rc::Rc;

/// Blocks of the page map read in one step: some hundred microseconds.
const MAP_BLOCKS_PER_STEP: usize = 4;
/// Pages built in one step: some tens of microseconds.
const PAGES_PER_STEP: usize = 4;
/// The longest read.
const READ_BYTES_MAX: u64 = 1 << 20;
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
pub(super) struct Reads {
    runs: VecDeque<Run>,
    /// Pages of several pieces: asked for one by one.
    chained: Vec<(usize, usize)>,
    under_way: VecDeque<(IoToken, Run)>,
    /// A run that was read, and how many of its pages are taken in.
    arrived: Option<(Buffer, Run, usize)>,
}

/// Pages that lie side by side.
struct Run {
    extent: u32,
    span: Range<u64>,
    pages: Vec<InRun>,
}

struct InRun {
    table: usize,
    page: usize,
    piece: PieceRef,
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
                    None => WarmUp::Pages(self.plan_reads()),
                });
                Ok(true)
            }
            WarmUp::Pages(mut reads) => {
                let has_room = pager.borrow().has_room();
                // Pages of several pieces are with their tables, once they are asked for.
                let is_done =
                    || reads.is_done() && self.tables.iter().all(|table| table.borrow().reads_under_way() == 0);
                if !has_room || is_done() {
                    reads.close(&pager);
                    self.warm_up_ends(&pager);
                    return Ok(true);
                }
                let worked = reads.step(&self.tables, &pager)?;
                self.warm_up = Some(WarmUp::Pages(reads));
                Ok(worked)
            }
        }
    }

    fn plan_reads(&self) -> Reads {
        let mut pages = Vec::new();
        let mut chained = Vec::new();
        for (number, table) in self.tables.iter().enumerate() {
            for (page, chain) in table.borrow().stored_pages() {
                match chain {
                    [piece] => pages.push(InRun { table: number, page, piece: *piece }),
                    _ => chained.push((number, page)),
                }
            }
        }
        pages.sort_unstable_by_key(|page| (page.piece.file, page.piece.offset));
        let mut runs: VecDeque<Run> = VecDeque::new();
        for page in pages {
            let piece = page.piece;
            let span = sectors_around(piece.offset..piece.offset + u64::from(piece.len));
            match runs.back_mut() {
                Some(run)
                    if run.extent == piece.file
                        && span.start <= run.span.end + GAP_BYTES_MAX
                        && span.end - run.span.start <= READ_BYTES_MAX =>
                {
                    run.span.end = run.span.end.max(span.end);
                    run.pages.push(page);
                }
                _ => runs.push_back(Run { extent: piece.file, span, pages: vec![page] }),
            }
        }
        Reads { runs, chained, under_way: VecDeque::new(), arrived: None }
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
    let mut range = KeyGroupRange { start, end: start + 1 };
    for &group in &groups[1..] {
        let wider = KeyGroupRange { start, end: group + 1 };
        let blocks = pager.borrow().restored().map_or(0, |from| from.map_blocks_of(table.identity.id, wider).len());
        if blocks > MAP_BLOCKS_PER_STEP {
            break;
        }
        range = wider;
    }
    table.load_groups(range)
}

impl Reads {
    fn is_done(&self) -> bool {
        self.runs.is_empty() && self.chained.is_empty() && self.under_way.is_empty() && self.arrived.is_none()
    }

    fn step(&mut self, tables: &[SharedTable], pager: &Rc<RefCell<Pager>>) -> Result<bool, StateError> {
        let mut worked = self.start_reads(tables, pager)?;
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
            let until = run.pages.len().min(*taken + PAGES_PER_STEP);
            for page in &run.pages[*taken..until] {
                let skip = (page.piece.offset - run.span.start) as usize;
                if let Some(bytes) = buffer.filled().get(skip..skip + page.piece.len as usize) {
                    tables[page.table].borrow_mut().take_in_early(page.page, &page.piece, PieceKind::Image, bytes)?;
                }
            }
            *taken = until;
            if until == run.pages.len() {
                self.arrived = None;
            }
            worked = true;
        }
        Ok(worked)
    }

    fn start_reads(&mut self, tables: &[SharedTable], pager: &Rc<RefCell<Pager>>) -> Result<bool, StateError> {
        let mut worked = false;
        while self.under_way.len() < READS_IN_FLIGHT_MAX
            && let Some(run) = self.runs.pop_front()
        {
            let started = pager.borrow_mut().read_extent(run.extent, run.span.clone());
            match started {
                Ok(token) => self.under_way.push_back((token, run)),
                // No memory for it: what is needed is read when it is touched.
                Err(_) => self.runs.clear(),
            }
            worked = true;
        }
        if self.runs.is_empty() && self.under_way.is_empty() && self.arrived.is_none() {
            while let Some(&(table, page)) = self.chained.last() {
                if !tables[table].borrow_mut().request_early(page)? {
                    break;
                }
                self.chained.pop();
                worked = true;
            }
            for table in tables {
                worked |= table.borrow_mut().collect_pages()?;
            }
        }
        Ok(worked)
    }

    fn close(&mut self, pager: &Rc<RefCell<Pager>>) {
        for (token, _) in self.under_way.drain(..) {
            pager.borrow_mut().io.forget(token);
        }
    }
}
