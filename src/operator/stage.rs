//! A stage: one operator of a chain, generic over the stage behind it, so that a whole chain is one direct call per record.

use crate::checkpoint::{CheckpointId, OperatorBlob, RestoredBlobs};
use crate::io::Io;
use crate::record::Stamp;
use crate::time::Watermark;

/// One operator of a chain, taking records of type `V`.
pub trait Stage<V>: 'static {
    /// Takes one record. Failures are reported through `cx` and end the batch, not the call.
    fn record(&mut self, cx: &mut ChainContext<'_>, stamp: &Stamp, record: &V);

    /// Takes anything that is not a record and hands it on to the next stage. `More` asks to be called again with the same signal
    /// once the outputs have room: nothing behind it in the stream may be delivered before.
    fn signal(&mut self, cx: &mut ChainContext<'_>, signal: &mut Signal<'_>) -> Flow;

    /// Whether an output at the end of the chain waits for room; no input may be delivered while it does.
    fn is_blocked(&self) -> bool;
}

/// What a chain is told besides records, in stream order where it comes from the stream.
pub enum Signal<'a> {
    /// Event time has come this far.
    Watermark(Watermark),
    /// All inputs are idle (`true`), or one is active again.
    Idle(bool),
    /// Before the first record: take back what the last checkpoint remembers.
    Restore(&'a Restored<'a>),
    /// The barrier of a checkpoint: record small states, start preparing transactions, pass the barrier on.
    Snapshot(&'a mut SnapshotBuilder),
    /// Asks whether all transactions of the running snapshot are prepared durably; a stage that is not clears the flag.
    Prepared(&'a mut bool),
    /// The checkpoint is durable: commit what was prepared for it and before.
    Complete(CheckpointId),
    /// Asks whether every commit that was started is carried out; a stage that is not done clears the flag.
    Committed(&'a mut bool),
    /// Background work between batches: I/O of sinks, flushing outputs. A stage that did something sets the flag.
    Poll(&'a mut bool),
    /// The job ends, after its last checkpoint: release what is held outside the process.
    Close,
}

/// Whether a signal was taken completely.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Flow {
    /// Taken by this stage and everything behind it.
    Done,
    /// Not yet: outputs are full or the time slice is used up.
    More,
}

/// What a chain may use during one step: the time and the disk; and where it says that it failed.
pub struct ChainContext<'a> {
    /// Nanoseconds of the engine's monotonic clock at the start of the step.
    pub now_ns: u64,
    /// Milliseconds since 1970 of the wall clock at the start of the step.
    pub wall_ms: i64,
    /// When the last record before this point of the stream was meant to be emitted: what the latency of results counts from that a
    /// watermark sets free.
    pub origin_ns: u64,
    /// The slot's own I/O.
    pub io: &'a mut dyn Io,
    /// The first failure of the step, if any.
    pub failure: &'a mut Option<OperatorFailure>,
}

/// Why an operator cannot go on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("operator \"{operator}\": {reason}")]
pub struct OperatorFailure {
    /// The operator's name.
    pub operator: String,
    /// What happened, with figures, and what to do.
    pub reason: String,
    /// Trying again would end the same way: the job ends, whatever its restart policy (Flink `SuppressRestartsException`).
    pub is_permanent: bool,
}

impl OperatorFailure {
    /// A failure after which the job may be tried again.
    pub fn new(operator: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { operator: operator.into(), reason: reason.into(), is_permanent: false }
    }
}

/// Collects the small states of a chain's operators at a barrier.
pub struct SnapshotBuilder {
    /// The checkpoint.
    pub id: CheckpointId,
    /// The subtask that is snapshotted.
    pub subtask: u32,
    /// What was collected.
    pub blobs: Vec<OperatorBlob>,
}

/// What a chain gets back at restore.
pub struct Restored<'a> {
    /// The subtask that is restored.
    pub subtask: u32,
    /// How many subtasks the operator has now.
    pub parallelism: u32,
    /// The small states of all operators as all subtasks wrote them at the checkpoint.
    pub blobs: &'a RestoredBlobs,
    /// The checkpoint restored from.
    pub id: CheckpointId,
}

impl ChainContext<'_> {
    /// Says that `operator` failed. The first failure of a step is the one reported.
    // Inline, so that a context of which only this is used need not be in memory.
    #[inline(always)]
    pub fn fail(&mut self, operator: &str, reason: impl std::fmt::Display) {
        fail(self.failure, operator, &reason, false);
    }

    /// The same when trying again would end the same way.
    #[inline(always)]
    pub fn fail_for_good(&mut self, operator: &str, reason: impl std::fmt::Display) {
        fail(self.failure, operator, &reason, true);
    }
}

#[cold]
#[inline(never)]
fn fail(failure: &mut Option<OperatorFailure>, operator: &str, reason: &dyn std::fmt::Display, is_permanent: bool) {
    failure.get_or_insert_with(|| OperatorFailure {
        operator: operator.to_owned(),
        reason: reason.to_string(),
        is_permanent,
    });
}

impl SnapshotBuilder {
    /// Records a small state of `operator`.
    pub fn blob(&mut self, operator: &str, kind: &str, bytes: Vec<u8>) {
        self.blobs.push(OperatorBlob {
            operator: operator.to_owned(),
            subtask: self.subtask,
            kind: kind.to_owned(),
            bytes,
        });
    }
}
