//! A committed checkpoint as files: what has to be carried elsewhere, and how a directory is made of what was carried.
//!
//! Extents are append-only and a committed checkpoint lies below what was used of each when it was committed, so these ranges never
//! change again; superblocks do, and are not carried but made anew. Not here: who carries them where (`remote`, or a host's own).

use super::CheckpointId;
use super::catalog::{Depth, LoadFault, Reader, refusal};
use super::error::RestoreError;
use super::format::{self, BlockKind, BlockRef};
use super::store::{StoreOptions, pairs_for};
use super::superblock::Superblock;
use super::superblock_file::SuperblockCreation;
use crate::io::{Io, IoOp};
use crate::memory::Arena;
use std::fmt::Debug;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// The files of one committed checkpoint. While it is held they stay and do not change, up to the lengths given here.
#[derive(Clone, Debug)]
pub struct CommittedFiles {
    /// The directory they lie in.
    pub dir: PathBuf,
    /// Which checkpoint, of which job, and where its manifest lies.
    pub named: NamedCheckpoint,
    /// Each extent that it reaches: its number, and how many of its bytes count.
    pub extents: Vec<(u32, u64)>,
    pub(super) _pinned: Option<Arc<()>>,
}

/// What a superblock says of a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedCheckpoint {
    /// Its number.
    pub checkpoint: CheckpointId,
    /// Its job.
    pub job_name: String,
    /// The extent that its manifest lies in.
    pub manifest_extent: u32,
    /// From which byte on.
    pub manifest_offset: u64,
    /// How many bytes, with header and padding.
    pub manifest_len_bytes: u32,
    /// The checksum of these bytes.
    pub manifest_crc: u32,
}

/// Somebody who is told of committed checkpoints and carries them elsewhere, at its own pace and on a thread of its own. All calls
/// come from the thread that makes checkpoints durable: they return at once. It never fails the job.
pub trait CheckpointFollower: Send + Sync + Debug {
    /// Whether it would take a checkpoint that was committed now.
    fn wants(&self, now_ns: u64) -> bool;

    /// A checkpoint was committed. Holding `files` keeps them on disk.
    fn follow(&self, files: CommittedFiles, now_ns: u64);

    /// A savepoint of the job is complete in this directory. It is the user's, who may remove it: a follower that carries it finds it gone
    /// then. Does nothing unless a follower says otherwise.
    fn savepoint(&self, _dir: &Path) {}

    /// The job has ended, with this checkpoint as its last one.
    fn finish(&self, last: Option<CommittedFiles>);

    /// Whether it still works on what it was given before `finish`. The job counts as running until it does not.
    fn is_busy(&self) -> bool;
}

/// The name of an extent file.
pub fn extent_file_name(number: u32) -> String {
    format::extent_name(number)
}

impl CommittedFiles {
    /// The newest intact checkpoint of a directory that nobody writes to: a savepoint. Blocks.
    pub fn of_directory(io: &mut dyn Io, arena: &Arena, dir: &Path) -> Result<Self, RestoreError> {
        let mut reader = Reader::new(io, arena, dir);
        let catalog = reader.catalog(None)?;
        let mut damages = catalog.damages;
        for superblock in &catalog.checkpoints {
            match reader.load(superblock, Depth::Added) {
                Ok(manifest) => {
                    let numbers = manifest.extents.into_iter().chain([superblock.manifest.file]);
                    let numbers: std::collections::BTreeSet<u32> = numbers.collect();
                    let extents = numbers.into_iter().filter_map(|n| Some((n, reader.extent_len(n)?))).collect();
                    let named = NamedCheckpoint::of(superblock);
                    return Ok(Self { dir: dir.to_owned(), named, extents, _pinned: None });
                }
                Err(LoadFault::Refused(refusal)) => return Err(refusal),
                Err(LoadFault::Damaged(found)) => damages.extend(found),
            }
        }
        match damages.is_empty() {
            true => Err(RestoreError::NoCheckpoint { dir: dir.to_owned() }),
            false => Err(RestoreError::AllDamaged { dir: dir.to_owned(), damages }),
        }
    }
}

impl NamedCheckpoint {
    pub(super) fn of(superblock: &Superblock) -> Self {
        Self {
            checkpoint: CheckpointId(superblock.checkpoint),
            job_name: superblock.job_name.clone(),
            manifest_extent: superblock.manifest.file,
            manifest_offset: superblock.manifest.offset,
            manifest_len_bytes: superblock.manifest.len_bytes,
            manifest_crc: superblock.manifest.crc,
        }
    }

    /// Makes a directory that holds its extents a checkpoint directory, by a superblock that names it. The extents must be flushed.
    /// Blocks; verifies nothing: the directory is verified when it is opened.
    pub fn make_directory(&self, io: &mut dyn Io, arena: &Arena, dir: &Path) -> Result<(), RestoreError> {
        let pairs = pairs_for(&StoreOptions::default());
        let free = Superblock::free(&self.job_name, pairs);
        let named = Superblock {
            checkpoint: self.checkpoint.0,
            manifest: BlockRef {
                checkpoint: self.checkpoint.0,
                offset: self.manifest_offset,
                file: self.manifest_extent,
                len_bytes: self.manifest_len_bytes,
                crc: self.manifest_crc,
                kind: BlockKind::Manifest as u16,
            },
            // Not known to be: every block it added is verified when it is opened.
            durable: false,
            retained: Vec::new(),
            ..free.clone()
        };
        let mut creation = SuperblockCreation::start(io, arena, dir, 1, &free, &[named])?;
        loop {
            io.drive();
            if let Some(ended) = creation.step(io) {
                let file = ended.map_err(refusal)?.file;
                // Everything was flushed before it was renamed.
                let _ = io.complete(IoOp::Close { file });
                return Ok(());
            }
            io.wait(Duration::from_millis(10));
        }
    }
}
