//! Which threads drive the machines? The engine: one thread per slot, one control thread, and handles for the host.
//!
//! Here: starting and stopping threads, carrying messages between JobManager, TaskManager, slots and checkpoint stores, deploying
//! tasks. Not here: any decision (`job_manager`, `task_manager`, `checkpoint`) or any record (`slot`, `task`).

mod builder;
mod control;
mod deploy;
mod handle;
mod host;
mod job_runtime;
mod local;
mod options;
mod savepoints;
mod stepped;

pub use builder::{Engine, EngineBuilder, EngineError};
pub use handle::{JobError, JobHandle, JobOutcome};
pub use host::{CheckpointFigures, JobStatus};
pub use local::LocalEngine;
pub use options::{CheckpointOptions, FromSavepoint, JobOptions, SubmitError};
pub use savepoints::{JobSavepointError, PendingSavepoint};
pub(crate) use stepped::SteppedEngine;
