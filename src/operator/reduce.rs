//! Reduces the records of each key to one, and emits it after every record. Semantics: Flink `StreamGroupedReduceOperator`.

use super::keyed::{KeyedRecord, KeyedStage};
use super::{ChainContext, Flow, Signal, Stage};
use crate::exchange::RecordFrame;
use crate::graph::{BuildContext, BuildError};
use crate::record::{Key, Record, Stamp};
use crate::state::{FixedValue, KeyHash, ValueState};
use crate::time::EventTimeMs;
use std::sync::Arc;

/// Keeps one record per key.
pub struct Reduce<K: ?Sized, T, F, N> {
    operator: Arc<str>,
    function: F,
    reduced: ValueState<K, T>,
    next: N,
}

impl<K, T, F, N> Reduce<K, T, F, N>
where
    K: Key + ?Sized,
    T: FixedValue,
{
    /// Opens the state, in front of `next`.
    pub fn open(operator: &Arc<str>, function: F, cx: &mut BuildContext, next: N) -> Result<Self, BuildError> {
        let reduced = cx.state.borrow_mut().value(operator, "reduced")?;
        Ok(Self { operator: operator.clone(), function, reduced, next })
    }
}

impl<K, T, F, N> KeyedStage<K, T> for Reduce<K, T, F, N>
where
    K: Key + ?Sized,
    T: Record<View = T> + FixedValue + Copy,
    F: Fn(&T, &T) -> T + 'static,
    N: Stage<T>,
{
    // Always: as a part of `KeyedHead::records` it reads each record with lengths that the compiler knows.
    #[inline(always)]
    fn records<'a>(
        &mut self,
        cx: &mut ChainContext<'_>,
        frame: &RecordFrame<'a>,
        records: impl Iterator<Item = KeyedRecord<'a, K, T>>,
    ) {
        let Self { operator, function, reduced, next } = self;
        let stamp = frame.stamp(EventTimeMs::MIN);
        let ahead = frame.records_of::<KeyedRecord<'static, K, T>>();
        let updated = reduced.update_each(
            ahead.map(|record| KeyHash::of(record.key, record.group)),
            records,
            |record| record.key,
            |record, stored| Some(stored.map_or(*record.view, |stored| function(&stored, record.view))),
            |record, reduced| next.record(cx, &Stamp { at: record.at, ..stamp }, reduced),
        );
        if let Err(error) = updated {
            cx.fail(operator, error);
        }
    }

    fn signal(&mut self, cx: &mut ChainContext<'_>, signal: &mut Signal<'_>) -> Flow {
        self.next.signal(cx, signal)
    }

    fn is_blocked(&self) -> bool {
        self.next.is_blocked()
    }
}
