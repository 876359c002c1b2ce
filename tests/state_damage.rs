//! Pieces that are not what a state wrote: flipped, cut off, exchanged, or any bytes at all. Restoring them gives a typed error or a state that
//! works; it never panics. And what else a backend refuses.

use millstream::checkpoint::{CheckpointId, PageKey, PieceBlock, PieceKind};
use millstream::memory::{Arena, ArenaOptions, BlockSize, HugePages, MemoryBudget};
use millstream::state::{
    ArchivedValue, HarvestProgress, KeyGroupRange, ListState, MapState, StateBackend, StateError, Timers, ValueState,
    check_compatible, state_id,
};
use millstream::time::EventTimeMs;
use proptest::prelude::*;

type Pieces = Vec<(PageKey, PieceKind, Vec<u8>)>;

struct States {
    backend: StateBackend,
    totals: ValueState<u64, [u64; 2]>,
    texts: ValueState<str, ArchivedValue<String>>,
    maps: MapState<u64, str, u32>,
    lists: ListState<u64, ArchivedValue<String>>,
    timers: Timers<u64>,
}

impl States {
    fn new(budget_bytes: usize) -> Self {
        // Many short-lived states: zeroing huge pages would be most of the time.
        let options = ArenaOptions { huge_pages: HugePages::Off };
        let arena = Arena::new(MemoryBudget::new(budget_bytes), options);
        let mut backend = StateBackend::new(KeyGroupRange { start: 0, end: 2 }, 2, arena);
        let totals = backend.value("count", "totals").unwrap();
        let texts = backend.value("count", "texts").unwrap();
        let maps = backend.map("count", "maps").unwrap();
        let lists = backend.list("count", "lists").unwrap();
        let timers = backend.timers("count", "timers").unwrap();
        Self { backend, totals, texts, maps, lists, timers }
    }

    fn fill(&mut self, keys: std::ops::Range<u64>) -> Result<(), StateError> {
        let context = self.backend.key_context();
        for key in keys {
            let hashed = context.hash(&key);
            self.totals.update(&hashed, |old| Some([old.unwrap_or_default()[0] + 1, key]))?;
            self.maps.put(&hashed, "a map key", &1)?;
            self.lists.push(&hashed, &ArchivedValue::new(&String::from("a list element"))?)?;
            self.timers.set(&hashed, EventTimeMs(key as i64))?;
            let text = format!("text {key}");
            let long = "x".repeat((key as usize % 50) * 100);
            self.texts.put(&context.hash(text.as_str()), &ArchivedValue::new(&long)?)?;
        }
        Ok(())
    }

    fn snapshot(&mut self, checkpoint: u64, pieces: &mut Pieces) -> Result<HarvestProgress, StateError> {
        self.backend.barrier(CheckpointId(checkpoint));
        self.backend.harvest(usize::MAX, &mut |block: PieceBlock| {
            for piece in &block.pieces {
                let bytes = &block.buffer.filled()[piece.offset as usize..][..piece.len as usize];
                pieces.push((piece.page, piece.kind, bytes.to_vec()));
            }
            Ok(())
        })
    }

    /// Reads and changes everything; what it holds does not matter, only that nothing panics.
    fn use_all(&mut self) {
        self.timers.rebuild();
        let mut seen = 0;
        self.totals.for_each(|_, total| seen += total[0] & 1);
        self.texts.for_each(|_, text| seen += text.get().map_or(0, |text| text.len() as u64));
        let context = self.backend.key_context();
        for key in 0..300u64 {
            self.maps.for_each(&context.hash(&key), |_, value| seen += u64::from(value));
            self.maps.remove(&context.hash(&key), "a map key").unwrap();
            self.lists.for_each(&context.hash(&key), |text| seen += text.get().map_or(0, |text| text.len() as u64));
            self.lists.set(&context.hash(&key), 0, &ArchivedValue::new(&"x".repeat(130)).unwrap()).unwrap();
            self.lists.truncate(&context.hash(&key), 1);
        }
        while self.timers.pop_due(EventTimeMs::MAX).is_some() {}
        self.fill(0..300).unwrap();
    }
}

fn sample() -> Pieces {
    let mut states = States::new(64 << 20);
    let mut pieces = Pieces::new();
    states.fill(0..120).unwrap();
    states.snapshot(1, &mut pieces).unwrap();
    states.fill(100..125).unwrap();
    states.snapshot(2, &mut pieces).unwrap();
    assert!(pieces.iter().any(|piece| piece.1 == PieceKind::Delta));
    pieces
}

fn restore(pieces: &Pieces) -> Result<States, StateError> {
    let mut states = States::new(64 << 20);
    pieces.iter().try_for_each(|(key, kind, bytes)| states.backend.restore_piece(*key, *kind, bytes))?;
    states.backend.finish_restore()?;
    Ok(states)
}

#[test]
fn a_flipped_byte_anywhere_gives_an_error_or_a_state_that_works() {
    let pieces = sample();
    let lens: Vec<usize> = pieces.iter().map(|piece| piece.2.len()).collect();
    let mut refused = 0;
    for (index, len) in lens.into_iter().enumerate() {
        // Every byte of heads and first entries, then a sample that covers each residue.
        for at in (0..len.min(64)).chain((64..len).step_by(307)) {
            let mut damaged = pieces.clone();
            damaged[index].2[at] ^= 1 << (at % 8);
            match restore(&damaged) {
                Ok(mut states) if at % 7 == 0 => states.use_all(),
                Ok(_) => {}
                Err(_) => refused += 1,
            }
        }
    }
    assert!(refused > 50);
}

#[test]
fn a_piece_cut_off_anywhere_is_refused() {
    let pieces = sample();
    for index in 0..pieces.len() {
        for len in (0..pieces[index].2.len().min(80)).chain([pieces[index].2.len() - 1]) {
            let mut damaged = pieces.clone();
            damaged[index].2.truncate(len);
            assert!(matches!(restore(&damaged), Err(StateError::Damaged { .. })));
        }
    }
}

#[test]
fn a_missing_page_is_refused() {
    let pieces = sample();
    let first = pieces[0].0;
    let damaged: Pieces = pieces.into_iter().filter(|piece| piece.0 != first || first.page != 0).collect();
    // The only page of its key group may be missing: a key group without keys has none.
    let _ = restore(&damaged).map(|mut states| states.use_all());
    let mut states = States::new(64 << 20);
    let mut many = Pieces::new();
    states.fill(0..2000).unwrap();
    states.snapshot(1, &mut many).unwrap();
    let split = many.iter().map(|piece| piece.0).find(|key| key.page == 1).unwrap();
    many.retain(|piece| piece.0 != split);
    assert!(matches!(restore(&many), Err(StateError::Damaged { .. })));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn spans_overwritten_with_any_bytes_never_panic(
        piece in any::<prop::sample::Index>(),
        at in any::<prop::sample::Index>(),
        junk in prop::collection::vec(any::<u8>(), 1..40),
    ) {
        let mut pieces = sample();
        let index = piece.index(pieces.len());
        let bytes = &mut pieces[index].2;
        let at = at.index(bytes.len());
        let len = junk.len().min(bytes.len() - at);
        bytes[at..at + len].copy_from_slice(&junk[..len]);
        if let Ok(mut states) = restore(&pieces) {
            states.use_all();
        }
    }
}

#[test]
fn an_exhausted_budget_is_refused_by_state_name_and_changes_nothing() {
    let mut states = States::new(4 << 20);
    let refused = (0..u64::MAX).find_map(|key| states.fill(key..key + 1).err()).unwrap();
    assert!(refused.to_string().contains("of operator \"count\" cannot grow: keyed state asked for"), "{refused}");
    let (mut count, mut expected) = (0, 0);
    let context = states.backend.key_context();
    states.totals.for_each(|_, _| count += 1);
    while states.totals.get(&context.hash(&expected)).is_some() {
        expected += 1;
    }
    assert_eq!(count, expected);
}

#[test]
fn a_snapshot_without_memory_is_given_up_and_the_next_one_is_complete() {
    let arena = Arena::new(MemoryBudget::new(4 << 20), ArenaOptions::default());
    let mut backend = StateBackend::new(KeyGroupRange { start: 0, end: 2 }, 2, arena.clone());
    let state = backend.value::<u64, u64>("count", "totals").unwrap();
    let context = backend.key_context();
    (0..10_000u64).for_each(|key| state.put(&context.hash(&key), &key).unwrap());
    // Largest first: what is carved into small blocks never becomes a large one again.
    let sizes = BlockSize::ALL.into_iter().rev();
    let held: Vec<_> = sizes
        .flat_map(|size| std::iter::from_fn(|| arena.take("another job", size).ok()).collect::<Vec<_>>())
        .collect();
    backend.barrier(CheckpointId(1));
    (0..10_000u64).for_each(|key| state.put(&context.hash(&key), &(key + 1)).unwrap());
    let refused = backend.harvest(usize::MAX, &mut |_| Ok(())).unwrap_err();
    assert!(matches!(refused, StateError::SnapshotGivenUp { .. }));
    drop(held);
    backend.barrier(CheckpointId(2));
    let mut restored = {
        let arena = Arena::new(MemoryBudget::new(64 << 20), ArenaOptions::default());
        StateBackend::new(KeyGroupRange { start: 0, end: 2 }, 2, arena)
    };
    let copy = restored.value::<u64, u64>("count", "totals").unwrap();
    let progress = backend.harvest(usize::MAX, &mut |block: PieceBlock| {
        for piece in &block.pieces {
            let bytes = &block.buffer.filled()[piece.offset as usize..][..piece.len as usize];
            restored.restore_piece(piece.page, piece.kind, bytes).unwrap();
        }
        Ok(())
    });
    assert!(matches!(progress, Ok(HarvestProgress::Done { .. })), "{progress:?}");
    restored.finish_restore().unwrap();
    assert!((0..10_000u64).all(|key| copy.get(&context.hash(&key)) == Some(key + 1)));
}

#[test]
fn fourteen_keys_take_at_most_fourteen_pages() {
    let arena = Arena::new(MemoryBudget::new(64 << 20), ArenaOptions::default());
    let mut backend = StateBackend::new(KeyGroupRange { start: 0, end: 128 }, 128, arena);
    let state = backend.value::<u64, u64>("count", "totals").unwrap();
    let context = backend.key_context();
    (0..14u64).for_each(|key| state.put(&context.hash(&key), &key).unwrap());
    assert!(backend.page_bytes() <= 14 * (16 << 10));
}

#[test]
fn pieces_of_unknown_states_and_foreign_key_groups_are_refused() {
    let mut states = States::new(64 << 20);
    let key = PageKey { state: 1, key_group: 0, page: 0 };
    assert_eq!(states.backend.restore_piece(key, PieceKind::Image, &[]), Err(StateError::UnknownState { id: 1 }));
    let key = PageKey { state: state_id("count", "totals"), key_group: 2, page: 0 };
    let foreign = states.backend.restore_piece(key, PieceKind::Image, &[]);
    assert!(matches!(foreign, Err(StateError::ForeignKeyGroup { key_group: 2, start: 0, end: 2, .. })));
}

#[test]
fn a_changed_type_is_refused_with_both_layouts() {
    let mut former = States::new(64 << 20).backend.descriptors();
    let mut changed = former.remove(0);
    changed.layout = String::from("value per key: key u64, value u32 (4 bytes)");
    changed.layout_hash += 1;
    let asked = States::new(64 << 20).backend.descriptors().remove(0);
    assert!(check_compatible(&asked, &asked).is_ok());
    assert_eq!(
        check_compatible(&changed, &asked).unwrap_err().to_string(),
        "state \"totals\" of operator \"count\" is stored as `value per key: key u64, value u32 (4 bytes)`, the program asks for \
         `value per key: key u64, value [u64; 2] (16 bytes), cells of 8 + 16 bytes` (value was u32 (4 bytes) and is [u64; 2] (16 bytes)): restore with the former \
         type, say how to migrate it, or give the changed state a new name"
    );
}

#[test]
fn one_name_cannot_be_registered_twice() {
    let mut states = States::new(64 << 20);
    assert!(matches!(states.backend.value::<u64, u64>("count", "totals"), Err(StateError::NameTaken { .. })));
}

#[test]
fn a_map_entry_that_was_refused_memory_does_not_appear_with_the_next_one() {
    // Which of an entry's three parts is refused depends on the keys: among these each is.
    for first_key in (0..40u64).map(|i| i << 32) {
        let states = States::new(3 << 20);
        let context = states.backend.key_context();
        let mut keys = first_key..;
        let refused = keys.find(|key| states.maps.put(&context.hash(key), "refused", &1).is_err()).unwrap();
        for key in (first_key..refused).step_by(2) {
            states.maps.clear(&context.hash(&key));
        }
        states.maps.put(&context.hash(&refused), "next", &2).unwrap();
        let map = &states.maps;
        assert_eq!((map.len(&context.hash(&refused)), map.get(&context.hash(&refused), "refused")), (1, None));
    }
}
