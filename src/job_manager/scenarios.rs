//! The JobManager and a TaskManager talking to each other, with slots and a store that do what the test says. Each test states one fact.

use super::messages::{CheckpointOrder, ToJobManager, ToTaskManager};
use super::*;
use crate::checkpoint::{CheckpointId, CheckpointKind, CheckpointSettings};
use crate::operator::OperatorFailure;
use crate::task_manager::{TaskManager, TaskManagerAction};
use std::collections::{BTreeMap, BTreeSet};

const MS: u64 = 1_000_000;
const S: u64 = 1_000 * MS;
const MIB: u64 = 1 << 20;
const TM: TaskManagerId = TaskManagerId(1);

/// Two slots and 100 MiB. Tasks run as soon as they are started, acknowledge every checkpoint, finish behind the last one, and stop when told
/// to.
struct World {
    jm: JobManager,
    tm: TaskManager,
    now_ns: u64,
    running: BTreeMap<TaskAddress, Attempt>,
    /// What each task was restored from, in order of starting.
    restored: Vec<Option<CheckpointId>>,
    orders: Vec<(CheckpointId, CheckpointOrder)>,
    events: Vec<JobEvent>,
    /// These do not stop when told to,
    stuck: BTreeSet<TaskAddress>,
    /// and these have been told.
    told: BTreeSet<TaskAddress>,
    /// What a silent store was asked to commit.
    unanswered: Vec<(JobId, CheckpointId)>,
    draining: bool,
    acknowledges: bool,
    store: Store,
}

#[derive(Clone, Copy, PartialEq)]
enum Store {
    Commits,
    Full,
    Silent,
}

impl World {
    fn new() -> Self {
        let mut world = Self::without_task_manager();
        world.run();
        world
    }

    /// The TaskManager has not spoken yet.
    fn without_task_manager() -> Self {
        Self {
            jm: JobManager::new(JobManagerSettings::default(), 42),
            tm: TaskManager::new(TM, 2, 100 * MIB, 0),
            now_ns: 0,
            running: BTreeMap::new(),
            restored: Vec::new(),
            orders: Vec::new(),
            events: Vec::new(),
            stuck: BTreeSet::new(),
            told: BTreeSet::new(),
            unanswered: Vec::new(),
            draining: false,
            acknowledges: true,
            store: Store::Commits,
        }
    }

    fn submit(&mut self, submission: JobSubmission) -> JobId {
        let id = self.jm.submit(submission, self.now_ns).unwrap();
        self.run();
        id
    }

    fn refusal(&mut self, submission: JobSubmission) -> String {
        self.jm.submit(submission, self.now_ns).unwrap_err().to_string()
    }

    /// Lets both machines talk until neither has anything to say.
    fn run(&mut self) {
        loop {
            self.jm.step(self.now_ns);
            self.tm.step(self.now_ns);
            self.events.extend(self.jm.take_events());
            let (messages, actions) = (self.jm.take_outbox(), self.tm.take_actions());
            if messages.is_empty() && actions.is_empty() {
                return;
            }
            messages.into_iter().for_each(|(_, message)| self.tm.receive(message, self.now_ns));
            actions.into_iter().for_each(|action| self.carry_out(action));
        }
    }

    /// Goes on for `ms`, waking both machines exactly when they ask for it.
    fn advance(&mut self, ms: u64) {
        let until_ns = self.now_ns + ms * MS;
        loop {
            self.run();
            let wakes = self.jm.next_wake_ns(self.now_ns).into_iter().chain(self.tm.next_wake_ns());
            let next_ns = wakes.min().unwrap_or(until_ns);
            assert!(next_ns > self.now_ns, "a machine asks to be called again at once");
            if next_ns > until_ns {
                break;
            }
            self.now_ns = next_ns;
        }
        self.now_ns = until_ns;
        self.run();
    }

    fn tell(&mut self, message: ToJobManager) {
        self.jm.receive(message, self.now_ns);
    }

    fn carry_out(&mut self, action: TaskManagerAction) {
        match action {
            TaskManagerAction::Send(message) => self.tell(message),
            TaskManagerAction::Start { task, attempt, restore, .. } => {
                self.running.insert(task, attempt);
                self.restored.push(restore);
                self.tm.on_task_state(task, attempt, TaskState::Running);
                if self.draining {
                    self.tm.on_task_state(task, attempt, TaskState::Draining);
                }
            }
            TaskManagerAction::Stop { task } if self.stuck.contains(&task) => _ = self.told.insert(task),
            TaskManagerAction::Stop { task } => self.stop(task),
            TaskManagerAction::Checkpoint { job, id, order } => self.obey(job, id, order),
            _ => {}
        }
    }

    fn stop(&mut self, task: TaskAddress) {
        let attempt = self.running.remove(&task).unwrap();
        self.tm.on_task_state(task, attempt, TaskState::Canceled);
    }

    fn obey(&mut self, job: JobId, id: CheckpointId, order: CheckpointOrder) {
        self.orders.push((id, order));
        match (order, self.store) {
            (CheckpointOrder::Trigger { .. }, _) if self.acknowledges => {
                let tasks: Vec<_> = self.running.keys().copied().filter(|task| task.job == job).collect();
                tasks.into_iter().for_each(|task| self.tell(ToJobManager::CheckpointAcknowledged { task, id }));
            }
            (CheckpointOrder::Commit, Store::Commits) => self.commit(job, id),
            (CheckpointOrder::Commit, Store::Silent) => self.unanswered.push((job, id)),
            (CheckpointOrder::Commit, Store::Full) => {
                self.tell(ToJobManager::CheckpointFailed { job, id, reason: "disk full".into() });
            }
            (CheckpointOrder::NotifyComplete(CheckpointKind::Final), _) => {
                let of_job: Vec<_> = self.running.keys().copied().filter(|task| task.job == job).collect();
                let (hanging, finishing): (Vec<_>, Vec<_>) =
                    of_job.into_iter().partition(|task| self.stuck.contains(task));
                self.told.extend(hanging);
                for task in finishing {
                    let attempt = self.running.remove(&task).unwrap();
                    self.tm.on_task_state(task, attempt, TaskState::Finished);
                }
            }
            _ => {}
        }
    }

    fn commit(&mut self, job: JobId, id: CheckpointId) {
        self.tell(ToJobManager::CheckpointCommitted { job, id, size_bytes: 1 });
    }

    fn drain(&mut self) {
        self.draining = true;
        for (task, attempt) in self.running.clone() {
            self.tm.on_task_state(task, attempt, TaskState::Draining);
        }
        self.run();
    }

    /// Whatever hangs goes on.
    fn unstick(&mut self) {
        self.stuck.clear();
        std::mem::take(&mut self.told).into_iter().for_each(|task| self.stop(task));
        self.store = Store::Commits;
        std::mem::take(&mut self.unanswered).into_iter().for_each(|(job, id)| self.commit(job, id));
        self.run();
    }

    fn fail(&mut self, task: TaskAddress) {
        self.told.remove(&task);
        let attempt = self.running.remove(&task).unwrap();
        self.tm.on_task_failed(task, attempt, failure("boom"));
        self.run();
    }

    fn state(&self, job: JobId) -> JobState {
        self.jm.job_state(job).unwrap()
    }

    /// Why the job last changed its state.
    fn reason(&self, job: JobId) -> String {
        let mut changes = self.events.iter().rev().filter_map(|event| match event {
            JobEvent::StateChanged { job: of, reason, .. } if *of == job => Some(reason.clone().unwrap_or_default()),
            _ => None,
        });
        changes.next().unwrap()
    }

    fn lose_task_manager(&mut self) {
        self.jm.on_unreachable(TM, self.now_ns);
        self.running.clear();
        self.told.clear();
        self.unanswered.clear();
        self.tm = TaskManager::new(TM, 2, 100 * MIB, self.now_ns);
        self.jm.take_outbox();
    }
}

fn failure(reason: &str) -> OperatorFailure {
    OperatorFailure::new("parse", reason)
}

/// `source` x 1 and `count` x 2, 60 MiB, restarted after exactly 1 s for ever, without periodic checkpoints.
fn job(name: &str) -> JobSubmission {
    let vertex = |name: &str, parallelism| VertexSubmission { name: name.into(), parallelism };
    JobSubmission {
        name: name.into(),
        vertices: vec![vertex("source", 1), vertex("count", 2)],
        memory_bytes: 60 * MIB,
        priority: 0,
        weight: 1,
        expected_run_ms: None,
        checkpoints: CheckpointSettings { interval_ms: None, ..CheckpointSettings::default() },
        restart: RestartPolicy::FixedDelay { attempts_max: u32::MAX, delay_ms: 1_000 },
        last_checkpoint: CheckpointId(0),
        restore: None,
    }
}

fn small(name: &str) -> JobSubmission {
    JobSubmission { memory_bytes: 10 * MIB, ..job(name) }
}

fn task(job: JobId, vertex: u32, subtask: u32) -> TaskAddress {
    TaskAddress { job, vertex, subtask }
}

#[test]
fn a_job_runs_with_subtask_i_of_every_vertex_in_the_same_slot() {
    let mut world = World::new();
    let id = world.submit(job("a"));
    assert_eq!(world.state(id), JobState::Running);
    let placed: Vec<_> =
        world.jm.tasks(id).iter().map(|task| (task.address.vertex, task.slot.unwrap().0, task.state)).collect();
    assert_eq!(placed, [(0, 0, TaskState::Running), (1, 0, TaskState::Running), (1, 1, TaskState::Running)]);
}

#[test]
fn several_jobs_share_the_slots() {
    let mut world = World::new();
    let ids = ["a", "b", "c"].map(|name| world.submit(small(name)));
    assert!(ids.iter().all(|&id| world.state(id) == JobState::Running));
}

#[test]
fn what_can_never_run_is_refused_at_once_with_figures() {
    let mut world = World::new();
    let vertex = |parallelism| vec![VertexSubmission { name: "v".into(), parallelism }];
    let refused = world.refusal(JobSubmission { vertices: vertex(3), ..job("a") });
    assert!(refused.starts_with("job \"a\" asks for parallelism 3, the largest TaskManager has 2 slots"), "{refused}");
    let refused = world.refusal(JobSubmission { memory_bytes: 101 * MIB, ..job("a") });
    assert!(refused.contains("105906176 bytes of memory, the largest TaskManager has 104857600"), "{refused}");
    assert!(world.refusal(JobSubmission { vertices: vertex(0), ..job("a") }).contains("has no tasks"));
    let checkpoints = CheckpointSettings { interval_ms: Some(1), ..CheckpointSettings::default() };
    assert!(world.refusal(JobSubmission { checkpoints, ..job("a") }).contains("every 1 ms"));
}

#[test]
fn two_live_jobs_cannot_have_one_name() {
    let mut world = World::new();
    let first = world.submit(job("a"));
    assert!(world.refusal(small("a")).contains("already Running"));
    world.jm.cancel(first, 0);
    world.run();
    world.submit(small("a"));
}

#[test]
fn the_queue_has_a_limit() {
    let settings = JobManagerSettings { waiting_jobs_max: 1, ..JobManagerSettings::default() };
    let mut jm = JobManager::new(settings, 0);
    jm.submit(job("a"), 0).unwrap();
    assert!(matches!(jm.submit(job("b"), 0), Err(SubmissionError::QueueFull { waiting: 1, waiting_max: 1, .. })));
}

#[test]
fn a_job_submitted_before_any_task_manager_waits_for_one() {
    let mut world = World::without_task_manager();
    let id = world.jm.submit(job("a"), 0).unwrap();
    let too_large = world.jm.submit(JobSubmission { memory_bytes: 101 * MIB, ..job("b") }, 0).unwrap();
    assert!(world.jm.why_waiting(id, 0).unwrap().ends_with("no TaskManager has registered"));
    world.run();
    assert_eq!(world.state(id), JobState::Running);
    assert_eq!(world.state(too_large), JobState::Failed);
    assert!(world.reason(too_large).contains("raise --memory"));
}

#[test]
fn a_task_manager_without_slots_is_refused() {
    let mut jm = JobManager::new(JobManagerSettings::default(), 0);
    jm.receive(ToJobManager::RegisterTaskManager { task_manager: TM, slot_count: 0, memory_bytes: 1 }, 0);
    assert!(matches!(jm.take_outbox()[..], [(TM, ToTaskManager::RegistrationRefused { .. })]));
}

#[test]
fn a_job_that_does_not_fit_waits_says_why_and_runs_when_memory_is_free() {
    let mut world = World::new();
    let first = world.submit(job("a"));
    let second = world.submit(job("b"));
    assert_eq!(
        world.jm.why_waiting(second, 0).unwrap(),
        "asks for 2 slots and 60 MiB; TaskManager 1 has 2 slots and 40 MiB free of 100 MiB; 0 jobs are ahead of it"
    );
    assert_eq!(world.jm.why_waiting(first, 0), None);
    world.jm.cancel(first, 0);
    world.advance(2_000);
    assert_eq!(world.state(second), JobState::Running);
}

#[test]
fn the_more_urgent_job_goes_first_when_memory_is_free() {
    let mut world = World::new();
    let first = world.submit(job("a"));
    let patient = world.submit(job("b"));
    let urgent = world.submit(JobSubmission { priority: 5, ..job("c") });
    assert!(world.jm.why_waiting(patient, 0).unwrap().contains("1 jobs are ahead"));
    world.jm.cancel(first, 0);
    world.advance(2_000);
    assert_eq!((world.state(urgent), world.state(patient)), (JobState::Running, JobState::Created));
}

#[test]
fn small_jobs_pass_a_large_one_for_a_while_only() {
    let mut world = World::new();
    world.submit(job("a"));
    let large = world.submit(job("large"));
    let small_one = world.submit(small("b"));
    assert_eq!((world.state(large), world.state(small_one)), (JobState::Created, JobState::Running));
    world.advance(60_001);
    let late = world.submit(small("c"));
    assert_eq!(world.state(late), JobState::Created, "what is free is kept for the large one");
}

#[test]
fn a_refused_request_goes_back_to_the_queue_and_is_tried_again() {
    let mut world = World::new();
    let id = world.jm.submit(job("a"), 0).unwrap();
    let [(_, ToTaskManager::RequestSlots { attempt, .. })] = world.jm.take_outbox()[..] else { panic!() };
    world.tell(ToJobManager::SlotsRefused { job: id, attempt, reason: "not now".into() });
    assert_eq!(world.state(id), JobState::Created);
    assert!(world.jm.why_waiting(id, 0).unwrap().ends_with("last answer: not now"));
    world.advance(999);
    assert_eq!(world.state(id), JobState::Created);
    world.advance(1);
    assert_eq!(world.state(id), JobState::Running);
}

#[test]
fn fewer_slots_than_asked_for_are_a_refusal() {
    let mut world = World::new();
    let id = world.jm.submit(job("a"), 0).unwrap();
    world.jm.take_outbox();
    world.tell(ToJobManager::SlotsOffered { job: id, attempt: Attempt(1), slots: vec![SlotIndex(0)] });
    assert_eq!(world.state(id), JobState::Created);
    assert_eq!(world.jm.take_outbox(), [(TM, ToTaskManager::ReleaseSlots { job: id })]);
}

#[test]
fn an_unanswered_request_is_withdrawn() {
    let mut world = World::new();
    let id = world.jm.submit(job("a"), 0).unwrap();
    world.jm.take_outbox();
    assert!(world.jm.why_waiting(id, 0).unwrap().ends_with("the request is on its way"));
    assert_eq!(world.jm.next_wake_ns(0), Some(50 * S + 1), "the heartbeat is due first");
    world.tell(ToJobManager::Heartbeat { task_manager: TM, load: Default::default() });
    world.jm.receive(ToJobManager::Heartbeat { task_manager: TM, load: Default::default() }, 299 * S);
    world.jm.take_outbox();
    world.jm.step(300 * S);
    assert_eq!(world.jm.take_outbox(), [(TM, ToTaskManager::ReleaseSlots { job: id })]);
    assert_eq!(world.state(id), JobState::Created);
}

#[test]
fn a_drained_job_takes_a_final_checkpoint_and_finishes() {
    let mut world = World::new();
    let id = world.submit(job("a"));
    world.drain();
    assert_eq!(world.state(id), JobState::Finished);
    let one = CheckpointId(1);
    let notified = CheckpointOrder::NotifyComplete(CheckpointKind::Final);
    let orders =
        [CheckpointOrder::Trigger { kind: CheckpointKind::Final, drain: false }, CheckpointOrder::Commit, notified];
    assert_eq!(world.orders, orders.map(|order| (one, order)));
    assert_eq!(world.tm.budgets().free_bytes(), 100 * MIB);
}

#[test]
fn a_final_checkpoint_of_a_drained_job_is_tried_until_it_succeeds() {
    let mut world = World::new();
    let id = world.submit(job("a"));
    world.store = Store::Full;
    world.drain();
    world.advance(2_500);
    assert_eq!(world.state(id), JobState::Running);
    assert_eq!(world.jm.checkpoint_stats(id).unwrap().failed_count, 3);
    world.store = Store::Commits;
    world.advance(1_000);
    assert_eq!(world.state(id), JobState::Finished);
}

#[test]
fn a_failed_operator_restarts_the_whole_job_from_its_newest_checkpoint() {
    let mut world = World::new();
    let id = world.submit(job("a"));
    world.jm.request_checkpoint(id, 0);
    world.run();
    world.fail(task(id, 1, 0));
    assert_eq!(world.state(id), JobState::Restarting);
    assert_eq!(world.reason(id), "count[0] failed in operator parse: boom");
    assert!(world.jm.why_waiting(id, world.now_ns).unwrap().starts_with("restarts in 1000 ms after: count[0] failed"));
    assert!(world.running.is_empty());
    world.advance(1_000);
    assert_eq!(world.state(id), JobState::Running);
    assert!(world.running.values().all(|&attempt| attempt == Attempt(2)));
    assert_eq!(world.restored, [None, None, None, Some(CheckpointId(1)), Some(CheckpointId(1)), Some(CheckpointId(1))]);
}

#[test]
fn a_restart_waits_for_the_commit_under_way_and_restores_from_it() {
    let mut world = World::new();
    let id = world.submit(job("a"));
    world.store = Store::Silent;
    world.jm.request_checkpoint(id, 0);
    world.run();
    world.fail(task(id, 1, 0));
    world.advance(5_000);
    assert_eq!(world.state(id), JobState::Restarting);
    world.commit(id, CheckpointId(1));
    world.run();
    assert_eq!(world.state(id), JobState::Running);
    assert_eq!(world.restored.last(), Some(&Some(CheckpointId(1))));
}

#[test]
fn tasks_that_fail_while_the_job_is_failing_belong_to_the_same_failure() {
    let mut world = World::new();
    let restart = RestartPolicy::FixedDelay { attempts_max: 1, delay_ms: 10 };
    let id = world.submit(JobSubmission { restart, ..job("a") });
    world.stuck.insert(task(id, 0, 0));
    world.fail(task(id, 1, 0));
    assert_eq!(world.state(id), JobState::Failing);
    world.fail(task(id, 0, 0));
    world.advance(10);
    assert_eq!(world.state(id), JobState::Running);
}

#[test]
fn when_the_restart_strategy_gives_up_the_job_has_failed_and_says_both_reasons() {
    let mut world = World::new();
    let id = world.submit(JobSubmission { restart: RestartPolicy::None, ..job("a") });
    world.fail(task(id, 0, 0));
    assert_eq!(world.state(id), JobState::Failed);
    assert_eq!(
        world.reason(id),
        "source[0] failed in operator parse: boom; not restarted: the restart strategy is none"
    );
    assert_eq!(world.tm.budgets().free_bytes(), 100 * MIB);
}

#[test]
fn a_task_stopped_by_its_task_manager_is_a_failure() {
    let mut world = World::new();
    let id = world.submit(job("a"));
    world.stop(task(id, 0, 0));
    world.run();
    assert_eq!(world.state(id), JobState::Restarting);
    assert_eq!(world.reason(id), "source[0] was stopped by its TaskManager");
}

#[test]
fn a_failed_status_without_a_report_fails_the_job_too() {
    let mut world = World::new();
    let id = world.submit(job("a"));
    let (task, attempt) = (task(id, 0, 0), Attempt(1));
    world.tell(ToJobManager::TaskStatus { task, attempt, state: TaskState::Failed });
    assert_eq!(world.state(id), JobState::Failing);
}

#[test]
fn a_permanent_failure_ends_the_job_whatever_its_restart_policy() {
    let mut world = World::new();
    let id = world.submit(job("a"));
    let failure = OperatorFailure { is_permanent: true, ..failure("other types") };
    let report = ToJobManager::FailureReport { task: task(id, 0, 0), attempt: Attempt(1), failure };
    world.tell(report);
    world.advance(10_000);
    assert_eq!(world.state(id), JobState::Failed);
}

#[test]
fn messages_of_an_earlier_attempt_change_nothing() {
    let mut world = World::new();
    let id = world.submit(job("a"));
    world.fail(task(id, 0, 0));
    world.advance(1_000);
    let (task, attempt) = (task(id, 0, 0), Attempt(1));
    world.tell(ToJobManager::FailureReport { task, attempt, failure: failure("late") });
    world.tell(ToJobManager::TaskStatus { task, attempt, state: TaskState::Finished });
    world.tell(ToJobManager::SlotsRefused { job: id, attempt, reason: "late".into() });
    assert_eq!(world.state(id), JobState::Running);
    assert!(world.jm.tasks(id).iter().all(|task| task.state == TaskState::Running));
}

#[test]
fn messages_about_unknown_jobs_and_tasks_change_nothing() {
    let mut world = World::new();
    let id = world.submit(job("a"));
    world.tell(ToJobManager::CheckpointAcknowledged { task: task(JobId(9), 0, 0), id: CheckpointId(1) });
    world.tell(ToJobManager::CheckpointAcknowledged { task: task(id, 9, 0), id: CheckpointId(1) });
    world.tell(ToJobManager::CheckpointDeclined { task: task(id, 0, 0), id: CheckpointId(9), reason: "x".into() });
    world.jm.cancel(JobId(9), 0);
    world.jm.stop_with_checkpoint(JobId(9), false, 0);
    assert_eq!(world.state(id), JobState::Running);
}

#[test]
fn more_failed_checkpoints_than_tolerated_restart_the_job() {
    let mut world = World::new();
    let checkpoints = CheckpointSettings { tolerable_failures_max: Some(0), interval_ms: None, ..Default::default() };
    let id = world.submit(JobSubmission { checkpoints, ..job("a") });
    world.store = Store::Full;
    world.jm.request_checkpoint(id, 0);
    world.run();
    assert_eq!(world.state(id), JobState::Restarting);
    assert!(world.reason(id).contains("disk full"));
}

#[test]
fn checkpoints_come_at_their_interval_while_the_job_runs() {
    let mut world = World::new();
    let checkpoints = CheckpointSettings { interval_ms: Some(100), ..CheckpointSettings::default() };
    let id = world.submit(JobSubmission { checkpoints, ..job("a") });
    world.advance(1_000);
    let completed = world.jm.checkpoint_stats(id).unwrap().completed_count;
    assert!((9..=11).contains(&completed), "{completed}");
    world.fail(task(id, 0, 0));
    world.advance(999);
    assert_eq!(world.jm.checkpoint_stats(id).unwrap().completed_count, completed);
}

#[test]
fn a_running_job_is_cancelled_without_another_checkpoint() {
    let mut world = World::new();
    let id = world.submit(job("a"));
    world.jm.cancel(id, 0);
    assert_eq!(world.state(id), JobState::Cancelling);
    world.run();
    assert_eq!(world.state(id), JobState::Canceled);
    assert!(world.orders.is_empty());
    world.jm.cancel(id, 0);
    assert_eq!(world.state(id), JobState::Canceled);
}

#[test]
fn a_waiting_or_restarting_job_is_cancelled_at_once() {
    let mut world = World::new();
    let running = world.submit(job("a"));
    let waiting = world.submit(job("b"));
    world.jm.cancel(waiting, 0);
    assert_eq!(world.state(waiting), JobState::Canceled);
    world.fail(task(running, 0, 0));
    world.jm.cancel(running, 0);
    assert_eq!(world.state(running), JobState::Canceled);
    world.run();
    assert_eq!(world.tm.budgets().free_bytes(), 100 * MIB);
}

#[test]
fn a_failing_job_that_is_cancelled_does_not_restart() {
    let mut world = World::new();
    let id = world.submit(job("a"));
    world.stuck.insert(task(id, 0, 0));
    world.fail(task(id, 1, 0));
    world.jm.cancel(id, 0);
    world.stop(task(id, 0, 0));
    world.run();
    assert_eq!(world.state(id), JobState::Canceled);
}

#[test]
fn a_task_that_does_not_stop_within_the_grace_period_is_named_once_with_its_slot() {
    let mut world = World::new();
    let id = world.submit(job("a"));
    world.stuck.insert(task(id, 1, 1));
    world.jm.cancel(id, 0);
    world.advance(100_000);
    let overdue = |event: &&JobEvent| matches!(event, JobEvent::CancelOverdue { .. });
    let told: Vec<_> = world.events.iter().filter(overdue).collect();
    assert_eq!(told, [&JobEvent::CancelOverdue { job: id, tasks: "count[1] in slot 1".into() }]);
    assert_eq!(world.state(id), JobState::Cancelling);
    world.stop(task(id, 1, 1));
    world.run();
    assert_eq!(world.state(id), JobState::Canceled);
}

#[test]
fn a_stopped_job_takes_a_final_checkpoint_and_is_suspended() {
    let mut world = World::new();
    let id = world.submit(job("a"));
    world.jm.stop_with_checkpoint(id, false, 0);
    world.run();
    assert_eq!(world.state(id), JobState::Suspended);
    let last = world.orders.last().unwrap();
    assert_eq!(*last, (CheckpointId(1), CheckpointOrder::NotifyComplete(CheckpointKind::Final)));
    assert!(world.running.is_empty());
}

#[test]
fn a_task_that_hangs_behind_the_last_checkpoint_is_told_to_stop_by_a_cancel_alone() {
    let mut world = World::new();
    let id = world.submit(job("a"));
    world.stuck.insert(task(id, 1, 1));
    world.jm.stop_with_checkpoint(id, false, 0);
    world.run();
    assert_eq!(world.state(id), JobState::Cancelling);
    world.stuck.clear();
    world.advance(100_000);
    assert_eq!(world.state(id), JobState::Cancelling, "its sinks may still commit");
    world.jm.cancel(id, world.now_ns);
    world.run();
    assert_eq!(world.state(id), JobState::Canceled);
}

#[test]
fn a_task_that_fails_behind_the_last_checkpoint_of_a_stop_leaves_its_reason() {
    let mut world = World::new();
    let id = world.submit(job("a"));
    world.stuck.insert(task(id, 1, 1));
    world.jm.stop_with_checkpoint(id, false, 0);
    world.run();
    world.stuck.clear();
    world.fail(task(id, 1, 1));
    assert_eq!(world.state(id), JobState::Suspended);
    assert!(
        world.reason(id).contains("boom") && world.reason(id).contains("the next start from it does"),
        "{}",
        world.reason(id)
    );
}

#[test]
fn a_job_whose_final_checkpoint_fails_is_not_stopped_and_says_so() {
    let mut world = World::new();
    let id = world.submit(job("a"));
    world.store = Store::Full;
    world.jm.stop_with_checkpoint(id, false, 0);
    world.run();
    assert_eq!(world.state(id), JobState::Running);
    let reason = "the store failed: disk full".into();
    assert!(world.events.contains(&JobEvent::StopFailed { job: id, reason }));
}

#[test]
fn a_job_whose_inputs_end_while_a_stop_fails_takes_a_final_checkpoint_and_finishes() {
    let mut world = World::new();
    let id = world.submit(job("a"));
    world.store = Store::Silent;
    world.jm.stop_with_checkpoint(id, false, 0);
    world.drain();
    let (of, checkpoint) = world.unanswered.pop().unwrap();
    world.tell(ToJobManager::CheckpointFailed { job: of, id: checkpoint, reason: "disk full".into() });
    world.store = Store::Commits;
    world.advance(10_000);
    assert_eq!(world.state(id), JobState::Finished);
}

#[test]
fn a_job_that_does_not_run_is_suspended_at_once() {
    let mut world = World::new();
    let running = world.submit(job("a"));
    let waiting = world.submit(job("b"));
    world.fail(task(running, 0, 0));
    for id in [running, waiting] {
        world.jm.stop_with_checkpoint(id, false, 0);
        assert_eq!(world.state(id), JobState::Suspended);
    }
}

#[test]
fn a_stop_that_a_failure_interrupts_is_carried_out_after_the_restart() {
    let mut world = World::new();
    let id = world.submit(job("a"));
    world.stuck.insert(task(id, 0, 0));
    world.fail(task(id, 1, 0));
    world.jm.stop_with_checkpoint(id, false, 0);
    world.stuck.clear();
    world.stop(task(id, 0, 0));
    world.advance(1_000);
    assert_eq!(world.state(id), JobState::Suspended);
}

#[test]
fn a_final_checkpoint_that_a_failure_aborts_is_asked_for_again_after_the_restart() {
    let mut world = World::new();
    let id = world.submit(job("a"));
    world.acknowledges = false;
    world.jm.stop_with_checkpoint(id, false, 0);
    world.run();
    world.fail(task(id, 1, 0));
    world.acknowledges = true;
    world.advance(1_000);
    assert_eq!(world.state(id), JobState::Suspended);
    assert_eq!(world.orders.last().unwrap().0, CheckpointId(2));
}

#[test]
fn a_restarting_job_whose_last_commit_is_under_way_is_suspended_with_it() {
    let mut world = World::new();
    let id = world.submit(job("a"));
    world.store = Store::Silent;
    world.jm.stop_with_checkpoint(id, false, 0);
    world.run();
    world.fail(task(id, 1, 0));
    assert_eq!(world.state(id), JobState::Restarting);
    world.commit(id, CheckpointId(1));
    assert_eq!(world.state(id), JobState::Suspended);
}

#[test]
fn a_silent_task_manager_is_lost_and_its_jobs_wait_for_another() {
    let mut world = World::new();
    let id = world.submit(job("a"));
    world.jm.step(50 * S);
    assert_eq!(world.state(id), JobState::Running);
    world.jm.step(50 * S + 1);
    assert_eq!(world.state(id), JobState::Restarting);
    world.jm.step(60 * S);
    assert_eq!(world.state(id), JobState::Created);
    let events = world.jm.take_events();
    let reason = "no heartbeat for more than 50000 ms".to_string();
    assert!(events.contains(&JobEvent::TaskManagerLost { task_manager: TM, reason }), "{events:?}");
}

#[test]
fn a_job_goes_on_when_its_task_manager_comes_back() {
    let mut world = World::new();
    let id = world.submit(job("a"));
    world.lose_task_manager();
    world.advance(1_000);
    assert_eq!(world.state(id), JobState::Running);
    assert!(world.running.values().all(|&attempt| attempt == Attempt(2)));
}

#[test]
fn a_task_manager_that_registers_anew_has_lost_its_tasks() {
    let mut world = World::new();
    let id = world.submit(job("a"));
    world.tell(ToJobManager::RegisterTaskManager { task_manager: TM, slot_count: 2, memory_bytes: 100 * MIB });
    assert_eq!(world.state(id), JobState::Restarting);
}

#[test]
fn a_lost_task_manager_takes_its_commit_with_it() {
    let mut world = World::new();
    let id = world.submit(job("a"));
    world.store = Store::Silent;
    world.jm.request_checkpoint(id, 0);
    world.run();
    world.lose_task_manager();
    world.advance(1_000);
    assert_eq!(world.state(id), JobState::Running, "nobody waits for a store that is gone");
}

#[test]
fn a_request_to_a_lost_task_manager_goes_back_to_the_queue() {
    let mut world = World::new();
    let id = world.jm.submit(job("a"), 0).unwrap();
    world.jm.on_unreachable(TM, 0);
    assert_eq!(world.state(id), JobState::Created);
}

#[test]
fn a_heartbeat_of_a_stranger_is_answered_with_a_refusal_and_known_load_is_kept() {
    let mut world = World::new();
    let load = messages::LoadReport { busy_permille: vec![1, 2], memory_used_bytes: 3 };
    world.tell(ToJobManager::Heartbeat { task_manager: TaskManagerId(9), load: load.clone() });
    assert!(matches!(world.jm.take_outbox()[..], [(TaskManagerId(9), ToTaskManager::RegistrationRefused { .. })]));
    world.tell(ToJobManager::Heartbeat { task_manager: TM, load: load.clone() });
    assert_eq!(world.jm.take_outbox(), [(TM, ToTaskManager::HeartbeatAck)]);
    assert_eq!(world.jm.load(TM), Some(&load));
}

#[test]
fn an_hour_of_heartbeats_keeps_both_sides_together() {
    let mut world = World::new();
    let id = world.submit(job("a"));
    world.advance(3_600_000);
    assert_eq!(world.state(id), JobState::Running);
    assert!(world.tm.is_registered());
}

#[test]
fn only_the_latest_ended_jobs_are_remembered() {
    let mut world = World::new();
    let ids: Vec<_> = (0..70)
        .map(|number| {
            let id = world.submit(small(&format!("job {number}")));
            world.jm.cancel(id, 0);
            world.run();
            id
        })
        .collect();
    assert_eq!(world.jm.job_state(ids[5]), None);
    assert_eq!(world.jm.job_state(ids[69]), Some(JobState::Canceled));
}

/// What may happen to an engine, drawn from a seed; both machines are whole again at the end.
fn live_through(seed: u64) -> World {
    let mut dice = JobManager::new(JobManagerSettings::default(), seed);
    let mut draw = move |below: u64| dice.next_random() % below;
    let mut world = World::new();
    for step in 0..120 {
        let jobs = world.jm.ids();
        let job_id = jobs.get(draw(jobs.len().max(1) as u64) as usize).copied().unwrap_or(JobId(0));
        let tasks: Vec<_> = world.running.keys().copied().collect();
        let victim = tasks.get(draw(tasks.len().max(1) as u64) as usize).copied();
        match draw(14) {
            0..3 => {
                let memory_bytes = (1 + draw(100)) * MIB;
                let checkpoints = CheckpointSettings { interval_ms: Some(500), ..CheckpointSettings::default() };
                let name = format!("job {step}");
                world.submit(JobSubmission { memory_bytes, checkpoints, priority: draw(4) as u8, ..job(&name) });
            }
            3..6 => victim.into_iter().for_each(|task| world.fail(task)),
            6 => world.jm.cancel(job_id, world.now_ns),
            7 => world.jm.stop_with_checkpoint(job_id, false, world.now_ns),
            8 => world.stuck.extend(victim),
            9 => world.store = [Store::Full, Store::Silent, Store::Commits][draw(3) as usize],
            10 => world.unstick(),
            11 if draw(4) == 0 => world.lose_task_manager(),
            _ => world.advance(draw(3_000)),
        }
        world.run();
    }
    world.unstick();
    world
}

#[test]
fn no_sequence_of_events_leaves_a_job_hanging_or_memory_lost() {
    for seed in 0..40 {
        let mut world = live_through(seed);
        world.advance(120_000);
        for id in world.jm.ids() {
            let state = world.state(id);
            let settled = state.has_ended() || matches!(state, JobState::Running | JobState::Created);
            assert!(settled, "seed {seed}: {id} hangs in {state:?}");
        }
        let running = world.jm.ids().into_iter().filter(|&id| world.state(id) == JobState::Running);
        assert_eq!(running.map(|id| world.jm.tasks(id).len()).sum::<usize>(), world.running.len(), "seed {seed}");
        for id in world.jm.ids() {
            world.jm.cancel(id, world.now_ns);
        }
        world.run();
        assert!(
            world.jm.ids().iter().all(|&id| world.state(id).has_ended()),
            "seed {seed}: a cancelled job has not ended"
        );
        assert_eq!(world.tm.budgets().free_bytes(), 100 * MIB, "seed {seed}: memory was not given back");
    }
}
