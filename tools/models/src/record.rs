//! What lies beside a record.

use crate::time::EventTimeMs;

/// As the engine's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// The record's event time.
    pub at: EventTimeMs,
    /// Its split's clock.
    pub clock: EventTimeMs,
    /// Its split.
    pub split: u32,
    /// When it was meant to be emitted.
    pub origin_ns: u64,
}
