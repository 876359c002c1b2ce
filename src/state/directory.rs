//! The directories of all key groups: which page holds which hash prefix.
//!
//! Extendible hashing per key group: its directory has a power-of-two length, doubles when a page deeper than it appears, and is
//! rebuilt from the pages' prefixes at restore. Semantics: Fagin et al. 1979, Extendible Hashing.
//!
//! The directories lie one behind the other in one array, so that finding a page reads two small arrays that stay in cache. One that
//! doubles moves to the end; all that it leaves behind is less than what it then has.

/// How much deeper than a balanced tree of the same pages a directory may be. Random hashes need about four more levels;
/// what exceeds ten was chosen by somebody, and must not make the directory explode.
const DEPTH_SLACK: u32 = 10;

/// What a directory says of a hash whose key group has no page.
pub(super) const NO_PAGE: u32 = u32::MAX;
/// What it says when it is not known which pages the key group has.
pub(super) const UNLOADED: u32 = u32::MAX - 1;
/// What it says when the key group's pages do not hold all of its entries: some are in runs.
pub(super) const IN_RUNS: u32 = u32::MAX - 2;
/// Added to the index of a page that is not in memory. No table has so many pages, so an index with it is out of bounds.
const ABSENT: u32 = 1 << 31;

/// The index of a page, whether it is marked as absent or not.
pub(super) fn without_mark(index: u32) -> usize {
    (index & !ABSENT) as usize
}

/// The pages of all key groups of a table.
#[derive(Default)]
pub(super) struct Directories {
    /// By key group, from the first of the range.
    heads: Vec<Head>,
    /// Page indexes: at 0 the empty directory that all key groups without pages share, at 1 that of all unknown ones, at 2 that of all
    /// with runs.
    slots: Vec<u32>,
    /// By key group and page number: the page's index in the table.
    numbers: Vec<Vec<u32>>,
    /// By key group: where its directory really lies if it has runs. Empty until one has.
    aside: Vec<Head>,
}

/// Where the directory of a key group lies.
#[derive(Clone, Copy)]
struct Head {
    first: u32,
    /// 63 minus the depth.
    shift: u32,
}

const WITHOUT_PAGES: Head = Head { first: 0, shift: 63 };
const UNKNOWN: Head = Head { first: 1, shift: 63 };
const WITH_RUNS: Head = Head { first: 2, shift: 63 };

/// A page as the directory sees it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Bucket {
    pub prefix: u64,
    pub depth: u8,
    pub index: u32,
}

// Out of line: as a value it would be at hand for every hash that has a page.
#[cold]
#[inline(never)]
fn no_page() -> u32 {
    NO_PAGE
}

impl Directories {
    /// Directories without pages for this many key groups.
    pub fn empty(key_groups: usize) -> Self {
        Self {
            heads: vec![WITHOUT_PAGES; key_groups],
            slots: vec![NO_PAGE, UNLOADED, IN_RUNS],
            numbers: vec![Vec::new(); key_groups],
            aside: Vec::new(),
        }
    }

    /// Whether there are no directories at all yet.
    pub fn is_empty(&self) -> bool {
        self.heads.is_empty()
    }

    /// The index of the page for a hash, or `NO_PAGE`. Key groups count from the first of the range.
    #[inline(always)]
    pub fn page(&self, key_group: usize, hash: u64) -> u32 {
        let Some(head) = self.heads.get(key_group) else { return no_page() };
        // Two shifts, because a shift by 64 (depth 0) does not exist.
        let at = head.first as usize + (hash >> 1 >> head.shift) as usize;
        let Some(&index) = self.slots.get(at) else { return no_page() };
        index
    }

    /// How many key groups there are.
    pub fn groups(&self) -> usize {
        self.heads.len()
    }

    /// Says that it is not known which pages a key group has.
    pub fn set_unloaded(&mut self, key_group: usize) {
        self.heads[key_group] = UNKNOWN;
    }

    /// Says that a key group has no pages.
    pub fn set_empty(&mut self, key_group: usize) {
        self.heads[key_group] = WITHOUT_PAGES;
    }

    /// Whether it is not known which pages a key group has.
    pub fn is_unloaded(&self, key_group: usize) -> bool {
        self.heads.get(key_group).is_some_and(|head| head.first == UNKNOWN.first)
    }

    /// Says that some entries of a key group are in runs: `page` answers `IN_RUNS` for all of its hashes.
    pub fn set_aside(&mut self, key_group: usize) {
        self.aside.resize(self.heads.len(), WITHOUT_PAGES);
        self.aside[key_group] = std::mem::replace(&mut self.heads[key_group], WITH_RUNS);
    }

    /// Ends what `set_aside` began.
    pub fn take_back(&mut self, key_group: usize) {
        if self.is_aside(key_group) {
            self.heads[key_group] = self.aside[key_group];
        }
    }

    /// Whether some entries of a key group are in runs.
    pub fn is_aside(&self, key_group: usize) -> bool {
        self.heads.get(key_group).is_some_and(|head| head.first == WITH_RUNS.first)
    }

    /// As `page`, of a key group that has pages, with runs or without.
    pub fn page_behind_runs(&self, key_group: usize, hash: u64) -> u32 {
        let head = self.real_head(key_group);
        self.slots[head.first as usize + (hash >> 1 >> head.shift) as usize]
    }

    fn real_head(&self, key_group: usize) -> Head {
        if self.is_aside(key_group) { self.aside[key_group] } else { self.heads[key_group] }
    }

    /// The pages of a key group, in the order of their numbers.
    pub fn pages_of(&self, key_group: usize) -> &[u32] {
        self.numbers.get(key_group).map_or(&[], Vec::as_slice)
    }

    /// Marks a page as absent.
    pub fn hide(&mut self, key_group: usize, bucket: Bucket) {
        self.fill(key_group, Bucket { index: bucket.index | ABSENT, ..bucket });
    }

    /// Takes the mark off again.
    pub fn show(&mut self, key_group: usize, bucket: Bucket) {
        self.fill(key_group, bucket);
    }

    /// How many pages a key group has.
    pub fn len(&self, key_group: usize) -> usize {
        self.numbers[key_group].len()
    }

    /// The page of a number.
    pub fn numbered(&self, key_group: usize, number: u32) -> Option<usize> {
        self.numbers.get(key_group)?.get(number as usize).map(|&index| index as usize)
    }

    /// Whether a page of this depth is still within reason for `pages` pages.
    pub fn depth_is_sane(depth: u8, pages: usize) -> bool {
        u32::from(depth) <= pages.max(1).ilog2() + 1 + DEPTH_SLACK
    }

    /// Adds the first page of a key group, which takes every hash.
    pub fn start(&mut self, key_group: usize, index: u32) {
        self.heads[key_group] = Head { first: self.slots.len() as u32, shift: 63 };
        self.slots.push(index);
        self.numbers[key_group] = vec![index];
    }

    /// Gives the hashes of `bucket` to its page, which is new.
    pub fn add(&mut self, key_group: usize, bucket: Bucket) {
        while 63 - self.heads[key_group].shift < u32::from(bucket.depth) {
            let head = &mut self.heads[key_group];
            let (first, len) = (head.first as usize, 1 << (63 - head.shift));
            *head = Head { first: self.slots.len() as u32, shift: head.shift - 1 };
            for at in first..first + len {
                self.slots.extend([self.slots[at]; 2]);
            }
        }
        self.numbers[key_group].push(bucket.index);
        self.fill(key_group, bucket);
    }

    fn fill(&mut self, key_group: usize, bucket: Bucket) {
        let Head { first, shift } = self.real_head(key_group);
        let from = first as usize + (bucket.prefix >> 1 >> shift) as usize;
        let count = 1usize << (63 - shift - u32::from(bucket.depth));
        self.slots[from..from + count].fill(bucket.index);
    }

    /// Rebuilds the directory of a key group from its pages in the order of their numbers, or says what is wrong with them.
    pub fn rebuild(&mut self, key_group: usize, buckets: &[Bucket]) -> Result<(), &'static str> {
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
        self.heads[key_group] = Head { first: self.slots.len() as u32, shift: 63 - depth };
        self.slots.resize(self.slots.len() + (1 << depth), NO_PAGE);
        self.numbers[key_group] = buckets.iter().map(|bucket| bucket.index).collect();
        sorted.into_iter().for_each(|bucket| self.fill(key_group, bucket));
        Ok(())
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
        let mut grown = Directories::empty(3);
        grown.start(1, 0);
        let mut first_half = buckets[1];
        for depth in [1, 2, 3] {
            first_half.depth = depth;
            match depth {
                1 => grown.add(1, first_half),
                2 => grown.add(1, buckets[2]),
                _ => grown.add(1, buckets[3]),
            }
        }
        let mut rebuilt = Directories::empty(3);
        rebuilt.rebuild(1, &buckets).unwrap();
        for hash in (0..64).map(|i| i << 58) {
            assert_eq!(grown.page(1, hash), rebuilt.page(1, hash));
            assert_eq!(grown.page(2, hash), NO_PAGE);
        }
        assert_eq!(rebuilt.page(1, HALF), 1);
        assert_eq!(rebuilt.page(1, u64::MAX), 2);
        assert_eq!(rebuilt.page(3, 0), NO_PAGE);
    }

    #[test]
    fn gaps_and_overlaps_and_chosen_depths_are_refused() {
        let bucket = |prefix, depth| Bucket { prefix, depth, index: 0 };
        let rebuild = |buckets: &[Bucket]| Directories::empty(1).rebuild(0, buckets);
        assert!(rebuild(&[bucket(0, 0)]).is_ok());
        assert!(rebuild(&[bucket(0, 1)]).is_err());
        assert!(rebuild(&[bucket(0, 0), bucket(HALF, 1)]).is_err());
        assert!(rebuild(&[bucket(0, 1), bucket(0, 1)]).is_err());
        assert!(rebuild(&[bucket(0, 60)]).is_err());
    }
}
