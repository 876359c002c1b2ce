//! Time, which stands still: orders are explored, not durations.

/// As the engine's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct EventTimeMs(pub i64);

impl EventTimeMs {
    /// Before all others.
    pub const MIN: Self = Self(i64::MIN);
}

/// Where a deadline takes the time from.
pub(crate) trait Clock {
    /// Nanoseconds.
    fn monotonic_ns(&self) -> u64;
}

pub(crate) struct MachineClock;

impl Clock for MachineClock {
    fn monotonic_ns(&self) -> u64 {
        0
    }
}
