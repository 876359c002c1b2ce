//! Keyed stages: the head of a chain behind a keyed exchange, where every record comes with its key.

use super::{ChainContext, Flow, Signal};
use crate::exchange::{RecordFrame, RecordRef};
use crate::graph::{ChainRoot, EdgeRoot};
use crate::record::{Key, Record};
use crate::state::{Hashed, KeyContext, StateBackend, StateError};
use crate::time::EventTimeMs;
use std::cell::RefCell;
use std::marker::PhantomData;
use std::rc::Rc;

/// One keyed operator, taking records of type `R` in place.
pub trait KeyedStage<K: Key + ?Sized, R: Record>: 'static {
    /// Takes the records of one frame, one after the other.
    fn records<'a>(
        &mut self,
        cx: &mut ChainContext<'_>,
        frame: &RecordFrame<'a>,
        records: impl Iterator<Item = KeyedRecord<'a, K, R>>,
    );

    /// Whether the pages of the state that a record of this key and time needs are in memory; if not, starts to read them. Only for
    /// speed: pages are read at the latest when they are touched.
    fn look_ahead(
        &mut self,
        state: &RefCell<StateBackend>,
        _at: EventTimeMs,
        key: Hashed<'_, K>,
    ) -> Result<bool, StateError> {
        state.borrow_mut().look_ahead(&key)
    }

    /// Whether records may need pages that are not in memory, so that looking ahead is worth it.
    fn needs_pages(&self) -> bool {
        true
    }

    /// As `Stage::signal`.
    fn signal(&mut self, cx: &mut ChainContext<'_>, signal: &mut Signal<'_>) -> Flow;

    /// As `Stage::is_blocked`.
    fn is_blocked(&self) -> bool;
}

/// One record of a frame.
pub struct KeyedRecord<'a, K: ?Sized, R: Record> {
    /// Its event time.
    pub at: EventTimeMs,
    /// Its key.
    pub key: Hashed<'a, K>,
    /// The record, read in place.
    pub view: &'a R::View,
    /// What `view` is read from.
    pub bytes: &'a [u8],
}

impl<K: ?Sized, R: Record> Clone for KeyedRecord<'_, K, R> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<K: ?Sized, R: Record> Copy for KeyedRecord<'_, K, R> {}

/// Reads frames of keyed records in place and hands them to a keyed stage.
pub struct KeyedHead<K: ?Sized, R, S> {
    keys: KeyContext,
    state: Rc<RefCell<StateBackend>>,
    stage: S,
    /// The pages that the next frame needs were asked for.
    has_looked_ahead: bool,
    _record: PhantomData<fn(&R, &K)>,
}

impl<K: Key + ?Sized, R: Record, S: KeyedStage<K, R>> KeyedHead<K, R, S> {
    /// The head of a chain in front of `stage`, whose states are in `state`.
    pub fn new(keys: KeyContext, state: Rc<RefCell<StateBackend>>, stage: S) -> Self {
        Self { keys, state, stage, has_looked_ahead: false, _record: PhantomData }
    }

    /// Asks for the pages of all records of a frame at once, so that the disk reads them side by side. What the first look did not get
    /// (memory does not hold them all) is read when it is touched.
    fn look_ahead(&mut self, frame: &RecordFrame<'_>) -> Result<bool, StateError> {
        self.state.borrow_mut().collect_pages()?;
        if self.has_looked_ahead {
            self.has_looked_ahead = self.state.borrow().reads_under_way() > 0;
            return Ok(!self.has_looked_ahead);
        }
        let mut all_are_in = true;
        for record in frame.records() {
            if let Some(key) = K::from_bytes(record.key) {
                all_are_in &= self.stage.look_ahead(&self.state, record.at, self.keys.hash(key))?;
            }
        }
        self.has_looked_ahead = !all_are_in;
        Ok(all_are_in)
    }
}

impl<K: Key + ?Sized, R: Record, S: KeyedStage<K, R>> ChainRoot for KeyedHead<K, R, S> {
    fn signal(&mut self, cx: &mut ChainContext<'_>, signal: &mut Signal<'_>) -> Flow {
        self.stage.signal(cx, signal)
    }

    fn is_blocked(&self) -> bool {
        self.stage.is_blocked()
    }
}

impl<K: Key + ?Sized, R: Record, S: KeyedStage<K, R>> EdgeRoot for KeyedHead<K, R, S> {
    fn is_ready_for(&mut self, cx: &mut ChainContext<'_>, frame: &RecordFrame<'_>) -> bool {
        if !self.state.borrow().has_absent() || !self.stage.needs_pages() {
            self.has_looked_ahead = false;
            return true;
        }
        self.look_ahead(frame).unwrap_or_else(|error| {
            cx.fail("state", error);
            true
        })
    }

    fn records(&mut self, cx: &mut ChainContext<'_>, frame: &RecordFrame<'_>) {
        let (keys, mut damage) = (self.keys, None);
        let mut records = frame.records_of(R::shape(K::FIXED_LEN));
        let records = std::iter::from_fn(|| match read(keys, records.next()?) {
            Ok(record) => Some(record),
            Err(error) => {
                damage = Some(error);
                None
            }
        });
        self.stage.records(cx, frame, records);
        if let Some(damage) = damage {
            cx.fail("exchange", damage);
        }
    }
}

/// The record with its key, or what is wrong with it.
#[inline(always)]
fn read<K: Key + ?Sized, R: Record>(keys: KeyContext, record: RecordRef<'_>) -> Result<KeyedRecord<'_, K, R>, String> {
    let Some(key) = K::from_bytes(record.key) else {
        return Err(format!("{} bytes are no key of type {}", record.key.len(), K::NAME));
    };
    match R::view(record.payload) {
        Ok(view) => Ok(KeyedRecord { at: record.at, key: keys.hash(key), view, bytes: record.payload }),
        Err(error) => Err(error.to_string()),
    }
}
