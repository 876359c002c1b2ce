//! Key groups: the unit in which keyed state is placed on subtasks and moved between them.
//!
//! Semantics: Flink `KeyGroupRangeAssignment` and `MathUtils`, bit for bit.

/// One of `max_parallelism` groups of keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyGroup(pub u16);

/// The consecutive key groups of one subtask: `start <= group < end`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct KeyGroupRange {
    /// The first key group.
    pub start: u16,
    /// One past the last; equal to `start` when there is none. Max parallelism is at most 32768, so it always fits.
    pub end: u16,
}

/// How many key groups a job may have at most.
pub const MAX_PARALLELISM_MAX: u16 = 32768;

/// Flink's `MathUtils.murmurHash`: never negative.
#[inline]
pub fn murmur_hash(code: i32) -> i32 {
    match mix(code) {
        i32::MIN => 0,
        h => h.abs(),
    }
}

#[inline]
fn mix(code: i32) -> i32 {
    let mut h = (code as u32).wrapping_mul(0xcc9e_2d51).rotate_left(15).wrapping_mul(0x1b87_3593);
    h = h.rotate_left(13).wrapping_mul(5).wrapping_add(0xe654_6b64);
    h ^= 4;
    h = (h ^ (h >> 16)).wrapping_mul(0x85eb_ca6b);
    h = (h ^ (h >> 13)).wrapping_mul(0xc2b2_ae35);
    h ^= h >> 16;
    h as i32
}

impl KeyGroup {
    /// The key group of a key whose Java `hashCode` is `code`.
    #[inline]
    pub fn of_hash_code(code: i32, max_parallelism: u16) -> Self {
        KeyGroup((murmur_hash(code) as u32 % u32::from(max_parallelism)) as u16)
    }

    /// The same for a max parallelism that is a power of two, less one: the sign of the smallest number lies outside every such mask.
    #[inline]
    pub(crate) fn of_hash_code_masked(code: i32, mask: u16) -> Self {
        KeyGroup(mix(code).wrapping_abs() as u16 & mask)
    }

    /// The subtask that owns this key group (Flink `computeOperatorIndexForKeyGroup`).
    #[inline]
    pub fn subtask(self, parallelism: u32, max_parallelism: u16) -> u32 {
        u32::from(self.0) * parallelism / u32::from(max_parallelism)
    }
}

impl KeyGroupRange {
    /// The key groups of one subtask (Flink `computeKeyGroupRangeForOperatorIndex`).
    pub fn of_subtask(subtask: u32, parallelism: u32, max_parallelism: u16) -> Self {
        let groups = u32::from(max_parallelism);
        let start = (subtask * groups).div_ceil(parallelism);
        let end = ((subtask + 1) * groups - 1) / parallelism + 1;
        Self { start: start as u16, end: end as u16 }
    }

    /// Whether the group lies in the range.
    #[inline]
    pub fn contains(self, group: KeyGroup) -> bool {
        (self.start..self.end).contains(&group.0)
    }

    /// How many groups.
    pub fn len(self) -> usize {
        usize::from(self.end - self.start)
    }

    /// Whether there is no group.
    pub fn is_empty(self) -> bool {
        self.start == self.end
    }

    /// The groups in order.
    pub fn iter(self) -> impl Iterator<Item = KeyGroup> {
        (self.start..self.end).map(KeyGroup)
    }
}

/// Flink's default: `min(max(roundUpPow2(p + p/2), 128), 32768)`.
pub fn default_max_parallelism(parallelism: u32) -> u16 {
    (parallelism + parallelism / 2).next_power_of_two().clamp(128, u32::from(MAX_PARALLELISM_MAX)) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ranges_of_all_subtasks_cover_every_key_group_once_and_agree_with_its_owner() {
        for (parallelism, max) in [(1, 128), (2, 128), (3, 128), (7, 128), (100, 32768), (128, 128), (3, 5)] {
            let mut next = 0;
            for subtask in 0..parallelism {
                let range = KeyGroupRange::of_subtask(subtask, parallelism, max);
                assert_eq!(range.start, next);
                next = range.end;
                assert!(range.iter().all(|group| group.subtask(parallelism, max) == subtask));
            }
            assert_eq!(next, max);
        }
    }

    #[test]
    fn default_max_parallelism_is_flinks() {
        assert_eq!(default_max_parallelism(1), 128);
        assert_eq!(default_max_parallelism(100), 256);
        assert_eq!(default_max_parallelism(30_000), 32768);
    }
}
