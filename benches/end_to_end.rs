//! B7: from the time a record was meant to be emitted to the sink that sees its result, through one keyed exchange.
//!
//! ```text
//!  Generator (open loop, 1 split) -> map -> key_by -> reduce -> Callback                 latency: seen
//!      slot 0                           |  both slots
//!  Generator (open loop, 1 split) -> map -> key_by -> reduce -> JsonLines exactly once   latency: visible and durable
//! ```
//! Open loop: a record's latency counts from its intended time, whatever the engine did meanwhile. Limit: how late a thread that only spins
//! sees records meant for it at the same rate, measured on both CPUs before and after each run. Each run once with slots that sleep
//! when idle (the default) and once with slots that poll. Beside the stopwatch of this bench stands what the engine's own histogram of the sink
//! says of the same records, and how far they are apart.
//! `--only=seen` or `committed` runs a part, `--seconds=N` makes runs longer or shorter.
#![allow(clippy::disallowed_methods, reason = "a bench reads clocks itself")]

#[path = "end_to_end/committed.rs"]
mod committed;
#[allow(dead_code, reason = "its bandwidth is not asked for here")]
#[path = "support/disk.rs"]
mod disk;
#[allow(dead_code, reason = "the gaps themselves are not asked for here")]
#[path = "support/hiccup.rs"]
mod hiccup;
#[path = "end_to_end/seen.rs"]
mod seen;
mod support;

use millstream::Record;
use std::time::Duration;
use support::Bench;

const QUANTILES: [(&str, f64); 5] = [("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999), ("p99.99", 0.9999), ("max", 1.0)];

#[derive(Record, Clone, Copy)]
#[repr(C)]
struct Reading {
    key: u64,
    count: u64,
}

impl Reading {
    /// The nth of an endless stream over so many keys.
    fn nth(n: u64, keys: u64) -> Self {
        Self { key: (n.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 20) % keys, count: 1 }
    }
}

fn main() {
    let mut bench = Bench::start("end_to_end");
    bench.needs_cores(2);
    let flag =
        |name: &str| std::env::args().find_map(|arg| arg.strip_prefix(name)?.strip_prefix('=').map(str::to_owned));
    let seconds = flag("--seconds").and_then(|seconds| seconds.parse().ok());
    let time = Duration::from_secs(seconds.unwrap_or(if bench.is_quick() { 1 } else { 10 }));
    let only = flag("--only");
    let wanted = |part: &str| only.as_deref().is_none_or(|only| only == part);
    if wanted("seen") {
        seen::measure(&mut bench, time);
    }
    if wanted("committed") {
        committed::measure(&mut bench, time);
    }
    bench.finish();
}
