//! B7: from the time a record was meant to be emitted to the sink that sees its result, through one keyed exchange.
//!
//! ```text
//!  Generator (open loop, 1 split) -> map -> key_by 10 k keys -> reduce -> Callback
//!      slot 0                           |        both slots
//! ```
//! Open loop: a record's latency counts from its intended time, whatever the engine did meanwhile. Limit: the gaps that the machine itself
//! tears into a spinning thread in the same run.
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
use std::time::Duration;
use support::{Bench, Figure, histogram};

const KEYS: u64 = 10_000;
const QUANTILES: [(&str, f64); 5] = [("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999), ("p99.99", 0.9999), ("max", 1.0)];

#[derive(Record, Clone, Copy)]
#[repr(C)]
struct Reading {
    key: u64,
    count: u64,
}

fn main() {
    let mut bench = Bench::start("end_to_end");
    let seconds = if bench.is_quick() { 1 } else { 20 };
    let probe = hiccup::gaps(Duration::from_secs(seconds.min(5)));
    for rate in [10_000, 100_000] {
        for checkpoints in [None, Some(Duration::from_millis(100))] {
            let latencies = run(rate, seconds, checkpoints);
            let every =
                checkpoints.map_or("without checkpoints".to_owned(), |every| format!("checkpoints every {every:?}"));
            let scenario = format!("{rate} ev/s, {every}");
            bench.latencies(&scenario, &latencies, &[("gaps of a spinning thread", &probe)]);
            for (metric, quantile) in QUANTILES {
                let at = |times: &Histogram<u64>| times.value_at_quantile(quantile) as f64 / 1e3;
                bench.figure(Figure {
                    limit: (quantile > 0.99).then(|| at(&probe)),
                    ..Figure::new(&scenario, metric, at(&latencies), "us")
                });
            }
        }
    }
    let idle = idle_cpu_percent(Duration::from_secs(seconds.min(5)));
    bench.figure(Figure {
        limit: Some(1.0),
        goal: Some(1.0),
        ..Figure::new("engine with an idle job", "CPU", idle, "% core")
    });
    let probe_after = hiccup::gaps(Duration::from_secs(seconds.min(5)));
    let at_three_nines = |probe: &Histogram<u64>| probe.value_at_quantile(0.999) as f64 / 1e3;
    bench.needs_cores(2);
    bench.probe("gaps of a spinning thread, p99.9", "us", at_three_nines(&probe), at_three_nines(&probe_after));
    bench.finish();
}

/// The latencies of all records but those of the first tenth of the run.
fn run(rate: u64, seconds: u64, checkpoints: Option<Duration>) -> Histogram<u64> {
    let dir = Path::new("target").join("bench-end-to-end");
    let _ = std::fs::remove_dir_all(&dir);
    let engine = Engine::builder().slots(2).memory(256 << 20).start().expect("two slots start anywhere");
    let job = Job::new("end-to-end");
    let latencies = Arc::new(Mutex::new(histogram()));
    let (shared, clock) = (latencies.clone(), MachineClock);
    let warm_up_ns = clock.monotonic_ns() + seconds * 100_000_000;
    job.source("readings", Generator::new(|n: u64| n).count(rate * seconds).per_second(rate as f64))
        .event_time(|n: &u64| EventTimeMs(*n as i64), Watermarks::monotonous())
        .map(|n: &u64| Reading { key: n.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 20, count: 1 })
        .map(|reading: &Reading| Reading { key: reading.key % KEYS, ..*reading })
        .key_by("by-key", |reading: &Reading| reading.key)
        .reduce("count", |a, b| Reading { key: a.key, count: a.count + b.count })
        .sink(
            "latencies",
            Callback::new(move |stamp: &Stamp, _: &Reading| {
                let now_ns = clock.monotonic_ns();
                if stamp.origin_ns > warm_up_ns {
                    let latency_ns = now_ns.saturating_sub(stamp.origin_ns);
                    shared.lock().expect("no slot panics").saturating_record(latency_ns);
                }
            }),
        );
    let checkpoints = checkpoints.map(|every| CheckpointOptions::every(&dir, every));
    let handle = engine.submit(job, JobOptions { checkpoints, ..JobOptions::default() }).expect("the job is valid");
    handle.wait().expect("nothing in the job fails");
    engine.stop();
    let _ = std::fs::remove_dir_all(&dir);
    Arc::try_unwrap(latencies).map_or_else(
        |shared| shared.lock().expect("no slot panics").clone(),
        |own| own.into_inner().expect("no slot panics"),
    )
}

/// What an engine costs that has a job and nothing to do.
fn idle_cpu_percent(for_time: Duration) -> f64 {
    let engine = Engine::builder().slots(2).memory(256 << 20).start().expect("two slots start anywhere");
    let job = Job::new("idle");
    job.source("readings", Generator::new(|n: u64| n).per_second(1e-3))
        .event_time(|n: &u64| EventTimeMs(*n as i64), Watermarks::monotonous())
        .key_by("by-key", |n: &u64| *n)
        .reduce("last", |_, b| *b)
        .sink("nowhere", Callback::new(|_: &Stamp, _: &u64| ()));
    let handle = engine.submit(job, JobOptions::default()).expect("the job is valid");
    std::thread::sleep(Duration::from_millis(300));
    let before = cpu_ticks();
    std::thread::sleep(for_time);
    let used_s = (cpu_ticks() - before) as f64 / 100.0;
    handle.cancel();
    used_s * 100.0 / for_time.as_secs_f64()
}

/// User and system time of this process in hundredths of a second.
fn cpu_ticks() -> u64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let behind_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    behind_name.split_whitespace().skip(11).take(2).filter_map(|ticks| ticks.parse::<u64>().ok()).sum()
}
