//! The JobManager: keeps the book of jobs and TaskManagers, and answers messages with messages.
//!
//! Here: the machine's face: what it is told and when it must be called. Which job goes where is in `placing`, how a job
//! fails, restarts and ends in `lifecycle`, its checkpoints in `checkpoints`.
//!
//! Invariants: messages of another attempt, and statuses that do not lead forward, change nothing; what all jobs placed on a
//! TaskManager asked for never exceeds its memory; a job has ended once all its tasks have.
//! Semantics: Flink JobMaster and ResourceManager, heartbeat 10 s with timeout 50 s, slot request timeout 5 min.

use super::job::{Ending, Job, TaskView, Then};
use super::messages::{LoadReport, ToJobManager, ToTaskManager};
use super::{Attempt, JobId, JobState, JobSubmission, RestartStrategy, SubmissionError, TaskManagerId};
use crate::checkpoint::CheckpointCoordinator;
use crate::checkpoint::coordinator::CheckpointStats;
use std::collections::BTreeMap;

const NS_PER_S: u64 = 1_000_000_000;

/// How many ended jobs are remembered.
const ENDED_JOBS_MAX: usize = 64;

/// Decides for all jobs of one engine. Every call returns at once; what it decided is in the outbox and among the events.
#[derive(Debug)]
pub struct JobManager {
    pub(super) settings: JobManagerSettings,
    pub(super) task_managers: BTreeMap<TaskManagerId, TaskManagerBook>,
    pub(super) jobs: BTreeMap<JobId, Job>,
    pub(super) outbox: Vec<(TaskManagerId, ToTaskManager)>,
    pub(super) events: Vec<JobEvent>,
    next_job: JobId,
    random: u64,
}

/// The JobManager's patience.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobManagerSettings {
    /// A TaskManager not heard of for longer is lost.
    pub heartbeat_timeout_ns: u64,
    /// A request for slots not answered for so long is withdrawn.
    pub slot_request_timeout_ns: u64,
    /// After a refusal the TaskManager is asked again after so long.
    pub slot_request_retry_ns: u64,
    /// A task told to stop that has not after so long is reported as overdue.
    pub cancel_grace_ns: u64,
    /// A final checkpoint that failed is tried again after so long.
    pub final_retry_ns: u64,
    /// So much waiting lifts a job by one priority.
    pub aging_ns: u64,
    /// A waiting job may be passed by others that fit for so long.
    pub passed_over_ns_max: u64,
    /// How many jobs may wait.
    pub waiting_jobs_max: usize,
}

/// What the host program learns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JobEvent {
    /// A job changed its state.
    StateChanged {
        /// Which job.
        job: JobId,
        /// Its state now.
        state: JobState,
        /// Why, if there is anything to say.
        reason: Option<String>,
    },
    /// Tasks were to stop and have not within the grace period. A thread cannot be ended from outside: the job stays as it
    /// is until they end, and so do their slots.
    CancelOverdue {
        /// Which job.
        job: JobId,
        /// Its tasks that still run, with their slots.
        tasks: String,
    },
    /// The final checkpoint failed, so the job was not stopped and goes on.
    StopFailed {
        /// Which job.
        job: JobId,
        /// Why.
        reason: String,
    },
    /// A TaskManager is gone; the jobs it ran fail.
    TaskManagerLost {
        /// Which.
        task_manager: TaskManagerId,
        /// Why.
        reason: String,
    },
}

/// A TaskManager as it is known here.
#[derive(Debug)]
pub(super) struct TaskManagerBook {
    pub slot_count: u32,
    pub memory_bytes: u64,
    pub last_heard_ns: u64,
    pub load: LoadReport,
}

impl Default for JobManagerSettings {
    fn default() -> Self {
        Self {
            heartbeat_timeout_ns: 50 * NS_PER_S,
            slot_request_timeout_ns: 300 * NS_PER_S,
            slot_request_retry_ns: NS_PER_S,
            cancel_grace_ns: 30 * NS_PER_S,
            final_retry_ns: NS_PER_S,
            aging_ns: 30 * NS_PER_S,
            passed_over_ns_max: 60 * NS_PER_S,
            waiting_jobs_max: 1_000,
        }
    }
}

impl JobManager {
    /// A JobManager without TaskManagers or jobs. All its randomness comes from `seed`.
    pub fn new(settings: JobManagerSettings, seed: u64) -> Self {
        Self {
            settings,
            task_managers: BTreeMap::new(),
            jobs: BTreeMap::new(),
            outbox: Vec::new(),
            events: Vec::new(),
            next_job: JobId(1),
            random: seed,
        }
    }

    /// Takes a job into the queue, or refuses what could never run. What it can hold is only known once a TaskManager has
    /// registered; a job accepted before fails when it turns out not to fit.
    pub fn submit(&mut self, submission: JobSubmission, now_ns: u64) -> Result<JobId, SubmissionError> {
        self.check_submission(&submission)?;
        let name = submission.name.clone();
        let checkpoints = submission.checkpoints.clone();
        let coordinator = CheckpointCoordinator::new(checkpoints, submission.last_checkpoint, submission.restore)
            .map_err(|reason| SubmissionError::Checkpoints { name, reason })?;
        let id = self.next_job;
        self.next_job = JobId(id.0 + 1);
        let job = Job {
            id,
            state: JobState::Created,
            attempt: Attempt(0),
            placement: None,
            tasks: Vec::new(),
            coordinator,
            restart: RestartStrategy::new(submission.restart.clone()),
            ending: Ending::No,
            then: Then::End(JobState::Failed),
            waiting_since_ns: now_ns,
            until_ns: None,
            remark: None,
            submission,
        };
        self.jobs.insert(id, job);
        self.place_waiting(now_ns);
        Ok(id)
    }

    /// Takes one message.
    pub fn receive(&mut self, message: ToJobManager, now_ns: u64) {
        match message {
            ToJobManager::RegisterTaskManager { task_manager, slot_count, memory_bytes } => {
                self.on_registration(task_manager, slot_count, memory_bytes, now_ns);
            }
            ToJobManager::Heartbeat { task_manager, load } => self.on_heartbeat(task_manager, load, now_ns),
            ToJobManager::SlotsOffered { job, attempt, slots } => self.on_slots_offered(job, attempt, slots, now_ns),
            ToJobManager::SlotsRefused { job, attempt, reason } => self.on_slots_refused(job, attempt, reason, now_ns),
            ToJobManager::TaskStatus { task, attempt, state } => self.on_task_status(task, attempt, state, now_ns),
            ToJobManager::FailureReport { task, attempt, failure } => {
                self.on_failure_report(task, attempt, &failure, now_ns);
            }
            ToJobManager::CheckpointAcknowledged { task, id } => self.on_acknowledged(task, id, now_ns),
            ToJobManager::CheckpointDeclined { task, id, reason } => self.on_declined(task, id, &reason, now_ns),
            ToJobManager::CheckpointCommitted { job, id, size_bytes } => self.on_committed(job, id, size_bytes, now_ns),
            ToJobManager::CheckpointFailed { job, id, reason } => self.on_store_failed(job, id, &reason, now_ns),
        }
    }

    /// Does what is due. Call it at `next_wake_ns` at the latest; calling it more often does no harm.
    pub fn step(&mut self, now_ns: u64) {
        self.lose_silent_task_managers(now_ns);
        for id in self.ids() {
            self.look_after(id, now_ns);
            self.step_checkpoints(id, now_ns);
        }
        self.place_waiting(now_ns);
    }

    /// When `step` has something to do next, if no message comes before.
    pub fn next_wake_ns(&self, now_ns: u64) -> Option<u64> {
        let timeout_ns = self.settings.heartbeat_timeout_ns;
        let heartbeats =
            self.task_managers.values().map(|book| book.last_heard_ns.saturating_add(timeout_ns).saturating_add(1));
        let waits_for_store = |job: &&Job| job.state == JobState::Restarting && job.coordinator.is_committing();
        let states = self.jobs.values().filter(|job| !waits_for_store(job)).filter_map(|job| job.until_ns);
        let checkpoints = self.jobs.values().filter_map(|job| job.coordinator.next_wake_ns(now_ns));
        heartbeats.chain(states).chain(checkpoints).min()
    }

    /// What is to be sent, in this order; the outbox is empty afterwards.
    pub fn take_outbox(&mut self) -> Vec<(TaskManagerId, ToTaskManager)> {
        std::mem::take(&mut self.outbox)
    }

    /// What happened since the last call, for the host program.
    pub fn take_events(&mut self) -> Vec<JobEvent> {
        std::mem::take(&mut self.events)
    }

    /// The state of a job; `None` if there was none, or it ended long ago.
    pub fn job_state(&self, job: JobId) -> Option<JobState> {
        self.jobs.get(&job).map(|job| job.state)
    }

    /// Its tasks, in the order of its vertices; empty before it is deployed.
    pub fn tasks(&self, job: JobId) -> &[TaskView] {
        self.jobs.get(&job).map_or(&[], |job| &job.tasks)
    }

    /// What became of its checkpoints.
    pub fn checkpoint_stats(&self, job: JobId) -> Option<&CheckpointStats> {
        self.jobs.get(&job).map(|job| job.coordinator.stats())
    }

    /// How busy a TaskManager said it was.
    pub fn load(&self, task_manager: TaskManagerId) -> Option<&LoadReport> {
        self.task_managers.get(&task_manager).map(|book| &book.load)
    }

    pub(super) fn ids(&self) -> Vec<JobId> {
        self.jobs.keys().copied().collect()
    }

    /// The job a message is about, if the message is of its present attempt.
    pub(super) fn current(&mut self, job: JobId, attempt: Attempt) -> Option<&mut Job> {
        self.jobs.get_mut(&job).filter(|job| job.attempt == attempt)
    }

    pub(super) fn set_state(&mut self, id: JobId, state: JobState, until_ns: Option<u64>, reason: Option<String>) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        job.state = state;
        job.until_ns = until_ns;
        self.events.push(JobEvent::StateChanged { job: id, state, reason });
        self.forget_long_ended();
    }

    /// Sends to the TaskManager that has the job's slots, if any.
    pub(super) fn tell(&mut self, id: JobId, message: ToTaskManager) {
        if let Some(placement) = self.jobs.get(&id).and_then(|job| job.placement.as_ref()) {
            self.outbox.push((placement.task_manager, message));
        }
    }

    /// SplitMix64: a number that is random enough to spread restarts and first checkpoints.
    pub(super) fn next_random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.random ^ (self.random >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    fn on_heartbeat(&mut self, task_manager: TaskManagerId, load: LoadReport, now_ns: u64) {
        let answer = match self.task_managers.get_mut(&task_manager) {
            Some(book) => {
                book.last_heard_ns = now_ns;
                book.load = load;
                ToTaskManager::HeartbeatAck
            }
            None => {
                ToTaskManager::RegistrationRefused { reason: format!("{task_manager} is not registered, or was lost") }
            }
        };
        self.outbox.push((task_manager, answer));
    }

    fn look_after(&mut self, id: JobId, now_ns: u64) {
        let Some(job) = self.jobs.get_mut(&id).filter(|job| job.until_ns.is_some_and(|until_ns| until_ns <= now_ns))
        else {
            return;
        };
        match job.state {
            JobState::Initializing => self.withdraw_slot_request(id, now_ns),
            JobState::Restarting => self.restart(id, now_ns),
            JobState::Failing | JobState::Cancelling => self.report_overdue(id),
            JobState::Running => self.request_final_again(id),
            _ => job.until_ns = None,
        }
    }

    fn forget_long_ended(&mut self) {
        let ended: Vec<_> = self.jobs.values().filter(|job| job.state.has_ended()).map(|job| job.id).collect();
        for id in ended.iter().take(ended.len().saturating_sub(ENDED_JOBS_MAX)) {
            self.jobs.remove(id);
        }
    }

    fn report_overdue(&mut self, id: JobId) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        job.until_ns = None;
        let late = job.tasks.iter().filter(|task| !task.state.has_ended());
        let names: Vec<_> = late
            .map(|task| match task.slot {
                Some(slot) => format!("{} in {slot}", job.task_name(task.address)),
                None => job.task_name(task.address),
            })
            .collect();
        self.events.push(JobEvent::CancelOverdue { job: id, tasks: names.join(", ") });
    }
}
