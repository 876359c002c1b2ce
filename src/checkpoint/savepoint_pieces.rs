//! Where the pages of a savepoint come from: the pieces of a committed checkpoint, or a backend that was filled by hand.
//!
//! Here: handing them to the savepoint's store a bounded number at a time. Not here: everything else about a savepoint (`savepoint`).

use super::error::SavepointError;
use super::restored::RestoredCheckpoint;
use super::snapshot::{HashSpan, Piece, PieceBlock};
use super::store::CheckpointStore;
use super::{LoadedPiece, PieceLoader};
use crate::io::Io;
use crate::memory::{Arena, Buffer};
use crate::state::{HarvestProgress, KeyGroupRange, StateBackend};
use std::collections::VecDeque;
use std::sync::Arc;

/// Pieces are gathered into blocks of this size.
const BLOCK_BYTES: usize = 256 << 10;
/// Pieces copied per step.
const PIECES_PER_STEP_MAX: usize = 64;
/// In so many steps at most the page map of a state is read.
const INDEX_STEPS_MAX: u16 = 32;
/// Bytes of pages harvested per step.
const HARVEST_BYTES_PER_STEP: usize = 1 << 20;

/// The pages of a savepoint on their way into it.
pub(super) enum SavepointPieces {
    Copied(Box<Copied>),
    Harvested(Box<StateBackend>),
}

/// The pieces of a checkpoint, in the order of its page map.
pub(super) struct Copied {
    source: Arc<RestoredCheckpoint>,
    arena: Arena,
    loader: PieceLoader,
    /// The next pages to ask for: of which state, from which key group on.
    next_state: usize,
    next_group: u16,
    /// What was asked for and has not come yet, in order.
    asked: VecDeque<HashSpan>,
    filling: Option<(Buffer, Vec<Piece>)>,
    /// A block the store had no room for yet.
    held: Option<PieceBlock>,
    blocks: u32,
}

impl SavepointPieces {
    pub(super) fn of_checkpoint(source: Arc<RestoredCheckpoint>, arena: &Arena) -> Self {
        Self::Copied(Box::new(Copied {
            loader: PieceLoader::new(source.clone(), arena.clone()),
            source,
            arena: arena.clone(),
            next_state: 0,
            next_group: 0,
            asked: VecDeque::new(),
            filling: None,
            held: None,
            blocks: 0,
        }))
    }

    /// The backend's snapshot has begun.
    pub(super) fn of_backend(backend: StateBackend) -> Self {
        Self::Harvested(Box::new(backend))
    }

    /// Goes on; the number of blocks once the store has them all.
    pub(super) fn step(&mut self, io: &mut dyn Io, store: &mut CheckpointStore) -> Result<Option<u32>, SavepointError> {
        match self {
            Self::Copied(copied) => copied.step(io, store),
            Self::Harvested(backend) => {
                match backend.harvest(HARVEST_BYTES_PER_STEP, &mut |block| store.add_block(block))? {
                    HarvestProgress::Done { blocks } => Ok(Some(blocks)),
                    HarvestProgress::Worked | HarvestProgress::Refused => Ok(None),
                }
            }
        }
    }

    /// Closes files that were read; waits for reads under way.
    pub(super) fn close(self, io: &mut dyn Io) {
        if let Self::Copied(copied) = self {
            copied.loader.close(io);
        }
    }
}

impl Copied {
    fn step(&mut self, io: &mut dyn Io, store: &mut CheckpointStore) -> Result<Option<u32>, SavepointError> {
        if !self.hand_over(store) {
            return Ok(None);
        }
        let asked_for_all = self.ask(io)?;
        self.loader.step(io);
        for _ in 0..PIECES_PER_STEP_MAX {
            let Some(piece) = self.loader.next_piece() else { break };
            self.add(&piece.map_err(SavepointError::Source)?)?;
            if !self.hand_over(store) {
                return Ok(None);
            }
        }
        if !asked_for_all || !self.loader.is_idle() {
            return Ok(None);
        }
        self.close_block();
        Ok(self.hand_over(store).then_some(self.blocks))
    }

    /// Asks the loader for the next pages when it has none left. Whether every page was asked for. Waits for a few blocks of the page
    /// map, which take some hundred microseconds.
    fn ask(&mut self, io: &mut dyn Io) -> Result<bool, SavepointError> {
        let groups = self.source.max_parallelism();
        let Some(state) = self.source.states().get(self.next_state) else { return Ok(true) };
        if !self.loader.is_idle() {
            return Ok(false);
        }
        let end = self.next_group.saturating_add((groups / INDEX_STEPS_MAX).max(1)).min(groups);
        let range = KeyGroupRange { start: self.next_group, end };
        let index = self.source.index(io, &self.arena, state.id, range).map_err(SavepointError::Source)?;
        for (page, chain) in index.pages(state.id, range) {
            self.loader.request(page, chain);
            self.asked.extend(chain.iter().map(|piece| piece.span));
        }
        (self.next_state, self.next_group) =
            if end < groups { (self.next_state, end) } else { (self.next_state + 1, 0) };
        Ok(self.next_state >= self.source.states().len())
    }

    fn add(&mut self, piece: &LoadedPiece) -> Result<(), SavepointError> {
        let bytes = piece.bytes();
        if self.filling.as_ref().is_some_and(|(buffer, _)| buffer.remaining() < bytes.len()) {
            self.close_block();
        }
        let (buffer, pieces) = match &mut self.filling {
            Some(filling) => filling,
            None => {
                let capacity = BLOCK_BYTES.max(PieceBlock::HEAD_BYTES + bytes.len());
                let buffer = PieceBlock::take_buffer(&self.arena, "a savepoint", capacity)?;
                self.filling.insert((buffer, Vec::new()))
            }
        };
        let (offset, len) = (buffer.len() as u32, bytes.len() as u32);
        let appended = buffer.append(bytes);
        assert!(appended, "a block with room for the piece was made above");
        let span = self.asked.pop_front().unwrap_or_default();
        pieces.push(Piece { page: piece.page, kind: piece.kind, offset, len, span });
        Ok(())
    }

    fn close_block(&mut self) {
        if let Some((buffer, pieces)) = self.filling.take() {
            self.blocks += 1;
            self.held = Some(PieceBlock { checkpoint: self.source.id(), buffer, pieces });
        }
    }

    /// Whether no block waits for room in the store.
    fn hand_over(&mut self, store: &mut CheckpointStore) -> bool {
        if let Some(block) = self.held.take() {
            self.held = store.add_block(block).err();
        }
        self.held.is_none()
    }
}
