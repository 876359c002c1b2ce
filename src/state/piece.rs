//! The bytes of a piece: an image of a page, or the changed slots of one. They outlive the process.
//!
//! ```text
//! image        head, then by its kind:
//!   head       32 bytes: magic u32, page number u32, state u64, prefix u64, key group u16, entries u16, kind u8, depth u8,
//!              page length in KiB u8, zero u8
//!   1, page    the page itself (the head lies in its header), bits zero; fixed layout only
//!   2, entries every slot that is not empty, in slot order: {slot u14 | state u2, cell if live}
//! delta        entries u16, then every changed slot, likewise
//! ```
//! All little-endian. A piece is at most a page long and begins at any byte. Which piece is what, and of which page, the page map says; the
//! checksum, which the page map keeps, covers the page's key, so that a piece of another page is refused. A delta is so short because most
//! are of one slot or two. It does not know its page's depth and length: whatever changes these is an image.
//! Here: writing, and reading the head and the entries with every length checked. Not here: building pages of them (`restore`).

use super::layout::Layout;
use super::page::{EMPTY, PAGE_LEN, Page, PageBytes, SlotAt};
use crate::checkpoint::{HashSpan, PageKey, Piece, PieceKind};
use crate::memory::Buffer;
use bytemuck::{Pod, Zeroable};

/// "MSP" and the version of the format.
const MAGIC: u32 = u32::from_le_bytes(*b"MSP\x02");
const HEAD_LEN: usize = size_of::<ImageHead>();
/// The head of a delta: how many entries follow.
const DELTA_HEAD_LEN: usize = size_of::<u16>();
/// The room a harvested page may need: a delta of all its slots takes a little more than a page, in two pieces.
pub(super) const HARVEST_ROOM: usize = 2 * PAGE_LEN;

pub(super) const KIND_PAGE: u8 = 1;
pub(super) const KIND_ENTRIES: u8 = 2;

/// The head of an image.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(super) struct ImageHead {
    magic: u32,
    pub number: u32,
    pub state: u64,
    pub prefix: u64,
    pub key_group: u16,
    pub entries: u16,
    pub kind: u8,
    pub depth: u8,
    page_len_kib: u8,
    zero: u8,
}

/// What a slot holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SlotState {
    /// Nothing, and no probe goes past it.
    Empty = 0,
    /// Nothing, but probes go past it.
    Deleted = 1,
    /// A cell.
    Live = 2,
}

/// Slot number and state in one word.
pub(super) fn slot_word(slot: usize, state: SlotState) -> u16 {
    slot as u16 | (state as u16) << 14
}

/// The slot number in a word.
pub(super) fn slot_of(word: u16) -> u16 {
    word & 0x3fff
}

/// A buffer being filled with pieces.
pub(super) struct PieceBuffer {
    pub buffer: Buffer,
    pub pieces: Vec<Piece>,
}

impl PieceBuffer {
    pub fn len(&self) -> usize {
        self.buffer.len()
    }

    fn append(&mut self, bytes: &[u8]) {
        assert!(self.buffer.append(bytes), "the harvest asked for room before it began a page");
    }

    fn end_piece(&mut self, page: PageKey, kind: PieceKind, span: HashSpan, start: usize) {
        let (offset, len) = (start as u32, (self.len() - start) as u32);
        self.pieces.push(Piece { page, kind, offset, len, span });
    }
}

/// Fills in the head of a page's header, so that its bytes describe themselves.
pub(super) fn write_page_head(page: &mut Page, state: u64, layout: Layout) {
    let used = usize::from(page.used);
    let kind = match layout {
        // Half empty pages are shorter entry by entry.
        Layout::Fixed(shape) if (used * (2 + shape.cell_len()) + HEAD_LEN) * 2 > page.bytes().len() => KIND_PAGE,
        _ => KIND_ENTRIES,
    };
    let head = ImageHead {
        magic: MAGIC,
        number: page.number,
        state,
        prefix: page.prefix,
        key_group: page.group,
        entries: page.used,
        kind,
        depth: page.depth,
        page_len_kib: (page.bytes().len() >> 10) as u8,
        zero: 0,
    };
    page.bytes_mut()[..HEAD_LEN].copy_from_slice(bytemuck::bytes_of(&head));
}

impl ImageHead {
    /// The page that it is of.
    pub fn page_key(&self) -> PageKey {
        PageKey { state: self.state, key_group: self.key_group, page: self.number }
    }

    /// The length of the page that an image is of.
    pub fn page_len(&self) -> usize {
        usize::from(self.page_len_kib) << 10
    }

    /// The head of an image and what follows it.
    pub fn read(bytes: &[u8]) -> Result<(Self, &[u8]), &'static str> {
        let (head, rest) = bytes.split_at_checked(HEAD_LEN).ok_or("the image ends within its head")?;
        let head: Self = bytemuck::pod_read_unaligned(head);
        if head.magic != MAGIC || head.zero != 0 {
            return Err("the image does not begin like one");
        }
        Ok((head, rest))
    }
}

/// Writes an image of a page whose header holds its head.
pub(super) fn put_image(out: &mut PieceBuffer, bytes: &PageBytes, layout: Layout) {
    let start = out.len();
    let head: ImageHead = bytemuck::pod_read_unaligned(&bytes[..HEAD_LEN]);
    if head.kind == KIND_PAGE {
        out.append(bytes);
    } else {
        out.append(&bytes[..HEAD_LEN]);
        for slot in 0..layout.slots(bytes) {
            let at = SlotAt::of(slot);
            match bytes[layout.grid(bytes).tag_offset(at)] {
                EMPTY => {}
                super::page::DELETED => out.append(&slot_word(slot, SlotState::Deleted).to_le_bytes()),
                _ => {
                    out.append(&slot_word(slot, SlotState::Live).to_le_bytes());
                    out.append(&bytes[layout.cell(bytes, at)]);
                }
            }
        }
    }
    let span = HashSpan { prefix: head.prefix, depth: head.depth };
    out.end_piece(head.page_key(), PieceKind::Image, span, start);
}

/// A delta being written; it becomes two pieces when it would exceed a page.
pub(super) struct Delta<'a> {
    out: &'a mut PieceBuffer,
    page: PageKey,
    entries: u16,
    start: usize,
}

impl<'a> Delta<'a> {
    pub fn begin(out: &'a mut PieceBuffer, page: PageKey) -> Self {
        let start = out.len();
        out.append(&[0; DELTA_HEAD_LEN]);
        Self { out, page, entries: 0, start }
    }

    pub fn add(&mut self, slot_word: u16, cell: &[u8]) {
        if self.out.len() - self.start + 2 + cell.len() > PAGE_LEN {
            self.finish_piece();
            self.start = self.out.len();
            self.entries = 0;
            self.out.append(&[0; DELTA_HEAD_LEN]);
        }
        self.entries += 1;
        self.out.append(&slot_word.to_le_bytes());
        self.out.append(cell);
    }

    pub fn end(mut self) {
        if self.entries == 0 {
            // A page may be listed although all its changes left with a staged image.
            self.out.buffer.set_len(self.start);
        } else {
            self.finish_piece();
        }
    }

    fn finish_piece(&mut self) {
        let head = &mut self.out.buffer.filled_mut()[self.start..self.start + DELTA_HEAD_LEN];
        head.copy_from_slice(&self.entries.to_le_bytes());
        self.out.end_piece(self.page, PieceKind::Delta, HashSpan::default(), self.start);
    }
}

/// How many entries a delta says it has, and what follows.
pub(super) fn read_delta_head(bytes: &[u8]) -> Result<(u16, &[u8]), &'static str> {
    let (head, entries) = bytes.split_first_chunk().ok_or("the delta ends within its head")?;
    Ok((u16::from_le_bytes(*head), entries))
}

/// One slot as a piece describes it.
pub(super) struct Entry<'a> {
    pub at: SlotAt,
    pub state: SlotState,
    /// The whole cell; its lengths are within the layout's limits.
    pub cell: &'a [u8],
}

/// Reads the entries behind a head: `count` of them in slot order, and nothing after them; hands each to `each` together with the page
/// they are of.
pub(super) fn read_entries(
    mut bytes: &[u8],
    count: u16,
    page: &mut Page,
    layout: Layout,
    mut each: impl FnMut(&mut Page, Entry) -> Result<(), &'static str>,
) -> Result<(), &'static str> {
    let mut next_slot = 0;
    for _ in 0..count {
        let (word, rest) = bytes.split_at_checked(2).ok_or("the piece ends within an entry")?;
        let word = u16::from_le_bytes([word[0], word[1]]);
        let slot = usize::from(slot_of(word));
        if slot < next_slot || slot >= layout.slots(page.bytes()) {
            return Err("an entry's slot is out of order or out of range");
        }
        next_slot = slot + 1;
        let state = match word >> 14 {
            0 => SlotState::Empty,
            1 => SlotState::Deleted,
            2 => SlotState::Live,
            _ => return Err("an entry's state does not exist"),
        };
        let len = match state {
            SlotState::Live => layout.cell_len(rest).ok_or("an entry's cell is too long or cut off")?,
            _ => 0,
        };
        let (cell, rest) = rest.split_at(len);
        bytes = rest;
        each(page, Entry { at: SlotAt::of(slot), state, cell })?;
    }
    if bytes.is_empty() { Ok(()) } else { Err("the piece goes on after its last entry") }
}
