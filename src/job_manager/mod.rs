//! Who decides? Which job runs where, what happens when something fails, when a job is over.
//!
//! `JobManager` is a step machine: it is told messages and the time, and leaves messages in its outbox. How messages travel (queues
//! between threads, a socket, the simulated network) is the transport's matter.

mod address;
mod checkpoints;
mod job;
mod job_state;
mod lifecycle;
mod manager;
pub mod messages;
mod placing;
mod queue;
mod restart;
#[cfg(test)]
mod scenarios;
mod submission;
mod task_state;

pub use address::{Attempt, JobId, SlotIndex, TaskAddress, TaskManagerId};
pub use job::TaskView;
pub use job_state::JobState;
pub use manager::{JobEvent, JobManager, JobManagerSettings};
pub use queue::{Urgency, by_urgency};
pub use restart::{RestartDecision, RestartPolicy, RestartStrategy};
pub use submission::{JobSubmission, SubmissionError, VertexSubmission};
pub use task_state::TaskState;
