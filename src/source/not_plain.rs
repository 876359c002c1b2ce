//! Says that a line is not of the plain form that is read in one pass. No reason is kept: the parser that knows every form finds it.

/// How many lines in a row the one pass may fail at before it is no longer tried: its records are of a kind that it does not know.
const MISSES_MAX: u32 = 64;

/// Not plain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not of the plain form")]
pub struct NotPlain;

impl serde::de::Error for NotPlain {
    fn custom<T: std::fmt::Display>(_: T) -> Self {
        Self
    }
}

/// Whether the one pass is worth trying.
#[derive(Clone, Copy, Debug, Default)]
pub struct Attempts {
    misses: u32,
}

impl Attempts {
    /// Whether to try once more.
    #[inline]
    pub fn are_worth_it(self) -> bool {
        self.misses < MISSES_MAX
    }

    /// What the last one gave.
    #[inline]
    pub fn note<T>(&mut self, result: Result<T, NotPlain>) -> Option<T> {
        self.misses = if result.is_ok() { 0 } else { self.misses + 1 };
        result.ok()
    }
}
