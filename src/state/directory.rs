//! The directory of one key group: which page holds which hash prefix.
//!
//! Extendible hashing: the directory has a power-of-two length, doubles when a page deeper than it appears, and is rebuilt from the
//! pages' prefixes at restore. Semantics: Fagin et al. 1979, Extendible Hashing.

/// How much deeper than a balanced tree of the same pages the directory may be. Random hashes need about four more levels;
/// what exceeds ten was chosen by somebody, and must not make the directory explode.
const DEPTH_SLACK: u32 = 10;

/// The pages of one key group.
#[derive(Default)]
pub(super) struct Directory {
    /// By hash prefix: the index of a page in the table; empty while the key group has no page.
    pages: Vec<u32>,
    /// 63 minus the depth.
    shift: u32,
    /// By page number: its index in the table.
    numbers: Vec<u32>,
}

/// A page as the directory sees it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Bucket {
    pub prefix: u64,
    pub depth: u8,
    pub index: u32,
}

impl Directory {
    /// The page for a hash.
    #[inline(always)]
    pub fn page(&self, hash: u64) -> Option<usize> {
        // Two shifts, because a shift by 64 (depth 0) does not exist.
        self.pages.get((hash >> 1 >> self.shift) as usize).map(|&index| index as usize)
    }

    /// How many pages there are.
    pub fn len(&self) -> usize {
        self.numbers.len()
    }

    /// The page of a number.
    pub fn numbered(&self, number: u32) -> Option<usize> {
        self.numbers.get(number as usize).map(|&index| index as usize)
    }

    /// Whether a page of this depth is still within reason for `pages` pages.
    pub fn depth_is_sane(depth: u8, pages: usize) -> bool {
        u32::from(depth) <= pages.max(1).ilog2() + 1 + DEPTH_SLACK
    }

    /// Adds the first page, which takes every hash.
    pub fn start(&mut self, index: u32) {
        *self = Self { pages: vec![index], shift: 63, numbers: vec![index] };
    }

    /// Gives the hashes of `bucket` to its page, which is new.
    pub fn add(&mut self, bucket: Bucket) {
        while 63 - self.shift < u32::from(bucket.depth) {
            self.pages = self.pages.iter().flat_map(|&index| [index, index]).collect();
            self.shift -= 1;
        }
        self.numbers.push(bucket.index);
        self.fill(bucket);
    }

    fn fill(&mut self, bucket: Bucket) {
        let first = (bucket.prefix >> 1 >> self.shift) as usize;
        let count = 1usize << (63 - self.shift - u32::from(bucket.depth));
        self.pages[first..first + count].fill(bucket.index);
    }

    /// Rebuilds the directory from its pages in the order of their numbers, or says what is wrong with them.
    pub fn rebuild(buckets: &[Bucket]) -> Result<Self, &'static str> {
        let mut sorted = buckets.to_vec();
        sorted.sort_unstable();
        let mut covered = 0u128;
        for bucket in &sorted {
            if !Self::depth_is_sane(bucket.depth, buckets.len()) {
                return Err("its depth does not go with the number of pages");
            }
            if u128::from(bucket.prefix) != covered {
                return Err("the hash prefixes of the key group's pages overlap or leave a gap");
            }
            covered += 1 << (64 - u32::from(bucket.depth));
        }
        if covered != 1 << 64 {
            return Err("the hash prefixes of the key group's pages leave a gap");
        }
        let depth = sorted.iter().map(|bucket| u32::from(bucket.depth)).max().unwrap_or(0);
        let numbers = buckets.iter().map(|bucket| bucket.index).collect();
        let mut directory = Self { pages: vec![0; 1 << depth], shift: 63 - depth, numbers };
        sorted.into_iter().for_each(|bucket| directory.fill(bucket));
        Ok(directory)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HALF: u64 = 1 << 63;

    #[test]
    fn a_rebuilt_directory_finds_what_the_grown_one_found() {
        let buckets = [(0, 1, 0), (HALF, 3, 1), (HALF | HALF >> 1, 2, 2), (HALF | HALF >> 2, 3, 3)];
        let buckets = buckets.map(|(prefix, depth, index)| Bucket { prefix, depth, index });
        let mut grown = Directory::default();
        grown.start(0);
        let mut first_half = buckets[1];
        for depth in [1, 2, 3] {
            first_half.depth = depth;
            match depth {
                1 => grown.add(first_half),
                2 => grown.add(buckets[2]),
                _ => grown.add(buckets[3]),
            }
        }
        let rebuilt = Directory::rebuild(&buckets).unwrap_or_default();
        for hash in (0..64).map(|i| i << 58) {
            assert_eq!(grown.page(hash), rebuilt.page(hash));
        }
        assert_eq!(rebuilt.page(HALF), Some(1));
        assert_eq!(rebuilt.page(u64::MAX), Some(2));
    }

    #[test]
    fn gaps_and_overlaps_and_chosen_depths_are_refused() {
        let bucket = |prefix, depth| Bucket { prefix, depth, index: 0 };
        assert!(Directory::rebuild(&[bucket(0, 1)]).is_err());
        assert!(Directory::rebuild(&[bucket(0, 0), bucket(HALF, 1)]).is_err());
        assert!(Directory::rebuild(&[bucket(0, 1), bucket(0, 1)]).is_err());
        assert!(Directory::rebuild(&[bucket(0, 60)]).is_err());
    }
}
