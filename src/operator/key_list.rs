//! Keys side by side, to be gone through in the order of their bytes.

use crate::record::Key;

/// Some keys. Each is kept as its length and its bytes, aligned to 8 as every fixed key type needs it.
#[derive(Debug, Default)]
pub(super) struct KeyList {
    words: Vec<u64>,
    /// Where the keys begin, once they are in order.
    sorted: Vec<u32>,
}

impl KeyList {
    /// Adds a key at the end.
    pub fn push(&mut self, key: &[u8]) {
        let first = self.words.len();
        self.words.push(key.len() as u64);
        self.words.resize(first + 1 + key.len().div_ceil(8), 0);
        bytemuck::cast_slice_mut(&mut self.words[first + 1..])[..key.len()].copy_from_slice(key);
    }

    /// Takes all keys out; the memory stays for others.
    pub fn clear(&mut self) {
        self.words.clear();
        self.sorted.clear();
    }

    /// How many bytes the keys take.
    pub fn len_bytes(&self) -> usize {
        self.words.len() * 8
    }

    /// Puts the keys in the order of their bytes, each once.
    pub fn sort(&mut self) {
        let (words, sorted) = (&self.words, &mut self.sorted);
        sorted.clear();
        let mut at = 0;
        while at < words.len() {
            sorted.push(at as u32);
            at += 1 + (words[at] as usize).div_ceil(8);
        }
        sorted.sort_unstable_by(|&a, &b| bytes_at(words, a).cmp(bytes_at(words, b)));
        sorted.dedup_by(|a, b| bytes_at(words, *a) == bytes_at(words, *b));
    }

    /// The `nth` key in order.
    ///
    /// # Panics
    /// Asserts that the keys are of this type.
    pub fn nth<K: Key + ?Sized>(&self, nth: usize) -> Option<&K> {
        let at = *self.sorted.get(nth)?;
        Some(K::from_bytes(bytes_at(&self.words, at)).expect("a list keeps the bytes of the keys that were put there"))
    }
}

fn bytes_at(words: &[u64], at: u32) -> &[u8] {
    let (len, rest) = words[at as usize..].split_first().expect("every key begins with its length");
    &bytemuck::cast_slice(rest)[..*len as usize]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_once_in_the_order_of_their_bytes() {
        let mut list = KeyList::default();
        ["b", "", "a longer key than a word", "a", "b"].into_iter().for_each(|key| list.push(key.as_bytes()));
        list.sort();
        let keys: Vec<&str> = (0..).map_while(|nth| list.nth::<str>(nth)).collect();
        assert_eq!(keys, ["", "a", "a longer key than a word", "b"]);
    }
}
