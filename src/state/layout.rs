//! The two page layouts behind one value: code that knows the layout at compile time passes a constant and is specialised.
//!
//! Here: what differs between the layouts. Not here: what is the same, tags, bits and probing (`page`).

use super::fixed_page::FixedShape;
use super::page::{Grid, LANES, PAGE_LEN, PAGE_LEN_STEP, Page, PageBytes, SlotAt, step_of};
use super::page_hash::page_hash;
use super::slotted_page::{self, CellHead};
use std::ops::Range;

/// How cells lie in the pages of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    /// Cells of constant length.
    Fixed(FixedShape),
    /// Cells of any length.
    Slotted,
}

/// A state whose layout the compiler knows: what is called with it is specialised.
pub(super) trait Shaped {
    const LAYOUT: Layout;
}

impl Layout {
    /// The layout for keys and values of these lengths.
    pub const fn for_lens(key: Option<usize>, value: Option<usize>) -> Self {
        if let (Some(key), Some(value)) = (key, value)
            && let Some(shape) = FixedShape::of(key, value)
        {
            return Layout::Fixed(shape);
        }
        Layout::Slotted
    }

    /// The form of the cells in words, the end of a state's layout in the manifest: tools read pages by it.
    pub fn in_words(self) -> String {
        match self {
            Layout::Fixed(shape) => format!("cells of {} + {} bytes", shape.key_len, shape.value_len),
            Layout::Slotted => "cells of any length".to_owned(),
        }
    }

    /// The length of a key group's first page. Cells of varying length may need a page of full length for one of them.
    pub const fn first_page_len(self) -> usize {
        match self {
            Layout::Fixed(_) => PAGE_LEN_STEP,
            Layout::Slotted => PAGE_LEN,
        }
    }

    /// Whether a page may have this length.
    pub const fn is_page_len(self, len: usize) -> bool {
        match self {
            Layout::Fixed(_) => len != 0 && len <= PAGE_LEN && len.is_multiple_of(PAGE_LEN_STEP),
            Layout::Slotted => len == PAGE_LEN,
        }
    }

    /// The length of a page for this many entries that is going to get more of them.
    pub fn page_len_for(self, entries: usize) -> usize {
        match self {
            Layout::Fixed(shape) => {
                let fits = |groups: usize| entries <= used_max(groups * LANES) * 7 / 8;
                let step = shape.groups.into_iter().position(fits);
                step.map_or(PAGE_LEN, |step| (step + 1) * PAGE_LEN_STEP)
            }
            Layout::Slotted => PAGE_LEN,
        }
    }

    /// How the groups of a page lie.
    #[inline(always)]
    pub const fn grid(self, bytes: &PageBytes) -> Grid {
        match self {
            Layout::Fixed(shape) => Grid { groups: shape.groups[step_of(bytes.len())], stride: shape.stride },
            Layout::Slotted => slotted_page::GRID,
        }
    }

    /// Slots of a page.
    pub const fn slots(self, bytes: &PageBytes) -> usize {
        self.grid(bytes).groups * LANES
    }

    /// Slots that may be in use before a page grows or splits: at 15/16 a probe still ends within a group or two.
    pub const fn used_max(self, bytes: &PageBytes) -> usize {
        used_max(self.slots(bytes))
    }

    /// The key and its kind in a live slot.
    #[inline(always)]
    pub fn key(self, bytes: &PageBytes, at: SlotAt) -> (u8, Range<usize>) {
        match self {
            Layout::Fixed(shape) => (0, shape.key(at)),
            Layout::Slotted => (slotted_page::head(bytes, at).kind, slotted_page::key(bytes, at)),
        }
    }

    /// Whether the live slot holds this key.
    #[inline(always)]
    pub fn is_key(self, bytes: &PageBytes, at: SlotAt, kind: u8, key: &[u8]) -> bool {
        match self {
            Layout::Fixed(shape) => is_same(&bytes[shape.key(at)], key),
            Layout::Slotted => slotted_page::is_key(bytes, at, kind, key),
        }
    }

    /// The value of a live slot.
    #[inline(always)]
    pub fn value(self, bytes: &PageBytes, at: SlotAt) -> Range<usize> {
        match self {
            Layout::Fixed(shape) => shape.value(at),
            Layout::Slotted => slotted_page::value(bytes, at),
        }
    }

    /// Everything of a live slot, as it goes into deltas and entry-wise images.
    pub fn cell(self, bytes: &PageBytes, at: SlotAt) -> Range<usize> {
        match self {
            Layout::Fixed(shape) => shape.cell(at),
            Layout::Slotted => slotted_page::cell(bytes, at),
        }
    }

    /// The hash of a live slot's key.
    #[inline(always)]
    pub fn hash(self, bytes: &PageBytes, at: SlotAt) -> u64 {
        let (kind, key) = self.key(bytes, at);
        let key = &bytes[key];
        // Of a word alone and with a slice of a window, the lengths of most keys, it takes half as long where the compiler knows them.
        match key.len() {
            8 => page_hash(kind, &key[..8]),
            24 => page_hash(kind, &key[..24]),
            _ => page_hash(kind, key),
        }
    }

    /// The hash of the key in a cell outside a page.
    pub fn cell_hash(self, cell: &[u8]) -> u64 {
        match self {
            Layout::Fixed(shape) => page_hash(0, &cell[..shape.key_len]),
            Layout::Slotted => {
                let head = CellHead::read(cell);
                page_hash(head.kind, &cell[4..4 + head.key_len])
            }
        }
    }

    /// The length of the cell at the start of `bytes`, which may be anything; `None` when no whole cell is there.
    pub fn cell_len(self, bytes: &[u8]) -> Option<usize> {
        match self {
            Layout::Fixed(shape) => (shape.cell_len() <= bytes.len()).then(|| shape.cell_len()),
            Layout::Slotted => CellHead::checked(bytes).map(CellHead::cell_len),
        }
    }

    /// Whether the page has room for one more cell of `len` bytes beside those of its slots.
    pub fn fits(self, page: &Page, len: usize) -> bool {
        match self {
            Layout::Fixed(_) => true,
            Layout::Slotted => slotted_page::fits(page, len),
        }
    }

    /// Puts a whole cell into a slot that has none.
    #[inline]
    pub fn put_cell(self, page: &mut Page, at: SlotAt, cell: &[u8]) {
        match self {
            Layout::Fixed(shape) => page.bytes_mut()[shape.cell(at)].copy_from_slice(cell),
            Layout::Slotted => {
                let head = CellHead::read(cell);
                let value = slotted_page::allocate(page, at, head, &cell[4..4 + head.key_len]);
                page.bytes_mut()[value].copy_from_slice(&cell[4 + head.key_len..head.cell_len()]);
            }
        }
    }

    /// Takes the cell of a slot away.
    pub fn release(self, page: &mut Page, at: SlotAt) {
        match self {
            Layout::Fixed(shape) => page.bytes_mut()[shape.cell(at)].fill(0),
            Layout::Slotted => slotted_page::release(page, at),
        }
    }
}

const fn used_max(slots: usize) -> usize {
    slots - slots.div_ceil(16)
}

/// Short keys are compared word by word, without a call: one that is put together of several parts was stored that way, and the processor would wait
/// with reading more at once until all stores before it are done.
#[inline(always)]
pub(super) fn is_same(a: &[u8], b: &[u8]) -> bool {
    const WORDS_MAX: usize = 4;
    let ((a_words, a_rest), (b_words, _)) = (a.as_chunks::<8>(), b.as_chunks::<8>());
    if a.len() != b.len() || !a_rest.is_empty() || a_words.len() > WORDS_MAX {
        return a == b;
    }
    let words = a_words.iter().zip(b_words);
    words.fold(0, |differences, (a, b)| differences | (u64::from_le_bytes(*a) ^ u64::from_le_bytes(*b))) == 0
}
