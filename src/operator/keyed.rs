//! Keyed stages: the head of a chain behind a keyed exchange, where every record comes with its key.

use super::{ChainContext, Flow, Signal};
use crate::exchange::{RecordFrame, RecordRef, RecordShape, Shaped};
use crate::graph::{ChainRoot, EdgeRoot};
use crate::record::{Key, Record};
use crate::state::{Grouped, Hashed, KeyContext, StateBackend, StateError};
use crate::time::EventTimeMs;
use std::cell::{Cell, RefCell};
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
    pub key: Grouped<'a, K>,
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

impl<K: Key + ?Sized, R: Record> Shaped for KeyedRecord<'_, K, R> {
    #[inline(always)]
    fn shape() -> RecordShape {
        R::shape(K::FIXED_LEN)
    }
}

/// A frame's pages are asked for once for every so many that are in memory, then it is delivered whether they are there or not: where
/// memory holds few, each that comes sends another one away.
const PAGES_PER_LOOK: usize = 32;
/// As long as so many pages are on their way, no more are asked for.
const READS_LOW: usize = 32;

/// Reads frames of keyed records in place and hands them to a keyed stage.
pub struct KeyedHead<K: ?Sized, R, S> {
    keys: KeyContext,
    state: Rc<RefCell<StateBackend>>,
    stage: S,
    /// How often pages were asked for that the next frame needs.
    looks: usize,
    _record: PhantomData<fn(&R, &K)>,
}

impl<K: Key + ?Sized, R: Record, S: KeyedStage<K, R>> KeyedHead<K, R, S> {
    /// The head of a chain in front of `stage`, whose states are in `state`.
    pub fn new(keys: KeyContext, state: Rc<RefCell<StateBackend>>, stage: S) -> Self {
        Self { keys, state, stage, looks: 0, _record: PhantomData }
    }

    /// Asks for the pages of all records of a frame and the one behind it at once, so that the disk reads them side by side, and again
    /// when there was no memory for all of them. What memory cannot hold at the same time is read when it is touched.
    fn look_ahead(&mut self, frame: &RecordFrame<'_>) -> Result<bool, StateError> {
        let has_changed = self.state.borrow_mut().collect_pages()?;
        let (reads, is_moving) = (self.state.borrow().reads_under_way(), self.state.borrow().is_moving_pages());
        if self.looks > 0 && is_moving && (!has_changed || reads > READS_LOW) {
            return Ok(false);
        }
        if self.looks * PAGES_PER_LOOK > self.state.borrow().pages_in_memory() {
            if reads == 0 {
                self.looks = 0;
            }
            return Ok(reads == 0);
        }
        let is_ready = self.ask_for(frame)? || !self.state.borrow().is_moving_pages();
        self.looks += 1;
        if is_ready {
            self.looks = 0;
        } else if let Some(following) = frame.following() {
            self.ask_for(&following)?;
        }
        Ok(is_ready)
    }

    /// Whether the pages of all records of a frame are in memory; asks for those that are not.
    fn ask_for(&mut self, frame: &RecordFrame<'_>) -> Result<bool, StateError> {
        let mut all_are_in = true;
        for record in frame.records() {
            if let Some(key) = K::from_bytes(record.key) {
                all_are_in &= self.stage.look_ahead(&self.state, record.at, Hashed::in_group(key, record.group))?;
            }
        }
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
            self.looks = 0;
            return true;
        }
        self.look_ahead(frame).unwrap_or_else(|error| {
            cx.fail("state", error);
            true
        })
    }

    fn records(&mut self, cx: &mut ChainContext<'_>, frame: &RecordFrame<'_>) {
        let damage = Cell::new(None);
        let refs = frame.records_of::<KeyedRecord<'static, K, R>>();
        self.stage.records(cx, frame, KeyedRecords { refs, keys: self.keys, damage: &damage, _record: PhantomData });
        if let Some(damage) = damage.into_inner() {
            cx.fail("exchange", damage);
        }
    }
}

/// The records of a frame up to one that cannot be read.
struct KeyedRecords<'a, 'd, K: ?Sized, R, I> {
    refs: I,
    keys: KeyContext,
    /// What is wrong with that one.
    damage: &'d Cell<Option<String>>,
    _record: PhantomData<fn() -> (&'a R, &'a K)>,
}

impl<'a, K: Key + ?Sized, R: Record, I: Iterator<Item = RecordRef<'a>>> Iterator for KeyedRecords<'a, '_, K, R, I> {
    type Item = KeyedRecord<'a, K, R>;

    // Always: a stage asks for the next one in more than one place, and a call costs as much as reading the record.
    #[inline(always)]
    fn next(&mut self) -> Option<Self::Item> {
        read(self.keys, self.refs.next()?).map_err(|error| self.damage.set(Some(error))).ok()
    }
}

/// The record with its key, or what is wrong with it.
#[inline(always)]
fn read<K: Key + ?Sized, R: Record>(keys: KeyContext, record: RecordRef<'_>) -> Result<KeyedRecord<'_, K, R>, String> {
    let Some(key) = K::from_bytes(record.key) else {
        return Err(format!("{} bytes are no key of type {}", record.key.len(), K::NAME));
    };
    debug_assert_eq!(record.group, keys.group(key), "the key group that travels is that of the key");
    let key = Grouped { key, group: record.group };
    match R::view(record.payload) {
        Ok(view) => Ok(KeyedRecord { at: record.at, key, view, bytes: record.payload }),
        Err(error) => Err(error.to_string()),
    }
}
