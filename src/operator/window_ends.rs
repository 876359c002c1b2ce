//! Which windows end next, and for which keys.
//!
//! A window end is remembered per key group, not per key: one timer in the state, for the first key that is in such a window. Which other keys
//! are is known from the slices they have. While they are few, those with a slice that is new in the window are listed as well, in memory
//! only: where many windows are open at once it is cheaper to look up a few keys than to look at all slices of the key group. A list that
//! becomes long is given up. After a restore there are no lists, nor where they take their share of the memory already: one look at all
//! slices of a key group (`Relisting`) then lists the keys of as many of its windows as there is memory for.
//!
//! Here: what is due, in the order of time, then of key groups. Not here: what goes on from window to window (`running_window`), firing
//! (`window_aggregate`).

use super::key_list::{Behind, KeyList, KeySlice};
use super::spare_memory::SpareMemory;
use crate::memory::MemoryBudget;
use crate::record::Key;
use crate::state::{Hashed, KeyGroup, KeyGroupRange, Spot, StateError, Timers};
use crate::time::{EventTimeMs, Watermark};
use crate::window::Slice;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

const WHO: &str = "lists of window keys";
/// The longest list of keys with one slice each; those of windows with more slices may be as many times as long.
const LIST_BYTES_MAX: usize = 16 << 10;
/// All lists together take at most this share of the budget.
const BUDGET_SHARE: usize = 32;
/// How many emptied lists are kept for later, each of so many bytes at most.
const SPARE_MAX: usize = 512;
const SPARE_BYTES_MAX: usize = 1 << 10;

/// The ends of the windows that hold something.
pub(super) struct WindowEnds<K: ?Sized> {
    timers: Timers<K>,
    key_groups: KeyGroupRange,
    /// Those of each key group.
    groups: Vec<GroupEnds>,
    /// Those of all, in the order in which they fire.
    order: BTreeSet<(EventTimeMs, KeyGroup)>,
    memory: ListMemory,
    /// Lists that are empty again.
    spare: Vec<KeyList>,
}

/// The window ends of one key group.
#[derive(Default)]
struct GroupEnds {
    pending: BTreeMap<EventTimeMs, Pending>,
    /// Up to which end all slices were looked at: windows without a list had no keys there then.
    known_through: Option<EventTimeMs>,
}

/// The memory of the lists.
struct ListMemory {
    lists: SpareMemory,
    /// The longest of them.
    list_bytes_max: usize,
}

/// A window end in one key group.
#[derive(Default)]
struct Pending {
    /// The keys of its timers: one, or all keys in checkpoints of former versions.
    carriers: KeyList,
    keys: Listed,
}

/// The keys with slices that are new in a window.
#[derive(Debug, Default)]
pub(super) enum Listed {
    /// Never looked for, unless `known_through` says that there were none.
    #[default]
    Unknown,
    /// All of them, some more than once.
    Keys(KeyList),
    /// To be found by their slices when the window fires.
    GivenUp,
}

/// Lists of the keys in windows that end later, from a look at all slices of a key group.
pub(super) struct Relisting {
    group: KeyGroup,
    /// Windows that end behind this are left for another look.
    through: EventTimeMs,
    found: BTreeMap<EventTimeMs, Listed>,
}

impl<K: Key + ?Sized> WindowEnds<K> {
    /// None yet, for keys of these groups in windows of so many slices; lists count against `budget`.
    pub fn new(timers: Timers<K>, key_groups: KeyGroupRange, slices_per_window: usize, budget: MemoryBudget) -> Self {
        let list_bytes_max = LIST_BYTES_MAX * Behind::listed_of(slices_per_window);
        Self {
            timers,
            key_groups,
            groups: key_groups.iter().map(|_| GroupEnds::default()).collect(),
            order: BTreeSet::new(),
            memory: ListMemory { lists: SpareMemory::new(WHO, budget, BUDGET_SHARE), list_bytes_max },
            spare: Vec::new(),
        }
    }

    /// A window of `key` ends with `at`, its last millisecond, and holds this slice. `is_first`: this is said once for each of its slices, so
    /// that the list stays complete; otherwise it may be said for every record, and keys are found by their slices.
    pub fn add(&mut self, key: &Hashed<K>, at: EventTimeMs, slice: KeySlice, is_first: bool) -> Result<(), StateError> {
        let (keys, memory) = self.keys_of(key, at, is_first)?;
        match keys {
            Listed::Keys(_) if is_first => keys.push(key.key.bytes(), slice, memory),
            Listed::Keys(_) => keys.give_up(memory),
            Listed::Unknown | Listed::GivenUp => {}
        }
        Ok(())
    }

    /// A window of `key` ends with `at`, with nothing but what it held before.
    pub fn go_on(&mut self, key: &Hashed<K>, at: EventTimeMs) -> Result<(), StateError> {
        self.keys_of(key, at, true).map(drop)
    }

    /// The keys of a window, and the memory of all lists. If it is not there yet it begins with `key`.
    fn keys_of(
        &mut self,
        key: &Hashed<K>,
        at: EventTimeMs,
        is_first: bool,
    ) -> Result<(&mut Listed, &mut ListMemory), StateError> {
        let nth = self.nth(key.group);
        let Self { timers, groups, order, memory, spare, .. } = self;
        let GroupEnds { pending, known_through } = &mut groups[nth];
        let is_known = known_through.is_some_and(|through| at <= through);
        let keys = match pending.entry(at) {
            Entry::Occupied(pending) => {
                let keys = &mut pending.into_mut().keys;
                if is_known && matches!(keys, Listed::Unknown) {
                    *keys = Listed::Keys(spare.pop().unwrap_or_default());
                }
                keys
            }
            Entry::Vacant(pending) => {
                timers.set(key, at)?;
                order.insert((at, key.group));
                let mut carriers = spare.pop().unwrap_or_default();
                carriers.push(key.key.bytes(), KeySlice::ANY);
                let mut keys = if is_first { Listed::Unknown } else { Listed::GivenUp };
                if is_first && memory.has_room() {
                    keys = Listed::Keys(spare.pop().unwrap_or_default());
                } else if is_first && is_known {
                    *known_through = Some(EventTimeMs(at.0 - 1));
                }
                &mut pending.insert(Pending { carriers, keys }).keys
            }
        };
        Ok((keys, memory))
    }

    /// The key groups.
    pub fn key_groups(&self) -> KeyGroupRange {
        self.key_groups
    }

    /// Which of the key groups this is.
    fn nth(&self, group: KeyGroup) -> usize {
        usize::from(group.0 - self.key_groups.start)
    }

    fn pending_mut(&mut self, at: EventTimeMs, group: KeyGroup) -> Option<&mut Pending> {
        let nth = self.nth(group);
        self.groups[nth].pending.get_mut(&at)
    }

    /// The next window end that the watermark has reached, and its key group.
    pub fn next_due(&self, watermark: Watermark) -> Option<(EventTimeMs, KeyGroup)> {
        let &(at, group) = self.order.first()?;
        (at <= watermark).then_some((at, group))
    }

    /// Takes the list of the keys in a window out, if there is one.
    pub fn take_list(&mut self, at: EventTimeMs, group: KeyGroup) -> Listed {
        let is_known = self.groups[self.nth(group)].known_through.is_some_and(|through| at <= through);
        let Some(pending) = self.pending_mut(at, group) else { return Listed::GivenUp };
        match std::mem::replace(&mut pending.keys, Listed::GivenUp) {
            Listed::Unknown if is_known => Listed::Keys(KeyList::default()),
            listed => {
                self.memory.lists.used_bytes -= listed.len_bytes();
                listed
            }
        }
    }

    /// Begins lists for the windows of a key group that have none.
    pub fn relist(&self, group: KeyGroup) -> Relisting {
        Relisting { group, through: EventTimeMs::MAX, found: BTreeMap::new() }
    }

    /// A key has this slice, which lies behind the window that fires: lists it for the first of its windows that has an end.
    pub fn list_later(&mut self, relisting: &mut Relisting, slice: &Slice, key: &[u8], spot: Spot) {
        let pending = &self.groups[self.nth(relisting.group)].pending;
        let is_pending = |nth: &i64| pending.contains_key(&EventTimeMs(slice.end_of(*nth) - 1));
        if let Some(nth) = (0..slice.windows).find(is_pending) {
            self.list_in(relisting, slice, nth, key, spot);
        }
    }

    /// A key has an accumulator of this slice that counts from the slice's `nth` window on, which ends behind the one that fires.
    pub fn list_in(&mut self, relisting: &mut Relisting, slice: &Slice, nth: i64, key: &[u8], spot: Spot) {
        let at = EventTimeMs(slice.end_of(nth) - 1);
        if at > relisting.through {
            return self.leave(at, relisting.group);
        }
        let slice = KeySlice { behind: Behind::new(slice.slices_behind(nth)), spot };
        let listed = relisting.found.entry(at).or_insert_with(|| Listed::Keys(KeyList::default()));
        listed.push(key, slice, &mut self.memory);
        while !self.memory.has_room() {
            // The windows that fire last wait for another look.
            let Some((last, listed)) = relisting.found.pop_last() else { return };
            self.memory.lists.used_bytes -= listed.len_bytes();
            relisting.through = EventTimeMs(last.0 - 1);
            self.leave(last, relisting.group);
        }
    }

    /// What was found for a window is left for another look. One that began after the restore, or once there was
    /// memory for it, has a list already and would get none.
    fn leave(&mut self, at: EventTimeMs, group: KeyGroup) {
        let nth = self.nth(group);
        if let Some(Pending { keys: keys @ Listed::Keys(_), .. }) = self.groups[nth].pending.get_mut(&at) {
            keys.give_up(&mut self.memory);
        }
    }

    /// All slices of the key group were looked at.
    pub fn relisted(&mut self, relisting: Relisting) {
        let nth = self.nth(relisting.group);
        let GroupEnds { pending, known_through } = &mut self.groups[nth];
        for (at, listed) in relisting.found {
            // The end of an accumulator's first window has a timer until it has fired.
            let Some(pending) = pending.get_mut(&at) else {
                self.memory.lists.used_bytes -= listed.len_bytes();
                continue;
            };
            match (&mut pending.keys, listed) {
                (keys @ Listed::Unknown, listed) => *keys = listed,
                // It began after the restore, or memory came back: its keys are those that came since. What was found may belong to a later window that it stands before.
                (keys @ Listed::Keys(_), Listed::Keys(found)) => {
                    self.memory.lists.used_bytes -= found.len_bytes();
                    keys.append(&found, &mut self.memory);
                }
                (keys, listed) => {
                    self.memory.lists.used_bytes -= keys.len_bytes() + listed.len_bytes();
                    *keys = Listed::GivenUp;
                }
            }
        }
        *known_through = Some(relisting.through);
    }

    /// The windows that end with `at` have fired for all keys of the group.
    pub fn remove(&mut self, at: EventTimeMs, group: KeyGroup) {
        self.order.remove(&(at, group));
        let nth = self.nth(group);
        let Some(Pending { mut carriers, .. }) = self.groups[nth].pending.remove(&at) else { return };
        carriers.sort();
        for key in (0..).map_while(|nth| carriers.nth::<K>(nth)) {
            self.timers.delete(&Hashed::in_group(key, group), at);
        }
        self.keep(carriers);
    }

    /// Keeps the memory of a list that is not needed any more for the next one.
    pub fn keep(&mut self, mut list: KeyList) {
        if self.spare.len() < SPARE_MAX && list.len_bytes() <= SPARE_BYTES_MAX {
            list.clear();
            self.spare.push(list);
        }
    }

    /// Takes over what a restore brought back.
    pub fn rebuild(&mut self) {
        self.timers.rebuild();
        self.memory.lists.used_bytes = 0;
        self.order.clear();
        self.groups.fill_with(GroupEnds::default);
        for timer in self.timers.due(EventTimeMs::MAX) {
            self.order.insert((timer.at, timer.group()));
            let nth = self.nth(timer.group());
            let pending = self.groups[nth].pending.entry(timer.at).or_default();
            pending.carriers.push(timer.key_bytes(), KeySlice::ANY);
        }
    }

    /// Whether no window of a key group has an end.
    pub fn is_empty(&self, group: KeyGroup) -> bool {
        self.groups[self.nth(group)].pending.is_empty()
    }
}

impl ListMemory {
    /// Whether a list of this length may become longer. There was memory for one of keys with one slice each when it began.
    #[inline]
    fn lets_grow(&mut self, list_bytes: usize) -> bool {
        list_bytes < LIST_BYTES_MAX || list_bytes < self.list_bytes_max && self.has_room()
    }

    /// Whether there is memory for one more list.
    fn has_room(&mut self) -> bool {
        self.lists.has_room_for(LIST_BYTES_MAX)
    }
}

impl Listed {
    /// Adds a key, unless the list has become too long.
    fn push(&mut self, key: &[u8], slice: KeySlice, memory: &mut ListMemory) {
        let Self::Keys(keys) = self else { return };
        let before = keys.len_bytes();
        if !memory.lets_grow(before) {
            return self.give_up(memory);
        }
        keys.push(key, slice);
        memory.lists.used_bytes += keys.len_bytes() - before;
    }

    /// Adds other keys, unless the list would become too long.
    fn append(&mut self, others: &KeyList, memory: &mut ListMemory) {
        let Self::Keys(keys) = self else { return };
        if !memory.lets_grow(keys.len_bytes() + others.len_bytes()) {
            return self.give_up(memory);
        }
        keys.append(others);
        memory.lists.used_bytes += others.len_bytes();
    }

    fn give_up(&mut self, memory: &mut ListMemory) {
        memory.lists.used_bytes -= self.len_bytes();
        *self = Self::GivenUp;
    }

    fn len_bytes(&self) -> usize {
        match self {
            Self::Keys(keys) => keys.len_bytes(),
            Self::Unknown | Self::GivenUp => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::spare_memory::RESERVED_AT_ONCE_BYTES;
    use super::*;
    use crate::memory::{Arena, ArenaOptions};
    use crate::state::{KeyContext, StateBackend};
    use crate::window::{SlicedWindows, Sliding};

    /// Their lists take 16 B each.
    const WINDOWS: i64 = 20_000;

    /// The slice of a window of two that so many lie behind.
    fn one(behind: i64) -> KeySlice {
        KeySlice { behind: Behind::new(behind), spot: Spot::UNKNOWN }
    }

    /// One key group, its key context, and windows of 2 ms every 1 ms.
    fn ends(budget_bytes: usize) -> (WindowEnds<str>, KeyContext, SlicedWindows) {
        let budget = MemoryBudget::new(budget_bytes);
        let arena = Arena::new(MemoryBudget::new(64 << 20), ArenaOptions::default());
        let mut backend = StateBackend::new(KeyGroupRange { start: 0, end: 1 }, 1, arena);
        let ends = WindowEnds::new(backend.timers("windows", "ends").unwrap(), backend.key_groups(), 2, budget);
        (ends, backend.key_context(), Sliding::of(2).every(1))
    }

    /// Slices 0, 1, 2 and so on of one key, and the first window of each, as a restore brings them back.
    fn restored(ends: &mut WindowEnds<str>, keys: KeyContext, windows: SlicedWindows) {
        for start in 0..WINDOWS {
            let first = windows.slice_at(start).first_end.unwrap();
            ends.add(&keys.hash("a key"), EventTimeMs(first - 1), one(0), true).unwrap();
        }
        ends.rebuild();
    }

    /// Fires all windows; answers how often all slices were looked at.
    fn fire_all(ends: &mut WindowEnds<str>, windows: SlicedWindows) -> usize {
        let mut looks = 0;
        while let Some((at, group)) = ends.next_due(Watermark::MAX) {
            let keys = match ends.take_list(at, group) {
                Listed::Keys(keys) if keys.len_bytes() == 16 => keys,
                Listed::Keys(_) | Listed::GivenUp => panic!("the list of {at:?} is not that of its only key"),
                Listed::Unknown => {
                    looks += 1;
                    let mut later = ends.relist(group);
                    let behind = at.0 + 1..WINDOWS;
                    behind.for_each(|start| {
                        ends.list_later(&mut later, &windows.slice_at(start), b"a key", Spot::UNKNOWN)
                    });
                    ends.relisted(later);
                    KeyList::default()
                }
            };
            ends.remove(at, group);
            ends.keep(keys);
        }
        looks
    }

    #[test]
    fn after_a_restore_one_look_at_the_slices_of_a_key_group_lists_the_keys_of_all_its_windows() {
        let (mut ends, keys, windows) = ends(64 << 20);
        restored(&mut ends, keys, windows);
        assert_eq!(fire_all(&mut ends, windows), 1);
        assert_eq!(ends.memory.lists.used_bytes, 0);
    }

    #[test]
    fn where_lists_have_little_memory_a_look_lists_the_windows_that_fire_first() {
        let (mut ends, keys, windows) = ends(BUDGET_SHARE * RESERVED_AT_ONCE_BYTES);
        restored(&mut ends, keys, windows);
        let looks = fire_all(&mut ends, windows);
        assert!((3..20).contains(&looks), "{looks} looks at all slices for {WINDOWS} windows");
        assert_eq!(ends.memory.lists.used_bytes, 0);
    }

    #[test]
    fn a_window_that_began_between_the_restore_and_the_look_lists_what_the_look_found_too() {
        let (mut ends, keys, windows) = ends(64 << 20);
        // Windows of 2 ms end with 10, 11, 12. The records of slice 10 were late for the first of its windows, the one that ends with 11.
        let key = keys.hash("a key");
        ends.add(&key, EventTimeMs(10 - 1), one(0), true).unwrap();
        ends.add(&key, EventTimeMs(12 - 1), one(1), true).unwrap();
        ends.rebuild();
        ends.add(&key, EventTimeMs(11 - 1), one(1), true).unwrap();
        let (at, group) = ends.next_due(Watermark::MAX).unwrap();
        assert!(matches!(ends.take_list(at, group), Listed::Unknown));
        let mut later = ends.relist(group);
        ends.list_later(&mut later, &windows.slice_at(10), b"a key", Spot::UNKNOWN);
        ends.relisted(later);
        let Listed::Keys(mut listed) = ends.take_list(EventTimeMs(11 - 1), group) else { panic!("the keys are known") };
        listed.sort();
        assert_eq!(listed.nth::<str>(0), Some("a key"));
        assert!(listed.slices_of(0).eq([one(1), one(0)]));
        assert_eq!(ends.memory.lists.used_bytes, 0);
    }

    #[test]
    fn lists_of_windows_with_many_slices_hold_as_many_keys_while_there_is_memory() {
        for (budget_bytes, slices, is_kept) in [(64 << 20, 60, true), (2 << 20, 60, false), (64 << 20, 1, false)] {
            let (WindowEnds { timers, key_groups, .. }, keys, _) = ends(64 << 20);
            let mut ends = WindowEnds::<str>::new(timers, key_groups, slices, MemoryBudget::new(budget_bytes));
            for nth in 0..12_000 {
                let slice = KeySlice { behind: Behind::new(nth % 60), spot: Spot::UNKNOWN };
                let key = format!("{}", nth / 60);
                ends.add(&keys.hash(key.as_str()), EventTimeMs(9), slice, true).unwrap();
            }
            let group = keys.hash("0").group;
            assert_eq!(matches!(ends.take_list(EventTimeMs(9), group), Listed::Keys(_)), is_kept);
            assert_eq!(ends.memory.lists.used_bytes, 0);
        }
    }

    #[test]
    fn a_list_that_would_become_too_long_by_what_a_look_found_is_given_up() {
        let (mut ends, keys, windows) = ends(64 << 20);
        ends.add(&keys.hash("a key"), EventTimeMs(10 - 1), one(0), true).unwrap();
        ends.rebuild();
        let long = ["a", "b"].map(|key| key.repeat(2_000));
        let group = keys.hash(long[0].as_str()).group;
        (0..9).for_each(|_| ends.add(&keys.hash(long[0].as_str()), EventTimeMs(11 - 1), one(1), true).unwrap());
        let mut later = ends.relist(group);
        for _ in 0..9 {
            ends.list_later(&mut later, &windows.slice_at(10), long[1].as_bytes(), Spot::UNKNOWN);
        }
        ends.relisted(later);
        assert!(matches!(ends.take_list(EventTimeMs(11 - 1), group), Listed::GivenUp));
        assert_eq!(ends.memory.lists.used_bytes, 0);
    }

    #[test]
    fn a_window_that_began_between_the_restore_and_the_look_looks_itself_where_lists_have_little_memory() {
        let (mut ends, keys, windows) = ends(BUDGET_SHARE * RESERVED_AT_ONCE_BYTES);
        let key = keys.hash("a key");
        let late = WINDOWS - 10;
        for start in (0..WINDOWS).filter(|start| *start != late) {
            let first = windows.slice_at(start).first_end.unwrap();
            ends.add(&key, EventTimeMs(first - 1), one(0), true).unwrap();
        }
        ends.rebuild();
        ends.add(&key, EventTimeMs(late), one(1), true).unwrap();
        let (at, group) = ends.next_due(Watermark::MAX).unwrap();
        assert!(matches!(ends.take_list(at, group), Listed::Unknown));
        let mut later = ends.relist(group);
        // As pages give them: in any order, also from the last to the first.
        (at.0 + 1..WINDOWS)
            .rev()
            .for_each(|start| ends.list_later(&mut later, &windows.slice_at(start), b"a key", Spot::UNKNOWN));
        assert!(later.through < EventTimeMs(late));
        ends.relisted(later);
        assert!(matches!(ends.take_list(EventTimeMs(late), group), Listed::GivenUp));
    }

    #[test]
    fn a_window_that_had_no_keys_when_all_slices_were_looked_at_lists_those_that_come_later() {
        let (mut ends, keys, windows) = ends(64 << 20);
        restored(&mut ends, keys, windows);
        let (at, group) = ends.next_due(Watermark::MAX).unwrap();
        assert!(matches!(ends.take_list(at, group), Listed::Unknown));
        let nothing_found = ends.relist(group);
        ends.relisted(nothing_found);
        let next = EventTimeMs(at.0 + 1);
        ends.add(&keys.hash("another key"), next, one(1), true).unwrap();
        let Listed::Keys(mut listed) = ends.take_list(next, group) else { panic!("the keys are known") };
        listed.sort();
        assert_eq!((listed.nth::<str>(0), listed.nth::<str>(1)), (Some("another key"), None));
    }
}
