//! One `Io` with several owners on its thread: the run loop that drives it, and keyed state that reads a page when it is touched.
//!
//! Every call borrows the driver for its own length only, so an owner may call while another one's operations are under way; each takes
//! the completions of its own tokens.

use super::{Io, IoError, IoOp, IoOutput, IoToken};
use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

/// A handle on an `Io`; clones are handles on the same one.
#[derive(Clone)]
pub struct SharedIo(Rc<RefCell<dyn Io>>);

impl SharedIo {
    /// Shares `io` between owners on this thread.
    pub fn new(io: impl Io + 'static) -> Self {
        Self(Rc::new(RefCell::new(io)))
    }
}

impl std::fmt::Debug for SharedIo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SharedIo").finish_non_exhaustive()
    }
}

impl Io for Box<dyn Io> {
    fn submit(&mut self, op: IoOp) -> IoToken {
        (**self).submit(op)
    }

    fn take(&mut self, token: IoToken) -> Option<Result<IoOutput, IoError>> {
        (**self).take(token)
    }

    fn forget(&mut self, token: IoToken) {
        (**self).forget(token);
    }

    fn in_flight(&self) -> usize {
        (**self).in_flight()
    }

    fn drive(&mut self) {
        (**self).drive();
    }

    fn wait(&mut self, at_most: Duration) {
        (**self).wait(at_most);
    }
}

impl Io for SharedIo {
    fn submit(&mut self, op: IoOp) -> IoToken {
        self.0.borrow_mut().submit(op)
    }

    fn take(&mut self, token: IoToken) -> Option<Result<IoOutput, IoError>> {
        self.0.borrow_mut().take(token)
    }

    fn forget(&mut self, token: IoToken) {
        self.0.borrow_mut().forget(token);
    }

    fn in_flight(&self) -> usize {
        self.0.borrow().in_flight()
    }

    fn drive(&mut self) {
        self.0.borrow_mut().drive();
    }

    fn wait(&mut self, at_most: Duration) {
        self.0.borrow_mut().wait(at_most);
    }

    fn shared(&self) -> Option<SharedIo> {
        Some(self.clone())
    }
}
