//! One job as the JobManager keeps it: its tasks, where they run, what comes after the present state.

use super::{
    Attempt, JobId, JobState, JobSubmission, RestartStrategy, SlotIndex, TaskAddress, TaskManagerId, TaskState,
};
use crate::checkpoint::CheckpointCoordinator;
use crate::checkpoint::coordinator::Participant;

#[derive(Debug)]
pub(super) struct Job {
    pub id: JobId,
    pub submission: JobSubmission,
    pub state: JobState,
    pub attempt: Attempt,
    /// Whose slots and memory it holds; its slots are empty until they are offered.
    pub placement: Option<Placement>,
    pub tasks: Vec<TaskView>,
    pub coordinator: CheckpointCoordinator,
    pub restart: RestartStrategy,
    pub ending: Ending,
    /// What follows when all tasks have ended.
    pub then: Then,
    /// Since when it has been waiting in the queue.
    pub waiting_since_ns: u64,
    /// When the present state must be looked at again: Created: try again; Initializing: the request is lost; Restarting:
    /// restart; Failing, Cancelling: overdue; Running: ask for the final checkpoint again.
    pub until_ns: Option<u64>,
    /// Why it was refused or failed last.
    pub remark: Option<String>,
}

#[derive(Debug)]
pub(super) struct Placement {
    pub task_manager: TaskManagerId,
    pub slots: Vec<SlotIndex>,
}

/// Whether the job is on its way to its last checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// It goes on.
    No,
    /// All its inputs have ended.
    Drained,
    /// Somebody asked for stop-with-checkpoint; with `drain` as if all inputs had ended.
    Stop { drain: bool },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Then {
    RestartAt(u64),
    End(JobState),
}

/// One task of a job, as the JobManager last heard of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskView {
    /// Which task.
    pub address: TaskAddress,
    /// Its slot, once it is deployed.
    pub slot: Option<SlotIndex>,
    /// Its state.
    pub state: TaskState,
}

impl Job {
    /// `count[2]`: how a task is called in messages to people.
    pub fn task_name(&self, task: TaskAddress) -> String {
        let vertex = self.submission.vertices.get(task.vertex as usize).map_or("?", |vertex| &vertex.name);
        format!("{vertex}[{}]", task.subtask)
    }

    pub fn set_task_state(&mut self, task: TaskAddress, state: TaskState) -> bool {
        let known = self.tasks.iter_mut().find(|known| known.address == task);
        let Some(task) = known.filter(|known| known.state.may_become(state)) else { return false };
        task.state = state;
        true
    }

    /// All its tasks, none of them deployed.
    pub fn fresh_tasks(&self) -> Vec<TaskView> {
        let vertices = self.submission.vertices.iter().enumerate();
        let addresses = vertices.flat_map(|(vertex, asked)| {
            (0..asked.parallelism).map(move |subtask| TaskAddress { job: self.id, vertex: vertex as u32, subtask })
        });
        addresses.map(|address| TaskView { address, slot: None, state: TaskState::Created }).collect()
    }

    /// The tasks that take part in checkpoints, those already finished included.
    pub fn participants(&self) -> Vec<Participant> {
        let name = |task: &TaskView| self.submission.vertices[task.address.vertex as usize].name.clone();
        self.tasks.iter().map(|task| Participant::new(name(task), task.address.subtask)).collect()
    }

    pub fn all_tasks(&self, is: impl Fn(TaskState) -> bool) -> bool {
        self.tasks.iter().all(|task| is(task.state))
    }
}
