//! The page map: for every page of keyed state the chain of pieces it is rebuilt from, an image first, then deltas.
//!
//! Here: the map in memory, how much of each extent is alive in it, its entries as bytes (a base that holds everything,
//! or what one checkpoint changed). Not here: the blocks around those bytes (`format`), when a base is due (`store`).
//!
//! Invariant: a chain begins with an image and holds no other; pieces follow in the order in which they are applied.
//! An image without bytes says that the page is gone.
//!
//! A checkpoint of few changes is mostly entries, so these are short. One behind the other, in the order of their pages:
//!
//! ```text
//! step      varint: 4 times by how much the page number is greater than that of the entry before, plus what follows:
//!           0 an image, 1 a delta, 2 nothing, the page is gone, 3 a table
//! table     state u64, key group u16: that of the entries after it, whose page numbers begin at 0 again (step 0)
//! piece     place   varint: 2 times by how much the offset is greater than where the piece before ends (a signed number n as 2n or
//!                   -2n - 1), plus 1 if the file is another; offsets then begin at 0 again, and the file's number follows: varint
//!           length  varint
//!           CRC     u32
//! image     after its piece: depth u8, then that many bits of the prefix, in as few bytes as hold them
//! ```
//! All little-endian; a varint has 7 bits in a byte, the lowest first, and the highest bit set in all bytes but the last.

use super::format::{BlockFault, BlockRef};
use super::snapshot::{HashSpan, PageKey, PieceKind};
use crate::state::KeyGroupRange;
use std::collections::BTreeMap;
use std::ops::Bound;

/// Changes with what the head of this file draws.
pub(super) const SCHEMA: &str = "page map 2: {step, table | piece{place, length, crc}, image{depth, prefix}}";

/// No block of entries is longer, but for one that holds a single page: a restore reads the block that names the page it needs, and
/// must not read much else.
pub(super) const BLOCK_BYTES_MAX: usize = (64 << 10) - super::format::HEADER_BYTES;
/// No entry is longer.
const ENTRY_BYTES_MAX: usize = 64;
/// No payload is longer: what is allocated for its entries stays within bounds.
const PAYLOAD_BYTES_MAX: usize = 1 << 20;

/// Where one piece lies on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PieceRef {
    /// The extent file's number.
    pub file: u32,
    /// How many bytes.
    pub len: u32,
    /// From which byte of the file.
    pub offset: u64,
    /// `PageKey::checksum` of exactly these bytes, so that one page is verified alone.
    pub crc: u32,
    /// Image or delta.
    pub kind: PieceKind,
    /// Of an image: which hashes the page holds.
    pub span: HashSpan,
}

/// One piece of one page, as the map lists them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub page: PageKey,
    pub piece: PieceRef,
}

/// The pages of one checkpoint. A checkpoint of small changes all over a large state looks up a page for each of them, so a page is found
/// by its number: pages of a key group are numbered from 0 on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct PageMap {
    /// By state and key group: the chains in the order of their pages.
    tables: BTreeMap<(u64, u16), Vec<Chain>>,
    /// Pages whose chains have a late piece.
    late: Vec<PageKey>,
    /// Bytes of pieces per extent.
    live_bytes: BTreeMap<u32, u64>,
    pages: usize,
    pieces: usize,
}

/// The pieces of one page, and how long they are.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Chain {
    page: u32,
    image_bytes: u32,
    delta_bytes: u64,
    pieces: Vec<PieceRef>,
    /// The last piece, while it waits for its place behind the others.
    late: Option<PieceRef>,
}

/// How long the chain of a page is; all zero when the page is gone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct ChainLen {
    /// Of the image.
    pub image_bytes: u64,
    /// Of all deltas together.
    pub delta_bytes: u64,
    /// How many deltas there are.
    pub deltas: usize,
}

impl PieceRef {
    /// An image without bytes.
    const GONE: Self =
        Self { file: 0, len: 0, offset: 0, crc: 0, kind: PieceKind::Image, span: HashSpan { prefix: 0, depth: 0 } };
}

impl PageMap {
    /// Adds a piece: an image replaces what the page had, a delta follows it. Answers how long the chain is now, or `None`: a delta of a
    /// page without an image is refused.
    pub(super) fn apply(&mut self, page: PageKey, piece: PieceRef) -> Option<ChainLen> {
        let len = self.apply_late(page, piece);
        self.settle();
        len
    }

    /// Brings the pieces that `apply_late` added where they can be seen.
    pub(super) fn settle(&mut self) {
        while let Some(page) = self.late.pop() {
            if let Some(table) = self.tables.get_mut(&(page.state, page.key_group))
                && let Ok(at) = place_of(table, page.page)
            {
                let chain = &mut table[at];
                chain.pieces.extend(chain.late.take());
            }
        }
    }

    /// As `apply`, but of chains only their lengths may be looked at before `settle`. A commit has no time for more: the pieces of a chain lie
    /// where nobody has looked since its last one, and there are as many chains as pages that changed.
    pub(super) fn apply_late(&mut self, page: PageKey, piece: PieceRef) -> Option<ChainLen> {
        let of = (page.state, page.key_group);
        let table = match self.tables.get_mut(&of) {
            Some(table) => table,
            None if piece.kind == PieceKind::Image => self.tables.entry(of).or_default(),
            None => return None,
        };
        let (len, replaced) = match (piece.kind, place_of(table, page.page)) {
            (PieceKind::Delta, Err(_)) => return None,
            (PieceKind::Delta, Ok(at)) => {
                self.late.push(page);
                (table[at].push(piece), Vec::new())
            }
            (PieceKind::Image, Ok(at)) if piece.len > 0 => {
                let replaced = std::mem::replace(&mut table[at], Chain::of(page.page, piece));
                (table[at].len(), replaced.into_pieces())
            }
            (PieceKind::Image, Ok(at)) => {
                self.pages -= 1;
                (ChainLen::default(), table.remove(at).into_pieces())
            }
            (PieceKind::Image, Err(at)) if piece.len > 0 => {
                self.pages += 1;
                table.insert(at, Chain::of(page.page, piece));
                (table[at].len(), Vec::new())
            }
            (PieceKind::Image, Err(_)) => (ChainLen::default(), Vec::new()),
        };
        if table.is_empty() {
            self.tables.remove(&of);
        }
        replaced.iter().for_each(|old| self.forget(old));
        if piece.len > 0 || piece.kind == PieceKind::Delta {
            self.pieces += 1;
            *self.live_bytes.entry(piece.file).or_default() += u64::from(piece.len);
        }
        Some(len)
    }

    /// Applies one entry.
    pub(super) fn apply_entry(&mut self, Entry { page, piece }: &Entry) -> Result<(), BlockFault> {
        match self.apply(*page, *piece) {
            Some(_) => Ok(()),
            None => Err(BlockFault::Malformed(format!("a delta without an image for {page:?}"))),
        }
    }

    fn forget(&mut self, piece: &PieceRef) {
        self.pieces -= 1;
        if let Some(live) = self.live_bytes.get_mut(&piece.file) {
            *live -= u64::from(piece.len);
            if *live == 0 {
                self.live_bytes.remove(&piece.file);
            }
        }
    }

    /// The extents that hold pieces, with the bytes alive in each.
    pub(super) fn live_bytes(&self) -> &BTreeMap<u32, u64> {
        &self.live_bytes
    }

    /// How many pages there are.
    pub(super) fn pages(&self) -> usize {
        self.pages
    }

    /// How many pieces there are.
    pub(super) fn pieces(&self) -> usize {
        self.pieces
    }

    /// All pages in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (PageKey, &[PieceRef])> {
        self.tables.iter().flat_map(|(table, chains)| chains.iter().map(|chain| chain.shown(*table)))
    }

    /// How long the chains of all pages are, in their order.
    pub(super) fn lens(&self) -> impl Iterator<Item = (PageKey, ChainLen)> {
        let of = |table: (u64, u16)| move |chain: &Chain| (chain.shown(table).0, chain.len());
        self.tables.iter().flat_map(move |(table, chains)| chains.iter().map(of(*table)))
    }

    /// The pages after `last` in order.
    pub(super) fn after(&self, last: Option<PageKey>) -> impl Iterator<Item = (PageKey, &[PieceRef])> {
        let table = last.map(|page| (page.state, page.key_group));
        let first_table = table.map_or(Bound::Unbounded, Bound::Included);
        self.tables.range((first_table, Bound::Unbounded)).flat_map(move |(of, chains)| {
            let passed = last.filter(|_| table == Some(*of)).map_or(0, |last| match place_of(chains, last.page) {
                Ok(at) => at + 1,
                Err(at) => at,
            });
            chains[passed..].iter().map(|chain| chain.shown(*of))
        })
    }

    /// The chain of one page; empty when there is none.
    pub(super) fn chain(&self, page: PageKey) -> &[PieceRef] {
        let table = self.tables.get(&(page.state, page.key_group)).map_or(&[][..], Vec::as_slice);
        place_of(table, page.page).map_or(&[], |at| &table[at].pieces)
    }

    /// The pages of one state within some key groups, in order.
    pub(super) fn range(&self, state: u64, groups: KeyGroupRange) -> impl Iterator<Item = (PageKey, &[PieceRef])> {
        let chosen = (!groups.is_empty()).then(|| self.tables.range((state, groups.start)..(state, groups.end)));
        chosen.into_iter().flatten().flat_map(|(table, chains)| chains.iter().map(|chain| chain.shown(*table)))
    }
}

impl Chain {
    fn of(page: u32, image: PieceRef) -> Self {
        Self { page, image_bytes: image.len, delta_bytes: 0, pieces: vec![image], late: None }
    }

    fn push(&mut self, delta: PieceRef) -> ChainLen {
        self.delta_bytes += u64::from(delta.len);
        self.pieces.extend(self.late.replace(delta));
        self.len()
    }

    fn len(&self) -> ChainLen {
        let (image_bytes, delta_bytes) = (u64::from(self.image_bytes), self.delta_bytes);
        ChainLen { image_bytes, delta_bytes, deltas: self.pieces.len() - 1 + usize::from(self.late.is_some()) }
    }

    fn into_pieces(mut self) -> Vec<PieceRef> {
        self.pieces.extend(self.late);
        self.pieces
    }

    fn shown(&self, (state, key_group): (u64, u16)) -> (PageKey, &[PieceRef]) {
        (PageKey { state, key_group, page: self.page }, &self.pieces)
    }
}

/// Where the chain of a page is among those of its table, or would be. As long as no page is missing it is where its number says.
fn place_of(chains: &[Chain], page: u32) -> Result<usize, usize> {
    match chains.get(page as usize) {
        Some(chain) if chain.page == page => Ok(page as usize),
        _ if chains.last().is_none_or(|last| last.page < page) => Err(chains.len()),
        _ => chains.binary_search_by_key(&page, |chain| chain.page),
    }
}

/// What an entry is written relative to: the entry before it.
#[derive(Clone, Copy, Default)]
struct Before {
    /// State and key group; `None` before the first entry.
    table: Option<(u64, u16)>,
    page: u32,
    file: u32,
    /// Where its piece ends.
    end: u64,
}

const IMAGE: u64 = 0;
const DELTA: u64 = 1;
const GONE: u64 = 2;
const TABLE: u64 = 3;

/// The entries of one block being written.
#[derive(Default)]
pub(super) struct EntriesWriter {
    bytes: Vec<u8>,
    before: Before,
    first: Option<(u64, u16)>,
}

impl EntriesWriter {
    /// Adds the entries of one page, which is not before the last one's, unless the block would become too long.
    pub(super) fn push(&mut self, page: PageKey, pieces: &[PieceRef]) -> bool {
        if self.first.is_some() && self.bytes.len() + pieces.len() * ENTRY_BYTES_MAX > BLOCK_BYTES_MAX {
            return false;
        }
        pieces.iter().for_each(|piece| self.put(page, piece));
        true
    }

    /// The bytes and what they are about; `None` when there is no entry.
    pub(super) fn finish(self) -> Option<(Vec<u8>, MapRange)> {
        Some((self.bytes, (self.first?, self.before.table?)))
    }

    fn put(&mut self, page: PageKey, piece: &PieceRef) {
        let mut entry = EntryBytes::default();
        self.encode(page, piece, &mut entry);
        self.bytes.extend_from_slice(&entry.bytes[..entry.len]);
    }

    #[inline]
    fn encode(&mut self, page: PageKey, piece: &PieceRef, out: &mut EntryBytes) {
        let table = (page.state, page.key_group);
        if self.before.table != Some(table) {
            out.varint(TABLE);
            out.bytes(table.0.to_le_bytes());
            out.bytes(table.1.to_le_bytes());
            self.first.get_or_insert(table);
            (self.before.table, self.before.page) = (Some(table), 0);
        }
        let step = u64::from(page.page - self.before.page) << 2;
        self.before.page = page.page;
        match piece.kind {
            PieceKind::Image if piece.len == 0 => return out.varint(step | GONE),
            PieceKind::Image => out.varint(step | IMAGE),
            PieceKind::Delta => out.varint(step | DELTA),
        }
        let is_elsewhere = piece.file != self.before.file;
        let from = if is_elsewhere { 0 } else { self.before.end };
        let distance = piece.offset.wrapping_sub(from) as i64;
        let folded = (distance << 1 ^ distance >> 63) as u64;
        out.varint(folded << 1 | u64::from(is_elsewhere));
        if is_elsewhere {
            out.varint(u64::from(piece.file));
        }
        out.varint(u64::from(piece.len));
        out.bytes(piece.crc.to_le_bytes());
        (self.before.file, self.before.end) = (piece.file, piece.offset + u64::from(piece.len));
        if piece.kind == PieceKind::Image {
            let depth = piece.span.depth.min(64);
            let bits = piece.span.prefix.checked_shr(64 - u32::from(depth)).unwrap_or(0);
            out.bytes([depth]);
            out.bytes(bits.to_le_bytes());
            // Only as many as hold the bits.
            out.len -= 8 - usize::from(depth).div_ceil(8);
        }
    }
}

/// One entry being written, with its table where that is another: in a place of its own, so that not every byte asks whether there is room.
struct EntryBytes {
    bytes: [u8; ENTRY_BYTES_MAX],
    len: usize,
}

impl Default for EntryBytes {
    fn default() -> Self {
        Self { bytes: [0; ENTRY_BYTES_MAX], len: 0 }
    }
}

impl EntryBytes {
    #[inline(always)]
    fn bytes<const N: usize>(&mut self, bytes: [u8; N]) {
        self.bytes[self.len..self.len + N].copy_from_slice(&bytes);
        self.len += N;
    }

    #[inline(always)]
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.bytes([value as u8 | 0x80]);
            value >>= 7;
        }
        self.bytes([value as u8]);
    }
}

/// The entries in a block's payload, which passed its checksum but may be anything.
pub(super) fn entries(payload: &[u8]) -> Result<Vec<Entry>, BlockFault> {
    let malformed = |what: &str| BlockFault::Malformed(what.to_owned());
    if payload.len() > PAYLOAD_BYTES_MAX {
        return Err(malformed("a page map's block is longer than any"));
    }
    let (mut entries, mut before, mut rest) = (Vec::new(), Before::default(), Rest(payload));
    while !rest.0.is_empty() {
        let entry =
            rest.entry(&mut before).ok_or_else(|| malformed("an entry of the page map is cut off or out of range"))?;
        entries.extend(entry);
    }
    Ok(entries)
}

/// What is left of a payload. Everything that is read of it is `None` when it is not there or cannot be.
struct Rest<'a>(&'a [u8]);

impl Rest<'_> {
    /// The next entry; `Some(None)` for a table.
    fn entry(&mut self, before: &mut Before) -> Option<Option<Entry>> {
        let step = self.varint()?;
        if step == TABLE {
            before.table = Some((u64::from_le_bytes(self.take()?), u16::from_le_bytes(self.take()?)));
            before.page = 0;
            return Some(None);
        }
        let (state, key_group) = before.table?;
        before.page = u32::try_from(u64::from(before.page).checked_add(step >> 2)?).ok()?;
        let page = PageKey { state, key_group, page: before.page };
        let kind = match step & 3 {
            IMAGE => PieceKind::Image,
            DELTA => PieceKind::Delta,
            GONE => return Some(Some(Entry { page, piece: PieceRef::GONE })),
            _ => return None,
        };
        let place = self.varint()?;
        if place & 1 == 1 {
            (before.file, before.end) = (u32::try_from(self.varint()?).ok()?, 0);
        }
        let distance = (place >> 2) as i64 ^ -(place as i64 >> 1 & 1);
        let offset = before.end.checked_add_signed(distance)?;
        let len = u32::try_from(self.varint()?).ok().filter(|len| *len > 0 || kind == PieceKind::Delta)?;
        before.end = offset.checked_add(u64::from(len))?;
        let crc = u32::from_le_bytes(self.take()?);
        let span = if kind == PieceKind::Image { self.span()? } else { HashSpan::default() };
        Some(Some(Entry { page, piece: PieceRef { file: before.file, len, offset, crc, kind, span } }))
    }

    fn span(&mut self) -> Option<HashSpan> {
        let [depth] = self.take()?;
        let unused = 64u32.checked_sub(u32::from(depth))?;
        let (bytes, rest) = self.0.split_at_checked(usize::from(depth).div_ceil(8))?;
        self.0 = rest;
        let mut bits = [0; 8];
        bits[..bytes.len()].copy_from_slice(bytes);
        let bits = u64::from_le_bytes(bits);
        let prefix = bits.checked_shl(unused).unwrap_or(0);
        (prefix.checked_shr(unused).unwrap_or(0) == bits).then_some(HashSpan { prefix, depth })
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let [byte] = self.take()?;
            let bits = u64::from(byte & 0x7f);
            if bits << shift >> shift != bits {
                return None;
            }
            value |= bits << shift;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }

    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (bytes, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*bytes)
    }
}

/// A block of the page map and which key groups' pages it is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub(super) struct MapBlock {
    pub block: BlockRef,
    /// State and key group of its first entry; entries are in the order of their pages.
    pub first: (u64, u16),
    /// Those of its last.
    pub last: (u64, u16),
}

impl MapBlock {
    /// Whether it may name pages of this state in these key groups.
    pub(super) fn may_name(&self, state: u64, groups: KeyGroupRange) -> bool {
        !groups.is_empty() && self.first < (state, groups.end) && self.last >= (state, groups.start)
    }
}

/// The state and key group of the first and of the last of some entries in order.
pub(super) type MapRange = ((u64, u16), (u64, u16));

/// The range of some entries.
pub(super) fn range_of(entries: &[Entry]) -> MapRange {
    let at = |entry: Option<&Entry>| entry.map_or((0, 0), |entry| (entry.page.state, entry.page.key_group));
    (at(entries.first()), at(entries.last()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn piece(file: u32, kind: PieceKind) -> PieceRef {
        PieceRef { file, len: 100, offset: 64, crc: 7, kind, span: HashSpan::default() }
    }

    const PAGE: PageKey = PageKey { state: 1, key_group: 2, page: 3 };

    #[test]
    fn an_image_replaces_the_chain_and_frees_what_it_kept_alive() {
        let mut map = PageMap::default();
        map.apply(PAGE, piece(1, PieceKind::Image)).unwrap();
        map.apply(PAGE, piece(2, PieceKind::Delta)).unwrap();
        assert_eq!(map.live_bytes().iter().collect::<Vec<_>>(), [(&1, &100), (&2, &100)]);
        map.apply(PAGE, piece(3, PieceKind::Image)).unwrap();
        assert_eq!(map.live_bytes().iter().collect::<Vec<_>>(), [(&3, &100)]);
        assert_eq!(map.chain(PAGE).len(), 1);
    }

    #[test]
    fn an_image_without_bytes_removes_the_page() {
        let mut map = PageMap::default();
        map.apply(PAGE, piece(1, PieceKind::Image)).unwrap();
        map.apply(PAGE, PieceRef { len: 0, ..piece(1, PieceKind::Image) }).unwrap();
        assert_eq!(map, PageMap::default());
    }

    #[test]
    fn a_late_piece_counts_at_once_and_is_seen_when_the_map_is_settled() {
        let mut map = PageMap::default();
        map.apply(PAGE, piece(1, PieceKind::Image)).unwrap();
        let late = [2, 3].map(|file| map.apply_late(PAGE, piece(file, PieceKind::Delta)).unwrap().deltas);
        assert_eq!((late, map.pieces(), map.live_bytes().len()), ([1, 2], 3, 3));
        map.settle();
        assert_eq!(map.chain(PAGE).iter().map(|piece| piece.file).collect::<Vec<_>>(), [1, 2, 3]);
    }

    #[test]
    fn an_image_replaces_late_pieces_too() {
        let mut map = PageMap::default();
        map.apply(PAGE, piece(1, PieceKind::Image)).unwrap();
        map.apply_late(PAGE, piece(2, PieceKind::Delta)).unwrap();
        map.apply_late(PAGE, piece(3, PieceKind::Image)).unwrap();
        map.settle();
        assert_eq!(map.live_bytes().iter().collect::<Vec<_>>(), [(&3, &100)]);
        assert_eq!(map.chain(PAGE).len(), 1);
    }

    #[test]
    fn a_delta_without_an_image_is_refused() {
        assert_eq!(PageMap::default().apply(PAGE, piece(1, PieceKind::Delta)), None);
    }

    #[test]
    fn a_full_block_of_entries_takes_sixty_four_kibibytes() {
        let mut writer = EntriesWriter::default();
        let mut pages = (0..).map(|page| PageKey { page, ..PAGE });
        let far =
            |page: &PageKey| PieceRef { offset: u64::from(page.page % 7) << 40, ..piece(page.page, PieceKind::Image) };
        while pages.next().is_some_and(|page| writer.push(page, &[far(&page)])) {}
        let (bytes, range) = writer.finish().unwrap();
        assert!((63 << 10..=BLOCK_BYTES_MAX).contains(&bytes.len()), "{} bytes", bytes.len());
        assert_eq!(range, ((1, 2), (1, 2)));
    }

    #[test]
    fn a_delta_among_others_of_its_checkpoint_takes_nine_bytes() {
        let mut writer = EntriesWriter::default();
        for page in 0..1000 {
            let offset = u64::from(page * 7919 % 1000) * 60;
            writer.push(PageKey { page, ..PAGE }, &[PieceRef { offset, len: 60, ..piece(9, PieceKind::Delta) }]);
        }
        assert!(writer.finish().unwrap().0.len() <= 1000 * 9 + 16);
    }

    #[test]
    fn bytes_cut_off_anywhere_are_refused_or_end_with_an_entry() {
        let mut writer = EntriesWriter::default();
        writer.push(PAGE, &[piece(1, PieceKind::Image), piece(2, PieceKind::Delta)]);
        writer.push(PageKey { page: 9, ..PAGE }, &[PieceRef::GONE]);
        let (bytes, _) = writer.finish().unwrap();
        let whole = entries(&bytes).unwrap();
        let ends: Vec<usize> =
            (0..bytes.len()).filter(|&len| entries(&bytes[..len]).is_ok_and(|cut| whole.starts_with(&cut))).collect();
        let refused = (0..bytes.len()).filter(|&len| entries(&bytes[..len]).is_err()).count();
        assert_eq!((whole.len(), ends.len() + refused), (3, bytes.len()));
    }

    fn any_piece() -> impl Strategy<Value = PieceRef> {
        let place =
            (0u32..5, prop_oneof![0u64..1 << 20, any::<u64>().prop_map(|at| at >> 4)], 1u32..1 << 20, any::<u32>());
        (place, any::<bool>(), any::<u64>(), 0u8..=64).prop_map(|((file, offset, len, crc), is_delta, bits, depth)| {
            let prefix = bits & u64::MAX.checked_shl(64 - u32::from(depth)).unwrap_or(0);
            let (kind, span) = match is_delta {
                true => (PieceKind::Delta, HashSpan::default()),
                false => (PieceKind::Image, HashSpan { prefix, depth }),
            };
            PieceRef { file, len, offset, crc, kind, span }
        })
    }

    proptest! {
        #[test]
        fn entries_read_back_are_the_entries(listed in prop::collection::vec((0u64..3, any::<u16>(), any::<u32>(), any_piece()), 0..100)) {
            let entry = |(state, key_group, page, piece)| Entry { page: PageKey { state, key_group, page }, piece };
            let mut listed: Vec<Entry> = listed.into_iter().map(entry).collect();
            listed.sort_by_key(|entry| entry.page);
            let mut writer = EntriesWriter::default();
            prop_assert!(listed.iter().all(|entry| writer.push(entry.page, &[entry.piece])));
            let range = range_of(&listed);
            let (bytes, written) = writer.finish().unwrap_or_default();
            prop_assert_eq!(written, range);
            prop_assert_eq!(entries(&bytes).unwrap(), listed);
        }

        #[test]
        fn the_map_read_back_is_the_map(ops in prop::collection::vec((0u64..3, 0u16..3, 0u32..5, any::<bool>(), 0u32..4), 0..200)) {
            let (mut map, mut listed) = (PageMap::default(), Vec::new());
            for (state, key_group, page, delta, file) in ops {
                let page = PageKey { state, key_group, page };
                let piece = piece(file, if delta { PieceKind::Delta } else { PieceKind::Image });
                if map.apply(page, piece).is_some() {
                    listed.push(Entry { page, piece });
                }
            }
            listed.sort_by_key(|entry| entry.page);
            let mut writer = EntriesWriter::default();
            listed.iter().for_each(|entry| assert!(writer.push(entry.page, &[entry.piece])));
            let mut back = PageMap::default();
            for entry in entries(&writer.finish().unwrap_or_default().0).unwrap() {
                back.apply_entry(&entry).unwrap();
            }
            prop_assert_eq!(&back, &map);
            let pages = map.iter().filter(|(page, _)| page.state == 1 && page.key_group == 2).count();
            prop_assert_eq!(map.range(1, KeyGroupRange { start: 2, end: 3 }).count(), pages);
        }
    }
}
