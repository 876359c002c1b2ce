//! One job on this machine: its program, its memory, its store, and the queues to its tasks.
//!
//! Here: opening the store, what each order about a checkpoint means for store and tasks. Not here: when a checkpoint is due
//! (`checkpoint::coordinator`), making channels and tasks (`deploy`).

use super::control::{Machine, drop_of_host};
use super::host::JobShared;
use super::options::{CheckpointOptions, FromSavepoint, JobOptions, SubmitError};
use super::savepoints::{JobSavepoints, SavepointRequest};
use crate::checkpoint::{
    CheckpointFollower, CheckpointId, CheckpointKind, CheckpointPlan, CheckpointStore, CommittedFiles, ImagesNeeded,
    JobIdentity, PieceBlock, RestoreError, RestoredCheckpoint, SnapshotKind, StoreEvent, StoreOptions, StorePins,
    SubtaskSnapshot,
};
use crate::graph::{JobGraph, Partitioning, VertexId, VertexInput};
use crate::io::Io;
use crate::job_manager::messages::CheckpointOrder;
use crate::job_manager::{Attempt, JobState, SlotIndex, TaskAddress};
use crate::memory::{Arena, MemoryBudget};
use crate::slot::{Share, panic_message};
use crate::source::SourceError;
use crate::state::default_max_parallelism;
use crate::task::{Dropping, ImageRequest, TaskCommand, TaskInbox, states_in_words};
use crossbeam_queue::ArrayQueue;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// How many blocks of pieces may wait between the slots and the store.
const PIECE_BLOCKS_MAX: usize = 16;
/// What a job needs beside its channels before the first record: pages, buffers, and the arena's unit of growth.
const MEMORY_BASE_BYTES: usize = 4 << 20;
/// What one channel needs before the first record: a segment on its way and one being filled.
const MEMORY_PER_CHANNEL_BYTES: usize = 64 << 10;

/// A submitted job.
pub(super) struct JobRuntime {
    pub(super) graph: Arc<JobGraph>,
    pub(super) parallelism: u32,
    pub(super) max_parallelism: u16,
    pub(super) share: Share,
    pub(super) arena: Arena,
    pub(super) shared: Arc<JobShared>,
    pub(super) pieces: Arc<ArrayQueue<PieceBlock>>,
    /// The names of the splits of each source vertex.
    pub(super) splits: BTreeMap<VertexId, Arc<[String]>>,
    /// The attempt that is being deployed or runs, and the slots of its tasks as far as they are known.
    pub(super) attempt: Attempt,
    pub(super) starting: BTreeMap<TaskAddress, SlotIndex>,
    pub(super) inboxes: BTreeMap<TaskAddress, Arc<TaskInbox>>,
    pub(super) savepoints: JobSavepoints,
    /// The newest checkpoint that was triggered.
    triggered: CheckpointId,
    store: Option<JobStore>,
    allow_dropped_state: bool,
    /// Where the job starts from while its own directory holds no checkpoint.
    from: Option<FromSavepoint>,
    restored: Option<Arc<RestoredCheckpoint>>,
    /// All tasks have acknowledged this checkpoint; it is sealed once the last block has reached the store.
    sealing: Option<CheckpointId>,
    /// A block the store had no room for yet.
    held_block: Option<PieceBlock>,
}

struct JobStore {
    dir: PathBuf,
    follower: Option<Arc<dyn CheckpointFollower>>,
    /// It has been given the last checkpoint.
    follower_is_finished: bool,
    options: StoreOptions,
    /// `None` while it is closed between two attempts.
    open: Option<CheckpointStore>,
    /// Checkpoints that somebody still reads, while it is closed.
    pins: StorePins,
    /// Whether damage was found in the checkpoint the last attempt started from.
    suspicion: Option<Arc<AtomicBool>>,
}

/// How a checkpoint ended.
pub(super) enum CheckpointEnd {
    Committed { id: CheckpointId, new_bytes: u64 },
    Failed { id: CheckpointId, reason: String },
}

impl JobRuntime {
    /// Checks the program, opens its state directory and lists its splits. May wait for I/O.
    pub(super) fn new(
        graph: JobGraph,
        options: &JobOptions,
        slots: u32,
        machine: Machine,
        shared: Arc<JobShared>,
        io: &mut dyn Io,
    ) -> Result<Self, SubmitError> {
        let parallelism = options.parallelism.unwrap_or(slots);
        let asked_groups = options.max_parallelism.unwrap_or_else(|| default_max_parallelism(parallelism.max(1)));
        graph.validate(parallelism, asked_groups)?;
        let memory_bytes = options.memory_bytes.unwrap_or_else(|| default_memory(machine.memory_bytes));
        let channels = channel_count(&graph, parallelism);
        let needed_bytes = MEMORY_BASE_BYTES + channels * MEMORY_PER_CHANNEL_BYTES;
        if memory_bytes < needed_bytes {
            let job = graph.name.clone();
            return Err(SubmitError::MemoryTooSmall { job, needed_bytes, channels, given_bytes: memory_bytes });
        }
        let mut splits = BTreeMap::new();
        for (index, vertex) in graph.vertices.iter().enumerate() {
            if let VertexInput::Source(list) = &vertex.input {
                // It is the user's, and this thread is everybody's.
                let listed = catch_unwind(AssertUnwindSafe(|| list(io))).unwrap_or_else(|panic| {
                    let reason = format!("it panicked: {}", panic_message(&*panic));
                    Err(SourceError::BadInput { place: "the list of its splits".to_owned(), reason })
                });
                let mut names =
                    listed.map_err(|error| SubmitError::Source { source_name: vertex.name.clone(), error })?;
                names.sort();
                splits.insert(VertexId(index), names.into());
            }
        }
        let mut runtime = Self {
            parallelism,
            max_parallelism: asked_groups,
            share: Share {
                priority: u8::MAX - options.priority,
                weight: options.weight.min(u32::from(u16::MAX)) as u16,
            },
            arena: Arena::new(MemoryBudget::new(memory_bytes), machine.arena),
            shared,
            pieces: Arc::new(ArrayQueue::new(PIECE_BLOCKS_MAX)),
            splits,
            attempt: Attempt::default(),
            starting: BTreeMap::new(),
            inboxes: BTreeMap::new(),
            savepoints: JobSavepoints::default(),
            triggered: CheckpointId::default(),
            from: options.from_savepoint.clone(),
            store: options.checkpoints.as_ref().map(|options| JobStore::new(options, machine.store)),
            allow_dropped_state: options.checkpoints.as_ref().is_some_and(|options| options.allow_dropped_state),
            restored: None,
            sealing: None,
            held_block: None,
            graph: Arc::new(graph),
        };
        if let (Some(held), Some(from)) = (runtime.open_store(io)?, &options.from_savepoint) {
            let (dir, savepoint) = (runtime.store_dir(), from.dir.clone());
            runtime.close(io);
            return Err(SubmitError::SavepointNotNeeded { dir, held, savepoint });
        }
        if let Some(restored) = &runtime.restored {
            let stored = restored.max_parallelism();
            match options.max_parallelism {
                Some(asked) if asked != stored => {
                    let job = runtime.graph.name.clone();
                    runtime.close(io);
                    return Err(SubmitError::KeyGroupsDiffer { job, stored, asked });
                }
                _ => runtime.max_parallelism = stored,
            }
            if let Err(error) = runtime.graph.validate(parallelism, stored) {
                runtime.close(io);
                return Err(error.into());
            }
            if let Err(error) = runtime.check_operators() {
                runtime.close(io);
                return Err(error);
            }
        }
        Ok(runtime)
    }

    /// The checkpoint the next attempt starts from.
    pub(super) fn restored(&self) -> Option<&Arc<RestoredCheckpoint>> {
        self.restored.as_ref()
    }

    /// Where a task may keep state that the memory does not hold.
    pub(super) fn spill_path(&self, task: TaskAddress) -> Option<PathBuf> {
        let store = self.store.as_ref()?;
        Some(store.dir.join(format!("spill-{}-{}.tmp", task.vertex, task.subtask)))
    }

    /// The number of the newest checkpoint the directory has seen; 0 for none.
    pub(super) fn last_checkpoint(&self) -> CheckpointId {
        let store = self.store.as_ref().and_then(|store| store.open.as_ref());
        store.map_or(CheckpointId::default(), |store| CheckpointId(store.next_id().0.saturating_sub(1)))
    }

    /// Opens the store again after an attempt that failed, to start from the newest checkpoint there is now.
    pub(super) fn reopen_store(&mut self, io: &mut dyn Io) -> Result<(), RestoreError> {
        if let Some(store) = self.open_store_mut() {
            store.replace_condemned_superblock(io)?;
        }
        if let Some(JobStore { open: Some(open), pins, .. }) = &mut self.store {
            *pins = open.take_pins();
        }
        self.close(io);
        self.open_store(io)?;
        if let Some(JobStore { open: Some(open), pins, .. }) = &mut self.store {
            open.adopt_pins(std::mem::take(pins));
        }
        Ok(())
    }

    /// Whether its checkpoints are durable.
    pub(super) fn has_store(&self) -> bool {
        self.store.is_some()
    }

    /// Lets a savepoint, of a stop or not, wait for the next checkpoint that is triggered.
    pub(super) fn ask_savepoint(&mut self, request: SavepointRequest, stops: bool) {
        self.savepoints.ask(request, self.triggered, stops);
    }

    /// Those who wait for this checkpoint get their copies, or hear that there is none.
    pub(super) fn serve_savepoints(&mut self, end: &CheckpointEnd, io: &mut dyn Io) {
        match end {
            CheckpointEnd::Failed { id, reason } => self.savepoints.checkpoint_failed(*id, reason),
            CheckpointEnd::Committed { id, .. } if self.savepoints.wait_for(*id) => {
                let Some(store) = &mut self.store else { return };
                if let Some(pinned) = store.open.as_mut().and_then(CheckpointStore::pin_newest) {
                    let JobRuntime { arena, savepoints, .. } = self;
                    savepoints.begin(io, arena, &pinned, store.options);
                }
            }
            CheckpointEnd::Committed { .. } => {}
        }
    }

    /// The newest checkpoint goes to who follows them, if he is ready for it.
    pub(super) fn tell_follower(&mut self, now_ns: u64) {
        let Some(store) = &mut self.store else { return };
        if store.with_follower(|follower| follower.wants(now_ns)) == Some(true)
            && let Some(files) = store.newest_files()
        {
            store.with_follower(|follower| follower.follow(files, now_ns));
        }
    }

    /// Goes on with the savepoints; those that are complete go to who follows the checkpoints as well.
    pub(super) fn step_savepoints(&mut self, io: &mut dyn Io, now_ns: u64) {
        let Self { savepoints, store, .. } = self;
        savepoints.step(io, now_ns, |savepoint| {
            if let Some(store) = store {
                store.with_follower(|follower| follower.savepoint(&savepoint.dir));
            }
        });
    }

    /// The job has ended: behind its last savepoint, its last checkpoint is the last to be carried.
    pub(super) fn finish_follower(&mut self) {
        if let Some(store) = &mut self.store
            && !self.savepoints.are_copied()
        {
            // Of a store that could not be opened again nothing more is carried than was begun.
            let last = if store.follower_is_finished { None } else { store.newest_files() };
            store.finish_follower(last);
        }
    }

    /// The engine is gone: who follows the checkpoints shall wait for no more of them.
    pub(super) fn abandon_follower(&mut self) {
        if let Some(store) = &mut self.store {
            store.finish_follower(None);
        }
    }

    /// Whether savepoints are being written, or checkpoints carried elsewhere.
    pub(super) fn is_lingering(&mut self) -> bool {
        let follower_is_busy =
            self.store.as_mut().and_then(|store| store.with_follower(|follower| follower.is_busy())).unwrap_or(false);
        self.savepoints.are_copied() || follower_is_busy
    }

    /// The job is over, its savepoints too: the directory is free before the host hears of it, which may start the job again at once.
    pub(super) fn end(&mut self, io: &mut dyn Io, state: JobState, reason: Option<String>) {
        if let Some(store) = self.open_store_mut()
            && let Err(error) = store.replace_condemned_superblock(io)
        {
            tracing::error!(
                "{}: the job ends while a superblock file that could not be flushed names a checkpoint that failed: {error}",
                self.graph.name
            );
        }
        self.close(io);
        self.shared.update(|status| {
            status.state = state;
            if reason.is_some() {
                status.reason = reason;
            }
        });
    }

    /// The tasks are deployed and hold the checkpoint they start from by themselves, until they have read it.
    pub(super) fn forget_restored(&mut self) {
        self.restored = None;
    }

    /// Carries out an order of the JobManager. An immediate end is returned.
    pub(super) fn order(
        &mut self,
        id: CheckpointId,
        order: CheckpointOrder,
        wall_ms: i64,
        now_ns: u64,
        io: &mut dyn Io,
    ) -> Option<CheckpointEnd> {
        match order {
            CheckpointOrder::Trigger { kind, drain } => {
                if let Some(store) = self.open_store_mut() {
                    store.finish_loading(io);
                }
                self.trigger(id, kind, drain, wall_ms, now_ns)
            }
            CheckpointOrder::Commit => {
                self.sealing = Some(id);
                // A job without a store has nothing to lose: its checkpoints only tell sinks when to commit.
                self.store.is_none().then_some(CheckpointEnd::Committed { id, new_bytes: 0 })
            }
            CheckpointOrder::NotifyComplete(kind) => {
                self.tell_all(&TaskCommand::Complete { id, last: kind == CheckpointKind::Final });
                None
            }
            CheckpointOrder::Abort => {
                if let Some(store) = self.open_store_mut() {
                    store.abort(id, "the coordinator gave it up");
                }
                self.sealing = None;
                self.tell_all(&TaskCommand::Abort { id });
                None
            }
        }
    }

    /// A task has handed everything over.
    pub(super) fn on_snapshot(&mut self, id: CheckpointId, snapshot: SubtaskSnapshot) {
        if let Some(store) = self.open_store_mut() {
            store.acknowledge(id, snapshot);
        }
    }

    /// Moves blocks from the slots to the store and lets it work.
    pub(super) fn step_store(&mut self, io: &mut dyn Io, now_ns: u64) -> Option<CheckpointEnd> {
        let Some(store) = self.store.as_mut().and_then(|store| store.open.as_mut()) else {
            while self.pieces.pop().is_some() {}
            return None;
        };
        while let Some(block) = self.held_block.take().or_else(|| self.pieces.pop()) {
            if let Err(block) = store.add_block(block) {
                self.held_block = Some(block);
                break;
            }
        }
        // Every task has acknowledged, so every block is in the queue: once that is empty the store has them all.
        if let Some(id) = self.sealing
            && self.held_block.is_none()
            && self.pieces.is_empty()
        {
            self.sealing = None;
            if let Err(error) = store.seal(id) {
                return Some(CheckpointEnd::Failed { id, reason: error.to_string() });
            }
        }
        match store.step(io, now_ns)? {
            StoreEvent::Committed { id, new_bytes, .. } => Some(CheckpointEnd::Committed { id, new_bytes }),
            StoreEvent::Failed { id, error, .. } => Some(CheckpointEnd::Failed { id, reason: error.to_string() }),
        }
    }

    /// Whether the store has work under way.
    pub(super) fn store_is_busy(&self) -> bool {
        let works = |store: &CheckpointStore| store.in_progress().is_some() || store.is_loading();
        self.store.as_ref().and_then(|store| store.open.as_ref()).is_some_and(works) || self.savepoints.are_copied()
    }

    /// Closes the store and lets the directory's lock go. Waits for operations in flight.
    pub(super) fn close(&mut self, io: &mut dyn Io) {
        if let Some(open) = self.store.as_mut().and_then(|store| store.open.take()) {
            open.close(io);
        }
        self.held_block = None;
        self.sealing = None;
        while self.pieces.pop().is_some() {}
    }

    /// Sends a command to every task, sources last: what they send on must find the others informed.
    pub(super) fn tell_all(&self, command: &TaskCommand) {
        for inbox in self.inboxes.values().rev() {
            inbox.send(command.clone());
        }
    }

    fn trigger(
        &mut self,
        id: CheckpointId,
        kind: CheckpointKind,
        drain: bool,
        wall_ms: i64,
        now_ns: u64,
    ) -> Option<CheckpointEnd> {
        let (max_parallelism, parallelism) = (self.max_parallelism, self.parallelism);
        let vertices = self.graph.vertices.iter().map(|vertex| (vertex.name.clone(), parallelism)).collect();
        self.triggered = id;
        let mut images = ImageRequest::None;
        if let Some(store) = self.open_store_mut() {
            let needed = store.pages_needing_images();
            let snapshot_kind = match &needed {
                ImagesNeeded::Everything => SnapshotKind::Full,
                ImagesNeeded::Pages(_) => SnapshotKind::Incremental,
            };
            let plan = CheckpointPlan { id, kind: snapshot_kind, max_parallelism, vertices, created_wall_ms: wall_ms };
            if let Err(error) = store.begin(plan, now_ns) {
                return Some(CheckpointEnd::Failed { id, reason: error.to_string() });
            }
            images = match needed {
                ImagesNeeded::Everything => ImageRequest::All,
                ImagesNeeded::Pages(pages) => ImageRequest::Pages(pages.into()),
            };
        }
        self.tell_all(&TaskCommand::Trigger { id, images, stop: kind == CheckpointKind::Final, drain });
        None
    }

    /// Finds where the job starts from: its newest checkpoint, whose number is returned; else the savepoint it was given.
    fn open_store(&mut self, io: &mut dyn Io) -> Result<Option<CheckpointId>, RestoreError> {
        let identity = JobIdentity { name: self.graph.name.clone() };
        self.restored = None;
        if let Some(store) = &mut self.store {
            // Damage that was found while it was in use: this time nothing is believed unread.
            let verify_everything = store.suspicion.as_ref().is_some_and(|suspicion| suspicion.load(Ordering::Acquire));
            let options = StoreOptions { verify_everything, ..store.options };
            let opened = CheckpointStore::open(io, &self.arena, &store.dir, &identity, options)?;
            store.open = Some(opened.store);
            store.suspicion = opened.restored.as_ref().map(|restored| restored.suspicion());
            self.restored = opened.restored;
        }
        let held = self.restored.as_ref().map(|restored| restored.id());
        if let (None, Some(from)) = (held, &self.from) {
            let asked = (!from.of_any_job).then_some(self.graph.name.as_str());
            match RestoredCheckpoint::of_savepoint(io, &self.arena, &from.dir, asked) {
                Ok(savepoint) => {
                    if let Some(store) = self.open_store_mut() {
                        store.number_after(savepoint.id());
                    }
                    self.restored = Some(savepoint);
                }
                Err(error) => {
                    self.close(io);
                    return Err(error);
                }
            }
        }
        Ok(held)
    }

    fn store_dir(&self) -> PathBuf {
        self.store.as_ref().map_or_else(PathBuf::new, |store| store.dir.clone())
    }

    /// Whether every operator that the checkpoint holds state of is still there. Which states an operator has is known to its tasks alone.
    fn check_operators(&self) -> Result<(), SubmitError> {
        let Some(restored) = self.restored.as_ref().filter(|_| !self.allow_dropped_state) else { return Ok(()) };
        let is_gone = |operator: &str| !self.graph.keyed_operators.iter().any(|(name, _)| name == operator);
        let states = states_in_words(restored.states().iter().filter(|state| is_gone(&state.operator)));
        if states.is_empty() {
            return Ok(());
        }
        Err(SubmitError::StateDropped { job: self.graph.name.clone(), checkpoint: restored.id().0, states })
    }

    /// The states of the checkpoint that tasks of a vertex answer for: those of its operators; the first vertex also for operators that are
    /// gone.
    pub(super) fn dropping(&self, vertex: VertexId) -> Dropping {
        let states = self.restored.as_ref().map_or(&[][..], |restored| restored.states());
        let answers_for = states.iter().filter(|state| {
            let keyed = self.graph.keyed_operators.iter().find(|(name, _)| *name == state.operator);
            keyed.map_or(VertexId(0), |&(_, vertex)| vertex) == vertex
        });
        Dropping { answers_for: answers_for.map(|state| state.id).collect(), is_allowed: self.allow_dropped_state }
    }

    fn open_store_mut(&mut self) -> Option<&mut CheckpointStore> {
        self.store.as_mut().and_then(|store| store.open.as_mut())
    }
}

impl JobStore {
    fn new(options: &CheckpointOptions, store_options: StoreOptions) -> Self {
        let store_options = StoreOptions { retained_count: options.retained, ..store_options };
        let (dir, follower) = (options.dir.clone(), options.follower.clone());
        Self {
            dir,
            follower,
            follower_is_finished: false,
            options: store_options,
            open: None,
            pins: StorePins::default(),
            suspicion: None,
        }
    }

    fn newest_files(&mut self) -> Option<CommittedFiles> {
        self.open.as_mut().and_then(CheckpointStore::newest_files)
    }

    fn finish_follower(&mut self, last: Option<CommittedFiles>) {
        if !std::mem::replace(&mut self.follower_is_finished, true) {
            self.with_follower(|follower| follower.finish(last));
        }
    }

    /// Tells or asks the follower something, if there is one. It is the host's, and this thread is everybody's: one that panics hears no more.
    fn with_follower<T>(&mut self, call: impl FnOnce(&dyn CheckpointFollower) -> T) -> Option<T> {
        let follower = self.follower.as_ref()?;
        match catch_unwind(AssertUnwindSafe(|| call(&**follower))) {
            Ok(answer) => Some(answer),
            Err(panic) => {
                let (dir, panic) = (self.dir.display(), panic_message(&*panic));
                tracing::error!("who follows the checkpoints in \"{dir}\" panicked, and hears of no more: {panic}");
                drop_of_host(self.follower.take(), &dir.to_string());
                None
            }
        }
    }
}

/// A quarter of the engine's memory, but at least 64 MiB if the engine has so much.
fn default_memory(engine_memory_bytes: usize) -> usize {
    (engine_memory_bytes / 4).max(64 << 20).min(engine_memory_bytes)
}

fn channel_count(graph: &JobGraph, parallelism: u32) -> usize {
    let per_edge = |partitioning| match partitioning {
        Partitioning::Forward => parallelism as usize,
        Partitioning::Hash | Partitioning::Rebalance | Partitioning::Broadcast => (parallelism as usize).pow(2),
    };
    graph.edges.iter().map(|edge| per_edge(edge.partitioning)).sum()
}
