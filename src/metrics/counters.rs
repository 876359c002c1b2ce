//! What one operator in one subtask counts. Written by the thread that runs it, read by anybody at any time.
//!
//! A count is a relaxed load, add and store by its only writer: no locked instruction. The counters of one operator share cache
//! lines with each other and with nobody else. Invariant: a counter has one writer; a second would lose counts, not break memory.

use crate::time::EventTimeMs;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

/// Everything an operator counts. Aligned to two cache lines, because the prefetcher of x86 fetches them in pairs.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct OperatorCounters {
    /// Records that arrived.
    pub records_in: Counter,
    /// Records sent on.
    pub records_out: Counter,
    /// Bytes that arrived.
    pub bytes_in: Counter,
    /// Bytes sent on.
    pub bytes_out: Counter,
    /// Time spent working.
    pub busy_ns: Counter,
    /// Time spent waiting for a free buffer.
    pub backpressured_ns: Counter,
    /// Where its watermark stands.
    pub watermark: EventTimeGauge,
    lost: [Counter; LossReason::ALL.len()],
}

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

/// An event time that others look at. Starts at `MIN`.
#[derive(Debug)]
pub struct EventTimeGauge(AtomicI64);

/// Why a record did not go where the program sends records. Unlike Flink, nothing is lost without a counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum LossReason {
    /// All its windows were over, the allowed lateness included.
    LateForWindow,
    /// It came after its clock had passed it, to a join.
    LateForJoin,
    /// It came after its clock had passed it, to a function that asked for event-time order.
    LateForOrder,
    /// It lies between two windows, because the slide is larger than the size.
    BetweenWindows,
    /// It could not be read: a parse error, a wrong number of fields, bytes that are no text.
    BadRecord,
    /// It has no timestamp where one is needed, or one whose windows would begin or end beyond all times.
    NoTimestamp,
    /// A call whose caller had given it up before it was taken: it had no effect.
    CallGivenUp,
    /// A subscriber did not keep up, and wants to lose records rather than to hold the job back.
    NotTaken,
}

impl LossReason {
    /// All reasons, in the order of their numbers.
    pub const ALL: [Self; 8] = [
        Self::LateForWindow,
        Self::LateForJoin,
        Self::LateForOrder,
        Self::BetweenWindows,
        Self::BadRecord,
        Self::NoTimestamp,
        Self::CallGivenUp,
        Self::NotTaken,
    ];

    /// Whether the record was late, rather than unfit.
    pub fn is_late(self) -> bool {
        matches!(self, Self::LateForWindow | Self::LateForJoin | Self::LateForOrder)
    }

    /// How the reason is called in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::LateForWindow => "late_for_window",
            Self::LateForJoin => "late_for_join",
            Self::LateForOrder => "late_for_order",
            Self::BetweenWindows => "dropped_between_windows",
            Self::BadRecord => "dropped_bad_record",
            Self::NoTimestamp => "dropped_no_timestamp",
            Self::CallGivenUp => "dropped_call_given_up",
            Self::NotTaken => "dropped_not_taken",
        }
    }
}

impl OperatorCounters {
    /// The counter of records lost for `reason`.
    #[inline]
    pub fn lost(&self, reason: LossReason) -> &Counter {
        &self.lost[reason as usize]
    }

    /// Late records, whatever they were late for.
    pub fn late_count(&self) -> u64 {
        LossReason::ALL.into_iter().filter(|reason| reason.is_late()).map(|reason| self.lost(reason).get()).sum()
    }
}

impl Counter {
    /// Counts `more`. Only its owner may call this.
    #[inline]
    pub fn add(&self, more: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(more), Ordering::Relaxed);
    }

    /// The count now; a reader may be a little behind.
    #[inline]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl EventTimeGauge {
    /// Shows `at`.
    #[inline]
    pub fn set(&self, at: EventTimeMs) {
        self.0.store(at.0, Ordering::Relaxed);
    }

    /// What is shown.
    pub fn get(&self) -> EventTimeMs {
        EventTimeMs(self.0.load(Ordering::Relaxed))
    }
}

impl Default for EventTimeGauge {
    fn default() -> Self {
        Self(AtomicI64::new(EventTimeMs::MIN.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_a_counter_of_its_own() {
        let counters = OperatorCounters::default();
        for (place, reason) in LossReason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, place);
            counters.lost(reason).add(1 << place);
        }
        assert!(LossReason::ALL.iter().enumerate().all(|(place, &reason)| counters.lost(reason).get() == 1 << place));
    }

    #[test]
    fn late_is_what_came_after_its_time_not_what_was_unfit() {
        let counters = OperatorCounters::default();
        counters.lost(LossReason::LateForWindow).add(2);
        counters.lost(LossReason::LateForOrder).add(3);
        counters.lost(LossReason::BadRecord).add(100);
        assert_eq!(counters.late_count(), 5);
    }

    #[test]
    fn names_of_reasons_differ_and_say_late_or_dropped() {
        let names: std::collections::BTreeSet<_> = LossReason::ALL.iter().map(|reason| reason.name()).collect();
        assert_eq!(names.len(), LossReason::ALL.len());
        assert!(LossReason::ALL.iter().all(|reason| reason.name().starts_with("late_") == reason.is_late()));
    }

    #[test]
    fn another_thread_sees_what_its_owner_counted() {
        let counters = OperatorCounters::default();
        std::thread::scope(|scope| {
            scope.spawn(|| (0..1_000).for_each(|_| counters.records_in.add(2)));
        });
        assert_eq!(counters.records_in.get(), 2_000);
    }

    #[test]
    fn the_counters_of_two_operators_share_no_cache_line() {
        assert_eq!(align_of::<OperatorCounters>(), 128);
    }

    #[test]
    fn a_gauge_starts_without_a_time() {
        let gauge = EventTimeGauge::default();
        assert_eq!(gauge.get(), EventTimeMs::MIN);
        gauge.set(EventTimeMs(5));
        assert_eq!(gauge.get(), EventTimeMs(5));
    }
}
