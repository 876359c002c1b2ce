//! Who waits until something has room again: callers that found a queue full, or no job yet.
//!
//! Protocol, as of a doorbell: who waits leaves its waker, then tries once more; who makes room does so, then looks whether anyone waits. Both
//! pass a sequentially consistent fence in between, so at least one of them sees the other.

use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::sync::{Mutex, PoisonError};
use std::task::Waker;

/// Wakers of those who wait; as many as there are waiting callers.
#[derive(Default)]
pub(super) struct Room {
    anyone: AtomicBool,
    wakers: Mutex<Vec<Waker>>,
}

impl Room {
    /// Leaves a waker, to be woken once by the next `made`. Try again after this.
    pub(super) fn wait_with(&self, waker: &Waker) {
        let mut wakers = self.wakers.lock().unwrap_or_else(PoisonError::into_inner);
        if !wakers.iter().any(|former| former.will_wake(waker)) {
            wakers.push(waker.clone());
        }
        self.anyone.store(true, Ordering::Relaxed);
        drop(wakers);
        fence(Ordering::SeqCst);
    }

    /// There is room. A fence and a load when nobody waits.
    #[inline]
    pub(super) fn made(&self) {
        fence(Ordering::SeqCst);
        if self.anyone.load(Ordering::Relaxed) {
            self.wake();
        }
    }

    #[cold]
    fn wake(&self) {
        let wakers = {
            let mut wakers = self.wakers.lock().unwrap_or_else(PoisonError::into_inner);
            self.anyone.store(false, Ordering::Relaxed);
            std::mem::take(&mut *wakers)
        };
        wakers.into_iter().for_each(Waker::wake);
    }
}
