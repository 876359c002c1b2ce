//! The inputs of a task: a source to read, or channels whose records, watermarks and barriers are taken in turn.

use crate::checkpoint::{BarrierAction, BarrierAligner, CheckpointId};
use crate::exchange::{Delivery, InBand, InputGate};
use crate::graph::{ChainRoot, EdgeRoot, SourceRoot};
use crate::operator::{ChainContext, Flow, Signal};
use crate::time::{ClockChange, StreamStatus, Watermark, WatermarkValve};
use std::collections::VecDeque;

/// Where a task's records come from, with the chains they go to.
pub(super) enum TaskInput {
    Source(SourceInput),
    Edges(EdgeInput),
}

/// One source chain.
pub(super) struct SourceInput {
    pub(super) root: Box<dyn SourceRoot>,
    /// Whether all splits have ended.
    pub(super) ended: bool,
    /// The checkpoint the job is to end with: the source is not read behind its barrier.
    pub(super) stopped: Option<CheckpointId>,
    /// The checkpoint whose barrier waits until the last watermark is through.
    pub(super) draining: Option<CheckpointId>,
}

/// Channels, and one or more chains that each get everything that arrives on them.
pub(super) struct EdgeInput {
    gate: InputGate,
    valve: WatermarkValve,
    aligner: BarrierAligner,
    pub(super) chains: Vec<Box<dyn EdgeRoot>>,
    /// When the last record delivered was meant to be emitted; 0 before the first.
    origin_ns: u64,
    /// What the valve let through and not every chain has taken completely; nothing else is delivered before.
    pending: VecDeque<Pending>,
}

struct Pending {
    event: ClockEvent,
    /// The chains before this one have taken it.
    next_chain: usize,
}

#[derive(Clone, Copy)]
enum ClockEvent {
    Watermark(Watermark),
    Idle(bool),
}

/// What one look at the input found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// Records or an event were delivered.
    Something,
    /// There is nothing that may be delivered now.
    Nothing,
    /// Every channel is at this barrier: snapshot before going on.
    Barrier(CheckpointId),
}

impl EdgeInput {
    pub(super) fn new(gate: InputGate, restored: CheckpointId, chains: Vec<Box<dyn EdgeRoot>>, now_ns: u64) -> Self {
        let channels = gate.channel_count();
        Self {
            valve: WatermarkValve::new(channels, now_ns),
            aligner: BarrierAligner::new(Default::default(), channels, restored),
            gate,
            chains,
            origin_ns: 0,
            pending: VecDeque::new(),
        }
    }

    /// The watermark all chains have been told; part of the checkpoint.
    pub(super) fn watermark(&self) -> Watermark {
        self.valve.last_output()
    }

    /// Goes on from the watermark a checkpoint recorded: the chains hear it first.
    pub(super) fn restore_watermark(&mut self, watermark: Watermark, now_ns: u64) {
        self.valve = WatermarkValve::restored(self.gate.channel_count(), watermark, now_ns);
        if watermark > Watermark::MIN {
            self.pending.push_back(Pending { event: ClockEvent::Watermark(watermark), next_chain: 0 });
        }
    }

    /// Delivers one frame or event, or goes on with an event that some chain has not taken completely.
    pub(super) fn take(&mut self, cx: &mut ChainContext<'_>) -> Taken {
        if self.origin_ns != 0 {
            cx.origin_ns = self.origin_ns;
        }
        if !self.pending.is_empty() {
            return match self.deliver_pending(cx) {
                Flow::Done => Taken::Something,
                // Out of room, or only out of its time slice: then there is more to do at once.
                Flow::More if self.chains.iter().any(|chain| chain.is_blocked()) => Taken::Nothing,
                Flow::More => Taken::Something,
            };
        }
        let Self { gate, valve, aligner, chains, origin_ns, .. } = self;
        let Some((channel, delivery)) = gate.peek() else { return Taken::Nothing };
        let mut output = ClockChange::default();
        let mut alignment = None;
        match delivery {
            Delivery::Records(frame) => {
                if !chains.iter_mut().all(|chain| chain.is_ready_for(cx, &frame)) {
                    return Taken::Nothing;
                }
                *origin_ns = frame.origin_ns();
                chains.iter_mut().for_each(|chain| chain.records(cx, &frame));
            }
            Delivery::Event(InBand::Watermark(at)) => output = valve.on_watermark(channel.0, at, cx.now_ns),
            Delivery::Event(InBand::Idle) => output = valve.on_status(channel.0, StreamStatus::Idle, cx.now_ns),
            Delivery::Event(InBand::Active) => output = valve.on_status(channel.0, StreamStatus::Active, cx.now_ns),
            Delivery::Event(InBand::EndOfInput) => {
                output = valve.on_end(channel.0);
                alignment = Some(aligner.on_end(channel.0, cx.now_ns));
            }
            Delivery::Event(InBand::Barrier(id)) => alignment = Some(aligner.on_barrier(channel.0, id, cx.now_ns)),
            Delivery::Event(InBand::CancelBarrier(id)) => alignment = Some(aligner.on_cancel(id)),
        }
        gate.advance();
        self.queue(output);
        let Some(alignment) = alignment else { return Taken::Something };
        if alignment.given_up.is_some() {
            self.gate.unblock_all();
        }
        match alignment.action {
            BarrierAction::Ignore => Taken::Something,
            BarrierAction::Block(_) => {
                self.gate.block(channel);
                Taken::Something
            }
            BarrierAction::Snapshot { id, .. } => {
                self.gate.unblock_all();
                Taken::Barrier(id)
            }
        }
    }

    fn queue(&mut self, output: ClockChange) {
        // An idle channel's watermark is ignored: whoever becomes active says so first, whoever becomes idle last.
        let is = |status| (output.status == Some(status)).then_some(ClockEvent::Idle(status == StreamStatus::Idle));
        let events = [is(StreamStatus::Active), output.watermark.map(ClockEvent::Watermark), is(StreamStatus::Idle)];
        self.pending.extend(events.into_iter().flatten().map(|event| Pending { event, next_chain: 0 }));
    }

    fn deliver_pending(&mut self, cx: &mut ChainContext<'_>) -> Flow {
        while let Some(pending) = self.pending.front_mut() {
            while let Some(chain) = self.chains.get_mut(pending.next_chain) {
                let mut signal = match pending.event {
                    ClockEvent::Watermark(watermark) => Signal::Watermark(watermark),
                    ClockEvent::Idle(idle) => Signal::Idle(idle),
                };
                if chain.signal(cx, &mut signal) == Flow::More {
                    return Flow::More;
                }
                pending.next_chain += 1;
            }
            self.pending.pop_front();
        }
        Flow::Done
    }
}

impl TaskInput {
    /// Every chain of the task.
    pub(super) fn chains(&mut self) -> impl Iterator<Item = &mut dyn ChainRoot> {
        let (source, edges) = match self {
            Self::Source(source) => (Some(source.root.as_mut() as &mut dyn ChainRoot), None),
            Self::Edges(edges) => {
                (None, Some(edges.chains.iter_mut().map(|chain| chain.as_mut() as &mut dyn ChainRoot)))
            }
        };
        source.into_iter().chain(edges.into_iter().flatten())
    }

    /// Hands a signal to every chain. For signals that are taken at once.
    pub(super) fn signal_all(&mut self, cx: &mut ChainContext<'_>, mut signal: Signal<'_>) {
        for chain in self.chains() {
            let flow = chain.signal(cx, &mut signal);
            assert!(flow == Flow::Done, "only watermarks are taken in parts");
        }
    }

    /// Whether nothing more will come, and all that follows from it was delivered.
    pub(super) fn has_ended(&self) -> bool {
        match self {
            Self::Source(source) => source.ended,
            Self::Edges(edges) => edges.valve.last_output() == Watermark::MAX && edges.pending.is_empty(),
        }
    }

    /// Whether an output waits for room.
    pub(super) fn is_blocked(&self) -> bool {
        match self {
            Self::Source(source) => source.root.is_blocked(),
            Self::Edges(edges) => edges.chains.iter().any(|chain| chain.is_blocked()),
        }
    }
}
