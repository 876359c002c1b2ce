//! Aligns the barriers of one checkpoint across the inputs of one task.
//!
//! Here: which inputs are blocked, when the barrier may pass, how a newer checkpoint overtakes an older one.
//! Not here: taking the snapshot (`state`), moving buffers (`exchange`), starting a checkpoint (`coordinator`).
//!
//! Invariant: after barrier n from an input, no record of that input is delivered until every live input delivered n.
//! An ended input counts as having delivered every later barrier; at-least-once mode keeps the count and blocks nobody.
//! Semantics: Carbone et al. 2015, Lightweight Asynchronous Snapshots; Flink SingleCheckpointBarrierHandler.

use super::CheckpointId;

/// The alignment of one task with `n` input channels. One checkpoint at a time: a newer one overtakes.
#[derive(Clone, Debug)]
pub struct BarrierAligner {
    mode: Guarantee,
    inputs: Vec<Input>,
    /// The newest checkpoint seen, pending or done or given up; nothing older is listened to.
    newest: CheckpointId,
    pending_since_ns: Option<u64>,
}

/// What a checkpoint promises to state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Guarantee {
    /// Every record counts once: inputs are blocked between their barrier and the last one.
    #[default]
    ExactlyOnce,
    /// A record between the first and the last barrier may count twice after a restore; nothing is ever blocked.
    AtLeastOnce,
}

/// What an event means for the task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct Alignment {
    /// This checkpoint, and every older one, will never be complete here: decline it, tell the outputs, open its inputs.
    pub given_up: Option<CheckpointId>,
    /// What to do now, after giving up.
    pub action: BarrierAction,
}

/// What to do after a barrier, a cancel marker or the end of an input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BarrierAction {
    /// Nothing: the event was stale, or blocks nobody.
    Ignore,
    /// Deliver no further record of this channel before the snapshot.
    Block(usize),
    /// All inputs are at the barrier: take the snapshot, send the barrier on, then read from every input again.
    Snapshot {
        /// The checkpoint.
        id: CheckpointId,
        /// From the first barrier to the last, in nanoseconds.
        alignment_ns: u64,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Input {
    /// Its records are delivered.
    Open,
    /// It delivered the barrier of the pending checkpoint.
    AtBarrier,
    /// It delivers nothing more.
    Ended,
}

impl BarrierAligner {
    /// An aligner over `input_count` channels that starts from the checkpoint `restored` (0: from nothing).
    pub fn new(mode: Guarantee, input_count: usize, restored: CheckpointId) -> Self {
        Self { mode, inputs: vec![Input::Open; input_count], newest: restored, pending_since_ns: None }
    }

    /// Barrier `id` arrived on `channel`. One not newer than the newest done or given up is ignored.
    pub fn on_barrier(&mut self, channel: usize, id: CheckpointId, now_ns: u64) -> Alignment {
        let mut given_up = None;
        if id > self.newest {
            given_up = self.pending();
            self.open_inputs();
            self.newest = id;
            self.pending_since_ns = Some(now_ns);
        }
        if self.pending() != Some(id) || self.inputs[channel] != Input::Open {
            return Alignment { given_up, action: BarrierAction::Ignore };
        }
        self.inputs[channel] = Input::AtBarrier;
        let action = match (self.complete(now_ns), self.mode) {
            (BarrierAction::Ignore, Guarantee::ExactlyOnce) => BarrierAction::Block(channel),
            (action, _) => action,
        };
        Alignment { given_up, action }
    }

    /// A cancel marker: a task upstream, or the coordinator, gave `id` up. Its barrier, should it still come, is ignored.
    pub fn on_cancel(&mut self, id: CheckpointId) -> Alignment {
        let concerns_us = id > self.newest || self.pending() == Some(id);
        if concerns_us {
            self.newest = id;
            self.pending_since_ns = None;
            self.open_inputs();
        }
        Alignment { given_up: concerns_us.then_some(id), action: BarrierAction::Ignore }
    }

    /// `channel` ended: nobody waits for its barriers any more.
    pub fn on_end(&mut self, channel: usize, now_ns: u64) -> Alignment {
        self.inputs[channel] = Input::Ended;
        Alignment { given_up: None, action: self.complete(now_ns) }
    }

    /// Whether records of `channel` must wait.
    #[inline]
    pub fn is_blocked(&self, channel: usize) -> bool {
        self.inputs[channel] == Input::AtBarrier && self.mode == Guarantee::ExactlyOnce
    }

    /// The checkpoint being aligned.
    pub fn pending(&self) -> Option<CheckpointId> {
        self.pending_since_ns.map(|_| self.newest)
    }

    /// When the first barrier of the pending checkpoint came, in nanoseconds.
    pub fn pending_since_ns(&self) -> Option<u64> {
        self.pending_since_ns
    }

    /// `Snapshot` if the pending checkpoint waits for no input any more, else `Ignore`.
    fn complete(&mut self, now_ns: u64) -> BarrierAction {
        let Some(since_ns) = self.pending_since_ns.filter(|_| !self.inputs.contains(&Input::Open)) else {
            return BarrierAction::Ignore;
        };
        self.pending_since_ns = None;
        self.open_inputs();
        BarrierAction::Snapshot { id: self.newest, alignment_ns: now_ns.saturating_sub(since_ns) }
    }

    fn open_inputs(&mut self) {
        for input in &mut self.inputs {
            if *input == Input::AtBarrier {
                *input = Input::Open;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn aligner(input_count: usize) -> BarrierAligner {
        BarrierAligner::new(Guarantee::ExactlyOnce, input_count, CheckpointId(0))
    }

    fn action(action: BarrierAction) -> Alignment {
        Alignment { given_up: None, action }
    }

    fn snapshot(id: u64, alignment_ns: u64) -> BarrierAction {
        BarrierAction::Snapshot { id: CheckpointId(id), alignment_ns }
    }

    fn given_up(id: u64, action: BarrierAction) -> Alignment {
        Alignment { given_up: Some(CheckpointId(id)), action }
    }

    #[test]
    fn a_barrier_waits_until_every_input_has_delivered_it() {
        let mut aligner = aligner(3);
        assert_eq!(aligner.on_barrier(0, CheckpointId(1), 100), action(BarrierAction::Block(0)));
        assert_eq!(aligner.on_barrier(2, CheckpointId(1), 150), action(BarrierAction::Block(2)));
        assert!(aligner.is_blocked(0) && !aligner.is_blocked(1) && aligner.is_blocked(2));
        assert_eq!(aligner.pending(), Some(CheckpointId(1)));
        assert_eq!(aligner.pending_since_ns(), Some(100));
        assert_eq!(aligner.on_barrier(1, CheckpointId(1), 400), action(snapshot(1, 300)));
        assert!((0..3).all(|channel| !aligner.is_blocked(channel)));
        assert_eq!(aligner.pending(), None);
    }

    #[test]
    fn a_single_input_never_blocks() {
        assert_eq!(aligner(1).on_barrier(0, CheckpointId(1), 5), action(snapshot(1, 0)));
    }

    #[test]
    fn a_newer_barrier_overtakes_and_opens_the_inputs_of_the_older() {
        let mut aligner = aligner(2);
        let _ = aligner.on_barrier(0, CheckpointId(1), 0);
        assert_eq!(aligner.on_barrier(1, CheckpointId(2), 10), given_up(1, BarrierAction::Block(1)));
        assert!(!aligner.is_blocked(0));
        assert_eq!(aligner.on_barrier(0, CheckpointId(2), 30), action(snapshot(2, 20)));
    }

    #[test]
    fn a_barrier_older_than_the_newest_is_ignored() {
        let mut aligner = aligner(2);
        let _ = aligner.on_barrier(0, CheckpointId(2), 0);
        assert_eq!(aligner.on_barrier(1, CheckpointId(1), 0), action(BarrierAction::Ignore));
        assert!(!aligner.is_blocked(1));
    }

    #[test]
    fn barriers_up_to_the_restored_checkpoint_are_ignored() {
        let mut aligner = BarrierAligner::new(Guarantee::ExactlyOnce, 2, CheckpointId(7));
        assert_eq!(aligner.on_barrier(0, CheckpointId(7), 0), action(BarrierAction::Ignore));
        assert_eq!(aligner.on_barrier(0, CheckpointId(8), 0), action(BarrierAction::Block(0)));
    }

    #[test]
    fn a_barrier_repeated_by_one_input_does_not_count_twice() {
        let mut aligner = aligner(2);
        let _ = aligner.on_barrier(0, CheckpointId(1), 0);
        assert_eq!(aligner.on_barrier(0, CheckpointId(1), 0), action(BarrierAction::Ignore));
        assert_eq!(aligner.pending(), Some(CheckpointId(1)));
    }

    #[test]
    fn an_ended_input_counts_as_having_delivered_every_later_barrier() {
        let mut aligner = aligner(2);
        assert_eq!(aligner.on_end(1, 0), action(BarrierAction::Ignore));
        assert_eq!(aligner.on_barrier(0, CheckpointId(1), 0), action(snapshot(1, 0)));
        assert_eq!(aligner.on_barrier(0, CheckpointId(2), 0), action(snapshot(2, 0)));
    }

    #[test]
    fn the_end_of_the_last_awaited_input_completes_the_alignment() {
        let mut aligner = aligner(2);
        let _ = aligner.on_barrier(0, CheckpointId(1), 100);
        assert_eq!(aligner.on_end(1, 160), action(snapshot(1, 60)));
    }

    #[test]
    fn a_barrier_may_overtake_and_complete_at_once() {
        let mut aligner = BarrierAligner::new(Guarantee::AtLeastOnce, 3, CheckpointId(0));
        let _ = aligner.on_barrier(0, CheckpointId(1), 0);
        let _ = aligner.on_end(0, 0);
        let _ = aligner.on_end(1, 0);
        assert_eq!(aligner.on_barrier(2, CheckpointId(2), 9), given_up(1, snapshot(2, 0)));
    }

    #[test]
    fn a_cancel_marker_gives_up_the_pending_checkpoint_and_opens_its_inputs() {
        let mut aligner = aligner(2);
        let _ = aligner.on_barrier(0, CheckpointId(1), 0);
        assert_eq!(aligner.on_cancel(CheckpointId(1)), given_up(1, BarrierAction::Ignore));
        assert!(!aligner.is_blocked(0));
        assert_eq!(
            aligner.on_barrier(1, CheckpointId(1), 0),
            action(BarrierAction::Ignore),
            "its barrier came too late"
        );
    }

    #[test]
    fn a_cancel_marker_may_precede_the_first_barrier() {
        let mut aligner = aligner(2);
        assert_eq!(aligner.on_cancel(CheckpointId(3)), given_up(3, BarrierAction::Ignore));
        assert_eq!(aligner.on_barrier(0, CheckpointId(3), 0), action(BarrierAction::Ignore));
        assert_eq!(aligner.on_barrier(0, CheckpointId(4), 0), action(BarrierAction::Block(0)));
    }

    #[test]
    fn a_cancel_marker_of_a_newer_checkpoint_also_gives_up_the_pending_one() {
        let mut aligner = aligner(2);
        let _ = aligner.on_barrier(0, CheckpointId(1), 0);
        assert_eq!(aligner.on_cancel(CheckpointId(2)), given_up(2, BarrierAction::Ignore));
        assert_eq!(aligner.pending(), None);
        assert!(!aligner.is_blocked(0));
    }

    #[test]
    fn a_cancel_marker_of_a_finished_or_older_checkpoint_is_ignored() {
        let mut aligner = aligner(1);
        let _ = aligner.on_barrier(0, CheckpointId(2), 0);
        assert_eq!(aligner.on_cancel(CheckpointId(2)), action(BarrierAction::Ignore));
        assert_eq!(aligner.on_cancel(CheckpointId(1)), action(BarrierAction::Ignore));
    }

    #[test]
    fn at_least_once_waits_for_every_barrier_and_blocks_nobody() {
        let mut aligner = BarrierAligner::new(Guarantee::AtLeastOnce, 2, CheckpointId(0));
        assert_eq!(aligner.on_barrier(0, CheckpointId(1), 0), action(BarrierAction::Ignore));
        assert!(!aligner.is_blocked(0));
        assert_eq!(aligner.on_barrier(1, CheckpointId(1), 50), action(snapshot(1, 50)));
    }
}
