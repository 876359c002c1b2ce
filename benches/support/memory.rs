//! Limits: what one core gets out of memory, with huge pages advised.

use memmap2::{Advice, MmapMut};
use std::hint::black_box;
use std::time::Instant;

/// An anonymous mapping, touched.
pub struct Memory {
    map: MmapMut,
}

const GROUP: usize = 32;
const PAGE_WORDS: usize = 16 * 1024 / 8;

impl Memory {
    /// `bytes` of it (a power of two).
    pub fn new(bytes: usize) -> Self {
        let mut map = MmapMut::map_anon(bytes).expect("the machine has the memory that the bench asks for");
        // Without transparent huge pages the figures are those of small pages.
        drop(map.advise(Advice::HugePage));
        map.fill(1);
        Self { map }
    }

    fn words(&mut self) -> &mut [u64] {
        bytemuck::cast_slice_mut(&mut self.map)
    }

    /// Sequential read, GB/s.
    pub fn read_gb_s(&mut self) -> f64 {
        let (words, begun) = (self.words(), Instant::now());
        black_box(words.iter().fold(0u64, |sum, word| sum.wrapping_add(*word)));
        size_of_val(words) as f64 / begun.elapsed().as_nanos() as f64
    }

    /// Sequential write, GB/s.
    pub fn write_gb_s(&mut self) -> f64 {
        let begun = Instant::now();
        self.words().fill(black_box(3));
        self.map.len() as f64 / begun.elapsed().as_nanos() as f64
    }

    /// Random read-modify-write one after the other, ns each.
    pub fn update_ns(&mut self, updates: usize) -> f64 {
        let (words, begun) = (self.words(), Instant::now());
        let (mask, mut random) = (words.len() - 1, 1);
        for _ in 0..updates {
            // The next place hangs on the last value, as a probe hangs on its page.
            let place = next(&mut random) & mask;
            words[place] += 1;
            random ^= words[place] & 1;
        }
        begun.elapsed().as_nanos() as f64 / updates as f64
    }

    /// Random read-modify-write in groups whose places are known and touched ahead, ns each: all misses of a group overlap.
    pub fn grouped_update_ns(&mut self, updates: usize) -> f64 {
        let (words, begun) = (self.words(), Instant::now());
        let (mask, mut random, mut touched) = (words.len() - 1, 1, 0u64);
        for _ in 0..updates / GROUP {
            let places: [usize; GROUP] = std::array::from_fn(|_| next(&mut random) & mask);
            touched ^= places.iter().fold(0, |touched, &place| touched ^ words[place]);
            places.iter().for_each(|&place| words[place] += 1);
        }
        black_box(touched);
        begun.elapsed().as_nanos() as f64 / updates as f64
    }

    /// Copy of a page of 16 KiB that is not in cache to another, us each.
    pub fn page_copy_us(&mut self, copies: usize) -> f64 {
        let (from, to) = {
            let words = self.words();
            let half = words.len() / 2;
            words.split_at_mut(half)
        };
        let (mask, mut random, begun) = (from.len() / PAGE_WORDS - 1, 1, Instant::now());
        for _ in 0..copies {
            let [a, b] = [(); 2].map(|()| (next(&mut random) & mask) * PAGE_WORDS);
            to[b..b + PAGE_WORDS].copy_from_slice(&from[a..a + PAGE_WORDS]);
        }
        begun.elapsed().as_nanos() as f64 / copies as f64 / 1e3
    }
}

/// Xorshift and a multiplication: cheap, and no pattern the prefetcher knows.
fn next(state: &mut u64) -> usize {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    (state.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20) as usize
}
