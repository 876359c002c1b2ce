//! Where do records go? Sinks, some of them in two phases so that output appears exactly once.
//!
//! Here: the traits every sink implements, and the sinks. Not here: when a checkpoint happens (`checkpoint`).
//! Semantics: Flink Sink V2 (`SinkWriter`, `Committer`).

mod writer;

pub use writer::{Sink, SinkContext, SinkError, SinkWriter};
