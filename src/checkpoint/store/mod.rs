//! The checkpoint store: makes one checkpoint of a job durable at a time, incrementally, and keeps the last few.
//!
//! Here: the calls of the coordinator, and the step machine's own state. `open` finds the newest intact checkpoint,
//! `commit` writes one, `reclaim` decides what is kept and what must move. Not here: the bytes (`format`), when a
//! checkpoint starts (`coordinator`), what a page holds (`state`).
//!
//! One store per job, on the control thread, with that thread's `Io`; every call must be given the same `Io`.
//!
//! Invariants: a file with a failed write or flush is condemned, never written or trusted again; after any failed
//! checkpoint the next one is full, because the changes that were handed over are gone; nothing is removed that a
//! retained checkpoint reaches.

mod commit;
mod copying;
mod load_map;
mod open;
mod prune;
mod reclaim;

pub(crate) use copying::StorePins;
pub(super) use open::pairs_for;
pub use prune::Pruned;

use super::CheckpointId;
use super::error::{CheckpointError, Damage, RestoreError};
use super::format::{self, BlockKind, BlockRef};
use super::lock::DirLock;
use super::manifest::{Manifest, SnapshotKind};
use super::page_map::{Entry, MapBlock, MapRange, PageMap};
use super::restored::RestoredCheckpoint;
use super::snapshot::{PageKey, Piece, PieceBlock, SubtaskSnapshot};
use super::superblock::Superblock;
use super::superblock_file::{SuperblockCreation, SuperblockFile};
use crate::io::{FileId, Io, IoOp, IoToken};
use crate::memory::{Arena, Buffer};
use load_map::MapLoading;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::Duration;

/// Whose checkpoints they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobIdentity {
    /// The job's name, at most 272 bytes; a directory belongs to one name.
    pub name: String,
}

/// Sizes and limits of a store.
#[derive(Clone, Copy, Debug)]
pub struct StoreOptions {
    /// Checkpoints kept, 2 to 16.
    pub retained_count: usize,
    /// The length of the first extent file, and of the shortest; each next one is at most twice as long.
    pub extent_bytes_min: u64,
    /// The length of the longest extent file.
    pub extent_bytes_max: u64,
    /// Up to how many new bytes a checkpoint is committed with one flush (and verified when it is opened).
    pub one_flush_bytes_max: u64,
    /// Deltas of one page before an image is asked for, however short they are.
    pub deltas_max: usize,
    /// Checkpoints after which the whole page map is written again.
    pub page_map_deltas_max: usize,
    /// Bytes in flight to the disk, but for the write that reaches it.
    pub write_bytes_in_flight_max: u64,
    /// Blocks waiting to be written, beyond those in flight.
    pub blocks_queued_max: usize,
    /// Bytes of pieces that are asked to move out of nearly dead extents per checkpoint.
    pub move_bytes_max: u64,
    /// Whether opening verifies every byte of a checkpoint before it is used, not only what it added, and reading its pages checks every
    /// entry: after damage was found in it.
    pub verify_everything: bool,
    /// How long to wait for another process's lock; `None` takes no lock (simulated disks have none).
    pub lock_patience_ms: Option<u64>,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            retained_count: 3,
            extent_bytes_min: 4 << 20,
            extent_bytes_max: 64 << 20,
            one_flush_bytes_max: 4 << 20,
            deltas_max: 64,
            page_map_deltas_max: 16,
            write_bytes_in_flight_max: 8 << 20,
            blocks_queued_max: 16,
            move_bytes_max: 8 << 20,
            verify_everything: false,
            lock_patience_ms: Some(5_000),
        }
    }
}

/// What a checkpoint is going to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckpointPlan {
    /// Its number, at least `CheckpointStore::next_id`.
    pub id: CheckpointId,
    /// `Full` whenever `pages_needing_images` says `Everything`.
    pub kind: SnapshotKind,
    /// Into how many key groups the job's state is cut.
    pub max_parallelism: u16,
    /// The job vertices and how many subtasks of each must acknowledge.
    pub vertices: Vec<(String, u32)>,
    /// The wall clock, in milliseconds since the Unix epoch.
    pub created_wall_ms: i64,
}

/// Which pages must be handed over as images in the next checkpoint, changed or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ImagesNeeded {
    /// All pages there are: the next checkpoint is full.
    Everything,
    /// These, in order: their chains are long, or they lie in extents that are to be freed.
    Pages(Vec<PageKey>),
}

/// How a checkpoint ended.
#[derive(Debug, PartialEq, Eq)]
pub enum StoreEvent {
    /// It is durable: sinks may commit, sources may forget.
    Committed {
        /// Which one.
        id: CheckpointId,
        /// Incremental or full.
        kind: SnapshotKind,
        /// Bytes written for it.
        new_bytes: u64,
        /// Bytes of state that it reaches.
        state_bytes: u64,
        /// Pages that it reaches.
        pages: u64,
        /// From `begin` to here.
        duration_ns: u64,
    },
    /// It is given up; the one before still stands.
    Failed {
        /// Which one.
        id: CheckpointId,
        /// Why.
        error: CheckpointError,
        /// From `begin` to here.
        duration_ns: u64,
    },
}

/// What `CheckpointStore::open` found.
#[derive(Debug)]
pub struct OpenedStore {
    /// The store, ready for the next checkpoint.
    pub store: CheckpointStore,
    /// The newest intact checkpoint, if there was any.
    pub restored: Option<Arc<RestoredCheckpoint>>,
    /// What was damaged and passed over; each was also logged as an error.
    pub damages: Vec<Damage>,
}

/// Makes checkpoints durable; a step machine.
#[derive(Debug)]
pub struct CheckpointStore {
    dir: PathBuf,
    job_name: String,
    arena: Arena,
    options: StoreOptions,
    _lock: Option<DirLock>,
    /// The pages as of the last checkpoint, or of the one in progress.
    map: PageMap,
    /// The blocks `map` was last written in: a base, then deltas of `map_deltas` checkpoints.
    map_blocks: Vec<MapBlock>,
    map_deltas: usize,
    /// What of the restored checkpoint's page map is still to be read.
    loading: Option<MapLoading>,
    long_chains: BTreeSet<PageKey>,
    needs_full: bool,
    next_id: u64,
    next_extent: u32,
    /// The next extent is no longer than that.
    extent_bytes_limit: u64,
    /// What the last checkpoint wrote.
    written_bytes: u64,
    next_superblock: u32,
    /// Newest first.
    retained: Vec<Retained>,
    /// `None` after it was condemned, until a new one exists.
    superblock: Option<SuperblockFile>,
    /// Superblock files that are no longer needed once a newer one holds a checkpoint.
    old_superblocks: BTreeSet<u32>,
    /// All extent files there are, with their lengths.
    extents: BTreeMap<u32, u64>,
    /// The extent that is being filled.
    current: Option<Extent>,
    /// Extents that nothing reaches any more, kept to be written again, with their lengths.
    spares: Vec<(u32, u64)>,
    /// Extents of failed writes or flushes that are still reached.
    condemned: BTreeSet<u32>,
    /// Alive while somebody may still read the restored checkpoint.
    restored_alive: Weak<()>,
    restored_extents: BTreeSet<u32>,
    /// What the newest checkpoint's manifest says; `None` before the first commit.
    newest: Option<Manifest>,
    /// Checkpoints that savepoints are being copied from.
    pins: Vec<Pin>,
    active: Option<Box<Active>>,
    background: Vec<(IoToken, Background)>,
}

/// An extent open for writing.
#[derive(Clone, Copy, Debug)]
struct Extent {
    number: u32,
    file: FileId,
    len_bytes: u64,
    used_bytes: u64,
}

/// A committed checkpoint that is kept.
#[derive(Debug)]
struct Retained {
    superblock: Superblock,
    extents: BTreeSet<u32>,
}

/// Extents that somebody may still read, and whether he is alive.
#[derive(Debug)]
pub(in crate::checkpoint) struct Pin {
    pub alive: Weak<()>,
    pub extents: BTreeSet<u32>,
}

/// Operations nobody waits for.
#[derive(Debug)]
enum Background {
    Closing,
    RemovingExtent(u32, u64),
    RemovingSuperblock(u32),
}

/// The checkpoint in progress.
#[derive(Debug)]
struct Active {
    plan: CheckpointPlan,
    began_ns: u64,
    phase: Phase,
    failure: Option<CheckpointError>,
    queue: VecDeque<Queued>,
    ops: Vec<(IoToken, Op)>,
    opening: Option<Opening>,
    creation: Option<SuperblockCreation>,
    acknowledged: BTreeMap<(String, u32), SubtaskSnapshot>,
    blocks_received: u64,
    entries: Vec<Entry>,
    added: Vec<BlockRef>,
    map_blocks: Vec<MapBlock>,
    manifest: Option<BlockRef>,
    /// What the manifest says, kept until it is committed.
    says: Option<Manifest>,
    manifest_extents: BTreeSet<u32>,
    durable: bool,
    pair: usize,
    superblock_written: bool,
    new_bytes: u64,
    /// Of `new_bytes`, those whose writes have not ended.
    in_flight_bytes: u64,
    /// The extent that was being filled at the beginning.
    began_in: Option<Extent>,
    /// Extents written to.
    touched: BTreeMap<u32, FileId>,
    created: BTreeMap<u32, FileId>,
    condemned: BTreeSet<u32>,
}

/// How far the checkpoint is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Blocks and acknowledgements come in; blocks are written as they come.
    Collecting,
    /// Everything was handed over; waits until all blocks of pieces have a place.
    Sealed,
    /// The page map is cut into blocks: everything, page by page.
    MappingAll { last: Option<PageKey> },
    /// The page map is cut into blocks: what changed.
    MappingChanges { next: usize },
    /// Waits until all blocks have a place, then queues the manifest.
    Manifest,
    /// Waits until the manifest has a place; if the checkpoint is large, also for all writes.
    Writing,
    /// Waits for the flush of the data that precedes a durable superblock.
    FlushingData,
    /// Makes sure that there is a superblock file, then writes the superblock.
    Superblock,
    /// Waits for all writes, the superblock's too, then asks for the flush.
    WritingSuperblock,
    /// Waits for the flush.
    Flushing,
    /// Waits for operations in flight, then cleans up.
    Failing,
    /// Replaces the condemned superblock file, so that it cannot speak for the failed checkpoint.
    ReplacingSuperblock,
}

/// A block without a place yet.
#[derive(Debug)]
struct Queued {
    parts: Vec<Buffer>,
    kind: BlockKind,
    payload_len: u64,
    pieces: Vec<Piece>,
    /// Of a block of the page map: what it is about.
    map_range: MapRange,
}

#[derive(Clone, Copy, Debug)]
enum Op {
    /// Into which extent, and how many bytes.
    WriteExtent(u32, u64),
    /// Gives a spare extent its new name; the old number.
    RenameExtent(u32),
    OpenExtent,
    AllocateExtent(u32),
    SyncExtent(u32),
    WriteSuperblock,
    SyncSuperblock,
    SyncDir,
}

/// An extent that is being created.
#[derive(Clone, Copy, Debug)]
struct Opening {
    number: u32,
    len_bytes: u64,
    file: Option<FileId>,
}

impl CheckpointStore {
    /// The number the next checkpoint may have at least.
    pub fn next_id(&self) -> CheckpointId {
        CheckpointId(self.next_id)
    }

    /// The newest committed checkpoint.
    pub fn last_committed(&self) -> Option<CheckpointId> {
        self.retained.first().map(|retained| CheckpointId(retained.superblock.checkpoint))
    }

    /// The checkpoint in progress.
    pub fn in_progress(&self) -> Option<CheckpointId> {
        self.active.as_ref().map(|active| active.plan.id)
    }

    /// Starts a checkpoint.
    pub fn begin(&mut self, plan: CheckpointPlan, now_ns: u64) -> Result<(), CheckpointError> {
        if let Some(running) = self.in_progress() {
            return Err(CheckpointError::Busy { running, asked: plan.id });
        }
        if plan.id.0 < self.next_id {
            return Err(CheckpointError::NumberUsed { asked: plan.id, next: self.next_id() });
        }
        if let Some(loading) = &self.loading {
            return Err(CheckpointError::PageMapMissing { id: plan.id, reason: loading.reason() });
        }
        if self.needs_full && plan.kind == SnapshotKind::Incremental {
            return Err(CheckpointError::MustBeFull { id: plan.id });
        }
        self.map.settle();
        if plan.kind == SnapshotKind::Full {
            self.map = PageMap::default();
            self.long_chains.clear();
        }
        self.next_id = plan.id.0.saturating_add(1);
        self.active = Some(Box::new(Active::new(plan, now_ns, self.current)));
        Ok(())
    }

    /// Takes a block of pieces, or gives it back while too many wait: try again after a `step`. A block that belongs to
    /// no checkpoint in progress (it was aborted) is taken and dropped.
    pub fn add_block(&mut self, block: PieceBlock) -> Result<(), PieceBlock> {
        let queued_max = self.options.blocks_queued_max;
        let Some(active) = self.active.as_mut().filter(|active| active.plan.id == block.checkpoint) else {
            return Ok(());
        };
        if active.failure.is_some() {
            return Ok(());
        }
        if active.queue.len() >= queued_max {
            return Err(block);
        }
        active.blocks_received += 1;
        let id = active.plan.id;
        let PieceBlock { mut buffer, pieces, .. } = block;
        let room = PieceBlock::HEAD_BYTES..buffer.len();
        let outside = |piece: &&Piece| {
            (piece.offset as usize) < room.start || piece.offset as usize + piece.len as usize > room.end
        };
        if let Some(piece) = pieces.iter().find(outside) {
            let PageKey { state, key_group, .. } = piece.page;
            active.failure = Some(CheckpointError::PieceOutsideBuffer { id, state, key_group });
            return Ok(());
        }
        buffer.pad_to(format::SECTOR_BYTES);
        active.queue.push_back(Queued {
            parts: vec![buffer],
            kind: BlockKind::Pieces,
            payload_len: room.len() as u64,
            pieces,
            map_range: MapRange::default(),
        });
        Ok(())
    }

    /// Takes the acknowledgement of one subtask of checkpoint `id`. Returns whether it was the last one missing: `seal` then.
    pub fn acknowledge(&mut self, id: CheckpointId, snapshot: SubtaskSnapshot) -> bool {
        let Some(active) = self.active.as_mut().filter(|active| active.plan.id == id) else { return false };
        active.acknowledged.insert((snapshot.vertex.clone(), snapshot.subtask), snapshot);
        active.phase == Phase::Collecting && active.missing().next().is_none()
    }

    /// Says that everything was handed over; `step` then commits.
    pub fn seal(&mut self, id: CheckpointId) -> Result<(), CheckpointError> {
        let not_running = CheckpointError::NotInProgress { what: "the seal", given: id };
        let active = self.active.as_mut().filter(|active| active.plan.id == id).ok_or(not_running)?;
        let missing: Vec<String> = active.missing().take(8).map(|(vertex, i)| format!("{vertex}/{i}")).collect();
        if !missing.is_empty() {
            return Err(CheckpointError::Unacknowledged { id, missing: missing.join(", ") });
        }
        let announced = active.acknowledged.values().map(|snapshot| u64::from(snapshot.blocks)).sum();
        let received = active.blocks_received;
        if announced != received {
            active.failure.get_or_insert(CheckpointError::BlocksDiffer { id, announced, received });
        } else if active.phase == Phase::Collecting {
            active.phase = Phase::Sealed;
        }
        Ok(())
    }

    /// Gives the checkpoint up; `step` reports it as failed once nothing of it is in flight.
    pub fn abort(&mut self, id: CheckpointId, reason: &str) {
        if let Some(active) = self.active.as_mut().filter(|active| active.plan.id == id) {
            active.failure.get_or_insert(CheckpointError::Aborted { id, reason: reason.to_owned() });
        }
    }

    /// Does what can be done without waiting: a bounded number of writes and answers. Returns how the checkpoint ended.
    pub fn step(&mut self, io: &mut dyn Io, now_ns: u64) -> Option<StoreEvent> {
        /// Rounds of "collect answers, go on" per call; drivers that answer at once would otherwise run to the end.
        const ROUNDS_MAX: usize = 8;
        const ADVANCES_MAX: usize = 8;
        io.drive();
        self.collect_background(io);
        self.load_some_map(io);
        let Some(mut active) = self.active.take() else {
            self.map.settle();
            return None;
        };
        for _ in 0..ROUNDS_MAX {
            let mut has_worked = self.collect(io, &mut active);
            // What waits for no answer follows at once.
            for _ in 0..ADVANCES_MAX {
                match self.advance(io, &mut active, now_ns) {
                    Advance::Ended(event) => return Some(event),
                    Advance::Worked => has_worked = true,
                    Advance::Waiting => break,
                }
            }
            if !has_worked {
                break;
            }
            io.drive();
        }
        self.active = Some(active);
        None
    }

    /// Replaces a superblock file that was condemned when no other could be written: it may name a checkpoint that has failed, and to read
    /// that back says nothing about what a power cut would leave of it. Gives up what is in progress, and waits.
    pub fn replace_condemned_superblock(&mut self, io: &mut dyn Io) -> Result<(), RestoreError> {
        self.settle(io);
        if self.superblock.is_none() {
            self.superblock = Some(self.new_superblock(io)?);
        }
        Ok(())
    }

    /// Gives up what is in progress, waits for operations in flight, closes the files, lets the lock go.
    pub fn close(mut self, io: &mut dyn Io) {
        self.settle(io);
        let files = self.current.map(|extent| extent.file).into_iter().chain(self.superblock.map(|open| open.file));
        for file in files {
            // Everything that counts was flushed before.
            let _ = io.complete(IoOp::Close { file });
        }
    }

    fn settle(&mut self, io: &mut dyn Io) {
        if let Some(id) = self.in_progress() {
            self.abort(id, "the store is closed");
        }
        while self.active.is_some() || !self.background.is_empty() {
            self.step(io, 0);
            io.wait(Duration::from_millis(1));
        }
    }
}

/// What a round of the machine came to.
enum Advance {
    Worked,
    Waiting,
    Ended(StoreEvent),
}

impl Active {
    fn new(plan: CheckpointPlan, began_ns: u64, began_in: Option<Extent>) -> Self {
        Self {
            plan,
            began_ns,
            phase: Phase::Collecting,
            failure: None,
            queue: VecDeque::new(),
            ops: Vec::new(),
            opening: None,
            creation: None,
            acknowledged: BTreeMap::new(),
            blocks_received: 0,
            entries: Vec::new(),
            added: Vec::new(),
            map_blocks: Vec::new(),
            manifest: None,
            says: None,
            manifest_extents: BTreeSet::new(),
            durable: false,
            pair: 0,
            superblock_written: false,
            new_bytes: 0,
            in_flight_bytes: 0,
            began_in,
            touched: BTreeMap::new(),
            created: BTreeMap::new(),
            condemned: BTreeSet::new(),
        }
    }

    /// An operation ended, well or not.
    fn ended(&mut self, op: Op) {
        if let Op::WriteExtent(_, len_bytes) = op {
            self.in_flight_bytes -= len_bytes;
        }
    }

    /// The subtasks that have not acknowledged.
    fn missing(&self) -> impl Iterator<Item = (&str, u32)> {
        let subtasks =
            self.plan.vertices.iter().flat_map(|(vertex, count)| (0..*count).map(move |i| (vertex.as_str(), i)));
        subtasks.filter(|(vertex, i)| !self.acknowledged.contains_key(&((*vertex).to_owned(), *i)))
    }
}
