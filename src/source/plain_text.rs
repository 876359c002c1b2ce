//! Text read eight or sixteen bytes at a time: numbers in their plain form, and where the next byte of interest is.
//!
//! Here: `-12.34`. Whatever looks otherwise is none of this file's: `None` leaves it to those that know every form (`str::parse`), so a
//! number found here is the one they would have found. Not here: times (`timestamp`).
//!
//! A word of eight bytes is compared, added to and multiplied as a whole: that is portable, and needs no unsafe code. A number that ends in
//! its first eight bytes is read without a branch that depends on where: how long numbers are cannot be foretold, and a wrong guess costs
//! the processor as much as all the rest of a line.

/// How many decimal places a double divides by exactly.
const PLACES_MAX: usize = 22;
/// Integers up to here are doubles.
const EXACT_MAX: u64 = 1 << 53;
/// So many digits always fit into 64 bits.
const DIGITS_MAX: usize = 19;
/// How many bytes are searched at once.
const CHUNK_LEN_BYTES: usize = 16;

const POWERS_OF_TEN: [f64; PLACES_MAX + 1] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20,
    1e21, 1e22,
];

const POWERS_OF_TEN_OF_WORD: [u64; 9] = [1, 10, 100, 1_000, 10_000, 100_000, 1_000_000, 10_000_000, 100_000_000];

const HIGH_BITS: u64 = 0x8080_8080_8080_8080;
const ZEROS: u64 = 0x3030_3030_3030_3030;

/// The number that a text begins with: digits, perhaps with a minus before them and a point between them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Number {
    /// As a double.
    pub value: f64,
    /// Its digits as an integer, if they are no more than 19.
    pub digits: u64,
    pub digit_count: usize,
    pub is_negative: bool,
    pub has_point: bool,
    /// How much of the text it is.
    pub len_bytes: usize,
}

/// The number that `text` begins with.
///
/// Exact: the digits are a double, the power of ten is one, and a division of two doubles is rounded once (W. Clinger, "How to read floating
/// point numbers accurately"). Longer ones go through `str::parse`.
#[inline(always)]
pub fn leading_number(text: &[u8]) -> Option<Number> {
    let Some((b'-', rest)) = text.split_first() else { return unsigned_number(text) };
    let number = unsigned_number(rest)?;
    Some(Number { value: -number.value, is_negative: true, len_bytes: number.len_bytes + 1, ..number })
}

#[inline(always)]
fn unsigned_number(text: &[u8]) -> Option<Number> {
    text.first_chunk().and_then(|word| short_number(*word)).or_else(|| long_number(text))
}

/// A number that ends in a word. Of the word's bytes, `before` are its whole digits.
#[inline(always)]
fn short_number(word: [u8; 8]) -> Option<Number> {
    let word = u64::from_le_bytes(word) ^ ZEROS;
    let others = not_digits(word);
    let before = others.trailing_zeros() & 0x78;
    if before == 0 || before == 64 {
        return None;
    }
    let has_point = (word >> before) as u8 == b'.' ^ b'0';
    let (word, bits, behind) = match has_point {
        false => (word, before, 0),
        true => {
            let end = (others & (others - 1)).trailing_zeros() & 0x78;
            // What is behind the point moves to where it was.
            let whole = (1u64 << before) - 1;
            (word & whole | word >> 8 & !whole, end - 8, end - 8 - before)
        }
    };
    if has_point && (bits == 56 || behind == 0) {
        return None;
    }
    // The digits move to the end, as if zeros stood before them.
    let digits = eight_digits(word << (64 - bits));
    let whole = f64::from(digits as u32);
    Some(Number {
        value: if has_point { whole / POWERS_OF_TEN[(behind as usize / 8) & 7] } else { whole },
        digits,
        digit_count: bits as usize / 8,
        is_negative: false,
        has_point,
        len_bytes: bits as usize / 8 + usize::from(has_point),
    })
}

/// A number of any length.
#[cold]
fn long_number(text: &[u8]) -> Option<Number> {
    let (mut digits, mut at) = (0, 0);
    take_digits(text, &mut at, &mut digits);
    let whole = at;
    if whole == 0 {
        return None;
    }
    let has_point = text.get(at) == Some(&b'.');
    if has_point {
        at += 1;
        take_digits(text, &mut at, &mut digits);
        if at == whole + 1 {
            return None;
        }
    }
    let digit_count = at - usize::from(has_point);
    let value: f64 = match digit_count <= DIGITS_MAX && digits <= EXACT_MAX {
        true => digits as f64 / POWERS_OF_TEN[digit_count - whole],
        false => std::str::from_utf8(&text[..at]).ok()?.parse().ok()?,
    };
    // Whether one beyond all doubles is an error is for the format to say.
    if !value.is_finite() {
        return None;
    }
    Some(Number { value, digits, digit_count, is_negative: false, has_point, len_bytes: at })
}

/// Takes the digits from `at` on into `value`, which means nothing when there were more than `DIGITS_MAX`.
fn take_digits(text: &[u8], at: &mut usize, value: &mut u64) {
    loop {
        let word = word_at(text, *at) ^ ZEROS;
        let count = (not_digits(word).trailing_zeros() / 8) as usize;
        if count == 0 {
            return;
        }
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

/// Where the first byte at or behind `from` is that is one of `wanted` or less than `below`; the length of `text` when there is none.
#[inline(always)]
pub fn find_any<const N: usize>(text: &[u8], from: usize, wanted: [u8; N], below: u8) -> usize {
    let mut at = from;
    while let Some(chunk) = text.get(at..).and_then(<[u8]>::first_chunk) {
        if let Some(before) = before_first(chunk, wanted, below) {
            return at + before;
        }
        at += CHUNK_LEN_BYTES;
    }
    let is_wanted = |byte: &u8| *byte < below || wanted.contains(byte);
    text[at..].iter().position(is_wanted).map_or(text.len(), |found| at + found)
}

/// How many bytes there are before the first that is one of `wanted` or less than `below`, if there is one.
///
/// All are compared, whatever comes first: the compiler makes a few instructions for the whole chunk of it.
#[inline(always)]
fn before_first<const N: usize>(chunk: &[u8; CHUNK_LEN_BYTES], wanted: [u8; N], below: u8) -> Option<usize> {
    let mut found = [0u8; CHUNK_LEN_BYTES];
    for (found, byte) in found.iter_mut().zip(chunk) {
        *found = 0u8.wrapping_sub(u8::from(*byte < below));
        for wanted in wanted {
            *found |= 0u8.wrapping_sub(u8::from(*byte == wanted));
        }
    }
    // Asked of all at once: of its halves, the compiler would make bytes one by one.
    let found = u128::from_le_bytes(found);
    (found != 0).then(|| found.trailing_zeros() as usize / 8)
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
            for rest in ["", ",x", ",x,y,z,0"] {
                let number = leading_number(format!("{text}{rest}").as_bytes()).unwrap();
                assert_eq!(
                    (number.value.to_bits(), number.len_bytes),
                    (expected.to_bits(), text.len()),
                    "{text}{rest}"
                );
            }
        }
    }

    #[test]
    fn what_is_no_plain_number_is_left_alone() {
        for text in ["", "-", "--5", ".", ".5", "5.", "1234567.", "-.5", "+5", "x", "inf", "NaN", " 5"] {
            for rest in ["", ",x", ",x,y,z,0"] {
                assert_eq!(leading_number(format!("{text}{rest}").as_bytes()), None, "{text}{rest}");
            }
        }
        // An exponent is seen by whoever looks what follows.
        assert_eq!(leading_number(b"1e5").map(|number| (number.value, number.len_bytes)), Some((1.0, 1)));
    }

    proptest! {
        #[test]
        fn any_number_with_a_point_anywhere_is_the_one_that_std_reads(
            digits in "[0-9]{1,25}", point in 0usize..26, sign in "-?", rest in "([^0-9.].{0,9})?",
        ) {
            let mut text = digits.clone();
            let has_point = point > 0 && point < text.len();
            if has_point {
                text.insert(point, '.');
            }
            let text = format!("{sign}{text}");
            let number = leading_number(format!("{text}{rest}").as_bytes()).unwrap();
            prop_assert_eq!(number.value.to_bits(), text.parse::<f64>().unwrap().to_bits());
            prop_assert_eq!((number.len_bytes, number.digit_count), (text.len(), digits.len()));
            prop_assert_eq!((number.has_point, number.is_negative), (has_point, !sign.is_empty()));
            if digits.len() <= DIGITS_MAX {
                prop_assert_eq!(number.digits, digits.parse::<u64>().unwrap());
            }
        }

        #[test]
        fn a_double_that_was_written_is_read_back(value in any::<f64>()) {
            let text = value.to_string();
            if value.is_finite() && let Some(number) = leading_number(text.as_bytes()) {
                prop_assert_eq!((number.value.to_bits(), number.len_bytes), (value.to_bits(), text.len()));
            }
        }

        #[test]
        fn the_first_byte_of_interest_is_found(text in proptest::collection::vec(any::<u8>(), 0..70), from in 0usize..70) {
            let from = from.min(text.len());
            for below in [0, 0x20] {
                let found = |&byte: &u8| [b',', b'\n', b'"'].contains(&byte) || byte < below;
                let expected = text[from..].iter().position(found).map_or(text.len(), |at| from + at);
                prop_assert_eq!(find_any(&text, from, [b',', b'\n', b'"'], below), expected);
            }
        }
    }
}
