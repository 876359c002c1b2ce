//! The end of a chain in front of windows: adds up what it has of a key and slice, so that one accumulator crosses for many records.
//!
//! Nothing is held across a barrier, idleness, or a watermark that lets a window fire, so results and checkpoints are those of records that
//! cross one by one. A record that its split's clock has passed crosses alone: which windows it missed is judged where they are.
//!
//! Here: holding accumulators, and the aggregate that merges them at the other end. Not here: the windows (`window_aggregate`).
//! Semantics: Flink SQL's two-phase aggregation (`LocalSlicingWindowAggOperator`).

use super::aggregate::Aggregate;
use super::exchange::{pass_on, report};
use super::{ChainContext, Flow, Signal, Stage};
use crate::exchange::OutputGate;
use crate::record::{FixedKey, Record, Scratch, Stamp};
use crate::time::EventTimeMs;
use crate::window::{Slice, SlicedWindows};
use std::marker::PhantomData;

/// How many accumulators are held at most (a power of two). Few enough for a first-level cache; a key that finds its place taken sends the
/// other one on its way.
const HELD_MAX: usize = 1024;

/// Aggregates before the exchange.
pub struct PreAggregate<K, F, A: Aggregate<V>, V> {
    gate: OutputGate,
    scratch: Scratch,
    key: F,
    windows: SlicedWindows,
    aggregate: A,
    held: Box<[Option<Partial<K, A::Accumulator>>]>,
    /// The slice of the last record.
    slice: Slice,
    /// The earliest watermark that lets a window fire which needs something of what is held; `MAX` while nothing is.
    due: EventTimeMs,
}

/// What was added up of one key in one slice.
struct Partial<K, T> {
    key: K,
    slice_start: i64,
    accumulator: T,
}

impl<K, F, A, V> PreAggregate<K, F, A, V>
where
    K: FixedKey,
    F: Fn(&V) -> K,
    A: Aggregate<V>,
    A::Accumulator: Record,
{
    /// The end of a chain, in front of `gate`.
    pub fn new(gate: OutputGate, key: F, windows: SlicedWindows, aggregate: A) -> Self {
        const { assert!(A::MERGES_IN_ANY_ORDER, "what is added up before the exchange is merged in any order") };
        let held = (0..HELD_MAX).map(|_| None).collect();
        let slice = windows.slice_at(0);
        Self { gate, scratch: Scratch::default(), key, windows, aggregate, held, slice, due: EventTimeMs::MAX }
    }

    /// Sends what is held on its way.
    fn release(&mut self, cx: &mut ChainContext<'_>) {
        let Self { gate, scratch, held, .. } = self;
        for partial in held.iter_mut().filter_map(Option::take) {
            send(cx, gate, scratch, &partial);
        }
        self.due = EventTimeMs::MAX;
    }

    fn send_alone(&mut self, cx: &mut ChainContext<'_>, stamp: &Stamp, key: K, record: &V) {
        let mut accumulator = self.aggregate.create();
        self.aggregate.add(&mut accumulator, record);
        push(cx, &mut self.gate, &mut self.scratch, stamp, key, &accumulator);
    }
}

/// In time, and from no split in particular.
fn send<K: FixedKey, T: Record>(
    cx: &mut ChainContext<'_>,
    gate: &mut OutputGate,
    scratch: &mut Scratch,
    partial: &Partial<K, T>,
) {
    let at = EventTimeMs(partial.slice_start);
    let stamp = Stamp { at, clock: EventTimeMs::MIN, split: 0, origin_ns: cx.origin_ns };
    push(cx, gate, scratch, &stamp, partial.key, &partial.accumulator);
}

fn push<K: FixedKey, T: Record>(
    cx: &mut ChainContext<'_>,
    gate: &mut OutputGate,
    scratch: &mut Scratch,
    stamp: &Stamp,
    key: K,
    accumulator: &T,
) {
    let sent = accumulator.with_bytes(scratch, |payload| gate.push(stamp, key.hash_code(), key.bytes(), payload));
    report(cx, sent);
}

/// Where a key is held. Keys that follow each other lie apart, as do those that agree in their low bits.
#[inline]
fn place_of(key: &impl FixedKey) -> usize {
    let spread = (key.hash_code() as u32).wrapping_mul(0x9e37_79b9);
    (spread >> (u32::BITS - HELD_MAX.trailing_zeros())) as usize
}

impl<K, F, A, V> Stage<V> for PreAggregate<K, F, A, V>
where
    V: 'static,
    K: FixedKey,
    F: Fn(&V) -> K + 'static,
    A: Aggregate<V>,
    A::Accumulator: Record,
{
    #[inline]
    fn record(&mut self, cx: &mut ChainContext<'_>, stamp: &Stamp, record: &V) {
        let key = (self.key)(record);
        if !self.slice.holds(stamp.at.0) {
            self.slice = self.windows.slice_at(stamp.at.0);
        }
        let Slice { start: slice_start, first_end, .. } = self.slice;
        let Some(first_end) = first_end.filter(|_| stamp.clock == EventTimeMs::MIN) else {
            return self.send_alone(cx, stamp, key, record);
        };
        let Self { gate, scratch, aggregate, held, .. } = self;
        match &mut held[place_of(&key)] {
            Some(partial) if partial.key == key && partial.slice_start == slice_start => {
                aggregate.add(&mut partial.accumulator, record);
            }
            place => {
                let mut accumulator = aggregate.create();
                aggregate.add(&mut accumulator, record);
                if let Some(other) = place.replace(Partial { key, slice_start, accumulator }) {
                    send(cx, gate, scratch, &other);
                }
                self.due = self.due.min(EventTimeMs(first_end - 1));
            }
        }
    }

    fn signal(&mut self, cx: &mut ChainContext<'_>, signal: &mut Signal<'_>) -> Flow {
        match signal {
            Signal::Watermark(watermark) if *watermark >= self.due => self.release(cx),
            Signal::Snapshot(_) | Signal::Idle(true) => self.release(cx),
            _ => {}
        }
        pass_on(&mut self.gate, cx, signal)
    }

    fn is_blocked(&self) -> bool {
        self.gate.is_blocked()
    }
}

/// Aggregates accumulators of `A`: the other end of a `PreAggregate`.
pub struct Merge<A, V> {
    aggregate: A,
    _records: PhantomData<fn(&V)>,
}

impl<A: Clone, V> Clone for Merge<A, V> {
    fn clone(&self) -> Self {
        Self::of(self.aggregate.clone())
    }
}

impl<A, V> Merge<A, V> {
    /// Merges what `aggregate` has added up.
    pub fn of(aggregate: A) -> Self {
        Self { aggregate, _records: PhantomData }
    }
}

impl<V: 'static, A: Aggregate<V>> Aggregate<A::Accumulator> for Merge<A, V> {
    type Accumulator = A::Accumulator;
    type Out = A::Out;
    const MERGES_IN_ANY_ORDER: bool = A::MERGES_IN_ANY_ORDER;

    fn create(&self) -> A::Accumulator {
        self.aggregate.create()
    }

    #[inline]
    fn add(&self, accumulator: &mut A::Accumulator, record: &A::Accumulator) {
        self.aggregate.merge(accumulator, record);
    }

    fn merge(&self, accumulator: &mut A::Accumulator, other: &A::Accumulator) {
        self.aggregate.merge(accumulator, other);
    }

    fn result(&self, accumulator: &A::Accumulator) -> A::Out {
        self.aggregate.result(accumulator)
    }
}
