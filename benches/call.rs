//! Calls into a job: from the host's event to the job's reply, with keyed state in between.
//!
//! ```text
//!  there and back   host thread (core 1) --- call ---> slot (core 0): 10 k keys, count + 1 ---> host thread
//!  open loop        the same at a fixed rate; a call's latency counts from when it was meant to be made
//!  same thread      the host steps the slot itself: no queue, no other core
//!  after commit     256 calls under way, each answered once the checkpoint that holds it is durable (every 5 ms)
//! ```
//! Limits: 1 us and on one thread 300 ns, as asked; for the tail the gaps of a spinning thread at the same quantile, the smaller of those before
//! and after (both cores are taken, so it cannot spin beside a scenario), plus 20 us. Kernels: a bare echo over two cache lines between the
//! same cores, run directly before each scenario, and the same update of a hash map. The hop is measured before and after. Every
//! reply is checked. The times include one look at the clock (row "clock").
#![allow(clippy::disallowed_methods, reason = "a bench reads clocks and starts threads itself")]

#[path = "support/cache_line.rs"]
mod cache_line;
#[path = "support/cpus.rs"]
mod cpus;
#[path = "support/hiccup.rs"]
mod hiccup;
mod support;

use hashbrown::HashMap;
use hdrhistogram::Histogram;
use millstream::call::{CallHandle, Durability};
use millstream::engine::{CheckpointOptions, Engine, JobHandle, JobOptions};
use millstream::slot::{AllowedCpus, pin_current_thread};
use millstream::stream::Job;
use millstream::time::{Clock, MachineClock};
use std::collections::VecDeque;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use support::{Bench, Figure, histogram};

const KEYS: u64 = 10_000;
/// What is asked of the median.
const ASKED_NS: f64 = 1_000.0;
const ASKED_ON_ONE_THREAD_NS: f64 = 300.0;
/// What the tail may have beyond the machine's own gaps.
const TAIL_BEYOND_PROBE_NS: f64 = 20_000.0;
const UNDER_WAY: usize = 256;
const COMMIT_EVERY: Duration = Duration::from_millis(5);
const LONG: Duration = Duration::from_secs(60);

fn main() {
    let mut bench = Bench::start("call");
    let scale = if bench.is_quick() { 1 } else { 20 };
    let probe_time = Duration::from_millis(100 * scale);

    let before = (cache_line::hop(10_000 * scale), hiccup::gaps(probe_time));
    let closed = (echo(None, 50_000 * scale), there_and_back(50_000 * scale));
    let open =
        [(100_000, None), (200_000, None), (100_000, Some(Duration::from_millis(10)))].map(|(rate, checkpoints)| {
            let count = rate * scale / 10;
            (rate, checkpoints, (echo(Some(rate), count), open_loop(rate, count, checkpoints)))
        });
    let local = (kernel(100_000 * scale), same_thread(100_000 * scale));
    let (committed, committed_per_s) = after_commit(5_000 * scale);
    let after = (cache_line::hop(10_000 * scale), hiccup::gaps(probe_time));

    let hop_ns = |probe: &Histogram<u64>| probe.value_at_quantile(0.5) as f64;
    let (hop_before, hop_after) = (hop_ns(&before.0), hop_ns(&after.0));
    bench.figure(Figure::new("cache line there and back, before", "p50", 2.0 * hop_before, "ns"));
    bench.figure(Figure::new("cache line there and back, after", "p50", 2.0 * hop_after, "ns"));
    for (when, (_, gaps)) in [("before", &before), ("after", &after)] {
        for (metric, quantile) in [("p99.9", 0.999), ("max", 1.0)] {
            let scenario = format!("gaps of a spinning thread, {when}");
            bench.figure(Figure::new(scenario, metric, gaps.value_at_quantile(quantile) as f64, "ns"));
        }
    }
    let probe_ns = before.1.value_at_quantile(0.999).min(after.1.value_at_quantile(0.999)) as f64;
    bench.needs_cores(2);
    bench.probe("cache-line hop, p50", "ns", hop_before, hop_after);
    bench.figure(Figure::new("clock", "p50", clock(10_000 * scale), "ns"));

    let gaps = &before.1;
    times(&mut bench, "call, there and back", &closed, ASKED_NS, probe_ns);
    curves(&mut bench, "call, there and back", &closed, "echo over two cache lines", gaps);
    for (rate, checkpoints, latencies) in &open {
        let every = checkpoints.map_or(String::new(), |every| format!(", checkpoints {every:?}"));
        let scenario = format!("open loop {} k/s{every}", rate / 1_000);
        times(&mut bench, &scenario, latencies, ASKED_NS, probe_ns);
        curves(&mut bench, &scenario, latencies, "echo over two cache lines", gaps);
    }
    times(&mut bench, "call on the slot's own thread", &local, ASKED_ON_ONE_THREAD_NS, probe_ns);
    curves(&mut bench, "call on the slot's own thread", &local, "update of a hash map", gaps);
    for (metric, quantile) in [("p50", 0.5), ("p99", 0.99), ("max", 1.0)] {
        let at = committed.value_at_quantile(quantile) as f64 / 1e6;
        bench.figure(Figure::new("reply after commit every 5 ms", metric, at, "ms"));
    }
    bench.latencies("reply after commit every 5 ms", &committed, &[("gaps of a spinning thread", gaps)]);
    bench.figure(Figure::new("reply after commit every 5 ms", "rate", committed_per_s, "calls/s"));
    bench.finish();
}

/// Draws a scenario beside its kernel and the machine's own gaps.
fn curves(
    bench: &mut Bench,
    scenario: &str,
    (kernel, times): &(Histogram<u64>, Histogram<u64>),
    kernel_name: &str,
    gaps: &Histogram<u64>,
) {
    bench.latencies(scenario, times, &[("gaps of a spinning thread", gaps), (kernel_name, kernel)]);
}

/// The latencies of a scenario beside those of its kernel.
fn times(
    bench: &mut Bench,
    scenario: &str,
    (kernel, times): &(Histogram<u64>, Histogram<u64>),
    asked_ns: f64,
    probe_ns: f64,
) {
    let at = |times: &Histogram<u64>, quantile: f64| times.value_at_quantile(quantile) as f64;
    for (metric, quantile) in [("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999), ("max", 1.0)] {
        let (limit, goal) = match metric {
            "p50" => (Some(asked_ns), Some(1.0)),
            "p99.9" => (Some(probe_ns + TAIL_BEYOND_PROBE_NS), Some(1.0)),
            _ => (None, None),
        };
        let kernel = Some(at(kernel, quantile));
        bench.figure(Figure { limit, kernel, goal, ..Figure::new(scenario, metric, at(times, quantile), "ns") });
    }
}

#[repr(align(128))]
struct Line(AtomicU64);

/// What the machine alone does to the loop of a scenario: the other core answers as soon as it sees the question.
fn echo(rate: Option<u64>, calls_count: u64) -> Histogram<u64> {
    let (there, back) = (Line(AtomicU64::new(0)), Line(AtomicU64::new(0)));
    let total = calls_count + calls_count / 10;
    let answer = || {
        for n in 1..=total {
            while there.0.load(Ordering::Acquire) != n {
                std::hint::spin_loop();
            }
            back.0.store(n, Ordering::Release);
        }
    };
    let ask = || {
        let mut times = histogram();
        let begun_ns = MachineClock.monotonic_ns();
        for n in 1..=total {
            let intended_ns = intended(rate, begun_ns, n);
            there.0.store(n, Ordering::Release);
            while back.0.load(Ordering::Acquire) != n {
                std::hint::spin_loop();
            }
            if n > calls_count / 10 {
                times.saturating_record(MachineClock.monotonic_ns() - intended_ns);
            }
        }
        times
    };
    cpus::on_two_cores(answer, ask).1
}

/// Waits until call `n` is meant to be made, and says when that is: now, without a rate.
fn intended(rate: Option<u64>, begun_ns: u64, n: u64) -> u64 {
    let intended_ns = rate.map(|rate| begun_ns + n * 1_000_000_000 / rate);
    loop {
        let now_ns = MachineClock.monotonic_ns();
        match intended_ns {
            None => return now_ns,
            Some(intended_ns) if now_ns >= intended_ns => return intended_ns,
            Some(_) => std::hint::spin_loop(),
        }
    }
}

/// The job that all scenarios call: it counts the calls of each key.
fn counting(name: &str) -> (Job, CallHandle<u64, u64>) {
    let job = Job::new(name);
    let calls = job.calls("calls", |key: &u64| *key).answer_from_value("count", |count: &mut u64, _: &u64| {
        *count += 1;
        *count
    });
    (job, calls)
}

/// An engine with one pinned slot, and the calling thread on another core.
fn on_one_slot<T: Send>(
    name: &str,
    checkpoints: Option<Duration>,
    run: impl FnOnce(&CallHandle<u64, u64>, &JobHandle) -> T + Send,
) -> T {
    let dir = Path::new("target").join("bench-call");
    let _ = std::fs::remove_dir_all(&dir);
    let cpus = AllowedCpus::of_process().for_slots(2);
    if cpus.contains(&None) {
        eprintln!("warning: caller and slot share one CPU here, their figures are meaningless");
    }
    let engine = Engine::builder().slots(1).memory(256 << 20).start().expect("a slot starts anywhere");
    let (job, calls) = counting(name);
    let checkpoints = checkpoints.map(|every| CheckpointOptions::every(&dir, every));
    let handle = engine.submit(job, JobOptions { checkpoints, ..JobOptions::default() }).expect("the job is valid");
    assert!(calls.wait_ready(LONG), "the job starts");
    let run = || {
        cpus[1].map(|cpu| pin_current_thread("caller", cpu));
        run(&calls, &handle)
    };
    let result = std::thread::scope(|scope| scope.spawn(run).join().expect("the caller does not panic"));
    engine.stop();
    let _ = std::fs::remove_dir_all(&dir);
    result
}

/// What the calls of a run must be answered: how often their keys were called.
fn check(reply: u64, n: u64) {
    assert_eq!(reply, n / KEYS + 1, "the reply to call {n}");
}

fn there_and_back(calls_count: u64) -> Histogram<u64> {
    on_one_slot("there-and-back", None, |calls, _| {
        let (warm_up, mut times) = (calls_count / 10, histogram());
        for n in 0..warm_up + calls_count {
            let begun = Instant::now();
            let reply = calls.call(n % KEYS).expect("the job runs");
            let took = begun.elapsed();
            check(reply, n);
            if n >= warm_up {
                times.saturating_record(took.as_nanos() as u64);
            }
        }
        times
    })
}

fn open_loop(rate: u64, calls_count: u64, checkpoints: Option<Duration>) -> Histogram<u64> {
    on_one_slot("open-loop", checkpoints, |calls, _| {
        let (warm_up, mut times) = (calls_count / 10, histogram());
        let begun_ns = MachineClock.monotonic_ns();
        for n in 0..warm_up + calls_count {
            let intended_ns = intended(Some(rate), begun_ns, n);
            let reply = calls.call(n % KEYS).expect("the job runs");
            let now_ns = MachineClock.monotonic_ns();
            check(reply, n);
            if n >= warm_up {
                times.saturating_record(now_ns - intended_ns);
            }
        }
        times
    })
}

fn same_thread(calls_count: u64) -> Histogram<u64> {
    let run = move || {
        AllowedCpus::of_process().for_slots(1)[0].map(|cpu| pin_current_thread("local", cpu));
        let mut engine = Engine::builder().memory(256 << 20).start_local().expect("an engine starts anywhere");
        let (job, calls) = counting("same-thread");
        engine.submit(job, JobOptions::default()).expect("the job is valid");
        let (warm_up, mut times) = (calls_count / 10, histogram());
        for n in 0..warm_up + calls_count {
            let begun = Instant::now();
            let reply = engine.call(&calls, n % KEYS).expect("the job runs");
            let took = begun.elapsed();
            check(reply, n);
            if n >= warm_up {
                times.saturating_record(took.as_nanos() as u64);
            }
        }
        times
    };
    std::thread::scope(|scope| scope.spawn(run).join().expect("the caller does not panic"))
}

/// The same updates by hand.
fn kernel(calls_count: u64) -> Histogram<u64> {
    let (mut counts, mut times) = (HashMap::<u64, u64, foldhash::fast::FixedState>::default(), histogram());
    for n in 0..calls_count {
        let begun = Instant::now();
        let count = counts.entry(std::hint::black_box(n % KEYS)).or_default();
        *count += 1;
        let reply = std::hint::black_box(*count);
        let took = begun.elapsed();
        check(reply, n);
        times.saturating_record(took.as_nanos() as u64);
    }
    times
}

/// From the hand-over of each call to its reply, and how many were answered in a second.
fn after_commit(calls_count: u64) -> (Histogram<u64>, f64) {
    on_one_slot("after-commit", Some(COMMIT_EVERY), |calls, handle| {
        let (mut times, mut under_way) = (histogram(), VecDeque::with_capacity(UNDER_WAY));
        let begun = Instant::now();
        let mut finish = |(n, begun, pending): (u64, Instant, millstream::call::PendingCall<u64>)| {
            check(pending.wait().expect("the job runs"), n);
            times.saturating_record(begun.elapsed().as_nanos() as u64);
        };
        for n in 0..calls_count {
            if under_way.len() == UNDER_WAY {
                under_way.pop_front().map(&mut finish);
            }
            let pending = calls.try_call(n % KEYS, Durability::Committed).expect("there is room for all under way");
            under_way.push_back((n, Instant::now(), pending));
        }
        under_way.into_iter().for_each(&mut finish);
        let per_s = calls_count as f64 / begun.elapsed().as_secs_f64();
        assert!(handle.status().checkpoints.failed == 0, "every checkpoint is committed");
        (times, per_s)
    })
}

/// What a look at the clock takes.
fn clock(looks: u64) -> f64 {
    let mut times = histogram();
    for _ in 0..looks {
        let begun = Instant::now();
        times.saturating_record(begun.elapsed().as_nanos() as u64);
    }
    times.value_at_quantile(0.5) as f64
}
