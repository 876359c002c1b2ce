//! Where do records come from? Sources are cut into splits; a split is the unit of position, of order and of event time.
//!
//! Here: the traits every source implements, and the sources. Not here: assigning splits to subtasks and clocks to splits (`task`).
//! Semantics: Flink FLIP-27 (`Source`, `SourceReader`, splits).

mod reader;

pub use reader::{ReadContext, ReadStatus, Source, SourceError, SplitReader};
