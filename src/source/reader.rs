//! What a source is: a list of splits, and a reader for each.

use crate::io::Io;
use crate::slot::Doorbell;
use std::path::PathBuf;
use std::sync::Arc;

/// A source of records, described once and opened once per split on the slot that reads it.
pub trait Source: Clone + Send + Sync + 'static {
    /// What it yields.
    type Record: 'static;
    /// What reads one split.
    type Reader: SplitReader<Record = Self::Record>;

    /// The names of all splits. Positions are kept by name, so a name must mean the same data after a restart. Called once per
    /// start, before the job runs; may wait for I/O.
    fn splits(&self, io: &mut dyn Io) -> Result<Vec<String>, SourceError>;

    /// A reader of `split` that goes on after `position` (as an earlier reader wrote it), or starts at the beginning. Must not
    /// block: files are opened by the reader's first reads.
    fn open(&self, split: &str, position: Option<&[u8]>) -> Result<Self::Reader, SourceError>;
}

/// Reads one split on a slot; a step machine.
pub trait SplitReader: 'static {
    /// What it yields.
    type Record;

    /// Whether records wait somewhere between the time they were meant to be emitted and `read`: then the engine records how long.
    const MEASURES_WAIT: bool = false;

    /// Yields at most `records_max` records to `emit`, each with the time it was meant to be emitted (nanoseconds of the engine's
    /// monotonic clock; `cx.now_ns` when the source does not know). Lends its context to `emit` meanwhile. Never blocks.
    fn read<E: FnMut(&mut ReadContext<'_>, &Self::Record, u64)>(
        &mut self,
        cx: &mut ReadContext<'_>,
        records_max: usize,
        emit: E,
    ) -> Result<ReadStatus, SourceError>;

    /// Writes where the split stands: after exactly the records that were emitted.
    fn position(&self, into: &mut Vec<u8>);

    /// When to look again although nothing else happens, in nanoseconds of the monotonic clock; `None` when only I/O or a doorbell
    /// can bring more.
    fn wake_at_ns(&self) -> Option<u64> {
        None
    }

    /// The doorbell of the slot that reads, told once after `open`: rung by readers whose records come from other threads.
    fn set_doorbell(&mut self, _doorbell: &Arc<Doorbell>) {}

    /// Gives up open files.
    fn close(&mut self, _io: &mut dyn Io) {}
}

/// What a reader may use during one call.
pub struct ReadContext<'a> {
    /// Nanoseconds of the engine's monotonic clock at the start of the step.
    pub now_ns: u64,
    /// Milliseconds since 1970 of the wall clock at the start of the step.
    pub wall_ms: i64,
    /// The slot's own I/O.
    pub io: &'a mut dyn Io,
    /// Where buffers come from.
    pub arena: &'a crate::memory::Arena,
    /// Records that were dropped, by reason; the reader counts, the engine reports.
    pub dropped: &'a mut dyn FnMut(&'static str),
}

/// What a read left behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadStatus {
    /// More can be read at once.
    More,
    /// Nothing now; something may come.
    Pending,
    /// The split has ended.
    Ended,
}

/// Why a source cannot go on: which split, where in it, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SourceError {
    /// The data cannot be reached.
    #[error(transparent)]
    Io(#[from] crate::io::IoError),
    /// There is no such file.
    #[error("there is no file \"{path}\": check the path and the working directory")]
    NoSuchFile {
        /// The path as given.
        path: PathBuf,
    },
    /// The path names a directory.
    #[error("\"{path}\" is a directory: name the files in it")]
    IsDirectory {
        /// The path as given.
        path: PathBuf,
    },
    /// A file is shorter than, or differs from, what was already read of it.
    #[error(
        "\"{path}\" was cut or replaced: {read_bytes} bytes of it were read, now {found}: bring the file back, or start without the checkpoint"
    )]
    Replaced {
        /// The path as given.
        path: PathBuf,
        /// Up to where it was read.
        read_bytes: u64,
        /// What is there instead.
        found: String,
    },
    /// The data is not what the source reads.
    #[error("{place}: {reason}")]
    BadInput {
        /// File, line and column, or whatever names the place.
        place: String,
        /// What is wrong, and what to do.
        reason: String,
    },
    /// The position in the checkpoint is not one of this source.
    #[error("the checkpoint's position of split \"{split}\" cannot be used: {reason}")]
    BadPosition {
        /// Which split.
        split: String,
        /// Why not.
        reason: String,
    },
    /// No memory for a buffer.
    #[error(transparent)]
    Memory(#[from] crate::memory::MemoryError),
}
