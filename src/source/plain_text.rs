//! Text read eight bytes at a time: numbers in their plain form, and where the next byte of interest is.
//!
//! Here: `-12.34`. Whatever looks otherwise is none of this file's: `None` leaves it to those that know every form (`str::parse`), so a
//! number found here is the one they would have found. Not here: times (`timestamp`).
//!
//! A word of eight bytes is compared, added to and multiplied as a whole: that is portable, and needs no unsafe code.

/// How many decimal places a double divides by exactly.
const PLACES_MAX: usize = 22;
/// Integers up to here are doubles.
const EXACT_MAX: u64 = 1 << 53;
/// So many digits always fit into 64 bits.
const DIGITS_MAX: usize = 19;

const POWERS_OF_TEN: [f64; PLACES_MAX + 1] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20,
    1e21, 1e22,
];

const POWERS_OF_TEN_OF_WORD: [u64; 9] = [1, 10, 100, 1_000, 10_000, 100_000, 1_000_000, 10_000_000, 100_000_000];

const HIGH_BITS: u64 = 0x8080_8080_8080_8080;
const LOW_BITS: u64 = 0x0101_0101_0101_0101;

/// The number that `text` begins with, and its length: digits, perhaps with a sign before and a point between them.
///
/// Exact: the digits are a double, the power of ten is one, and a division of two doubles is rounded once (W. Clinger, "How to read floating
/// point numbers accurately"). Longer ones go through `str::parse`.
#[inline]
pub fn leading_number(text: &[u8]) -> Option<(f64, usize)> {
    let is_negative = text.first() == Some(&b'-');
    let begin = usize::from(is_negative);
    let (mut mantissa, mut at) = (0, begin);
    digits(text, &mut at, &mut mantissa);
    let mut count = at - begin;
    let mut places = 0;
    if count == 0 {
        return None;
    }
    if text.get(at) == Some(&b'.') {
        at += 1;
        let point = at;
        digits(text, &mut at, &mut mantissa);
        places = at - point;
        count += places;
        if places == 0 {
            return None;
        }
    }
    if count <= DIGITS_MAX && mantissa <= EXACT_MAX {
        let value = mantissa as f64 / POWERS_OF_TEN[places];
        return Some((if is_negative { -value } else { value }, at));
    }
    let value = std::str::from_utf8(&text[..at]).ok()?.parse().ok()?;
    Some((value, at))
}

/// Takes the digits from `at` on into `value`, which means nothing when there were more than `DIGITS_MAX`.
#[inline]
fn digits(text: &[u8], at: &mut usize, value: &mut u64) {
    loop {
        let word = word_at(text, *at) ^ 0x3030_3030_3030_3030;
        let count = (not_digits(word).trailing_zeros() / 8) as usize;
        if count == 0 {
            return;
        }
        // The digits of a shorter run move to the end, as if zeros stood before them.
        let word = word << (8 * (8 - count));
        *value = value.wrapping_mul(POWERS_OF_TEN_OF_WORD[count]).wrapping_add(eight_digits(word));
        *at += count;
        if count < 8 {
            return;
        }
    }
}

/// The high bit of each byte that is above nine.
#[inline]
fn not_digits(word: u64) -> u64 {
    ((word & !HIGH_BITS).wrapping_add(0x7676_7676_7676_7676) | word) & HIGH_BITS
}

/// The number of eight digits, the first in the lowest byte: pairs, then fours, then all.
#[inline]
fn eight_digits(word: u64) -> u64 {
    let pairs = word.wrapping_mul(10).wrapping_add(word >> 8) & 0x00ff_00ff_00ff_00ff;
    let fours = pairs.wrapping_mul(100).wrapping_add(pairs >> 16) & 0x0000_ffff_0000_ffff;
    fours.wrapping_mul(10_000).wrapping_add(fours >> 32) & 0xffff_ffff
}

/// Eight bytes, the first in the lowest; zeros behind the end.
#[inline]
fn word_at(text: &[u8], at: usize) -> u64 {
    match text.get(at..at + 8) {
        Some(word) => u64::from_le_bytes(word.try_into().expect("the range is eight bytes long")),
        None => {
            let mut word = [0; 8];
            let rest = text.get(at..).unwrap_or_default();
            word[..rest.len()].copy_from_slice(rest);
            u64::from_le_bytes(word)
        }
    }
}

/// Where the first byte at or behind `from` is that is one of `wanted` or no plain character (a control character, or not ASCII); the
/// length of `text` when there is none.
#[inline]
pub fn find_either<const N: usize>(text: &[u8], from: usize, wanted: [u8; N]) -> usize {
    let mut at = from;
    loop {
        let word = word_at(text, at);
        // Exact up to the first byte that is found: a borrow only runs on from there.
        let mut found = word.wrapping_sub(LOW_BITS * 0x20) | word;
        for byte in wanted {
            let differs = word ^ (LOW_BITS * u64::from(byte));
            found |= differs.wrapping_sub(LOW_BITS) & !differs;
        }
        let found = found & HIGH_BITS;
        if found != 0 {
            return (at + found.trailing_zeros() as usize / 8).min(text.len());
        }
        at += 8;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_plain_number_is_the_one_that_std_reads() {
        for text in [
            "0",
            "-0",
            "7",
            "0.132",
            "-2.5",
            "51.846000000000004",
            "9007199254740993",
            "123456789.123456789",
            "00000000000000000000001.5",
            "0.0000000000000000000000001",
            "18446744073709551616",
            "12345678",
            "1234567.8",
        ] {
            let expected: f64 = text.parse().unwrap();
            let (value, len) = leading_number(format!("{text},x").as_bytes()).unwrap();
            assert_eq!((value.to_bits(), len), (expected.to_bits(), text.len()), "{text}");
            assert_eq!(leading_number(text.as_bytes()), Some((expected, text.len())), "{text} at the end");
        }
    }

    #[test]
    fn what_is_no_plain_number_is_left_alone() {
        for text in ["", "-", ".", ".5", "5.", "-.5", "+5", "x", "inf", "NaN", " 5"] {
            assert_eq!(leading_number(text.as_bytes()), None, "{text}");
        }
        // An exponent is seen by whoever looks what follows.
        assert_eq!(leading_number(b"1e5"), Some((1.0, 1)));
    }

    proptest! {
        #[test]
        fn any_number_with_a_point_anywhere_is_the_one_that_std_reads(
            digits in "[0-9]{1,25}", point in 0usize..26, sign in "-?", rest in "[^0-9.]?",
        ) {
            let mut text = digits;
            if point > 0 && point < text.len() {
                text.insert(point, '.');
            }
            let text = format!("{sign}{text}");
            let (value, len) = leading_number(format!("{text}{rest}").as_bytes()).unwrap();
            prop_assert_eq!((value.to_bits(), len), (text.parse::<f64>().unwrap().to_bits(), text.len()));
        }

        #[test]
        fn a_double_that_was_written_is_read_back(value in any::<f64>()) {
            let text = value.to_string();
            if value.is_finite() && let Some((read, len)) = leading_number(text.as_bytes()) {
                prop_assert_eq!((read.to_bits(), len), (value.to_bits(), text.len()));
            }
        }

        #[test]
        fn the_first_byte_of_interest_is_found(text in proptest::collection::vec(any::<u8>(), 0..40), from in 0usize..40) {
            let from = from.min(text.len());
            let found = |&byte: &u8| [b',', b'\n', b'"'].contains(&byte) || !(0x20..0x80).contains(&byte);
            let expected = text[from..].iter().position(found).map_or(text.len(), |at| from + at);
            prop_assert_eq!(find_either(&text, from, [b',', b'\n', b'"']), expected);
        }
    }
}
