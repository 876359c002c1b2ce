//! The states of a job.
//!
//! ```text
//! Created -> Initializing -> Running -> Finished
//!    ^            |             | \--> Cancelling -> Canceled | Suspended
//!    |            v             v
//!    +------- Restarting <-- Failing -> Failed
//! ```
//! Semantics: Flink JobStatus. Unlike Flink, there is no RECONCILING (a JobManager does not outlive its process), and a job stopped
//! with a final checkpoint ends Suspended, not FINISHED: its input goes on, and the next run continues from that checkpoint.

/// Where a job is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum JobState {
    /// Waits in the queue until it fits.
    Created,
    /// Slots and memory were asked of a TaskManager.
    Initializing,
    /// Its tasks are deployed.
    Running,
    /// A task failed; the others are being cancelled.
    Failing,
    /// All tasks have ended; waits for the restart strategy's delay.
    Restarting,
    /// Its tasks are being cancelled or end behind its last checkpoint, because somebody wants the job to end.
    Cancelling,
    /// Ended: cancelled by request.
    Canceled,
    /// Ended: every input came to its end.
    Finished,
    /// Ended: failed, and the restart strategy gave up.
    Failed,
    /// Ended here: stopped with a final checkpoint, from which another run continues.
    Suspended,
}

impl JobState {
    /// Whether nothing happens to the job any more.
    pub fn has_ended(self) -> bool {
        matches!(self, Self::Canceled | Self::Finished | Self::Failed | Self::Suspended)
    }
}
