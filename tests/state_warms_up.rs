//! Restored state comes into memory in the background: in one pass over what lies on the disk, however many pieces its pages have, and while
//! records read and change it.

use millstream::checkpoint::{
    CheckpointPlan, CheckpointStore, ImagesNeeded, JobIdentity, OpenedStore, SnapshotKind, StoreEvent, StoreOptions,
    SubtaskSnapshot,
};
use millstream::io::{Io, SharedIo, SimDisk, SimDiskOptions, SimIo};
use millstream::memory::{Arena, ArenaOptions, HugePages, MemoryBudget};
use millstream::state::{HarvestProgress, KeyGroupRange, StateBackend, ValueState};
use std::path::Path;

type Value = [u64; 16];

const KEYS: u64 = 20_000;
const CHECKPOINTS: u64 = 6;
const ALL: KeyGroupRange = KeyGroupRange { start: 0, end: 16 };

struct States {
    backend: StateBackend,
    fixed: ValueState<u64, Value>,
    /// Keys of any length: a page of these is stored entry by entry.
    named: ValueState<str, u64>,
}

impl States {
    fn new() -> Self {
        let arena = Arena::new(MemoryBudget::new(256 << 20), ArenaOptions { huge_pages: HugePages::Off });
        let mut backend = StateBackend::new(ALL, 16, arena);
        let fixed = backend.value("count", "fixed").unwrap();
        let named = backend.value("count", "named").unwrap();
        Self { backend, fixed, named }
    }

    fn put(&self, key: u64, version: u64) {
        let context = self.backend.key_context();
        self.fixed.put(&context.hash(&key), &[version; 16]).unwrap();
        self.named.put(&context.hash(key.to_string().as_str()), &version).unwrap();
    }

    fn is(&self, key: u64, version: u64) -> bool {
        let context = self.backend.key_context();
        let named = self.named.get(&context.hash(key.to_string().as_str()));
        self.fixed.get(&context.hash(&key)) == Some([version; 16]) && named == Some(version)
    }
}

/// The checkpoint that changed a key last.
fn version(key: u64) -> u64 {
    (0..CHECKPOINTS).rev().find(|nth| changes_in(*nth, key)).unwrap()
}

fn changes_in(nth: u64, key: u64) -> bool {
    nth == 0 || (key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) % 13 == nth
}

fn open(io: &mut SharedIo, states: &States) -> OpenedStore {
    let identity = JobIdentity { name: "warms up".to_owned() };
    let options = StoreOptions { lock_patience_ms: None, ..StoreOptions::default() };
    let arena = Arena::new(MemoryBudget::new(64 << 20), ArenaOptions { huge_pages: HugePages::Off });
    let mut opened = CheckpointStore::open(io, &arena, Path::new("/state"), &identity, options).unwrap();
    assert_eq!(opened.restored.is_some(), states.backend.live_entries() == 0);
    opened.store.finish_loading(io);
    opened
}

fn commit(io: &mut SharedIo, store: &mut CheckpointStore, states: &mut States) {
    let kind = match store.pages_needing_images() {
        ImagesNeeded::Everything => SnapshotKind::Full,
        ImagesNeeded::Pages(pages) => {
            states.backend.request_images(pages);
            SnapshotKind::Incremental
        }
    };
    let (id, vertices) = (store.next_id(), vec![("count".to_owned(), 1)]);
    store.begin(CheckpointPlan { id, kind, max_parallelism: 16, vertices, created_wall_ms: 0 }, 0).unwrap();
    states.backend.barrier(id);
    let blocks = loop {
        match states.backend.harvest(1 << 20, &mut |block| store.add_block(block)).unwrap() {
            HarvestProgress::Done { blocks } => break blocks,
            _ => assert!(store.step(io, 0).is_none()),
        }
    };
    let snapshot = SubtaskSnapshot {
        vertex: "count".to_owned(),
        key_groups: ALL,
        states: states.backend.descriptors(),
        blocks,
        ..SubtaskSnapshot::default()
    };
    assert!(store.acknowledge(id, snapshot));
    store.seal(id).unwrap();
    let ended = (0..100_000).find_map(|_| store.step(io, 0));
    assert!(matches!(ended, Some(StoreEvent::Committed { .. })), "{ended:?}");
}

/// States restored from six checkpoints in a row, with nothing of them in memory yet.
fn restored() -> (SimDisk, SharedIo, States) {
    let disk = SimDisk::new(5, SimDiskOptions { latency_drives_max: 3, ..SimDiskOptions::default() });
    let mut io = SharedIo::new(SimIo::new(&disk));
    let mut first = States::new();
    first.put(KEYS, 0);
    let mut store = open(&mut io, &first).store;
    for nth in 0..CHECKPOINTS {
        (0..KEYS).filter(|key| changes_in(nth, *key)).for_each(|key| first.put(key, nth));
        commit(&mut io, &mut store, &mut first);
    }
    store.close(&mut io);
    let mut states = States::new();
    let opened = open(&mut io, &states);
    states.backend.attach(io.clone(), opened.restored, None);
    opened.store.close(&mut io);
    (disk, io, states)
}

#[test]
fn pages_of_several_pieces_are_read_in_one_pass_over_the_disk() {
    let (disk, mut io, mut states) = restored();
    let before = disk.operations();
    while states.backend.is_warming_up() {
        if !states.backend.warm_up().unwrap() {
            io.drive();
        }
    }
    let operations = disk.operations() - before;
    assert!(!states.backend.has_absent());
    assert!(states.backend.page_bytes() > 3 << 20, "hundreds of pages");
    // Each of the page map's blocks once or twice, the extents, and about a read for each megabyte.
    assert!(operations < 80, "{operations} operations");
    assert!((0..KEYS).all(|key| states.is(key, version(key))));
}

#[test]
fn records_read_and_change_pages_of_which_only_some_pieces_have_come() {
    let (_, mut io, mut states) = restored();
    let mut changed = Vec::new();
    let mut key = 1;
    while states.backend.is_warming_up() {
        if !states.backend.warm_up().unwrap() {
            io.drive();
        }
        key = (key * 7919 + 13) % KEYS;
        if !changed.contains(&key) {
            assert!(states.is(key, version(key)), "{key}");
            states.put(key, 1000);
            changed.push(key);
        }
    }
    assert!(!states.backend.has_absent() && changed.len() > 10);
    assert!((0..KEYS).all(|key| states.is(key, if changed.contains(&key) { 1000 } else { version(key) })));
}
