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
        let mix = |hash: i32, unit: i32| hash.wrapping_mul(31).wrapping_add(unit);
        if self.is_ascii() {
            return self.bytes().fold(0, |hash, unit| mix(hash, i32::from(unit)));
        }
        self.encode_utf16().fold(0, |hash, unit| mix(hash, i32::from(unit)))
    }
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
}
