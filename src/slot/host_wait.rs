//! How the host's threads and tasks wait for a slot: wakers left where something will happen, and threads that sleep until woken.
//!
//! Protocol, as of a doorbell: who waits leaves its waker, then looks once more; who makes something happen does so, then looks whether
//! anyone waits. Both pass a sequentially consistent fence in between, so at least one of them sees the other.

use crate::sync::atomic::{AtomicBool, Ordering, fence};
use crate::sync::thread::{self, Thread};
use crate::sync::{Mutex, PoisonError, thread_local};
use crate::time::{Clock, MachineClock};
use std::sync::Arc;
use std::task::{Wake, Waker};
use std::time::Duration;

/// Wakers of those who wait; as many as there are.
#[derive(Default)]
pub(crate) struct HostWaiters {
    anyone: AtomicBool,
    wakers: Mutex<Vec<Waker>>,
}

impl HostWaiters {
    /// Leaves a waker, to be woken once by the next `wake`. Look again after this.
    pub(crate) fn wait_with(&self, waker: &Waker) {
        let mut wakers = self.wakers.lock().unwrap_or_else(PoisonError::into_inner);
        if !wakers.iter().any(|former| former.will_wake(waker)) {
            wakers.push(waker.clone());
        }
        self.anyone.store(true, Ordering::Relaxed);
        drop(wakers);
        fence(Ordering::SeqCst);
    }

    /// What they wait for may be there. A fence and a load when nobody waits.
    #[inline]
    pub(crate) fn wake(&self) {
        fence(Ordering::SeqCst);
        if self.anyone.load(Ordering::Relaxed) {
            self.wake_all();
        }
    }

    #[cold]
    fn wake_all(&self) {
        let wakers = {
            let mut wakers = self.wakers.lock().unwrap_or_else(PoisonError::into_inner);
            self.anyone.store(false, Ordering::Relaxed);
            std::mem::take(&mut *wakers)
        };
        wakers.into_iter().for_each(Waker::wake);
    }
}

/// How long a blocked thread waits. Never for a slot's thread.
pub(crate) struct HostWait {
    deadline_ns: Option<u64>,
}

/// Wakes a thread that blocks.
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.unpark();
    }
}

thread_local! {
    /// Made once per thread: waiting allocates nothing.
    static UNPARK_SELF: Waker = Waker::from(Arc::new(Unpark(thread::current())));
}

impl HostWait {
    /// From now on; `None` is without end.
    pub(crate) fn new(at_most: Option<Duration>) -> Self {
        Self::from(MachineClock.monotonic_ns(), at_most)
    }

    /// From a time of the machine's clock on.
    pub(crate) fn from(begun_ns: u64, at_most: Option<Duration>) -> Self {
        Self { deadline_ns: at_most.map(|at_most| begun_ns.saturating_add(at_most.as_nanos() as u64)) }
    }

    /// Asks `poll` until it has something, sleeping in between; `None` once the time is over.
    pub(crate) fn block_on<T>(&self, mut poll: impl FnMut(&Waker) -> Option<T>) -> Option<T> {
        UNPARK_SELF.with(|waker| {
            loop {
                if let Some(value) = poll(waker) {
                    return Some(value);
                }
                match self.deadline_ns {
                    None => thread::park(),
                    Some(deadline_ns) => {
                        let left_ns = deadline_ns.saturating_sub(MachineClock.monotonic_ns());
                        if left_ns == 0 {
                            return None;
                        }
                        thread::park_timeout(Duration::from_nanos(left_ns));
                    }
                }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two threads wake each other in turn. 10^5 wake-ups; `MILLSTREAM_WAKE_UPS` asks for more.
    #[test]
    fn two_threads_that_wait_for_each_other_lose_no_wake_up() {
        use crate::sync::atomic::AtomicU64;
        let wake_ups: u64 = std::env::var("MILLSTREAM_WAKE_UPS").ok().and_then(|n| n.parse().ok()).unwrap_or(100_000);
        let (waiters, turn) = (Arc::new([HostWaiters::default(), HostWaiters::default()]), Arc::new(AtomicU64::new(0)));
        let player = move |mine: usize, waiters: Arc<[HostWaiters; 2]>, turn: Arc<AtomicU64>| {
            for n in (mine as u64..wake_ups).step_by(2) {
                let came = HostWait::new(Some(Duration::from_secs(10))).block_on(|waker| {
                    let is_mine = || (turn.load(Ordering::Relaxed) == n).then_some(());
                    is_mine().or_else(|| {
                        waiters[mine].wait_with(waker);
                        is_mine()
                    })
                });
                assert!(came.is_some(), "the wake-up {n} was lost");
                turn.store(n + 1, Ordering::Relaxed);
                waiters[1 - mine].wake();
            }
        };
        let other = {
            let (waiters, turn) = (waiters.clone(), turn.clone());
            crate::slot::spawn_slot("other", None, move || player(1, waiters, turn)).unwrap()
        };
        player(0, waiters, turn.clone());
        other.join().unwrap();
        assert_eq!(turn.load(Ordering::Relaxed), wake_ups);
    }

    #[test]
    fn a_sleeper_is_woken_and_one_that_nobody_wakes_gives_up_in_time() {
        let (waiters, is_there) = (Arc::new(HostWaiters::default()), Arc::new(AtomicBool::new(false)));
        let sleeper = {
            let (waiters, is_there) = (waiters.clone(), is_there.clone());
            crate::slot::spawn_slot("sleeper", None, move || {
                HostWait::new(None).block_on(|waker| {
                    waiters.wait_with(waker);
                    is_there.load(Ordering::Acquire).then_some(7)
                })
            })
        };
        is_there.store(true, Ordering::Release);
        waiters.wake();
        assert_eq!(sleeper.unwrap().join().unwrap(), Some(7));
        assert_eq!(HostWait::new(Some(Duration::from_millis(1))).block_on(|_| None::<()>), None);
    }
}
