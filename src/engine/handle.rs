//! A host's hold on one job.

use super::control::{ControlCommand, ControlSender};
use super::host::{JobShared, JobStatus};
use super::savepoints::{PendingSavepoint, SavepointRequest};
use crate::job_manager::{JobId, JobState};
use crate::metrics::{LatencySummary, Sample};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// A submitted job. Dropping it changes nothing: the job runs on.
#[derive(Clone)]
pub struct JobHandle {
    pub(super) job: JobId,
    pub(super) name: String,
    pub(super) shared: Arc<JobShared>,
    pub(super) control: ControlSender,
}

/// How a job ended well.
#[derive(Clone, Debug)]
pub struct JobOutcome {
    /// `Finished` (all inputs ended), `Suspended` (stopped with a checkpoint) or `Canceled`.
    pub state: JobState,
    /// Its last status.
    pub status: JobStatus,
}

/// How a job ended badly.
#[derive(Clone, Debug, thiserror::Error)]
pub enum JobError {
    /// It failed, and its restart strategy gave up.
    #[error("job \"{job}\" failed: {reason}")]
    Failed {
        /// The job.
        job: String,
        /// The last failure.
        reason: String,
    },
}

impl JobHandle {
    /// The job's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Blocks until the job has ended.
    pub fn wait(&self) -> Result<JobOutcome, JobError> {
        let status = self.shared.wait_ended(None).expect("without a time limit the wait ends with the job");
        self.outcome(status)
    }

    /// Blocks until the job has ended or `at_most` is over; `None` when it still runs.
    pub fn wait_for(&self, at_most: Duration) -> Option<Result<JobOutcome, JobError>> {
        self.shared.wait_ended(Some(at_most)).map(|status| self.outcome(status))
    }

    /// Whether the job has ended, well or badly. `wait_for` says how.
    pub fn has_ended(&self) -> bool {
        self.shared.has_ended()
    }

    /// Takes a final checkpoint and ends the job when it is durable; another run continues from it. Does not wait.
    pub fn stop(&self) {
        self.control.send(ControlCommand::Stop { job: self.job, drain: false, savepoint: None });
    }

    /// Takes a savepoint: a copy of the job's next checkpoint, which is begun now, in the directory `dir`, which must not exist. The
    /// job goes on meanwhile. Does not wait; ask the answer.
    pub fn savepoint(&self, dir: impl Into<PathBuf>) -> PendingSavepoint {
        let (request, answer) = asked(dir);
        self.control.send(ControlCommand::Savepoint { job: self.job, request });
        answer
    }

    /// Stops the job with a final checkpoint and copies that into the directory `dir`, which must not exist. With `drain` the job
    /// ends as if its inputs had: every window and every timer fires first, which only makes sense for a job that is not meant to
    /// go on (Flink `stop --drain`). The job has ended for the host when the savepoint has. Does not wait.
    pub fn stop_with_savepoint(&self, dir: impl Into<PathBuf>, drain: bool) -> PendingSavepoint {
        let (request, answer) = asked(dir);
        self.control.send(ControlCommand::Stop { job: self.job, drain, savepoint: Some(request) });
        answer
    }

    /// Ends the job at once, losing what was not checkpointed. Does not wait.
    pub fn cancel(&self) {
        self.control.send(ControlCommand::Cancel(self.job));
    }

    /// The job's state and figures, at most a fifth of a second old.
    pub fn status(&self) -> JobStatus {
        self.shared.status()
    }

    /// Every counter and latency of the job, by operator and subtask.
    pub fn metrics(&self) -> Vec<Sample> {
        self.shared.metrics.snapshot()
    }

    /// The latencies one sink has seen, all its subtasks together.
    pub fn sink_latency(&self, sink: &str) -> LatencySummary {
        self.shared.metrics.sink_latency(&self.name, sink)
    }

    fn outcome(&self, status: JobStatus) -> Result<JobOutcome, JobError> {
        match status.state {
            JobState::Failed => Err(JobError::Failed {
                job: self.name.clone(),
                reason: status.reason.unwrap_or_else(|| "for a reason nobody gave".to_owned()),
            }),
            state => Ok(JobOutcome { state, status }),
        }
    }
}

fn asked(dir: impl Into<PathBuf>) -> (SavepointRequest, PendingSavepoint) {
    let answer = PendingSavepoint::new();
    (SavepointRequest { dir: dir.into(), answer: answer.clone() }, answer)
}
