//! How one record lies in a frame: fixed once per channel, so that neither side decodes anything.
//!
//! ```text
//!  Fixed   | at i64 | key, zero to 7 bytes of padding | payload, zero to 7 bytes of padding |      at multiples of 8
//!  Sized   | at i64 | key_len u32 | payload_len u32 | key, padded to 16 | payload, padded to 16 |  at multiples of 16
//! ```
//! Padding holds whatever was there before. A fixed payload lies at a multiple of 8 bytes, a sized one at a multiple of 16, where
//! rkyv archives are read in place.

use crate::time::EventTimeMs;

const FIXED_ALIGN_BYTES: usize = 8;
const SIZED_ALIGN_BYTES: usize = 16;
const AT_LEN_BYTES: usize = 8;
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
    /// Its key's bytes, aligned to 8; empty on edges without keys.
    pub key: &'a [u8],
    /// Its payload, aligned to 8 (fixed) or 16 (sized).
    pub payload: &'a [u8],
}

/// The records of one frame.
#[derive(Clone, Debug)]
pub struct RecordRefs<'a> {
    rest: &'a [u8],
    layout: Layout,
}

/// Where the parts of a record lie, computed once per frame for fixed records.
#[derive(Clone, Copy, Debug)]
enum Layout {
    Fixed { len: usize, key_len: usize, payload_at: usize, payload_len: usize },
    Sized,
}

impl RecordShape {
    /// The shape of records whose keys and payloads are `Pod` values of these types.
    pub const fn fixed<K, P>() -> Self {
        Self::Fixed { key_len: size_of::<K>() as u32, payload_len: size_of::<P>() as u32 }
    }

    /// Whether every key and payload has these lengths.
    #[inline(always)]
    pub(super) fn is_fixed_at(self, key_len: usize, payload_len: usize) -> bool {
        self == Self::Fixed { key_len: key_len as u32, payload_len: payload_len as u32 }
    }

    #[inline(always)]
    pub(super) fn read(self, records: &[u8]) -> RecordRefs<'_> {
        let layout = match self {
            Self::Fixed { key_len, payload_len } => {
                let (key_len, payload_len) = (key_len as usize, payload_len as usize);
                let payload_at = fixed_payload_at(key_len);
                Layout::Fixed { len: fixed_len(key_len, payload_len), key_len, payload_at, payload_len }
            }
            Self::Sized => Layout::Sized,
        };
        RecordRefs { rest: records, layout }
    }
}

/// How many bytes a fixed record takes.
#[inline]
pub(super) const fn fixed_len(key_len: usize, payload_len: usize) -> usize {
    fixed_payload_at(key_len) + payload_len.next_multiple_of(FIXED_ALIGN_BYTES)
}

#[inline]
const fn fixed_payload_at(key_len: usize) -> usize {
    AT_LEN_BYTES + key_len.next_multiple_of(FIXED_ALIGN_BYTES)
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
pub(super) fn write_fixed(into: &mut [u8], at: EventTimeMs, key: &[u8], payload: &[u8]) {
    into[..AT_LEN_BYTES].copy_from_slice(&at.0.to_ne_bytes());
    into[AT_LEN_BYTES..][..key.len()].copy_from_slice(key);
    into[fixed_payload_at(key.len())..][..payload.len()].copy_from_slice(payload);
}

/// Writes a record into the `sized_len` bytes of `into`.
#[inline]
pub(super) fn write_sized(into: &mut [u8], at: EventTimeMs, key: &[u8], payload: &[u8]) {
    into[..AT_LEN_BYTES].copy_from_slice(&at.0.to_ne_bytes());
    into[8..12].copy_from_slice(&(key.len() as u32).to_ne_bytes());
    into[12..16].copy_from_slice(&(payload.len() as u32).to_ne_bytes());
    into[SIZED_HEADER_LEN_BYTES..][..key.len()].copy_from_slice(key);
    into[sized_payload_at(key.len())..][..payload.len()].copy_from_slice(payload);
}

impl<'a> Iterator for RecordRefs<'a> {
    type Item = RecordRef<'a>;

    // Always: out of line, the caller cannot keep the cursor in registers, which costs as much as reading the record.
    #[inline(always)]
    fn next(&mut self) -> Option<RecordRef<'a>> {
        match self.layout {
            Layout::Fixed { len, key_len, payload_at, payload_len } => {
                let (record, rest) = self.rest.split_at_checked(len)?;
                self.rest = rest;
                let (at, after) = record.split_first_chunk()?;
                let (key, payload) = (after.get(..key_len)?, record.get(payload_at..)?.get(..payload_len)?);
                Some(RecordRef { at: EventTimeMs(i64::from_ne_bytes(*at)), key, payload })
            }
            Layout::Sized => self.next_sized(),
        }
    }
}

impl<'a> RecordRefs<'a> {
    fn next_sized(&mut self) -> Option<RecordRef<'a>> {
        let at = EventTimeMs(i64::from_ne_bytes(*self.rest.first_chunk()?));
        let (key_len, payload_len) = (u32_at(self.rest, 8) as usize, u32_at(self.rest, 12) as usize);
        let (record, rest) = self.rest.split_at(sized_len(key_len, payload_len));
        self.rest = rest;
        let (key, payload) = (&record[SIZED_HEADER_LEN_BYTES..], &record[sized_payload_at(key_len)..]);
        Some(RecordRef { at, key: &key[..key_len], payload: &payload[..payload_len] })
    }
}

#[inline]
fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytemuck::pod_read_unaligned(&bytes[at..at + 4])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(shape: RecordShape, records: &[(i64, &[u8], &[u8])]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for &(at, key, payload) in records {
            let start = bytes.len();
            match shape {
                RecordShape::Fixed { .. } => {
                    bytes.resize(start + fixed_len(key.len(), payload.len()), 0xEE);
                    write_fixed(&mut bytes[start..], EventTimeMs(at), key, payload);
                }
                RecordShape::Sized => {
                    bytes.resize(start + sized_len(key.len(), payload.len()), 0xEE);
                    write_sized(&mut bytes[start..], EventTimeMs(at), key, payload);
                }
            }
        }
        bytes
    }

    fn round_trip(shape: RecordShape, records: &[(i64, &[u8], &[u8])]) {
        let bytes = write(shape, records);
        let read: Vec<_> = shape.read(&bytes).map(|r| (r.at.0, r.key, r.payload)).collect();
        assert_eq!(read, records);
    }

    #[test]
    fn fixed_records_come_back_whatever_their_lengths_are() {
        for (key_len, payload_len) in [(0, 0), (0, 8), (8, 24), (3, 5), (1, 16)] {
            let shape = RecordShape::Fixed { key_len, payload_len };
            let (key, payload) = (vec![7; key_len as usize], vec![9; payload_len as usize]);
            round_trip(shape, &[(1, &key, &payload), (i64::MIN, &key, &payload)]);
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
    fn every_sized_payload_lies_at_a_multiple_of_16_from_the_first_record() {
        let (keys, payloads) = ([b"", &b"k"[..], &[1; 16], &[1; 17]], [&[2; 1][..], &[2; 20], &[2; 16], &[2; 5]]);
        let records: Vec<_> = keys.into_iter().zip(payloads).map(|(key, payload)| (0, key, payload)).collect();
        let bytes = write(RecordShape::Sized, &records);
        let start = bytes.as_ptr().addr();
        assert!(RecordShape::Sized.read(&bytes).all(|r| (r.payload.as_ptr().addr() - start).is_multiple_of(16)));
    }
}
