//! How does the host ask a job something and get the answer?
//!
//! Here: the handle that calls (`handle`, `pending`), what a call is answered by (`function`), the head of the chain that takes calls
//! (`head`), replies that wait for their checkpoint (`held`), one call's way between two threads (`reply_slot`). Not here: how a
//! program describes calls (`stream`), the engine whose slot is the calling thread (`engine::LocalEngine`).
//!
//! ```text
//! host thread: CallHandle --- event ---> lane of the key's subtask ---> CallHead -> function -> the stream behind it
//!                  ^--------------- reply slot of this call <----------------/
//! ```
//! A call is a source and a sink in one task: it crosses cores once each way, and its event is neither encoded nor copied to a segment. Why
//! a function and not any stream of operators: a filter could swallow a call, and its caller would wait for ever. A function
//! returns its reply, so the compiler sees to it that there is one; what is to go further it emits into the stream behind it.
//!
//! Invariants: a call is answered exactly once, or dropped by its caller; nothing here grows beyond its limit; calls of one key take
//! effect in the order in which they were handed over.

mod error;
mod function;
mod handle;
mod head;
mod held;
mod pending;
mod reply_slot;
mod service;
mod table;

pub use error::{CallError, Effect, TryCallError};
pub use function::KeyedCall;
pub use handle::{CallHandle, Durability};
pub use head::CallHead;
pub use pending::{CallFuture, PendingCall};

pub(crate) use function::{AnswerFromValue, CallProcess};
pub(crate) use head::CallHeadParts;
pub(crate) use head::DirectCalls;
pub(crate) use service::{CallLimits, Service, ServingEnd};
