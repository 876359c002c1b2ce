//! Limit: from the call that wakes a parked thread to its first instruction.

use crate::cpus::on_two_cores;
use crate::support::histogram;
use hdrhistogram::Histogram;
use millstream::slot::Doorbell;
use rustix::event::{PollFd, PollFlags, poll};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How long the sleeper is left alone, so that it really sleeps.
const SLEEP: Duration = Duration::from_micros(300);

/// Through an eventfd and `poll`: what a doorbell and a ring do.
pub fn eventfd(rounds: u64) -> Histogram<u64> {
    let bell = Doorbell::new().expect("the process has a free file descriptor");
    measure(
        rounds,
        || bell.write(),
        || {
            let mut fds = [PollFd::from_borrowed_fd(bell.fd(), PollFlags::IN)];
            let _ = poll(&mut fds, None);
            bell.clear();
        },
    )
}

/// Through a futex: `std::thread::park`.
pub fn futex(rounds: u64) -> Histogram<u64> {
    let sleeper = std::sync::OnceLock::new();
    measure(
        rounds,
        || sleeper.get().map_or((), std::thread::Thread::unpark),
        || {
            sleeper.get_or_init(std::thread::current);
            std::thread::park();
        },
    )
}

fn measure(rounds: u64, wake: impl Fn() + Sync, sleep: impl Fn() + Sync) -> Histogram<u64> {
    let (rung_ns, taken) = (AtomicU64::new(0), AtomicU64::new(0));
    let start = Instant::now();
    let now_ns = || start.elapsed().as_nanos() as u64;
    let waker = || {
        for round in 1..=rounds {
            std::thread::sleep(SLEEP);
            rung_ns.store(now_ns(), Ordering::Release);
            while taken.load(Ordering::Acquire) != round {
                wake();
                // Usually once; again when the sleeper was not yet asleep the first time.
                let again = Instant::now() + Duration::from_millis(5);
                while taken.load(Ordering::Acquire) != round && Instant::now() < again {
                    std::hint::spin_loop();
                }
            }
        }
    };
    let sleeper = || {
        let (mut times, mut last) = (histogram(), 0);
        for round in 1..=rounds {
            loop {
                sleep();
                let (now, rung) = (now_ns(), rung_ns.load(Ordering::Acquire));
                if rung != last {
                    times.saturating_record(now.saturating_sub(rung));
                    last = rung;
                    break;
                }
            }
            taken.store(round, Ordering::Release);
        }
        times
    };
    on_two_cores(waker, sleeper).1
}
