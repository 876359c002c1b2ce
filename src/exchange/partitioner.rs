//! How a record picks its channel.
//!
//! Semantics: Flink's ForwardPartitioner, KeyGroupStreamPartitioner, RebalancePartitioner, BroadcastPartitioner. Unlike Flink,
//! rebalance begins at a given channel instead of a random one, so that a run can be repeated.

use crate::state::KeyGroup;

/// Decides which of an edge's channels gets a record.
#[derive(Clone, Debug)]
pub enum Partitioner {
    /// The only channel.
    Forward,
    /// The channel of the subtask that owns the key's key group.
    Hash(KeyGroupOwners),
    /// Each channel in turn.
    Rebalance {
        /// The channel of the next record.
        next: u32,
        /// How many channels there are.
        channels: u32,
    },
    /// Every channel.
    Broadcast,
}

/// The channels that get a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Targets {
    /// One of them.
    One(usize),
    /// All of them.
    All,
}

/// Which subtask owns which key group, as a table: two divisions per record would cost as much as writing the record.
#[derive(Clone, Debug)]
pub struct KeyGroupOwners {
    subtask_of: Box<[u16]>,
    /// `max_parallelism - 1` when that is a power of two, so that the remainder is a mask.
    mask: Option<u16>,
}

impl Partitioner {
    /// By key group over `parallelism` channels.
    ///
    /// # Panics
    /// Asserts `1 <= parallelism <= max_parallelism`.
    pub fn hash(parallelism: u32, max_parallelism: u16) -> Self {
        assert!(
            (1..=u32::from(max_parallelism)).contains(&parallelism),
            "{parallelism} subtasks cannot share {max_parallelism} key groups"
        );
        let owner = |group| KeyGroup(group).subtask(parallelism, max_parallelism) as u16;
        let mask = max_parallelism.is_power_of_two().then(|| max_parallelism - 1);
        Self::Hash(KeyGroupOwners { subtask_of: (0..max_parallelism).map(owner).collect(), mask })
    }

    /// Round robin over `channels`, beginning with `first`.
    pub fn rebalance(first: u32, channels: u32) -> Self {
        Self::Rebalance { next: first % channels, channels }
    }

    /// The channels of the next record, whose key has this Java `hashCode` (only looked at by `Hash`).
    #[inline(always)]
    pub fn targets(&mut self, hash_code: i32) -> Targets {
        // First, because only there the choice is a part of the work that counts.
        if let Self::Hash(owners) = self {
            return Targets::One(owners.subtask(hash_code));
        }
        match self {
            Self::Hash(_) => unreachable!("chosen above"),
            Self::Forward => Targets::One(0),
            Self::Rebalance { next, channels } => {
                let target = *next;
                *next = if target + 1 == *channels { 0 } else { target + 1 };
                Targets::One(target as usize)
            }
            Self::Broadcast => Targets::All,
        }
    }
}

impl KeyGroupOwners {
    #[inline]
    fn subtask(&self, hash_code: i32) -> usize {
        let group = match self.mask {
            Some(mask) => KeyGroup::of_hash_code_masked(hash_code, mask),
            None => KeyGroup::of_hash_code(hash_code, self.subtask_of.len() as u16),
        };
        usize::from(self.subtask_of[usize::from(group.0)])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_goes_to_the_subtask_that_owns_its_key_group() {
        for (parallelism, max) in [(1, 128), (2, 128), (3, 100), (7, 4096)] {
            let mut partitioner = Partitioner::hash(parallelism, max);
            for code in (-5_000..5_000).chain([i32::MIN, i32::MAX]) {
                let owner = KeyGroup::of_hash_code(code, max).subtask(parallelism, max);
                assert_eq!(partitioner.targets(code), Targets::One(owner as usize));
            }
        }
    }

    #[test]
    fn rebalance_visits_every_channel_in_turn() {
        let mut partitioner = Partitioner::rebalance(4, 3);
        let visited: Vec<_> = (0..5).map(|_| partitioner.targets(0)).collect();
        assert_eq!(visited, [1, 2, 0, 1, 2].map(Targets::One));
    }
}
