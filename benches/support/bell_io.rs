//! An `Io` without a disk: waits on the slot's doorbell only. For benches of what happens between slots.

use millstream::io::{Io, IoError, IoOp, IoOutput, IoToken};
use millstream::slot::Doorbell;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::sync::Arc;
use std::time::Duration;

/// Waits on this doorbell.
pub struct BellIo(pub Arc<Doorbell>);

impl Io for BellIo {
    fn submit(&mut self, op: IoOp) -> IoToken {
        panic!("this bench uses no disk: {op:?}");
    }

    fn take(&mut self, _token: IoToken) -> Option<Result<IoOutput, IoError>> {
        None
    }

    fn forget(&mut self, _token: IoToken) {}

    fn in_flight(&self) -> usize {
        0
    }

    fn drive(&mut self) {}

    fn wait(&mut self, at_most: Duration) {
        let timeout = Timespec { tv_sec: at_most.as_secs() as i64, tv_nsec: i64::from(at_most.subsec_nanos()) };
        let mut fds = [PollFd::from_borrowed_fd(self.0.fd(), PollFlags::IN)];
        // An interrupted wait is an early return, which the driver expects.
        let _ = poll(&mut fds, Some(&timeout));
    }
}
