//! What a key costs in memory, and the slowest batch while a state grows.
//!
//! Resident memory is that of the process, less what it was before: page tables, directories and free blocks count too. The limit of
//! the slowest batch is what the machine takes from a spinning thread for as long.

use crate::hiccup;
use crate::support::{Bench, Figure};
use millstream::memory::{Arena, ArenaOptions, MemoryBudget};
use millstream::state::{KeyGroupRange, StateBackend, ValueState};
use std::time::Instant;

/// Updates per batch.
const BATCH: u64 = 1000;
/// What a key and its value would take without anything around them.
const FLOOR_BYTES: f64 = 24.0;

struct Growing {
    backend: StateBackend,
    state: ValueState<u64, [u64; 2]>,
}

/// Grows a state to `keys` keys, deletes every other one, and inserts as many new ones.
pub fn measure(bench: &mut Bench, keys: u64) {
    let resident_before = resident_bytes();
    let arena = Arena::new(MemoryBudget::new(8 << 30), ArenaOptions::default());
    let mut backend = StateBackend::new(KeyGroupRange { start: 0, end: 128 }, 128, arena);
    let state = backend.value("bench", "totals").expect("the first state");
    let growing = Growing { backend, state };
    let begun = Instant::now();
    let mut batches: Vec<u64> = (0..keys).step_by(BATCH as usize).map(|first| growing.insert(first)).collect();
    let took = begun.elapsed();
    batches.sort_unstable();
    let probe = hiccup::gaps(took);
    growing.figures(bench, &format!("{keys} keys"), keys, resident_before);
    growing.delete_every_other(keys);
    assert_eq!(growing.backend.live_entries() as u64, keys / 2);
    (0..keys / 2).step_by(BATCH as usize).for_each(|first| {
        growing.insert(keys + first);
    });
    growing.figures(bench, &format!("{keys} keys, half of them replaced"), keys, resident_before);
    let us = |ns: u64| ns as f64 / 1e3;
    let slowest = us(batches[batches.len() - 1]);
    let typical = us(batches[batches.len() / 2]);
    for (metric, value) in [("p50", typical), ("p99.9", us(batches[batches.len() * 999 / 1000])), ("max", slowest)] {
        bench.figure(Figure::new(format!("batch of {BATCH} while growing to {keys} keys"), metric, value, "us"));
    }
    let beyond = slowest - typical - us(probe.max());
    bench.figure(Figure {
        limit: Some(150.0),
        goal: Some(1.0),
        ..Figure::new("slowest batch beyond a typical one and the probe", "excess", beyond.max(0.0), "us")
    });
    bench.figure(Figure::new("longest gap of the probe", "max", us(probe.max()), "us"));
}

impl Growing {
    /// Puts a batch of new keys in; answers the nanoseconds it took.
    fn insert(&self, first: u64) -> u64 {
        let context = self.backend.key_context();
        let keys: Vec<u64> = (first..first + BATCH).map(spread).collect();
        let begun = Instant::now();
        let hashed = keys.iter().map(|key| context.hash(key));
        self.state.update_batch(hashed, |_, old| Some(old.unwrap_or([1, 1]))).expect("the budget is large");
        begun.elapsed().as_nanos() as u64
    }

    fn delete_every_other(&self, keys: u64) {
        let context = self.backend.key_context();
        for key in (0..keys).step_by(2).map(spread) {
            self.state.remove(&context.hash(&key));
        }
    }

    fn figures(&self, bench: &mut Bench, scenario: &str, keys: u64, resident_before: u64) {
        let pages = self.backend.page_bytes() as f64 / keys as f64;
        let resident = resident_bytes().saturating_sub(resident_before) as f64 / keys as f64;
        bench.figure(Figure::new(scenario, "pages", pages, "B/key"));
        bench.figure(Figure {
            limit: Some(FLOOR_BYTES),
            goal: Some(40.0 / FLOOR_BYTES),
            ..Figure::new(scenario, "resident", resident, "B/key")
        });
    }
}

/// A bijection, so that keys come in no order.
fn spread(index: u64) -> u64 {
    index.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    statm.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).map_or(0, |pages| pages * 4096)
}
