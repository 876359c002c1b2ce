//! How one record lies in a frame: fixed once per channel, so that neither side decodes anything.
//!
//! ```text
//!  Fixed   | head u64 | key, zero to 7 bytes of padding | payload, zero to 7 bytes of padding |      at multiples of 8
//!  Sized   | head u64 | key_len u32 | payload_len u32 | key, padded to 16 | payload, padded to 16 |  at multiples of 16
//!
//!  head    48 bits: event time less the frame's base | 16 bits: key group
//! ```
//! The sender has computed the key group to find the channel; it travels, because to compute it costs as much as to read the record.
//! Padding holds whatever was there before. A fixed payload lies at a multiple of 8 bytes, a sized one at a multiple of 16, where
//! rkyv archives are read in place.

use crate::state::KeyGroup;
use crate::time::EventTimeMs;
use bytemuck::{Pod, Zeroable};
use std::marker::PhantomData;

const FIXED_ALIGN_BYTES: usize = 8;
const SIZED_ALIGN_BYTES: usize = 16;
const HEAD_LEN_BYTES: usize = size_of::<RecordHead>();
const SIZED_HEADER_LEN_BYTES: usize = 16;

/// Whether all records of a channel have the same lengths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordShape {
    /// Every record has these lengths, in bytes.
    Fixed {
        /// Of the key; 0 on edges without keys.
        key_len: u32,
        /// Of the payload.
        payload_len: u32,
    },
    /// Every record states its lengths.
    Sized,
}

/// One record, read in place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordRef<'a> {
    /// Its event time.
    pub at: EventTimeMs,
    /// Its key's key group; 0 on edges without keys.
    pub group: KeyGroup,
    /// Its key's bytes, aligned to 8; empty on edges without keys.
    pub key: &'a [u8],
    /// Its payload, aligned to 8 (fixed) or 16 (sized).
    pub payload: &'a [u8],
}

/// The records of one frame.
#[derive(Clone, Debug)]
pub struct RecordRefs<'a, L = Layout> {
    rest: &'a [u8],
    layout: L,
    base: TimeBase,
}

/// A type of records that all have the same shape.
pub trait Shaped {
    /// How they lie in a frame.
    fn shape() -> RecordShape;
}

/// What says where the parts of the next record lie.
pub trait LayoutOf: Copy {
    /// It says so.
    fn layout(self) -> Layout;
}

/// From where the event times of a frame count: as far before its first record as others may lie behind it. Times wrap around.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(transparent)]
pub(super) struct TimeBase(i64);

impl TimeBase {
    /// Of a frame whose first record is at `first_at`.
    #[inline]
    pub fn around(first_at: EventTimeMs) -> Self {
        Self(first_at.0.wrapping_sub(1 << 47))
    }
}

/// Event time and key group of a record, in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RecordHead(u64);

impl RecordHead {
    /// In a frame whose times count from `base`; `None` when this one lies before it or more than 8 000 years behind it.
    #[inline(always)]
    pub fn of(at: EventTimeMs, group: KeyGroup, base: TimeBase) -> Option<Self> {
        // What does not fit comes round to where the key group goes.
        let since = at.0.wrapping_sub(base.0).cast_unsigned().rotate_left(u16::BITS);
        (since as u16 == 0).then_some(Self(since | u64::from(group.0)))
    }

    #[inline(always)]
    fn at(self, base: TimeBase) -> EventTimeMs {
        EventTimeMs(base.0.wrapping_add((self.0 >> u16::BITS).cast_signed()))
    }

    #[inline(always)]
    fn group(self) -> KeyGroup {
        KeyGroup(self.0 as u16)
    }
}

/// Where the parts of a record lie, computed once per frame for fixed records.
#[derive(Clone, Copy, Debug)]
pub enum Layout {
    Fixed { len: usize, key_len: usize, payload_at: usize, payload_len: usize },
    Sized,
}

/// That of a type. It takes no memory, so the compiler has the lengths at hand wherever a record is read: those in memory are loaded and
/// compared again for each.
#[derive(Debug)]
pub struct Known<T>(PhantomData<fn() -> T>);

impl LayoutOf for Layout {
    #[inline(always)]
    fn layout(self) -> Layout {
        self
    }
}

impl<T> Clone for Known<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Known<T> {}

impl<T: Shaped> LayoutOf for Known<T> {
    #[inline(always)]
    fn layout(self) -> Layout {
        T::shape().layout()
    }
}

/// A shape in one word; of sized records another one than that of any lengths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Lens(u64);

impl Lens {
    #[inline(always)]
    pub const fn fixed(key_len: usize, payload_len: usize) -> Self {
        Self((key_len as u64) << 32 | payload_len as u64)
    }
}

impl RecordShape {
    /// The shape of records whose keys and payloads are `Pod` values of these types.
    pub const fn fixed<K, P>() -> Self {
        Self::Fixed { key_len: size_of::<K>() as u32, payload_len: size_of::<P>() as u32 }
    }

    /// In one word, which is compared at once.
    #[inline(always)]
    pub(super) fn lens(self) -> Lens {
        match self {
            Self::Fixed { key_len, payload_len } => Lens::fixed(key_len as usize, payload_len as usize),
            Self::Sized => Lens(u64::MAX),
        }
    }

    #[inline(always)]
    fn layout(self) -> Layout {
        match self {
            Self::Fixed { key_len, payload_len } => {
                let (key_len, payload_len) = (key_len as usize, payload_len as usize);
                let payload_at = fixed_payload_at(key_len);
                Layout::Fixed { len: fixed_len(key_len, payload_len), key_len, payload_at, payload_len }
            }
            Self::Sized => Layout::Sized,
        }
    }

    #[inline(always)]
    pub(super) fn read(self, records: &[u8], base: TimeBase) -> RecordRefs<'_> {
        RecordRefs { rest: records, layout: self.layout(), base }
    }
}

impl<'a, T: Shaped> RecordRefs<'a, Known<T>> {
    /// Records of this type.
    #[inline(always)]
    pub(super) fn known(records: &'a [u8], base: TimeBase) -> Self {
        Self { rest: records, layout: Known(PhantomData), base }
    }
}

/// How many bytes a fixed record takes.
#[inline]
pub(super) const fn fixed_len(key_len: usize, payload_len: usize) -> usize {
    fixed_payload_at(key_len) + payload_len.next_multiple_of(FIXED_ALIGN_BYTES)
}

#[inline]
const fn fixed_payload_at(key_len: usize) -> usize {
    HEAD_LEN_BYTES + key_len.next_multiple_of(FIXED_ALIGN_BYTES)
}

/// How many bytes a sized record takes.
#[inline]
pub(super) const fn sized_len(key_len: usize, payload_len: usize) -> usize {
    sized_payload_at(key_len) + payload_len.next_multiple_of(SIZED_ALIGN_BYTES)
}

#[inline]
const fn sized_payload_at(key_len: usize) -> usize {
    SIZED_HEADER_LEN_BYTES + key_len.next_multiple_of(SIZED_ALIGN_BYTES)
}

/// Writes a record into the `fixed_len` bytes of `into`: a few moves when the lengths are known to the compiler.
#[inline]
pub(super) fn write_fixed(into: &mut [u8], head: RecordHead, key: &[u8], payload: &[u8]) {
    into[..HEAD_LEN_BYTES].copy_from_slice(&head.0.to_ne_bytes());
    into[HEAD_LEN_BYTES..][..key.len()].copy_from_slice(key);
    into[fixed_payload_at(key.len())..][..payload.len()].copy_from_slice(payload);
}

/// Writes a record into the `sized_len` bytes of `into`.
#[inline]
pub(super) fn write_sized(into: &mut [u8], head: RecordHead, key: &[u8], payload: &[u8]) {
    into[..HEAD_LEN_BYTES].copy_from_slice(&head.0.to_ne_bytes());
    into[8..12].copy_from_slice(&(key.len() as u32).to_ne_bytes());
    into[12..16].copy_from_slice(&(payload.len() as u32).to_ne_bytes());
    into[SIZED_HEADER_LEN_BYTES..][..key.len()].copy_from_slice(key);
    into[sized_payload_at(key.len())..][..payload.len()].copy_from_slice(payload);
}

impl<'a, L: LayoutOf> Iterator for RecordRefs<'a, L> {
    type Item = RecordRef<'a>;

    // Always: out of line, the caller cannot keep the cursor in registers, which costs as much as reading the record.
    #[inline(always)]
    fn next(&mut self) -> Option<RecordRef<'a>> {
        match self.layout.layout() {
            Layout::Fixed { len, key_len, payload_at, payload_len } => {
                let (record, rest) = self.rest.split_at_checked(len)?;
                self.rest = rest;
                let (head, after) = record.split_first_chunk()?;
                let (key, payload) = (after.get(..key_len)?, record.get(payload_at..)?.get(..payload_len)?);
                Some(RecordRef::of(*head, self.base, key, payload))
            }
            Layout::Sized => {
                let (record, rest) = first_sized(self.rest, self.base)?;
                self.rest = rest;
                Some(record)
            }
        }
    }
}

impl<'a> RecordRef<'a> {
    #[inline(always)]
    fn of(head: [u8; HEAD_LEN_BYTES], base: TimeBase, key: &'a [u8], payload: &'a [u8]) -> Self {
        let head = RecordHead(u64::from_ne_bytes(head));
        Self { at: head.at(base), group: head.group(), key, payload }
    }
}

/// The first of sized records and what is behind it. Not a method of `RecordRefs`: a cursor whose address is taken lies in memory.
fn first_sized(records: &[u8], base: TimeBase) -> Option<(RecordRef<'_>, &[u8])> {
    let head = *records.first_chunk()?;
    let (key_len, payload_len) = (u32_at(records, 8) as usize, u32_at(records, 12) as usize);
    let (record, rest) = records.split_at(sized_len(key_len, payload_len));
    let (key, payload) = (&record[SIZED_HEADER_LEN_BYTES..], &record[sized_payload_at(key_len)..]);
    Some((RecordRef::of(head, base, &key[..key_len], &payload[..payload_len]), rest))
}

#[inline]
fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytemuck::pod_read_unaligned(&bytes[at..at + 4])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn base() -> TimeBase {
        TimeBase::around(EventTimeMs(100))
    }

    fn write(shape: RecordShape, records: &[(i64, &[u8], &[u8])]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for &(at, key, payload) in records {
            let start = bytes.len();
            let head = RecordHead::of(EventTimeMs(at), KeyGroup(7), base()).unwrap();
            match shape {
                RecordShape::Fixed { .. } => {
                    bytes.resize(start + fixed_len(key.len(), payload.len()), 0xEE);
                    write_fixed(&mut bytes[start..], head, key, payload);
                }
                RecordShape::Sized => {
                    bytes.resize(start + sized_len(key.len(), payload.len()), 0xEE);
                    write_sized(&mut bytes[start..], head, key, payload);
                }
            }
        }
        bytes
    }

    fn round_trip(shape: RecordShape, records: &[(i64, &[u8], &[u8])]) {
        let bytes = write(shape, records);
        let read: Vec<_> = shape.read(&bytes, base()).map(|r| (r.at.0, r.key, r.payload)).collect();
        assert_eq!(read, records);
    }

    #[test]
    fn fixed_records_come_back_whatever_their_lengths_are() {
        for (key_len, payload_len) in [(0, 0), (0, 8), (8, 24), (3, 5), (1, 16)] {
            let shape = RecordShape::Fixed { key_len, payload_len };
            let (key, payload) = (vec![7; key_len as usize], vec![9; payload_len as usize]);
            round_trip(shape, &[(1, &key, &payload), (-(1 << 46), &key, &payload)]);
        }
    }

    #[test]
    fn sized_records_come_back_whatever_their_lengths_are() {
        round_trip(
            RecordShape::Sized,
            &[(1, b"", b""), (-2, b"key", b""), (3, b"", &[5; 100]), (4, &[1; 17], &[2; 33])],
        );
    }

    #[test]
    fn a_head_holds_every_key_group_and_every_time_up_to_4_000_years_from_that_of_the_first_record() {
        let near = (1 << 47) - 1;
        for first_at in [0, 1_700_000_000_000, i64::MIN, i64::MAX] {
            for since in [0, 1, -1, near, -near - 1] {
                for group in [0, 1, 127, 32_767] {
                    let at = EventTimeMs(first_at.wrapping_add(since));
                    let base = TimeBase::around(EventTimeMs(first_at));
                    let head = RecordHead::of(at, KeyGroup(group), base).unwrap();
                    assert_eq!((head.at(base), head.group()), (at, KeyGroup(group)));
                }
            }
            for since in [near + 1, -near - 2, i64::MIN] {
                let at = EventTimeMs(first_at.wrapping_add(since));
                assert_eq!(RecordHead::of(at, KeyGroup(1), TimeBase::around(EventTimeMs(first_at))), None);
            }
        }
    }

    #[test]
    fn every_sized_payload_lies_at_a_multiple_of_16_from_the_first_record() {
        let (keys, payloads) = ([b"", &b"k"[..], &[1; 16], &[1; 17]], [&[2; 1][..], &[2; 20], &[2; 16], &[2; 5]]);
        let records: Vec<_> = keys.into_iter().zip(payloads).map(|(key, payload)| (0, key, payload)).collect();
        let bytes = write(RecordShape::Sized, &records);
        let start = bytes.as_ptr().addr();
        assert!(
            RecordShape::Sized.read(&bytes, base()).all(|r| (r.payload.as_ptr().addr() - start).is_multiple_of(16))
        );
    }
}
