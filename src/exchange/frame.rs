//! A frame: the unit in which a channel publishes. Consecutive records of one origin, or one in-band event.
//!
//! Here: the header's bytes, the in-band events. Not here: how one record lies in a frame (`record_shape`), when a frame
//! is closed and published (`channel`).
//!
//! ```text
//!  offset  0       4       8         12      16       24          32     40     48                       48 + len
//!          | kind  | count | len u32 | split | clock  | origin_ns | base | zero | count records, len bytes | zero to 15 bytes up to
//!            u32     u32               u32     i64      u64         i64    u64                                a multiple of 16
//! ```
//! The records' event times are counted from `base`. Frames follow each other from the beginning of a segment, each at a multiple of 16
//! bytes, none crosses its end. An in-band event has `len` 0 and carries its value in `clock`. Native little-endian; frames never leave the process.

use super::record_shape::{Known, RecordRefs, RecordShape, Shaped, TimeBase};
use crate::checkpoint::CheckpointId;
use crate::record::Stamp;
use crate::time::EventTimeMs;
use bytemuck::{Pod, Zeroable};

/// Every frame begins at a multiple of this many bytes, so that an archived payload does too.
pub const FRAME_ALIGN_BYTES: usize = 16;

/// The bytes in front of a frame's records.
pub const FRAME_HEADER_LEN_BYTES: usize = size_of::<FrameHeader>();
const _: () = assert!(FRAME_HEADER_LEN_BYTES.is_multiple_of(FRAME_ALIGN_BYTES));

/// What travels between the records of a channel, in order with them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InBand {
    /// No record at or before this time follows on this channel.
    Watermark(EventTimeMs),
    /// This channel is silent and must not hold back the watermark.
    Idle,
    /// This channel speaks again.
    Active,
    /// Everything before belongs into the checkpoint, everything after does not.
    Barrier(CheckpointId),
    /// The checkpoint was given up; its barrier must not be waited for.
    CancelBarrier(CheckpointId),
    /// The last thing on this channel.
    EndOfInput,
}

/// What a receiver is shown next.
#[derive(Clone, Debug)]
pub enum Delivery<'a> {
    /// Records of one origin.
    Records(RecordFrame<'a>),
    /// An event.
    Event(InBand),
}

/// Consecutive records with the same split, clock and origin.
#[derive(Clone, Copy, Debug)]
pub struct RecordFrame<'a> {
    header: &'a FrameHeader,
    records: &'a [u8],
    shape: RecordShape,
    /// What is published behind it in the same segment.
    behind: &'a [u8],
}

#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(super) struct FrameHeader {
    kind: u32,
    count: u32,
    len: u32,
    split: u32,
    clock: i64,
    origin_ns: u64,
    base: TimeBase,
    padding: u64,
}

const RECORDS: u32 = 1;
const WATERMARK: u32 = 2;
const IDLE: u32 = 3;
const ACTIVE: u32 = 4;
const BARRIER: u32 = 5;
const CANCEL_BARRIER: u32 = 6;
const END_OF_INPUT: u32 = 7;

impl<'a> RecordFrame<'a> {
    /// The split all these records came from.
    #[inline]
    pub fn split(&self) -> u32 {
        self.header.split
    }

    /// The clock by which these records are judged late.
    #[inline]
    pub fn clock(&self) -> EventTimeMs {
        EventTimeMs(self.header.clock)
    }

    /// When the source meant to emit them.
    #[inline]
    pub fn origin_ns(&self) -> u64 {
        self.header.origin_ns
    }

    /// How many records; never zero.
    #[inline]
    pub fn count(&self) -> usize {
        self.header.count as usize
    }

    /// The bytes of all records with their headers and padding.
    pub fn len_bytes(&self) -> usize {
        self.records.len()
    }

    /// The records, oldest first.
    #[inline]
    pub fn records(&self) -> RecordRefs<'a> {
        self.shape.read(self.records, self.header.base)
    }

    /// The same where the compiler knows the shape: reading a record then is a few moves.
    ///
    /// # Panics
    /// Asserts that it is the shape of this frame's records.
    #[inline(always)]
    pub fn records_of<T: Shaped>(&self) -> RecordRefs<'a, Known<T>> {
        let expected = T::shape();
        assert!(expected == self.shape, "a frame of {:?} where {expected:?} was expected", self.shape);
        RecordRefs::known(self.records, self.header.base)
    }

    /// The frame of records behind this one on the same channel, if it is already known: for those that look ahead.
    pub fn following(&self) -> Option<RecordFrame<'a>> {
        let mut behind = self.behind;
        while !behind.is_empty() {
            match FrameHeader::deliver(behind, self.shape) {
                Delivery::Records(frame) => return Some(frame),
                Delivery::Event(_) => behind = &behind[FrameHeader::of(behind).frame_len()..],
            }
        }
        None
    }

    /// The stamp of a record of this frame.
    #[inline]
    pub fn stamp(&self, at: EventTimeMs) -> Stamp {
        Stamp { at, clock: self.clock(), split: self.split(), origin_ns: self.origin_ns() }
    }
}

impl FrameHeader {
    pub(super) fn records(origin: &FrameOrigin, base: TimeBase, count: u32, len: usize) -> Self {
        let FrameOrigin { split, clock, origin_ns } = *origin;
        Self { kind: RECORDS, count, len: len as u32, split, clock: clock.0, origin_ns, base, padding: 0 }
    }

    pub(super) fn event(event: InBand) -> Self {
        let (kind, value) = match event {
            InBand::Watermark(at) => (WATERMARK, at.0),
            InBand::Idle => (IDLE, 0),
            InBand::Active => (ACTIVE, 0),
            InBand::Barrier(id) => (BARRIER, id.0 as i64),
            InBand::CancelBarrier(id) => (CANCEL_BARRIER, id.0 as i64),
            InBand::EndOfInput => (END_OF_INPUT, 0),
        };
        Self { kind, clock: value, ..Self::zeroed() }
    }

    /// The header of the frame that `bytes` begin with.
    #[inline]
    pub(super) fn of(bytes: &[u8]) -> &Self {
        bytemuck::from_bytes(&bytes[..FRAME_HEADER_LEN_BYTES])
    }

    /// How many records the frame holds.
    #[inline]
    pub(super) fn count(&self) -> usize {
        self.count as usize
    }

    /// From this frame to the next.
    #[inline]
    pub(super) fn frame_len(&self) -> usize {
        FRAME_HEADER_LEN_BYTES + (self.len as usize).next_multiple_of(FRAME_ALIGN_BYTES)
    }

    #[inline]
    pub(super) fn is_end_of_input(&self) -> bool {
        self.kind == END_OF_INPUT
    }

    /// The frame that `bytes` begin with.
    #[inline]
    pub(super) fn deliver(bytes: &[u8], shape: RecordShape) -> Delivery<'_> {
        let header = Self::of(bytes);
        let checkpoint = CheckpointId(header.clock as u64);
        Delivery::Event(match header.kind {
            RECORDS => {
                let records = &bytes[FRAME_HEADER_LEN_BYTES..][..header.len as usize];
                return Delivery::Records(RecordFrame { header, records, shape, behind: &bytes[header.frame_len()..] });
            }
            WATERMARK => InBand::Watermark(EventTimeMs(header.clock)),
            IDLE => InBand::Idle,
            ACTIVE => InBand::Active,
            BARRIER => InBand::Barrier(checkpoint),
            CANCEL_BARRIER => InBand::CancelBarrier(checkpoint),
            END_OF_INPUT => InBand::EndOfInput,
            kind => unreachable!("frame kind {kind}: only `FrameHeader` writes frames, and it writes seven kinds"),
        })
    }
}

/// What all records of one frame have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FrameOrigin {
    pub(super) split: u32,
    pub(super) clock: EventTimeMs,
    pub(super) origin_ns: u64,
}

impl FrameOrigin {
    #[inline]
    pub(super) fn of(stamp: &Stamp) -> Self {
        Self { split: stamp.split, clock: stamp.clock, origin_ns: stamp.origin_ns }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_event_comes_back_as_it_went() {
        let events = [
            InBand::Watermark(EventTimeMs::MIN),
            InBand::Watermark(EventTimeMs(-5)),
            InBand::Idle,
            InBand::Active,
            InBand::Barrier(CheckpointId(u64::MAX)),
            InBand::CancelBarrier(CheckpointId(7)),
            InBand::EndOfInput,
        ];
        for event in events {
            let header = FrameHeader::event(event);
            let shown = FrameHeader::deliver(bytemuck::bytes_of(&header), RecordShape::Sized);
            assert!(matches!(shown, Delivery::Event(back) if back == event), "{event:?}");
            assert_eq!(header.frame_len(), FRAME_HEADER_LEN_BYTES);
        }
    }
}
