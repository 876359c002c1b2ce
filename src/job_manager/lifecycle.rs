//! How a job fails, restarts, is cancelled or stopped, and ends.
//!
//! Whatever ends a job goes the same way: the state says why, `Job::then` says what follows, all live tasks are told to stop (behind a
//! stop's last checkpoint they end by themselves), and the last one to end brings the job on. A job restarts from its newest durable checkpoint, so it waits for a commit that is under way.

use super::job::{Ending, Then};
use super::messages::ToTaskManager;
use super::{Attempt, JobEvent, JobId, JobManager, JobState, RestartDecision, TaskAddress, TaskManagerId, TaskState};
use crate::checkpoint::CheckpointKind;
use crate::operator::OperatorFailure;

impl JobManager {
    /// Ends a job at once, without another checkpoint. Its tasks get the grace period. Jobs that have ended are left alone.
    pub fn cancel(&mut self, id: JobId, now_ns: u64) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        job.then = Then::End(JobState::Canceled);
        match job.state {
            JobState::Created | JobState::Initializing | JobState::Restarting => {
                self.end(id, JobState::Canceled, None);
                self.place_waiting(now_ns);
            }
            JobState::Cancelling if !job.tasks.iter().any(|task| task.state.needs_cancelling()) => {}
            JobState::Running | JobState::Failing | JobState::Cancelling => {
                self.pause_checkpoints(id, "the job is being cancelled", now_ns);
                self.stop_tasks(id, JobState::Cancelling, None, now_ns);
            }
            _ => {}
        }
    }

    /// Takes a final checkpoint and ends the job when it is durable (Flink stop-with-savepoint). With `drain` sources send the last
    /// watermark first, so that every window and timer fires; without, none fires that would not have fired. If the checkpoint fails
    /// the job goes on, a drained one from its last checkpoint, and `JobEvent::StopFailed` says why.
    pub fn stop_with_checkpoint(&mut self, id: JobId, drain: bool, now_ns: u64) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        match job.state {
            // It has nothing that its last checkpoint does not have.
            JobState::Created | JobState::Initializing | JobState::Restarting if !job.coordinator.is_committing() => {
                self.end(id, JobState::Suspended, None);
                self.place_waiting(now_ns);
            }
            JobState::Running | JobState::Failing | JobState::Restarting => {
                if job.ending == Ending::No {
                    job.ending = Ending::Stop { drain };
                    job.coordinator.request(CheckpointKind::Final);
                }
                self.step_checkpoints(id, now_ns);
            }
            _ => {}
        }
    }

    /// A transport found that nobody is at the other end.
    pub fn on_unreachable(&mut self, task_manager: TaskManagerId, now_ns: u64) {
        self.lose_task_manager(task_manager, "it cannot be reached".into(), now_ns);
    }

    pub(super) fn on_task_status(&mut self, task: TaskAddress, attempt: Attempt, state: TaskState, now_ns: u64) {
        let Some(job) = self.current(task.job, attempt) else { return };
        if !job.set_task_state(task, state) {
            return;
        }
        let running = job.state == JobState::Running;
        match state {
            TaskState::Failed => {
                let failure = OperatorFailure::new("?", "no reason was given");
                self.on_failure_report(task, attempt, &failure, now_ns);
            }
            TaskState::Canceled if running => {
                let reason = format!("{} was stopped by its TaskManager", job.task_name(task));
                self.fail(task.job, reason, now_ns);
            }
            TaskState::Finished => self.on_task_finished(task, now_ns),
            _ => {}
        }
        self.follow_tasks(task.job, now_ns);
    }

    pub(super) fn on_failure_report(
        &mut self,
        task: TaskAddress,
        attempt: Attempt,
        failure: &OperatorFailure,
        now_ns: u64,
    ) {
        let Some(job) = self.current(task.job, attempt) else { return };
        job.set_task_state(task, TaskState::Failed);
        let OperatorFailure { operator, reason, is_permanent } = failure;
        let reason = format!("{} failed in operator {operator}: {reason}", job.task_name(task));
        self.fail_with(task.job, reason, *is_permanent, now_ns);
    }

    /// Something of the job failed. Failures while it is already failing belong to the first.
    pub(super) fn fail(&mut self, id: JobId, reason: String, now_ns: u64) {
        self.fail_with(id, reason, false, now_ns);
    }

    fn fail_with(&mut self, id: JobId, reason: String, is_permanent: bool, now_ns: u64) {
        let random = self.next_random();
        let Some(job) = self.jobs.get_mut(&id) else { return };
        if job.state != JobState::Running {
            // Behind its last checkpoint a job that stops only has the last commits of its sinks before it. A restart would carry them out, but
            // read on too, beyond the savepoint it may have been stopped with.
            if job.state == JobState::Cancelling && job.then == Then::End(JobState::Suspended) {
                job.remark.get_or_insert_with(|| {
                    format!("{reason}; what its sinks have not published of its last checkpoint, the next start from it does")
                });
            }
            return self.follow_tasks(id, now_ns);
        }
        if job.ending == Ending::Drained {
            job.ending = Ending::No;
        }
        let decision = match is_permanent {
            true => RestartDecision::GiveUp("it would fail the same way again".to_owned()),
            false => job.restart.on_failure(now_ns, random),
        };
        let said = match decision {
            RestartDecision::RestartAt(at_ns) => {
                job.then = Then::RestartAt(at_ns);
                reason
            }
            RestartDecision::GiveUp(why) => {
                job.then = Then::End(JobState::Failed);
                format!("{reason}; not restarted: {why}")
            }
        };
        job.remark = Some(said.clone());
        self.pause_checkpoints(id, &said, now_ns);
        self.stop_tasks(id, JobState::Failing, Some(said), now_ns);
    }

    /// Tells every live task to stop; what follows when they have is in `Job::then`.
    pub(super) fn stop_tasks(&mut self, id: JobId, state: JobState, reason: Option<String>, now_ns: u64) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        let attempt = job.attempt;
        let live = job.tasks.iter_mut().filter(|task| task.state.needs_cancelling());
        let stopping: Vec<_> = live.map(|task| (task.state = TaskState::Canceling, task.address).1).collect();
        for task in stopping {
            self.tell(id, ToTaskManager::CancelTask { task, attempt });
        }
        self.await_tasks(id, state, reason, now_ns);
    }

    /// Waits for all tasks to end, for the grace period without a word.
    pub(super) fn await_tasks(&mut self, id: JobId, state: JobState, reason: Option<String>, now_ns: u64) {
        let until_ns = now_ns.saturating_add(self.settings.cancel_grace_ns);
        self.set_state(id, state, Some(until_ns), reason);
        self.follow_tasks(id, now_ns);
    }

    pub(super) fn restart(&mut self, id: JobId, now_ns: u64) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        if job.coordinator.is_committing() {
            return; // The store answers, and `follow_commit` comes back here.
        }
        if job.placement.is_some() {
            job.attempt = Attempt(job.attempt.0 + 1);
            return self.deploy(id);
        }
        job.waiting_since_ns = now_ns;
        self.set_state(id, JobState::Created, None, None);
    }

    /// A job is over: its slots and memory are free.
    pub(super) fn end(&mut self, id: JobId, state: JobState, reason: Option<String>) {
        self.tell(id, ToTaskManager::ReleaseSlots { job: id });
        if let Some(job) = self.jobs.get_mut(&id) {
            job.placement = None;
        }
        self.set_state(id, state, None, reason);
    }

    pub(super) fn lose_silent_task_managers(&mut self, now_ns: u64) {
        let timeout_ns = self.settings.heartbeat_timeout_ns;
        let is_silent = |since_ns: u64| now_ns.saturating_sub(since_ns) > timeout_ns;
        let silent = self.task_managers.iter().filter(|(_, book)| is_silent(book.last_heard_ns));
        let lost: Vec<_> = silent.map(|(id, _)| *id).collect();
        for id in lost {
            self.lose_task_manager(id, format!("no heartbeat for more than {} ms", timeout_ns / 1_000_000), now_ns);
        }
    }

    pub(super) fn lose_task_manager(&mut self, lost: TaskManagerId, reason: String, now_ns: u64) {
        if self.task_managers.remove(&lost).is_none() {
            return;
        }
        let is_there = |id: &JobId| self.jobs[id].placement.as_ref().is_some_and(|at| at.task_manager == lost);
        let hit: Vec<_> = self.ids().into_iter().filter(is_there).collect();
        for id in hit {
            let Some(job) = self.jobs.get_mut(&id) else { continue };
            job.placement = None;
            job.tasks.iter_mut().filter(|task| !task.state.has_ended()).for_each(|task| task.state = TaskState::Failed);
            self.abandon_commits(id, &reason, now_ns);
            match self.jobs[&id].state {
                JobState::Initializing => {
                    self.set_state(id, JobState::Created, None, Some(format!("{lost} is lost: {reason}")))
                }
                _ => self.fail(id, format!("{lost} is lost: {reason}"), now_ns),
            }
        }
        self.events.push(JobEvent::TaskManagerLost { task_manager: lost, reason });
    }

    /// Brings the job on when its tasks are all up, all drained, or all over.
    fn follow_tasks(&mut self, id: JobId, now_ns: u64) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        let over = job.all_tasks(TaskState::has_ended);
        match job.state {
            JobState::Running if over => self.end(id, JobState::Finished, None),
            JobState::Running => return self.follow_running_tasks(id, now_ns),
            JobState::Failing | JobState::Cancelling if over => match job.then {
                Then::RestartAt(at_ns) => {
                    let reason = job.remark.clone();
                    self.set_state(id, JobState::Restarting, Some(at_ns), reason);
                }
                Then::End(state) => {
                    let reason = job.remark.clone().filter(|_| state != JobState::Canceled);
                    self.end(id, state, reason);
                }
            },
            _ => return,
        }
        self.place_waiting(now_ns);
    }
}
