//! The clocks: the only file that reads them. Everything else is told the time.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Where a driver takes the time from, once per step, never per record.
pub trait Clock: Send + Sync {
    /// Nanoseconds since an arbitrary start; never goes back.
    fn monotonic_ns(&self) -> u64;

    /// Milliseconds since 1970 as the machine's wall clock has it; may jump.
    fn wall_ms(&self) -> i64;
}

/// The machine's clocks. Monotonic time counts from the first use in this process, so that all threads agree.
#[derive(Clone, Copy, Debug, Default)]
pub struct MachineClock;

static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();

#[allow(clippy::disallowed_methods, reason = "this file owns the clocks")]
impl Clock for MachineClock {
    #[inline]
    fn monotonic_ns(&self) -> u64 {
        START.get_or_init(Instant::now).elapsed().as_nanos() as u64
    }

    fn wall_ms(&self) -> i64 {
        match SystemTime::now().duration_since(UNIX_EPOCH) {
            Ok(since) => since.as_millis() as i64,
            Err(before) => -(before.duration().as_millis() as i64),
        }
    }
}

/// A clock that only moves when it is told to: for the simulator and for tests.
#[derive(Debug, Default)]
pub struct ManualClock {
    ns: std::sync::atomic::AtomicU64,
    wall_offset_ms: std::sync::atomic::AtomicI64,
}

impl ManualClock {
    /// Moves the monotonic clock (and the wall clock with it) on.
    pub fn advance(&self, by: Duration) {
        self.ns.fetch_add(by.as_nanos() as u64, std::sync::atomic::Ordering::Relaxed);
    }

    /// Lets the wall clock jump; the monotonic clock does not notice.
    pub fn jump_wall_clock(&self, by_ms: i64) {
        self.wall_offset_ms.fetch_add(by_ms, std::sync::atomic::Ordering::Relaxed);
    }
}

impl Clock for ManualClock {
    fn monotonic_ns(&self) -> u64 {
        self.ns.load(std::sync::atomic::Ordering::Relaxed)
    }

    fn wall_ms(&self) -> i64 {
        (self.monotonic_ns() / 1_000_000) as i64 + self.wall_offset_ms.load(std::sync::atomic::Ordering::Relaxed)
    }
}
