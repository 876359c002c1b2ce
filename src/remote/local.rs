//! The local ends of a copy: reading ranges of extents, and writing those of a directory that is being fetched.
//!
//! Runs on the copies' own thread, or before a job starts: these files are reached directly, because no `Io` belongs to that thread,
//! and the extents that are read do not change.

use super::error::RemoteError;
use std::fs::{DirBuilder, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

/// The bytes of a range.
#[allow(clippy::disallowed_methods, reason = "a thread without an `Io`, see above")]
pub(super) fn read_range(path: &Path, offset: u64, len: usize) -> Result<Vec<u8>, RemoteError> {
    let failed = |action| {
        move |error: std::io::Error| RemoteError::File { action, path: path.to_owned(), reason: error.to_string() }
    };
    let file = File::open(path).map_err(failed("open"))?;
    let mut bytes = vec![0; len];
    file.read_exact_at(&mut bytes, offset).map_err(failed("read"))?;
    Ok(bytes)
}

/// A directory that is there and empty.
#[allow(clippy::disallowed_methods, reason = "runs before a job starts, see above")]
pub(super) fn empty_directory(dir: &Path) -> Result<(), RemoteError> {
    let failed = |action| {
        move |error: std::io::Error| RemoteError::File { action, path: dir.to_owned(), reason: error.to_string() }
    };
    DirBuilder::new().recursive(true).create(dir).map_err(failed("create"))?;
    let mut entries = std::fs::read_dir(dir).map_err(failed("list"))?;
    if entries.next().is_some() {
        return Err(RemoteError::Occupied { dir: dir.to_owned() });
    }
    Ok(())
}

/// A file being fetched.
pub(super) struct NewFile<'a> {
    path: &'a Path,
    file: File,
}

impl<'a> NewFile<'a> {
    #[allow(clippy::disallowed_methods, reason = "runs before a job starts, see above")]
    pub(super) fn create(path: &'a Path) -> Result<Self, RemoteError> {
        let file = File::options().write(true).create_new(true).open(path).map_err(|error| RemoteError::File {
            action: "create",
            path: path.to_owned(),
            reason: error.to_string(),
        })?;
        Ok(Self { path, file })
    }

    pub(super) fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), RemoteError> {
        self.file.write_all_at(bytes, offset).map_err(|error| self.failed("write", &error))
    }

    /// Everything is on the disk.
    pub(super) fn finish(self) -> Result<(), RemoteError> {
        self.file.sync_all().map_err(|error| self.failed("flush", &error))
    }

    fn failed(&self, action: &'static str, error: &std::io::Error) -> RemoteError {
        RemoteError::File { action, path: self.path.to_owned(), reason: error.to_string() }
    }
}
