//! Why a line is no record: a reason to count by, the column, and a sentence for people.

/// What a parser says about a line it cannot read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct ParseError {
    /// What it is counted as: `bad_number`, `bad_timestamp`, ...
    pub reason: &'static str,
    /// Where in the line, in bytes from 1.
    pub column: usize,
    /// What was found and what was expected.
    pub detail: String,
}

impl ParseError {
    /// A line that is no record for `reason` (what it is counted as), at `column` (from 1).
    pub fn new(reason: &'static str, column: usize, detail: impl Into<String>) -> Self {
        Self { reason, column, detail: detail.into() }
    }
}

/// A piece of input as it may stand in a message: lossily decoded, quoted, cut after 40 characters.
#[cfg(feature = "formats")]
pub(super) fn shown(text: &[u8]) -> String {
    let decoded = String::from_utf8_lossy(text);
    match decoded.char_indices().nth(40) {
        Some((cut, _)) => format!("\"{}...\"", decoded[..cut].escape_debug()),
        None => format!("\"{}\"", decoded.escape_debug()),
    }
}
