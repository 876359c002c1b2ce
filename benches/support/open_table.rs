//! Hand-written: an open-addressing table of counts for exactly these keys, prefetched by touching. No growth, no removal.

use std::hint::black_box;

/// Counts of keys.
pub struct OpenTable {
    /// Key plus one (0 is free), count.
    cells: Vec<[u64; 2]>,
    shift: u32,
}

impl OpenTable {
    /// Room for so many keys.
    pub fn new(keys: u64) -> Self {
        let len = (keys as usize * 3 / 2).next_power_of_two();
        Self { cells: vec![[0; 2]; len], shift: 64 - len.ilog2() }
    }

    #[inline]
    fn home(&self, key: u64) -> usize {
        (key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> self.shift) as usize
    }

    /// One more of a key; how many there are now.
    #[inline]
    pub fn count(&mut self, key: u64) -> u64 {
        let mask = self.cells.len() - 1;
        let mut at = self.home(key);
        while self.cells[at][0] != 0 && self.cells[at][0] != key + 1 {
            at = (at + 1) & mask;
        }
        let cell = &mut self.cells[at];
        *cell = [key + 1, cell[1] + 1];
        cell[1]
    }

    /// One more of each; the counts go to `each`. The cells of sixteen are touched before, so that their misses overlap.
    #[inline]
    pub fn count_batch(&mut self, keys: &[u64], mut each: impl FnMut(u64)) {
        for group in keys.chunks(16) {
            black_box(group.iter().fold(0, |sum, &key| sum ^ self.cells[self.home(key)][0]));
            group.iter().for_each(|&key| each(self.count(key)));
        }
    }

    /// Hands all counts to `each` and forgets them; the keys stay.
    pub fn drain(&mut self, mut each: impl FnMut(u64)) {
        for cell in self.cells.iter_mut().filter(|cell| cell[1] > 0) {
            each(std::mem::take(&mut cell[1]));
        }
    }
}
