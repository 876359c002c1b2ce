//! A list per key. Semantics: Flink `ListState`.
//!
//! Entries: (key) -> length u32, and key ++ index u32 -> element. An element at or beyond the length does not count: it is what an
//! append left behind that was refused memory.

use super::backend::{Registration, SharedTable};
use super::entries::{LIST_ELEMENT, LIST_LEN, check_chunk, is_key};
use super::layout::Layout;
use super::migrate::{Migration, converting};
use super::table::{Address, Table};
use super::value_state::may_be_long;
use super::{Hashed, StateBackend, StateError, StateValue};
use crate::record::Key;
use std::cell::RefCell;
use std::marker::PhantomData;
use std::rc::Rc;

/// A list per key; cheap to clone, all clones are the same state.
pub struct ListState<K: ?Sized, V> {
    table: SharedTable,
    /// The composite key being built.
    scratch: Rc<RefCell<Vec<u8>>>,
    of: PhantomData<fn(&K) -> V>,
}

impl<K: ?Sized, V> Clone for ListState<K, V> {
    fn clone(&self) -> Self {
        Self { table: self.table.clone(), scratch: self.scratch.clone(), of: PhantomData }
    }
}

impl StateBackend {
    /// Registers a state with a list per key.
    pub fn list<K: Key + ?Sized, V: StateValue>(
        &mut self,
        operator: &str,
        name: &str,
    ) -> Result<ListState<K, V>, StateError> {
        let table = self.register(
            operator,
            name,
            Registration {
                home_kind: Some(LIST_LEN),
                lifetime: None,
                layout: Layout::Slotted,
                layout_text: ListState::<K, V>::layout_text(),
                check: ListState::<K, V>::check,
            },
        )?;
        Ok(ListState { table, scratch: Rc::default(), of: PhantomData })
    }
}

impl<K: Key + ?Sized, V: StateValue> ListState<K, V> {
    fn layout_text() -> String {
        format!("list per key: key {}, element {}", K::NAME, V::layout())
    }

    fn check(kind: u8, key: &[u8], value: &[u8]) -> bool {
        match kind {
            LIST_LEN => is_key::<K>(key) && value.len() == 4,
            LIST_ELEMENT => {
                key.len() >= 4 && is_key::<K>(&key[..key.len() - 4]) && (V::check(value) || may_be_long::<V>(value))
            }
            _ => check_chunk(kind, key, value),
        }
    }

    /// As `ValueState::migrate_from`, for the elements.
    pub fn migrate_from<Old: StateValue>(self, convert: impl Fn(Old) -> V + 'static) -> Self {
        self.table.borrow_mut().add_migration(Migration {
            layout_text: ListState::<K, Old>::layout_text(),
            layout: Layout::Slotted,
            check: ListState::<K, Old>::check,
            kept: |kind| (kind == LIST_ELEMENT).then_some(0),
            convert: converting(convert),
        });
        self
    }

    /// How many elements the key's list has.
    pub fn len(&self, key: &Hashed<K>) -> u32 {
        list_len(&mut self.table.borrow_mut(), key)
    }

    /// Whether the key has no list.
    pub fn is_empty(&self, key: &Hashed<K>) -> bool {
        self.len(key) == 0
    }

    /// The element at an index.
    pub fn get(&self, key: &Hashed<K>, index: u32) -> Option<V> {
        let mut table = self.table.borrow_mut();
        if index >= list_len(&mut table, key) { None } else { self.element(&mut table, key, index) }
    }

    /// Appends an element.
    pub fn push(&self, key: &Hashed<K>, value: &V) -> Result<(), StateError> {
        let mut table = self.table.borrow_mut();
        let len = list_len(&mut table, key);
        self.write(&mut table, key, len, value)?;
        set_list_len(&mut table, key, len + 1)
    }

    /// Replaces the element at an index; answers whether there is one.
    pub fn set(&self, key: &Hashed<K>, index: u32, value: &V) -> Result<bool, StateError> {
        let mut table = self.table.borrow_mut();
        if index >= list_len(&mut table, key) {
            return Ok(false);
        }
        self.write(&mut table, key, index, value).map(|()| true)
    }

    /// Calls `each` with every element in order.
    pub fn for_each(&self, key: &Hashed<K>, mut each: impl FnMut(V)) {
        let len = self.len(key);
        let indices = self.table.borrow().indices_below(len);
        for index in indices {
            let value = self.element(&mut self.table.borrow_mut(), key, index);
            value.into_iter().for_each(&mut each);
        }
    }

    /// Keeps the first `len` elements; with 0 the list is gone. Memory may only be refused for a length above 0.
    pub fn truncate(&self, key: &Hashed<K>, len: u32) -> Result<(), StateError> {
        let mut table = self.table.borrow_mut();
        let old_len = list_len(&mut table, key);
        if len >= old_len {
            return Ok(());
        }
        if len == 0 {
            table.delete(len_address(key));
        } else {
            set_list_len(&mut table, key, len)?;
        }
        for index in table.indices_below(old_len).skip(len as usize) {
            self.at(key, index, |address| table.delete(address));
        }
        Ok(())
    }

    /// Removes the key's list.
    pub fn clear(&self, key: &Hashed<K>) {
        self.truncate(key, 0).expect("removing a whole list writes nothing that could be refused");
    }

    fn element(&self, table: &mut Table, key: &Hashed<K>, index: u32) -> Option<V> {
        self.at(key, index, |address| table.read(address, V::load)).flatten()
    }

    fn write(&self, table: &mut Table, key: &Hashed<K>, index: u32, value: &V) -> Result<(), StateError> {
        self.at(key, index, |address| table.write(address, value.len_bytes(), |out| value.store(out)))
    }

    fn at<R>(&self, key: &Hashed<K>, index: u32, access: impl FnOnce(Address) -> R) -> R {
        let mut composite = self.scratch.borrow_mut();
        composite.clear();
        composite.extend_from_slice(key.key.bytes());
        composite.extend_from_slice(&index.to_le_bytes());
        access(Address::of(key.group, LIST_ELEMENT, &composite))
    }
}

fn len_address<'a, K: Key + ?Sized>(key: &Hashed<'a, K>) -> Address<'a> {
    Address::of(key.group, LIST_LEN, key.key.bytes())
}

fn list_len<K: Key + ?Sized>(table: &mut Table, key: &Hashed<K>) -> u32 {
    let len = table.read(len_address(key), |bytes| bytes.try_into().map_or(0, u32::from_le_bytes));
    len.unwrap_or(0)
}

fn set_list_len<K: Key + ?Sized>(table: &mut Table, key: &Hashed<K>, len: u32) -> Result<(), StateError> {
    table.write(len_address(key), 4, |out| out.copy_from_slice(&len.to_le_bytes()))
}
