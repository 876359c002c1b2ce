//! One accumulator per key, to which records of another type are added. Semantics: Flink `AggregatingState`.

use super::{
    ExpiringValue, Hashed, StateBackend, StateClock, StateError, StateTtl, StateValue, ValuePerKey, ValueState,
};
use crate::operator::Aggregate;
use crate::record::Key;
use std::marker::PhantomData;

/// One accumulator per key. `S` keeps the accumulators: a `ValueState`, or an `ExpiringValue`.
pub struct AggregatingState<K: ?Sized, V, A: Aggregate<V>, S = ValueState<K, <A as Aggregate<V>>::Accumulator>> {
    accumulators: S,
    aggregate: A,
    of: PhantomData<fn(&K, &V)>,
}

impl StateBackend {
    /// Registers a state that aggregates the records added to each key.
    pub fn aggregating<K: Key + ?Sized, V, A: Aggregate<V>>(
        &mut self,
        operator: &str,
        name: &str,
        aggregate: A,
    ) -> Result<AggregatingState<K, V, A>, StateError> {
        Ok(AggregatingState { accumulators: self.value(operator, name)?, aggregate, of: PhantomData })
    }

    /// The same with a time to live; adding to an accumulator uses it.
    pub fn expiring_aggregating<K: Key + ?Sized, V, A: Aggregate<V>>(
        &mut self,
        operator: &str,
        name: &str,
        aggregate: A,
        ttl: StateTtl,
        clock: &StateClock,
    ) -> Result<AggregatingState<K, V, A, ExpiringValue<K, A::Accumulator>>, StateError> {
        let accumulators = self.expiring_value(operator, name, ttl, clock)?;
        Ok(AggregatingState { accumulators, aggregate, of: PhantomData })
    }
}

impl<K: ?Sized, V, A: Aggregate<V>, S: ValuePerKey<K, A::Accumulator>> AggregatingState<K, V, A, S> {
    /// As `ValueState::migrate_from`, for the accumulators.
    pub fn migrate_from<Old: StateValue>(self, convert: impl Fn(Old) -> A::Accumulator + 'static) -> Self {
        Self { accumulators: self.accumulators.migrate_from(convert), ..self }
    }

    /// Adds a record.
    #[inline]
    pub fn add(&self, key: &Hashed<K>, record: &V) -> Result<(), StateError> {
        self.accumulators.update(key, |old| {
            let mut accumulator = old.unwrap_or_else(|| self.aggregate.create());
            self.aggregate.add(&mut accumulator, record);
            Some(accumulator)
        })
    }

    /// What comes out of the key's records; nothing when none was added.
    pub fn get(&self, key: &Hashed<K>) -> Option<A::Out> {
        self.accumulators.get(key).map(|accumulator| self.aggregate.result(&accumulator))
    }

    /// Forgets the key's records; answers whether there were any.
    pub fn clear(&self, key: &Hashed<K>) -> bool {
        self.accumulators.remove(key)
    }

    /// The state the accumulators are kept in.
    pub fn accumulators(&self) -> &S {
        &self.accumulators
    }
}
