//! Every page of a backend in a form that two backends can be compared by: what a restore must bring back, byte for byte.
//!
//! Here: what counts of a page: its place, its length, and what each slot holds, deleted slots and tags included. Not counted: dirty bits, and
//! where in the heap of a slotted page a cell happens to lie. For tests; a missed dirty bit shows as a page that differs.

use super::backend::{SharedTable, StateBackend};
use super::page::{EMPTY, SlotAt};
use super::residency::give_up_task;
use super::table::Table;
use crate::checkpoint::PageKey;
use std::collections::BTreeMap;

impl StateBackend {
    /// The content of every page. Pages that are not in memory are read for it, and leave again.
    #[doc(hidden)]
    pub fn page_contents(&self) -> BTreeMap<PageKey, Vec<u8>> {
        let pages = |table: &SharedTable| {
            let mut table = table.borrow_mut();
            table.merge_all_runs();
            (0..table.pages.len()).map(|index| table.page_content(index)).collect::<Vec<_>>()
        };
        self.tables.iter().flat_map(pages).collect()
    }
}

impl Table {
    fn page_content(&mut self, index: usize) -> (PageKey, Vec<u8>) {
        let was_in = self.is_in(index);
        self.bring_page(index).unwrap_or_else(|error| give_up_task(&error));
        let page = &self.pages[index];
        let key = PageKey { state: self.identity.id, key_group: page.group, page: page.number };
        let bytes = page.bytes();
        let mut content = Vec::new();
        content.extend_from_slice(&page.prefix.to_le_bytes());
        content.extend_from_slice(&[page.depth, (bytes.len() >> 10) as u8]);
        for at in (0..self.layout.slots(bytes)).map(SlotAt::of) {
            let tag = bytes[self.layout.grid(bytes).tag_offset(at)];
            if tag != EMPTY {
                content.extend_from_slice(&(at.slot() as u16).to_le_bytes());
                content.push(tag);
            }
            if tag > super::page::DELETED {
                content.extend_from_slice(&bytes[self.layout.cell(bytes, at)]);
            }
        }
        if !was_in {
            self.evict(index);
        }
        (key, content)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::{CheckpointId, PieceBlock, PieceKind};
    use crate::memory::{Arena, ArenaOptions, MemoryBudget};
    use crate::record::Key;
    use crate::sim::Rng;
    use crate::state::table::EntryAt;
    use crate::state::{Grouped, KeyContext, KeyGroupRange, KeyHash, ValueState};

    type Pieces = Vec<(PageKey, PieceKind, Vec<u8>)>;

    fn backend() -> (StateBackend, ValueState<u64, u64>) {
        let arena = Arena::new(MemoryBudget::new(64 << 20), ArenaOptions::default());
        let mut backend = StateBackend::new(KeyGroupRange { start: 0, end: 1 }, 1, arena);
        let state = backend.value("operator", "state").unwrap();
        (backend, state)
    }

    fn snapshot(backend: &mut StateBackend, checkpoint: u64, pieces: &mut Pieces) {
        backend.barrier(CheckpointId(checkpoint));
        let mut sink = |block: PieceBlock| {
            for piece in &block.pieces {
                let bytes = &block.buffer.filled()[piece.offset as usize..][..piece.len as usize];
                pieces.push((piece.page, piece.kind, bytes.to_vec()));
            }
            Ok(())
        };
        backend.harvest(usize::MAX, &mut sink).unwrap();
    }

    fn restored_contents(pieces: &Pieces) -> BTreeMap<PageKey, Vec<u8>> {
        let (mut backend, _) = backend();
        pieces.iter().for_each(|(page, kind, bytes)| backend.restore_piece(*page, *kind, bytes).unwrap());
        backend.finish_restore().unwrap();
        backend.page_contents()
    }

    /// A few keys in one snapshot, then one of them changed, `plant`ed, and a second snapshot: what differs after a restore.
    fn differing_pages(plant: impl FnOnce(&mut Table, EntryAt)) -> usize {
        let (mut backend, state) = backend();
        let keys = backend.key_context();
        let mut pieces = Pieces::new();
        (0..100u64).for_each(|key| state.put(&keys.hash(&key), &key).unwrap());
        snapshot(&mut backend, 1, &mut pieces);
        state.put(&keys.hash(&7), &1000).unwrap();
        {
            let mut table = state.table.borrow_mut();
            let layout = table.layout;
            let entry = table.find(layout, ValueState::<u64, u64>::address(&keys.hash(&7))).unwrap();
            plant(&mut table, entry);
        }
        let live = backend.page_contents();
        snapshot(&mut backend, 2, &mut pieces);
        let restored = restored_contents(&pieces);
        assert_eq!(live.len(), restored.len());
        live.iter().filter(|(page, content)| restored[page] != **content).count()
    }

    #[test]
    fn without_a_fault_the_restored_pages_are_the_live_ones() {
        assert_eq!(differing_pages(|_, _| ()), 0);
    }

    #[test]
    fn pages_that_lost_all_their_keys_are_restored_as_they_are() {
        let (mut backend, state) = backend();
        let (keys, mut pieces) = (backend.key_context(), Pieces::new());
        (0..1_000u64).for_each(|key| state.put(&keys.hash(&key), &key).unwrap());
        (1..999u64).for_each(|key| assert!(state.remove(&keys.hash(&key))));
        snapshot(&mut backend, 1, &mut pieces);
        // With the last key of a page, slots become empty that were deleted before the snapshot.
        [0, 999].iter().for_each(|key| assert!(state.remove(&keys.hash(key))));
        let live = backend.page_contents();
        snapshot(&mut backend, 2, &mut pieces);
        assert!(live == restored_contents(&pieces));
    }

    #[test]
    fn a_missed_dirty_bit_is_found() {
        let forget = |table: &mut Table, entry: EntryAt| {
            let page = &mut table.pages[entry.page];
            let grid = table.layout.grid(page.bytes());
            page.set_bits(grid, entry.at, 0);
        };
        assert_eq!(differing_pages(forget), 1);
    }

    #[test]
    fn a_write_that_did_not_mark_its_slot_is_found() {
        let write = |table: &mut Table, entry: EntryAt| {
            let neighbour = SlotAt { lane: (entry.at.lane + 1) % 8, ..entry.at };
            let page = &mut table.pages[entry.page];
            let value = table.layout.value(page.bytes(), neighbour);
            let grid = table.layout.grid(page.bytes());
            assert!(page.bytes()[grid.tag_offset(neighbour)] > EMPTY, "the neighbour holds a key");
            page.bytes_mut()[value.start] ^= 1;
        };
        assert_eq!(differing_pages(write), 1);
    }

    /// Updates every key by one; keys whose count is `last` are removed.
    fn count(state: &ValueState<u64, u64>, context: KeyContext, numbers: &[u64], last: u64) {
        let of = |key: &u64| KeyHash::of(key.bytes(), context.hash(key).group);
        let next = |_, old: Option<u64>| Some(old.unwrap_or(0) + 1).filter(|count| *count < last);
        state
            .update_each(
                numbers.iter().map(of),
                numbers.iter(),
                |key| Grouped { key: *key, group: context.hash(*key).group },
                next,
                |_, _| {},
            )
            .unwrap();
    }

    #[test]
    fn keys_found_where_they_were_last_are_updated_as_by_looking_them_up() {
        let mut found = 0;
        for seed in 0..4 {
            let mut random = Rng::new(seed);
            let (mut states, state) = backend();
            let (context, mut counts, mut pieces) = (states.key_context(), BTreeMap::new(), Pieces::new());
            // More and more keys: pages split, keys move. Some go, the slots of which others take.
            for frame in 0..600u64 {
                let keys = 10 + frame * 10;
                let numbers: Vec<u64> = (0..100).map(|_| random.below(keys)).collect();
                count(&state, context, &numbers, 5);
                for key in numbers {
                    let next = counts.get(&key).unwrap_or(&0) + 1;
                    if next < 5 {
                        counts.insert(key, next)
                    } else {
                        counts.remove(&key)
                    };
                }
                if random.below(20) == 0 {
                    snapshot(&mut states, frame + 1, &mut pieces);
                }
            }
            found += usize::from(state.table.borrow().recent.is_kept());
            snapshot(&mut states, 601, &mut pieces);
            (0..6_010)
                .for_each(|key| assert_eq!(state.get(&context.hash(&key)), counts.get(&key).copied(), "{seed} {key}"));
            assert!(restored_contents(&pieces) == states.page_contents(), "{seed}: a change that no snapshot has");
        }
        assert_eq!(found, 4, "nothing was remembered");
    }
}
