//! An engine whose one slot is the calling thread: calls are answered without a queue, a wake-up or another core.
//!
//! Here: taking the slot's turns in between calls. Not here: what a call does (`call`), the control, which keeps its own thread.
//! Whoever holds the engine must come by: checkpoints, timers and the streams behind a call go on only in `call`, `step`, `run_for`
//! and `wait`.

use super::builder::{Engine, EngineBuilder, EngineError};
use super::control::ControlSender;
use super::handle::{JobError, JobHandle, JobOutcome};
use super::options::{JobOptions, SubmitError};
use crate::call::{CallError, CallHandle, DirectCalls, Durability, Effect, TryCallError};
use crate::io::SharedIo;
use crate::operator::ChainContext;
use crate::slot::{Doorbell, Progress, Slot, Turns};
use crate::stream::Job;
use crate::time::{Clock, MachineClock};
use std::rc::Weak;
use std::sync::Arc;
use std::time::Duration;

/// After how long without a turn of the slot a call takes one first: what else there is to do, a barrier say, waits no longer.
const TURN_EVERY_NS: u64 = 100_000;
/// The longest sleep while something is awaited that rings no bell of this slot.
const SLEEP_NS_MAX: u64 = 1_000_000;

/// Runs jobs on the calling thread, with a control thread beside it. Stays on its thread.
///
/// ```
/// use millstream::engine::{Engine, JobOptions};
/// use millstream::stream::Job;
///
/// let job = Job::new("counts");
/// let visits = job.calls("visits", |page: &u64| *page).answer_from_value("count", |count: &mut u64, _page: &u64| {
///     *count += 1;
///     *count
/// });
/// let mut engine = Engine::builder().memory(64 << 20).start_local()?;
/// engine.submit(job, JobOptions::default())?;
/// assert_eq!(engine.call(&visits, 7)?, 1);
/// assert_eq!(engine.call(&visits, 7)?, 2);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct LocalEngine {
    /// The control thread; dropped first, as in an engine with threads for its slots.
    engine: Engine,
    slot: Slot,
    io: SharedIo,
    turns: Turns,
    turned_ns: u64,
}

impl EngineBuilder {
    /// Starts an engine with one slot, which is the calling thread: it is not pinned here, and `slots` has no say.
    pub fn start_local(self) -> Result<LocalEngine, EngineError> {
        let slot_bell = Arc::new(Doorbell::new().map_err(EngineError::Doorbell)?);
        let control_bell = Arc::new(Doorbell::new().map_err(EngineError::Doorbell)?);
        let io = SharedIo::new(crate::io::open(self.io_choice(), slot_bell.clone())?);
        let slot = Slot::new(slot_bell, Some(control_bell.clone()), Arc::new(MachineClock));
        let control = ControlSender::new(control_bell.clone());
        let mut engine = Engine::without_threads(control, vec![slot.handle().clone()]);
        engine.start_control(&self, control_bell)?;
        let turns = Turns::new(&slot);
        Ok(LocalEngine { engine, slot, io, turns, turned_ns: 0 })
    }
}

impl LocalEngine {
    /// As `Engine::submit`. Its tasks begin with the next turn of the slot.
    pub fn submit(&self, job: Job, options: JobOptions) -> Result<JobHandle, SubmitError> {
        self.engine.submit(job, options)
    }

    /// Answers a call on this thread, without a queue, as soon as there is a reply: what it did is in the job's state, but not yet in a
    /// checkpoint. Waits while the job starts or restarts. Its latency, counted from here, is among those of the calls.
    pub fn call<E, R>(&mut self, calls: &CallHandle<E, R>, event: E) -> Result<R, CallError>
    where
        E: 'static,
        R: 'static,
    {
        let mut event = event;
        let mut now = self.turns.now();
        let (origin_ns, _) = now;
        loop {
            if now.0.saturating_sub(self.turned_ns) >= TURN_EVERY_NS {
                self.step();
                now = self.turns.now();
            }
            event = match self.call_here(calls, event, now, origin_ns) {
                Ok(result) => return result,
                Err(refusal) => refusal.into_event(),
            };
            if calls.has_ended() {
                return Err(CallError::JobEnded { effect: Effect::None });
            }
            self.step_or_sleep(SLEEP_NS_MAX);
            now = self.turns.now();
        }
    }

    /// Calls through the queue and takes the slot's turns until the reply is there, at most so long: for replies after commit.
    pub fn call_within<E, R>(
        &mut self,
        calls: &CallHandle<E, R>,
        event: E,
        durability: Durability,
        at_most: Duration,
    ) -> Result<R, CallError> {
        let begun_ns = MachineClock.monotonic_ns();
        let left_ns = || (at_most.as_nanos() as u64).saturating_sub(MachineClock.monotonic_ns() - begun_ns);
        let mut event = event;
        let mut pending = loop {
            match calls.try_call(event, durability) {
                Ok(pending) => break pending,
                Err(refusal) if !refusal.is_temporary() => return Err(CallError::of_refusal(&refusal)),
                Err(refusal) => event = refusal.into_event(),
            }
            if left_ns() == 0 {
                return Err(CallError::TimedOut { waited: at_most, effect: Effect::None });
            }
            self.step_or_sleep(left_ns().min(SLEEP_NS_MAX));
        };
        loop {
            if let Some(result) = pending.try_take() {
                return result;
            }
            if left_ns() == 0 {
                return pending.expire(at_most);
            }
            self.step_or_sleep(left_ns().min(SLEEP_NS_MAX));
        }
    }

    /// One turn of the slot: a bounded amount of work for each of its tasks.
    pub fn step(&mut self) -> Progress {
        let (progress, now_ns) = self.turns.turn(&mut self.slot, &mut self.io);
        self.turned_ns = now_ns;
        progress
    }

    /// Takes turns for so long, asleep while there is nothing to do.
    pub fn run_for(&mut self, time: Duration) {
        let end_ns = MachineClock.monotonic_ns().saturating_add(time.as_nanos() as u64);
        loop {
            let left_ns = end_ns.saturating_sub(MachineClock.monotonic_ns());
            if left_ns == 0 {
                return;
            }
            self.step_or_sleep(left_ns);
        }
    }

    /// Takes turns until the job has ended.
    pub fn wait(&mut self, job: &JobHandle) -> Result<JobOutcome, JobError> {
        while !job.has_ended() {
            self.step_or_sleep(SLEEP_NS_MAX);
        }
        job.wait()
    }

    /// `now` is the monotonic clock's nanoseconds and the wall clock's milliseconds: read by the caller, who needs them as well.
    #[inline]
    fn call_here<E, R>(
        &mut self,
        calls: &CallHandle<E, R>,
        event: E,
        (now_ns, wall_ms): (u64, i64),
        origin_ns: u64,
    ) -> Result<Result<R, CallError>, TryCallError<E>>
    where
        E: 'static,
        R: 'static,
    {
        let Some(head) = self.slot.services().find::<Weak<dyn DirectCalls<E, R>>>(calls.service_id()) else {
            return Err(TryCallError::NotRunning { event });
        };
        let Some(head) = head.upgrade() else { return Err(TryCallError::NotRunning { event }) };
        let mut failure = None;
        let mut cx = ChainContext { now_ns, wall_ms, origin_ns, io: &mut self.io, failure: &mut failure };
        head.call_here(event, &mut cx)
    }

    fn step_or_sleep(&mut self, at_most_ns: u64) {
        if self.step() == Progress::Idle {
            self.turns.park(&mut self.slot, &mut self.io, at_most_ns, 0);
        }
    }
}
