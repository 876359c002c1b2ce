//! A stream partitioned by key, and what can be done with the records of each key.

use super::chain::{Chain, EdgeChain};
use super::data_stream::DataStream;
use super::job::GraphCell;
use super::windowed_stream::WindowedStream;
use crate::graph::{BuildContext, BuildError, BuiltChain, EdgeId, Partitioning, VertexId};
use crate::operator::{KeyedHead, KeyedProcess, OrderedProcess, Process, Reduce, SideGate, Stage};
use crate::record::{Key, Record};
use crate::state::{FixedValue, KeyContext};
use crate::window::SlicedWindows;
use std::marker::PhantomData;
use std::sync::Arc;

/// A stream in which all records of one key are in one subtask. A clone consumes the same exchange: several operators can work
/// on one keyed stream for the price of one shuffle.
#[must_use = "a stream does nothing until it ends in a sink"]
pub struct KeyedStream<K: ?Sized, R> {
    pub(super) graph: GraphCell,
    pub(super) vertex: VertexId,
    in_event_time_order: bool,
    _records: PhantomData<(fn(&K), fn(&R))>,
}

impl<K: ?Sized, R> Clone for KeyedStream<K, R> {
    fn clone(&self) -> Self {
        Self { graph: self.graph.clone(), _records: PhantomData, ..*self }
    }
}

impl<K: Key + ?Sized, R: Record> KeyedStream<K, R> {
    pub(super) fn new(graph: GraphCell, vertex: VertexId) -> Self {
        Self { graph, vertex, in_event_time_order: false, _records: PhantomData }
    }

    /// Lets process functions see records in the order of their event time: each waits until the watermark passes it. Results
    /// then depend on the input alone, not on speed or parallelism. Records later than the watermark are dropped and counted. Records of equal
    /// time come by the source or operator they are from, then by split or key group, then in its order; only behind `rebalance`, and behind
    /// functions that take records in the order of arrival, those come as they arrive.
    pub fn in_event_time_order(self) -> Self {
        Self { in_event_time_order: true, ..self }
    }

    /// A process function over the records of each key.
    pub fn process<P>(self, name: &str, function: P) -> DataStream<ProcessChain<K, R, P>>
    where
        P: KeyedProcess<K, R::View>,
    {
        self.process_into(name, function, None)
    }

    /// A process function with a side output: the stream of its results, and the stream of what it emits aside.
    pub fn process_with_side_output<P>(
        self,
        name: &str,
        function: P,
    ) -> (DataStream<ProcessChain<K, R, P>>, DataStream<EdgeChain<P::Side>>)
    where
        P: KeyedProcess<K, R::View>,
        P::Side: Record,
    {
        let (edge, side) = side_output(&self.graph, self.vertex, &format!("{name}.side"));
        (self.process_into(name, function, Some(edge)), side)
    }

    /// Reduces the records of each key to one of the same type, emitted after every record.
    pub fn reduce<F>(self, name: &str, function: F) -> DataStream<ReduceChain<K, R, F>>
    where
        R: Record<View = R> + FixedValue + Copy,
        F: Fn(&R, &R) -> R + Clone + Send + Sync + 'static,
    {
        self.graph.keyed_operator(name, self.vertex);
        let chain = ReduceChain { operator: name.into(), function, _records: PhantomData };
        DataStream { graph: self.graph, vertex: self.vertex, chain }
    }

    /// Groups the records of each key into event-time windows.
    pub fn window(self, windows: SlicedWindows) -> WindowedStream<K, R>
    where
        K: ToOwned,
        R::View: Record,
    {
        WindowedStream::new(self, windows)
    }

    fn process_into<P>(self, name: &str, function: P, side: Option<EdgeId>) -> DataStream<ProcessChain<K, R, P>> {
        self.graph.keyed_operator(name, self.vertex);
        let in_order = self.in_event_time_order;
        let chain = ProcessChain { operator: name.into(), function, side, in_order, _records: PhantomData };
        DataStream { graph: self.graph, vertex: self.vertex, chain }
    }
}

/// A side output of an operator in `from`: the edge it takes, and the stream at its other end.
pub(super) fn side_output<S: Record>(
    graph: &GraphCell,
    from: VertexId,
    name: &str,
) -> (EdgeId, DataStream<EdgeChain<S>>) {
    let vertex = graph.add_vertex(name);
    let edge = graph.connect(from, vertex, Partitioning::Forward, S::shape(Some(0)));
    (edge, DataStream { graph: graph.clone(), vertex, chain: EdgeChain::new() })
}

/// A chain with a process function at its head.
pub struct ProcessChain<K: ?Sized, R, P> {
    operator: Arc<str>,
    function: P,
    side: Option<EdgeId>,
    in_order: bool,
    _records: PhantomData<(fn(&K), fn(&R))>,
}

impl<K: ?Sized, R, P: Clone> Clone for ProcessChain<K, R, P> {
    fn clone(&self) -> Self {
        Self { operator: self.operator.clone(), function: self.function.clone(), _records: PhantomData, ..*self }
    }
}

impl<K, R, P> Chain for ProcessChain<K, R, P>
where
    K: Key + ?Sized,
    R: Record,
    P: KeyedProcess<K, R::View>,
{
    type Out = P::Out;

    fn build<N: Stage<P::Out>>(&self, cx: &mut BuildContext, next: N) -> Result<BuiltChain, BuildError> {
        let keys = KeyContext::new(cx.max_parallelism);
        let side = SideGate::new(self.side.map(|edge| cx.take_output(edge)));
        let function = self.function.clone();
        Ok(BuiltChain::Edge(if self.in_order {
            let stage = OrderedProcess::open(&self.operator, function, side, cx, next)?;
            Box::new(KeyedHead::<K, R, OrderedProcess<K, R, P, N>>::new(keys, cx.state.clone(), stage))
        } else {
            let stage = Process::open(&self.operator, function, side, cx, next)?;
            Box::new(KeyedHead::<K, R, Process<K, R::View, P, N>>::new(keys, cx.state.clone(), stage))
        }))
    }
}

/// A chain with a reduce at its head.
pub struct ReduceChain<K: ?Sized, R, F> {
    operator: Arc<str>,
    function: F,
    _records: PhantomData<(fn(&K), fn(&R))>,
}

impl<K: ?Sized, R, F: Clone> Clone for ReduceChain<K, R, F> {
    fn clone(&self) -> Self {
        Self { operator: self.operator.clone(), function: self.function.clone(), _records: PhantomData }
    }
}

impl<K, R, F> Chain for ReduceChain<K, R, F>
where
    K: Key + ?Sized,
    R: Record<View = R> + FixedValue + Copy,
    F: Fn(&R, &R) -> R + Clone + Send + Sync + 'static,
{
    type Out = R;

    fn build<N: Stage<R>>(&self, cx: &mut BuildContext, next: N) -> Result<BuiltChain, BuildError> {
        let keys = KeyContext::new(cx.max_parallelism);
        let stage = Reduce::<K, R, F, N>::open(&self.operator, self.function.clone(), cx, next)?;
        Ok(BuiltChain::Edge(Box::new(KeyedHead::<K, R, Reduce<K, R, F, N>>::new(keys, cx.state.clone(), stage))))
    }
}
