//! One value per key that expires. Semantics: Flink `TtlValueState`, never returning what has expired.
//!
//! Entries: (key) -> {stamp i64, value}.

use super::migrate::converting;
use super::ttl::{Lifetime, STAMP_LEN, Stamped};
use super::{Hashed, StateBackend, StateClock, StateError, StateTtl, StateValue, ValuePerKey, ValueState};
use crate::record::Key;

/// One value per key, gone when it was not used for long enough; cheap to clone, all clones are the same state.
pub struct ExpiringValue<K: ?Sized, V> {
    stamped: ValueState<K, Stamped<V>>,
    lifetime: Lifetime,
}

impl<K: ?Sized, V> Clone for ExpiringValue<K, V> {
    fn clone(&self) -> Self {
        Self { stamped: self.stamped.clone(), lifetime: self.lifetime.clone() }
    }
}

impl StateBackend {
    /// Registers a state with one value per key that expires by `clock`.
    pub fn expiring_value<K: Key + ?Sized, V: StateValue>(
        &mut self,
        operator: &str,
        name: &str,
        ttl: StateTtl,
        clock: &StateClock,
    ) -> Result<ExpiringValue<K, V>, StateError> {
        let lifetime = Lifetime { ttl, clock: clock.clone() };
        let stamped = self.value_living(operator, name, Some(lifetime.clone()))?;
        Ok(ExpiringValue { stamped, lifetime })
    }
}

impl<K: Key + ?Sized, V: StateValue> ExpiringValue<K, V> {
    /// As `ValueState::migrate_from`; the values keep their age.
    pub fn migrate_from<Old: StateValue>(self, convert: impl Fn(Old) -> V + 'static) -> Self {
        self.stamped.add_migration::<Stamped<Old>>(STAMP_LEN, converting(convert));
        self
    }

    /// The key's value, if it has not expired.
    #[inline]
    pub fn get(&self, key: &Hashed<K>) -> Option<V> {
        let found = self.stamped.get(key);
        let alive = match found {
            Some(found) if self.lifetime.has_expired(found.stamp) => {
                self.stamped.remove(key);
                None
            }
            Some(found) => {
                if let Some(stamp) = self.lifetime.stamp_of_reading(found.stamp) {
                    self.stamped.table.borrow_mut().restamp(ValueState::<K, Stamped<V>>::address(key), stamp);
                }
                Some(found.value)
            }
            None => None,
        };
        self.stamped.table.borrow_mut().sweep();
        alive
    }

    /// Sets the key's value.
    #[inline]
    pub fn put(&self, key: &Hashed<K>, value: V) -> Result<(), StateError> {
        self.update(key, |_| Some(value))
    }

    /// Removes the key's value; answers whether there was one.
    pub fn remove(&self, key: &Hashed<K>) -> bool {
        let mut was_there = false;
        let removed = self.update(key, |old| {
            was_there = old.is_some();
            None
        });
        removed.is_ok() && was_there
    }

    /// Replaces the key's value by what `change` makes of it; `None` is no value. `change` must not use this state.
    #[inline]
    pub fn update(&self, key: &Hashed<K>, change: impl FnOnce(Option<V>) -> Option<V>) -> Result<(), StateError> {
        let updated = self.stamped.update(key, |old| self.change(old, change));
        self.stamped.table.borrow_mut().sweep();
        updated
    }

    /// Calls `each` with every value that has not expired and its key's bytes, in no particular order. This is no use of the values.
    pub fn for_each(&self, mut each: impl FnMut(&[u8], V)) {
        self.stamped.for_each(|key, found| {
            if !self.lifetime.has_expired(found.stamp) {
                each(key, found.value);
            }
        });
    }

    #[inline(always)]
    fn change(&self, old: Option<Stamped<V>>, change: impl FnOnce(Option<V>) -> Option<V>) -> Option<Stamped<V>> {
        let old = old.filter(|old| !self.lifetime.has_expired(old.stamp));
        let stamp = match &old {
            Some(old) => self.lifetime.stamp_after(old.stamp),
            None => self.lifetime.stamp(),
        };
        change(old.map(|old| old.value)).map(|value| Stamped { stamp, value })
    }
}

impl<K: Key + ?Sized, V: StateValue> ValuePerKey<K, V> for ExpiringValue<K, V> {
    #[inline]
    fn get(&self, key: &Hashed<K>) -> Option<V> {
        self.get(key)
    }

    #[inline]
    fn update(&self, key: &Hashed<K>, change: impl FnOnce(Option<V>) -> Option<V>) -> Result<(), StateError> {
        self.update(key, change)
    }

    fn remove(&self, key: &Hashed<K>) -> bool {
        self.remove(key)
    }

    fn migrate_from<Old: StateValue>(self, convert: impl Fn(Old) -> V + 'static) -> Self {
        self.migrate_from(convert)
    }
}
