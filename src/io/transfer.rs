//! How far one read or write has come: what to do after a short transfer, EINTR or EAGAIN.
//!
//! Invariant: ends after finitely many attempts. Whatever the kernel answers, at most `ATTEMPTS_MAX` in a row move nothing.

use std::io::{Error, ErrorKind, Result};
use std::ops::Range;

/// Addresses, offsets and lengths of a direct file are multiples of this (what every device accepts).
const DIRECT_ALIGNMENT: usize = 4096;

/// How often in a row an operation is tried again although no byte moved.
const ATTEMPTS_MAX: u32 = 100;

/// One read or write under way. Its length fits one system call: a buffer holds 1 MiB at most.
#[derive(Debug)]
pub(super) struct Transfer {
    done: usize,
    len: usize,
    direct: bool,
    idle_attempts: u32,
}

impl Transfer {
    pub(super) fn new(len: usize, direct: bool) -> Self {
        Self { done: 0, len, direct, idle_attempts: 0 }
    }

    /// Bytes moved so far.
    pub(super) fn done(&self) -> usize {
        self.done
    }

    /// The part of the buffer that is still to be moved.
    pub(super) fn remaining(&self) -> Option<Range<usize>> {
        (self.done < self.len).then_some(self.done..self.len)
    }

    /// `bytes` more were read. A direct read that stops inside a block has met the end of the file or was cut short;
    /// `available`, the bytes of the file behind the first one asked for, tells which.
    pub(super) fn read(&mut self, bytes: usize, available: impl FnOnce() -> Result<u64>) -> Result<()> {
        let end = self.done + bytes;
        if self.direct && end < self.len && !end.is_multiple_of(DIRECT_ALIGNMENT) && end as u64 >= available()? {
            self.done = end;
            self.len = end;
            return Ok(());
        }
        self.advance(bytes)
    }

    /// `bytes` more were written.
    pub(super) fn wrote(&mut self, bytes: usize) -> Result<()> {
        self.advance(bytes)
    }

    /// An attempt failed: nothing to do but try again, or the error itself.
    pub(super) fn failed(&mut self, error: Error) -> Result<()> {
        self.idle_attempts += 1;
        let passing = matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::WouldBlock);
        if passing && self.idle_attempts <= ATTEMPTS_MAX { Ok(()) } else { Err(error) }
    }

    /// A direct file goes on at the block boundary below; the bytes behind it are moved again.
    fn advance(&mut self, bytes: usize) -> Result<()> {
        let end = self.done + bytes;
        let resume = if self.direct && end < self.len { end - end % DIRECT_ALIGNMENT } else { end };
        if resume > self.done {
            self.done = resume;
            self.idle_attempts = 0;
            return Ok(());
        }
        self.idle_attempts += 1;
        if self.idle_attempts <= ATTEMPTS_MAX {
            return Ok(());
        }
        let stuck = format!("stuck after {} of {} bytes", self.done, self.len);
        Err(Error::new(ErrorKind::WriteZero, stuck))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_write_goes_on_where_it_stopped() {
        let mut transfer = Transfer::new(10, false);
        assert!(transfer.wrote(4).is_ok());
        assert_eq!(transfer.remaining(), Some(4..10));
        assert!(transfer.wrote(6).is_ok());
        assert_eq!(transfer.remaining(), None);
    }

    #[test]
    fn a_short_direct_write_goes_on_at_the_block_boundary_below() {
        let mut transfer = Transfer::new(16384, true);
        assert!(transfer.wrote(4096 + 512).is_ok());
        assert_eq!(transfer.remaining(), Some(4096..16384));
    }

    #[test]
    fn a_direct_read_that_ends_inside_a_block_at_the_end_of_the_file_is_complete() {
        let mut transfer = Transfer::new(16384, true);
        assert!(transfer.read(4096 + 100, || Ok(4196)).is_ok());
        assert_eq!((transfer.done(), transfer.remaining()), (4196, None));
    }

    #[test]
    fn a_direct_read_cut_short_before_the_end_of_the_file_goes_on() {
        let mut transfer = Transfer::new(16384, true);
        assert!(transfer.read(4096 + 512, || Ok(1 << 20)).is_ok());
        assert_eq!(transfer.remaining(), Some(4096..16384));
    }

    #[test]
    fn an_interruption_is_retried_a_hundred_times_and_a_real_error_never() {
        let mut transfer = Transfer::new(10, false);
        let interruptions = (0..1000).take_while(|_| transfer.failed(ErrorKind::Interrupted.into()).is_ok());
        assert_eq!(interruptions.count(), 100);
        assert!(Transfer::new(10, false).failed(Error::from_raw_os_error(5)).is_err());
    }

    #[test]
    fn a_write_that_never_moves_a_byte_ends_in_an_error() {
        let mut transfer = Transfer::new(10, false);
        assert_eq!((0..1000).take_while(|_| transfer.wrote(0).is_ok()).count(), 100);
    }
}
