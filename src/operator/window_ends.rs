//! Which windows end next, and for which keys.
//!
//! A window end is remembered per key group, not per key: one timer in the state, for the first key that is in such a window. Which other keys
//! are is known from the slices they have. While they are few they are listed as well, in memory only: where many windows are open at once it
//! is cheaper to look up a few keys than to look at all slices of the key group. A list that becomes long is given up, as are all that
//! would begin when lists take their share of the memory already, and after a restore there are none.
//!
//! Here: what is due, in the order of time, then of key groups. Not here: firing (`window_aggregate`).

use super::key_list::KeyList;
use crate::memory::{MemoryBudget, Reservation};
use crate::record::Key;
use crate::state::{Hashed, KeyGroup, StateError, Timers};
use crate::time::{EventTimeMs, Watermark};
use std::collections::BTreeMap;

const WHO: &str = "lists of window keys";
/// The longest list.
const LIST_BYTES_MAX: usize = 16 << 10;
/// All lists together take at most this share of the budget, taken from it so many bytes at a time.
const BUDGET_SHARE: usize = 32;
const RESERVED_AT_ONCE_BYTES: usize = 64 << 10;
/// How many emptied lists are kept for later, each of so many bytes at most.
const SPARE_MAX: usize = 512;
const SPARE_BYTES_MAX: usize = 1 << 10;

/// The ends of the windows that hold something.
pub(super) struct WindowEnds<K: ?Sized> {
    timers: Timers<K>,
    pending: BTreeMap<(EventTimeMs, KeyGroup), Pending>,
    budget: MemoryBudget,
    /// What the lists take, and what was taken from the budget for them.
    listed_bytes: usize,
    reserved: Vec<Reservation>,
    /// Lists that are empty again.
    spare: Vec<KeyList>,
}

/// A window end in one key group.
#[derive(Default)]
struct Pending {
    /// The keys of its timers: one, or all keys in checkpoints of former versions.
    carriers: KeyList,
    /// All keys, unless they must be found by their slices.
    listed: Option<KeyList>,
}

impl<K: Key + ?Sized> WindowEnds<K> {
    /// None yet; lists count against `budget`.
    pub fn new(timers: Timers<K>, budget: MemoryBudget) -> Self {
        Self { timers, pending: BTreeMap::new(), budget, listed_bytes: 0, reserved: Vec::new(), spare: Vec::new() }
    }

    /// A window of `key` ends with `at`, its last millisecond. `is_first`: this is said once for each of its slices, so that the list stays
    /// complete; otherwise it may be said for every record, and keys are found by their slices.
    pub fn add(&mut self, key: &Hashed<K>, at: EventTimeMs, is_first: bool) -> Result<(), StateError> {
        let Some(pending) = self.pending.get_mut(&(at, key.group)) else {
            self.timers.set(key, at)?;
            let mut pending = Pending { carriers: self.spare.pop().unwrap_or_default(), listed: None };
            pending.carriers.push(key.key.bytes());
            if is_first && self.may_list() {
                pending.listed = Some(self.spare.pop().unwrap_or_default());
                list(&mut pending, &mut self.listed_bytes, key);
            }
            self.pending.insert((at, key.group), pending);
            return Ok(());
        };
        match &pending.listed {
            None => {}
            Some(keys) if is_first && keys.len_bytes() < LIST_BYTES_MAX => list(pending, &mut self.listed_bytes, key),
            Some(keys) => {
                self.listed_bytes -= keys.len_bytes();
                pending.listed = None;
            }
        }
        Ok(())
    }

    /// Whether there is memory for one more list.
    fn may_list(&mut self) -> bool {
        let needed = self.listed_bytes + LIST_BYTES_MAX;
        let reserved: usize = self.reserved.iter().map(Reservation::bytes).sum();
        if needed <= reserved {
            return true;
        }
        if needed > self.budget.limit_bytes() / BUDGET_SHARE {
            return false;
        }
        let more = self.budget.reserve(WHO, RESERVED_AT_ONCE_BYTES);
        more.map(|more| self.reserved.push(more)).is_ok()
    }

    /// The next window end that the watermark has reached, and its key group.
    pub fn next_due(&self, watermark: Watermark) -> Option<(EventTimeMs, KeyGroup)> {
        let (&(at, group), _) = self.pending.first_key_value()?;
        (at <= watermark).then_some((at, group))
    }

    /// Takes the list of the keys in a window out, if there is one.
    pub fn take_list(&mut self, at: EventTimeMs, group: KeyGroup) -> Option<KeyList> {
        let listed = self.pending.get_mut(&(at, group))?.listed.take()?;
        self.listed_bytes -= listed.len_bytes();
        Some(listed)
    }

    /// The windows that end with `at` have fired for all keys of the group.
    pub fn remove(&mut self, at: EventTimeMs, group: KeyGroup) {
        let Some(Pending { mut carriers, .. }) = self.pending.remove(&(at, group)) else { return };
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
        (self.listed_bytes, self.pending) = (0, BTreeMap::new());
        for timer in self.timers.due(EventTimeMs::MAX) {
            self.pending.entry((timer.at, timer.group())).or_default().carriers.push(timer.key_bytes());
        }
    }
}

fn list<K: Key + ?Sized>(pending: &mut Pending, listed_bytes: &mut usize, key: &Hashed<K>) {
    if let Some(keys) = &mut pending.listed {
        let before = keys.len_bytes();
        keys.push(key.key.bytes());
        *listed_bytes += keys.len_bytes() - before;
    }
}
