//! Filter: passes the records a predicate holds for. Semantics: Flink `StreamFilter`.

use super::{ChainContext, Flow, Signal, Stage};
use crate::record::Stamp;

/// Passes some records on, untouched.
pub struct Filter<F, N> {
    predicate: F,
    next: N,
}

impl<F, N> Filter<F, N> {
    /// A filter in front of `next`.
    pub fn new(predicate: F, next: N) -> Self {
        Self { predicate, next }
    }
}

impl<V, F, N> Stage<V> for Filter<F, N>
where
    F: Fn(&V) -> bool + 'static,
    N: Stage<V>,
{
    #[inline]
    fn record(&mut self, cx: &mut ChainContext<'_>, stamp: &Stamp, record: &V) {
        if (self.predicate)(record) {
            self.next.record(cx, stamp, record);
        }
    }

    fn signal(&mut self, cx: &mut ChainContext<'_>, signal: &mut Signal<'_>) -> Flow {
        self.next.signal(cx, signal)
    }

    fn is_blocked(&self) -> bool {
        self.next.is_blocked()
    }
}
