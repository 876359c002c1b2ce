//! The doorbell of a thread: how others wake it when it sleeps, for one load when it does not.
//!
//! Protocol: the owner announces that it is about to sleep, looks at all its inputs once more, and only then waits on the
//! eventfd. A producer publishes first and rings afterwards. Both sides pass a sequentially consistent fence in between, so at
//! least one of them sees the other: no wake-up is lost.

use crate::sync::atomic::{AtomicBool, Ordering, fence};
use rustix::event::{EventfdFlags, eventfd};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Wakes one sleeping thread. Shared by everybody who may have something for it.
#[derive(Debug)]
pub struct Doorbell {
    fd: OwnedFd,
    announced: AtomicBool,
}

impl Doorbell {
    /// A doorbell nobody waits on yet. Fails when the process has no file descriptor left.
    pub fn new() -> std::io::Result<Self> {
        let fd = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?;
        Ok(Self { fd, announced: AtomicBool::new(false) })
    }

    /// Wakes the owner if it sleeps or is about to. Call after publishing what it should see. One fence and one load when it is awake.
    #[inline]
    pub fn ring(&self) {
        fence(Ordering::SeqCst);
        if self.announced.load(Ordering::Relaxed) {
            self.ring_announced();
        }
    }

    #[cold]
    fn ring_announced(&self) {
        if self.announced.swap(false, Ordering::AcqRel) {
            self.write();
        }
    }

    /// Makes the next wait on the descriptor return at once, announced or not.
    pub fn write(&self) {
        // The counter cannot overflow (it would take 2^64 - 1 rings), and the descriptor lives as long as this.
        let _ = rustix::io::write(&self.fd, &1u64.to_ne_bytes());
    }

    /// The owner is about to sleep; it must look at its inputs once more before it waits.
    pub fn announce(&self) {
        self.announced.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// The owner is awake again. Empties the counter.
    pub fn withdraw(&self) {
        self.announced.store(false, Ordering::Relaxed);
        self.clear();
    }

    /// Empties the counter without changing what was announced.
    pub fn clear(&self) {
        let mut counter = [0u8; 8];
        let _ = rustix::io::read(&self.fd, &mut counter);
    }

    /// The descriptor to wait on (readable when rung).
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
