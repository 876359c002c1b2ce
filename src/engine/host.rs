//! What the host sees of a job: its state and figures, written by the control thread, read by any thread.

use crate::checkpoint::coordinator::CheckpointStats;
use crate::job_manager::{JobEvent, JobState};
use crate::metrics::MetricsRegistry;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// A job's state as of the control thread's last look.
#[derive(Clone, Debug)]
pub struct JobStatus {
    /// Where the job is in its life.
    pub state: JobState,
    /// Why it failed, or why it restarts, or what a stop left undone.
    pub reason: Option<String>,
    /// Why it waits in the queue, with figures.
    pub why_waiting: Option<String>,
    /// How often it was started, from 1.
    pub attempt: u32,
    /// The number of the checkpoint the last start began from.
    pub restored_from: Option<u64>,
    /// Its checkpoints.
    pub checkpoints: CheckpointFigures,
    /// How busy each slot of the engine was since the last look, in thousandths.
    pub slots_busy_permille: Vec<u16>,
    /// Bytes of memory the job has mapped, of how many it may.
    pub memory_bytes: (usize, usize),
    /// What the watchdog last said about a slot that runs this job.
    pub stalled: Option<String>,
}

/// What became of a job's checkpoints.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckpointFigures {
    /// How many are durable.
    pub completed: u64,
    /// How many failed.
    pub failed: u64,
    /// The newest durable one.
    pub last_id: Option<u64>,
    /// How long it took, in nanoseconds.
    pub last_duration_ns: u64,
    /// What it added on disk.
    pub last_bytes: u64,
    /// Why the last one that failed did.
    pub last_failure: Option<String>,
}

/// One job, shared between the control thread and its handles.
pub(super) struct JobShared {
    status: Mutex<JobStatus>,
    ended: Condvar,
    pub(super) metrics: MetricsRegistry,
}

impl JobShared {
    pub(super) fn new() -> Arc<Self> {
        let status = JobStatus {
            state: JobState::Created,
            reason: None,
            why_waiting: None,
            attempt: 0,
            restored_from: None,
            checkpoints: CheckpointFigures::default(),
            slots_busy_permille: Vec::new(),
            memory_bytes: (0, 0),
            stalled: None,
        };
        Arc::new(Self { status: Mutex::new(status), ended: Condvar::new(), metrics: MetricsRegistry::new() })
    }

    pub(super) fn status(&self) -> JobStatus {
        self.lock().clone()
    }

    pub(super) fn has_ended(&self) -> bool {
        self.lock().state.has_ended()
    }

    pub(super) fn update(&self, change: impl FnOnce(&mut JobStatus)) {
        let mut status = self.lock();
        change(&mut status);
        if status.state.has_ended() {
            self.ended.notify_all();
        }
    }

    /// The job's last status once it has ended; `None` when `at_most` is over before.
    pub(super) fn wait_ended(&self, at_most: Option<Duration>) -> Option<JobStatus> {
        let status = self.lock();
        let runs = |status: &mut JobStatus| !status.state.has_ended();
        let status = match at_most {
            None => self.ended.wait_while(status, runs).unwrap_or_else(PoisonError::into_inner),
            Some(at_most) => {
                let waited = self.ended.wait_timeout_while(status, at_most, runs);
                waited.unwrap_or_else(PoisonError::into_inner).0
            }
        };
        status.state.has_ended().then(|| status.clone())
    }

    fn lock(&self) -> MutexGuard<'_, JobStatus> {
        // Every change is one assignment after another of plain figures: a panic in between leaves nothing unusable.
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl CheckpointFigures {
    pub(super) fn of(stats: &CheckpointStats) -> Self {
        let last = stats.history.iter().rev().find(|record| record.failure.is_none());
        Self {
            completed: stats.completed_count,
            failed: stats.failed_count,
            last_id: last.map(|record| record.id.0),
            last_duration_ns: last.map_or(0, |record| record.duration_ns),
            last_bytes: last.map_or(0, |record| record.size_bytes),
            last_failure: stats.last_failure.clone(),
        }
    }
}

/// A job event in words, for the log.
pub(super) fn describe(event: &JobEvent) -> String {
    match event {
        JobEvent::StateChanged { job, state, reason: Some(reason) } => format!("{job} is {state:?}: {reason}"),
        JobEvent::StateChanged { job, state, reason: None } => format!("{job} is {state:?}"),
        JobEvent::CancelOverdue { job, tasks } => format!("{job}: these tasks have not stopped in time: {tasks}"),
        JobEvent::StopFailed { job, reason } => format!("{job} goes on: its final checkpoint failed: {reason}"),
        JobEvent::TaskManagerLost { task_manager, reason } => format!("{task_manager} is lost: {reason}"),
    }
}
