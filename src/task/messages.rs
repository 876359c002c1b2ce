//! What the control thread tells tasks, and what they report. Both ways are lock-free queues and a doorbell.

use crate::checkpoint::{CheckpointId, PageKey, PieceBlock, SubtaskSnapshot};
use crate::job_manager::{Attempt, TaskAddress};
use crate::operator::OperatorFailure;
use crate::slot::Doorbell;
use crossbeam_queue::{ArrayQueue, SegQueue};
use std::sync::Arc;

/// One attempt to run a task (Flink `ExecutionAttemptID`); reports of former attempts are ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Execution {
    /// Which task.
    pub task: TaskAddress,
    /// Which attempt of its job.
    pub attempt: Attempt,
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
        /// Whether sources send the last watermark before the barrier, so that everything that waits for event time happens.
        drain: bool,
    },
    /// Checkpoint `id` is durable. With `last` the task ends once its sinks have committed.
    Complete {
        /// The checkpoint.
        id: CheckpointId,
        /// Whether the job ends with it.
        last: bool,
    },
    /// Checkpoint `id` was given up: a source that stopped for it goes on.
    Abort {
        /// The checkpoint.
        id: CheckpointId,
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
    Running(Execution),
    /// Everything of this task for a checkpoint was handed over.
    Snapshot(Execution, CheckpointId, Box<SubtaskSnapshot>),
    /// A checkpoint cannot be completed by this task; the task goes on.
    Declined(Execution, CheckpointId, String),
    /// All inputs of the task have ended and everything it had to emit is emitted; it waits for the last checkpoint.
    Draining(Execution),
    /// The task cannot go on.
    Failed(Execution, OperatorFailure),
    /// The task ended after the last checkpoint, its sinks having committed.
    Finished(Execution),
    /// The task ended because it was told to.
    Canceled(Execution),
}

/// Where commands for one task wait.
#[derive(Debug)]
pub struct TaskInbox {
    commands: SegQueue<TaskCommand>,
    doorbell: Arc<Doorbell>,
}

/// Where the tasks of a job put their reports, and the pieces of their states.
#[derive(Clone, Debug)]
pub struct ReportSender {
    reports: Arc<SegQueue<TaskReport>>,
    pieces: Arc<ArrayQueue<PieceBlock>>,
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
    /// A sender into `reports` and, bounded, into `pieces`, ringing `doorbell`.
    pub fn new(
        reports: Arc<SegQueue<TaskReport>>,
        pieces: Arc<ArrayQueue<PieceBlock>>,
        doorbell: Arc<Doorbell>,
    ) -> Self {
        Self { reports, pieces, doorbell }
    }

    /// Leaves a report and wakes the control thread.
    pub fn send(&self, report: TaskReport) {
        self.reports.push(report);
        self.doorbell.ring();
    }

    /// Hands pieces over, or gives them back while the store is behind: the harvest waits then.
    pub fn offer_pieces(&self, block: PieceBlock) -> Result<(), PieceBlock> {
        let offered = self.pieces.push(block);
        self.doorbell.ring();
        offered
    }
}
