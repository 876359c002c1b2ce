//! B8: what the store writes, how fast, and how soon a checkpoint is durable.
//!
//! ```text
//!  this thread: ValueState (8 B key, 16 B value) -> barrier -> harvest --blocks--> store thread: CheckpointStore -> io_uring -> disk
//! ```
//! Bandwidth: a full checkpoint from barrier to commit, into new files and over files written before, against 1 MiB writes past the page
//! cache, four in flight, into files like these. Bytes: those a checkpoint adds for each byte of a changed key and value, keys changed uniformly; without the images
//! that later checkpoints take of pages with many deltas, and with them. Commit: barrier to commit with 1 MiB changed, against a bare
//! write of 1 MiB and fdatasync. Not covered: what the records notice meanwhile (checkpoint_pause). `--only=full`, `bytes`, `scattered` or
//! `small` runs a part.
//!
//! The floor of a commit. In sequence there are one round of writes (blocks, page map, manifest and superblock, in any order) and one of
//! flushes (extent and superblock, at once), like the bare ones, and three hand-overs between threads: the last block, the completions, the
//! answer. Where the MiB is all there is, each page leaves whole: with its free slots 1.5 MiB. Where it is scattered over 256 MiB, some 20 000
//! pages have two changes each: 1.2 MiB of deltas and 0.2 MiB of page map are the least of it; of each page some six cache lines are read that
//! nobody has touched since (two cells and about four of 68 controls: which groups changed is kept modulo 32), and its chain in the page map is
//! found; it is lengthened behind the commit. By estimate six lines fetched ahead take 0.12 us: 2.4 ms of one core at the least, before the
//! writes end.
#![allow(clippy::disallowed_methods, reason = "a bench reads clocks, starts threads and removes files itself")]

#[path = "support/disk_queue.rs"]
mod disk_queue;
#[path = "support/median.rs"]
mod median;
mod support;

use disk_queue::DiskQueue;
use hdrhistogram::Histogram;
use median::median;
use millstream::checkpoint::{
    CheckpointId, CheckpointPlan, CheckpointStore, ImagesNeeded, JobIdentity, PieceBlock, SnapshotKind, StoreEvent,
    StoreOptions, SubtaskSnapshot,
};
use millstream::io::{Io, IoChoice};
use millstream::memory::{Arena, ArenaOptions, MemoryBudget};
use millstream::slot::Doorbell;
use millstream::state::{HarvestProgress, KeyGroupRange, StateBackend, ValueState};
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvError, SyncSender, TryRecvError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use support::{Bench, Figure, histogram};

/// Key and value.
const CELL_BYTES: f64 = 24.0;
const MIB: f64 = 1048576.0;
const VERTEX: &str = "bench";

fn main() {
    let mut bench = Bench::start("checkpoint_store");
    let (state_mib, runs) = if bench.is_quick() { (16, 1) } else { (256, 5) };
    let only = std::env::args().find_map(|arg| Some(arg.strip_prefix("--only=")?.to_owned()));
    let runs_part = |part: &str| only.as_ref().is_none_or(|only| only == part);
    let keys = (state_mib << 20) / 32;
    let mut queue = DiskQueue::open(if bench.is_quick() { 16 } else { 256 }).expect("target/ can be written");
    if ["full", "bytes", "scattered"].into_iter().any(runs_part) {
        let mut checkpoints = Checkpoints::open(keys);
        if runs_part("full") {
            full_checkpoints(&mut bench, &mut queue, &mut checkpoints, &format!("{state_mib} MiB"), runs);
        }
        for (share, goal) in [(0.001, 1.6), (0.01, 1.5), (0.1, 1.3)].into_iter().filter(|_| runs_part("bytes")) {
            bytes_written(&mut bench, &mut checkpoints, keys, share, goal);
        }
        if runs_part("scattered") {
            commits(&mut bench, &mut queue, &mut checkpoints, &format!("1 MiB changed of {state_mib} MiB"));
        }
    }
    if runs_part("small") {
        let mut checkpoints = Checkpoints::open((MIB / CELL_BYTES) as u64);
        commits(&mut bench, &mut queue, &mut checkpoints, "1 MiB changed, all there is");
    }
    bench.finish();
}

/// The bandwidth of full checkpoints, and of bare writes in between. The first ones fill new files, as every first checkpoint of a job does;
/// later ones those of checkpoints that are no longer kept.
fn full_checkpoints(bench: &mut Bench, queue: &mut DiskQueue, checkpoints: &mut Checkpoints, size: &str, runs: usize) {
    let size_mib = if bench.is_quick() { 16 } else { 256 };
    for (files, are_new) in [("new files", true), ("files written before", false)] {
        if !are_new {
            // Until nothing is left of the first ones.
            for _ in 0..2 {
                checkpoints.make(SnapshotKind::Full);
            }
        }
        let (mut raw, mut full) = (Vec::new(), Vec::new());
        for _ in 0..runs {
            let rate = if are_new { DiskQueue::open(size_mib).map(|new| new.new_mb_s()) } else { queue.write_mb_s(4) };
            raw.push(rate.expect("target/ can be written"));
            let made = checkpoints.make(SnapshotKind::Full);
            full.push(made.bytes as f64 / 1e6 / made.took.as_secs_f64());
        }
        if let (Some(first), Some(last)) = (raw.first(), raw.last()) {
            bench.probe(&format!("writes of 1 MiB, {files}, first and last"), "MB/s", *first, *last);
        }
        bench.figure(Figure {
            limit: Some(middle(raw)),
            goal: Some(0.8),
            ..Figure::new(format!("full checkpoint, {size}, {files}"), "bandwidth", middle(full), "MB/s")
        });
    }
}

/// From barrier to commit, and bare writes in between.
fn commits(bench: &mut Bench, queue: &mut DiskQueue, checkpoints: &mut Checkpoints, scenario: &str) {
    checkpoints.make(SnapshotKind::Full);
    let (mut commits, mut bare) = (histogram(), histogram());
    for _ in 0..if bench.is_quick() { 10 } else { 100 } {
        bare.saturating_record(queue.durable_mib().expect("target/ can be written").as_nanos() as u64);
        checkpoints.change((MIB / CELL_BYTES) as u64);
        commits.saturating_record(checkpoints.make(SnapshotKind::Incremental).took.as_nanos() as u64);
    }
    bench.latencies(&format!("barrier to commit, {scenario}"), &commits, &[("write of 1 MiB and fdatasync", &bare)]);
    for (metric, quantile, goal) in [("p50", 0.5, Some(1.5)), ("p99", 0.99, None)] {
        let us = |times: &Histogram<u64>| times.value_at_quantile(quantile) as f64 / 1e3;
        let figure = Figure::new(format!("barrier to commit, {scenario}"), metric, us(&commits), "us");
        bench.figure(Figure { limit: Some(us(&bare)), goal, ..figure });
    }
}

/// Checkpoints with this share of all keys changed: one right after a full one, and many in a row.
fn bytes_written(bench: &mut Bench, checkpoints: &mut Checkpoints, keys: u64, share: f64, goal: f64) {
    checkpoints.make(SnapshotKind::Full);
    let count = (keys as f64 * share) as u64;
    let rounds = if bench.is_quick() { 4 } else { 12 };
    let per_byte = |bytes: u64| bytes as f64 / (count as f64 * CELL_BYTES);
    let written: Vec<u64> = (0..rounds)
        .map(|_| {
            checkpoints.change(count);
            checkpoints.make(SnapshotKind::Incremental).bytes
        })
        .collect();
    let scenario = format!("{} % of {keys} keys changed", share * 100.0);
    bench.figure(Figure {
        limit: Some(1.0),
        goal: Some(goal),
        ..Figure::new(&scenario, "first", per_byte(written[0]), "B/B")
    });
    let mean = per_byte(written.iter().sum::<u64>() / rounds);
    bench.figure(Figure { limit: Some(1.0), ..Figure::new(scenario, "mean", mean, "B/B") });
}

fn middle(values: Vec<f64>) -> f64 {
    let mut values = values.into_iter();
    median(values.len(), || values.next().unwrap_or_default())
}

/// A state and the thread that makes it durable.
struct Checkpoints {
    backend: StateBackend,
    state: ValueState<u64, [u64; 2]>,
    keys: u64,
    random: u64,
    store: StoreThread,
}

struct Made {
    bytes: u64,
    took: Duration,
}

impl Checkpoints {
    fn open(keys: u64) -> Self {
        let arena = Arena::new(MemoryBudget::new(4 << 30), ArenaOptions::default());
        let mut backend = StateBackend::new(KeyGroupRange { start: 0, end: 128 }, 128, arena.clone());
        let state = backend.value("bench", "totals").expect("the first state");
        let checkpoints = Self { backend, state, keys, random: 1, store: StoreThread::start(arena) };
        (0..keys).for_each(|key| checkpoints.add_to(key));
        checkpoints
    }

    fn add_to(&self, key: u64) {
        let add = |old: Option<[u64; 2]>| Some(old.map_or([1, key], |[count, sum]| [count + 1, sum + key]));
        self.state.update(&self.backend.key_context().hash(&key), add).expect("the budget is large");
    }

    /// Changes that many different keys.
    fn change(&mut self, count: u64) {
        let mut changed = HashSet::new();
        while (changed.len() as u64) < count {
            self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let key = ((u128::from(self.random) * u128::from(self.keys)) >> 64) as u64;
            if changed.insert(key) {
                self.add_to(key);
            }
        }
    }

    /// From the barrier to the commit.
    fn make(&mut self, kind: SnapshotKind) -> Made {
        let (id, kind) = match self.store.begin(kind) {
            (id, ImagesNeeded::Everything) => {
                self.backend.request_full();
                (id, SnapshotKind::Full)
            }
            (id, ImagesNeeded::Pages(pages)) => {
                self.backend.request_images(pages);
                (id, SnapshotKind::Incremental)
            }
        };
        self.store.send(Order::Begin(plan(id, kind)));
        let begun = Instant::now();
        self.backend.barrier(id);
        let blocks = loop {
            let store = &self.store;
            let sink = &mut |block| {
                store.send(Order::Block(block));
                Ok(())
            };
            match self.backend.harvest(1 << 20, sink).expect("the budget is large") {
                HarvestProgress::Done { blocks } => break blocks,
                HarvestProgress::Worked | HarvestProgress::Refused => {}
            }
        };
        let snapshot = SubtaskSnapshot {
            vertex: VERTEX.to_owned(),
            key_groups: self.backend.key_groups(),
            states: self.backend.descriptors(),
            blocks,
            ..SubtaskSnapshot::default()
        };
        self.store.send(Order::Seal(id, snapshot));
        match self.store.answer() {
            Answer::Ended(StoreEvent::Committed { new_bytes, .. }) => Made { bytes: new_bytes, took: begun.elapsed() },
            Answer::Ended(StoreEvent::Failed { error, .. }) => panic!("the checkpoint failed: {error}"),
            Answer::Next(..) => unreachable!("asked for only before a checkpoint"),
        }
    }
}

fn plan(id: CheckpointId, kind: SnapshotKind) -> CheckpointPlan {
    let vertices = vec![(VERTEX.to_owned(), 1)];
    CheckpointPlan { id, kind, max_parallelism: 128, vertices, created_wall_ms: 0 }
}

enum Order {
    AskNext,
    Begin(CheckpointPlan),
    Block(PieceBlock),
    Seal(CheckpointId, SubtaskSnapshot),
}

enum Answer {
    Next(CheckpointId, ImagesNeeded),
    Ended(StoreEvent),
}

/// The store with its own ring, as on the engine's control thread.
struct StoreThread {
    orders: Option<SyncSender<Order>>,
    answers: Receiver<Answer>,
    bell: Arc<Doorbell>,
    thread: Option<JoinHandle<()>>,
    dir: PathBuf,
}

impl StoreThread {
    fn start(arena: Arena) -> Self {
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("bench-checkpoint-store");
        let _ = std::fs::remove_dir_all(&dir);
        let bell = Arc::new(Doorbell::new().expect("the process has a free file descriptor"));
        let (orders, taken) = sync_channel(8);
        let (answer, answers) = sync_channel(1);
        let run = {
            let (dir, bell) = (dir.clone(), bell.clone());
            move || {
                let mut io = millstream::io::open(IoChoice::Auto, bell).expect("some way of I/O works");
                let job = JobIdentity { name: "bench".to_owned() };
                let opened = CheckpointStore::open(&mut *io, &arena, &dir, &job, StoreOptions::default());
                let store = opened.expect("the directory is empty").store;
                serve(store, &mut *io, &taken, &answer);
            }
        };
        Self { orders: Some(orders), answers, bell, thread: Some(std::thread::spawn(run)), dir }
    }

    fn send(&self, order: Order) {
        self.orders.as_ref().and_then(|orders| orders.send(order).ok()).expect("the store's thread lives");
        self.bell.ring();
    }

    fn answer(&self) -> Answer {
        self.answers.recv().unwrap_or_else(|RecvError| panic!("the store's thread ended"))
    }

    fn begin(&self, kind: SnapshotKind) -> (CheckpointId, ImagesNeeded) {
        self.send(Order::AskNext);
        match self.answer() {
            Answer::Next(id, _) if kind == SnapshotKind::Full => (id, ImagesNeeded::Everything),
            Answer::Next(id, images) => (id, images),
            Answer::Ended(_) => unreachable!("no checkpoint is in progress"),
        }
    }
}

impl Drop for StoreThread {
    fn drop(&mut self) {
        drop(self.orders.take());
        self.bell.ring();
        let _ = self.thread.take().map(JoinHandle::join);
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

fn serve(mut store: CheckpointStore, io: &mut dyn Io, orders: &Receiver<Order>, answers: &SyncSender<Answer>) {
    let begun = Instant::now();
    let mut waiting: Option<PieceBlock> = None;
    loop {
        let now_ns = begun.elapsed().as_nanos() as u64;
        if let Some(event) = store.step(io, now_ns) {
            let _ = answers.send(Answer::Ended(event));
        }
        waiting = waiting.and_then(|block| store.add_block(block).err());
        if waiting.is_some() {
            io.wait(Duration::from_millis(1));
            continue;
        }
        match orders.try_recv() {
            Ok(Order::AskNext) => {
                let _ = answers.send(Answer::Next(store.next_id(), store.pages_needing_images()));
            }
            Ok(Order::Begin(plan)) => store.begin(plan, now_ns).expect("no checkpoint is in progress"),
            Ok(Order::Block(block)) => waiting = store.add_block(block).err(),
            Ok(Order::Seal(id, snapshot)) => {
                store.acknowledge(id, snapshot);
                store.seal(id).expect("everything was handed over");
            }
            Err(TryRecvError::Empty) => io.wait(Duration::from_millis(1)),
            Err(TryRecvError::Disconnected) => return store.close(io),
        }
    }
}
