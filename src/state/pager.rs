//! Where pages are that are not in memory: in the checkpoint the job started from, or in the spill file. One per backend.
//!
//! Here: reading pieces of the checkpoint, the spill file and its slots. Not here: which page is where, which one leaves (`residency`).
//!
//! ```text
//! spill file   slots of 16 KiB, each with a page as it lay in memory, with its dirty bits
//! ```
//! It is scratch: removed as soon as it is open, so that nothing of it outlives the process. Its space is allocated before it is used: a
//! full disk refuses to take a page, and then the page stays where it is. The checksum of each page is kept in memory.

use super::KeyGroupRange;
use crate::checkpoint::{PageIndex, PieceRef, RestoreError, RestoredCheckpoint};
use crate::io::{FileId, Io, IoError, IoOp, IoOutput, IoToken, OpenMode, SharedIo};
use crate::memory::{Arena, Block, BlockSize, Buffer};
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

const WHO: &str = "pages of keyed state read back";
const SECTOR_BYTES: u64 = 4096;
/// The length of a slot of the spill file.
pub(super) const SLOT_BYTES: u64 = super::page::PAGE_LEN as u64;
/// The spill file doubles, from so many slots and by at most so many: allocating takes a while.
const SLOTS_MIN: u32 = 32;
const SLOTS_PER_GROWTH_MAX: u32 = 2048;

/// Reads and writes pages for the tables of one backend.
pub(super) struct Pager {
    pub io: SharedIo,
    arena: Arena,
    restored: Option<Arc<RestoredCheckpoint>>,
    /// Extents of the restored checkpoint that are open.
    files: BTreeMap<u32, FileId>,
    spill: Option<SpillFile>,
    /// What pages leave of the budget to snapshots, channels and files.
    pub reserve_bytes: usize,
}

struct SpillFile {
    path: PathBuf,
    file: Option<FileId>,
    /// Slots that have space on the disk.
    slots: u32,
    free: Vec<u32>,
}

impl Pager {
    /// A pager over `io`; pages spill into a file of this path if one is given.
    pub fn new(
        io: SharedIo,
        arena: Arena,
        restored: Option<Arc<RestoredCheckpoint>>,
        spill_path: Option<PathBuf>,
    ) -> Self {
        let limit_bytes = arena.budget().limit_bytes();
        let reserve_bytes = match spill_path {
            Some(_) => (limit_bytes / 8).clamp(4 << 20, 64 << 20).min(limit_bytes / 2),
            None => 0,
        };
        let spill = spill_path.map(|path| SpillFile { path, file: None, slots: 0, free: Vec::new() });
        Self { io, arena, restored, files: BTreeMap::new(), spill, reserve_bytes }
    }

    /// The checkpoint that absent pages are read from.
    pub fn restored(&self) -> Option<&Arc<RestoredCheckpoint>> {
        self.restored.as_ref()
    }

    /// Nothing will be read from the checkpoint any more: its files may go.
    pub fn forget_restored(&mut self) {
        self.restored = None;
        for (_, file) in std::mem::take(&mut self.files) {
            let token = self.io.submit(IoOp::Close { file });
            self.io.forget(token);
        }
    }

    /// Where the pages of a state within some key groups lie; waits for the disk.
    pub fn index(&mut self, state: u64, groups: KeyGroupRange) -> Result<PageIndex, RestoreError> {
        match &self.restored {
            Some(restored) => restored.index(&mut self.io, &self.arena, state, groups),
            None => Ok(PageIndex::default()),
        }
    }

    /// Starts to read the sectors around a piece.
    pub fn read_piece(&mut self, piece: &PieceRef) -> Result<IoToken, String> {
        let span = sectors_around(piece.offset..piece.offset + u64::from(piece.len));
        self.read_extent(piece.file, span)
    }

    /// Starts to read whole sectors of an extent, at most 1 MiB.
    pub fn read_extent(&mut self, extent: u32, span: Range<u64>) -> Result<IoToken, String> {
        let len = (span.end - span.start) as usize;
        if len > BlockSize::M1.bytes() {
            return Err(format!("it takes {len} bytes, more than any piece"));
        }
        let file = self.extent(extent)?;
        let into = Buffer::take(&self.arena, WHO, len).map_err(|error| error.to_string())?;
        Ok(self.io.submit(IoOp::Read { file, offset: span.start, len, into }))
    }

    fn extent(&mut self, number: u32) -> Result<FileId, String> {
        if let Some(file) = self.files.get(&number) {
            return Ok(*file);
        }
        let restored = self.restored.as_ref().ok_or("no checkpoint to read from is left")?;
        let path = restored.extent_path(number);
        let opened = self.io.complete(IoOp::Open { path, mode: OpenMode::Read, direct: true });
        let file = opened_file(opened)?;
        self.files.insert(number, file);
        Ok(file)
    }

    /// Whether pages may leave memory.
    pub fn can_spill(&self) -> bool {
        self.spill.is_some()
    }

    /// Whether pages have left memory for the spill file: the state has outgrown its memory.
    pub fn has_spilled(&self) -> bool {
        self.spill.as_ref().is_some_and(|spill| spill.file.is_some())
    }

    /// Finds room for one page in the spill file; waits for the disk when the file must grow. `Err` says why there is none.
    pub fn take_slot(&mut self) -> Result<u32, String> {
        let Some(spill) = &mut self.spill else { return Err("the job has no directory to spill into".to_owned()) };
        if let Some(slot) = spill.free.pop() {
            return Ok(slot);
        }
        let file = match spill.file {
            Some(file) => file,
            None => {
                let open = IoOp::Open { path: spill.path.clone(), mode: OpenMode::Create, direct: true };
                let file = opened_file(self.io.complete(open))?;
                if let Err(error) = self.io.complete(IoOp::Remove { path: spill.path.clone() }) {
                    let closing = self.io.submit(IoOp::Close { file });
                    self.io.forget(closing);
                    return Err(error.to_string());
                }
                spill.file = Some(file);
                tracing::info!(path = %spill.path.display(), "the state no longer fits into its memory: cold pages go to this file");
                file
            }
        };
        let slots = spill.slots + spill.slots.clamp(SLOTS_MIN, SLOTS_PER_GROWTH_MAX);
        let allocated = self.io.complete(IoOp::Allocate { file, len_bytes: u64::from(slots) * SLOT_BYTES });
        allocated.map_err(|error| error.to_string())?;
        spill.free.extend((spill.slots..slots).rev());
        spill.slots = slots;
        spill.free.pop().ok_or_else(|| "the spill file did not grow".to_owned())
    }

    /// Gives room for a page back.
    pub fn free_slot(&mut self, slot: u32) {
        if let Some(spill) = &mut self.spill {
            spill.free.push(slot);
        }
    }

    /// Starts to write a page.
    pub fn write_slot(&mut self, slot: u32, page: Block) -> Option<IoToken> {
        let file = self.spill.as_ref()?.file?;
        let (offset, from) = (u64::from(slot) * SLOT_BYTES, Buffer::full(page));
        Some(self.io.submit(IoOp::Write { file, offset, from }))
    }

    /// Starts to read a page into `into`.
    pub fn read_slot(&mut self, slot: u32, into: Block) -> Option<IoToken> {
        let file = self.spill.as_ref()?.file?;
        let offset = u64::from(slot) * SLOT_BYTES;
        let len = into.len();
        Some(self.io.submit(IoOp::Read { file, offset, len, into: Buffer::full(into) }))
    }

    /// A page's memory: only as much of the budget as leaves the reserve to others.
    pub fn take_block(&self, who: &'static str, size: BlockSize) -> Result<Block, crate::memory::MemoryError> {
        self.arena.take_leaving(who, size, self.reserve_bytes)
    }

    /// Whether there is memory for another page without any page leaving.
    pub fn has_room(&self) -> bool {
        self.arena.can_lend_leaving(BlockSize::K16, self.reserve_bytes)
    }

    /// Closes the files; what is under way is given up.
    pub fn close(&mut self) {
        self.forget_restored();
        if let Some(file) = self.spill.take().and_then(|spill| spill.file) {
            let token = self.io.submit(IoOp::Close { file });
            self.io.forget(token);
        }
    }
}

/// The whole sectors that bytes of a file lie in.
pub(super) fn sectors_around(bytes: Range<u64>) -> Range<u64> {
    bytes.start / SECTOR_BYTES * SECTOR_BYTES..bytes.end.next_multiple_of(SECTOR_BYTES)
}

fn opened_file(answer: Result<IoOutput, IoError>) -> Result<FileId, String> {
    match answer {
        Ok(IoOutput::File(file)) => Ok(file),
        Ok(other) => Err(format!("the driver answered {other:?} to an open")),
        Err(error) => Err(error.to_string()),
    }
}
