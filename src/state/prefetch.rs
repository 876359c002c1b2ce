//! Bringing the state of a whole batch of keys nearer before the first of them is used.
//!
//! Here: which states of an operator are found by the key alone, how a batch is cut into groups of keys, and asking the processor to fetch
//! where the entries of a group lie. Not here: applying updates (`value_state`).

use super::backend::SharedTable;
use super::directory::NO_PAGE;
use super::layout::Layout;
use super::page::{CONTROL_LEN, LANES, SlotAt, Tags, first_lane, home_group, tag_of};
use super::page_hash::page_hash;
use super::slotted_page;
use super::table::Table;
use super::{Hashed, KeyGroup, StateBackend};
use crate::record::Key;

/// How many keys are fetched for together: their cache misses overlap, and the lines fetched for the first are still there at the last.
pub(crate) const LOOK_AHEAD: usize = 16;
/// A state with fewer pages is in the cache anyway, and looking at each key twice then costs a quarter of the rate: 256 pages are 1 MiB as
/// the first pages of their key groups, 4 MiB as others.
const PAGES_MIN: usize = 256;

/// Fills a group with the next items; the last group is shorter.
#[inline(always)]
pub(crate) fn next_group<'a, T: Copy>(
    items: &mut impl Iterator<Item = T>,
    group: &'a mut [Option<T>; LOOK_AHEAD],
) -> &'a [Option<T>] {
    let mut len = 0;
    while len < LOOK_AHEAD
        && let Some(item) = items.next()
    {
        group[len] = Some(item);
        len += 1;
    }
    &group[..len]
}

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
    /// Asks for the entries of these keys, the first `LOOK_AHEAD` of them.
    #[inline]
    pub fn fetch<'a, K: Key + ?Sized>(&self, keys: impl Iterator<Item = Hashed<'a, K>> + Clone) {
        for (table, kind) in &self.tables {
            // The hash of a key is that of its entry of kind 0.
            let hash = |key: Hashed<K>| if *kind == 0 { key.hash } else { page_hash(*kind, key.key.bytes()) };
            let table = table.borrow();
            table.fetch(table.layout, keys.clone().map(|key| (key.group, hash(key))));
        }
    }
}

/// Where an entry is to be looked for, found before it is used.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    pub(super) hash: u64,
    pub(super) home: Home,
}

/// Where probing for an entry begins. Pages may have moved since: whoever goes there looks at the key.
#[derive(Clone, Copy)]
pub(super) struct Home {
    pub page: u32,
    /// Where the home group begins in the page.
    pub control: u32,
}

impl Home {
    /// That of a key whose page is not in memory or does not exist.
    pub const NOWHERE: Self = Self { page: NO_PAGE, control: 0 };
}

// Out of line: as a value it would be put together for every key that has a home.
#[cold]
#[inline(never)]
fn nowhere() -> Home {
    Home::NOWHERE
}

impl Table {
    /// Whether to look at each key twice.
    pub fn is_worth_fetching(&self) -> bool {
        self.pages.len() >= PAGES_MIN
    }

    /// Asks for the entries with these hashes, the first `LOOK_AHEAD` of them. Their home groups first, all of them, then what lies there.
    /// `layout` is the table's own, passed so that a constant specialises the code.
    #[inline]
    pub fn fetch(&self, layout: Layout, entries: impl Iterator<Item = (KeyGroup, u64)>) {
        if !self.is_worth_fetching() {
            return;
        }
        let mut homes = [(Home::NOWHERE, 0); LOOK_AHEAD];
        let mut len = 0;
        for (home, (group, hash)) in homes.iter_mut().zip(entries) {
            *home = (self.fetch_home(layout, group, hash), hash);
            len += 1;
        }
        homes[..len].iter().for_each(|&(home, hash)| self.fetch_cell(layout, home, hash));
    }

    /// The home of an entry, which is asked for.
    #[inline(always)]
    pub fn fetch_home(&self, layout: Layout, group: KeyGroup, hash: u64) -> Home {
        let index = self.directories.page(self.directory_of(group), hash);
        let Some(page) = self.pages.get(index as usize) else { return nowhere() };
        let grid = layout.grid(page.bytes());
        let control = grid.control_offset(home_group(hash, grid.groups));
        page.prefetch(control);
        Home { page: index, control: control as u32 }
    }

    /// The home of an entry that is going to be updated. Updates of slotted pages do not begin there: it is only asked for.
    #[inline(always)]
    pub fn home(&self, layout: Layout, group: KeyGroup, hash: u64) -> Home {
        match layout {
            Layout::Slotted if !self.is_worth_fetching() => Home::NOWHERE,
            layout => self.fetch_home(layout, group, hash),
        }
    }

    /// Asks for the cell of the first slot in the home group that has the tag.
    #[inline(always)]
    pub fn fetch_cell(&self, layout: Layout, home: Home, hash: u64) {
        let Some(page) = self.pages.get(home.page as usize) else { return };
        let (bytes, control) = (page.bytes(), home.control as usize);
        let lane = first_lane(Tags::of(&bytes[control..control + CONTROL_LEN]).matches(tag_of(hash)));
        if lane == LANES {
            return;
        }
        match layout {
            Layout::Fixed(shape) => {
                let cell = shape.cell_in_group(lane);
                page.prefetch(control + cell.start);
                page.prefetch(control + cell.end - 1);
            }
            Layout::Slotted => {
                // Its length is not known yet: most cells end within the line behind that of their start.
                let start =
                    slotted_page::cell_offset(bytes, SlotAt { group: slotted_page::GRID.group_at(control), lane });
                page.prefetch(start);
                page.prefetch(start + 64);
            }
        }
    }
}
