//! A map per key. Semantics: Flink `MapState`; unlike there the order of iteration is defined: that of insertion, where a removal
//! moves the last entry into the gap.
//!
//! Entries: (key) -> length u32; key length u16 ++ key ++ map key -> {index u32, value}; key ++ index u32 -> map key.
//! An entry whose index is at or beyond the length does not count: it is what an insertion left behind that was refused memory.

use super::backend::{Registration, SharedTable};
use super::entries::{MAP_ENTRY, MAP_KEY, MAP_LEN, check_chunk, is_key};
use super::layout::Layout;
use super::migrate::{Migration, converting};
use super::table::{Address, Table};
use super::value_state::may_be_long;
use super::{Hashed, StateBackend, StateError, StateValue};
use crate::record::Key;
use std::cell::RefCell;
use std::marker::PhantomData;
use std::rc::Rc;

/// A map per key; cheap to clone, all clones are the same state.
pub struct MapState<K: ?Sized, MK: ?Sized, V> {
    table: SharedTable,
    /// The composite key being built.
    scratch: Rc<RefCell<Vec<u8>>>,
    of: PhantomData<fn(&K, &MK) -> V>,
}

impl<K: ?Sized, MK: ?Sized, V> Clone for MapState<K, MK, V> {
    fn clone(&self) -> Self {
        Self { table: self.table.clone(), scratch: self.scratch.clone(), of: PhantomData }
    }
}

impl StateBackend {
    /// Registers a state with a map per key.
    pub fn map<K: Key + ?Sized, MK: Key + ?Sized, V: StateValue>(
        &mut self,
        operator: &str,
        name: &str,
    ) -> Result<MapState<K, MK, V>, StateError> {
        let table = self.register(
            operator,
            name,
            Registration {
                home_kind: Some(MAP_LEN),
                lifetime: None,
                layout: Layout::Slotted,
                layout_text: MapState::<K, MK, V>::layout_text(),
                check: MapState::<K, MK, V>::check,
            },
        )?;
        Ok(MapState { table, scratch: Rc::default(), of: PhantomData })
    }
}

fn is_map_entry<K: Key + ?Sized, MK: Key + ?Sized, V: StateValue>(key: &[u8], value: &[u8]) -> bool {
    let Some((len, rest)) = key.split_first_chunk() else { return false };
    let Some((key, map_key)) = rest.split_at_checked(usize::from(u16::from_le_bytes(*len))) else { return false };
    let is_value = value.get(4..).is_some_and(V::check) || may_be_long::<V>(value);
    is_key::<K>(key) && is_key::<MK>(map_key) && is_value
}

impl<K: Key + ?Sized, MK: Key + ?Sized, V: StateValue> MapState<K, MK, V> {
    fn layout_text() -> String {
        format!("map per key: key {}, map key {}, value {}", K::NAME, MK::NAME, V::layout())
    }

    fn check(kind: u8, key: &[u8], value: &[u8]) -> bool {
        match kind {
            MAP_LEN => is_key::<K>(key) && value.len() == 4,
            MAP_ENTRY => is_map_entry::<K, MK, V>(key, value),
            MAP_KEY => key.len() >= 4 && is_key::<K>(&key[..key.len() - 4]) && is_key::<MK>(value),
            _ => check_chunk(kind, key, value),
        }
    }

    /// As `ValueState::migrate_from`, for the values.
    pub fn migrate_from<Old: StateValue>(self, convert: impl Fn(Old) -> V + 'static) -> Self {
        self.table.borrow_mut().add_migration(Migration {
            layout_text: MapState::<K, MK, Old>::layout_text(),
            layout: Layout::Slotted,
            check: MapState::<K, MK, Old>::check,
            kept: |kind| (kind == MAP_ENTRY).then_some(4),
            convert: converting(convert),
        });
        self
    }

    /// How many entries the key's map has.
    pub fn len(&self, key: &Hashed<K>) -> u32 {
        map_len(&mut self.table.borrow_mut(), key)
    }

    /// Whether the key has no map.
    pub fn is_empty(&self, key: &Hashed<K>) -> bool {
        self.len(key) == 0
    }

    /// The value of a map key.
    pub fn get(&self, key: &Hashed<K>, map_key: &MK) -> Option<V> {
        let mut table = self.table.borrow_mut();
        let len = map_len(&mut table, key);
        self.entry(&mut table, key, map_key.bytes(), len).and_then(|(_, value)| value)
    }

    /// Whether the map has this key.
    pub fn contains(&self, key: &Hashed<K>, map_key: &MK) -> bool {
        let mut table = self.table.borrow_mut();
        let len = map_len(&mut table, key);
        self.entry(&mut table, key, map_key.bytes(), len).is_some()
    }

    /// Sets the value of a map key.
    pub fn put(&self, key: &Hashed<K>, map_key: &MK, value: &V) -> Result<(), StateError> {
        let mut table = self.table.borrow_mut();
        let (map_key, len) = (map_key.bytes(), map_len(&mut table, key));
        if let Some((index, _)) = self.entry(&mut table, key, map_key, len) {
            return self.write(&mut table, key, map_key, index, value);
        }
        // The length comes last: until then nothing of the new entry counts.
        self.at_index(key, len, |address| table.write(address, map_key.len(), |out| out.copy_from_slice(map_key)))?;
        self.write(&mut table, key, map_key, len, value)?;
        let counted = set_map_len(&mut table, key, len + 1);
        if counted.is_err() {
            // The next insertion takes the same index: the entry would count from then on.
            self.at_key(key, map_key, |address| table.delete(address));
        }
        counted
    }

    /// Removes a map key; answers whether there was one.
    pub fn remove(&self, key: &Hashed<K>, map_key: &MK) -> Result<bool, StateError> {
        let mut table = self.table.borrow_mut();
        let (map_key, len) = (map_key.bytes(), map_len(&mut table, key));
        let Some((index, _)) = self.entry(&mut table, key, map_key, len) else { return Ok(false) };
        let last = self.map_key(&mut table, key, len - 1).unwrap_or_default();
        if index + 1 < len {
            // Map keys of other lengths may need room in the page; refused, nothing has changed yet.
            self.at_index(key, index, |address| table.write(address, last.len(), |out| out.copy_from_slice(&last)))?;
            self.set_index(&mut table, key, &last, index);
        }
        self.at_key(key, map_key, |address| table.delete(address));
        self.at_index(key, len - 1, |address| table.delete(address));
        if len == 1 {
            table.delete(len_address(key));
            return Ok(true);
        }
        set_map_len(&mut table, key, len - 1).map(|()| true)
    }

    /// Calls `each` with every map key's bytes and value, in the map's order.
    pub fn for_each(&self, key: &Hashed<K>, mut each: impl FnMut(&[u8], V)) {
        let len = self.len(key);
        let indices = self.table.borrow().indices_below(len);
        for index in indices {
            let mut table = self.table.borrow_mut();
            let Some(map_key) = self.map_key(&mut table, key, index) else { continue };
            let entry = self.entry(&mut table, key, &map_key, len);
            drop(table);
            if let Some((_, Some(value))) = entry {
                each(&map_key, value);
            }
        }
    }

    /// Removes the key's map.
    pub fn clear(&self, key: &Hashed<K>) {
        let mut table = self.table.borrow_mut();
        let len = map_len(&mut table, key);
        for index in table.indices_below(len) {
            if let Some(map_key) = self.map_key(&mut table, key, index) {
                self.at_key(key, &map_key, |address| table.delete(address));
            }
            self.at_index(key, index, |address| table.delete(address));
        }
        table.delete(len_address(key));
    }

    fn entry(&self, table: &mut Table, key: &Hashed<K>, map_key: &[u8], len: u32) -> Option<(u32, Option<V>)> {
        let read = |bytes: &[u8]| {
            let (index, value) = bytes.split_first_chunk()?;
            Some((u32::from_le_bytes(*index), V::load(value)))
        };
        self.at_key(key, map_key, |address| table.read(address, read)).flatten().filter(|&(index, _)| index < len)
    }

    fn map_key(&self, table: &mut Table, key: &Hashed<K>, index: u32) -> Option<Vec<u8>> {
        self.at_index(key, index, |address| table.read(address, <[u8]>::to_vec))
    }

    fn write(&self, table: &mut Table, key: &Hashed<K>, mk: &[u8], index: u32, value: &V) -> Result<(), StateError> {
        self.at_key(key, mk, |address| {
            table.write(address, 4 + value.len_bytes(), |out| {
                out[..4].copy_from_slice(&index.to_le_bytes());
                value.store(&mut out[4..]);
            })
        })
    }

    /// Changes the index of an entry without touching its value's length.
    fn set_index(&self, table: &mut Table, key: &Hashed<K>, map_key: &[u8], index: u32) {
        self.at_key(key, map_key, |address| {
            let value = table.read(address, <[u8]>::to_vec);
            if let Some(mut value) = value.filter(|value| value.len() >= 4) {
                value[..4].copy_from_slice(&index.to_le_bytes());
                let written = table.write(address, value.len(), |out| out.copy_from_slice(&value));
                written.expect("a value of the same length is written in place");
            }
        });
    }

    fn at_key<R>(&self, key: &Hashed<K>, map_key: &[u8], access: impl FnOnce(Address) -> R) -> R {
        let mut composite = self.scratch.borrow_mut();
        let bytes = key.key.bytes();
        composite.clear();
        composite.extend_from_slice(&(bytes.len() as u16).to_le_bytes());
        composite.extend_from_slice(bytes);
        composite.extend_from_slice(map_key);
        access(Address::of(key.group, MAP_ENTRY, &composite))
    }

    fn at_index<R>(&self, key: &Hashed<K>, index: u32, access: impl FnOnce(Address) -> R) -> R {
        let mut composite = self.scratch.borrow_mut();
        composite.clear();
        composite.extend_from_slice(key.key.bytes());
        composite.extend_from_slice(&index.to_le_bytes());
        access(Address::of(key.group, MAP_KEY, &composite))
    }
}

fn len_address<'a, K: Key + ?Sized>(key: &Hashed<'a, K>) -> Address<'a> {
    Address::of(key.group, MAP_LEN, key.key.bytes())
}

fn map_len<K: Key + ?Sized>(table: &mut Table, key: &Hashed<K>) -> u32 {
    let len = table.read(len_address(key), |bytes| bytes.try_into().map_or(0, u32::from_le_bytes));
    len.unwrap_or(0)
}

fn set_map_len<K: Key + ?Sized>(table: &mut Table, key: &Hashed<K>, len: u32) -> Result<(), StateError> {
    table.write(len_address(key), 4, |out| out.copy_from_slice(&len.to_le_bytes()))
}
