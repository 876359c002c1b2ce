//! Says that a line is not of the plain form that is read in one pass. No reason is kept: the parser that knows every form finds it.

/// Not plain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not of the plain form")]
pub struct NotPlain;

impl serde::de::Error for NotPlain {
    fn custom<T: std::fmt::Display>(_: T) -> Self {
        Self
    }
}
