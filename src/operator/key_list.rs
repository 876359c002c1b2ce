//! Keys side by side, each with the slices it has, to be gone through in the order of their bytes.

use crate::record::Key;

/// Which slices of a window a key has, counted from the window's last. Of windows with more slices than it can say: all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Slices(u64);

impl Slices {
    const BITS: u32 = 48;
    /// Any of them.
    pub const ALL: Self = Self((1 << Self::BITS) - 1);
    pub const NONE: Self = Self(0);

    /// The slice that so many of the window's `count` slices lie behind.
    #[inline]
    pub fn one(behind: i64, count: usize) -> Self {
        if count <= Self::BITS as usize { Self(1 << behind) } else { Self::ALL }
    }

    /// Whether the key may have the slice that so many of the window's slices lie behind.
    #[inline]
    pub fn may_have(self, behind: usize) -> bool {
        self == Self::ALL || self.0 >> behind & 1 == 1
    }

    /// These and others.
    #[inline]
    pub fn and(self, others: Self) -> Self {
        Self(self.0 | others.0)
    }
}

/// Some keys. Each is kept as a word with its length and its slices, and its bytes, aligned to 8 as every fixed key type needs it.
#[derive(Debug, Default)]
pub(super) struct KeyList {
    words: Vec<u64>,
    /// Once they are in order: the first eight bytes of each key as a number, which decide nearly always, and where it begins.
    sorted: Vec<(u64, u32)>,
}

impl KeyList {
    /// Adds a key at the end.
    pub fn push(&mut self, key: &[u8], slices: Slices) {
        let first = self.words.len();
        self.words.push(key.len() as u64 | slices.0 << LEN_BITS);
        self.words.resize(first + 1 + key.len().div_ceil(8), 0);
        bytemuck::cast_slice_mut(&mut self.words[first + 1..])[..key.len()].copy_from_slice(key);
    }

    /// The key that was added first.
    ///
    /// # Panics
    /// Asserts that the keys are of this type.
    pub fn first<K: Key + ?Sized>(&self) -> Option<&K> {
        (!self.words.is_empty()).then(|| key_at(&self.words, 0))
    }

    /// Adds the keys of another list.
    pub fn append(&mut self, other: &Self) {
        self.words.extend_from_slice(&other.words);
    }

    /// How many keys there are in order.
    pub fn len(&self) -> usize {
        self.sorted.len()
    }

    /// Takes all keys out; the memory stays for others.
    pub fn clear(&mut self) {
        self.words.clear();
        self.sorted.clear();
    }

    /// How many bytes the keys take, without their order, which takes 16 for each while they are gone through.
    pub fn len_bytes(&self) -> usize {
        self.words.len() * 8
    }

    /// Puts the keys in the order of their bytes, each once, with all of its slices.
    pub fn sort(&mut self) {
        let (words, sorted) = (&mut self.words, &mut self.sorted);
        sorted.clear();
        let mut at = 0;
        while at < words.len() {
            let len = len_of(words[at]);
            // Behind a shorter key there are zeros.
            sorted.push((if len == 0 { 0 } else { u64::from_be(words[at + 1]) }, at as u32));
            at += 1 + len.div_ceil(8);
        }
        sorted.sort_unstable_by(|&(a_begins, a), &(b_begins, b)| {
            a_begins.cmp(&b_begins).then_with(|| bytes_at(words, a).cmp(bytes_at(words, b)))
        });
        sorted.dedup_by(|&mut (again_begins, again), &mut (first_begins, first)| {
            let is_same = again_begins == first_begins && bytes_at(words, again) == bytes_at(words, first);
            if is_same {
                words[first as usize] |= words[again as usize];
            }
            is_same
        });
    }

    /// The `nth` key in order.
    ///
    /// # Panics
    /// Asserts that the keys are of this type.
    pub fn nth<K: Key + ?Sized>(&self, nth: usize) -> Option<(&K, Slices)> {
        let (_, at) = *self.sorted.get(nth)?;
        Some((key_at(&self.words, at), Slices(self.words[at as usize] >> LEN_BITS)))
    }
}

/// The bits of a key's first word that hold its length: keys of a state are at most 2 KiB long.
const LEN_BITS: u32 = 64 - Slices::BITS;

fn len_of(first_word: u64) -> usize {
    (first_word & ((1 << LEN_BITS) - 1)) as usize
}

fn bytes_at(words: &[u64], at: u32) -> &[u8] {
    let (len, rest) = words[at as usize..].split_first().expect("every key begins with its length");
    &bytemuck::cast_slice(rest)[..len_of(*len)]
}

fn key_at<K: Key + ?Sized>(words: &[u64], at: u32) -> &K {
    K::from_bytes(bytes_at(words, at)).expect("a list keeps the bytes of the keys that were put there")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_once_in_the_order_of_their_bytes() {
        let mut list = KeyList::default();
        let keys = ["b", "", "a longer key than a word", "a", "b", "a\0", "\0", "a longer kez"];
        keys.into_iter().zip(0..).for_each(|(key, behind)| list.push(key.as_bytes(), Slices::one(behind, 8)));
        list.sort();
        let keys: Vec<(&str, Slices)> = (0..).map_while(|nth| list.nth::<str>(nth)).collect();
        let one = |behind| Slices::one(behind, 8);
        assert_eq!(
            keys,
            [
                ("", one(1)),
                ("\0", one(6)),
                ("a", one(3)),
                ("a\0", one(5)),
                ("a longer key than a word", one(2)),
                ("a longer kez", one(7)),
                ("b", one(0).and(one(4)))
            ]
        );
    }

    #[test]
    fn of_windows_with_many_slices_a_key_may_have_all() {
        let few = Slices::one(47, 48);
        assert!(few.may_have(47) && !few.may_have(46) && !Slices::NONE.may_have(0));
        assert!((0..2_000).all(|behind| Slices::one(1_999, 2_000).may_have(behind)));
    }
}
