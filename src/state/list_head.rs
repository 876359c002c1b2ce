//! The head of a list: how long it is, and its first elements in place.
//!
//! ```text
//! 0   length u32: elements in all
//! 4   in place u8: so many of them are here, the first ones
//! 5   used u8: so many bytes behind this one hold them
//! 6   the elements: length u8, bytes
//! ..  zeros, room for more: 128 bytes in all at most
//! ```
//! So a list of few small elements is one cell: appending to it and walking through it look up one key. An element is in place if all before
//! it are, and it fits; the others are entries of their own (`list_state`).
//!
//! A delta holds a head that changed as a whole. That is why it is no longer: an element of its own takes some 40 bytes there.

use std::ops::Range;

/// The longest head.
pub(super) const HEAD_LEN_MAX: usize = 128;
const _: () = assert!(HEAD_LEN_MAX - ListHead::LEN_MIN <= u8::MAX as usize, "lengths in a head are bytes");

/// What a head says of its list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct ListHead {
    /// How many elements the list has.
    pub len: u32,
    /// How many of them, the first ones, are in the head.
    pub in_place: u8,
    /// How many bytes they take.
    pub used: u8,
}

impl ListHead {
    /// That of a head without elements in place; they begin here.
    pub const LEN_MIN: usize = 6;

    /// The head at the start of these bytes; `None` where they cannot be one.
    #[inline(always)]
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let &[a, b, c, d, in_place, used, ..] = bytes else { return None };
        let head = Self { len: u32::from_le_bytes([a, b, c, d]), in_place, used };
        (head.end() <= bytes.len() && u32::from(in_place) <= head.len).then_some(head)
    }

    #[inline(always)]
    pub fn store(self, bytes: &mut [u8]) {
        bytes[..4].copy_from_slice(&self.len.to_le_bytes());
        (bytes[4], bytes[5]) = (self.in_place, self.used);
    }

    /// Where the elements in place end.
    #[inline(always)]
    pub fn end(self) -> usize {
        Self::LEN_MIN + usize::from(self.used)
    }

    /// Where they end with one of this length behind them; `None` if it has to be an entry of its own.
    #[inline(always)]
    pub fn end_with(self, element_len: usize) -> Option<usize> {
        let end = self.end() + 1 + element_len;
        (u32::from(self.in_place) == self.len && end <= HEAD_LEN_MAX).then_some(end)
    }

    /// Appends an element that fits in place, `element_len` bytes that `store` fills in.
    #[inline(always)]
    pub fn append(&mut self, bytes: &mut [u8], element_len: usize, store: impl FnOnce(&mut [u8])) {
        let end = self.end();
        bytes[end] = element_len as u8;
        store(&mut bytes[end + 1..end + 1 + element_len]);
        (self.len, self.in_place) = (self.len + 1, self.in_place + 1);
        self.used += 1 + element_len as u8;
        self.store(bytes);
    }

    /// Keeps the first `len` elements, fewer than there are.
    pub fn truncate(&mut self, bytes: &mut [u8], len: u32) {
        if len < u32::from(self.in_place) {
            let kept = self.elements(bytes).take(len as usize).map(|element| 1 + element.len()).sum::<usize>();
            let end = self.end();
            bytes[Self::LEN_MIN + kept..end].fill(0);
            (self.in_place, self.used) = (len as u8, kept as u8);
        }
        self.len = len;
        self.store(bytes);
    }

    /// Where the elements in place are, in order.
    #[inline(always)]
    pub fn places(self, bytes: &[u8]) -> impl Iterator<Item = Range<usize>> {
        let end = self.end().min(bytes.len());
        let mut at = Self::LEN_MIN;
        (0..self.in_place).map_while(move |_| {
            let start = at + 1;
            at = start + usize::from(*bytes.get(at)?);
            (at <= end).then_some(start..at)
        })
    }

    /// The elements in place, in order.
    #[inline(always)]
    pub fn elements(self, bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
        self.places(bytes).map(|place| &bytes[place])
    }

    /// Whether bytes from a checkpoint are a head with such elements.
    pub fn check(bytes: &[u8], is_element: impl Fn(&[u8]) -> bool) -> bool {
        let Some(head) = Self::read(bytes).filter(|head| head.len > 0 && bytes.len() <= HEAD_LEN_MAX) else {
            return false;
        };
        let elements = head.elements(bytes).filter(|element| is_element(element));
        let (count, used) = elements.fold((0, 0), |(count, used), element| (count + 1, used + 1 + element.len()));
        count == usize::from(head.in_place) && used == usize::from(head.used)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head_of(elements: &[&[u8]]) -> (ListHead, Vec<u8>) {
        let (mut head, mut bytes) = (ListHead::default(), vec![0; HEAD_LEN_MAX]);
        for element in elements {
            assert!(head.end_with(element.len()).is_some());
            head.append(&mut bytes, element.len(), |out| out.copy_from_slice(element));
        }
        (head, bytes)
    }

    #[test]
    fn elements_of_any_length_come_back_in_order() {
        let (head, bytes) = head_of(&[b"one", b"", b"three"]);
        assert_eq!(ListHead::read(&bytes), Some(head));
        assert_eq!(head.elements(&bytes).collect::<Vec<_>>(), [b"one".as_slice(), b"", b"three"]);
        assert!(ListHead::check(&bytes, |_| true));
    }

    #[test]
    fn an_element_that_does_not_fit_or_stands_behind_others_elsewhere_is_not_in_place() {
        let (head, _) = head_of(&[&[1; 100]]);
        assert_eq!(head.end_with(20), Some(HEAD_LEN_MAX));
        assert_eq!(head.end_with(21), None);
        assert_eq!(ListHead { len: 2, ..head }.end_with(1), None);
    }

    #[test]
    fn a_head_cut_short_is_the_same_as_one_that_never_was_longer() {
        let (mut head, mut bytes) = head_of(&[b"one", b"two", b"three"]);
        head.truncate(&mut bytes, 1);
        assert_eq!((head, bytes), head_of(&[b"one"]));
    }

    #[test]
    fn bytes_that_contradict_themselves_are_no_head() {
        let (_, whole) = head_of(&[b"one", b"two"]);
        for (at, byte) in [(0, 1), (0, 0), (4, 1), (4, 3), (5, 7), (5, 200), (6, 2), (6, 100), (10, 4)] {
            let mut bytes = whole.clone();
            bytes[at] = byte;
            assert!(!ListHead::check(&bytes, |_| true), "byte {at} = {byte}");
            let _ = ListHead::read(&bytes).map(|head| head.elements(&bytes).count());
        }
        assert!(!ListHead::check(&whole, |element| element.len() == 4));
        assert!((0..6).all(|len| !ListHead::check(&whole[..len], |_| true)));
        assert!(!ListHead::check(&[whole, vec![0]].concat(), |_| true));
    }
}
