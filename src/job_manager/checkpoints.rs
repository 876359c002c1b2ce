//! The checkpoints of running jobs: carries messages to each job's coordinator, and its decisions out.

use super::job::{Ending, Then};
use super::messages::{CheckpointOrder, ToTaskManager};
use super::{JobEvent, JobId, JobManager, JobState, TaskAddress, TaskState};
use crate::checkpoint::coordinator::AbortReason;
use crate::checkpoint::{CheckpointAction, CheckpointCoordinator, CheckpointId, CheckpointKind};

impl JobManager {
    /// Asks for a checkpoint now; the interval goes on from it. Nothing happens unless the job is running.
    pub fn request_checkpoint(&mut self, id: JobId, now_ns: u64) {
        self.with_coordinator(id, now_ns, |coordinator, _| coordinator.request(CheckpointKind::Manual));
        self.step_checkpoints(id, now_ns);
    }

    pub(super) fn step_checkpoints(&mut self, id: JobId, now_ns: u64) {
        self.with_coordinator(id, now_ns, |coordinator, out| coordinator.step(now_ns, out));
    }

    pub(super) fn pause_checkpoints(&mut self, id: JobId, reason: &str, now_ns: u64) {
        self.with_coordinator(id, now_ns, |coordinator, out| coordinator.pause(reason, now_ns, out));
    }

    /// The store is gone with its TaskManager and will not answer. What it made durable is found when the state directory is opened.
    pub(super) fn abandon_commits(&mut self, id: JobId, reason: &str, now_ns: u64) {
        self.pause_checkpoints(id, reason, now_ns);
        self.with_coordinator(id, now_ns, |coordinator, out| coordinator.abandon_commits(reason, now_ns, out));
    }

    pub(super) fn on_acknowledged(&mut self, task: TaskAddress, id: CheckpointId, now_ns: u64) {
        let Some(vertex) = self.vertex_name(task) else { return };
        let subtask = task.subtask;
        self.with_coordinator(task.job, now_ns, |coordinator, out| {
            coordinator.on_acknowledged(id, &vertex, subtask, out)
        });
    }

    pub(super) fn on_declined(&mut self, task: TaskAddress, id: CheckpointId, reason: &str, now_ns: u64) {
        let Some(vertex) = self.vertex_name(task) else { return };
        self.with_coordinator(task.job, now_ns, |coordinator, out| {
            coordinator.on_declined(id, &vertex, task.subtask, reason, now_ns, out);
        });
    }

    pub(super) fn on_task_finished(&mut self, task: TaskAddress, now_ns: u64) {
        let Some(vertex) = self.vertex_name(task) else { return };
        let subtask = task.subtask;
        self.with_coordinator(task.job, now_ns, |coordinator, out| coordinator.on_task_finished(&vertex, subtask, out));
    }

    pub(super) fn on_committed(&mut self, job: JobId, id: CheckpointId, size_bytes: u64, now_ns: u64) {
        self.with_coordinator(job, now_ns, |coordinator, out| coordinator.on_committed(id, size_bytes, now_ns, out));
        self.follow_commit(job, now_ns);
    }

    pub(super) fn on_store_failed(&mut self, job: JobId, id: CheckpointId, reason: &str, now_ns: u64) {
        self.with_coordinator(job, now_ns, |coordinator, out| coordinator.on_store_failed(id, reason, now_ns, out));
        self.follow_commit(job, now_ns);
    }

    pub(super) fn request_final_again(&mut self, id: JobId) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        job.until_ns = None;
        job.coordinator.request(CheckpointKind::Final);
    }

    /// Checkpoints begin when all tasks are up; the final one when all of them have drained.
    pub(super) fn follow_running_tasks(&mut self, id: JobId, now_ns: u64) {
        let random = self.next_random();
        let Some(job) = self.jobs.get_mut(&id).filter(|job| job.all_tasks(TaskState::is_up)) else { return };
        if !job.coordinator.is_resumed() {
            let participants = job.participants();
            job.coordinator.resume(participants, random, now_ns);
            if matches!(job.ending, Ending::Stop { .. }) {
                job.coordinator.request(CheckpointKind::Final);
            }
        }
        if job.all_tasks(TaskState::has_drained) && job.ending == Ending::No {
            job.ending = Ending::Drained;
            job.coordinator.request(CheckpointKind::Final);
        }
        self.step_checkpoints(id, now_ns);
    }

    /// A restart that was due waits for the store's answer.
    fn follow_commit(&mut self, id: JobId, now_ns: u64) {
        let is_due = |until_ns: Option<u64>| until_ns.is_some_and(|until_ns| until_ns <= now_ns);
        if self.jobs.get(&id).is_some_and(|job| job.state == JobState::Restarting && is_due(job.until_ns)) {
            self.restart(id, now_ns);
        }
    }

    fn with_coordinator(
        &mut self,
        id: JobId,
        now_ns: u64,
        call: impl FnOnce(&mut CheckpointCoordinator, &mut Vec<CheckpointAction>),
    ) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        let mut actions = Vec::new();
        call(&mut job.coordinator, &mut actions);
        for action in actions {
            self.carry_out(id, action, now_ns);
        }
    }

    fn carry_out(&mut self, job: JobId, action: CheckpointAction, now_ns: u64) {
        let (id, order) = match &action {
            CheckpointAction::Trigger { id, kind } => {
                let ending = self.jobs.get(&job).map(|job| job.ending);
                let drain = *kind == CheckpointKind::Final && ending == Some(Ending::Stop { drain: true });
                (*id, CheckpointOrder::Trigger { kind: *kind, drain })
            }
            CheckpointAction::Commit { id } => (*id, CheckpointOrder::Commit),
            CheckpointAction::NotifyComplete { id, kind } => (*id, CheckpointOrder::NotifyComplete(*kind)),
            CheckpointAction::Abort { id, .. } => (*id, CheckpointOrder::Abort),
            CheckpointAction::FailJob { reason } => return self.fail(job, reason.clone(), now_ns),
        };
        self.tell(job, ToTaskManager::Checkpoint { job, id, order });
        match action {
            CheckpointAction::NotifyComplete { kind: CheckpointKind::Final, .. } => self.on_final_complete(job, now_ns),
            CheckpointAction::Abort { kind: CheckpointKind::Final, reason, .. } => {
                self.on_final_failed(job, reason, now_ns)
            }
            _ => {}
        }
    }

    /// The last checkpoint is durable: tasks finish by themselves, behind the last commits of their sinks. Only a cancel ends them before.
    fn on_final_complete(&mut self, id: JobId, now_ns: u64) {
        let Some(job) = self.jobs.get_mut(&id).filter(|job| matches!(job.ending, Ending::Stop { .. })) else { return };
        if job.then != Then::End(JobState::Canceled) {
            (job.then, job.remark) = (Then::End(JobState::Suspended), None);
        }
        match job.state {
            JobState::Running => self.await_tasks(id, JobState::Cancelling, None, now_ns),
            JobState::Restarting => self.end(id, JobState::Suspended, None),
            _ => {}
        }
    }

    fn on_final_failed(&mut self, id: JobId, reason: AbortReason, now_ns: u64) {
        let retry_ns = now_ns.saturating_add(self.settings.final_retry_ns);
        let Some(job) = self.jobs.get_mut(&id).filter(|job| job.state == JobState::Running) else { return };
        match (job.ending, &reason) {
            // It is asked for again when the job runs again.
            (_, AbortReason::NotAllRunning(_)) | (Ending::No, _) => {}
            (Ending::Drained, _) => job.until_ns = Some(retry_ns),
            (Ending::Stop { drain }, _) => {
                let has_drained = !drain && job.all_tasks(TaskState::has_drained);
                if has_drained {
                    // Its inputs ended meanwhile: nothing else would ask for its last checkpoint.
                    (job.ending, job.until_ns) = (Ending::Drained, Some(retry_ns));
                } else {
                    job.ending = Ending::No;
                }
                let reason = reason.to_string();
                self.events.push(JobEvent::StopFailed { job: id, reason: reason.clone() });
                if drain {
                    // Timers have fired that would not have fired yet: only the last checkpoint brings that back (as in Flink).
                    self.fail(id, format!("it was drained and its last checkpoint failed: {reason}"), now_ns);
                }
            }
        }
    }

    fn vertex_name(&self, task: TaskAddress) -> Option<String> {
        let job = self.jobs.get(&task.job)?;
        job.submission.vertices.get(task.vertex as usize).map(|vertex| vertex.name.clone())
    }
}
