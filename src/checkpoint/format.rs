//! The bytes of a checkpoint directory: names of files, the header of a block, its checksum.
//!
//! ```text
//! DIR/LOCK                     held by flock while a job owns the directory; the holder's pid in it
//! DIR/superblock-NNNNNN.ms     slots of 4 KiB in pairs (two copies of one superblock); the highest number counts
//! DIR/extent-NNNNNN.ms         append-only blocks, each at a multiple of 4 KiB, in preallocated space
//!
//! block   |<-- 64 bytes -->|<- 0 or 4032 zeros ->|<- payload ->|<- zeros up to a multiple of 4 KiB ->|
//!           header                                 pieces | page map | manifest | superblock
//!
//! header   0  magic "MILLSTRM"                    32  file number              u32
//!          8  format version        u16           36  payload offset (64|4096) u32
//!         10  kind                  u16           40  block offset in the file u64
//!         12  CRC32C                u32           48  payload length in bytes  u64
//!         16  job: hash of its name u64           56  schema of the payload    u32
//!         24  checkpoint            u64           60  zero                     u32
//! ```
//! All integers are little-endian. The CRC covers the whole block, header (its own field zero) and zeros included, so a
//! block that lies in another place, file, job or checkpoint than its header says fails, and so does every changed byte.
//! A parent repeats the CRC of each block it names. A payload of pieces starts 4 KiB into its block when the buffer that
//! came from the state had no room for the header: it is written without being copied.
//!
//! Frozen for every later version: magic, version and CRC lie where they lie and the CRC covers what it covers, so that
//! an older program tells "newer" from "damaged".

use super::snapshot::{Piece, PieceBlock, PieceDigest};
use crate::memory::{Arena, Buffer, MemoryError};
use crc_fast::{CrcAlgorithm, Digest};
use rkyv::util::AlignedVec;
use std::ops::Range;

/// The version this program writes, and the newest it reads. It also pins rkyv 0.8 (little-endian, aligned, 32-bit offsets).
pub const FORMAT_VERSION: u16 = 1;

/// The unit in which blocks are placed, written and read.
pub(super) const SECTOR_BYTES: usize = 4096;

/// The bytes of a block's header.
pub(super) const HEADER_BYTES: usize = 64;

const MAGIC: [u8; 8] = *b"MILLSTRM";
const CRC_FIELD: Range<usize> = 12..16;

/// What a block holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub(super) enum BlockKind {
    Pieces = 1,
    PageMap = 2,
    Manifest = 3,
    Superblock = 4,
}

impl BlockKind {
    pub(super) fn from_stored(stored: u16) -> Option<Self> {
        [Self::Pieces, Self::PageMap, Self::Manifest, Self::Superblock].into_iter().find(|kind| *kind as u16 == stored)
    }

    /// What it is called where it is found damaged.
    pub(super) fn words(self) -> &'static str {
        match self {
            Self::Pieces => "block of pieces",
            Self::PageMap => "page map",
            Self::Manifest => "manifest",
            Self::Superblock => "superblock",
        }
    }

    /// Changes whenever the stored types of the payload change.
    fn schema(self) -> u32 {
        let words: &[u8] = match self {
            Self::Pieces => b"pieces 2",
            Self::PageMap => super::page_map::SCHEMA.as_bytes(),
            Self::Manifest => super::manifest::SCHEMA.as_bytes(),
            Self::Superblock => super::superblock::SCHEMA.as_bytes(),
        };
        fnv1a(words) as u32
    }
}

/// The header as it lies on disk.
#[derive(Clone, Copy, Debug, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct BlockHeader {
    magic: [u8; 8],
    version: u16,
    kind: u16,
    crc: u32,
    job: u64,
    checkpoint: u64,
    file: u32,
    payload_offset: u32,
    block_offset: u64,
    payload_len: u64,
    schema: u32,
    zero: u32,
}

const _: () = assert!(size_of::<BlockHeader>() == HEADER_BYTES && PieceBlock::HEAD_BYTES == HEADER_BYTES);

/// Where a block lies and who wrote it: all of it is in the header, and so under the CRC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BlockPlace {
    pub job: u64,
    pub checkpoint: u64,
    pub file: u32,
    pub offset: u64,
}

/// How a parent names a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub(super) struct BlockRef {
    pub checkpoint: u64,
    pub offset: u64,
    pub file: u32,
    /// With header and padding; a multiple of 4 KiB.
    pub len_bytes: u32,
    pub crc: u32,
    pub kind: u16,
}

/// Why the bytes of a block are not what they should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BlockFault {
    /// No magic: never a block, or its first bytes changed.
    #[error("no block begins here")]
    NotABlock,
    /// The file ends before the block does.
    #[error("the file ends after {found_bytes} of the block's {asked_bytes} bytes")]
    Truncated {
        /// The block's length.
        asked_bytes: u64,
        /// What the file still holds of it.
        found_bytes: u64,
    },
    /// The bytes changed since they were written.
    #[error("its checksum is {computed:08x}, {stored:08x} was stored")]
    ChecksumDiffers {
        /// The checksum in the header or in the parent.
        stored: u32,
        /// The checksum of the bytes.
        computed: u32,
    },
    /// A whole block, but another one than belongs here: misdirected, stale, or of a swapped file.
    #[error("the block here was written as {found}, expected was {expected}")]
    Misplaced {
        /// What the header says.
        found: String,
        /// What the parent says.
        expected: String,
    },
    /// A whole block of a later format.
    #[error("format version {found} is newer than {FORMAT_VERSION}, the newest this program reads")]
    NewerFormat {
        /// The version in the header.
        found: u16,
    },
    /// A whole block of another job.
    #[error("the block belongs to another job")]
    OtherJob,
    /// The payload is not the archive it should be.
    #[error("its contents are malformed: {0}")]
    Malformed(String),
    /// The operating system could not read it.
    #[error("{0}")]
    Unreadable(String),
}

/// A stable 64-bit hash of a name (FNV-1a).
pub(super) fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

/// CRC32C of some bytes.
pub(super) fn crc32c(bytes: &[u8]) -> u32 {
    crc_fast::checksum(CrcAlgorithm::Crc32Iscsi, bytes) as u32
}

/// The name of extent file `number`.
pub(super) fn extent_name(number: u32) -> String {
    format!("extent-{number:06}.ms")
}

/// The name of superblock file `number`.
pub(super) fn superblock_name(number: u32) -> String {
    format!("superblock-{number:06}.ms")
}

/// The number in a name made by `extent_name` (prefix `extent-`) or `superblock_name` (prefix `superblock-`).
pub(super) fn number_in(name: &str, prefix: &str) -> Option<u32> {
    let digits = name.strip_prefix(prefix)?.strip_suffix(".ms")?;
    let number = digits.parse().ok()?;
    (digits == format!("{number:06}")).then_some(number)
}

/// Room for a block of `payload_len` bytes, cut into buffers of at most 1 MiB, zeroed, with the payload copied in.
pub(super) fn buffers_for(arena: &Arena, payload: &[u8]) -> Result<Vec<Buffer>, MemoryError> {
    const PART_BYTES: usize = 1 << 20;
    let total = (HEADER_BYTES + payload.len()).next_multiple_of(SECTOR_BYTES);
    let mut parts = Vec::with_capacity(total.div_ceil(PART_BYTES));
    let mut rest = payload;
    for start in (0..total).step_by(PART_BYTES) {
        let len = PART_BYTES.min(total - start);
        let mut part = Buffer::take(arena, "checkpoint store", len)?;
        part.set_len(len);
        let bytes = part.filled_mut();
        let skip = if start == 0 { HEADER_BYTES } else { 0 };
        let copied = rest.len().min(len - skip);
        bytes[..skip].fill(0);
        bytes[skip..skip + copied].copy_from_slice(&rest[..copied]);
        bytes[skip + copied..].fill(0);
        rest = &rest[copied..];
        parts.push(part);
    }
    Ok(parts)
}

/// Writes the header into the first part, which has room for it, and returns how a parent names the block.
pub(super) fn seal(parts: &mut [Buffer], kind: BlockKind, place: BlockPlace, payload_len: u64) -> BlockRef {
    put_header(&mut parts[0], kind, place, payload_len);
    let mut digest = Digest::new(CrcAlgorithm::Crc32Iscsi);
    parts.iter().for_each(|part| digest.update(part.filled()));
    let len_bytes = parts.iter().map(Buffer::len).sum();
    put_crc(&mut parts[0], kind, place, len_bytes, digest.finalize() as u32)
}

/// As `seal`, for a block of pieces that lie within its one part. Calls `each` with every piece and its checksum. The block comes from another
/// core and is longer than what a core keeps at hand: it is gone through once, and a stretch of it is summed for the block right after
/// its pieces were.
pub(super) fn seal_pieces(
    part: &mut Buffer,
    place: BlockPlace,
    payload_len: u64,
    pieces: &[Piece],
    mut each: impl FnMut(&Piece, u32),
) -> BlockRef {
    /// Half of the cache nearest to a core.
    const STRETCH_BYTES: usize = 16 << 10;
    put_header(part, BlockKind::Pieces, place, payload_len);
    let (mut digest, mut of_piece) = (Digest::new(CrcAlgorithm::Crc32Iscsi), PieceDigest::default());
    let (bytes, mut summed) = (part.filled(), 0);
    for piece in pieces {
        let start = piece.offset as usize;
        let end = start + piece.len as usize;
        each(piece, of_piece.checksum(piece.page, &bytes[start..end]));
        if end >= summed + STRETCH_BYTES {
            digest.update(&bytes[summed..end]);
            summed = end;
        }
    }
    digest.update(&bytes[summed..]);
    let len_bytes = part.len();
    put_crc(part, BlockKind::Pieces, place, len_bytes, digest.finalize() as u32)
}

/// Writes a header without its checksum.
fn put_header(part: &mut Buffer, kind: BlockKind, place: BlockPlace, payload_len: u64) {
    let header = BlockHeader {
        magic: MAGIC,
        version: FORMAT_VERSION,
        kind: kind as u16,
        crc: 0,
        job: place.job,
        checkpoint: place.checkpoint,
        file: place.file,
        payload_offset: HEADER_BYTES as u32,
        block_offset: place.offset,
        payload_len,
        schema: kind.schema(),
        zero: 0,
    };
    part.filled_mut()[..HEADER_BYTES].copy_from_slice(bytemuck::bytes_of(&header));
}

/// Completes the header and returns how a parent names the block.
fn put_crc(part: &mut Buffer, kind: BlockKind, place: BlockPlace, len_bytes: usize, crc: u32) -> BlockRef {
    part.filled_mut()[CRC_FIELD].copy_from_slice(&crc.to_le_bytes());
    let BlockPlace { checkpoint, file, offset, .. } = place;
    BlockRef { checkpoint, offset, file, len_bytes: len_bytes as u32, crc, kind: kind as u16 }
}

/// The checksum of a block that is read part by part.
pub(super) struct BlockChecksum(Digest);

impl BlockChecksum {
    /// Of a block that begins with these bytes, which hold its header.
    pub(super) fn begin(first: &[u8]) -> Self {
        let mut digest = Digest::new(CrcAlgorithm::Crc32Iscsi);
        digest.update(&first[..CRC_FIELD.start]);
        digest.update(&[0; 4]);
        digest.update(&first[CRC_FIELD.end..]);
        Self(digest)
    }

    /// The bytes that follow.
    pub(super) fn add(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// That of all bytes.
    pub(super) fn finish(self) -> u32 {
        self.0.finalize() as u32
    }
}

/// Checks a whole block against what its parent says and returns where its payload lies.
pub(super) fn check(block: &[u8], job: u64, expected: &BlockRef) -> Result<Range<usize>, BlockFault> {
    let (payload, place, crc) = check_alone(block, job, expected.kind)?;
    let found = (place.checkpoint, place.file, place.offset);
    if found != (expected.checkpoint, expected.file, expected.offset) {
        let words = |(checkpoint, file, offset): (u64, u32, u64)| {
            format!("checkpoint {checkpoint}, file {file}, offset {offset}")
        };
        let expected = (expected.checkpoint, expected.file, expected.offset);
        return Err(BlockFault::Misplaced { found: words(found), expected: words(expected) });
    }
    if crc != expected.crc {
        return Err(BlockFault::ChecksumDiffers { stored: expected.crc, computed: crc });
    }
    Ok(payload)
}

/// Checks a block that has no parent; the caller judges the place.
pub(super) fn check_alone(block: &[u8], job: u64, kind: u16) -> Result<(Range<usize>, BlockPlace, u32), BlockFault> {
    let truncated = BlockFault::Truncated { asked_bytes: HEADER_BYTES as u64, found_bytes: block.len() as u64 };
    let header: BlockHeader = bytemuck::pod_read_unaligned(block.get(..HEADER_BYTES).ok_or(truncated)?);
    if header.magic != MAGIC {
        return Err(BlockFault::NotABlock);
    }
    let computed = BlockChecksum::begin(block).finish();
    if computed != header.crc {
        return Err(BlockFault::ChecksumDiffers { stored: header.crc, computed });
    }
    if header.version > FORMAT_VERSION {
        return Err(BlockFault::NewerFormat { found: header.version });
    }
    if header.job != job {
        return Err(BlockFault::OtherJob);
    }
    let malformed = |what: &str| BlockFault::Malformed(what.to_owned());
    let known = BlockKind::from_stored(header.kind).ok_or_else(|| malformed("an unknown kind of block"))?;
    if header.kind != kind {
        return Err(malformed("another kind of block"));
    }
    if header.schema != known.schema() {
        return Err(malformed("another schema"));
    }
    let start = header.payload_offset as usize;
    let end = usize::try_from(header.payload_len).ok().and_then(|len| start.checked_add(len));
    match end {
        Some(end)
            if start >= HEADER_BYTES && end <= block.len() && end.next_multiple_of(SECTOR_BYTES) == block.len() =>
        {
            let place =
                BlockPlace { job, checkpoint: header.checkpoint, file: header.file, offset: header.block_offset };
            Ok((start..end, place, computed))
        }
        _ => Err(malformed("a payload that does not fill its block")),
    }
}

/// What the header at the start of a sector promises, which may be anything: how long its block is, of which kind.
pub(super) fn promised(sector: &[u8]) -> Option<(u64, BlockKind)> {
    let header: BlockHeader = bytemuck::pod_read_unaligned(sector.get(..HEADER_BYTES)?);
    let end = u64::from(header.payload_offset).checked_add(header.payload_len)?;
    let len_bytes = end.checked_next_multiple_of(SECTOR_BYTES as u64).filter(|len| *len > 0)?;
    (header.magic == MAGIC).then_some((len_bytes, BlockKind::from_stored(header.kind)?))
}

/// A copy of `bytes` aligned as rkyv asks; the caller has bounded their length by a file's.
pub(super) fn aligned(bytes: &[u8]) -> AlignedVec<16> {
    let mut copy = AlignedVec::with_capacity(bytes.len());
    copy.extend_from_slice(bytes);
    copy
}

#[cfg(test)]
mod tests {
    use super::super::snapshot::{HashSpan, PageKey, PieceKind};
    use super::*;
    use crate::memory::{ArenaOptions, MemoryBudget};

    #[test]
    fn a_block_that_is_gone_through_once_has_the_checksum_of_all_its_bytes_and_that_of_every_piece() {
        let arena = Arena::new(MemoryBudget::new(8 << 20), ArenaOptions::default());
        let mut part = PieceBlock::take_buffer(&arena, "test", 256 << 10).unwrap();
        let mut pieces = Vec::new();
        for (page, len) in [20, 16 << 10, 3, 40_000, 0, 12_345].into_iter().enumerate() {
            let page = PageKey { state: 7, key_group: 3, page: page as u32 };
            let bytes: Vec<u8> = (0..len as usize).map(|at| (at * 31 + len as usize) as u8).collect();
            let piece =
                Piece { page, kind: PieceKind::Delta, offset: part.len() as u32, len, span: HashSpan::default() };
            assert!(part.append(&bytes));
            pieces.push((piece, page.checksum(&bytes)));
        }
        let payload_len = (part.len() - HEADER_BYTES) as u64;
        part.pad_to(SECTOR_BYTES);
        let place = BlockPlace { job: 1, checkpoint: 2, file: 3, offset: 4096 };
        let listed: Vec<Piece> = pieces.iter().map(|(piece, _)| *piece).collect();
        let mut summed = Vec::new();
        let block = seal_pieces(&mut part, place, payload_len, &listed, |piece, crc| summed.push((*piece, crc)));
        assert_eq!(summed, pieces);
        assert_eq!(check(part.filled(), 1, &block), Ok(HEADER_BYTES..HEADER_BYTES + payload_len as usize));
    }
}
