//! B8: what a checkpoint does to the records that flow meanwhile, at 256 MiB of keyed state.
//!
//! ```text
//!  Generator (as fast as possible) -> key_by -> reduce (8 B key, 16 B record) -> Callback        one slot, state 256 MiB
//!  gap = time between two results at the sink, on the slot's thread
//! ```
//! The same job runs without and with checkpoints; every update is uniform over all keys, so each checkpoint finds dirty slots on every
//! page. Limit: the gaps that the machine itself tears into a spinning thread in the same run.
#![allow(clippy::disallowed_methods, reason = "a bench reads clocks itself")]

#[path = "support/hiccup.rs"]
mod hiccup;
mod support;

use hdrhistogram::Histogram;
use millstream::Record;
use millstream::engine::{CheckpointOptions, Engine, JobOptions};
use millstream::record::Stamp;
use millstream::sink::Callback;
use millstream::source::Generator;
use millstream::stream::Job;
use millstream::time::{Clock, EventTimeMs, MachineClock, Watermarks};
use std::path::Path;
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
    let state_mib = if bench.is_quick() { 32 } else { 256 };
    let keys = (state_mib << 20) / BYTES_PER_KEY;
    let probe = hiccup::gaps(Duration::from_secs(if bench.is_quick() { 1 } else { 5 }));
    let seconds = if bench.is_quick() { 2 } else { 15 };
    let without = run(keys, seconds, None);
    let with = run(keys, seconds, Some(Duration::from_secs(1)));
    for (name, run) in [("without checkpoints", &without), ("checkpoints every 1 s", &with)] {
        for (metric, quantile) in
            [("p50", 0.5), ("p99.9", 0.999), ("p99.99", 0.9999), ("p99.999", 0.99999), ("max", 1.0)]
        {
            let at = |times: &Histogram<u64>| times.value_at_quantile(quantile) as f64 / 1e3;
            bench.figure(Figure {
                limit: Some(at(&probe)),
                ..Figure::new(format!("gap, {state_mib} MiB, {name}"), metric, at(&run.gaps), "us")
            });
        }
    }
    let pause_us = with.gaps.value_at_quantile(0.999) as f64 / 1e3;
    bench.figure(Figure {
        limit: Some(500.0),
        goal: Some(1.0),
        ..Figure::new("gap with checkpoints", "p99.9", pause_us, "us")
    });
    bench.figure(Figure {
        kernel: Some(without.records_per_s / 1e6),
        goal: Some(0.9),
        ..Figure::new("throughput with over without", "rate", with.records_per_s / 1e6, "M/s")
    });
    bench.figure(Figure::new("checkpoints completed", "count", with.checkpoints as f64, ""));
    bench.figure(Figure::new("last checkpoint", "size", with.last_bytes as f64 / 1048576.0, "MiB"));
    bench.figure(Figure::new("last checkpoint", "duration", with.last_duration_ns as f64 / 1e6, "ms"));
    bench.finish();
}

/// Fills the state, then updates it for `seconds`; gaps and rate are those of the second part.
fn run(keys: u64, seconds: u64, checkpoints: Option<Duration>) -> Run {
    let dir = Path::new("target").join("bench-checkpoint-pause");
    let _ = std::fs::remove_dir_all(&dir);
    let engine = Engine::builder().slots(1).memory(2 << 30).start().expect("a slot starts anywhere");
    let job = Job::new("pause");
    let measured = Arc::new(Mutex::new((histogram(), 0u64)));
    let (shared, clock) = (measured.clone(), MachineClock);
    let (mut last_ns, mut count) = (0, 0u64);
    job.source("readings", Generator::new(|n: u64| n))
        .event_time(|n: &u64| EventTimeMs(*n as i64), Watermarks::monotonous())
        .map(move |n: &u64| {
            let key = if *n < keys { *n } else { n.wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(31) % keys };
            Reading { key, sum: 1 }
        })
        .key_by("by-key", |reading: &Reading| reading.key)
        .reduce("sums", |a, b| Reading { key: a.key, sum: a.sum + b.sum })
        .sink(
            "gaps",
            Callback::new(move |_: &Stamp, _: &Reading| {
                count += 1;
                if count <= keys {
                    return;
                }
                let now_ns = clock.monotonic_ns();
                if last_ns != 0 {
                    let mut measured = shared.lock().expect("no slot panics");
                    measured.0.saturating_record(now_ns - last_ns);
                    measured.1 += 1;
                }
                last_ns = now_ns;
            }),
        );
    let checkpoints = checkpoints.map(|every| CheckpointOptions::every(&dir, every));
    let options = JobOptions { checkpoints, memory_bytes: Some(2 << 30), ..JobOptions::default() };
    let handle = engine.submit(job, options).expect("the job is valid");
    while measured.lock().expect("no slot panics").1 == 0 {
        assert!(!handle.status().state.has_ended(), "the job ended: {:?}", handle.status().reason);
        std::thread::sleep(Duration::from_millis(20));
    }
    std::thread::sleep(Duration::from_secs(1));
    *measured.lock().expect("no slot panics") = (histogram(), 0);
    let begun = Instant::now();
    std::thread::sleep(Duration::from_secs(seconds));
    let (gaps, records) = measured.lock().expect("no slot panics").clone();
    let figures = handle.status().checkpoints;
    handle.cancel();
    let _ = handle.wait();
    engine.stop();
    let _ = std::fs::remove_dir_all(&dir);
    Run {
        gaps,
        records_per_s: records as f64 / begun.elapsed().as_secs_f64(),
        checkpoints: figures.completed,
        last_bytes: figures.last_bytes,
        last_duration_ns: figures.last_duration_ns,
    }
}
