//! Starts checkpoints, collects their acknowledgements, and decides what becomes of each.
//!
//! Here: when a checkpoint is due, who has not answered yet, what counts as a failure, how many are tolerated, the history.
//! Not here: barriers inside a task (`aligner`), bytes on disk and the commit itself (the store), restarting a job (`job_manager`).
//!
//! ```text
//! due -> Trigger(id) -> [collecting] -- all acks -> Commit(id) -> [committing] -- committed -> NotifyComplete(id)
//!                            | timeout, decline, pause                 | the store failed
//!                            +-----------> Abort(id, why) <------------+     too many in a row -> FailJob(why)
//! ```
//!
//! Invariants: ids grow by one and are never reused; nothing is triggered unless every task runs; a checkpoint being committed is
//! never aborted from here, because it may be durable already: only the store knows.
//! Semantics: Flink CheckpointCoordinator, CheckpointRequestDecider, CheckpointFailureManager. Unlike Flink (tolerable failures 0),
//! failed checkpoints are tolerated without limit by default: a full disk must not kill a job that computes correctly; it is counted,
//! reported, and the next checkpoint succeeds once there is space. Unlike Flink, the interval goes down to 5 ms (there 10 ms).

use super::CheckpointId;
use std::collections::VecDeque;

const NS_PER_MS: u64 = 1_000_000;

/// The shortest interval: below it, two checkpoints' flushes overlap on any disk we measured. Flink's minimum is 10 ms.
pub const INTERVAL_MS_MIN: u64 = 5;

/// How many ended checkpoints the history remembers.
pub const HISTORY_MAX: usize = 64;

/// The checkpoints of one job.
#[derive(Debug)]
pub struct CheckpointCoordinator {
    settings: CheckpointSettings,
    tasks: Vec<Participant>,
    next: CheckpointId,
    /// When the next periodic one is due; `None` while not all tasks run.
    due_ns: Option<u64>,
    /// The most urgent request that is not yet triggered.
    requested: Option<CheckpointKind>,
    pending: VecDeque<Pending>,
    last_ended_ns: Option<u64>,
    last_completed: Option<CheckpointId>,
    /// The last checkpoint is durable: until the job ends, or runs anew, there is no other.
    final_is_complete: bool,
    failures_in_a_row: u32,
    stats: CheckpointStats,
}

/// How often, how long, how many.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckpointSettings {
    /// Between two triggers; a checkpoint that takes longer delays the next one until it has ended. `None`: only on request.
    pub interval_ms: Option<u64>,
    /// Between the end of one and the trigger of the next. Raises the interval if larger.
    pub min_pause_ms: u64,
    /// After this long without all acknowledgements a checkpoint is aborted.
    pub timeout_ms: u64,
    /// How many may be under way at once.
    pub concurrent_max: u32,
    /// How many failures in a row the job survives; `None`: any number.
    pub tolerable_failures_max: Option<u32>,
}

/// Why settings are refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CheckpointSettingsError {
    /// Too often.
    #[error(
        "a checkpoint every {interval_ms} ms was asked for, {INTERVAL_MS_MIN} ms is the shortest interval: ask for at least that"
    )]
    IntervalTooShort {
        /// What was asked for.
        interval_ms: u64,
    },
    /// A timeout of zero aborts every checkpoint.
    #[error("the checkpoint timeout is 0 ms, so no checkpoint could complete: set it to more than a checkpoint takes")]
    NoTime,
    /// No checkpoint could ever start.
    #[error("0 concurrent checkpoints are allowed, so none could start: allow at least 1")]
    NoneAllowed,
}

/// One task that must acknowledge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Participant {
    /// The vertex's name, as in `SubtaskSnapshot`.
    pub vertex: String,
    /// The subtask's index.
    pub subtask: u32,
    /// Finished tasks have no state any more and count as having acknowledged (Flink FLIP-147).
    finished: bool,
}

/// Why a checkpoint is taken; the later, the more urgent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum CheckpointKind {
    /// The interval has passed.
    Periodic,
    /// Somebody asked for one now.
    Manual,
    /// The last one: the job stops when it is complete. No other follows unless it fails, or the job does.
    Final,
}

/// What the coordinator wants done. Each is an order to somebody else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CheckpointAction {
    /// To the sources: send barrier `id`.
    Trigger {
        /// The checkpoint.
        id: CheckpointId,
        /// Why it is taken.
        kind: CheckpointKind,
    },
    /// To the tasks and the store: drop everything of `id`.
    Abort {
        /// The checkpoint.
        id: CheckpointId,
        /// Why it was taken: whoever asked for a `Manual` or `Final` one learns here that it failed.
        kind: CheckpointKind,
        /// Why it failed.
        reason: AbortReason,
    },
    /// To the store: everything of `id` was handed over, make it durable.
    Commit {
        /// The checkpoint.
        id: CheckpointId,
    },
    /// To the tasks: `id` is durable, sinks may publish. To the caller: a `Final` one is complete, the job may end.
    NotifyComplete {
        /// The checkpoint.
        id: CheckpointId,
        /// Why it was taken.
        kind: CheckpointKind,
    },
    /// To the job manager: more failures in a row than the settings tolerate.
    FailJob {
        /// The last failure in words.
        reason: String,
    },
}

/// Why a checkpoint was aborted; the message names who.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AbortReason {
    /// Not all tasks acknowledged in time.
    #[error("no acknowledgement from {missing} within {timeout_ms} ms")]
    Expired {
        /// The tasks that did not answer, by vertex and subtask.
        missing: String,
        /// The timeout.
        timeout_ms: u64,
    },
    /// A task could not take its snapshot.
    #[error("{vertex}[{subtask}] declined: {reason}")]
    Declined {
        /// The vertex.
        vertex: String,
        /// The subtask.
        subtask: u32,
        /// Its words.
        reason: String,
    },
    /// The store could not write or commit.
    #[error("the store failed: {0}")]
    StoreFailed(String),
    /// A newer checkpoint completed first. Not a failure.
    #[error("checkpoint {0} completed first")]
    Subsumed(CheckpointId),
    /// The job no longer runs as a whole. Not a failure: what stopped it is reported by itself.
    #[error("not all tasks are running: {0}")]
    NotAllRunning(String),
}

/// One ended checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckpointRecord {
    /// Which.
    pub id: CheckpointId,
    /// Why it was taken.
    pub kind: CheckpointKind,
    /// From the trigger to the commit or the abort.
    pub duration_ns: u64,
    /// What it added on disk; 0 if it failed.
    pub size_bytes: u64,
    /// Why it failed; `None` if it completed.
    pub failure: Option<AbortReason>,
}

/// What became of all checkpoints.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckpointStats {
    /// Durable ones.
    pub completed_count: u64,
    /// Failed ones (subsumed and not-all-running are not failures).
    pub failed_count: u64,
    /// The reason of the last failure, kept when later ones succeed.
    pub last_failure: Option<String>,
    /// The last `HISTORY_MAX`, oldest first.
    pub history: VecDeque<CheckpointRecord>,
}

#[derive(Debug)]
struct Pending {
    id: CheckpointId,
    kind: CheckpointKind,
    triggered_ns: u64,
    phase: Phase,
}

#[derive(Debug, PartialEq, Eq)]
enum Phase {
    /// Waits for tasks; per task whether it has acknowledged.
    Collecting { acknowledged: Vec<bool> },
    /// Waits for the store. Has no timeout: see the invariant.
    Committing,
}

impl Default for CheckpointSettings {
    fn default() -> Self {
        Self {
            interval_ms: Some(1_000),
            min_pause_ms: 0,
            timeout_ms: 600_000,
            concurrent_max: 1,
            tolerable_failures_max: None,
        }
    }
}

impl CheckpointSettings {
    fn validated(self) -> Result<Self, CheckpointSettingsError> {
        match self.interval_ms {
            Some(interval_ms) if interval_ms < INTERVAL_MS_MIN => {
                return Err(CheckpointSettingsError::IntervalTooShort { interval_ms });
            }
            _ if self.timeout_ms == 0 => return Err(CheckpointSettingsError::NoTime),
            _ if self.concurrent_max == 0 => return Err(CheckpointSettingsError::NoneAllowed),
            _ => {}
        }
        let interval_ms = self.interval_ms.map(|interval_ms| interval_ms.max(self.min_pause_ms));
        Ok(Self { interval_ms, ..self })
    }

    /// The first trigger comes at random in [min pause, interval], so that the jobs of one process do not flush in step.
    fn first_delay_ns(&self, random: u64) -> Option<u64> {
        let from_ns = self.min_pause_ms.saturating_mul(NS_PER_MS);
        let to_ns = self.interval_ms?.saturating_mul(NS_PER_MS);
        Some(from_ns + random % (to_ns - from_ns).saturating_add(1))
    }
}

impl Participant {
    /// A task that takes part from its first checkpoint on.
    pub fn new(vertex: impl Into<String>, subtask: u32) -> Self {
        Self { vertex: vertex.into(), subtask, finished: false }
    }
}

impl AbortReason {
    fn is_failure(&self) -> bool {
        !matches!(self, Self::Subsumed(_) | Self::NotAllRunning(_))
    }
}

impl CheckpointCoordinator {
    /// A coordinator whose job does not run yet. `last` is the newest id ever used (0: none), also by a failed checkpoint;
    /// `last_completed` the one the job was restored from.
    pub fn new(
        settings: CheckpointSettings,
        last: CheckpointId,
        last_completed: Option<CheckpointId>,
    ) -> Result<Self, CheckpointSettingsError> {
        Ok(Self {
            settings: settings.validated()?,
            tasks: Vec::new(),
            next: CheckpointId(last.0 + 1),
            due_ns: None,
            requested: None,
            pending: VecDeque::new(),
            last_ended_ns: None,
            last_completed,
            final_is_complete: false,
            failures_in_a_row: 0,
            stats: CheckpointStats::default(),
        })
    }

    /// Every task runs: from now on checkpoints are triggered. `random` is any number (the job's seed in the simulator).
    pub fn resume(&mut self, tasks: Vec<Participant>, random: u64, now_ns: u64) {
        self.tasks = tasks;
        let delay_ns = self.settings.first_delay_ns(random).unwrap_or(u64::MAX);
        self.due_ns = Some(now_ns.saturating_add(delay_ns));
        self.final_is_complete = false;
    }

    /// Not every task runs any more: nothing is triggered, requests are dropped, and what is being collected is aborted. What is
    /// being committed still comes to its end; ask `is_committing` before choosing the checkpoint to restore from.
    pub fn pause(&mut self, reason: &str, now_ns: u64, out: &mut Vec<CheckpointAction>) {
        self.due_ns = None;
        self.requested = None;
        self.abort_where(
            |pending| pending.phase != Phase::Committing,
            AbortReason::NotAllRunning(reason.into()),
            now_ns,
            out,
        );
    }

    /// Asks for a checkpoint as soon as possible: neither interval nor pause holds it up, a checkpoint under way does. `Final` is
    /// stop-with-checkpoint. Several requests are served by one checkpoint of the most urgent kind.
    pub fn request(&mut self, kind: CheckpointKind) {
        self.requested = self.requested.max(Some(kind));
    }

    /// Expires what took too long, then triggers what is due. Call it at `next_wake_ns` at the latest.
    pub fn step(&mut self, now_ns: u64, out: &mut Vec<CheckpointAction>) {
        self.expire(now_ns, out);
        if let Some(kind) = self.due_kind(now_ns) {
            self.trigger(kind, now_ns, out);
        }
    }

    /// When `step` has something to do next; `None` when only a message can change anything.
    pub fn next_wake_ns(&self, now_ns: u64) -> Option<u64> {
        let expiry_ns =
            self.pending.iter().filter(|pending| pending.phase != Phase::Committing).map(|p| self.expiry_ns(p)).min();
        let trigger_ns = match self.requested {
            _ if !self.may_trigger() => None,
            Some(_) => Some(now_ns),
            None => self.periodic_ns().filter(|&ns| ns != u64::MAX),
        };
        expiry_ns.into_iter().chain(trigger_ns).min()
    }

    /// A task handed over everything of checkpoint `id`. Late, repeated and unknown acknowledgements change nothing.
    pub fn on_acknowledged(&mut self, id: CheckpointId, vertex: &str, subtask: u32, out: &mut Vec<CheckpointAction>) {
        let Some(task) = self.tasks.iter().position(|task| task.subtask == subtask && task.vertex == vertex) else {
            return;
        };
        if let Some(Pending { phase: Phase::Collecting { acknowledged }, .. }) = self.pending_mut(id) {
            acknowledged[task] = true;
        }
        self.commit_what_is_complete(out);
    }

    /// A task finished: it takes part in nothing any more, and is not waited for.
    pub fn on_task_finished(&mut self, vertex: &str, subtask: u32, out: &mut Vec<CheckpointAction>) {
        for task in self.tasks.iter_mut().filter(|task| task.subtask == subtask && task.vertex == vertex) {
            task.finished = true;
        }
        self.commit_what_is_complete(out);
    }

    /// A task cannot take its snapshot of `id`.
    pub fn on_declined(
        &mut self,
        id: CheckpointId,
        vertex: &str,
        subtask: u32,
        reason: &str,
        now_ns: u64,
        out: &mut Vec<CheckpointAction>,
    ) {
        let reason = AbortReason::Declined { vertex: vertex.into(), subtask, reason: reason.into() };
        self.abort_where(|pending| pending.id == id && pending.phase != Phase::Committing, reason, now_ns, out);
    }

    /// The store made `id` durable, adding `size_bytes` on disk. Older ones still being collected are subsumed.
    pub fn on_committed(&mut self, id: CheckpointId, size_bytes: u64, now_ns: u64, out: &mut Vec<CheckpointAction>) {
        let Some(done) = self.take_pending(id) else { return };
        self.last_ended_ns = Some(now_ns);
        self.last_completed = self.last_completed.max(Some(id));
        self.final_is_complete |= done.kind == CheckpointKind::Final;
        self.failures_in_a_row = 0;
        self.stats.completed_count += 1;
        self.remember(&done, size_bytes, None, now_ns);
        out.push(CheckpointAction::NotifyComplete { id, kind: done.kind });
        self.abort_where(
            |older| older.id < id && older.phase != Phase::Committing,
            AbortReason::Subsumed(id),
            now_ns,
            out,
        );
    }

    /// The store could not write or commit `id`; it may say so at any time after the trigger.
    pub fn on_store_failed(&mut self, id: CheckpointId, reason: &str, now_ns: u64, out: &mut Vec<CheckpointAction>) {
        self.abort_where(|pending| pending.id == id, AbortReason::StoreFailed(reason.into()), now_ns, out);
    }

    /// The store is gone and will not answer: what it was committing counts as aborted. Only for a paused coordinator.
    pub fn abandon_commits(&mut self, reason: &str, now_ns: u64, out: &mut Vec<CheckpointAction>) {
        self.abort_where(|_| true, AbortReason::NotAllRunning(reason.into()), now_ns, out);
    }

    /// Whether every task runs, so that checkpoints may be triggered.
    pub fn is_resumed(&self) -> bool {
        self.due_ns.is_some()
    }

    /// Whether a checkpoint is with the store, so that `last_completed` may still grow.
    pub fn is_committing(&self) -> bool {
        self.pending.iter().any(|pending| pending.phase == Phase::Committing)
    }

    /// The newest durable checkpoint: what a restart restores.
    pub fn last_completed(&self) -> Option<CheckpointId> {
        self.last_completed
    }

    /// What became of the checkpoints so far.
    pub fn stats(&self) -> &CheckpointStats {
        &self.stats
    }

    fn may_trigger(&self) -> bool {
        let final_under_way = self.pending.iter().any(|pending| pending.kind == CheckpointKind::Final);
        let is_last = final_under_way || self.final_is_complete;
        self.due_ns.is_some() && !is_last && self.pending.len() < self.settings.concurrent_max as usize
    }

    /// When the next periodic one may start: the interval has passed since the last trigger, the pause since the last end.
    fn periodic_ns(&self) -> Option<u64> {
        let paused_until_ns =
            self.last_ended_ns.map_or(0, |ns| ns.saturating_add(self.settings.min_pause_ms * NS_PER_MS));
        self.due_ns.map(|due_ns| due_ns.max(paused_until_ns))
    }

    fn due_kind(&self, now_ns: u64) -> Option<CheckpointKind> {
        let periodic = self.periodic_ns().filter(|&due_ns| due_ns <= now_ns).map(|_| CheckpointKind::Periodic);
        self.requested.max(periodic).filter(|_| self.may_trigger())
    }

    fn trigger(&mut self, kind: CheckpointKind, now_ns: u64, out: &mut Vec<CheckpointAction>) {
        let id = self.next;
        self.next = CheckpointId(id.0 + 1);
        self.requested = None;
        // From this trigger, not from when it was due: after a long checkpoint the next ones do not come in a burst.
        let interval_ns = self.settings.interval_ms.map_or(u64::MAX, |ms| ms.saturating_mul(NS_PER_MS));
        self.due_ns = Some(now_ns.saturating_add(interval_ns));
        let phase = Phase::Collecting { acknowledged: vec![false; self.tasks.len()] };
        self.pending.push_back(Pending { id, kind, triggered_ns: now_ns, phase });
        out.push(CheckpointAction::Trigger { id, kind });
        self.commit_what_is_complete(out);
    }

    fn expiry_ns(&self, pending: &Pending) -> u64 {
        pending.triggered_ns.saturating_add(self.settings.timeout_ms.saturating_mul(NS_PER_MS))
    }

    fn expire(&mut self, now_ns: u64, out: &mut Vec<CheckpointAction>) {
        let expired = |pending: &&Pending| self.expiry_ns(pending) <= now_ns;
        let Some((id, missing)) = self.pending.iter().filter(expired).find_map(|p| Some((p.id, self.missing(p)?)))
        else {
            return;
        };
        let reason = AbortReason::Expired { missing, timeout_ms: self.settings.timeout_ms };
        self.abort_where(|pending| pending.id == id, reason, now_ns, out);
        self.expire(now_ns, out);
    }

    /// Who has not acknowledged; `None` once everybody has and the store is at work.
    fn missing(&self, pending: &Pending) -> Option<String> {
        let Phase::Collecting { acknowledged } = &pending.phase else { return None };
        let silent = self.tasks.iter().zip(acknowledged).filter(|(task, done)| !task.finished && !**done);
        let names: Vec<_> = silent.map(|(task, _)| format!("{}[{}]", task.vertex, task.subtask)).collect();
        Some(names.join(", "))
    }

    fn commit_what_is_complete(&mut self, out: &mut Vec<CheckpointAction>) {
        for pending in &mut self.pending {
            let Phase::Collecting { acknowledged } = &pending.phase else { continue };
            if self.tasks.iter().zip(acknowledged).all(|(task, done)| task.finished || *done) {
                pending.phase = Phase::Committing;
                out.push(CheckpointAction::Commit { id: pending.id });
            }
        }
    }

    fn abort_where(
        &mut self,
        is_meant: impl Fn(&Pending) -> bool,
        reason: AbortReason,
        now_ns: u64,
        out: &mut Vec<CheckpointAction>,
    ) {
        while let Some(place) = self.pending.iter().position(&is_meant) {
            let Some(aborted) = self.pending.remove(place) else { return };
            self.last_ended_ns = Some(now_ns);
            self.remember(&aborted, 0, Some(reason.clone()), now_ns);
            out.push(CheckpointAction::Abort { id: aborted.id, kind: aborted.kind, reason: reason.clone() });
            if reason.is_failure() {
                self.count_failure(&aborted, &reason, out);
            }
        }
    }

    fn count_failure(&mut self, aborted: &Pending, reason: &AbortReason, out: &mut Vec<CheckpointAction>) {
        let words = format!("checkpoint {}: {reason}", aborted.id);
        self.stats.failed_count += 1;
        self.stats.last_failure = Some(words.clone());
        self.failures_in_a_row += 1;
        if let Some(tolerable) = self.settings.tolerable_failures_max.filter(|&max| self.failures_in_a_row > max) {
            let failed = self.failures_in_a_row;
            self.failures_in_a_row = 0;
            let reason = format!("{failed} checkpoints failed in a row, {tolerable} are tolerated; the last: {words}");
            out.push(CheckpointAction::FailJob { reason });
        }
    }

    fn remember(&mut self, ended: &Pending, size_bytes: u64, failure: Option<AbortReason>, now_ns: u64) {
        if self.stats.history.len() == HISTORY_MAX {
            self.stats.history.pop_front();
        }
        let duration_ns = now_ns.saturating_sub(ended.triggered_ns);
        self.stats.history.push_back(CheckpointRecord {
            id: ended.id,
            kind: ended.kind,
            duration_ns,
            size_bytes,
            failure,
        });
    }

    fn pending_mut(&mut self, id: CheckpointId) -> Option<&mut Pending> {
        self.pending.iter_mut().find(|pending| pending.id == id)
    }

    fn take_pending(&mut self, id: CheckpointId) -> Option<Pending> {
        let place = self.pending.iter().position(|pending| pending.id == id && pending.phase == Phase::Committing)?;
        self.pending.remove(place)
    }
}

#[cfg(test)]
mod tests {
    use super::CheckpointAction::*;
    use super::CheckpointKind::*;
    use super::*;

    const ONE: CheckpointId = CheckpointId(1);
    const TWO: CheckpointId = CheckpointId(2);

    /// A coordinator in milliseconds that collects its actions: the tests read like a protocol.
    struct Script {
        coordinator: CheckpointCoordinator,
        out: Vec<CheckpointAction>,
    }

    impl Script {
        /// Runs `source[0]` and `count[0]` from 0 ms; the first trigger is at the minimum pause (random 0).
        fn new(settings: CheckpointSettings) -> Self {
            let coordinator = CheckpointCoordinator::new(settings, CheckpointId(0), None).unwrap();
            let mut script = Self { coordinator, out: Vec::new() };
            script.resume(0);
            script
        }

        fn resume(&mut self, at_ms: u64) {
            let tasks = vec![Participant::new("source", 0), Participant::new("count", 0)];
            self.coordinator.resume(tasks, 0, at_ms * NS_PER_MS);
        }

        fn taken(&mut self) -> Vec<CheckpointAction> {
            std::mem::take(&mut self.out)
        }

        fn step(&mut self, at_ms: u64) -> Vec<CheckpointAction> {
            self.coordinator.step(at_ms * NS_PER_MS, &mut self.out);
            self.taken()
        }

        fn acknowledge(&mut self, id: CheckpointId, vertex: &str) -> Vec<CheckpointAction> {
            self.coordinator.on_acknowledged(id, vertex, 0, &mut self.out);
            self.taken()
        }

        fn acknowledge_all(&mut self, id: CheckpointId) -> Vec<CheckpointAction> {
            self.acknowledge(id, "source");
            self.acknowledge(id, "count")
        }

        fn committed(&mut self, id: CheckpointId, at_ms: u64) -> Vec<CheckpointAction> {
            self.coordinator.on_committed(id, 1_000, at_ms * NS_PER_MS, &mut self.out);
            self.taken()
        }

        fn store_failed(&mut self, id: CheckpointId, at_ms: u64) -> Vec<CheckpointAction> {
            self.coordinator.on_store_failed(id, "disk full", at_ms * NS_PER_MS, &mut self.out);
            self.taken()
        }

        fn complete(&mut self, id: CheckpointId, at_ms: u64) {
            self.acknowledge_all(id);
            self.committed(id, at_ms);
        }

        fn wake_ms(&self, now_ms: u64) -> Option<u64> {
            self.coordinator.next_wake_ns(now_ms * NS_PER_MS).map(|ns| ns / NS_PER_MS)
        }
    }

    fn every(interval_ms: u64) -> CheckpointSettings {
        CheckpointSettings { interval_ms: Some(interval_ms), ..CheckpointSettings::default() }
    }

    fn trigger(id: CheckpointId) -> Vec<CheckpointAction> {
        vec![Trigger { id, kind: Periodic }]
    }

    #[test]
    fn a_checkpoint_is_committed_when_every_task_has_acknowledged_and_announced_when_it_is_durable() {
        let mut script = Script::new(every(100));
        assert_eq!(script.step(0), trigger(ONE));
        assert_eq!(script.acknowledge(ONE, "source"), []);
        assert_eq!(script.acknowledge(ONE, "count"), [Commit { id: ONE }]);
        assert!(script.coordinator.is_committing());
        assert_eq!(script.committed(ONE, 30), [NotifyComplete { id: ONE, kind: Periodic }]);
        assert_eq!(script.coordinator.last_completed(), Some(ONE));
        let record = &script.coordinator.stats().history[0];
        assert_eq!((record.duration_ns, record.size_bytes, &record.failure), (30 * NS_PER_MS, 1_000, &None));
    }

    #[test]
    fn the_first_trigger_lies_between_the_pause_and_the_interval() {
        let settings = CheckpointSettings { min_pause_ms: 40, ..every(100) }.validated().unwrap();
        assert_eq!(settings.first_delay_ns(0), Some(40 * NS_PER_MS));
        assert_eq!(settings.first_delay_ns(60 * NS_PER_MS), Some(100 * NS_PER_MS));
        assert_eq!(settings.first_delay_ns(60 * NS_PER_MS + 1), Some(40 * NS_PER_MS));
    }

    #[test]
    fn nothing_is_triggered_before_all_tasks_run() {
        let mut coordinator = CheckpointCoordinator::new(every(100), CheckpointId(0), None).unwrap();
        let mut out = Vec::new();
        coordinator.request(Final);
        coordinator.step(u64::MAX, &mut out);
        assert_eq!(out, []);
        assert_eq!(coordinator.next_wake_ns(5), None);
    }

    #[test]
    fn the_next_one_comes_an_interval_after_the_last_trigger() {
        let mut script = Script::new(every(100));
        script.step(3);
        script.complete(ONE, 20);
        assert_eq!(script.wake_ms(20), Some(103));
        assert_eq!(script.step(102), []);
        assert_eq!(script.step(103), trigger(TWO));
    }

    #[test]
    fn a_checkpoint_longer_than_the_interval_delays_the_next_and_makes_no_burst() {
        let mut script = Script::new(every(100));
        script.step(0);
        assert_eq!(script.step(250), [], "one at a time");
        script.complete(ONE, 260);
        assert_eq!(script.step(260), trigger(TWO));
        script.complete(TWO, 270);
        assert_eq!(script.wake_ms(270), Some(360));
    }

    #[test]
    fn the_minimum_pause_counts_from_the_end_of_the_last() {
        let mut script = Script::new(CheckpointSettings { min_pause_ms: 50, ..every(100) });
        script.step(50);
        script.complete(ONE, 140);
        assert_eq!(script.step(189), []);
        assert_eq!(script.step(190), trigger(TWO));
    }

    #[test]
    fn the_interval_is_raised_to_the_pause() {
        let settings = CheckpointSettings { min_pause_ms: 500, ..every(100) }.validated().unwrap();
        assert_eq!(settings.interval_ms, Some(500));
    }

    #[test]
    fn impossible_settings_are_refused_with_the_figures() {
        let refused = |settings: CheckpointSettings| settings.validated().unwrap_err().to_string();
        assert!(refused(every(4)).contains("every 4 ms"));
        assert!(refused(CheckpointSettings { timeout_ms: 0, ..every(5) }).contains("timeout is 0 ms"));
        assert!(refused(CheckpointSettings { concurrent_max: 0, ..every(5) }).contains("0 concurrent"));
    }

    #[test]
    fn a_checkpoint_without_all_acknowledgements_expires_and_names_who_is_missing() {
        let mut script = Script::new(CheckpointSettings { timeout_ms: 1_000, ..every(5_000) });
        script.step(0);
        script.acknowledge(ONE, "source");
        assert_eq!(script.wake_ms(10), Some(1_000));
        assert_eq!(script.step(999), []);
        let reason = AbortReason::Expired { missing: "count[0]".into(), timeout_ms: 1_000 };
        assert_eq!(script.step(1_000), [Abort { id: ONE, kind: Periodic, reason }]);
        assert_eq!(script.acknowledge(ONE, "count"), [], "too late");
        assert_eq!(
            script.coordinator.stats().last_failure.as_deref(),
            Some("checkpoint 1: no acknowledgement from count[0] within 1000 ms")
        );
    }

    #[test]
    fn a_checkpoint_with_the_store_is_never_expired() {
        let mut script = Script::new(CheckpointSettings { timeout_ms: 1_000, ..every(5_000) });
        script.step(0);
        script.acknowledge_all(ONE);
        assert_eq!(script.step(4_999), []);
        assert_eq!(script.committed(ONE, 4_999), [NotifyComplete { id: ONE, kind: Periodic }]);
    }

    #[test]
    fn a_declined_checkpoint_is_aborted_and_a_decline_after_the_last_acknowledgement_is_ignored() {
        let mut script = Script::new(every(100));
        script.step(0);
        script.coordinator.on_declined(ONE, "count", 0, "memory refused", 0, &mut script.out);
        let reason = AbortReason::Declined { vertex: "count".into(), subtask: 0, reason: "memory refused".into() };
        assert_eq!(script.taken(), [Abort { id: ONE, kind: Periodic, reason }]);
        script.step(100);
        script.acknowledge_all(TWO);
        script.coordinator.on_declined(TWO, "count", 0, "late", 0, &mut script.out);
        assert_eq!(script.taken(), []);
    }

    #[test]
    fn a_full_disk_fails_checkpoints_but_not_the_job() {
        let mut script = Script::new(every(100));
        for id in 1..=20 {
            script.step(id * 100);
            let out = script.store_failed(CheckpointId(id), id * 100);
            assert!(matches!(out[..], [Abort { reason: AbortReason::StoreFailed(_), .. }]), "{out:?}");
        }
        assert_eq!(script.coordinator.stats().failed_count, 20);
        script.step(2_100);
        script.complete(CheckpointId(21), 2_100);
        assert_eq!(script.coordinator.last_completed(), Some(CheckpointId(21)));
        assert_eq!(
            script.coordinator.stats().last_failure.as_deref(),
            Some("checkpoint 20: the store failed: disk full")
        );
    }

    #[test]
    fn more_failures_in_a_row_than_tolerated_fail_the_job() {
        let mut script = Script::new(CheckpointSettings { tolerable_failures_max: Some(1), ..every(100) });
        script.step(0);
        assert_eq!(script.store_failed(ONE, 0).len(), 1);
        script.step(100);
        let out = script.store_failed(TWO, 100);
        let reason =
            "2 checkpoints failed in a row, 1 are tolerated; the last: checkpoint 2: the store failed: disk full";
        assert_eq!(out[1], FailJob { reason: reason.into() });
    }

    #[test]
    fn a_success_begins_the_count_of_failures_anew() {
        let mut script = Script::new(CheckpointSettings { tolerable_failures_max: Some(1), ..every(100) });
        script.step(0);
        script.store_failed(ONE, 0);
        script.step(100);
        script.complete(TWO, 100);
        script.step(200);
        assert_eq!(script.store_failed(CheckpointId(3), 200).len(), 1);
    }

    #[test]
    fn a_pause_aborts_what_is_collected_without_counting_a_failure() {
        let mut script = Script::new(CheckpointSettings { tolerable_failures_max: Some(0), ..every(100) });
        script.step(0);
        script.coordinator.pause("count[0] failed", 5, &mut script.out);
        let reason = AbortReason::NotAllRunning("count[0] failed".into());
        assert_eq!(script.taken(), [Abort { id: ONE, kind: Periodic, reason }]);
        assert_eq!(script.coordinator.stats().failed_count, 0);
        assert_eq!(script.step(1_000), []);
        script.resume(1_000);
        assert_eq!(script.step(1_000), trigger(TWO), "ids go on");
    }

    #[test]
    fn a_pause_lets_the_store_finish_what_it_has() {
        let mut script = Script::new(every(100));
        script.step(0);
        script.acknowledge_all(ONE);
        script.coordinator.pause("count[0] failed", 5, &mut script.out);
        assert_eq!(script.taken(), []);
        assert!(script.coordinator.is_committing());
        script.committed(ONE, 9);
        assert_eq!(script.coordinator.last_completed(), Some(ONE));
    }

    #[test]
    fn a_final_checkpoint_waits_for_nothing_but_the_one_under_way_and_none_follows_it() {
        let mut script = Script::new(CheckpointSettings { min_pause_ms: 90, concurrent_max: 2, ..every(100) });
        script.coordinator.request(Final);
        script.coordinator.request(Manual);
        assert_eq!(script.wake_ms(1), Some(1));
        assert_eq!(script.step(1), [Trigger { id: ONE, kind: Final }]);
        assert_eq!(script.step(1_000), [], "two would be allowed, but this is the last");
        script.acknowledge_all(ONE);
        assert_eq!(script.committed(ONE, 1_001), [NotifyComplete { id: ONE, kind: Final }]);
        script.coordinator.request(Manual);
        assert_eq!(
            (script.step(2_000), script.wake_ms(2_000)),
            (vec![], None),
            "tasks only carry out their last commits"
        );
        // A job that failed in them runs anew.
        script.resume(2_000);
        assert_eq!(script.step(3_000), [Trigger { id: TWO, kind: Manual }]);
    }

    #[test]
    fn whoever_asked_for_a_final_checkpoint_learns_of_its_failure_and_the_job_goes_on() {
        let mut script = Script::new(every(100));
        script.coordinator.request(Final);
        script.step(0);
        assert!(matches!(script.store_failed(ONE, 1)[..], [Abort { kind: Final, .. }]));
        assert_eq!(script.step(100), trigger(TWO));
    }

    #[test]
    fn without_an_interval_only_requests_trigger() {
        let mut script = Script::new(CheckpointSettings { interval_ms: None, ..CheckpointSettings::default() });
        assert_eq!(script.step(1_000_000), []);
        assert_eq!(script.wake_ms(0), None);
        script.coordinator.request(Manual);
        assert_eq!(script.step(1_000_001), [Trigger { id: ONE, kind: Manual }]);
    }

    #[test]
    fn a_finished_task_is_not_waited_for() {
        let mut script = Script::new(every(100));
        script.step(0);
        script.acknowledge(ONE, "count");
        script.coordinator.on_task_finished("source", 0, &mut script.out);
        assert_eq!(script.taken(), [Commit { id: ONE }]);
        script.committed(ONE, 10);
        script.step(100);
        assert_eq!(script.acknowledge(TWO, "count"), [Commit { id: TWO }]);
    }

    #[test]
    fn a_newer_checkpoint_that_completes_subsumes_the_older() {
        let mut script = Script::new(CheckpointSettings { concurrent_max: 2, ..every(100) });
        script.step(0);
        assert_eq!(script.step(100), trigger(TWO));
        script.acknowledge_all(TWO);
        let reason = AbortReason::Subsumed(TWO);
        assert_eq!(
            script.committed(TWO, 110),
            [NotifyComplete { id: TWO, kind: Periodic }, Abort { id: ONE, kind: Periodic, reason }]
        );
        assert_eq!(script.coordinator.stats().failed_count, 0);
    }

    #[test]
    fn acknowledgements_of_strangers_and_answers_for_unknown_checkpoints_change_nothing() {
        let mut script = Script::new(every(100));
        script.step(0);
        assert_eq!(script.acknowledge(ONE, "stranger"), []);
        assert_eq!(script.acknowledge(TWO, "source"), []);
        assert_eq!(script.committed(ONE, 5), [], "it was never handed to the store");
        assert_eq!(script.store_failed(TWO, 5), []);
    }

    #[test]
    fn ids_continue_after_the_last_used_one() {
        let mut coordinator = CheckpointCoordinator::new(every(100), CheckpointId(41), Some(CheckpointId(40))).unwrap();
        let mut out = Vec::new();
        coordinator.resume(vec![Participant::new("source", 0)], 0, 0);
        coordinator.step(0, &mut out);
        assert_eq!(out, trigger(CheckpointId(42)));
        assert_eq!(coordinator.last_completed(), Some(CheckpointId(40)));
    }

    #[test]
    fn the_history_is_bounded() {
        let mut script = Script::new(every(100));
        for id in 1..=HISTORY_MAX as u64 + 5 {
            script.step(id * 100);
            script.complete(CheckpointId(id), id * 100);
        }
        assert_eq!(script.coordinator.stats().history.len(), HISTORY_MAX);
        assert_eq!(script.coordinator.stats().history[0].id, CheckpointId(6));
    }
}
