//! The operations as plain blocking system calls: what the helper thread runs, and what tokio-uring has no operation for.
//!
//! Not here: which thread runs them (`blocking`), and the ring (`uring_op`).

use super::open_files::{OpenFiles, check_fits};
use super::transfer::Transfer;
use super::{IoError, IoOp, IoOutput, OpenMode};
use crate::memory::Buffer;
use rustix::fs::{FallocateFlags, OFlags};
use std::fs::{File, OpenOptions};
use std::io::{Error, ErrorKind};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// New files are read by everybody and written by their owner (less what the umask takes away).
pub(super) const FILE_PERMISSIONS: u32 = 0o644;

/// The open files of a thread that may block.
#[derive(Debug, Default)]
pub(super) struct PosixFiles {
    files: OpenFiles<PosixFile>,
}

#[derive(Debug)]
struct PosixFile {
    file: File,
    path: PathBuf,
    direct: bool,
}

impl PosixFiles {
    /// Runs one operation to its end.
    pub(super) fn run(&mut self, op: IoOp) -> Result<IoOutput, IoError> {
        check_fits(&op)?;
        let action = op.action();
        match op {
            IoOp::Open { path, mode, direct } => self.open(path, mode, direct),
            IoOp::Read { file, offset, len, into } => {
                let file = self.files.get(file, action)?;
                file.read_full(into, len, offset).map_err(|error| IoError::new(action, &file.path, &error))
            }
            IoOp::Write { file, offset, from } => {
                let file = self.files.get(file, action)?;
                file.write_full(from, offset).map_err(|error| IoError::new(action, &file.path, &error))
            }
            IoOp::Allocate { file, len_bytes } => self.with(file, action, |file| allocate(file, len_bytes)),
            IoOp::Truncate { file, len_bytes } => self.with(file, action, |file| truncate(file, len_bytes)),
            IoOp::SyncData { file } => self.with(file, action, |file| Ok(rustix::fs::fdatasync(file)?)),
            IoOp::FileLen { file } => {
                let file = self.files.get(file, action)?;
                let len = file_len(&file.file).map_err(|error| IoError::new(action, &file.path, &error))?;
                Ok(IoOutput::Len(len))
            }
            IoOp::Close { file } => self.files.remove(file, action).map(|_| IoOutput::Done),
            IoOp::SyncDir { path } => named(action, &path, sync_dir),
            IoOp::Rename { from, to } => named(action, &from, |from| Ok(rustix::fs::rename(from, &to)?)),
            IoOp::Remove { path } => named(action, &path, |path| Ok(rustix::fs::unlink(path)?)),
            IoOp::CreateDirAll { path } => create_dir_all(&path),
            IoOp::List { path } => list(&path),
        }
    }

    fn open(&mut self, path: PathBuf, mode: OpenMode, direct: bool) -> Result<IoOutput, IoError> {
        let opened = open_file(&path, mode, direct).map_err(|error| IoError::new("open", &path, &error))?;
        let (file, direct) = opened;
        Ok(IoOutput::File(self.files.insert(PosixFile { file, path, direct })))
    }

    fn with(
        &self,
        file: super::FileId,
        action: &'static str,
        run: impl FnOnce(&File) -> std::io::Result<()>,
    ) -> Result<IoOutput, IoError> {
        let file = self.files.get(file, action)?;
        run(&file.file).map(|()| IoOutput::Done).map_err(|error| IoError::new(action, &file.path, &error))
    }
}

impl PosixFile {
    fn read_full(&self, mut into: Buffer, len: usize, offset: u64) -> std::io::Result<IoOutput> {
        let mut transfer = Transfer::new(len, self.direct);
        while let Some(range) = transfer.remaining() {
            match self.file.read_at(&mut into.whole_mut()[range], offset + transfer.done() as u64) {
                Ok(0) => break,
                Ok(read) => transfer.read(read, || Ok(file_len(&self.file)?.saturating_sub(offset)))?,
                Err(error) => transfer.failed(error)?,
            }
        }
        into.set_len(transfer.done());
        Ok(IoOutput::Buffer(into))
    }

    fn write_full(&self, from: Buffer, offset: u64) -> std::io::Result<IoOutput> {
        let mut transfer = Transfer::new(from.len(), self.direct);
        while let Some(range) = transfer.remaining() {
            match self.file.write_at(&from.filled()[range], offset + transfer.done() as u64) {
                Ok(written) => transfer.wrote(written)?,
                Err(error) => transfer.failed(error)?,
            }
        }
        Ok(IoOutput::Buffer(from))
    }
}

fn named(
    action: &'static str,
    path: &Path,
    run: impl FnOnce(&Path) -> std::io::Result<()>,
) -> Result<IoOutput, IoError> {
    run(path).map(|()| IoOutput::Done).map_err(|error| IoError::new(action, path, &error))
}

/// Opens a file, and says whether it bypasses the page cache.
///
/// O_DIRECT is set on the open descriptor: passed to open(2), a file system that refuses it has already created the file.
#[allow(clippy::disallowed_methods, reason = "this file is where paths become files")]
fn open_file(path: &Path, mode: OpenMode, direct: bool) -> std::io::Result<(File, bool)> {
    let mut options = OpenOptions::new();
    options.read(true).mode(FILE_PERMISSIONS);
    match mode {
        OpenMode::Read => {}
        OpenMode::ReadWrite => {
            options.write(true);
        }
        OpenMode::CreateNew => {
            options.write(true).create_new(true);
        }
        OpenMode::Create => {
            options.write(true).create(true).truncate(false);
        }
    }
    let file = options.open(path)?;
    let direct = direct && set_direct(&file).is_ok();
    Ok((file, direct))
}

/// Makes an open file bypass the page cache; EINVAL where the file system does not offer it.
pub(super) fn set_direct(file: impl AsFd) -> std::io::Result<()> {
    let flags = rustix::fs::fcntl_getfl(&file)?;
    Ok(rustix::fs::fcntl_setfl(&file, flags | OFlags::DIRECT)?)
}

/// Gives a file at least `len_bytes` of allocated space; never makes it shorter.
fn allocate(file: &File, len_bytes: u64) -> std::io::Result<()> {
    match rustix::fs::fallocate(file, FallocateFlags::empty(), 0, len_bytes) {
        Err(rustix::io::Errno::OPNOTSUPP) => extend(file, len_bytes),
        other => Ok(other?),
    }
}

/// Extends a file that is shorter, on file systems that cannot allocate.
pub(super) fn extend(file: impl AsFd, len_bytes: u64) -> std::io::Result<()> {
    if file_len(&file)? < len_bytes { truncate(&file, len_bytes) } else { Ok(()) }
}

pub(super) fn truncate(file: impl AsFd, len_bytes: u64) -> std::io::Result<()> {
    Ok(rustix::fs::ftruncate(file, len_bytes)?)
}

pub(super) fn file_len(file: impl AsFd) -> std::io::Result<u64> {
    Ok(rustix::fs::fstat(file)?.st_size as u64)
}

#[allow(clippy::disallowed_methods, reason = "this file is where paths become files")]
fn sync_dir(path: &Path) -> std::io::Result<()> {
    File::open(path)?.sync_all()
}

#[allow(clippy::disallowed_methods, reason = "this file is where paths become files")]
pub(super) fn create_dir_all(path: &Path) -> Result<IoOutput, IoError> {
    named("create directory", path, |path| {
        let above: Vec<_> = path.ancestors().skip(1).map(or_here).collect();
        let made = above.iter().position(|dir| dir.exists()).unwrap_or(above.len());
        let is_new = !path.exists();
        std::fs::create_dir_all(path)?;
        for (place, dir) in above.iter().enumerate() {
            let holds_new = is_new && place <= made;
            match sync_dir(dir) {
                Err(error) if holds_new => return Err(error),
                // A directory that was there may be closed to us. Where it is not, an earlier process may have died before this.
                _ => {}
            }
        }
        Ok(())
    })
}

/// The parent of a relative path of one name is the working directory.
fn or_here(dir: &Path) -> &Path {
    if dir.as_os_str().is_empty() { Path::new(".") } else { dir }
}

#[allow(clippy::disallowed_methods, reason = "this file is where paths become files")]
pub(super) fn list(path: &Path) -> Result<IoOutput, IoError> {
    let read = || -> std::io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(path)? {
            let name = entry?.file_name().into_string().map_err(|name| {
                Error::new(ErrorKind::InvalidData, format!("the name {name:?} is not UTF-8: rename or remove it"))
            })?;
            names.push(name);
        }
        names.sort_unstable();
        Ok(names)
    };
    read().map(IoOutput::Names).map_err(|error| IoError::new("list", path, &error))
}
