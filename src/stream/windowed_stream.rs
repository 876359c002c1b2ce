//! A keyed stream cut into windows.

use super::chain::{Chain, EdgeChain};
use super::data_stream::DataStream;
use super::keyed_stream::{KeyedStream, side_output};
use crate::graph::{BuildContext, BuildError, BuiltChain, EdgeId};
use crate::operator::{Aggregate, KeyedHead, SideGate, Stage, WindowAggregate};
use crate::record::{Key, Record};
use crate::state::KeyContext;
use crate::window::{SlicedWindows, WindowResult};
use std::marker::PhantomData;
use std::sync::Arc;

/// The records of each key in event-time windows.
#[must_use = "a stream does nothing until it ends in a sink"]
pub struct WindowedStream<K: ?Sized, R> {
    stream: KeyedStream<K, R>,
    windows: SlicedWindows,
}

impl<K, R> WindowedStream<K, R>
where
    K: Key + ?Sized + ToOwned,
    R: Record,
    R::View: Record,
{
    pub(super) fn new(stream: KeyedStream<K, R>, windows: SlicedWindows) -> Self {
        Self { stream, windows }
    }

    /// One result per key and window that holds a record, when the watermark passes the window's end. Records that are late for all
    /// their windows are dropped and counted.
    pub fn aggregate<A: Aggregate<R::View>>(self, name: &str, aggregate: A) -> DataStream<WindowChain<K, R, A>> {
        self.aggregate_into(name, aggregate, None)
    }

    /// As `aggregate`; the late records come out of the second stream (Flink `sideOutputLateData`).
    pub fn aggregate_with_late_output<A: Aggregate<R::View>>(
        self,
        name: &str,
        aggregate: A,
    ) -> (DataStream<WindowChain<K, R, A>>, DataStream<EdgeChain<R::View>>) {
        let (edge, late) = side_output(&self.stream.graph, self.stream.vertex, &format!("{name}.late"));
        (self.aggregate_into(name, aggregate, Some(edge)), late)
    }

    fn aggregate_into<A>(self, name: &str, aggregate: A, late: Option<EdgeId>) -> DataStream<WindowChain<K, R, A>> {
        let Self { stream, windows } = self;
        stream.graph.keyed_operator(name, stream.vertex);
        let chain = WindowChain { operator: name.into(), windows, aggregate, late, _records: PhantomData };
        DataStream { graph: stream.graph, vertex: stream.vertex, chain }
    }
}

/// A chain with a window aggregate at its head.
pub struct WindowChain<K: ?Sized, R, A> {
    operator: Arc<str>,
    windows: SlicedWindows,
    aggregate: A,
    late: Option<EdgeId>,
    _records: PhantomData<(fn(&K), fn(&R))>,
}

impl<K: ?Sized, R, A: Clone> Clone for WindowChain<K, R, A> {
    fn clone(&self) -> Self {
        Self { operator: self.operator.clone(), aggregate: self.aggregate.clone(), _records: PhantomData, ..*self }
    }
}

impl<K, R, A> Chain for WindowChain<K, R, A>
where
    K: Key + ?Sized + ToOwned,
    K::Owned: 'static,
    R: Record,
    R::View: Record,
    A: Aggregate<R::View>,
{
    type Out = WindowResult<K::Owned, A::Out>;

    fn build<N: Stage<Self::Out>>(&self, cx: &mut BuildContext, next: N) -> Result<BuiltChain, BuildError> {
        let keys = KeyContext::new(cx.max_parallelism);
        let late = SideGate::new(self.late.map(|edge| cx.take_output(edge)));
        let stage = WindowAggregate::open(&self.operator, self.windows, self.aggregate.clone(), late, cx, next)?;
        Ok(BuiltChain::Edge(Box::new(KeyedHead::<K, R, WindowAggregate<K, R, A, N>>::new(
            keys,
            cx.state.clone(),
            stage,
        ))))
    }
}
