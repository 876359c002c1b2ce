//! A segment: 32 KiB shared by exactly one writer and one reader, readable up to what the writer has published.
//!
//! Here: the split of one `memory::Block` into a writing and a reading half, and how a spent segment is made new again.
//! Not here: what the bytes mean (`frame`), how halves travel and are counted (`channel`).
//!
//! ```text
//!   0              published            position                32 KiB
//!   |  reader: &[u8]   |  writer: &mut [u8]  |  writer: not yet used  |
//! ```
//!
//! Invariants:
//! 1. `published` never shrinks while two halves exist, and `published <= position` in the writer.
//! 2. The reader only makes references to bytes below a value of `published` that it loaded with acquire;
//!    the writer only makes references to bytes at or above the value it last stored with release. They never overlap.
//! 3. There is one writer and one reader per life of a segment: both come from `pair` or `renew`, neither can be cloned, and
//!    `renew` starts a new life only when the other half is gone (`Arc::get_mut`).
#![allow(unsafe_code, reason = "one thread writes bytes of a block while another reads other bytes of it")]

use crate::memory::{Block, BlockSize};
use crate::sync::atomic::{AtomicU32, Ordering};
use std::ptr::NonNull;
use std::sync::Arc;

/// The size of every segment. 32 KiB is Flink's default; two of them and the tables of a task fit in a 1 MiB L2 cache, and
/// handing one over costs less than 0.1 ns per byte.
pub const SEGMENT_LEN_BYTES: usize = BlockSize::K32.bytes();

/// Set in `published` when nothing follows the published bytes.
const SEALED: u32 = 1 << 31;
const _: () = assert!(SEGMENT_LEN_BYTES < SEALED as usize);

/// The writing half: appends, publishes, seals.
pub struct SegmentWriter {
    shared: Arc<Shared>,
    start: NonNull<u8>,
    position: usize,
    published: usize,
}

/// The reading half: sees what was published. Kept after the end, it becomes a new segment with `renew`.
pub struct SegmentReader {
    shared: Arc<Shared>,
    start: NonNull<u8>,
    readable: usize,
}

/// What a look at the writer's half showed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refreshed {
    /// More bytes are readable than before.
    More,
    /// Nothing new yet.
    Nothing,
    /// Nothing new, and nothing will follow.
    Sealed,
}

/// On lines of its own, because the reader polls `published` while the writer fills other memory.
#[repr(align(128))]
struct Shared {
    /// How many bytes the reader may see, and `SEALED`.
    published: AtomicU32,
    /// Owned for its memory only: after `pair`, its bytes are reached through `start` of the two halves, never through it.
    block: Block,
}

// SAFETY: `start` points into the block that `shared` owns, which stays at its address as long as either half exists. The writer
// alone refers to bytes from `published` on (invariant 2), so it may do so from any one thread.
unsafe impl Send for SegmentWriter {}
// SAFETY: as above; the reader alone refers to the bytes below the `published` it loaded, and the acquire load orders
// the writer's earlier writes before its reads.
unsafe impl Send for SegmentReader {}

/// Splits a block of 32 KiB into its two halves, empty.
///
/// # Panics
/// Asserts that the block has the size of a segment.
pub fn pair(block: Block) -> (SegmentWriter, SegmentReader) {
    assert_eq!(block.len(), SEGMENT_LEN_BYTES, "a segment is made of a block of {SEGMENT_LEN_BYTES} bytes");
    halves(Arc::new(Shared { published: AtomicU32::new(0), block }))
}

fn halves(shared: Arc<Shared>) -> (SegmentWriter, SegmentReader) {
    let start = shared.block.start();
    let writer = SegmentWriter { shared: shared.clone(), start, position: 0, published: 0 };
    (writer, SegmentReader { shared, start, readable: 0 })
}

impl SegmentWriter {
    /// Bytes written so far, published or not.
    #[inline]
    pub fn position(&self) -> usize {
        self.position
    }

    /// Bytes that can still be written.
    #[inline]
    pub fn remaining(&self) -> usize {
        SEGMENT_LEN_BYTES - self.position
    }

    /// Appends `len` bytes for the caller to fill (they hold something old, never uninitialised memory); `None` when they do not fit.
    #[inline(always)]
    pub fn append(&mut self, len: usize) -> Option<&mut [u8]> {
        let from = self.position;
        if len > SEGMENT_LEN_BYTES || from + len > SEGMENT_LEN_BYTES {
            return None;
        }
        self.position += len;
        // SAFETY: `from + len <= SEGMENT_LEN_BYTES` (neither is greater, so the sum did not wrap around), so the range lies in the block,
        // whose bytes are always initialised. It starts at `position >= published`, so the reader does not refer to it (invariant 2), and the
        // borrow of `self` keeps the writer from publishing it or handing it out twice.
        Some(unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr().add(from), len) })
    }

    /// What was written from `from` on, to change it.
    ///
    /// # Panics
    /// Asserts that `from` is not published yet.
    #[inline]
    pub fn unpublished_mut(&mut self, from: usize) -> &mut [u8] {
        assert!(self.published <= from && from <= self.position, "published bytes belong to the reader");
        // SAFETY: `published <= from <= position <= SEGMENT_LEN_BYTES` was just checked; otherwise as in `append`.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr().add(from), self.position - from) }
    }

    /// Whether something was written that the reader cannot see yet.
    #[inline]
    pub fn has_unpublished(&self) -> bool {
        self.published < self.position
    }

    /// Lets the reader see everything written so far: one release store.
    #[inline]
    pub fn publish(&mut self) {
        self.published = self.position;
        self.shared.published.store(self.position as u32, Ordering::Release);
    }

    /// Publishes everything and says that nothing follows.
    pub fn seal(self) {
        self.shared.published.store(self.position as u32 | SEALED, Ordering::Release);
    }
}

impl SegmentReader {
    /// What was readable at the last `refresh`.
    #[inline]
    pub fn readable(&self) -> &[u8] {
        // SAFETY: `readable` is 0 or a value of `published` loaded with acquire: those bytes are written, lie in the block, and the
        // writer does not touch them again while this half exists (invariants 1 to 3); `renew` consumes `self` and ends this borrow.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.readable) }
    }

    /// How many bytes were readable at the last `refresh`.
    #[inline]
    pub fn readable_len(&self) -> usize {
        self.readable
    }

    /// Looks at what the writer published: one acquire load.
    #[inline]
    pub fn refresh(&mut self) -> Refreshed {
        let published = self.shared.published.load(Ordering::Acquire);
        let readable = (published & !SEALED) as usize;
        if readable > self.readable {
            self.readable = readable;
            return Refreshed::More;
        }
        if published & SEALED == 0 { Refreshed::Nothing } else { Refreshed::Sealed }
    }

    /// Starts the segment's next life, empty and without allocating; gives `self` back while the writing half still exists.
    pub fn renew(mut self) -> Result<(SegmentWriter, SegmentReader), SegmentReader> {
        match Arc::get_mut(&mut self.shared) {
            // The only reference to the shared part: no other half exists, and no slice of this one (`self` is owned).
            Some(shared) => {
                shared.published = AtomicU32::new(0);
                Ok(halves(self.shared))
            }
            None => Err(self),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::{Arena, ArenaOptions, MemoryBudget};

    fn segment() -> (SegmentWriter, SegmentReader) {
        let arena = Arena::new(MemoryBudget::new(2 << 20), ArenaOptions::default());
        pair(arena.take("test", BlockSize::K32).unwrap())
    }

    #[test]
    fn a_reader_sees_what_was_published_and_nothing_beyond() {
        let (mut writer, mut reader) = segment();
        writer.append(3).unwrap().copy_from_slice(b"abc");
        assert_eq!(reader.refresh(), Refreshed::Nothing);
        writer.publish();
        writer.append(3).unwrap().copy_from_slice(b"def");
        assert_eq!(reader.refresh(), Refreshed::More);
        assert_eq!(reader.readable(), b"abc");
    }

    #[test]
    fn the_writer_fills_the_rest_while_the_reader_holds_the_beginning() {
        let (mut writer, mut reader) = segment();
        writer.append(4).unwrap().copy_from_slice(b"head");
        writer.publish();
        reader.refresh();
        let head = reader.readable();
        writer.append(4).unwrap().copy_from_slice(b"tail");
        writer.unpublished_mut(4)[0] = b'T';
        writer.publish();
        assert_eq!(head, b"head");
        reader.refresh();
        assert_eq!(reader.readable(), b"headTail");
    }

    #[test]
    #[should_panic(expected = "published bytes belong to the reader")]
    fn published_bytes_cannot_be_changed() {
        let (mut writer, _reader) = segment();
        writer.append(8).unwrap().fill(1);
        writer.publish();
        writer.unpublished_mut(4);
    }

    #[test]
    fn a_full_segment_takes_nothing_more() {
        let (mut writer, _reader) = segment();
        assert!(writer.append(SEGMENT_LEN_BYTES).is_some());
        assert!(writer.append(1).is_none());
    }

    #[test]
    fn a_sealed_segment_says_so_only_after_its_last_byte() {
        let (mut writer, mut reader) = segment();
        writer.append(1).unwrap().fill(7);
        writer.seal();
        assert_eq!(reader.refresh(), Refreshed::More);
        assert_eq!(reader.refresh(), Refreshed::Sealed);
    }

    #[test]
    fn a_segment_is_not_renewed_while_its_writer_exists() {
        let (writer, reader) = segment();
        let reader = reader.renew().map(|_| ()).unwrap_err();
        writer.seal();
        assert!(reader.renew().is_ok());
    }

    #[test]
    fn a_renewed_segment_is_empty_and_has_the_same_memory() {
        let (mut writer, reader) = segment();
        let address = writer.append(1).unwrap().as_ptr();
        writer.seal();
        let (mut writer, mut reader) = reader.renew().map_err(|_| ()).unwrap();
        assert_eq!(reader.refresh(), Refreshed::Nothing);
        assert_eq!(writer.append(1).unwrap().as_ptr(), address);
    }

    #[test]
    fn two_threads_pass_every_byte_in_order() {
        let (mut writer, mut reader) = segment();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                for i in 0..200u8 {
                    writer.append(1).unwrap()[0] = i;
                    writer.publish();
                }
                writer.seal();
            });
            while reader.refresh() != Refreshed::Sealed {
                let expected: Vec<u8> = (0..reader.readable_len() as u8).collect();
                assert_eq!(reader.readable(), expected);
                std::thread::yield_now();
            }
            assert_eq!(reader.readable_len(), 200);
        });
    }
}
