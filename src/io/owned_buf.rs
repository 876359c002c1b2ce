//! What the kernel holds for us: the buffers of operations under way, the descriptors of ring files and of watched events.
//!
//! Here: the promises tokio-uring and tokio ask for. Not here: anything that decides.
#![allow(unsafe_code, reason = "tokio-uring's buffer traits and tokio's descriptor registration are unsafe")]

use crate::memory::Buffer;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio_uring::buf::{IoBuf, IoBufMut};
use tokio_uring::fs::File;

/// A buffer given to the kernel. Counts as initialised to its whole capacity (arena memory always is); the length that holds
/// data stays with the `Buffer`, so operations slice it to what they move.
#[derive(Debug)]
pub(super) struct OwnedBuf(pub(super) Buffer);

// SAFETY: `stable_ptr` is the address of the arena block, which is the same for the block's whole life however often this value
// moves, and which nobody else reads or writes while this value owns it. The block keeps its arena mapped, so the memory outlives
// even an operation whose future was dropped: tokio-uring keeps the buffer itself until the kernel answered. All
// `capacity` bytes are initialised (fresh blocks are zeroed, recycled ones were written), so `bytes_init` may name them all.
unsafe impl IoBuf for OwnedBuf {
    fn stable_ptr(&self) -> *const u8 {
        self.0.block().start().as_ptr()
    }

    fn bytes_init(&self) -> usize {
        self.0.capacity()
    }

    fn bytes_total(&self) -> usize {
        self.0.capacity()
    }
}

// SAFETY: as above, and `&mut self` to the only owner makes the block writable through the pointer (it was created from a mutable
// mapping). `set_init` has nothing to record, because every byte counts as initialised from the start.
unsafe impl IoBufMut for OwnedBuf {
    fn stable_mut_ptr(&mut self) -> *mut u8 {
        self.0.block().start().as_ptr()
    }

    unsafe fn set_init(&mut self, _pos: usize) {}
}

/// The descriptor of a ring file, for calls that tokio-uring has no operation for.
pub(super) fn descriptor(file: &File) -> BorrowedFd<'_> {
    // SAFETY: a `File` holds its descriptor open until it is dropped or closed by value, and the borrow ends before either.
    unsafe { BorrowedFd::borrow_raw(file.as_raw_fd()) }
}

/// Lets the current runtime watch a descriptor it owns from now on.
pub(super) fn watch_readable(fd: OwnedFd) -> std::io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` answers the same open descriptor for its whole life and closes it only when dropped, which is after
    // `AsyncFd` took it out of the runtime's epoll.
    Ok(unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::{Arena, ArenaOptions, MemoryBudget};
    use tokio_uring::buf::{BoundedBuf, BoundedBufMut};

    fn buffer() -> Buffer {
        Buffer::take(&Arena::new(MemoryBudget::new(8 << 20), ArenaOptions::default()), "test", 4096).unwrap()
    }

    #[test]
    fn what_the_kernel_writes_at_the_stable_address_is_in_the_buffer() {
        let owned = OwnedBuf(buffer());
        let before = IoBuf::stable_ptr(&owned);
        let mut moved = Box::new(owned);
        assert_eq!(IoBuf::stable_ptr(&*moved), before);
        moved.put_slice(b"kernel");
        let mut buffer = moved.0;
        buffer.set_len(6);
        assert_eq!(buffer.filled(), b"kernel");
    }

    #[test]
    fn a_slice_starts_inside_the_buffer_and_ends_where_it_was_cut() {
        let slice = OwnedBuf(buffer()).slice(100..300);
        assert_eq!((slice.bytes_init(), slice.bytes_total()), (200, 200));
        let start = BoundedBuf::stable_ptr(&slice) as usize;
        assert_eq!(start - IoBuf::stable_ptr(slice.get_ref()) as usize, 100);
    }
}
