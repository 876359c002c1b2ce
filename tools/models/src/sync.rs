//! The engine's `sync`, with loom's types under its names.

pub(crate) use loom::sync::{Mutex, MutexGuard};
pub(crate) use loom::thread_local;
pub(crate) use std::sync::PoisonError;

pub(crate) mod atomic {
    pub(crate) use loom::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering, fence};
}

pub(crate) mod thread {
    use loom::sync::{Condvar, Mutex};
    use std::sync::Arc;
    use std::time::Duration;

    /// A thread that can be woken, with the token of `std::thread::park`. (Loom's own takes the wake-up of a parked thread for one of
    /// whatever it waits for by then.)
    #[derive(Clone, Default)]
    pub(crate) struct Thread(Arc<Token>);

    #[derive(Default)]
    struct Token {
        is_there: Mutex<bool>,
        came: Condvar,
    }

    loom::thread_local! {
        static SELF: Thread = Thread::default();
    }

    pub(crate) fn current() -> Thread {
        SELF.with(Clone::clone)
    }

    /// Waits for the token and takes it.
    pub(crate) fn park() {
        let Thread(token) = current();
        let mut is_there = token.is_there.lock().expect("no holder panics");
        while !std::mem::take(&mut *is_there) {
            is_there = token.came.wait(is_there).expect("no holder panics");
        }
    }

    /// No model waits with a deadline: that a wake-up comes late enough to be missed is what they look for.
    pub(crate) fn park_timeout(_: Duration) {
        park();
    }

    impl Thread {
        pub(crate) fn unpark(&self) {
            *self.0.is_there.lock().expect("no holder panics") = true;
            self.0.came.notify_all();
        }
    }
}
