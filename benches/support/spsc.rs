//! Limit: numbers per second through an `ArrayQueue`, one by one.

use crate::cpus::on_two_cores;
use crossbeam_queue::ArrayQueue;
use std::time::Instant;

/// Numbers per second.
pub fn numbers_per_s(count: u64) -> f64 {
    let queue = ArrayQueue::new(1024);
    let begun = Instant::now();
    let produce = || {
        for value in 0..count {
            while queue.push(value).is_err() {
                std::hint::spin_loop();
            }
        }
    };
    let consume = || {
        let mut next = 0;
        while next < count {
            match queue.pop() {
                Some(value) => {
                    assert_eq!(value, next);
                    next += 1;
                }
                None => std::hint::spin_loop(),
            }
        }
    };
    on_two_cores(produce, consume);
    count as f64 / begun.elapsed().as_secs_f64()
}
