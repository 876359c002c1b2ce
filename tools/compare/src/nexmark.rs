//! Nexmark's queries, side by side over the same events, made before the clock starts.
//!
//! ```text
//!  events of one split per worker -> query -> rows, hashed      1 and 2 workers
//! ```
//! Both densities of event time, since they decide how much a window holds; one pass over a pool that no cache holds, and a small one
//! again and again. One worker is held against a hand-written loop, too. Times are those from submitting the job, or from building the
//! dataflow, to its end: workers and slots run before. `--query=q5,q7` runs these alone, `--workers=1` these workers.

use crate::median::median;
use crate::peer::Peer;
use crate::support::{Bench, Figure};
use crate::{interleaved, is_asked, job, kernels};
use millstream::engine::Engine;
use millstream::nexmark::{Generator, Nexmark, Query};
use millstream::numbered::Origin;
use millstream::sink::RowSum;
use std::time::{Duration, Instant};

/// Events per second of event time: nexmark-flink's two configurations.
const DENSITIES: [(&str, u64); 2] = [("10 M/s", 10_000_000), ("100 K/s", 100_000)];
/// So that a quick run, too, has windows that end.
const QUICK_DENSITIES: [(&str, u64); 2] = [("10 M/s", 10_000_000), ("1 K/s", 1_000)];
/// So many events fit into the cache of a core.
const CACHED: u64 = 4_000;
const GOAL: f64 = 1.0;

/// A stream of events.
#[derive(Clone, Copy)]
struct Events {
    per_second: u64,
    count: u64,
    /// How many are made; the others are these again, moved on.
    made: u64,
    splits: u32,
}

impl Events {
    fn make(self) -> Nexmark {
        let generator = Generator { seed: 1, events_per_second: self.per_second };
        Nexmark::new(Query::Q0, generator, self.count, self.splits, Origin::PreGenerated { records_max: self.made })
    }
}

/// Runs the queries that are wanted.
pub fn run(bench: &mut Bench, peer: &dyn Peer) {
    let quick = bench.is_quick();
    let densities = if quick { QUICK_DENSITIES } else { DENSITIES };
    let count = if quick { 20_000 } else { 4_000_000 };
    for workers in [1, 2].into_iter().filter(|workers| is_asked("--workers=", workers)) {
        let engine = Engine::builder().slots(workers).memory(2 << 30).start().expect("slots start anywhere");
        for (density, per_second) in densities {
            for (place, made) in [("memory", count), ("cache", CACHED)] {
                let events = Events { per_second, count, made, splits: workers };
                let pool = events.make();
                for query in Query::ALL.into_iter().filter(|query| is_asked("--query=", query.name())) {
                    // A replay ends with other events than it began with.
                    let fresh = || if made < count { events.make().asking(query) } else { pool.asking(query) };
                    let Some(figure) = query_figure(bench, peer, &engine, query, events, &fresh) else { return };
                    let scenario =
                        format!("{} {density} {place}, {workers} workers, over {}", query.name(), peer.name());
                    bench.figure(Figure { scenario, ..figure });
                }
            }
        }
        engine.stop();
    }
    for (density, per_second) in densities {
        let windows = Query::ALL.into_iter().filter_map(|query| Some((query.name(), query.window_ms()?)));
        let windows = windows.map(|(query, window_ms)| format!("{query} {}", per_second * window_ms as u64 / 1_000));
        println!("events per window at {density}: {} (of {count})", windows.collect::<Vec<_>>().join(", "));
    }
}

fn query_figure(
    bench: &Bench,
    peer: &dyn Peer,
    engine: &Engine,
    query: Query,
    events: Events,
    fresh: &dyn Fn() -> Nexmark,
) -> Option<Figure> {
    let runs = if bench.is_quick() { 1 } else { 5 };
    let rate = |(rows, took): (RowSum, Duration)| (rows, events.count as f64 / took.as_secs_f64() / 1e6);
    let mut by_hand = Vec::new();
    let ours = || {
        let (rows, own) = rate(job::run(engine, &fresh()));
        if events.splits == 1 {
            let (mut events, begun) = (fresh().events(0), Instant::now());
            let (found, kernel) = rate((kernels::answer(query, &mut events), begun.elapsed()));
            assert_eq!(rows, found, "{query:?} and its kernel differ");
            by_hand.push(kernel);
        }
        (rows, own)
    };
    let [ours, theirs] = interleaved(runs, ours, || peer.nexmark(query, &fresh(), events.splits).map(rate))?;
    let kernel = (!by_hand.is_empty()).then(|| median(runs, || by_hand.pop().unwrap_or_default()));
    Some(Figure { limit: Some(theirs), kernel, goal: Some(GOAL), ..Figure::new("", "events", ours, "M/s") })
}
