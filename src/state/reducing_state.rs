//! One value per key into which others are folded. Semantics: Flink `ReducingState`.

use super::{
    ExpiringValue, Hashed, StateBackend, StateClock, StateError, StateTtl, StateValue, ValuePerKey, ValueState,
};
use crate::record::Key;
use std::marker::PhantomData;

/// One value per key; adding another one reduces both to one. `S` keeps the values: a `ValueState`, or an `ExpiringValue`.
pub struct ReducingState<K: ?Sized, V, F, S = ValueState<K, V>> {
    values: S,
    function: F,
    of: PhantomData<fn(&K) -> V>,
}

impl StateBackend {
    /// Registers a state that reduces the values of each key with `function`, given the value so far and the one to add.
    pub fn reducing<K: Key + ?Sized, V: StateValue, F: Fn(V, V) -> V>(
        &mut self,
        operator: &str,
        name: &str,
        function: F,
    ) -> Result<ReducingState<K, V, F>, StateError> {
        Ok(ReducingState { values: self.value(operator, name)?, function, of: PhantomData })
    }

    /// The same with a time to live; adding to a value uses it.
    pub fn expiring_reducing<K: Key + ?Sized, V: StateValue, F: Fn(V, V) -> V>(
        &mut self,
        operator: &str,
        name: &str,
        function: F,
        ttl: StateTtl,
        clock: &StateClock,
    ) -> Result<ReducingState<K, V, F, ExpiringValue<K, V>>, StateError> {
        Ok(ReducingState { values: self.expiring_value(operator, name, ttl, clock)?, function, of: PhantomData })
    }
}

impl<K: ?Sized, V, F: Fn(V, V) -> V, S: ValuePerKey<K, V>> ReducingState<K, V, F, S> {
    /// As `ValueState::migrate_from`, for the reduced values.
    pub fn migrate_from<Old: StateValue>(self, convert: impl Fn(Old) -> V + 'static) -> Self {
        Self { values: self.values.migrate_from(convert), ..self }
    }

    /// Adds a value.
    #[inline]
    pub fn add(&self, key: &Hashed<K>, value: V) -> Result<(), StateError> {
        self.values.update(key, |old| {
            Some(match old {
                Some(old) => (self.function)(old, value),
                None => value,
            })
        })
    }

    /// What the values of the key were reduced to.
    #[inline]
    pub fn get(&self, key: &Hashed<K>) -> Option<V> {
        self.values.get(key)
    }

    /// Forgets the key's values; answers whether there were any.
    pub fn clear(&self, key: &Hashed<K>) -> bool {
        self.values.remove(key)
    }

    /// The state the reduced values are kept in.
    pub fn values(&self) -> &S {
        &self.values
    }
}
