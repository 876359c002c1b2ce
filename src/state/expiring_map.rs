//! A map per key whose entries expire one by one. Semantics: Flink `TtlMapState`; unlike there the order of iteration is defined: that of
//! insertion.
//!
//! Entries: (key) -> run (`sweep`); key length u16 ++ key ++ map key -> {stamp i64, index u64, value}; key ++ index u64 -> map key.
//! What has expired leaves a gap; when gaps make up most of a run its entries are numbered anew.

use super::backend::{Registration, SharedTable};
use super::entries::{MAP_ENTRY, MAP_KEY, MAP_LEN, check_chunk, is_key};
use super::layout::Layout;
use super::migrate::{Migration, converting};
use super::sweep::{MAP_INDEX, Run, key_of_map_entry, map_index};
use super::table::{Address, Table};
use super::ttl::{Lifetime, STAMP_LEN, stamp_of};
use super::value_state::may_be_long;
use super::{Hashed, StateBackend, StateClock, StateError, StateTtl, StateValue};
use crate::record::Key;
use std::cell::RefCell;
use std::marker::PhantomData;
use std::rc::Rc;

/// A map per key, whose entries go when they were not used for long enough; cheap to clone, all clones are the same state.
pub struct ExpiringMap<K: ?Sized, MK: ?Sized, V> {
    table: SharedTable,
    lifetime: Lifetime,
    scratch: Rc<RefCell<Scratch>>,
    of: PhantomData<fn(&K, &MK) -> V>,
}

/// The composite keys being built.
#[derive(Default)]
struct Scratch {
    entry: Vec<u8>,
    index: Vec<u8>,
}

impl<K: ?Sized, MK: ?Sized, V> Clone for ExpiringMap<K, MK, V> {
    fn clone(&self) -> Self {
        let (table, lifetime) = (self.table.clone(), self.lifetime.clone());
        Self { table, lifetime, scratch: self.scratch.clone(), of: PhantomData }
    }
}

const INDEX_LEN: usize = 8;
const ENTRY_HEAD_LEN: usize = STAMP_LEN + INDEX_LEN;

impl StateBackend {
    /// Registers a state with a map per key whose entries expire by `clock`.
    pub fn expiring_map<K: Key + ?Sized, MK: Key + ?Sized, V: StateValue>(
        &mut self,
        operator: &str,
        name: &str,
        ttl: StateTtl,
        clock: &StateClock,
    ) -> Result<ExpiringMap<K, MK, V>, StateError> {
        let lifetime = Lifetime { ttl, clock: clock.clone() };
        let table = self.register(
            operator,
            name,
            Registration {
                home_kind: Some(MAP_LEN),
                layout: Layout::Slotted,
                layout_text: ExpiringMap::<K, MK, V>::layout_text(),
                check: ExpiringMap::<K, MK, V>::check,
                lifetime: Some(lifetime.clone()),
            },
        )?;
        Ok(ExpiringMap { table, lifetime, scratch: Rc::default(), of: PhantomData })
    }
}

fn is_entry<K: Key + ?Sized, MK: Key + ?Sized, V: StateValue>(composite: &[u8], value: &[u8]) -> bool {
    let Some(key) = key_of_map_entry(composite) else { return false };
    let map_key = &composite[2 + key.len()..];
    let is_value = value.get(ENTRY_HEAD_LEN..).is_some_and(V::check) || may_be_long::<V>(value);
    is_key::<K>(key) && is_key::<MK>(map_key) && is_value
}

impl<K: Key + ?Sized, MK: Key + ?Sized, V: StateValue> ExpiringMap<K, MK, V> {
    fn layout_text() -> String {
        format!("map per key: key {}, map key {}, value {}", K::NAME, MK::NAME, V::layout())
    }

    fn check(kind: u8, key: &[u8], value: &[u8]) -> bool {
        match kind {
            MAP_LEN => is_key::<K>(key) && Run::check(value),
            MAP_ENTRY => is_entry::<K, MK, V>(key, value),
            MAP_KEY => {
                let key = key.len().checked_sub(INDEX_LEN).map(|len| &key[..len]);
                key.is_some_and(is_key::<K>) && is_key::<MK>(value)
            }
            _ => check_chunk(kind, key, value),
        }
    }

    /// As `ValueState::migrate_from`, for the values, which keep their age.
    pub fn migrate_from<Old: StateValue>(self, convert: impl Fn(Old) -> V + 'static) -> Self {
        self.table.borrow_mut().add_migration(Migration {
            layout_text: ExpiringMap::<K, MK, Old>::layout_text(),
            layout: Layout::Slotted,
            check: ExpiringMap::<K, MK, Old>::check,
            kept: |kind| (kind == MAP_ENTRY).then_some(ENTRY_HEAD_LEN),
            convert: converting(convert),
        });
        self
    }

    /// The value of a map key, if it has not expired.
    pub fn get(&self, key: &Hashed<K>, map_key: &MK) -> Option<V> {
        let table = &mut *self.table.borrow_mut();
        let found = self.alive(table, key, map_key.bytes(), |table, address, stamp, _| {
            if let Some(stamp) = self.lifetime.stamp_of_reading(stamp) {
                table.restamp(address, stamp);
            }
            table.read(address, |value| V::load(value.get(ENTRY_HEAD_LEN..)?)).flatten()
        });
        table.sweep();
        found.flatten()
    }

    /// Whether the map has this key, not expired. This is no use of its value.
    pub fn contains(&self, key: &Hashed<K>, map_key: &MK) -> bool {
        self.alive(&mut self.table.borrow_mut(), key, map_key.bytes(), |_, _, _, _| ()).is_some()
    }

    /// Sets the value of a map key.
    pub fn put(&self, key: &Hashed<K>, map_key: &MK, value: &V) -> Result<(), StateError> {
        let table = &mut *self.table.borrow_mut();
        let map_key = map_key.bytes();
        let found = self.alive(table, key, map_key, |_, _, stamp, index| (stamp, index));
        let put = match found {
            Some((stamp, index)) => self.write(table, key, map_key, self.lifetime.stamp_after(stamp), index, value),
            None => self.insert(table, key, map_key, value),
        };
        table.sweep();
        put
    }

    /// Removes a map key; answers whether there was one that had not expired.
    pub fn remove(&self, key: &Hashed<K>, map_key: &MK) -> bool {
        let table = &mut *self.table.borrow_mut();
        let was_there = self.alive(table, key, map_key.bytes(), |_, _, _, _| ()).is_some();
        if was_there {
            self.remove_entry(table, key, map_key.bytes());
        }
        table.sweep();
        was_there
    }

    /// Calls `each` with every map key's bytes and value that has not expired, in the order of insertion. `each` must not use this state.
    pub fn for_each(&self, key: &Hashed<K>, mut each: impl FnMut(&[u8], V)) {
        self.visit(key, |table, map_key, address, stamp| {
            if let Some(stamp) = self.lifetime.stamp_of_reading(stamp) {
                table.restamp(address, stamp);
            }
            let value = table.read(address, |value| V::load(value.get(ENTRY_HEAD_LEN..)?)).flatten();
            if let Some(value) = value {
                each(map_key, value);
            }
            true
        });
    }

    /// How many entries have not expired. Looks at every one of them; this is no use of their values.
    pub fn len(&self, key: &Hashed<K>) -> usize {
        let mut len = 0;
        self.visit(key, |_, _, _, _| {
            len += 1;
            true
        });
        len
    }

    /// Whether the key has no map, or all its entries have expired.
    pub fn is_empty(&self, key: &Hashed<K>) -> bool {
        let mut is_empty = true;
        self.visit(key, |_, _, _, _| {
            is_empty = false;
            false
        });
        is_empty
    }

    /// Removes the key's map.
    pub fn clear(&self, key: &Hashed<K>) {
        let table = &mut *self.table.borrow_mut();
        let Some(run) = table.run(head_address(key)) else { return };
        for index in table.indices(key.group, MAP_KEY, key.key.bytes(), run) {
            if let Some(map_key) = self.map_key(table, key, index) {
                self.at_key(key, &map_key, |address, _| table.delete(address));
                self.at_index(key, index, |address| table.delete(address));
            }
        }
        table.delete(head_address(key));
    }

    /// Calls `found` with the entry of a map key, its stamp and its index, if there is one; removes it when it has expired.
    fn alive<R>(
        &self,
        table: &mut Table,
        key: &Hashed<K>,
        map_key: &[u8],
        found: impl FnOnce(&mut Table, Address, i64, u64) -> R,
    ) -> Option<R> {
        self.at_key(key, map_key, |address, scratch| {
            let entry = table.find(table.layout, address)?;
            let start = table.start(address, entry)?;
            let (stamp, index) = (stamp_of(start)?, map_index(start)?);
            if self.lifetime.has_expired(stamp) {
                table.remove_map_entry(key.group, address.key, scratch);
                return None;
            }
            Some(found(table, address, stamp, index))
        })
    }

    fn visit(&self, key: &Hashed<K>, mut each: impl FnMut(&mut Table, &[u8], Address, i64) -> bool) {
        let table = &mut *self.table.borrow_mut();
        let head = head_address(key);
        let Some(run) = table.run(head) else { return };
        let (mut left, mut first) = (run.count, None);
        for index in table.indices(key.group, MAP_KEY, key.key.bytes(), run) {
            if left == 0 {
                break;
            }
            let Some(map_key) = self.map_key(table, key, index) else { continue };
            left -= 1;
            let goes_on = self.alive(table, key, &map_key, |table, address, stamp, _| {
                first.get_or_insert(index);
                each(table, &map_key, address, stamp)
            });
            if goes_on == Some(false) {
                break;
            }
        }
        if let Some(first) = first {
            table.shorten_run(head, first);
        }
        table.sweep();
    }

    fn insert(&self, table: &mut Table, key: &Hashed<K>, map_key: &[u8], value: &V) -> Result<(), StateError> {
        let head = head_address(key);
        if table.run(head).is_some_and(|run| run.is_sparse()) {
            self.number_anew(table, key)?;
        }
        let index = table.run(head).map_or(0, |run| run.end);
        self.write_map_key(table, key, index, map_key)?;
        let written = self.write(table, key, map_key, self.lifetime.stamp(), index, value);
        let grown = written.and_then(|()| table.grow_run(head, index));
        if grown.is_err() {
            // Nothing of the new entry may stay: another one will take its index.
            self.at_key(key, map_key, |address, _| table.delete(address));
            self.at_index(key, index, |address| table.delete(address));
        }
        grown
    }

    /// Gives the entries of a map that is mostly gaps new indices behind the old ones. Refused memory, the map stays as it is.
    fn number_anew(&self, table: &mut Table, key: &Hashed<K>) -> Result<(), StateError> {
        let head = head_address(key);
        let Some(old) = table.run(head) else { return Ok(()) };
        let mut moved = Run { first: old.end, end: old.end, count: 0 };
        let mut map_keys = Vec::new();
        for index in table.indices(key.group, MAP_KEY, key.key.bytes(), old) {
            let Some(map_key) = self.map_key(table, key, index) else { continue };
            if self.alive(table, key, &map_key, |_, _, _, _| ()).is_none() {
                continue;
            }
            if let Err(refusal) = self.write_map_key(table, key, moved.end, &map_key) {
                self.delete_map_keys(table, key, moved);
                return Err(refusal);
            }
            map_keys.push(map_key);
            (moved.end, moved.count) = (moved.end + 1, moved.count + 1);
        }
        for (index, map_key) in (moved.first..).zip(&map_keys) {
            self.at_key(key, map_key, |address, _| {
                if let Some(entry) = table.find(table.layout, address)
                    && let Some(start) = table.start_mut(address, entry)
                {
                    start[MAP_INDEX].copy_from_slice(&index.to_le_bytes());
                }
            });
        }
        if moved.count > 0 && table.run(head).is_some() {
            table.set_run(head, moved);
        }
        self.delete_map_keys(table, key, old);
        Ok(())
    }

    fn delete_map_keys(&self, table: &mut Table, key: &Hashed<K>, run: Run) {
        for index in table.indices(key.group, MAP_KEY, key.key.bytes(), run) {
            self.at_index(key, index, |address| table.delete(address));
        }
    }

    fn remove_entry(&self, table: &mut Table, key: &Hashed<K>, map_key: &[u8]) {
        self.at_key(key, map_key, |address, scratch| table.remove_map_entry(key.group, address.key, scratch));
    }

    fn write(
        &self,
        table: &mut Table,
        key: &Hashed<K>,
        map_key: &[u8],
        stamp: i64,
        index: u64,
        value: &V,
    ) -> Result<(), StateError> {
        self.at_key(key, map_key, |address, _| {
            table.write(address, ENTRY_HEAD_LEN + value.len_bytes(), |out| {
                out[..STAMP_LEN].copy_from_slice(&stamp.to_le_bytes());
                out[MAP_INDEX].copy_from_slice(&index.to_le_bytes());
                value.store(&mut out[ENTRY_HEAD_LEN..]);
            })
        })
    }

    fn write_map_key(&self, table: &mut Table, key: &Hashed<K>, index: u64, map_key: &[u8]) -> Result<(), StateError> {
        self.at_index(key, index, |address| table.write(address, map_key.len(), |out| out.copy_from_slice(map_key)))
    }

    fn map_key(&self, table: &mut Table, key: &Hashed<K>, index: u64) -> Option<Vec<u8>> {
        self.at_index(key, index, |address| table.read(address, <[u8]>::to_vec))
    }

    fn at_key<R>(&self, key: &Hashed<K>, map_key: &[u8], access: impl FnOnce(Address, &mut Vec<u8>) -> R) -> R {
        let Scratch { entry, index } = &mut *self.scratch.borrow_mut();
        let bytes = key.key.bytes();
        entry.clear();
        entry.extend_from_slice(&(bytes.len() as u16).to_le_bytes());
        entry.extend_from_slice(bytes);
        entry.extend_from_slice(map_key);
        access(Address::of(key.group, MAP_ENTRY, entry), index)
    }

    fn at_index<R>(&self, key: &Hashed<K>, at: u64, access: impl FnOnce(Address) -> R) -> R {
        let Scratch { index, .. } = &mut *self.scratch.borrow_mut();
        index.clear();
        index.extend_from_slice(key.key.bytes());
        index.extend_from_slice(&at.to_le_bytes());
        access(Address::of(key.group, MAP_KEY, index))
    }
}

fn head_address<'a, K: Key + ?Sized>(key: &Hashed<'a, K>) -> Address<'a> {
    Address::of(key.group, MAP_LEN, key.key.bytes())
}
