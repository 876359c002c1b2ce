//! What is computed once per record: the key, its hash and its key group.

use super::KeyGroup;
use super::page_hash::page_hash;
use crate::record::Key;

/// Turns keys into [`Hashed`] keys of one job.
#[derive(Clone, Copy, Debug)]
pub struct KeyContext {
    max_parallelism: u16,
    /// `max_parallelism - 1` when that is a mask: a division per record is then saved.
    mask: Option<u16>,
}

/// A key in its key group, as the exchange hands it on. Not hashed yet: that is a part of the work that not every record needs.
#[derive(Debug)]
pub struct Grouped<'a, K: ?Sized> {
    /// The key.
    pub key: &'a K,
    /// The key group it belongs to.
    pub group: KeyGroup,
}

impl<K: ?Sized> Clone for Grouped<'_, K> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<K: ?Sized> Copy for Grouped<'_, K> {}

impl<'a, K: Key + ?Sized> Grouped<'a, K> {
    /// With what locates its state.
    #[inline(always)]
    pub fn hashed(self) -> Hashed<'a, K> {
        Hashed::in_group(self.key, self.group)
    }
}

/// What locates the state of a key, without the key: enough to look ahead.
#[derive(Clone, Copy, Debug)]
pub(crate) struct KeyHash {
    pub(super) hash: u64,
    pub(super) group: KeyGroup,
}

impl KeyHash {
    /// Of the key with these bytes, which need not be valid.
    #[inline(always)]
    pub fn of(bytes: &[u8], group: KeyGroup) -> Self {
        Self { hash: page_hash(0, bytes), group }
    }
}

/// A key with everything that locates its state; passed to every access.
#[derive(Debug)]
pub struct Hashed<'a, K: ?Sized> {
    /// The key.
    pub key: &'a K,
    pub(super) hash: u64,
    /// The key group it belongs to.
    pub group: KeyGroup,
}

impl<K: ?Sized> Clone for Hashed<'_, K> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<K: ?Sized> Copy for Hashed<'_, K> {}

impl KeyContext {
    /// For a job whose keys fall into `max_parallelism` key groups.
    ///
    /// # Panics
    /// Asserts that there is at least one key group.
    pub fn new(max_parallelism: u16) -> Self {
        assert!(max_parallelism > 0, "a job has at least one key group");
        Self { max_parallelism, mask: max_parallelism.is_power_of_two().then(|| max_parallelism - 1) }
    }

    /// Hashes a key and finds its key group.
    #[inline(always)]
    pub fn hash<'a, K: Key + ?Sized>(&self, key: &'a K) -> Hashed<'a, K> {
        Hashed::in_group(key, self.group(key))
    }

    /// The key group of a key.
    #[inline(always)]
    pub fn group<K: Key + ?Sized>(&self, key: &K) -> KeyGroup {
        let code = key.hash_code();
        match self.mask {
            Some(mask) => KeyGroup::of_hash_code_masked(code, mask),
            None => KeyGroup::of_hash_code(code, self.max_parallelism),
        }
    }
}

impl<'a, K: Key + ?Sized> Hashed<'a, K> {
    /// A key whose key group is already known.
    #[inline(always)]
    pub fn in_group(key: &'a K, group: KeyGroup) -> Self {
        Self { key, hash: page_hash(0, key.bytes()), group }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mask_gives_the_same_key_group_as_the_division() {
        for key in 0..10_000u64 {
            let hashed = KeyContext::new(128).hash(&key).group;
            assert_eq!(hashed, KeyGroup::of_hash_code(key.hash_code(), 128));
        }
    }
}
