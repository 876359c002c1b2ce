//! B2: the Yahoo Streaming Benchmark on one slot, out of memory, held against how fast one core reads memory.
//!
//! ```text
//!  events of 128 B (made ahead) -> views -> campaign --by campaign--> count per 10 s -> checksum     one split, one slot
//! ```
//! Three working sets: one that the first cache holds nearly, one that only the last does, one that none does. Times are those from
//! submitting the job to its end. A wrong checksum ends the bench.
#![allow(clippy::disallowed_methods, reason = "a bench reads clocks itself")]

#[path = "support/median.rs"]
mod median;
#[path = "support/memory.rs"]
#[allow(dead_code, reason = "only how fast it is read")]
mod memory;
mod support;

use median::median;
use memory::Memory;
use millstream::engine::{Engine, JobOptions};
use millstream::numbered::{NumberedReader, Origin};
use millstream::rows::Rows;
use millstream::sink::{Checksum, RowSum};
use millstream::ysb::{AdEvents, CampaignViews, Campaigns, VIEW, WINDOW_MS, Ysb};
use std::time::Instant;
use support::{Bench, Figure};

const EVENT_LEN_BYTES: f64 = 128.0;
/// Of the rate at which memory can be read, for the set that no cache holds.
const GOAL: f64 = 0.4;
const RATE: u64 = 1_000_000;
/// So many events no cache holds.
const LARGEST_SET: u64 = 8 << 20;

fn main() {
    let mut bench = Bench::start("ysb");
    let quick = bench.is_quick();
    let (events, runs) = if quick { (20_000, 1) } else { (LARGEST_SET, 3) };
    let mut memory = Memory::new(if quick { 1 << 24 } else { 1 << 30 });
    let engine = Engine::builder().slots(1).memory(1 << 30).start().expect("one slot starts anywhere");
    println!("events per window: {}", RATE * WINDOW_MS as u64 / 1_000);
    for (name, pool) in [("128 KiB", 1 << 10), ("8 MiB", 1 << 16), ("1 GiB", LARGEST_SET)] {
        for campaigns in [100, 10_000] {
            let made = AdEvents { seed: 1, events_per_second: RATE, campaigns };
            let ysb = Ysb::new(made, events, 1, Origin::PreGenerated { records_max: pool });
            let mut limits = Vec::new();
            let (mut own, mut kernels) = (Vec::new(), Vec::new());
            for _ in 0..runs {
                limits.push(memory.read_gb_s() * 1e3 / EVENT_LEN_BYTES);
                let mut reader = ysb.events(0);
                let begun = Instant::now();
                let expected = kernel(&made.campaigns(), &mut reader, campaigns);
                kernels.push(events as f64 / begun.elapsed().as_micros() as f64);
                drop(reader);
                let (found, rate) = run(&engine, &ysb, events);
                assert_eq!(found, expected, "the job and its kernel differ");
                own.push(rate);
            }
            let [limit, own, kernel] =
                [limits, own, kernels].map(|mut of| median(runs, || of.pop().expect("as many as runs")));
            let scenario = format!("{campaigns} campaigns, working set {name}");
            bench.figure(Figure {
                limit: Some(limit),
                goal: (pool == LARGEST_SET).then_some(GOAL),
                ..Figure::new(&scenario, "events", own, "M/s")
            });
            bench.figure(Figure { kernel: Some(kernel), ..Figure::new(&scenario, "to kernel", own, "M/s") });
        }
    }
    bench.finish();
}

/// The rows, and M events/s.
fn run(engine: &Engine, ysb: &Ysb, events: u64) -> (RowSum, f64) {
    let sum = Checksum::default();
    let job = ysb.job("ysb", &Rows::Hashed(sum.clone()));
    let begun = Instant::now();
    let handle = engine.submit(job, JobOptions::default()).expect("the job is valid");
    handle.wait().expect("nothing in the job fails");
    (sum.sum(), events as f64 / begun.elapsed().as_micros() as f64)
}

/// The same by hand: one counter for each campaign, and events in the order of their time.
fn kernel(campaigns: &Campaigns, events: &mut NumberedReader<AdEvents>, count: u64) -> RowSum {
    let (mut rows, mut start, mut views) = (RowSum::default(), 0, vec![0u64; count as usize]);
    let mut close = |views: &mut Vec<u64>, start: i64| {
        for (campaign, views) in (0..).zip(views).filter(|(_, views)| **views > 0) {
            rows.add(&CampaignViews { campaign, start, views: std::mem::take(views) });
        }
    };
    while events.read_each(usize::MAX, |event| {
        if event.event_type != VIEW {
            return;
        }
        let Some(campaign) = campaigns.of(&event.ad) else { return };
        if event.at >= start + WINDOW_MS {
            close(&mut views, start);
            start = event.at - event.at % WINDOW_MS;
        }
        views[campaign as usize] += 1;
    }) {}
    close(&mut views, start);
    rows
}
