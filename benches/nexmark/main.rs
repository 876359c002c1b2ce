//! B1: Nexmark's queries on one slot, each held against a hand-written loop over the same events that gives the same rows.
//!
//! ```text
//!  events (made ahead, or made when read) -> query -> checksum        one split, one slot, no checkpoints
//! ```
//! Both densities of event time, since they decide how much a window holds; both a working set that the cache holds and one that it does
//! not. Times are those from submitting the job to its end. A wrong checksum ends the bench. `--only=q5,q7` runs these alone.
#![allow(clippy::disallowed_methods, reason = "a bench reads clocks itself")]

mod job;
mod kernels;
#[path = "../support/median.rs"]
mod median;
#[path = "../support/mod.rs"]
mod support;

use median::median;
use millstream::engine::Engine;
use millstream::nexmark::{Body, Generator, Nexmark, Query};
use millstream::numbered::Origin;
use std::hint::black_box;
use std::time::Instant;
use support::{Bench, Figure};

/// Events per second of event time: nexmark-flink's two configurations.
const DENSITIES: [(&str, u64); 2] = [("10 M/s", 10_000_000), ("100 K/s", 100_000)];
const GOAL: f64 = 0.6;

struct Size {
    name: &'static str,
    origin: Origin,
    events: u64,
    runs: usize,
}

fn main() {
    let mut bench = Bench::start("nexmark");
    let quick = bench.is_quick();
    let events = if quick { 20_000 } else { 2_000_000 };
    let runs = if quick { 1 } else { 3 };
    let pool = |records_max| Origin::PreGenerated { records_max };
    let sizes = [
        Size { name: "memory", origin: pool(events), events, runs },
        Size { name: "cache", origin: pool(4_000), events, runs },
        Size { name: "inline", origin: Origin::Inline, events: events / 2, runs: 1 },
    ];
    let engine = Engine::builder().slots(1).memory(2 << 30).start().expect("one slot starts anywhere");
    let wanted = |query: Query| {
        let only = std::env::args().find_map(|arg| arg.strip_prefix("--only=").map(str::to_owned));
        only.is_none_or(|only| only.split(',').any(|name| name == query.name()))
    };
    for size in &sizes {
        source_alone(&mut bench, size);
        for (density, rate) in DENSITIES {
            let (mut of_engine, mut of_kernels) = (Vec::new(), Vec::new());
            for query in Query::ALL.into_iter().filter(|query| wanted(*query)) {
                let nexmark = Nexmark::new(query, generator(rate), size.events, 1, size.origin);
                let [own, kernel] = against_kernel(&engine, query, &nexmark, size);
                bench.figure(Figure {
                    kernel: Some(kernel),
                    ..Figure::new(format!("{} {density} {}", query.name(), size.name), "events", own, "M/s")
                });
                of_engine.push(own);
                of_kernels.push(kernel);
            }
            let goal = matches!(size.origin, Origin::PreGenerated { .. }).then_some(GOAL);
            bench.figure(Figure {
                kernel: Some(geometric_mean(&of_kernels)),
                goal,
                ..Figure::new(format!("all {density} {}", size.name), "geo. mean", geometric_mean(&of_engine), "M/s")
            });
        }
    }
    for (density, rate) in DENSITIES {
        let windows = Query::ALL.into_iter().filter_map(|query| Some((query.name(), query.window_ms()?)));
        let windows = windows.map(|(query, window_ms)| format!("{query} {}", rate * window_ms as u64 / 1_000));
        println!("events per window at {density}: {}", windows.collect::<Vec<_>>().join(", "));
    }
    bench.finish();
}

fn generator(rate: u64) -> Generator {
    Generator { seed: 1, events_per_second: rate }
}

/// Engine and kernel, M events/s each, by turns.
fn against_kernel(engine: &Engine, query: Query, nexmark: &Nexmark, size: &Size) -> [f64; 2] {
    let mut rates = [Vec::new(), Vec::new()];
    for _ in 0..size.runs {
        let mut events = nexmark.events(0);
        let begun = Instant::now();
        let expected = kernels::answer(query, &mut events);
        rates[1].push(size.events as f64 / begun.elapsed().as_micros() as f64);
        drop(events);
        let (found, took) = job::run(engine, nexmark);
        assert_eq!(found, expected, "{query:?} and its kernel differ");
        rates[0].push(size.events as f64 / took.as_micros() as f64);
    }
    rates.map(|mut rates| median(rates.len(), || rates.pop().expect("as many as runs")))
}

/// What the source gives when nothing is done with it, and how large what it reads is.
fn source_alone(bench: &mut Bench, size: &Size) {
    let nexmark = Nexmark::new(Query::Q0, generator(DENSITIES[0].1), size.events, 1, size.origin);
    let mut bytes = 0;
    nexmark.events(0).read_each(4_000, |event| bytes += event.len_bytes());
    let rate = median(size.runs, || {
        let (mut events, begun, mut sum) = (nexmark.events(0), Instant::now(), 0);
        while events.read_each(1_000, |event| {
            sum += match &event.body {
                Body::Bid(bid) => bid.price,
                _ => 1,
            }
        }) {}
        black_box(sum);
        size.events as f64 / begun.elapsed().as_micros() as f64
    });
    bench.figure(Figure::new(format!("source alone {}", size.name), "events", rate, "M/s"));
    if let Origin::PreGenerated { records_max } = size.origin {
        let made = records_max.min(size.events);
        let held = made * (size_of::<millstream::nexmark::Event>() as u64) + made * 4 / 50 * 400;
        println!(
            "source working set \"{}\": {made} events, {:.1} MB of text and numbers in about {:.1} MB",
            size.name,
            made as f64 * bytes as f64 / 4_000f64.min(size.events as f64) / 1e6,
            held as f64 / 1e6
        );
    }
}

fn geometric_mean(values: &[f64]) -> f64 {
    (values.iter().map(|value| value.ln()).sum::<f64>() / values.len() as f64).exp()
}
