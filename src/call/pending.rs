//! A call under way, and how its caller waits: by looking, by blocking, or as a future under any runtime.

use super::error::{CallError, Effect, TryCallError};
use super::handle::{Durability, may_spin};
use super::reply_slot::ReplySlot;
use super::service::Service;
use super::table::Table;
use crate::slot::HostWait;
use crate::time::{Clock, MachineClock};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

/// How often a blocked caller looks before it sleeps: some ten microseconds, about what waking it costs.
const SPINS_MAX: u32 = 500;

/// A call that was handed over. Dropping it gives the call up: one that the job has not yet taken has no effect, the reply of one that it has is
/// dropped.
#[must_use = "a call is given up when this is dropped"]
pub struct PendingCall<R> {
    table: Arc<Table<R>>,
    /// `None` once the result was taken.
    slot: Option<Arc<ReplySlot<R>>>,
}

/// A call from an asynchronous task: waits for room, then for the reply.
#[must_use = "a call is not made before this is awaited"]
pub struct CallFuture<E, R> {
    service: Arc<Service<E, R>>,
    table: Arc<Table<R>>,
    durability: Durability,
    stage: Stage<E, R>,
}

enum Stage<E, R> {
    /// The event was not yet taken.
    Waiting(E),
    UnderWay(PendingCall<R>),
    Ended,
}

impl<R> PendingCall<R> {
    /// Takes a reply slot and hands the event over, or gives it back.
    pub(super) fn begin<E>(
        service: &Service<E, R>,
        table: &Arc<Table<R>>,
        event: E,
        durability: Durability,
        origin_ns: u64,
    ) -> Result<Self, TryCallError<E>> {
        let Some(slot) = table.take() else {
            return Err(TryCallError::TooManyUnderWay { event, under_way_max: table.under_way_max() });
        };
        match service.hand_over(event, &slot, durability, origin_ns) {
            Ok(()) => Ok(Self { table: table.clone(), slot: Some(slot) }),
            Err(refusal) => {
                table.give_back(slot);
                Err(refusal)
            }
        }
    }

    /// The result, if it is there; once.
    pub fn try_take(&mut self) -> Option<Result<R, CallError>> {
        let result = self.slot.as_ref()?.take_result()?;
        if let Some(slot) = self.slot.take() {
            self.table.give_back(slot);
        }
        Some(result)
    }

    /// Blocks until the result is there.
    pub fn wait(self) -> Result<R, CallError> {
        self.wait_from(MachineClock.monotonic_ns(), None, Durability::Committed)
    }

    /// Blocks until the result is there or `at_most` is over; then the call is given up.
    pub fn wait_for(self, at_most: Duration) -> Result<R, CallError> {
        self.wait_from(MachineClock.monotonic_ns(), Some(at_most), Durability::Committed)
    }

    pub(super) fn wait_from(
        mut self,
        begun_ns: u64,
        at_most: Option<Duration>,
        durability: Durability,
    ) -> Result<R, CallError> {
        // A commit takes longer than waking a thread.
        if durability == Durability::None && may_spin() {
            for _ in 0..SPINS_MAX {
                if self.slot.as_ref().is_some_and(|slot| slot.is_answered()) {
                    break;
                }
                std::hint::spin_loop();
            }
        }
        if let Some(result) = self.try_take() {
            return result;
        }
        let waited = HostWait::from(begun_ns, at_most).block_on(|waker| match self.poll_with(waker) {
            Poll::Ready(result) => Some(result),
            Poll::Pending => None,
        });
        waited.unwrap_or_else(|| self.expire(at_most.unwrap_or_default()))
    }

    /// The caller's patience is at its end: the result if it has come after all.
    pub(crate) fn expire(&mut self, waited: Duration) -> Result<R, CallError> {
        self.give_up().unwrap_or_else(|effect| Err(CallError::TimedOut { waited, effect }))
    }

    fn poll_with(&mut self, waker: &Waker) -> Poll<Result<R, CallError>> {
        let Some(slot) = &self.slot else { panic!("a call was polled after it had returned its result") };
        if slot.wait_with(waker) {
            return Poll::Pending;
        }
        self.try_take().map_or(Poll::Pending, Poll::Ready)
    }

    /// The effect that the call may have, or its result when that came first.
    fn give_up(&mut self) -> Result<Result<R, CallError>, Effect> {
        let Some(slot) = self.slot.take() else { return Err(Effect::Possible) };
        match slot.abandon() {
            Ok(effect) => {
                self.table.replace();
                Err(effect)
            }
            Err(result) => {
                self.table.give_back(slot);
                Ok(result)
            }
        }
    }
}

impl<R> Drop for PendingCall<R> {
    fn drop(&mut self) {
        if self.slot.is_some() {
            let _ = self.give_up();
        }
    }
}

impl<R> Future for PendingCall<R> {
    type Output = Result<R, CallError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.poll_with(cx.waker())
    }
}

impl<E, R> CallFuture<E, R> {
    pub(super) fn new(service: Arc<Service<E, R>>, table: Arc<Table<R>>, event: E, durability: Durability) -> Self {
        // A call that waits for room is a caller, even when its handle is gone.
        service.add_handle();
        Self { service, table, durability, stage: Stage::Waiting(event) }
    }

    pub(super) fn wait_from(mut self, begun_ns: u64, at_most: Option<Duration>) -> Result<R, CallError> {
        let waited = HostWait::from(begun_ns, at_most).block_on(|waker| match self.poll_with(waker) {
            Poll::Ready(result) => Some(result),
            Poll::Pending => None,
        });
        let waited_for = at_most.unwrap_or_default();
        waited.unwrap_or_else(|| match &mut self.stage {
            Stage::UnderWay(pending) => pending.expire(waited_for),
            Stage::Waiting(_) | Stage::Ended => Err(CallError::TimedOut { waited: waited_for, effect: Effect::None }),
        })
    }

    fn poll_with(&mut self, waker: &Waker) -> Poll<Result<R, CallError>> {
        self.stage = match std::mem::replace(&mut self.stage, Stage::Ended) {
            Stage::Waiting(event) => match self.begin(event, waker) {
                Ok(stage) => stage,
                Err(error) => return Poll::Ready(Err(error)),
            },
            other => other,
        };
        match &mut self.stage {
            Stage::Waiting(_) => Poll::Pending,
            Stage::UnderWay(pending) => pending.poll_with(waker),
            Stage::Ended => panic!("a call was polled after it had returned its result"),
        }
    }

    /// Begins the call, or leaves the waker where the missing room will be made and tries once more.
    fn begin(&self, event: E, waker: &Waker) -> Result<Stage<E, R>, CallError> {
        let mut event = event;
        // The second try may miss something else than the first; whoever was left a waker by then wakes this task.
        for is_last in [false, false, true] {
            let now_ns = self.service.now_ns();
            let refusal = match PendingCall::begin(&self.service, &self.table, event, self.durability, now_ns) {
                Ok(pending) => return Ok(Stage::UnderWay(pending)),
                Err(refusal) if !refusal.is_temporary() => return Err(CallError::of_refusal(&refusal)),
                Err(refusal) => refusal,
            };
            match refusal {
                _ if is_last => {}
                TryCallError::TooManyUnderWay { .. } => self.table.room.wait_with(waker),
                _ => self.service.room.wait_with(waker),
            }
            event = refusal.into_event();
        }
        Ok(Stage::Waiting(event))
    }
}

impl<E, R> Drop for CallFuture<E, R> {
    fn drop(&mut self) {
        self.service.remove_handle();
    }
}

/// Nothing in it is ever pinned: the event is only moved.
impl<E, R> Unpin for CallFuture<E, R> {}

impl<E, R> Future for CallFuture<E, R> {
    type Output = Result<R, CallError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.poll_with(cx.waker())
    }
}
