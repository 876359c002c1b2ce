//! Ours: the job of the open loop. Those of the throughput are `benches/support/workloads.rs`.

use crate::peer::OpenLoop;
use crate::support::histogram;
use crate::workloads::Keyed;
use hdrhistogram::Histogram;
use millstream::engine::{Engine, JobOptions};
use millstream::record::Stamp;
use millstream::sink::Callback;
use millstream::source::Generator;
use millstream::stream::Job;
use millstream::time::{Clock, EventTimeMs, MachineClock, Watermarks};
use std::sync::{Arc, Mutex};

/// One generator on the first slot, counts on both.
pub fn hop(load: OpenLoop) -> Histogram<u64> {
    let engine = Engine::builder().slots(2).memory(256 << 20).start().expect("slots start anywhere");
    let (job, latencies) = (Job::new("open-loop"), Arc::new(Mutex::new(histogram())));
    let shared = latencies.clone();
    let warm_up_ns = MachineClock.monotonic_ns() + load.count * 100_000_000 / load.rate;
    job.source("readings", Generator::new(|n: u64| n).count(load.count).per_second(load.rate as f64))
        .event_time(|_: &u64| EventTimeMs(0), Watermarks::monotonous())
        .map(move |n: &u64| Keyed { key: load.key(*n), sum: 1 })
        .key_by("by-key", |record: &Keyed| record.key)
        .reduce("count", |a, b| Keyed { key: a.key, sum: a.sum + b.sum })
        .sink(
            "latencies",
            Callback::new(move |stamp: &Stamp, _: &Keyed| {
                let now_ns = MachineClock.monotonic_ns();
                if stamp.origin_ns > warm_up_ns {
                    let latency_ns = now_ns.saturating_sub(stamp.origin_ns);
                    shared.lock().expect("no slot panics").saturating_record(latency_ns);
                }
            }),
        );
    engine.submit(job, JobOptions::default()).expect("the job is valid").wait().expect("nothing in the job fails");
    engine.stop();
    let latencies = latencies.lock().expect("no slot panics");
    latencies.clone()
}
