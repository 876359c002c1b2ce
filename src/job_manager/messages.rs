//! What the JobManager and a TaskManager say to each other: plain data, no references, every message complete in itself.
//!
//! Messages between two parties arrive in the order sent, or not at all; whoever waits for an answer has a timeout.

use super::{Attempt, JobId, SlotIndex, TaskAddress, TaskManagerId, TaskState};
use crate::checkpoint::{CheckpointId, CheckpointKind};
use crate::operator::OperatorFailure;

/// From a TaskManager (or the checkpoint store beside it) to the JobManager.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToJobManager {
    /// A TaskManager offers its services; it runs no task.
    RegisterTaskManager {
        /// Who.
        task_manager: TaskManagerId,
        /// How many slots it has.
        slot_count: u32,
        /// How much memory its jobs may have together.
        memory_bytes: u64,
    },
    /// A sign of life, every 10 s.
    Heartbeat {
        /// Who.
        task_manager: TaskManagerId,
        /// How busy it is.
        load: LoadReport,
    },
    /// The slots asked for, with the memory, are reserved.
    SlotsOffered {
        /// For this job.
        job: JobId,
        /// And this attempt.
        attempt: Attempt,
        /// The slots, least busy first.
        slots: Vec<SlotIndex>,
    },
    /// They are not.
    SlotsRefused {
        /// For this job.
        job: JobId,
        /// And this attempt.
        attempt: Attempt,
        /// Why, with figures.
        reason: String,
    },
    /// A task changed its state.
    TaskStatus {
        /// Which task.
        task: TaskAddress,
        /// Of which attempt.
        attempt: Attempt,
        /// Its state now.
        state: TaskState,
    },
    /// A task failed, and why. It has ended; no `TaskStatus` follows.
    FailureReport {
        /// Which task.
        task: TaskAddress,
        /// Of which attempt.
        attempt: Attempt,
        /// The operator that failed, and its error or panic in words.
        failure: OperatorFailure,
    },
    /// A task has handed everything of a checkpoint to the store.
    CheckpointAcknowledged {
        /// Which task.
        task: TaskAddress,
        /// Which checkpoint.
        id: CheckpointId,
    },
    /// A task cannot take part in a checkpoint.
    CheckpointDeclined {
        /// Which task.
        task: TaskAddress,
        /// Which checkpoint.
        id: CheckpointId,
        /// Why.
        reason: String,
    },
    /// The store made a checkpoint durable.
    CheckpointCommitted {
        /// Of which job.
        job: JobId,
        /// Which checkpoint.
        id: CheckpointId,
        /// What it added on disk.
        size_bytes: u64,
    },
    /// The store failed to write or commit a checkpoint.
    CheckpointFailed {
        /// Of which job.
        job: JobId,
        /// Which checkpoint.
        id: CheckpointId,
        /// Why.
        reason: String,
    },
}

/// From the JobManager to a TaskManager.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToTaskManager {
    /// Welcome.
    RegistrationAccepted,
    /// Not welcome, and why; ask again later.
    RegistrationRefused {
        /// Why.
        reason: String,
    },
    /// The heartbeat arrived.
    HeartbeatAck,
    /// Reserve slots and memory for a job.
    RequestSlots {
        /// The job.
        job: JobId,
        /// The attempt.
        attempt: Attempt,
        /// How many different slots; they may be shared with other jobs.
        slot_count: u32,
        /// How much memory, for the job as a whole.
        memory_bytes: u64,
    },
    /// Run a task.
    SubmitTask {
        /// Which.
        task: TaskAddress,
        /// Of which attempt.
        attempt: Attempt,
        /// Where.
        slot: SlotIndex,
        /// From which checkpoint; `None`: from nothing.
        restore: Option<CheckpointId>,
    },
    /// Stop a task.
    CancelTask {
        /// Which.
        task: TaskAddress,
        /// Of which attempt.
        attempt: Attempt,
    },
    /// The job needs its slots and memory no more.
    ReleaseSlots {
        /// The job.
        job: JobId,
    },
    /// To the tasks of a job and its store.
    Checkpoint {
        /// The job.
        job: JobId,
        /// Which checkpoint.
        id: CheckpointId,
        /// What to do about it.
        order: CheckpointOrder,
    },
}

/// What is to be done about a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckpointOrder {
    /// Sources: send its barrier; before it, with `drain`, the last watermark.
    Trigger {
        /// Why it is taken.
        kind: CheckpointKind,
        /// Whether the job ends as if its inputs had.
        drain: bool,
    },
    /// Store: all tasks have acknowledged, make it durable.
    Commit,
    /// Tasks: it is durable, publish. After a `Final` one drained tasks finish.
    NotifyComplete(CheckpointKind),
    /// Tasks and store: drop it.
    Abort,
}

/// How busy a TaskManager is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LoadReport {
    /// Per slot, how much of the time since the last report it was busy, in thousandths.
    pub busy_permille: Vec<u16>,
    /// Memory in use, of all jobs together.
    pub memory_used_bytes: u64,
}
