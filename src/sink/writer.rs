//! What a sink is: a writer per subtask that prepares with a checkpoint and commits once the checkpoint is durable.
//!
//! Protocol of one checkpoint: `snapshot` closes the current transaction and says what must be committed later (the committable,
//! which becomes part of the checkpoint); `poll` makes it durable, `is_prepared` says when; the checkpoint completes; `commit`
//! makes it visible. After a restart `restore` gets every committable of the checkpoint: those are committed again (idempotently)
//! and everything younger is thrown away.

use crate::checkpoint::CheckpointId;
use crate::io::Io;
use crate::memory::Arena;
use crate::record::Stamp;
use crate::slot::Doorbell;
use std::path::PathBuf;
use std::sync::Arc;

/// A sink of records of type `V`, described once and opened once per subtask.
pub trait Sink<V>: Clone + Send + Sync + 'static {
    /// What writes in one subtask.
    type Writer: SinkWriter<V>;

    /// A writer for one subtask. Must not block; files are opened by `poll`.
    fn open(&self, subtask: u32, parallelism: u32) -> Result<Self::Writer, SinkError>;
}

/// Writes in one subtask; a step machine.
pub trait SinkWriter<V>: 'static {
    /// Takes one record. Buffers; never blocks.
    fn write(&mut self, cx: &mut SinkContext<'_>, stamp: &Stamp, record: &V) -> Result<(), SinkError>;

    /// Whether no more records should come until `poll` made room.
    fn is_full(&self) -> bool {
        false
    }

    /// Goes on with I/O; `true` when something happened.
    fn poll(&mut self, _cx: &mut SinkContext<'_>) -> Result<bool, SinkError> {
        Ok(false)
    }

    /// The barrier of checkpoint `id`: everything written so far belongs to it. Returns the committable, empty for nothing; it must
    /// also name what earlier checkpoints prepared and no `commit` has yet made visible.
    fn snapshot(&mut self, _cx: &mut SinkContext<'_>, _id: CheckpointId) -> Result<Vec<u8>, SinkError> {
        Ok(Vec::new())
    }

    /// Whether everything before the last `snapshot` is durable.
    fn is_prepared(&self) -> bool {
        true
    }

    /// Checkpoint `id` is durable: starts making visible what was prepared for it and before; `poll` carries it out.
    fn commit(&mut self, _cx: &mut SinkContext<'_>, _id: CheckpointId) -> Result<(), SinkError> {
        Ok(())
    }

    /// Whether every started commit is carried out; a job does not end before.
    fn is_committed(&self) -> bool {
        true
    }

    /// Before the first record, when there is a checkpoint: all committables of all subtasks as the checkpoint holds them
    /// (subtask, bytes). Every subtask gets all of them; exactly one must act on each (`index % parallelism == subtask`).
    fn restore(&mut self, _cx: &mut SinkContext<'_>, _committables: &[(u32, Vec<u8>)]) -> Result<(), SinkError> {
        Ok(())
    }

    /// Before the first record, whether there was a checkpoint or not and after `restore`: may this subtask start? Used to wait for
    /// clean-up (`poll` goes on meanwhile).
    fn is_ready(&self) -> bool {
        true
    }

    /// How many records were thrown away since this was last asked, because nobody took them.
    fn take_dropped(&mut self) -> u64 {
        0
    }

    /// The doorbell of the slot that writes, told once after `open`: rung by those who make room from other threads.
    fn set_doorbell(&mut self, _doorbell: &Arc<Doorbell>) {}

    /// Gives up open files, after the last checkpoint or after a failure. What was not committed stays invisible.
    fn close(&mut self, _io: &mut dyn Io) {}
}

/// What a writer may use during one call.
pub struct SinkContext<'a> {
    /// Nanoseconds of the engine's monotonic clock at the start of the step.
    pub now_ns: u64,
    /// The slot's own I/O.
    pub io: &'a mut dyn Io,
    /// Where buffers come from.
    pub arena: &'a Arena,
}

/// Why a sink cannot go on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SinkError {
    /// The target cannot be reached.
    #[error(transparent)]
    Io(#[from] crate::io::IoError),
    /// A record cannot be written.
    #[error("a record cannot be written: {reason}")]
    BadRecord {
        /// Why, and what to do.
        reason: String,
    },
    /// The committable in the checkpoint is not one of this sink.
    #[error("the checkpoint's transaction of subtask {subtask} cannot be used: {reason}")]
    BadCommittable {
        /// Which subtask wrote it.
        subtask: u32,
        /// Why not.
        reason: String,
    },
    /// A file that a checkpoint promises is neither hidden nor visible any more.
    #[error(
        "output was removed: checkpoint {checkpoint} promises \"{name}\" in \"{directory}\", but neither it nor its hidden part is there: bring it back, or create an empty file of that name to go on without it"
    )]
    OutputRemoved {
        /// Where it should be.
        directory: PathBuf,
        /// The visible name.
        name: String,
        /// The checkpoint it was prepared for.
        checkpoint: CheckpointId,
    },
    /// The directory holds output that this run did not write, or wrote after the checkpoint it was restored from.
    #[error("output directory \"{directory}\" already holds \"{name}\" {whence}: choose another or remove it")]
    OutputOccupied {
        /// The output directory.
        directory: PathBuf,
        /// One of the files that are in the way.
        name: String,
        /// Where it must come from.
        whence: String,
    },
    /// No memory for a buffer.
    #[error(transparent)]
    Memory(#[from] crate::memory::MemoryError),
}
