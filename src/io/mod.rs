//! How do bytes reach the disk? Operations are submitted, completions are asked for; nothing here blocks but `wait`.
//!
//! Here: the `Io` trait and its operations, and the drivers behind it: the slot's own io_uring (`uring`), a helper
//! thread (`blocking`), a simulated disk (`sim_disk`, `sim_io`); which of the first two a process gets (`choice`).
//! Not here: what is written where (`checkpoint`, `sink`, `source`).
//!
//! Operations under way at the same time may take effect in any order: who needs an order waits for the first one.
//!
//! Architecture invariant: only this folder knows tokio-uring.

mod blocking;
mod choice;
mod completions;
mod open_files;
mod owned_buf;
mod posix;
mod shared;
mod sim_disk;
mod sim_fault;
mod sim_file;
mod sim_io;
mod sim_names;
mod transfer;
mod uring;
mod uring_op;

pub use blocking::BlockingIo;
pub use choice::{IoChoice, IoUnavailable, Refusal, open};
pub use shared::SharedIo;
pub use sim_disk::{SimDisk, SimDiskOptions, Survivors};
pub use sim_fault::{DiskFault, InjectedFault, Repeat};
pub use sim_io::SimIo;
pub use uring::UringIo;

use crate::memory::Buffer;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// An open file of one `Io`; meaningless to any other `Io`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FileId(pub u32);

/// Names one submitted operation until its completion was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct IoToken(pub u64);

/// How a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenMode {
    /// Existing, for reading.
    Read,
    /// Existing, for reading and writing.
    ReadWrite,
    /// New (fails with `AlreadyExists` otherwise), for reading and writing.
    CreateNew,
    /// Created when missing, kept when there, for reading and writing.
    Create,
}

impl OpenMode {
    /// Whether a missing file is created.
    pub fn creates(self) -> bool {
        matches!(self, Self::CreateNew | Self::Create)
    }
}

/// One operation. Paths are absolute or relative to the working directory; offsets and lengths are bytes.
#[derive(Debug)]
pub enum IoOp {
    /// Opens a file. `direct` asks for O_DIRECT and falls back to buffered where the file system refuses it;
    /// offsets, lengths and addresses of a direct file must then be multiples of 4 KiB.
    Open {
        /// Which file.
        path: PathBuf,
        /// How.
        mode: OpenMode,
        /// Whether to bypass the page cache where possible.
        direct: bool,
    },
    /// Reads up to `len` bytes at `offset` into `into` (from its start; its length becomes what was read). Shorter only at the end of the file.
    Read {
        /// Which file.
        file: FileId,
        /// Where in the file.
        offset: u64,
        /// How many bytes, at most the capacity of `into`.
        len: usize,
        /// Where to.
        into: Buffer,
    },
    /// Writes all the data of `from` at `offset`; short writes, EINTR and EAGAIN are continued inside.
    Write {
        /// Which file.
        file: FileId,
        /// Where in the file.
        offset: u64,
        /// What.
        from: Buffer,
    },
    /// Extends a file to `len_bytes` of allocated space, if it is shorter (fallocate where supported).
    Allocate {
        /// Which file.
        file: FileId,
        /// The length to have at least.
        len_bytes: u64,
    },
    /// Cuts a file to `len_bytes`.
    Truncate {
        /// Which file.
        file: FileId,
        /// The new length.
        len_bytes: u64,
    },
    /// fdatasync. After an error the file's contents must never be trusted again (the error is not repeated by the kernel).
    SyncData {
        /// Which file.
        file: FileId,
    },
    /// The length of an open file.
    FileLen {
        /// Which file.
        file: FileId,
    },
    /// Closes a file.
    Close {
        /// Which file.
        file: FileId,
    },
    /// fsync of a directory: makes creations, renames and removals in it durable.
    SyncDir {
        /// Which directory.
        path: PathBuf,
    },
    /// Renames, replacing what is there.
    Rename {
        /// From.
        from: PathBuf,
        /// To.
        to: PathBuf,
    },
    /// Removes a file.
    Remove {
        /// Which file.
        path: PathBuf,
    },
    /// Creates a directory and its missing parents, and makes their names durable; no error when it is there.
    CreateDirAll {
        /// Which directory.
        path: PathBuf,
    },
    /// The names in a directory, sorted.
    List {
        /// Which directory.
        path: PathBuf,
    },
}

/// What a completed operation gives back.
#[derive(Debug)]
pub enum IoOutput {
    /// The opened file.
    File(FileId),
    /// The buffer of a read (filled) or a write (as it was given).
    Buffer(Buffer),
    /// The length of a file in bytes.
    Len(u64),
    /// The names in a directory, sorted, without `.` and `..`.
    Names(Vec<String>),
    /// Nothing but success.
    Done,
}

/// An operation that failed: what, on which file, and the operating system's reason.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cannot {action} \"{path}\": {reason}")]
pub struct IoError {
    /// The verb: `open`, `read`, `write`, `sync`, ...
    pub action: &'static str,
    /// Which file or directory.
    pub path: PathBuf,
    /// The kind, to decide what to do.
    pub kind: std::io::ErrorKind,
    /// The operating system's words, with errno where there is one.
    pub reason: String,
}

impl IoError {
    /// What the operating system answered to `action` on `path`.
    pub fn new(action: &'static str, path: impl Into<PathBuf>, error: &std::io::Error) -> Self {
        Self { action, path: path.into(), kind: error.kind(), reason: error.to_string() }
    }
}

impl IoOp {
    /// The verb that stands in the error of this operation.
    pub fn action(&self) -> &'static str {
        match self {
            Self::Open { .. } => "open",
            Self::Read { .. } => "read",
            Self::Write { .. } => "write",
            Self::Allocate { .. } => "allocate",
            Self::Truncate { .. } => "truncate",
            Self::SyncData { .. } => "sync",
            Self::FileLen { .. } => "measure",
            Self::Close { .. } => "close",
            Self::SyncDir { .. } => "sync directory",
            Self::Rename { .. } => "rename",
            Self::Remove { .. } => "remove",
            Self::CreateDirAll { .. } => "create directory",
            Self::List { .. } => "list",
        }
    }

    /// The open file this operation is about, if it is about one.
    pub fn file(&self) -> Option<FileId> {
        match self {
            Self::Read { file, .. }
            | Self::Write { file, .. }
            | Self::Allocate { file, .. }
            | Self::Truncate { file, .. }
            | Self::SyncData { file }
            | Self::FileLen { file }
            | Self::Close { file } => Some(*file),
            _ => None,
        }
    }

    /// The path this operation names, if it names one (the source of a rename).
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::Open { path, .. }
            | Self::SyncDir { path }
            | Self::Remove { path }
            | Self::CreateDirAll { path }
            | Self::List { path }
            | Self::Rename { from: path, .. } => Some(path),
            _ => None,
        }
    }
}

/// The disk as a step machine sees it. One `Io` belongs to one thread.
pub trait Io {
    /// Starts an operation; never blocks, never fails: failures are completions.
    fn submit(&mut self, op: IoOp) -> IoToken;

    /// The completion of `token`, once; `None` while it is under way.
    fn take(&mut self, token: IoToken) -> Option<Result<IoOutput, IoError>>;

    /// Gives up `token`: its completion is dropped when it comes, its buffer goes back, a file it opens is closed. For owners
    /// that go away (a cancelled checkpoint) while their operations are under way; those still take effect.
    ///
    /// As given here it drops what is already there: enough where every operation completes at once, as in test doubles.
    fn forget(&mut self, token: IoToken) {
        let _ = self.take(token);
    }

    /// How many operations are under way or queued. Those that completed and were not taken yet do not count.
    fn in_flight(&self) -> usize;

    /// Lets submitted operations make progress without waiting for any (a few microseconds at most).
    fn drive(&mut self);

    /// Waits until an operation completes, the slot's doorbell rings, or `at_most` is over. Returns early at any time, and at
    /// once when a completion is there that no earlier wait returned for. Announces at the doorbell and withdraws again, which
    /// empties it: the caller looks at all its inputs after every wait. With operations in flight the wait is as coarse as
    /// 1 ms and wakes every few milliseconds; without any it sleeps undisturbed.
    fn wait(&mut self, at_most: Duration);

    /// A handle on this `Io` that its owner may keep, where it has several owners; `None` where it has one.
    fn shared(&self) -> Option<SharedIo> {
        None
    }

    /// Runs one operation to its end, waiting for it: for start-up, restore and offline tools, and for a page of state that is
    /// needed now; else never in a run loop.
    fn complete(&mut self, op: IoOp) -> Result<IoOutput, IoError> {
        let token = self.submit(op);
        loop {
            self.drive();
            if let Some(result) = self.take(token) {
                return result;
            }
            self.wait(Duration::from_millis(10));
        }
    }
}
