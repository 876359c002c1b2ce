//! Limit: how long the machine itself keeps a spinning thread from running.

use crate::support::histogram;
use hdrhistogram::Histogram;
use millstream::slot::{AllowedCpus, pin_current_thread};
use std::time::{Duration, Instant};

/// The gaps in nanoseconds between two looks at the clock of a pinned thread that does nothing else.
pub fn gaps(for_time: Duration) -> Histogram<u64> {
    let spin = || {
        let mut gaps = histogram();
        spin(0, for_time, |gap_ns| gaps.saturating_record(gap_ns));
        gaps
    };
    std::thread::scope(|scope| scope.spawn(spin).join().expect("the probe does not panic"))
}

/// How late threads that do nothing else, one pinned to each of two CPUs at the same time, see records that are meant for them every
/// `interval`: a gap keeps all those waiting that fall into it, as in an open loop.
#[allow(dead_code, reason = "not every bench has an open loop")]
pub fn delays(for_time: Duration, interval: Duration) -> Histogram<u64> {
    let interval_ns = interval.as_nanos() as u64;
    let probe = |index| {
        let mut delays = histogram();
        let mut since_ns = 0;
        spin(index, for_time, |gap_ns| {
            since_ns += gap_ns;
            // Those that were due in the gap, the last one first: seen now.
            if since_ns >= interval_ns {
                (0..since_ns / interval_ns).for_each(|n| {
                    delays.saturating_record((since_ns % interval_ns + n * interval_ns).min(gap_ns).max(1));
                });
                since_ns %= interval_ns;
            }
        });
        delays
    };
    std::thread::scope(|scope| {
        let threads = [0, 1].map(|index| scope.spawn(move || probe(index)));
        let mut both = histogram();
        for thread in threads {
            both.add(thread.join().expect("the probe does not panic")).expect("their bounds are the same");
        }
        both
    })
}

fn spin(cpu: usize, for_time: Duration, mut gap: impl FnMut(u64)) {
    AllowedCpus::of_process().for_slots(cpu + 1)[cpu].map(|cpu| pin_current_thread("hiccup", cpu));
    let begun = Instant::now();
    let mut last = begun;
    while last - begun < for_time {
        let now = Instant::now();
        gap((now - last).as_nanos() as u64);
        last = now;
    }
}
