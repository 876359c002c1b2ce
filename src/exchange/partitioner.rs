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
    /// The same where the number of key groups is a power of two, as it is unless a program asks for another one: the remainder is a mask.
    HashMasked {
        /// Who owns which key group.
        owners: KeyGroupOwners,
        /// The number of key groups less one.
        mask: u16,
    },
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
    /// One of them, because of the key group; that is 0 where the channel does not depend on it.
    One(usize, KeyGroup),
    /// All of them.
    All,
}

/// Which subtask owns which key group, as a table: two divisions per record would cost as much as writing the record.
#[derive(Clone, Debug)]
pub struct KeyGroupOwners(Box<[u16]>);

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
        let owners = KeyGroupOwners((0..max_parallelism).map(owner).collect());
        match max_parallelism.is_power_of_two() {
            true => Self::HashMasked { owners, mask: max_parallelism - 1 },
            false => Self::Hash(owners),
        }
    }

    /// Round robin over `channels`, beginning with `first`.
    pub fn rebalance(first: u32, channels: u32) -> Self {
        Self::Rebalance { next: first % channels, channels }
    }

    /// The channels of the next record, whose key has this Java `hashCode` (only looked at by the two that hash).
    #[inline(always)]
    pub fn targets(&mut self, hash_code: i32) -> Targets {
        // By itself, because only there the choice is a part of the work that counts.
        match self {
            Self::HashMasked { owners, mask } => owners.target(KeyGroup::of_hash_code_masked(hash_code, *mask)),
            _ => self.targets_otherwise(hash_code),
        }
    }

    // Out of line, because a jump by a table would be a part of every choice.
    #[inline(never)]
    fn targets_otherwise(&mut self, hash_code: i32) -> Targets {
        match self {
            Self::HashMasked { owners, mask } => owners.target(KeyGroup::of_hash_code_masked(hash_code, *mask)),
            Self::Hash(owners) => owners.target(KeyGroup::of_hash_code(hash_code, owners.0.len() as u16)),
            Self::Forward => Targets::One(0, KeyGroup(0)),
            Self::Rebalance { next, channels } => {
                let target = *next;
                *next = if target + 1 == *channels { 0 } else { target + 1 };
                Targets::One(target as usize, KeyGroup(0))
            }
            Self::Broadcast => Targets::All,
        }
    }
}

impl KeyGroupOwners {
    #[inline(always)]
    fn target(&self, group: KeyGroup) -> Targets {
        let Some(&subtask) = self.0.get(usize::from(group.0)) else {
            unreachable!("there is an owner of every key group")
        };
        Targets::One(usize::from(subtask), group)
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
                let group = KeyGroup::of_hash_code(code, max);
                let owner = group.subtask(parallelism, max) as usize;
                assert_eq!(partitioner.targets(code), Targets::One(owner, group));
            }
        }
    }

    #[test]
    fn rebalance_visits_every_channel_in_turn() {
        let mut partitioner = Partitioner::rebalance(4, 3);
        let visited: Vec<_> = (0..5).map(|_| partitioner.targets(0)).collect();
        assert_eq!(visited, [1, 2, 0, 1, 2].map(|channel| Targets::One(channel, KeyGroup(0))));
    }
}
