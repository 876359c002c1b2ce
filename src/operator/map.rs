//! Map: one record in, one out. Semantics: Flink `StreamMap`.

use super::{ChainContext, Flow, Signal, Stage};
use crate::record::Stamp;
use std::marker::PhantomData;

/// Applies a function to every record.
pub struct Map<F, U, N> {
    function: F,
    next: N,
    _out: PhantomData<fn() -> U>,
}

impl<F, U, N> Map<F, U, N> {
    /// A map in front of `next`.
    pub fn new(function: F, next: N) -> Self {
        Self { function, next, _out: PhantomData }
    }
}

impl<V, U, F, N> Stage<V> for Map<F, U, N>
where
    U: 'static,
    F: Fn(&V) -> U + 'static,
    N: Stage<U>,
{
    #[inline]
    fn record(&mut self, cx: &mut ChainContext<'_>, stamp: &Stamp, record: &V) {
        self.next.record(cx, stamp, &(self.function)(record));
    }

    fn signal(&mut self, cx: &mut ChainContext<'_>, signal: &mut Signal<'_>) -> Flow {
        self.next.signal(cx, signal)
    }

    fn is_blocked(&self) -> bool {
        self.next.is_blocked()
    }
}
