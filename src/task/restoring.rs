//! Reading a task's state back from a checkpoint, piece by piece, on the task's own slot.

use crate::checkpoint::{CheckpointId, PieceLoader, RestoreError, RestoredBlobs, RestoredCheckpoint, StateDescriptor};
use crate::io::Io;
use crate::memory::Arena;
use crate::operator::ChainContext;
use crate::slot::Progress;
use crate::state::{KeyGroupRange, StateBackend, StateError};
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

/// How many pieces one step applies at most.
const PIECES_PER_STEP_MAX: usize = 16;
/// How many pages of a former layout one step takes over at most: each of their values goes through a function of the user.
const MIGRATED_PAGES_PER_STEP_MAX: usize = 2;

/// The state of a task that is not yet running.
pub(super) struct Restoring {
    checkpoint: Option<Arc<RestoredCheckpoint>>,
    key_groups: KeyGroupRange,
    arena: Arena,
    loader: Option<PieceLoader>,
    dropping: Dropping,
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
        dropping: Dropping,
    ) -> Self {
        let has_state = !state.borrow().descriptors().is_empty() || !dropping.answers_for.is_empty();
        let state_complete = checkpoint.is_none() || !has_state;
        Self { checkpoint, key_groups, arena, loader: None, dropping, state_complete, chains_told: false }
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
        if state.is_migrating() && self.loader.is_none() {
            state.migrate(MIGRATED_PAGES_PER_STEP_MAX)?;
            self.state_complete = !state.is_migrating();
            return Ok(Progress::Worked);
        }
        let loader = match &mut self.loader {
            Some(loader) => loader,
            None => {
                self.dropping.check(&mut state, checkpoint, self.key_groups)?;
                state.prepare_restore(checkpoint.states())?;
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
            self.state_complete = !state.is_migrating();
            worked = true;
        }
        Ok(if worked { Progress::Worked } else { Progress::Idle })
    }
}

/// Which of the checkpoint's states a task answers for, and whether they may be missing from the program.
#[derive(Clone, Debug, Default)]
pub struct Dropping {
    /// The ids of states: those of the operators that run in this task, and in one vertex those of operators that are gone.
    pub answers_for: Vec<u64>,
    /// Whether the job may go on without states that no operator registers any more.
    pub is_allowed: bool,
}

impl Dropping {
    /// Every stored state must be registered, or may be dropped: then the next checkpoint says that its pages are gone.
    fn check(
        &self,
        state: &mut StateBackend,
        checkpoint: &RestoredCheckpoint,
        key_groups: KeyGroupRange,
    ) -> Result<(), StateError> {
        let registered: Vec<u64> = state.descriptors().iter().map(|descriptor| descriptor.id).collect();
        let dropped =
            |stored: &&StateDescriptor| self.answers_for.contains(&stored.id) && !registered.contains(&stored.id);
        let dropped: Vec<&StateDescriptor> = checkpoint.states().iter().filter(dropped).collect();
        if dropped.is_empty() {
            return Ok(());
        }
        let states = states_in_words(dropped.iter().copied());
        if !self.is_allowed {
            return Err(StateError::StateDropped { checkpoint: checkpoint.id().0, states });
        }
        tracing::warn!(checkpoint = checkpoint.id().0, %states, ?key_groups, "going on without state that the checkpoint holds");
        for stored in dropped {
            state.forget_pages(checkpoint.pages(stored.id, key_groups).map(|(page, _)| page));
        }
        Ok(())
    }
}

/// States by name, for errors and the log.
pub fn states_in_words<'a>(states: impl Iterator<Item = &'a StateDescriptor>) -> String {
    let names = states.map(|state| format!("\"{}\" of operator \"{}\"", state.name, state.operator));
    names.collect::<Vec<_>>().join(", ")
}
