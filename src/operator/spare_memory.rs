//! Memory for what an operator remembers to be faster, and could find anew: a share of the job's budget, as long as there is some.

use crate::memory::{MemoryBudget, Reservation};

/// Taken from the budget so many bytes at a time.
pub(super) const RESERVED_AT_ONCE_BYTES: usize = 64 << 10;

/// Counts what is kept; never given back to the budget before the job ends.
pub(super) struct SpareMemory {
    who: &'static str,
    budget: MemoryBudget,
    limit_bytes: usize,
    /// What is kept, and what was taken from the budget for it.
    pub used_bytes: usize,
    reserved: Vec<Reservation>,
}

impl SpareMemory {
    /// At most one part in so many of the budget.
    pub fn new(who: &'static str, budget: MemoryBudget, share: usize) -> Self {
        let limit_bytes = budget.limit_bytes() / share;
        Self { who, budget, limit_bytes, used_bytes: 0, reserved: Vec::new() }
    }

    /// Whether there is memory for what is kept and so many bytes more.
    pub fn has_room_for(&mut self, more_bytes: usize) -> bool {
        let needed = self.used_bytes + more_bytes;
        if needed > self.limit_bytes {
            return false;
        }
        while needed > self.reserved.len() * RESERVED_AT_ONCE_BYTES {
            let Ok(more) = self.budget.reserve(self.who, RESERVED_AT_ONCE_BYTES) else { return false };
            self.reserved.push(more);
        }
        true
    }
}
