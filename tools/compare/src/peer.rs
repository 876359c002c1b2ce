//! What another engine must be able to run to be compared.

use crate::workloads::{KeyedStream, Outcome};
use hdrhistogram::Histogram;
use millstream::nexmark::{Nexmark, Query};
use millstream::sink::RowSum;
use std::time::Duration;

/// Another engine. `None` is a workload it cannot run.
pub trait Peer {
    /// As it is called in the report.
    fn name(&self) -> &'static str;

    /// One result for every record: how often its key has come so far. The checksum adds up the results.
    fn rolling_sum(&self, stream: KeyedStream, workers: u32) -> Option<Outcome>;

    /// How often each key came in each second of event time. The checksum adds up the squares; the clock starts when the first second
    /// is over.
    fn tumbling_sum(&self, stream: KeyedStream, workers: u32) -> Option<Outcome>;

    /// The rows of one of Nexmark's queries over these events, of which every worker reads one split, and the time from building the
    /// dataflow to its end.
    fn nexmark(&self, query: Query, events: &Nexmark, workers: u32) -> Option<(RowSum, Duration)>;

    /// Records through one exchange by key between two workers: nanoseconds from the intended time to the sink, without the first tenth.
    fn hop(&self, load: OpenLoop) -> Option<Histogram<u64>>;
}

/// Records at a fixed rate, whoever takes them.
#[derive(Clone, Copy)]
pub struct OpenLoop {
    /// Per second.
    pub rate: u64,
    /// How many in all.
    pub count: u64,
    /// How many different keys.
    pub keys: u64,
}

impl OpenLoop {
    /// The key of a record.
    pub fn key(self, n: u64) -> u64 {
        (n.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 20) % self.keys
    }
}
