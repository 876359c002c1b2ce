//! B8: what a checkpoint does to the records that flow meanwhile.
//!
//! ```text
//!  Generator (as fast as possible) -> key_by -> reduce (8 B key, 16 B record) -> Callback        one slot
//!  gap = time between two results at the sink, on the slot's thread
//! ```
//! The same job runs without and with checkpoints. Pauses: every update is uniform over all keys of 256 MiB to 4 GiB of state, so each
//! checkpoint finds dirty slots on every page. Limit: the gaps that the machine itself tears into a spinning thread in the same run.
//! Throughput: the rate with checkpoints over the rate without, when all of 1 M keys change and when 1 % of them do.
//! `--only=pauses` or `throughput` runs a part, `--state-mib=N` another size of state.
#![allow(clippy::disallowed_methods, reason = "a bench reads clocks itself")]

#[path = "support/hiccup.rs"]
mod hiccup;
#[path = "support/median.rs"]
mod median;
mod support;

use hdrhistogram::Histogram;
use median::median;
use millstream::Record;
use millstream::engine::{CheckpointOptions, Engine, JobOptions};
use millstream::record::Stamp;
use millstream::sink::Callback;
use millstream::source::Generator;
use millstream::stream::Job;
use millstream::time::{Clock, EventTimeMs, MachineClock, Watermarks};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use support::{Bench, Figure, histogram};

/// What one key takes of a page, by the keyed_update bench.
const BYTES_PER_KEY: u64 = 34;

#[derive(Record, Clone, Copy)]
#[repr(C)]
struct Reading {
    key: u64,
    sum: u64,
}

struct Run {
    gaps: Histogram<u64>,
    records_per_s: f64,
    checkpoints: u64,
    last_bytes: u64,
    last_duration_ns: u64,
}

fn main() {
    let mut bench = Bench::start("checkpoint_pause");
    let quick = bench.is_quick();
    let only = std::env::args().find_map(|arg| Some(arg.strip_prefix("--only=")?.to_owned()));
    let runs_part = |part: &str| only.as_ref().is_none_or(|only| only == part);
    let asked: Vec<u64> = std::env::args().filter_map(|arg| arg.strip_prefix("--state-mib=")?.parse().ok()).collect();
    let sizes: &[u64] = match (runs_part("pauses"), asked.is_empty(), quick) {
        (false, ..) => &[],
        (true, false, _) => &asked,
        (true, true, true) => &[16],
        (true, true, false) => &[256, 1024, 4096],
    };
    let second = Duration::from_secs(1);
    for &state_mib in sizes {
        let keys = (state_mib << 20) / BYTES_PER_KEY;
        let seconds = if quick { 1 } else { 10 };
        let probe = hiccup::gaps(Duration::from_secs(seconds));
        let job = |every| run(Load { keys, changed: keys, is_timed: true }, Duration::from_secs(seconds), every);
        let (without, with) = (job(None), job(Some(second)));
        pauses(&mut bench, state_mib, &probe, &without, &with);
    }
    let keys = if quick { 100_000 } else { 1_000_000 };
    for changed in [keys / 100, keys].into_iter().filter(|_| runs_part("throughput")) {
        throughput(&mut bench, Load { keys, changed, is_timed: false });
    }
    bench.finish();
}

fn pauses(bench: &mut Bench, state_mib: u64, probe: &Histogram<u64>, without: &Run, with: &Run) {
    let us = |times: &Histogram<u64>, quantile| times.value_at_quantile(quantile) as f64 / 1e3;
    for (name, run) in [("without checkpoints", without), ("checkpoints every 1 s", with)] {
        for (metric, quantile) in
            [("p50", 0.5), ("p99.9", 0.999), ("p99.99", 0.9999), ("p99.999", 0.99999), ("max", 1.0)]
        {
            let figure = Figure::new(format!("gap, {state_mib} MiB, {name}"), metric, us(&run.gaps, quantile), "us");
            bench.figure(Figure { limit: Some(us(probe, quantile)), ..figure });
        }
    }
    let (bare, same) = (("gaps of a spinning thread", probe), ("without checkpoints", &without.gaps));
    bench.latencies(&format!("gap, {state_mib} MiB, checkpoints every 1 s"), &with.gaps, &[bare, same]);
    let title = format!("Gaps between results, {state_mib} MiB of state");
    bench.pauses(&title, ("checkpoints every 1 s", &with.gaps), &[bare, same]);
    let beyond = us(&with.gaps, 0.999) - us(probe, 0.999);
    bench.figure(Figure {
        limit: Some(50.0),
        goal: Some(1.0),
        ..Figure::new(format!("pause beyond the probe, {state_mib} MiB"), "p99.9", beyond.max(0.0), "us")
    });
    let scenario = format!("{state_mib} MiB, checkpoints every 1 s");
    bench.figure(Figure {
        kernel: Some(without.records_per_s / 1e6),
        ..Figure::new(&scenario, "rate", with.records_per_s / 1e6, "M/s")
    });
    bench.figure(Figure::new(&scenario, "completed", with.checkpoints as f64, ""));
    bench.figure(Figure::new(&scenario, "last size", with.last_bytes as f64 / 1048576.0, "MiB"));
    bench.figure(Figure::new(&scenario, "last took", with.last_duration_ns as f64 / 1e6, "ms"));
}

/// With checkpoints over without, interleaved.
fn throughput(bench: &mut Bench, load: Load) {
    let (runs, seconds) = if bench.is_quick() { (1, 0.5) } else { (5, 3.0) };
    let intervals = [(None, 1.0), (Some(1000), 0.9), (Some(100), 0.85)];
    let mut rates = [const { Vec::new() }; 3];
    let mut last = [const { None }; 3];
    for _ in 0..runs {
        for (index, (every_ms, _)) in intervals.into_iter().enumerate() {
            let run = run(load, Duration::from_secs_f64(seconds), every_ms.map(Duration::from_millis));
            rates[index].push(run.records_per_s / 1e6);
            last[index] = Some(run);
        }
    }
    let mut middle = rates.map(|rates| {
        let mut rates = rates.into_iter();
        median(runs, || rates.next().unwrap_or_default())
    });
    let kernel = std::mem::take(&mut middle[0]);
    for (index, (every_ms, goal)) in intervals.into_iter().enumerate().skip(1) {
        let scenario =
            format!("{} of {} keys change, every {} ms", load.changed, load.keys, every_ms.unwrap_or_default());
        bench.figure(Figure {
            kernel: Some(kernel),
            goal: Some(goal),
            ..Figure::new(&scenario, "rate", middle[index], "M/s")
        });
        if let Some(run) = &last[index] {
            bench.figure(Figure::new(&scenario, "completed", run.checkpoints as f64, ""));
            bench.figure(Figure::new(&scenario, "last size", run.last_bytes as f64 / 1048576.0, "MiB"));
        }
    }
}

/// What a job does.
#[derive(Clone, Copy)]
struct Load {
    keys: u64,
    /// Over how many of the keys the updates go, once all are there.
    changed: u64,
    /// Whether the time between two results is measured, which costs a look at the clock for each.
    is_timed: bool,
}

/// Fills the state, then updates it for some time; gaps and rate are those of the second part.
fn run(load: Load, for_time: Duration, checkpoints: Option<Duration>) -> Run {
    let Load { keys, changed, is_timed } = load;
    let dir = Path::new("target").join("bench-checkpoint-pause");
    let _ = std::fs::remove_dir_all(&dir);
    let engine = Engine::builder().slots(1).memory(6 << 30).start().expect("a slot starts anywhere");
    let job = Job::new("pause");
    let measured = Arc::new(Mutex::new(histogram()));
    let results = Arc::new(AtomicU64::new(0));
    let (shared, counted, clock) = (measured.clone(), results.clone(), MachineClock);
    let (mut last_ns, mut count) = (0, 0u64);
    job.source("readings", Generator::new(|n: u64| n))
        .event_time(|n: &u64| EventTimeMs(*n as i64), Watermarks::monotonous())
        .map(move |n: &u64| {
            let random = n.wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(31);
            // The changed keys are spread over all pages.
            let key = if *n < keys { *n } else { random % changed * (keys / changed) };
            Reading { key, sum: 1 }
        })
        .key_by("by-key", |reading: &Reading| reading.key)
        .reduce("sums", |a, b| Reading { key: a.key, sum: a.sum + b.sum })
        .sink(
            "gaps",
            Callback::new(move |_: &Stamp, _: &Reading| {
                count += 1;
                counted.store(count, Ordering::Relaxed);
                if count <= keys || !is_timed {
                    return;
                }
                let now_ns = clock.monotonic_ns();
                if last_ns != 0 {
                    shared.lock().expect("no slot panics").saturating_record(now_ns - last_ns);
                }
                last_ns = now_ns;
            }),
        );
    let checkpoints = checkpoints.map(|every| CheckpointOptions::every(&dir, every));
    let options = JobOptions { checkpoints, memory_bytes: Some(6 << 30), ..JobOptions::default() };
    let handle = engine.submit(job, options).expect("the job is valid");
    while results.load(Ordering::Relaxed) <= keys {
        assert!(!handle.status().state.has_ended(), "the job ended: {:?}", handle.status().reason);
        std::thread::sleep(Duration::from_millis(20));
    }
    // The first checkpoint is a full one.
    std::thread::sleep(Duration::from_millis(if keys > 10_000_000 { 3000 } else { 500 }));
    *measured.lock().expect("no slot panics") = histogram();
    let (begun, first) = (Instant::now(), results.load(Ordering::Relaxed));
    std::thread::sleep(for_time);
    let (records, took) = (results.load(Ordering::Relaxed) - first, begun.elapsed());
    let gaps = measured.lock().expect("no slot panics").clone();
    let figures = handle.status().checkpoints;
    handle.cancel();
    let _ = handle.wait();
    engine.stop();
    let _ = std::fs::remove_dir_all(&dir);
    Run {
        gaps,
        records_per_s: records as f64 / took.as_secs_f64(),
        checkpoints: figures.completed,
        last_bytes: figures.last_bytes,
        last_duration_ns: figures.last_duration_ns,
    }
}
