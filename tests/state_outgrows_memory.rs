//! State four times as large as its memory, against a map: every key reads back right while pages come and go, snapshots are what the map
//! was at the barrier, and what is read back lazily is what was written.

use millstream::checkpoint::{
    CheckpointId, CheckpointPlan, CheckpointStore, JobIdentity, OpenedStore, PageKey, PieceBlock, PieceKind,
    SnapshotKind, StoreEvent, StoreOptions, SubtaskSnapshot,
};
use millstream::io::{DiskFault, InjectedFault, Repeat, SharedIo, SimDisk, SimDiskOptions, SimIo};
use millstream::memory::{Arena, ArenaOptions, HugePages, MemoryBudget};
use millstream::state::{HarvestProgress, KeyGroupRange, NamespacedState, StateBackend, ValueState};
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

type Value = [u64; 16];

const KEYS: u64 = 200_000;
const BUDGET_BYTES: usize = 12 << 20;
const ALL: KeyGroupRange = KeyGroupRange { start: 0, end: 128 };

struct Small {
    backend: StateBackend,
    values: ValueState<u64, Value>,
    arena: Arena,
    disk: SimDisk,
}

fn arena(bytes: usize) -> Arena {
    Arena::new(MemoryBudget::new(bytes), ArenaOptions { huge_pages: HugePages::Off })
}

fn small() -> Small {
    let disk = SimDisk::new(7, SimDiskOptions { latency_drives_max: 3, ..SimDiskOptions::default() });
    let mut io = SharedIo::new(SimIo::new(&disk));
    millstream::io::Io::complete(&mut io, millstream::io::IoOp::CreateDirAll { path: "/state".into() }).unwrap();
    let arena = arena(BUDGET_BYTES);
    let mut backend = StateBackend::new(ALL, 128, arena.clone());
    let values = backend.value::<u64, Value>("count", "values").unwrap();
    backend.attach(io, None, Some(PathBuf::from("/state/spill-0-0.tmp")));
    Small { backend, values, arena, disk }
}

fn random(seed: &mut u64) -> u64 {
    *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    *seed >> 20
}

fn value(key: u64, version: u64) -> Value {
    std::array::from_fn(|at| key ^ version.rotate_left(at as u32))
}

impl Small {
    fn put(&self, key: u64, value: Value) {
        let hashed = self.backend.key_context().hash(&key);
        self.values.put(&hashed, &value).unwrap();
    }

    fn get(&self, key: u64) -> Option<Value> {
        self.values.get(&self.backend.key_context().hash(&key))
    }

    fn stays_within_budget(&self) {
        assert!(self.arena.mapped_bytes() <= BUDGET_BYTES);
    }
}

#[test]
fn every_key_reads_back_right_while_pages_come_and_go() {
    let state = small();
    let mut model = HashMap::new();
    let mut seed = 1;
    for _ in 0..250_000 {
        let key = random(&mut seed) % KEYS;
        let value = value(key, random(&mut seed));
        state.put(key, value);
        model.insert(key, value);
        let other = random(&mut seed) % KEYS;
        assert_eq!(state.get(other), model.get(&other).copied());
    }
    state.stays_within_budget();
    assert!(model.len() * size_of::<Value>() > BUDGET_BYTES, "the state does not fit");
    assert!(state.backend.has_absent());
    for (key, value) in model {
        assert_eq!(state.get(key), Some(value));
    }
}

#[test]
fn a_snapshot_of_state_that_is_mostly_on_the_disk_is_what_it_was_at_the_barrier() {
    let mut state = small();
    let mut model: HashMap<u64, Value> = HashMap::new();
    let mut pieces: Vec<(PageKey, PieceKind, Vec<u8>)> = Vec::new();
    let mut seed = 2;
    for checkpoint in 1..=3 {
        for _ in 0..60_000 {
            let key = random(&mut seed) % KEYS;
            let value = value(key, random(&mut seed));
            state.put(key, value);
            model.insert(key, value);
        }
        let sealed = model.clone();
        state.backend.barrier(CheckpointId(checkpoint));
        loop {
            let mut sink = |block: PieceBlock| {
                for piece in &block.pieces {
                    let bytes = &block.buffer.filled()[piece.offset as usize..(piece.offset + piece.len) as usize];
                    pieces.push((piece.page, piece.kind, bytes.to_vec()));
                }
                Ok(())
            };
            let progress = state.backend.harvest(64 << 10, &mut sink).unwrap();
            // Records go on between the slices.
            for _ in 0..20 {
                let key = random(&mut seed) % KEYS;
                let value = value(key, random(&mut seed));
                state.put(key, value);
                model.insert(key, value);
            }
            state.backend.keep_room().unwrap();
            if matches!(progress, HarvestProgress::Done { .. }) {
                break;
            }
        }
        state.stays_within_budget();
        let mut restored = StateBackend::new(ALL, 128, arena(256 << 20));
        let values = restored.value::<u64, Value>("count", "values").unwrap();
        for (page, kind, bytes) in &pieces {
            restored.restore_piece(*page, *kind, bytes).unwrap();
        }
        restored.finish_restore().unwrap();
        assert_eq!(restored.live_entries(), sealed.len());
        for (key, value) in sealed {
            assert_eq!(values.get(&restored.key_context().hash(&key)), Some(value));
        }
    }
}

#[test]
fn a_snapshot_given_up_while_its_pages_are_on_the_disk_leaves_the_next_one_whole() {
    let mut state = small();
    let mut model: HashMap<u64, Value> = HashMap::new();
    let mut seed = 3;
    let mut change = |state: &Small, model: &mut HashMap<u64, Value>, count: usize| {
        for _ in 0..count {
            let key = random(&mut seed) % KEYS;
            let value = value(key, random(&mut seed));
            state.put(key, value);
            model.insert(key, value);
        }
    };
    change(&state, &mut model, 120_000);
    state.backend.barrier(CheckpointId(1));
    change(&state, &mut model, 30_000);
    state.backend.abandon_snapshot();
    change(&state, &mut model, 20_000);
    state.backend.barrier(CheckpointId(2));
    let sealed = model.clone();
    let mut restored = StateBackend::new(ALL, 128, arena(256 << 20));
    let values = restored.value::<u64, Value>("count", "values").unwrap();
    loop {
        let mut sink = |block: PieceBlock| {
            for piece in &block.pieces {
                let bytes = &block.buffer.filled()[piece.offset as usize..(piece.offset + piece.len) as usize];
                restored.restore_piece(piece.page, piece.kind, bytes).unwrap();
            }
            Ok(())
        };
        let progress = state.backend.harvest(64 << 10, &mut sink).unwrap();
        change(&state, &mut model, 5);
        if matches!(progress, HarvestProgress::Done { .. }) {
            break;
        }
    }
    restored.finish_restore().unwrap();
    assert_eq!(restored.live_entries(), sealed.len());
    for (key, value) in sealed {
        assert_eq!(values.get(&restored.key_context().hash(&key)), Some(value));
    }
}

fn open(io: &mut SharedIo, arena: &Arena) -> OpenedStore {
    let identity = JobIdentity { name: "outgrows".to_owned() };
    let options = StoreOptions { lock_patience_ms: None, ..StoreOptions::default() };
    CheckpointStore::open(io, arena, Path::new("/state"), &identity, options).unwrap()
}

/// Commits everything the backend holds as checkpoint 1.
fn commit(io: &mut SharedIo, store: &mut CheckpointStore, backend: &mut StateBackend) {
    let (id, vertices) = (CheckpointId(1), vec![("count".to_owned(), 1)]);
    let plan = CheckpointPlan { id, kind: SnapshotKind::Full, max_parallelism: 128, vertices, created_wall_ms: 0 };
    store.begin(plan, 0).unwrap();
    backend.barrier(id);
    let blocks = loop {
        match backend.harvest(1 << 20, &mut |block| store.add_block(block)).unwrap() {
            HarvestProgress::Done { blocks } => break blocks,
            _ => assert!(store.step(io, 0).is_none()),
        }
    };
    let snapshot = SubtaskSnapshot {
        vertex: "count".to_owned(),
        key_groups: ALL,
        states: backend.descriptors(),
        blocks,
        ..SubtaskSnapshot::default()
    };
    assert!(store.acknowledge(id, snapshot));
    store.seal(id).unwrap();
    let ended = (0..100_000).find_map(|_| store.step(io, 0));
    assert!(matches!(ended, Some(StoreEvent::Committed { .. })), "{ended:?}");
}

/// The story: a page that was asked for as an image while it was absent came in already listed as changed, so its first real change went
/// unnoticed; it then left memory as if the checkpoint still held it, and the change was gone.
#[test]
fn what_changes_in_restored_pages_survives_their_leaving_also_when_images_of_them_were_asked_for() {
    let disk = SimDisk::new(11, SimDiskOptions { latency_drives_max: 3, ..SimDiskOptions::default() });
    let mut io = SharedIo::new(SimIo::new(&disk));
    let large = arena(256 << 20);
    let mut model: HashMap<u64, Value> = HashMap::new();
    let mut store = open(&mut io, &large).store;
    let mut first = StateBackend::new(ALL, 128, large.clone());
    let values = first.value::<u64, Value>("count", "values").unwrap();
    for key in 0..120_000 {
        values.put(&first.key_context().hash(&key), &value(key, 1)).unwrap();
        model.insert(key, value(key, 1));
    }
    commit(&mut io, &mut store, &mut first);
    store.close(&mut io);

    let OpenedStore { restored, .. } = open(&mut io, &large);
    let arena = arena(BUDGET_BYTES);
    let mut backend = StateBackend::new(ALL, 128, arena.clone());
    let values = backend.value::<u64, Value>("count", "values").unwrap();
    backend.attach(io, restored, Some(PathBuf::from("/state/spill-0-0.tmp")));
    let state = Small { backend, values, arena, disk };
    let mut state = state;
    assert_eq!(state.get(77), Some(value(77, 1)), "read when it is touched");
    state.backend.request_full();
    let mut seed = 4;
    for _ in 0..60_000 {
        let key = random(&mut seed) % 120_000;
        let value = value(key, random(&mut seed));
        state.put(key, value);
        model.insert(key, value);
    }
    state.stays_within_budget();
    for (key, value) in model {
        assert_eq!(state.get(key), Some(value));
    }
}

/// A page that could not be written is lost with its task, which starts again from a checkpoint; it must not be waited for.
#[test]
fn a_spill_file_that_cannot_be_written_ends_the_task_and_is_not_waited_for() {
    const KEYS: u64 = 120_000;
    let state = small();
    (0..KEYS).for_each(|key| state.put(key, value(key, 1)));
    assert!(state.backend.has_absent());
    // Reads go on working: what fails is noticed only when a page that was not written is wanted.
    let (under, fault) = (Some(PathBuf::from("/state")), DiskFault::Enospc);
    state.disk.inject(InjectedFault { at_operation: state.disk.operations(), repeat: Repeat::Forever, fault, under });
    let ended = catch_unwind(AssertUnwindSafe(|| (0..2 * KEYS).for_each(|n| assert!(state.get(n % KEYS).is_some()))));
    let reason = *ended.expect_err("a page is lost").downcast::<String>().unwrap();
    assert!(
        reason.contains("\"values\" of operator \"count\"") && reason.contains("other bytes than were written"),
        "{reason}"
    );
}

/// Sums that are added to without being read.
struct Sums {
    backend: StateBackend,
    sums: NamespacedState<u64, u16, Value>,
    arena: Arena,
    disk: SimDisk,
}

fn add_all(sum: &mut Value, more: &Value) {
    sum.iter_mut().zip(more).for_each(|(sum, more)| *sum = sum.wrapping_add(*more));
}

fn sums_in(backend: &mut StateBackend) -> NamespacedState<u64, u16, Value> {
    backend.namespaced_merging("windows", "sums", add_all).unwrap()
}

fn small_sums() -> Sums {
    let disk = SimDisk::new(7, SimDiskOptions { latency_drives_max: 3, ..SimDiskOptions::default() });
    let mut io = SharedIo::new(SimIo::new(&disk));
    millstream::io::Io::complete(&mut io, millstream::io::IoOp::CreateDirAll { path: "/state".into() }).unwrap();
    let arena = arena(BUDGET_BYTES);
    let mut backend = StateBackend::new(ALL, 128, arena.clone());
    let sums = sums_in(&mut backend);
    backend.attach(io, None, Some(PathBuf::from("/state/spill-0-0.tmp")));
    Sums { backend, sums, arena, disk }
}

impl Sums {
    fn add(&mut self, key: u64, more: Value) {
        let hashed = self.backend.key_context().hash(&key);
        let add = |sum: Option<Value>| {
            let mut sum = sum.unwrap_or_default();
            add_all(&mut sum, &more);
            sum
        };
        self.sums.add(&hashed, &1, add).unwrap();
    }

    fn add_random(&mut self, model: &mut HashMap<u64, Value>, seed: &mut u64, count: usize) {
        for _ in 0..count {
            let key = random(seed) % KEYS;
            let more = value(key, random(seed));
            self.add(key, more);
            add_all(model.entry(key).or_default(), &more);
        }
    }
}

fn are_all_there(backend: &StateBackend, sums: &mut NamespacedState<u64, u16, Value>, model: &HashMap<u64, Value>) {
    let mut keys = Vec::new();
    for group in ALL.start..ALL.end {
        let each = |key: &[u8], _| keys.push(u64::from_le_bytes(key.try_into().unwrap()));
        sums.for_each_key(millstream::state::KeyGroup(group), each).unwrap();
    }
    assert_eq!(keys.len(), model.len());
    for key in keys {
        assert_eq!(sums.get(&backend.key_context().hash(&key), &1).as_ref(), model.get(&key));
    }
}

/// Additions come so often to each key that runs are merged into pages on the way, to stay in proportion to the state.
#[test]
fn additions_to_more_sums_than_memory_holds_read_little_and_are_all_there() {
    let mut state = small_sums();
    let (mut model, mut seed) = (HashMap::new(), 1);
    state.add_random(&mut model, &mut seed, 600_000);
    assert!(model.len() * size_of::<Value>() > BUDGET_BYTES, "the state does not fit");
    assert!(state.backend.has_absent() && state.sums.adds_blindly());
    are_all_there(&state.backend, &mut state.sums, &model);
    assert!(state.arena.mapped_bytes() <= BUDGET_BYTES);
}

#[test]
fn a_snapshot_holds_what_was_added_before_its_barrier_whether_it_was_merged_then_or_not() {
    let mut state = small_sums();
    let (mut model, mut seed) = (HashMap::new(), 2);
    let mut pieces: Vec<(PageKey, PieceKind, Vec<u8>)> = Vec::new();
    for checkpoint in 1..=4 {
        state.add_random(&mut model, &mut seed, 60_000);
        state.backend.barrier(CheckpointId(checkpoint));
        if checkpoint == 2 {
            // Given up: what was added before it belongs to the next.
            state.add_random(&mut model, &mut seed, 10_000);
            state.backend.abandon_snapshot();
            continue;
        }
        let sealed = model.clone();
        loop {
            let mut sink = |block: PieceBlock| {
                for piece in &block.pieces {
                    let bytes = &block.buffer.filled()[piece.offset as usize..(piece.offset + piece.len) as usize];
                    pieces.push((piece.page, piece.kind, bytes.to_vec()));
                }
                Ok(())
            };
            let progress = state.backend.harvest(64 << 10, &mut sink).unwrap();
            state.add_random(&mut model, &mut seed, 20);
            state.backend.keep_room().unwrap();
            if matches!(progress, HarvestProgress::Done { .. }) {
                break;
            }
        }
        assert!(state.arena.mapped_bytes() <= BUDGET_BYTES);
        let mut restored = StateBackend::new(ALL, 128, arena(256 << 20));
        let mut sums = sums_in(&mut restored);
        for (page, kind, bytes) in &pieces {
            restored.restore_piece(*page, *kind, bytes).unwrap();
        }
        restored.finish_restore().unwrap();
        are_all_there(&restored, &mut sums, &sealed);
    }
    are_all_there(&state.backend, &mut state.sums, &model);
}

fn reason_of_the_end(state: &mut Sums) -> String {
    let sum_up = || {
        for group in ALL.start..ALL.end {
            state.sums.for_each_key(millstream::state::KeyGroup(group), |_, _| ()).unwrap();
        }
    };
    let ended = catch_unwind(AssertUnwindSafe(sum_up));
    *ended.expect_err("what was added is lost").downcast::<String>().unwrap()
}

#[test]
fn a_run_that_cannot_be_read_ends_the_task_with_the_reason() {
    let mut state = small_sums();
    let (mut model, mut seed) = (HashMap::new(), 3);
    state.add_random(&mut model, &mut seed, 200_000);
    let (under, fault) = (Some(PathBuf::from("/state")), DiskFault::Eio);
    state.disk.inject(InjectedFault { at_operation: state.disk.operations(), repeat: Repeat::Forever, fault, under });
    let reason = reason_of_the_end(&mut state);
    assert!(reason.contains("state \"sums\" of operator \"windows\"") && reason.contains("read back"), "{reason}");
}

#[test]
fn a_run_that_could_not_be_written_ends_the_task_once_it_is_needed() {
    let mut state = small_sums();
    let (mut model, mut seed) = (HashMap::new(), 4);
    state.add_random(&mut model, &mut seed, 150_000);
    let (under, fault) = (Some(PathBuf::from("/state")), DiskFault::LostWrite);
    state.disk.inject(InjectedFault { at_operation: state.disk.operations(), repeat: Repeat::Forever, fault, under });
    state.add_random(&mut model, &mut seed, 50_000);
    let reason = reason_of_the_end(&mut state);
    assert!(reason.contains("\"sums\"") && reason.contains("other bytes than were written"), "{reason}");
}
