//! Limit: how long the machine itself keeps a spinning thread from running.

use crate::support::histogram;
use hdrhistogram::Histogram;
use millstream::slot::{AllowedCpus, pin_current_thread};
use std::time::{Duration, Instant};

/// The gaps in nanoseconds between two looks at the clock of a pinned thread that does nothing else.
pub fn gaps(for_time: Duration) -> Histogram<u64> {
    let spin = || {
        AllowedCpus::of_process().for_slots(1)[0].map(|cpu| pin_current_thread("hiccup", cpu));
        let (begun, mut gaps) = (Instant::now(), histogram());
        let mut last = begun;
        while last - begun < for_time {
            let now = Instant::now();
            gaps.saturating_record((now - last).as_nanos() as u64);
            last = now;
        }
        gaps
    };
    std::thread::scope(|scope| scope.spawn(spin).join().expect("the probe does not panic"))
}
