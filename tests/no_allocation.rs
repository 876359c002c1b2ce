//! What a record costs of the allocator: nothing, once a job is warm.
//!
//! The slot is the test's own thread, so what it allocates is counted apart from the control thread. Each job runs until its state has
//! its size, then so many steps are counted that many thousands of records pass. Exempt are event-time order, timers and the ends of windows,
//! whose trees on the heap grow and shrink with what they hold.
//!
//! No lock either, by the same path: the locks of the library are those of `metrics/registry.rs` (registering and reading), `sink/collect.rs`
//! and `sink/file_transaction.rs` (per checkpoint), `call/reply_slot.rs` (a cell, never contended) and of the control; none lies in `operator`,
//! `exchange`, `state/table.rs` or a task's step. That is by reading: a futex that is never contended leaves no trace to count.
#![allow(unsafe_code, reason = "a global allocator is an unsafe trait")]

use millstream::Record;
use millstream::engine::{Engine, JobHandle, JobOptions, LocalEngine};
use millstream::operator::{Aggregate, Count, Sum};
use millstream::record::Stamp;
use millstream::sink::Callback;
use millstream::source::Generator;
use millstream::stream::Job;
use millstream::time::{EventTimeMs, Watermarks};
use millstream::window::{Tumbling, WindowResult};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: every call goes to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, len: usize) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller keeps the contract of `realloc`.
        unsafe { System.realloc(at, layout, len) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract of `dealloc`.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[derive(Record, Clone, Copy)]
#[repr(C)]
struct Reading {
    key: u64,
    value: i64,
    at: i64,
}

const KEYS: u64 = 1_000;

/// One record a millisecond of event time, keys in turn.
fn reading(n: u64) -> Reading {
    Reading { key: n % KEYS, value: n as i64, at: n as i64 }
}

fn time(reading: &Reading) -> EventTimeMs {
    EventTimeMs(reading.at)
}

/// Steps the engine until so many results have come.
fn until(engine: &mut LocalEngine, handle: &JobHandle, results: &AtomicU64, wanted: u64) {
    while results.load(Ordering::Relaxed) < wanted {
        assert!(!handle.has_ended(), "{:?}", handle.status());
        engine.step();
    }
}

/// How often this thread allocates while `results` further results come, `warm_up` of them before.
fn allocations(build: impl FnOnce(&Job, Arc<AtomicU64>), warm_up: u64, results: u64) -> u64 {
    let mut engine = Engine::builder().memory(256 << 20).start_local().unwrap();
    let (job, seen) = (Job::new("counted"), Arc::new(AtomicU64::new(0)));
    build(&job, seen.clone());
    let handle = engine.submit(job, JobOptions::default()).unwrap();
    until(&mut engine, &handle, &seen, warm_up);
    let before = ALLOCATIONS.get();
    until(&mut engine, &handle, &seen, warm_up + results);
    ALLOCATIONS.get() - before
}

fn count<V: 'static>(seen: Arc<AtomicU64>) -> Callback<impl FnMut(&Stamp, &V) + Clone + Send + Sync> {
    Callback::new(move |_: &Stamp, _: &V| {
        seen.fetch_add(1, Ordering::Relaxed);
    })
}

#[test]
fn map_filter_and_flat_map_allocate_nothing() {
    let build = |job: &Job, seen| {
        job.source("readings", Generator::new(reading))
            .event_time(time, Watermarks::monotonous())
            .map(|reading: &Reading| Reading { value: reading.value * 2, ..*reading })
            .filter(|reading: &Reading| !reading.key.is_multiple_of(3))
            .flat_map(|reading: &Reading| [*reading, *reading])
            .sink("seen", count::<Reading>(seen));
    };
    assert_eq!(allocations(build, 10_000, 200_000), 0);
}

#[test]
fn an_exchange_and_keyed_state_allocate_nothing() {
    let build = |job: &Job, seen| {
        job.source("readings", Generator::new(reading))
            .event_time(time, Watermarks::monotonous())
            .key_by("by-key", |reading: &Reading| reading.key)
            .reduce("sum", |a, b| Reading { value: a.value + b.value, ..*b })
            .sink("seen", count::<Reading>(seen));
    };
    assert_eq!(allocations(build, 20_000, 200_000), 0);
}

/// For ten tumbling windows of this size: all keys have a result in each.
fn allocations_of_ten_windows(size_ms: i64) -> u64 {
    let build = |job: &Job, seen| {
        job.source("readings", Generator::new(reading))
            .event_time(time, Watermarks::monotonous())
            .key_by("by-key", |reading: &Reading| reading.key)
            .window(Tumbling::of(size_ms))
            .aggregate("sums", Count.and(Sum::of(|reading: &Reading| reading.value)))
            .sink("seen", count::<WindowResult<u64, (u64, i64)>>(seen));
    };
    allocations(build, 5 * KEYS, 10 * KEYS)
}

#[test]
fn what_windows_allocate_depends_on_their_ends_and_not_on_their_records() {
    let (few_records, many_records) = (allocations_of_ten_windows(2_000), allocations_of_ten_windows(20_000));
    // Nodes of the trees that order window ends, one end for each key group: 128 of them for 1,000 results.
    assert!(many_records < few_records + few_records / 10, "{few_records}, {many_records} with ten times the records");
    assert!(many_records < 10 * KEYS / 2, "{many_records} for {} results", 10 * KEYS);
}
