//! A job as a program writes it.

use super::call_stream::CallStream;
use super::chain::Chain;
use super::data_stream::DataStream;
use crate::graph::{
    BuildContext, BuildError, BuiltChain, Edge, EdgeId, JobGraph, Partitioning, Vertex, VertexId, VertexInput,
};
use crate::operator::Stage;
use crate::record::{ByRef, ByValue, FixedKey, Key, RecordShape};
use crate::source::Source;
use crate::task::SourceHead;
use crate::time::{EventTimeMs, Watermarks};
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

/// A job: sources, operators and sinks with names. Its state belongs to its name.
///
/// ```
/// use millstream::sink::Collect;
/// use millstream::source::VecSource;
/// use millstream::stream::Job;
///
/// let job = Job::new("evens");
/// let evens = Collect::immediate();
/// job.source("numbers", VecSource::new(vec![vec![1u64, 2, 3, 4]]))
///     .ingestion_time()
///     .filter(|n| n % 2 == 0)
///     .sink("evens", evens.clone());
/// ```
pub struct Job {
    graph: GraphCell,
}

/// A source whose records have no event time yet.
#[must_use = "a stream does nothing until it ends in a sink"]
pub struct SourceStream<S> {
    graph: GraphCell,
    vertex: VertexId,
    name: Arc<str>,
    source: S,
}

impl Job {
    /// A job that does nothing yet.
    pub fn new(name: &str) -> Self {
        let graph = JobGraph { name: name.to_owned(), ..JobGraph::default() };
        Self { graph: GraphCell(Rc::new(RefCell::new(graph))) }
    }

    /// Reads a source; its splits are spread over the subtasks.
    pub fn source<S: Source>(&self, name: &str, source: S) -> SourceStream<S> {
        let lister = source.clone();
        let vertex = self.graph.add(Vertex {
            name: name.to_owned(),
            input: VertexInput::Source(Arc::new(move |io| lister.splits(io))),
            chains: Vec::new(),
        });
        SourceStream { graph: self.graph.clone(), vertex, name: name.into(), source }
    }

    /// Takes calls from the host's threads, each answered with state of its key: see [`CallStream::answer`]. How long they took, from being made
    /// until the reply was shown, is among the metrics under this name (`JobHandle::sink_latency`).
    pub fn calls<E, K, F>(&self, name: &str, key: F) -> CallStream<E, ByValue<F, K>, fn(&E) -> EventTimeMs>
    where
        K: FixedKey,
        F: Fn(&E) -> K + Clone + Send + Sync + 'static,
    {
        self.calls_by(name, ByValue::new(key))
    }

    /// As `calls`, by a key that lies in the event and varies in length: a string or bytes.
    pub fn calls_by_ref<E, K, F>(&self, name: &str, key: F) -> CallStream<E, ByRef<F, K>, fn(&E) -> EventTimeMs>
    where
        K: Key + ?Sized,
        F: Fn(&E) -> &K + Clone + Send + Sync + 'static,
    {
        self.calls_by(name, ByRef::new(key))
    }

    fn calls_by<E, S>(&self, name: &str, selector: S) -> CallStream<E, S, fn(&E) -> EventTimeMs> {
        // Calls have no splits of their own: every subtask answers those of its key groups.
        let input = VertexInput::Source(Arc::new(|_| Ok(Vec::new())));
        let vertex = self.graph.add(Vertex { name: name.to_owned(), input, chains: Vec::new() });
        CallStream::new(self.graph.clone(), vertex, name, selector)
    }

    /// The job as data.
    pub fn into_graph(self) -> JobGraph {
        self.graph.0.take()
    }
}

impl<S: Source> SourceStream<S> {
    /// Says where a record's event time is, and how far behind the latest one the clock runs. Both are per split.
    pub fn event_time<F>(self, at: F, watermarks: Watermarks) -> DataStream<SourceChain<S, F>>
    where
        F: Fn(&S::Record) -> EventTimeMs + Clone + Send + Sync + 'static,
    {
        let chain = SourceChain { name: self.name, source: self.source, at: Timestamps::OfRecord(at), watermarks };
        DataStream { graph: self.graph, vertex: self.vertex, chain }
    }

    /// Stamps every record with the wall clock when it is read (Flink `WatermarkStrategy` over ingestion time). Results then
    /// depend on when the job runs.
    pub fn ingestion_time(self) -> DataStream<SourceChain<S, fn(&S::Record) -> EventTimeMs>> {
        let watermarks = Watermarks::monotonous();
        let chain = SourceChain { name: self.name, source: self.source, at: Timestamps::WhenRead, watermarks };
        DataStream { graph: self.graph, vertex: self.vertex, chain }
    }
}

/// Where a source's records get their event time from.
#[derive(Clone)]
pub enum Timestamps<F> {
    /// From the record.
    OfRecord(F),
    /// From the wall clock.
    WhenRead,
}

/// A chain that begins at a source.
#[derive(Clone)]
pub struct SourceChain<S, F> {
    name: Arc<str>,
    source: S,
    at: Timestamps<F>,
    watermarks: Watermarks,
}

impl<S, F> Chain for SourceChain<S, F>
where
    S: Source,
    F: Fn(&S::Record) -> EventTimeMs + Clone + Send + Sync + 'static,
{
    type Out = S::Record;

    fn build<N: Stage<S::Record>>(&self, cx: &mut BuildContext, next: N) -> Result<BuiltChain, BuildError> {
        let head =
            SourceHead::new(self.name.clone(), self.source.clone(), self.at.clone(), self.watermarks.clone(), cx, next);
        Ok(BuiltChain::Source(Box::new(head)))
    }
}

/// The graph under construction, shared by the job and its streams.
#[derive(Clone)]
pub(super) struct GraphCell(Rc<RefCell<JobGraph>>);

impl GraphCell {
    fn add(&self, vertex: Vertex) -> VertexId {
        self.operator(&vertex.name);
        let mut graph = self.0.borrow_mut();
        graph.vertices.push(vertex);
        VertexId(graph.vertices.len() - 1)
    }

    pub(super) fn add_vertex(&self, name: &str) -> VertexId {
        self.add(Vertex { name: name.to_owned(), input: VertexInput::Edges, chains: Vec::new() })
    }

    pub(super) fn operator(&self, name: &str) {
        self.0.borrow_mut().operators.push(name.to_owned());
    }

    pub(super) fn keyed_operator(&self, name: &str, vertex: VertexId) {
        self.operator(name);
        self.0.borrow_mut().keyed_operators.push((name.to_owned(), vertex));
    }

    pub(super) fn connect(
        &self,
        from: VertexId,
        to: VertexId,
        partitioning: Partitioning,
        shape: RecordShape,
    ) -> EdgeId {
        let mut graph = self.0.borrow_mut();
        graph.edges.push(Edge { from, to, partitioning, shape });
        EdgeId(graph.edges.len() - 1)
    }

    pub(super) fn add_chain(
        &self,
        vertex: VertexId,
        build: impl Fn(&mut BuildContext) -> Result<BuiltChain, BuildError> + Send + Sync + 'static,
    ) {
        self.0.borrow_mut().vertices[vertex.0].chains.push(Arc::new(build));
    }
}
