//! Runs a keyed process function in event-time order: records wait until the watermark passes them, then come sorted, with the timers.
//!
//! Order: by time; at one time records before timers, records by where they come from (`Stamp::split`) and then as they arrived, timers by key.
//! A timer set for a time that has passed fires at once, in the same pass. A record is late when its split's clock (or, behind an idle input,
//! the operator's) has reached its time. What the function sees then depends on the input alone, not on speed or parallelism.
//! Flink has no such operator; the usual substitute there is a sort by hand in list state.

use super::keyed::{KeyedRecord, KeyedStage};
use super::keyed_process::KeyedProcess;
use super::output::SideGate;
use super::process::{Process, TIMERS_PER_CALL_MAX};
use super::{ChainContext, Flow, Signal, Stage};
use crate::exchange::RecordFrame;
use crate::graph::{BuildContext, BuildError};
use crate::metrics::{LossReason, OperatorCounters};
use crate::record::{Key, Record};
use crate::state::{EventQueue, Hashed, QueuedEvent};
use crate::time::Watermark;
use std::sync::Arc;

/// A process function behind a queue of records that wait for their time.
pub struct OrderedProcess<K: Key + ?Sized, R: Record, P: KeyedProcess<K, R::View>, N> {
    process: Process<K, R::View, P, N>,
    waiting: EventQueue<K>,
    counters: Arc<OperatorCounters>,
}

impl<K, R, P, N> OrderedProcess<K, R, P, N>
where
    K: Key + ?Sized,
    R: Record,
    P: KeyedProcess<K, R::View>,
    N: Stage<P::Out>,
{
    /// Opens the function's states and the queue, in front of `next`.
    pub fn open(
        operator: &Arc<str>,
        function: P,
        side: SideGate<P::Side>,
        cx: &mut BuildContext,
        next: N,
    ) -> Result<Self, BuildError> {
        let process = Process::open(operator, function, side, cx, next)?;
        let waiting = cx.state.borrow_mut().event_queue::<K, R>(operator, "waiting")?;
        Ok(Self { process, waiting, counters: cx.metrics.counters(operator) })
    }

    fn deliver_due(&mut self, cx: &mut ChainContext<'_>, watermark: Watermark) -> Flow {
        for _ in 0..TIMERS_PER_CALL_MAX {
            if self.process.must_pause(cx) {
                return Flow::More;
            }
            let timer_at = self.process.next_timer_at().filter(|&at| at <= watermark);
            let record_at = self.waiting.next_at().filter(|&at| at <= watermark);
            match (record_at, timer_at) {
                (None, None) => {
                    self.process.set_watermark(watermark);
                    return Flow::Done;
                }
                (Some(record_at), timer_at) if timer_at.is_none_or(|timer_at| record_at <= timer_at) => {
                    if let Some(event) = self.waiting.pop_due(watermark) {
                        deliver::<K, R, P, N>(&mut self.process, cx, event);
                    }
                }
                _ => {
                    if let Some(timer) = self.process.pop_due(watermark) {
                        // Nothing before it will come, and how far the watermark is depends on speed.
                        self.process.on_timer(cx, &timer, timer.at);
                    }
                }
            }
        }
        Flow::More
    }
}

fn deliver<K, R, P, N>(process: &mut Process<K, R::View, P, N>, cx: &mut ChainContext<'_>, event: &QueuedEvent)
where
    K: Key + ?Sized,
    R: Record,
    P: KeyedProcess<K, R::View>,
    N: Stage<P::Out>,
{
    let stamp = process.stamp_of_group(cx, event.at, event.group());
    let key = Hashed::in_group(event.key::<K>(), event.group());
    match R::view(event.payload()) {
        // Not by the watermark, whose steps depend on speed: all that is before this record has been delivered, and others of its time may follow.
        Ok(record) => process.on_record_at(cx, &stamp, key, record, event.at.saturating_add(-1), event.at),
        Err(error) => cx.fail(&process.operator, error),
    }
}

impl<K, R, P, N> KeyedStage<K, R> for OrderedProcess<K, R, P, N>
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
        let clock = frame.clock().max(self.process.watermark());
        records.for_each(|record| {
            if record.at <= clock {
                self.counters.lost(LossReason::LateForOrder).add(1);
            } else if let Err(error) = self.waiting.push(&record.key.hashed(), record.at, frame.split(), record.bytes) {
                cx.fail(&self.process.operator, error);
            }
        });
    }

    fn signal(&mut self, cx: &mut ChainContext<'_>, signal: &mut Signal<'_>) -> Flow {
        match signal {
            Signal::Watermark(watermark) if self.deliver_due(cx, *watermark) == Flow::More => return Flow::More,
            Signal::Restore(_) => self.waiting.rebuild(),
            _ => {}
        }
        self.process.pass_on(cx, signal)
    }

    fn is_blocked(&self) -> bool {
        self.process.outputs_are_blocked()
    }
}
