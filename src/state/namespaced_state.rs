//! One value per key and namespace: what a window operator keeps of each window or slice. Semantics: Flink's window namespaces.
//!
//! Entries: key ++ namespace -> value. The namespace has a fixed size, so no two pairs give the same bytes.

use super::backend::{Registration, SharedTable};
use super::entries::{VALUE, check_chunk, is_key};
use super::layout::{Layout, Shaped, is_same};
use super::prefetch::Place;
use super::runs::{AddTo, Runs};
use super::slotted_page::VALUE_LEN_MAX;
use super::table::{Address, Spot};
use super::value_state::{may_be_long, update};
use super::{FixedValue, Hashed, KeyGroup, StateBackend, StateError, StateValue};
use crate::record::Key;
use bytemuck::Pod;
use std::marker::PhantomData;
use std::rc::Rc;

/// One value per key and namespace.
pub struct NamespacedState<K: ?Sized, N, V> {
    table: SharedTable,
    /// The composite key being built.
    scratch: Vec<u8>,
    of: PhantomData<(fn(&K), fn(N) -> V)>,
}

impl StateBackend {
    /// Registers a state with one value per key and namespace.
    pub fn namespaced<K: Key + ?Sized, N: Pod, V: StateValue>(
        &mut self,
        operator: &str,
        name: &str,
    ) -> Result<NamespacedState<K, N, V>, StateError> {
        let table = self.register_namespaced::<K, N, V>(operator, name)?;
        Ok(NamespacedState { table, scratch: Vec::new(), of: PhantomData })
    }

    /// The same of values to which one can [`NamespacedState::add`] without knowing them: `merge` adds its second argument to the first.
    /// Merging must give the same bytes in any order and grouping. Where the state outgrows its memory what is added is then kept
    /// apart and merged when the value is needed.
    pub fn namespaced_merging<K: Key + ?Sized, N: Pod, V: FixedValue>(
        &mut self,
        operator: &str,
        name: &str,
        merge: impl Fn(&mut V, &V) + 'static,
    ) -> Result<NamespacedState<K, N, V>, StateError> {
        let table = self.register_namespaced::<K, N, V>(operator, name)?;
        // Long values are not kept in one piece.
        if V::LEN <= VALUE_LEN_MAX {
            let merge = move |into: &mut [u8], from: &[u8]| {
                let mut merged = <V as FixedValue>::load(into);
                merge(&mut merged, &<V as FixedValue>::load(from));
                FixedValue::store(&merged, into);
            };
            table.borrow_mut().runs = Some(Box::new(Runs::new(Rc::new(merge))));
        }
        Ok(NamespacedState { table, scratch: Vec::new(), of: PhantomData })
    }

    fn register_namespaced<K: Key + ?Sized, N: Pod, V: StateValue>(
        &mut self,
        operator: &str,
        name: &str,
    ) -> Result<SharedTable, StateError> {
        let namespace_len = size_of::<N>();
        self.register(
            operator,
            name,
            Registration {
                home_kind: None,
                lifetime: None,
                layout: NamespacedState::<K, N, V>::LAYOUT,
                layout_text: format!(
                    "value per key and namespace: key {}, namespace of {namespace_len} bytes, value {}",
                    K::NAME,
                    V::layout()
                ),
                check: |kind, key, value| match kind {
                    VALUE => {
                        let key = key.len().checked_sub(size_of::<N>()).map(|len| &key[..len]);
                        key.is_some_and(is_key::<K>) && (V::check(value) || may_be_long::<V>(value))
                    }
                    _ => check_chunk(kind, key, value),
                },
            },
        )
    }
}

/// How much of a value an addition saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// All of it.
    Whole,
    /// What was added while it is not in memory, at most.
    Part,
}

impl<K: Key + ?Sized, N: Pod, V: StateValue> Shaped for NamespacedState<K, N, V> {
    const LAYOUT: Layout = Layout::for_lens(
        match K::FIXED_LEN {
            Some(len) => Some(len + size_of::<N>()),
            None => None,
        },
        V::FIXED_LEN,
    );
}

impl<K: Key + ?Sized, N: Pod, V: StateValue> NamespacedState<K, N, V> {
    /// Where a value is to be looked for; its neighbourhood is asked for. To be called for the values of a batch before the first is used.
    #[inline(always)]
    pub(crate) fn place(&mut self, key: &K, group: KeyGroup, namespace: &N) -> Place {
        let Address { hash, .. } = Address::of(group, VALUE, composite_key(&mut self.scratch, key, namespace));
        let home = self.table.borrow().home(const { Self::LAYOUT }, group, hash);
        Place { hash, home }
    }

    /// Asks for the values in these places.
    #[inline(always)]
    pub(crate) fn fetch(&self, places: impl Iterator<Item = Place>) {
        let table = self.table.borrow();
        if table.is_worth_fetching() {
            places.for_each(|place| table.fetch_cell(const { Self::LAYOUT }, place.home, place.hash));
        }
    }

    /// Whether the page of a value is in memory or does not exist; if not, starts to read it.
    pub fn look_ahead(&mut self, key: &Hashed<K>, namespace: &N) -> Result<bool, StateError> {
        let address = composite(&mut self.scratch, key, namespace);
        let mut table = self.table.borrow_mut();
        if table.has_absent() { table.look_ahead(address.group, address.hash) } else { Ok(true) }
    }

    /// Whether values are not in memory.
    pub fn has_absent(&self) -> bool {
        self.table.borrow().has_absent()
    }

    /// The value.
    pub fn get(&mut self, key: &Hashed<K>, namespace: &N) -> Option<V> {
        self.get_there(Spot::UNKNOWN, key.key, key.group, namespace).map(|(value, _)| value)
    }

    /// The value, and where it is; `spot` is where it was. Finding it there takes no hash.
    #[inline]
    pub(crate) fn get_there(&mut self, spot: Spot, key: &K, group: KeyGroup, namespace: &N) -> Option<(V, Spot)> {
        let mut table = self.table.borrow_mut();
        match const { Self::LAYOUT } {
            layout @ Layout::Fixed(_) => {
                let there = table.find_there::<Self>(spot, group, |composite| is_composite(composite, key, namespace));
                let entry = there
                    .or_else(|| table.find_again::<Self>(group, composite_key(&mut self.scratch, key, namespace)))?;
                Some((V::load(table.value(layout, entry))?, Spot::of(entry)))
            }
            Layout::Slotted => {
                let composite = composite_key(&mut self.scratch, key, namespace);
                let value = table.read(Address::of(group, VALUE, composite), V::load).flatten()?;
                Some((value, Spot::UNKNOWN))
            }
        }
    }

    /// Replaces the value by what `change` makes of it; `None` is no value.
    pub fn update(
        &mut self,
        key: &Hashed<K>,
        namespace: &N,
        change: impl FnOnce(Option<V>) -> Option<V>,
    ) -> Result<(), StateError> {
        let address = composite(&mut self.scratch, key, namespace);
        let table = &mut *self.table.borrow_mut();
        let home = table.home(const { Self::LAYOUT }, address.group, address.hash);
        update::<Self, V>(table, home, address, change).map(drop)
    }

    /// Adds to the value: `change` gets the value, or only what was added to it lately, or nothing, and answers what it becomes. Only of a
    /// state that merges may it be less than the whole.
    #[inline]
    pub fn add(
        &mut self,
        key: &Hashed<K>,
        namespace: &N,
        change: impl FnMut(Option<V>) -> V,
    ) -> Result<Seen, StateError> {
        let place = self.place(key.key, key.group, namespace);
        self.add_at(place, key.key, key.group, namespace, change).map(|(seen, _)| seen)
    }

    /// As `add`, to the value in its place. Of a new value it also says where that went.
    #[inline(always)]
    pub(crate) fn add_at(
        &mut self,
        Place { hash, home }: Place,
        key: &K,
        group: KeyGroup,
        namespace: &N,
        mut change: impl FnMut(Option<V>) -> V,
    ) -> Result<(Seen, Spot), StateError> {
        let composite = composite_key(&mut self.scratch, key, namespace);
        let address = Address { group, hash, kind: VALUE, key: composite };
        let mut table = self.table.borrow_mut();
        // Where all pages are in memory, one look at the directory is enough.
        if table.runs.is_some() && table.has_absent() && table.add_to(address.group, address.hash)? == AddTo::Run {
            let value_len = V::FIXED_LEN.unwrap_or(0);
            if let Some((bytes, is_new)) = table.run_value(const { Self::LAYOUT }, address, value_len)? {
                let old = if is_new { None } else { V::load(bytes) };
                change(old).store(bytes);
                return Ok((Seen::Part, Spot::UNKNOWN));
            }
        }
        let new = update::<Self, V>(&mut table, home, address, |old| Some(change(old)))?;
        Ok((Seen::Whole, new.map_or(Spot::UNKNOWN, Spot::of)))
    }

    /// Whether additions need no pages that are not in memory.
    pub fn adds_blindly(&self) -> bool {
        self.table.borrow().adds_blindly()
    }

    /// Calls `each` with the key and namespace of every value in a key group, in no particular order. Reads what is not in memory.
    pub fn for_each_key(&mut self, group: KeyGroup, mut each: impl FnMut(&[u8], N)) -> Result<(), StateError> {
        self.for_each_spot(group, |key, namespace, _| each(key, namespace))
    }

    /// The same with where each of them is.
    pub(crate) fn for_each_spot(
        &mut self,
        group: KeyGroup,
        mut each: impl FnMut(&[u8], N, Spot),
    ) -> Result<(), StateError> {
        self.table.borrow_mut().for_each_of(group, |spot, kind, composite| {
            if kind == VALUE
                && let Some((key, namespace)) = composite.split_at_checked(composite.len().wrapping_sub(size_of::<N>()))
            {
                each(key, bytemuck::pod_read_unaligned(namespace), spot);
            }
        })
    }

    /// Lets memory go that only holds removed values of a key group, if memory is short.
    pub fn release_empty(&mut self, group: KeyGroup) {
        let mut table = self.table.borrow_mut();
        let directory = table.directory_of(group);
        table.release_empty(directory);
    }

    /// Removes the value and answers it.
    pub fn take(&mut self, key: &Hashed<K>, namespace: &N) -> Option<V> {
        self.take_there(Spot::UNKNOWN, key.key, key.group, namespace)
    }

    /// As `get_there`, and removes it.
    #[inline]
    pub(crate) fn take_there(&mut self, spot: Spot, key: &K, group: KeyGroup, namespace: &N) -> Option<V> {
        let mut table = self.table.borrow_mut();
        match const { Self::LAYOUT } {
            layout @ Layout::Fixed(_) => {
                let there = table.find_there::<Self>(spot, group, |composite| is_composite(composite, key, namespace));
                let entry = there
                    .or_else(|| table.find_again::<Self>(group, composite_key(&mut self.scratch, key, namespace)))?;
                let value = V::load(table.value(layout, entry));
                table.remove(layout, entry);
                value
            }
            Layout::Slotted => {
                let address = Address::of(group, VALUE, composite_key(&mut self.scratch, key, namespace));
                let value = table.read(address, V::load).flatten();
                table.delete(address);
                value
            }
        }
    }
}

// Always: the length of the whole is a constant for fixed keys where their type is known, and hashing it then is a few instructions.
#[inline(always)]
fn composite<'a, K: Key + ?Sized, N: Pod>(scratch: &'a mut Vec<u8>, key: &Hashed<K>, namespace: &N) -> Address<'a> {
    Address::of(key.group, VALUE, composite_key(scratch, key.key, namespace))
}

#[inline(always)]
fn composite_key<'a, K: Key + ?Sized, N: Pod>(scratch: &'a mut Vec<u8>, key: &K, namespace: &N) -> &'a [u8] {
    let (key_bytes, namespace) = (key.bytes(), bytemuck::bytes_of(namespace));
    let key_len = K::FIXED_LEN.unwrap_or(key_bytes.len());
    let len = key_len + namespace.len();
    if scratch.len() != len {
        scratch.resize(len, 0);
    }
    let whole = &mut scratch[..len];
    whole[..key_len].copy_from_slice(key_bytes);
    whole[key_len..].copy_from_slice(namespace);
    whole
}

#[inline(always)]
fn is_composite<K: Key + ?Sized, N: Pod>(composite: &[u8], key: &K, namespace: &N) -> bool {
    let (key, namespace) = (key.bytes(), bytemuck::bytes_of(namespace));
    let (of_key, of_namespace) = composite.split_at(composite.len() - namespace.len());
    is_same(of_key, key) && is_same(of_namespace, namespace)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::{Arena, ArenaOptions, MemoryBudget};
    use crate::state::KeyGroupRange;

    #[test]
    fn namespaces_of_one_key_do_not_see_each_other() {
        let arena = Arena::new(MemoryBudget::new(16 << 20), ArenaOptions::default());
        let mut backend = StateBackend::new(KeyGroupRange { start: 0, end: 128 }, 128, arena);
        let keys = backend.key_context();
        let mut slices = backend.namespaced::<str, i64, u64>("windows", "slices").unwrap();
        let key = keys.hash("cpu");
        for namespace in [-5i64, 5] {
            slices.update(&key, &namespace, |_| Some(namespace.unsigned_abs() + 1)).unwrap();
        }
        slices.update(&key, &5, |old| old.map(|value| value * 10)).unwrap();
        assert_eq!((slices.get(&key, &-5), slices.get(&key, &5)), (Some(6), Some(60)));
        assert_eq!((slices.take(&key, &5), slices.take(&key, &5)), (Some(60), None));
        assert_eq!(slices.get(&key, &-5), Some(6));
    }

    /// Keys come and go while pages fill, grow, split and are laid out anew, so that the places remembered of the others grow old.
    #[test]
    fn a_value_is_found_wherever_it_went_since_its_place_was_remembered() {
        const KEYS: u64 = 4_000;
        let arena = Arena::new(MemoryBudget::new(64 << 20), ArenaOptions::default());
        let mut backend = StateBackend::new(KeyGroupRange { start: 0, end: 4 }, 4, arena);
        let keys = backend.key_context();
        let mut slices = backend.namespaced::<u64, i64, u64>("windows", "slices").unwrap();
        let mut spots = vec![None; KEYS as usize];
        let (mut there, mut moved) = (0, 0);
        for step in 0..40_000u64 {
            let number = step.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
            let (key, at) = (number % KEYS, (number % KEYS) as usize);
            let (hashed, namespace) = (keys.hash(&key), key as i64 % 3);
            match (spots[at], number / KEYS % 4) {
                (None, _) => {
                    let place = slices.place(&key, hashed.group, &namespace);
                    let (seen, spot) =
                        slices.add_at(place, &key, hashed.group, &namespace, |old| old.unwrap_or(key) + 1).unwrap();
                    assert_eq!(seen, Seen::Whole);
                    spots[at] = Some(spot);
                }
                (Some(spot), 0) => {
                    assert_eq!(slices.take_there(spot, &key, hashed.group, &namespace), Some(key + 1));
                    assert_eq!(slices.take_there(spot, &key, hashed.group, &namespace), None);
                    spots[at] = None;
                }
                (Some(spot), _) => {
                    let (value, now) = slices.get_there(spot, &key, hashed.group, &namespace).unwrap();
                    assert_eq!(value, key + 1);
                    assert_eq!(slices.get_there(spot, &key, hashed.group, &(namespace + 1)), None);
                    *(if now == spot { &mut there } else { &mut moved }) += 1;
                    spots[at] = Some(now);
                }
            }
        }
        assert!(there > 1_000 && moved > 1_000, "{there} where they were, {moved} elsewhere");
    }
}
