//! The one budget that every byte of the engine counts against, and the refusal that names who wanted more.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A limit in bytes shared by everything that holds memory for the engine. Cloning shares the limit.
#[derive(Clone, Debug)]
pub struct MemoryBudget {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    limit_bytes: usize,
    used_bytes: AtomicUsize,
}

/// Why memory was refused: who asked, for how much, and what is left.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MemoryError {
    /// The budget has no room for the request.
    #[error(
        "{who} asked for {asked_bytes} bytes of memory, {left_bytes} of the budget's {limit_bytes} bytes are left: raise the memory budget"
    )]
    BudgetExhausted {
        /// Who asked.
        who: &'static str,
        /// How many bytes were asked for.
        asked_bytes: usize,
        /// How many bytes of the budget are not yet taken.
        left_bytes: usize,
        /// The whole budget.
        limit_bytes: usize,
    },
    /// The kernel refused to map the memory although the budget allowed it.
    #[error("{who} asked for {asked_bytes} bytes of memory, the kernel refused the mapping: {reason}")]
    MapRefused {
        /// Who asked.
        who: &'static str,
        /// How many bytes were asked for.
        asked_bytes: usize,
        /// The kernel's words.
        reason: String,
    },
}

/// Bytes taken from a budget; they return to it when this is dropped.
#[derive(Debug)]
pub struct Reservation {
    budget: MemoryBudget,
    bytes: usize,
}

impl MemoryBudget {
    /// A budget of `limit_bytes`, nothing of it used.
    pub fn new(limit_bytes: usize) -> Self {
        Self { shared: Arc::new(Shared { limit_bytes, used_bytes: AtomicUsize::new(0) }) }
    }

    /// Takes `bytes` out of the budget for `who`, or refuses; never blocks.
    pub fn reserve(&self, who: &'static str, bytes: usize) -> Result<Reservation, MemoryError> {
        let taken = self.shared.used_bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
            used.checked_add(bytes).filter(|&sum| sum <= self.shared.limit_bytes)
        });
        match taken {
            Ok(_) => Ok(Reservation { budget: self.clone(), bytes }),
            Err(used) => Err(MemoryError::BudgetExhausted {
                who,
                asked_bytes: bytes,
                left_bytes: self.shared.limit_bytes - used,
                limit_bytes: self.shared.limit_bytes,
            }),
        }
    }

    /// Bytes that nobody has taken.
    pub fn left_bytes(&self) -> usize {
        self.limit_bytes() - self.used_bytes()
    }

    /// The whole budget in bytes.
    pub fn limit_bytes(&self) -> usize {
        self.shared.limit_bytes
    }

    /// Bytes taken now.
    pub fn used_bytes(&self) -> usize {
        self.shared.used_bytes.load(Ordering::Relaxed)
    }
}

impl Reservation {
    /// How many bytes this holds.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.budget.shared.used_bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_who_asked_for_how_much_and_what_is_left() {
        let budget = MemoryBudget::new(100);
        let _held = budget.reserve("first", 70).unwrap();
        let refusal = budget.reserve("the sink", 40).unwrap_err();
        assert_eq!(
            refusal.to_string(),
            "the sink asked for 40 bytes of memory, 30 of the budget's 100 bytes are left: raise the memory budget"
        );
    }

    #[test]
    fn dropped_reservations_return_to_the_budget() {
        let budget = MemoryBudget::new(100);
        drop(budget.reserve("first", 100).unwrap());
        assert_eq!(budget.used_bytes(), 0);
        assert!(budget.reserve("second", 100).is_ok());
    }
}
