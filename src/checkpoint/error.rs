//! Why a checkpoint failed, why a job cannot be restored, and what exactly is damaged.

use super::CheckpointId;
use super::format::{BlockFault, FORMAT_VERSION};
use crate::io::IoError;
use crate::memory::MemoryError;
use std::path::PathBuf;

/// Why a checkpoint was not committed. The job goes on; the next checkpoint writes everything.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CheckpointError {
    /// One checkpoint at a time.
    #[error("checkpoint {asked} cannot begin while checkpoint {running} is in progress: wait for it or abort it")]
    Busy {
        /// The one in progress.
        running: CheckpointId,
        /// The one that was to begin.
        asked: CheckpointId,
    },
    /// Numbers only grow, over restarts too.
    #[error("checkpoint {asked} cannot begin: the directory has seen numbers below {next}, ask `next_id`")]
    NumberUsed {
        /// The number asked for.
        asked: CheckpointId,
        /// The least number that may be used.
        next: CheckpointId,
    },
    /// The page map of the restored checkpoint, on which this one builds, is not there.
    #[error("checkpoint {id} cannot begin without the page map of the one the job started from: {reason}")]
    PageMapMissing {
        /// The checkpoint.
        id: CheckpointId,
        /// What is wrong with it.
        reason: String,
    },
    /// After a failed checkpoint, and in an empty directory, everything must be written.
    #[error("checkpoint {id} must be full: the last one failed or there is none")]
    MustBeFull {
        /// The checkpoint.
        id: CheckpointId,
    },
    /// A call that only makes sense for the checkpoint in progress.
    #[error("{what} belongs to checkpoint {given}, which is not in progress")]
    NotInProgress {
        /// What was handed over.
        what: &'static str,
        /// Its checkpoint.
        given: CheckpointId,
    },
    /// Sealed before every subtask had acknowledged.
    #[error("checkpoint {id} lacks the acknowledgement of {missing}")]
    Unacknowledged {
        /// The checkpoint.
        id: CheckpointId,
        /// Which subtasks: `vertex/index, ...`.
        missing: String,
    },
    /// Blocks were lost between the subtasks and the store.
    #[error("checkpoint {id}: the subtasks announced {announced} blocks of state, {received} arrived")]
    BlocksDiffer {
        /// The checkpoint.
        id: CheckpointId,
        /// Sum over the acknowledgements.
        announced: u64,
        /// Blocks added.
        received: u64,
    },
    /// A piece lies outside its buffer.
    #[error("checkpoint {id}: a piece of state {state:016x}, key group {key_group} lies outside its buffer")]
    PieceOutsideBuffer {
        /// The checkpoint.
        id: CheckpointId,
        /// Whose piece.
        state: u64,
        /// Whose piece.
        key_group: u16,
    },
    /// A delta came for a page that has no image.
    #[error(
        "checkpoint {id}: a delta of state {state:016x}, key group {key_group}, page {page} has no image to follow"
    )]
    DeltaWithoutImage {
        /// The checkpoint.
        id: CheckpointId,
        /// Whose delta.
        state: u64,
        /// Whose delta.
        key_group: u16,
        /// Whose delta.
        page: u32,
    },
    /// The disk is full. The checkpoint is given up, the job goes on, the next one may succeed.
    #[error("checkpoint {id} found no space: {error}; free space there or move the checkpoint directory")]
    NoSpace {
        /// The checkpoint.
        id: CheckpointId,
        /// What could not be done.
        error: IoError,
    },
    /// The disk failed. The file is never written or trusted again.
    #[error("checkpoint {id} failed: {error}")]
    Disk {
        /// The checkpoint.
        id: CheckpointId,
        /// What could not be done.
        error: IoError,
    },
    /// No memory for the manifest or the page map.
    #[error("checkpoint {id} failed: {error}")]
    Memory {
        /// The checkpoint.
        id: CheckpointId,
        /// Who asked for how much.
        error: MemoryError,
    },
    /// Names or blobs beyond what an archive holds.
    #[error("checkpoint {id} could not be encoded: {reason}")]
    Encode {
        /// The checkpoint.
        id: CheckpointId,
        /// The serializer's words.
        reason: String,
    },
    /// Given up by the coordinator.
    #[error("checkpoint {id} was aborted: {reason}")]
    Aborted {
        /// The checkpoint.
        id: CheckpointId,
        /// Why.
        reason: String,
    },
}

/// Why a savepoint was not written. Nothing is there under its name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SavepointError {
    /// Savepoints never overwrite anything.
    #[error("\"{dir}\" exists already: give each savepoint a name of its own")]
    Exists {
        /// The directory asked for.
        dir: PathBuf,
    },
    /// The path ends in no name.
    #[error("\"{dir}\" names no directory that could be created: give the savepoint a name")]
    NoName {
        /// The directory asked for.
        dir: PathBuf,
    },
    /// Two at once under one name.
    #[error("process {pid} is writing the savepoint \"{dir}\" at this moment: choose another name")]
    BeingWritten {
        /// The directory asked for.
        dir: PathBuf,
        /// The other's pid, or `unknown`.
        pid: String,
    },
    /// The directory could not be locked.
    #[error("the savepoint cannot be written: {0}")]
    Directory(RestoreError),
    /// The checkpoint could not be read back.
    #[error("the checkpoint cannot be copied: {0}")]
    Source(RestoreError),
    /// The copy could not be written.
    #[error("the savepoint cannot be written: {0}")]
    Writing(#[from] CheckpointError),
    /// The state could not be harvested.
    #[error("the savepoint cannot be written: {0}")]
    State(#[from] crate::state::StateError),
    /// An operation on the directory failed.
    #[error("the savepoint cannot be written: {0}")]
    Io(#[from] IoError),
    /// No memory to copy with.
    #[error("the savepoint cannot be written: {0}")]
    Memory(#[from] MemoryError),
    /// Given up on the way.
    #[error("the savepoint \"{dir}\" was given up before it was complete")]
    Abandoned {
        /// The directory asked for.
        dir: PathBuf,
    },
}

/// Something on disk that is not what was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The checkpoint that needs it; 0 when it is not known.
    pub checkpoint: CheckpointId,
    /// Which file.
    pub path: PathBuf,
    /// From which byte of the file.
    pub offset: u64,
    /// What it should have been: `superblock`, `manifest`, `page map`, `block of pieces`, or the piece's owner.
    pub what: String,
    /// What is wrong with it.
    pub fault: BlockFault,
}

impl std::fmt::Display for Damage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { checkpoint, path, offset, what, fault } = self;
        if checkpoint.0 != 0 {
            write!(f, "checkpoint {checkpoint}: ")?;
        }
        write!(f, "{what} at byte {offset} of \"{}\": {fault}", path.display())
    }
}

/// Why a job cannot start from its checkpoint directory.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RestoreError {
    /// A file is there and cannot be read now. Its bytes may be intact, so no older checkpoint is used in its place.
    #[error(
        "the checkpoints in \"{dir}\" cannot be judged: {reason}; try again, or move the file away to go on from an older checkpoint"
    )]
    Unreadable {
        /// The state directory.
        dir: PathBuf,
        /// The operating system's words, or the memory that is missing.
        reason: String,
    },
    /// Somebody else owns the directory.
    #[error(
        "the checkpoint directory \"{dir}\" is locked by running process {pid}: stop it or choose another directory"
    )]
    Locked {
        /// The directory.
        dir: PathBuf,
        /// The owner's pid, or `unknown`.
        pid: String,
    },
    /// The file system refuses locks.
    #[error("cannot lock \"{path}\": {reason}")]
    LockFailed {
        /// The lock file.
        path: PathBuf,
        /// The operating system's words.
        reason: String,
    },
    /// The directory holds another job's checkpoints.
    #[error("\"{dir}\" holds the checkpoints of job \"{found}\", not of \"{asked}\": give each job its own directory")]
    OtherJob {
        /// The directory.
        dir: PathBuf,
        /// The job in the superblock.
        found: String,
        /// The job that was started.
        asked: String,
    },
    /// The savepoint was taken from another job.
    #[error(
        "savepoint \"{dir}\" was taken from job \"{found}\", not from \"{asked}\": start that job, or allow a savepoint of another job if its operators have the same names"
    )]
    SavepointOfOtherJob {
        /// The savepoint.
        dir: PathBuf,
        /// The job in the superblock.
        found: String,
        /// The job that was started.
        asked: String,
    },
    /// There is no checkpoint in the directory.
    #[error("\"{dir}\" holds no checkpoint: is it a savepoint or the checkpoint directory of a job?")]
    NoCheckpoint {
        /// The directory.
        dir: PathBuf,
    },
    /// The directory holds checkpoints, but not this one.
    #[error("\"{dir}\" does not hold checkpoint {asked}: see which it holds with `millstream checkpoints ls`")]
    NotHeld {
        /// The directory.
        dir: PathBuf,
        /// The checkpoint asked for.
        asked: CheckpointId,
    },
    /// Written by a later version of the program.
    #[error("\"{path}\" has format version {found}, this program reads up to {FORMAT_VERSION}: use the newer program")]
    NewerFormat {
        /// Which file.
        path: PathBuf,
        /// Its version.
        found: u16,
    },
    /// Permissions.
    #[error("no permission for \"{path}\": {reason}")]
    NoPermission {
        /// Which file or directory.
        path: PathBuf,
        /// The operating system's words.
        reason: String,
    },
    /// The directory could not be read at all.
    #[error(transparent)]
    Io(#[from] IoError),
    /// No memory to read into.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// No retained checkpoint is intact.
    #[error("no intact checkpoint is left in \"{dir}\" ({} damages, first: {}): restore a savepoint or a copy, or empty the directory to start anew", .damages.len(), .damages.first().map_or_else(String::new, ToString::to_string))]
    AllDamaged {
        /// The directory.
        dir: PathBuf,
        /// What is wrong, newest checkpoint first.
        damages: Vec<Damage>,
    },
    /// A part of the page map that is read after the start is damaged.
    #[error("{}", .damage.as_ref().as_ref().map_or_else(|| "the page map is damaged".to_owned(), ToString::to_string))]
    MapDamaged {
        /// What is wrong.
        damage: Box<Option<Damage>>,
    },
    /// A piece of state that is read after the start is damaged.
    #[error(
        "state {state:016x}, key group {key_group}, page {page} cannot be read back from byte {offset} of \"{path}\": {fault}"
    )]
    PieceDamaged {
        /// Which file.
        path: PathBuf,
        /// From which byte.
        offset: u64,
        /// Which state.
        state: u64,
        /// Which key group.
        key_group: u16,
        /// Which page.
        page: u32,
        /// What is wrong.
        fault: BlockFault,
    },
    /// A job name that does not fit a superblock.
    #[error("a job's name has at most {max_bytes} bytes, \"{name}\" has {}", .name.len())]
    JobNameTooLong {
        /// The name.
        name: String,
        /// The limit.
        max_bytes: usize,
    },
}
