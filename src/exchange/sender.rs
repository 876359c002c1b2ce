//! The sending end of a channel: writes records into segments, groups them into frames, decides when they are published.
//!
//! Flush policy: a frame is published when the segment is full, with every event, when the task ends a step and the consumer has
//! read everything, and 50 us after the first unpublished record at the latest. Low load: every record at once. High load: the
//! consumer is behind, so batches grow by themselves. A task that has no input left calls `flush`.
//!
//! Backpressure: a write never fails in the middle of a step while the budget permits. Beyond the credit the sender
//! keeps published segments in an overdraft queue; it is then blocked, and its task gets no further input until `step` sent them all.
//!
//! Invariant: segments are sent in the order in which they were begun; nothing overtakes the overdraft.

use super::channel::{ChannelCounters, ExchangeError, Shared};
use super::frame::{FRAME_ALIGN_BYTES, FRAME_HEADER_LEN_BYTES, FrameHeader, FrameOrigin, InBand};
use super::record_shape::{Lens, RecordHead, RecordShape, TimeBase, fixed_len, sized_len, write_fixed, write_sized};
use super::segment::{SEGMENT_LEN_BYTES, SegmentReader, SegmentWriter, pair};
use crate::memory::{Arena, BlockSize};
use crate::record::Stamp;
use crate::slot::Progress;
use crate::state::KeyGroup;
use crate::sync::atomic::{Ordering, fence};
use std::collections::VecDeque;
use std::sync::Arc;

/// The longest that a record waits for company while the consumer is busy with earlier ones.
const FLUSH_AFTER_NS: u64 = 50_000;

/// The producer's end. Belongs to one task; dropping it without `EndOfInput` leaves the receiver abandoned.
pub struct Sender {
    /// The frame being filled, with its segment.
    open: Option<OpenFrame>,
    /// The segment being filled while no frame is open.
    writer: Option<SegmentWriter>,
    shape: RecordShape,
    /// Those of the shape.
    lens: Lens,
    /// The reading half of the segment being filled until its first publication.
    unsent: Option<SegmentReader>,
    /// Published segments beyond the credit, oldest first; usually empty.
    overdraft: VecDeque<SegmentReader>,
    shared: Arc<Shared>,
    arena: Arena,
    who: &'static str,
    frames_published: u64,
    frames_closed: u64,
    /// The first time `flush_if_due` saw unpublished records and let them wait.
    waiting_since_ns: Option<u64>,
    counters: ChannelCounters,
}

struct OpenFrame {
    /// The segment it lies at the end of: here, so that one look shows whether a record can be written.
    writer: SegmentWriter,
    origin: FrameOrigin,
    base: TimeBase,
    start: usize,
    count: u32,
}

impl Sender {
    pub(super) fn new(shared: Arc<Shared>, who: &'static str, shape: RecordShape, arena: Arena) -> Self {
        Self {
            open: None,
            writer: None,
            shape,
            lens: shape.lens(),
            unsent: None,
            overdraft: VecDeque::new(),
            shared,
            arena,
            who,
            frames_published: 0,
            frames_closed: 0,
            waiting_since_ns: None,
            counters: ChannelCounters::default(),
        }
    }

    /// Writes one record, whose key is in `group`, behind the others; it is not visible before a flush. Goes beyond the credit rather than fail.
    ///
    /// # Errors
    /// `RecordTooLarge`, `Memory` when the budget has no segment left, `ReceiverGone`. The record was not taken then.
    ///
    /// # Panics
    /// Asserts that the lengths are those of the channel's shape.
    #[inline(always)]
    pub fn push(&mut self, stamp: &Stamp, group: KeyGroup, key: &[u8], payload: &[u8]) -> Result<(), ExchangeError> {
        if self.try_push(stamp, group, key, payload) {
            return Ok(());
        }
        with_copies(key, payload, |key, payload| self.push_behind(*stamp, group, key, payload))
    }

    /// Writes one record if there is room for it in the frame being filled; `false` when that has another origin or is full. Always inline: the
    /// lengths are then constants for fixed records, and the writes into the place are not checked again.
    #[inline(always)]
    pub(super) fn try_push(&mut self, stamp: &Stamp, group: KeyGroup, key: &[u8], payload: &[u8]) -> bool {
        let Some(OpenFrame { writer, origin, base, count, .. }) = &mut self.open else { return false };
        if *origin != FrameOrigin::of(stamp) {
            return false;
        }
        let Some(head) = RecordHead::of(stamp.at, group, *base) else { return false };
        if self.lens == Lens::fixed(key.len(), payload.len()) {
            let Some(place) = writer.append(fixed_len(key.len(), payload.len())) else { return false };
            write_fixed(place, head, key, payload);
        } else if self.shape == RecordShape::Sized {
            let Some(place) = writer.append(sized_len(key.len(), payload.len())) else { return false };
            write_sized(place, head, key, payload);
        } else {
            return false;
        }
        *count += 1;
        true
    }

    /// Writes one record into a frame of its own. Takes the stamp by value: by reference it would have to be in memory for every record.
    #[cold]
    #[inline(never)]
    pub(super) fn push_behind(
        &mut self,
        stamp: Stamp,
        group: KeyGroup,
        key: &[u8],
        payload: &[u8],
    ) -> Result<(), ExchangeError> {
        let (key_len, payload_len) = (key.len(), payload.len());
        let is_fixed = self.lens == Lens::fixed(key_len, payload_len);
        assert!(
            is_fixed || self.shape == RecordShape::Sized,
            "{}: a record with a key of {key_len} and a payload of {payload_len} bytes on a channel of {:?}",
            self.who,
            self.shape
        );
        let len = if is_fixed { fixed_len(key_len, payload_len) } else { sized_len(key_len, payload_len) };
        self.make_room(len)?;
        let mut writer = self.writer.take().expect("make_room left a segment");
        let start = writer.position();
        writer.append(FRAME_HEADER_LEN_BYTES).expect("make_room left room for the header");
        let origin = FrameOrigin::of(&stamp);
        self.open = Some(OpenFrame { writer, origin, base: TimeBase::around(stamp.at), start, count: 0 });
        assert!(self.try_push(&stamp, group, key, payload), "make_room left room for the record");
        Ok(())
    }

    /// Writes an event behind everything else and publishes all. After `EndOfInput` the sender is kept until it is no longer blocked.
    pub fn event(&mut self, event: InBand) -> Result<(), ExchangeError> {
        self.make_room(0)?;
        let header = FrameHeader::event(event);
        let room = self.writer.as_mut().and_then(|writer| writer.append(FRAME_HEADER_LEN_BYTES));
        room.expect("make_room left room for a header").copy_from_slice(bytemuck::bytes_of(&header));
        self.frame_closed(&header);
        self.flush()
    }

    /// Publishes everything written so far (one release store) and wakes the consumer if it sleeps.
    pub fn flush(&mut self) -> Result<(), ExchangeError> {
        self.close_frame();
        self.waiting_since_ns = None;
        if let Some(writer) = self.writer.as_mut().filter(|writer| writer.has_unpublished()) {
            writer.publish();
            self.published()?;
        }
        Ok(())
    }

    /// What a task calls at the end of each step: flushes when the consumer has read everything or records have waited for 50 us.
    pub fn flush_if_due(&mut self, now_ns: u64) -> Result<(), ExchangeError> {
        if !self.has_unpublished() {
            return Ok(());
        }
        let waiting_ns = now_ns.saturating_sub(*self.waiting_since_ns.get_or_insert(now_ns));
        if waiting_ns >= FLUSH_AFTER_NS || self.is_drained() {
            return self.flush();
        }
        Ok(())
    }

    /// Whether records wait for a flush.
    pub fn has_unpublished(&self) -> bool {
        let open = self.open.as_ref().map(|open| &open.writer);
        open.or(self.writer.as_ref()).is_some_and(SegmentWriter::has_unpublished)
    }

    /// Whether segments wait beyond the credit: the task must get no more input until `step` sent them.
    #[inline]
    pub fn is_blocked(&self) -> bool {
        !self.overdraft.is_empty()
    }

    /// Sends what waits beyond the credit, as far as there is credit now.
    pub fn step(&mut self) -> Progress {
        if self.overdraft.is_empty() {
            return Progress::Idle;
        }
        if self.shared.receiver_gone.load(Ordering::Acquire) {
            self.discard();
            return Progress::Worked;
        }
        let waiting = self.overdraft.len();
        self.send_overdraft();
        if self.overdraft.len() == waiting {
            return Progress::Idle;
        }
        self.shared.consumer.ring();
        Progress::Worked
    }

    /// What was written so far.
    pub fn counters(&self) -> ChannelCounters {
        self.counters
    }

    /// Who this channel is, for errors.
    pub fn who(&self) -> &'static str {
        self.who
    }

    #[inline]
    fn remaining(&self) -> usize {
        self.writer.as_ref().map_or(0, SegmentWriter::remaining)
    }

    /// Closes the open frame and sees to it that a new one of `len` bytes fits behind it.
    fn make_room(&mut self, len: usize) -> Result<(), ExchangeError> {
        const FRAME_CAPACITY: usize = SEGMENT_LEN_BYTES - FRAME_HEADER_LEN_BYTES;
        if len > FRAME_CAPACITY {
            let (record_bytes, segment_bytes) = (len, FRAME_CAPACITY);
            return Err(ExchangeError::RecordTooLarge { who: self.who, record_bytes, segment_bytes });
        }
        self.close_frame();
        if self.remaining() >= FRAME_HEADER_LEN_BYTES + len {
            return Ok(());
        }
        if let Some(full) = self.writer.take() {
            full.seal();
            self.published()?;
        }
        let (writer, reader) = self.next_segment()?;
        self.counters.segments += 1;
        self.writer = Some(writer);
        self.unsent = Some(reader);
        Ok(())
    }

    /// Writes the header of the frame that is being filled, if one is.
    fn close_frame(&mut self) {
        let Some(OpenFrame { mut writer, origin, base, start, count }) = self.open.take() else { return };
        let len = writer.position() - start - FRAME_HEADER_LEN_BYTES;
        let header = FrameHeader::records(&origin, base, count, len);
        writer.unpublished_mut(start)[..FRAME_HEADER_LEN_BYTES].copy_from_slice(bytemuck::bytes_of(&header));
        // Always fits: segments end at a multiple of the alignment.
        let _padding = writer.append(len.next_multiple_of(FRAME_ALIGN_BYTES) - len);
        self.writer = Some(writer);
        self.frame_closed(&header);
    }

    fn frame_closed(&mut self, header: &FrameHeader) {
        self.frames_closed += 1;
        self.counters.records += header.count() as u64;
        self.counters.bytes += header.frame_len() as u64;
    }

    /// After bytes of a segment became visible: sends the segment if it is a new one, and wakes the consumer.
    fn published(&mut self) -> Result<(), ExchangeError> {
        self.frames_published = self.frames_closed;
        if self.shared.receiver_gone.load(Ordering::Acquire) {
            self.discard();
            return Err(ExchangeError::ReceiverGone { who: self.who });
        }
        if let Some(reader) = self.unsent.take() {
            self.overdraft.push_back(reader);
            self.send_overdraft();
        }
        self.shared.consumer.ring();
        Ok(())
    }

    /// Moves segments into the queue while it has room, and says in `producer_blocked` whether some are left.
    fn send_overdraft(&mut self) {
        self.send_while_credit();
        let blocked = &self.shared.producer_blocked.0;
        if self.overdraft.is_empty() {
            if blocked.load(Ordering::Relaxed) {
                blocked.store(false, Ordering::Relaxed);
            }
            return;
        }
        // Announce, then look once more: the consumer takes a segment first and looks at the flag afterwards, both with a
        // fence in between, so that one of them sees the other and no wake-up is lost.
        blocked.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        self.send_while_credit();
    }

    fn send_while_credit(&mut self) {
        while let Some(reader) = self.overdraft.pop_front() {
            if let Err(reader) = self.shared.sent.push(reader) {
                self.overdraft.push_front(reader);
                return;
            }
        }
    }

    /// A segment that came back, or one more from the arena.
    fn next_segment(&mut self) -> Result<(SegmentWriter, SegmentReader), ExchangeError> {
        while let Some(spent) = self.shared.spent.pop() {
            // The writing half was dropped when the segment was sealed; were it not so, the segment would just go back to the arena.
            if let Ok(renewed) = spent.renew() {
                return Ok(renewed);
            }
        }
        Ok(pair(self.arena.take(self.who, BlockSize::K32)?))
    }

    fn is_drained(&self) -> bool {
        self.shared.frames_consumed.0.load(Ordering::Relaxed) == self.frames_published
    }

    /// The consumer is gone: gives back everything that only it could have read.
    fn discard(&mut self) {
        self.overdraft.clear();
        self.unsent = None;
        self.open = None;
        self.writer = None;
        while self.shared.sent.pop().is_some() {}
    }
}

/// Hands copies of a short key and payload to whoever is not inlined. A record whose own address went there would lie in memory, where its fields are
/// stored one by one and copied from as one: the processor makes such a copy wait until all stores before it are done, those
/// into segments that another core reads among them.
#[inline(always)]
pub(super) fn with_copies<R>(key: &[u8], payload: &[u8], give: impl FnOnce(&[u8], &[u8]) -> R) -> R {
    const SHORT: usize = 128;
    if key.len() > SHORT || payload.len() > SHORT {
        return give(key, payload);
    }
    let (mut key_copy, mut payload_copy) = ([0; SHORT], [0; SHORT]);
    key_copy[..key.len()].copy_from_slice(key);
    payload_copy[..payload.len()].copy_from_slice(payload);
    give(&key_copy[..key.len()], &payload_copy[..payload.len()])
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.shared.sender_gone.store(true, Ordering::Release);
        self.shared.consumer.ring();
    }
}

impl std::fmt::Debug for Sender {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sender").field("who", &self.who).field("counters", &self.counters).finish_non_exhaustive()
    }
}
