//! One operation over the ring, from its start to its result.
//!
//! Here: which operation goes through io_uring and which is a plain call. Not here: when the ring is driven (`uring`).
//!
//! Data, flushes, opening, closing, renaming and removing are ring operations, because each may wait for the disk. Listing a directory,
//! creating one and truncating have no (sound) operation in tokio-uring 0.5: they are plain calls inside the task, since they
//! happen when a job starts or restores. fstat never leaves memory. tokio-uring's `write_all_at` and `writev_at_all` are avoided:
//! the first fails on EINTR, the second panics on a short write.

use super::open_files::{OpenFiles, check_fits};
use super::owned_buf::{OwnedBuf, descriptor};
use super::transfer::Transfer;
use super::{FileId, IoError, IoOp, IoOutput, OpenMode, posix};
use crate::memory::Buffer;
use std::cell::RefCell;
use std::io::{Error, ErrorKind};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use tokio_uring::buf::BoundedBuf;
use tokio_uring::fs::File;

/// The files of one ring.
pub(super) type RingFiles = RefCell<OpenFiles<Rc<RingFile>>>;

/// An open file. Operations under way share it, so that closing waits for them.
pub(super) struct RingFile {
    file: File,
    path: PathBuf,
    direct: bool,
}

/// Runs one operation to its end. Must be polled inside the ring's runtime.
pub(super) async fn run(files: &RingFiles, op: IoOp) -> Result<IoOutput, IoError> {
    check_fits(&op)?;
    let action = op.action();
    match op {
        IoOp::Open { path, mode, direct } => open(files, path, mode, direct).await,
        IoOp::Read { file, offset, len, into } => {
            let file = get(files, file, action)?;
            read_full(&file, into, len, offset).await.map_err(|error| IoError::new(action, &file.path, &error))
        }
        IoOp::Write { file, offset, from } => {
            let file = get(files, file, action)?;
            write_full(&file, from, offset).await.map_err(|error| IoError::new(action, &file.path, &error))
        }
        IoOp::Allocate { file, len_bytes } => {
            let file = get(files, file, action)?;
            done(action, &file.path, allocate(&file, len_bytes).await)
        }
        IoOp::Truncate { file, len_bytes } => {
            let file = get(files, file, action)?;
            done(action, &file.path, posix::truncate(descriptor(&file.file), len_bytes))
        }
        IoOp::SyncData { file } => {
            let file = get(files, file, action)?;
            done(action, &file.path, file.file.sync_data().await)
        }
        IoOp::FileLen { file } => {
            let file = get(files, file, action)?;
            let len = posix::file_len(descriptor(&file.file));
            len.map(IoOutput::Len).map_err(|error| IoError::new(action, &file.path, &error))
        }
        IoOp::Close { file } => {
            let file = files.borrow_mut().remove(file, action)?;
            close(file).await
        }
        IoOp::SyncDir { path } => done(action, &path, sync_dir(&path).await),
        IoOp::Rename { from, to } => {
            done(action, &from, retry(async || tokio_uring::fs::rename(&from, &to).await).await)
        }
        IoOp::Remove { path } => done(action, &path, retry(async || tokio_uring::fs::remove_file(&path).await).await),
        IoOp::CreateDirAll { path } => posix::create_dir_all(&path),
        IoOp::List { path } => posix::list(&path),
    }
}

fn get(files: &RingFiles, file: FileId, action: &'static str) -> Result<Rc<RingFile>, IoError> {
    files.borrow().get(file, action).cloned()
}

fn done(action: &'static str, path: &Path, result: std::io::Result<()>) -> Result<IoOutput, IoError> {
    result.map(|()| IoOutput::Done).map_err(|error| IoError::new(action, path, &error))
}

/// Repeats an operation that may be repeated while it is interrupted. Never for a flush: its error is told once only.
async fn retry<T>(mut attempt: impl AsyncFnMut() -> std::io::Result<T>) -> std::io::Result<T> {
    let mut attempts = Transfer::new(0, false);
    loop {
        match attempt().await {
            Err(error) => attempts.failed(error)?,
            success => return success,
        }
    }
}

async fn open(files: &RingFiles, path: PathBuf, mode: OpenMode, direct: bool) -> Result<IoOutput, IoError> {
    let mut options = tokio_uring::fs::OpenOptions::new();
    options.read(true).write(mode != OpenMode::Read).mode(posix::FILE_PERMISSIONS);
    options.create(mode == OpenMode::Create).create_new(mode == OpenMode::CreateNew);
    let opened = retry(async || options.open(&path).await).await;
    let file = opened.map_err(|error| IoError::new("open", &path, &error))?;
    // Set afterwards: given O_DIRECT at once, a file system that refuses it has already created the file.
    let direct = direct && posix::set_direct(descriptor(&file)).is_ok();
    Ok(IoOutput::File(files.borrow_mut().insert(Rc::new(RingFile { file, path, direct }))))
}

async fn close(file: Rc<RingFile>) -> Result<IoOutput, IoError> {
    match Rc::try_unwrap(file) {
        Ok(RingFile { file, path, .. }) => done("close", &path, file.close().await),
        // Operations on it are under way; the last of them closes it.
        Err(_) => Ok(IoOutput::Done),
    }
}

async fn read_full(file: &RingFile, into: Buffer, len: usize, offset: u64) -> std::io::Result<IoOutput> {
    let mut transfer = Transfer::new(len, file.direct);
    let mut owned = OwnedBuf(into);
    while let Some(range) = transfer.remaining() {
        let (result, slice) = file.file.read_at(owned.slice(range), offset + transfer.done() as u64).await;
        owned = slice.into_inner();
        match result {
            Ok(0) => break,
            Ok(read) => {
                transfer.read(read, || Ok(posix::file_len(descriptor(&file.file))?.saturating_sub(offset)))?;
            }
            Err(error) => transfer.failed(error)?,
        }
    }
    let mut buffer = owned.0;
    buffer.set_len(transfer.done());
    Ok(IoOutput::Buffer(buffer))
}

async fn write_full(file: &RingFile, from: Buffer, offset: u64) -> std::io::Result<IoOutput> {
    let mut transfer = Transfer::new(from.len(), file.direct);
    let mut owned = OwnedBuf(from);
    while let Some(range) = transfer.remaining() {
        let write = file.file.write_at(owned.slice(range), offset + transfer.done() as u64);
        let (result, slice) = write.submit().await;
        owned = slice.into_inner();
        match result {
            Ok(written) => transfer.wrote(written)?,
            Err(error) => transfer.failed(error)?,
        }
    }
    Ok(IoOutput::Buffer(owned.0))
}

async fn allocate(file: &RingFile, len_bytes: u64) -> std::io::Result<()> {
    match retry(async || file.file.fallocate(0, len_bytes, 0).await).await {
        Err(error) if error.kind() == ErrorKind::Unsupported || is_not_supported(&error) => {
            posix::extend(descriptor(&file.file), len_bytes)
        }
        other => other,
    }
}

fn is_not_supported(error: &Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::OPNOTSUPP.raw_os_error())
}

async fn sync_dir(path: &Path) -> std::io::Result<()> {
    let dir = retry(async || File::open(path).await).await?;
    let synced = dir.sync_all().await;
    // Nothing was written through this descriptor: closing it cannot lose anything.
    let _ = dir.close().await;
    synced
}
