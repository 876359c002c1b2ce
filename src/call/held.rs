//! Replies that are not shown before the checkpoint that holds their calls is durable: many calls share one commit.
//!
//! Invariant: a held reply is shown exactly if a checkpoint behind its call was committed, whatever fails in between. Those of a task
//! that failed wait for the next attempt, which knows from which checkpoint it starts.

use super::error::{CallError, Effect};
use super::reply_slot::Ticket;
use crate::checkpoint::CheckpointId;
use std::collections::VecDeque;

/// How many replies one subtask holds at most; then no call is taken until a checkpoint has been committed.
pub(super) const HELD_MAX: usize = 65_536;

/// Replies in the order of their calls.
pub(super) struct Held<R> {
    replies: VecDeque<HeldReply<R>>,
    /// How many of the first replies each barrier covers, the oldest barrier first.
    sealed: VecDeque<(CheckpointId, usize)>,
    /// How many of the last ones are behind all barriers.
    open_count: usize,
    committed: CheckpointId,
}

struct HeldReply<R> {
    /// With the reply laid down.
    ticket: Ticket<R>,
    origin_ns: u64,
}

impl<R> Default for Held<R> {
    fn default() -> Self {
        Self { replies: VecDeque::new(), sealed: VecDeque::new(), open_count: 0, committed: CheckpointId::default() }
    }
}

impl<R> Held<R> {
    /// Holds a reply that was laid down.
    pub(super) fn hold(&mut self, ticket: Ticket<R>, origin_ns: u64) {
        self.replies.push_back(HeldReply { ticket, origin_ns });
        self.open_count += 1;
    }

    pub(super) fn is_empty(&self) -> bool {
        self.replies.is_empty()
    }

    pub(super) fn is_full(&self) -> bool {
        self.replies.len() >= HELD_MAX
    }

    /// The barrier of checkpoint `id` passes: it covers everything so far.
    pub(super) fn seal(&mut self, id: CheckpointId) {
        let count = std::mem::take(&mut self.open_count);
        if count > 0 {
            self.sealed.push_back((id, count));
        }
    }

    /// Checkpoint `id` is durable, and with it everything before its barrier.
    pub(super) fn commit(&mut self, id: CheckpointId) {
        self.committed = self.committed.max(id);
    }

    /// Whether replies can be shown.
    pub(super) fn has_committed(&self) -> bool {
        self.sealed.front().is_some_and(|(id, _)| *id <= self.committed)
    }

    /// Shows at most `count_max` committed replies, and tells when each call began.
    pub(super) fn show(&mut self, count_max: usize, mut shown: impl FnMut(u64)) -> bool {
        let mut left = count_max;
        while left > 0 && self.has_committed() {
            let Some((_, count)) = self.sealed.front_mut() else { break };
            let now = left.min(*count);
            *count -= now;
            left -= now;
            if *count == 0 {
                self.sealed.pop_front();
            }
            for HeldReply { ticket, origin_ns } in self.replies.drain(..now) {
                ticket.show();
                shown(origin_ns);
            }
        }
        left < count_max
    }

    /// What an attempt left behind, taken over by one that starts from checkpoint `from`: what that holds is committed, all else was
    /// undone.
    pub(super) fn settle(&mut self, from: CheckpointId) {
        self.commit(from);
        let kept: usize = self.sealed.iter().take_while(|(id, _)| *id <= from).map(|(_, count)| count).sum();
        self.sealed.retain(|(id, _)| *id <= from);
        self.open_count = 0;
        for undone in self.replies.drain(kept..) {
            undone.ticket.answer(Err(CallError::JobFailed));
        }
    }

    /// There will be no other attempt: whether the last checkpoint was committed is not known here.
    pub(super) fn give_up(&mut self) {
        for reply in self.replies.drain(..) {
            reply.ticket.answer(Err(CallError::JobEnded { effect: Effect::Possible }));
        }
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::super::reply_slot::ReplySlot;
    use super::*;
    use std::sync::Arc;

    type Slots = Vec<Arc<ReplySlot<usize>>>;

    fn hold(held: &mut Held<usize>, slots: &mut Slots, count: usize) {
        for _ in 0..count {
            let slot = Arc::new(ReplySlot::new());
            let ticket = slot.issue();
            assert!(ticket.take());
            ticket.lay_down(Ok(slots.len()));
            held.hold(ticket, slots.len() as u64);
            slots.push(slot);
        }
    }

    fn results(slots: &Slots) -> Vec<Option<Result<usize, CallError>>> {
        slots.iter().map(|slot| slot.take_result()).collect()
    }

    #[test]
    fn a_reply_is_shown_once_a_checkpoint_behind_it_is_committed_and_not_before() {
        let (mut held, mut slots) = (Held::default(), Slots::new());
        hold(&mut held, &mut slots, 2);
        held.seal(CheckpointId(1));
        hold(&mut held, &mut slots, 1);
        assert!(!held.show(10, |_| ()));
        held.commit(CheckpointId(1));
        let mut shown = Vec::new();
        assert!(held.show(10, |origin_ns| shown.push(origin_ns)));
        assert_eq!((shown, results(&slots)), (vec![0, 1], vec![Some(Ok(0)), Some(Ok(1)), None]));
    }

    #[test]
    fn replies_are_shown_a_few_at_a_time() {
        let (mut held, mut slots) = (Held::default(), Slots::new());
        hold(&mut held, &mut slots, 5);
        held.seal(CheckpointId(1));
        held.commit(CheckpointId(1));
        held.show(3, |_| ());
        assert_eq!(results(&slots).into_iter().flatten().count(), 3);
        assert!(held.has_committed());
        held.show(3, |_| ());
        assert_eq!(results(&slots).into_iter().flatten().count(), 2);
        assert!(!held.has_committed());
    }

    #[test]
    fn a_checkpoint_that_failed_leaves_its_replies_to_the_next_one() {
        let (mut held, mut slots) = (Held::default(), Slots::new());
        hold(&mut held, &mut slots, 1);
        held.seal(CheckpointId(1));
        hold(&mut held, &mut slots, 1);
        held.seal(CheckpointId(2));
        held.commit(CheckpointId(2));
        held.show(10, |_| ());
        assert_eq!(results(&slots), [Some(Ok(0)), Some(Ok(1))]);
    }

    #[test]
    fn after_a_restart_what_the_checkpoint_holds_is_shown_and_the_rest_was_undone() {
        let (mut held, mut slots) = (Held::default(), Slots::new());
        hold(&mut held, &mut slots, 1);
        held.seal(CheckpointId(4));
        hold(&mut held, &mut slots, 1);
        held.seal(CheckpointId(5));
        hold(&mut held, &mut slots, 1);
        held.settle(CheckpointId(4));
        held.show(10, |_| ());
        let failed = || Some(Err(CallError::JobFailed));
        assert_eq!(results(&slots), [Some(Ok(0)), failed(), failed()]);
    }

    #[test]
    fn replies_of_a_job_that_ended_say_that_their_calls_may_have_taken_effect() {
        let (mut held, mut slots) = (Held::default(), Slots::new());
        hold(&mut held, &mut slots, 1);
        held.give_up();
        assert_eq!(results(&slots), [Some(Err(CallError::JobEnded { effect: Effect::Possible }))]);
    }
}
