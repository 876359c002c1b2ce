//! Every kind of state against a plain model: random changes, barriers and partial harvests; what is restored from all pieces written so
//! far equals the model at the barrier, exactly.
//!
//! Not covered: the store between harvest and restore, several subtasks.

use millstream::checkpoint::{CheckpointId, PageKey, PieceBlock, PieceKind};
use millstream::memory::{Arena, ArenaOptions, MemoryBudget};
use millstream::state::{
    ArchivedValue, HarvestProgress, KeyContext, KeyGroupRange, ListState, MapState, StateBackend, Timers, ValueState,
};
use millstream::time::EventTimeMs;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

const GROUPS: u16 = 4;

/// One step of a run. Keys and contents are derived from the numbers by each subject.
#[derive(Clone, Debug)]
enum Step {
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
    Barrier,
    Harvest {
        work_bytes: usize,
        refuse: bool,
    },
    RequestImages,
    RequestFull,
    Abandon,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        20 => (0..600u16, any::<u16>()).prop_map(|(key, seed)| Step::Put { key, seed }),
        10 => (0..600u16).prop_map(|key| Step::Remove { key }),
        3 => (0..600u16, 1..200u16, any::<u16>()).prop_map(|(from, count, seed)| Step::PutMany { from, count, seed }),
        2 => (0..600u16, 1..200u16).prop_map(|(from, count)| Step::RemoveMany { from, count }),
        3 => Just(Step::Barrier),
        8 => (1..40_000usize, prop::bool::weighted(0.2)).prop_map(|(work_bytes, refuse)| Step::Harvest { work_bytes, refuse }),
        1 => Just(Step::RequestImages),
        1 => Just(Step::RequestFull),
        1 => Just(Step::Abandon),
    ];
    prop::collection::vec(step, 1..120)
}

type Dump = BTreeMap<Vec<u8>, Vec<u8>>;

/// A state under test: how steps change it, and all it holds.
trait Subject {
    fn register(backend: &mut StateBackend) -> Self;
    fn put(&mut self, key: u16, seed: u16);
    fn remove(&mut self, key: u16);
    /// The model and the state after the same steps are dumped alike.
    fn dump(&mut self) -> Dump;
    fn restored(&mut self) {}
    fn model_put(model: &mut Dump, key: u16, seed: u16);
    fn model_remove(model: &mut Dump, key: u16);
}

fn backend() -> StateBackend {
    let arena = Arena::new(MemoryBudget::new(1 << 30), ArenaOptions::default());
    StateBackend::new(KeyGroupRange { start: 0, end: GROUPS }, GROUPS, arena)
}

fn context() -> KeyContext {
    KeyContext::new(GROUPS)
}

struct Run<S> {
    backend: StateBackend,
    subject: S,
    model: Dump,
    at_barrier: Option<Dump>,
    /// All pieces of complete snapshots, and those of the one in progress.
    pieces: Vec<(PageKey, PieceKind, Vec<u8>)>,
    pending: Vec<(PageKey, PieceKind, Vec<u8>)>,
    /// How many pieces there were before the last snapshot.
    pieces_before: usize,
    checkpoint: u64,
}

impl<S: Subject> Run<S> {
    fn new() -> Self {
        let mut backend = backend();
        let subject = S::register(&mut backend);
        let (pieces, pending) = (Vec::new(), Vec::new());
        Self {
            backend,
            subject,
            model: Dump::new(),
            at_barrier: None,
            pieces,
            pending,
            pieces_before: 0,
            checkpoint: 0,
        }
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Put { key, seed } => self.put(key, seed),
            Step::Remove { key } => self.remove(key),
            Step::PutMany { from, count, seed } => (from..from + count).for_each(|key| self.put(key, seed ^ key)),
            Step::RemoveMany { from, count } => (from..from + count).for_each(|key| self.remove(key)),
            Step::Barrier if self.at_barrier.is_none() => self.barrier(),
            Step::Harvest { work_bytes, refuse } if self.at_barrier.is_some() => self.harvest(work_bytes, refuse),
            Step::RequestImages => self.backend.request_images(self.pieces.iter().rev().take(3).map(|piece| piece.0)),
            Step::RequestFull => self.backend.request_full(),
            Step::Abandon => {
                self.backend.abandon_snapshot();
                self.pending.clear();
                self.pieces.truncate(self.pieces_before);
                self.at_barrier = None;
            }
            _ => {}
        }
    }

    fn put(&mut self, key: u16, seed: u16) {
        self.subject.put(key, seed);
        S::model_put(&mut self.model, key, seed);
    }

    fn remove(&mut self, key: u16) {
        self.subject.remove(key);
        S::model_remove(&mut self.model, key);
    }

    fn barrier(&mut self) {
        self.checkpoint += 1;
        self.pieces_before = self.pieces.len();
        self.backend.barrier(CheckpointId(self.checkpoint));
        self.at_barrier = Some(self.model.clone());
    }

    fn harvest(&mut self, work_bytes: usize, refuse: bool) {
        let pending = &mut self.pending;
        let mut sink = |block: PieceBlock| {
            if refuse {
                return Err(block);
            }
            for piece in &block.pieces {
                assert_eq!(piece.offset % 8, 0);
                assert!(piece.len <= 16 << 10);
                let bytes = &block.buffer.filled()[piece.offset as usize..][..piece.len as usize];
                pending.push((piece.page, piece.kind, bytes.to_vec()));
            }
            Ok(())
        };
        if let HarvestProgress::Done { .. } = self.backend.harvest(work_bytes, &mut sink).unwrap() {
            self.pieces.append(&mut self.pending);
            let expected = self.at_barrier.take().unwrap();
            assert!(restore::<S>(&self.pieces) == expected, "restored state differs from the model at the barrier");
        }
    }

    fn end(mut self) {
        assert!(self.subject.dump() == self.model, "state differs from the model");
        for _ in 0..2 {
            while self.at_barrier.is_some() {
                self.harvest(10_000, false);
            }
            self.barrier();
        }
    }
}

fn restore<S: Subject>(pieces: &[(PageKey, PieceKind, Vec<u8>)]) -> Dump {
    let mut backend = backend();
    let mut subject = S::register(&mut backend);
    pieces.iter().for_each(|(key, kind, bytes)| backend.restore_piece(*key, *kind, bytes).unwrap());
    backend.finish_restore().unwrap();
    subject.restored();
    subject.dump()
}

fn check<S: Subject>(steps: &[Step]) {
    let mut run = Run::<S>::new();
    steps.iter().for_each(|step| run.step(step));
    run.end();
}

/// Fixed pages with many slots.
struct Narrow(ValueState<u64, u64>);

impl Subject for Narrow {
    fn register(backend: &mut StateBackend) -> Self {
        Self(backend.value("operator", "narrow").unwrap())
    }

    fn put(&mut self, key: u16, seed: u16) {
        let key = u64::from(key);
        self.0.update(&context().hash(&key), |old| Some(old.unwrap_or(0) + u64::from(seed))).unwrap();
    }

    fn remove(&mut self, key: u16) {
        self.0.remove(&context().hash(&u64::from(key)));
    }

    fn dump(&mut self) -> Dump {
        let mut dump = Dump::new();
        self.0.for_each(|key, value| assert!(dump.insert(key.to_vec(), value.to_le_bytes().to_vec()).is_none()));
        dump.iter().for_each(|(key, value)| {
            let key = u64::from_le_bytes(key[..].try_into().unwrap());
            assert_eq!(self.0.get(&context().hash(&key)).unwrap().to_le_bytes()[..], value[..]);
        });
        dump
    }

    fn model_put(model: &mut Dump, key: u16, seed: u16) {
        let value = model.entry(u64::from(key).to_le_bytes().to_vec()).or_insert_with(|| vec![0; 8]);
        let sum = u64::from_le_bytes(value[..].try_into().unwrap()) + u64::from(seed);
        *value = sum.to_le_bytes().to_vec();
    }

    fn model_remove(model: &mut Dump, key: u16) {
        model.remove(&u64::from(key).to_le_bytes()[..]);
    }
}

/// Fixed pages with few slots, which split and fill with deleted slots early.
struct Wide(ValueState<u32, [u64; 31]>);

impl Subject for Wide {
    fn register(backend: &mut StateBackend) -> Self {
        Self(backend.value("operator", "wide").unwrap())
    }

    fn put(&mut self, key: u16, seed: u16) {
        let key = u32::from(key);
        self.0.put(&context().hash(&key), &[u64::from(seed); 31]).unwrap();
    }

    fn remove(&mut self, key: u16) {
        self.0.update(&context().hash(&u32::from(key)), |_| None).unwrap();
    }

    fn dump(&mut self) -> Dump {
        let mut dump = Dump::new();
        self.0.for_each(|key, value| {
            assert!(value.iter().all(|word| *word == value[0]));
            assert!(dump.insert(key.to_vec(), value[0].to_le_bytes().to_vec()).is_none());
        });
        dump
    }

    fn model_put(model: &mut Dump, key: u16, seed: u16) {
        model.insert(u32::from(key).to_le_bytes().to_vec(), u64::from(seed).to_le_bytes().to_vec());
    }

    fn model_remove(model: &mut Dump, key: u16) {
        model.remove(&u32::from(key).to_le_bytes()[..]);
    }
}

/// Slotted pages with values from nothing to several pages.
struct Texts(ValueState<str, ArchivedValue<String>>);

fn text(seed: u16) -> String {
    let len = match seed % 100 {
        0 => usize::from(seed) / 2,
        1..10 => usize::from(seed) % 4000,
        _ => usize::from(seed) % 100,
    };
    format!("{seed}").repeat(len / 4)
}

impl Subject for Texts {
    fn register(backend: &mut StateBackend) -> Self {
        Self(backend.value("operator", "texts").unwrap())
    }

    fn put(&mut self, key: u16, seed: u16) {
        let key = format!("key {key}");
        self.0.put(&context().hash(key.as_str()), &ArchivedValue::new(&text(seed)).unwrap()).unwrap();
    }

    fn remove(&mut self, key: u16) {
        self.0.remove(&context().hash(format!("key {key}").as_str()));
    }

    fn dump(&mut self) -> Dump {
        let mut dump = Dump::new();
        self.0.for_each(|key, value| {
            assert!(dump.insert(key.to_vec(), value.get().unwrap().as_bytes().to_vec()).is_none());
        });
        dump
    }

    fn model_put(model: &mut Dump, key: u16, seed: u16) {
        model.insert(format!("key {key}").into_bytes(), text(seed).into_bytes());
    }

    fn model_remove(model: &mut Dump, key: u16) {
        model.remove(format!("key {key}").as_bytes());
    }
}

/// A list per key: put appends (every seventh seed replaces), remove cuts in half.
struct Lists(ListState<str, u32>);

fn list_key(key: u16) -> String {
    format!("list {}", key % 25)
}

impl Subject for Lists {
    fn register(backend: &mut StateBackend) -> Self {
        Self(backend.list("operator", "lists").unwrap())
    }

    fn put(&mut self, key: u16, seed: u16) {
        let text = list_key(key);
        let key = context().hash(text.as_str());
        if !seed.is_multiple_of(7) || !self.0.set(&key, 0, &u32::from(seed)).unwrap() {
            self.0.push(&key, &u32::from(seed)).unwrap();
        }
    }

    fn remove(&mut self, key: u16) {
        let text = list_key(key);
        let key = context().hash(text.as_str());
        self.0.truncate(&key, self.0.len(&key) / 2).unwrap();
    }

    fn dump(&mut self) -> Dump {
        let mut dump = Dump::new();
        for key in (0..25).map(list_key) {
            let mut list = Vec::new();
            self.0.for_each(&context().hash(key.as_str()), |element| list.extend(element.to_le_bytes()));
            if !list.is_empty() {
                dump.insert(key.into_bytes(), list);
            }
        }
        dump
    }

    fn model_put(model: &mut Dump, key: u16, seed: u16) {
        let list = model.entry(list_key(key).into_bytes()).or_default();
        if !seed.is_multiple_of(7) || list.is_empty() {
            list.extend(u32::from(seed).to_le_bytes());
        } else {
            list[..4].copy_from_slice(&u32::from(seed).to_le_bytes());
        }
    }

    fn model_remove(model: &mut Dump, key: u16) {
        let key = list_key(key).into_bytes();
        if let Some(list) = model.get_mut(&key) {
            list.truncate(list.len() / 4 / 2 * 4);
            if list.is_empty() {
                model.remove(&key);
            }
        }
    }
}

/// A map per key.
struct Maps(MapState<u64, str, u64>);

impl Subject for Maps {
    fn register(backend: &mut StateBackend) -> Self {
        Self(backend.map("operator", "maps").unwrap())
    }

    fn put(&mut self, key: u16, seed: u16) {
        let map_key = format!("{}", key / 10);
        self.0.put(&context().hash(&u64::from(key % 10)), &map_key, &u64::from(seed)).unwrap();
    }

    fn remove(&mut self, key: u16) {
        let map_key = format!("{}", key / 10);
        self.0.remove(&context().hash(&u64::from(key % 10)), &map_key).unwrap();
    }

    fn dump(&mut self) -> Dump {
        let mut dump = Dump::new();
        for key in 0..10u64 {
            let hashed = context().hash(&key);
            let mut count = 0;
            self.0.for_each(&hashed, |map_key, value| {
                count += 1;
                let map_key_text = std::str::from_utf8(map_key).unwrap();
                assert_eq!(self.0.get(&hashed, map_key_text), Some(value));
                let whole = [&key.to_le_bytes()[..], map_key].concat();
                assert!(dump.insert(whole, value.to_le_bytes().to_vec()).is_none());
            });
            assert_eq!(count, self.0.len(&hashed));
        }
        dump
    }

    fn model_put(model: &mut Dump, key: u16, seed: u16) {
        let whole = [&u64::from(key % 10).to_le_bytes()[..], format!("{}", key / 10).as_bytes()].concat();
        model.insert(whole, u64::from(seed).to_le_bytes().to_vec());
    }

    fn model_remove(model: &mut Dump, key: u16) {
        model.remove(&[&u64::from(key % 10).to_le_bytes()[..], format!("{}", key / 10).as_bytes()].concat());
    }
}

/// Timers: put sets one or deletes it, remove lets what is due fire.
struct Clocks(Timers<str>);

fn timer_of(key: u16, seed: u16) -> (String, EventTimeMs) {
    (format!("{}", key % 50), EventTimeMs(i64::from(seed % 40) - 10))
}

impl Subject for Clocks {
    fn register(backend: &mut StateBackend) -> Self {
        Self(backend.timers("operator", "timers").unwrap())
    }

    fn put(&mut self, key: u16, seed: u16) {
        let (key, at) = timer_of(key, seed);
        if seed.is_multiple_of(3) {
            self.0.delete(&context().hash(key.as_str()), at);
        } else {
            self.0.set(&context().hash(key.as_str()), at).unwrap();
        }
    }

    fn remove(&mut self, key: u16) {
        while self.0.pop_due(EventTimeMs(i64::from(key % 20) - 10)).is_some() {}
    }

    fn dump(&mut self) -> Dump {
        let mut fired = Vec::new();
        while let Some(timer) = self.0.pop_due(EventTimeMs::MAX) {
            fired.push((timer.at, timer.key::<str>().to_owned()));
        }
        assert!(fired.is_sorted());
        let dump = fired.iter().map(|(at, key)| ([&at.0.to_le_bytes()[..], key.as_bytes()].concat(), Vec::new()));
        let dump: Dump = dump.collect();
        for (at, key) in &fired {
            self.0.set(&context().hash(key.as_str()), *at).unwrap();
        }
        assert_eq!(dump.len(), self.0.len());
        dump
    }

    fn restored(&mut self) {
        self.0.rebuild();
    }

    fn model_put(model: &mut Dump, key: u16, seed: u16) {
        let (key, at) = timer_of(key, seed);
        let entry = [&at.0.to_le_bytes()[..], key.as_bytes()].concat();
        if seed.is_multiple_of(3) {
            model.remove(&entry);
        } else {
            model.insert(entry, Vec::new());
        }
    }

    fn model_remove(model: &mut Dump, key: u16) {
        let watermark = i64::from(key % 20) - 10;
        model.retain(|entry, _| i64::from_le_bytes(entry[..8].try_into().unwrap()) > watermark);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn narrow_values_come_back_as_they_were_at_the_barrier(steps in steps()) {
        check::<Narrow>(&steps);
    }

    #[test]
    fn wide_values_come_back_as_they_were_at_the_barrier(steps in steps()) {
        check::<Wide>(&steps);
    }

    #[test]
    fn texts_come_back_as_they_were_at_the_barrier(steps in steps()) {
        check::<Texts>(&steps);
    }

    #[test]
    fn lists_come_back_as_they_were_at_the_barrier(steps in steps()) {
        check::<Lists>(&steps);
    }

    #[test]
    fn maps_come_back_as_they_were_at_the_barrier(steps in steps()) {
        check::<Maps>(&steps);
    }

    #[test]
    fn timers_come_back_as_they_were_at_the_barrier(steps in steps()) {
        check::<Clocks>(&steps);
    }
}

fn states_of_one_table() -> (StateBackend, ValueState<u64, u64>) {
    let mut backend = backend();
    let state = backend.value("operator", "narrow").unwrap();
    (backend, state)
}

fn changed(old: Option<u64>, seed: u8) -> Option<u64> {
    (!seed.is_multiple_of(8)).then(|| old.unwrap_or(1).wrapping_mul(31).wrapping_add(u64::from(seed)))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// Keys repeat, come and go within a batch, and the first pages of the key groups grow and split under it.
    #[test]
    fn a_batch_changes_what_single_updates_in_its_order_change(
        key_count in prop_oneof![1..20u64, 300..1200u64, 3000..6000u64],
        updates in prop::collection::vec((any::<u64>(), any::<u8>()), 1..5000),
        batch_len in 1..70usize,
    ) {
        let updates: Vec<(u64, u8)> = updates.into_iter().map(|(key, seed)| (key % key_count, seed)).collect();
        let ((_alone, single), (mut backend, batched)) = (states_of_one_table(), states_of_one_table());
        for (index, batch) in updates.chunks(batch_len).enumerate() {
            for (key, seed) in batch {
                single.update(&context().hash(key), |old| changed(old, *seed)).unwrap();
            }
            let keys = batch.iter().map(|(key, _)| context().hash(key));
            batched.update_batch(keys, |index, old| changed(old, batch[index].1)).unwrap();
            if index % 20 == 0 {
                if backend.is_harvesting() {
                    backend.harvest(usize::MAX, &mut |_| Ok(())).unwrap();
                }
                backend.barrier(CheckpointId(index as u64 + 1));
            }
        }
        let dump = |state: &ValueState<u64, u64>| {
            let mut dump = BTreeMap::new();
            state.for_each(|key, value| assert!(dump.insert(key.to_vec(), value).is_none()));
            dump
        };
        prop_assert_eq!(dump(&single), dump(&batched));
    }
}

#[test]
fn a_change_after_the_first_snapshot_is_written_as_a_delta_of_its_page_alone() {
    let mut run = Run::<Narrow>::new();
    run.step(&Step::PutMany { from: 0, count: 6000, seed: 1 });
    run.barrier();
    run.step(&Step::Put { key: 3, seed: 1 });
    run.harvest(usize::MAX, false);
    let pages: BTreeSet<PageKey> = run.pieces.iter().map(|piece| piece.0).collect();
    assert!(pages.len() >= 8);
    let before = run.pieces.len();
    run.barrier();
    run.step(&Step::PutMany { from: 6000, count: 6000, seed: 1 });
    run.harvest(usize::MAX, false);
    let since: Vec<PieceKind> = run.pieces[before..].iter().map(|piece| piece.1).collect();
    assert_eq!(since, [PieceKind::Delta]);
}
