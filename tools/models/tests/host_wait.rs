//! A thread of the host that blocks is woken by what happened before the wake.
//!
//! Planted and found, each as a deadlock: no look behind the waker; no fence in `wait_with`; no fence in `wake`; `anyone` cleared behind the
//! lock instead of within it (only with two that wait for two different things).

use loom::sync::Arc;
use loom::sync::atomic::{AtomicU32, Ordering};
use millstream_models::in_every_order;
use millstream_models::slot::HostWaiters;

#[test]
fn a_thread_that_blocks_sees_what_it_waits_for() {
    in_every_order("one waits, one wakes twice", None, || {
        let (waiters, happened) = (Arc::new(HostWaiters::default()), Arc::new(AtomicU32::new(0)));
        let waker = {
            let (waiters, happened) = (waiters.clone(), happened.clone());
            loom::thread::spawn(move || {
                for n in 1..=2 {
                    happened.store(n, Ordering::Relaxed);
                    waiters.wake();
                }
            })
        };
        waiters.block_until(|| (happened.load(Ordering::Relaxed) == 2).then_some(()));
        waker.join().unwrap();
    });
}

#[test]
fn two_threads_that_block_are_both_woken() {
    in_every_order("two wait, one wakes twice", Some(2), || {
        let (waiters, happened) = (Arc::new(HostWaiters::default()), Arc::new(AtomicU32::new(0)));
        let wait_until = |n: u32| {
            let (waiters, happened) = (waiters.clone(), happened.clone());
            move || waiters.block_until(|| (happened.load(Ordering::Relaxed) >= n).then_some(()))
        };
        let sleepers = [1, 2].map(|n| loom::thread::spawn(wait_until(n)));
        for n in 1..=2 {
            happened.store(n, Ordering::Relaxed);
            waiters.wake();
        }
        sleepers.into_iter().for_each(|sleeper| sleeper.join().unwrap());
    });
}
