//! Keys side by side, each with a slice it has, to be gone through in the order of their bytes.

use crate::record::Key;
use crate::state::Spot;
use std::cmp::Ordering;

/// Which of a window's slices a key has: so many of them lie behind it. If these are more than it can say: any of the window's slices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Behind(u8);

impl Behind {
    /// Any of the window's slices.
    pub const ANY: Self = Self((1 << Self::BITS) - 1);
    const BITS: u32 = 6;

    /// The slice that so many of the window's slices lie behind.
    #[inline]
    pub fn new(behind: i64) -> Self {
        if behind < i64::from(Self::ANY.0) { Self(behind as u8) } else { Self::ANY }
    }

    /// How often a key may be listed for a window of so many slices.
    pub fn listed_of(count: usize) -> usize {
        count.min(usize::from(Self::ANY.0) + 1)
    }

    /// How many slices lie behind it, if that is known.
    #[inline]
    pub fn count(self) -> Option<i64> {
        (self != Self::ANY).then_some(i64::from(self.0))
    }
}

/// A slice of a key, and where its accumulator was when it was listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct KeySlice {
    pub behind: Behind,
    pub spot: Spot,
}

impl KeySlice {
    /// Any of a window's slices.
    pub const ANY: Self = Self { behind: Behind::ANY, spot: Spot::UNKNOWN };
}

/// Some keys, each once for every slice it has. Each is kept as a word with its length and its slice, and its bytes, aligned to 8 as every fixed
/// key type needs it.
#[derive(Debug, Default)]
pub(super) struct KeyList {
    words: Vec<u64>,
    /// Once they are in order: the first eight bytes of each key as a number, which decide nearly always, and where it begins.
    sorted: Vec<(u64, u32)>,
}

impl KeyList {
    /// Adds a key at the end.
    #[inline]
    pub fn push(&mut self, key: &[u8], slice: KeySlice) {
        let first_word = key.len() as u64 | u64::from(slice.behind.0) << LEN_BITS | slice.spot.to_bits() << SPOT_SHIFT;
        if let Ok(word) = <[u8; 8]>::try_from(key) {
            return self.words.extend([first_word, u64::from_ne_bytes(word)]);
        }
        let first = self.words.len();
        self.words.push(first_word);
        self.words.resize(first + 1 + key.len().div_ceil(8), 0);
        bytemuck::cast_slice_mut(&mut self.words[first + 1..])[..key.len()].copy_from_slice(key);
    }

    /// The key at a place of the list in the order in which keys were added.
    ///
    /// # Panics
    /// Asserts that the keys are of this type.
    #[inline]
    pub fn at<K: Key + ?Sized>(&self, place: KeyCursor) -> Option<&K> {
        (place.0 < self.words.len()).then(|| key_at(&self.words, place.0 as u32))
    }

    /// Where the slice there was when it was added.
    #[inline]
    pub fn spot_at(&self, place: KeyCursor) -> Spot {
        self.words.get(place.0).map_or(Spot::UNKNOWN, |word| Spot::from_bits(word >> SPOT_SHIFT))
    }

    /// Adds the key at a place of another list, with its slice.
    #[inline]
    pub fn push_from(&mut self, other: &Self, place: KeyCursor) {
        match other.words.get(place.0..) {
            // Most keys are a word long.
            Some(&[first_word, word, ..]) if len_of(first_word) == 8 => self.words.extend([first_word, word]),
            _ => self.words.extend_from_slice(&other.words[place.0..other.behind(place).0]),
        }
    }

    /// The place behind it.
    #[inline]
    pub fn behind(&self, place: KeyCursor) -> KeyCursor {
        let words = self.words.get(place.0).map_or(0, |word| 1 + len_of(*word).div_ceil(8));
        KeyCursor(place.0 + words)
    }

    /// The order of the key at a place, if there is one, and the `nth` of a list in order, if there is one: none is behind all.
    #[inline]
    pub fn cmp_nth(&self, place: KeyCursor, list: &Self, nth: usize) -> Ordering {
        let of_list = list.sorted.get(nth);
        if place.0 >= self.words.len() {
            return if of_list.is_some() { Ordering::Greater } else { Ordering::Equal };
        }
        let Some(&(begins, at)) = of_list else { return Ordering::Less };
        let by_word = first_bytes(&self.words, place.0).cmp(&begins);
        by_word.then_with(|| bytes_at(&self.words, place.0 as u32).cmp(bytes_at(&list.words, at)))
    }

    /// Adds the keys of another list.
    pub fn append(&mut self, other: &Self) {
        self.words.extend_from_slice(&other.words);
    }

    /// Takes all keys out; the memory stays for others.
    pub fn clear(&mut self) {
        self.words.clear();
        self.sorted.clear();
    }

    /// How many bytes the keys take, without their order, which takes 16 for each while they are gone through, and 8 more while it is made.
    pub fn len_bytes(&self) -> usize {
        self.words.len() * 8
    }

    /// How much memory the keys take, with room for more and without their order.
    pub fn capacity_bytes(&self) -> usize {
        self.words.capacity() * 8
    }

    /// Puts the keys in the order of their bytes, those of one key in the order of their slices, the oldest first. Each slice is kept once.
    pub fn sort(&mut self) {
        let (words, sorted) = (&self.words, &mut self.sorted);
        sorted.clear();
        // Most keys are a word long; there are never more than words.
        sorted.reserve(words.len() / 2);
        let mut at = 0;
        while at < words.len() {
            sorted.push((first_bytes(words, at), at as u32));
            at += 1 + len_of(words[at]).div_ceil(8);
        }
        let behind = |at: u32| behind_of(words[at as usize]);
        sorted.sort_by(|&(a_begins, a), &(b_begins, b)| {
            let by_key = a_begins.cmp(&b_begins).then_with(|| bytes_at(words, a).cmp(bytes_at(words, b)));
            by_key.then_with(|| behind(b).cmp(&behind(a)))
        });
        sorted.dedup_by(|&mut (again_begins, again), &mut (first_begins, first)| {
            again_begins == first_begins && is_same(words, first, again) && behind(again) == behind(first)
        });
    }

    /// The `nth` key in order.
    ///
    /// # Panics
    /// Asserts that the keys are of this type.
    #[inline]
    pub fn nth<K: Key + ?Sized>(&self, nth: usize) -> Option<&K> {
        let (_, at) = *self.sorted.get(nth)?;
        Some(key_at(&self.words, at))
    }

    /// The slices of the `nth` key in order, if that is the first of the same.
    #[inline]
    pub fn slices_of(&self, nth: usize) -> SlicesOf<'_> {
        let of_key = self.sorted.get(nth..).unwrap_or_default();
        SlicesOf { words: &self.words, first: of_key.first().copied().unwrap_or_default(), left: of_key.iter() }
    }
}

/// A place in a list, at first its beginning.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct KeyCursor(usize);

/// The slices of a key.
pub(super) struct SlicesOf<'a> {
    words: &'a [u64],
    first: (u64, u32),
    /// What is left of the list, from the key on.
    left: std::slice::Iter<'a, (u64, u32)>,
}

impl Iterator for SlicesOf<'_> {
    type Item = KeySlice;

    // Always: most keys have one slice, and a call would cost as much as looking at it.
    #[inline(always)]
    fn next(&mut self) -> Option<KeySlice> {
        let ((first_begins, first), &(begins, at)) = (self.first, self.left.next()?);
        let is_its = begins == first_begins && (at == first || is_same(self.words, first, at));
        is_its.then(|| {
            let word = self.words[at as usize];
            KeySlice { behind: behind_of(word), spot: Spot::from_bits(word >> SPOT_SHIFT) }
        })
    }
}

/// The bits of a key's first word that hold its length: keys of a state are at most 2 KiB long.
const LEN_BITS: u32 = 12;
const SPOT_SHIFT: u32 = LEN_BITS + Behind::BITS;
const _: () = assert!(SPOT_SHIFT + Spot::BITS == u64::BITS);

fn len_of(first_word: u64) -> usize {
    (first_word & ((1 << LEN_BITS) - 1)) as usize
}

fn behind_of(first_word: u64) -> Behind {
    Behind((first_word >> LEN_BITS) as u8 & Behind::ANY.0)
}

/// The first eight bytes of a key as a number; behind a shorter key there are zeros.
#[inline]
fn first_bytes(words: &[u64], at: usize) -> u64 {
    if len_of(words[at]) == 0 { 0 } else { u64::from_be(words[at + 1]) }
}

fn bytes_at(words: &[u64], at: u32) -> &[u8] {
    let (len, rest) = words[at as usize..].split_first().expect("every key begins with its length");
    &bytemuck::cast_slice(rest)[..len_of(*len)]
}

/// Whether two keys that begin with the same eight bytes, or as many as they have, are the same.
#[inline]
fn is_same(words: &[u64], a: u32, b: u32) -> bool {
    let len = len_of(words[a as usize]);
    // Of most keys it is said by then: they begin with the same word.
    len == len_of(words[b as usize]) && (len <= 8 || bytes_at(words, a) == bytes_at(words, b))
}

fn key_at<K: Key + ?Sized>(words: &[u64], at: u32) -> &K {
    K::from_bytes(bytes_at(words, at)).expect("a list keeps the bytes of the keys that were put there")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(behind: i64) -> KeySlice {
        KeySlice { behind: Behind::new(behind), spot: Spot::UNKNOWN }
    }

    #[test]
    fn keys_come_in_the_order_of_their_bytes_with_each_of_their_slices_once() {
        let mut list = KeyList::default();
        let keys =
            ["b", "", "a longer key than a word", "a", "b", "a\0", "\0", "a longer kez", "b", "as long!", "as long?"];
        keys.into_iter()
            .zip([0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 2])
            .for_each(|(key, behind)| list.push(key.as_bytes(), one(behind)));
        list.sort();
        let mut sorted = Vec::new();
        while let Some(key) = list.nth::<str>(sorted.iter().map(|(_, slices): &(&str, Vec<_>)| slices.len()).sum()) {
            let nth = sorted.iter().map(|(_, slices)| slices.len()).sum();
            sorted.push((key, list.slices_of(nth).collect()));
        }
        let expected = [
            ("", vec![one(1)]),
            ("\0", vec![one(6)]),
            ("a", vec![one(3)]),
            ("a\0", vec![one(5)]),
            ("a longer key than a word", vec![one(2)]),
            ("a longer kez", vec![one(7)]),
            ("as long!", vec![one(1)]),
            ("as long?", vec![one(2)]),
            ("b", vec![one(4), one(0)]),
        ];
        assert_eq!(sorted, expected);
    }

    #[test]
    fn a_slice_that_too_many_lie_behind_may_be_any() {
        assert_eq!(Behind::new(62).count(), Some(62));
        assert!((63..2_000).all(|behind| Behind::new(behind).count().is_none()));
    }

    #[test]
    fn a_key_keeps_where_its_slice_lies() {
        let mut list = KeyList::default();
        for (key, bits) in [("short", 0), ("as long!", (1 << Spot::BITS) - 1), ("longer than a word", 12_345 << 14 | 7)]
        {
            let slice = KeySlice { behind: Behind::new(5), spot: Spot::from_bits(bits) };
            list.push(key.as_bytes(), slice);
        }
        list.sort();
        let spots: Vec<_> = (0..3).flat_map(|nth| list.slices_of(nth)).map(|slice| slice.spot.to_bits()).collect();
        assert_eq!(spots, [(1 << Spot::BITS) - 1, 12_345 << 14 | 7, 0]);
    }
}
