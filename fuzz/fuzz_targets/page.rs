//! Any bytes where a page image or a delta should be: a state of each kind refuses them or holds something that can be read.
#![no_main]

use libfuzzer_sys::fuzz_target;
use millstream::checkpoint::{CheckpointId, PageKey, PieceBlock, PieceKind};
use millstream::memory::{Arena, ArenaOptions, MemoryBudget};
use millstream::state::{HarvestProgress, KeyGroupRange, StateBackend, StateClock, StateTtl, state_id};
use std::time::Duration;

const GROUPS: u16 = 4;

fuzz_target!(|input: (u8, bool, u16, u32, Vec<u8>)| {
    let (state, is_delta, key_group, page, bytes) = input;
    let arena = Arena::new(MemoryBudget::new(16 << 20), ArenaOptions::default());
    let mut backend = StateBackend::new(KeyGroupRange { start: 0, end: GROUPS }, GROUPS, arena);
    let fixed = backend.value::<u64, [u64; 2]>("op", "fixed").expect("a fresh backend");
    let names = backend.value::<str, u64>("op", "names").expect("a fresh backend");
    let map = backend.map::<str, u64, u64>("op", "map").expect("a fresh backend");
    let list = backend.list::<str, u64>("op", "list").expect("a fresh backend");
    let mut timers = backend.timers::<str>("op", "timers").expect("a fresh backend");
    let mut queue = backend.event_queue::<str, u64>("op", "queue").expect("a fresh backend");
    let (ttl, clock) = (StateTtl::after(Duration::from_millis(100)), StateClock::default());
    let fading_list = backend.expiring_list::<str, u64>("op", "fading list", ttl, &clock).expect("a fresh backend");
    let fading_map = backend.expiring_map::<str, u64, u64>("op", "fading map", ttl, &clock).expect("a fresh backend");
    const NAMES: [&str; 8] = ["fixed", "names", "map", "list", "timers", "queue", "fading list", "fading map"];
    let name = NAMES[usize::from(state) % NAMES.len()];
    let key = PageKey { state: state_id("op", name), key_group: key_group % GROUPS, page };
    let kind = if is_delta { PieceKind::Delta } else { PieceKind::Image };

    // Alone, and over an image the state wrote itself.
    let _ = backend.restore_piece(key, kind, &bytes);
    if backend.finish_restore().is_err() {
        return;
    }
    timers.rebuild();
    queue.rebuild();
    let keys = backend.key_context();
    fixed.for_each(|_, _| {});
    names.for_each(|_, _| {});
    for name in ["", "a", "series"] {
        map.for_each(&keys.hash(name), |_, _| {});
        list.for_each(&keys.hash(name), |_| {});
        let _ = list.push(&keys.hash(name), &1);
        let _ = list.set(&keys.hash(name), 0, &2);
        list.truncate(&keys.hash(name), 1);
        let _ = names.put(&keys.hash(name), &1);
        let _ = fading_list.push(&keys.hash(name), 1);
        fading_list.for_each(&keys.hash(name), |_| {});
        let _ = fading_map.put(&keys.hash(name), &1, &1);
        fading_map.for_each(&keys.hash(name), |_, _| {});
    }
    let _ = fixed.put(&keys.hash(&7), &[1, 2]);
    while timers.pop_due(millstream::time::EventTimeMs::MAX).is_some() {}
    while queue.pop_due(millstream::time::EventTimeMs::MAX).is_some() {}
    backend.barrier(CheckpointId(1));
    let mut take = |_: PieceBlock| Ok(());
    while let Ok(HarvestProgress::Worked | HarvestProgress::Refused) = backend.harvest(1 << 20, &mut take) {}
});
