//! Giving a task its state back: what must be known as a whole is read, everything else when it is touched.

use crate::checkpoint::{CheckpointId, RestoredBlobs, RestoredCheckpoint};
use crate::operator::ChainContext;
use crate::slot::Progress;
use crate::state::{StateBackend, StateError, check_compatible};
use std::cell::RefCell;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;

/// The state of a task that is not yet running.
pub(super) struct Restoring {
    checkpoint: Option<Arc<RestoredCheckpoint>>,
    /// Where pages go that the memory does not hold.
    spill_path: Option<PathBuf>,
    is_attached: bool,
    state_complete: bool,
    /// Whether the chains were told what the checkpoint remembers.
    pub(super) chains_told: bool,
}

impl Restoring {
    pub(super) fn new(
        checkpoint: Option<Arc<RestoredCheckpoint>>,
        spill_path: Option<PathBuf>,
        state: &Rc<RefCell<StateBackend>>,
    ) -> Self {
        let state_complete = state.borrow().descriptors().is_empty();
        Self { checkpoint, spill_path, is_attached: false, state_complete, chains_told: false }
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

    /// Attaches the state to what it is read from, and reads what must be known as a whole.
    pub(super) fn step(
        &mut self,
        cx: &mut ChainContext<'_>,
        state: &Rc<RefCell<StateBackend>>,
    ) -> Result<Progress, StateError> {
        let mut state = state.borrow_mut();
        if !self.is_attached {
            if let Some(checkpoint) = &self.checkpoint {
                check_states(&state, checkpoint)?;
            }
            let io = cx.io.shared().expect("a slot's I/O is shared with the state of its tasks");
            state.attach(io, self.checkpoint.clone(), self.spill_path.take());
            self.is_attached = true;
        }
        self.state_complete = state.read_ahead()?;
        Ok(if self.state_complete { Progress::Worked } else { Progress::Idle })
    }
}

/// Every state the task registers must be stored as it is registered, or not at all.
fn check_states(state: &StateBackend, checkpoint: &RestoredCheckpoint) -> Result<(), StateError> {
    state.descriptors().iter().try_for_each(|asked| {
        let stored = checkpoint.states().iter().find(|stored| stored.id == asked.id);
        stored.map_or(Ok(()), |stored| check_compatible(stored, asked))
    })
}
