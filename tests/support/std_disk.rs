//! A disk over std::fs for tests: every operation is carried out at once, by the operating system.
#![allow(clippy::disallowed_methods, reason = "the tests' way to the real file system")]

use millstream::io::{FileId, Io, IoError, IoOp, IoOutput, IoToken, OpenMode};
use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::Error;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// One view of the file system.
#[derive(Default)]
pub struct StdDisk {
    open: HashMap<FileId, (File, PathBuf)>,
    done: HashMap<IoToken, Result<IoOutput, IoError>>,
    next: u32,
}

impl StdDisk {
    fn run(&mut self, op: IoOp) -> Result<IoOutput, IoError> {
        let failed = |action, path: &Path| {
            let path = path.to_path_buf();
            move |e: Error| IoError { action, path, kind: e.kind(), reason: e.to_string() }
        };
        match op {
            IoOp::Open { path, mode, .. } => {
                let mut options = OpenOptions::new();
                match mode {
                    OpenMode::Read => options.read(true),
                    OpenMode::ReadWrite => options.read(true).write(true),
                    OpenMode::CreateNew => options.read(true).write(true).create_new(true),
                    OpenMode::Create => options.read(true).write(true).create(true).truncate(false),
                };
                let file = options.open(&path).map_err(failed("open", &path))?;
                self.next += 1;
                self.open.insert(FileId(self.next), (file, path));
                Ok(IoOutput::File(FileId(self.next)))
            }
            IoOp::Read { file, offset, len, mut into } => {
                let (file, path) = &self.open[&file];
                let mut read = 0;
                while read < len {
                    match file.read_at(&mut into.whole_mut()[read..len], offset + read as u64) {
                        Ok(0) => break,
                        Ok(more) => read += more,
                        Err(e) => return Err(failed("read", path)(e)),
                    }
                }
                into.set_len(read);
                Ok(IoOutput::Buffer(into))
            }
            IoOp::Write { file, offset, from } => {
                let (file, path) = &self.open[&file];
                file.write_all_at(from.filled(), offset).map_err(failed("write", path))?;
                Ok(IoOutput::Buffer(from))
            }
            IoOp::Allocate { .. } => Ok(IoOutput::Done),
            IoOp::Truncate { file, len_bytes } => {
                let (file, path) = &self.open[&file];
                file.set_len(len_bytes).map_err(failed("cut", path))?;
                Ok(IoOutput::Done)
            }
            IoOp::SyncData { file } => {
                let (file, path) = &self.open[&file];
                file.sync_data().map_err(failed("sync", path))?;
                Ok(IoOutput::Done)
            }
            IoOp::FileLen { file } => {
                let (file, path) = &self.open[&file];
                Ok(IoOutput::Len(file.metadata().map_err(failed("measure", path))?.len()))
            }
            IoOp::Close { file } => {
                self.open.remove(&file).expect("the file is open");
                Ok(IoOutput::Done)
            }
            IoOp::SyncDir { path } => {
                File::open(&path).and_then(|dir| dir.sync_all()).map_err(failed("sync", &path))?;
                Ok(IoOutput::Done)
            }
            IoOp::Rename { from, to } => {
                std::fs::rename(&from, &to).map_err(failed("rename", &from))?;
                Ok(IoOutput::Done)
            }
            IoOp::Remove { path } => {
                std::fs::remove_file(&path).map_err(failed("remove", &path))?;
                Ok(IoOutput::Done)
            }
            IoOp::CreateDirAll { path } => {
                std::fs::create_dir_all(&path).map_err(failed("create", &path))?;
                Ok(IoOutput::Done)
            }
            IoOp::List { path } => {
                let entries = std::fs::read_dir(&path).map_err(failed("list", &path))?;
                let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
                let mut names: Vec<_> = names.collect();
                names.sort();
                Ok(IoOutput::Names(names))
            }
        }
    }
}

impl Io for StdDisk {
    fn submit(&mut self, op: IoOp) -> IoToken {
        let result = self.run(op);
        self.next += 1;
        let token = IoToken(u64::from(self.next));
        self.done.insert(token, result);
        token
    }

    fn take(&mut self, token: IoToken) -> Option<Result<IoOutput, IoError>> {
        self.done.remove(&token)
    }

    fn in_flight(&self) -> usize {
        self.done.len()
    }

    fn drive(&mut self) {}

    fn wait(&mut self, _: Duration) {}
}
