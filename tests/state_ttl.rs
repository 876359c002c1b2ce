//! What a time to live promises beside the model (`state_model`): memory stays bounded, stamps are part of checkpoints, layouts tell.

use millstream::checkpoint::{CheckpointId, PageKey, PieceBlock, PieceKind};
use millstream::memory::{Arena, ArenaOptions, HugePages, MemoryBudget};
use millstream::state::{
    ArchivedValue, ExpiringList, ExpiringMap, ExpiringValue, KeyGroupRange, StateBackend, StateClock, StateError,
    StateTtl, ValueState, check_compatible,
};
use millstream::time::EventTimeMs;
use std::time::Duration;

fn backend() -> StateBackend {
    let arena = Arena::new(MemoryBudget::new(256 << 20), ArenaOptions { huge_pages: HugePages::Off });
    StateBackend::new(KeyGroupRange { start: 0, end: 1 }, 1, arena)
}

fn after_ms(ms: u64) -> StateTtl {
    StateTtl::after(Duration::from_millis(ms))
}

#[test]
fn keys_that_come_once_and_expire_do_not_let_the_state_grow() {
    let mut backend = backend();
    let clock = StateClock::default();
    let state: ExpiringValue<u64, u64> = backend.expiring_value("op", "state", after_ms(1000), &clock).unwrap();
    let keys = backend.key_context();
    let mut bytes_max = 0;
    for key in 0..200_000u64 {
        clock.set(key as i64, EventTimeMs::MIN, EventTimeMs::MIN);
        state.put(&keys.hash(&key), key).unwrap();
        bytes_max = bytes_max.max(backend.page_bytes());
    }
    // 1,000 are alive at any time: some tens of KiB.
    assert!(bytes_max <= 10 * (16 << 10), "{bytes_max}");
    assert!(backend.live_entries() < 2000);
}

#[test]
fn a_full_page_lets_go_of_what_has_expired_before_it_grows() {
    let mut backend = backend();
    let clock = StateClock::default();
    let ttl = after_ms(10).sweeping(0);
    let state: ExpiringValue<str, ArchivedValue<String>> = backend.expiring_value("op", "state", ttl, &clock).unwrap();
    let keys = backend.key_context();
    let text = "a text of some length ".repeat(10);
    for key in 0..5000u64 {
        clock.set(key as i64, EventTimeMs::MIN, EventTimeMs::MIN);
        state.put(&keys.hash(format!("{key}").as_str()), ArchivedValue::new(&text).unwrap()).unwrap();
    }
    assert_eq!(backend.page_bytes(), 16 << 10);
}

#[test]
fn a_queue_in_a_list_does_not_grow_by_what_has_left_it() {
    let mut backend = backend();
    let clock = StateClock::default();
    let list: ExpiringList<u64, u64> = backend.expiring_list("op", "list", after_ms(100), &clock).unwrap();
    let keys = backend.key_context();
    for number in 0..50_000u64 {
        clock.set(number as i64, EventTimeMs::MIN, EventTimeMs::MIN);
        list.push(&keys.hash(&1), number).unwrap();
    }
    let mut elements = Vec::new();
    list.for_each(&keys.hash(&1), |element| elements.push(element));
    assert_eq!(elements, (49_900..50_000).collect::<Vec<u64>>());
    assert!(backend.page_bytes() <= 4 * (16 << 10), "{}", backend.page_bytes());
}

#[test]
fn the_time_between_a_crash_and_the_restart_counts() {
    let clock = StateClock::default();
    let register = |backend: &mut StateBackend| -> ExpiringValue<u64, u64> {
        backend.expiring_value("op", "state", after_ms(100), &clock).unwrap()
    };
    let mut first = backend();
    let state = register(&mut first);
    let keys = first.key_context();
    for (at, key) in [(0, 1), (60, 2)] {
        clock.set(at, EventTimeMs::MIN, EventTimeMs::MIN);
        state.put(&keys.hash(&key), key).unwrap();
    }
    let mut pieces: Vec<(PageKey, PieceKind, Vec<u8>)> = Vec::new();
    first.barrier(CheckpointId(1));
    let mut sink = |block: PieceBlock| {
        for piece in &block.pieces {
            let bytes = &block.buffer.filled()[piece.offset as usize..][..piece.len as usize];
            pieces.push((piece.page, piece.kind, bytes.to_vec()));
        }
        Ok(())
    };
    first.harvest(usize::MAX, &mut sink).unwrap();

    let mut second = backend();
    let state = register(&mut second);
    pieces.iter().for_each(|(page, kind, bytes)| second.restore_piece(*page, *kind, bytes).unwrap());
    second.finish_restore().unwrap();
    clock.set(110, EventTimeMs::MIN, EventTimeMs::MIN);
    assert_eq!((state.get(&keys.hash(&1)), state.get(&keys.hash(&2))), (None, Some(2)));
}

#[test]
fn switching_a_time_to_live_on_is_refused_and_changing_its_length_is_not() {
    let clock = StateClock::default();
    let (mut without, mut with, mut longer, mut in_event_time) = (backend(), backend(), backend(), backend());
    let _: ValueState<u64, u64> = without.value("op", "state").unwrap();
    let _: ExpiringValue<u64, u64> = with.expiring_value("op", "state", after_ms(1), &clock).unwrap();
    let _: ExpiringValue<u64, u64> = longer.expiring_value("op", "state", after_ms(9), &clock).unwrap();
    let event_ttl = after_ms(1).in_event_time();
    let _: ExpiringValue<u64, u64> = in_event_time.expiring_value("op", "state", event_ttl, &clock).unwrap();
    let compare = |stored: &StateBackend, asked: &StateBackend| {
        check_compatible(&stored.descriptors()[0], &asked.descriptors()[0])
    };
    let refusal = compare(&without, &with).unwrap_err();
    assert!(refusal.to_string().contains("(the time to live (expiring in processing time) is new)"), "{refusal}");
    assert!(matches!(compare(&with, &in_event_time), Err(StateError::LayoutDiffers { .. })));
    assert!(compare(&with, &longer).is_ok());
}

#[test]
fn what_was_refused_memory_is_not_there_and_everything_else_is() {
    let clock = StateClock::default();
    for first_key in (0..30u64).map(|i| i << 32) {
        let arena = Arena::new(MemoryBudget::new(3 << 20), ArenaOptions { huge_pages: HugePages::Off });
        let mut backend = StateBackend::new(KeyGroupRange { start: 0, end: 1 }, 1, arena);
        let map: ExpiringMap<u64, u64, u64> = backend.expiring_map("op", "map", after_ms(100), &clock).unwrap();
        let list: ExpiringList<u64, u64> = backend.expiring_list("op", "list", after_ms(100), &clock).unwrap();
        let keys = backend.key_context();
        let mut refused = (0, 0);
        for key in first_key.. {
            let (key, hashed) = (key, keys.hash(&key));
            let (put, pushed) = (map.put(&hashed, &1, &key), list.push(&hashed, key));
            if let (Err(_), _) | (_, Err(_)) = (&put, &pushed) {
                refused = (key, u64::from(put.is_ok()));
                assert_eq!(
                    (map.len(&hashed), list.len(&hashed)),
                    (usize::from(put.is_ok()), usize::from(pushed.is_ok()))
                );
                break;
            }
        }
        for key in first_key..refused.0 {
            let hashed = keys.hash(&key);
            assert_eq!((map.get(&hashed, &1), list.len(&hashed)), (Some(key), 1));
            map.clear(&hashed);
        }
        // With room again another entry takes the place of the refused one, which stays away.
        let hashed = keys.hash(&refused.0);
        map.put(&hashed, &2, &2).unwrap();
        assert_eq!((map.len(&hashed), map.contains(&hashed, &1)), (1 + refused.1 as usize, refused.1 == 1));
    }
}
