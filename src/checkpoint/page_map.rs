//! The page map: for every page of keyed state the chain of pieces it is rebuilt from, an image first, then deltas.
//!
//! Here: the map in memory, how much of each extent is alive in it, its entries as archives (a base that holds everything,
//! or what one checkpoint changed). Not here: the blocks around the archives (`format`), when a base is due (`store`).
//!
//! Invariant: a chain begins with an image and holds no other; pieces follow in the order in which they are applied.
//! An image without bytes says that the page is gone.

use super::format::{BlockFault, BlockRef};
use super::snapshot::{HashSpan, PageKey, PieceKind};
use crate::state::KeyGroupRange;
use std::collections::BTreeMap;

pub(super) const SCHEMA: &str = "page map 1: rkyv 0.8 Vec<{state u64, offset u64, prefix u64, page u32, file u32, len u32, crc u32, key_group u16, kind u8, depth u8}>";

/// Entries in one block of the page map. An archived entry has 48 bytes, so a block stays near 64 KiB: a restore reads the block that
/// names the page it needs, and must not read much else.
pub(super) const ENTRIES_MAX: usize = 1_300;

/// Where one piece lies on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PieceRef {
    /// The extent file's number.
    pub file: u32,
    /// How many bytes.
    pub len: u32,
    /// From which byte of the file.
    pub offset: u64,
    /// CRC32C of exactly these bytes, so that one page is verified alone.
    pub crc: u32,
    /// Image or delta.
    pub kind: PieceKind,
    /// Of an image: which hashes the page holds.
    pub span: HashSpan,
}

/// One piece of one page, as the map's archives list them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub(super) struct Entry {
    state: u64,
    offset: u64,
    prefix: u64,
    page: u32,
    file: u32,
    len: u32,
    crc: u32,
    key_group: u16,
    kind: u8,
    depth: u8,
}

/// The pages of one checkpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct PageMap {
    chains: BTreeMap<PageKey, Vec<PieceRef>>,
    /// Bytes of pieces per extent.
    live_bytes: BTreeMap<u32, u64>,
    pieces: usize,
}

impl Entry {
    pub(super) fn new(page: PageKey, piece: PieceRef) -> Self {
        let PageKey { state, key_group, page } = page;
        let PieceRef { file, len, offset, crc, kind, span: HashSpan { prefix, depth } } = piece;
        Self { state, offset, prefix, page, file, len, crc, key_group, kind: (kind == PieceKind::Delta).into(), depth }
    }

    /// The page it is about.
    pub(super) fn page(&self) -> PageKey {
        PageKey { state: self.state, key_group: self.key_group, page: self.page }
    }

    pub(super) fn parts(&self) -> Option<(PageKey, PieceRef)> {
        let kind = match self.kind {
            0 => PieceKind::Image,
            1 => PieceKind::Delta,
            _ => return None,
        };
        let span = HashSpan { prefix: self.prefix, depth: self.depth };
        let (file, len, offset, crc) = (self.file, self.len, self.offset, self.crc);
        Some((self.page(), PieceRef { file, len, offset, crc, kind, span }))
    }
}

impl PageMap {
    /// Adds a piece: an image replaces what the page had, a delta follows it. A delta of a page without an image is refused.
    pub(super) fn apply(&mut self, page: PageKey, piece: PieceRef) -> bool {
        match piece.kind {
            PieceKind::Image => {
                let replaced = self.chains.remove(&page).unwrap_or_default();
                replaced.iter().for_each(|old| self.forget(old));
                if piece.len > 0 {
                    self.chains.insert(page, vec![piece]);
                    self.count(&piece);
                }
                true
            }
            PieceKind::Delta => match self.chains.get_mut(&page) {
                Some(chain) => {
                    chain.push(piece);
                    self.count(&piece);
                    true
                }
                None => false,
            },
        }
    }

    /// Applies one entry of an archive.
    pub(super) fn apply_entry(&mut self, entry: &Entry) -> Result<(), BlockFault> {
        let malformed = |what: String| BlockFault::Malformed(what);
        let (page, piece) = entry.parts().ok_or_else(|| malformed("an unknown kind of piece".to_owned()))?;
        if !self.apply(page, piece) {
            return Err(malformed(format!("a delta without an image for {page:?}")));
        }
        Ok(())
    }

    fn count(&mut self, piece: &PieceRef) {
        self.pieces += 1;
        *self.live_bytes.entry(piece.file).or_default() += u64::from(piece.len);
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
        self.chains.len()
    }

    /// How many pieces there are.
    pub(super) fn pieces(&self) -> usize {
        self.pieces
    }

    /// All pages in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (PageKey, &[PieceRef])> {
        self.chains.iter().map(|(page, chain)| (*page, chain.as_slice()))
    }

    /// The pages after `last` in order.
    pub(super) fn after(&self, last: Option<PageKey>) -> impl Iterator<Item = (PageKey, &[PieceRef])> {
        let from = last.map_or(std::ops::Bound::Unbounded, std::ops::Bound::Excluded);
        self.chains.range((from, std::ops::Bound::Unbounded)).map(|(page, chain)| (*page, chain.as_slice()))
    }

    /// The chain of one page; empty when there is none.
    pub(super) fn chain(&self, page: PageKey) -> &[PieceRef] {
        self.chains.get(&page).map_or(&[], Vec::as_slice)
    }

    /// The pages of one state within some key groups, in order.
    pub(super) fn range(&self, state: u64, groups: KeyGroupRange) -> impl Iterator<Item = (PageKey, &[PieceRef])> {
        let at = |key_group| PageKey { state, key_group, page: 0 };
        let chosen = (!groups.is_empty()).then(|| self.chains.range(at(groups.start)..at(groups.end)));
        chosen.into_iter().flatten().map(|(page, chain)| (*page, chain.as_slice()))
    }
}

/// The archive of some entries.
pub(super) fn encode(entries: &Vec<Entry>) -> Result<rkyv::util::AlignedVec, String> {
    rkyv::to_bytes::<rkyv::rancor::Error>(entries).map_err(|error| error.to_string())
}

/// An archive's entries. `bytes` must be aligned to 16; they passed their checksum.
pub(super) fn entries(bytes: &[u8]) -> Result<Vec<Entry>, BlockFault> {
    let entries = rkyv::access::<rkyv::vec::ArchivedVec<ArchivedEntry>, rkyv::rancor::Error>(bytes)
        .map_err(|error| BlockFault::Malformed(error.to_string()))?;
    let entry = |archived: &ArchivedEntry| Entry {
        state: archived.state.into(),
        offset: archived.offset.into(),
        prefix: archived.prefix.into(),
        page: archived.page.into(),
        file: archived.file.into(),
        len: archived.len.into(),
        crc: archived.crc.into(),
        key_group: archived.key_group.into(),
        kind: archived.kind,
        depth: archived.depth,
    };
    Ok(entries.iter().map(entry).collect())
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
    let at = |entry: Option<&Entry>| entry.map_or((0, 0), |entry| (entry.state, entry.key_group));
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
        assert!(map.apply(PAGE, piece(1, PieceKind::Image)));
        assert!(map.apply(PAGE, piece(2, PieceKind::Delta)));
        assert_eq!(map.live_bytes().iter().collect::<Vec<_>>(), [(&1, &100), (&2, &100)]);
        assert!(map.apply(PAGE, piece(3, PieceKind::Image)));
        assert_eq!(map.live_bytes().iter().collect::<Vec<_>>(), [(&3, &100)]);
        assert_eq!(map.chain(PAGE).len(), 1);
    }

    #[test]
    fn an_image_without_bytes_removes_the_page() {
        let mut map = PageMap::default();
        assert!(map.apply(PAGE, piece(1, PieceKind::Image)));
        assert!(map.apply(PAGE, PieceRef { len: 0, ..piece(1, PieceKind::Image) }));
        assert_eq!(map, PageMap::default());
    }

    #[test]
    fn a_delta_without_an_image_is_refused() {
        assert!(!PageMap::default().apply(PAGE, piece(1, PieceKind::Delta)));
    }

    #[test]
    fn a_full_block_of_entries_takes_sixty_four_kibibytes() {
        let entry = Entry::new(PAGE, piece(1, PieceKind::Image));
        let archive = encode(&vec![entry; ENTRIES_MAX]).unwrap();
        assert!(archive.len() + 64 <= 64 << 10, "{} bytes", archive.len());
    }

    proptest! {
        #[test]
        fn the_map_read_back_from_its_archive_is_the_map(ops in prop::collection::vec((0u64..3, 0u16..3, 0u32..5, any::<bool>(), 0u32..4), 0..200)) {
            let (mut map, mut entries) = (PageMap::default(), Vec::new());
            for (state, key_group, page, delta, file) in ops {
                let page = PageKey { state, key_group, page };
                let piece = piece(file, if delta { PieceKind::Delta } else { PieceKind::Image });
                if map.apply(page, piece) {
                    entries.push(Entry::new(page, piece));
                }
            }
            let mut back = PageMap::default();
            for entry in super::entries(&encode(&entries).unwrap()).unwrap() {
                back.apply_entry(&entry).unwrap();
            }
            prop_assert_eq!(&back, &map);
            let pages = map.iter().filter(|(page, _)| page.state == 1 && page.key_group == 2).count();
            prop_assert_eq!(map.range(1, KeyGroupRange { start: 2, end: 3 }).count(), pages);
        }
    }
}
