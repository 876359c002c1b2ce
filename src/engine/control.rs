//! The control thread: carries messages between the host, JobManager, TaskManager, the slots and the checkpoint stores.
//!
//! It decides nothing by itself, holds no lock while it works, and sleeps on its doorbell when nothing is to be done.

use super::deploy::TaskNames;
use super::handle::JobHandle;
use super::host::{CheckpointFigures, JobShared, describe};
use super::job_runtime::{CheckpointEnd, JobRuntime};
use super::options::{JobOptions, SubmitError};
use super::savepoints::{JobSavepointError, SavepointRequest};
use crate::checkpoint::{CheckpointId, CheckpointSettings, StoreOptions};
use crate::graph::JobGraph;
use crate::io::Io;
use crate::job_manager::messages::{CheckpointOrder, LoadReport, ToJobManager, ToTaskManager};
use crate::job_manager::{
    Attempt, JobEvent, JobId, JobManager, JobState, JobSubmission, TaskAddress, TaskManagerId, TaskState,
};
use crate::memory::{ArenaOptions, MemoryBudget};
use crate::operator::OperatorFailure;
use crate::slot::{Doorbell, SlotEvent, SlotHandle, TaskExit, panic_message};
use crate::task::{Execution, ReportSender, TaskCommand, TaskReport};
use crate::task_manager::{SlotReport, SlotSample, SlotWork, TaskManager, TaskManagerAction, Watchdog};
use crate::time::Clock;
use crossbeam_queue::SegQueue;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::sync::mpsc::SyncSender;
use std::time::Duration;

/// The one there is.
const TASK_MANAGER: TaskManagerId = TaskManagerId(1);
/// How often slots are looked at: their load, and whether they make progress.
const LOOK_EVERY_NS: u64 = 200_000_000;
/// How often while nothing happens, neither on them nor here: every look wakes a core.
const LOOK_AT_IDLE_EVERY_NS: u64 = 1_000_000_000;
/// After how long without progress a busy slot is reported.
const STALL_AFTER_NS: u64 = 1_000_000_000;

/// After so long without a step the thread was stopped, or had to wait for the disk.
const STOOD_STILL_NS: u64 = 5_000_000_000;
/// How many rounds of messages one step takes at most. A job that fails as soon as it is started, and restarts without a delay, talks for ever.
/// An attempt takes four.
const ROUNDS_PER_STEP_MAX: usize = 8;

/// From the host to the control thread.
pub(super) enum ControlCommand {
    Submit {
        graph: JobGraph,
        options: Box<JobOptions>,
        reply: SyncSender<Result<JobHandle, SubmitError>>,
    },
    Stop {
        job: JobId,
        drain: bool,
        savepoint: Option<SavepointRequest>,
    },
    Cancel(JobId),
    Savepoint {
        job: JobId,
        request: SavepointRequest,
    },
    /// Ends the thread; jobs that still run are lost back to their last checkpoints.
    Shutdown,
}

impl ControlCommand {
    /// The engine is gone: nobody shall wait for an answer. Jobs have ended.
    fn refuse(self) {
        match self {
            // A host that no longer waits for the answer is gone as well.
            Self::Submit { reply, .. } => drop(reply.send(Err(SubmitError::EngineStopped))),
            Self::Stop { savepoint: Some(request), .. } | Self::Savepoint { request, .. } => {
                let SavepointRequest { dir, answer } = request;
                answer.end(Err(JobSavepointError::JobGone { dir, what: "the engine was stopped" }));
            }
            Self::Stop { savepoint: None, .. } | Self::Cancel(_) | Self::Shutdown => {}
        }
    }
}

/// The host's end of the control thread's queue.
#[derive(Clone)]
pub(super) struct ControlSender {
    commands: Arc<SegQueue<ControlCommand>>,
    /// Nobody takes commands any more.
    is_closed: Arc<AtomicBool>,
    doorbell: Arc<Doorbell>,
}

impl ControlSender {
    pub(super) fn new(doorbell: Arc<Doorbell>) -> Self {
        Self { commands: Arc::new(SegQueue::new()), is_closed: Arc::default(), doorbell }
    }

    pub(super) fn send(&self, command: ControlCommand) {
        self.commands.push(command);
        self.doorbell.ring();
        // The control may have closed the queue in between: then it looked before this command came, and this looks again.
        fence(Ordering::SeqCst);
        if self.is_closed.load(Ordering::SeqCst) {
            self.refuse_waiting();
        }
    }

    /// Nothing is taken from here on: who asked and who will ask is told so.
    fn close(&self) {
        self.is_closed.store(true, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        self.refuse_waiting();
    }

    fn refuse_waiting(&self) {
        while let Some(command) = self.commands.pop() {
            command.refuse();
        }
    }
}

/// What an engine runs on: the same for all its jobs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Machine {
    /// The memory of all jobs together.
    pub(super) memory_bytes: usize,
    pub(super) arena: ArenaOptions,
    /// How checkpoint stores use the disk; how many checkpoints are kept is the job's to say.
    pub(super) store: StoreOptions,
}

/// Everything the control thread holds.
pub(super) struct Control {
    clock: Arc<dyn Clock>,
    job_manager: JobManager,
    task_manager: TaskManager,
    watchdog: Watchdog,
    slots: Vec<SlotHandle>,
    jobs: BTreeMap<JobId, JobRuntime>,
    /// Jobs that have ended but for their savepoints.
    lingering: Vec<Lingering>,
    names: TaskNames,
    reports: Arc<SegQueue<TaskReport>>,
    commands: ControlSender,
    doorbell: Arc<Doorbell>,
    machine: Machine,
    stepped_ns: u64,
    looked_ns: u64,
    look_every_ns: u64,
    /// Whether the machines had more to say than one step takes.
    is_talking: bool,
    /// Whether a command or a report has come, or a checkpoint has ended, since the last look.
    is_disturbed: bool,
    busy_seen_ns: Vec<u64>,
    /// The steps of all slots that worked, up to the last look.
    steps_seen: u64,
    busy_permille: Vec<u16>,
}

/// A job whose last savepoint is still being written, and how it ended.
struct Lingering {
    runtime: JobRuntime,
    state: JobState,
    reason: Option<String>,
}

impl Control {
    pub(super) fn new(
        slots: Vec<SlotHandle>,
        commands: ControlSender,
        machine: Machine,
        clock: Arc<dyn Clock>,
        seed: u64,
    ) -> Self {
        let now_ns = clock.monotonic_ns();
        Self {
            job_manager: JobManager::new(Default::default(), seed),
            task_manager: TaskManager::new(TASK_MANAGER, slots.len() as u32, machine.memory_bytes as u64, now_ns),
            watchdog: Watchdog::new(slots.len(), STALL_AFTER_NS, now_ns),
            jobs: BTreeMap::new(),
            lingering: Vec::new(),
            names: TaskNames::new(),
            reports: Arc::new(SegQueue::new()),
            doorbell: commands.doorbell.clone(),
            commands,
            machine,
            stepped_ns: now_ns,
            looked_ns: now_ns,
            look_every_ns: LOOK_EVERY_NS,
            is_talking: false,
            is_disturbed: true,
            busy_seen_ns: vec![0; slots.len()],
            steps_seen: 0,
            busy_permille: vec![0; slots.len()],
            slots,
            clock,
        }
    }

    /// Runs until it is told to shut down. Should it panic all the same, hosts hear that their jobs have ended.
    pub(super) fn run(mut self, io: &mut dyn Io) {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| self.run_to_shut_down(io))) {
            self.break_down(&panic_message(&*panic));
        }
    }

    fn run_to_shut_down(&mut self, io: &mut dyn Io) {
        while self.step(io) {
            self.doorbell.announce();
            // Whatever came before the announcement is seen now; whatever comes after it rings.
            if !self.step(io) {
                break;
            }
            if !self.has_waiting_input() {
                io.wait(self.sleep());
            }
            self.doorbell.withdraw();
        }
        self.shut_down(io);
    }

    /// Nothing that is kept here is believed any more: who waits is told so, and that is all.
    fn break_down(&mut self, panic: &str) {
        tracing::error!("the control thread panicked, no job can go on: {panic}");
        self.commands.close();
        // Jobs that linger have an end already.
        let failed = (JobState::Failed, Some(format!("the control thread of the engine panicked: {panic}")));
        let live = self.jobs.values_mut().map(|runtime| (runtime, failed.clone()));
        let lingering = self.lingering.iter_mut().map(|job| (&mut job.runtime, (job.state, job.reason.clone())));
        for (job, end) in live.chain(lingering) {
            job.tell_all(&TaskCommand::Cancel);
            job.savepoints.give_up("the control thread of the engine panicked");
            job.abandon_follower();
            job.shared.update(|status| {
                if !status.state.has_ended() {
                    (status.state, status.reason) = end;
                }
            });
        }
    }

    /// Ends what is left; nothing is stepped any more.
    pub(super) fn shut_down(&mut self, io: &mut dyn Io) {
        self.commands.close();
        for Lingering { mut runtime, state, reason } in std::mem::take(&mut self.lingering) {
            runtime.savepoints.abandon(io);
            runtime.abandon_follower();
            forget(runtime, io, state, reason);
        }
        for job in self.jobs.values_mut() {
            job.tell_all(&TaskCommand::Cancel);
            job.savepoints.abandon(io);
            job.abandon_follower();
            job.close(io);
            job.shared.update(|status| {
                if !status.state.has_ended() {
                    status.state = JobState::Canceled;
                }
            });
        }
    }

    /// One round over all queues and machines; `false` once told to shut down.
    pub(super) fn step(&mut self, io: &mut dyn Io) -> bool {
        let now_ns = self.clock.monotonic_ns();
        if now_ns.saturating_sub(std::mem::replace(&mut self.stepped_ns, now_ns)) > STOOD_STILL_NS {
            self.hear_each_other(now_ns);
        }
        if !self.task_manager.is_registered() {
            // Before the first job: one that can never fit is then refused when it is submitted.
            self.exchange_messages(io, now_ns);
        }
        while let Some(command) = self.commands.commands.pop() {
            self.is_disturbed = true;
            match command {
                ControlCommand::Submit { graph, options, reply } => {
                    // What a refused job holds is dropped behind the answer, and not by whoever refuses it.
                    let held = graph.clone();
                    // A host that no longer waits for the answer has dropped its job's handle already.
                    let _ = reply.send(self.submit(graph, &options, io, now_ns));
                    let name = held.name.clone();
                    // One by one: two panics at once would end the process.
                    drop_of_host(options, &name);
                    drop_of_host(held, &name);
                }
                ControlCommand::Stop { job, drain, savepoint } => {
                    if let Some(request) = savepoint {
                        self.ask_savepoint(job, request, true);
                    }
                    self.job_manager.stop_with_checkpoint(job, drain, now_ns);
                }
                ControlCommand::Savepoint { job, request } => {
                    if self.ask_savepoint(job, request, false) {
                        self.job_manager.request_checkpoint(job, now_ns);
                    }
                }
                ControlCommand::Cancel(job) => self.job_manager.cancel(job, now_ns),
                ControlCommand::Shutdown => return false,
            }
        }
        self.take_slot_events();
        while let Some(report) = self.reports.pop() {
            self.is_disturbed = true;
            self.take_report(report);
        }
        self.step_stores(io, now_ns);
        if self.is_disturbed {
            self.look_every_ns = LOOK_EVERY_NS;
        }
        if now_ns.saturating_sub(self.looked_ns) >= self.look_every_ns {
            self.look_at_slots(now_ns);
        }
        self.exchange_messages(io, now_ns);
        true
    }

    /// The memory of a job that has not ended.
    pub(super) fn budget_of(&self, job: JobId) -> Option<&MemoryBudget> {
        self.jobs.get(&job).map(|runtime| runtime.arena.budget())
    }

    /// What is still kept although every job has ended, in words.
    pub(super) fn leftovers(&self) -> Vec<String> {
        let jobs = self.jobs.keys().map(|job| format!("{job} is still known"));
        let lingering = self.lingering.iter().map(|job| format!("{} lingers", job.runtime.graph.name));
        let names = self.names.keys().map(|name| format!("the task {name} is still expected to leave its slot"));
        jobs.chain(lingering).chain(names).chain(self.task_manager.leftovers()).collect()
    }

    /// Whether another step would find something to do at once.
    pub(super) fn has_waiting_input(&self) -> bool {
        self.is_talking
            || !self.reports.is_empty()
            || !self.commands.commands.is_empty()
            || self.jobs.values().any(|job| !job.pieces.is_empty() || job.savepoints.is_ready)
            || self.lingering.iter().any(|job| job.runtime.savepoints.is_ready)
    }

    /// When a step has something to do although nobody rings.
    pub(super) fn wake_at_ns(&self) -> u64 {
        let look_ns = self.looked_ns + self.look_every_ns;
        let wishes =
            [self.job_manager.next_wake_ns(self.clock.monotonic_ns()), self.task_manager.next_wake_ns(), Some(look_ns)];
        wishes.into_iter().flatten().min().unwrap_or(look_ns)
    }

    fn sleep(&self) -> Duration {
        let (now_ns, wake_ns) = (self.clock.monotonic_ns(), self.wake_at_ns());
        let busy = !self.lingering.is_empty() || self.jobs.values().any(JobRuntime::store_is_busy);
        // A store waits for answers of the disk, which wake this thread; the bound only covers a lost one.
        let longest_ns = if busy { 5_000_000 } else { self.look_every_ns };
        Duration::from_nanos(wake_ns.saturating_sub(now_ns).min(longest_ns))
    }

    fn submit(
        &mut self,
        graph: JobGraph,
        options: &JobOptions,
        io: &mut dyn Io,
        now_ns: u64,
    ) -> Result<JobHandle, SubmitError> {
        let (shared, slots) = (JobShared::new(), self.slots.len() as u32);
        let mut runtime = JobRuntime::new(graph, options, slots, self.machine, shared.clone(), io)?;
        let submission = JobSubmission {
            name: runtime.graph.name.clone(),
            vertices: runtime.graph.submissions(runtime.parallelism),
            memory_bytes: runtime.arena.budget().limit_bytes() as u64,
            priority: options.priority,
            weight: options.weight,
            expected_run_ms: options.expected_run_ms,
            checkpoints: CheckpointSettings {
                interval_ms: options.checkpoints.as_ref().map(|checkpoints| checkpoints.interval.as_millis() as u64),
                ..CheckpointSettings::default()
            },
            restart: options.restart.clone(),
            last_checkpoint: runtime.last_checkpoint(),
            restore: runtime.restored().map(|restored| restored.id()),
        };
        let restored_from = submission.restore.map(|id| id.0);
        match self.job_manager.submit(submission, now_ns) {
            Ok(job) => {
                shared.update(|status| status.restored_from = restored_from);
                let name = runtime.graph.name.clone();
                self.jobs.insert(job, runtime);
                Ok(JobHandle { job, name, shared, control: self.commands.clone() })
            }
            Err(refused) => {
                runtime.close(io);
                Err(refused.into())
            }
        }
    }

    fn take_slot_events(&mut self) {
        for slot in &self.slots {
            while let Some(SlotEvent::TaskLeft { name, exit, .. }) = slot.next_event() {
                let Some(of) = self.names.remove(&name) else { continue };
                if let TaskExit::Panicked(message) = exit {
                    let failure = OperatorFailure::new(&*name, format!("it panicked: {message}"));
                    self.task_manager.on_task_failed(of.task, of.attempt, failure);
                }
            }
        }
    }

    fn take_report(&mut self, report: TaskReport) {
        let state = |of: Execution, state| (of.task, of.attempt, state);
        let (task, attempt, state) = match report {
            TaskReport::Running(of) => state(of, TaskState::Running),
            TaskReport::Draining(of) => state(of, TaskState::Draining),
            TaskReport::Finished(of) => state(of, TaskState::Finished),
            TaskReport::Canceled(of) => state(of, TaskState::Canceled),
            TaskReport::Failed(of, failure) => {
                return self.task_manager.on_task_failed(of.task, of.attempt, failure);
            }
            TaskReport::Declined(of, id, reason) if self.is_current(of) => {
                let now_ns = self.clock.monotonic_ns();
                let declined = ToJobManager::CheckpointDeclined { task: of.task, id, reason };
                return self.job_manager.receive(declined, now_ns);
            }
            TaskReport::Snapshot(of, id, snapshot) if self.is_current(of) => {
                if let Some(job) = self.jobs.get_mut(&of.task.job) {
                    job.on_snapshot(id, *snapshot);
                }
                let now_ns = self.clock.monotonic_ns();
                return self.job_manager.receive(ToJobManager::CheckpointAcknowledged { task: of.task, id }, now_ns);
            }
            TaskReport::Declined(..) | TaskReport::Snapshot(..) => return,
        };
        self.task_manager.on_task_state(task, attempt, state);
    }

    fn is_current(&self, of: Execution) -> bool {
        self.jobs.get(&of.task.job).is_some_and(|job| job.attempt == of.attempt)
    }

    fn step_stores(&mut self, io: &mut dyn Io, now_ns: u64) {
        let ids: Vec<JobId> = self.jobs.keys().copied().collect();
        for job in ids {
            let ended = self.jobs.get_mut(&job).and_then(|runtime| runtime.step_store(io, now_ns));
            if let Some(end) = ended {
                self.checkpoint_ended(job, end, io, now_ns);
            }
        }
        for job in self.jobs.values_mut() {
            job.step_savepoints(io, now_ns);
        }
        for job in &mut self.lingering {
            job.runtime.step_savepoints(io, now_ns);
            job.runtime.step_store(io, now_ns);
            job.runtime.finish_follower();
        }
        let is_done = |job: &mut Lingering| !job.runtime.is_lingering();
        for Lingering { runtime, state, reason } in self.lingering.extract_if(.., is_done) {
            forget(runtime, io, state, reason);
        }
    }

    /// Lets a savepoint wait for the job's next checkpoint; answers at once where there will be none.
    fn ask_savepoint(&mut self, job: JobId, request: SavepointRequest, stops: bool) -> bool {
        let SavepointRequest { dir, answer } = request;
        match self.jobs.get_mut(&job) {
            None => answer.end(Err(JobSavepointError::JobGone { dir, what: "the job has ended" })),
            Some(runtime) if !runtime.has_store() => {
                answer.end(Err(JobSavepointError::NoCheckpoints { job: runtime.graph.name.clone() }));
            }
            Some(runtime) => {
                runtime.ask_savepoint(SavepointRequest { dir, answer }, stops);
                return true;
            }
        }
        false
    }

    fn checkpoint_ended(&mut self, job: JobId, end: CheckpointEnd, io: &mut dyn Io, now_ns: u64) {
        self.is_disturbed = true;
        if let Some(runtime) = self.jobs.get_mut(&job) {
            runtime.serve_savepoints(&end, io);
            if matches!(end, CheckpointEnd::Committed { .. }) {
                runtime.tell_follower(now_ns);
            }
        }
        let message = match end {
            CheckpointEnd::Committed { id, new_bytes } => {
                ToJobManager::CheckpointCommitted { job, id, size_bytes: new_bytes }
            }
            CheckpointEnd::Failed { id, reason } => {
                tracing::warn!("{job}: checkpoint {id} failed: {reason}");
                ToJobManager::CheckpointFailed { job, id, reason }
            }
        };
        self.job_manager.receive(message, now_ns);
    }

    /// JobManager and TaskManager live in this thread: while it stood still neither was silent.
    fn hear_each_other(&mut self, now_ns: u64) {
        if self.task_manager.is_registered() {
            self.task_manager.receive(ToTaskManager::HeartbeatAck, now_ns);
            let load = LoadReport { busy_permille: self.busy_permille.clone(), memory_used_bytes: 0 };
            self.job_manager.receive(ToJobManager::Heartbeat { task_manager: TASK_MANAGER, load }, now_ns);
        }
    }

    /// Lets both machines work until neither has anything left to say, or for as long as commands and other jobs may wait.
    fn exchange_messages(&mut self, io: &mut dyn Io, now_ns: u64) {
        self.is_talking = false;
        for _ in 0..ROUNDS_PER_STEP_MAX {
            self.job_manager.step(now_ns);
            self.task_manager.step(now_ns);
            let mut quiet = true;
            for (_, message) in self.job_manager.take_outbox() {
                quiet = false;
                self.task_manager.receive(message, now_ns);
            }
            for action in self.task_manager.take_actions() {
                quiet = false;
                self.act(action, io, now_ns);
            }
            for event in self.job_manager.take_events() {
                quiet = false;
                self.take_event(&event, io);
            }
            if quiet {
                return;
            }
        }
        self.is_talking = true;
    }

    fn act(&mut self, action: TaskManagerAction, io: &mut dyn Io, now_ns: u64) {
        match action {
            TaskManagerAction::Send(message) => self.job_manager.receive(message, now_ns),
            TaskManagerAction::Start { task, attempt, slot, .. } => {
                self.start(task, attempt, slot, io);
            }
            TaskManagerAction::Stop { task } => {
                let Some(job) = self.jobs.get_mut(&task.job) else { return };
                if job.starting.remove(&task).is_some() {
                    // Another one of the attempt could not be started.
                    self.task_manager.on_task_state(task, job.attempt, TaskState::Canceled);
                } else if let Some(inbox) = job.inboxes.get(&task) {
                    inbox.send(TaskCommand::Cancel);
                }
            }
            TaskManagerAction::Checkpoint { job, id, order } => {
                let wall_ms = self.clock.wall_ms();
                let ended = self.jobs.get_mut(&job).and_then(|runtime| runtime.order(id, order, wall_ms, now_ns, io));
                if let Some(end) = ended {
                    self.checkpoint_ended(job, end, io, now_ns);
                }
                if order == CheckpointOrder::Abort {
                    self.tell_savepoints_of_abort(job, id);
                }
            }
            TaskManagerAction::BudgetReleased { .. } => {}
            // Both machines live in this process: neither can lose the other.
            TaskManagerAction::GiveUp => {}
        }
    }

    fn tell_savepoints_of_abort(&mut self, job: JobId, id: CheckpointId) {
        let history = self.job_manager.checkpoint_stats(job).map(|stats| &stats.history);
        let failure = history
            .and_then(|history| history.iter().rev().find(|record| record.id == id))
            .and_then(|record| record.failure.as_ref().map(ToString::to_string));
        if let Some(runtime) = self.jobs.get_mut(&job) {
            runtime.savepoints.checkpoint_failed(id, failure.as_deref().unwrap_or("it was given up"));
        }
    }

    /// Collects the tasks of an attempt and deploys them together once the last one is known.
    fn start(&mut self, task: TaskAddress, attempt: Attempt, slot: crate::job_manager::SlotIndex, io: &mut dyn Io) {
        let Some(job) = self.jobs.get_mut(&task.job) else { return };
        if job.attempt != attempt {
            let is_restart = job.attempt != Attempt::default();
            job.attempt = attempt;
            job.starting.clear();
            if is_restart {
                job.savepoints.job_restarted();
            }
            if is_restart && let Err(error) = job.reopen_store(io) {
                let reason = format!("the state directory cannot be opened again: {error}");
                let failure = OperatorFailure::new("checkpoint", reason);
                return self.task_manager.on_task_failed(task, attempt, failure);
            }
        }
        job.starting.insert(task, slot);
        if job.starting.len() == job.task_count() {
            let pieces = job.pieces.clone();
            let reports = ReportSender::new(self.reports.clone(), pieces, self.doorbell.clone());
            job.deploy(&self.slots, &reports, &mut self.names);
        }
    }

    fn take_event(&mut self, event: &JobEvent, io: &mut dyn Io) {
        let words = describe(event);
        match event {
            // A job that failed for good tells its host so; a restart is only told here.
            JobEvent::StateChanged { state: JobState::Restarting, .. }
            | JobEvent::StateChanged { state: JobState::Suspended, reason: Some(_), .. }
            | JobEvent::CancelOverdue { .. }
            | JobEvent::StopFailed { .. }
            | JobEvent::TaskManagerLost { .. } => tracing::warn!("{words}"),
            JobEvent::StateChanged { .. } => tracing::info!("{words}"),
        }
        let JobEvent::StateChanged { job, state, reason } = event else { return };
        self.refresh(*job);
        let Some(runtime) = self.jobs.get_mut(job) else { return };
        if !state.has_ended() {
            return runtime.shared.update(|status| {
                status.state = *state;
                if reason.is_some() {
                    status.reason.clone_from(reason);
                }
            });
        }
        let Some(mut runtime) = self.jobs.remove(job) else { return };
        runtime.savepoints.give_up_waiting("the job ended without another checkpoint");
        runtime.finish_follower();
        match runtime.is_lingering() {
            true => self.lingering.push(Lingering { runtime, state: *state, reason: reason.clone() }),
            false => forget(runtime, io, *state, reason.clone()),
        }
    }

    /// Load for the next heartbeat, progress for the watchdog, figures for the host.
    fn look_at_slots(&mut self, now_ns: u64) {
        let passed_ns = now_ns.saturating_sub(self.looked_ns).max(1);
        self.looked_ns = now_ns;
        let mut is_idle = !std::mem::take(&mut self.is_disturbed);
        let mut steps = 0;
        for index in 0..self.slots.len() {
            let seen = self.slots[index].watch().observe();
            steps += seen.step_lengths.count();
            let busy_ns = seen.busy_ns.saturating_sub(std::mem::replace(&mut self.busy_seen_ns[index], seen.busy_ns));
            self.busy_permille[index] = (busy_ns.saturating_mul(1_000) / passed_ns).min(1_000) as u16;
            let name = seen.task.as_deref();
            is_idle &= busy_ns == 0 && name.is_none();
            let (job, vertex) = name.map_or(("", ""), |name| name.split_once('/').unwrap_or((name, "")));
            let operator = seen.operator.as_deref().unwrap_or(vertex);
            let working_on = name.map(|_| SlotWork { job, vertex, operator });
            let sample = SlotSample { slot: index as u32, progress: seen.progress, working_on };
            if let Some(report) = self.watchdog.observe(sample, now_ns) {
                self.report_stall(&report);
            }
        }
        let was_idle = self.look_every_ns == LOOK_AT_IDLE_EVERY_NS;
        self.look_every_ns = if is_idle { LOOK_AT_IDLE_EVERY_NS } else { LOOK_EVERY_NS };
        let memory_used_bytes = self.jobs.values().map(|job| job.arena.mapped_bytes() as u64).sum();
        self.task_manager.on_load(LoadReport { busy_permille: self.busy_permille.clone(), memory_used_bytes });
        // There may be a thousand jobs. What `refresh` shows of a running one changes by steps of tasks, commands, reports and ends of
        // checkpoints: where a look finds none of these since the look before, and that one had nothing new to show either, nor has this one.
        let nothing_stepped = std::mem::replace(&mut self.steps_seen, steps) == steps;
        let is_quiet = is_idle && was_idle && nothing_stepped;
        let is_still = |job: &JobId| is_quiet && self.job_manager.job_state(*job) == Some(JobState::Running);
        let ids: Vec<JobId> = self.jobs.keys().copied().filter(|job| !is_still(job)).collect();
        ids.into_iter().for_each(|job| self.refresh(job));
    }

    fn report_stall(&mut self, report: &SlotReport) {
        tracing::warn!("{report}");
        let (work, stalled) = match report {
            SlotReport::Stalled { work, .. } => (work, Some(report.to_string())),
            SlotReport::Recovered { work, .. } => (work, None),
        };
        for job in self.jobs.values().filter(|job| job.graph.name == work.job) {
            job.shared.update(|status| status.stalled.clone_from(&stalled));
        }
    }

    /// Shows the host where a job stands.
    fn refresh(&mut self, id: JobId) {
        let now_ns = self.clock.monotonic_ns();
        let Some(job) = self.jobs.get(&id) else { return };
        let checkpoints = self.job_manager.checkpoint_stats(id).map(CheckpointFigures::of).unwrap_or_default();
        let why_waiting = self.job_manager.why_waiting(id, now_ns);
        job.shared.update(|status| {
            status.attempt = job.attempt.0;
            status.why_waiting = why_waiting;
            status.checkpoints = checkpoints;
            status.slots_busy_permille.clone_from(&self.busy_permille);
            status.memory_bytes = (job.arena.mapped_bytes(), job.arena.budget().limit_bytes());
        });
    }
}

/// The job is over.
fn forget(mut runtime: JobRuntime, io: &mut dyn Io, state: JobState, reason: Option<String>) {
    runtime.end(io, state, reason);
    let name = runtime.graph.name.clone();
    drop_of_host(runtime, &name);
}

/// Drops what holds something of the host's, on everybody's thread: a panic costs nobody else anything.
pub(super) fn drop_of_host<T>(held: T, job: &str) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| drop(held))) {
        tracing::error!("{job}: dropping what the job holds panicked: {}", panic_message(&*panic));
    }
}
