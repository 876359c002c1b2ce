//! The table of one state: pages per key group, found by hash, split alone when full.
//!
//! Here: finding, inserting and removing entries; splitting. Not here: what a snapshot sees (`seal`), its bytes (`piece`), typed
//! access (`value_state` and its neighbours).
//!
//! Invariant: whoever changes a slot calls `touch` first, so that a snapshot in progress keeps the old content.

use super::directory::{Bucket, Directories};
use super::entries::VALUE;
use super::fixed_page::FixedShape;
use super::layout::{Layout, Shaped, is_same};
use super::migrate::Migration;
use super::page::{
    DELETED, EMPTY, GROUPS_START, IMAGE, LANES, LISTED, PAGE_LEN, PAGE_LEN_STEP, Page, PageBytes, Probe, SlotAt, Tags,
    control_bits, first_empty, first_lane, has_empty, lane_bit, live_lanes, probe, tag_of,
};
use super::prefetch::Home;
use super::recent::Recent;
use super::residency::{Residency, give_up_task};
use super::runs::Runs;
use super::slotted_page::{self, CellHead};
use super::stage::StageLog;
use super::sweep::Sweep;
use super::{KeyGroup, KeyGroupRange, StateError};
use crate::memory::{Arena, Block};
use std::ops::Range;

pub(super) const WHO: &str = "keyed state";

/// All entries of one state in the key groups of one subtask.
pub(super) struct Table {
    pub(super) identity: Identity,
    pub(super) layout: Layout,
    pub(super) range: KeyGroupRange,
    pub(super) arena: Arena,
    pub(super) directories: Directories,
    pub(super) pages: Vec<Page>,
    /// Which of the two bits per slot belongs to the current epoch; the other is the sealed one's.
    pub(super) parity: usize,
    /// Pages changed in the epoch of each parity.
    pub(super) lists: [Vec<u32>; 2],
    /// How many pages of the sealed list are harvested.
    pub(super) harvested: usize,
    /// How many pages at the start of the sealed list are skipped over if they are not in memory: they were put at its end.
    pub(super) in_memory_first: usize,
    pub(super) stage: StageLog,
    /// The groups and lanes that changed in the page being harvested; kept for its memory.
    pub(super) changed: Vec<(u16, u8)>,
    /// Why the snapshot in progress was given up.
    pub(super) given_up: Option<StateError>,
    /// Which pages are in memory.
    pub(super) residency: Residency,
    /// Where keys were found last.
    pub(super) recent: Recent,
    /// How to find what has expired, if entries do.
    pub(super) sweep: Option<Sweep>,
    /// What it may be stored as by former versions of the program.
    pub(super) migrations: Vec<Migration>,
    /// What is to be merged into pages that are not in memory, if values may be.
    pub(super) runs: Option<Box<Runs>>,
}

/// What a table is called and what it holds.
pub(super) struct Identity {
    pub id: u64,
    pub operator: String,
    pub name: String,
    pub layout_text: String,
    /// Whether an entry from a checkpoint (kind, key, value) can be one of this state.
    pub check: fn(u8, &[u8], &[u8]) -> bool,
    /// The kind of entry that is found by the key alone, if there is one.
    pub home_kind: Option<u8>,
}

/// An entry's address: all that is needed to find it.
#[derive(Clone, Copy)]
pub(super) struct Address<'a> {
    pub group: KeyGroup,
    pub hash: u64,
    pub kind: u8,
    pub key: &'a [u8],
}

/// Where an entry lies until the next insert or removal.
#[derive(Clone, Copy)]
pub(super) struct EntryAt {
    pub page: usize,
    pub at: SlotAt,
}

/// Where an entry was. Whoever goes there looks at the key: entries move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Spot {
    page: u32,
    slot: u16,
}

impl Spot {
    /// Nowhere.
    pub const UNKNOWN: Self = Self { page: u32::MAX, slot: 0 };
    /// How many bits it takes.
    pub(crate) const BITS: u32 = 32 + Self::SLOT_BITS;
    /// A page has at most so many slots.
    const SLOT_BITS: u32 = 14;

    pub(super) fn of(entry: EntryAt) -> Self {
        Self { page: entry.page as u32, slot: entry.at.slot() as u16 }
    }

    pub(crate) fn to_bits(self) -> u64 {
        u64::from(self.page) << Self::SLOT_BITS | u64::from(self.slot)
    }

    pub(crate) fn from_bits(bits: u64) -> Self {
        Self { page: (bits >> Self::SLOT_BITS) as u32, slot: bits as u16 & ((1 << Self::SLOT_BITS) - 1) }
    }
}

/// What looking for an entry that is to be changed found.
enum Sought {
    /// It is marked as changed; `value` is where its value begins in the page.
    Changeable { page: usize, value: usize },
    /// It is not there; this is where it would go, if there is a page with any room.
    Absent(Option<EntryAt>),
}

impl Table {
    pub fn new(identity: Identity, layout: Layout, range: KeyGroupRange, arena: Arena) -> Self {
        Self {
            identity,
            layout,
            range,
            arena,
            directories: Directories::default(),
            pages: Vec::new(),
            parity: 0,
            lists: [Vec::new(), Vec::new()],
            harvested: 0,
            in_memory_first: 0,
            stage: StageLog::default(),
            changed: Vec::new(),
            given_up: None,
            residency: Residency::default(),
            recent: Recent::default(),
            sweep: None,
            migrations: Vec::new(),
            runs: None,
        }
    }

    /// The number of a key group among those of the range; too large a one when it lies before them.
    #[inline(always)]
    pub fn directory_of(&self, group: KeyGroup) -> usize {
        usize::from(group.0.wrapping_sub(self.range.start))
    }

    /// Finds an entry. `layout` is the table's own, passed so that a constant specialises the code.
    #[inline(always)]
    pub fn find(&mut self, layout: Layout, address: Address) -> Option<EntryAt> {
        let page = self.page_in(address.group, address.hash)?;
        match self.probe_page(layout, page, address) {
            Probe::Found(at) => Some(EntryAt { page, at }),
            Probe::Absent(_) => None,
        }
    }

    /// Finds a fixed entry where it was, unless it has moved; `is_key` says whether a key is its.
    #[inline(always)]
    pub fn find_there<L: Shaped>(
        &self,
        spot: Spot,
        group: KeyGroup,
        is_key: impl FnOnce(&[u8]) -> bool,
    ) -> Option<EntryAt> {
        let layout @ Layout::Fixed(shape) = (const { L::LAYOUT }) else { return None };
        let (index, at) = (spot.page as usize, SlotAt::of(usize::from(spot.slot)));
        let page = self.pages.get(index).filter(|page| !page.bytes().is_empty())?;
        let (bytes, grid) = (page.bytes(), layout.grid(page.bytes()));
        // What is in runs belongs to it as well.
        let is_whole = self.runs.is_none() || !self.directories.is_aside(self.directory_of(group));
        let is_there = page.group == group.0
            && at.group < grid.groups
            && bytes[grid.tag_offset(at)] > DELETED
            && is_key(&bytes[shape.key(at)]);
        (is_whole && is_there).then_some(EntryAt { page: index, at })
    }

    /// The same of one that has moved.
    #[inline(never)]
    pub fn find_again<L: Shaped>(&mut self, group: KeyGroup, key: &[u8]) -> Option<EntryAt> {
        self.find(const { L::LAYOUT }, Address::of(group, VALUE, key))
    }

    #[inline(always)]
    pub fn probe_page(&self, layout: Layout, page: usize, address: Address) -> Probe {
        let bytes = self.pages[page].bytes();
        probe(bytes, layout.grid(bytes), address.hash, |at| layout.is_key(bytes, at, address.kind, address.key))
    }

    /// Calls `change` once: with the value of a fixed entry, to be overwritten, or with nothing when there is no such entry; then says where it
    /// would go (`fill`). `L` and `shape` are of the table's own layout, `home` is that of the entry: wherever it leads, an entry is
    /// only taken for this one if it has its key.
    #[inline(always)]
    pub fn change<L: Shaped, R>(
        &mut self,
        shape: FixedShape,
        home: Home,
        address: Address,
        change: impl FnOnce(Option<&mut [u8]>) -> R,
    ) -> (R, Option<EntryAt>) {
        let Address { group, hash, kind, key } = address;
        let (index, control) = (home.page as usize, home.control as usize);
        let mut changeable = None;
        if let Some(page) = self.pages.get_mut(index)
            && let Some(entries) = page.bytes_mut().get_mut(control..control + shape.stride)
            && let lane = first_lane(Tags::of(entries).matches(tag_of(hash)))
            && lane < LANES
            && let cell = shape.cell_in_group(lane)
            && is_same(&entries[cell.start..cell.start + shape.key_len], key)
        {
            // Most keys are the first of their tag in their home group, and most changes not the first since the last barrier.
            if control_bits(entries) & lane_bit(lane, self.parity & 1) != 0 {
                return (change(Some(&mut entries[cell.start + shape.key_len..cell.end])), None);
            }
            self.touch_at(index, control, lane);
            changeable = Some(Sought::Changeable { page: index, value: control + cell.start + shape.key_len });
        }
        match changeable.unwrap_or_else(|| self.find_changeable::<L>(group, hash, kind, key)) {
            Sought::Changeable { page, value } => {
                (change(Some(&mut self.pages[page].bytes_mut()[value..value + shape.value_len])), None)
            }
            Sought::Absent(vacancy) => (change(None), vacancy),
        }
    }

    /// The value of a fixed entry, to be overwritten, if it lies here and has changed before in this epoch: then nothing else is to be done.
    #[inline(always)]
    pub fn changing_at<L: Shaped>(&mut self, spot: Spot, key: &[u8]) -> Option<&mut [u8]> {
        let Layout::Fixed(shape) = (const { L::LAYOUT }) else { return None };
        let (page, SlotAt { group, lane }) = (spot.page as usize, SlotAt::of(usize::from(spot.slot)));
        let entries = self
            .pages
            .get_mut(page)?
            .bytes_mut()
            .get_mut(GROUPS_START + group * shape.stride..)?
            .get_mut(..shape.stride)?;
        let cell = shape.cell_in_group(lane);
        let is_there = entries[lane] > DELETED
            && control_bits(entries) & lane_bit(lane, self.parity & 1) != 0
            && is_same(&entries[cell.start..cell.start + shape.key_len], key);
        is_there.then(|| &mut entries[cell.start + shape.key_len..cell.end])
    }

    /// Marks a fixed entry as changed; answers where it lies.
    #[inline(never)]
    pub fn touch_key<L: Shaped>(&mut self, group: KeyGroup, key: &[u8]) -> Option<Spot> {
        let layout = const { L::LAYOUT };
        let entry = self.find(layout, Address::of(group, VALUE, key))?;
        self.touch(layout, entry);
        Some(Spot::of(entry))
    }

    #[inline(never)]
    fn touch_at(&mut self, page: usize, control: usize, lane: usize) {
        let group = self.layout.grid(self.pages[page].bytes()).group_at(control);
        self.touch(self.layout, EntryAt { page, at: SlotAt { group, lane } });
    }

    /// Marks an entry as changed; answers its page, and where its value begins there. Takes the parts of an address, because a whole one would be
    /// put together in memory before every change that does not come here.
    #[inline(never)]
    fn find_changeable<L: Shaped>(&mut self, group: KeyGroup, hash: u64, kind: u8, key: &[u8]) -> Sought {
        let layout = const { L::LAYOUT };
        let Some(page) = self.page_in(group, hash) else { return Sought::Absent(None) };
        match self.probe_page(layout, page, Address { group, hash, kind, key }) {
            Probe::Found(at) => {
                self.touch(layout, EntryAt { page, at });
                Sought::Changeable { page, value: layout.value(self.pages[page].bytes(), at).start }
            }
            Probe::Absent(vacancy) => Sought::Absent(vacancy.map(|at| EntryAt { page, at })),
        }
    }

    /// Gives a new fixed entry, whose value is to be filled in, its slot: where `change` said that it would go and nothing has happened since.
    /// `false`: the page needs room first.
    #[inline(always)]
    pub fn fill<L: Shaped>(&mut self, vacancy: EntryAt, hash: u64, key: &[u8]) -> bool {
        let layout @ Layout::Fixed(shape) = (const { L::LAYOUT }) else { return false };
        let EntryAt { page, at } = vacancy;
        if !self.fits_in(layout, page, at, shape.cell_len()) {
            return false;
        }
        self.occupy(layout, vacancy, hash);
        self.pages[page].bytes_mut()[shape.key(at)].copy_from_slice(key);
        true
    }

    /// Marks a slot without a key as that of a key with this hash.
    #[inline(always)]
    fn occupy(&mut self, layout: Layout, entry: EntryAt, hash: u64) {
        self.touch(layout, entry);
        let page = &mut self.pages[entry.page];
        let grid = layout.grid(page.bytes());
        page.live += 1;
        page.used += u16::from(page.bytes()[grid.tag_offset(entry.at)] == EMPTY);
        page.set_tag(grid, entry.at, tag_of(hash));
    }

    /// The value of an entry.
    #[inline(always)]
    pub fn value(&self, layout: Layout, entry: EntryAt) -> &[u8] {
        let bytes = self.pages[entry.page].bytes();
        &bytes[layout.value(bytes, entry.at)]
    }

    /// The value of a fixed entry, to be overwritten.
    #[inline(always)]
    pub fn value_mut(&mut self, layout: Layout, entry: EntryAt) -> &mut [u8] {
        self.touch(layout, entry);
        let bytes = self.pages[entry.page].bytes_mut();
        let range = layout.value(bytes, entry.at);
        &mut bytes[range]
    }

    /// The bytes of the value of a new or changed entry, to be filled in; their content is arbitrary.
    /// An error leaves the table as it was.
    pub fn value_for(&mut self, address: Address, value_len: usize, chunked: bool) -> Result<&mut [u8], StateError> {
        let layout = self.layout;
        let head = CellHead { kind: address.kind, key_len: address.key.len(), value_len, chunked };
        if head.key_len > slotted_page::KEY_LEN_MAX {
            return Err(self.key_too_long(head.key_len));
        }
        loop {
            let page = self.page_for(address)?;
            let probe = self.probe_page(layout, page, address);
            match self.place(layout, page, probe, address, head) {
                Some(value) => return Ok(&mut self.pages[page].bytes_mut()[value]),
                None => self.make_room(page, head)?,
            }
        }
    }

    /// The page of an entry that is going to be written.
    #[inline(always)]
    pub fn page_for(&mut self, address: Address) -> Result<usize, StateError> {
        match self.try_page_in(address.group, address.hash)? {
            Some(page) => Ok(page),
            None => self.start_group(address.group),
        }
    }

    /// Gives an entry a cell of its own where a probe of its page ended: answers where in the page its value lies, of arbitrary content.
    /// `None`: the page needs room first.
    #[inline(always)]
    fn place(
        &mut self,
        layout: Layout,
        page: usize,
        probe: Probe,
        address: Address,
        head: CellHead,
    ) -> Option<Range<usize>> {
        let at = match probe {
            Probe::Found(at) if self.fits_instead(layout, page, at, head) => {
                self.touch(layout, EntryAt { page, at });
                if layout == Layout::Slotted {
                    slotted_page::release(&mut self.pages[page], at);
                }
                at
            }
            Probe::Absent(Some(at)) if self.fits_in(layout, page, at, head.cell_len()) => {
                self.occupy(layout, EntryAt { page, at }, address.hash);
                at
            }
            _ => return None,
        };
        let page = &mut self.pages[page];
        Some(match layout {
            Layout::Fixed(shape) => {
                page.bytes_mut()[shape.key(at)].copy_from_slice(address.key);
                shape.value(at)
            }
            Layout::Slotted => slotted_page::allocate(page, at, head, address.key),
        })
    }

    /// As `place`, in slotted pages; out of line because whoever writes does it.
    #[inline(never)]
    pub fn place_slotted(
        &mut self,
        page: usize,
        probe: Probe,
        address: Address,
        head: CellHead,
    ) -> Option<Range<usize>> {
        self.place(Layout::Slotted, page, probe, address, head)
    }

    /// Whether the entry of a slot may become one with this head.
    #[inline(always)]
    fn fits_instead(&self, layout: Layout, page: usize, at: SlotAt, head: CellHead) -> bool {
        let page = &self.pages[page];
        let now = layout.cell(page.bytes(), at).len();
        head.cell_len() <= now || layout.fits(page, head.cell_len() - now)
    }

    /// Whether a slot without a key may get a cell of this length.
    #[inline(always)]
    fn fits_in(&self, layout: Layout, page: usize, at: SlotAt, cell_len: usize) -> bool {
        let page = &self.pages[page];
        let bytes = page.bytes();
        let reuses = bytes[layout.grid(bytes).tag_offset(at)] == DELETED;
        (reuses || usize::from(page.used) < layout.used_max(bytes)) && layout.fits(page, cell_len)
    }

    /// Removes an entry. Never fails: it needs no memory that could be refused. `layout` is the table's own, passed so that a constant
    /// specialises the code.
    #[inline(always)]
    pub fn remove(&mut self, layout: Layout, entry: EntryAt) {
        self.touch(layout, entry);
        let page = &mut self.pages[entry.page];
        layout.release(page, entry.at);
        // Nobody probes past a group with an empty slot, so the slot may become empty too.
        let grid = layout.grid(page.bytes());
        let tag = if has_empty(page.bytes(), grid, entry.at.group) { EMPTY } else { DELETED };
        page.set_tag(grid, entry.at, tag);
        page.live -= 1;
        page.used -= u16::from(tag == EMPTY);
        if page.live == 0 && page.used > 0 {
            self.empty_deleted_slots(entry.page);
        }
    }

    /// In a page without keys nobody probes past a deleted slot. When a window has fired its page is as good as new: looking for the first
    /// keys of the next one would go through several groups each.
    fn empty_deleted_slots(&mut self, index: usize) {
        for at in (0..self.layout.slots(self.pages[index].bytes())).map(SlotAt::of) {
            let page = &self.pages[index];
            let grid = self.layout.grid(page.bytes());
            if page.bytes()[grid.tag_offset(at)] == DELETED {
                self.touch(self.layout, EntryAt { page: index, at });
                self.pages[index].set_tag(grid, at, EMPTY);
            }
        }
        self.pages[index].used = 0;
    }

    /// How many pages there are, in memory or not. Runs are merged into them first.
    pub fn page_count(&mut self) -> usize {
        self.load_groups(self.range).unwrap_or_else(|error| give_up_task(&error));
        self.merge_all_runs();
        self.pages.len()
    }

    /// The keys of a page's entries of one kind, with their key group.
    pub fn keys_of(&mut self, index: usize, of_kind: u8) -> Vec<(KeyGroup, Vec<u8>)> {
        self.bring_page(index).unwrap_or_else(|error| give_up_task(&error));
        let page = &self.pages[index];
        let keys = live_slots(page.bytes(), self.layout).map(|at| self.layout.key(page.bytes(), at));
        let keys = keys.filter(|(kind, _)| *kind == of_kind);
        keys.map(|(_, key)| (KeyGroup(page.group), page.bytes()[key].to_vec())).collect()
    }

    /// Calls `each` for every entry: key group, kind, key, value; in no particular order. Reads what is not in memory.
    pub fn for_each(&mut self, mut each: impl FnMut(KeyGroup, u8, &[u8], &[u8])) {
        for index in 0..self.page_count() {
            self.bring_page(index).unwrap_or_else(|error| give_up_task(&error));
            let page = &self.pages[index];
            for at in live_slots(page.bytes(), self.layout) {
                let bytes = page.bytes();
                let (kind, key) = self.layout.key(bytes, at);
                each(KeyGroup(page.group), kind, &bytes[key], &bytes[self.layout.value(bytes, at)]);
            }
        }
    }

    /// Marks a slot as changed in this epoch, after the sealed epoch got what it still needs of it.
    #[inline(always)]
    pub fn touch(&mut self, layout: Layout, entry: EntryAt) {
        let parity = self.parity & 1;
        let page = &mut self.pages[entry.page];
        let grid = layout.grid(page.bytes());
        let bits = page.bits(grid, entry.at);
        // Set in this epoch means that all of this was done in this epoch.
        if bits & Page::bit(entry.at, parity) != 0 {
            return;
        }
        let sealed = bits & Page::bit(entry.at, 1 - parity) != 0;
        if sealed || page.flags[parity] & LISTED == 0 || page.flags[1 - parity] & IMAGE != 0 {
            self.touch_first(entry);
        } else {
            page.mark(grid, entry.at, parity, bits);
        }
    }

    fn start_group(&mut self, group: KeyGroup) -> Result<usize, StateError> {
        if !self.range.contains(group) {
            return Err(self.foreign(group.0));
        }
        let page = Page::empty(self.take_block(self.layout.first_page_len(), usize::MAX)?, group.0, 0, 0, 0);
        if self.directories.is_empty() {
            self.directories = Directories::empty(self.range.len());
        }
        let index = self.push_page(page);
        self.directories.start(self.directory_of(group), index as u32);
        self.mark_image(index);
        Ok(index)
    }

    /// Takes out of a page what has expired; or else lays it out anew without its deleted slots, longer if they are few and it is short, or
    /// splits it when it is full.
    pub fn make_room(&mut self, index: usize, head: CellHead) -> Result<(), StateError> {
        if self.sweep_page(index) {
            return Ok(());
        }
        let page = &self.pages[index];
        let len = page.bytes().len();
        let mostly_deleted = usize::from(page.live) * 4 < self.layout.used_max(page.bytes()) * 3;
        if mostly_deleted && self.layout.fits(page, head.cell_len()) {
            return self.lay_out_anew(index, len);
        }
        if len < PAGE_LEN {
            // The first page of a key group grows fast: its entries move less often. Where memory is full of short pages a longer one may not be
            // had, but two more short ones.
            let longer = if page.depth == 0 { 2 * len } else { len + PAGE_LEN_STEP };
            if let Some(block) = self.spare_block_from(longer.min(PAGE_LEN), index) {
                return self.lay_out_in(index, block);
            }
        }
        self.split(index)
    }

    fn lay_out_anew(&mut self, index: usize, len: usize) -> Result<(), StateError> {
        let block = self.take_block(len, index)?;
        self.lay_out_in(index, block)
    }

    fn lay_out_in(&mut self, index: usize, block: Block) -> Result<(), StateError> {
        self.preserve(index);
        let old = &self.pages[index];
        let mut page = [Page::empty(block, old.group, old.number, old.prefix, old.depth)];
        copy_entries(self.layout, old.bytes(), &mut page, |_| 0);
        let [page] = page;
        self.replace(index, page);
        Ok(())
    }

    fn split(&mut self, index: usize) -> Result<(), StateError> {
        let old = &self.pages[index];
        let (group, depth) = (old.group, old.depth + 1);
        let directory = self.directory_of(KeyGroup(group));
        let page_count = self.directories.len(directory);
        if depth >= 64 || !Directories::depth_is_sane(depth, page_count) {
            return Err(StateError::KeysCollide {
                operator: self.identity.operator.clone(),
                state: self.identity.name.clone(),
                key_group: group,
                pages: page_count,
            });
        }
        let bit = 1 << (64 - u32::from(depth));
        let is_high = |at: &SlotAt| self.layout.hash(old.bytes(), *at) & bit != 0;
        let high_count = live_slots(old.bytes(), self.layout).filter(is_high).count();
        let low_len = self.layout.page_len_for(usize::from(old.live) - high_count);
        let high_len = self.layout.page_len_for(high_count);
        let (low_block, high_block) = (self.take_block_from(low_len, index)?, self.take_block_from(high_len, index)?);
        self.preserve(index);
        let old = &self.pages[index];
        let low = Page::empty(low_block, group, old.number, old.prefix, depth);
        let high = Page::empty(high_block, group, page_count as u32, old.prefix | bit, depth);
        let mut halves = [low, high];
        copy_entries(self.layout, old.bytes(), &mut halves, |hash| usize::from(hash & bit != 0));
        let [low, high] = halves;
        self.replace(index, low);
        let prefix = high.prefix;
        let high_index = self.push_page(high);
        self.directories.add(directory, Bucket { prefix, depth, index: high_index as u32 });
        self.mark_image(high_index);
        Ok(())
    }

    /// Puts a page laid out anew in the place of the old one, whose part in the sealed epoch it takes over.
    fn replace(&mut self, index: usize, mut page: Page) {
        let old = &self.pages[index];
        (page.flags, page.staged) = (old.flags, old.staged);
        self.pages[index] = page;
        self.mark_image(index);
    }

    pub(super) fn foreign(&self, key_group: u16) -> StateError {
        StateError::ForeignKeyGroup {
            operator: self.identity.operator.clone(),
            state: self.identity.name.clone(),
            key_group,
            start: self.range.start,
            end: self.range.end,
        }
    }

    pub(super) fn key_too_long(&self, len_bytes: usize) -> StateError {
        StateError::KeyTooLong {
            operator: self.identity.operator.clone(),
            state: self.identity.name.clone(),
            len_bytes,
            len_bytes_max: super::entries::KEY_LEN_MAX,
        }
    }

    /// How many entries there are.
    pub fn live(&self) -> usize {
        self.pages.iter().map(|page| usize::from(page.live)).sum()
    }
}

/// The live slots of a page.
pub(super) fn live_slots(bytes: &PageBytes, layout: Layout) -> impl Iterator<Item = SlotAt> + '_ {
    let grid = layout.grid(bytes);
    let (mut group, mut live) = (0, 0);
    std::iter::from_fn(move || {
        while live == 0 {
            if group == grid.groups {
                return None;
            }
            live = live_lanes(bytes, grid, group);
            group += 1;
        }
        let lane = first_lane(live);
        live &= live - 1;
        Some(SlotAt { group: group - 1, lane })
    })
}

/// Copies the entries of a page, each into the one of `pages` that `page_of` says for its hash. These have room for them and hold nothing.
fn copy_entries<const N: usize>(
    layout: Layout,
    from: &PageBytes,
    pages: &mut [Page; N],
    page_of: impl Fn(u64) -> usize,
) {
    let grids = pages.each_ref().map(|page| layout.grid(page.bytes()));
    for slot in live_slots(from, layout) {
        let hash = layout.hash(from, slot);
        let nth = page_of(hash);
        let (page, grid) = (&mut pages[nth], grids[nth]);
        let at = first_empty(page.bytes(), grid, hash);
        layout.put_cell(page, at, &from[layout.cell(from, slot)]);
        page.set_tag(grid, at, tag_of(hash));
        page.live += 1;
        page.used += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::{ArenaOptions, MemoryBudget};
    use crate::state::{StateBackend, ValueState};

    #[test]
    fn a_page_that_lost_its_last_key_has_no_deleted_slots() {
        let arena = Arena::new(MemoryBudget::new(16 << 20), ArenaOptions::default());
        let mut states = StateBackend::new(KeyGroupRange { start: 0, end: 1 }, 1, arena);
        let (state, keys): (ValueState<u64, [u64; 2]>, _) =
            (states.value("operator", "state").unwrap(), states.key_context());
        (0..1_000u64).for_each(|key| state.put(&keys.hash(&key), &[key; 2]).unwrap());
        let deleted = |state: &ValueState<u64, [u64; 2]>| {
            let table = state.table.borrow();
            let tags = |page: &Page| {
                let (bytes, grid) = (page.bytes(), table.layout.grid(page.bytes()));
                let slots = (0..table.layout.slots(bytes)).map(SlotAt::of);
                slots.filter(|&at| bytes[grid.tag_offset(at)] == DELETED).count()
            };
            table.pages.iter().map(tags).sum::<usize>()
        };
        (1..1_000u64).for_each(|key| assert!(state.remove(&keys.hash(&key))));
        assert!(deleted(&state) > 0, "full groups keep deleted slots while another key is there");
        assert!(state.remove(&keys.hash(&0)));
        assert_eq!(deleted(&state), 0);
        assert!(state.table.borrow().pages.iter().all(|page| (page.live, page.used) == (0, 0)));
    }
}
