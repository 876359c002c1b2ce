//! What happens to a record? One operator per file; each is a stage of a chain that calls the next stage directly.
//!
//! Here: the stage trait, what stages are told besides records, and the operators. Not here: where records come from and go
//! (`source`, `exchange`, `sink`), who steps a chain (`task`).
//!
//! Architecture invariant: an operator never sees a segment or a channel.

mod stage;

pub use stage::{ChainContext, Flow, OperatorFailure, Restored, Signal, SnapshotBuilder, Stage};
