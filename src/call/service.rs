//! What the callers of a job and the subtasks that answer them share: a lane for each subtask, and whether anybody serves.
//!
//! The lanes are made when the first attempt of the job is built, because only then it is known how many subtasks there are; they stay
//! for all its attempts. A call that waits in a lane while the job restarts is answered by the next attempt.

use super::error::{CallError, TryCallError};
use super::handle::Durability;
use super::held::Held;
use super::reply_slot::{ReplySlot, Ticket};
use crate::record::{Key, KeySelector};
use crate::slot::{Doorbell, Doorbells, HostWaiters};
use crate::state::KeyGroup;
use crate::time::Clock;
use crossbeam_queue::ArrayQueue;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// Both sides' hold on one another.
pub(crate) struct Service<E, R> {
    limits: CallLimits,
    hash_code: Box<dyn Fn(&E) -> i32 + Send + Sync>,
    routes: OnceLock<Routes<E, R>>,
    /// How many handles there are; none and no more: no further call can come.
    handles: AtomicUsize,
    has_ended: AtomicBool,
    pub(super) room: HostWaiters,
}

/// How much may wait.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CallLimits {
    /// In the queue of one subtask.
    pub(crate) queue_max: usize,
    /// Of one handle, from being handed over until its reply was read.
    pub(crate) under_way_max: usize,
}

struct Routes<E, R> {
    max_parallelism: u16,
    lanes: Box<[Lane<E, R>]>,
    is_durable: bool,
    clock: Arc<dyn Clock>,
}

/// The calls for one subtask.
pub(super) struct Lane<E, R> {
    queue: ArrayQueue<Envelope<E, R>>,
    bells: Doorbells,
    /// What a subtask that failed held for its next checkpoint.
    orphans: Mutex<Held<R>>,
}

/// One call in a lane.
pub(super) struct Envelope<E, R> {
    pub(super) event: E,
    pub(super) ticket: Ticket<R>,
    pub(super) durability: Durability,
    /// When it was meant to be made; its latency counts from here.
    pub(super) origin_ns: u64,
}

/// Dropped with the last chain of the job and the last program of one: then nobody will ever answer.
pub(crate) struct ServingEnd<E, R>(pub(crate) Arc<Service<E, R>>);

impl<E, R> Service<E, R> {
    pub(crate) fn new<S: KeySelector<E>>(selector: S, limits: CallLimits) -> Self
    where
        E: 'static,
    {
        Self {
            limits,
            hash_code: Box::new(move |event| selector.with_key(event, |key| key.hash_code())),
            routes: OnceLock::new(),
            handles: AtomicUsize::new(0),
            has_ended: AtomicBool::new(false),
            room: HostWaiters::default(),
        }
    }

    /// A subtask of some attempt begins: makes the lanes if it is the first, and lets the calls of its lane wake its slot.
    pub(super) fn attend(&self, subtask: u32, serving: &Serving<'_>) {
        let routes = self.routes.get_or_init(|| Routes {
            max_parallelism: serving.max_parallelism,
            lanes: (0..serving.parallelism).map(|_| Lane::new(self.limits.queue_max)).collect(),
            is_durable: serving.is_durable,
            clock: serving.clock.clone(),
        });
        routes.lanes[subtask as usize].bells.add(serving.doorbell);
        self.room.wake();
    }

    /// The lane of a subtask that attends.
    pub(super) fn lane(&self, subtask: u32) -> &Lane<E, R> {
        let routes = self.routes.get().expect("a subtask attends before it looks at its lane");
        &routes.lanes[subtask as usize]
    }

    pub(super) fn is_running(&self) -> bool {
        self.routes.get().is_some()
    }

    pub(super) fn has_ended(&self) -> bool {
        self.has_ended.load(Ordering::Acquire)
    }

    /// Nanoseconds of the engine's clock; 0 before there is an engine.
    pub(super) fn now_ns(&self) -> u64 {
        self.routes.get().map_or(0, |routes| routes.clock.monotonic_ns())
    }

    /// Puts a call into the lane of its key.
    #[inline]
    pub(super) fn hand_over(
        &self,
        event: E,
        slot: &Arc<ReplySlot<R>>,
        durability: Durability,
        origin_ns: u64,
    ) -> Result<(), TryCallError<E>> {
        let Some(routes) = self.routes.get() else {
            return Err(if self.has_ended() {
                TryCallError::JobEnded { event }
            } else {
                TryCallError::NotRunning { event }
            });
        };
        if self.has_ended() {
            return Err(TryCallError::JobEnded { event });
        }
        if durability == Durability::Committed && !routes.is_durable {
            return Err(TryCallError::NotDurable { event });
        }
        let lane = match &*routes.lanes {
            [only] => only,
            lanes => {
                let group = KeyGroup::of_hash_code((self.hash_code)(&event), routes.max_parallelism);
                &lanes[group.subtask(lanes.len() as u32, routes.max_parallelism) as usize]
            }
        };
        match lane.queue.push(Envelope { event, ticket: slot.issue(), durability, origin_ns }) {
            Ok(()) => lane.bells.ring(),
            Err(Envelope { event, ticket, .. }) => {
                // Nobody saw it: the slot is as good as before.
                ticket.withdraw();
                return Err(TryCallError::QueueFull { event, capacity: lane.queue.capacity() });
            }
        }
        // The job may have ended in between: then it looked at the lane before this call came, and this looks again.
        if self.has_ended() {
            self.refuse_waiting();
        }
        Ok(())
    }

    pub(super) fn add_handle(&self) {
        self.handles.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn remove_handle(&self) {
        if self.handles.fetch_sub(1, Ordering::AcqRel) == 1
            && let Some(routes) = self.routes.get()
        {
            routes.lanes.iter().for_each(|lane| lane.bells.ring());
        }
    }

    /// Whether there is nobody who could still call. Asked before the lane is found empty, it stays so.
    pub(super) fn has_no_caller(&self) -> bool {
        self.handles.load(Ordering::Acquire) == 0
    }

    fn end(&self) {
        self.has_ended.store(true, Ordering::SeqCst);
        for lane in self.routes.get().map_or(&[][..], |routes| &routes.lanes) {
            lane.orphans().give_up();
        }
        self.refuse_waiting();
        self.room.wake();
    }

    fn refuse_waiting(&self) {
        for lane in self.routes.get().map_or(&[][..], |routes| &routes.lanes) {
            // Dropped unseen, each tells its caller that the job ended without it.
            while lane.queue.pop().is_some() {}
        }
    }
}

/// What a subtask says of itself when it begins.
pub(super) struct Serving<'a> {
    pub(super) parallelism: u32,
    pub(super) max_parallelism: u16,
    pub(super) is_durable: bool,
    pub(super) clock: &'a Arc<dyn Clock>,
    pub(super) doorbell: &'a Arc<Doorbell>,
}

impl<E, R> Lane<E, R> {
    fn new(queue_max: usize) -> Self {
        Self { queue: ArrayQueue::new(queue_max.max(1)), bells: Doorbells::default(), orphans: Mutex::default() }
    }

    #[inline]
    pub(super) fn next(&self) -> Option<Envelope<E, R>> {
        self.queue.pop()
    }

    /// What an attempt that ended left behind.
    pub(super) fn orphans(&self) -> std::sync::MutexGuard<'_, Held<R>> {
        self.orphans.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<E, R> Drop for ServingEnd<E, R> {
    fn drop(&mut self) {
        self.0.end();
    }
}

impl CallError {
    /// The same refusal, where the event is not wanted back.
    pub(crate) fn of_refusal<E>(refusal: &TryCallError<E>) -> Self {
        match refusal {
            TryCallError::NotDurable { .. } => Self::NotDurable,
            _ => Self::JobEnded { effect: super::Effect::None },
        }
    }
}
