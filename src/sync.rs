//! What threads meet at: atomics, fences, locks, and how a thread sleeps. Nothing but the names.
//!
//! `tools/models` compiles the files that take these names from here a second time, with loom's in their place, and runs every order in
//! which two threads can go through them. A file whose protocol is to be proved takes its atomics from here.

pub(crate) use std::sync::{Mutex, MutexGuard, PoisonError};
pub(crate) use std::{thread, thread_local};

pub(crate) mod atomic {
    pub(crate) use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering, fence};
}
