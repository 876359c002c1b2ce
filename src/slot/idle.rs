//! How a slot waits: it spins or yields for a while, then sleeps. A pure step machine; the driver does what it says.
//!
//! Spinning pays while the next record comes sooner than a wake-up costs. The budget begins at what a wake-up costs (20 us until
//! something was measured, then what sleeps that had an end overslept), grows to 50 us at most while sleeps turn out to be shorter than a
//! wake-up, and falls back when they are not. A sleep until a given time ends early by what a wake-up costs, and the rest is spun.
//! Where slots outnumber the CPUs, spinning would take time from those who have work: instead a slot yields its CPU, again and again for the same
//! budget. Sleeping at once was worse: a slot behind a full channel then waits for a wake-up each time, and the CPUs for the slots.
//!
//! Semantics of the budget: Karlin, Li, Manasse and Owicki 1991, Empirical Studies of Competitive Spinning: spinning for as long as a
//! wake-up costs is never worse than twice the best choice. A slot that polls (`busy_poll`) never sleeps: Aeron's BusySpinIdleStrategy.

/// How long a slot spins at most before it sleeps.
pub const SPIN_BUDGET_MAX_NS: u64 = 50_000;

/// What waking a parked thread is taken to cost until it was measured: futex and eventfd take 4 to 40 us, 20 us at the median.
pub const WAKE_COST_DEFAULT_NS: u64 = 20_000;

/// What a wake-up is taken to cost at least.
const WAKE_COST_MIN_NS: u64 = 4_000;

/// How many sleeps in a row must be too short before the slot spins longer: one or two are chance.
const SHORT_SLEEPS_MAX: u32 = 4;

const SPIN_BUDGET_STEP_NS: u64 = 10_000;

/// The measured cost moves by this part of the difference with every measurement.
const LEARN_DIVISOR: u64 = 8;

/// What the driver does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdleAction {
    /// Step again at once.
    Step,
    /// Let the core breathe for a few cycles, then step again.
    Spin,
    /// Let others have the CPU if they want it, then step again.
    Yield,
    /// Announce, step once more, and sleep if that was idle too.
    Park,
}

/// How a slot came back from a sleep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slept {
    /// How long it slept.
    pub ns: u64,
    /// How much later than it had asked for, if nobody woke it before.
    pub overslept_ns: Option<u64>,
}

/// Decides between stepping, spinning and sleeping.
#[derive(Clone, Debug)]
pub struct IdlePolicy {
    state: IdleState,
    habit: Habit,
    wake_cost_ns: u64,
    /// How much longer than a wake-up costs the slot spins now.
    extra_ns: u64,
    short_sleeps: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum IdleState {
    /// The last step did something.
    Busy,
    /// No step did anything since then.
    Spinning { since_ns: u64 },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Habit {
    /// Others need the CPU: yields it for its budget, then sleeps.
    Yields,
    /// Spins for its budget, then sleeps.
    Spins,
    /// The CPU is this slot's alone.
    Polls,
}

impl IdlePolicy {
    /// The policy of one of `slots` slots that share `usable_cpus` CPUs.
    pub fn for_slots(slots: usize, usable_cpus: usize) -> Self {
        Self::with(if slots <= usable_cpus { Habit::Spins } else { Habit::Yields })
    }

    /// Never sleeps: a record is seen as soon as it is visible, and the slot takes its CPU whole. Only for slots that have one each.
    pub fn busy_poll() -> Self {
        Self::with(Habit::Polls)
    }

    fn with(habit: Habit) -> Self {
        Self { state: IdleState::Busy, habit, wake_cost_ns: WAKE_COST_DEFAULT_NS, extra_ns: 0, short_sleeps: 0 }
    }

    /// After a step: whether it worked, and the time.
    #[inline]
    pub fn after_step(&mut self, worked: bool, now_ns: u64) -> IdleAction {
        if worked {
            self.state = IdleState::Busy;
            return IdleAction::Step;
        }
        let since_ns = match self.state {
            IdleState::Spinning { since_ns } => since_ns,
            IdleState::Busy => now_ns,
        };
        self.state = IdleState::Spinning { since_ns };
        match self.habit {
            _ if now_ns.saturating_sub(since_ns) >= self.spin_budget_ns() => IdleAction::Park,
            Habit::Yields => IdleAction::Yield,
            Habit::Spins | Habit::Polls => IdleAction::Spin,
        }
    }

    /// After a sleep: learns from it. The next idle step begins a new spin.
    pub fn after_sleep(&mut self, slept: Slept) {
        self.state = IdleState::Busy;
        if let Some(overslept_ns) = slept.overslept_ns {
            // One measurement counts little, and one far off no more than others: the machine may have been busy.
            let cost_ns = overslept_ns.clamp(self.wake_cost_ns / 2, self.wake_cost_ns * 2);
            let learned_ns = (self.wake_cost_ns * (LEARN_DIVISOR - 1) + cost_ns) / LEARN_DIVISOR;
            self.wake_cost_ns = learned_ns.clamp(WAKE_COST_MIN_NS, SPIN_BUDGET_MAX_NS);
        }
        if slept.ns >= 2 * self.wake_cost_ns {
            self.short_sleeps = 0;
            self.extra_ns = self.extra_ns.saturating_sub(SPIN_BUDGET_STEP_NS);
            return;
        }
        self.short_sleeps += 1;
        if self.short_sleeps >= SHORT_SLEEPS_MAX {
            self.short_sleeps = 0;
            self.extra_ns = (self.extra_ns + SPIN_BUDGET_STEP_NS).min(SPIN_BUDGET_MAX_NS);
        }
    }

    /// How long it spins or yields now before it sleeps.
    #[inline]
    pub fn spin_budget_ns(&self) -> u64 {
        match self.habit {
            Habit::Yields | Habit::Spins => (self.wake_cost_ns + self.extra_ns).min(SPIN_BUDGET_MAX_NS),
            Habit::Polls => u64::MAX,
        }
    }

    /// How long before a given time a sleep until then has to end.
    pub fn early_ns(&self) -> u64 {
        if self.habit == Habit::Yields { 0 } else { self.wake_cost_ns }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn woken(ns: u64) -> Slept {
        Slept { ns, overslept_ns: None }
    }

    #[test]
    fn an_idle_slot_spins_for_its_budget_and_then_parks() {
        let mut idle = IdlePolicy::for_slots(1, 2);
        assert_eq!(idle.after_step(true, 0), IdleAction::Step);
        assert_eq!(idle.after_step(false, 100), IdleAction::Spin);
        assert_eq!(idle.after_step(false, 100 + WAKE_COST_DEFAULT_NS - 1), IdleAction::Spin);
        assert_eq!(idle.after_step(false, 100 + WAKE_COST_DEFAULT_NS), IdleAction::Park);
    }

    #[test]
    fn work_found_while_spinning_begins_a_new_budget() {
        let mut idle = IdlePolicy::for_slots(1, 1);
        idle.after_step(false, 0);
        idle.after_step(true, 19_000);
        assert_eq!(idle.after_step(false, 30_000), IdleAction::Spin);
        assert_eq!(idle.after_step(false, 45_000), IdleAction::Spin);
    }

    #[test]
    fn slots_that_outnumber_the_cpus_yield_instead_of_spinning() {
        let mut idle = IdlePolicy::for_slots(3, 2);
        assert_eq!(idle.after_step(false, 0), IdleAction::Yield);
        assert_eq!(idle.after_step(false, WAKE_COST_DEFAULT_NS - 1), IdleAction::Yield);
        assert_eq!(idle.after_step(false, WAKE_COST_DEFAULT_NS), IdleAction::Park);
        assert_eq!(idle.early_ns(), 0);
    }

    #[test]
    fn a_slot_that_polls_never_parks() {
        let mut idle = IdlePolicy::busy_poll();
        idle.after_step(false, 0);
        assert_eq!(idle.after_step(false, 3_600_000_000_000), IdleAction::Spin);
    }

    #[test]
    fn short_sleeps_lengthen_the_spin_up_to_the_limit_and_long_ones_shorten_it_again() {
        let mut idle = IdlePolicy::for_slots(1, 1);
        (0..100).for_each(|_| idle.after_sleep(woken(WAKE_COST_DEFAULT_NS)));
        assert_eq!(idle.spin_budget_ns(), SPIN_BUDGET_MAX_NS);
        (0..100).for_each(|_| idle.after_sleep(woken(1_000_000)));
        assert_eq!(idle.spin_budget_ns(), WAKE_COST_DEFAULT_NS);
    }

    #[test]
    fn what_sleeps_oversleep_becomes_the_budget_and_one_far_off_changes_little() {
        let mut idle = IdlePolicy::for_slots(1, 1);
        let overslept = |ns| Slept { ns: 1_000_000, overslept_ns: Some(ns) };
        (0..100).for_each(|_| idle.after_sleep(overslept(8_000)));
        assert!((8_000..8_020).contains(&idle.spin_budget_ns()), "{}", idle.spin_budget_ns());
        idle.after_sleep(overslept(30_000_000));
        assert!(idle.spin_budget_ns() < 9_100);
        (0..100).for_each(|_| idle.after_sleep(overslept(1)));
        assert_eq!((idle.spin_budget_ns(), idle.early_ns()), (WAKE_COST_MIN_NS, WAKE_COST_MIN_NS));
    }
}
