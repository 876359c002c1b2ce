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
    /// Where the record comes from, numbered over the whole job: a split of a source, or a key group of an operator that fires windows or timers,
    /// or works in event-time order. Orders records of equal time: those of one number come in one order, and through one channel.
    pub split: u32,
    /// When the source meant to emit it, in nanoseconds of the engine's monotonic clock; latency is measured from here.
    pub origin_ns: u64,
}
