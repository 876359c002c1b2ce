//! One call's way between the caller and the job: who has seen what of it, in one word of bits that are only ever set.
//!
//! ```text
//! caller                                   job
//!   |                                        TAKEN      it works on the call; if ABANDONED was set before, it leaves it alone
//!   WAITING    it sleeps, woken by the reply |
//!   ABANDONED  it will not read the reply    |
//!   |                                        ANSWERED   the result is there
//! ```
//! Each bit is set by one atomic read-modify-write that also tells what the other side had done before: whoever comes second knows
//! it, so the two never wait for each other. An abandoned slot is not used again; the caller takes another.
//!
//! The two mutexes are cells, not locks: the bits say whose the result is, so its lock is never contended; that of the waker is
//! taken only around sleeping. (A cell without a lock would need unsafe code, and would save some ten nanoseconds.)

use super::error::{CallError, Effect};
use crate::sync::atomic::{AtomicU32, Ordering};
use crate::sync::{Mutex, MutexGuard, PoisonError};
use std::sync::Arc;
use std::task::Waker;

const TAKEN: u32 = 1;
const ANSWERED: u32 = 2;
const ABANDONED: u32 = 4;
const WAITING: u32 = 8;

/// Where the reply of one call goes. Shared by its caller and a [`Ticket`].
pub(super) struct ReplySlot<R> {
    bits: AtomicU32,
    result: Mutex<Option<Result<R, CallError>>>,
    waker: Mutex<Option<Waker>>,
}

/// The job's end of a slot. Dropped without an answer, it tells the caller that the job failed or ended.
pub(super) struct Ticket<R> {
    slot: Option<Arc<ReplySlot<R>>>,
}

impl<R> ReplySlot<R> {
    pub(super) fn new() -> Self {
        Self { bits: AtomicU32::new(0), result: Mutex::new(None), waker: Mutex::new(None) }
    }

    /// Begins another call. Only for a slot whose last call is over.
    pub(super) fn issue(self: &Arc<Self>) -> Ticket<R> {
        self.bits.store(0, Ordering::Relaxed);
        Ticket { slot: Some(self.clone()) }
    }

    /// Whether the result can be taken.
    #[inline]
    pub(super) fn is_answered(&self) -> bool {
        self.bits.load(Ordering::Acquire) & ANSWERED != 0
    }

    /// The result, once it is answered and not yet taken.
    #[inline]
    pub(super) fn take_result(&self) -> Option<Result<R, CallError>> {
        if self.is_answered() { lock(&self.result).take() } else { None }
    }

    /// Lets `waker` be woken by the answer; `false` when it is there already.
    pub(super) fn wait_with(&self, waker: &Waker) -> bool {
        {
            let mut place = lock(&self.waker);
            if !place.as_ref().is_some_and(|former| former.will_wake(waker)) {
                *place = Some(waker.clone());
            }
        }
        self.bits.fetch_or(WAITING, Ordering::AcqRel) & ANSWERED == 0
    }

    /// The caller leaves: the effect its call may have, or the result when it came first.
    pub(super) fn abandon(&self) -> Result<Effect, Result<R, CallError>> {
        let before = self.bits.fetch_or(ABANDONED, Ordering::AcqRel);
        if before & ANSWERED != 0
            && let Some(result) = lock(&self.result).take()
        {
            return Err(result);
        }
        Ok(if before & TAKEN != 0 { Effect::Possible } else { Effect::None })
    }
}

impl<R> Ticket<R> {
    /// Takes the call to work on it; `false` when its caller has left, and it must have no effect.
    #[inline]
    pub(super) fn take(&self) -> bool {
        self.slot().bits.fetch_or(TAKEN, Ordering::AcqRel) & ABANDONED == 0
    }

    /// Lays the result down without showing it.
    #[inline]
    pub(super) fn lay_down(&self, result: Result<R, CallError>) {
        *lock(&self.slot().result) = Some(result);
    }

    /// Shows what was laid down.
    #[inline]
    pub(super) fn show(mut self) {
        if let Some(slot) = self.slot.take() {
            show(&slot);
        }
    }

    /// Answers at once.
    #[inline]
    pub(super) fn answer(self, result: Result<R, CallError>) {
        self.lay_down(result);
        self.show();
    }

    /// The call could not be handed over: its slot stays as it was.
    pub(super) fn withdraw(mut self) {
        self.slot = None;
    }

    fn slot(&self) -> &ReplySlot<R> {
        self.slot.as_ref().expect("a ticket has its slot until it is shown, which consumes it")
    }
}

/// Sets ANSWERED. A waker stays where it is: the slot may be in another call by then, whose waker is at worst woken once too often.
#[inline]
fn show<R>(slot: &ReplySlot<R>) {
    let before = slot.bits.fetch_or(ANSWERED, Ordering::AcqRel);
    if before & ABANDONED != 0 {
        drop(lock(&slot.result).take());
    } else if before & WAITING != 0
        && let Some(waker) = &*lock(&slot.waker)
    {
        waker.wake_by_ref();
    }
}

impl<R> Drop for Ticket<R> {
    fn drop(&mut self) {
        let Some(slot) = self.slot.take() else { return };
        // Not taken: it lay in a queue nobody reads any more. Taken: the task ends before its next barrier.
        let was_taken = slot.bits.load(Ordering::Acquire) & TAKEN != 0;
        let error = if was_taken { CallError::JobFailed } else { CallError::JobEnded { effect: Effect::None } };
        *lock(&slot.result) = Some(Err(error));
        show(&slot);
    }
}

fn lock<T>(cell: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every change is one assignment: a panic leaves nothing half done.
    cell.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;
    use std::task::Wake;

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// One side's steps, each of which is one atomic access of the slot, as the code above makes them.
    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Step {
        Take,
        LayDown,
        Show,
        DropTicket,
        Wait,
        Look,
        Abandon,
    }

    /// Every way to mix two sequences of steps. That is every execution there is, without a model checker as a dependency: all steps that
    /// order anything are read-modify-writes of one word, so they have one order, and what lies beside the word is in mutexes.
    fn mixes(a: &[Step], b: &[Step]) -> Vec<Vec<Step>> {
        match (a, b) {
            ([], rest) | (rest, []) => vec![rest.to_vec()],
            ([first_a, rest_a @ ..], [first_b, rest_b @ ..]) => {
                let with = |first: &Step, rest: Vec<Vec<Step>>| {
                    rest.into_iter().map(move |mix| [&[*first][..], &mix].concat()).collect::<Vec<_>>()
                };
                [with(first_a, mixes(rest_a, b)), with(first_b, mixes(a, rest_b))].concat()
            }
        }
    }

    /// What one mix came to.
    struct Outcome {
        slot: Arc<ReplySlot<Arc<()>>>,
        reply: Arc<()>,
        worked_on: bool,
        effect: Option<Effect>,
        seen: Option<Result<Arc<()>, CallError>>,
        slept: bool,
        woken: bool,
    }

    fn run(steps: &[Step]) -> Outcome {
        let (slot, woken, reply) = (Arc::new(ReplySlot::new()), Arc::new(Woken::default()), Arc::new(()));
        let waker = Waker::from(woken.clone());
        let mut ticket = Some(slot.issue());
        let mut outcome = Outcome {
            slot: slot.clone(),
            reply: reply.clone(),
            worked_on: false,
            effect: None,
            seen: None,
            slept: false,
            woken: false,
        };
        for step in steps {
            match step {
                Step::Take => outcome.worked_on = ticket.as_ref().unwrap().take(),
                Step::LayDown if outcome.worked_on => ticket.as_ref().unwrap().lay_down(Ok(reply.clone())),
                Step::Show if outcome.worked_on => ticket.take().unwrap().show(),
                // A job that leaves a call alone drops its ticket.
                Step::LayDown | Step::Show | Step::DropTicket => drop(ticket.take()),
                Step::Wait => outcome.slept = slot.wait_with(&waker),
                Step::Look => outcome.seen = outcome.seen.take().or_else(|| slot.take_result()),
                Step::Abandon => match slot.abandon() {
                    Ok(effect) => outcome.effect = Some(effect),
                    Err(result) => outcome.seen = Some(result),
                },
            }
        }
        outcome.woken = woken.0.load(Ordering::Relaxed) > 0;
        outcome
    }

    const JOB: [Step; 3] = [Step::Take, Step::LayDown, Step::Show];

    #[test]
    fn a_caller_that_sleeps_is_woken_by_the_answer_in_every_order() {
        for mix in mixes(&JOB, &[Step::Look, Step::Wait]) {
            let outcome = run(&mix);
            assert_eq!(outcome.slept && outcome.seen.is_none(), outcome.woken, "{mix:?}");
            assert!(outcome.seen.is_some() || outcome.slot.take_result().is_some(), "{mix:?}");
        }
    }

    #[test]
    fn an_abandoned_call_says_whether_it_was_worked_on_in_every_order() {
        for mix in mixes(&JOB, &[Step::Look, Step::Abandon]) {
            let outcome = run(&mix);
            match (outcome.effect, outcome.seen) {
                (Some(Effect::None), None) => assert!(!outcome.worked_on, "{mix:?}"),
                (Some(Effect::Possible), None) => assert!(outcome.worked_on, "{mix:?}"),
                (_, Some(result)) => assert!(result.is_ok(), "{mix:?}"),
                (None, None) => panic!("{mix:?}"),
            }
        }
    }

    #[test]
    fn no_order_leaks_a_reply_or_a_slot() {
        for caller in [&[Step::Look, Step::Abandon][..], &[Step::Wait, Step::Abandon], &[Step::Look]] {
            for mix in mixes(&JOB, caller) {
                let Outcome { slot, reply, seen, .. } = run(&mix);
                drop((seen, slot.take_result()));
                assert_eq!((Arc::strong_count(&slot), Arc::strong_count(&reply)), (1, 1), "{mix:?}");
            }
        }
    }

    #[test]
    fn a_ticket_dropped_in_a_queue_has_no_effect_and_one_dropped_at_work_went_back() {
        for (job, expected) in [
            (&[Step::DropTicket][..], CallError::JobEnded { effect: Effect::None }),
            (&[Step::Take, Step::DropTicket], CallError::JobFailed),
        ] {
            let outcome = run(&[job, &[Step::Look]].concat());
            assert_eq!(outcome.seen.unwrap().unwrap_err(), expected);
        }
    }

    #[test]
    fn a_slot_serves_one_call_after_another() {
        let slot = Arc::new(ReplySlot::new());
        for call in 0..3 {
            let ticket = slot.issue();
            assert!(!slot.is_answered() && ticket.take());
            ticket.answer(Ok(call));
            assert_eq!(slot.take_result(), Some(Ok(call)));
        }
    }
}
