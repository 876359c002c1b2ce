//! Limit: records per second through an `ArrayQueue` of 32 KiB buffers, written and summed by hand, buffers recycled.

use crate::cpus::on_two_cores;
use crossbeam_queue::ArrayQueue;
use std::time::Instant;

const WORDS: usize = 4;
const RECORDS_PER_BUFFER: usize = 32 * 1024 / (WORDS * 8);

type Buffer = Box<[[u64; WORDS]; RECORDS_PER_BUFFER]>;

/// 32-byte records per second.
pub fn records_per_s(records: u64) -> f64 {
    let (full, empty) = (ArrayQueue::<Buffer>::new(4), ArrayQueue::<Buffer>::new(8));
    (0..6).for_each(|_| drop(empty.push(Box::new([[1; WORDS]; RECORDS_PER_BUFFER]))));
    let buffers = records.div_ceil(RECORDS_PER_BUFFER as u64);
    let begun = Instant::now();
    let produce = || {
        for number in 0..buffers {
            let mut buffer = spin(|| empty.pop());
            for (index, record) in buffer.iter_mut().enumerate() {
                let value = number + index as u64;
                *record = [value, value, value, value];
            }
            let mut unsent = Some(buffer);
            spin(|| match full.push(unsent.take()?) {
                Ok(()) => Some(()),
                Err(refused) => {
                    unsent = Some(refused);
                    None
                }
            });
        }
    };
    let consume = || {
        let mut sum = 0u64;
        for _ in 0..buffers {
            let buffer = spin(|| full.pop());
            sum = buffer.iter().fold(sum, |sum, r| sum.wrapping_add(r[0] ^ r[1]).wrapping_add(r[2] ^ r[3] ^ r[0]));
            drop(empty.push(buffer));
        }
        std::hint::black_box(sum)
    };
    on_two_cores(produce, consume);
    (buffers * RECORDS_PER_BUFFER as u64) as f64 / begun.elapsed().as_secs_f64()
}

fn spin<T>(mut take: impl FnMut() -> Option<T>) -> T {
    loop {
        match take() {
            Some(taken) => return taken,
            None => std::hint::spin_loop(),
        }
    }
}
