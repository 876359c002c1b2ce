//! What a job asks for, and why it may be refused at once.

/// A job as the JobManager must know it. The program itself stays with the TaskManager.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobSubmission {
    /// Its name, unique among the jobs that have not ended: state is found by it.
    pub name: String,
    /// Its operator chains, sources first.
    pub vertices: Vec<VertexSubmission>,
    /// How much memory it needs as a whole.
    pub memory_bytes: u64,
    /// The more urgent, the larger. Each step is worth one aging period of waiting.
    pub priority: u8,
    /// What an hour of its delay costs, relative to other jobs; at least 1.
    pub weight: u32,
    /// How long it will run. `None` for a job without end, which counts as a day: short jobs go first.
    pub expected_run_ms: Option<u64>,
    /// When its checkpoints come.
    pub checkpoints: crate::checkpoint::CheckpointSettings,
    /// What happens when it fails.
    pub restart: super::RestartPolicy,
    /// The newest checkpoint id its state directory has seen (0: none), and the one to restore from.
    pub last_checkpoint: crate::checkpoint::CheckpointId,
    /// The checkpoint to start from; `None`: from nothing.
    pub restore: Option<crate::checkpoint::CheckpointId>,
}

/// One operator chain of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VertexSubmission {
    /// Its name, as in `SubtaskSnapshot::vertex`.
    pub name: String,
    /// How many copies run, each in a slot of its own.
    pub parallelism: u32,
}

/// Why a job is refused. None of these would get better by waiting, except the queue's limit.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubmissionError {
    /// Nothing to run.
    #[error("job \"{name}\" has no tasks: every vertex needs a parallelism of at least 1")]
    NoTasks {
        /// The job.
        name: String,
    },
    /// No TaskManager has so many slots.
    #[error(
        "job \"{name}\" asks for parallelism {asked}, the largest TaskManager has {slot_count_max} slots: lower the parallelism or start more slots"
    )]
    TooParallel {
        /// The job.
        name: String,
        /// What it asks for.
        asked: u32,
        /// What there is.
        slot_count_max: u32,
    },
    /// No TaskManager has so much memory, even when empty.
    #[error(
        "job \"{name}\" asks for {asked_bytes} bytes of memory, the largest TaskManager has {memory_bytes_max}: lower its budget or raise --memory"
    )]
    TooLarge {
        /// The job.
        name: String,
        /// What it asks for.
        asked_bytes: u64,
        /// What there is.
        memory_bytes_max: u64,
    },
    /// Two jobs of one name would write the same state.
    #[error("a job named \"{name}\" is already {state:?}: cancel it first, or choose another name")]
    NameTaken {
        /// The name.
        name: String,
        /// What the other one is doing.
        state: super::JobState,
    },
    /// Too many wait already.
    #[error("job \"{name}\" cannot be queued: {waiting} jobs wait already, {waiting_max} may: submit it later")]
    QueueFull {
        /// The job.
        name: String,
        /// How many wait.
        waiting: usize,
        /// How many may.
        waiting_max: usize,
    },
    /// Impossible checkpoint settings.
    #[error("job \"{name}\": {reason}")]
    Checkpoints {
        /// The job.
        name: String,
        /// What is wrong.
        reason: crate::checkpoint::coordinator::CheckpointSettingsError,
    },
}

impl JobSubmission {
    /// How many different slots it needs: that of its widest vertex. A slot holds one subtask of each vertex (Flink slot sharing).
    pub fn parallelism(&self) -> u32 {
        self.vertices.iter().map(|vertex| vertex.parallelism).max().unwrap_or(0)
    }

    pub(super) fn urgency(&self) -> super::Urgency {
        super::Urgency { priority: self.priority, weight: self.weight, expected_run_ms: self.expected_run_ms }
    }
}
