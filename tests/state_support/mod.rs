//! The harness of the state models: random histories over subtasks of any number, with barriers, partial harvests, snapshots given up, crashes
//! and restores at another parallelism, against a plain model.
//!
//! After every snapshot what is restored from all pieces written so far, at some parallelism, equals the model at the barrier, and every
//! page of it equals the live page at the barrier byte by byte.
//!
//! A new kind of disturbance is one more `Step` and one more arm of `Run::step`: nothing may change what a state answers.

use millstream::checkpoint::{CheckpointId, PageKey, PieceBlock, PieceKind};
use millstream::io::{Io, IoOp, SharedIo, SimDisk, SimDiskOptions, SimIo};
use millstream::memory::{Arena, ArenaOptions, HugePages, MemoryBudget};
use millstream::state::{HarvestProgress, KeyContext, KeyGroup, KeyGroupRange, StateBackend, StateClock};
use millstream::time::EventTimeMs;
use proptest::prelude::*;
use std::collections::BTreeMap;

pub const GROUPS: u16 = 8;
const PARALLELISMS: [u32; 4] = [1, 2, 3, 8];

/// One step of a run. Keys and contents are derived from the numbers by each subject.
#[derive(Clone, Debug)]
pub enum Step {
    Put {
        key: u16,
        seed: u16,
    },
    Remove {
        key: u16,
    },
    /// Puts a row of keys, to split pages.
    PutMany {
        from: u16,
        count: u16,
        seed: u16,
    },
    RemoveMany {
        from: u16,
        count: u16,
    },
    /// Lets time pass; the next records are ahead of the watermark by `ahead_ms`, or behind it.
    Tick {
        ms: u16,
        ahead_ms: i16,
    },
    /// Pages are looked at, to be compared later, or not: looking brings them into memory as a whole.
    Barrier {
        look: bool,
    },
    Harvest {
        work_bytes: usize,
        refuse: bool,
    },
    RequestImages,
    RequestFull,
    Abandon,
    /// Some pages of every state leave memory.
    Evict {
        pages: u8,
    },
    /// Everything in memory is lost; the last complete snapshot comes back in other subtasks.
    Crash {
        parallelism: prop::sample::Index,
    },
}

pub fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        20 => (0..600u16, any::<u16>()).prop_map(|(key, seed)| Step::Put { key, seed }),
        10 => (0..600u16).prop_map(|key| Step::Remove { key }),
        3 => (0..600u16, 1..120u16, any::<u16>()).prop_map(|(from, count, seed)| Step::PutMany { from, count, seed }),
        2 => (0..600u16, 1..200u16).prop_map(|(from, count)| Step::RemoveMany { from, count }),
        5 => (0..40u16, -20..30i16).prop_map(|(ms, ahead_ms)| Step::Tick { ms, ahead_ms }),
        3 => any::<bool>().prop_map(|look| Step::Barrier { look }),
        8 => (1..60_000usize, prop::bool::weighted(0.2)).prop_map(|(work_bytes, refuse)| Step::Harvest { work_bytes, refuse }),
        1 => Just(Step::RequestImages),
        1 => Just(Step::RequestFull),
        1 => Just(Step::Abandon),
        3 => (1..20u8).prop_map(|pages| Step::Evict { pages }),
        1 => any::<prop::sample::Index>().prop_map(|parallelism| Step::Crash { parallelism }),
    ];
    prop::collection::vec(step, 1..70)
}

pub type Dump = BTreeMap<Vec<u8>, Vec<u8>>;

/// The times of a run.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    pub processing_ms: i64,
    pub watermark: i64,
    /// The time of the record at hand.
    pub at: i64,
}

/// A state under test: how steps change it, and all it holds.
pub trait Subject {
    /// The obvious way to hold the same.
    type Model: Clone + Default;

    fn register(backend: &mut StateBackend, clock: &StateClock) -> Self;
    /// The key group of a key, which says in which subtask it is handled.
    fn group(key: u16) -> KeyGroup;
    /// Changes or reads something; answers what was seen, the model alike.
    fn put(&mut self, key: u16, seed: u16) -> Vec<u8>;
    fn remove(&mut self, key: u16);
    /// Whether every subtask is told to remove, whatever the key.
    const REMOVES_EVERYWHERE: bool = false;
    /// Adds all it holds, as the model does.
    fn dump(&mut self, dump: &mut Dump);
    fn restored(&mut self) {}
    fn model_put(model: &mut Self::Model, now: Now, key: u16, seed: u16) -> Vec<u8>;
    fn model_remove(model: &mut Self::Model, now: Now, key: u16);
    fn model_dump(model: &Self::Model, now: Now) -> Dump;
}

pub fn context() -> KeyContext {
    KeyContext::new(GROUPS)
}

pub fn backend(key_groups: KeyGroupRange) -> StateBackend {
    // Many short-lived states: zeroing huge pages would be most of the time.
    let arena = Arena::new(MemoryBudget::new(1 << 30), ArenaOptions { huge_pages: HugePages::Off });
    StateBackend::new(key_groups, GROUPS, arena)
}

pub type Pieces = Vec<(PageKey, PieceKind, Vec<u8>)>;
type Pages = BTreeMap<PageKey, Vec<u8>>;

struct Subtask<S> {
    backend: StateBackend,
    subject: S,
    /// Where pages go that leave memory.
    io: SharedIo,
}

pub struct Run<S: Subject> {
    subtasks: Vec<Subtask<S>>,
    clock: StateClock,
    now: Now,
    model: S::Model,
    /// What the model and the pages were at the barrier of the snapshot in progress.
    at_barrier: Option<(S::Model, Option<Pages>, Now)>,
    /// The pieces of complete snapshots, and those of the one in progress.
    pub pieces: Pieces,
    pending: Pieces,
    committed: Committed<S::Model>,
    /// What there was at the last barrier, for when its snapshot is given up, complete or not.
    before: Committed<S::Model>,
    checkpoint: u64,
}

#[derive(Clone, Default)]
struct Committed<M> {
    pieces: usize,
    model: M,
}

impl<S: Subject> Run<S> {
    pub fn new() -> Self {
        let now = Now { processing_ms: 1000, watermark: 500, at: 500 };
        let clock = StateClock::default();
        let mut run = Self {
            subtasks: subtasks(1, &clock),
            clock,
            now,
            model: S::Model::default(),
            at_barrier: None,
            pieces: Vec::new(),
            pending: Vec::new(),
            committed: Committed::default(),
            before: Committed::default(),
            checkpoint: 0,
        };
        run.set_time(now);
        run
    }

    pub fn step(&mut self, step: &Step) {
        match *step {
            Step::Put { key, seed } => self.put(key, seed),
            Step::Remove { key } => self.remove(key),
            Step::PutMany { from, count, seed } => (from..from + count).for_each(|key| self.put(key, seed ^ key)),
            Step::RemoveMany { from, count } => (from..from + count).for_each(|key| self.remove(key)),
            Step::Tick { ms, ahead_ms } => {
                let watermark = self.now.watermark + i64::from(ms);
                let at = watermark + i64::from(ahead_ms);
                self.set_time(Now { processing_ms: self.now.processing_ms + i64::from(ms), watermark, at });
            }
            Step::Barrier { look } if self.at_barrier.is_none() => self.barrier(look),
            Step::Harvest { work_bytes, refuse } if self.at_barrier.is_some() => self.harvest(work_bytes, refuse),
            Step::Barrier { .. } | Step::Harvest { .. } => {}
            Step::RequestImages => {
                let pages: Vec<PageKey> = self.pieces.iter().rev().take(3).map(|piece| piece.0).collect();
                self.subtasks.iter_mut().for_each(|subtask| subtask.backend.request_images(pages.iter().copied()));
            }
            Step::RequestFull => self.subtasks.iter_mut().for_each(|subtask| subtask.backend.request_full()),
            Step::Abandon => {
                self.subtasks.iter_mut().for_each(|subtask| subtask.backend.abandon_snapshot());
                self.pending.clear();
                self.at_barrier = None;
                self.committed = self.before.clone();
                self.pieces.truncate(self.committed.pieces);
            }
            Step::Evict { pages } => {
                self.subtasks.iter_mut().for_each(|subtask| subtask.backend.evict_pages(pages.into()).unwrap());
            }
            Step::Crash { parallelism } => {
                let parallelism = *parallelism.get(&PARALLELISMS);
                self.pending.clear();
                self.at_barrier = None;
                self.model = self.committed.model.clone();
                self.before = self.committed.clone();
                self.subtasks = restore(&self.pieces, parallelism, &self.clock);
            }
        }
    }

    /// The run ends as it went on: the state is what the model says, and two more snapshots are complete and right.
    pub fn end(mut self) {
        assert!(dump(&mut self.subtasks) == S::model_dump(&self.model, self.now), "state differs from the model");
        for _ in 0..2 {
            while self.at_barrier.is_some() {
                self.harvest(10_000, false);
            }
            self.barrier(true);
        }
    }

    fn set_time(&mut self, now: Now) {
        self.now = now;
        self.clock.set(now.processing_ms, EventTimeMs(now.watermark), EventTimeMs(now.at));
    }

    fn put(&mut self, key: u16, seed: u16) {
        let seen = self.subtask_of(key).subject.put(key, seed);
        let expected = S::model_put(&mut self.model, self.now, key, seed);
        assert_eq!(seen, expected, "key {key}, seed {seed}");
    }

    fn remove(&mut self, key: u16) {
        if S::REMOVES_EVERYWHERE {
            self.subtasks.iter_mut().for_each(|subtask| subtask.subject.remove(key));
        } else {
            self.subtask_of(key).subject.remove(key);
        }
        S::model_remove(&mut self.model, self.now, key);
    }

    fn subtask_of(&mut self, key: u16) -> &mut Subtask<S> {
        let group = S::group(key);
        self.subtasks.iter_mut().find(|subtask| subtask.backend.key_groups().contains(group)).unwrap()
    }

    pub fn barrier(&mut self, look: bool) {
        self.checkpoint += 1;
        let pages = look.then(|| pages(&self.subtasks));
        self.subtasks.iter_mut().for_each(|subtask| subtask.backend.barrier(CheckpointId(self.checkpoint)));
        self.before = self.committed.clone();
        self.at_barrier = Some((self.model.clone(), pages, self.now));
    }

    /// Goes on with the harvest of the first subtask that is not done.
    pub fn harvest(&mut self, work_bytes: usize, refuse: bool) {
        let pending = &mut self.pending;
        let mut sink = |block: PieceBlock| {
            if refuse {
                return Err(block);
            }
            let mut end = 0;
            for piece in &block.pieces {
                assert!(piece.offset >= end && piece.len <= 16 << 10);
                end = piece.offset + piece.len;
                let bytes = &block.buffer.filled()[piece.offset as usize..][..piece.len as usize];
                pending.push((piece.page, piece.kind, bytes.to_vec()));
            }
            Ok(())
        };
        let harvesting = self.subtasks.iter_mut().find(|subtask| subtask.backend.is_harvesting());
        let progress = harvesting.map(|subtask| {
            subtask.io.drive();
            subtask.backend.harvest(work_bytes, &mut sink).unwrap()
        });
        let is_done = matches!(progress, Some(HarvestProgress::Done { .. }) | None);
        if is_done && self.subtasks.iter().all(|subtask| !subtask.backend.is_harvesting()) {
            self.commit();
        }
    }

    fn commit(&mut self) {
        let Some((model, pages_then, then)) = self.at_barrier.take() else { return };
        self.pieces.append(&mut self.pending);
        let now = self.now;
        self.set_time(then);
        let parallelism = PARALLELISMS[self.checkpoint as usize % PARALLELISMS.len()];
        let mut restored = restore::<S>(&self.pieces, parallelism, &self.clock);
        let pages_now = pages(&restored);
        for (page, content) in pages_then.iter().flatten() {
            assert!(pages_now.get(page) == Some(content), "{page:?} differs from the live page at the barrier");
        }
        assert!(pages_then.is_none_or(|then| then.len() == pages_now.len()));
        assert!(
            dump(&mut restored) == S::model_dump(&model, then),
            "restored state differs from the model at the barrier"
        );
        self.set_time(now);
        self.committed = Committed { pieces: self.pieces.len(), model };
    }
}

fn subtasks<S: Subject>(parallelism: u32, clock: &StateClock) -> Vec<Subtask<S>> {
    let disk = SimDisk::new(3, SimDiskOptions { latency_drives_max: 3, ..SimDiskOptions::default() });
    let subtasks = (0..parallelism).map(|subtask| {
        let mut backend = backend(KeyGroupRange::of_subtask(subtask, parallelism, GROUPS));
        let subject = S::register(&mut backend, clock);
        let mut io = SharedIo::new(SimIo::new(&disk));
        io.complete(IoOp::CreateDirAll { path: "/state".into() }).unwrap();
        backend.attach(io.clone(), None, Some(format!("/state/spill-{subtask}.tmp").into()));
        Subtask { backend, subject, io }
    });
    subtasks.collect()
}

fn restore<S: Subject>(pieces: &Pieces, parallelism: u32, clock: &StateClock) -> Vec<Subtask<S>> {
    let mut subtasks = subtasks::<S>(parallelism, clock);
    for Subtask { backend, subject, .. } in &mut subtasks {
        let groups = backend.key_groups();
        for (page, kind, bytes) in pieces.iter().filter(|piece| groups.contains(KeyGroup(piece.0.key_group))) {
            backend.restore_piece(*page, *kind, bytes).unwrap();
        }
        backend.finish_restore().unwrap();
        subject.restored();
    }
    subtasks
}

fn pages<S>(subtasks: &[Subtask<S>]) -> Pages {
    subtasks.iter().flat_map(|subtask| subtask.backend.page_contents()).collect()
}

fn dump<S: Subject>(subtasks: &mut [Subtask<S>]) -> Dump {
    let mut dump = Dump::new();
    subtasks.iter_mut().for_each(|subtask| subtask.subject.dump(&mut dump));
    dump
}

pub fn check<S: Subject>(steps: &[Step]) {
    let mut run = Run::<S>::new();
    steps.iter().for_each(|step| run.step(step));
    run.end();
}
