//! A thread that parks at its doorbell is woken every time, on the real machine (`tools/models` shows it for the orders that loom finds).
//!
//! Two threads wake each other in turn, each after a while of its own, so that rings fall before, into and behind the announcement. 10^5 wake-ups
//! here; `MILLSTREAM_WAKE_UPS=10000000 cargo test --test wake_ups` for 10^7: on 2026-11-23, two virtual CPUs shared with other work, dev profile,
//! 10,000,000 turns with 7,899,545 sleeps in 182 s, none lost.

use millstream::slot::{Doorbell, spawn_slot};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

struct Court {
    turn: AtomicU64,
    bells: [Doorbell; 2],
    slept: AtomicU64,
}

fn play(court: &Court, mine: u64, wake_ups: u64) {
    let (my_bell, other_bell) = (&court.bells[mine as usize], &court.bells[1 - mine as usize]);
    let mut random = mine + 1;
    for n in (mine..wake_ups).step_by(2) {
        while court.turn.load(Ordering::Relaxed) != n {
            my_bell.announce();
            if court.turn.load(Ordering::Relaxed) != n {
                let mut fds = [PollFd::from_borrowed_fd(my_bell.fd(), PollFlags::IN)];
                let woken = poll(&mut fds, Some(&Timespec { tv_sec: 10, tv_nsec: 0 })).unwrap();
                assert_eq!(woken, 1, "the wake-up {n} was lost");
                court.slept.fetch_add(1, Ordering::Relaxed);
            }
            my_bell.withdraw();
        }
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (0..(random >> 33) % 2_000).for_each(|_| std::hint::spin_loop());
        court.turn.store(n + 1, Ordering::Relaxed);
        other_bell.ring();
    }
}

#[test]
fn two_threads_that_park_in_turn_lose_no_wake_up() {
    let wake_ups = std::env::var("MILLSTREAM_WAKE_UPS").ok().and_then(|n| n.parse().ok()).unwrap_or(100_000);
    let bells = [(); 2].map(|()| Doorbell::new().unwrap());
    let court = Arc::new(Court { turn: AtomicU64::new(0), bells, slept: AtomicU64::new(0) });
    let other = {
        let court = court.clone();
        spawn_slot("other", None, move || play(&court, 1, wake_ups)).unwrap()
    };
    play(&court, 0, wake_ups);
    other.join().unwrap();
    assert_eq!(court.turn.load(Ordering::Relaxed), wake_ups);
    let slept = court.slept.load(Ordering::Relaxed);
    println!("{slept} sleeps in {wake_ups} turns");
    assert!(slept > 0, "nobody ever slept: nothing was shown");
}
