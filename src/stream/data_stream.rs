//! A stream without keys, and what can be done with its records.

use super::chain::{Chain, EdgeChain, FilterChain, FlatMapChain, MapChain};
use super::job::GraphCell;
use super::keyed_stream::KeyedStream;
use crate::graph::{BuildContext, BuildError, BuiltChain, Partitioning, VertexId};
use crate::operator::{Exchange, KeyedExchange, SinkStage};
use crate::record::{ByRef, ByValue, FixedKey, Key, KeySelector, Record};
use crate::sink::Sink;
use std::marker::PhantomData;
use std::sync::Arc;

/// A stream of records of type `C::Out`, as far as the program has described it.
#[must_use = "a stream does nothing until it ends in a sink"]
pub struct DataStream<C> {
    pub(super) graph: GraphCell,
    pub(super) vertex: VertexId,
    pub(super) chain: C,
}

impl<R> Clone for DataStream<EdgeChain<R>> {
    fn clone(&self) -> Self {
        Self { graph: self.graph.clone(), vertex: self.vertex, chain: self.chain.clone() }
    }
}

impl<C: Chain> DataStream<C> {
    /// One record out for each record in.
    pub fn map<U, F>(self, function: F) -> DataStream<MapChain<C, F, U>>
    where
        U: 'static,
        F: Fn(&C::Out) -> U + Clone + Send + Sync + 'static,
    {
        self.extend(|upstream| MapChain { upstream, function, _out: PhantomData })
    }

    /// Only the records for which `predicate` holds.
    pub fn filter<F>(self, predicate: F) -> DataStream<FilterChain<C, F>>
    where
        F: Fn(&C::Out) -> bool + Clone + Send + Sync + 'static,
    {
        self.extend(|upstream| FilterChain { upstream, predicate })
    }

    /// Every item of what `function` returns for each record.
    pub fn flat_map<I, F>(self, function: F) -> DataStream<FlatMapChain<C, F, I>>
    where
        I: IntoIterator + 'static,
        I::Item: 'static,
        F: Fn(&C::Out) -> I + Clone + Send + Sync + 'static,
    {
        self.extend(|upstream| FlatMapChain { upstream, function, _items: PhantomData })
    }

    /// Partitions the stream by a fixed-size key: all records of one key meet in one subtask, each split's in their order.
    /// The name is the receiving task's. A clone of the keyed stream consumes the same exchange.
    pub fn key_by<K, F>(self, name: &str, key: F) -> KeyedStream<K, C::Out>
    where
        K: FixedKey,
        C::Out: Record,
        F: Fn(&C::Out) -> K + Clone + Send + Sync + 'static,
    {
        self.partition(name, ByValue::new(key))
    }

    /// Partitions the stream by a key that lies in the record and varies in length: a string or bytes.
    pub fn key_by_ref<K, F>(self, name: &str, key: F) -> KeyedStream<K, C::Out>
    where
        K: Key + ?Sized,
        C::Out: Record,
        F: Fn(&C::Out) -> &K + Clone + Send + Sync + 'static,
    {
        self.partition(name, ByRef::new(key))
    }

    /// Ends the chain here and hands its records to the next task of the same subtask, so that several streams can consume them:
    /// clone what this returns.
    pub fn shared(self, name: &str) -> DataStream<EdgeChain<C::Out>>
    where
        C::Out: Record,
    {
        self.redistribute(name, Partitioning::Forward)
    }

    /// Spreads the records evenly over all subtasks (Flink `rebalance`).
    pub fn rebalance(self, name: &str) -> DataStream<EdgeChain<C::Out>>
    where
        C::Out: Record,
    {
        self.redistribute(name, Partitioning::Rebalance)
    }

    /// Gives every record to every subtask (Flink `broadcast`).
    pub fn broadcast(self, name: &str) -> DataStream<EdgeChain<C::Out>>
    where
        C::Out: Record,
    {
        self.redistribute(name, Partitioning::Broadcast)
    }

    /// One stream of the records of both (Flink `union`); duplicates stay, order is kept within each.
    pub fn union<D>(self, name: &str, other: DataStream<D>) -> DataStream<EdgeChain<C::Out>>
    where
        D: Chain<Out = C::Out>,
        C::Out: Record,
    {
        let united = self.redistribute(name, Partitioning::Forward);
        other.end_in_edge(united.vertex, Partitioning::Forward);
        united
    }

    /// Ends the stream in a sink.
    pub fn sink<S: Sink<C::Out>>(self, name: &str, sink: S) {
        let operator: Arc<str> = name.into();
        self.graph.operator(name);
        let chain = self.chain;
        self.graph.add_chain(self.vertex, move |cx| {
            let stage = SinkStage::open(&operator, &sink, cx)?;
            chain.build(cx, stage)
        });
    }

    fn extend<D: Chain>(self, wrap: impl FnOnce(C) -> D) -> DataStream<D> {
        DataStream { graph: self.graph, vertex: self.vertex, chain: wrap(self.chain) }
    }

    fn partition<S>(self, name: &str, selector: S) -> KeyedStream<S::Key, C::Out>
    where
        S: KeySelector<C::Out>,
        C::Out: Record,
    {
        let vertex = self.graph.add_vertex(name);
        let edge = self.graph.connect(self.vertex, vertex, Partitioning::Hash, C::Out::shape(S::Key::FIXED_LEN));
        let stream = KeyedStream::new(self.graph.clone(), vertex);
        self.end(move |chain, cx| {
            let gate = cx.take_output(edge);
            chain.build(cx, KeyedExchange::new(gate, selector.clone()))
        });
        stream
    }

    fn redistribute(self, name: &str, partitioning: Partitioning) -> DataStream<EdgeChain<C::Out>>
    where
        C::Out: Record,
    {
        let vertex = self.graph.add_vertex(name);
        let graph = self.graph.clone();
        self.end_in_edge(vertex, partitioning);
        DataStream { graph, vertex, chain: EdgeChain::new() }
    }

    fn end_in_edge(self, vertex: VertexId, partitioning: Partitioning)
    where
        C::Out: Record,
    {
        let edge = self.graph.connect(self.vertex, vertex, partitioning, C::Out::shape(Some(0)));
        self.end(move |chain, cx| {
            let gate = cx.take_output(edge);
            chain.build(cx, Exchange::new(gate))
        });
    }

    pub(super) fn end(
        self,
        build: impl Fn(&C, &mut BuildContext) -> Result<BuiltChain, BuildError> + Send + Sync + 'static,
    ) {
        let chain = self.chain;
        self.graph.add_chain(self.vertex, move |cx| build(&chain, cx));
    }
}
