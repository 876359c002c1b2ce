//! How long the steps of a slot took: counts by powers of two, which say whether steps stay bounded.

/// How many powers of two are told apart.
pub const STEP_BUCKETS: usize = 32;

/// A histogram of steps. Bucket `i` holds steps of `2^i` to `2^(i+1) - 1` ns, the first one those of 0 ns too, the last one all longer ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StepLengths {
    counts: [u64; STEP_BUCKETS],
}

impl StepLengths {
    pub(super) fn new(counts: [u64; STEP_BUCKETS]) -> Self {
        Self { counts }
    }

    /// The bucket of a step of `ns`.
    #[inline]
    pub(super) fn bucket(ns: u64) -> usize {
        ns.max(1).ilog2().min(STEP_BUCKETS as u32 - 1) as usize
    }

    /// How many steps there were.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// A length in nanoseconds that so large a part of the steps (0 to 1) did not exceed: the end of the bucket, so at most twice the true
    /// one. 0 without steps; `u64::MAX` where the steps asked for are longer than 4 s.
    pub fn at_most_ns(&self, quantile: f64) -> u64 {
        let wanted = ((self.count() as f64 * quantile).ceil() as u64).max(1);
        let mut seen = 0;
        let reached = self.counts.iter().position(|count| {
            seen += count;
            seen >= wanted
        });
        match reached {
            None => 0,
            Some(last) if last == STEP_BUCKETS - 1 => u64::MAX,
            Some(bucket) => (2u64 << bucket) - 1,
        }
    }

    /// The buckets that are not empty: their longest length in nanoseconds, and how many steps lie in them.
    pub fn buckets(&self) -> impl Iterator<Item = (u64, u64)> {
        let longest_ns = |bucket| if bucket == STEP_BUCKETS - 1 { u64::MAX } else { (2u64 << bucket) - 1 };
        self.counts
            .into_iter()
            .enumerate()
            .filter(|&(_, count)| count > 0)
            .map(move |(at, count)| (longest_ns(at), count))
    }

    /// The steps since `before`, an earlier look at the same slot.
    pub fn since(&self, before: &Self) -> Self {
        Self { counts: std::array::from_fn(|at| self.counts[at].saturating_sub(before.counts[at])) }
    }
}

impl std::fmt::Display for StepLengths {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (half, most) = (self.at_most_ns(0.5), self.at_most_ns(0.999));
        write!(f, "{} steps, half at most {half} ns, 999 of 1000 at most {most} ns", self.count())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(lengths_ns: &[u64]) -> StepLengths {
        let mut counts = [0; STEP_BUCKETS];
        lengths_ns.iter().for_each(|&ns| counts[StepLengths::bucket(ns)] += 1);
        StepLengths::new(counts)
    }

    #[test]
    fn a_quantile_is_at_least_the_true_length_and_less_than_twice_it() {
        let lengths: Vec<u64> = (1..=1_000).map(|n| n * 100).collect();
        for (quantile, exact) in [(0.5, 50_000), (0.99, 99_000), (1.0, 100_000)] {
            let shown = of(&lengths).at_most_ns(quantile);
            assert!((exact..2 * exact).contains(&shown), "{quantile}: {shown}");
        }
    }

    #[test]
    fn without_steps_nothing_was_exceeded() {
        assert_eq!((of(&[]).at_most_ns(0.999), of(&[]).count(), of(&[]).buckets().count()), (0, 0, 0));
    }

    #[test]
    fn steps_beyond_the_last_bucket_have_no_bound() {
        assert_eq!(of(&[5, 1 << 40]).at_most_ns(1.0), u64::MAX);
        assert_eq!(of(&[5, 1 << 40]).at_most_ns(0.5), 7);
    }

    #[test]
    fn what_came_since_an_earlier_look_is_told_apart() {
        let (before, after) = (of(&[5, 900]), of(&[5, 6, 900]));
        assert_eq!(after.since(&before).buckets().collect::<Vec<_>>(), [(7, 1)]);
    }
}
