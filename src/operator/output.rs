//! Where a keyed operator's results go: the next stage of its chain, and aside.

use super::keyed_process::Emit;
use super::{ChainContext, Flow, Signal, Stage};
use crate::exchange::OutputGate;
use crate::operator::Exchange;
use crate::record::{Record, Stamp};
use std::marker::PhantomData;

/// The side output of an operator: an edge of its own to the task that consumes it, if one does.
pub struct SideGate<S> {
    exchange: Option<Exchange>,
    _records: PhantomData<fn(&S)>,
}

/// Both outputs of an operator while one record or timer is at hand.
pub struct Output<'a, 'b, N, S> {
    pub(super) next: &'a mut N,
    pub(super) side: &'a mut SideGate<S>,
    pub(super) cx: &'a mut ChainContext<'b>,
    pub(super) stamp: Stamp,
}

impl<S: Record> SideGate<S> {
    /// A side output into `gate`, or into nothing.
    pub fn new(gate: Option<OutputGate>) -> Self {
        Self { exchange: gate.map(Exchange::new), _records: PhantomData }
    }

    /// Whether somebody consumes it.
    pub fn is_consumed(&self) -> bool {
        self.exchange.is_some()
    }

    /// Emits a record.
    pub fn emit(&mut self, cx: &mut ChainContext<'_>, stamp: &Stamp, record: &S) {
        if let Some(exchange) = &mut self.exchange {
            exchange.record(cx, stamp, record);
        }
    }

    /// Hands a signal on.
    pub fn signal(&mut self, cx: &mut ChainContext<'_>, signal: &mut Signal<'_>) -> Flow {
        match &mut self.exchange {
            Some(exchange) => Stage::<S>::signal(exchange, cx, signal),
            None => Flow::Done,
        }
    }

    /// Whether it waits for room.
    pub fn is_blocked(&self) -> bool {
        self.exchange.as_ref().is_some_and(Stage::<S>::is_blocked)
    }
}

impl<T, S: Record, N: Stage<T>> Emit<T, S> for Output<'_, '_, N, S> {
    #[inline]
    fn emit(&mut self, result: &T) {
        self.next.record(self.cx, &self.stamp, result);
    }

    fn emit_side(&mut self, result: &S) {
        self.side.emit(self.cx, &self.stamp, result);
    }
}
