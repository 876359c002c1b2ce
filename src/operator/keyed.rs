//! Keyed stages: the head of a chain behind a keyed exchange, where every record comes with its key.

use super::{ChainContext, Flow, Signal};
use crate::exchange::RecordFrame;
use crate::graph::{ChainRoot, EdgeRoot};
use crate::record::{Key, Record, Stamp};
use crate::state::{Hashed, KeyContext};
use std::marker::PhantomData;

/// One keyed operator, taking records of type `R` in place.
pub trait KeyedStage<K: Key + ?Sized, R: Record>: 'static {
    /// Takes one record; `bytes` are what `record` is read from.
    fn record(&mut self, cx: &mut ChainContext<'_>, stamp: &Stamp, key: Hashed<'_, K>, record: &R::View, bytes: &[u8]);

    /// As `Stage::signal`.
    fn signal(&mut self, cx: &mut ChainContext<'_>, signal: &mut Signal<'_>) -> Flow;

    /// As `Stage::is_blocked`.
    fn is_blocked(&self) -> bool;
}

/// Reads frames of keyed records in place and hands them to a keyed stage.
pub struct KeyedHead<K: ?Sized, R, S> {
    keys: KeyContext,
    stage: S,
    _record: PhantomData<fn(&R, &K)>,
}

impl<K: Key + ?Sized, R: Record, S: KeyedStage<K, R>> KeyedHead<K, R, S> {
    /// The head of a chain in front of `stage`.
    pub fn new(keys: KeyContext, stage: S) -> Self {
        Self { keys, stage, _record: PhantomData }
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
    fn records(&mut self, cx: &mut ChainContext<'_>, frame: &RecordFrame<'_>) {
        for record in frame.records() {
            let Some(key) = K::from_bytes(record.key) else {
                return cx.fail("exchange", format_args!("{} bytes are no key of type {}", record.key.len(), K::NAME));
            };
            match R::view(record.payload) {
                Ok(view) => {
                    self.stage.record(cx, &frame.stamp(record.at), self.keys.hash(key), view, record.payload);
                }
                Err(error) => return cx.fail("exchange", error),
            }
        }
    }
}
