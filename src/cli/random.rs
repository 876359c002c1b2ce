//! Random numbers and texts that follow from a seed alone.
//!
//! Not here: what they mean (`generator`). Semantics: Steele, Lea and Flood 2014, SplitMix; lengths of texts as Nexmark draws them.

/// Draws one after the other; the same seed draws the same.
#[derive(Clone, Debug)]
pub struct Random(u64);

/// The shortest text of random length.
const TEXT_LEN_MIN: u64 = 3;

impl Random {
    /// The draws of event `number` under `seed`.
    pub fn of_event(seed: u64, number: u64) -> Self {
        Self(mixed(seed ^ mixed(number)))
    }

    /// Any number.
    #[inline]
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mixed(self.0)
    }

    /// A number below `bound`, which is above 0.
    #[inline]
    pub fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }

    /// A number in [0, 1).
    pub fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// One of `choices`, of which there are some.
    pub fn choice<'a>(&mut self, choices: &[&'a str]) -> &'a str {
        choices[self.below(choices.len() as u64) as usize]
    }

    /// Appends letters and some spaces, fewer than `len_max`; none of the spaces at an end.
    pub fn text(&mut self, len_max: u64, into: &mut String) {
        let begin = into.len();
        for _ in 0..TEXT_LEN_MIN + self.below(len_max - TEXT_LEN_MIN) {
            let draw = self.next();
            let is_space = ((draw >> 32) * 13) >> 32 == 0;
            if !is_space {
                into.push(letter(draw as u8));
            } else if into.len() > begin {
                into.push(' ');
            }
        }
        into.truncate(into.trim_end().len().max(begin));
    }

    /// Fills `into` with letters.
    pub fn letters(&mut self, into: &mut [u8]) {
        for eight in into.chunks_mut(8) {
            let draws = self.next().to_le_bytes();
            eight.iter_mut().zip(draws).for_each(|(byte, draw)| *byte = letter(draw) as u8);
        }
    }

    /// How long a text is that makes a record of `len` bytes about `average` bytes long: within a fifth of what is missing.
    pub fn missing_len(&mut self, len: u64, average: u64) -> usize {
        let missing = average.saturating_sub(len);
        let reach = (missing + 2) / 5;
        let more = if reach == 0 { 0 } else { self.below(2 * reach) };
        (missing - reach + more) as usize
    }
}

/// A letter for every byte, each about as often.
#[inline]
fn letter(draw: u8) -> char {
    char::from(b'a' + ((u16::from(draw) * 26) >> 8) as u8)
}

#[inline]
fn mixed(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_shorter_than_asked_and_have_no_space_at_an_end() {
        let mut random = Random::of_event(1, 1);
        let mut spaces = 0;
        for _ in 0..1_000 {
            let mut text = String::from("@");
            random.text(20, &mut text);
            assert!(text.len() <= 20 && text[1..].trim() == &text[1..], "{text:?}");
            spaces += text.matches(' ').count();
        }
        assert!(spaces > 100);
    }

    #[test]
    fn the_missing_length_is_within_a_fifth() {
        let mut random = Random::of_event(1, 2);
        let lengths: Vec<usize> = (0..10_000).map(|_| random.missing_len(32, 100)).collect();
        assert_eq!((lengths.iter().min(), lengths.iter().max()), (Some(&54), Some(&81)));
        assert_eq!(random.missing_len(200, 100), 0);
    }

    #[test]
    fn a_seed_draws_the_same_and_another_draws_differently() {
        let draws = |seed, number| {
            let mut random = Random::of_event(seed, number);
            [random.next(), random.below(1000), random.unit().to_bits()]
        };
        assert_eq!(draws(3, 4), draws(3, 4));
        assert_ne!(draws(3, 4), draws(3, 5));
        assert_ne!(draws(3, 4), draws(4, 4));
    }
}
