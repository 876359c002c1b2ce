//! Keeps back what cannot be the highest of its period, before it costs an exchange.
//!
//! A value below one of the same period that went the same way before cannot be the highest, so it need not go. Nothing here has to survive a
//! restart: whoever forgets what went before lets more pass, and what was kept back is outdone by what the checkpoint holds.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};

/// The highest value that went before, of the newest period. Each subtask's copy begins anew.
#[derive(Debug)]
pub struct HighestSent {
    period: AtomicI64,
    highest: AtomicU64,
}

impl HighestSent {
    /// Nothing went before.
    pub fn new() -> Self {
        Self { period: AtomicI64::new(i64::MIN), highest: AtomicU64::new(0) }
    }

    /// Whether a value of `period` may be the highest; if so, it goes.
    #[inline]
    pub fn lets_pass(&self, period: i64, value: u64) -> bool {
        // Only the subtask's thread is here: the atomics are for the compiler, and cost nothing.
        let newest = self.period.load(Relaxed);
        if period == newest && value < self.highest.load(Relaxed) {
            return false;
        }
        if period >= newest {
            self.period.store(period, Relaxed);
            self.highest.store(value, Relaxed);
        }
        true
    }
}

impl Clone for HighestSent {
    fn clone(&self) -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_below_a_value_of_its_period_is_kept_back() {
        let sent = HighestSent::new();
        let passed = [(1, 5), (1, 4), (1, 5), (1, 7), (1, 6), (2, 3), (1, 1), (2, 2), (2, 3)];
        let passed = passed.map(|(period, value)| sent.lets_pass(period, value));
        assert_eq!(passed, [true, false, true, true, false, true, true, false, true]);
        assert!(sent.clone().lets_pass(2, 0));
    }
}
