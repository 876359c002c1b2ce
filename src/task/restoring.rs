//! Reading a task's state back from a checkpoint, piece by piece, on the task's own slot.

use crate::checkpoint::{CheckpointId, PieceLoader, RestoreError, RestoredBlobs, RestoredCheckpoint};
use crate::io::Io;
use crate::memory::Arena;
use crate::operator::ChainContext;
use crate::slot::Progress;
use crate::state::{KeyGroupRange, StateBackend, StateError, check_compatible};
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

/// How many pieces one step applies at most.
const PIECES_PER_STEP_MAX: usize = 16;

/// The state of a task that is not yet running.
pub(super) struct Restoring {
    checkpoint: Option<Arc<RestoredCheckpoint>>,
    key_groups: KeyGroupRange,
    arena: Arena,
    loader: Option<PieceLoader>,
    state_complete: bool,
    /// Whether the chains were told what the checkpoint remembers.
    pub(super) chains_told: bool,
}

/// Why a task's state could not be read back.
#[derive(Debug, thiserror::Error)]
pub(super) enum RestoringError {
    #[error(transparent)]
    Checkpoint(#[from] RestoreError),
    #[error(transparent)]
    State(#[from] StateError),
}

impl Restoring {
    pub(super) fn new(
        checkpoint: Option<Arc<RestoredCheckpoint>>,
        state: &Rc<RefCell<StateBackend>>,
        key_groups: KeyGroupRange,
        arena: Arena,
    ) -> Self {
        let has_state = !state.borrow().descriptors().is_empty();
        let state_complete = checkpoint.is_none() || !has_state;
        Self { checkpoint, key_groups, arena, loader: None, state_complete, chains_told: false }
    }

    pub(super) fn is_state_complete(&self) -> bool {
        self.state_complete
    }

    pub(super) fn checkpoint_id(&self) -> CheckpointId {
        self.checkpoint.as_ref().map_or(CheckpointId::default(), |checkpoint| checkpoint.id())
    }

    pub(super) fn blobs(&self) -> RestoredBlobs {
        RestoredBlobs::new(self.checkpoint.as_ref().map_or(Vec::new(), |checkpoint| checkpoint.all_blobs().to_vec()))
    }

    /// Gives up what is being read.
    pub(super) fn close(&mut self, io: &mut dyn Io) {
        if let Some(loader) = self.loader.take() {
            loader.close(io);
        }
    }

    /// Asks for pages and applies those that have come.
    pub(super) fn step(
        &mut self,
        cx: &mut ChainContext<'_>,
        state: &Rc<RefCell<StateBackend>>,
    ) -> Result<Progress, RestoringError> {
        let Some(checkpoint) = &self.checkpoint else { return Ok(Progress::Done) };
        let mut state = state.borrow_mut();
        let loader = match &mut self.loader {
            Some(loader) => loader,
            None => {
                check_states(&state, checkpoint)?;
                let mut loader = PieceLoader::new(checkpoint.clone(), self.arena.clone());
                for descriptor in state.descriptors() {
                    for (page, _) in checkpoint.pages(descriptor.id, self.key_groups) {
                        loader.request(page);
                    }
                }
                self.loader.insert(loader)
            }
        };
        let mut worked = loader.step(cx.io);
        for _ in 0..PIECES_PER_STEP_MAX {
            let Some(piece) = loader.next_piece() else { break };
            let piece = piece?;
            state.restore_piece(piece.page, piece.kind, piece.bytes())?;
            worked = true;
        }
        if loader.is_idle() {
            self.close(cx.io);
            state.finish_restore()?;
            self.state_complete = true;
            worked = true;
        }
        Ok(if worked { Progress::Worked } else { Progress::Idle })
    }
}

/// Every state the task registers must be stored as it is registered, or not at all.
fn check_states(state: &StateBackend, checkpoint: &RestoredCheckpoint) -> Result<(), StateError> {
    state.descriptors().iter().try_for_each(|asked| {
        let stored = checkpoint.states().iter().find(|stored| stored.id == asked.id);
        stored.map_or(Ok(()), |stored| check_compatible(stored, asked))
    })
}
