//! An event descriptor whose sleepers loom knows: who waits for ever is a fault that it reports.

use loom::sync::{Condvar, Mutex};
use std::cell::RefCell;
use std::collections::HashMap;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;

/// No flag changes anything here.
pub struct EventfdFlags;

impl EventfdFlags {
    /// Reads never wait.
    pub const NONBLOCK: Self = Self;
    /// Not for children.
    pub const CLOEXEC: Self = Self;
}

impl std::ops::BitOr for EventfdFlags {
    type Output = Self;

    fn bitor(self, _: Self) -> Self {
        self
    }
}

#[derive(Default)]
struct Counter {
    value: Mutex<u64>,
    risen: Condvar,
}

thread_local! {
    /// By descriptor. Loom runs all threads of a model on one thread.
    static COUNTERS: RefCell<HashMap<RawFd, Arc<Counter>>> = RefCell::default();
}

/// A counter that can be waited for. The descriptor only names it.
pub fn eventfd(_: u32, _: EventfdFlags) -> std::io::Result<OwnedFd> {
    let fd = OwnedFd::from(File::open("/dev/null")?);
    COUNTERS.with_borrow_mut(|counters| counters.insert(fd.as_raw_fd(), Arc::default()));
    Ok(fd)
}

/// Waits until it is readable.
pub fn wait_readable(fd: impl AsFd) {
    let counter = of(fd);
    let mut value = counter.value.lock().expect("no holder panics");
    while *value == 0 {
        value = counter.risen.wait(value).expect("no holder panics");
    }
}

pub(crate) fn add(fd: impl AsFd, more: u64) {
    let counter = of(fd);
    *counter.value.lock().expect("no holder panics") += more;
    counter.risen.notify_all();
}

pub(crate) fn take(fd: impl AsFd) -> u64 {
    std::mem::take(&mut *of(fd).value.lock().expect("no holder panics"))
}

fn of(fd: impl AsFd) -> Arc<Counter> {
    COUNTERS.with_borrow(|counters| counters[&fd.as_fd().as_raw_fd()].clone())
}
