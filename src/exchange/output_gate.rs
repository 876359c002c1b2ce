//! One edge of the graph on the sending side: a subtask's channels to all receiving subtasks.
//!
//! Not here: which channel a record goes to (`partitioner`), how it is written (`sender`).

use super::channel::{ChannelCounters, ExchangeError};
use super::frame::InBand;
use super::partitioner::{Partitioner, Targets};
use super::sender::{Sender, with_copies};
use crate::record::Stamp;
use crate::slot::Progress;
use crate::state::KeyGroup;

/// Sends records where the partitioner says, and events everywhere. Blocked while any of its channels is.
#[derive(Debug)]
pub struct OutputGate {
    senders: Vec<Sender>,
    partitioner: Partitioner,
}

impl OutputGate {
    /// A gate over these channels, in the order of the receiving subtasks.
    ///
    /// # Panics
    /// Asserts that there is a channel.
    pub fn new(senders: Vec<Sender>, partitioner: Partitioner) -> Self {
        assert!(!senders.is_empty(), "an edge has at least one channel");
        Self { senders, partitioner }
    }

    /// Writes a record whose key has this Java `hashCode` (any value on edges without keys). `failed` gets errors as those of `Sender::push`:
    /// handing results through would cost every record a dozen moves.
    // Always: the lengths are constants for fixed records only where the record's type is known.
    #[inline(always)]
    pub fn push(
        &mut self,
        stamp: &Stamp,
        hash_code: i32,
        key: &[u8],
        payload: &[u8],
        failed: impl FnOnce(ExchangeError),
    ) {
        let pushed = match self.partitioner.targets(hash_code) {
            Targets::One(channel, group) => {
                let sender = self.senders.get_mut(channel);
                let sender = sender.unwrap_or_else(|| unreachable!("a partitioner chooses among the channels"));
                if sender.try_push(stamp, group, key, payload) {
                    return;
                }
                with_copies(key, payload, |key, payload| sender.push_behind(*stamp, group, key, payload))
            }
            Targets::All => with_copies(key, payload, |key, payload| self.push_to_all(*stamp, key, payload)),
        };
        if let Err(error) = pushed {
            failed(error);
        }
    }

    #[inline(never)]
    fn push_to_all(&mut self, stamp: Stamp, key: &[u8], payload: &[u8]) -> Result<(), ExchangeError> {
        self.senders.iter_mut().try_for_each(|sender| sender.push(&stamp, KeyGroup(0), key, payload))
    }

    /// Writes an event into every channel and publishes it; every channel gets it even when one fails.
    pub fn broadcast(&mut self, event: InBand) -> Result<(), ExchangeError> {
        self.for_all(|sender| sender.event(event))
    }

    /// Publishes everything: for a task that has no input left.
    pub fn flush(&mut self) -> Result<(), ExchangeError> {
        self.for_all(Sender::flush)
    }

    /// What a task calls at the end of each step.
    pub fn flush_if_due(&mut self, now_ns: u64) -> Result<(), ExchangeError> {
        self.for_all(|sender| sender.flush_if_due(now_ns))
    }

    /// Whether some channel has no credit left: the task must get no more input until `step` worked it off.
    #[inline]
    pub fn is_blocked(&self) -> bool {
        self.senders.iter().any(Sender::is_blocked)
    }

    /// Sends what waits beyond the credit.
    pub fn step(&mut self) -> Progress {
        self.senders.iter_mut().map(Sender::step).fold(Progress::Idle, Progress::or)
    }

    /// What was written so far, over all channels.
    pub fn counters(&self) -> ChannelCounters {
        self.senders.iter().fold(ChannelCounters::default(), |mut sum, sender| {
            sum += sender.counters();
            sum
        })
    }

    /// The channels, in the order of the receiving subtasks.
    pub fn senders(&mut self) -> &mut [Sender] {
        &mut self.senders
    }

    fn for_all(&mut self, mut act: impl FnMut(&mut Sender) -> Result<(), ExchangeError>) -> Result<(), ExchangeError> {
        let mut first = Ok(());
        for sender in &mut self.senders {
            first = first.and(act(sender));
        }
        first
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::CheckpointId;
    use crate::exchange::channel::tests::{SHAPE, options, receive, stamp};
    use crate::exchange::{Delivery, Receiver, SEGMENT_LEN_BYTES, channel};

    fn gate(partitioner: Partitioner, channels: usize) -> (OutputGate, Vec<Receiver>) {
        let (senders, receivers) = (0..channels).map(|_| channel(options(SHAPE, 1))).unzip();
        (OutputGate::new(senders, partitioner), receivers)
    }

    fn push(gate: &mut OutputGate, key: u64) {
        gate.push(&stamp(1), key as i32, &key.to_ne_bytes(), &[0; 8], |error| panic!("{error}"));
    }

    #[test]
    fn every_key_always_arrives_at_the_same_subtask_and_all_keys_arrive() {
        let (mut gate, mut receivers) = gate(Partitioner::hash(3, 128), 3);
        (0..100).chain(0..100).for_each(|key| push(&mut gate, key));
        gate.flush().unwrap();
        let mut seen = Vec::new();
        for receiver in &mut receivers {
            let keys = receive(receiver);
            assert!(!keys.is_empty());
            assert_eq!(keys[..keys.len() / 2], keys[keys.len() / 2..]);
            seen.extend(keys);
        }
        seen.sort_unstable();
        assert_eq!(seen, (0..100).flat_map(|key| [key, key]).collect::<Vec<_>>());
    }

    #[test]
    fn a_broadcast_record_arrives_everywhere() {
        let (mut gate, mut receivers) = gate(Partitioner::Broadcast, 2);
        push(&mut gate, 7);
        gate.flush().unwrap();
        assert!(receivers.iter_mut().all(|receiver| receive(receiver) == [7]));
    }

    #[test]
    fn a_barrier_arrives_on_every_channel_behind_the_records_before_it() {
        let (mut gate, mut receivers) = gate(Partitioner::rebalance(0, 2), 2);
        (0..4).for_each(|key| push(&mut gate, key));
        gate.broadcast(InBand::Barrier(CheckpointId(1))).unwrap();
        for receiver in &mut receivers {
            assert!(matches!(receiver.peek(), Some(Delivery::Records(frame)) if frame.count() == 2));
            receiver.advance();
            assert!(matches!(receiver.peek(), Some(Delivery::Event(InBand::Barrier(CheckpointId(1))))));
        }
    }

    #[test]
    fn an_event_reaches_the_living_channels_when_one_receiver_is_gone() {
        let (mut gate, mut receivers) = gate(Partitioner::Broadcast, 2);
        receivers.remove(0);
        assert!(matches!(gate.broadcast(InBand::Idle), Err(ExchangeError::ReceiverGone { .. })));
        assert!(matches!(receivers[0].peek(), Some(Delivery::Event(InBand::Idle))));
    }

    #[test]
    fn a_gate_is_blocked_while_one_of_its_channels_is() {
        let (mut gate, mut receivers) = gate(Partitioner::rebalance(0, 2), 2);
        (0..(5 * SEGMENT_LEN_BYTES / 24) as u64).for_each(|key| push(&mut gate, key));
        gate.flush().unwrap();
        while gate.senders()[0].is_blocked() {
            receive(&mut receivers[0]);
            gate.step();
        }
        assert!(gate.is_blocked());
        while gate.senders()[1].is_blocked() {
            receive(&mut receivers[1]);
            gate.step();
        }
        assert!(!gate.is_blocked());
    }
}
