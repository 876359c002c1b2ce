//! Reads a checkpoint directory: which checkpoints its superblocks name, and one checkpoint with everything verified.
//!
//! Here: what `store` (at open), `verify` and `list` share; blocking reads through `Io::complete`, for start-up and tools.
//! Not here: writing anything, reading pieces of state while a job runs (`loader`).
//!
//! Invariants: lengths are held against the length of the file before anything is allocated; a checksum is checked before
//! an archive is looked at. "Newer format" and "another job" are refusals, never damage, and only a whole block (its
//! checksum fits) can say so.

use super::CheckpointId;
use super::error::{Damage, RestoreError};
use super::format::{self, BlockFault, BlockKind, BlockRef, SECTOR_BYTES};
use super::manifest::Manifest;
use super::page_map::{self, Entry, MapBlock, PageMap, PieceRef};
use super::snapshot::PageKey;
use super::superblock::{self, COPIES, Superblock};
use crate::io::{FileId, Io, IoError, IoOp, IoOutput, OpenMode};
use crate::memory::{Arena, Buffer};
use rkyv::util::AlignedVec;
use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// More bytes than any superblock file has.
const SUPERBLOCK_FILE_BYTES_MAX: u64 = 1 << 20;
const READ_BYTES_MAX: usize = 1 << 20;
/// A piece came out of one buffer.
const PIECE_BYTES_MAX: u32 = 1 << 20;

/// What the superblocks of a directory say.
#[derive(Debug, Default)]
pub(super) struct Catalog {
    /// Newest first; each was retained when the newest was committed.
    pub checkpoints: Vec<Superblock>,
    /// What is wrong with superblocks.
    pub damages: Vec<Damage>,
    /// The superblock file that counts, and the checkpoint in each of its pairs of slots (0: free or damaged).
    pub superblock: Option<(u32, Vec<u64>)>,
    /// All superblock files.
    pub superblock_numbers: Vec<u32>,
    /// All extent files.
    pub extent_numbers: Vec<u32>,
}

/// How much of a checkpoint is verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Depth {
    /// Manifest and every block that the checkpoint added, unless its superblock says that they were flushed before it.
    Added,
    /// Every block, the page map, and every piece.
    Everything,
}

/// A range of a file that was verified.
pub(super) type Checked = (u32, Range<u64>);

/// Why a checkpoint was not loaded.
#[derive(Debug)]
pub(super) enum LoadFault {
    Damaged(Vec<Damage>),
    Refused(RestoreError),
}

/// Files open for reading.
pub(super) struct Reader<'a> {
    io: &'a mut dyn Io,
    arena: &'a Arena,
    dir: PathBuf,
    extents: BTreeMap<u32, Result<(FileId, u64), BlockFault>>,
    /// What was verified so far, for `verify`.
    pub checked: Vec<Checked>,
    /// The first read that failed although the file is there: it says nothing about the bytes, which may be intact.
    pub failure: Option<String>,
}

pub(super) fn list_names(io: &mut dyn Io, dir: &Path) -> Result<Vec<String>, RestoreError> {
    match io.complete(IoOp::List { path: dir.to_owned() }).map_err(refusal)? {
        IoOutput::Names(names) => Ok(names),
        _ => Ok(Vec::new()),
    }
}

/// A failed operation on the directory itself.
pub(super) fn refusal(error: IoError) -> RestoreError {
    match error.kind {
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => {
            RestoreError::NoPermission { path: error.path, reason: error.reason }
        }
        _ => RestoreError::Io(error),
    }
}

impl<'a> Reader<'a> {
    pub(super) fn new(io: &'a mut dyn Io, arena: &'a Arena, dir: &Path) -> Self {
        Self { io, arena, dir: dir.to_owned(), extents: BTreeMap::new(), checked: Vec::new(), failure: None }
    }

    /// Reads the superblocks. `asked` is the job that wants the directory; tools do not ask.
    pub(super) fn catalog(&mut self, asked: Option<&str>) -> Result<Catalog, RestoreError> {
        let names = list_names(self.io, &self.dir)?;
        let numbers = |prefix| names.iter().filter_map(|name| format::number_in(name, prefix)).collect::<Vec<_>>();
        let mut catalog = Catalog {
            superblock_numbers: numbers("superblock-"),
            extent_numbers: numbers("extent-"),
            ..Catalog::default()
        };
        let mut superblocks: BTreeMap<u64, Superblock> = BTreeMap::new();
        for &number in catalog.superblock_numbers.iter().rev() {
            let path = self.dir.join(format::superblock_name(number));
            let slots = self.slots(number, &path, &mut catalog.damages)?;
            let named = slots.iter().flatten().find(|slot| asked.is_some_and(|asked| asked != slot.job_name));
            if let (Some(slot), Some(asked)) = (named, asked) {
                let (dir, found, asked) = (self.dir.clone(), slot.job_name.clone(), asked.to_owned());
                return Err(RestoreError::OtherJob { dir, found, asked });
            }
            if slots.iter().flatten().next().is_none() {
                continue;
            }
            let checkpoint = |slot: &Option<Superblock>| slot.as_ref().map_or(0, |slot| slot.checkpoint);
            let pairs = slots.chunks(COPIES).map(|pair| pair.iter().map(checkpoint).max().unwrap_or(0)).collect();
            catalog.superblock = Some((number, pairs));
            superblocks = slots.into_iter().flatten().map(|slot| (slot.checkpoint, slot)).collect();
            break;
        }
        superblocks.remove(&0);
        if let Some(newest) = superblocks.values().next_back().cloned() {
            superblocks.retain(|id, _| *id == newest.checkpoint || newest.retained.contains(id));
        }
        catalog.checkpoints = superblocks.into_values().rev().collect();
        Ok(catalog)
    }

    /// The slots of one superblock file; a damaged slot is `None`.
    fn slots(
        &mut self,
        number: u32,
        path: &Path,
        damages: &mut Vec<Damage>,
    ) -> Result<Vec<Option<Superblock>>, RestoreError> {
        let mut damaged = |offset, fault| {
            let (path, what) = (path.to_owned(), "superblock".to_owned());
            damages.push(Damage { checkpoint: CheckpointId(0), path, offset, what, fault });
        };
        let (file, len) = match self.open(path) {
            Ok(opened) => opened,
            Err(error) if error.kind == ErrorKind::PermissionDenied => return Err(refusal(error)),
            Err(error) => {
                damaged(0, BlockFault::Unreadable(error.to_string()));
                return Ok(Vec::new());
            }
        };
        let read_len = len.min(SUPERBLOCK_FILE_BYTES_MAX) / SECTOR_BYTES as u64 * SECTOR_BYTES as u64;
        let bytes = self.span(file, len, 0..read_len);
        self.close(file);
        let bytes = match bytes {
            Ok(bytes) => bytes,
            Err(fault) => {
                damaged(0, fault);
                return Ok(Vec::new());
            }
        };
        let mut slots = Vec::with_capacity(bytes.len() / SECTOR_BYTES);
        for (index, slot) in bytes.chunks(SECTOR_BYTES).enumerate() {
            let offset = (index * SECTOR_BYTES) as u64;
            match superblock::read_slot(slot, number, offset) {
                Ok(superblock) => slots.push(Some(superblock)),
                Err(BlockFault::NewerFormat { found }) => {
                    return Err(RestoreError::NewerFormat { path: path.to_owned(), found });
                }
                Err(fault) => {
                    damaged(offset, fault);
                    slots.push(None);
                }
            }
        }
        let pairs = slots.iter().flatten().map(|slot| slot.pairs).max().unwrap_or(1);
        let asked_bytes = pairs.saturating_mul((COPIES * SECTOR_BYTES) as u64);
        if len != asked_bytes {
            damaged(len, BlockFault::Truncated { asked_bytes, found_bytes: len });
        }
        Ok(slots)
    }

    /// Reads and verifies one checkpoint, as deep as asked.
    pub(super) fn load(&mut self, superblock: &Superblock, depth: Depth) -> Result<Manifest, LoadFault> {
        let job = format::fnv1a(superblock.job_name.as_bytes());
        let id = superblock.checkpoint;
        let mut damages = Vec::new();
        let manifest = self.manifest(job, superblock)?;
        if depth == Depth::Everything || !superblock.durable {
            for block in &manifest.added {
                let kind = BlockKind::from_stored(block.kind).unwrap_or(BlockKind::Pieces);
                if let Err(fault) = self.block(job, block, kind) {
                    match self.fault(id, block.file, block.offset, kind.words(), fault) {
                        LoadFault::Damaged(found) => damages.extend(found),
                        refused => return Err(refused),
                    }
                }
            }
        }
        if depth == Depth::Everything && damages.is_empty() {
            let mut map = PageMap::default();
            self.read_map(job, id, &manifest.page_map, |_, entry| map.apply_entry(&entry))?;
            self.check_pieces(id, &map, &mut damages);
        }
        if damages.is_empty() { Ok(manifest) } else { Err(LoadFault::Damaged(damages)) }
    }

    /// Reads blocks of a page map and hands their entries to `each`, with the index of their block. Entries that later ones replace may name
    /// files that are gone.
    pub(super) fn read_map(
        &mut self,
        job: u64,
        checkpoint: u64,
        blocks: &[MapBlock],
        mut each: impl FnMut(usize, Entry) -> Result<(), BlockFault>,
    ) -> Result<(), LoadFault> {
        for (index, MapBlock { block, first, last }) in blocks.iter().enumerate() {
            let read = self
                .block(job, block, BlockKind::PageMap)
                .and_then(|(bytes, payload)| page_map::entries(&bytes[payload]))
                .and_then(|entries| {
                    if !entries.is_sorted_by_key(|entry| entry.page) || page_map::range_of(&entries) != (*first, *last)
                    {
                        return Err(BlockFault::Malformed("entries of other pages than its parent says".to_owned()));
                    }
                    Ok(entries)
                });
            let entries = read.map_err(|fault| self.fault(checkpoint, block.file, block.offset, "page map", fault))?;
            for entry in entries {
                each(index, entry)
                    .map_err(|fault| self.fault(checkpoint, block.file, block.offset, "page map", fault))?;
            }
        }
        Ok(())
    }

    /// Holds every piece against the length of its file, so that later reads and allocations are bounded.
    pub(super) fn check_places(&mut self, checkpoint: u64, map: &PageMap) -> Result<(), LoadFault> {
        for (page, chain) in map.iter() {
            for piece in chain {
                let fault = match self.extent(piece.file) {
                    Ok((_, len)) => piece_fault(piece, len),
                    Err(fault) => Some(fault),
                };
                if let Some(fault) = fault {
                    return Err(LoadFault::Damaged(vec![self.piece_damage(checkpoint, page, piece, fault)]));
                }
            }
        }
        Ok(())
    }

    /// Looks for manifests block by block, for a directory whose superblocks are lost. Newest first.
    pub(super) fn scan(&mut self, extents: &[u32]) -> Vec<Superblock> {
        let mut found = BTreeMap::new();
        for &number in extents {
            let Ok((file, len)) = self.extent(number) else { continue };
            let mut offset = 0;
            while offset + SECTOR_BYTES as u64 <= len {
                let sector = self.span(file, len, offset..offset + SECTOR_BYTES as u64);
                let promised = sector.ok().and_then(|sector| format::promised(&sector));
                let whole = promised.filter(|(len_bytes, _)| *len_bytes <= len - offset);
                if let Some((len_bytes, BlockKind::Manifest)) = whole
                    && let Ok(block) = self.span(file, len, offset..offset + len_bytes)
                    && let Some(superblock) = superblock_for(&block, number, offset)
                {
                    found.insert(superblock.checkpoint, superblock);
                }
                offset += whole.map_or(SECTOR_BYTES as u64, |(len_bytes, _)| len_bytes);
            }
        }
        found.into_values().rev().collect()
    }

    /// Reads and verifies the manifest alone.
    pub(super) fn manifest(&mut self, job: u64, superblock: &Superblock) -> Result<Manifest, LoadFault> {
        let block = &superblock.manifest;
        let decoded =
            self.block(job, block, BlockKind::Manifest).and_then(|(bytes, payload)| Manifest::decode(&bytes[payload]));
        match decoded {
            Ok(manifest)
                if manifest.checkpoint == superblock.checkpoint && manifest.job_name == superblock.job_name =>
            {
                Ok(manifest)
            }
            Ok(_) => {
                let fault = BlockFault::Malformed("it contradicts its superblock".to_owned());
                Err(self.fault(superblock.checkpoint, block.file, block.offset, "manifest", fault))
            }
            Err(fault) => Err(self.fault(superblock.checkpoint, block.file, block.offset, "manifest", fault)),
        }
    }

    fn fault(&self, checkpoint: u64, file: u32, offset: u64, what: &str, fault: BlockFault) -> LoadFault {
        let path = self.dir.join(format::extent_name(file));
        match fault {
            BlockFault::NewerFormat { found } => LoadFault::Refused(RestoreError::NewerFormat { path, found }),
            fault => {
                let (checkpoint, what) = (CheckpointId(checkpoint), what.to_owned());
                LoadFault::Damaged(vec![Damage { checkpoint, path, offset, what, fault }])
            }
        }
    }

    fn check_pieces(&mut self, id: u64, map: &PageMap, damages: &mut Vec<Damage>) {
        for (page, chain) in map.iter() {
            for piece in chain {
                if let Err(fault) = self.piece(page, piece) {
                    damages.push(self.piece_damage(id, page, piece, fault));
                    if damages.len() >= DAMAGES_MAX {
                        return;
                    }
                }
            }
        }
    }

    fn piece_damage(&self, id: u64, page: PageKey, piece: &PieceRef, fault: BlockFault) -> Damage {
        let PageKey { state, key_group, page } = page;
        Damage {
            checkpoint: CheckpointId(id),
            path: self.dir.join(format::extent_name(piece.file)),
            offset: piece.offset,
            what: format!("state {state:016x}, key group {key_group}, page {page}"),
            fault,
        }
    }

    fn piece(&mut self, page: PageKey, piece: &PieceRef) -> Result<(), BlockFault> {
        let (file, file_len) = self.extent(piece.file)?;
        let span = sectors_around(piece);
        let skip = (piece.offset - span.start) as usize;
        let bytes = self.span(file, file_len, span)?;
        check_piece(page, &bytes[skip..skip + piece.len as usize], piece)?;
        self.checked.push((piece.file, piece.offset..piece.offset + u64::from(piece.len)));
        Ok(())
    }

    /// The whole block and where its payload lies.
    fn block(&mut self, job: u64, block: &BlockRef, kind: BlockKind) -> Result<(AlignedVec, Range<usize>), BlockFault> {
        if block.kind != kind as u16 {
            return Err(BlockFault::Malformed("a parent that names a block of another kind".to_owned()));
        }
        let (file, file_len) = self.extent(block.file)?;
        let end = block.offset.saturating_add(u64::from(block.len_bytes));
        let bytes = self.span(file, file_len, block.offset..end)?;
        let payload = format::check(&bytes, job, block)?;
        self.checked.push((block.file, block.offset..end));
        Ok((bytes, payload))
    }

    /// The length of an extent file, if it can be opened.
    pub(super) fn extent_len(&mut self, number: u32) -> Option<u64> {
        self.extent(number).ok().map(|(_, len)| len)
    }

    fn extent(&mut self, number: u32) -> Result<(FileId, u64), BlockFault> {
        if let Some(known) = self.extents.get(&number) {
            return known.clone();
        }
        let path = self.dir.join(format::extent_name(number));
        let opened = self.open(&path).map_err(|error| BlockFault::Unreadable(error.to_string()));
        self.extents.insert(number, opened.clone());
        opened
    }

    fn open(&mut self, path: &Path) -> Result<(FileId, u64), IoError> {
        let opened = self.open_file(path);
        if let Err(error) = &opened
            && error.kind != ErrorKind::NotFound
        {
            self.failed(error.to_string());
        }
        opened
    }

    /// A read that failed.
    fn failed(&mut self, reason: String) -> BlockFault {
        self.failure.get_or_insert_with(|| reason.clone());
        BlockFault::Unreadable(reason)
    }

    fn open_file(&mut self, path: &Path) -> Result<(FileId, u64), IoError> {
        let unexpected = |what| IoError {
            action: "open",
            path: path.to_owned(),
            kind: ErrorKind::Other,
            reason: format!("the driver answered {what:?}"),
        };
        let file = match self.io.complete(IoOp::Open { path: path.to_owned(), mode: OpenMode::Read, direct: true })? {
            IoOutput::File(file) => file,
            other => return Err(unexpected(other)),
        };
        match self.io.complete(IoOp::FileLen { file }) {
            Ok(IoOutput::Len(len)) => Ok((file, len)),
            Ok(other) => {
                self.close(file);
                Err(unexpected(other))
            }
            Err(error) => {
                self.close(file);
                Err(error)
            }
        }
    }

    /// The bytes of `range` (whole sectors) of a file of `file_len` bytes.
    fn span(&mut self, file: FileId, file_len: u64, range: Range<u64>) -> Result<AlignedVec, BlockFault> {
        let asked_bytes = range.end.saturating_sub(range.start);
        let truncated = |end: u64| BlockFault::Truncated { asked_bytes, found_bytes: end.saturating_sub(range.start) };
        if range.end > file_len {
            return Err(truncated(file_len));
        }
        if !range.start.is_multiple_of(SECTOR_BYTES as u64) || !range.end.is_multiple_of(SECTOR_BYTES as u64) {
            return Err(BlockFault::Malformed("a place that is no multiple of 4 KiB".to_owned()));
        }
        let mut bytes = AlignedVec::with_capacity(asked_bytes as usize);
        let mut offset = range.start;
        while offset < range.end {
            let len = READ_BYTES_MAX.min((range.end - offset) as usize);
            let into =
                Buffer::take(self.arena, "checkpoint reader", len).map_err(|error| self.failed(error.to_string()))?;
            match self.io.complete(IoOp::Read { file, offset, len, into }) {
                Ok(IoOutput::Buffer(buffer)) if buffer.len() == len => bytes.extend_from_slice(buffer.filled()),
                Ok(IoOutput::Buffer(buffer)) => return Err(truncated(offset + buffer.len() as u64)),
                Ok(other) => return Err(BlockFault::Unreadable(format!("the driver answered {other:?}"))),
                Err(error) => return Err(self.failed(error.to_string())),
            }
            offset += len as u64;
        }
        Ok(bytes)
    }

    fn close(&mut self, file: FileId) {
        // Nothing was written through it; a failing close changes nothing.
        let _ = self.io.complete(IoOp::Close { file });
    }
}

impl Drop for Reader<'_> {
    fn drop(&mut self) {
        for (file, _) in std::mem::take(&mut self.extents).into_values().flatten() {
            self.close(file);
        }
    }
}

/// Damages listed per checkpoint; more of them tell nothing new.
const DAMAGES_MAX: usize = 100;

/// The superblock that named this manifest, if it is one and lies where it was written.
fn superblock_for(block: &[u8], file: u32, offset: u64) -> Option<Superblock> {
    let job = u64::from_le_bytes(block.get(16..24)?.try_into().ok()?);
    let (payload, place, crc) = format::check_alone(block, job, BlockKind::Manifest as u16).ok()?;
    let manifest = Manifest::decode(&format::aligned(&block[payload])).ok()?;
    let is_here = (place.file, place.offset) == (file, offset) && place.checkpoint == manifest.checkpoint;
    let kind = BlockKind::Manifest as u16;
    let len_bytes = u32::try_from(block.len()).ok()?;
    (is_here && format::fnv1a(manifest.job_name.as_bytes()) == job).then(|| Superblock {
        checkpoint: manifest.checkpoint,
        manifest: BlockRef { checkpoint: manifest.checkpoint, offset, file, len_bytes, crc, kind },
        durable: true,
        retained: Vec::new(),
        job_name: manifest.job_name,
        pairs: 0,
    })
}

/// The whole sectors that a piece lies in.
pub(super) fn sectors_around(piece: &PieceRef) -> Range<u64> {
    let sector = SECTOR_BYTES as u64;
    piece.offset / sector * sector..(piece.offset + u64::from(piece.len)).next_multiple_of(sector)
}

/// Whether a piece can lie in a file of this length.
fn piece_fault(piece: &PieceRef, file_len: u64) -> Option<BlockFault> {
    let end = piece.offset.checked_add(u64::from(piece.len));
    if piece.len > PIECE_BYTES_MAX || end.is_none() {
        return Some(BlockFault::Malformed(format!("a piece of {} bytes", piece.len)));
    }
    end.filter(|end| *end > file_len).map(|_| BlockFault::Truncated {
        asked_bytes: u64::from(piece.len),
        found_bytes: file_len.saturating_sub(piece.offset),
    })
}

/// Whether these are the piece's bytes.
pub(super) fn check_piece(page: PageKey, bytes: &[u8], piece: &PieceRef) -> Result<(), BlockFault> {
    match page.checksum(bytes) {
        computed if computed == piece.crc => Ok(()),
        computed => Err(BlockFault::ChecksumDiffers { stored: piece.crc, computed }),
    }
}
