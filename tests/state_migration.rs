//! State that a former version of the program stored with other types: what migrates, what is refused and how, and that nothing of the former
//! layout is left in the checkpoints after.

use millstream::Record;
use millstream::checkpoint::{CheckpointId, PageKey, PieceBlock, PieceKind};
use millstream::memory::{Arena, ArenaOptions, HugePages, MemoryBudget};
use millstream::state::{
    ArchivedValue, ExpiringMap, KeyGroupRange, ListState, MapState, StateBackend, StateClock, StateError, StateTtl,
    ValueState,
};
use millstream::time::EventTimeMs;
use std::collections::BTreeMap;
use std::time::Duration;

/// What version 1 kept of a card.
#[derive(Record, Clone, Copy, Debug, PartialEq)]
#[repr(C)]
struct Total {
    cents: i64,
    count: u32,
    flags: u32,
}

/// What version 2 keeps.
#[derive(Record, Clone, Copy, Debug, PartialEq)]
#[repr(C)]
struct Totals {
    cents: i64,
    count: u64,
}

/// The live pieces of each page, as a store keeps them.
#[derive(Default)]
struct Store(BTreeMap<PageKey, Vec<(PieceKind, Vec<u8>)>>);

impl Store {
    fn snapshot(&mut self, backend: &mut StateBackend, checkpoint: u64) {
        backend.barrier(CheckpointId(checkpoint));
        let mut sink = |block: PieceBlock| {
            for piece in &block.pieces {
                let bytes = block.buffer.filled()[piece.offset as usize..][..piece.len as usize].to_vec();
                let chain = self.0.entry(piece.page).or_default();
                if piece.kind == PieceKind::Image {
                    chain.clear();
                }
                if bytes.is_empty() {
                    self.0.remove(&piece.page);
                } else {
                    chain.push((piece.kind, bytes));
                }
            }
            Ok(())
        };
        backend.harvest(usize::MAX, &mut sink).unwrap();
    }

    fn restore(
        &self,
        former: &[millstream::checkpoint::StateDescriptor],
        backend: &mut StateBackend,
    ) -> Result<(), StateError> {
        backend.prepare_restore(former)?;
        for (page, chain) in &self.0 {
            chain.iter().try_for_each(|(kind, bytes)| backend.restore_piece(*page, *kind, bytes))?;
        }
        backend.finish_restore()?;
        while backend.is_migrating() {
            backend.migrate(1)?;
        }
        Ok(())
    }
}

fn backend() -> StateBackend {
    let arena = Arena::new(MemoryBudget::new(256 << 20), ArenaOptions { huge_pages: HugePages::Off });
    StateBackend::new(KeyGroupRange { start: 0, end: 4 }, 4, arena)
}

const KEYS: u64 = 5000;

fn total(key: u64) -> Total {
    Total { cents: key as i64 * 3, count: key as u32, flags: 1 }
}

fn totals(old: Total) -> Totals {
    Totals { cents: old.cents, count: u64::from(old.count) }
}

/// What version 1 of the program left behind.
fn version_1() -> (Store, StateBackend) {
    let mut backend = backend();
    let state: ValueState<u64, Total> = backend.value("cards", "total").unwrap();
    let keys = backend.key_context();
    (0..KEYS).for_each(|key| state.put(&keys.hash(&key), &total(key)).unwrap());
    let mut store = Store::default();
    store.snapshot(&mut backend, 1);
    (store, backend)
}

#[test]
fn values_are_taken_over_by_the_function_and_nothing_of_the_former_layout_is_left() {
    let (mut store, former) = version_1();
    let mut second = backend();
    let state: ValueState<u64, Totals> = second.value("cards", "total").unwrap();
    let state = state.migrate_from(totals);
    store.restore(&former.descriptors(), &mut second).unwrap();
    let keys = second.key_context();
    (0..KEYS).for_each(|key| assert_eq!(state.get(&keys.hash(&key)), Some(totals(total(key)))));
    // A third start needs no migration: the next snapshot replaced every page.
    (10..KEYS).for_each(|key| assert!(state.remove(&keys.hash(&key))));
    store.snapshot(&mut second, 2);
    let mut third = backend();
    let state: ValueState<u64, Totals> = third.value("cards", "total").unwrap();
    store.restore(&second.descriptors(), &mut third).unwrap();
    assert_eq!(third.live_entries(), 10);
    assert_eq!(state.get(&keys.hash(&7)), Some(totals(total(7))));
}

#[test]
fn fewer_pages_than_before_leave_no_former_page_behind() {
    let (mut store, former) = version_1();
    let pages_before = store.0.len();
    let mut second = backend();
    let state: ValueState<u64, u8> = second.value("cards", "total").unwrap();
    let _state = state.migrate_from(|old: Total| old.flags as u8);
    store.restore(&former.descriptors(), &mut second).unwrap();
    store.snapshot(&mut second, 2);
    assert!(store.0.len() < pages_before);
    assert_eq!(store.0.keys().copied().collect::<Vec<_>>(), second.page_contents().into_keys().collect::<Vec<_>>());
}

#[test]
fn a_changed_type_is_refused_with_the_fields_that_differ() {
    let (store, former) = version_1();
    let mut second = backend();
    let _state: ValueState<u64, Totals> = second.value("cards", "total").unwrap();
    let refusal = store.restore(&former.descriptors(), &mut second).unwrap_err();
    assert_eq!(
        refusal.to_string(),
        "state \"total\" of operator \"cards\" is stored as \
         `value per key: key u64, value Total{cents: i64, count: u32, flags: u32} (16 bytes), cells of 8 + 16 bytes`, the program asks for \
         `value per key: key u64, value Totals{cents: i64, count: u64} (16 bytes), cells of 8 + 16 bytes` \
         (value.count was u32 and is u64; value.flags (u32) is gone): \
         restore with the former type, say how to migrate it, or give the changed state a new name"
    );
}

#[test]
fn a_migration_from_another_type_than_the_stored_one_does_not_help() {
    let (store, former) = version_1();
    let mut second = backend();
    let state: ValueState<u64, Totals> = second.value("cards", "total").unwrap();
    let _state = state.migrate_from(|old: u64| Totals { cents: old as i64, count: 1 });
    assert!(matches!(store.restore(&former.descriptors(), &mut second), Err(StateError::LayoutDiffers { .. })));
}

#[test]
fn a_type_with_another_name_and_the_same_fields_needs_no_migration() {
    mod renamed {
        #[derive(millstream::Record, Clone, Copy, Debug, PartialEq)]
        #[repr(C)]
        pub struct CardTotal {
            pub cents: i64,
            pub count: u32,
            pub flags: u32,
        }
    }
    let (store, former) = version_1();
    let mut second = backend();
    let state: ValueState<u64, renamed::CardTotal> = second.value("cards", "total").unwrap();
    store.restore(&former.descriptors(), &mut second).unwrap();
    assert_eq!(state.get(&second.key_context().hash(&9)).unwrap().cents, 27);
}

#[test]
fn a_function_that_panics_gives_an_error_that_names_the_state_and_what_it_said() {
    let (store, former) = version_1();
    let mut second = backend();
    let state: ValueState<u64, Totals> = second.value("cards", "total").unwrap();
    let _state = state.migrate_from(|old: Total| {
        assert!(old.count != 77, "card 77 cannot be");
        totals(old)
    });
    let refusal = store.restore(&former.descriptors(), &mut second).unwrap_err().to_string();
    assert!(refusal.starts_with("state \"total\" of operator \"cards\", stored as `value per key: "), "{refusal}");
    assert!(refusal.contains("the migration function panicked: card 77 cannot be"), "{refusal}");
}

#[test]
fn lists_maps_and_texts_longer_than_a_page_are_taken_over() {
    let mut first = backend();
    let list: ListState<str, u32> = first.list("op", "list").unwrap();
    let map: MapState<u64, str, ArchivedValue<String>> = first.map("op", "map").unwrap();
    let keys = first.key_context();
    for i in 0..100u32 {
        list.push(&keys.hash("a"), &i).unwrap();
        let text = "x".repeat(i as usize * 100);
        map.put(&keys.hash(&1), &format!("{i}"), &ArchivedValue::new(&text).unwrap()).unwrap();
    }
    map.remove(&keys.hash(&1), "50").unwrap();
    let mut store = Store::default();
    store.snapshot(&mut first, 1);

    let mut second = backend();
    let texts: ListState<str, ArchivedValue<String>> = second.list("op", "list").unwrap();
    let texts = texts.migrate_from(|old: u32| ArchivedValue::new(&old.to_string()).unwrap());
    let lens: MapState<u64, str, u64> = second.map("op", "map").unwrap();
    let lens = lens.migrate_from(|old: ArchivedValue<String>| old.get().unwrap().len() as u64);
    store.restore(&first.descriptors(), &mut second).unwrap();

    let mut joined = String::new();
    texts.for_each(&keys.hash("a"), |text| joined.push_str(text.get().unwrap()));
    assert_eq!(joined, (0..100).map(|i| i.to_string()).collect::<String>());
    assert_eq!((lens.len(&keys.hash(&1)), lens.get(&keys.hash(&1), "99")), (99, Some(9900)));
    assert_eq!(lens.get(&keys.hash(&1), "50"), None);
}

#[test]
fn what_expires_keeps_its_age_through_a_migration() {
    let clock = StateClock::default();
    let ttl = StateTtl::after(Duration::from_millis(100));
    let at = |ms| clock.set(ms, EventTimeMs::MIN, EventTimeMs::MIN);
    let mut first = backend();
    let map: ExpiringMap<u64, str, u32> = first.expiring_map("op", "map", ttl, &clock).unwrap();
    let keys = first.key_context();
    at(0);
    map.put(&keys.hash(&1), "old", &1).unwrap();
    at(50);
    map.put(&keys.hash(&1), "young", &2).unwrap();
    let mut store = Store::default();
    store.snapshot(&mut first, 1);

    let mut second = backend();
    let map: ExpiringMap<u64, str, i64> = second.expiring_map("op", "map", ttl, &clock).unwrap();
    let map = map.migrate_from(|old: u32| -i64::from(old));
    store.restore(&first.descriptors(), &mut second).unwrap();
    at(120);
    assert_eq!((map.get(&keys.hash(&1), "old"), map.get(&keys.hash(&1), "young")), (None, Some(-2)));
}

#[test]
fn pages_of_dropped_state_are_gone_after_the_next_snapshot() {
    let (mut store, _) = version_1();
    let mut second = backend();
    let pages: Vec<PageKey> = store.0.keys().copied().collect();
    second.forget_pages(pages);
    store.snapshot(&mut second, 2);
    assert!(store.0.is_empty());
}
