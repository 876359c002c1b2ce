//! Keys: what a stream is partitioned by, as bytes that can be compared, stored and placed.
//!
//! Semantics: placement of integers, strings and byte arrays is Flink's (`murmurHash(hashCode) % maxParallelism`);
//! other fixed-size keys take the hash code of their bytes.

use bytemuck::Pod;

/// A type that can partition a stream. Two keys are equal exactly when their bytes are.
pub trait Key: 'static {
    /// The length of every key's bytes, or `None` when keys vary in length.
    const FIXED_LEN: Option<usize>;
    /// The key type in words, for the manifest and for errors.
    const NAME: &'static str;

    /// The key as bytes.
    fn bytes(&self) -> &[u8];

    /// The key in `bytes`, or `None` when they are no such key (only possible with damaged input).
    fn from_bytes(bytes: &[u8]) -> Option<&Self>;

    /// What Java's `hashCode` returns for this key.
    fn hash_code(&self) -> i32;
}

/// A fixed-size key that is copied around as a value.
pub trait FixedKey: Key + Pod + Eq {}

macro_rules! fixed_key {
    ($($type:ty => |$key:ident| $hash:expr;)*) => {$(
        impl Key for $type {
            const FIXED_LEN: Option<usize> = Some(size_of::<$type>());
            const NAME: &'static str = stringify!($type);

            #[inline]
            fn bytes(&self) -> &[u8] {
                bytemuck::bytes_of(self)
            }

            #[inline]
            fn from_bytes(bytes: &[u8]) -> Option<&Self> {
                bytemuck::try_from_bytes(bytes).ok()
            }

            #[inline]
            fn hash_code(&self) -> i32 {
                let $key = *self;
                $hash
            }
        }

        impl FixedKey for $type {}
    )*};
}

fixed_key! {
    u64 => |v| (v ^ (v >> 32)) as i32;
    i64 => |v| (v ^ (v as u64 >> 32) as i64) as i32;
    u32 => |v| v as i32;
    i32 => |v| v;
    u16 => |v| i32::from(v);
    u8 => |v| i32::from(v);
}

impl Key for str {
    const FIXED_LEN: Option<usize> = None;
    const NAME: &'static str = "string";

    #[inline]
    fn bytes(&self) -> &[u8] {
        self.as_bytes()
    }

    #[inline]
    fn from_bytes(bytes: &[u8]) -> Option<&Self> {
        std::str::from_utf8(bytes).ok()
    }

    fn hash_code(&self) -> i32 {
        if self.is_ascii() {
            return ascii_hash_code(self.as_bytes());
        }
        self.encode_utf16().fold(0, |hash, unit| hash.wrapping_mul(31).wrapping_add(i32::from(unit)))
    }
}

/// What folding the bytes one by one with 31 gives, in steps of eight: byte by byte it is the slowest part of a look-up by a text.
#[inline]
fn ascii_hash_code(bytes: &[u8]) -> i32 {
    const EIGHT: u32 = 31u32.wrapping_pow(8);
    let (first, eights) = bytes.split_at(bytes.len() % 8);
    let hash = first.iter().fold(0, |hash: u32, &unit| hash.wrapping_mul(31).wrapping_add(u32::from(unit)));
    let step = |hash: u32, eight: &[u8; 8]| hash.wrapping_mul(EIGHT).wrapping_add(hash_of_eight(*eight));
    eights.as_chunks().0.iter().fold(hash, step) as i32
}

/// Neighbours are joined in halves of a word: bytes, then pairs, then fours. No half overflows.
#[inline]
fn hash_of_eight(bytes: [u8; 8]) -> u32 {
    let word = u64::from_le_bytes(bytes);
    let pairs = (word & 0x00ff_00ff_00ff_00ff) * 31 + (word >> 8 & 0x00ff_00ff_00ff_00ff);
    let fours = (pairs & 0x0000_ffff_0000_ffff) * (31 * 31) + (pairs >> 16 & 0x0000_ffff_0000_ffff);
    (fours as u32).wrapping_mul(31 * 31 * 31 * 31).wrapping_add((fours >> 32) as u32)
}

impl Key for [u8] {
    const FIXED_LEN: Option<usize> = None;
    const NAME: &'static str = "bytes";

    #[inline]
    fn bytes(&self) -> &[u8] {
        self
    }

    #[inline]
    fn from_bytes(bytes: &[u8]) -> Option<&Self> {
        Some(bytes)
    }

    /// Java's `Arrays.hashCode(byte[])`.
    fn hash_code(&self) -> i32 {
        self.iter().fold(1, |hash: i32, &byte| hash.wrapping_mul(31).wrapping_add(i32::from(byte as i8)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hash_codes_are_javas() {
        assert_eq!("hello".hash_code(), 99_162_322);
        assert_eq!("\u{1F600}".hash_code(), 1_772_899);
        assert_eq!((-1i64).hash_code(), 0);
        assert_eq!(0x1_0000_0001u64.hash_code(), 0);
        assert_eq!([1u8, 2][..].hash_code(), 994);
    }

    #[test]
    fn the_hash_code_of_a_text_does_not_depend_on_how_it_is_computed() {
        let text: String = (0..100).map(|at| char::from(b' ' + (at * 37 % 95) as u8)).collect();
        for len in 0..=text.len() {
            let one_by_one = |hash: i32, unit: u8| hash.wrapping_mul(31).wrapping_add(i32::from(unit));
            assert_eq!(text[..len].hash_code(), text[..len].bytes().fold(0, one_by_one), "{len} bytes");
        }
        assert_eq!(
            hash_of_eight([0x7f; 8]),
            [0x7f; 8].iter().fold(0u32, |h, &unit| h.wrapping_mul(31).wrapping_add(unit))
        );
    }
}
