//! Reduces the records of each key to one, and emits it after every record. Semantics: Flink `StreamGroupedReduceOperator`.

use super::keyed::{BATCH_RECORDS_MAX, KeyedRecord, KeyedStage};
use super::{ChainContext, Flow, Signal, Stage};
use crate::exchange::RecordFrame;
use crate::graph::{BuildContext, BuildError};
use crate::record::{Key, Record, Stamp};
use crate::state::{FixedValue, Hashed, ValueState};
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
    #[inline]
    fn record(&mut self, cx: &mut ChainContext<'_>, stamp: &Stamp, key: Hashed<'_, K>, record: &T, _bytes: &[u8]) {
        let mut reduced = *record;
        let function = &self.function;
        let updated = self.reduced.update(&key, |stored| {
            if let Some(stored) = stored {
                reduced = function(&stored, record);
            }
            Some(reduced)
        });
        match updated {
            Ok(()) => self.next.record(cx, stamp, &reduced),
            Err(error) => cx.fail(&self.operator, error),
        }
    }

    const TAKES_BATCHES: bool = true;

    fn batch(&mut self, cx: &mut ChainContext<'_>, frame: &RecordFrame<'_>, records: &[KeyedRecord<'_, K, T>]) {
        let Some(first) = records.first() else { return };
        let mut reduced = [*first.view; BATCH_RECORDS_MAX];
        let mut reduced_count = 0;
        let function = &self.function;
        let updated = self.reduced.update_batch(records.iter().map(|record| record.key), |index, stored| {
            let record = records[index].view;
            let new = stored.map_or(*record, |stored| function(&stored, record));
            reduced[index] = new;
            reduced_count = index + 1;
            Some(new)
        });
        if let Err(error) = updated {
            // The state refused the last of them.
            reduced_count -= 1;
            cx.fail(&self.operator, error);
        }
        for (record, reduced) in records.iter().zip(&reduced[..reduced_count]) {
            self.next.record(cx, &frame.stamp(record.at), reduced);
        }
    }

    fn signal(&mut self, cx: &mut ChainContext<'_>, signal: &mut Signal<'_>) -> Flow {
        self.next.signal(cx, signal)
    }

    fn is_blocked(&self) -> bool {
        self.next.is_blocked()
    }
}
