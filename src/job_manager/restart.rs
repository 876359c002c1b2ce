//! Whether and when a failed job is restarted.
//!
//! The whole job restarts, not a region of it: one `key_by` joins everything into one pipelined region, which is then the job
//! (Flink's region failover does the same). Jobs whose vertices are not connected would gain; they can be submitted as two jobs.
//! Semantics: Flink FixedDelay-, FailureRate- and ExponentialDelayRestartBackoffTimeStrategy, with Flink's defaults.

use std::collections::VecDeque;

const NS_PER_MS: u64 = 1_000_000;

/// What to do when a job fails.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RestartPolicy {
    /// Never restart.
    None,
    /// Restart so often, each time after the same delay.
    FixedDelay {
        /// How many restarts in the life of the job.
        attempts_max: u32,
        /// Before each restart.
        delay_ms: u64,
    },
    /// Restart unless failures come too often.
    FailureRate {
        /// How many failures are survived within the interval.
        failures_max: u32,
        /// The interval.
        interval_ms: u64,
        /// Before each restart.
        delay_ms: u64,
    },
    /// Restart for ever, waiting longer each time until it runs well again.
    ExponentialDelay {
        /// Before the first restart, and the shortest delay.
        initial_ms: u64,
        /// The longest delay.
        max_ms: u64,
        /// By how much each delay exceeds the one before, in thousandths.
        multiplier_permille: u32,
        /// Random part of each delay, in thousandths of it, up or down.
        jitter_permille: u32,
        /// After this long without a failure the delay is the initial one again.
        reset_after_ms: u64,
        /// How many restarts without such a quiet time; `None`: any number.
        attempts_max: Option<u32>,
    },
}

/// A policy at work: what it remembers of earlier failures.
#[derive(Clone, Debug)]
pub struct RestartStrategy {
    policy: RestartPolicy,
    attempts: u32,
    /// Failure rate only: the last `failures_max + 1` failures.
    failures_ns: VecDeque<u64>,
    /// Exponential delay only: the next delay before jitter.
    backoff_ns: u64,
    restart_at_ns: Option<u64>,
}

/// The answer to a failure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RestartDecision {
    /// Restart, not before this time.
    RestartAt(u64),
    /// Do not; the reason in words.
    GiveUp(String),
}

impl Default for RestartPolicy {
    /// Exponential delay as Flink 2 has it: 1 s to 1 min, factor 1.5, jitter 10 %, reset after 1 h, for ever.
    fn default() -> Self {
        Self::ExponentialDelay {
            initial_ms: 1_000,
            max_ms: 60_000,
            multiplier_permille: 1_500,
            jitter_permille: 100,
            reset_after_ms: 3_600_000,
            attempts_max: None,
        }
    }
}

impl RestartStrategy {
    /// A policy that has seen no failure.
    pub fn new(policy: RestartPolicy) -> Self {
        Self { policy, attempts: 0, failures_ns: VecDeque::new(), backoff_ns: 0, restart_at_ns: None }
    }

    /// The job failed. `random` is any number; it only moves the exponential delay within its jitter.
    pub fn on_failure(&mut self, now_ns: u64, random: u64) -> RestartDecision {
        match self.policy {
            RestartPolicy::None => RestartDecision::GiveUp("the restart strategy is none".into()),
            RestartPolicy::FixedDelay { attempts_max, delay_ms } => self.fixed_delay(now_ns, attempts_max, delay_ms),
            RestartPolicy::FailureRate { failures_max, interval_ms, delay_ms } => {
                self.failure_rate(now_ns, failures_max, interval_ms, delay_ms)
            }
            RestartPolicy::ExponentialDelay { .. } => self.exponential_delay(now_ns, random),
        }
    }

    /// How many restarts were decided (since the last quiet time, for exponential delay).
    pub fn attempts(&self) -> u32 {
        self.attempts
    }

    fn fixed_delay(&mut self, now_ns: u64, attempts_max: u32, delay_ms: u64) -> RestartDecision {
        if self.attempts >= attempts_max {
            return RestartDecision::GiveUp(format!("it was restarted {attempts_max} times, as often as allowed"));
        }
        self.attempts += 1;
        RestartDecision::RestartAt(after(now_ns, delay_ms))
    }

    fn failure_rate(&mut self, now_ns: u64, failures_max: u32, interval_ms: u64, delay_ms: u64) -> RestartDecision {
        if self.failures_ns.len() > failures_max as usize {
            self.failures_ns.pop_front();
        }
        self.failures_ns.push_back(now_ns);
        let since_ns = now_ns.saturating_sub(self.failures_ns[0]);
        if self.failures_ns.len() > failures_max as usize && since_ns <= interval_ms.saturating_mul(NS_PER_MS) {
            let failures = self.failures_ns.len();
            return RestartDecision::GiveUp(format!(
                "it failed {failures} times within {interval_ms} ms, {failures_max} are allowed"
            ));
        }
        self.attempts += 1;
        RestartDecision::RestartAt(after(now_ns, delay_ms))
    }

    fn exponential_delay(&mut self, now_ns: u64, random: u64) -> RestartDecision {
        let RestartPolicy::ExponentialDelay {
            initial_ms,
            max_ms,
            multiplier_permille,
            jitter_permille,
            reset_after_ms,
            attempts_max,
        } = self.policy
        else {
            return RestartDecision::GiveUp("the restart strategy is another one".into());
        };
        // Failures until the restart belong to the failure that is being recovered from: several tasks fail together.
        if let Some(pending_ns) = self.restart_at_ns.filter(|&pending_ns| now_ns <= pending_ns) {
            return RestartDecision::RestartAt(pending_ns);
        }
        let (initial_ns, max_ns) = (initial_ms.saturating_mul(NS_PER_MS), max_ms.saturating_mul(NS_PER_MS).max(1));
        let quiet =
            self.restart_at_ns.is_none_or(|last_ns| now_ns - last_ns >= reset_after_ms.saturating_mul(NS_PER_MS));
        if quiet {
            self.attempts = 0;
            self.backoff_ns = initial_ns;
        }
        if attempts_max.is_some_and(|max| self.attempts >= max) {
            return RestartDecision::GiveUp(format!("it was restarted {} times without running well", self.attempts));
        }
        let backoff_ns = self.backoff_ns.min(max_ns);
        let jitter_ns = permille_of(backoff_ns, jitter_permille);
        let jittered_ns = (backoff_ns - jitter_ns.min(backoff_ns)).saturating_add(random % (2 * jitter_ns + 1));
        let delay_ns = jittered_ns.min(max_ns).max(initial_ns);
        self.attempts += 1;
        self.backoff_ns = permille_of(backoff_ns, multiplier_permille).min(max_ns);
        let restart_at_ns = now_ns.saturating_add(delay_ns);
        self.restart_at_ns = Some(restart_at_ns);
        RestartDecision::RestartAt(restart_at_ns)
    }
}

fn after(now_ns: u64, delay_ms: u64) -> u64 {
    now_ns.saturating_add(delay_ms.saturating_mul(NS_PER_MS))
}

fn permille_of(ns: u64, permille: u32) -> u64 {
    u64::try_from(ns as u128 * permille as u128 / 1_000).unwrap_or(u64::MAX / 4).min(u64::MAX / 4)
}

#[cfg(test)]
mod tests {
    use super::RestartDecision::*;
    use super::*;

    const MS: u64 = NS_PER_MS;

    fn exponential(jitter_permille: u32, attempts_max: Option<u32>) -> RestartStrategy {
        RestartStrategy::new(RestartPolicy::ExponentialDelay {
            initial_ms: 1_000,
            max_ms: 60_000,
            multiplier_permille: 1_500,
            jitter_permille,
            reset_after_ms: 3_600_000,
            attempts_max,
        })
    }

    /// Fails a little after every restart and returns the delays in ms.
    fn delays_ms(strategy: &mut RestartStrategy, failures: usize, random: u64) -> Vec<u64> {
        let mut now_ns = 10 * MS;
        (0..failures)
            .map(|_| {
                let RestartAt(at_ns) = strategy.on_failure(now_ns, random) else { panic!("gave up") };
                let delay_ms = (at_ns - now_ns) / MS;
                now_ns = at_ns + MS;
                delay_ms
            })
            .collect()
    }

    #[test]
    fn none_never_restarts() {
        assert!(matches!(RestartStrategy::new(RestartPolicy::None).on_failure(0, 0), GiveUp(_)));
    }

    #[test]
    fn a_fixed_delay_restarts_as_often_as_allowed() {
        let mut strategy = RestartStrategy::new(RestartPolicy::FixedDelay { attempts_max: 2, delay_ms: 5 });
        assert_eq!(strategy.on_failure(0, 0), RestartAt(5 * MS));
        assert_eq!(strategy.on_failure(100 * MS, 0), RestartAt(105 * MS));
        assert_eq!(strategy.on_failure(200 * MS, 0), GiveUp("it was restarted 2 times, as often as allowed".into()));
    }

    #[test]
    fn a_failure_rate_gives_up_when_more_than_the_maximum_lie_within_the_interval() {
        let mut strategy =
            RestartStrategy::new(RestartPolicy::FailureRate { failures_max: 1, interval_ms: 100, delay_ms: 5 });
        assert_eq!(strategy.on_failure(0, 0), RestartAt(5 * MS));
        assert_eq!(strategy.on_failure(101 * MS, 0), RestartAt(106 * MS));
        assert!(matches!(strategy.on_failure(201 * MS, 0), GiveUp(_)), "exactly the interval is within it");
    }

    #[test]
    fn a_failure_rate_of_none_gives_up_at_the_first() {
        let mut strategy =
            RestartStrategy::new(RestartPolicy::FailureRate { failures_max: 0, interval_ms: 100, delay_ms: 5 });
        assert!(matches!(strategy.on_failure(0, 0), GiveUp(_)));
    }

    #[test]
    fn exponential_delays_grow_by_half_up_to_a_minute() {
        let mut strategy = exponential(0, None);
        let delays = delays_ms(&mut strategy, 14, 0);
        assert_eq!(delays[..5], [1_000, 1_500, 2_250, 3_375, 5_062]);
        assert_eq!(delays[11..], [60_000, 60_000, 60_000]);
        assert_eq!(strategy.attempts(), 14);
    }

    #[test]
    fn failures_up_to_the_restart_belong_to_the_same_failure() {
        let mut strategy = exponential(0, Some(1));
        assert_eq!(strategy.on_failure(0, 0), RestartAt(1_000 * MS));
        assert_eq!(strategy.on_failure(1_000 * MS, 0), RestartAt(1_000 * MS));
        assert!(matches!(strategy.on_failure(1_000 * MS + 1, 0), GiveUp(_)));
    }

    #[test]
    fn an_hour_without_failure_begins_anew() {
        let mut strategy = exponential(0, Some(3));
        delays_ms(&mut strategy, 3, 0);
        let much_later_ns = 4_000_000 * MS;
        assert_eq!(strategy.on_failure(much_later_ns, 0), RestartAt(much_later_ns + 1_000 * MS));
    }

    #[test]
    fn the_jitter_moves_a_delay_by_a_tenth_but_never_below_the_initial_or_above_the_longest() {
        assert_eq!(delays_ms(&mut exponential(100, None), 3, 0), [1_000, 1_350, 2_025]);
        let most = |backoff_ms: u64| 2 * backoff_ms * MS / 10;
        assert_eq!(delays_ms(&mut exponential(100, None), 1, most(1_000)), [1_100]);
        let mut strategy = exponential(100, None);
        assert_eq!(delays_ms(&mut strategy, 13, most(60_000))[12], 60_000);
    }

    #[test]
    fn extreme_settings_do_not_overflow() {
        let mut strategy = RestartStrategy::new(RestartPolicy::ExponentialDelay {
            initial_ms: u64::MAX,
            max_ms: u64::MAX,
            multiplier_permille: u32::MAX,
            jitter_permille: u32::MAX,
            reset_after_ms: u64::MAX,
            attempts_max: None,
        });
        assert_eq!(strategy.on_failure(1, u64::MAX), RestartAt(u64::MAX));
    }
}
