//! How a slot waits: it spins for a while, then sleeps. A pure step machine; the driver does what it says.
//!
//! Spinning pays while the next record comes sooner than a wake-up costs. The budget begins at 20 us (about what a wake-up costs),
//! grows to 50 us at most while sleeps turn out to be shorter than a wake-up, and falls back when they are not.
//! Where slots outnumber the CPUs, spinning only takes time from those who have work: the budget is zero.

/// How long a slot spins before it sleeps, to begin with.
pub const SPIN_BUDGET_DEFAULT_NS: u64 = 20_000;

/// How long a slot spins at most.
pub const SPIN_BUDGET_MAX_NS: u64 = 50_000;

/// What waking a parked thread costs, roughly: futex and eventfd take 4 to 40 us, 20 us at the median.
pub const WAKE_COST_NS: u64 = 20_000;

/// How many sleeps in a row must be too short before the slot spins longer: one or two are chance.
const SHORT_SLEEPS_MAX: u32 = 4;

const SPIN_BUDGET_STEP_NS: u64 = 10_000;

/// What the driver does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdleAction {
    /// Step again at once.
    Step,
    /// Let the core breathe for a few cycles, then step again.
    Spin,
    /// Announce, step once more, and sleep if that was idle too.
    Park,
}

/// Decides between stepping, spinning and sleeping.
#[derive(Clone, Debug)]
pub struct IdlePolicy {
    state: IdleState,
    budget_ns: u64,
    budget_min_ns: u64,
    short_sleeps: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum IdleState {
    /// The last step did something.
    Busy,
    /// No step did anything since then.
    Spinning { since_ns: u64 },
}

impl IdlePolicy {
    /// The policy of one of `slots` slots that share `usable_cpus` CPUs.
    pub fn for_slots(slots: usize, usable_cpus: usize) -> Self {
        let budget_ns = if slots <= usable_cpus { SPIN_BUDGET_DEFAULT_NS } else { 0 };
        Self { state: IdleState::Busy, budget_ns, budget_min_ns: budget_ns, short_sleeps: 0 }
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
        if now_ns.saturating_sub(since_ns) < self.budget_ns { IdleAction::Spin } else { IdleAction::Park }
    }

    /// After a sleep of `slept_ns`: learns from it. The next idle step begins a new spin.
    pub fn after_sleep(&mut self, slept_ns: u64) {
        self.state = IdleState::Busy;
        if self.budget_min_ns == 0 {
            return;
        }
        if slept_ns >= 2 * WAKE_COST_NS {
            self.short_sleeps = 0;
            self.budget_ns = self.budget_ns.saturating_sub(SPIN_BUDGET_STEP_NS).max(self.budget_min_ns);
            return;
        }
        self.short_sleeps += 1;
        if self.short_sleeps == SHORT_SLEEPS_MAX {
            self.short_sleeps = 0;
            self.budget_ns = (self.budget_ns + SPIN_BUDGET_STEP_NS).min(SPIN_BUDGET_MAX_NS);
        }
    }

    /// How long it spins now before it sleeps.
    pub fn spin_budget_ns(&self) -> u64 {
        self.budget_ns
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_slot_spins_for_its_budget_and_then_parks() {
        let mut idle = IdlePolicy::for_slots(1, 2);
        assert_eq!(idle.after_step(true, 0), IdleAction::Step);
        assert_eq!(idle.after_step(false, 100), IdleAction::Spin);
        assert_eq!(idle.after_step(false, 100 + SPIN_BUDGET_DEFAULT_NS - 1), IdleAction::Spin);
        assert_eq!(idle.after_step(false, 100 + SPIN_BUDGET_DEFAULT_NS), IdleAction::Park);
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
    fn slots_that_outnumber_the_cpus_never_spin() {
        let mut idle = IdlePolicy::for_slots(3, 2);
        (0..100).for_each(|_| idle.after_sleep(1));
        assert_eq!(idle.after_step(false, 0), IdleAction::Park);
    }

    #[test]
    fn short_sleeps_lengthen_the_spin_up_to_the_limit_and_long_ones_shorten_it_again() {
        let mut idle = IdlePolicy::for_slots(1, 1);
        (0..100).for_each(|_| idle.after_sleep(WAKE_COST_NS));
        assert_eq!(idle.spin_budget_ns(), SPIN_BUDGET_MAX_NS);
        (0..100).for_each(|_| idle.after_sleep(1_000_000));
        assert_eq!(idle.spin_budget_ns(), SPIN_BUDGET_DEFAULT_NS);
    }
}
