//! The TaskManager: reserves slots and memory, starts and stops tasks as told, and reports what became of them.
//!
//! Invariants: a job's memory stays reserved until its last task has ended, however often it was released; without a JobManager no
//! task goes on running.
//! Semantics: Flink TaskExecutor. Unlike Flink, slots are shared by jobs: memory is what a job reserves, a slot only what it runs in.

use super::{Budgets, Registration, RegistrationStep};
use crate::checkpoint::CheckpointId;
use crate::job_manager::messages::{CheckpointOrder, LoadReport, ToJobManager, ToTaskManager};
use crate::job_manager::{Attempt, JobId, SlotIndex, TaskAddress, TaskManagerId, TaskState};
use crate::operator::OperatorFailure;
use std::collections::{BTreeMap, BTreeSet};

/// One TaskManager. What it wants done is in `take_actions`.
#[derive(Debug)]
pub struct TaskManager {
    id: TaskManagerId,
    registration: Registration,
    budgets: Budgets,
    tasks: BTreeMap<TaskAddress, Entry>,
    /// Jobs whose budget goes as soon as their last task has ended.
    released: BTreeSet<JobId>,
    load: LoadReport,
    actions: Vec<TaskManagerAction>,
}

/// What is to be done, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TaskManagerAction {
    /// Send this to the JobManager.
    Send(ToJobManager),
    /// Start a task in its slot; answer with `on_task_state`.
    Start {
        /// Which task.
        task: TaskAddress,
        /// Of which attempt.
        attempt: Attempt,
        /// Where.
        slot: SlotIndex,
        /// From which checkpoint.
        restore: Option<CheckpointId>,
    },
    /// Let a task stop; answer with `on_task_state` when it has.
    Stop {
        /// Which task.
        task: TaskAddress,
    },
    /// Pass this on to the job's tasks and its store.
    Checkpoint {
        /// Which job.
        job: JobId,
        /// Which checkpoint.
        id: CheckpointId,
        /// What to do about it.
        order: CheckpointOrder,
    },
    /// The job's memory was given back.
    BudgetReleased {
        /// Which job.
        job: JobId,
    },
    /// There has been no JobManager for five minutes: end the process, or start again.
    GiveUp,
}

#[derive(Clone, Debug)]
struct Entry {
    attempt: Attempt,
    slot: SlotIndex,
    state: TaskState,
}

impl TaskManager {
    /// A TaskManager that is not registered yet and runs nothing.
    pub fn new(id: TaskManagerId, slot_count: u32, memory_bytes: u64, now_ns: u64) -> Self {
        let load = LoadReport { busy_permille: vec![0; slot_count as usize], memory_used_bytes: 0 };
        Self {
            id,
            registration: Registration::new(now_ns),
            budgets: Budgets::new(memory_bytes),
            tasks: BTreeMap::new(),
            released: BTreeSet::new(),
            load,
            actions: Vec::new(),
        }
    }

    /// Takes one message from the JobManager.
    pub fn receive(&mut self, message: ToTaskManager, now_ns: u64) {
        match message {
            ToTaskManager::RegistrationAccepted => self.registration.on_accepted(now_ns),
            ToTaskManager::RegistrationRefused { .. } => {
                if self.registration.on_refused(now_ns) {
                    self.stop_everything();
                }
            }
            ToTaskManager::HeartbeatAck => self.registration.on_heartbeat_ack(now_ns),
            ToTaskManager::RequestSlots { job, attempt, slot_count, memory_bytes } => {
                self.reserve(job, attempt, slot_count, memory_bytes);
            }
            ToTaskManager::SubmitTask { task, attempt, slot, restore } => self.start(task, attempt, slot, restore),
            ToTaskManager::CancelTask { task, attempt } => self.cancel(task, attempt),
            ToTaskManager::ReleaseSlots { job } => self.release(job),
            ToTaskManager::Checkpoint { job, id, order } => {
                self.actions.push(TaskManagerAction::Checkpoint { job, id, order });
            }
        }
    }

    /// Registers, sends heartbeats, notices a lost JobManager. Call it at `next_wake_ns` at the latest.
    pub fn step(&mut self, now_ns: u64) {
        loop {
            match self.registration.step(now_ns) {
                RegistrationStep::Wait => return,
                RegistrationStep::Register => self.register(),
                RegistrationStep::Heartbeat => {
                    self.send(ToJobManager::Heartbeat { task_manager: self.id, load: self.load.clone() });
                }
                RegistrationStep::Lost => self.stop_everything(),
                RegistrationStep::GiveUp => self.actions.push(TaskManagerAction::GiveUp),
            }
        }
    }

    /// When `step` has something to do next.
    pub fn next_wake_ns(&self) -> Option<u64> {
        self.registration.next_wake_ns()
    }

    /// A slot reports a task's state. A task that failed is reported by `on_task_failed` instead.
    pub fn on_task_state(&mut self, task: TaskAddress, attempt: Attempt, state: TaskState) {
        if self.follow(task, attempt, state) {
            self.send(ToJobManager::TaskStatus { task, attempt, state });
        }
    }

    /// A slot caught an error or a panic of a task, which has ended.
    pub fn on_task_failed(&mut self, task: TaskAddress, attempt: Attempt, failure: OperatorFailure) {
        if self.follow(task, attempt, TaskState::Failed) {
            self.send(ToJobManager::FailureReport { task, attempt, failure });
        }
    }

    /// A message could not be sent: nobody is there.
    pub fn on_send_failed(&mut self, now_ns: u64) {
        self.registration.on_error(now_ns);
    }

    /// How busy the slots were lately, and how much memory is in use: sent with the next heartbeat, and used to offer idle slots first.
    pub fn on_load(&mut self, load: LoadReport) {
        self.load = load;
    }

    /// What is to be done; empty afterwards.
    pub fn take_actions(&mut self) -> Vec<TaskManagerAction> {
        std::mem::take(&mut self.actions)
    }

    /// How memory is divided.
    pub fn budgets(&self) -> &Budgets {
        &self.budgets
    }

    /// What it still keeps, in words: tasks that have not ended, and memory that is not given back.
    pub fn leftovers(&self) -> Vec<String> {
        let tasks = self.tasks.iter().map(|(task, entry)| format!("{task:?} is {:?}", entry.state));
        let budgets = self.budgets.jobs().map(|job| format!("memory is reserved for {job}"));
        let released = self.released.iter().map(|job| format!("the memory of {job} waits for its tasks"));
        tasks.chain(budgets).chain(released).collect()
    }

    /// Whether it belongs to a JobManager.
    pub fn is_registered(&self) -> bool {
        self.registration.is_registered()
    }

    fn slot_count(&self) -> u32 {
        self.load.busy_permille.len() as u32
    }

    fn send(&mut self, message: ToJobManager) {
        self.actions.push(TaskManagerAction::Send(message));
    }

    fn register(&mut self) {
        let (task_manager, slot_count, memory_bytes) = (self.id, self.slot_count(), self.budgets.limit_bytes());
        self.send(ToJobManager::RegisterTaskManager { task_manager, slot_count, memory_bytes });
    }

    fn reserve(&mut self, job: JobId, attempt: Attempt, slot_count: u32, memory_bytes: u64) {
        let answer = if slot_count > self.slot_count() {
            let reason = format!("{job} asked for {slot_count} slots, there are {}", self.slot_count());
            ToJobManager::SlotsRefused { job, attempt, reason }
        } else if self.tasks.keys().any(|task| task.job == job) {
            let reason = format!("tasks of an earlier attempt of {job} have not ended yet");
            ToJobManager::SlotsRefused { job, attempt, reason }
        } else if let Err(refusal) = self.budgets.grant(job, memory_bytes) {
            ToJobManager::SlotsRefused { job, attempt, reason: refusal.to_string() }
        } else {
            ToJobManager::SlotsOffered { job, attempt, slots: self.least_busy(slot_count) }
        };
        self.send(answer);
    }

    /// Slots with the fewest tasks first, then the least busy, then the lowest.
    fn least_busy(&self, slot_count: u32) -> Vec<SlotIndex> {
        let mut slots: Vec<_> = (0..self.slot_count()).map(SlotIndex).collect();
        let task_count = |slot: SlotIndex| self.tasks.values().filter(|entry| entry.slot == slot).count();
        slots.sort_by_key(|&slot| (task_count(slot), self.load.busy_permille[slot.0 as usize], slot));
        slots.truncate(slot_count as usize);
        slots
    }

    fn start(&mut self, task: TaskAddress, attempt: Attempt, slot: SlotIndex, restore: Option<CheckpointId>) {
        let refusal = match self.tasks.get(&task) {
            Some(running) => Some(format!("attempt {} of it has not ended yet", running.attempt.0)),
            None if slot.0 >= self.slot_count() => {
                Some(format!("there is no {slot}, only {} slots", self.slot_count()))
            }
            None if !self.budgets.has(task.job) || self.released.contains(&task.job) => {
                Some(format!("no memory is reserved for {}", task.job))
            }
            None => None,
        };
        if let Some(reason) = refusal {
            let failure = OperatorFailure::new("(deployment)", reason);
            return self.send(ToJobManager::FailureReport { task, attempt, failure });
        }
        self.tasks.insert(task, Entry { attempt, slot, state: TaskState::Deploying });
        self.actions.push(TaskManagerAction::Start { task, attempt, slot, restore });
    }

    fn cancel(&mut self, task: TaskAddress, attempt: Attempt) {
        match self.tasks.get_mut(&task).filter(|entry| entry.attempt == attempt) {
            Some(entry) if entry.state.needs_cancelling() => {
                entry.state = TaskState::Canceling;
                self.actions.push(TaskManagerAction::Stop { task });
            }
            Some(_) => {}
            // It ended, or never began: whoever asks must not wait.
            None => self.send(ToJobManager::TaskStatus { task, attempt, state: TaskState::Canceled }),
        }
    }

    fn release(&mut self, job: JobId) {
        self.released.insert(job);
        self.give_back_budget(job);
    }

    fn stop_everything(&mut self) {
        let live: Vec<_> = self.tasks.iter().map(|(task, entry)| (*task, entry.attempt)).collect();
        live.into_iter().for_each(|(task, attempt)| self.cancel(task, attempt));
        let jobs: Vec<_> = self.budgets.jobs().collect();
        jobs.into_iter().for_each(|job| self.release(job));
    }

    /// Whether the state was news.
    fn follow(&mut self, task: TaskAddress, attempt: Attempt, state: TaskState) -> bool {
        let entry = self.tasks.get_mut(&task);
        let Some(entry) = entry.filter(|entry| entry.attempt == attempt && entry.state.may_become(state)) else {
            return false;
        };
        entry.state = state;
        if state.has_ended() {
            self.tasks.remove(&task);
            self.give_back_budget(task.job);
        }
        true
    }

    fn give_back_budget(&mut self, job: JobId) {
        let in_use = self.tasks.keys().any(|task| task.job == job);
        if !in_use && self.released.remove(&job) && self.budgets.release(job) {
            self.actions.push(TaskManagerAction::BudgetReleased { job });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::TaskManagerAction::*;
    use super::*;

    const JOB: JobId = JobId(1);
    const FIRST: Attempt = Attempt(1);
    const TASK: TaskAddress = TaskAddress { job: JOB, vertex: 0, subtask: 0 };

    fn registered() -> TaskManager {
        let mut manager = TaskManager::new(TaskManagerId(5), 2, 1_000, 0);
        manager.step(0);
        manager.receive(ToTaskManager::RegistrationAccepted, 0);
        manager.take_actions();
        manager
    }

    fn request(manager: &mut TaskManager, job: JobId, slot_count: u32, memory_bytes: u64) -> Vec<TaskManagerAction> {
        manager.receive(ToTaskManager::RequestSlots { job, attempt: FIRST, slot_count, memory_bytes }, 0);
        manager.take_actions()
    }

    fn submit(manager: &mut TaskManager, task: TaskAddress) -> Vec<TaskManagerAction> {
        manager.receive(ToTaskManager::SubmitTask { task, attempt: FIRST, slot: SlotIndex(0), restore: None }, 0);
        manager.take_actions()
    }

    /// One task of job 1 running in slot 0.
    fn boom() -> OperatorFailure {
        OperatorFailure::new("parse", "boom")
    }

    fn running() -> TaskManager {
        let mut manager = registered();
        request(&mut manager, JOB, 1, 600);
        submit(&mut manager, TASK);
        manager.on_task_state(TASK, FIRST, TaskState::Running);
        manager.take_actions();
        manager
    }

    fn status(state: TaskState) -> TaskManagerAction {
        Send(ToJobManager::TaskStatus { task: TASK, attempt: FIRST, state })
    }

    fn refusal(actions: &[TaskManagerAction]) -> &str {
        match actions {
            [Send(ToJobManager::SlotsRefused { reason, .. })] => reason,
            [Send(ToJobManager::FailureReport { failure, .. })] => &failure.reason,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn it_registers_with_its_slots_and_memory_and_reports_its_load() {
        let mut manager = TaskManager::new(TaskManagerId(5), 2, 1_000, 0);
        manager.step(0);
        let registration =
            ToJobManager::RegisterTaskManager { task_manager: TaskManagerId(5), slot_count: 2, memory_bytes: 1_000 };
        assert_eq!(manager.take_actions(), [Send(registration)]);
        manager.receive(ToTaskManager::RegistrationAccepted, 0);
        assert!(manager.is_registered());
        let load = LoadReport { busy_permille: vec![10, 900], memory_used_bytes: 7 };
        manager.on_load(load.clone());
        manager.step(manager.next_wake_ns().unwrap());
        assert_eq!(manager.take_actions(), [Send(ToJobManager::Heartbeat { task_manager: TaskManagerId(5), load })]);
    }

    #[test]
    fn it_offers_the_least_busy_slots() {
        let mut manager = running();
        let offered = |actions: Vec<TaskManagerAction>| match &actions[..] {
            [Send(ToJobManager::SlotsOffered { slots, .. })] => slots.clone(),
            other => panic!("{other:?}"),
        };
        assert_eq!(offered(request(&mut manager, JobId(2), 1, 10)), [SlotIndex(1)]);
        assert_eq!(offered(request(&mut manager, JobId(3), 2, 10)), [SlotIndex(1), SlotIndex(0)]);
    }

    #[test]
    fn it_refuses_more_slots_or_memory_than_it_has_with_figures() {
        let mut manager = running();
        assert_eq!(refusal(&request(&mut manager, JobId(2), 3, 10)), "job 2 asked for 3 slots, there are 2");
        assert!(
            refusal(&request(&mut manager, JobId(2), 1, 500))
                .starts_with("job 2 asked for 500 bytes of memory, 400 of")
        );
    }

    #[test]
    fn a_new_attempt_waits_until_the_tasks_of_the_old_one_have_ended() {
        let mut manager = running();
        assert!(refusal(&request(&mut manager, JOB, 1, 600)).contains("earlier attempt"));
    }

    #[test]
    fn a_task_is_started_only_in_a_reserved_job_an_existing_slot_and_once() {
        let mut manager = registered();
        assert!(refusal(&submit(&mut manager, TASK)).contains("no memory is reserved"));
        request(&mut manager, JOB, 1, 600);
        let start = Start { task: TASK, attempt: FIRST, slot: SlotIndex(0), restore: None };
        assert_eq!(submit(&mut manager, TASK), [start]);
        assert!(refusal(&submit(&mut manager, TASK)).contains("has not ended yet"));
        let other = TaskAddress { subtask: 1, ..TASK };
        manager
            .receive(ToTaskManager::SubmitTask { task: other, attempt: FIRST, slot: SlotIndex(2), restore: None }, 0);
        assert!(refusal(&manager.take_actions()).contains("there is no slot 2"));
    }

    #[test]
    fn a_failure_is_reported_with_operator_and_reason_and_stale_states_are_not_reported() {
        let mut manager = running();
        manager.on_task_state(TASK, FIRST, TaskState::Initializing);
        manager.on_task_state(TASK, Attempt(9), TaskState::Finished);
        assert_eq!(manager.take_actions(), []);
        manager.on_task_failed(TASK, FIRST, boom());
        let report = ToJobManager::FailureReport { task: TASK, attempt: FIRST, failure: boom() };
        assert_eq!(manager.take_actions(), [Send(report)]);
    }

    #[test]
    fn a_cancelled_task_is_told_once_and_its_end_reported() {
        let mut manager = running();
        let cancel = ToTaskManager::CancelTask { task: TASK, attempt: FIRST };
        manager.receive(cancel.clone(), 0);
        manager.receive(cancel.clone(), 0);
        assert_eq!(manager.take_actions(), [Stop { task: TASK }]);
        manager.on_task_state(TASK, FIRST, TaskState::Canceled);
        assert_eq!(manager.take_actions(), [status(TaskState::Canceled)]);
        manager.receive(cancel, 0);
        assert_eq!(manager.take_actions(), [status(TaskState::Canceled)], "whoever asks must not wait for ever");
    }

    #[test]
    fn memory_stays_reserved_until_the_last_task_has_ended() {
        let mut manager = running();
        manager.receive(ToTaskManager::ReleaseSlots { job: JOB }, 0);
        assert_eq!(manager.budgets().free_bytes(), 400);
        manager.on_task_state(TASK, FIRST, TaskState::Canceled);
        assert_eq!(manager.take_actions(), [BudgetReleased { job: JOB }, status(TaskState::Canceled)]);
        assert_eq!(manager.budgets().free_bytes(), 1_000);
    }

    #[test]
    fn releasing_a_job_that_has_nothing_does_nothing() {
        let mut manager = registered();
        manager.receive(ToTaskManager::ReleaseSlots { job: JOB }, 0);
        assert_eq!(manager.take_actions(), []);
    }

    #[test]
    fn memory_of_a_job_that_restarts_stays_its_own() {
        let mut manager = running();
        manager.on_task_failed(TASK, FIRST, boom());
        assert_eq!(manager.budgets().of(JOB), 600);
    }

    #[test]
    fn a_lost_job_manager_stops_all_tasks_and_frees_all_memory() {
        let mut manager = running();
        request(&mut manager, JobId(2), 1, 100);
        manager.receive(ToTaskManager::RegistrationRefused { reason: "who are you".into() }, 7);
        assert_eq!(manager.take_actions(), [Stop { task: TASK }, BudgetReleased { job: JobId(2) }]);
        manager.on_task_state(TASK, FIRST, TaskState::Canceled);
        assert_eq!(manager.budgets().free_bytes(), 1_000);
        manager.take_actions();
        manager.step(7);
        assert!(matches!(manager.take_actions()[..], [Send(ToJobManager::RegisterTaskManager { .. })]));
    }

    #[test]
    fn silence_of_the_job_manager_is_a_loss_too_and_five_minutes_of_it_the_end() {
        let mut manager = running();
        manager.step(60_000_000_000);
        assert_eq!(manager.take_actions()[0], Stop { task: TASK });
        manager.step(400_000_000_000);
        assert_eq!(manager.take_actions(), [GiveUp]);
        assert_eq!(manager.next_wake_ns(), None);
    }

    #[test]
    fn checkpoint_orders_are_passed_on() {
        let mut manager = running();
        let (id, order) = (CheckpointId(3), CheckpointOrder::Commit);
        manager.receive(ToTaskManager::Checkpoint { job: JOB, id, order }, 0);
        assert_eq!(manager.take_actions(), [Checkpoint { job: JOB, id, order }]);
    }
}
