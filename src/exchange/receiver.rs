//! The receiving end of a channel: shows frames in place, one after the other, and sends spent segments back.
//!
//! Not here: which channel is read next (`input_gate`).

use super::channel::{ChannelCounters, Shared};
use super::frame::{Delivery, FrameHeader};
use super::record_shape::RecordShape;
use super::segment::{Refreshed, SegmentReader};
use crate::sync::atomic::{Ordering, fence};
use std::sync::Arc;

/// The consumer's end. Belongs to one task.
pub struct Receiver {
    /// The segment being read.
    reader: Option<SegmentReader>,
    /// Where in it the next frame begins.
    position: usize,
    shape: RecordShape,
    shared: Arc<Shared>,
    frames_consumed: u64,
    ended: bool,
    counters: ChannelCounters,
}

impl Receiver {
    pub(super) fn new(shared: Arc<Shared>, shape: RecordShape) -> Self {
        let counters = ChannelCounters::default();
        Self { reader: None, position: 0, shape, shared, frames_consumed: 0, ended: false, counters }
    }

    /// The next frame or event, if one is published; the same one until `advance`.
    #[inline]
    pub fn peek(&mut self) -> Option<Delivery<'_>> {
        if !self.has_delivery() {
            return None;
        }
        self.reader.as_ref().map(|reader| FrameHeader::deliver(&reader.readable()[self.position..], self.shape))
    }

    /// Whether `peek` would show something. One acquire load when there is nothing.
    #[inline]
    pub fn has_delivery(&mut self) -> bool {
        self.reader.as_ref().is_some_and(|reader| self.position < reader.readable_len()) || self.look_further()
    }

    /// Done with what `peek` showed. Does nothing when there was nothing to show.
    #[inline]
    pub fn advance(&mut self) {
        let Some(rest) = self.reader.as_ref().and_then(|reader| reader.readable().get(self.position..)) else { return };
        if rest.is_empty() {
            return;
        }
        let header = FrameHeader::of(rest);
        self.position += header.frame_len();
        self.counters.records += header.count() as u64;
        self.counters.bytes += header.frame_len() as u64;
        self.ended |= header.is_end_of_input();
        self.frames_consumed += 1;
        // A hint for the producer's flush policy: no data hangs on it, so it needs no ordering.
        self.shared.frames_consumed.0.store(self.frames_consumed, Ordering::Relaxed);
    }

    /// Whether `EndOfInput` was consumed.
    pub fn is_ended(&self) -> bool {
        self.ended
    }

    /// Whether the producer is gone without `EndOfInput`, and everything it published was consumed.
    pub fn is_abandoned(&mut self) -> bool {
        !self.ended && self.shared.sender_gone.load(Ordering::Acquire) && !self.has_delivery()
    }

    /// What was consumed so far.
    pub fn counters(&self) -> ChannelCounters {
        self.counters
    }

    /// How every record of this channel lies in memory.
    pub fn shape(&self) -> RecordShape {
        self.shape
    }

    /// Everything known was consumed: looks at the writer's half, then for the next segment.
    fn look_further(&mut self) -> bool {
        loop {
            let Some(reader) = &mut self.reader else {
                let Some(next) = self.shared.sent.pop() else { return false };
                self.reader = Some(next);
                self.position = 0;
                self.counters.segments += 1;
                self.credit_freed();
                continue;
            };
            match reader.refresh() {
                Refreshed::More => return true,
                Refreshed::Nothing => return false,
                Refreshed::Sealed => {
                    // When the queue is full, overdraft brought more segments than the channel needs: this one returns to the arena.
                    self.reader.take().map(|spent| self.shared.spent.push(spent).is_ok());
                }
            }
        }
    }

    /// A place in the queue became free: wakes a producer that said it waits for one, once half of the queue is free. Waking costs
    /// the waker about 10 us, as much as reading a segment, so it is not done for every segment; what is left in the queue keeps the
    /// consumer busy meanwhile. Nothing is missed: a producer that still waits has filled the queue after its announcement.
    fn credit_freed(&self) {
        fence(Ordering::SeqCst);
        if self.shared.producer_blocked.0.load(Ordering::Relaxed)
            && self.shared.sent.len() <= self.shared.sent.capacity() / 2
        {
            self.shared.producer.ring();
        }
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.shared.receiver_gone.store(true, Ordering::Release);
        self.shared.producer.ring();
    }
}

impl std::fmt::Debug for Receiver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Receiver").field("counters", &self.counters).field("ended", &self.ended).finish_non_exhaustive()
    }
}
