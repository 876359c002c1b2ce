//! Limit: how long a cache line takes from one core to another.

use crate::cpus::on_two_cores;
use crate::support::histogram;
use hdrhistogram::Histogram;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

#[repr(align(128))]
struct Line(AtomicU64);

/// One-way times in nanoseconds: half of each of `rounds` round trips of a number over two lines.
pub fn hop(rounds: u64) -> Histogram<u64> {
    let (there, back) = (Line(AtomicU64::new(0)), Line(AtomicU64::new(0)));
    let warm_up = rounds / 10;
    let ping = || {
        let mut times = histogram();
        let mut begun = Instant::now();
        for round in 1..=warm_up + rounds {
            there.0.store(round, Ordering::Release);
            while back.0.load(Ordering::Acquire) != round {
                std::hint::spin_loop();
            }
            let now = Instant::now();
            if round > warm_up {
                times.saturating_record((now - begun).as_nanos() as u64 / 2);
            }
            begun = now;
        }
        times
    };
    let pong = || {
        for round in 1..=warm_up + rounds {
            while there.0.load(Ordering::Acquire) != round {
                std::hint::spin_loop();
            }
            back.0.store(round, Ordering::Release);
        }
    };
    on_two_cores(ping, pong).0
}
