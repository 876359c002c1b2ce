//! A page: one bucket of a table, and what the table remembers about it outside those bytes.
//!
//! ```text
//! 0      header: 64 bytes, filled in only when the page leaves memory (`piece`)
//! 64     groups: a control of 16 bytes, then what 8 slots hold (`fixed_page`, `slotted_page`)
//!        control: 8 tags, 16 bits of parity 0, 16 bits of parity 1, 4 bytes of zero
//!        a tag per slot: 0 empty, 1 deleted, >= 2 live (from the key's hash)
//!        a bit per slot and parity: the slot changed in the epoch of that parity (8 bits are used)
//! ```
//! A page is 16 KiB long, or shorter by a multiple of 4 KiB until that is full: the two halves of a page that was split would
//! otherwise be half empty, and a state with few keys spread so thin over its key groups that it leaves the cache. Pages of cells of
//! any length are always 16 KiB long. The length of its bytes says what a page is.
//!
//! Tags and bits of a slot share a cache line, so marking a slot dirty touches nothing that finding it had not touched. Controls lie among
//! the cells because pages are aligned to 16 KiB: side by side at the start of each page they would all fall into the same few cache sets.
//!
//! Invariant: a live slot is reachable: no group between its home group and its own holds an empty slot.

use crate::memory::{Block, BlockSize};

/// The length of a full page.
pub(super) const PAGE_LEN: usize = 16 << 10;
/// The length of the shortest page, and from one length to the next.
pub(super) const PAGE_LEN_STEP: usize = 4 << 10;
/// How many lengths a page may have.
pub(super) const PAGE_LENS: usize = PAGE_LEN / PAGE_LEN_STEP;
/// Where the groups begin.
pub(super) const GROUPS_START: usize = 64;
/// The length of a group's control.
pub(super) const CONTROL_LEN: usize = 16;
/// Slots per group.
pub(super) const LANES: usize = 8;
/// The tag of a slot that never held a key since the page was laid out.
pub(super) const EMPTY: u8 = 0;
/// The tag of a slot whose key was removed while others may lie behind it.
pub(super) const DELETED: u8 = 1;
/// How many groups share the bits that say which may have changed.
const CHANGED_BITS: usize = u32::BITS as usize;
/// No staged content.
pub(super) const NONE: u32 = u32::MAX;

/// The page is in the list of its parity.
pub(super) const LISTED: u8 = 1;
/// The next piece of the page must be an image.
pub(super) const IMAGE: u8 = 2;

/// The bytes of a page.
pub(super) type PageBytes = [u8];

/// Which of the lengths this one is, from the shortest.
#[inline(always)]
pub(super) const fn step_of(len: usize) -> usize {
    (len / PAGE_LEN_STEP - 1) % PAGE_LENS
}

/// The block a page of this length lies in.
pub(super) fn block_size(len: usize) -> BlockSize {
    [BlockSize::K4, BlockSize::K8, BlockSize::K12, BlockSize::K16][step_of(len)]
}

/// A page in memory.
pub(super) struct Page {
    block: Block,
    /// The hash bits all its keys share, at the top; the rest is zero.
    pub prefix: u64,
    /// Its number in the key group's table.
    pub number: u32,
    /// Old contents of slots the sealed epoch still needs: a position in the `StageLog`.
    pub staged: u32,
    /// Its key group.
    pub group: u16,
    /// Slots that hold a key.
    pub live: u16,
    /// Slots that are not empty.
    pub used: u16,
    /// Slotted pages: where the heap begins.
    pub heap_start: u16,
    /// Slotted pages: bytes of the heap that belong to no slot.
    pub garbage: u16,
    /// How many bits of `prefix` count.
    pub depth: u8,
    /// `LISTED` and `IMAGE` for each parity.
    pub flags: [u8; 2],
    /// For each parity: which groups may have a bit set, the number of a group modulo 32. Most pages have few changes, and to look at all
    /// controls for them would be to read half of the page.
    changed: [u32; 2],
}

// What is known of a page lies in one cache line, or two where they begin in its midst.
const _: () = assert!(size_of::<Page>() <= 64);

/// A slot of a page: which group, which lane of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SlotAt {
    pub group: usize,
    pub lane: usize,
}

/// How the groups of a page lie.
#[derive(Clone, Copy, Debug)]
pub(super) struct Grid {
    /// Groups per page.
    pub groups: usize,
    /// From one group to the next; in fixed pages a multiple of 16, so that no control lies in two cache lines.
    pub stride: usize,
}

impl Grid {
    #[inline(always)]
    pub fn control_offset(self, group: usize) -> usize {
        GROUPS_START + group * self.stride
    }

    /// The group whose control is here.
    #[inline(always)]
    pub fn group_at(self, control_offset: usize) -> usize {
        (control_offset - GROUPS_START) / self.stride
    }

    #[inline(always)]
    pub fn tag_offset(self, at: SlotAt) -> usize {
        self.control_offset(at.group) + at.lane
    }

    #[inline(always)]
    fn bits_offset(self, at: SlotAt) -> usize {
        self.control_offset(at.group) + LANES
    }
}

/// What probing found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Probe {
    /// The key's slot.
    Found(SlotAt),
    /// The key is not here; this is where it would go, if there is any room.
    Absent(Option<SlotAt>),
}

impl SlotAt {
    #[inline(always)]
    pub fn slot(self) -> usize {
        self.group * LANES + self.lane
    }

    pub fn of(slot: usize) -> Self {
        Self { group: slot / LANES, lane: slot % LANES }
    }
}

impl Page {
    /// A page without keys in a block of any content.
    pub fn empty(mut block: Block, group: u16, number: u32, prefix: u64, depth: u8) -> Self {
        block.fill(0);
        Self::with_block(block, group, number, prefix, depth)
    }

    /// A page of these bytes, whose entries are not counted yet.
    pub fn with_block(block: Block, group: u16, number: u32, prefix: u64, depth: u8) -> Self {
        let heap_start = block.len() as u16;
        Self {
            block,
            prefix,
            number,
            staged: NONE,
            group,
            live: 0,
            used: 0,
            heap_start,
            garbage: 0,
            depth,
            flags: [0; 2],
            changed: [0; 2],
        }
    }

    /// A page whose bytes are elsewhere.
    pub fn absent(nothing: Block, group: u16, number: u32, prefix: u64, depth: u8) -> Self {
        Self::empty(nothing, group, number, prefix, depth)
    }

    /// Gives the page other bytes; answers those it had.
    pub fn set_block(&mut self, block: Block) -> Block {
        std::mem::replace(&mut self.block, block)
    }

    /// The page's bytes alone.
    pub fn into_block(self) -> Block {
        self.block
    }

    #[inline(always)]
    pub fn bytes(&self) -> &PageBytes {
        &self.block
    }

    #[inline(always)]
    pub fn bytes_mut(&mut self) -> &mut PageBytes {
        &mut self.block
    }

    /// Brings the cache line at `offset` nearer.
    #[inline(always)]
    pub fn prefetch(&self, offset: usize) {
        self.block.prefetch(offset);
    }

    /// The bits of the slot's group: parity 0 in the low half, parity 1 in the high half.
    #[inline(always)]
    pub fn bits(&self, grid: Grid, at: SlotAt) -> u32 {
        control_bits(&self.bytes()[grid.control_offset(at.group)..])
    }

    #[inline(always)]
    pub fn set_bits(&mut self, grid: Grid, at: SlotAt, bits: u32) {
        let offset = grid.bits_offset(at);
        self.bytes_mut()[offset..offset + 4].copy_from_slice(&bits.to_le_bytes());
    }

    /// Sets the bit of a slot, the bits of whose group are `bits`.
    #[inline(always)]
    pub fn mark(&mut self, grid: Grid, at: SlotAt, parity: usize, bits: u32) {
        self.changed[parity] |= Self::group_bit(at.group);
        self.set_bits(grid, at, bits | Self::bit(at, parity));
    }

    #[inline(always)]
    fn group_bit(group: usize) -> u32 {
        1 << (group % CHANGED_BITS)
    }

    /// The bit of a slot in `bits`.
    #[inline(always)]
    pub fn bit(at: SlotAt, parity: usize) -> u32 {
        lane_bit(at.lane, parity)
    }

    #[inline(always)]
    pub fn set_tag(&mut self, grid: Grid, at: SlotAt, tag: u8) {
        self.bytes_mut()[grid.tag_offset(at)] = tag;
    }

    /// The lanes of a group whose bit of `parity` is set.
    #[inline(always)]
    pub fn lanes(&self, grid: Grid, group: usize, parity: usize) -> u8 {
        if self.changed[parity] & Self::group_bit(group) == 0 {
            return 0;
        }
        (self.bits(grid, SlotAt { group, lane: 0 }) >> (16 * parity)) as u8
    }

    /// The groups in which bits of `parity` may be set, in order.
    #[inline(always)]
    pub fn changed_groups(&self, grid: Grid, parity: usize) -> ChangedGroups {
        let changed = self.changed[parity];
        ChangedGroups { changed, left: changed, first: 0, groups: if changed == 0 { 0 } else { grid.groups } }
    }

    /// Clears the bits of `parity`, which are set in these groups and in no others.
    pub fn clear_lanes(&mut self, grid: Grid, parity: usize, changed: &[(u16, u8)]) {
        for (group, _) in changed {
            let first = SlotAt { group: usize::from(*group), lane: 0 };
            let bits = self.bits(grid, first);
            self.set_bits(grid, first, bits & !(0xffff << (16 * parity)));
        }
        self.changed[parity] = 0;
    }

    /// Clears the bits of `parity`.
    pub fn clear_bits(&mut self, grid: Grid, parity: usize) {
        for group in self.changed_groups(grid, parity) {
            let first = SlotAt { group, lane: 0 };
            let bits = self.bits(grid, first);
            self.set_bits(grid, first, bits & !(0xffff << (16 * parity)));
        }
        self.changed[parity] = 0;
    }

    /// The slots whose bit of `parity` is set, and clears it.
    pub fn take_bits(&mut self, grid: Grid, parity: usize, mut each: impl FnMut(SlotAt)) {
        for group in self.changed_groups(grid, parity) {
            let set = self.lanes(grid, group, parity);
            if set == 0 {
                continue;
            }
            lanes(set).for_each(|lane| each(SlotAt { group, lane }));
            let first = SlotAt { group, lane: 0 };
            let bits = self.bits(grid, first);
            self.set_bits(grid, first, bits & !(0xffff << (16 * parity)));
        }
        self.changed[parity] = 0;
    }
}

/// The groups of a page in which bits may be set, in order.
pub(super) struct ChangedGroups {
    changed: u32,
    /// What is left of `changed` for the groups that begin with `first`, one for each bit.
    left: u32,
    first: usize,
    groups: usize,
}

impl Iterator for ChangedGroups {
    type Item = usize;

    #[inline(always)]
    fn next(&mut self) -> Option<usize> {
        if self.left == 0 {
            (self.first, self.left) = (self.first + CHANGED_BITS, self.changed);
        }
        let group = self.first + self.left.trailing_zeros() as usize;
        self.left &= self.left.wrapping_sub(1);
        (group < self.groups).then_some(group)
    }
}

/// The tag of a live slot.
#[inline(always)]
pub(super) fn tag_of(hash: u64) -> u8 {
    let tag = hash as u8;
    if tag <= DELETED { tag + 2 } else { tag }
}

/// The group where probing begins.
#[inline(always)]
pub(super) fn home_group(hash: u64, groups: usize) -> usize {
    ((hash >> 8 & 0xffff) as usize * groups) >> 16
}

const ONES: u64 = 0x0101_0101_0101_0101;

/// The tags of a group.
#[derive(Clone, Copy)]
pub(super) struct Tags(u64);

impl Tags {
    /// The tags in the control that `bytes` begin with.
    #[inline(always)]
    pub fn of(bytes: &[u8]) -> Self {
        Self(u64::from_le_bytes(*bytes.first_chunk().expect("a control begins with eight tags")))
    }

    /// The highest bit of each byte whose tag is this one. Above the lowest of them there may be some more, of tags that differ from it in
    /// their lowest bit: who goes on to those looks at their keys, and to be exact would cost the others more.
    #[inline(always)]
    pub fn matches(self, tag: u8) -> u64 {
        let differences = self.0 ^ (u64::from(tag) * ONES);
        differences.wrapping_sub(ONES) & !differences & (ONES << 7)
    }

    /// The highest bit of each byte whose tag is that of a slot without a key.
    #[inline(always)]
    fn open(self) -> u64 {
        zero_bytes(self.0 & !ONES)
    }

    /// The highest bit of each byte whose tag is that of a slot with a key.
    #[inline(always)]
    fn live(self) -> u64 {
        !self.open() & (ONES << 7)
    }
}

/// The highest bit of each byte that is zero.
#[inline(always)]
fn zero_bytes(word: u64) -> u64 {
    let low = ONES * 0x7f;
    !(((word & low) + low) | word | low)
}

/// The lane of the lowest bit of a mask; `LANES` when no bit is set.
#[inline(always)]
pub(super) fn first_lane(mask: u64) -> usize {
    mask.trailing_zeros() as usize / 8
}

/// The lanes whose bit is set, in order.
#[inline(always)]
pub(super) fn lanes(set: u8) -> impl Iterator<Item = usize> {
    set_bits_of(u16::from(set))
}

/// The numbers of the bits that are set, in order.
#[inline(always)]
fn set_bits_of(mut set: u16) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let bit = (set != 0).then(|| set.trailing_zeros() as usize);
        set &= set.wrapping_sub(1);
        bit
    })
}

/// The bit of a lane in its group's bits.
#[inline(always)]
pub(super) fn lane_bit(lane: usize, parity: usize) -> u32 {
    1 << (lane + 16 * parity)
}

/// The bits in the control that `bytes` begin with: parity 0 in the low half, parity 1 in the high half.
#[inline(always)]
pub(super) fn control_bits(bytes: &[u8]) -> u32 {
    u32::from_le_bytes(bytes[LANES..LANES + 4].try_into().expect("four bytes"))
}

#[inline(always)]
fn tags(bytes: &PageBytes, grid: Grid, group: usize) -> Tags {
    let offset = grid.control_offset(group);
    Tags::of(&bytes[offset..offset + CONTROL_LEN])
}

/// Whether a group has an empty slot, so that no key lies behind it.
pub(super) fn has_empty(bytes: &PageBytes, grid: Grid, group: usize) -> bool {
    tags(bytes, grid, group).matches(EMPTY) != 0
}

/// The highest bit of each byte of a word whose lane of the group holds a key.
#[inline(always)]
pub(super) fn live_lanes(bytes: &PageBytes, grid: Grid, group: usize) -> u64 {
    tags(bytes, grid, group).live()
}

/// The first empty slot for a key of this hash in a page that has one, and no deleted slots.
#[inline(always)]
pub(super) fn first_empty(bytes: &PageBytes, grid: Grid, hash: u64) -> SlotAt {
    let mut group = home_group(hash, grid.groups);
    for _ in 0..grid.groups {
        let empty = tags(bytes, grid, group).matches(EMPTY);
        if empty != 0 {
            return SlotAt { group, lane: first_lane(empty) };
        }
        group = if group + 1 == grid.groups { 0 } else { group + 1 };
    }
    unreachable!("a page laid out anew has room for the entries of the old one")
}

/// Looks for a key; `is_key` compares the key of a slot.
#[inline(always)]
pub(super) fn probe(bytes: &PageBytes, grid: Grid, hash: u64, is_key: impl Fn(SlotAt) -> bool) -> Probe {
    let tag = tag_of(hash);
    let mut group = home_group(hash, grid.groups);
    let mut free = None;
    for _ in 0..grid.groups {
        let tags = tags(bytes, grid, group);
        let mut hits = tags.matches(tag);
        while hits != 0 {
            let at = SlotAt { group, lane: first_lane(hits) };
            if is_key(at) {
                return Probe::Found(at);
            }
            hits &= hits - 1;
        }
        if free.is_none() {
            let open = tags.open();
            if open != 0 {
                free = Some(SlotAt { group, lane: first_lane(open) });
            }
        }
        if tags.matches(EMPTY) != 0 {
            break;
        }
        group = if group + 1 == grid.groups { 0 } else { group + 1 };
    }
    Probe::Absent(free)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_hash_gives_a_live_tag() {
        assert!((0..=255).all(|hash| tag_of(hash) > DELETED));
    }

    #[test]
    fn the_groups_that_may_have_changed_are_those_of_the_bits_modulo_thirty_two() {
        let last = 1 << 31;
        for (changed, groups) in [(0, 68), (1, 1), (1, 68), (last, 31), (last, 68), (last | 0xa005, 68), (u32::MAX, 33)]
        {
            let listed =
                ChangedGroups { changed, left: changed, first: 0, groups: if changed == 0 { 0 } else { groups } };
            let expected = (0..groups).filter(|group| changed >> (group % 32) & 1 == 1);
            assert!(listed.eq(expected), "{changed:x} of {groups}");
        }
    }

    #[test]
    fn a_change_is_listed_with_its_group_until_its_bits_are_cleared() {
        let arena = crate::memory::Arena::new(crate::memory::MemoryBudget::new(4 << 20), Default::default());
        let grid = Grid { groups: 68, stride: 240 };
        let mut page = Page::empty(arena.take("test", block_size(PAGE_LEN)).unwrap(), 0, 0, 0, 0);
        for at in [SlotAt { group: 3, lane: 7 }, SlotAt { group: 67, lane: 0 }] {
            page.mark(grid, at, 1, page.bits(grid, at));
            page.mark(grid, at, 0, page.bits(grid, at));
        }
        let changed = |page: &Page, parity| {
            let groups = page.changed_groups(grid, parity);
            groups.map(|group| (group as u16, page.lanes(grid, group, parity))).filter(|(_, set)| *set != 0).collect()
        };
        let both: Vec<(u16, u8)> = changed(&page, 1);
        assert_eq!(both, [(3, 0x80), (67, 1)]);
        page.clear_lanes(grid, 1, &both);
        assert_eq!((changed(&page, 1), changed(&page, 0)), (Vec::new(), both));
    }

    #[test]
    fn the_slots_of_a_tag_are_found_and_behind_them_only_neighbouring_tags() {
        let tags = Tags::of(&[7, 0, 1, 7, 6, 8, 0x87, 255]);
        assert_eq!(tags.matches(7), 0x80 | 0x80 << 24 | 0x80 << 32, "the 6 behind the second 7");
        assert_eq!(tags.matches(6), 0x80 << 32, "no 7 in front of the 6");
        assert_eq!(tags.matches(255), 0x80 << 56);
        assert_eq!(tags.matches(9), 0);
        assert_eq!((tags.matches(EMPTY), tags.open()), (0x80 << 8 | 0x80 << 16, 0x80 << 8 | 0x80 << 16));
    }
}
