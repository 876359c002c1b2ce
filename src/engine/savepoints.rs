//! The savepoints of one job: asked for, waiting for their checkpoint, being copied.
//!
//! Here: which checkpoint a request is served by, and the answer to the host. Not here: the copying (`checkpoint::SavepointCopy`).
//!
//! A request is served by the first checkpoint triggered after it, so that everything the host saw before it asked is in the savepoint.
//! Copying goes on beside the job; a job that ends meanwhile is reported as ended when its savepoints are complete.

use crate::checkpoint::{CheckpointId, RestoredCheckpoint, Savepoint, SavepointCopy, SavepointError, StoreOptions};
use crate::io::Io;
use crate::memory::Arena;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Why a job took no savepoint.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JobSavepointError {
    /// There is nothing to copy.
    #[error("job \"{job}\" has no checkpoint directory, and a savepoint is a copy of a checkpoint: give it one")]
    NoCheckpoints {
        /// The job.
        job: String,
    },
    /// Its checkpoint failed.
    #[error("no savepoint \"{dir}\" was taken, its checkpoint failed: {reason}")]
    CheckpointFailed {
        /// The directory asked for.
        dir: PathBuf,
        /// Why.
        reason: String,
    },
    /// The job ended, or started anew, before there was a checkpoint.
    #[error("no savepoint \"{dir}\" was taken: {what}")]
    JobGone {
        /// The directory asked for.
        dir: PathBuf,
        /// What became of the job.
        what: &'static str,
    },
    /// It could not be written.
    #[error(transparent)]
    NotWritten(#[from] SavepointError),
}

/// A savepoint that was asked for. Dropping it changes nothing: the savepoint is taken all the same.
#[derive(Clone)]
pub struct PendingSavepoint {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    ended: Mutex<Option<Result<Savepoint, JobSavepointError>>>,
    changed: Condvar,
}

impl PendingSavepoint {
    pub(super) fn new() -> Self {
        Self { shared: Arc::default() }
    }

    /// Blocks until the savepoint is complete and durable, or failed.
    pub fn wait(&self) -> Result<Savepoint, JobSavepointError> {
        let mut ended = self.lock();
        loop {
            match &*ended {
                Some(result) => return result.clone(),
                None => ended = self.shared.changed.wait(ended).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }

    /// Blocks until it has ended or `at_most` is over; `None` while it is under way.
    pub fn wait_for(&self, at_most: Duration) -> Option<Result<Savepoint, JobSavepointError>> {
        let ended = self.shared.changed.wait_timeout_while(self.lock(), at_most, |ended| ended.is_none());
        ended.unwrap_or_else(PoisonError::into_inner).0.clone()
    }

    /// The host hears of the end. The first answer counts.
    pub(super) fn end(&self, result: Result<Savepoint, JobSavepointError>) {
        match &result {
            Ok(savepoint) => tracing::info!(
                "savepoint \"{}\" of checkpoint {} is complete",
                savepoint.dir.display(),
                savepoint.checkpoint
            ),
            Err(error) => tracing::warn!("{error}"),
        }
        self.lock().get_or_insert(result);
        self.shared.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, Option<Result<Savepoint, JobSavepointError>>> {
        self.shared.ended.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A savepoint on its way from the host to the control thread.
pub(super) struct SavepointRequest {
    pub(super) dir: PathBuf,
    pub(super) answer: PendingSavepoint,
}

/// All savepoints of one job.
#[derive(Default)]
pub(super) struct JobSavepoints {
    waiting: Vec<Waiting>,
    copies: Vec<(SavepointCopy, PendingSavepoint)>,
    /// Whether a step would find something to do although the disk has not answered.
    pub(super) is_ready: bool,
}

struct Waiting {
    request: SavepointRequest,
    /// Checkpoints up to this one were triggered before the request.
    after: CheckpointId,
    /// Whether the job was told to stop with it: that it still does after a restart.
    stops: bool,
}

impl JobSavepoints {
    /// Lets a request, of a stop or not, wait for a checkpoint later than `after`.
    pub(super) fn ask(&mut self, request: SavepointRequest, after: CheckpointId, stops: bool) {
        self.waiting.push(Waiting { request, after, stops });
    }

    /// Whether somebody waits for this checkpoint.
    pub(super) fn wait_for(&self, id: CheckpointId) -> bool {
        self.waiting.iter().any(|waiting| waiting.after < id)
    }

    /// The checkpoint that was waited for is durable.
    pub(super) fn begin(
        &mut self,
        io: &mut dyn Io,
        arena: &Arena,
        checkpoint: &Arc<RestoredCheckpoint>,
        options: StoreOptions,
    ) {
        for SavepointRequest { dir, answer } in self.take_waiting(|waiting| waiting.after < checkpoint.id()) {
            match SavepointCopy::start(io, arena, checkpoint.clone(), &dir, options) {
                Ok(copy) => self.copies.push((copy, answer)),
                Err(error) => answer.end(Err(error.into())),
            }
        }
        self.is_ready = true;
    }

    /// The checkpoint that was waited for failed.
    pub(super) fn checkpoint_failed(&mut self, id: CheckpointId, reason: &str) {
        for SavepointRequest { dir, answer } in self.take_waiting(|waiting| waiting.after < id) {
            answer.end(Err(JobSavepointError::CheckpointFailed { dir, reason: reason.to_owned() }));
        }
    }

    /// No checkpoint will come for those who wait.
    pub(super) fn give_up_waiting(&mut self, what: &'static str) {
        for SavepointRequest { dir, answer } in self.take_waiting(|_| true) {
            answer.end(Err(JobSavepointError::JobGone { dir, what }));
        }
    }

    /// What the host saw before it asked may be undone. One the job stops with is taken all the same: it stops at its next checkpoint, and
    /// there is nobody left to ask again.
    pub(super) fn job_restarted(&mut self) {
        let what = "the job was restarted before: ask again";
        for SavepointRequest { dir, answer } in self.take_waiting(|waiting| !waiting.stops) {
            answer.end(Err(JobSavepointError::JobGone { dir, what }));
        }
    }

    /// Goes on with the copies; hands those that are complete to `follow` before the host hears of them.
    pub(super) fn step(&mut self, io: &mut dyn Io, now_ns: u64, mut follow: impl FnMut(&Savepoint)) {
        self.is_ready = !self.copies.is_empty() && io.in_flight() == 0;
        self.copies.retain_mut(|(copy, answer)| match copy.step(io, now_ns) {
            None => true,
            Some(ended) => {
                ended.iter().for_each(&mut follow);
                answer.end(ended.map_err(Into::into));
                false
            }
        });
    }

    /// Whether copies are being written.
    pub(super) fn are_copied(&self) -> bool {
        !self.copies.is_empty()
    }

    /// The control thread ends: what is unfinished is removed, and what is written completed.
    pub(super) fn abandon(&mut self, io: &mut dyn Io) {
        self.give_up_waiting("the engine was stopped");
        for (copy, answer) in self.copies.drain(..) {
            answer.end(copy.abandon(io).map_err(Into::into));
        }
    }

    /// Nobody goes on with any of them.
    pub(super) fn give_up(&mut self, what: &'static str) {
        self.give_up_waiting(what);
        for (copy, answer) in &self.copies {
            answer.end(Err(JobSavepointError::JobGone { dir: copy.dir().to_owned(), what }));
        }
    }

    fn take_waiting(&mut self, is_meant: impl Fn(&Waiting) -> bool) -> Vec<SavepointRequest> {
        self.waiting.extract_if(.., |waiting| is_meant(waiting)).map(|waiting| waiting.request).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restart_refuses_the_savepoints_that_wait_but_for_those_the_job_stops_with() {
        let mut savepoints = JobSavepoints::default();
        let [plain, of_a_stop] = [false, true].map(|stops| {
            let answer = PendingSavepoint::new();
            let request = SavepointRequest { dir: "/savepoint".into(), answer: answer.clone() };
            savepoints.ask(request, CheckpointId(3), stops);
            answer
        });
        savepoints.job_restarted();
        assert!(matches!(plain.wait_for(Duration::ZERO), Some(Err(JobSavepointError::JobGone { .. }))));
        assert_eq!(of_a_stop.wait_for(Duration::ZERO), None);
        assert!(savepoints.wait_for(CheckpointId(4)) && !savepoints.wait_for(CheckpointId(3)));
    }
}
