//! What the control thread tells tasks, and what they report. Both ways are lock-free queues and a doorbell.

use crate::checkpoint::{CheckpointId, PageKey, PieceBlock, SubtaskSnapshot};
use crate::operator::OperatorFailure;
use crate::slot::Doorbell;
use crossbeam_queue::SegQueue;
use std::sync::Arc;

/// Which task: a subtask of a vertex of a job, in one attempt to run the job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TaskId {
    /// The job's number within the engine.
    pub job: u64,
    /// How often the job was started before; reports of former attempts are ignored.
    pub attempt: u32,
    /// The vertex's index in the job graph.
    pub vertex: u32,
    /// The subtask's index.
    pub subtask: u32,
}

/// From the control thread to a task.
#[derive(Clone, Debug)]
pub enum TaskCommand {
    /// Checkpoint `id` begins. A source sends its barrier; other tasks note which images the store wants and wait for theirs.
    Trigger {
        /// The checkpoint.
        id: CheckpointId,
        /// Pages the store wants as whole images.
        images: ImageRequest,
        /// Whether sources stop reading at the barrier: the job ends with this checkpoint.
        stop: bool,
    },
    /// Checkpoint `id` is durable. With `last` the task ends once its sinks have committed.
    Complete {
        /// The checkpoint.
        id: CheckpointId,
        /// Whether the job ends with it.
        last: bool,
    },
    /// Stop at once, losing what was not checkpointed.
    Cancel,
}

/// Which pages the next checkpoint must hold as whole images instead of changes.
#[derive(Clone, Debug, Default)]
pub enum ImageRequest {
    /// Only those the state itself decides on.
    #[default]
    None,
    /// These as well.
    Pages(Arc<[PageKey]>),
    /// All: the store has nothing to build on.
    All,
}

/// From a task to the control thread.
#[derive(Debug)]
pub enum TaskReport {
    /// State is restored, sinks are ready; records flow from now on.
    Running(TaskId),
    /// Pieces of state for the running checkpoint.
    Pieces(TaskId, PieceBlock),
    /// Everything of this task for a checkpoint was handed over.
    Snapshot(TaskId, CheckpointId, Box<SubtaskSnapshot>),
    /// A checkpoint cannot be completed by this task; the task goes on.
    Declined(TaskId, CheckpointId, String),
    /// A source has read all its splits to their ends.
    InputEnded(TaskId),
    /// The task cannot go on.
    Failed(TaskId, OperatorFailure),
    /// The task ended, after the last checkpoint or a cancellation.
    Ended(TaskId),
}

/// Where commands for one task wait.
#[derive(Debug)]
pub struct TaskInbox {
    commands: SegQueue<TaskCommand>,
    doorbell: Arc<Doorbell>,
}

/// Where all tasks of an engine put their reports.
#[derive(Clone, Debug)]
pub struct ReportSender {
    reports: Arc<SegQueue<TaskReport>>,
    doorbell: Arc<Doorbell>,
}

impl TaskInbox {
    /// An empty inbox of a task on the slot with this doorbell.
    pub fn new(doorbell: Arc<Doorbell>) -> Self {
        Self { commands: SegQueue::new(), doorbell }
    }

    /// Leaves a command and wakes the slot.
    pub fn send(&self, command: TaskCommand) {
        self.commands.push(command);
        self.doorbell.ring();
    }

    /// The oldest command.
    pub fn take(&self) -> Option<TaskCommand> {
        self.commands.pop()
    }
}

impl ReportSender {
    /// A sender into `reports`, ringing `doorbell`.
    pub fn new(reports: Arc<SegQueue<TaskReport>>, doorbell: Arc<Doorbell>) -> Self {
        Self { reports, doorbell }
    }

    /// Leaves a report and wakes the control thread.
    pub fn send(&self, report: TaskReport) {
        self.reports.push(report);
        self.doorbell.ring();
    }
}
