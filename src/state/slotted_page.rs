//! Cells of any length: a directory of offsets, and a heap that grows down from the end of the page.
//!
//! ```text
//! 64      48 groups: control, then 8 offsets, u16, of the slots' cells
//! 1600    free
//! heap_start .. 16384: cells {key length u12 | kind u4, value length u15 | chunked u1, key, value}
//! ```
//! Invariant: a slot keeps its number while its cell moves within the heap, so deltas may speak of slots.

use super::page::{CONTROL_LEN, GROUPS_START, Grid, LANES, PAGE_LEN, Page, PageBytes, SlotAt};
use std::ops::Range;

/// How the groups lie.
pub(super) const GRID: Grid = Grid { groups: 48, stride: CONTROL_LEN + 2 * LANES };
/// The longest key, composite keys and chunk numbers included.
pub(super) const KEY_LEN_MAX: usize = 2048;
/// The longest value in one cell; longer ones are cut into chunks (`entries`).
pub(super) const VALUE_LEN_MAX: usize = 2048;

const HEAP_MIN: usize = GROUPS_START + GRID.groups * GRID.stride;
const CELL_HEAD_LEN: usize = 4;
const CHUNKED: u16 = 1 << 15;

/// The head of a cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct CellHead {
    pub kind: u8,
    pub key_len: usize,
    pub value_len: usize,
    /// The value is only the root of a chunked value.
    pub chunked: bool,
}

impl CellHead {
    pub fn cell_len(self) -> usize {
        CELL_HEAD_LEN + self.key_len + self.value_len
    }

    #[inline(always)]
    pub fn read(bytes: &[u8]) -> Self {
        let key = u16::from_le_bytes([bytes[0], bytes[1]]);
        let value = u16::from_le_bytes([bytes[2], bytes[3]]);
        Self {
            kind: (key >> 12) as u8,
            key_len: usize::from(key & 0xfff),
            value_len: usize::from(value & !CHUNKED),
            chunked: value & CHUNKED != 0,
        }
    }

    /// The head at the start of bytes that may be anything, if a whole cell of allowed lengths follows it.
    pub fn checked(bytes: &[u8]) -> Option<Self> {
        let head = Self::read(bytes.get(..CELL_HEAD_LEN)?);
        let fits = head.key_len <= KEY_LEN_MAX && head.value_len <= VALUE_LEN_MAX && head.cell_len() <= bytes.len();
        fits.then_some(head)
    }

    fn write(self, out: &mut [u8]) {
        let key = key_bits(self.kind, self.key_len);
        let value = self.value_len as u16 | if self.chunked { CHUNKED } else { 0 };
        out[..2].copy_from_slice(&key.to_le_bytes());
        out[2..4].copy_from_slice(&value.to_le_bytes());
    }
}

/// What a cell begins with.
#[inline(always)]
fn key_bits(kind: u8, key_len: usize) -> u16 {
    key_len as u16 | u16::from(kind) << 12
}

#[inline(always)]
fn offset_at(at: SlotAt) -> usize {
    GRID.control_offset(at.group) + CONTROL_LEN + at.lane * 2
}

/// Where the cell of a live slot begins.
#[inline(always)]
pub(super) fn cell_offset(bytes: &PageBytes, at: SlotAt) -> usize {
    let at = offset_at(at);
    usize::from(u16::from_le_bytes([bytes[at], bytes[at + 1]]))
}

/// The head of a live slot's cell.
#[inline]
pub(super) fn head(bytes: &PageBytes, at: SlotAt) -> CellHead {
    CellHead::read(&bytes[cell_offset(bytes, at)..])
}

/// Whether the cell of a live slot has this kind and key.
#[inline(always)]
pub(super) fn is_key(bytes: &PageBytes, at: SlotAt, kind: u8, key: &[u8]) -> bool {
    let cell = &bytes[cell_offset(bytes, at)..];
    let stored = u16::from_le_bytes([cell[0], cell[1]]);
    key.len() <= KEY_LEN_MAX && stored == key_bits(kind, key.len()) && cell[CELL_HEAD_LEN..].starts_with(key)
}

#[inline]
pub(super) fn key(bytes: &PageBytes, at: SlotAt) -> Range<usize> {
    let start = cell_offset(bytes, at);
    let key_len = CellHead::read(&bytes[start..]).key_len;
    start + CELL_HEAD_LEN..start + CELL_HEAD_LEN + key_len
}

#[inline(always)]
pub(super) fn value(bytes: &PageBytes, at: SlotAt) -> Range<usize> {
    value_of_cell(bytes, at).0
}

/// The value, and whether it is only the root of a chunked one.
#[inline(always)]
pub(super) fn value_of_cell(bytes: &PageBytes, at: SlotAt) -> (Range<usize>, bool) {
    let start = cell_offset(bytes, at);
    let head = CellHead::read(&bytes[start..]);
    (start + CELL_HEAD_LEN + head.key_len..start + head.cell_len(), head.chunked)
}

pub(super) fn cell(bytes: &PageBytes, at: SlotAt) -> Range<usize> {
    let start = cell_offset(bytes, at);
    start..start + head(bytes, at).cell_len()
}

/// Whether a cell of `len` bytes fits, perhaps after compaction.
#[inline(always)]
pub(super) fn fits(page: &Page, len: usize) -> bool {
    usize::from(page.heap_start) - HEAP_MIN + usize::from(page.garbage) >= len
}

/// Gives the slot a cell with this head and key; answers where its value lies, whose bytes are the caller's to fill in.
///
/// # Panics
/// Asserts that the cell fits.
pub(super) fn allocate(page: &mut Page, at: SlotAt, head: CellHead, key: &[u8]) -> Range<usize> {
    let len = head.cell_len();
    if usize::from(page.heap_start) - HEAP_MIN < len {
        compact(page);
    }
    assert!(usize::from(page.heap_start) - HEAP_MIN >= len, "the caller asked whether the cell fits");
    page.heap_start -= len as u16;
    let start = page.heap_start;
    let bytes = page.bytes_mut();
    set_offset(bytes, at, start);
    let cell = &mut bytes[usize::from(start)..][..len];
    head.write(cell);
    cell[CELL_HEAD_LEN..CELL_HEAD_LEN + key.len()].copy_from_slice(key);
    let end = usize::from(start) + len;
    end - head.value_len..end
}

/// Takes the slot's cell away; the tag is the caller's to change.
pub(super) fn release(page: &mut Page, at: SlotAt) {
    let len = head(page.bytes(), at).cell_len();
    page.garbage += len as u16;
    set_offset(page.bytes_mut(), at, 0);
}

fn set_offset(bytes: &mut PageBytes, at: SlotAt, offset: u16) {
    bytes[offset_at(at)..][..2].copy_from_slice(&offset.to_le_bytes());
}

/// Moves all cells to the end of the page. A released slot has offset 0, so the offsets alone say what is in use.
#[cold]
fn compact(page: &mut Page) {
    let mut old = [0; PAGE_LEN];
    let heap = usize::from(page.heap_start)..PAGE_LEN;
    old[heap.clone()].copy_from_slice(&page.bytes()[heap]);
    let bytes = page.bytes_mut();
    let mut end = PAGE_LEN;
    for at in (0..GRID.groups * LANES).map(SlotAt::of) {
        let start = cell_offset(bytes, at);
        if start != 0 {
            let cell = &old[start..start + CellHead::read(&old[start..]).cell_len()];
            end -= cell.len();
            bytes[end..end + cell.len()].copy_from_slice(cell);
            set_offset(bytes, at, end as u16);
        }
    }
    page.heap_start = end as u16;
    page.garbage = 0;
}
