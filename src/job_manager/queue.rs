//! In which order waiting jobs are tried.
//!
//! Within one priority, jobs go by weight over expected run time (Smith's rule), which minimises the weighted sum of completion
//! times. Every aging period of waiting lifts a job by one priority, so the lowest job overtakes every newcomer in the end.
//! A job that does not fit may be passed by smaller ones, but only for a while (`JobManagerSettings::passed_over_ns_max`): then
//! whatever becomes free is kept for it. Running jobs are never evicted.

use std::cmp::{Ordering, Reverse};

/// A job without an expected end counts as running for a day.
const ENDLESS_RUN_MS: u64 = 86_400_000;

/// How urgent a job is by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Urgency {
    /// Larger first.
    pub priority: u8,
    /// What its delay costs, relative to others.
    pub weight: u32,
    /// How long it will run, if it ends at all.
    pub expected_run_ms: Option<u64>,
}

/// Compares two jobs that have waited `waited_ns` each; `Less` goes first. Jobs equal here go by submission.
pub fn by_urgency(left: (Urgency, u64), right: (Urgency, u64), aging_ns: u64) -> Ordering {
    let aged = |(urgency, waited_ns): (Urgency, u64)| urgency.priority as u64 + waited_ns / aging_ns.max(1);
    let run_ms = |urgency: Urgency| urgency.expected_run_ms.unwrap_or(ENDLESS_RUN_MS).max(1) as u128;
    // weight / run, compared without a division: w1 / t1 > w2 / t2 is w1 * t2 > w2 * t1.
    let cost = |one: Urgency, other: Urgency| one.weight.max(1) as u128 * run_ms(other);
    let (left_cost, right_cost) = (cost(left.0, right.0), cost(right.0, left.0));
    (Reverse(aged(left)), Reverse(left_cost)).cmp(&(Reverse(aged(right)), Reverse(right_cost)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn urgency(priority: u8, weight: u32, expected_run_ms: impl Into<Option<u64>>) -> Urgency {
        Urgency { priority, weight, expected_run_ms: expected_run_ms.into() }
    }

    #[test]
    fn within_a_priority_weight_over_run_time_decides() {
        let (short, long) = (urgency(0, 1, 1_000), urgency(0, 3, 4_000));
        assert_eq!(by_urgency((short, 0), (long, 0), 100), Ordering::Less);
        assert_eq!(by_urgency((urgency(0, 5, 4_000), 0), (short, 0), 100), Ordering::Less);
    }

    #[test]
    fn a_job_without_end_goes_after_one_that_ends_today() {
        assert_eq!(by_urgency((urgency(0, 1, 3_600_000), 0), (urgency(0, 1, None), 0), 100), Ordering::Less);
    }

    #[test]
    fn priority_goes_before_weight() {
        assert_eq!(by_urgency((urgency(1, 1, None), 0), (urgency(0, 1_000, 1), 0), 100), Ordering::Less);
    }

    #[test]
    fn the_lowest_overtakes_every_newcomer_once_it_has_waited_long_enough() {
        let (lowest, urgent) = (urgency(0, 1, None), urgency(9, 1_000, 1));
        assert_eq!(by_urgency((lowest, 999), (urgent, 0), 100), Ordering::Greater);
        assert_eq!(by_urgency((lowest, 1_000), (urgent, 0), 100), Ordering::Less);
    }

    #[test]
    fn zeros_do_not_break_the_order() {
        assert_eq!(by_urgency((urgency(0, 0, 0), 5), (urgency(0, 0, 0), 5), 0), Ordering::Equal);
    }
}
