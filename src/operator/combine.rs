//! Combines the records of one key and slice before they cross to another core, at the end of a chain.
//!
//! Here: a table of accumulators that fits into the processor's cache. A key that comes again costs an addition instead of a record in a
//! channel and an update of state; a key that takes the place of another sends the other on. Where few come again, records pass by the
//! table for a while. Not here: windows and state (`window_aggregate`, which merges what arrives as if it were records).
//!
//! Nothing is held that a receiver could miss: what belongs to a window goes out before the watermark that completes the window, all of it
//! before a barrier and before the input turns idle. Records that are late for some window, and those in no window, go alone and
//! under their own stamp, so that the receiver judges them as it would have. Only aggregates that merge in any order qualify, because what
//! is combined depends on timing. So results are those without combining, and nothing of this is in a checkpoint.
//!
//! Semantics: local-global aggregation of Flink SQL (`LocalSlicingWindowAggOperator`); Beam's combiner lifting. A hot key (skew) crosses
//! once per sender and slice.

use super::aggregate::Aggregate;
use super::exchange::pass_on;
use super::{ChainContext, Flow, Signal, Stage};
use crate::exchange::OutputGate;
use crate::memory::{MemoryBudget, MemoryError, Reservation};
use crate::record::{FixedKey, Stamp};
use crate::state::FixedValue;
use crate::time::{EventTimeMs, Watermark};
use crate::window::{Slice, SlicedWindows};
use std::marker::PhantomData;

/// What the buckets take at most: half of a cache of 1 MiB.
const TABLE_BYTES_MAX: usize = 1 << 19;
/// And at most this share of the job's memory: every sender has a table, and a job short of memory rather combines less than fails.
const BUDGET_SHARE: usize = 64;
/// Whether records of the same keys come again is judged by so many at a time.
const JUDGED_BY: u32 = 1 << 13;
/// Fewer than one in so many that find their key are not worth the look.
const WORTH_ONE_IN: u32 = 4;
/// For how many records nothing is looked up then.
const PASS_BY: u32 = 1 << 18;
/// The words an accumulator may take: with event time and a key of 8 bytes a combined record fills a cache line.
const WORDS: usize = 6;
/// How many keys a bucket holds.
const ENTRIES: usize = 2;
/// The golden ratio of 2^32: keys that are numbers one after the other fall into buckets far from one another.
const SPREAD: u32 = 0x9e37_79b9;
/// No slice starts here, so that an entry can be empty.
const EMPTY: i64 = i64::MIN;

/// The accumulator of some records of one key and slice, on its way to the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable, millstream::Schema)]
#[repr(C)]
pub struct Partial {
    words: [u64; WORDS],
}

impl Partial {
    fn of<T: FixedValue>(accumulator: &T) -> Self {
        let mut partial = Self { words: [0; WORDS] };
        accumulator.store(&mut bytemuck::bytes_of_mut(&mut partial.words)[..T::LEN]);
        partial
    }

    fn accumulator<T: FixedValue>(&self) -> T {
        T::load(&bytemuck::bytes_of(&self.words)[..T::LEN])
    }
}

/// Aggregates partial accumulators of `A` over records of type `V`, to the same accumulators and results.
pub struct MergePartials<A, V> {
    aggregate: A,
    _records: PhantomData<fn(&V)>,
}

impl<A: Aggregate<V>, V: 'static> MergePartials<A, V> {
    /// Merges what `aggregate` combined.
    pub fn new(aggregate: A) -> Self {
        const {
            assert!(
                A::MERGES_IN_ANY_ORDER,
                "only aggregates that merge in any order can be combined before the exchange"
            );
            assert!(
                A::Accumulator::LEN <= size_of::<Partial>(),
                "accumulators of more than 48 bytes cannot be combined"
            );
        }
        Self { aggregate, _records: PhantomData }
    }
}

impl<A: Clone, V> Clone for MergePartials<A, V> {
    fn clone(&self) -> Self {
        Self { aggregate: self.aggregate.clone(), _records: PhantomData }
    }
}

impl<A: Aggregate<V>, V: 'static> Aggregate<Partial> for MergePartials<A, V> {
    type Accumulator = A::Accumulator;
    type Out = A::Out;
    const MERGES_IN_ANY_ORDER: bool = A::MERGES_IN_ANY_ORDER;
    const RETRACTS: bool = A::RETRACTS;

    fn create(&self) -> A::Accumulator {
        self.aggregate.create()
    }

    #[inline]
    fn add(&self, accumulator: &mut A::Accumulator, partial: &Partial) {
        self.aggregate.merge(accumulator, &partial.accumulator());
    }

    fn merge(&self, accumulator: &mut A::Accumulator, other: &A::Accumulator) {
        self.aggregate.merge(accumulator, other);
    }

    fn retract(&self, accumulator: &mut A::Accumulator, other: &A::Accumulator) {
        self.aggregate.retract(accumulator, other);
    }

    fn result(&self, accumulator: &A::Accumulator) -> A::Out {
        self.aggregate.result(accumulator)
    }
}

/// The end of a chain that combines before it sends.
pub struct Combine<V, K, F, A: Aggregate<V>> {
    gate: OutputGate,
    key: F,
    windows: SlicedWindows,
    aggregate: A,
    table: Box<[Bucket<K, A::Accumulator>]>,
    /// How many bits of a key's hash do not say which bucket is its.
    hash_rest_bits: u32,
    /// Where in the table something is held: bucket and entry.
    held: Vec<u32>,
    /// What the table takes of the budget.
    _reserved: Reservation,
    /// The slice of the last record.
    slice: Slice,
    /// The first watermark that completes a window of which something is held.
    due: Watermark,
    watermark: Watermark,
    origin_ns: u64,
    worth: Worth,
    _records: PhantomData<fn(&V)>,
}

/// A key is in one of these two. They begin a cache line, which for keys and accumulators of a word is all that a look touches.
#[repr(align(64))]
struct Bucket<K, T>([Entry<K, T>; ENTRIES]);

struct Entry<K, T> {
    slice_start: i64,
    key: K,
    accumulator: T,
}

/// Whether looking keys up pays.
#[derive(Default)]
struct Worth {
    looked_up: u32,
    found: u32,
    pass_by: u32,
}

impl<V, K, F, A> Combine<V, K, F, A>
where
    K: FixedKey,
    F: Fn(&V) -> K,
    A: Aggregate<V>,
{
    /// The end of a chain, in front of `gate`; the table counts against `budget`.
    pub fn open(
        gate: OutputGate,
        key: F,
        windows: SlicedWindows,
        aggregate: A,
        budget: &MemoryBudget,
    ) -> Result<Self, MemoryError> {
        let bucket_bytes = size_of::<Bucket<K, A::Accumulator>>();
        let bytes_max = TABLE_BYTES_MAX.min(budget.limit_bytes() / BUDGET_SHARE);
        let bits = (bytes_max / bucket_bytes).max(2).ilog2();
        let buckets = 1usize << bits;
        let bytes = buckets * (bucket_bytes + ENTRIES * size_of::<u32>());
        let reserved = budget.reserve("combining before an exchange", bytes)?;
        let empty = || Entry { slice_start: EMPTY, key: K::zeroed(), accumulator: aggregate.create() };
        Ok(Self {
            gate,
            key,
            windows,
            table: std::iter::repeat_with(|| Bucket(std::array::from_fn(|_| empty()))).take(buckets).collect(),
            hash_rest_bits: u32::BITS - bits,
            aggregate,
            held: Vec::with_capacity(buckets * ENTRIES),
            _reserved: reserved,
            slice: windows.slice_at(0),
            due: Watermark::MAX,
            watermark: Watermark::MIN,
            origin_ns: 0,
            worth: Worth::default(),
            _records: PhantomData,
        })
    }

    /// Adds a record to what is held of its key and slice, which is in time for all windows.
    fn hold(&mut self, cx: &mut ChainContext<'_>, key: K, complete: Watermark, record: &V) {
        let start = self.slice.start;
        let at = (key.hash_code().cast_unsigned().wrapping_mul(SPREAD) >> self.hash_rest_bits) as usize;
        let Bucket(entries) = &mut self.table[at];
        let [is_first, is_second] = entries.each_ref().map(|entry| entry.slice_start == start && entry.key == key);
        self.worth.looked_up(is_first | is_second);
        if is_first | is_second {
            // Which of the two it is cannot be foretold.
            return self.aggregate.add(&mut entries[usize::from(is_second)].accumulator, record);
        }
        let place = ENTRIES * at + usize::from(entries[1].slice_start == EMPTY);
        if entries[place % ENTRIES].slice_start == EMPTY {
            self.held.push(place as u32);
        } else {
            self.send(cx, place);
        }
        let mut accumulator = self.aggregate.create();
        self.aggregate.add(&mut accumulator, record);
        self.table[at].0[place % ENTRIES] = Entry { slice_start: start, key, accumulator };
        self.due = self.due.min(complete);
    }

    /// Sends what is held at a place of the table.
    fn send(&mut self, cx: &mut ChainContext<'_>, place: usize) {
        let Entry { slice_start, key, accumulator } = &self.table[place / ENTRIES].0[place % ENTRIES];
        let at = EventTimeMs(*slice_start);
        // In time for every window, as all records in it were.
        let stamp = Stamp { at, clock: EventTimeMs::MIN, split: 0, origin_ns: self.origin_ns };
        push(&mut self.gate, cx, &stamp, key, accumulator);
    }

    fn send_alone(&mut self, cx: &mut ChainContext<'_>, stamp: &Stamp, key: K, record: &V) {
        let mut accumulator = self.aggregate.create();
        self.aggregate.add(&mut accumulator, record);
        push(&mut self.gate, cx, stamp, &key, &accumulator);
    }

    fn send_all(&mut self, cx: &mut ChainContext<'_>) {
        let mut held = std::mem::take(&mut self.held);
        for place in held.drain(..) {
            let place = place as usize;
            self.send(cx, place);
            self.table[place / ENTRIES].0[place % ENTRIES].slice_start = EMPTY;
        }
        self.held = held;
        self.due = Watermark::MAX;
    }
}

#[inline]
fn push<K: FixedKey, T: FixedValue>(
    gate: &mut OutputGate,
    cx: &mut ChainContext<'_>,
    stamp: &Stamp,
    key: &K,
    accumulator: &T,
) {
    let partial = Partial::of(accumulator);
    let payload = bytemuck::bytes_of(&partial);
    gate.push(stamp, key.hash_code(), key.bytes(), payload, |error| cx.fail("exchange", error));
}

impl<V, K, F, A> Stage<V> for Combine<V, K, F, A>
where
    V: 'static,
    K: FixedKey,
    F: Fn(&V) -> K + 'static,
    A: Aggregate<V>,
{
    #[inline]
    fn record(&mut self, cx: &mut ChainContext<'_>, stamp: &Stamp, record: &V) {
        let key = (self.key)(record);
        self.origin_ns = stamp.origin_ns;
        if !self.slice.holds(stamp.at.0) {
            self.slice = self.windows.slice_at(stamp.at.0);
        }
        let clock = stamp.clock.max(self.watermark);
        match self.slice.first_end.map(|end| self.windows.window_ending(end).max_timestamp()) {
            Some(complete) if clock < complete && !self.worth.passes_by() => self.hold(cx, key, complete, record),
            _ => self.send_alone(cx, stamp, key, record),
        }
    }

    fn signal(&mut self, cx: &mut ChainContext<'_>, signal: &mut Signal<'_>) -> Flow {
        match signal {
            Signal::Watermark(watermark) => {
                if *watermark >= self.due {
                    self.send_all(cx);
                }
                self.watermark = self.watermark.max(*watermark);
            }
            Signal::Idle(true) | Signal::Snapshot(_) => self.send_all(cx),
            _ => {}
        }
        pass_on(&mut self.gate, cx, signal)
    }

    fn is_blocked(&self) -> bool {
        self.gate.is_blocked()
    }
}

impl Worth {
    #[inline]
    fn looked_up(&mut self, found: bool) {
        self.looked_up += 1;
        self.found += u32::from(found);
        if self.looked_up == JUDGED_BY {
            let pass_by = if self.found < JUDGED_BY / WORTH_ONE_IN { PASS_BY } else { 0 };
            *self = Self { pass_by, ..Self::default() };
        }
    }

    #[inline]
    fn passes_by(&mut self) -> bool {
        if self.pass_by == 0 {
            return false;
        }
        self.pass_by -= 1;
        true
    }
}
