//! One call's way between two threads.

#[path = "../../../src/call/error.rs"]
mod error;
#[path = "../../../src/call/reply_slot.rs"]
mod reply_slot;

use crate::slot::host_wait;
pub use error::{CallError, Effect};
use std::sync::Arc;

/// The caller's end, which the engine shows to nobody.
pub struct Caller<R>(Arc<reply_slot::ReplySlot<R>>);

/// The job's end.
pub struct Job<R>(reply_slot::Ticket<R>);

impl<R> Default for Caller<R> {
    fn default() -> Self {
        Self(Arc::new(reply_slot::ReplySlot::new()))
    }
}

impl<R> Caller<R> {
    /// Begins another call.
    pub fn issue(&self) -> Job<R> {
        Job(self.0.issue())
    }

    /// The result, once.
    pub fn take_result(&self) -> Option<Result<R, CallError>> {
        self.0.take_result()
    }

    /// Waits for the result as a blocked caller does.
    pub fn wait(&self) -> Result<R, CallError> {
        let result = host_wait::HostWait::new(None).block_on(|waker| {
            self.take_result().or_else(|| match self.0.wait_with(waker) {
                true => None,
                false => self.take_result(),
            })
        });
        result.expect("without a deadline it ends with a value")
    }

    /// Leaves: the effect its call may have, or the result when it came first.
    pub fn abandon(&self) -> Result<Effect, Result<R, CallError>> {
        self.0.abandon()
    }
}

impl<R> Job<R> {
    /// Whether to work on it.
    pub fn take(&self) -> bool {
        self.0.take()
    }

    /// Answers.
    pub fn answer(self, result: R) {
        self.0.answer(Ok(result));
    }
}
