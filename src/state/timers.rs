//! Event-time timers per key: set, deleted and due in time order; part of every snapshot.
//!
//! Here: the timers as entries (time u64 ++ key bytes -> nothing) of the backend's pages, and the order in memory that says which is
//! next, rebuilt at restore. Not here: when the watermark moves (`time`), what a timer does (`operator`).
//!
//! Semantics: Flink `InternalTimerServiceImpl`: deduplicated by (key, time), due when `time <= watermark`, timers set while others fire
//! fire in the same pass. Unlike Flink timers of one time fire in the order of their keys' bytes, so that results do not vary.

use super::backend::{Registration, SharedTable};
use super::entries::{VALUE, is_key};
use super::layout::Layout;
use super::table::Address;
use super::{Hashed, KeyGroup, StateBackend, StateError};
use crate::record::Key;
use crate::time::EventTimeMs;
use std::collections::BTreeSet;
use std::marker::PhantomData;

/// The event-time timers of one operator.
pub struct Timers<K: ?Sized> {
    table: SharedTable,
    order: BTreeSet<DueTimer>,
    /// The composite key being built.
    scratch: Vec<u8>,
    of: PhantomData<fn(&K)>,
}

/// A timer: when it is due, and for which key. Ordered by time, then by the key's bytes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DueTimer {
    /// The time it was set for.
    pub at: EventTimeMs,
    key: KeyBytes,
    group: KeyGroup,
}

impl StateBackend {
    /// Registers the timers of an operator.
    pub fn timers<K: Key + ?Sized>(&mut self, operator: &str, name: &str) -> Result<Timers<K>, StateError> {
        let key_len = K::FIXED_LEN.map(|len| len + TIME_LEN);
        let table = self.register(
            operator,
            name,
            Registration {
                home_kind: None,
                lifetime: None,
                layout: Layout::for_lens(key_len, Some(0)),
                layout_text: format!("event-time timers: key {}", K::NAME),
                check: |kind, key, value| {
                    kind == VALUE && value.is_empty() && key.get(TIME_LEN..).is_some_and(is_key::<K>)
                },
            },
        )?;
        // Which timer is next is known in memory only.
        table.borrow_mut().read_before_first_record();
        Ok(Timers { table, order: BTreeSet::new(), scratch: Vec::new(), of: PhantomData })
    }
}

const TIME_LEN: usize = 8;

impl<K: Key + ?Sized> Timers<K> {
    /// Sets a timer; answers whether it is new.
    pub fn set(&mut self, key: &Hashed<K>, at: EventTimeMs) -> Result<bool, StateError> {
        let timer = DueTimer { at, key: KeyBytes::new(key.key.bytes()), group: key.group };
        if self.order.contains(&timer) {
            return Ok(false);
        }
        let address = composite(&mut self.scratch, &timer);
        self.table.borrow_mut().write(address, 0, |_| {})?;
        Ok(self.order.insert(timer))
    }

    /// Deletes a timer; answers whether there was one.
    pub fn delete(&mut self, key: &Hashed<K>, at: EventTimeMs) -> bool {
        let timer = DueTimer { at, key: KeyBytes::new(key.key.bytes()), group: key.group };
        let removed = self.order.remove(&timer);
        if removed {
            self.table.borrow_mut().delete(composite(&mut self.scratch, &timer));
        }
        removed
    }

    /// Takes the next timer that is due at this watermark. Call until `None`.
    pub fn pop_due(&mut self, watermark: EventTimeMs) -> Option<DueTimer> {
        if self.order.first()?.at > watermark {
            return None;
        }
        let timer = self.order.pop_first()?;
        self.table.borrow_mut().delete(composite(&mut self.scratch, &timer));
        Some(timer)
    }

    /// The timers that are due at this watermark, in order; they stay.
    pub fn due(&self, watermark: EventTimeMs) -> impl Iterator<Item = &DueTimer> {
        self.order.iter().take_while(move |timer| timer.at <= watermark)
    }

    /// When the next timer is due.
    pub fn next_at(&self) -> Option<EventTimeMs> {
        self.order.first().map(|timer| timer.at)
    }

    /// How many timers are set.
    pub fn len(&self) -> usize {
        self.order.len()
    }

    /// Whether no timer is set.
    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// Takes the timers over that a restore brought back; called after `StateBackend::finish_restore`.
    pub fn rebuild(&mut self) {
        self.order.clear();
        let order = &mut self.order;
        self.table.borrow_mut().for_each(|group, _, composite, _| {
            if let Some((time, key)) = composite.split_first_chunk() {
                let at = EventTimeMs(i64::from_le_bytes(*time));
                order.insert(DueTimer { at, key: KeyBytes::new(key), group });
            }
        });
    }
}

impl DueTimer {
    /// The key's bytes, aligned for every fixed key type.
    pub fn key_bytes(&self) -> &[u8] {
        self.key.bytes()
    }

    /// The key.
    ///
    /// # Panics
    /// Asserts that the timer was set for a key of this type.
    pub fn key<K: Key + ?Sized>(&self) -> &K {
        K::from_bytes(self.key.bytes()).expect("a timer keeps the bytes of the key it was set for")
    }

    /// The key's key group.
    pub fn group(&self) -> KeyGroup {
        self.group
    }
}

fn composite<'a>(scratch: &'a mut Vec<u8>, timer: &DueTimer) -> Address<'a> {
    scratch.clear();
    scratch.extend_from_slice(&timer.at.0.to_le_bytes());
    scratch.extend_from_slice(timer.key.bytes());
    Address::of(timer.group, VALUE, scratch)
}

/// A key's bytes, aligned to 8; short ones without an allocation.
#[derive(Clone, Debug)]
enum KeyBytes {
    Short { len: u8, words: [u64; 3] },
    Long { len: usize, words: Box<[u64]> },
}

impl KeyBytes {
    fn new(bytes: &[u8]) -> Self {
        let len = bytes.len();
        if len <= 24 {
            let mut words = [0; 3];
            bytemuck::cast_slice_mut(&mut words)[..len].copy_from_slice(bytes);
            return Self::Short { len: len as u8, words };
        }
        let mut words = vec![0; len.div_ceil(8)].into_boxed_slice();
        bytemuck::cast_slice_mut(&mut words)[..len].copy_from_slice(bytes);
        Self::Long { len, words }
    }

    fn bytes(&self) -> &[u8] {
        match self {
            Self::Short { len, words } => &bytemuck::cast_slice(words)[..usize::from(*len)],
            Self::Long { len, words } => &bytemuck::cast_slice(words)[..*len],
        }
    }
}

impl PartialEq for KeyBytes {
    fn eq(&self, other: &Self) -> bool {
        self.bytes() == other.bytes()
    }
}

impl Eq for KeyBytes {}

impl PartialOrd for KeyBytes {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for KeyBytes {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.bytes().cmp(other.bytes())
    }
}
