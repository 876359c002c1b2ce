//! A short text in place: a name, a city or a state within a fixed-size record. On the heap these texts would be much of the time of the
//! queries that join.

use bytemuck::{Pod, Zeroable};
use millstream::Schema;
use serde::{Serialize, Serializer};
use std::hash::{Hash, Hasher};

/// "Deiter Spencer" has 14 letters, "San Francisco" 13.
const LEN_MAX: usize = 15;

/// A text of up to 15 bytes; as a column it is the text.
#[derive(Clone, Copy, Default, PartialEq, Eq, Pod, Zeroable, Schema)]
#[repr(C)]
pub struct Text {
    bytes: [u8; LEN_MAX],
    len: u8,
}

impl Text {
    /// The text, as far as it fits; none that is made is longer.
    #[inline]
    pub fn new(text: &str) -> Self {
        let mut bytes = [0; LEN_MAX];
        let len = text.len().min(LEN_MAX);
        bytes[..len].copy_from_slice(&text.as_bytes()[..len]);
        Self { bytes, len: len as u8 }
    }

    /// Whether there is none.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The text.
    #[inline]
    pub fn as_str(&self) -> &str {
        let bytes = &self.bytes[..LEN_MAX.min(self.len.into())];
        std::str::from_utf8(bytes).unwrap_or_default()
    }
}

impl std::fmt::Debug for Text {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.as_str())
    }
}

impl Hash for Text {
    #[inline]
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_str().hash(state);
    }
}

impl Serialize for Text {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}
