//! The end of a chain that sends its records to another task.
//!
//! Not here: how a record picks its channel and crosses (`exchange`).

use super::{ChainContext, Flow, Signal, Stage};
use crate::exchange::{InBand, OutputGate};
use crate::record::{Key, KeySelector, Record, Scratch, Stamp};
use crate::slot::Progress;

/// Sends records on without a key.
pub struct Exchange {
    gate: OutputGate,
    scratch: Scratch,
}

/// Sends records on by their key, which travels in front of each record.
pub struct KeyedExchange<S> {
    gate: OutputGate,
    scratch: Scratch,
    selector: S,
}

impl Exchange {
    /// The end of a chain, in front of `gate`.
    pub fn new(gate: OutputGate) -> Self {
        Self { gate, scratch: Scratch::default() }
    }
}

impl<S> KeyedExchange<S> {
    /// The end of a chain, in front of `gate`.
    pub fn new(gate: OutputGate, selector: S) -> Self {
        Self { gate, scratch: Scratch::default(), selector }
    }
}

impl<V: Record> Stage<V> for Exchange {
    #[inline]
    fn record(&mut self, cx: &mut ChainContext<'_>, stamp: &Stamp, record: &V) {
        let Self { gate, scratch } = self;
        let written =
            record.with_bytes(scratch, |payload| gate.push(stamp, 0, &[], payload, |error| cx.fail("exchange", error)));
        if let Err(error) = written {
            cx.fail("exchange", error);
        }
    }

    fn signal(&mut self, cx: &mut ChainContext<'_>, signal: &mut Signal<'_>) -> Flow {
        pass_on(&mut self.gate, cx, signal)
    }

    fn is_blocked(&self) -> bool {
        self.gate.is_blocked()
    }
}

impl<V: Record, S: KeySelector<V>> Stage<V> for KeyedExchange<S> {
    #[inline]
    fn record(&mut self, cx: &mut ChainContext<'_>, stamp: &Stamp, record: &V) {
        let Self { gate, scratch, selector } = self;
        let written = selector.with_key(record, |key| {
            record.with_bytes(scratch, |payload| {
                gate.push(stamp, key.hash_code(), key.bytes(), payload, |error| cx.fail("exchange", error));
            })
        });
        if let Err(error) = written {
            cx.fail("exchange", error);
        }
    }

    fn signal(&mut self, cx: &mut ChainContext<'_>, signal: &mut Signal<'_>) -> Flow {
        pass_on(&mut self.gate, cx, signal)
    }

    fn is_blocked(&self) -> bool {
        self.gate.is_blocked()
    }
}

pub(super) fn pass_on(gate: &mut OutputGate, cx: &mut ChainContext<'_>, signal: &mut Signal<'_>) -> Flow {
    let passed = match signal {
        Signal::Watermark(watermark) => gate.broadcast(InBand::Watermark(*watermark)),
        Signal::Idle(idle) => gate.broadcast(if *idle { InBand::Idle } else { InBand::Active }),
        Signal::Snapshot(snapshot) => gate.broadcast(InBand::Barrier(snapshot.id)),
        Signal::Poll(worked) => {
            **worked |= gate.step() == Progress::Worked;
            // A task that has nothing left to do publishes everything; one that goes on lets batches grow.
            if **worked { gate.flush_if_due(cx.now_ns) } else { gate.flush() }
        }
        Signal::Restore(_) | Signal::Prepared(_) | Signal::Complete(_) | Signal::Committed(_) | Signal::Close => Ok(()),
    };
    if let Err(error) = passed {
        cx.fail("exchange", error);
    }
    Flow::Done
}
