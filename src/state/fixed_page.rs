//! Cells of constant length: key and value side by side, so that one access touches one or two cache lines.
//!
//! Here: where the cell of a slot lies. Unlike the column layout first planned, a cell keeps key and value together: an update of a
//! random key then misses the cache once instead of twice. Not here: tags and bits (`page`).

use super::page::{CONTROL_LEN, GROUPS_START, LANES, PAGE_LEN_STEP, PAGE_LENS, SlotAt};
use std::ops::Range;

/// The lengths that make up a page of fixed cells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FixedShape {
    pub key_len: usize,
    pub value_len: usize,
    /// Groups per page, for each length that a page may have.
    pub groups: [usize; PAGE_LENS],
    /// From one group to the next.
    pub stride: usize,
}

/// Longer cells leave too few slots in a page; such states use slotted pages.
const CELL_LEN_MAX: usize = 256;

impl FixedShape {
    /// The shape for these lengths, if cells of that length are worth a fixed page.
    pub const fn of(key_len: usize, value_len: usize) -> Option<Self> {
        let cell_len = key_len + value_len;
        if cell_len > CELL_LEN_MAX || cell_len == 0 {
            return None;
        }
        let stride = (CONTROL_LEN + LANES * cell_len).next_multiple_of(16);
        let mut groups = [0; PAGE_LENS];
        let mut step = 0;
        while step < PAGE_LENS {
            groups[step] = ((step + 1) * PAGE_LEN_STEP - GROUPS_START) / stride;
            step += 1;
        }
        Some(Self { key_len, value_len, groups, stride })
    }

    #[inline(always)]
    pub const fn cell_len(self) -> usize {
        self.key_len + self.value_len
    }

    #[inline(always)]
    const fn cell_offset(self, at: SlotAt) -> usize {
        GROUPS_START + at.group * self.stride + self.cell_in_group(at.lane).start
    }

    /// The cell of a lane, counted from the start of its group.
    #[inline(always)]
    pub const fn cell_in_group(self, lane: usize) -> Range<usize> {
        let start = CONTROL_LEN + lane * self.cell_len();
        start..start + self.cell_len()
    }

    #[inline(always)]
    pub const fn key(self, at: SlotAt) -> Range<usize> {
        let start = self.cell_offset(at);
        start..start + self.key_len
    }

    #[inline(always)]
    pub const fn value(self, at: SlotAt) -> Range<usize> {
        let start = self.cell_offset(at) + self.key_len;
        start..start + self.value_len
    }

    pub const fn cell(self, at: SlotAt) -> Range<usize> {
        let start = self.cell_offset(at);
        start..start + self.cell_len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_cell_ends_inside_the_page() {
        for len in 1..=CELL_LEN_MAX {
            let shape = FixedShape::of(1, len - 1).unwrap();
            for (step, groups) in shape.groups.into_iter().enumerate() {
                let last = SlotAt { group: groups - 1, lane: LANES - 1 };
                assert!(shape.cell(last).end <= (step + 1) * PAGE_LEN_STEP);
            }
            assert!(shape.groups[PAGE_LENS - 1] >= 7 && shape.groups[PAGE_LENS - 1] * LANES <= 1 << 14);
        }
    }

    #[test]
    fn eight_byte_keys_with_sixteen_byte_values_cost_26_bytes_a_slot() {
        assert_eq!(FixedShape::of(8, 16).unwrap().groups[PAGE_LENS - 1] * LANES, 624);
    }
}
