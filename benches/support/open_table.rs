//! Hand-written: an open-addressing table of counts for exactly these keys, prefetched by touching. No growth, no removal.

use crate::huge::HugeCells;
use std::hint::black_box;

/// Counts of keys.
pub struct OpenTable {
    /// Key plus one (0 is free), count.
    cells: HugeCells<[u64; 2]>,
    shift: u32,
}

impl OpenTable {
    /// Room for so many keys.
    pub fn new(keys: u64) -> Self {
        let len = (keys as usize * 3 / 2).next_power_of_two();
        Self { cells: HugeCells::new(len), shift: 64 - len.ilog2() }
    }

    /// One more of each; the counts go to `each`. The cells of sixteen are touched before, so that their misses overlap.
    #[inline]
    pub fn count_batch(&mut self, keys: &[u64], mut each: impl FnMut(u64)) {
        let (shift, cells) = (self.shift, self.cells.all());
        let mask = cells.len() - 1;
        let home = |key: u64| (key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> shift) as usize;
        for group in keys.chunks(16) {
            black_box(group.iter().fold(0, |sum, &key| sum ^ cells[home(key)][0]));
            for &key in group {
                let mut at = home(key);
                while cells[at][0] != 0 && cells[at][0] != key + 1 {
                    at = (at + 1) & mask;
                }
                let cell = &mut cells[at];
                *cell = [key + 1, cell[1] + 1];
                each(cell[1]);
            }
        }
    }

    /// Hands all counts to `each` and forgets them; the keys stay.
    pub fn drain(&mut self, mut each: impl FnMut(u64)) {
        for cell in self.cells.all().iter_mut().filter(|cell| cell[1] > 0) {
            each(std::mem::take(&mut cell[1]));
        }
    }
}
