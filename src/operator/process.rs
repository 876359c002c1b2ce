//! Runs a keyed process function over records as they arrive; timers fire when the watermark passes them.
//!
//! Semantics: Flink `KeyedProcessOperator`. Unlike Flink, timers of one time fire in the order of their keys.

use super::keyed::{KeyedRecord, KeyedStage};
use super::keyed_process::{KeyedContext, KeyedProcess, OpenedStates, StateRegistry};
use super::output::{Output, SideGate};
use super::{ChainContext, Flow, Signal, Stage};
use crate::exchange::RecordFrame;
use crate::graph::{BuildContext, BuildError};
use crate::record::{Key, Record, Stamp};
use crate::state::{DueTimer, Hashed, LOOK_AHEAD, Prefetch, StateError, Timers, next_group};
use crate::time::{EventTimeMs, Watermark};
use std::sync::Arc;

/// How many timers fire before other tasks get the slot.
pub(super) const TIMERS_PER_CALL_MAX: usize = 256;

/// A process function with its states, its timers and its outputs, in one subtask.
pub struct Process<K: Key + ?Sized, V, P: KeyedProcess<K, V>, N> {
    pub(super) operator: Arc<str>,
    function: P,
    state: P::State,
    opened: OpenedStates,
    /// The states that are found by the key alone.
    prefetch: Prefetch,
    timers: Timers<K>,
    watermark: Watermark,
    side: SideGate<P::Side>,
    next: N,
}

impl<K, V, P, N> Process<K, V, P, N>
where
    K: Key + ?Sized,
    P: KeyedProcess<K, V>,
    N: Stage<P::Out>,
{
    /// Opens the function's states, in front of `next`.
    pub fn open(
        operator: &Arc<str>,
        function: P,
        side: SideGate<P::Side>,
        cx: &mut BuildContext,
        next: N,
    ) -> Result<Self, BuildError> {
        let mut backend = cx.state.borrow_mut();
        let mut registry = StateRegistry::new(&mut backend, operator);
        let state = function.open(&mut registry)?;
        let opened = registry.opened();
        let prefetch = backend.prefetch(operator);
        let timers = backend.timers(operator, "timers")?;
        let watermark = Watermark::MIN;
        Ok(Self { operator: operator.clone(), function, state, opened, prefetch, timers, watermark, side, next })
    }

    /// Hands one record to the function. Event-time state expires by `expiry`.
    pub(crate) fn on_record(
        &mut self,
        cx: &mut ChainContext<'_>,
        stamp: &Stamp,
        key: Hashed<'_, K>,
        record: &V,
        expiry: Watermark,
    ) {
        self.opened.clock.set(cx.wall_ms, expiry, stamp.at);
        let mut keyed = KeyedContext::new(key, *stamp, self.watermark, &mut self.timers);
        let mut out = Output { next: &mut self.next, side: &mut self.side, cx, stamp: *stamp };
        let done = self.function.on_record(&mut self.state, &mut keyed, record, &mut out);
        self.report(cx, done);
    }

    /// Fires one timer. The watermark has come at least to its time, so event-time state expires by that.
    pub(super) fn on_timer(&mut self, cx: &mut ChainContext<'_>, timer: &DueTimer) {
        self.opened.clock.set(cx.wall_ms, self.watermark.max(timer.at), timer.at);
        let stamp = Stamp { at: timer.at, clock: EventTimeMs::MIN, split: 0, origin_ns: cx.origin_ns };
        let key = Hashed::in_group(timer.key::<K>(), timer.group());
        let mut keyed = KeyedContext::new(key, stamp, self.watermark, &mut self.timers);
        let mut out = Output { next: &mut self.next, side: &mut self.side, cx, stamp };
        let done = self.function.on_timer(&mut self.state, &mut keyed, &mut out);
        self.report(cx, done);
    }

    /// The next timer that is due, taken off.
    pub(super) fn pop_due(&mut self, watermark: Watermark) -> Option<DueTimer> {
        self.timers.pop_due(watermark)
    }

    /// When the next timer is due.
    pub(super) fn next_timer_at(&self) -> Option<EventTimeMs> {
        self.timers.next_at()
    }

    /// All timers up to here have fired.
    pub(super) fn set_watermark(&mut self, watermark: Watermark) {
        self.watermark = self.watermark.max(watermark);
    }

    /// The operator's watermark.
    pub(crate) fn watermark(&self) -> Watermark {
        self.watermark
    }

    /// Whether no further record or timer may be handled now.
    pub(crate) fn must_pause(&self, cx: &ChainContext<'_>) -> bool {
        cx.failure.is_some() || self.outputs_are_blocked()
    }

    pub(crate) fn outputs_are_blocked(&self) -> bool {
        self.next.is_blocked() || self.side.is_blocked()
    }

    /// Takes a signal as a stage does: timers fire before a watermark goes on.
    pub(crate) fn take_signal(&mut self, cx: &mut ChainContext<'_>, signal: &mut Signal<'_>) -> Flow {
        if let Signal::Watermark(watermark) = signal
            && self.fire_due(cx, *watermark) == Flow::More
        {
            return Flow::More;
        }
        self.pass_on(cx, signal)
    }

    /// Hands a signal to both outputs, after the function has had its part.
    pub(super) fn pass_on(&mut self, cx: &mut ChainContext<'_>, signal: &mut Signal<'_>) -> Flow {
        match signal {
            Signal::Restore(restored) => {
                self.timers.rebuild();
                self.report(cx, self.opened.operator_states.restore(restored));
            }
            Signal::Snapshot(builder) => self.opened.operator_states.snapshot(builder),
            _ => {}
        }
        let side = self.side.signal(cx, signal);
        assert!(side == Flow::Done, "an exchange takes every signal at once");
        self.next.signal(cx, signal)
    }

    fn report(&self, cx: &mut ChainContext<'_>, done: Result<(), StateError>) {
        if let Err(error) = done {
            cx.fail(&self.operator, error);
        }
    }

    fn fire_due(&mut self, cx: &mut ChainContext<'_>, watermark: Watermark) -> Flow {
        for _ in 0..TIMERS_PER_CALL_MAX {
            if self.must_pause(cx) {
                return Flow::More;
            }
            let Some(timer) = self.pop_due(watermark) else {
                self.set_watermark(watermark);
                return Flow::Done;
            };
            self.on_timer(cx, &timer);
        }
        Flow::More
    }
}

impl<K, R, P, N> KeyedStage<K, R> for Process<K, R::View, P, N>
where
    K: Key + ?Sized,
    R: Record,
    P: KeyedProcess<K, R::View>,
    N: Stage<P::Out>,
{
    fn records<'a>(
        &mut self,
        cx: &mut ChainContext<'_>,
        frame: &RecordFrame<'a>,
        records: impl Iterator<Item = KeyedRecord<'a, K, R>>,
    ) {
        let mut records = records.map(|record| (record.at, record.key.hashed(), record.view));
        let mut group = [None; LOOK_AHEAD];
        loop {
            let group = next_group(&mut records, &mut group);
            self.prefetch.fetch(group.iter().flatten().map(|&(_, key, _)| key));
            for &(at, key, view) in group.iter().flatten() {
                self.on_record(cx, &frame.stamp(at), key, view, self.watermark);
            }
            if group.len() < LOOK_AHEAD {
                return;
            }
        }
    }

    fn signal(&mut self, cx: &mut ChainContext<'_>, signal: &mut Signal<'_>) -> Flow {
        self.take_signal(cx, signal)
    }

    fn is_blocked(&self) -> bool {
        self.outputs_are_blocked()
    }
}
