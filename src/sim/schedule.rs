//! Who is stepped next: threads of a simulated machine, of which some are fast, some slow and some stand still for a while.

use super::Rng;

/// What a thread's speed may be, relative to the others'; 0 stands still.
const SPEEDS: [u64; 6] = [0, 1, 1, 2, 4, 16];

/// Speeds change after at most this many steps.
const STEPS_BETWEEN_CHANGES_MAX: u64 = 2_000;

/// A seeded schedule of a number of threads.
#[derive(Debug)]
pub(super) struct Schedule {
    rng: Rng,
    speeds: Vec<u64>,
    steps_left: u64,
}

impl Schedule {
    pub(super) fn new(threads: usize, rng: Rng) -> Self {
        Self { rng, speeds: vec![1; threads], steps_left: 0 }
    }

    /// The thread that makes the next step.
    pub(super) fn next(&mut self) -> usize {
        if self.steps_left == 0 {
            self.steps_left = 1 + self.rng.below(STEPS_BETWEEN_CHANGES_MAX);
            for speed in &mut self.speeds {
                *speed = SPEEDS[self.rng.index(SPEEDS.len())];
            }
            if self.speeds.iter().all(|speed| *speed == 0) {
                self.speeds.fill(1);
            }
        }
        self.steps_left -= 1;
        let mut ticket = self.rng.below(self.speeds.iter().sum());
        let holds = |speed: &u64| match ticket.checked_sub(*speed) {
            Some(left) => {
                ticket = left;
                false
            }
            None => true,
        };
        self.speeds.iter().position(holds).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_thread_comes_and_no_thread_always_does() {
        let mut schedule = Schedule::new(3, Rng::new(1));
        let mut steps = [0; 3];
        (0..100_000).for_each(|_| steps[schedule.next()] += 1);
        assert!(steps.iter().all(|&steps| steps > 10_000 && steps < 80_000), "{steps:?}");
    }

    #[test]
    fn some_thread_stands_still_for_a_while() {
        let mut schedule = Schedule::new(3, Rng::new(1));
        let stands_still = (0..1_000).any(|_| {
            let steps: Vec<usize> = (0..200).map(|_| schedule.next()).collect();
            !steps.contains(&0)
        });
        assert!(stands_still);
    }
}
