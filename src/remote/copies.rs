//! The follower that copies a job's checkpoints and savepoints into an object store, on a thread of its own.
//!
//! Of checkpoints the newest goes, and the last few stay; a savepoint goes as soon as it is complete, whole, into a place of its own, and stays.

use super::error::RemoteError;
use super::upload::{Known, Place};
use super::{address, download};
use crate::checkpoint::{CheckpointFollower, CheckpointId, CommittedFiles};
use crate::io::{Io, IoChoice};
use crate::memory::{Arena, ArenaOptions, HugePages, MemoryBudget};
use crate::slot::{Doorbell, panic_message, spawn_slot};
use object_store::ObjectStore;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Between two copies, unless another time is set.
const EVERY: Duration = Duration::from_secs(10);
/// Checkpoints that stay in the store.
const RETAINED: usize = 2;
/// How long a failed copy waits before it is tried again, at first and at most.
const RETRY_MIN: Duration = Duration::from_millis(200);
const RETRY_MAX: Duration = Duration::from_secs(60);
/// How often the last checkpoint of a job that has ended, and every savepoint, is tried.
const LAST_ATTEMPTS_MAX: u32 = 4;
/// What reading a savepoint may take.
const READ_BYTES_MAX: usize = 64 << 20;

/// Copies of one job's checkpoints under one prefix of an object store: give it to `CheckpointOptions::follower`. Cheap to clone.
#[derive(Clone, Debug)]
pub struct RemoteCopies {
    shared: Arc<Shared>,
}

/// What became of the copies.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RemoteFigures {
    /// How many checkpoints were copied.
    pub copied: u64,
    /// The newest of them.
    pub last: Option<CheckpointId>,
    /// How many savepoints were copied.
    pub savepoints: u64,
    /// Bytes that were put.
    pub bytes: u64,
    /// Attempts that failed.
    pub failed: u64,
    /// Why the last one that failed did.
    pub last_failure: Option<String>,
}

#[derive(Debug)]
struct Shared {
    place: Place,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    is_started: bool,
    /// The newest checkpoint nobody has copied yet.
    wanted: Option<CommittedFiles>,
    /// Savepoints nobody has copied yet, oldest first, and how often each was tried.
    savepoints: VecDeque<(PathBuf, u32)>,
    is_copying: bool,
    is_ending: bool,
    every: Duration,
    last_ns: Option<u64>,
    figures: RemoteFigures,
}

impl RemoteCopies {
    /// Copies to an address: `s3://bucket/prefix` with the feature `s3`; keys, region and endpoint come from the environment
    /// (`AWS_ACCESS_KEY_ID`, `AWS_ENDPOINT`, ...).
    pub fn to(address: &str) -> Result<Self, RemoteError> {
        let (store, prefix) = address::parse(address)?;
        Ok(Self::with(Place { store, prefix }))
    }

    /// Copies into a store that the host has opened.
    pub fn into_store(store: Arc<dyn ObjectStore>, prefix: &str) -> Self {
        Self::with(Place { store, prefix: prefix.into() })
    }

    fn with(place: Place) -> Self {
        let state = Mutex::new(State { every: EVERY, ..State::default() });
        Self { shared: Arc::new(Shared { place, state, changed: Condvar::new() }) }
    }

    /// How often a checkpoint is copied, at most; always the newest.
    pub fn every(self, interval: Duration) -> Self {
        self.shared.lock().every = interval;
        self
    }

    /// What became of the copies so far.
    pub fn figures(&self) -> RemoteFigures {
        self.shared.lock().figures.clone()
    }

    /// The place of a savepoint that was taken from a running job whose checkpoints are copied here, by the name of its directory: to
    /// `download` it. Its address is this one and `/savepoints/NAME`.
    pub fn of_savepoint(&self, name: &str) -> Self {
        Self::with(self.shared.place.of_savepoint(name))
    }

    /// Copies a savepoint, or the directory of a job that does not run; blocks.
    pub fn upload(&self, io: &mut dyn Io, arena: &Arena, dir: &Path) -> Result<CheckpointId, RemoteError> {
        let files = CommittedFiles::of_directory(io, arena, dir)?;
        let mut known = Known::default();
        // Nothing that is there goes for it.
        runtime()?.block_on(self.shared.place.put(&files, usize::MAX, &mut known))?;
        Ok(files.named.checkpoint)
    }

    /// Makes `dir`, which must be empty or missing, a checkpoint directory with the newest copy, or the one asked for; blocks. A job
    /// then starts from it as from its own.
    pub fn download(
        &self,
        io: &mut dyn Io,
        arena: &Arena,
        asked: Option<CheckpointId>,
        dir: &Path,
    ) -> Result<CheckpointId, RemoteError> {
        let fetched = download::fetch(&self.shared.place, asked.map(|id| id.0), dir);
        let index = runtime()?.block_on(fetched)?;
        index.named.make_directory(io, arena, dir)?;
        Ok(index.named.checkpoint)
    }
}

impl CheckpointFollower for RemoteCopies {
    fn wants(&self, now_ns: u64) -> bool {
        let state = self.shared.lock();
        let is_due =
            state.last_ns.is_none_or(|last_ns| Duration::from_nanos(now_ns.saturating_sub(last_ns)) >= state.every);
        is_due && !state.is_ending
    }

    fn follow(&self, files: CommittedFiles, now_ns: u64) {
        let mut state = self.shared.lock();
        state.last_ns = Some(now_ns);
        state.wanted = Some(files);
        self.wake(state);
    }

    fn savepoint(&self, dir: &Path) {
        let mut state = self.shared.lock();
        state.savepoints.push_back((dir.to_owned(), 0));
        self.wake(state);
    }

    fn finish(&self, last: Option<CommittedFiles>) {
        let mut state = self.shared.lock();
        let is_new = |files: &CommittedFiles| Some(files.named.checkpoint) != state.figures.last;
        state.wanted = last.filter(is_new).or(state.wanted.take());
        // A thread that never started has nothing to end.
        state.is_ending = state.is_started || state.has_work();
        self.wake(state);
    }

    fn is_busy(&self) -> bool {
        let state = self.shared.lock();
        state.has_work() || state.is_copying
    }
}

impl RemoteCopies {
    /// Wakes the thread, which is started when there is something for it to do for the first time.
    fn wake(&self, mut state: MutexGuard<'_, State>) {
        if !state.is_started && state.has_work() {
            let shared = self.shared.clone();
            match spawn_slot("remote-copies", None, move || work_contained(&shared)) {
                // It ends when the job does: nobody waits for it.
                Ok(_) => state.is_started = true,
                Err(error) => state.give_up(&error.to_string()),
            }
        }
        drop(state);
        self.shared.changed.notify_all();
    }
}

impl State {
    /// The thread ends although there is more to come: the next checkpoint starts another one.
    fn end_copying(&mut self, reason: &str) {
        self.give_up(reason);
        (self.is_copying, self.is_started, self.is_ending) = (false, false, false);
    }

    fn has_work(&self) -> bool {
        self.wanted.is_some() || !self.savepoints.is_empty()
    }

    fn fail(&mut self, reason: &str) {
        tracing::warn!("a checkpoint or savepoint was not copied: {reason}");
        self.figures.failed += 1;
        self.figures.last_failure = Some(reason.to_owned());
    }

    fn give_up(&mut self, reason: &str) {
        self.fail(reason);
        self.wanted = None;
        self.savepoints.clear();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change is one assignment after another of plain figures: a panic in between leaves nothing unusable.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The store may be the host's own: where it panics the copies end, and no job waits for them.
fn work_contained(shared: &Shared) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| work(shared))) {
        shared.lock().end_copying(&format!("the copying panicked: {}", panic_message(&*panic)));
    }
}

/// The thread: the newest checkpoint that is wanted, again and again, until the job has ended.
fn work(shared: &Shared) {
    let runtime = match runtime() {
        Ok(runtime) => runtime,
        Err(error) => return shared.lock().end_copying(&error.to_string()),
    };
    let mut known = Known::default();
    let mut retry = RETRY_MIN;
    let mut last_attempts = 0;
    loop {
        let mut state = shared.lock();
        while !state.has_work() && !state.is_ending {
            state = shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if let Some((dir, attempts)) = state.savepoints.pop_front() {
            state.is_copying = true;
            drop(state);
            let put = put_savepoint(&runtime, &shared.place, &dir);
            let mut state = shared.lock();
            state.is_copying = false;
            match put {
                Ok(bytes) => {
                    state.figures.savepoints += 1;
                    state.figures.bytes += bytes;
                }
                Err(error) => {
                    state.fail(&error.to_string());
                    if attempts + 1 < LAST_ATTEMPTS_MAX {
                        state.savepoints.push_front((dir, attempts + 1));
                        let (was_ending, wait) = (state.is_ending, RETRY_MIN * 2u32.pow(attempts));
                        drop(shared.changed.wait_timeout_while(state, wait, |state| state.is_ending == was_ending));
                    }
                }
            }
            continue;
        }
        let Some(files) = state.wanted.take() else {
            state.is_started = false;
            // The next job of this follower begins anew.
            state.is_ending = false;
            return;
        };
        state.is_copying = true;
        if state.is_ending {
            if last_attempts == 0 {
                // The job waits for it now.
                retry = RETRY_MIN;
            }
            last_attempts += 1;
        }
        drop(state);
        let put = runtime.block_on(shared.place.put(&files, RETAINED, &mut known));
        let mut state = shared.lock();
        state.is_copying = false;
        match put {
            Ok(bytes) => {
                state.figures.copied += 1;
                state.figures.last = Some(files.named.checkpoint);
                state.figures.bytes += bytes;
                retry = RETRY_MIN;
            }
            Err(error) => {
                // What is in the store is not known any more: an attempt may have gone further than its answer.
                known = Known::default();
                state.fail(&error.to_string());
                if last_attempts < LAST_ATTEMPTS_MAX {
                    state.wanted.get_or_insert(files);
                    let waited = shared.changed.wait_timeout(state, retry).unwrap_or_else(PoisonError::into_inner);
                    drop(waited);
                    retry = (retry * 2).min(RETRY_MAX);
                }
            }
        }
    }
}

/// Copies a savepoint into its own place. Returns how many bytes went over.
fn put_savepoint(runtime: &tokio::runtime::Runtime, place: &Place, dir: &Path) -> Result<u64, RemoteError> {
    let client = |error: &dyn std::fmt::Display| RemoteError::Client { reason: error.to_string() };
    let bell = Doorbell::new().map_err(|error| client(&error))?;
    let mut io = crate::io::open(IoChoice::Blocking, Arc::new(bell)).map_err(|error| client(&error))?;
    let arena = Arena::new(MemoryBudget::new(READ_BYTES_MAX), ArenaOptions { huge_pages: HugePages::Off });
    let files = CommittedFiles::of_directory(&mut *io, &arena, dir)?;
    let name = dir.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    runtime.block_on(place.of_savepoint(&name).put(&files, usize::MAX, &mut Known::default()))
}

/// The client's own runtime, on the calling thread.
fn runtime() -> Result<tokio::runtime::Runtime, RemoteError> {
    let built = tokio::runtime::Builder::new_current_thread().enable_all().build();
    built.map_err(|error| RemoteError::Client { reason: error.to_string() })
}
