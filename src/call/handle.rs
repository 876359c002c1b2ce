//! The host's hold on the calls of one job.

use super::error::{CallError, TryCallError};
use super::head::service_id;
use super::pending::{CallFuture, PendingCall};
use super::service::Service;
use super::table::Table;
use crate::slot::{AllowedCpus, HostWait};
use crate::time::{Clock, MachineClock};
use std::sync::Arc;
use std::time::Duration;

/// When a reply is shown. Whichever it is, state and timers hold every call exactly once or not at all; what a function emits follows the
/// guarantee of the sink it reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// As soon as there is one. After a crash the job's state may not hold what the call did, although it was answered.
    None,
    /// Once a checkpoint that holds what the call did is durable: a call that was answered is never lost. All calls between two
    /// checkpoints share one commit, so the checkpoint interval is the longest they wait for it to begin.
    Committed,
}

/// Calls a job from any thread. Each clone may have as many calls under way as the first, so that one that never reads its replies only
/// stops itself. The job's calls end when all handles are dropped.
pub struct CallHandle<E, R> {
    pub(super) service: Arc<Service<E, R>>,
    table: Arc<Table<R>>,
}

impl<E, R> CallHandle<E, R> {
    pub(crate) fn new(service: Arc<Service<E, R>>, under_way_max: usize) -> Self {
        service.add_handle();
        Self { service, table: Arc::new(Table::new(under_way_max)) }
    }

    /// Hands a call over if there is room, and returns at once: read, await or drop what comes back.
    pub fn try_call(&self, event: E, durability: Durability) -> Result<PendingCall<R>, TryCallError<E>> {
        self.try_call_at(event, durability, self.service.now_ns())
    }

    /// As `try_call`; the call's latency counts from `intended_ns` of the engine's monotonic clock.
    pub fn try_call_at(
        &self,
        event: E,
        durability: Durability,
        intended_ns: u64,
    ) -> Result<PendingCall<R>, TryCallError<E>> {
        PendingCall::begin(&self.service, &self.table, event, durability, intended_ns)
    }

    /// Calls and waits for the reply, however long it takes (also for the job to start, or to come back after a failure): blocks the
    /// calling thread, which must not be a slot's.
    pub fn call(&self, event: E) -> Result<R, CallError> {
        self.call_waiting(event, Durability::None, None)
    }

    /// Calls and waits for the reply, at most so long. A call that is given up before the job took it has no effect; one that was taken
    /// may have, and its reply is dropped.
    pub fn call_within(&self, event: E, durability: Durability, at_most: Duration) -> Result<R, CallError> {
        self.call_waiting(event, durability, Some(at_most))
    }

    /// Calls; the future waits for room and for the reply, under any runtime. Dropping it gives the call up, as a timeout does.
    pub fn call_async(&self, event: E, durability: Durability) -> CallFuture<E, R> {
        CallFuture::new(self.service.clone(), self.table.clone(), event, durability)
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.service.has_ended()
    }

    /// Under what number the slot that answers offers its calls.
    #[inline]
    pub(crate) fn service_id(&self) -> usize {
        service_id(&self.service)
    }

    /// Waits until the job takes calls, at most so long; whether it does. It goes on taking them while it restarts.
    pub fn wait_ready(&self, at_most: Duration) -> bool {
        let waiting = HostWait::new(Some(at_most));
        waiting.block_on(|waker| {
            self.service.room.wait_with(waker);
            (self.service.is_running() || self.service.has_ended()).then_some(())
        });
        self.service.is_running() && !self.service.has_ended()
    }

    fn call_waiting(&self, event: E, durability: Durability, at_most: Option<Duration>) -> Result<R, CallError> {
        let origin_ns = MachineClock.monotonic_ns();
        let refusal = match self.try_call_at(event, durability, origin_ns) {
            Ok(pending) => return pending.wait_from(origin_ns, at_most, durability),
            Err(refusal) => refusal,
        };
        if !refusal.is_temporary() {
            return Err(CallError::of_refusal(&refusal));
        }
        self.call_async(refusal.into_event(), durability).wait_from(origin_ns, at_most)
    }
}

impl<E, R> Clone for CallHandle<E, R> {
    fn clone(&self) -> Self {
        Self::new(self.service.clone(), self.table.under_way_max())
    }
}

impl<E, R> Drop for CallHandle<E, R> {
    fn drop(&mut self) {
        self.service.remove_handle();
    }
}

/// Whether a thread that spins keeps nobody from running.
pub(super) fn may_spin() -> bool {
    AllowedCpus::of_process().usable() > 1
}
