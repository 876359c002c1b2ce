//! How long a record takes to the sink, at several rates, with and without checkpoints.

use crate::support::{Bench, Figure, histogram};
use crate::{QUANTILES, Reading, hiccup};
use hdrhistogram::Histogram;
use millstream::engine::{CheckpointOptions, Engine, JobOptions};
use millstream::record::Stamp;
use millstream::sink::Callback;
use millstream::source::Generator;
use millstream::stream::Job;
use millstream::time::{Clock, EventTimeMs, MachineClock, Watermarks};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

const FEW_KEYS: u64 = 10_000;
const MANY_KEYS: u64 = 1_000_000;
const CHECKPOINT_EVERY: Duration = Duration::from_millis(100);

/// One run.
#[derive(Clone, Copy)]
struct Run {
    per_second: u64,
    keys: u64,
    busy_poll: bool,
    is_durable: bool,
    time: Duration,
}

pub fn measure(bench: &mut Bench, time: Duration) {
    let rates = [(10_000, 2.0), (100_000, 2.0), (1_000_000, 5.0)];
    let rates = if bench.is_quick() { &rates[1..2] } else { &rates[..] };
    for busy_poll in [true, false] {
        for &(per_second, p50_us_max) in rates {
            let run = Run { per_second, keys: FEW_KEYS, busy_poll, is_durable: false, time };
            report(bench, run, Some(p50_us_max), None);
            let run = Run { keys: MANY_KEYS, ..run };
            let without = report(bench, run, None, None);
            report(bench, Run { is_durable: true, ..run }, None, Some(&without));
        }
    }
}

/// Measures a run between two probes. Held against them, or against the same run without checkpoints.
fn report(bench: &mut Bench, run: Run, p50_us_max: Option<f64>, without: Option<&Histogram<u64>>) -> Histogram<u64> {
    let interval = Duration::from_secs(1) / run.per_second as u32;
    let probe = || hiccup::delays(run.time / 5, interval);
    let before = probe();
    let Measured { latencies, all, own_p999_ns } = run.latencies();
    let after = probe();
    let us = |times: &Histogram<u64>, quantile| times.value_at_quantile(quantile) as f64 / 1e3;
    let mut machine = before.clone();
    machine.add(&after).expect("their bounds are the same");
    let scenario = run.to_string();
    bench.probe(&format!("delay at p99.9 around {scenario}"), "us", us(&before, 0.999), us(&after, 0.999));
    bench.latencies(&scenario, &latencies, &[("a thread that only spins", &machine)]);
    for (metric, quantile) in QUANTILES {
        let limit = match (metric, without) {
            ("p50", None) => p50_us_max,
            ("p99.9", Some(without)) => Some(us(without, quantile) * 1.2 + 20.0),
            ("p99.9", None) if p50_us_max.is_some() => Some(us(&machine, quantile) + 20.0),
            ("p99.99", None) if p50_us_max.is_some() => Some(us(&machine, quantile) * 2.0 + 100.0),
            _ => None,
        };
        let goal = limit.map(|_| 1.0);
        let kernel = Some(us(&machine, quantile));
        bench.figure(Figure { limit, kernel, goal, ..Figure::new(&scenario, metric, us(&latencies, quantile), "us") });
    }
    let (own_us, outside_us) = (own_p999_ns as f64 / 1e3, us(&all, 0.999));
    let differ = (own_us / outside_us - 1.0).abs() * 100.0;
    bench.figure(Figure { kernel: Some(outside_us), ..Figure::new(&scenario, "own p99.9", own_us, "us") });
    bench.figure(Figure { limit: Some(5.0), goal: Some(1.0), ..Figure::new(&scenario, "apart", differ, "%") });
    latencies
}

/// What one run measured.
struct Measured {
    /// By the stopwatch of this bench, behind the warm-up.
    latencies: Histogram<u64>,
    /// The same of every record.
    all: Histogram<u64>,
    /// What the engine itself says of every record.
    own_p999_ns: u64,
}

impl Run {
    /// Those of the first fifth are a warm-up.
    fn latencies(self) -> Measured {
        let dir = Path::new("target").join("bench-end-to-end");
        let _ = std::fs::remove_dir_all(&dir);
        let engine = Engine::builder().slots(2).memory(256 << 20).busy_poll(self.busy_poll).start();
        let engine = engine.expect("two slots start anywhere");
        let job = Job::new("end-to-end");
        let latencies = Arc::new(Mutex::new((histogram(), histogram())));
        let (shared, clock) = (latencies.clone(), MachineClock);
        let (count, keys) = ((self.per_second as f64 * self.time.as_secs_f64()) as u64, self.keys);
        let mut warm_ns = 0;
        job.source("readings", Generator::new(|n: u64| n).count(count).per_second(self.per_second as f64))
            .event_time(|n: &u64| EventTimeMs(*n as i64), Watermarks::monotonous())
            .map(move |n: &u64| Reading::nth(*n, keys))
            .key_by("by-key", |reading: &Reading| reading.key)
            .reduce("count", |a, b| Reading { key: a.key, count: a.count + b.count })
            .sink(
                "latencies",
                Callback::new(move |stamp: &Stamp, _: &Reading| {
                    let now_ns = clock.monotonic_ns();
                    if warm_ns == 0 {
                        warm_ns = now_ns + self.time.as_nanos() as u64 / 5;
                    }
                    let latency_ns = now_ns.saturating_sub(stamp.origin_ns);
                    let mut seen = shared.lock().expect("no slot panics");
                    seen.1.saturating_record(latency_ns);
                    if stamp.origin_ns > warm_ns {
                        seen.0.saturating_record(latency_ns);
                    }
                }),
            );
        let checkpoints = self.is_durable.then(|| CheckpointOptions::every(&dir, CHECKPOINT_EVERY));
        let handle = engine.submit(job, JobOptions { checkpoints, ..JobOptions::default() }).expect("the job is valid");
        handle.wait().expect("nothing in the job fails");
        // The recorders hand over what they have when their tasks are dropped.
        engine.stop();
        let own_p999_ns = handle.sink_latency("latencies").p999_ns;
        let _ = std::fs::remove_dir_all(&dir);
        let (latencies, all) = latencies.lock().expect("no slot panics").clone();
        assert!(!latencies.is_empty(), "no record came after the warm-up");
        Measured { latencies, all, own_p999_ns }
    }
}

impl std::fmt::Display for Run {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let how = if self.busy_poll { "polling" } else { "default" };
        let keys = if self.keys == MANY_KEYS { ", 1 M keys" } else { "" };
        let checkpoints = if self.is_durable { ", checkpoints/100ms" } else { "" };
        write!(f, "{} k ev/s, {how}{keys}{checkpoints}", self.per_second / 1000)
    }
}
