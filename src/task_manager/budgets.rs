//! How the TaskManager's memory is divided among jobs. Whole budgets are granted; who uses how much of one is `memory`'s matter.
//!
//! Invariant: what is granted to all jobs together never exceeds the limit.

use crate::job_manager::JobId;
use std::collections::BTreeMap;

/// The memory of one TaskManager and who has which part of it.
#[derive(Clone, Debug)]
pub struct Budgets {
    limit_bytes: u64,
    granted_bytes: BTreeMap<JobId, u64>,
}

/// Why a budget is refused: who asked, for how much, what is left.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{job} asked for {asked_bytes} bytes of memory, {left_bytes} of the TaskManager's {limit_bytes} are left: wait until a job ends, or raise --memory"
)]
pub struct BudgetError {
    /// Who asked.
    pub job: JobId,
    /// For how much, in all.
    pub asked_bytes: u64,
    /// What it could have had at most.
    pub left_bytes: u64,
    /// What all jobs may have together.
    pub limit_bytes: u64,
}

impl Budgets {
    /// Nothing granted yet.
    pub fn new(limit_bytes: u64) -> Self {
        Self { limit_bytes, granted_bytes: BTreeMap::new() }
    }

    /// Gives `job` a budget of `bytes` in place of what it has. A refusal leaves it what it has: budgets may move between jobs
    /// while they run, and are shrunk before another grows.
    pub fn grant(&mut self, job: JobId, bytes: u64) -> Result<(), BudgetError> {
        let left_bytes = self.free_bytes() + self.of(job);
        if bytes > left_bytes {
            return Err(BudgetError { job, asked_bytes: bytes, left_bytes, limit_bytes: self.limit_bytes });
        }
        self.granted_bytes.insert(job, bytes);
        Ok(())
    }

    /// Takes a job's budget back; whether it had one.
    pub fn release(&mut self, job: JobId) -> bool {
        self.granted_bytes.remove(&job).is_some()
    }

    /// Whether `job` has a budget, be it of 0 bytes.
    pub fn has(&self, job: JobId) -> bool {
        self.granted_bytes.contains_key(&job)
    }

    /// What `job` may use; 0 if nothing was granted.
    pub fn of(&self, job: JobId) -> u64 {
        self.granted_bytes.get(&job).copied().unwrap_or(0)
    }

    /// The jobs that have a budget.
    pub fn jobs(&self) -> impl Iterator<Item = JobId> + '_ {
        self.granted_bytes.keys().copied()
    }

    /// What is granted to nobody.
    pub fn free_bytes(&self) -> u64 {
        self.limit_bytes - self.granted_bytes.values().sum::<u64>()
    }

    /// What all jobs may have together.
    pub fn limit_bytes(&self) -> u64 {
        self.limit_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: JobId = JobId(1);
    const SECOND: JobId = JobId(2);

    #[test]
    fn a_refusal_names_who_how_much_and_what_is_left_and_changes_nothing() {
        let mut budgets = Budgets::new(100);
        budgets.grant(FIRST, 70).unwrap();
        let refusal = budgets.grant(SECOND, 40).unwrap_err();
        assert_eq!(refusal, BudgetError { job: SECOND, asked_bytes: 40, left_bytes: 30, limit_bytes: 100 });
        assert_eq!(budgets.free_bytes(), 30);
    }

    #[test]
    fn a_budget_may_grow_into_what_is_free_and_its_own() {
        let mut budgets = Budgets::new(100);
        budgets.grant(FIRST, 70).unwrap();
        budgets.grant(FIRST, 100).unwrap();
        assert_eq!(budgets.free_bytes(), 0);
        budgets.grant(FIRST, 20).unwrap();
        assert_eq!(budgets.of(FIRST), 20);
    }

    #[test]
    fn a_released_budget_is_free_again() {
        let mut budgets = Budgets::new(100);
        budgets.grant(FIRST, 100).unwrap();
        assert!(budgets.release(FIRST));
        assert!(!budgets.release(FIRST));
        assert!(!budgets.has(FIRST));
        assert!(budgets.grant(SECOND, 100).is_ok());
    }

    #[test]
    fn an_absurd_request_does_not_overflow() {
        assert!(Budgets::new(100).grant(FIRST, u64::MAX).is_err());
    }
}
