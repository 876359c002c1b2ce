//! Bringing the state of a whole batch of keys nearer before the first of them is used.
//!
//! Here: which states of an operator are found by the key alone, and asking the processor to fetch where their entries lie. Not here:
//! applying updates (`value_state` has a batch of its own, which saves the second look-up as well).

use super::backend::SharedTable;
use super::layout::Layout;
use super::page::{CONTROL_LEN, LANES, SlotAt, Tags, first_lane, home_group, tag_of};
use super::page_hash::page_hash;
use super::slotted_page;
use super::table::Table;
use super::{Hashed, KeyGroup, StateBackend};
use crate::record::Key;

/// How many keys are fetched for together: as many as a keyed stage is handed at once.
const KEYS_MAX: usize = 16;
/// A state with fewer pages is in the cache anyway, and looking at each key twice then costs a quarter of the rate: 256 pages are 1 MiB as
/// the first pages of their key groups, 4 MiB as others.
const PAGES_MIN: usize = 256;

/// The states of one operator that are found by the key alone.
pub struct Prefetch {
    tables: Vec<(SharedTable, u8)>,
}

impl StateBackend {
    /// For the states that `operator` has registered so far.
    pub fn prefetch(&self, operator: &str) -> Prefetch {
        let tables = self.tables.iter().filter_map(|table| {
            let identity = &table.borrow().identity;
            let kind = identity.home_kind.filter(|_| identity.operator == operator)?;
            Some((table.clone(), kind))
        });
        Prefetch { tables: tables.collect() }
    }
}

impl Prefetch {
    /// Asks for the entries of these keys, the first sixteen of them.
    #[inline]
    pub fn fetch<'a, K: Key + ?Sized>(&self, keys: impl Iterator<Item = Hashed<'a, K>> + Clone) {
        for (table, kind) in &self.tables {
            // The hash of a key is that of its entry of kind 0.
            let hash = |key: Hashed<K>| if *kind == 0 { key.hash } else { page_hash(*kind, key.key.bytes()) };
            table.borrow().fetch(keys.clone().map(|key| (key.group, hash(key))));
        }
    }
}

impl Table {
    /// Asks for the entries with these hashes, the first sixteen of them. Their home groups first, all of them, then what lies there.
    #[inline]
    pub fn fetch(&self, entries: impl Iterator<Item = (KeyGroup, u64)>) {
        if self.pages.len() < PAGES_MIN {
            return;
        }
        let mut homes = [(KeyGroup(0), 0); KEYS_MAX];
        let mut len = 0;
        for (home, (group, hash)) in homes.iter_mut().zip(entries) {
            self.home(self.layout, group, hash);
            *home = (group, hash);
            len += 1;
        }
        homes[..len].iter().for_each(|&(group, hash)| self.fetch_cell(group, hash));
    }

    /// Asks for the cell of the first slot in the home group that has the hash's tag.
    fn fetch_cell(&self, group: KeyGroup, hash: u64) {
        let Some(page) = self.page_in_memory(group, hash) else { return };
        let bytes = page.bytes();
        let grid = self.layout.grid(bytes);
        let group = home_group(hash, grid.groups);
        let control = grid.control_offset(group);
        let lane = first_lane(Tags::of(&bytes[control..control + CONTROL_LEN]).matches(tag_of(hash)));
        if lane == LANES {
            return;
        }
        let at = SlotAt { group, lane };
        let cell = match self.layout {
            Layout::Fixed(shape) => shape.cell(at),
            Layout::Slotted => {
                // Its length is not known yet: most cells end within the line behind that of their start.
                let start = slotted_page::cell_offset(bytes, at);
                start..(start + 64).min(bytes.len())
            }
        };
        page.prefetch(cell.start);
        page.prefetch(cell.end - 1);
    }
}
