//! Flat map: one record in, any number out. Semantics: Flink `StreamFlatMap`.

use super::{ChainContext, Flow, Signal, Stage};
use crate::record::Stamp;
use std::marker::PhantomData;

/// Emits every item of the iterator a function returns.
pub struct FlatMap<F, I, N> {
    function: F,
    next: N,
    _items: PhantomData<fn() -> I>,
}

impl<F, I, N> FlatMap<F, I, N> {
    /// A flat map in front of `next`.
    pub fn new(function: F, next: N) -> Self {
        Self { function, next, _items: PhantomData }
    }
}

impl<V, I, F, N> Stage<V> for FlatMap<F, I, N>
where
    I: IntoIterator + 'static,
    I::Item: 'static,
    F: Fn(&V) -> I + 'static,
    N: Stage<I::Item>,
{
    #[inline]
    fn record(&mut self, cx: &mut ChainContext<'_>, stamp: &Stamp, record: &V) {
        for item in (self.function)(record) {
            self.next.record(cx, stamp, &item);
        }
    }

    fn signal(&mut self, cx: &mut ChainContext<'_>, signal: &mut Signal<'_>) -> Flow {
        self.next.signal(cx, signal)
    }

    fn is_blocked(&self) -> bool {
        self.next.is_blocked()
    }
}
