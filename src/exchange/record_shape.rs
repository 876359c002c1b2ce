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
    shape: RecordShape,
}

impl RecordShape {
    /// The shape of records whose keys and payloads are `Pod` values of these types.
    pub const fn fixed<K, P>() -> Self {
        Self::Fixed { key_len: size_of::<K>() as u32, payload_len: size_of::<P>() as u32 }
    }

    /// How many bytes a record of these lengths takes.
    ///
    /// # Panics
    /// Asserts that the lengths are those of a fixed shape.
    #[inline]
    pub(super) fn record_len(self, key_len: usize, payload_len: usize) -> usize {
        match self {
            Self::Fixed { key_len: key, payload_len: payload } => {
                assert!(
                    key as usize == key_len && payload as usize == payload_len,
                    "the channel's records have keys of {key} and payloads of {payload} bytes, this one {key_len} and {payload_len}"
                );
                fixed_len(key_len, payload_len)
            }
            Self::Sized => sized_len(key_len, payload_len),
        }
    }

    /// Writes a record into the `record_len` bytes of `into`.
    #[inline]
    pub(super) fn write(self, into: &mut [u8], at: EventTimeMs, key: &[u8], payload: &[u8]) {
        into[..AT_LEN_BYTES].copy_from_slice(&at.0.to_ne_bytes());
        let (key_at, payload_at) = match self {
            Self::Fixed { .. } => (AT_LEN_BYTES, AT_LEN_BYTES + key.len().next_multiple_of(FIXED_ALIGN_BYTES)),
            Self::Sized => {
                into[8..12].copy_from_slice(&(key.len() as u32).to_ne_bytes());
                into[12..16].copy_from_slice(&(payload.len() as u32).to_ne_bytes());
                let key_end = SIZED_HEADER_LEN_BYTES + key.len().next_multiple_of(SIZED_ALIGN_BYTES);
                (SIZED_HEADER_LEN_BYTES, key_end)
            }
        };
        into[key_at..key_at + key.len()].copy_from_slice(key);
        into[payload_at..payload_at + payload.len()].copy_from_slice(payload);
    }

    #[inline]
    pub(super) fn read(self, records: &[u8]) -> RecordRefs<'_> {
        RecordRefs { rest: records, shape: self }
    }
}

#[inline]
fn fixed_len(key_len: usize, payload_len: usize) -> usize {
    AT_LEN_BYTES + key_len.next_multiple_of(FIXED_ALIGN_BYTES) + payload_len.next_multiple_of(FIXED_ALIGN_BYTES)
}

#[inline]
fn sized_len(key_len: usize, payload_len: usize) -> usize {
    SIZED_HEADER_LEN_BYTES
        + key_len.next_multiple_of(SIZED_ALIGN_BYTES)
        + payload_len.next_multiple_of(SIZED_ALIGN_BYTES)
}

impl<'a> Iterator for RecordRefs<'a> {
    type Item = RecordRef<'a>;

    #[inline]
    fn next(&mut self) -> Option<RecordRef<'a>> {
        let at = EventTimeMs(i64::from_ne_bytes(*self.rest.first_chunk()?));
        let (len, key_at, key_len, payload_at, payload_len) = match self.shape {
            RecordShape::Fixed { key_len, payload_len } => {
                let (key_len, payload_len) = (key_len as usize, payload_len as usize);
                let payload_at = AT_LEN_BYTES + key_len.next_multiple_of(FIXED_ALIGN_BYTES);
                (fixed_len(key_len, payload_len), AT_LEN_BYTES, key_len, payload_at, payload_len)
            }
            RecordShape::Sized => {
                let key_len = u32_at(self.rest, 8) as usize;
                let payload_len = u32_at(self.rest, 12) as usize;
                let payload_at = SIZED_HEADER_LEN_BYTES + key_len.next_multiple_of(SIZED_ALIGN_BYTES);
                (sized_len(key_len, payload_len), SIZED_HEADER_LEN_BYTES, key_len, payload_at, payload_len)
            }
        };
        let (record, rest) = self.rest.split_at(len);
        self.rest = rest;
        Some(RecordRef {
            at,
            key: &record[key_at..key_at + key_len],
            payload: &record[payload_at..payload_at + payload_len],
        })
    }
}

#[inline]
fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytemuck::pod_read_unaligned(&bytes[at..at + 4])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round_trip(shape: RecordShape, records: &[(i64, &[u8], &[u8])]) {
        let mut bytes = vec![0xEEu8; 4096];
        let mut end = 0;
        for &(at, key, payload) in records {
            let len = shape.record_len(key.len(), payload.len());
            shape.write(&mut bytes[end..end + len], EventTimeMs(at), key, payload);
            end += len;
        }
        let read: Vec<_> = shape.read(&bytes[..end]).map(|r| (r.at.0, r.key, r.payload)).collect();
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
        let mut bytes = vec![0u8; 1024];
        let mut end = 0;
        for key_len in [0, 1, 16, 17] {
            let (key, payload) = (vec![1; key_len], vec![2; key_len + 1]);
            let len = RecordShape::Sized.record_len(key.len(), payload.len());
            RecordShape::Sized.write(&mut bytes[end..end + len], EventTimeMs(0), &key, &payload);
            end += len;
        }
        let start = bytes.as_ptr().addr();
        assert!(RecordShape::Sized.read(&bytes[..end]).all(|r| (r.payload.as_ptr().addr() - start).is_multiple_of(16)));
    }

    #[test]
    #[should_panic(expected = "keys of 8 and payloads of 16 bytes, this one 8 and 15")]
    fn a_record_of_another_length_is_refused_on_a_fixed_channel() {
        RecordShape::Fixed { key_len: 8, payload_len: 16 }.record_len(8, 15);
    }
}
