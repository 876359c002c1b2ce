//! A page: one bucket of a table, 16 KiB, and what the table remembers about it outside those bytes.
//!
//! ```text
//! 0      header: 64 bytes, filled in only when the page leaves memory (`piece`)
//! 64     groups: a control of 16 bytes, then what 12 slots hold (`fixed_page`, `slotted_page`)
//!        control: 12 tags, 16 bits of parity 0, 16 bits of parity 1
//!        a tag per slot: 0 empty, 1 deleted, >= 2 live (from the key's hash)
//!        a bit per slot and parity: the slot changed in the epoch of that parity (12 bits are used)
//! ```
//! Tags and bits of a slot share a cache line, so marking a slot dirty touches nothing that finding it had not touched. Controls lie among
//! the cells because pages are aligned to 16 KiB: side by side at the start of each page they would all fall into the same few cache sets.
//!
//! Invariant: a live slot is reachable: no group between its home group and its own holds an empty slot.

use crate::memory::Block;

/// The length of a page.
pub(super) const PAGE_LEN: usize = 16 << 10;
/// Where the groups begin.
pub(super) const GROUPS_START: usize = 64;
/// The length of a group's control.
pub(super) const CONTROL_LEN: usize = 16;
/// Slots per group.
pub(super) const LANES: usize = 12;
/// The tag of a slot that never held a key since the page was laid out.
pub(super) const EMPTY: u8 = 0;
/// The tag of a slot whose key was removed while others may lie behind it.
pub(super) const DELETED: u8 = 1;
/// No staged content.
pub(super) const NONE: u32 = u32::MAX;

/// The page is in the list of its parity.
pub(super) const LISTED: u8 = 1;
/// The next piece of the page must be an image.
pub(super) const IMAGE: u8 = 2;

/// The bytes of a page.
pub(super) type PageBytes = [u8; PAGE_LEN];

/// A page in memory.
pub(super) struct Page {
    block: Block,
    /// The hash bits all its keys share, at the top; the rest is zero.
    pub prefix: u64,
    /// Its number in the key group's table.
    pub number: u32,
    /// Old contents of slots the sealed epoch still needs: a position in the `StageLog`.
    pub staged: u32,
    /// The whole old page, if the sealed epoch needs that: an index into the `StageLog`'s images.
    pub staged_image: u32,
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
}

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
        Self {
            block,
            prefix,
            number,
            staged: NONE,
            staged_image: NONE,
            group,
            live: 0,
            used: 0,
            heap_start: PAGE_LEN as u16,
            garbage: 0,
            depth,
            flags: [0; 2],
        }
    }

    #[inline(always)]
    pub fn bytes(&self) -> &PageBytes {
        (&self.block[..]).try_into().expect("a page is a block of 16 KiB")
    }

    #[inline(always)]
    pub fn bytes_mut(&mut self) -> &mut PageBytes {
        (&mut self.block[..]).try_into().expect("a page is a block of 16 KiB")
    }

    /// The bits of the slot's group: parity 0 in the low half, parity 1 in the high half.
    #[inline(always)]
    pub fn bits(&self, grid: Grid, at: SlotAt) -> u32 {
        let offset = grid.bits_offset(at);
        u32::from_le_bytes(self.bytes()[offset..offset + 4].try_into().expect("four bytes"))
    }

    #[inline(always)]
    pub fn set_bits(&mut self, grid: Grid, at: SlotAt, bits: u32) {
        let offset = grid.bits_offset(at);
        self.bytes_mut()[offset..offset + 4].copy_from_slice(&bits.to_le_bytes());
    }

    /// The bit of a slot in `bits`.
    #[inline(always)]
    pub fn bit(at: SlotAt, parity: usize) -> u32 {
        1 << (at.lane + 16 * parity)
    }

    #[inline(always)]
    pub fn set_tag(&mut self, grid: Grid, at: SlotAt, tag: u8) {
        self.bytes_mut()[grid.tag_offset(at)] = tag;
    }

    /// The slots whose bit of `parity` is set, and clears it.
    pub fn take_bits(&mut self, grid: Grid, parity: usize, mut each: impl FnMut(SlotAt)) {
        for group in 0..grid.groups {
            let first = SlotAt { group, lane: 0 };
            let bits = self.bits(grid, first);
            let mask = 0xffff << (16 * parity);
            if bits & mask == 0 {
                continue;
            }
            let mut set = (bits & mask) >> (16 * parity);
            while set != 0 {
                each(SlotAt { group, lane: set.trailing_zeros() as usize });
                set &= set - 1;
            }
            self.set_bits(grid, first, bits & !mask);
        }
    }
}

/// The tag of a live slot.
#[inline(always)]
pub(super) fn tag_of(hash: u64) -> u8 {
    (2 + (((hash & 0xff) * 254) >> 8)) as u8
}

/// The group where probing begins.
#[inline(always)]
fn home_group(hash: u64, groups: usize) -> usize {
    ((hash >> 8 & 0xffff) as usize * groups) >> 16
}

const LOW: u128 = 0x01010101_01010101_01010101;
const HIGH: u128 = LOW << 7;

/// A set high bit for each of the twelve tags that is zero. Exact for the lowest; above it a tag of 1 may appear as well.
#[inline(always)]
fn zero_tags(word: u128) -> u128 {
    word.wrapping_sub(LOW) & !word & HIGH
}

#[inline(always)]
fn control(bytes: &PageBytes, grid: Grid, group: usize) -> u128 {
    let offset = grid.control_offset(group);
    u128::from_le_bytes(bytes[offset..offset + CONTROL_LEN].try_into().expect("sixteen bytes"))
}

/// Whether a group has an empty slot, so that no key lies behind it.
pub(super) fn has_empty(bytes: &PageBytes, grid: Grid, group: usize) -> bool {
    zero_tags(control(bytes, grid, group)) != 0
}

/// The control group where probing for a hash begins.
#[inline(always)]
pub(super) fn home_control(bytes: &PageBytes, grid: Grid, hash: u64) -> u128 {
    control(bytes, grid, home_group(hash, grid.groups))
}

/// The first slot of the home group, read as `word`, that has the hash's tag: most likely the key's.
#[inline(always)]
pub(super) fn likely_slot(word: u128, grid: Grid, hash: u64) -> Option<SlotAt> {
    let hits = zero_tags((word & (LOW * 0xff)) ^ (u128::from(tag_of(hash)) * LOW));
    (hits != 0).then(|| SlotAt { group: home_group(hash, grid.groups), lane: hits.trailing_zeros() as usize / 8 })
}

/// Looks for a key; `is_key` compares the key of a slot.
#[inline(always)]
pub(super) fn probe(bytes: &PageBytes, grid: Grid, hash: u64, is_key: impl Fn(SlotAt) -> bool) -> Probe {
    let pattern = u128::from(tag_of(hash)) * LOW;
    let mut group = home_group(hash, grid.groups);
    let mut free = None;
    for _ in 0..grid.groups {
        let word = control(bytes, grid, group);
        // A lane that only appears to match holds the tag with its lowest bit flipped, so it is live too and `is_key` decides.
        let mut hits = zero_tags((word & (LOW * 0xff)) ^ pattern);
        while hits != 0 {
            let at = SlotAt { group, lane: hits.trailing_zeros() as usize / 8 };
            if is_key(at) {
                return Probe::Found(at);
            }
            hits &= hits - 1;
        }
        if free.is_none() {
            let open = zero_tags(word & (LOW * 0xfe));
            if open != 0 {
                free = Some(SlotAt { group, lane: open.trailing_zeros() as usize / 8 });
            }
        }
        if zero_tags(word) != 0 {
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
        assert_eq!(tag_of(0), 2);
        assert_eq!(tag_of(u64::MAX), 255);
    }

    #[test]
    fn the_lowest_zero_tag_is_exact_whatever_the_bits_beside_the_tags() {
        for lane in 0..LANES {
            let word = ((LOW * 0xff) & !(0xff << (8 * lane))) | (0xffff_ffff << 96);
            assert_eq!(zero_tags(word).trailing_zeros() as usize / 8, lane);
            assert_eq!(zero_tags(word).count_ones(), 1);
        }
        assert_eq!(zero_tags(LOW * 7), 0);
    }
}
