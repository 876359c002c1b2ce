//! The stamp of a record: its event time and what the engine must know of its origin to judge it.

use crate::time::EventTimeMs;

/// What travels beside every record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// The record's event time.
    pub at: EventTimeMs,
    /// The clock of the split that stamped the record, if it had already reached `at`; `MIN` for a record in time.
    /// Lateness is judged by it (unlike Flink, which judges by the receiving operator's watermark).
    pub clock: EventTimeMs,
    /// The split the record came from, numbered over the whole source; orders records of equal time.
    pub split: u32,
    /// When the source meant to emit it, in nanoseconds of the engine's monotonic clock; latency is measured from here.
    pub origin_ns: u64,
}
