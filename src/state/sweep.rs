//! Taking what has expired out of the pages: a few entries at each access, and those of a page before it grows or splits.
//!
//! Here: looking at entries in the order in which they lie, and removing one with everything that belongs to it. Not here: when something
//! has expired (`ttl`).
//!
//! Elements of lists and entries of maps leave gaps behind: their run (below) counts how many are left, and goes with the last one.
//! Removing never needs memory, so it never fails and never moves an entry.

use super::entries::{LIST_ELEMENT, LIST_LEN, MAP_ENTRY, MAP_KEY, MAP_LEN, VALUE};
use super::page::{DELETED, SlotAt};
use super::table::{Address, EntryAt, Table};
use super::ttl::{Lifetime, STAMP_LEN, stamp_of};
use super::{KeyGroup, StateError};
use std::ops::Range;

/// How many slots one access passes over at most, whatever they hold.
const SLOTS_PER_ACCESS_MAX: usize = 32;

/// No list or map comes near it by itself; beyond it counting could overflow.
const INDEX_MAX: u64 = 1 << 62;
/// Runs up to this length are walked through index by index.
const WALKED_MAX: u64 = 4096;

/// What a table with a time to live needs to sweep itself.
pub(super) struct Sweep {
    lifetime: Lifetime,
    /// Where the next access goes on.
    page: usize,
    slot: usize,
    /// The key of the entry being removed, and that of what belongs to it.
    key: Vec<u8>,
    companion: Vec<u8>,
}

/// The head of a list or map whose members expire: they have the indices from `first` to before `end`, `count` of them are there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Run {
    pub first: u64,
    pub end: u64,
    pub count: u64,
}

impl Run {
    pub const LEN: usize = 24;

    pub fn read(bytes: &[u8]) -> Option<Self> {
        let (first, rest) = bytes.split_first_chunk()?;
        let (end, rest) = rest.split_first_chunk()?;
        let count = rest.try_into().ok()?;
        let run =
            Self { first: u64::from_le_bytes(*first), end: u64::from_le_bytes(*end), count: u64::from_le_bytes(count) };
        (run.first <= run.end).then_some(run)
    }

    /// Whether bytes from a checkpoint can be a run.
    pub fn check(bytes: &[u8]) -> bool {
        bytes.len() == Self::LEN && Self::read(bytes).is_some_and(|run| run.end <= INDEX_MAX)
    }

    pub fn store(self, out: &mut [u8]) {
        out[..8].copy_from_slice(&self.first.to_le_bytes());
        out[8..16].copy_from_slice(&self.end.to_le_bytes());
        out[16..].copy_from_slice(&self.count.to_le_bytes());
    }

    pub fn contains(&self, index: u64) -> bool {
        (self.first..self.end).contains(&index)
    }

    /// Whether gaps make up most of it, so that numbering its members anew is worth the work.
    pub fn is_sparse(&self) -> bool {
        (self.end - self.first) / 2 > self.count.saturating_add(8)
    }
}

/// The indices of a run at which members may be, in order.
pub(super) enum Indices {
    /// All of them.
    Walked(Range<u64>),
    /// Those at which members are.
    Found(std::vec::IntoIter<u64>),
}

impl Iterator for Indices {
    type Item = u64;

    #[inline]
    fn next(&mut self) -> Option<u64> {
        match self {
            Self::Walked(indices) => indices.next(),
            Self::Found(indices) => indices.next(),
        }
    }
}

impl Sweep {
    pub fn new(lifetime: Lifetime) -> Self {
        Self { lifetime, page: 0, slot: 0, key: Vec::new(), companion: Vec::new() }
    }
}

impl Table {
    /// What the layout says of its time to live.
    pub fn ttl_layout(&self) -> Option<&'static str> {
        self.sweep.as_ref().map(|sweep| sweep.lifetime.ttl.layout())
    }

    /// The run of a key's list or map.
    pub fn run(&mut self, address: Address) -> Option<Run> {
        self.read(address, Run::read).flatten()
    }

    /// Where the members of a key's run are: entries of this kind with the key and an index. A run that is longer than all there is to
    /// find is not walked through: its gaps, or damaged bytes, may have made it any length.
    pub fn indices(&mut self, group: KeyGroup, kind: u8, key: &[u8], run: Run) -> Indices {
        let span = run.end - run.first;
        if span <= WALKED_MAX || span <= 2 * self.live() as u64 {
            return Indices::Walked(run.first..run.end);
        }
        let mut found = Vec::new();
        self.for_each(|of, entry_kind, composite, _| {
            let index = composite.strip_prefix(key).and_then(|index| index.try_into().ok()).map(u64::from_le_bytes);
            if of == group && entry_kind == kind {
                found.extend(index.filter(|&index| run.contains(index)));
            }
        });
        found.sort_unstable();
        Indices::Found(found.into_iter())
    }

    /// Nothing of a run is before this index any more.
    pub fn shorten_run(&mut self, head: Address, first: u64) {
        if let Some(run) = self.run(head).filter(|run| run.first < first && first <= run.end) {
            self.set_run(head, Run { first, ..run });
        }
    }

    /// Looks at the next few entries, wherever they lie, and removes those that have expired.
    #[inline]
    pub fn sweep(&mut self) {
        let Some(sweep) = &self.sweep else { return };
        let mut entries_left = sweep.lifetime.swept_per_access();
        let (mut page, mut slot) = (sweep.page, sweep.slot);
        for _ in 0..SLOTS_PER_ACCESS_MAX {
            if entries_left == 0 {
                break;
            }
            let Some(bytes) = self.pages.get(page).map(|page| page.bytes()) else {
                (page, slot) = (0, 0);
                break;
            };
            // What is not in memory is swept when it is.
            if bytes.is_empty() || slot >= self.layout.slots(bytes) {
                (page, slot) = (page + 1, 0);
                continue;
            }
            let at = SlotAt::of(slot);
            slot += 1;
            if bytes[self.layout.grid(bytes).tag_offset(at)] > DELETED {
                entries_left -= 1;
                self.remove_if_expired(EntryAt { page, at });
            }
        }
        if let Some(sweep) = &mut self.sweep {
            (sweep.page, sweep.slot) = (page, slot);
        }
    }

    /// Removes what has expired of a page that has no room left; answers whether there was anything.
    pub fn sweep_page(&mut self, page: usize) -> bool {
        if self.sweep.is_none() {
            return false;
        }
        let mut any = false;
        for slot in 0..self.layout.slots(self.pages[page].bytes()) {
            let at = SlotAt::of(slot);
            let bytes = self.pages[page].bytes();
            if bytes[self.layout.grid(bytes).tag_offset(at)] > DELETED {
                any |= self.remove_if_expired(EntryAt { page, at });
            }
        }
        any
    }

    /// Removes an entry that has expired. Its page stays in memory while what belongs to the entry comes in.
    fn remove_if_expired(&mut self, entry: EntryAt) -> bool {
        self.residency.pinned = Some(entry.page);
        let removed = self.remove_pinned_if_expired(entry);
        self.residency.pinned = None;
        removed
    }

    fn remove_pinned_if_expired(&mut self, entry: EntryAt) -> bool {
        let bytes = self.pages[entry.page].bytes();
        let (kind, key) = self.layout.key(bytes, entry.at);
        // Heads, map keys and chunks go with what they belong to.
        if !matches!(kind, VALUE | LIST_ELEMENT | MAP_ENTRY) {
            return false;
        }
        let Some(mut sweep) = self.sweep.take() else { return false };
        let group = KeyGroup(self.pages[entry.page].group);
        sweep.key.clear();
        sweep.key.extend_from_slice(&self.pages[entry.page].bytes()[key]);
        // The hash only matters for chunks, which have their own.
        let address = Address { group, hash: 0, kind, key: &sweep.key };
        let stamp = self.start(address, entry).and_then(stamp_of);
        let has_expired = stamp.is_some_and(|stamp| sweep.lifetime.has_expired(stamp));
        if has_expired {
            match kind {
                LIST_ELEMENT => self.remove_element(group, &sweep.key),
                MAP_ENTRY => self.remove_map_entry(group, &sweep.key, &mut sweep.companion),
                _ => drop(self.delete(Address::of(group, kind, &sweep.key))),
            }
        }
        self.sweep = Some(sweep);
        has_expired
    }

    /// Removes an element, key ++ index, of a list whose elements expire.
    pub fn remove_element(&mut self, group: KeyGroup, composite: &[u8]) {
        self.delete(Address::of(group, LIST_ELEMENT, composite));
        if let Some((key, index)) = composite.split_last_chunk() {
            self.shrink_run(Address::of(group, LIST_LEN, key), u64::from_le_bytes(*index));
        }
    }

    /// Removes an entry, key length u16 ++ key ++ map key, of a map whose entries expire. `scratch` is for a composite key.
    pub fn remove_map_entry(&mut self, group: KeyGroup, composite: &[u8], scratch: &mut Vec<u8>) {
        let address = Address::of(group, MAP_ENTRY, composite);
        let index = self.find(self.layout, address).and_then(|entry| map_index(self.start(address, entry)?));
        self.delete(address);
        let (Some(index), Some(key)) = (index, key_of_map_entry(composite)) else { return };
        scratch.clear();
        scratch.extend_from_slice(key);
        scratch.extend_from_slice(&index.to_le_bytes());
        self.delete(Address::of(group, MAP_KEY, scratch));
        self.shrink_run(Address::of(group, MAP_LEN, key), index);
    }

    /// One member less in a run; without members it goes.
    fn shrink_run(&mut self, head: Address, index: u64) {
        // What lies outside its run was left behind by a write that was refused, and was never counted.
        let Some(mut run) = self.run(head).filter(|run| run.contains(index)) else { return };
        run.count = run.count.saturating_sub(1);
        run.first += u64::from(index == run.first);
        if run.count == 0 {
            self.delete(head);
        } else {
            self.set_run(head, run);
        }
    }

    /// Adds the member `index`, just written, to a run; refused memory for a new run, the member is the caller's to take back.
    pub fn grow_run(&mut self, head: Address, index: u64) -> Result<(), StateError> {
        // Read anew: making room for the member may have taken others out.
        match self.run(head) {
            Some(run) => self.set_run(head, Run { end: index + 1, count: run.count.saturating_add(1), ..run }),
            None => {
                let run = Run { first: index, end: index + 1, count: 1 };
                self.write(head, Run::LEN, |out| run.store(out))?;
            }
        }
        Ok(())
    }

    /// Overwrites the stamp of a value.
    pub fn restamp(&mut self, address: Address, stamp: i64) {
        if let Some(entry) = self.find(self.layout, address)
            && let Some(start) = self.start_mut(address, entry)
        {
            start[..STAMP_LEN].copy_from_slice(&stamp.to_le_bytes());
        }
    }

    /// Overwrites a run that is there.
    pub fn set_run(&mut self, head: Address, run: Run) {
        if self.write(head, Run::LEN, |out| run.store(out)).is_err() {
            unreachable!("a value of the same length is written in place")
        }
    }
}

/// The bytes of a map entry's index, behind its stamp.
pub(super) const MAP_INDEX: Range<usize> = STAMP_LEN..STAMP_LEN + 8;

/// The index of a map entry whose value begins with these bytes.
pub(super) fn map_index(value: &[u8]) -> Option<u64> {
    value.get(MAP_INDEX)?.try_into().ok().map(u64::from_le_bytes)
}

/// The key of a map entry's composite key.
pub(super) fn key_of_map_entry(composite: &[u8]) -> Option<&[u8]> {
    let (len, rest) = composite.split_first_chunk()?;
    rest.get(..usize::from(u16::from_le_bytes(*len)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::{Arena, ArenaOptions, MemoryBudget};
    use crate::state::{KeyGroupRange, StateBackend, StateClock, StateTtl, state_id};
    use std::time::Duration;

    #[test]
    fn a_run_that_claims_any_length_is_read_by_what_is_there_and_goes_on() {
        let arena = Arena::new(MemoryBudget::new(64 << 20), ArenaOptions::default());
        let mut backend = StateBackend::new(KeyGroupRange { start: 0, end: 1 }, 1, arena);
        let (ttl, clock) = (StateTtl::after(Duration::from_secs(1)), StateClock::default());
        let list = backend.expiring_list::<u64, u64>("op", "list", ttl, &clock).unwrap();
        let map = backend.expiring_map::<u64, u64, u64>("op", "map", ttl, &clock).unwrap();
        let keys = backend.key_context();
        let key = keys.hash(&7);
        for number in 0..3 {
            list.push(&key, number).unwrap();
            map.put(&key, &number, &number).unwrap();
        }
        for (name, kind) in [("list", LIST_LEN), ("map", MAP_LEN)] {
            let mut table = backend.table(state_id("op", name)).unwrap().borrow_mut();
            table.set_run(
                Address::of(key.group, kind, &7u64.to_le_bytes()),
                Run { first: 0, end: INDEX_MAX, count: 1 << 50 },
            );
        }
        assert_eq!((list.len(&key), map.len(&key)), (3, 3));
        list.push(&key, 3).unwrap();
        map.put(&key, &3, &3).unwrap();
        assert_eq!((list.len(&key), map.len(&key)), (4, 4));
        list.clear(&key);
        map.clear(&key);
        assert_eq!(backend.live_entries(), 0);
    }
}
