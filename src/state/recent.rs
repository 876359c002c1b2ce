//! Where the keys of a small state were found last.
//!
//! Where all of a state is in the processor's cache, most of an update is looking the key up: its hash, its page, the tags of its group.
//! Here: a table, found by a cheaper hash, that says in four bytes where in the pages a key was. Whoever goes there looks at the key: an entry
//! may have moved since, and keys share a place, the later one has it. Not here: updates (`value_state`). Nothing of this is in a checkpoint.

use super::table::Spot;
use crate::memory::{MemoryBudget, Reservation};

/// How many keys are remembered: 128 KiB, an eighth of a cache of 1 MiB.
const SPOTS: usize = 1 << 15;
const BYTES: usize = SPOTS * size_of::<u32>();
/// At most this share of the budget: a job short of memory rather keeps more of its state.
const BUDGET_SHARE: usize = 64;
/// Longer keys cost more to hash here than their page hash is worth.
const KEY_LEN_MAX: usize = 24;
/// Keys that are numbers one after the other fall into places far from one another: 2^64 over the golden ratio.
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;
/// Whether keys are found is judged by so many at a time: the first time that each is sought it cannot be found.
const JUDGED_BY: usize = SPOTS * 4;
/// Frames that pass by before the first look, so that a state that is hardly used takes no memory.
const FIRST_FRAMES: u32 = 64;
/// Frames that pass by where half of the keys or more were not found.
const PASS_BY_FRAMES: u32 = 1 << 11;

/// Where keys were found last, of one table.
pub(super) struct Recent {
    spots: Option<Box<Spots>>,
    /// How many frames are yet to pass by.
    pass_by_frames: u32,
    sought: usize,
    missed: usize,
}

/// The table of places, and what it takes of the budget.
pub(super) struct Spots {
    spots: [u32; SPOTS],
    _reserved: Reservation,
}

impl Default for Recent {
    fn default() -> Self {
        Self { spots: None, pass_by_frames: FIRST_FRAMES, sought: 0, missed: 0 }
    }
}

impl Recent {
    /// Whether keys of this length are remembered.
    pub const fn is_for(key_len: usize) -> bool {
        key_len <= KEY_LEN_MAX
    }

    /// Whether places are kept at the moment.
    #[cfg(test)]
    pub fn is_kept(&self) -> bool {
        self.spots.is_some()
    }

    /// The places, for the keys of a frame, unless they are better looked up. To be given back.
    #[inline]
    pub fn take(&mut self, budget: &MemoryBudget) -> Option<Box<Spots>> {
        if self.pass_by_frames > 0 {
            self.pass_by_frames -= 1;
            return None;
        }
        if self.spots.is_none() {
            self.spots = Spots::reserve(budget);
            if self.spots.is_none() {
                self.pass_by_frames = PASS_BY_FRAMES;
            }
        }
        self.spots.take()
    }

    /// Takes the places back: so many keys were sought, so many of them not found.
    #[inline]
    pub fn give_back(&mut self, spots: Box<Spots>, sought: usize, missed: usize) {
        self.spots = Some(spots);
        (self.sought, self.missed) = (self.sought + sought, self.missed + missed);
        if self.sought >= JUDGED_BY {
            if self.missed * 2 >= self.sought {
                // Their memory is for those that need it.
                (self.spots, self.pass_by_frames) = (None, PASS_BY_FRAMES);
            }
            (self.sought, self.missed) = (0, 0);
        }
    }
}

impl Spots {
    #[cold]
    fn reserve(budget: &MemoryBudget) -> Option<Box<Self>> {
        if BYTES > budget.limit_bytes() / BUDGET_SHARE {
            return None;
        }
        let reserved = budget.reserve("places of keys", BYTES).ok()?;
        Some(Box::new(Self { spots: [u32::MAX; SPOTS], _reserved: reserved }))
    }

    /// The place of the key with these bytes.
    #[inline(always)]
    pub fn place_of(key: &[u8]) -> usize {
        let (words, rest) = key.as_chunks::<8>();
        let mut hash = words
            .iter()
            .fold(0, |hash: u64, word| (hash.rotate_left(29) ^ u64::from_le_bytes(*word)).wrapping_mul(SPREAD));
        for byte in rest {
            hash = (hash.rotate_left(8) ^ u64::from(*byte)).wrapping_mul(SPREAD);
        }
        (hash >> (u64::BITS - SPOTS.trailing_zeros())) as usize
    }

    /// Where a key of this place was.
    #[inline(always)]
    pub fn get(&self, place: usize) -> Spot {
        Spot::from_bits(u64::from(self.spots[place % SPOTS]))
    }

    /// A key of this place is here. Pages of greater numbers than fit are other pages, where the key will not be.
    #[inline(always)]
    pub fn set(&mut self, place: usize, spot: Spot) {
        self.spots[place % SPOTS] = spot.to_bits() as u32;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Shows so many frames of `len` keys each, of which so many are missed.
    fn frames(recent: &mut Recent, budget: &MemoryBudget, frames: usize, len: usize, missed: usize) {
        for _ in 0..frames {
            if let Some(spots) = recent.take(budget) {
                recent.give_back(spots, len, missed);
            }
        }
    }

    #[test]
    fn a_state_that_is_hardly_used_takes_no_memory() {
        let (mut recent, budget) = (Recent::default(), MemoryBudget::new(64 << 20));
        frames(&mut recent, &budget, FIRST_FRAMES as usize, 100, 0);
        assert!(!recent.is_kept());
        frames(&mut recent, &budget, 1, 100, 0);
        assert!(recent.is_kept());
    }

    #[test]
    fn places_that_are_missed_half_of_the_time_give_their_memory_back_and_are_tried_again_later() {
        let (mut recent, budget) = (Recent::default(), MemoryBudget::new(64 << 20));
        frames(&mut recent, &budget, FIRST_FRAMES as usize + JUDGED_BY / 100, 100, 50);
        assert!(recent.is_kept(), "judged too early");
        assert_eq!(budget.used_bytes(), BYTES);
        frames(&mut recent, &budget, 1, 100, 50);
        assert!(!recent.is_kept());
        assert_eq!(budget.used_bytes(), 0);
        frames(&mut recent, &budget, PASS_BY_FRAMES as usize, 100, 0);
        assert!(!recent.is_kept());
        frames(&mut recent, &budget, 1, 100, 0);
        assert!(recent.is_kept());
    }

    #[test]
    fn a_small_budget_is_left_to_the_state() {
        let (mut recent, budget) = (Recent::default(), MemoryBudget::new(BYTES * BUDGET_SHARE - 1));
        frames(&mut recent, &budget, FIRST_FRAMES as usize + 1, 100, 0);
        assert!(!recent.is_kept());
        assert_eq!(budget.used_bytes(), 0);
    }

    #[test]
    fn small_numbers_have_places_of_their_own() {
        let mut taken = vec![false; SPOTS];
        let shared = (0..SPOTS as u64 / 4)
            .filter(|key| std::mem::replace(&mut taken[Spots::place_of(&key.to_le_bytes())], true));
        assert_eq!(shared.count(), 0);
    }
}
