//! How a stream's key is found in its records: computed as a value, or borrowed out of the record.

use super::Key;
use std::marker::PhantomData;

/// Finds the key of a record.
pub trait KeySelector<V>: Clone + Send + Sync + 'static {
    /// The key type.
    type Key: Key + ?Sized;

    /// Hands the record's key to `take`.
    fn with_key<R>(&self, record: &V, take: impl FnOnce(&Self::Key) -> R) -> R;
}

/// A key computed from the record.
pub struct ByValue<F, K>(F, PhantomData<fn() -> K>);

/// A key that lies in the record.
pub struct ByRef<F, K: ?Sized>(F, PhantomData<fn() -> Box<K>>);

impl<F, K> ByValue<F, K> {
    /// Finds keys with `key`.
    pub fn new(key: F) -> Self {
        Self(key, PhantomData)
    }
}

impl<F, K: ?Sized> ByRef<F, K> {
    /// Finds keys with `key`.
    pub fn new(key: F) -> Self {
        Self(key, PhantomData)
    }
}

impl<F: Clone, K> Clone for ByValue<F, K> {
    fn clone(&self) -> Self {
        Self::new(self.0.clone())
    }
}

impl<F: Clone, K: ?Sized> Clone for ByRef<F, K> {
    fn clone(&self) -> Self {
        Self::new(self.0.clone())
    }
}

impl<V, K, F> KeySelector<V> for ByValue<F, K>
where
    K: Key,
    F: Fn(&V) -> K + Clone + Send + Sync + 'static,
{
    type Key = K;

    #[inline]
    fn with_key<R>(&self, record: &V, take: impl FnOnce(&K) -> R) -> R {
        take(&(self.0)(record))
    }
}

impl<V, K, F> KeySelector<V> for ByRef<F, K>
where
    K: Key + ?Sized,
    F: Fn(&V) -> &K + Clone + Send + Sync + 'static,
{
    type Key = K;

    #[inline]
    fn with_key<R>(&self, record: &V, take: impl FnOnce(&K) -> R) -> R {
        take((self.0)(record))
    }
}
