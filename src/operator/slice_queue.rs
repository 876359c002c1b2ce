//! The slices of each key in a window, the oldest first, for aggregates out of which nothing can be taken again.
//!
//! Here: their accumulators, merged so that a window costs a few merges however many slices it has: what lies in front of a mark also holds
//! all up to the mark, and the queue has the sum of what lies behind it. When the last in front of the mark leaves, the mark goes to the end.
//! That is a merge or two for each slice. Where the order of merging tells (sums of f64) every window merges all, in their order, as it does
//! after a restore. Not here: slices and firing (`window_aggregate`). Nothing of this is in a checkpoint.
//!
//! Semantics: the two stacks of Tangwongsan et al. 2015, General Incremental Sliding-Window Aggregation, as one list with a mark.

use super::spare_memory::SpareMemory;
use crate::state::Spot;

/// No link.
const NONE: u32 = u32::MAX;
/// Memory is taken for so many links at least.
const LINKS_MIN: usize = 64;

/// The queue of one key: links of a [`SliceQueues`].
#[derive(Clone, Copy, Debug)]
pub(super) struct SliceQueue {
    oldest: u32,
    newest: u32,
    /// The last that also holds those behind it up to this one, which is itself; `NONE` once it has left.
    mark: u32,
}

impl Default for SliceQueue {
    fn default() -> Self {
        Self { oldest: NONE, newest: NONE, mark: NONE }
    }
}

impl SliceQueue {
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.oldest == NONE
    }
}

/// An accumulator of a slice.
struct Link<T> {
    number: i64,
    /// Where the slice was in the state.
    spot: Spot,
    /// The one behind it, or the next free one.
    next: u32,
    accumulator: T,
}

/// The queues of all keys.
pub(super) struct SliceQueues<T> {
    links: Vec<Link<T>>,
    free: u32,
    /// The links of one queue, while the mark moves.
    passed: Vec<u32>,
}

impl<T> Default for SliceQueues<T> {
    fn default() -> Self {
        Self { links: Vec::new(), free: NONE, passed: Vec::new() }
    }
}

impl<T: Clone> SliceQueues<T> {
    /// The number of the oldest slice.
    #[inline]
    pub fn oldest(&self, queue: &SliceQueue) -> Option<i64> {
        self.links.get(queue.oldest as usize).map(|link| link.number)
    }

    /// The number of the newest slice.
    #[inline]
    pub fn newest(&self, queue: &SliceQueue) -> Option<i64> {
        self.links.get(queue.newest as usize).map(|link| link.number)
    }

    /// Calls `each` with the numbers of all slices.
    pub fn for_each(&self, queue: &SliceQueue, mut each: impl FnMut(i64)) {
        self.walk(queue.oldest, |link| each(link.number));
    }

    /// Puts an accumulator behind all others, of the newest slice or one behind it. Answers whether there was memory.
    #[inline]
    pub fn push(
        &mut self,
        queue: &mut SliceQueue,
        (number, spot): (i64, Spot),
        accumulator: T,
        memory: &mut SpareMemory,
    ) -> bool {
        let link = Link { number, spot, next: NONE, accumulator };
        let at = self.free;
        if let Some(free) = self.links.get_mut(at as usize) {
            self.free = free.next;
            *free = link;
            self.append(queue, at);
            return true;
        }
        if self.links.len() == self.links.capacity() && !self.grow(memory) {
            return false;
        }
        let at = self.links.len() as u32;
        self.links.push(link);
        self.append(queue, at);
        true
    }

    fn grow(&mut self, memory: &mut SpareMemory) -> bool {
        let (more, had) = (self.links.len().max(LINKS_MIN), self.links.capacity());
        // While they move both are there.
        if !memory.has_room_for((had + more) * size_of::<Link<T>>()) || had + more >= NONE as usize {
            return false;
        }
        self.links.reserve_exact(more);
        memory.used_bytes += (self.links.capacity() - had) * size_of::<Link<T>>();
        true
    }

    #[inline]
    fn append(&mut self, queue: &mut SliceQueue, at: u32) {
        match self.links.get_mut(queue.newest as usize) {
            Some(newest) => newest.next = at,
            None => queue.oldest = at,
        }
        queue.newest = at;
    }

    /// Takes out the oldest accumulator; answers the number of its slice and where that was.
    #[inline]
    pub fn pop(&mut self, queue: &mut SliceQueue) -> Option<(i64, Spot)> {
        let at = queue.oldest;
        let link = self.links.get_mut(at as usize)?;
        queue.oldest = std::mem::replace(&mut link.next, self.free);
        let popped = (link.number, link.spot);
        self.free = at;
        if at == queue.mark {
            queue.mark = NONE;
        }
        if at == queue.newest {
            queue.newest = NONE;
        }
        Some(popped)
    }

    /// Takes all out.
    pub fn clear(&mut self, queue: &mut SliceQueue) {
        while self.pop(queue).is_some() {}
    }

    /// All accumulators merged one after the other, from `first` on.
    #[inline]
    pub fn in_order(&self, queue: &SliceQueue, first: Option<T>, merge: impl Fn(&mut T, &T)) -> Option<T> {
        let mut merged = first;
        self.walk(queue.oldest, |link| match &mut merged {
            Some(merged) => merge(merged, &link.accumulator),
            None => merged = Some(link.accumulator.clone()),
        });
        merged
    }

    /// All accumulators merged; `behind` is what those behind the mark add up to, of which there are none after this when the mark had left.
    #[inline]
    pub fn in_any_order(
        &mut self,
        queue: &mut SliceQueue,
        behind: &mut Option<T>,
        merge: impl Fn(&mut T, &T),
    ) -> Option<T> {
        if queue.mark == NONE {
            self.mark_newest(queue, &merge);
            *behind = None;
        }
        let mut merged = self.links.get(queue.oldest as usize)?.accumulator.clone();
        if let Some(behind) = behind {
            merge(&mut merged, behind);
        }
        Some(merged)
    }

    /// The mark goes to the end: each accumulator also gets those behind it.
    fn mark_newest(&mut self, queue: &mut SliceQueue, merge: impl Fn(&mut T, &T)) {
        let Self { links, passed, .. } = self;
        let mut at = queue.oldest;
        while let Some(link) = links.get(at as usize) {
            passed.push(at);
            at = link.next;
        }
        queue.mark = queue.newest;
        let Some(mut behind) = passed.pop() else { return };
        while let Some(at) = passed.pop() {
            let all_behind = links[behind as usize].accumulator.clone();
            merge(&mut links[at as usize].accumulator, &all_behind);
            behind = at;
        }
    }

    #[inline]
    fn walk(&self, from: u32, mut each: impl FnMut(&Link<T>)) {
        let mut at = from;
        while let Some(link) = self.links.get(at as usize) {
            each(link);
            at = link.next;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::MemoryBudget;
    use std::collections::VecDeque;

    fn push(queues: &mut SliceQueues<Vec<i64>>, queue: &mut SliceQueue, number: i64, memory: &mut SpareMemory) -> bool {
        queues.push(queue, (number, Spot::UNKNOWN), vec![number], memory)
    }

    #[test]
    fn a_queue_holds_what_was_pushed_and_not_popped_however_the_mark_moves() {
        let mut memory = SpareMemory::new("queues", MemoryBudget::new(16 << 20), 1);
        let (mut queues, mut rng) = (SliceQueues::default(), crate::sim::Rng::new(7));
        let mut all: [_; 3] = std::array::from_fn(|_| (SliceQueue::default(), None::<Vec<i64>>, VecDeque::new()));
        let concat = |into: &mut Vec<i64>, from: &Vec<i64>| into.extend(from);
        for number in 0..3_000 {
            let (queue, behind, expected) = &mut all[rng.index(3)];
            if rng.chance(50) {
                assert!(push(&mut queues, queue, number, &mut memory));
                let own = vec![number];
                match behind {
                    Some(behind) => concat(behind, &own),
                    None => *behind = Some(own),
                }
                expected.push_back(number);
            } else {
                assert_eq!(queues.pop(queue).map(|(number, _)| number), expected.pop_front());
            }
            let merged = queues.in_any_order(queue, behind, concat).unwrap_or_default();
            assert_eq!(merged, Vec::from(expected.clone()));
        }
        assert!(queues.links.len() < 300, "links are used again");
    }

    #[test]
    fn a_queue_that_gets_no_memory_stays_as_it_is() {
        let budget = MemoryBudget::new(1 << 20);
        let mut memory = SpareMemory::new("queues", budget, 16);
        let (mut queues, mut queue) = (SliceQueues::default(), SliceQueue::default());
        let pushed = (0..).take_while(|&number| push(&mut queues, &mut queue, number, &mut memory)).count();
        assert!((64..1_638).contains(&pushed), "{pushed} of 40 bytes and more in 64 KiB");
        let merged = queues.in_order(&queue, None, |into, from| into.extend(from));
        assert_eq!(merged.map(|merged| merged.len()), Some(pushed));
    }
}
