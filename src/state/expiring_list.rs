//! A list per key whose elements expire one by one. Semantics: Flink `TtlListState`.
//!
//! Entries: (key) -> run (`sweep`); key ++ index u64 -> {stamp i64, element}. What has expired leaves a gap; when gaps make up most of a run
//! its elements are numbered anew. There is no access by index, because indices would change by themselves.

use super::backend::{Registration, SharedTable};
use super::entries::{LIST_ELEMENT, LIST_LEN, check_chunk, is_key};
use super::layout::Layout;
use super::migrate::{Migration, converting};
use super::sweep::Run;
use super::table::{Address, Table};
use super::ttl::{Lifetime, STAMP_LEN, Stamped, stamp_of};
use super::value_state::may_be_long;
use super::{Hashed, StateBackend, StateClock, StateError, StateTtl, StateValue};
use crate::record::Key;
use std::cell::RefCell;
use std::marker::PhantomData;
use std::rc::Rc;

/// A list per key, whose elements go when they were not used for long enough; cheap to clone, all clones are the same state.
pub struct ExpiringList<K: ?Sized, V> {
    table: SharedTable,
    lifetime: Lifetime,
    /// The composite key being built.
    scratch: Rc<RefCell<Vec<u8>>>,
    of: PhantomData<fn(&K) -> V>,
}

impl<K: ?Sized, V> Clone for ExpiringList<K, V> {
    fn clone(&self) -> Self {
        let (table, lifetime) = (self.table.clone(), self.lifetime.clone());
        Self { table, lifetime, scratch: self.scratch.clone(), of: PhantomData }
    }
}

const INDEX_LEN: usize = 8;

impl StateBackend {
    /// Registers a state with a list per key whose elements expire by `clock`.
    pub fn expiring_list<K: Key + ?Sized, V: StateValue>(
        &mut self,
        operator: &str,
        name: &str,
        ttl: StateTtl,
        clock: &StateClock,
    ) -> Result<ExpiringList<K, V>, StateError> {
        let lifetime = Lifetime { ttl, clock: clock.clone() };
        let table = self.register(
            operator,
            name,
            Registration {
                home_kind: Some(LIST_LEN),
                layout: Layout::Slotted,
                layout_text: ExpiringList::<K, V>::layout_text(),
                check: ExpiringList::<K, V>::check,
                lifetime: Some(lifetime.clone()),
            },
        )?;
        Ok(ExpiringList { table, lifetime, scratch: Rc::default(), of: PhantomData })
    }
}

impl<K: Key + ?Sized, V: StateValue> ExpiringList<K, V> {
    fn layout_text() -> String {
        format!("list per key: key {}, element {}", K::NAME, V::layout())
    }

    fn check(kind: u8, key: &[u8], value: &[u8]) -> bool {
        match kind {
            LIST_LEN => is_key::<K>(key) && Run::check(value),
            LIST_ELEMENT => {
                let key = key.len().checked_sub(INDEX_LEN).map(|len| &key[..len]);
                key.is_some_and(is_key::<K>) && (Stamped::<V>::check(value) || may_be_long::<Stamped<V>>(value))
            }
            _ => check_chunk(kind, key, value),
        }
    }

    /// As `ValueState::migrate_from`, for the elements, which keep their age.
    pub fn migrate_from<Old: StateValue>(self, convert: impl Fn(Old) -> V + 'static) -> Self {
        self.table.borrow_mut().add_migration(Migration {
            layout_text: ExpiringList::<K, Old>::layout_text(),
            layout: Layout::Slotted,
            check: ExpiringList::<K, Old>::check,
            kept: |kind| (kind == LIST_ELEMENT).then_some(STAMP_LEN),
            convert: converting(convert),
        });
        self
    }

    /// Appends an element.
    pub fn push(&self, key: &Hashed<K>, value: V) -> Result<(), StateError> {
        let table = &mut *self.table.borrow_mut();
        let head = head_address(key);
        let run = table.run(head).unwrap_or_default();
        if run.is_sparse() {
            self.number_anew(table, key)?;
        }
        let index = table.run(head).map_or(0, |run| run.end);
        let stamped = Stamped { stamp: self.lifetime.stamp(), value };
        self.at(key, index, |address| table.write(address, stamped.len_bytes(), |out| stamped.store(out)))?;
        let grown = table.grow_run(head, index);
        if grown.is_err() {
            self.at(key, index, |address| table.delete(address));
        }
        table.sweep();
        grown
    }

    /// Calls `each` with every element that has not expired, in order. `each` must not use this state.
    pub fn for_each(&self, key: &Hashed<K>, mut each: impl FnMut(V)) {
        self.visit(key, |value| {
            if let Some(stamped) = Stamped::<V>::load(value) {
                each(stamped.value);
            }
            true
        });
    }

    /// How many elements have not expired. Looks at every one of them.
    pub fn len(&self, key: &Hashed<K>) -> usize {
        let mut len = 0;
        self.visit(key, |_| {
            len += 1;
            true
        });
        len
    }

    /// Whether the key has no list, or all its elements have expired.
    pub fn is_empty(&self, key: &Hashed<K>) -> bool {
        let mut is_empty = true;
        self.visit(key, |_| {
            is_empty = false;
            false
        });
        is_empty
    }

    /// Removes the key's list.
    pub fn clear(&self, key: &Hashed<K>) {
        let table = &mut *self.table.borrow_mut();
        let Some(run) = table.run(head_address(key)) else { return };
        table.delete(head_address(key));
        self.delete_all(table, key, run);
    }

    /// Calls `each` with the bytes of every element that has not expired while it answers `true`; removes those that have.
    fn visit(&self, key: &Hashed<K>, mut each: impl FnMut(&[u8]) -> bool) {
        let table = &mut *self.table.borrow_mut();
        let head = head_address(key);
        let Some(run) = table.run(head) else { return };
        let (mut left, mut first) = (run.count, None);
        for index in table.indices(key.group, LIST_ELEMENT, key.key.bytes(), run) {
            if left == 0 {
                break;
            }
            let goes_on = self.at(key, index, |address| {
                let stamp = table.find(table.layout, address).and_then(|entry| stamp_of(table.start(address, entry)?));
                let Some(stamp) = stamp else { return true };
                left -= 1;
                if self.lifetime.has_expired(stamp) {
                    table.remove_element(key.group, address.key);
                    return true;
                }
                first.get_or_insert(index);
                if let Some(stamp) = self.lifetime.stamp_of_reading(stamp) {
                    table.restamp(address, stamp);
                }
                table.read(address, &mut each).unwrap_or(true)
            });
            if !goes_on {
                break;
            }
        }
        if let Some(first) = first {
            table.shorten_run(head, first);
        }
        table.sweep();
    }

    /// Gives the elements of a list that is mostly gaps new indices behind the old ones. Refused memory, the list stays as it is.
    fn number_anew(&self, table: &mut Table, key: &Hashed<K>) -> Result<(), StateError> {
        let head = head_address(key);
        let Some(old) = table.run(head) else { return Ok(()) };
        let mut moved = Run { first: old.end, end: old.end, count: 0 };
        for index in table.indices(key.group, LIST_ELEMENT, key.key.bytes(), old) {
            let value = self.at(key, index, |address| table.read(address, <[u8]>::to_vec));
            let Some(value) = value else { continue };
            if stamp_of(&value).is_none_or(|stamp| self.lifetime.has_expired(stamp)) {
                continue;
            }
            let written =
                self.at(key, moved.end, |address| table.write(address, value.len(), |out| out.copy_from_slice(&value)));
            if let Err(refusal) = written {
                self.delete_all(table, key, moved);
                return Err(refusal);
            }
            (moved.end, moved.count) = (moved.end + 1, moved.count + 1);
        }
        if moved.count == 0 {
            table.delete(head);
        } else if table.run(head).is_some() {
            table.set_run(head, moved);
        }
        self.delete_all(table, key, old);
        Ok(())
    }

    fn delete_all(&self, table: &mut Table, key: &Hashed<K>, run: Run) {
        for index in table.indices(key.group, LIST_ELEMENT, key.key.bytes(), run) {
            self.at(key, index, |address| table.delete(address));
        }
    }

    fn at<R>(&self, key: &Hashed<K>, index: u64, access: impl FnOnce(Address) -> R) -> R {
        let mut composite = self.scratch.borrow_mut();
        composite.clear();
        composite.extend_from_slice(key.key.bytes());
        composite.extend_from_slice(&index.to_le_bytes());
        access(Address::of(key.group, LIST_ELEMENT, &composite))
    }
}

fn head_address<'a, K: Key + ?Sized>(key: &Hashed<'a, K>) -> Address<'a> {
    Address::of(key.group, LIST_LEN, key.key.bytes())
}
