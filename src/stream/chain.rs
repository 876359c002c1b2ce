//! The prototype of a chain: everything from its head to some operator, waiting for what comes next.

use crate::exchange::RecordFrame;
use crate::graph::{BuildContext, BuildError, BuiltChain, ChainRoot, EdgeRoot};
use crate::operator::{ChainContext, Filter, FlatMap, Flow, Map, Signal, Stage};
use crate::record::Record;
use std::marker::PhantomData;

/// A chain that can be built once per subtask, yielding records of type `Out` at its end.
pub trait Chain: Clone + Send + Sync + 'static {
    /// What comes out at the end.
    type Out: 'static;

    /// Builds one subtask's copy that ends in `next`.
    fn build<N: Stage<Self::Out>>(&self, cx: &mut BuildContext, next: N) -> Result<BuiltChain, BuildError>;
}

/// A chain with a map at its end.
pub struct MapChain<C, F, U> {
    pub(super) upstream: C,
    pub(super) function: F,
    pub(super) _out: PhantomData<fn() -> U>,
}

impl<C: Clone, F: Clone, U> Clone for MapChain<C, F, U> {
    fn clone(&self) -> Self {
        Self { upstream: self.upstream.clone(), function: self.function.clone(), _out: PhantomData }
    }
}

impl<C, F, U> Chain for MapChain<C, F, U>
where
    C: Chain,
    U: 'static,
    F: Fn(&C::Out) -> U + Clone + Send + Sync + 'static,
{
    type Out = U;

    fn build<N: Stage<U>>(&self, cx: &mut BuildContext, next: N) -> Result<BuiltChain, BuildError> {
        self.upstream.build(cx, Map::new(self.function.clone(), next))
    }
}

/// A chain with a filter at its end.
#[derive(Clone)]
pub struct FilterChain<C, F> {
    pub(super) upstream: C,
    pub(super) predicate: F,
}

impl<C, F> Chain for FilterChain<C, F>
where
    C: Chain,
    F: Fn(&C::Out) -> bool + Clone + Send + Sync + 'static,
{
    type Out = C::Out;

    fn build<N: Stage<C::Out>>(&self, cx: &mut BuildContext, next: N) -> Result<BuiltChain, BuildError> {
        self.upstream.build(cx, Filter::new(self.predicate.clone(), next))
    }
}

/// A chain with a flat map at its end.
pub struct FlatMapChain<C, F, I> {
    pub(super) upstream: C,
    pub(super) function: F,
    pub(super) _items: PhantomData<fn() -> I>,
}

impl<C: Clone, F: Clone, I> Clone for FlatMapChain<C, F, I> {
    fn clone(&self) -> Self {
        Self { upstream: self.upstream.clone(), function: self.function.clone(), _items: PhantomData }
    }
}

impl<C, F, I> Chain for FlatMapChain<C, F, I>
where
    C: Chain,
    I: IntoIterator + 'static,
    I::Item: 'static,
    F: Fn(&C::Out) -> I + Clone + Send + Sync + 'static,
{
    type Out = I::Item;

    fn build<N: Stage<I::Item>>(&self, cx: &mut BuildContext, next: N) -> Result<BuiltChain, BuildError> {
        self.upstream.build(cx, FlatMap::new(self.function.clone(), next))
    }
}

/// A chain that begins at an edge: its records are read in place, out of the segments they arrived in.
pub struct EdgeChain<R>(PhantomData<fn() -> R>);

impl<R> EdgeChain<R> {
    pub(super) fn new() -> Self {
        Self(PhantomData)
    }
}

impl<R> Clone for EdgeChain<R> {
    fn clone(&self) -> Self {
        Self::new()
    }
}

impl<R: Record> Chain for EdgeChain<R> {
    type Out = R::View;

    fn build<N: Stage<R::View>>(&self, _: &mut BuildContext, next: N) -> Result<BuiltChain, BuildError> {
        Ok(BuiltChain::Edge(Box::new(EdgeHead::<R, N> { next, _record: PhantomData })))
    }
}

struct EdgeHead<R, N> {
    next: N,
    _record: PhantomData<fn() -> R>,
}

impl<R: Record, N: Stage<R::View>> ChainRoot for EdgeHead<R, N> {
    fn signal(&mut self, cx: &mut ChainContext<'_>, signal: &mut Signal<'_>) -> Flow {
        self.next.signal(cx, signal)
    }

    fn is_blocked(&self) -> bool {
        self.next.is_blocked()
    }
}

impl<R: Record, N: Stage<R::View>> EdgeRoot for EdgeHead<R, N> {
    fn records(&mut self, cx: &mut ChainContext<'_>, frame: &RecordFrame<'_>) {
        for record in frame.records() {
            match R::view(record.payload) {
                Ok(view) => self.next.record(cx, &frame.stamp(record.at), view),
                Err(error) => return cx.fail("exchange", error),
            }
        }
    }
}
