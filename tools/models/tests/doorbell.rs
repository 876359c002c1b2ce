//! A slot that sleeps is woken for what was published before the ring.
//!
//! The sleeper does what `slot/driver.rs` does: announce, look once more, wait, withdraw. Planted and found, each as a deadlock: no look
//! behind the announcement; no fence in `announce`; no fence in `ring`; a ring that does not write. Planted and harmless: `withdraw` that
//! empties the counter first (a sleep that ends for nothing).

use loom::sync::Arc;
use loom::sync::atomic::{AtomicU32, Ordering};
use millstream_models::event::wait_readable;
use millstream_models::in_every_order;
use millstream_models::slot::{Doorbell, IdleAction, IdlePolicy, SPIN_BUDGET_MAX_NS, Slept};

/// Sleeps until `published` holds `last`.
fn sleep_until(bell: &Doorbell, published: &AtomicU32, last: u32) {
    let mut idle = IdlePolicy::for_slots(2, 1);
    let seen = || published.load(Ordering::Relaxed) == last;
    while !seen() {
        idle.after_step(false, 0);
        assert_eq!(
            idle.after_step(false, SPIN_BUDGET_MAX_NS),
            IdleAction::Park,
            "it sleeps when nothing came for its budget"
        );
        bell.announce();
        if !seen() {
            wait_readable(bell.fd());
            idle.after_sleep(Slept { ns: 0, overslept_ns: None });
        }
        bell.withdraw();
    }
}

#[test]
fn a_ring_after_every_publication_wakes_a_slot_that_sleeps_in_between() {
    in_every_order("one thread publishes twice", None, || {
        let (bell, published) = (Arc::new(Doorbell::new().unwrap()), Arc::new(AtomicU32::new(0)));
        let publisher = {
            let (bell, published) = (bell.clone(), published.clone());
            loom::thread::spawn(move || {
                for n in 1..=2 {
                    published.store(n, Ordering::Relaxed);
                    bell.ring();
                }
            })
        };
        sleep_until(&bell, &published, 2);
        publisher.join().unwrap();
    });
}

#[test]
fn of_two_threads_that_ring_neither_takes_the_others_wake_up_away() {
    in_every_order("two threads publish", Some(2), || {
        let (bell, published) = (Arc::new(Doorbell::new().unwrap()), Arc::new(AtomicU32::new(0)));
        let publishers = [(); 2].map(|()| {
            let (bell, published) = (bell.clone(), published.clone());
            loom::thread::spawn(move || {
                published.fetch_add(1, Ordering::Relaxed);
                bell.ring();
            })
        });
        sleep_until(&bell, &published, 2);
        publishers.into_iter().for_each(|publisher| publisher.join().unwrap());
    });
}
