//! What a host may say about a job when it submits it, and why a job is refused.

use crate::checkpoint::{CheckpointFollower, CheckpointId, RestoreError, StoreOptions};
use crate::graph::GraphError;
use crate::job_manager::{RestartPolicy, SubmissionError};
use crate::source::SourceError;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// How a job runs. `JobOptions::default()` is a job without checkpoints on all slots.
#[derive(Clone, Debug)]
pub struct JobOptions {
    /// How many subtasks each vertex has; `None`: one per slot.
    pub parallelism: Option<u32>,
    /// How many key groups keyed state is cut into; `None`: what the checkpoint holds, or Flink's default for the parallelism.
    pub max_parallelism: Option<u16>,
    /// How much memory the job may use; `None`: a quarter of the engine's, at least 64 MiB if the engine has so much.
    pub memory_bytes: Option<usize>,
    /// Jobs with a larger priority go first, on the slots and in the queue. Those below a busy one get every sixteenth turn of
    /// their slot.
    pub priority: u8,
    /// How jobs of one priority share the cores: each busy task on a slot gets time in proportion to the weight of its job. At most 65,535
    /// counts there.
    pub weight: u32,
    /// How long the job will run; short jobs leave the queue first. `None`: for ever.
    pub expected_run_ms: Option<u64>,
    /// What happens when it fails.
    pub restart: RestartPolicy,
    /// Where and how often its state is made durable; `None`: never, and a restart begins from nothing.
    pub checkpoints: Option<CheckpointOptions>,
    /// Start from this savepoint instead of from nothing.
    pub from_savepoint: Option<FromSavepoint>,
}

/// The savepoint, or other checkpoint directory, that a job starts from. It is only read: it may lie on a read-only medium, and must
/// stay until the job has read its state.
#[derive(Clone, Debug)]
pub struct FromSavepoint {
    /// The directory.
    pub dir: PathBuf,
    /// Whether it may have been taken from a job of another name.
    pub of_any_job: bool,
}

/// Where and how often checkpoints are taken.
#[derive(Clone, Debug)]
pub struct CheckpointOptions {
    /// The state directory; it belongs to one job name.
    pub dir: PathBuf,
    /// Between two checkpoints, at least 5 ms.
    pub interval: Duration,
    /// How many are kept, at least 2.
    pub retained: usize,
    /// Whether the job may start from a checkpoint that holds state which the program does not use any more. That state is then left out of
    /// the next checkpoints.
    pub allow_dropped_state: bool,
    /// Who carries them elsewhere.
    pub follower: Option<Arc<dyn CheckpointFollower>>,
}

impl Default for JobOptions {
    fn default() -> Self {
        Self {
            parallelism: None,
            max_parallelism: None,
            memory_bytes: None,
            priority: 0,
            weight: 1,
            expected_run_ms: None,
            restart: RestartPolicy::default(),
            checkpoints: None,
            from_savepoint: None,
        }
    }
}

impl FromSavepoint {
    /// The savepoint of a job of the same name.
    pub fn in_dir(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into(), of_any_job: false }
    }

    /// The same, of a job of any name.
    pub fn of_any_job(self) -> Self {
        Self { of_any_job: true, ..self }
    }
}

impl CheckpointOptions {
    /// A checkpoint into `dir` every `interval`, three of them kept.
    pub fn every(dir: impl Into<PathBuf>, interval: Duration) -> Self {
        let retained = StoreOptions::default().retained_count;
        Self { dir: dir.into(), interval, retained, allow_dropped_state: false, follower: None }
    }
}

/// Why a job is not accepted. Nothing of its state was touched.
#[derive(Debug, thiserror::Error)]
pub enum SubmitError {
    /// The program is not a job.
    #[error(transparent)]
    Graph(#[from] GraphError),
    /// The control plane refused it.
    #[error(transparent)]
    Refused(#[from] SubmissionError),
    /// Its state cannot be restored.
    #[error(transparent)]
    Restore(#[from] RestoreError),
    /// The job has gone on since that savepoint.
    #[error(
        "\"{dir}\" holds checkpoint {held} already, so savepoint \"{savepoint}\" is not read: leave the savepoint out to go on from there, or give an empty checkpoint directory to start from the savepoint"
    )]
    SavepointNotNeeded {
        /// The checkpoint directory.
        dir: PathBuf,
        /// Its newest checkpoint.
        held: CheckpointId,
        /// The savepoint that was asked for.
        savepoint: PathBuf,
    },
    /// A source cannot list its splits.
    #[error("source \"{source_name}\": {error}")]
    Source {
        /// Which source.
        source_name: String,
        /// Why.
        error: SourceError,
    },
    /// The checkpoint is cut differently.
    #[error(
        "the checkpoint of job \"{job}\" holds {stored} key groups, the job asks for {asked}: set max_parallelism to {stored}"
    )]
    KeyGroupsDiffer {
        /// The job.
        job: String,
        /// In the checkpoint.
        stored: u16,
        /// In the options.
        asked: u16,
    },
    /// The checkpoint holds state of operators that the program does not have.
    #[error(
        "checkpoint {checkpoint} of job \"{job}\" holds state that the program does not use: {states}; give the operators their former names, \
         or allow dropped state (`--allow-dropped-state`) to go on without it"
    )]
    StateDropped {
        /// The job.
        job: String,
        /// The checkpoint.
        checkpoint: u64,
        /// Which states: `"state" of operator "name", ...`.
        states: String,
    },
    /// Not even the channels between the tasks fit.
    #[error(
        "job \"{job}\" needs at least {needed_bytes} bytes of memory for {channels} channels, pages and buffers, it was given {given_bytes}: raise its memory or lower its parallelism"
    )]
    MemoryTooSmall {
        /// The job.
        job: String,
        /// What it needs before the first record.
        needed_bytes: usize,
        /// How many channels it has.
        channels: usize,
        /// What the options allow.
        given_bytes: usize,
    },
    /// The engine was stopped.
    #[error("the engine was stopped: start another one")]
    EngineStopped,
}
