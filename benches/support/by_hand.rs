//! Hand-written: the workloads as one would write them for this one purpose, on one thread or two.

use crate::cpus::on_two_cores;
use crate::open_table::OpenTable;
use crate::workloads::{KeyedStream, Outcome, square};
use crossbeam_queue::ArrayQueue;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

const BATCH: usize = 1024;

/// Batch after batch of the keys with these numbers.
fn batches(stream: KeyedStream, numbers: std::ops::Range<u64>, mut each: impl FnMut(&[u64])) {
    let mut batch = Vec::with_capacity(BATCH);
    for first in numbers.clone().step_by(BATCH) {
        batch.clear();
        batch.extend((first..(first + BATCH as u64).min(numbers.end)).map(|n| stream.key(n)));
        each(&batch);
    }
}

/// One thread, one table.
pub fn rolling_sum(stream: KeyedStream) -> Outcome {
    let (mut table, mut checksum) = (OpenTable::new(stream.keys), 0u64);
    let mut count = |batch: &[u64]| table.count_batch(batch, |count| checksum = checksum.wrapping_add(count));
    batches(stream, 0..stream.keys, &mut count);
    let begun = Instant::now();
    batches(stream, stream.keys..stream.total(), &mut count);
    let per_s = stream.records as f64 / begun.elapsed().as_secs_f64();
    Outcome { per_s, checksum }
}

/// One thread, one table, emptied at the end of every second of event time; the clock starts when the first is over.
pub fn tumbling_sum(stream: KeyedStream) -> Outcome {
    let (mut table, mut checksum) = (OpenTable::new(stream.keys), 0u64);
    let (mut begun, mut first) = (Instant::now(), 0);
    while first < stream.total() {
        let window_ends = (first + stream.per_second).min(stream.total());
        batches(stream, first..window_ends, |batch| table.count_batch(batch, |_| ()));
        if first == 0 {
            begun = Instant::now();
        }
        table.drain(|sum| checksum = checksum.wrapping_add(square(sum)));
        first = window_ends;
    }
    let per_s = (stream.total() - stream.per_second) as f64 / begun.elapsed().as_secs_f64();
    Outcome { per_s, checksum }
}

/// One thread, an array of sums for each slice of a window and one for the window, which gains a slice and loses one with every slide.
pub fn sliding_sum(stream: KeyedStream, slices: usize, slide_ms: u64) -> Outcome {
    let keys = stream.keys as usize;
    let mut ring = vec![vec![0u32; keys]; slices];
    let (mut window, mut checksum) = (vec![0u64; keys], 0u64);
    let slice_records = stream.per_second * slide_ms / 1_000;
    let (mut begun, mut first) = (Instant::now(), 0);
    for nth in 0.. {
        let slice_ends = (first + slice_records).min(stream.total());
        let newest = &mut ring[nth % slices];
        batches(stream, first..slice_ends, |batch| batch.iter().for_each(|key| newest[*key as usize] += 1));
        if first == 0 {
            begun = Instant::now();
        }
        for (sum, entering) in window.iter_mut().zip(&ring[nth % slices]) {
            *sum += u64::from(*entering);
            checksum = checksum.wrapping_add(square(*sum));
        }
        let oldest = &mut ring[(nth + 1) % slices];
        for (sum, leaving) in window.iter_mut().zip(oldest) {
            *sum -= u64::from(std::mem::take(leaving));
        }
        first = slice_ends;
        // Behind the last record those windows end that still hold one.
        if first == stream.total() && window.iter().all(|sum| *sum == 0) {
            break;
        }
    }
    let per_s = (stream.total() - slice_records) as f64 / begun.elapsed().as_secs_f64();
    Outcome { per_s, checksum }
}

/// Two threads with a table each. Both read half of the stream and hand the keys of the other over in batches.
pub fn rolling_sum_on_two(stream: KeyedStream) -> Outcome {
    let queues =
        [(); 2].map(|()| (ArrayQueue::<Vec<u64>>::new(16), ArrayQueue::<Vec<u64>>::new(32), AtomicBool::new(false)));
    let side = |me: usize| {
        let (mut table, mut checksum) = (OpenTable::new(stream.keys), 0u64);
        let (own, other) = (&queues[me], &queues[1 - me]);
        let mut begun = Instant::now();
        let (mut mine, mut theirs) = (Vec::with_capacity(BATCH), Vec::with_capacity(BATCH));
        let mut count = |keys: &[u64]| table.count_batch(keys, |count| checksum = checksum.wrapping_add(count));
        let take = |count: &mut dyn FnMut(&[u64])| {
            let Some(mut keys) = own.0.pop() else { return false };
            count(&keys);
            keys.clear();
            let _ = own.1.push(keys);
            true
        };
        for n in (me as u64..stream.total()).step_by(2) {
            if n / 2 == stream.keys / 2 {
                begun = Instant::now();
            }
            let key = stream.key(n);
            let to = if key.wrapping_mul(0xD6E8_FEB8_6659_FD93) >> 63 == me as u64 { &mut mine } else { &mut theirs };
            to.push(key);
            if mine.len() == BATCH {
                count(&mine);
                mine.clear();
            }
            if theirs.len() == BATCH {
                let fresh = other.1.pop().unwrap_or_else(|| Vec::with_capacity(BATCH));
                let mut full = std::mem::replace(&mut theirs, fresh);
                while let Err(refused) = other.0.push(full) {
                    full = refused;
                    take(&mut count);
                }
                while take(&mut count) {}
            }
        }
        count(&mine);
        while let Err(refused) = other.0.push(std::mem::take(&mut theirs)) {
            theirs = refused;
            take(&mut count);
        }
        other.2.store(true, Ordering::Release);
        loop {
            // Read before the last look: what came before the mark is seen.
            let is_last = own.2.load(Ordering::Acquire);
            if !take(&mut count) && is_last {
                break;
            }
        }
        (checksum, begun.elapsed())
    };
    let (a, b) = on_two_cores(|| side(0), || side(1));
    let per_s = stream.records as f64 / a.1.max(b.1).as_secs_f64();
    Outcome { per_s, checksum: a.0.wrapping_add(b.0) }
}
