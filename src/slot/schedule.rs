//! Which of a slot's tasks are stepped in a sweep: classes by priority, and shares by weight within a class.
//!
//! A sweep visits the classes from the lowest number on and ends with the first in which a task worked; every sixteenth sweep
//! goes on to the classes below, so that nothing starves. Within a class, every task has a pass: the time it used divided by its
//! weight. A task whose pass is ahead of the slowest busy one's by more than a little sits the sweep out.
//!
//! Semantics: Waldspurger and Weihl 1995, Stride Scheduling. A task that was idle comes back at the pass of the slowest busy one, so
//! that it cannot save up time.

/// How many sweeps in a row end above a lower class before one visits it.
const STARVED_SWEEPS_MAX: u32 = 15;

/// How far ahead a pass may be: a step of ordinary length at weight 1, so that equal tasks need not alternate strictly.
const AHEAD_MAX: u128 = 100_000 * PASS_SCALE;

/// What a step costs at least, so that shares hold under a clock that stands still during a step (the simulator's).
const CHARGE_MIN_NS: u64 = 1_000;

/// Passes are scaled so that even the shortest step of the heaviest task moves its pass, by 1000. 128 bits hold that for ever.
const PASS_SCALE: u128 = 1 << 16;

/// How much of a slot a task gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// The class: lower numbers run first.
    pub priority: u8,
    /// The part of the class's time, in proportion to the others' (0 counts as 1).
    pub weight: u16,
}

impl Default for Share {
    /// The middle class, weight 1.
    fn default() -> Self {
        Self { priority: 128, weight: 1 }
    }
}

/// Where one task stands within its class.
#[derive(Clone, Debug)]
pub(super) struct Standing {
    pub(super) share: Share,
    pass: u128,
    busy: bool,
}

impl Standing {
    pub(super) fn new(share: Share) -> Self {
        Self { share, pass: 0, busy: false }
    }

    /// Whether the task is stepped in a sweep over a class whose slowest busy pass is `floor`. The slowest always is.
    #[inline]
    pub(super) fn may_run(&self, floor: u128) -> bool {
        !self.busy || self.pass <= floor + AHEAD_MAX
    }

    /// After a step of `ns`.
    #[inline]
    pub(super) fn charge(&mut self, ns: u64, worked: bool, floor: u128) {
        if worked {
            if !self.busy {
                self.pass = self.pass.max(floor);
            }
            self.pass += u128::from(ns.max(CHARGE_MIN_NS)) * PASS_SCALE / u128::from(self.share.weight.max(1));
        }
        self.busy = worked;
    }
}

/// The slowest busy pass of a class; when none is busy, the fastest of all, so that nobody comes back with time saved up.
pub(super) fn floor<'a>(class: impl Iterator<Item = &'a Standing> + Clone) -> u128 {
    let busy = class.clone().filter(|standing| standing.busy).map(|standing| standing.pass).min();
    busy.or_else(|| class.map(|standing| standing.pass).max()).unwrap_or(0)
}

/// Remembers how long the lower classes have waited.
#[derive(Debug, Default)]
pub(super) struct Patience {
    ended_early: u32,
}

impl Patience {
    /// A class worked and others are below it: whether the sweep ends here.
    pub(super) fn ends_sweep(&mut self) -> bool {
        self.ended_early += 1;
        if self.ended_early > STARVED_SWEEPS_MAX {
            self.ended_early = 0;
        }
        self.ended_early != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a class whose tasks always work for `step_ns`, and counts their steps.
    fn steps(tasks: &mut [(Standing, u64)], sweeps: usize) -> Vec<usize> {
        let mut steps = vec![0; tasks.len()];
        for _ in 0..sweeps {
            let floor = floor(tasks.iter().map(|(standing, _)| standing));
            for (index, (standing, step_ns)) in tasks.iter_mut().enumerate() {
                if standing.may_run(floor) {
                    standing.charge(*step_ns, true, floor);
                    steps[index] += 1;
                }
            }
        }
        steps
    }

    fn task(weight: u16, step_ns: u64) -> (Standing, u64) {
        (Standing::new(Share { priority: 1, weight }), step_ns)
    }

    #[test]
    fn busy_tasks_share_the_time_by_weight() {
        let steps = steps(&mut [task(1, 50_000), task(3, 50_000)], 10_000);
        let ratio = steps[1] as f64 / steps[0] as f64;
        assert!((2.9..3.1).contains(&ratio), "{steps:?}");
    }

    /// A pass that moved by less than one for the shortest steps stood still, and so did all that waited for it.
    #[test]
    fn the_heaviest_task_does_not_starve_the_lightest() {
        let steps = steps(&mut [task(u16::MAX, 1_000), task(1, 1_000)], 20 * usize::from(u16::MAX));
        // It may be ahead by a hundred steps from the beginning.
        assert!((115..=125).contains(&steps[1]), "{steps:?}");
    }

    #[test]
    fn a_task_with_long_steps_gets_no_more_time_than_one_with_short_steps() {
        let steps = steps(&mut [task(1, 500_000), task(1, 50_000)], 10_000);
        let ratio = steps[1] as f64 / (steps[0] * 10) as f64;
        assert!((0.95..1.05).contains(&ratio), "{steps:?}");
    }

    #[test]
    fn a_task_that_was_idle_cannot_catch_up_on_time_it_did_not_use() {
        let mut tasks = [task(1, 50_000), task(1, 50_000)];
        steps(&mut tasks[..1], 1_000);
        let steps = steps(&mut tasks, 1_000);
        assert!(steps[0].abs_diff(steps[1]) <= 5, "{steps:?}");
    }
}
