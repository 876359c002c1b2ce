//! What the last window of a key group held, key by key, so that the next one is made of it: of what enters and what leaves.
//!
//! Here: the keys in the order of their bytes, which slices each has, and what they add up to where that can be taken out again
//! (`Aggregate::RETRACTS`); where it cannot, the queue of the slices (`slice_queue`). Not here: slices and firing (`window_aggregate`), which
//! slices are new (`window_ends`). Nothing of this is in a checkpoint: after a restore, or where there was no memory for it, a window is made of
//! all its slices.
//!
//! Semantics: "subtract on evict" of Tangwongsan et al. 2015, General Incremental Sliding-Window Aggregation, over slices.

use super::key_list::{KeyCursor, KeyList, KeySlice};
use super::slice_queue::SliceQueue;
use crate::record::Key;
use crate::state::Spot;
use std::cmp::Ordering;

/// Which slices a key has. Of windows with more slices than there are bits, several share one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct SliceSet(u64);

impl SliceSet {
    /// Any slice.
    pub const ALL: Self = Self(u64::MAX);

    /// Adds the slice of this number.
    #[inline]
    pub fn insert(&mut self, number: i64) {
        self.0 |= Self::bit(number);
    }

    /// Takes the slice of this number out, if windows have so few slices that no other can be meant.
    #[inline]
    pub fn remove(&mut self, number: i64, slices_per_window: usize) {
        if slices_per_window <= u64::BITS as usize {
            self.0 &= !Self::bit(number);
        }
    }

    /// Whether the slice of this number may be there.
    #[inline]
    pub fn may_hold(self, number: i64) -> bool {
        self.0 & Self::bit(number) != 0
    }

    /// Whether a slice may be in both.
    #[inline]
    pub fn meets(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    #[inline]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    fn bit(number: i64) -> u64 {
        1 << (number as u64 % u64::from(u64::BITS))
    }
}

/// What a window holds of a key that the next one goes on from.
pub(super) struct Kept<T> {
    /// None where there is a queue, which knows better.
    pub slices: SliceSet,
    /// How many accumulators the sum is of, where they can be taken out again.
    pub accumulators: u32,
    /// Of all accumulators, or of those behind the mark of the queue.
    pub sum: Option<T>,
    /// The accumulators where they cannot be taken out of a sum again.
    pub queue: SliceQueue,
}

impl<T> Kept<T> {
    /// Whether the next window goes on without the key.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.slices.is_empty() && self.queue.is_empty()
    }
}

impl<T> Default for Kept<T> {
    fn default() -> Self {
        Self { slices: SliceSet::default(), accumulators: 0, sum: None, queue: SliceQueue::default() }
    }
}

/// Keys and what a window holds of them, taken out at the front in the order in which they were put there.
pub(super) struct RunningWindow<T> {
    /// With where the newest slice of each was.
    keys: KeyList,
    kept: Vec<Kept<T>>,
    /// The first that was not taken out.
    front: KeyCursor,
    front_nth: usize,
}

impl<T> Default for RunningWindow<T> {
    fn default() -> Self {
        Self { keys: KeyList::default(), kept: Vec::new(), front: KeyCursor::default(), front_nth: 0 }
    }
}

impl<T> RunningWindow<T> {
    /// The order of the key at the front and the `nth` of a list: none is behind all others.
    #[inline]
    pub fn cmp_front(&self, list: &KeyList, nth: usize) -> Ordering {
        self.keys.cmp_nth(self.front, list, nth)
    }

    /// The key at the front.
    ///
    /// # Panics
    /// Asserts that the keys are of this type.
    #[inline]
    pub fn front<K: Key + ?Sized>(&self) -> Option<(&K, &Kept<T>)> {
        Some((self.keys.at(self.front)?, self.kept.get(self.front_nth)?))
    }

    /// The key at the front, and what is kept of it to be changed.
    ///
    /// # Panics
    /// Asserts that the keys are of this type.
    #[inline]
    pub fn front_mut<K: Key + ?Sized>(&mut self) -> Option<(&K, &mut Kept<T>)> {
        Some((self.keys.at(self.front)?, self.kept.get_mut(self.front_nth)?))
    }

    /// Takes out the key at the front; also answers where its newest slice was.
    ///
    /// # Panics
    /// Asserts that the keys are of this type.
    #[inline]
    pub fn pop_front<K: Key + ?Sized>(&mut self) -> Option<(&K, Kept<T>, Spot)> {
        let place = self.front;
        let kept = std::mem::take(self.kept.get_mut(self.front_nth)?);
        self.advance();
        Some((self.keys.at(place)?, kept, self.keys.spot_at(place)))
    }

    /// Takes out the key at the front and puts it at the end of `next`, which holds only keys before it.
    #[inline]
    pub fn hand_on(&mut self, next: &mut Self) {
        if let Some(kept) = self.kept.get_mut(self.front_nth) {
            next.kept.push(std::mem::take(kept));
            next.keys.push_from(&self.keys, self.front);
            self.advance();
        }
    }

    #[inline]
    fn advance(&mut self) {
        self.front = self.keys.behind(self.front);
        self.front_nth += 1;
    }

    /// The queues of all keys.
    pub fn queues(&mut self) -> impl Iterator<Item = &mut SliceQueue> {
        self.kept.iter_mut().map(|kept| &mut kept.queue)
    }

    /// Puts a key behind those that come before it in the order of their bytes.
    #[inline]
    pub fn push_back<K: Key + ?Sized>(&mut self, key: &K, kept: Kept<T>, spot: Spot) {
        self.keys.push(key.bytes(), KeySlice { spot, ..KeySlice::ANY });
        self.kept.push(kept);
    }

    /// Takes all keys out; the memory stays for others.
    pub fn clear(&mut self) {
        self.keys.clear();
        self.kept.clear();
        (self.front, self.front_nth) = (KeyCursor::default(), 0);
    }

    /// How much memory it takes, with room for more.
    pub fn capacity_bytes(&self) -> usize {
        self.keys.capacity_bytes() + self.kept.capacity() * size_of::<Kept<T>>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_that_share_a_bit_are_not_taken_out() {
        let mut few = SliceSet::default();
        few.insert(-1);
        few.insert(62);
        few.remove(-1, 64);
        assert!(few.may_hold(62) && !few.may_hold(-1));
        let mut many = SliceSet::default();
        many.insert(5);
        many.remove(5, 65);
        assert!(many.may_hold(5) && many.may_hold(5 + 64) && !many.may_hold(6));
    }

    #[test]
    fn keys_leave_in_the_order_in_which_they_came_with_what_was_kept_of_them() {
        let mut window = RunningWindow::default();
        for (key, accumulators) in [("a", 1), ("a longer key than a word", 2), ("b", 3)] {
            let sum = Some(u64::from(accumulators) * 10);
            window.push_back(key, Kept { accumulators, sum, ..Kept::default() }, Spot::UNKNOWN);
        }
        let mut list = KeyList::default();
        list.push(b"a longer key", KeySlice::ANY);
        list.push(b"b", KeySlice::ANY);
        list.sort();
        assert_eq!((window.cmp_front(&list, 0), window.front::<str>().unwrap().0), (Ordering::Less, "a"));
        let (key, kept, _) = window.pop_front::<str>().unwrap();
        assert_eq!((key, kept.accumulators, kept.sum), ("a", 1, Some(10)));
        assert_eq!(window.cmp_front(&list, 0), Ordering::Greater);
        let mut next = RunningWindow::default();
        window.hand_on(&mut next);
        let (key, kept) = next.front::<str>().unwrap();
        assert_eq!((key, kept.sum), ("a longer key than a word", Some(20)));
        assert_eq!((window.cmp_front(&list, 1), window.cmp_front(&list, 2)), (Ordering::Equal, Ordering::Less));
        window.pop_front::<str>();
        assert_eq!((window.cmp_front(&list, 1), window.cmp_front(&list, 2)), (Ordering::Greater, Ordering::Equal));
        assert!(window.front::<str>().is_none() && window.pop_front::<str>().is_none());
    }
}
