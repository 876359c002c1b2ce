//! What is a job as data? Vertices (operator chains that run as one task per subtask), the edges between them, and their names.
//!
//! Here: the graph, its validation, what a chain is built with on its slot. Not here: how a program writes a job (`stream`).

mod build;
mod job_graph;

pub use build::{BuildContext, BuildError, BuiltChain, ChainFactory, ChainRoot, EdgeRoot, SourceRoot, SourceStep};
pub use job_graph::{Edge, EdgeId, GraphError, JobGraph, Partitioning, SplitLister, Vertex, VertexId, VertexInput};
