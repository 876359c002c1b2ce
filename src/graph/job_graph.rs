//! The job graph: vertices, edges, names; checked before anything runs.

use super::ChainFactory;
use crate::io::Io;
use crate::record::RecordShape;
use crate::source::SourceError;
use crate::state::MAX_PARALLELISM_MAX;
use std::collections::HashSet;
use std::sync::Arc;

/// The index of a vertex in its graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VertexId(pub usize);

/// The index of an edge in its graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EdgeId(pub usize);

/// How the records of an edge find their subtask (Flink `StreamPartitioner`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Partitioning {
    /// Subtask i to subtask i.
    Forward,
    /// By the key group of the record's key.
    Hash,
    /// In turn to every subtask.
    Rebalance,
    /// Every record to every subtask.
    Broadcast,
}

/// Names the splits of a source when the job starts.
pub type SplitLister = Arc<dyn Fn(&mut dyn Io) -> Result<Vec<String>, SourceError> + Send + Sync>;

/// Where the records of a vertex come from.
#[derive(Clone)]
pub enum VertexInput {
    /// From outside, split by split.
    Source(SplitLister),
    /// From other vertices.
    Edges,
}

/// One or more chains that share an input and run as one task per subtask (Flink `JobVertex`).
#[derive(Clone)]
pub struct Vertex {
    /// The name of the source or edge at its head.
    pub name: String,
    /// Where its records come from.
    pub input: VertexInput,
    /// The chains; each builds itself once per subtask, on the slot.
    pub chains: Vec<ChainFactory>,
}

/// A connection between two vertices.
#[derive(Clone, Debug)]
pub struct Edge {
    /// The sending vertex.
    pub from: VertexId,
    /// The receiving vertex.
    pub to: VertexId,
    /// How records choose the receiving subtask.
    pub partitioning: Partitioning,
    /// How records lie in the edge's segments.
    pub shape: RecordShape,
}

/// A job as data: what the JobManager schedules and the slots build.
#[derive(Clone, Default)]
pub struct JobGraph {
    /// The job's name; its state directory belongs to this name.
    pub name: String,
    /// The vertices; edges go from lower to higher indices.
    pub vertices: Vec<Vertex>,
    /// The edges.
    pub edges: Vec<Edge>,
    /// The names of sources, stateful operators and sinks; unique.
    pub operators: Vec<String>,
    /// The operators with keyed state, and the vertex each runs in.
    pub keyed_operators: Vec<(String, VertexId)>,
}

/// Why a job cannot run as it is written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GraphError {
    /// Two operators share a name.
    #[error("job \"{job}\" has two operators named \"{operator}\": state is found by name, so give each its own")]
    NameTaken {
        /// The job.
        job: String,
        /// The name used twice.
        operator: String,
    },
    /// A name that is no name.
    #[error("job \"{job}\" has an operator with the name {operator:?}: use 1 to 128 characters, no control characters")]
    BadName {
        /// The job.
        job: String,
        /// The name.
        operator: String,
    },
    /// Nothing to do.
    #[error("job \"{job}\" has no source: add one with `Job::source`")]
    NoSource {
        /// The job.
        job: String,
    },
    /// A stream nobody consumes.
    #[error("job \"{job}\": the records of \"{vertex}\" go nowhere: end the stream in a sink")]
    DeadEnd {
        /// The job.
        job: String,
        /// The vertex without a chain.
        vertex: String,
    },
    /// More subtasks than key groups, or more key groups than there can be.
    #[error(
        "job \"{job}\" asks for {parallelism} slots and has {max_parallelism} key groups: use 1 to {max_parallelism} slots"
    )]
    Parallelism {
        /// The job.
        job: String,
        /// The asked parallelism.
        parallelism: u32,
        /// The number of key groups.
        max_parallelism: u16,
    },
}

impl JobGraph {
    /// Checks everything that can be checked before the job runs.
    pub fn validate(&self, parallelism: u32, max_parallelism: u16) -> Result<(), GraphError> {
        let job = || self.name.clone();
        let mut seen = HashSet::new();
        for name in &self.operators {
            if name.is_empty() || name.chars().count() > 128 || name.chars().any(char::is_control) {
                return Err(GraphError::BadName { job: job(), operator: name.clone() });
            }
            if !seen.insert(name) {
                return Err(GraphError::NameTaken { job: job(), operator: name.clone() });
            }
        }
        if !self.vertices.iter().any(|vertex| matches!(vertex.input, VertexInput::Source(_))) {
            return Err(GraphError::NoSource { job: job() });
        }
        if let Some(dead) = self.vertices.iter().find(|vertex| vertex.chains.is_empty()) {
            return Err(GraphError::DeadEnd { job: job(), vertex: dead.name.clone() });
        }
        if parallelism == 0 || parallelism > u32::from(max_parallelism) || max_parallelism > MAX_PARALLELISM_MAX {
            return Err(GraphError::Parallelism { job: job(), parallelism, max_parallelism });
        }
        Ok(())
    }

    /// The edges that leave `vertex`.
    pub fn outputs(&self, vertex: VertexId) -> impl Iterator<Item = (EdgeId, &Edge)> {
        self.numbered_edges().filter(move |(_, edge)| edge.from == vertex)
    }

    /// The edges that enter `vertex`.
    pub fn inputs(&self, vertex: VertexId) -> impl Iterator<Item = (EdgeId, &Edge)> {
        self.numbered_edges().filter(move |(_, edge)| edge.to == vertex)
    }

    fn numbered_edges(&self) -> impl Iterator<Item = (EdgeId, &Edge)> {
        self.edges.iter().enumerate().map(|(index, edge)| (EdgeId(index), edge))
    }
}
