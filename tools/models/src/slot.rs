//! How slots and the host's threads wait.

#[path = "../../../src/slot/doorbell.rs"]
mod doorbell;
#[path = "../../../src/slot/host_wait.rs"]
pub(crate) mod host_wait;
#[path = "../../../src/slot/idle.rs"]
mod idle;

pub use doorbell::Doorbell;
pub use idle::{IdleAction, IdlePolicy, SPIN_BUDGET_MAX_NS, Slept};

/// As the engine's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Something was done.
    Worked,
    /// Nothing could be done.
    Idle,
}

/// The engine's wakers of the host, which it shows to nobody.
#[derive(Default)]
pub struct HostWaiters(host_wait::HostWaiters);

impl HostWaiters {
    /// What they wait for may be there.
    pub fn wake(&self) {
        self.0.wake();
    }

    /// Blocks until `look` has something; leaves a waker before each look but the first.
    pub fn block_until<T>(&self, mut look: impl FnMut() -> Option<T>) -> T {
        let found = host_wait::HostWait::new(None).block_on(|waker| {
            look().or_else(|| {
                self.0.wait_with(waker);
                look()
            })
        });
        found.expect("without a deadline it ends with a value")
    }
}
