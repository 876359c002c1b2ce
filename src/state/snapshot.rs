//! The snapshot of a backend: the barrier, the harvest in slices, the blocks it hands out.
//!
//! Here: all tables of a subtask together. Not here: one table's part in it (`seal`), making blocks durable (the store).

use super::StateError;
use super::backend::StateBackend;
use super::piece::{HARVEST_ROOM, PieceBuffer};
use super::residency::give_up_task;
use crate::checkpoint::{CheckpointId, HashSpan, PageKey, Piece, PieceBlock, PieceKind};
use crate::memory::Arena;

const WHO: &str = "the blocks of a snapshot";
const BLOCK_LEN_MIN: usize = 64 << 10;
const BLOCK_LEN_MIDDLE: usize = 256 << 10;
const BLOCK_LEN_MAX: usize = 1 << 20;

/// Takes the blocks of a snapshot towards the store.
pub trait PieceSink {
    /// Takes a block, or gives it back when there is no room now; the harvest then pauses and offers it again.
    fn offer(&mut self, block: PieceBlock) -> Result<(), PieceBlock>;
}

impl<F: FnMut(PieceBlock) -> Result<(), PieceBlock>> PieceSink for F {
    fn offer(&mut self, block: PieceBlock) -> Result<(), PieceBlock> {
        self(block)
    }
}

/// How far a harvest came in one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HarvestProgress {
    /// The budget is used up; there is more to harvest.
    Worked,
    /// The sink refused a block, or a page is still being read back into memory: call again later.
    Refused,
    /// The snapshot is complete.
    Done {
        /// How many blocks the sink took in all.
        blocks: u32,
    },
}

/// A snapshot in progress.
pub(super) struct Harvest {
    checkpoint: CheckpointId,
    /// Pages to be declared gone, before any other piece.
    gone: Vec<PageKey>,
    filling: Option<PieceBuffer>,
    /// A full block the sink has refused so far.
    waiting: Option<PieceBlock>,
    blocks: u32,
    /// How many pages were harvested, and the bytes of their pieces.
    pages: usize,
    bytes: usize,
}

impl StateBackend {
    /// Begins the snapshot of `checkpoint`: everything changed up to now belongs to it, everything after does not.
    /// Takes the same time at any size of state.
    ///
    /// # Panics
    /// Asserts that the snapshot before is done or abandoned.
    pub fn barrier(&mut self, checkpoint: CheckpointId) {
        assert!(self.harvest.is_none(), "a barrier while the last snapshot is still being harvested");
        self.tables.iter().for_each(|table| table.borrow_mut().seal());
        let gone = std::mem::take(&mut self.gone);
        self.harvest = Some(Harvest { checkpoint, gone, filling: None, waiting: None, blocks: 0, pages: 0, bytes: 0 });
    }

    /// Whether a snapshot is in progress.
    pub fn is_harvesting(&self) -> bool {
        self.harvest.is_some()
    }

    /// Goes on with the snapshot until about `work_bytes_max` bytes of pages and pieces were handled (16 KiB take a few
    /// microseconds). An error ends the snapshot; the state and the next snapshot are not affected.
    ///
    /// # Panics
    /// Asserts that a snapshot is in progress.
    pub fn harvest(&mut self, work_bytes_max: usize, sink: &mut impl PieceSink) -> Result<HarvestProgress, StateError> {
        let mut harvest = self.harvest.take().expect("a barrier begins the snapshot that is harvested");
        let result = self.harvest_slice(&mut harvest, work_bytes_max, sink);
        match result {
            Ok(HarvestProgress::Done { .. }) => {}
            Ok(_) => self.harvest = Some(harvest),
            Err(_) => self.abandon_snapshot(),
        }
        result
    }

    /// Gives up the last snapshot, whether its harvest is done or not: the next one takes images of all its pages. For a checkpoint
    /// that failed before the next barrier; later `request_images` does the same for the pages of its pieces.
    pub fn abandon_snapshot(&mut self) {
        self.harvest = None;
        for table in &self.tables {
            let mut table = table.borrow_mut();
            table.abandon();
            table.given_up = None;
        }
    }

    /// Makes the next snapshot take images of these pages: their chains of deltas are long enough, or a checkpoint that held
    /// changes of theirs failed. Pages that do not exist are passed over.
    pub fn request_images(&mut self, pages: impl IntoIterator<Item = PageKey>) {
        for key in pages {
            if let Some(table) = self.table(key.state) {
                table.borrow_mut().request_image(key);
            }
        }
    }

    /// Makes the next snapshot take images of all pages.
    pub fn request_full(&mut self) {
        for table in &self.tables {
            let mut table = table.borrow_mut();
            let range = table.range;
            table.load_groups(range).unwrap_or_else(|error| give_up_task(&error));
            (0..table.pages.len()).for_each(|index| table.mark_image(index));
        }
    }

    fn harvest_slice(
        &mut self,
        harvest: &mut Harvest,
        work_bytes_max: usize,
        sink: &mut impl PieceSink,
    ) -> Result<HarvestProgress, StateError> {
        let mut work_bytes = 0;
        harvest.declare_gone(&self.arena)?;
        for table in &self.tables {
            let mut table = table.borrow_mut();
            loop {
                if let Some(given_up) = table.given_up.take() {
                    return Err(given_up);
                }
                if table.sealed_left() == 0 {
                    break;
                }
                if work_bytes >= work_bytes_max {
                    return Ok(HarvestProgress::Worked);
                }
                if !harvest.offer_waiting(sink) || !table.next_is_in_memory()? {
                    return Ok(HarvestProgress::Refused);
                }
                if harvest.filling.as_ref().is_some_and(|filling| filling.buffer.remaining() < HARVEST_ROOM) {
                    harvest.close_block();
                    continue;
                }
                if harvest.filling.is_none() {
                    // Memory may have no room for a large one.
                    let len = harvest.block_len(table.sealed_left());
                    let buffer = PieceBlock::take_buffer(&self.arena, WHO, len)
                        .or_else(|_| PieceBlock::take_buffer(&self.arena, WHO, BLOCK_LEN_MIN))
                        .map_err(|source| table.given_up_by(source))?;
                    harvest.filling = Some(PieceBuffer { buffer, pieces: Vec::new() });
                }
                let filling = harvest.filling.as_mut().expect("taken above");
                let before = filling.len();
                work_bytes += table.harvest_page(filling)?;
                harvest.pages += 1;
                harvest.bytes += filling.len() - before;
            }
        }
        harvest.close_block();
        if !harvest.offer_waiting(sink) {
            return Ok(HarvestProgress::Refused);
        }
        Ok(HarvestProgress::Done { blocks: harvest.blocks })
    }
}

impl Harvest {
    /// How long the next block should be, with so many pages left: at most about a quarter of what is still to come, as the pages so far let
    /// expect, because the store takes a block apart while the next is being filled and only has the last one left to do at the end.
    fn block_len(&self, pages_left: usize) -> usize {
        let most = (pages_left + 1) * HARVEST_ROOM / 2;
        let expected = (self.bytes * pages_left).checked_div(self.pages).unwrap_or(BLOCK_LEN_MAX);
        let quarter = if expected >= 4 * BLOCK_LEN_MAX { BLOCK_LEN_MAX } else { BLOCK_LEN_MIDDLE };
        most.clamp(BLOCK_LEN_MIN, quarter)
    }

    /// Whether nothing is left waiting.
    fn offer_waiting(&mut self, sink: &mut impl PieceSink) -> bool {
        let Some(block) = self.waiting.take() else { return true };
        match sink.offer(block) {
            Ok(()) => {
                self.blocks += 1;
                true
            }
            Err(block) => {
                self.waiting = Some(block);
                false
            }
        }
    }

    /// Writes images without bytes. Pages of the same numbers that live on are images of this snapshot, behind these.
    fn declare_gone(&mut self, arena: &Arena) -> Result<(), StateError> {
        if self.gone.is_empty() {
            return Ok(());
        }
        let taken = PieceBlock::take_buffer(arena, WHO, BLOCK_LEN_MIN);
        let buffer = taken.map_err(|source| StateError::SnapshotWithoutMemory { source })?;
        let gone = self.gone.drain(..).map(|page| Piece {
            page,
            kind: PieceKind::Image,
            offset: PieceBlock::HEAD_BYTES as u32,
            len: 0,
            span: HashSpan::default(),
        });
        self.filling = Some(PieceBuffer { buffer, pieces: gone.collect() });
        Ok(())
    }

    fn close_block(&mut self) {
        if let Some(PieceBuffer { buffer, pieces }) = self.filling.take()
            && !pieces.is_empty()
        {
            self.waiting = Some(PieceBlock { checkpoint: self.checkpoint, buffer, pieces });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn harvest(pages: usize, bytes: usize) -> Harvest {
        let checkpoint = CheckpointId(1);
        Harvest { checkpoint, gone: Vec::new(), filling: None, waiting: None, blocks: 0, pages, bytes }
    }

    #[test]
    fn the_blocks_of_many_small_changes_are_short_so_that_the_store_is_not_left_with_all_of_them_at_the_end() {
        assert_eq!(harvest(0, 0).block_len(20_000), BLOCK_LEN_MIDDLE);
        assert_eq!(harvest(4_000, 4_000 * 60).block_len(16_000), BLOCK_LEN_MIDDLE);
    }

    #[test]
    fn blocks_are_a_megabyte_while_much_is_to_come_and_small_for_a_few_pages() {
        assert_eq!(harvest(16, 16 << 14).block_len(20_000), BLOCK_LEN_MAX);
        assert_eq!(harvest(20_000, 20_000 << 14).block_len(200), BLOCK_LEN_MIDDLE);
        assert_eq!(harvest(0, 0).block_len(2), BLOCK_LEN_MIN);
    }
}
