//! Records that wait for their event time: pushed as they arrive, popped in time order; part of every snapshot.
//!
//! Here: the records as entries (time u64 ++ split u32 ++ number u64 -> key length u32 ++ key ++ payload) of the backend's pages, and the
//! order in memory that says which is next, rebuilt at restore. Not here: when the watermark moves, what is done with a record.
//!
//! Order: by time, then by split, then as they arrived within the split. The number grows with every record of a subtask; records of one
//! key and split are always of one subtask, so their order survives a restore with another parallelism.

use super::backend::{Registration, SharedTable};
use super::entries::{VALUE, check_chunk, is_key};
use super::layout::Layout;
use super::table::Address;
use super::{Hashed, KeyGroup, StateBackend, StateError};
use crate::record::{Key, Record, schema_of};
use crate::time::EventTimeMs;
use rkyv::util::AlignedVec;
use std::collections::BTreeSet;
use std::marker::PhantomData;

/// The waiting records of one operator.
pub struct EventQueue<K: ?Sized> {
    table: SharedTable,
    order: BTreeSet<Place>,
    next_number: u64,
    /// The record popped last, its key and payload aligned for reading in place.
    popped: QueuedEvent,
    of: PhantomData<fn(&K)>,
}

/// Where a record stands in the order. The key group says in which pages it lies; it decides nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    at: EventTimeMs,
    split: u32,
    number: u64,
    group: KeyGroup,
}

/// A record whose time has come.
#[derive(Clone, Debug)]
pub struct QueuedEvent {
    /// Its event time.
    pub at: EventTimeMs,
    /// The split it came from.
    pub split: u32,
    group: KeyGroup,
    key: AlignedVec<16>,
    payload: AlignedVec<16>,
}

const PLACE_LEN: usize = 20;
const KEY_LEN_LEN: usize = 4;

impl StateBackend {
    /// Registers the waiting records of an operator, which are of type `R`.
    pub fn event_queue<K: Key + ?Sized, R: Record>(
        &mut self,
        operator: &str,
        name: &str,
    ) -> Result<EventQueue<K>, StateError> {
        let table = self.register(
            operator,
            name,
            Registration {
                home_kind: None,
                lifetime: None,
                layout: Layout::Slotted,
                layout_text: format!("records in event-time order: key {}, value {}", K::NAME, schema_of::<R>()),
                check: |kind, key, value| match kind {
                    VALUE => {
                        key.len() == PLACE_LEN
                            && (cut(value).is_some_and(|(key, _)| is_key::<K>(key)) || value.len() == 8)
                    }
                    _ => check_chunk(kind, key, value),
                },
            },
        )?;
        // Which record is next is known in memory only.
        table.borrow_mut().read_before_first_record();
        let popped = QueuedEvent {
            at: EventTimeMs::MIN,
            split: 0,
            group: KeyGroup(0),
            key: AlignedVec::new(),
            payload: AlignedVec::new(),
        };
        Ok(EventQueue { table, order: BTreeSet::new(), next_number: 0, popped, of: PhantomData })
    }
}

impl<K: Key + ?Sized> EventQueue<K> {
    /// Lets a record of `key` wait until `at`.
    pub fn push(&mut self, key: &Hashed<K>, at: EventTimeMs, split: u32, payload: &[u8]) -> Result<(), StateError> {
        let place = Place { at, split, number: self.next_number, group: key.group };
        let key = key.key.bytes();
        self.table.borrow_mut().write(
            place.address(&mut place.bytes()),
            KEY_LEN_LEN + key.len() + payload.len(),
            |out| {
                let (key_len, rest) = out.split_at_mut(KEY_LEN_LEN);
                key_len.copy_from_slice(&(key.len() as u32).to_le_bytes());
                rest[..key.len()].copy_from_slice(key);
                rest[key.len()..].copy_from_slice(payload);
            },
        )?;
        self.next_number += 1;
        self.order.insert(place);
        Ok(())
    }

    /// Takes the next record whose time the watermark has reached.
    pub fn pop_due(&mut self, watermark: EventTimeMs) -> Option<&QueuedEvent> {
        let place = *self.order.first().filter(|place| place.at <= watermark)?;
        self.order.pop_first();
        let mut bytes = place.bytes();
        let popped = &mut self.popped;
        let mut table = self.table.borrow_mut();
        let address = place.address(&mut bytes);
        table.read(address, |value| {
            let (key, payload) = cut(value).expect("every value begins with its key, as `push` wrote it");
            popped.key.clear();
            popped.key.extend_from_slice(key);
            popped.payload.clear();
            popped.payload.extend_from_slice(payload);
        });
        table.delete(address);
        (popped.at, popped.split, popped.group) = (place.at, place.split, place.group);
        Some(popped)
    }

    /// When the next record is due.
    pub fn next_at(&self) -> Option<EventTimeMs> {
        self.order.first().map(|place| place.at)
    }

    /// How many records wait.
    pub fn len(&self) -> usize {
        self.order.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// Takes the records over that a restore brought back; called after `StateBackend::finish_restore`.
    pub fn rebuild(&mut self) {
        self.order.clear();
        let order = &mut self.order;
        self.table.borrow_mut().for_each(|group, kind, key, _| {
            if kind == VALUE {
                order.extend(Place::of(group, key));
            }
        });
        self.next_number = order.iter().map(|place| place.number + 1).max().unwrap_or(0);
    }
}

impl QueuedEvent {
    /// The record's key.
    ///
    /// # Panics
    /// Asserts that the record was pushed with a key of this type.
    pub fn key<K: Key + ?Sized>(&self) -> &K {
        K::from_bytes(&self.key).expect("the queue keeps the bytes of the key a record was pushed with")
    }

    /// The key's key group.
    pub fn group(&self) -> KeyGroup {
        self.group
    }

    /// The record's bytes, aligned to 16.
    pub fn payload(&self) -> &[u8] {
        &self.payload
    }
}

impl Place {
    fn bytes(&self) -> [u8; PLACE_LEN] {
        let mut bytes = [0; PLACE_LEN];
        bytes[..8].copy_from_slice(&self.at.0.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.split.to_le_bytes());
        bytes[12..].copy_from_slice(&self.number.to_le_bytes());
        bytes
    }

    fn address<'a>(&self, bytes: &'a mut [u8; PLACE_LEN]) -> Address<'a> {
        Address::of(self.group, VALUE, bytes)
    }

    fn of(group: KeyGroup, bytes: &[u8]) -> Option<Self> {
        let (at, rest) = bytes.split_first_chunk()?;
        let (split, rest) = rest.split_first_chunk()?;
        let number = u64::from_le_bytes(rest.try_into().ok()?);
        Some(Self { at: EventTimeMs(i64::from_le_bytes(*at)), split: u32::from_le_bytes(*split), number, group })
    }
}

/// A value's key and payload.
fn cut(value: &[u8]) -> Option<(&[u8], &[u8])> {
    let (key_len, rest) = value.split_first_chunk()?;
    rest.split_at_checked(u32::from_le_bytes(*key_len) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::{Arena, ArenaOptions, MemoryBudget};
    use crate::state::KeyGroupRange;

    fn backend() -> StateBackend {
        let arena = Arena::new(MemoryBudget::new(64 << 20), ArenaOptions::default());
        StateBackend::new(KeyGroupRange { start: 0, end: 128 }, 128, arena)
    }

    #[test]
    fn records_come_by_time_then_split_then_arrival() {
        let mut backend = backend();
        let keys = backend.key_context();
        let mut queue = backend.event_queue::<str, u64>("alerts", "waiting").unwrap();
        let records = [(5, 1, "a"), (5, 0, "b"), (3, 1, "c"), (5, 1, "d"), (9, 0, "e")];
        for (at, split, payload) in records {
            queue.push(&keys.hash("k"), EventTimeMs(at), split, payload.as_bytes()).unwrap();
        }
        let mut order = String::new();
        while let Some(event) = queue.pop_due(EventTimeMs(8)) {
            assert_eq!(event.key::<str>(), "k");
            order.push_str(std::str::from_utf8(event.payload()).unwrap());
        }
        assert_eq!((order.as_str(), queue.next_at()), ("cbad", Some(EventTimeMs(9))));
    }

    #[test]
    fn a_record_longer_than_a_page_waits_like_any_other() {
        let mut backend = backend();
        let keys = backend.key_context();
        let mut queue = backend.event_queue::<u64, u64>("alerts", "waiting").unwrap();
        let long = vec![7; 100_000];
        queue.push(&keys.hash(&1), EventTimeMs(1), 0, &long).unwrap();
        assert_eq!(queue.pop_due(EventTimeMs::MAX).unwrap().payload(), long);
        assert!(queue.is_empty());
    }
}
