//! A list per key. Semantics: Flink `ListState`.
//!
//! Entries: (key) -> head (`list_head`), with the first elements in place; key ++ index u32 -> element, for each of the others.

use super::backend::{Registration, SharedTable};
use super::entries::{LIST_ELEMENT, LIST_HEAD, check_chunk, is_key};
use super::layout::Layout;
use super::list_head::{HEAD_LEN_MAX, ListHead};
use super::migrate::{Migration, converting};
use super::page::Probe;
use super::table::{Address, EntryAt, Table};
use super::value_state::may_be_long;
use super::{Hashed, KeyGroup, StateBackend, StateError, StateValue};
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
                home_kind: Some(LIST_HEAD),
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
        format!("list with a head per key: key {}, element {}", K::NAME, V::layout())
    }

    fn check(kind: u8, key: &[u8], value: &[u8]) -> bool {
        match kind {
            LIST_HEAD => is_key::<K>(key) && ListHead::check(value, V::check),
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
        with_head(&mut self.table.borrow_mut(), key, |head, _| head.len)
    }

    /// Whether the key has no list.
    pub fn is_empty(&self, key: &Hashed<K>) -> bool {
        self.len(key) == 0
    }

    /// The element at an index.
    pub fn get(&self, key: &Hashed<K>, index: u32) -> Option<V> {
        let mut table = self.table.borrow_mut();
        let (head, in_place) = with_head(&mut table, key, |head, bytes| {
            (head, head.elements(bytes).nth(index as usize).and_then(V::load))
        });
        if index < u32::from(head.in_place) || index >= head.len {
            return in_place;
        }
        self.element(&mut table, key, index)
    }

    /// Appends an element.
    #[inline]
    pub fn push(&self, key: &Hashed<K>, value: &V) -> Result<(), StateError> {
        let table = &mut *self.table.borrow_mut();
        let len = value.len_bytes();
        let address = head_address(key);
        let page = table.page_for(address)?;
        let probe = table.probe_page(Layout::Slotted, page, address);
        if let Probe::Found(at) = probe
            && let entry = (EntryAt { page, at })
            && let Some(mut head) = ListHead::read(table.value(Layout::Slotted, entry))
            && let Some(end) = head.end_with(len)
            && end <= table.value(Layout::Slotted, entry).len()
        {
            head.append(table.value_mut(Layout::Slotted, entry), len, |out| value.store(out));
            return Ok(());
        }
        self.push_with_room(table, key, (page, probe), value)
    }

    /// The same where the head is new, has no room left, or gets no element in place. A probe of its page ended so.
    #[inline(never)]
    fn push_with_room(
        &self,
        table: &mut Table,
        key: &Hashed<K>,
        (page, probe): (usize, Probe),
        value: &V,
    ) -> Result<(), StateError> {
        let (address, len) = (head_address(key), value.len_bytes());
        let mut bytes = [0; HEAD_LEN_MAX];
        let (mut head, old_len) = match probe {
            Probe::Found(at) => {
                let old = table.value(Layout::Slotted, EntryAt { page, at });
                let old = &old[..old.len().min(HEAD_LEN_MAX)];
                bytes[..old.len()].copy_from_slice(old);
                (ListHead::read(old).unwrap_or_default(), old.len())
            }
            Probe::Absent(_) => (ListHead::default(), 0),
        };
        let index = head.len;
        if let Some(end) = head.end_with(len) {
            head.append(&mut bytes, len, |out| value.store(out));
            // Most lists stay at one element; those that do not move only when they are twice as long.
            let capacity = if old_len == 0 { end } else { (2 * end).min(HEAD_LEN_MAX) };
            return table.write_at(page, probe, address, capacity, |out| out.copy_from_slice(&bytes[..capacity]));
        }
        head.len = head.len.saturating_add(1);
        head.store(&mut bytes);
        let len = old_len.max(ListHead::LEN_MIN);
        table.write_at(page, probe, address, len, |out| out.copy_from_slice(&bytes[..len]))?;
        let written = self.write(table, key, index, value);
        if written.is_err()
            && let Some((entry, head)) = find_head(table, key)
        {
            // The list is as long as it was; where there was none, there is none.
            cut(table, entry, head, index);
        }
        written
    }

    /// Replaces the element at an index; answers whether there is one. Refused memory, it stays as it was.
    pub fn set(&self, key: &Hashed<K>, index: u32, value: &V) -> Result<bool, StateError> {
        let table = &mut *self.table.borrow_mut();
        let Some((entry, head)) = find_head(table, key).filter(|(_, head)| index < head.len) else { return Ok(false) };
        if index >= u32::from(head.in_place) {
            return self.write(table, key, index, value).map(|()| true);
        }
        let place = head.places(table.value(Layout::Slotted, entry)).nth(index as usize);
        if let Some(place) = place.filter(|place| place.len() == value.len_bytes()) {
            value.store(&mut table.value_mut(Layout::Slotted, entry)[place]);
            return Ok(true);
        }
        let elements = head.elements(table.value(Layout::Slotted, entry));
        let mut elements: Vec<Vec<u8>> = elements.map(<[u8]>::to_vec).collect();
        let Some(element) = elements.get_mut(index as usize) else { return Ok(false) };
        element.resize(value.len_bytes(), 0);
        value.store(element);
        table.write_list_start(key.group, key.key.bytes(), head.len, &elements).map(|()| true)
    }

    /// Calls `each` with every element in order. Of what `each` changes in this list it may see the old or the new.
    #[inline]
    pub fn for_each(&self, key: &Hashed<K>, mut each: impl FnMut(V)) {
        let mut bytes = [0; HEAD_LEN_MAX];
        let (head, indices) = {
            let table = &mut *self.table.borrow_mut();
            let head = with_head(table, key, |head, of| {
                if let Some(bytes) = bytes.get_mut(..of.len()) {
                    bytes.copy_from_slice(of);
                }
                head
            });
            (head, table.indices_below(head.len))
        };
        head.elements(&bytes).filter_map(V::load).for_each(&mut each);
        for index in indices.skip(usize::from(head.in_place)) {
            let value = self.element(&mut self.table.borrow_mut(), key, index);
            value.into_iter().for_each(&mut each);
        }
    }

    /// Keeps the first `len` elements; with 0 the list is gone.
    pub fn truncate(&self, key: &Hashed<K>, len: u32) {
        let table = &mut *self.table.borrow_mut();
        let Some((entry, head)) = find_head(table, key).filter(|(_, head)| len < head.len) else { return };
        cut(table, entry, head, len);
        let in_place = u32::from(head.in_place);
        for index in table.indices_below(head.len).skip(len.max(in_place) as usize) {
            self.at(key, index, |address| table.delete(address));
        }
    }

    /// Removes the key's list.
    pub fn clear(&self, key: &Hashed<K>) {
        self.truncate(key, 0);
    }

    /// An element that is not in the head.
    fn element(&self, table: &mut Table, key: &Hashed<K>, index: u32) -> Option<V> {
        self.at(key, index, |address| table.read(address, V::load)).flatten()
    }

    fn write(&self, table: &mut Table, key: &Hashed<K>, index: u32, value: &V) -> Result<(), StateError> {
        self.at(key, index, |address| table.write(address, value.len_bytes(), |out| value.store(out)))
    }

    #[inline]
    fn at<R>(&self, key: &Hashed<K>, index: u32, access: impl FnOnce(Address) -> R) -> R {
        let mut composite = self.scratch.borrow_mut();
        composite.clear();
        composite.extend_from_slice(key.key.bytes());
        composite.extend_from_slice(&index.to_le_bytes());
        // To hash a length that the compiler knows takes half as long.
        let composite = K::FIXED_LEN.and_then(|len| composite.get(..len + 4)).unwrap_or(&composite);
        access(Address::of(key.group, LIST_ELEMENT, composite))
    }
}

impl Table {
    /// Writes the head of a list of `len` elements that begins with these: as many of them as fit are in place, the rest become entries of
    /// their own. Refused memory, the head is what it was.
    pub fn write_list_start(
        &mut self,
        group: KeyGroup,
        key: &[u8],
        len: u32,
        elements: &[Vec<u8>],
    ) -> Result<(), StateError> {
        let (mut head, mut bytes) = (ListHead::default(), [0; HEAD_LEN_MAX]);
        for element in elements {
            if head.end_with(element.len()).is_none() {
                break;
            }
            head.append(&mut bytes, element.len(), |out| out.copy_from_slice(element));
        }
        let apart = || (0..).zip(elements).skip(usize::from(head.in_place));
        let composite = |index: u32| [key, &index.to_le_bytes()].concat();
        ListHead { len, ..head }.store(&mut bytes);
        let written = apart().try_for_each(|(index, element)| {
            let composite = composite(index);
            let address = Address::of(group, LIST_ELEMENT, &composite);
            self.write(address, element.len(), |out| out.copy_from_slice(element))
        });
        let address = Address::of(group, LIST_HEAD, key);
        let written =
            written.and_then(|()| self.write(address, head.end(), |out| out.copy_from_slice(&bytes[..head.end()])));
        if written.is_err() {
            apart().for_each(|(index, _)| {
                self.delete(Address::of(group, LIST_ELEMENT, &composite(index)));
            });
        }
        written
    }
}

#[inline(always)]
fn head_address<'a, K: Key + ?Sized>(key: &Hashed<'a, K>) -> Address<'a> {
    Address::of(key.group, LIST_HEAD, key.key.bytes())
}

#[inline(always)]
fn find_head<K: Key + ?Sized>(table: &mut Table, key: &Hashed<K>) -> Option<(EntryAt, ListHead)> {
    let entry = table.find(Layout::Slotted, head_address(key))?;
    Some((entry, ListHead::read(table.value(Layout::Slotted, entry))?))
}

/// Calls `read` with the head and its bytes; with an empty one where the key has no list.
#[inline(always)]
fn with_head<K: Key + ?Sized, R>(table: &mut Table, key: &Hashed<K>, read: impl FnOnce(ListHead, &[u8]) -> R) -> R {
    match find_head(table, key) {
        Some((entry, head)) => read(head, table.value(Layout::Slotted, entry)),
        None => read(ListHead::default(), &[]),
    }
}

/// Makes a head that of a list with fewer elements. Never refused memory.
fn cut(table: &mut Table, entry: EntryAt, mut head: ListHead, len: u32) {
    if len == 0 {
        table.remove(Layout::Slotted, entry);
    } else {
        head.truncate(table.value_mut(Layout::Slotted, entry), len);
    }
}
