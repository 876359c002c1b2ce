//! One running copy of a vertex: its chains, its inputs and its states, stepped by a slot.
//!
//! Here: what a task does in one step, the head of a source chain, what tasks and the control thread say to each other.
//! Not here: the operators (`operator`), which slot steps it (`slot`), who decides (`job_manager`, `checkpoint::coordinator`).

mod input;
mod messages;
mod restoring;
mod snapshotting;
mod source_head;
#[allow(clippy::module_inception, reason = "the folder's main type has the folder's name")]
mod task;

pub use messages::{Execution, ImageRequest, ReportSender, TaskCommand, TaskInbox, TaskReport};
pub use restoring::{Dropping, states_in_words};
pub use source_head::SourceHead;
pub use task::{Deployment, Task};
