//! The superblock: which manifest is a checkpoint, and whether its blocks were flushed before it.
//!
//! ```text
//! superblock-NNNNNN.ms = slots of 4 KiB; slots 2i and 2i+1 hold two copies of the superblock of one checkpoint
//! payload   0  checkpoint (0: free slot) u64     32  older checkpoints retained: count  u32
//!           8  manifest: offset          u64     36  length of the job's name           u32
//!          16  manifest: length          u32     40  older checkpoints retained         16 x u64
//!          20  manifest: CRC32C          u32    168  the job's name                     272 bytes; 440: pairs of slots in the file u64
//!          24  manifest: file            u32
//!          28  durable (0 | 1)           u32          448  (end)
//! ```
//! Invariants: header and payload fill the first 512 bytes of a slot and all other bytes are always zero, so a write torn
//! at sectors of 512 bytes leaves the old superblock or the new one. A file gets its final name only after all of its
//! slots were written and flushed, so a slot that fails its checksum was damaged later; a crash does not do that.

use super::format::{self, BlockFault, BlockKind, BlockPlace, BlockRef, HEADER_BYTES, SECTOR_BYTES};
use crate::memory::{Arena, Buffer, MemoryError};

pub(super) const SCHEMA: &str =
    "superblock 1: checkpoint, manifest {offset, len, crc, file}, durable, retained[16], name[272], pairs";

/// Older checkpoints that a superblock can name.
pub(super) const RETAINED_MAX: usize = 16;
/// Bytes of a job's name.
pub(super) const NAME_BYTES_MAX: usize = 272;
/// Copies of one superblock.
pub(super) const COPIES: usize = 2;

/// What a slot says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Superblock {
    /// 0 in a free slot.
    pub checkpoint: u64,
    pub manifest: BlockRef,
    /// Everything the manifest names was flushed before this superblock was written.
    pub durable: bool,
    /// The older checkpoints that were kept when this one was committed.
    pub retained: Vec<u64>,
    pub job_name: String,
    /// How many pairs of slots the file has, so that a file cut short is noticed.
    pub pairs: u64,
}

#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct Stored {
    checkpoint: u64,
    manifest_offset: u64,
    manifest_len: u32,
    manifest_crc: u32,
    manifest_file: u32,
    durable: u32,
    retained_count: u32,
    name_len: u32,
    retained: [u64; RETAINED_MAX],
    name: [u8; NAME_BYTES_MAX],
    pairs: u64,
}

const _: () = assert!(size_of::<Stored>() + HEADER_BYTES == 512);

impl Superblock {
    /// What a slot that was never used says.
    pub(super) fn free(job_name: &str, pairs: usize) -> Self {
        let manifest =
            BlockRef { checkpoint: 0, offset: 0, file: 0, len_bytes: 0, crc: 0, kind: BlockKind::Manifest as u16 };
        Self {
            checkpoint: 0,
            manifest,
            durable: false,
            retained: Vec::new(),
            job_name: job_name.to_owned(),
            pairs: pairs as u64,
        }
    }

    /// Both copies for the slots `2 * pair` and `2 * pair + 1` of file `file`, ready to be written at the first one's place.
    pub(super) fn copies(&self, arena: &Arena, job: u64, file: u32, pair: usize) -> Result<Buffer, MemoryError> {
        let mut both = Buffer::take(arena, "checkpoint store", COPIES * SECTOR_BYTES)?;
        both.clear();
        for copy in 0..COPIES {
            let offset = ((pair * COPIES + copy) * SECTOR_BYTES) as u64;
            let place = BlockPlace { job, checkpoint: self.checkpoint, file, offset };
            let mut block = format::buffers_for(arena, bytemuck::bytes_of(&self.stored()))?;
            format::seal(&mut block, BlockKind::Superblock, place, size_of::<Stored>() as u64);
            let appended = both.append(block[0].filled());
            debug_assert!(appended);
        }
        Ok(both)
    }

    fn stored(&self) -> Stored {
        let mut stored = Stored {
            checkpoint: self.checkpoint,
            manifest_offset: self.manifest.offset,
            manifest_len: self.manifest.len_bytes,
            manifest_crc: self.manifest.crc,
            manifest_file: self.manifest.file,
            durable: u32::from(self.durable),
            retained_count: self.retained.len().min(RETAINED_MAX) as u32,
            name_len: self.job_name.len().min(NAME_BYTES_MAX) as u32,
            retained: [0; RETAINED_MAX],
            name: [0; NAME_BYTES_MAX],
            pairs: self.pairs,
        };
        self.retained.iter().zip(&mut stored.retained).for_each(|(id, slot)| *slot = *id);
        self.job_name.bytes().zip(&mut stored.name).for_each(|(byte, slot)| *slot = byte);
        stored
    }
}

/// Reads one slot of superblock file `file`. The job is not judged here but by its name, which the superblock tells.
pub(super) fn read_slot(slot: &[u8], file: u32, offset: u64) -> Result<Superblock, BlockFault> {
    let job = slot.get(16..24).map_or(0, |bytes| u64::from_le_bytes(bytes.try_into().expect("eight bytes")));
    let (payload, place, _) = format::check_alone(slot, job, BlockKind::Superblock as u16)?;
    if (place.file, place.offset) != (file, offset) {
        let words = |file: u32, offset: u64| format!("superblock file {file}, offset {offset}");
        return Err(BlockFault::Misplaced { found: words(place.file, place.offset), expected: words(file, offset) });
    }
    let malformed = |what: &str| BlockFault::Malformed(what.to_owned());
    let stored: Stored =
        bytemuck::try_pod_read_unaligned(&slot[payload]).map_err(|_| malformed("a superblock of another size"))?;
    let retained = stored
        .retained
        .get(..stored.retained_count as usize)
        .ok_or_else(|| malformed("too many retained checkpoints"))?;
    let name = stored.name.get(..stored.name_len as usize).ok_or_else(|| malformed("a job name that is too long"))?;
    let job_name = String::from_utf8(name.to_vec()).map_err(|_| malformed("a job name that is not UTF-8"))?;
    if format::fnv1a(job_name.as_bytes()) != job || stored.checkpoint != place.checkpoint {
        return Err(malformed("a superblock that contradicts its header"));
    }
    let manifest = BlockRef {
        checkpoint: stored.checkpoint,
        offset: stored.manifest_offset,
        file: stored.manifest_file,
        len_bytes: stored.manifest_len,
        crc: stored.manifest_crc,
        kind: BlockKind::Manifest as u16,
    };
    let retained = retained.to_vec();
    Ok(Superblock {
        checkpoint: stored.checkpoint,
        manifest,
        durable: stored.durable == 1,
        retained,
        job_name,
        pairs: stored.pairs,
    })
}
