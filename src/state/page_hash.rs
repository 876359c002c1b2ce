//! The hash that places a key in a page. FROZEN: page prefixes and tags are persisted, so a change makes every
//! checkpoint unreadable.
//!
//! Here: a folded-multiply hash of bytes with fixed seeds (after foldhash and wyhash, two rounds, so that the high bits, which
//! pick the page, and the low bits, which pick tag and place in it, are both good), and the skew of its high bits. Not here: key
//! groups (`key_group`).
//!
//! Pages split in halves. Were the keys spread evenly over the halves of halves, all pages of a state would fill up and split at the
//! same time: just before it they would all be full, just after it half empty. So the keys lie up to twice as dense at one end of a
//! key group's pages as at the other, as in Martin 1979, Spiral Storage: at any time some pages are full and some were just split.

const SEEDS: [u64; 4] = [0x243f_6a88_85a3_08d3, 0x1319_8a2e_0370_7344, 0xa409_3822_299f_31d0, 0x082e_fa98_ec4e_6c89];

#[inline(always)]
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    product as u64 ^ (product >> 64) as u64
}

/// Up to eight bytes, zeros behind them.
#[inline(always)]
fn word(bytes: &[u8]) -> u64 {
    if let Ok(whole) = bytes.try_into() {
        return u64::from_le_bytes(whole);
    }
    let mut word = [0; 8];
    word[..bytes.len()].copy_from_slice(bytes);
    u64::from_le_bytes(word)
}

#[inline(always)]
fn eight(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(*bytes[at..].first_chunk().expect("eight bytes are left"))
}

/// The same of `len` bytes from `at` on, of at least eight: one load and a shift instead of a copy of any length.
#[inline(always)]
fn part(bytes: &[u8], at: usize, len: usize) -> u64 {
    let end = at + len;
    let unused_bits = 64 - 8 * len as u32;
    if end < 8 {
        return eight(bytes, 0) << unused_bits >> unused_bits;
    }
    eight(bytes, end - 8).checked_shr(unused_bits).unwrap_or(0)
}

/// The hash of an entry's key bytes; `kind` keeps the entries of one key apart (`entries`).
#[inline(always)]
pub(super) fn page_hash(kind: u8, bytes: &[u8]) -> u64 {
    let seed = SEEDS[2] ^ (u64::from(kind) << 56) ^ bytes.len() as u64;
    let state = if bytes.len() <= 8 { word(bytes) ^ SEEDS[0] } else { long(bytes) };
    skewed(fold(fold(state, SEEDS[1]) ^ seed, SEEDS[3]))
}

/// The low 24 bits, which place a key in its page, stay. What lies above as a fraction h of all becomes h + 5/16 h (1 - h).
#[inline(always)]
fn skewed(hash: u64) -> u64 {
    let high = hash >> 32;
    let bow = high * (high ^ 0xffff_ffff);
    (hash & !0xff00_0000) + (((bow >> 2) + (bow >> 4)) & !0xff_ffff)
}

/// Of more than eight bytes. Always: where the length is a constant the loop and most of the arithmetic of places go.
#[inline(always)]
fn long(bytes: &[u8]) -> u64 {
    let mut state = SEEDS[0];
    let mut at = 0;
    while bytes.len() - at > 16 {
        state = fold(eight(bytes, at) ^ state, eight(bytes, at + 8) ^ SEEDS[1]);
        at += 16;
    }
    let middle = (bytes.len() - at) / 2;
    let last = bytes.len() - at - middle;
    fold(part(bytes, at, middle) ^ state, part(bytes, at + middle, last) ^ SEEDS[3])
}

/// FNV-1a over several strings, each closed by a byte that no UTF-8 text contains: names and layouts.
pub(super) fn name_hash(names: &[&str]) -> u64 {
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    let bytes = names.iter().flat_map(|name| name.bytes().chain([0xff]));
    bytes.fold(0xcbf2_9ce4_8422_2325, step)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_frozen() {
        assert_eq!(page_hash(0, &1u64.to_le_bytes()), skewed(2_960_391_055_079_295_783));
        assert_eq!(page_hash(1, b"a key of several words"), skewed(10_239_701_142_622_198_900));
        assert_eq!(skewed(0x8000_0000_0012_3456), 0x93ff_ffff_d812_3456);
        assert_eq!(name_hash(&["operator", "state"]), 7_712_356_479_361_659_020);
    }

    #[test]
    fn a_part_of_the_bytes_is_what_a_copy_of_it_with_zeros_behind_it_is() {
        let bytes: Vec<u8> = (1..=24).collect();
        for total in 9..=bytes.len() {
            for (at, len) in (0..total).flat_map(|at| (0..=8.min(total - at)).map(move |len| (at, len))) {
                if at + len >= 8 || at == 0 && len > 0 {
                    assert_eq!(
                        part(&bytes[..total], at, len),
                        word(&bytes[at..at + len]),
                        "{len} bytes from {at} of {total}"
                    );
                }
            }
        }
    }

    #[test]
    fn the_skew_keeps_the_order_and_reaches_both_ends() {
        let hashes = (0..=1000u64).map(|i| i * (u64::MAX / 1000));
        let positions: Vec<u64> = hashes.map(|hash| skewed(hash) >> 24).collect();
        assert!(positions.is_sorted_by(|a, b| a < b));
        assert_eq!((positions[0], positions[1000] >> 8), (0, 0xffff_ffff));
    }

    #[test]
    fn keys_lie_twice_as_dense_at_one_end_as_at_the_other() {
        let mut buckets = [0u32; 16];
        for key in 0..160_000u64 {
            buckets[(page_hash(0, &key.to_le_bytes()) >> 60) as usize] += 1;
        }
        assert!(buckets.is_sorted(), "{buckets:?}");
        assert!((7_500..8_000).contains(&buckets[0]) && (14_000..14_600).contains(&buckets[15]), "{buckets:?}");
    }

    /// One round fails this: consecutive keys then fill neighbouring buckets of some bits up to 40 % unevenly. The skew is taken out.
    #[test]
    fn consecutive_keys_and_multiples_spread_over_high_and_low_bits_alike() {
        let even = |position: u64| {
            let high = (0..32).rev().fold(0u64, |high, bit| {
                let more = high | 1 << bit;
                if skewed(more << 32) >> 24 <= position >> 24 { more } else { high }
            });
            high << 32 | position & 0xff_ffff
        };
        for step in [1u64, 10, 1 << 12, 1 << 32, 1 << 47, 0x9e37_79b9_7f4a_7c15] {
            for shift in [0, 8, 14, 40, 54] {
                let mut buckets = [0u32; 1024];
                for key in (0..100_000u64).map(|i| i.wrapping_mul(step)) {
                    buckets[(even(page_hash(0, &key.to_le_bytes())) >> shift) as usize % 1024] += 1;
                }
                let chi2: f64 = buckets.iter().map(|&n| (f64::from(n) - 97.66).powi(2) / 97.66).sum();
                assert!((850.0..1200.0).contains(&chi2), "step {step}, shift {shift}: {chi2}");
            }
        }
    }

    #[test]
    fn names_that_concatenate_to_the_same_text_differ() {
        assert_ne!(name_hash(&["ab", "c"]), name_hash(&["a", "bc"]));
    }
}
