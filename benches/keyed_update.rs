//! B3: read-modify-write of keyed state, one thread, uniform keys, 8 B key and 16 B value (count, sum).
//!
//! ```text
//! key batch -> [limit: own open-addressing table, prefetch by touching] | [peer: hashbrown + foldhash] | [engine: ValueState]
//! ```
//! Measured: updates per second (median of interleaved runs) and bytes per key. Goal: the engine's rate >= the peer's at 1 M keys.
//! Not covered: growth spikes, skewed keys, windows.

use hashbrown::HashMap;
use millstream::memory::{Arena, ArenaOptions, MemoryBudget};
use millstream::state::{HarvestProgress, KeyGroupRange, StateBackend, ValueState};
use std::hint::black_box;

type Total = [u64; 2];

/// Records per batch, as an operator receives them.
const BATCH: usize = 1024;

#[allow(clippy::disallowed_methods, reason = "a bench measures time")]
fn now() -> std::time::Instant {
    std::time::Instant::now()
}

fn main() {
    let has = |flag: &str| std::env::args().any(|arg| arg == flag);
    let (quick, json) = (has("--quick"), has("--json"));
    let asked: Vec<u64> = std::env::args().filter_map(|arg| arg.strip_prefix("--keys=")?.parse().ok()).collect();
    let key_counts: &[u64] = match (asked.is_empty(), quick) {
        (false, _) => &asked,
        (true, true) => &[10_000, 1_000_000],
        (true, false) => &[10_000, 1_000_000, 10_000_000],
    };
    let runs = if quick { 3 } else { 5 };
    println!(
        "keyed_update: 8 B key, 16 B value (count, sum), uniform keys, one thread, M updates/s (median of {runs})"
    );
    println!(
        "{:>10} {:>8} {:>8} {:>8} {:>8} {:>10} {:>12} {:>8} {:>8}",
        "keys", "limit", "peer", "engine", "batched", "with ckpt", "engine/peer", "B/key", "verdict"
    );
    for &keys in key_counts {
        let updates = if quick { 4_000_000 } else { 20_000_000 };
        let row = measure(keys, updates, runs);
        let verdict = if row.batched >= row.peer { "within" } else { "OVER" };
        println!(
            "{keys:>10} {:>8.1} {:>8.1} {:>8.1} {:>8.1} {:>10.1} {:>12.2} {:>8.1} {verdict:>8}",
            row.limit,
            row.peer,
            row.engine,
            row.batched,
            row.with_checkpoints,
            row.batched / row.peer,
            row.bytes_per_key,
        );
        if json {
            println!(
                "{{\"bench\":\"keyed_update\",\"scenario\":\"{keys} keys\",\"metric\":\"updates\",\"value\":{:.2},\"unit\":\"M/s\",\
                 \"limit\":{:.2},\"kernel\":{:.2},\"ratio\":{:.3},\"goal\":\">= peer\",\"verdict\":\"{verdict}\",\"bytes_per_key\":{:.1}}}",
                row.batched,
                row.limit,
                row.peer,
                row.batched / row.peer,
                row.bytes_per_key,
            );
        }
    }
}

struct Row {
    limit: f64,
    peer: f64,
    engine: f64,
    batched: f64,
    with_checkpoints: f64,
    bytes_per_key: f64,
}

fn measure(keys: u64, updates: usize, runs: usize) -> Row {
    let mut peer: HashMap<u64, Total, foldhash::fast::FixedState> = HashMap::default();
    let mut limit = OpenTable::new(keys as usize);
    let arena = Arena::new(MemoryBudget::new(8 << 30), ArenaOptions::default());
    let mut backend = StateBackend::new(KeyGroupRange { start: 0, end: 128 }, 128, arena);
    let state = backend.value::<u64, Total>("bench", "totals").expect("the first state");
    let context = backend.key_context();
    for key in 0..keys {
        peer.insert(key, [0; 2]);
        limit.update(key, 0);
        state.put(&context.hash(&key), &[0; 2]).expect("the budget is large");
    }
    let mut seed = 1;
    let mut stream = vec![0u64; updates];
    let mut rates = [const { Vec::new() }; 5];
    for _ in 0..runs {
        stream.iter_mut().for_each(|key| {
            seed = u64::wrapping_add(seed, 0x9e37_79b9_7f4a_7c15);
            let z = (seed ^ (seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            *key = ((u128::from(z ^ (z >> 31)) * u128::from(keys)) >> 64) as u64;
        });
        rates[0].push(rate(&stream, |batch| limit.update_batch(batch)));
        rates[1].push(rate(&stream, |batch| {
            for &key in batch {
                let total = peer.entry(key).or_insert([0; 2]);
                *total = [total[0] + 1, total[1] + key];
            }
        }));
        rates[2].push(rate(&stream, |batch| {
            for key in batch {
                state.update(&context.hash(key), add(*key)).expect("no new key");
            }
        }));
        rates[3].push(rate(&stream, |batch| update_batch(&state, &backend, batch)));
        rates[4].push(rate_with_checkpoints(&stream, &state, &mut backend));
    }
    let expected: u64 = peer.values().map(|total| total[0]).sum();
    let mut counted = 0;
    state.for_each(|_, total| counted += total[0]);
    assert_eq!(counted, 3 * expected, "the engine counted every update");
    black_box(limit.checksum());
    let [limit, peer, engine, batched, with_checkpoints] = rates.map(median);
    let bytes_per_key = backend.page_bytes() as f64 / keys as f64;
    Row { limit, peer, engine, batched, with_checkpoints, bytes_per_key }
}

fn add(key: u64) -> impl Fn(Option<Total>) -> Option<Total> {
    move |total| {
        let [count, sum] = total.unwrap_or_default();
        Some([count + 1, sum + key])
    }
}

fn update_batch(state: &ValueState<u64, Total>, backend: &StateBackend, batch: &[u64]) {
    let context = backend.key_context();
    state
        .update_batch(batch.iter().map(|key| context.hash(key)), |index, total| add(batch[index])(total))
        .expect("no new key");
}

/// The same with a barrier every 100 ms and the harvest in slices between batches, pieces discarded.
fn rate_with_checkpoints(stream: &[u64], state: &ValueState<u64, Total>, backend: &mut StateBackend) -> f64 {
    let mut checkpoint = millstream::checkpoint::CheckpointId(0);
    let mut last = now();
    rate(stream, |batch| {
        update_batch(state, backend, batch);
        if backend.is_harvesting() {
            let progress = backend.harvest(64 << 10, &mut |_| Ok(())).expect("the budget is large");
            if progress != HarvestProgress::Worked {
                last = now();
            }
        } else if last.elapsed().as_millis() >= 100 {
            checkpoint.0 += 1;
            backend.barrier(checkpoint);
        }
    })
}

fn rate(stream: &[u64], mut update: impl FnMut(&[u64])) -> f64 {
    let start = now();
    stream.chunks(BATCH).for_each(&mut update);
    stream.len() as f64 / start.elapsed().as_secs_f64() / 1e6
}

fn median(mut rates: Vec<f64>) -> f64 {
    rates.sort_by(f64::total_cmp);
    rates[rates.len() / 2]
}

/// The limit: what a table for exactly this job does, without growth, removal, key groups or snapshots.
struct OpenTable {
    /// Key plus one (0 is free), count, sum.
    cells: Vec<[u64; 3]>,
    shift: u32,
}

impl OpenTable {
    fn new(keys: usize) -> Self {
        let len = (keys * 3 / 2).next_power_of_two();
        Self { cells: vec![[0; 3]; len], shift: 64 - len.ilog2() }
    }

    fn home(&self, key: u64) -> usize {
        (key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> self.shift) as usize
    }

    fn update(&mut self, key: u64, count: u64) {
        let mask = self.cells.len() - 1;
        let mut at = self.home(key);
        while self.cells[at][0] != 0 && self.cells[at][0] != key + 1 {
            at = (at + 1) & mask;
        }
        let cell = &mut self.cells[at];
        *cell = [key + 1, cell[1] + count, cell[2] + key];
    }

    /// Touches the cells of sixteen keys before it updates them, so that their misses overlap.
    fn update_batch(&mut self, batch: &[u64]) {
        for group in batch.chunks(16) {
            let touched = group.iter().fold(0, |sum, &key| sum ^ self.cells[self.home(key)][0]);
            black_box(touched);
            group.iter().for_each(|&key| self.update(key, 1));
        }
    }

    fn checksum(&self) -> u64 {
        self.cells.iter().fold(0, |sum, cell| sum.wrapping_add(cell[1] ^ cell[2]))
    }
}
