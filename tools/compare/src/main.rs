//! The same workloads on Millstream and on other engines, in one run.
//!
//! ```text
//!  rolling  keys -> exchange -> count per key -> sink, a result for every record         1 and 2 workers
//!  windows  keys -> exchange -> 1 s tumbling count -> sink                               1 worker
//!  hop      open loop -> exchange -> count per key -> sink                               2 workers, from the intended time
//!  nexmark  events -> query -> rows, hashed                                              1 and 2 workers
//! ```
//! `cargo run --release --manifest-path tools/compare/Cargo.toml -- [--quick --json --only=rolling --keys=N --query=q5 --workers=1]`, from the root
//! of the repository, so that the figures come into its report. Runs are interleaved (ours, theirs, ours, theirs), the median counts, and all must come to
//! the same sum. Another engine is one more implementation of `Peer`; another workload is one more method of it.
#![allow(clippy::disallowed_methods, reason = "a bench reads clocks and starts threads itself")]

#[path = "../../../benches/support/hiccup.rs"]
mod hiccup;
#[path = "../../../benches/nexmark/job.rs"]
mod job;
#[path = "../../../benches/nexmark/kernels.rs"]
mod kernels;
#[path = "../../../benches/support/median.rs"]
mod median;
mod millstream_jobs;
mod nexmark;
mod peer;
#[path = "../../../benches/support/mod.rs"]
mod support;
mod timely_dataflow;
#[path = "../../../benches/support/workloads.rs"]
mod workloads;

use median::median;
use peer::{OpenLoop, Peer};
use std::fmt::{Debug, Display};
use std::time::Duration;
use support::{Bench, Figure};
use workloads::{KeyedStream, Outcome};

/// All of them; a part that one cannot run is left out.
const PEERS: &[&dyn Peer] = &[&timely_dataflow::Timely];

fn main() {
    let mut bench = Bench::start("compare");
    let quick = bench.is_quick();
    bench.needs_cores(2);
    let runs_part = |part: &str| is_asked("--only=", part);
    let asked: Vec<u64> = std::env::args().filter_map(|arg| arg.strip_prefix("--keys=")?.parse().ok()).collect();
    let keys: &[u64] = match (asked.is_empty(), quick) {
        (false, _) => &asked,
        (true, true) => &[10_000],
        (true, false) => &[10_000, 1_000_000, 10_000_000],
    };
    for &peer in PEERS {
        if runs_part("rolling") {
            keys.iter().for_each(|&keys| rolling(&mut bench, peer, keys));
        }
        if runs_part("windows") {
            windows(&mut bench, peer, if quick { 10_000 } else { 1_000_000 });
        }
        if runs_part("nexmark") {
            nexmark::run(&mut bench, peer);
        }
        if runs_part("hop") {
            [10_000, 100_000].into_iter().for_each(|rate| hop(&mut bench, peer, rate));
        }
    }
    bench.finish();
}

/// Whether one of the values behind `flag` is this one; all are asked for where the flag is not given.
fn is_asked(flag: &str, value: impl Display) -> bool {
    let asked = std::env::args().find_map(|arg| Some(arg.strip_prefix(flag)?.to_owned()));
    asked.is_none_or(|asked| asked.split(',').any(|of_flag| of_flag == value.to_string()))
}

/// Runs ours and theirs in turn: the median rates. Both must give the same answer.
fn interleaved<A: PartialEq + Debug>(
    runs: usize,
    mut ours: impl FnMut() -> (A, f64),
    mut theirs: impl FnMut() -> Option<(A, f64)>,
) -> Option<[f64; 2]> {
    let mut rates = [const { Vec::new() }; 2];
    for _ in 0..runs {
        let ((our_answer, ours), (their_answer, theirs)) = (ours(), theirs()?);
        assert_eq!(our_answer, their_answer, "the same work gives the same answer");
        [ours, theirs].into_iter().zip(&mut rates).for_each(|(rate, rates)| rates.push(rate));
    }
    Some(rates.map(|rates| {
        let mut rates = rates.into_iter();
        median(runs, || rates.next().unwrap_or_default())
    }))
}

/// The answer, and the rate in millions per second.
fn millions(outcome: Outcome) -> (u64, f64) {
    (outcome.checksum, outcome.per_s / 1e6)
}

fn rolling(bench: &mut Bench, peer: &dyn Peer, keys: u64) {
    let quick = bench.is_quick();
    let stream = KeyedStream { keys, records: if quick { 300_000 } else { 20_000_000 }, per_second: 1_000_000 };
    let runs = if quick { 1 } else { 5 };
    for workers in [1, 2].into_iter().filter(|workers| is_asked("--workers=", workers)) {
        let ours = || millions(workloads::rolling_sum(stream, workers));
        let Some([ours, theirs]) = interleaved(runs, ours, || peer.rolling_sum(stream, workers).map(millions)) else {
            return;
        };
        let goal = if keys > 1_000_000 { 3.0 } else { 2.0 };
        bench.figure(Figure {
            limit: Some(theirs),
            goal: (workers == 2).then_some(goal),
            ..Figure::new(
                format!("rolling sum, {keys} keys, {workers} workers, over {}", peer.name()),
                "rate",
                ours,
                "M/s",
            )
        });
    }
}

fn windows(bench: &mut Bench, peer: &dyn Peer, keys: u64) {
    let quick = bench.is_quick();
    let per_second = 10 * keys;
    let stream = KeyedStream { keys, records: if quick { 300_000 } else { 39_000_000 }, per_second };
    let runs = if quick { 1 } else { 5 };
    let ours = || millions(workloads::tumbling_sum(stream, 1));
    let Some([ours, theirs]) = interleaved(runs, ours, || peer.tumbling_sum(stream, 1).map(millions)) else { return };
    let scenario = format!("1 s tumbling sum, {keys} keys, {per_second} events a window, over {}", peer.name());
    bench.figure(Figure { limit: Some(theirs), goal: Some(1.3), ..Figure::new(scenario, "rate", ours, "M/s") });
}

fn hop(bench: &mut Bench, peer: &dyn Peer, rate: u64) {
    let seconds = if bench.is_quick() { 1 } else { 10 };
    let load = OpenLoop { rate, count: rate * seconds, keys: 10_000 };
    let probe = hiccup::gaps(Duration::from_secs(seconds.min(3)));
    let ours = millstream_jobs::hop(load);
    let Some(theirs) = peer.hop(load) else { return };
    let scenario = format!("one exchange, open loop, {rate} ev/s, over {}", peer.name());
    bench.latencies(&scenario, &ours, &[("gaps of a spinning thread", &probe), (peer.name(), &theirs)]);
    for (metric, quantile) in [("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999), ("max", 1.0)] {
        let us = |times: &hdrhistogram::Histogram<u64>| times.value_at_quantile(quantile) as f64 / 1e3;
        let figure = Figure::new(&scenario, metric, us(&ours), "us");
        bench.figure(Figure { limit: Some(us(&theirs)), goal: (metric == "p50").then_some(1.0), ..figure });
    }
}
