//! Copies a committed checkpoint into a savepoint: a directory the user owns, complete in itself, and never changed again.
//!
//! ```text
//! NAME/superblock-000001.ms    names one manifest (its second to fourth pair of slots are free)
//! NAME/extent-NNNNNN.ms        blocks of pieces, the page map, then the manifest; the last extent ends where its blocks do
//! ```
//! A savepoint is an ordinary checkpoint directory that holds one full checkpoint, under the number and the job's name it was taken
//! with: blocks are as `format` draws them, the superblock as `superblock`, the manifest as `manifest`, pieces as `state/piece`. No
//! path is stored anywhere, so the directory may be renamed, moved and copied; nothing in it is locked or written by a restore.
//!
//! Everything is written by a store of its own under `NAME.tmp/`, each file flushed, then the directory; then it is renamed to
//! `NAME` and the parent flushed. So a crash at any point leaves a complete savepoint or none: `NAME.tmp` is none, and the next
//! savepoint of that name clears it. Here: the copying, a step machine. Not here: which checkpoint and when (`engine`).

use super::CheckpointId;
use super::error::{RestoreError, SavepointError};
use super::lock::DirLock;
use super::manifest::SnapshotKind;
use super::restored::RestoredCheckpoint;
use super::savepoint_pieces::SavepointPieces;
use super::snapshot::{OperatorBlob, StateDescriptor, SubtaskSnapshot};
use super::store::{CheckpointPlan, CheckpointStore, StoreEvent, StoreOptions};
use crate::io::{Io, IoError, IoOp, IoOutput, IoToken};
use crate::memory::Arena;
use crate::state::{KeyGroupRange, StateBackend};
use std::collections::{BTreeMap, VecDeque};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// A savepoint that was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Savepoint {
    /// Where it is.
    pub dir: PathBuf,
    /// The checkpoint it is a copy of.
    pub checkpoint: CheckpointId,
    /// Bytes of its blocks.
    pub bytes: u64,
    /// Pages of state in it.
    pub pages: u64,
}

/// What a savepoint holds beside its pages.
#[derive(Clone, Debug)]
pub struct SavepointContents {
    /// Its number.
    pub id: CheckpointId,
    /// The job it belongs to.
    pub job_name: String,
    /// When its state was what it is, in milliseconds since the Unix epoch.
    pub created_wall_ms: i64,
    /// Into how many key groups the state is cut.
    pub max_parallelism: u16,
    /// The job vertices and how many subtasks each had; at least one.
    pub vertices: BTreeMap<String, u32>,
    /// The keyed states.
    pub states: Vec<StateDescriptor>,
    /// The operators' small states.
    pub blobs: Vec<OperatorBlob>,
}

/// A savepoint being written; a step machine.
pub struct SavepointCopy {
    contents: SavepointContents,
    arena: Arena,
    dir: PathBuf,
    unfinished: PathBuf,
    options: StoreOptions,
    phase: Phase,
    lock: Option<DirLock>,
    store: Option<CheckpointStore>,
    pieces: Option<SavepointPieces>,
    written: Option<Savepoint>,
    failure: Option<SavepointError>,
}

#[derive(Debug)]
enum Phase {
    /// Nothing may be there under the name.
    Looking(IoToken),
    /// The directory under its temporary name.
    Creating(IoToken),
    /// What an earlier attempt left there.
    Listing(IoToken),
    /// That is removed.
    Clearing(Script),
    /// Pages go from the checkpoint to the store of the savepoint.
    Copying,
    /// The store commits.
    Committing,
    /// The store's last closes and removals.
    Settling,
    /// The last extent is cut, everything flushed, the directory renamed.
    Finishing(Script),
    /// It is complete: the lock file goes.
    Unlocking(Script),
    /// It failed: waits until nothing is under way.
    Failing,
    /// Closes what is open.
    ClosingFailed(Script),
    /// Looks what is there.
    ListingFailed(IoToken),
    /// Removes it.
    ClearingFailed(Script),
}

/// Operations one after the other.
#[derive(Debug)]
struct Script {
    left: VecDeque<IoOp>,
    under_way: Option<IoToken>,
}

impl Script {
    fn new(ops: impl IntoIterator<Item = IoOp>) -> Self {
        Self { left: ops.into_iter().collect(), under_way: None }
    }

    /// Goes on; `Some` when all are done, or one failed.
    fn step(&mut self, io: &mut dyn Io) -> Option<Result<(), IoError>> {
        loop {
            if let Some(token) = self.under_way {
                let answer = io.take(token)?;
                self.under_way = None;
                if let Err(error) = answer {
                    return Some(Err(error));
                }
            }
            let Some(op) = self.left.pop_front() else { return Some(Ok(())) };
            self.under_way = Some(io.submit(op));
            io.drive();
        }
    }
}

impl SavepointCopy {
    /// Starts to copy `source` into the directory `dir`, which must not exist. Buffers are borrowed from `arena`; all calls must be
    /// given the same `Io`.
    pub fn start(
        io: &mut dyn Io,
        arena: &Arena,
        source: Arc<RestoredCheckpoint>,
        dir: &Path,
        options: StoreOptions,
    ) -> Result<Self, SavepointError> {
        let contents = SavepointContents {
            id: source.id(),
            job_name: source.job_name().to_owned(),
            created_wall_ms: source.created_wall_ms(),
            max_parallelism: source.max_parallelism(),
            vertices: source.parallelism().clone(),
            states: source.states().to_vec(),
            blobs: source.all_blobs().to_vec(),
        };
        let pieces = SavepointPieces::of_checkpoint(source, arena);
        Self::start_with(io, arena, contents, pieces, dir, options)
    }

    /// Starts to write what `backend` holds. The barrier of its snapshot is made here.
    pub fn start_from_backend(
        io: &mut dyn Io,
        arena: &Arena,
        contents: SavepointContents,
        mut backend: StateBackend,
        dir: &Path,
        options: StoreOptions,
    ) -> Result<Self, SavepointError> {
        // What was loaded into it is not in this directory.
        backend.request_full();
        backend.barrier(contents.id);
        Self::start_with(io, arena, contents, SavepointPieces::of_backend(backend), dir, options)
    }

    fn start_with(
        io: &mut dyn Io,
        arena: &Arena,
        contents: SavepointContents,
        pieces: SavepointPieces,
        dir: &Path,
        options: StoreOptions,
    ) -> Result<Self, SavepointError> {
        let name = dir.file_name().ok_or_else(|| SavepointError::NoName { dir: dir.to_owned() })?;
        let mut unfinished = name.to_owned();
        unfinished.push(".tmp");
        let options = StoreOptions { blocks_queued_max: 4, write_bytes_in_flight_max: 4 << 20, ..options };
        let phase = Phase::Looking(io.submit(IoOp::List { path: dir.to_owned() }));
        Ok(Self {
            contents,
            arena: arena.clone(),
            unfinished: dir.with_file_name(unfinished),
            dir: dir.to_owned(),
            options,
            phase,
            lock: None,
            store: None,
            pieces: Some(pieces),
            written: None,
            failure: None,
        })
    }

    /// Where the savepoint is going to be.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Does a bounded amount of work without waiting; `Some` once the savepoint is complete and durable, or failed. Whatever a
    /// failed one wrote was removed as far as possible.
    pub fn step(&mut self, io: &mut dyn Io, now_ns: u64) -> Option<Result<Savepoint, SavepointError>> {
        match self.advance(io, now_ns) {
            Ok(Some(written)) => Some(Ok(written)),
            Ok(None) => None,
            Err(error) => {
                // The first failure is the reason; what fails while cleaning up is not.
                self.failure.get_or_insert(error);
                self.fail(io, now_ns)
            }
        }
    }

    /// Runs to the end, waiting: for tools.
    pub fn complete(mut self, io: &mut dyn Io) -> Result<Savepoint, SavepointError> {
        loop {
            io.drive();
            if let Some(ended) = self.step(io, 0) {
                return ended;
            }
            if io.in_flight() > 0 {
                io.wait(Duration::from_millis(10));
            }
        }
    }

    /// Gives up, waits for operations under way, and removes what was written. One of which all is written is rather brought to its end: the
    /// renaming that completes it may be under way, and what then happens nobody could take back.
    pub fn abandon(mut self, io: &mut dyn Io) -> Result<Savepoint, SavepointError> {
        if !matches!(self.phase, Phase::Finishing(_) | Phase::Unlocking(_)) {
            self.failure = Some(SavepointError::Abandoned { dir: self.dir.clone() });
            self.begin_failing();
        }
        self.complete(io)
    }

    fn advance(&mut self, io: &mut dyn Io, now_ns: u64) -> Result<Option<Savepoint>, SavepointError> {
        match &mut self.phase {
            Phase::Looking(token) => match io.take(*token) {
                None => {}
                Some(Err(error)) if error.kind == ErrorKind::NotFound => {
                    self.phase = Phase::Creating(io.submit(IoOp::CreateDirAll { path: self.unfinished.clone() }));
                }
                Some(Err(error)) if error.kind != ErrorKind::NotADirectory => return Err(error.into()),
                Some(_) => return Err(SavepointError::Exists { dir: self.dir.clone() }),
            },
            Phase::Creating(token) => {
                if let Some(created) = io.take(*token) {
                    created?;
                    let patience_ms = self.options.lock_patience_ms.map(|_| 0);
                    let lock = patience_ms.map(|patience_ms| DirLock::take(&self.unfinished, patience_ms)).transpose();
                    self.lock = lock.map_err(|error| self.locked(error))?;
                    self.phase = Phase::Listing(io.submit(IoOp::List { path: self.unfinished.clone() }));
                }
            }
            Phase::Listing(token) => {
                if let Some(listed) = io.take(*token) {
                    let removals = self.removals(listed?);
                    self.phase = Phase::Clearing(removals);
                }
            }
            Phase::Clearing(script) => {
                if let Some(cleared) = script.step(io) {
                    cleared?;
                    self.open(now_ns)?;
                }
            }
            Phase::Copying => self.copy(io, now_ns)?,
            Phase::Committing => self.commit(io, now_ns)?,
            Phase::Settling => self.settle(io, now_ns),
            Phase::Finishing(script) => {
                if let Some(finished) = script.step(io) {
                    finished.map_err(|error| match error.kind {
                        ErrorKind::DirectoryNotEmpty | ErrorKind::AlreadyExists => {
                            SavepointError::Exists { dir: self.dir.clone() }
                        }
                        _ => error.into(),
                    })?;
                    let lock = self.lock.is_some().then(|| IoOp::Remove { path: self.dir.join(DirLock::NAME) });
                    self.phase = Phase::Unlocking(Script::new(lock));
                }
            }
            Phase::Unlocking(script) => {
                // A lock file that stays is ignored by everybody who reads the savepoint.
                if script.step(io).is_some() {
                    self.lock = None;
                    return Ok(self.written.take());
                }
            }
            Phase::Failing | Phase::ClosingFailed(_) | Phase::ListingFailed(_) | Phase::ClearingFailed(_) => {
                return self.failure.clone().map_or(Ok(None), Err);
            }
        }
        Ok(None)
    }

    fn locked(&self, error: RestoreError) -> SavepointError {
        match error {
            RestoreError::Locked { pid, .. } => SavepointError::BeingWritten { dir: self.dir.clone(), pid },
            other => SavepointError::Directory(other),
        }
    }

    /// What is to be removed of a directory's names: everything but the lock.
    fn removals(&self, listed: IoOutput) -> Script {
        let IoOutput::Names(names) = listed else { return Script::new([]) };
        let others = names.into_iter().filter(|name| name != DirLock::NAME);
        Script::new(others.map(|name| IoOp::Remove { path: self.unfinished.join(name) }))
    }

    fn open(&mut self, now_ns: u64) -> Result<(), SavepointError> {
        let (arena, lock) = (&self.arena, self.lock.take());
        let SavepointContents { id, job_name, created_wall_ms, max_parallelism, vertices, .. } = &self.contents;
        let mut store = CheckpointStore::in_empty_directory(arena, &self.unfinished, job_name, self.options, lock);
        let plan = CheckpointPlan {
            id: *id,
            kind: SnapshotKind::Full,
            max_parallelism: *max_parallelism,
            vertices: vertices.iter().map(|(name, count)| (name.clone(), *count)).collect(),
            created_wall_ms: *created_wall_ms,
        };
        store.begin(plan, now_ns)?;
        self.store = Some(store);
        self.phase = Phase::Copying;
        Ok(())
    }

    fn copy(&mut self, io: &mut dyn Io, now_ns: u64) -> Result<(), SavepointError> {
        self.step_store(io, now_ns)?;
        let (Some(store), Some(pieces)) = (&mut self.store, &mut self.pieces) else { return Ok(()) };
        if let Some(blocks) = pieces.step(io, store)? {
            self.seal(blocks)?;
        }
        Ok(())
    }

    /// Every page is with the store: now what the subtasks said, and the commit.
    fn seal(&mut self, mut blocks: u32) -> Result<(), SavepointError> {
        let SavepointContents { id, max_parallelism, vertices, states, blobs, .. } = &mut self.contents;
        let Some(store) = &mut self.store else { return Ok(()) };
        for (vertex, parallelism) in vertices {
            for subtask in 0..*parallelism {
                let snapshot = SubtaskSnapshot {
                    vertex: vertex.clone(),
                    subtask,
                    key_groups: KeyGroupRange::of_subtask(subtask, *parallelism, *max_parallelism),
                    states: std::mem::take(states),
                    blobs: std::mem::take(blobs),
                    blocks: std::mem::take(&mut blocks),
                    harvest_ns: 0,
                };
                store.acknowledge(*id, snapshot);
            }
        }
        store.seal(*id)?;
        self.phase = Phase::Committing;
        Ok(())
    }

    fn commit(&mut self, io: &mut dyn Io, now_ns: u64) -> Result<(), SavepointError> {
        self.step_store(io, now_ns)?;
        if self.written.is_some() {
            self.phase = Phase::Settling;
        }
        Ok(())
    }

    fn step_store(&mut self, io: &mut dyn Io, now_ns: u64) -> Result<(), SavepointError> {
        let Some(store) = &mut self.store else { return Ok(()) };
        match store.step(io, now_ns) {
            None => Ok(()),
            Some(StoreEvent::Failed { error, .. }) => Err(error.into()),
            Some(StoreEvent::Committed { id, new_bytes, pages, .. }) => {
                self.written = Some(Savepoint { dir: self.dir.clone(), checkpoint: id, bytes: new_bytes, pages });
                Ok(())
            }
        }
    }

    fn settle(&mut self, io: &mut dyn Io, now_ns: u64) {
        if let Some(pieces) = self.pieces.take() {
            pieces.close(io);
        }
        let Some(mut store) = self.store.take() else { return };
        store.step(io, now_ns);
        if !store.is_quiet() {
            self.store = Some(store);
            return;
        }
        let (files, lock) = store.into_files();
        self.lock = lock;
        let mut ops = Vec::new();
        if let Some((file, len_bytes)) = files.last_extent {
            ops.extend([IoOp::Truncate { file, len_bytes }, IoOp::SyncData { file }, IoOp::Close { file }]);
        }
        ops.extend(files.superblock.map(|file| IoOp::Close { file }));
        ops.push(IoOp::SyncDir { path: self.unfinished.clone() });
        ops.push(IoOp::Rename { from: self.unfinished.clone(), to: self.dir.clone() });
        ops.push(IoOp::SyncDir { path: parent_of(&self.dir) });
        self.phase = Phase::Finishing(Script::new(ops));
    }

    fn begin_failing(&mut self) {
        let is_failing = matches!(
            self.phase,
            Phase::Failing | Phase::ClosingFailed(_) | Phase::ListingFailed(_) | Phase::ClearingFailed(_)
        );
        if !is_failing {
            self.written = None;
            self.phase = match std::mem::replace(&mut self.phase, Phase::Failing) {
                Phase::Finishing(script) => Phase::ClosingFailed(self.undo(script)),
                _ => Phase::Failing,
            };
        }
    }

    /// Closes what the end of a savepoint did not come to close, and takes the final name back if it was given already.
    fn undo(&self, script: Script) -> Script {
        let renamed = !script.left.iter().any(|op| matches!(op, IoOp::Rename { .. } | IoOp::SyncDir { .. }));
        let back = IoOp::Rename { from: self.dir.clone(), to: self.unfinished.clone() };
        let closes = script.left.into_iter().filter(|op| matches!(op, IoOp::Close { .. }));
        Script::new(closes.chain(renamed.then_some(back)))
    }

    /// Cleans up after a failure; `Some` when that is done.
    fn fail(&mut self, io: &mut dyn Io, now_ns: u64) -> Option<Result<Savepoint, SavepointError>> {
        self.begin_failing();
        if let Some(pieces) = self.pieces.take() {
            pieces.close(io);
        }
        let owned = self.lock.is_some() || self.store.is_some() || self.options.lock_patience_ms.is_none();
        match &mut self.phase {
            Phase::Failing => {
                let Some(mut store) = self.store.take() else {
                    // Without a lock the directory is somebody else's, or there is none.
                    let not_begun = matches!(
                        self.failure,
                        Some(SavepointError::Exists { .. } | SavepointError::BeingWritten { .. })
                    );
                    if not_begun || !owned {
                        return self.failure.clone().map(Err);
                    }
                    self.phase = Phase::ListingFailed(io.submit(IoOp::List { path: self.unfinished.clone() }));
                    return None;
                };
                store.abort(self.contents.id, "the savepoint was given up");
                store.step(io, now_ns);
                if !store.is_quiet() {
                    self.store = Some(store);
                    return None;
                }
                let (files, lock) = store.into_files();
                self.lock = lock;
                let open = files.last_extent.map(|(file, _)| file).into_iter().chain(files.superblock);
                self.phase = Phase::ClosingFailed(Script::new(open.map(|file| IoOp::Close { file })));
            }
            Phase::ClosingFailed(script) => {
                let closed = script.step(io);
                if closed.is_some() {
                    self.phase = Phase::ListingFailed(io.submit(IoOp::List { path: self.unfinished.clone() }));
                }
            }
            Phase::ListingFailed(token) => match io.take(*token) {
                None => {}
                Some(Ok(listed)) => self.phase = Phase::ClearingFailed(self.removals(listed)),
                Some(Err(_)) => return self.failure.clone().map(Err),
            },
            Phase::ClearingFailed(script) => match script.step(io) {
                None => {}
                // One file that cannot be removed does not keep the others.
                Some(Err(_)) => {}
                Some(Ok(())) => return self.failure.clone().map(Err),
            },
            _ => {}
        }
        None
    }
}

fn parent_of(dir: &Path) -> PathBuf {
    match dir.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}
