//! Where else are checkpoints kept? Copies in an object store, made beside the job, and how a fresh machine starts from them.
//!
//! ```text
//! PREFIX/parts/extent-NNNNNN.ms-OFFSET-LENGTH-CHECKSUM   a MiB of an extent; its name says what it holds, so it is never overwritten
//! PREFIX/checkpoint-NNNNNNNNNNNNNNNNNNNN                 the index of one checkpoint, put last and only if there is none yet
//! PREFIX/savepoints/NAME/...                             the same again for a savepoint, by the name of its directory
//! ```
//! Here: [`RemoteCopies`] follows a job's checkpoints with a thread of its own, [`RemoteCopies::download`] makes a directory of a copy.
//! Not here: which bytes make up a checkpoint (`checkpoint::CommittedFiles`).
//!
//! Invariants: an index is put when all its parts are there, so a checkpoint is in the store as a whole or not at all. Nothing that an
//! index in the store names is removed before that index. A store that cannot be reached costs copies, never the job.

mod address;
mod copies;
mod download;
mod error;
mod index;
mod local;
mod upload;

pub use copies::{RemoteCopies, RemoteFigures};
pub use error::RemoteError;
