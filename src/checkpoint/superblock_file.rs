//! Creates a superblock file: written whole and flushed under a temporary name, then renamed, then the directory flushed.
//!
//! A step machine: `open` runs it to its end, `commit` runs it between its own steps when the old file was condemned.

use super::format::{SECTOR_BYTES, superblock_name};
use super::superblock::{COPIES, Superblock};
use crate::io::{FileId, Io, IoError, IoOp, IoOutput, IoToken, OpenMode};
use crate::memory::{Arena, Buffer, MemoryError};
use std::path::{Path, PathBuf};

/// An open superblock file, and the checkpoint in each of its pairs of slots (0: free).
#[derive(Debug)]
pub(super) struct SuperblockFile {
    pub number: u32,
    pub file: FileId,
    pub pairs: Vec<u64>,
}

/// A superblock file on its way.
#[derive(Debug)]
pub(super) struct SuperblockCreation {
    dir: PathBuf,
    number: u32,
    pairs: Vec<u64>,
    contents: Option<Buffer>,
    file: Option<FileId>,
    stage: Stage,
    token: IoToken,
}

#[derive(Clone, Copy, Debug)]
enum Stage {
    Opening,
    Writing,
    Syncing,
    Renaming,
    SyncingDir,
}

impl SuperblockCreation {
    /// Starts file `number` with `pairs` pairs of slots that hold `retained` (fewer than `pairs`), the others free.
    pub(super) fn start(
        io: &mut dyn Io,
        arena: &Arena,
        dir: &Path,
        number: u32,
        free: &Superblock,
        retained: &[Superblock],
    ) -> Result<Self, MemoryError> {
        let pairs = free.pairs as usize;
        let job = super::format::fnv1a(free.job_name.as_bytes());
        let mut contents = Buffer::take(arena, "checkpoint store", pairs * COPIES * SECTOR_BYTES)?;
        contents.clear();
        let mut held = Vec::with_capacity(pairs);
        for pair in 0..pairs {
            let superblock = Superblock { pairs: free.pairs, ..retained.get(pair).unwrap_or(free).clone() };
            let appended = contents.append(superblock.copies(arena, job, number, pair)?.filled());
            debug_assert!(appended);
            held.push(superblock.checkpoint);
        }
        let path = dir.join(temporary_name(number));
        let token = io.submit(IoOp::Open { path, mode: OpenMode::Create, direct: true });
        let (dir, stage) = (dir.to_owned(), Stage::Opening);
        Ok(Self { dir, number, pairs: held, contents: Some(contents), file: None, stage, token })
    }

    /// Goes on; `Some` once the file exists for good, or failed (it is then closed and must not be used).
    pub(super) fn step(&mut self, io: &mut dyn Io) -> Option<Result<SuperblockFile, IoError>> {
        loop {
            match (self.stage, io.take(self.token)?) {
                (_, Err(error)) => {
                    if let Some(file) = self.file {
                        let closing = io.submit(IoOp::Close { file });
                        io.forget(closing);
                    }
                    return Some(Err(error));
                }
                (Stage::Opening, Ok(IoOutput::File(file))) => {
                    self.file = Some(file);
                    let from = self.contents.take()?;
                    self.go(io, Stage::Writing, IoOp::Write { file, offset: 0, from });
                }
                (Stage::Writing, Ok(_)) => {
                    let file = self.file?;
                    self.go(io, Stage::Syncing, IoOp::SyncData { file });
                }
                (Stage::Syncing, Ok(_)) => {
                    let from = self.dir.join(temporary_name(self.number));
                    let to = self.dir.join(superblock_name(self.number));
                    self.go(io, Stage::Renaming, IoOp::Rename { from, to });
                }
                (Stage::Renaming, Ok(_)) => {
                    let path = self.dir.clone();
                    self.go(io, Stage::SyncingDir, IoOp::SyncDir { path });
                }
                (Stage::SyncingDir, Ok(_)) => {
                    let pairs = std::mem::take(&mut self.pairs);
                    return self.file.map(|file| Ok(SuperblockFile { number: self.number, file, pairs }));
                }
                (Stage::Opening, Ok(other)) => {
                    return Some(Err(IoError {
                        action: "open",
                        path: self.dir.join(temporary_name(self.number)),
                        kind: std::io::ErrorKind::Other,
                        reason: format!("the driver answered {other:?}"),
                    }));
                }
            }
        }
    }

    fn go(&mut self, io: &mut dyn Io, stage: Stage, op: IoOp) {
        self.stage = stage;
        self.token = io.submit(op);
        io.drive();
    }
}

/// The name until the file is complete.
fn temporary_name(number: u32) -> String {
    format!("{}.tmp", superblock_name(number))
}

/// Whether a crash during creation left this file behind.
pub(super) fn is_temporary(name: &str) -> bool {
    name.strip_suffix(".tmp").is_some_and(|rest| super::format::number_in(rest, "superblock-").is_some())
}
