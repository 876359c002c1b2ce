//! The portable driver: one helper thread runs the operations as blocking calls, for kernels and containers that refuse
//! io_uring.
//!
//! The thread is this driver's own: it must block in the kernel, which no slot may. Completions come back through a channel, and
//! the helper rings the slot's doorbell after each.

use super::choice::IoUnavailable;
use super::completions::Completions;
use super::posix::PosixFiles;
use super::{FileId, Io, IoError, IoOp, IoOutput, IoToken};
use crate::slot::Doorbell;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::thread::JoinHandle;
use std::time::Duration;

/// An `Io` whose operations run one after the other on a helper thread.
///
/// Dropping it finishes what was submitted and ends the helper.
#[derive(Debug)]
pub struct BlockingIo {
    orders: Option<Sender<Order>>,
    outcomes: Receiver<Outcome>,
    helper: Option<JoinHandle<()>>,
    completions: Completions,
    doorbell: Arc<Doorbell>,
}

/// An operation for the helper; without a token nobody waits for its outcome.
type Order = (Option<IoToken>, IoOp);
type Outcome = (IoToken, Result<IoOutput, IoError>);

impl BlockingIo {
    /// Starts the helper thread. `doorbell` is that of the thread that will call `wait`. Fails when the process may not start
    /// another thread.
    pub fn new(doorbell: Arc<Doorbell>) -> Result<Self, IoUnavailable> {
        let (orders, to_do) = channel::<Order>();
        let (done, outcomes) = channel();
        let bell = Arc::clone(&doorbell);
        let helper = std::thread::Builder::new()
            .name("millstream-io".into())
            .spawn(move || serve(&to_do, &done, &bell))
            .map_err(|error| IoUnavailable::NoHelper { reason: error.to_string() })?;
        Ok(Self { orders: Some(orders), outcomes, helper: Some(helper), completions: Completions::default(), doorbell })
    }

    fn collect(&mut self) {
        loop {
            match self.outcomes.try_recv() {
                Ok((token, result)) => {
                    let orphan = self.completions.finish(token, result);
                    self.close_orphan(orphan);
                }
                Err(TryRecvError::Empty) => return,
                Err(TryRecvError::Disconnected) => {
                    self.completions.fail_all(&helper_gone("finish"));
                    return;
                }
            }
        }
    }

    fn close_orphan(&self, orphan: Option<FileId>) {
        if let (Some(file), Some(orders)) = (orphan, &self.orders) {
            // A helper that is gone has closed its files.
            let _ = orders.send((None, IoOp::Close { file }));
        }
    }
}

fn serve(to_do: &Receiver<Order>, done: &Sender<Outcome>, bell: &Doorbell) {
    let mut files = PosixFiles::default();
    while let Ok((token, op)) = to_do.recv() {
        let result = files.run(op);
        if let Some(token) = token {
            if done.send((token, result)).is_err() {
                // The owner is being dropped: go on, what was submitted still takes effect.
                continue;
            }
            bell.ring();
        }
    }
}

fn helper_gone(action: &'static str) -> IoError {
    let error = std::io::Error::new(std::io::ErrorKind::BrokenPipe, "the I/O helper thread has ended");
    IoError::new(action, PathBuf::new(), &error)
}

impl Io for BlockingIo {
    fn submit(&mut self, op: IoOp) -> IoToken {
        let token = self.completions.begin();
        let action = op.action();
        let sent = self.orders.as_ref().is_some_and(|orders| orders.send((Some(token), op)).is_ok());
        if !sent {
            // No file can come of it.
            let _ = self.completions.finish(token, Err(helper_gone(action)));
        }
        token
    }

    fn take(&mut self, token: IoToken) -> Option<Result<IoOutput, IoError>> {
        self.completions.take(token)
    }

    fn forget(&mut self, token: IoToken) {
        let orphan = self.completions.forget(token);
        self.close_orphan(orphan);
    }

    fn in_flight(&self) -> usize {
        self.completions.under_way()
    }

    fn drive(&mut self) {
        if self.completions.under_way() > 0 {
            self.collect();
        }
    }

    fn wait(&mut self, at_most: Duration) {
        self.doorbell.announce();
        self.drive();
        if !self.completions.has_unreported() {
            wait_readable(self.doorbell.fd(), at_most);
            self.drive();
        }
        self.completions.mark_reported();
        self.doorbell.withdraw();
    }
}

impl Drop for BlockingIo {
    fn drop(&mut self) {
        self.orders = None;
        if let Some(helper) = self.helper.take() {
            // Unwinding must not hang behind a disk that does not answer; the helper ends by itself.
            if !std::thread::panicking() {
                let _ = helper.join();
            }
        }
    }
}

/// Sleeps until `fd` is readable or `at_most` is over; a signal ends it early. Says whether it is readable.
pub(super) fn wait_readable(fd: BorrowedFd<'_>, at_most: Duration) -> bool {
    let limit = Timespec {
        tv_sec: i64::try_from(at_most.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: at_most.subsec_nanos().into(),
    };
    let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::IN)];
    matches!(poll(&mut fds, Some(&limit)), Ok(ready) if ready > 0)
}
