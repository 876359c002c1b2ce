//! The receiving side of a task: all its channels, read in turn.
//!
//! Here: which channel is read next, which ones barrier alignment holds back. Not here: when a channel is held back
//! (`checkpoint`), what a watermark of one channel means for all (`time`).
//!
//! Invariant: a channel that has something and is not blocked is shown after at most one frame of each other channel.

use super::channel::ChannelCounters;
use super::frame::Delivery;
use super::receiver::Receiver;

/// One of a gate's channels, by the order in which they were given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChannelIndex(pub usize);

/// The receivers of one edge, or of several for a union.
#[derive(Debug)]
pub struct InputGate {
    channels: Vec<InputChannel>,
    /// The channel looked at first.
    next: usize,
}

#[derive(Debug)]
struct InputChannel {
    receiver: Receiver,
    blocked: bool,
}

impl InputGate {
    /// A gate over these channels, none blocked.
    pub fn new(receivers: impl IntoIterator<Item = Receiver>) -> Self {
        let channels = receivers.into_iter().map(|receiver| InputChannel { receiver, blocked: false }).collect();
        Self { channels, next: 0 }
    }

    /// The next frame or event of some channel that is not blocked; the same one until `advance`.
    #[inline]
    pub fn peek(&mut self) -> Option<(ChannelIndex, Delivery<'_>)> {
        self.next = self.find()?;
        let delivery = self.channels[self.next].receiver.peek()?;
        Some((ChannelIndex(self.next), delivery))
    }

    /// Done with what `peek` showed; the following channel is looked at first from now on.
    #[inline]
    pub fn advance(&mut self) {
        let Some(channel) = self.channels.get_mut(self.next) else { return };
        channel.receiver.advance();
        self.next = self.after(self.next);
    }

    /// Holds a channel back until `unblock_all`.
    pub fn block(&mut self, channel: ChannelIndex) {
        self.channels[channel.0].blocked = true;
    }

    /// Holds no channel back any more.
    pub fn unblock_all(&mut self) {
        self.channels.iter_mut().for_each(|channel| channel.blocked = false);
    }

    /// Whether a channel is held back.
    pub fn is_blocked(&self, channel: ChannelIndex) -> bool {
        self.channels[channel.0].blocked
    }

    /// How many channels there are.
    pub fn channel_count(&self) -> usize {
        self.channels.len()
    }

    /// Whether `EndOfInput` of one channel was consumed.
    pub fn is_channel_ended(&self, channel: ChannelIndex) -> bool {
        self.channels[channel.0].receiver.is_ended()
    }

    /// Whether `EndOfInput` of every channel was consumed.
    pub fn is_ended(&self) -> bool {
        self.channels.iter().all(|channel| channel.receiver.is_ended())
    }

    /// A channel whose producer is gone without `EndOfInput`, everything it published being consumed.
    pub fn abandoned(&mut self) -> Option<ChannelIndex> {
        self.channels.iter_mut().position(|channel| channel.receiver.is_abandoned()).map(ChannelIndex)
    }

    /// What was consumed so far, over all channels.
    pub fn counters(&self) -> ChannelCounters {
        self.channels.iter().fold(ChannelCounters::default(), |mut sum, channel| {
            sum += channel.receiver.counters();
            sum
        })
    }

    /// The first channel from `next` on, once around, that may show something and has something.
    #[inline]
    fn find(&mut self) -> Option<usize> {
        let mut index = self.next;
        for _ in 0..self.channels.len() {
            let channel = &mut self.channels[index];
            if !channel.blocked && channel.receiver.has_delivery() {
                return Some(index);
            }
            index = self.after(index);
        }
        None
    }

    #[inline]
    fn after(&self, index: usize) -> usize {
        if index + 1 < self.channels.len() { index + 1 } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exchange::channel::tests::{SHAPE, options};
    use crate::exchange::{InBand, Sender, channel};
    use crate::time::EventTimeMs;

    fn gate(channels: usize) -> (Vec<Sender>, InputGate) {
        let (senders, receivers): (Vec<_>, Vec<_>) = (0..channels).map(|_| channel(options(SHAPE, 4))).unzip();
        (senders, InputGate::new(receivers))
    }

    fn take(gate: &mut InputGate) -> Option<(usize, InBand)> {
        let (ChannelIndex(channel), delivery) = gate.peek()?;
        let Delivery::Event(event) = delivery else { panic!("only events are sent here") };
        gate.advance();
        Some((channel, event))
    }

    #[test]
    fn channels_that_all_have_something_take_turns() {
        let (mut senders, mut gate) = gate(3);
        for sender in &mut senders {
            sender.event(InBand::Idle).unwrap();
            sender.event(InBand::Active).unwrap();
        }
        let order: Vec<_> = std::iter::from_fn(|| take(&mut gate)).map(|(channel, _)| channel).collect();
        assert_eq!(order, [0, 1, 2, 0, 1, 2]);
    }

    #[test]
    fn a_blocked_channel_shows_nothing_until_it_is_unblocked() {
        let (mut senders, mut gate) = gate(2);
        for sender in &mut senders {
            sender.event(InBand::Watermark(EventTimeMs(1))).unwrap();
        }
        gate.block(ChannelIndex(0));
        assert_eq!(take(&mut gate), Some((1, InBand::Watermark(EventTimeMs(1)))));
        assert_eq!(take(&mut gate), None);
        gate.unblock_all();
        assert_eq!(take(&mut gate), Some((0, InBand::Watermark(EventTimeMs(1)))));
    }

    #[test]
    fn what_was_shown_is_shown_again_until_it_is_advanced() {
        let (mut senders, mut gate) = gate(2);
        senders[1].event(InBand::Idle).unwrap();
        assert!(matches!(gate.peek(), Some((ChannelIndex(1), Delivery::Event(InBand::Idle)))));
        senders[0].event(InBand::Active).unwrap();
        assert!(matches!(gate.peek(), Some((ChannelIndex(1), Delivery::Event(InBand::Idle)))));
    }

    #[test]
    fn a_gate_ends_with_its_last_channel_and_names_an_abandoned_one() {
        let (mut senders, mut gate) = gate(2);
        senders[0].event(InBand::EndOfInput).unwrap();
        drop(senders.pop());
        take(&mut gate);
        assert!(gate.is_channel_ended(ChannelIndex(0)) && !gate.is_ended());
        assert_eq!(gate.abandoned(), Some(ChannelIndex(1)));
    }
}
