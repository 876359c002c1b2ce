//! A short text in place: strings on the heap for every second person would be a tenth of the time of the queries that join.

use serde::{Deserialize, Serialize};

const LEN_MAX: usize = 15;

/// A name, a city or a state: none that is made is longer.
#[derive(Clone, Copy, Default, Serialize, Deserialize)]
pub struct Text {
    bytes: [u8; LEN_MAX],
    len: u8,
}

impl Text {
    /// `text`, of at most 15 bytes.
    pub fn new(text: &str) -> Self {
        let mut bytes = [0; LEN_MAX];
        bytes[..text.len()].copy_from_slice(text.as_bytes());
        Self { bytes, len: text.len() as u8 }
    }

    /// As it was.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.bytes[..usize::from(self.len)]).expect("it was a text")
    }
}
