//! Two quick limits of the machine, taken before and after a bench: did it stay the same meanwhile?
//!
//! Best of several short runs each: what a neighbour takes now and then is not what the machine can do.

use std::hint::black_box;
use std::time::Instant;

const RUNS: usize = 5;
const STEPS: u64 = 2_000_000;
const WORDS: usize = 4 << 20;
const UPDATES: usize = 200_000;

/// What one core and its memory do at best, in nanoseconds each.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Probe {
    /// A multiplication that waits for the one before it.
    pub multiply_ns: f64,
    /// A random read-modify-write in 32 MiB, the next place hanging on the last value.
    pub update_ns: f64,
}

impl Probe {
    /// Takes about 50 ms.
    pub fn take() -> Self {
        let mut words = vec![1u64; WORDS];
        let best = |run: &mut dyn FnMut()| {
            let times = (0..RUNS).map(|_| {
                let begun = Instant::now();
                run();
                begun.elapsed().as_nanos() as f64
            });
            times.fold(f64::MAX, f64::min)
        };
        let multiplied = best(&mut || {
            black_box((0..STEPS).fold(black_box(3u64), |product, step| (product ^ step).wrapping_mul(0x9E37_79B9)));
        });
        let updated = best(&mut || {
            let mut state = black_box(1u64);
            for _ in 0..UPDATES {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let place = (state >> 40) as usize & (WORDS - 1);
                words[place] += 1;
                state ^= words[place] & 1;
            }
        });
        Self { multiply_ns: multiplied / STEPS as f64, update_ns: updated / UPDATES as f64 }
    }

    /// What differs by more than a tenth, in words.
    pub fn differences(self, later: Self) -> Vec<String> {
        let each = [
            ("a multiplication", self.multiply_ns, later.multiply_ns),
            ("a random update of memory", self.update_ns, later.update_ns),
        ];
        let differs = each.into_iter().filter(|(_, before, after)| (after / before - 1.0).abs() > 0.1);
        differs
            .map(|(what, before, after)| {
                format!("{what} took {before:.2} ns before and {after:.2} ns after: the machine was not steady")
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probes_that_differ_by_more_than_a_tenth_are_named() {
        let before = Probe { multiply_ns: 1.0, update_ns: 10.0 };
        assert_eq!(before.differences(Probe { multiply_ns: 1.09, update_ns: 9.1 }), Vec::<String>::new());
        let differences = before.differences(Probe { multiply_ns: 1.0, update_ns: 12.0 });
        assert_eq!(differences.len(), 1);
        assert!(differences[0].contains("10.00 ns before and 12.00 ns after"), "{differences:?}");
    }
}
