//! The head of a chain that takes calls: one subtask's lane, the function that answers, and the clock of the calls.
//!
//! Semantics: a source whose splits are its subtasks. Unlike other sources it is keyed itself, so no exchange lies between a call and its
//! state. No call is late: its event time moves the clock, but it is answered whatever its time is.

use super::error::{CallError, Effect, TryCallError};
use super::function::{CallProcess, CallRecord, KeyedCall};
use super::handle::Durability;
use super::held::Held;
use super::service::{Envelope, Service, Serving, ServingEnd};
use crate::checkpoint::CheckpointId;
use crate::graph::{BuildContext, ChainRoot, SourceRoot, SourceStep};
use crate::metrics::{LatencyRecorder, LossReason, OperatorCounters};
use crate::operator::{ChainContext, Flow, Process, Restored, Signal, SnapshotBuilder, Stage};
use crate::record::{KeySelector, Stamp};
use crate::slot::{LocalServices, panic_message};
use crate::state::KeyContext;
use crate::stream::Timestamps;
use crate::time::{Clock, EventTimeMs, SplitClockState, SplitClocks, StreamStatus, Watermark, Watermarks};
use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;

/// How many calls one read takes: a step is to last tens of microseconds.
const CALLS_PER_READ_MAX: usize = 64;
/// How many committed replies one step shows: showing one may wake a thread, which takes microseconds.
const SHOWN_PER_STEP_MAX: usize = 64;
/// How often the clock is looked at when nobody calls.
const CLOCK_CHECK_EVERY_NS: u64 = 200_000_000;
/// The name under which the clock of the calls stands in a checkpoint.
const CLOCK: &str = "clock";
/// The calls of a subtask are one split.
const SPLIT: u32 = 0;

/// What a head is made of, as the program describes it.
pub(crate) struct CallHeadParts<S, E, F, R> {
    pub(crate) operator: Arc<str>,
    pub(crate) selector: S,
    pub(crate) at: Timestamps<F>,
    pub(crate) watermarks: Watermarks,
    pub(crate) serving: Arc<ServingEnd<E, R>>,
}

type Calls<S, E, C, N> = Process<
    <S as KeySelector<E>>::Key,
    CallRecord<E, <C as KeyedCall<<S as KeySelector<E>>::Key, E>>::Reply>,
    CallProcess<C>,
    N,
>;

/// Takes the calls of one subtask. Shared with the slot, so that code on the slot's own thread can call without a queue.
pub struct CallHead<S, E, F, C, N>(Rc<RefCell<Inner<S, E, F, C, N>>>)
where
    S: KeySelector<E>,
    E: Send + 'static,
    F: Fn(&E) -> EventTimeMs + 'static,
    C: KeyedCall<S::Key, E>,
    N: Stage<C::Out>;

struct Inner<S, E, F, C, N>
where
    S: KeySelector<E>,
    E: Send + 'static,
    F: Fn(&E) -> EventTimeMs + 'static,
    C: KeyedCall<S::Key, E>,
    N: Stage<C::Out>,
{
    operator: Arc<str>,
    subtask: u32,
    selector: S,
    keys: KeyContext,
    at: Timestamps<F>,
    clocks: SplitClocks,
    process: Calls<S, E, C, N>,
    held: Held<C::Reply>,
    phase: Phase,
    /// Not yet taken completely: timers fire a few at a time.
    watermark_under_way: Option<Watermark>,
    clock_checked_ns: u64,
    /// What a direct call ran into; the task fails with it at its next step.
    failure: Option<String>,
    clock: Arc<dyn Clock>,
    counters: Arc<OperatorCounters>,
    latency: LatencyRecorder,
    local: LocalServices,
    serving: Arc<ServingEnd<E, C::Reply>>,
}

/// Where the head is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// State is being restored; what a former attempt held is not yet judged.
    Starting { from: CheckpointId },
    /// Calls are answered.
    Serving,
    /// The barrier of the job's last checkpoint has passed: a call would not be in it.
    Stopped,
    /// All callers are gone; the last watermark is being taken.
    Ending,
    /// Nothing more happens.
    Ended,
}

/// Calls from the slot's own thread.
pub(crate) trait DirectCalls<E, R> {
    /// Answers a call at once; `cx.origin_ns` says when it was made.
    fn call_here(&self, event: E, cx: &mut ChainContext<'_>) -> Result<Result<R, CallError>, TryCallError<E>>;
}

impl<S, E, F, C, N> CallHead<S, E, F, C, N>
where
    S: KeySelector<E>,
    E: Send + 'static,
    F: Fn(&E) -> EventTimeMs + 'static,
    C: KeyedCall<S::Key, E>,
    N: Stage<C::Out>,
{
    /// The head in front of `process`, for the subtask that `cx` names.
    pub(crate) fn new(
        parts: CallHeadParts<S, E, F, C::Reply>,
        process: Calls<S, E, C, N>,
        cx: &mut BuildContext,
    ) -> Self {
        let CallHeadParts { operator, selector, at, watermarks, serving } = parts;
        let service = &serving.0;
        service.attend(
            cx.subtask,
            &Serving {
                parallelism: cx.parallelism,
                max_parallelism: cx.max_parallelism,
                is_durable: cx.is_durable,
                clock: &cx.clock,
                doorbell: &cx.doorbell,
            },
        );
        let mut clocks = SplitClocks::new(watermarks);
        clocks.add(SPLIT);
        let inner = Rc::new(RefCell::new(Inner {
            subtask: cx.subtask,
            selector,
            keys: KeyContext::new(cx.max_parallelism),
            at,
            clocks,
            process,
            held: Held::default(),
            phase: Phase::Starting { from: CheckpointId::default() },
            watermark_under_way: None,
            clock_checked_ns: 0,
            failure: None,
            clock: cx.clock.clone(),
            counters: cx.metrics.counters(&operator),
            latency: cx.metrics.latency(&operator),
            local: cx.local.clone(),
            operator,
            serving,
        }));
        let direct: Rc<dyn DirectCalls<E, C::Reply>> = inner.clone();
        let id = service_id(&inner.borrow().serving.0);
        cx.local.offer(id, Box::new(Rc::downgrade(&direct)));
        Self(inner)
    }
}

/// By what a service is found among those of a slot.
pub(crate) fn service_id<E, R>(service: &Arc<Service<E, R>>) -> usize {
    Arc::as_ptr(service).addr()
}

impl<S, E, F, C, N> Inner<S, E, F, C, N>
where
    S: KeySelector<E>,
    E: Send + 'static,
    F: Fn(&E) -> EventTimeMs + 'static,
    C: KeyedCall<S::Key, E>,
    N: Stage<C::Out>,
{
    fn read(&mut self, cx: &mut ChainContext<'_>) -> SourceStep {
        if let Some(failure) = self.failure.take() {
            cx.fail(&self.operator, failure);
            return SourceStep::Idle;
        }
        match self.phase {
            Phase::Starting { from } => self.start(from),
            Phase::Ended => return SourceStep::Ended,
            Phase::Serving | Phase::Stopped | Phase::Ending => {}
        }
        if self.watermark_under_way.is_some() && self.go_on_with_watermark(cx) == Flow::More {
            // Out of room, or only out of its time slice: then there is more to do at once.
            return if self.process.outputs_are_blocked() { SourceStep::Idle } else { SourceStep::Worked };
        }
        if self.phase == Phase::Ending {
            self.phase = Phase::Ended;
            return SourceStep::Ended;
        }
        // Asked first: what was handed over before the last handle went is in the lane then.
        let no_caller_left = self.serving.0.has_no_caller();
        let taken = self.take_calls(cx);
        if taken == 0 && no_caller_left {
            self.phase = Phase::Ending;
            self.watermark_under_way = Some(Watermark::MAX);
            return SourceStep::Worked;
        }
        self.advance_clock(cx);
        if taken > 0 || self.watermark_under_way.is_some() { SourceStep::Worked } else { SourceStep::Idle }
    }

    /// Judges what the attempt before held, by the checkpoint this one starts from.
    fn start(&mut self, from: CheckpointId) {
        self.held = std::mem::take(&mut *self.serving.0.lane(self.subtask).orphans());
        self.held.settle(from);
        self.phase = Phase::Serving;
    }

    fn take_calls(&mut self, cx: &mut ChainContext<'_>) -> usize {
        let mut origins_ns = [0; CALLS_PER_READ_MAX];
        let (mut taken, mut answered) = (0, 0);
        while taken < CALLS_PER_READ_MAX && !self.held.is_full() && !self.process.must_pause(cx) {
            let Some(call) = self.serving.0.lane(self.subtask).next() else { break };
            taken += 1;
            if let Some(origin_ns) = self.take_call(cx, call) {
                origins_ns[answered] = origin_ns;
                answered += 1;
            }
        }
        if taken > 0 {
            self.serving.0.room.wake();
        }
        if answered > 0 {
            let now_ns = self.clock.monotonic_ns();
            for origin_ns in &origins_ns[..answered] {
                self.latency.record(now_ns.saturating_sub(*origin_ns));
            }
        }
        taken
    }

    /// Answers one call, or holds its reply; when it began, if it was answered.
    fn take_call(&mut self, cx: &mut ChainContext<'_>, call: Envelope<E, C::Reply>) -> Option<u64> {
        let Envelope { event, ticket, durability, origin_ns } = call;
        if !ticket.take() {
            self.counters.lost(LossReason::CallGivenUp).add(1);
            return None;
        }
        let reply = self.answer(cx, event, origin_ns);
        // Without a reply the job fails: the ticket says so when it is dropped.
        ticket.lay_down(Ok(reply?));
        match durability {
            Durability::None => {
                ticket.show();
                Some(origin_ns)
            }
            Durability::Committed => {
                self.held.hold(ticket, origin_ns);
                None
            }
        }
    }

    #[inline]
    fn answer(&mut self, cx: &mut ChainContext<'_>, event: E, origin_ns: u64) -> Option<C::Reply> {
        let at = match &self.at {
            Timestamps::OfRecord(at) => at(&event),
            Timestamps::WhenRead => EventTimeMs(cx.wall_ms),
        };
        let clock = self.clocks.split_mut(SPLIT).expect("the one split is there for ever").passed(at);
        let stamp = Stamp { at, clock, split: self.subtask, origin_ns };
        self.counters.records_in.add(1);
        cx.origin_ns = origin_ns;
        let call = CallRecord::new(event);
        let Self { selector, keys, process, .. } = self;
        selector.with_key(call.event(), |key| process.on_record(cx, &stamp, keys.hash(key), &call));
        call.into_reply()
    }

    /// Sends on what the clock says. With the wall clock's time it goes on although nobody calls.
    fn advance_clock(&mut self, cx: &mut ChainContext<'_>) {
        if cx.now_ns.saturating_sub(self.clock_checked_ns) >= CLOCK_CHECK_EVERY_NS {
            self.clock_checked_ns = cx.now_ns;
            match self.at {
                Timestamps::OfRecord(_) => self.clocks.check_idle(cx.now_ns / 1_000_000),
                Timestamps::WhenRead => {
                    let clock = self.clocks.split_mut(SPLIT).expect("the one split is there for ever");
                    clock.on_event(EventTimeMs(cx.wall_ms));
                }
            }
        }
        let change = self.clocks.advance();
        if change.status == Some(StreamStatus::Active) {
            self.pass(cx, Signal::Idle(false));
        }
        if let Some(watermark) = change.watermark {
            self.watermark_under_way = Some(watermark);
            let _ = self.go_on_with_watermark(cx);
        }
        if change.status == Some(StreamStatus::Idle) {
            self.pass(cx, Signal::Idle(true));
        }
    }

    fn go_on_with_watermark(&mut self, cx: &mut ChainContext<'_>) -> Flow {
        let Some(watermark) = self.watermark_under_way else { return Flow::Done };
        let flow = self.process.take_signal(cx, &mut Signal::Watermark(watermark));
        if flow == Flow::Done {
            self.watermark_under_way = None;
        }
        flow
    }

    fn pass(&mut self, cx: &mut ChainContext<'_>, mut signal: Signal<'_>) {
        let flow = self.process.take_signal(cx, &mut signal);
        assert!(flow == Flow::Done, "only watermarks are taken in parts");
    }

    fn signal(&mut self, cx: &mut ChainContext<'_>, signal: &mut Signal<'_>) -> Flow {
        match signal {
            Signal::Snapshot(builder) => {
                self.held.seal(builder.id);
                self.record_clock(builder);
            }
            Signal::Restore(restored) => {
                self.take_back_clock(restored);
                self.phase = Phase::Starting { from: restored.id };
            }
            Signal::Complete(id) => self.held.commit(*id),
            Signal::Committed(committed) => **committed &= !self.held.has_committed(),
            Signal::Poll(worked) => {
                if self.held.has_committed() {
                    let (latency, now_ns) = (&mut self.latency, self.clock.monotonic_ns());
                    **worked |= self
                        .held
                        .show(SHOWN_PER_STEP_MAX, |origin_ns| latency.record(now_ns.saturating_sub(origin_ns)));
                }
                self.latency.hand_over_if_asked();
            }
            // Before the end of this attempt is reported: the next one must find it.
            Signal::Close => self.leave_held(),
            Signal::Watermark(_) | Signal::Idle(_) | Signal::Prepared(_) => {}
        }
        self.process.take_signal(cx, signal)
    }

    /// Leaves what is held to the next attempt, which will know what was committed of it. One that never began holds nothing.
    fn leave_held(&mut self) {
        if matches!(self.phase, Phase::Starting { .. }) {
            return;
        }
        self.phase = Phase::Ended;
        if !self.held.is_empty() {
            *self.serving.0.lane(self.subtask).orphans() = std::mem::take(&mut self.held);
        }
    }

    fn record_clock(&self, builder: &mut SnapshotBuilder) {
        for (_, state) in self.clocks.states() {
            let bytes = [state.max_at.0.to_le_bytes(), state.clock.0.to_le_bytes()].concat();
            builder.blob(&self.operator, CLOCK, bytes);
        }
    }

    /// Goes on from the slowest clock of all former subtasks: timers that one of them had not fired are still to come.
    fn take_back_clock(&mut self, restored: &Restored<'_>) {
        let states = restored.blobs.of(&self.operator, CLOCK).filter_map(|blob| {
            let (max_at, clock) = blob.bytes.split_first_chunk::<8>()?;
            let clock = clock.try_into().ok()?;
            Some((EventTimeMs(i64::from_le_bytes(*max_at)), EventTimeMs(i64::from_le_bytes(clock))))
        });
        if let Some((max_at, clock)) = states.min_by_key(|(_, clock)| *clock) {
            self.clocks.remove(SPLIT);
            self.clocks.add_restored(SPLIT, SplitClockState { max_at, clock, idle: false });
        }
    }

    /// Fires the timers that are left, as far as the outputs take what they emit: the barrier waits for the last one.
    fn drain(&mut self, cx: &mut ChainContext<'_>) -> Flow {
        self.watermark_under_way = Some(Watermark::MAX);
        while self.go_on_with_watermark(cx) == Flow::More {
            if self.process.must_pause(cx) {
                return Flow::More;
            }
        }
        Flow::Done
    }

    fn call_here(
        &mut self,
        event: E,
        cx: &mut ChainContext<'_>,
    ) -> Result<Result<C::Reply, CallError>, TryCallError<E>> {
        match self.phase {
            Phase::Starting { .. } => return Err(TryCallError::NotRunning { event }),
            Phase::Stopped | Phase::Ending | Phase::Ended => {
                return Ok(Err(CallError::JobEnded { effect: Effect::None }));
            }
            Phase::Serving if self.failure.is_some() => return Ok(Err(CallError::JobFailed)),
            Phase::Serving => {}
        }
        if self.watermark_under_way.is_some() || self.process.outputs_are_blocked() {
            return Err(TryCallError::QueueFull { event, capacity: 0 });
        }
        let origin_ns = cx.origin_ns;
        let answered = catch_unwind(AssertUnwindSafe(|| self.answer(cx, event, origin_ns)));
        let failure = match answered {
            Ok(Some(reply)) if cx.failure.is_none() => {
                self.latency.record(self.clock.monotonic_ns().saturating_sub(origin_ns));
                return Ok(Ok(reply));
            }
            Ok(_) => cx.failure.take().map_or_else(String::new, |failure| failure.reason),
            Err(panic) => format!("it panicked in a call from the slot's own thread: {}", panic_message(&*panic)),
        };
        self.failure = Some(failure);
        Ok(Err(CallError::JobFailed))
    }
}

impl<S, E, F, C, N> DirectCalls<E, C::Reply> for RefCell<Inner<S, E, F, C, N>>
where
    S: KeySelector<E>,
    E: Send + 'static,
    F: Fn(&E) -> EventTimeMs + 'static,
    C: KeyedCall<S::Key, E>,
    N: Stage<C::Out>,
{
    fn call_here(&self, event: E, cx: &mut ChainContext<'_>) -> Result<Result<C::Reply, CallError>, TryCallError<E>> {
        self.borrow_mut().call_here(event, cx)
    }
}

impl<S, E, F, C, N> Drop for Inner<S, E, F, C, N>
where
    S: KeySelector<E>,
    E: Send + 'static,
    F: Fn(&E) -> EventTimeMs + 'static,
    C: KeyedCall<S::Key, E>,
    N: Stage<C::Out>,
{
    /// A task that panics is not told to close.
    fn drop(&mut self) {
        self.local.withdraw(service_id(&self.serving.0));
        self.leave_held();
    }
}

impl<S, E, F, C, N> ChainRoot for CallHead<S, E, F, C, N>
where
    S: KeySelector<E>,
    E: Send + 'static,
    F: Fn(&E) -> EventTimeMs + 'static,
    C: KeyedCall<S::Key, E>,
    N: Stage<C::Out>,
{
    fn signal(&mut self, cx: &mut ChainContext<'_>, signal: &mut Signal<'_>) -> Flow {
        self.0.borrow_mut().signal(cx, signal)
    }

    fn is_blocked(&self) -> bool {
        self.0.borrow().process.outputs_are_blocked()
    }
}

impl<S, E, F, C, N> SourceRoot for CallHead<S, E, F, C, N>
where
    S: KeySelector<E>,
    E: Send + 'static,
    F: Fn(&E) -> EventTimeMs + 'static,
    C: KeyedCall<S::Key, E>,
    N: Stage<C::Out>,
{
    fn read(&mut self, cx: &mut ChainContext<'_>) -> SourceStep {
        self.0.borrow_mut().read(cx)
    }

    fn drain(&mut self, cx: &mut ChainContext<'_>) -> Flow {
        self.0.borrow_mut().drain(cx)
    }

    fn set_stopped(&mut self, stopped: bool) {
        let mut inner = self.0.borrow_mut();
        match (inner.phase, stopped) {
            (Phase::Serving, true) => inner.phase = Phase::Stopped,
            (Phase::Stopped, false) => inner.phase = Phase::Serving,
            _ => {}
        }
    }

    fn wake_at_ns(&self) -> Option<u64> {
        let inner = self.0.borrow();
        (inner.phase != Phase::Ended).then_some(inner.clock_checked_ns + CLOCK_CHECK_EVERY_NS)
    }
}
