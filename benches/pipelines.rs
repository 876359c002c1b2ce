//! B1, B3: whole jobs against the same work written by hand.
//!
//! ```text
//!  chain    64 B records from memory -> map -> filter -> sink                                        one slot
//!  rolling  keys -> key_by -> reduce -> sink, a result for every record                              one slot, two slots
//!  windows  keys -> key_by -> 1 s tumbling sum -> sink                                               one slot
//!  sliding  keys -> key_by -> sum over 10 s every 20 ms -> sink                                      one slot
//! ```
//! Kernels: a loop over the same records; a table for exactly these keys with prefetch, on two threads with batches handed over between
//! them. All are interleaved, the median counts, and all must come to the same sum. Keys are uniform; each came once before the clock
//! starts. `--only=chain`, `rolling`, `windows` or `sliding` runs a part, `--keys=N` other numbers of keys.
//! `--counted=rolling`, `windows`, `sliding` or `sliding-max` with `--keys=N --records=N` runs the engine's job alone, once, on one slot: the instructions that
//! `valgrind --tool=callgrind` counts in two lengths of it, subtracted, are those of the records between.
#![allow(clippy::disallowed_methods, reason = "a bench reads clocks and starts threads itself")]

#[path = "support/by_hand.rs"]
mod by_hand;
#[path = "support/cache_line.rs"]
mod cache_line;
#[path = "support/cpus.rs"]
mod cpus;
#[path = "support/huge.rs"]
mod huge;
#[path = "support/median.rs"]
mod median;
#[path = "support/open_table.rs"]
mod open_table;
mod support;
#[path = "support/workloads.rs"]
mod workloads;

use median::median;
use millstream::Record;
use millstream::engine::{Engine, JobOptions};
use millstream::record::Stamp;
use millstream::sink::Callback;
use millstream::source::Generator;
use millstream::stream::Job;
use millstream::time::{EventTimeMs, Watermarks};
use millstream::window::{SlicedWindows, Sliding, Tumbling};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;
use support::{Bench, Figure};
use workloads::{KeyedStream, Outcome};

fn main() {
    if let Some(part) = argument("--counted=") {
        return counted(&part);
    }
    let mut bench = Bench::start("pipelines");
    let quick = bench.is_quick();
    let only = argument("--only=");
    let runs_part = |part: &str| only.as_ref().is_none_or(|only| only == part);
    let asked: Vec<u64> = std::env::args().filter_map(|arg| arg.strip_prefix("--keys=")?.parse().ok()).collect();
    let keys: &[u64] = match (asked.is_empty(), quick) {
        (false, _) => &asked,
        (true, true) => &[10_000],
        (true, false) => &[10_000, 1_000_000, 10_000_000],
    };
    bench.needs_cores(2);
    let hop = || cache_line::hop(if quick { 1_000 } else { 100_000 }).value_at_quantile(0.5) as f64;
    let before = hop();
    if runs_part("chain") {
        let working_sets: &[usize] = if quick { &[128 << 10] } else { &[128 << 10, 256 << 20] };
        working_sets.iter().for_each(|&bytes| chain(&mut bench, bytes, if quick { 1_000_000 } else { 50_000_000 }));
    }
    if runs_part("rolling") {
        keys.iter().for_each(|&keys| rolling(&mut bench, keys, if quick { 300_000 } else { 20_000_000 }));
    }
    if runs_part("windows") {
        let keys = if quick { 10_000 } else { 1_000_000 };
        windows(&mut bench, keys, if quick { 300_000 } else { 49_000_000 });
    }
    if runs_part("sliding") {
        sliding(&mut bench, if quick { 1_000 } else { 10_000 }, if quick { 300_000 } else { 20_000_000 });
    }
    bench.probe("cache-line hop, p50", "ns", before, hop());
    bench.finish();
}

/// What an argument that begins like this says.
fn argument(name: &str) -> Option<String> {
    std::env::args().find_map(|arg| Some(arg.strip_prefix(name)?.to_owned()))
}

/// One job and nothing beside it.
fn counted(part: &str) {
    let number = |name, default| argument(name).and_then(|text| text.parse().ok()).unwrap_or(default);
    let (keys, records) = (number("--keys=", 10_000), number("--records=", 1_000_000));
    let stream =
        KeyedStream { keys, records, per_second: if part.starts_with("sliding") { 100 * keys } else { 10 * keys } };
    let job = match part {
        "rolling" => workloads::rolling_sum,
        "windows" => workloads::tumbling_sum,
        "sliding" => |stream, slots| workloads::windowed_sum(stream, slots, ten_seconds_every_20_ms()),
        "sliding-max" => |stream, slots| workloads::windowed_max(stream, slots, ten_seconds_every_20_ms()),
        other => panic!("--counted={other}: rolling, windows, sliding or sliding-max"),
    };
    println!("{part}, {keys} keys, {records} records: {:?}", job(stream, 1));
}

/// Runs all in turn, again and again; the median rates in millions per second. All must agree on what comes out.
fn interleaved<const N: usize>(runs: usize, mut each: [&mut dyn FnMut() -> Outcome; N]) -> [f64; N] {
    let mut rates = [const { Vec::new() }; N];
    let mut checksum = None;
    for _ in 0..runs {
        for (run, rates) in each.iter_mut().zip(&mut rates) {
            let outcome = run();
            assert_eq!(*checksum.get_or_insert(outcome.checksum), outcome.checksum, "the same work gives the same sum");
            rates.push(outcome.per_s / 1e6);
        }
    }
    rates.map(|rates| {
        let mut rates = rates.into_iter();
        median(runs, || rates.next().unwrap_or_default())
    })
}

#[derive(Record, Clone, Copy)]
#[repr(C)]
struct Wide([u64; 8]);

#[inline]
fn mapped(record: &Wide) -> Wide {
    let mut fields = record.0;
    fields[1] = fields[0].wrapping_mul(3) + fields[2];
    Wide(fields)
}

#[inline]
fn passes(record: &Wide) -> bool {
    record.0[1] & 3 != 0
}

fn chain(bench: &mut Bench, bytes: usize, records: u64) {
    let len = bytes / size_of::<Wide>();
    let data: Arc<Vec<Wide>> = Arc::new((0..len as u64).map(|n| Wide([n, 0, n ^ 7, 1, 2, 3, 4, 5])).collect());
    let by_hand = || {
        let (begun, mut sum) = (Instant::now(), 0u64);
        for n in 0..records {
            let record = mapped(&data[n as usize & (len - 1)]);
            if passes(&record) {
                sum = sum.wrapping_add(record.0[1]);
            }
        }
        let checksum = std::hint::black_box(sum);
        Outcome { per_s: records as f64 / begun.elapsed().as_secs_f64(), checksum }
    };
    let by_engine = || {
        let (job, total) = (Job::new("chain"), Arc::new(AtomicU64::new(0)));
        let (data, mask, added) = (data.clone(), len - 1, total.clone());
        let mut sum = Summed { sum: 0, total: added };
        job.source("records", Generator::new(move |n| data[n as usize & mask]).count(records))
            .event_time(|_: &Wide| EventTimeMs(0), Watermarks::monotonous())
            .map(mapped)
            .filter(passes)
            .sink("sum", Callback::new(move |_: &Stamp, record: &Wide| sum.add(record.0[1])));
        let engine = Engine::builder().slots(1).memory(64 << 20).start().expect("a slot starts anywhere");
        let begun = Instant::now();
        engine.submit(job, JobOptions::default()).expect("the job is valid").wait().expect("nothing fails");
        let per_s = records as f64 / begun.elapsed().as_secs_f64();
        engine.stop();
        Outcome { per_s, checksum: total.load(Ordering::Relaxed) }
    };
    let runs = if bench.is_quick() { 1 } else { 5 };
    let [kernel, engine] = interleaved(runs, [&mut || by_hand(), &mut || by_engine()]);
    bench.figure(Figure {
        kernel: Some(kernel),
        goal: Some(0.8),
        ..Figure::new(format!("map + filter, 64 B, working set {} KiB", bytes >> 10), "rate", engine, "M/s")
    });
}

/// Hands its sum in when the sink is dropped.
#[derive(Clone)]
struct Summed {
    sum: u64,
    total: Arc<AtomicU64>,
}

impl Summed {
    /// A closure that named the field alone would take a copy of it, and the sum would be lost.
    #[inline]
    fn add(&mut self, value: u64) {
        self.sum = self.sum.wrapping_add(value);
    }
}

impl Drop for Summed {
    fn drop(&mut self) {
        self.total.fetch_add(self.sum, Ordering::Relaxed);
    }
}

fn rolling(bench: &mut Bench, keys: u64, records: u64) {
    let stream = KeyedStream { keys, records, per_second: 1_000_000 };
    let runs = if bench.is_quick() { 1 } else { 5 };
    let [kernel, kernel_on_two, one, two] = interleaved(
        runs,
        [
            &mut || by_hand::rolling_sum(stream),
            &mut || by_hand::rolling_sum_on_two(stream),
            &mut || workloads::rolling_sum(stream, 1),
            &mut || workloads::rolling_sum(stream, 2),
        ],
    );
    let figure = |what: &str, rate| Figure::new(format!("rolling sum, {keys} keys, {what}"), "rate", rate, "M/s");
    bench.figure(Figure { kernel: Some(kernel), ..figure("1 slot", one) });
    bench.figure(Figure { kernel: Some(kernel_on_two), ..figure("2 slots", two) });
    let goal = if keys < 1_000_000 { 1.2 } else { 1.6 };
    bench.figure(Figure { limit: Some(one), goal: Some(goal), ..figure("2 slots over 1", two) });
}

fn windows(bench: &mut Bench, keys: u64, records: u64) {
    let per_second = 10 * keys;
    let stream = KeyedStream { keys, records, per_second };
    let runs = if bench.is_quick() { 1 } else { 5 };
    let [kernel, engine] =
        interleaved(runs, [&mut || by_hand::tumbling_sum(stream), &mut || workloads::tumbling_sum(stream, 1)]);
    let scenario = format!("1 s tumbling sum, {keys} keys, {per_second} events a window");
    bench.figure(Figure { kernel: Some(kernel), goal: Some(0.5), ..Figure::new(scenario, "rate", engine, "M/s") });
}

/// The windows of Jet's latency benchmark: 500 slices each.
fn ten_seconds_every_20_ms() -> SlicedWindows {
    Sliding::of(10_000).every(20)
}

/// Each key is in every window, so half a result for every record. The limit: the same sum over windows that do not overlap.
fn sliding(bench: &mut Bench, keys: u64, records: u64) {
    let stream = KeyedStream { keys, records, per_second: 100 * keys };
    let runs = if bench.is_quick() { 1 } else { 5 };
    let [kernel, engine] = interleaved(
        runs,
        [&mut || by_hand::sliding_sum(stream, 500, 20), &mut || {
            workloads::windowed_sum(stream, 1, ten_seconds_every_20_ms())
        }],
    );
    let [tumbling] = interleaved(runs, [&mut || workloads::windowed_sum(stream, 1, Tumbling::of(1_000))]);
    let scenario = format!("sum over 10 s every 20 ms, {keys} keys, {} events/s", stream.per_second);
    let figure = Figure { kernel: Some(kernel), ..Figure::new(scenario, "rate", engine, "M/s") };
    bench.figure(Figure { limit: Some(tumbling), ..figure });
}
