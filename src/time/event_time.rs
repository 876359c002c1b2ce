//! Event time: milliseconds since 1970 as the records say, and the promise that no earlier record follows.

/// A record's own time in milliseconds since 1970-01-01T00:00:00Z. `MIN` means "no timestamp", as in Flink.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, bytemuck::Pod, bytemuck::Zeroable, millstream::Schema,
)]
#[repr(transparent)]
pub struct EventTimeMs(pub i64);

/// A promise that no record with a time at or before it follows on this channel (Flink `Watermark`).
pub type Watermark = EventTimeMs;

impl EventTimeMs {
    /// "No timestamp", and the watermark before the first.
    pub const MIN: Self = Self(i64::MIN);
    /// The watermark after the last record of a bounded input.
    pub const MAX: Self = Self(i64::MAX);

    /// This time plus `ms`, stopping at the ends of the range.
    pub fn saturating_add(self, ms: i64) -> Self {
        Self(self.0.saturating_add(ms))
    }
}

impl std::fmt::Display for EventTimeMs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)
    }
}
