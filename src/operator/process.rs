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
use crate::state::{DueTimer, Hashed, KeyGroup, LOOK_AHEAD, Prefetch, StateError, Timers, next_group};
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
    /// The number of the operator's first key group among all that records come from.
    first_split: u32,
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
        let (watermark, first_split) = (Watermark::MIN, cx.first_split(operator));
        let operator = operator.clone();
        Ok(Self { operator, function, state, opened, prefetch, timers, watermark, first_split, side, next })
    }

    /// Hands one record to the function, by the operator's watermark.
    pub(crate) fn on_record(&mut self, cx: &mut ChainContext<'_>, stamp: &Stamp, key: Hashed<'_, K>, record: &V) {
        self.on_record_at(cx, stamp, key, record, self.watermark, self.watermark);
    }

    /// Hands one record to the function, which sees this watermark. Event-time state expires by `expiry`.
    pub(super) fn on_record_at(
        &mut self,
        cx: &mut ChainContext<'_>,
        stamp: &Stamp,
        key: Hashed<'_, K>,
        record: &V,
        watermark: Watermark,
        expiry: Watermark,
    ) {
        self.opened.clock.set(cx.wall_ms, expiry, stamp.at);
        let mut keyed = KeyedContext::new(key, *stamp, watermark, &mut self.timers);
        let mut out = Output { next: &mut self.next, side: &mut self.side, cx, stamp: *stamp };
        let done = self.function.on_record(&mut self.state, &mut keyed, record, &mut out);
        self.report(cx, done);
    }

    /// Fires one timer, which this watermark has reached: the function sees that (Flink `InternalTimerServiceImpl.advanceWatermark`). Event-time
    /// state expires by the timer's time, which does not depend on the steps in which the watermark came.
    pub(super) fn on_timer(&mut self, cx: &mut ChainContext<'_>, timer: &DueTimer, watermark: Watermark) {
        self.opened.clock.set(cx.wall_ms, self.watermark.max(timer.at), timer.at);
        let stamp = self.stamp_of_group(cx, timer.at, timer.group());
        let key = Hashed::in_group(timer.key::<K>(), timer.group());
        let mut keyed = KeyedContext::new(key, stamp, watermark, &mut self.timers);
        let mut out = Output { next: &mut self.next, side: &mut self.side, cx, stamp };
        let done = self.function.on_timer(&mut self.state, &mut keyed, &mut out);
        self.report(cx, done);
    }

    /// The stamp of what a key of this group makes of something that waited.
    pub(super) fn stamp_of_group(&self, cx: &ChainContext<'_>, at: EventTimeMs, group: KeyGroup) -> Stamp {
        let split = self.first_split + u32::from(group.0);
        Stamp { at, clock: EventTimeMs::MIN, split, origin_ns: cx.origin_ns }
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
            self.on_timer(cx, &timer, watermark);
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
    // Always, as that of `Reduce`.
    #[inline(always)]
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
                self.on_record(cx, &frame.stamp(at), key, view);
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
