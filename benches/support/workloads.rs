//! The same streams for the engine, for hand-written code and for other engines: what a record of each is, and jobs over them.
//!
//! Every stream begins with each key once, so that tables have grown when the clock starts. What all sinks saw is added up: the
//! same number must come out whoever computes it.

use millstream::Record;
use millstream::engine::{Engine, JobOptions};
use millstream::operator::{Aggregate, Max, Sum};
use millstream::record::Stamp;
use millstream::sink::Callback;
use millstream::source::Generator;
use millstream::stream::Job;
use millstream::time::{EventTimeMs, Watermarks};
use millstream::window::{SlicedWindows, Tumbling, WindowResult};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A key, and how often it came.
#[derive(Record, Clone, Copy)]
#[repr(C)]
pub struct Keyed {
    /// The key.
    pub key: u64,
    /// What is added up.
    pub sum: u64,
}

/// Which keys come, how many records, in which event time.
#[derive(Clone, Copy)]
pub struct KeyedStream {
    /// How many different keys.
    pub keys: u64,
    /// How many records behind those of the filling.
    pub records: u64,
    /// Records per second of event time.
    pub per_second: u64,
}

impl KeyedStream {
    /// The key of a record: all keys once in order, then uniformly at random.
    #[inline]
    pub fn key(self, n: u64) -> u64 {
        if n < self.keys {
            return n;
        }
        let z = n.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let z = (z ^ (z >> 29)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        ((u128::from(z ^ (z >> 32)) * u128::from(self.keys)) >> 64) as u64
    }

    /// The event time of a record in milliseconds.
    #[inline]
    pub fn at_ms(self, n: u64) -> i64 {
        (u128::from(n) * 1_000 / u128::from(self.per_second)) as i64
    }

    /// Filling included.
    pub fn total(self) -> u64 {
        self.keys + self.records
    }
}

/// How fast it went once it was filled, and what came out.
#[derive(Clone, Copy, Debug)]
pub struct Outcome {
    /// Records per second.
    pub per_s: f64,
    /// The same whoever computed it.
    pub checksum: u64,
}

/// What the sinks of all subtasks saw; each adds to it now and then and at its end.
#[derive(Default)]
struct Seen {
    count: AtomicU64,
    sum: AtomicU64,
}

/// One subtask's share.
struct Tally {
    seen: Arc<Seen>,
    count: u64,
    sum: u64,
}

impl Tally {
    fn new(seen: &Arc<Seen>) -> Self {
        Self { seen: seen.clone(), count: 0, sum: 0 }
    }

    #[inline]
    fn add(&mut self, value: u64) {
        self.count += 1;
        self.sum = self.sum.wrapping_add(value);
        if self.count == 4096 {
            self.hand_in();
        }
    }

    fn hand_in(&mut self) {
        self.seen.count.fetch_add(std::mem::take(&mut self.count), Ordering::Relaxed);
        self.seen.sum.fetch_add(std::mem::take(&mut self.sum), Ordering::Relaxed);
    }
}

impl Clone for Tally {
    fn clone(&self) -> Self {
        Self::new(&self.seen)
    }
}

impl Drop for Tally {
    fn drop(&mut self) {
        self.hand_in();
    }
}

/// Keyed rolling sum: one result for every record. source -> key_by -> reduce -> sink, each on every slot.
pub fn rolling_sum(stream: KeyedStream, slots: u32) -> Outcome {
    let (job, seen) = (Job::new("rolling-sum"), Arc::new(Seen::default()));
    let mut tally = Tally::new(&seen);
    job.source(
        "keys",
        Generator::new(move |n| Keyed { key: stream.key(n), sum: 1 }).in_splits(slots).count(stream.total()),
    )
    .event_time(|_: &Keyed| EventTimeMs(0), Watermarks::monotonous())
    .key_by("by-key", |record: &Keyed| record.key)
    .reduce("sum", |a, b| Keyed { key: a.key, sum: a.sum + b.sum })
    .sink("tally", Callback::new(move |_: &Stamp, record: &Keyed| tally.add(record.sum)));
    run(job, slots, &seen, stream.keys, stream.total(), |results| results)
}

/// One sum for each key and second of event time.
pub fn tumbling_sum(stream: KeyedStream, slots: u32) -> Outcome {
    windowed_sum(stream, slots, Tumbling::of(1_000))
}

/// One sum for each key and window.
pub fn windowed_sum(stream: KeyedStream, slots: u32, windows: SlicedWindows) -> Outcome {
    windowed(stream, slots, windows, Sum::of(|record: &Keyed| record.sum as i64), |sum| sum as u64)
}

/// The largest number of each key and window: unlike a sum it cannot be taken out of a window again.
pub fn windowed_max(stream: KeyedStream, slots: u32, windows: SlicedWindows) -> Outcome {
    let spread = |record: &Keyed| (record.key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as i64;
    windowed(stream, slots, windows, Max::of(spread), |largest| largest.unwrap_or_default() as u64)
}

fn windowed<A: Aggregate<Keyed>>(
    stream: KeyedStream,
    slots: u32,
    windows: SlicedWindows,
    aggregate: A,
    number: fn(A::Out) -> u64,
) -> Outcome
where
    A::Out: Copy + Send,
{
    let (job, seen) = (Job::new("windowed"), Arc::new(Seen::default()));
    let mut tally = Tally::new(&seen);
    job.source("keys", Generator::new(|n: u64| n).in_splits(slots).count(stream.total()))
        .event_time(move |n: &u64| EventTimeMs(stream.at_ms(*n)), Watermarks::monotonous())
        .map(move |n: &u64| Keyed { key: stream.key(*n), sum: 1 })
        .key_by("by-key", |record: &Keyed| record.key)
        .window(windows)
        .aggregate("aggregate", aggregate)
        .sink(
            "tally",
            Callback::new(move |_: &Stamp, result: &WindowResult<u64, A::Out>| tally.add(square(number(result.value)))),
        );
    // The clock starts when the first window fires.
    let first_window = windows.slide_ms() as u64 * stream.per_second / 1_000;
    run(job, slots, &seen, 1, stream.total(), |_| first_window)
}

/// What a window's result adds to the checksum: sums alone would add up to the number of records however they were grouped.
#[inline]
pub fn square(sum: u64) -> u64 {
    sum.wrapping_mul(sum)
}

/// The rate of a job from its first `results_before` results on; `read` says how many records that were.
fn run(job: Job, slots: u32, seen: &Seen, results_before: u64, total: u64, read: impl Fn(u64) -> u64) -> Outcome {
    let engine = Engine::builder().slots(slots).memory(8 << 30).start().expect("slots start anywhere");
    let options = JobOptions { memory_bytes: Some(8 << 30), ..JobOptions::default() };
    let handle = engine.submit(job, options).expect("the job is valid");
    while seen.count.load(Ordering::Relaxed) < results_before && !handle.has_ended() {
        std::thread::sleep(Duration::from_millis(2));
    }
    let (begun, first) = (Instant::now(), read(seen.count.load(Ordering::Relaxed)));
    handle.wait().expect("nothing in the job fails");
    let per_s = (total - first) as f64 / begun.elapsed().as_secs_f64();
    engine.stop();
    Outcome { per_s, checksum: seen.sum.load(Ordering::Relaxed) }
}
