//! B3: read-modify-write of keyed state, one thread, uniform keys, 8 B key and 16 B value (count, sum).
//!
//! ```text
//! key batch -> [limit: own open-addressing table, prefetch by touching] | [peer: hashbrown + foldhash] | [engine: ValueState]
//! key batch -> frames of a channel -> [operator: KeyedHead, Reduce] -> a stage that adds up
//! ```
//! Measured: updates per second, the median of interleaved runs. The operator is timed from the frame on, without the sending. Then the
//! same with texts (`keyed/texts`), and what a key costs in memory and how a growing state pauses (`keyed/growth`).
//! `--only=updates`, `texts` or `growth` runs a part, `--keys=N` other numbers of keys. Not covered: skewed keys, windows.
#![allow(clippy::disallowed_methods, reason = "a bench reads clocks and starts threads itself")]

#[path = "keyed/growth.rs"]
mod growth;
#[path = "support/hiccup.rs"]
mod hiccup;
#[path = "support/huge.rs"]
mod huge;
mod support;
#[path = "keyed/texts.rs"]
mod texts;

use hashbrown::HashMap;
use huge::HugeCells;
use millstream::exchange::{ChannelOptions, Delivery, Receiver, RecordShape, Sender, channel};
use millstream::graph::{BuildContext, EdgeRoot};
use millstream::io::{SimDisk, SimDiskOptions, SimIo};
use millstream::memory::{Arena, ArenaOptions, MemoryBudget};
use millstream::metrics::{MetricsRegistry, TaskMetrics};
use millstream::operator::{ChainContext, Flow, KeyedHead, Reduce, Signal, Stage};
use millstream::record::Stamp;
use millstream::slot::{Doorbell, LocalServices};
use millstream::state::{HarvestProgress, KeyContext, KeyGroupRange, StateBackend, ValueState};
use millstream::time::{EventTimeMs, MachineClock};
use std::cell::{Cell, RefCell};
use std::collections::HashMap as StdHashMap;
use std::hint::black_box;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};
use support::{Bench, Figure};

type Total = [u64; 2];

/// Records per batch, as an operator receives them.
const BATCH: usize = 1024;

fn main() {
    let mut bench = Bench::start("keyed_update");
    let asked: Vec<u64> = std::env::args().filter_map(|arg| arg.strip_prefix("--keys=")?.parse().ok()).collect();
    let key_counts: &[u64] = match (asked.is_empty(), bench.is_quick()) {
        (false, _) => &asked,
        (true, true) => &[10_000, 1_000_000],
        (true, false) => &[10_000, 1_000_000, 10_000_000],
    };
    let runs = if bench.is_quick() { 3 } else { 5 };
    let updates = std::env::args().find_map(|arg| arg.strip_prefix("--updates=")?.parse().ok());
    let updates = updates.unwrap_or(if bench.is_quick() { 2_000_000 } else { 20_000_000 });
    let only = std::env::args().find_map(|arg| Some(arg.strip_prefix("--only=")?.to_owned()));
    let runs_part = |part: &str| only.as_ref().is_none_or(|only| only == part);
    if runs_part("updates") {
        key_counts.iter().for_each(|&keys| measure(keys, updates, runs).figures(&mut bench, keys));
    }
    let (texts, growing) = if bench.is_quick() { (50_000, 500_000) } else { (1_000_000, 10_000_000) };
    if runs_part("texts") {
        texts::measure(&mut bench, texts, updates / 10, runs);
    }
    if runs_part("growth") {
        growth::measure(&mut bench, growing);
    }
    bench.finish();
}

struct Row {
    limit: f64,
    peer: f64,
    single: f64,
    batched: f64,
    with_checkpoints: f64,
    operator: f64,
}

impl Row {
    fn figures(&self, bench: &mut Bench, keys: u64) {
        let figure = |what: &str, rate| Figure::new(format!("{keys} keys, {what}"), "rate", rate, "M/s");
        bench.figure(figure("hashbrown", self.peer));
        bench.figure(Figure { limit: Some(self.limit), ..figure("key by key", self.single) });
        bench.figure(Figure { limit: Some(self.limit), ..figure("in batches", self.batched) });
        bench.figure(Figure {
            kernel: Some(self.batched),
            ..figure("in batches, a snapshot every 100 ms", self.with_checkpoints)
        });
        bench.figure(Figure { limit: Some(self.limit), goal: Some(0.4), ..figure("whole operator", self.operator) });
        // Where everything fits into the cache there are no misses that could overlap.
        let goal = (keys >= 1_000_000).then_some(1.5);
        bench.figure(Figure { kernel: Some(self.peer), goal, ..figure("whole operator / hashbrown", self.operator) });
    }
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
        state.put(&context.hash(&key), &[0; 2]).expect("the budget is large");
    }
    let all: Vec<u64> = (0..keys).collect();
    limit.update_batch(&all, 0);
    let mut operator = Operator::open();
    operator.rate(&all);
    let mut seed = 1;
    let mut stream = vec![0u64; updates];
    let mut rates = [const { Vec::new() }; 6];
    for _ in 0..runs {
        stream.iter_mut().for_each(|key| {
            seed = u64::wrapping_add(seed, 0x9e37_79b9_7f4a_7c15);
            let z = (seed ^ (seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            *key = ((u128::from(z ^ (z >> 31)) * u128::from(keys)) >> 64) as u64;
        });
        rates[0].push(rate(&stream, |batch| limit.update_batch(batch, 1)));
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
        rates[5].push(operator.rate(&stream));
    }
    let expected: u64 = peer.values().map(|total| total[0]).sum();
    let mut counted = 0;
    state.for_each(|_, total| counted += total[0]);
    assert_eq!(counted, 3 * expected, "the engine counted every update");
    assert!(operator.emitted.get() == (keys as usize + runs * updates) as u64, "the operator emitted every record");
    black_box(limit.checksum());
    let [limit, peer, single, batched, with_checkpoints, operator] = rates.map(median);
    Row { limit, peer, single, batched, with_checkpoints, operator }
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
    let mut last = Instant::now();
    rate(stream, |batch| {
        update_batch(state, backend, batch);
        if backend.is_harvesting() {
            let progress = backend.harvest(64 << 10, &mut |_| Ok(())).expect("the budget is large");
            if progress != HarvestProgress::Worked {
                last = Instant::now();
            }
        } else if last.elapsed().as_millis() >= 100 {
            checkpoint.0 += 1;
            backend.barrier(checkpoint);
        }
    })
}

/// A whole operator behind a channel.
struct Operator {
    keys: KeyContext,
    sender: Sender,
    receiver: Receiver,
    chain: Box<dyn EdgeRoot>,
    io: SimIo,
    emitted: Rc<Cell<u64>>,
}

/// The end of the chain: counts what was emitted.
struct Emitted(Rc<Cell<u64>>);

impl Stage<Total> for Emitted {
    #[inline]
    fn record(&mut self, _: &mut ChainContext<'_>, _: &Stamp, _: &Total) {
        self.0.set(self.0.get() + 1);
    }

    fn signal(&mut self, _: &mut ChainContext<'_>, _: &mut Signal<'_>) -> Flow {
        Flow::Done
    }

    fn is_blocked(&self) -> bool {
        false
    }
}

impl Operator {
    fn open() -> Self {
        let arena = Arena::new(MemoryBudget::new(8 << 30), ArenaOptions::default());
        let bell = || Arc::new(Doorbell::new().expect("the process has a free file descriptor"));
        let backend = StateBackend::new(KeyGroupRange { start: 0, end: 128 }, 128, arena.clone());
        let keys = backend.key_context();
        let mut cx = BuildContext {
            graph: Arc::default(),
            subtask: 0,
            parallelism: 1,
            max_parallelism: 128,
            arena: arena.clone(),
            state: Rc::new(RefCell::new(backend)),
            outputs: StdHashMap::default(),
            splits: Arc::new([]),
            metrics: TaskMetrics::new(MetricsRegistry::new(), "bench".into(), 0),
            doorbell: bell(),
            clock: Arc::new(MachineClock),
            is_durable: false,
            local: LocalServices::default(),
        };
        let (sender, receiver) = channel(ChannelOptions {
            who: "bench",
            shape: RecordShape::fixed::<u64, Total>(),
            segments_in_flight_max: 4,
            arena,
            consumer: bell(),
            producer: bell(),
        });
        let emitted = Rc::new(Cell::new(0));
        let sum = |stored: &Total, record: &Total| [stored[0] + record[0], stored[1] + record[1]];
        let reduce = Reduce::<u64, Total, _, _>::open(&"sum".into(), sum, &mut cx, Emitted(emitted.clone()));
        let chain = Box::new(KeyedHead::<u64, Total, _>::new(keys, cx.state.clone(), reduce.expect("the first state")));
        Self { keys, sender, receiver, chain, io: SimIo::new(&SimDisk::new(1, SimDiskOptions::default())), emitted }
    }

    /// Sends batch after batch; the clock runs while the operator takes its frames.
    fn rate(&mut self, stream: &[u64]) -> f64 {
        let mut taken = Duration::ZERO;
        for batch in stream.chunks(BATCH) {
            for key in batch {
                let stamp = Stamp { at: EventTimeMs(0), clock: EventTimeMs::MIN, split: 0, origin_ns: 0 };
                let sent = self.sender.push(
                    &stamp,
                    self.keys.group(key),
                    bytemuck::bytes_of(key),
                    bytemuck::bytes_of(&[1, *key]),
                );
                sent.expect("the receiver lives");
            }
            self.sender.flush().expect("the receiver lives");
            let start = Instant::now();
            while let Some(Delivery::Records(frame)) = self.receiver.peek() {
                let mut failure = None;
                let mut cx =
                    ChainContext { now_ns: 0, wall_ms: 0, origin_ns: 0, io: &mut self.io, failure: &mut failure };
                self.chain.records(&mut cx, &frame);
                assert_eq!(failure, None);
                self.receiver.advance();
            }
            taken += start.elapsed();
        }
        stream.len() as f64 / taken.as_secs_f64() / 1e6
    }
}

fn rate(stream: &[u64], mut update: impl FnMut(&[u64])) -> f64 {
    let start = Instant::now();
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
    cells: HugeCells<[u64; 3]>,
    shift: u32,
}

impl OpenTable {
    fn new(keys: usize) -> Self {
        let len = (keys * 3 / 2).next_power_of_two();
        Self { cells: HugeCells::new(len), shift: 64 - len.ilog2() }
    }

    /// Touches the cells of sixteen keys before it updates them, so that their misses overlap.
    fn update_batch(&mut self, batch: &[u64], count: u64) {
        let (shift, cells) = (self.shift, self.cells.all());
        let mask = cells.len() - 1;
        let home = |key: u64| (key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> shift) as usize;
        for group in batch.chunks(16) {
            let touched = group.iter().fold(0, |sum, &key| sum ^ cells[home(key)][0]);
            black_box(touched);
            for &key in group {
                let mut at = home(key);
                while cells[at][0] != 0 && cells[at][0] != key + 1 {
                    at = (at + 1) & mask;
                }
                let cell = &mut cells[at];
                *cell = [key + 1, cell[1] + count, cell[2] + key];
            }
        }
    }

    fn checksum(&mut self) -> u64 {
        self.cells.all().iter().fold(0, |sum, cell| sum.wrapping_add(cell[1] ^ cell[2]))
    }
}
