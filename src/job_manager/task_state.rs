//! The states of a task, as the control plane sees them.
//!
//! ```text
//! Created -> Scheduled -> Deploying -> Initializing -> Running -> Draining -> Finished
//!     any state that has not ended: -> Failed, or -> Canceling -> Canceled | Failed | Finished
//! ```
//! Semantics: Flink ExecutionState. Unlike Flink, where a task waits for its last checkpoint within RUNNING, that wait has a name:
//! Draining. A status that does not lead forward is stale and ignored.

/// Where a task is in its life, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TaskState {
    /// Known, and nothing more.
    Created,
    /// Waits for a slot.
    Scheduled,
    /// Sent to its slot.
    Deploying,
    /// Restores its state.
    Initializing,
    /// Processes records.
    Running,
    /// All its inputs ended and everything is emitted; waits for the final checkpoint, with which its sinks publish.
    Draining,
    /// Ended: nothing is left to do.
    Finished,
    /// Was told to stop; takes at most the grace period.
    Canceling,
    /// Ended: stopped by request.
    Canceled,
    /// Ended: an operator failed or panicked, or its slot was lost.
    Failed,
}

impl TaskState {
    /// Whether the task is over.
    pub fn has_ended(self) -> bool {
        matches!(self, Self::Finished | Self::Canceled | Self::Failed)
    }

    /// Whether it must be told to stop, when its job is to end.
    pub fn needs_cancelling(self) -> bool {
        !self.has_ended() && self != Self::Canceling
    }

    /// Whether it has restored and may receive barriers, or needs none any more.
    pub fn is_up(self) -> bool {
        matches!(self, Self::Running | Self::Draining | Self::Finished)
    }

    /// Whether all its inputs have ended and everything is emitted.
    pub fn has_drained(self) -> bool {
        matches!(self, Self::Draining | Self::Finished)
    }

    /// Whether `next` leads forward from here.
    pub fn may_become(self, next: Self) -> bool {
        match next {
            _ if self.has_ended() => false,
            Self::Failed | Self::Canceled | Self::Finished => true,
            Self::Canceling => self != Self::Canceling,
            _ => next > self,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::TaskState::*;

    #[test]
    fn a_task_goes_forward_only() {
        assert!(Deploying.may_become(Running), "steps may be skipped: statuses overtake each other");
        assert!(!Running.may_become(Initializing));
        assert!(!Running.may_become(Running));
    }

    #[test]
    fn an_ended_task_becomes_nothing_else() {
        for ended in [Finished, Canceled, Failed] {
            assert!(!ended.may_become(Failed) && !ended.may_become(Canceling) && !ended.may_become(Running));
        }
    }

    #[test]
    fn a_canceling_task_may_only_end_and_may_have_finished_before_it_was_told() {
        assert!(Canceling.may_become(Canceled) && Canceling.may_become(Failed) && Canceling.may_become(Finished));
        assert!(!Canceling.may_become(Running) && !Canceling.may_become(Canceling));
    }
}
