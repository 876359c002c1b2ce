//! State four times as large as its memory, against a map: every key reads back right while pages come and go, snapshots are what the map
//! was at the barrier, and what is read back lazily is what was written.

use millstream::checkpoint::{CheckpointId, PageKey, PieceBlock, PieceKind};
use millstream::io::{SharedIo, SimDisk, SimDiskOptions, SimIo};
use millstream::memory::{Arena, ArenaOptions, HugePages, MemoryBudget};
use millstream::state::{HarvestProgress, KeyGroupRange, StateBackend, ValueState};
use std::collections::HashMap;
use std::path::PathBuf;

type Value = [u64; 16];

const KEYS: u64 = 200_000;
const BUDGET_BYTES: usize = 12 << 20;
const ALL: KeyGroupRange = KeyGroupRange { start: 0, end: 128 };

struct Small {
    backend: StateBackend,
    values: ValueState<u64, Value>,
    arena: Arena,
    _disk: SimDisk,
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
    Small { backend, values, arena, _disk: disk }
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
