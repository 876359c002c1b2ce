//! Giving a task its state back: what must be known as a whole is read, everything else when it is touched.
//!
//! States that a former version of the program wrote with other types are read as a whole and taken over (`state::migrate`).

use crate::checkpoint::{CheckpointId, PieceLoader, RestoreError, RestoredBlobs, RestoredCheckpoint, StateDescriptor};
use crate::io::Io;
use crate::memory::Arena;
use crate::operator::ChainContext;
use crate::slot::Progress;
use crate::state::{KeyGroupRange, StateBackend, StateError};
use std::cell::RefCell;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;

/// How many pieces of states that migrate one step applies at most.
const PIECES_PER_STEP_MAX: usize = 16;
/// How many pages of a former layout one step takes over at most: each of their values goes through a function of the user.
const MIGRATED_PAGES_PER_STEP_MAX: usize = 2;

/// The state of a task that is not yet running.
pub(super) struct Restoring {
    checkpoint: Option<Arc<RestoredCheckpoint>>,
    /// Where pages go that the memory does not hold.
    spill_path: Option<PathBuf>,
    key_groups: KeyGroupRange,
    arena: Arena,
    dropping: Dropping,
    phase: Phase,
    /// Whether the chains were told what the checkpoint remembers.
    pub(super) chains_told: bool,
}

enum Phase {
    /// Nothing is attached yet.
    Beginning,
    /// States that migrate are being read.
    Loading(Box<PieceLoader>),
    /// They are being taken over.
    Migrating,
    /// What must be known before the first record is being read.
    ReadingAhead,
    Complete,
}

/// Why a task's state could not be read back.
#[derive(Debug, thiserror::Error)]
pub(super) enum RestoringError {
    #[error(transparent)]
    Checkpoint(#[from] RestoreError),
    #[error(transparent)]
    State(#[from] StateError),
}

impl RestoringError {
    /// Whether another try would end the same way: what is stored and what the program asks for do not go together.
    pub(super) fn is_permanent(&self) -> bool {
        match self {
            Self::Checkpoint(_) => false,
            Self::State(error) => matches!(
                error,
                StateError::LayoutDiffers { .. }
                    | StateError::UnknownLayout { .. }
                    | StateError::MigrationFailed { .. }
                    | StateError::StateDropped { .. }
            ),
        }
    }
}

impl Restoring {
    pub(super) fn new(
        checkpoint: Option<Arc<RestoredCheckpoint>>,
        spill_path: Option<PathBuf>,
        state: &Rc<RefCell<StateBackend>>,
        key_groups: KeyGroupRange,
        arena: Arena,
        dropping: Dropping,
    ) -> Self {
        let has_state = !state.borrow().descriptors().is_empty() || !dropping.answers_for.is_empty();
        let phase = if has_state { Phase::Beginning } else { Phase::Complete };
        Self { checkpoint, spill_path, key_groups, arena, dropping, phase, chains_told: false }
    }

    pub(super) fn is_state_complete(&self) -> bool {
        matches!(self.phase, Phase::Complete)
    }

    pub(super) fn checkpoint_id(&self) -> CheckpointId {
        self.checkpoint.as_ref().map_or(CheckpointId::default(), |checkpoint| checkpoint.id())
    }

    pub(super) fn blobs(&self) -> RestoredBlobs {
        RestoredBlobs::new(self.checkpoint.as_ref().map_or(Vec::new(), |checkpoint| checkpoint.all_blobs().to_vec()))
    }

    /// Gives up what is being read.
    pub(super) fn close(&mut self, io: &mut dyn Io) {
        if let Phase::Loading(loader) = std::mem::replace(&mut self.phase, Phase::Complete) {
            loader.close(io);
        }
    }

    /// Attaches the state to what it is read from, and reads what must be known as a whole.
    pub(super) fn step(
        &mut self,
        cx: &mut ChainContext<'_>,
        state: &Rc<RefCell<StateBackend>>,
    ) -> Result<Progress, RestoringError> {
        let mut state = state.borrow_mut();
        match &mut self.phase {
            Phase::Beginning => {
                self.phase = self.attach(cx, &mut state)?;
                Ok(Progress::Worked)
            }
            Phase::Loading(loader) => {
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
                    self.phase = Phase::Migrating;
                    worked = true;
                }
                Ok(if worked { Progress::Worked } else { Progress::Idle })
            }
            Phase::Migrating => {
                state.migrate(MIGRATED_PAGES_PER_STEP_MAX)?;
                if !state.is_migrating() {
                    self.phase = Phase::ReadingAhead;
                }
                Ok(Progress::Worked)
            }
            Phase::ReadingAhead => {
                let is_complete = state.read_ahead()?;
                if is_complete {
                    self.phase = Phase::Complete;
                }
                Ok(if is_complete { Progress::Worked } else { Progress::Idle })
            }
            Phase::Complete => Ok(Progress::Idle),
        }
    }

    fn attach(&mut self, cx: &mut ChainContext<'_>, state: &mut StateBackend) -> Result<Phase, RestoringError> {
        let io = cx.io.shared().expect("a slot's I/O is shared with the state of its tasks");
        let mut next = Phase::ReadingAhead;
        if let Some(checkpoint) = &self.checkpoint {
            self.dropping.check(cx.io, &self.arena, state, checkpoint, self.key_groups)?;
            state.prepare_restore(checkpoint.states())?;
            if state.is_migrating() {
                let mut loader = PieceLoader::new(checkpoint.clone(), self.arena.clone());
                for id in state.migrating_ids() {
                    let index = checkpoint.index(cx.io, &self.arena, id, self.key_groups)?;
                    index.pages(id, self.key_groups).for_each(|(page, chain)| loader.request(page, chain));
                }
                next = Phase::Loading(Box::new(loader));
            }
        }
        state.attach(io, self.checkpoint.clone(), self.spill_path.take());
        Ok(next)
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
        io: &mut dyn Io,
        arena: &Arena,
        state: &mut StateBackend,
        checkpoint: &RestoredCheckpoint,
        key_groups: KeyGroupRange,
    ) -> Result<(), RestoringError> {
        let registered: Vec<u64> = state.descriptors().iter().map(|descriptor| descriptor.id).collect();
        let dropped =
            |stored: &&StateDescriptor| self.answers_for.contains(&stored.id) && !registered.contains(&stored.id);
        let dropped: Vec<&StateDescriptor> = checkpoint.states().iter().filter(dropped).collect();
        if dropped.is_empty() {
            return Ok(());
        }
        let states = states_in_words(dropped.iter().copied());
        if !self.is_allowed {
            return Err(StateError::StateDropped { checkpoint: checkpoint.id().0, states }.into());
        }
        tracing::warn!(checkpoint = checkpoint.id().0, %states, ?key_groups, "going on without state that the checkpoint holds");
        for stored in dropped {
            let index = checkpoint.index(io, arena, stored.id, key_groups)?;
            state.forget_pages(index.pages(stored.id, key_groups).map(|(page, _)| page));
        }
        Ok(())
    }
}

/// States by name, for errors and the log.
pub fn states_in_words<'a>(states: impl Iterator<Item = &'a StateDescriptor>) -> String {
    let names = states.map(|state| format!("\"{}\" of operator \"{}\"", state.name, state.operator));
    names.collect::<Vec<_>>().join(", ")
}
