//! The files one `Io` holds open, by their `FileId`.
//!
//! Invariant: an id is never given twice, so an operation on a closed file fails and never hits another one.

use super::{FileId, IoError, IoOp};
use std::collections::BTreeMap;
use std::io::{Error, ErrorKind};

/// The open files of one `Io`; `T` is what its driver keeps for each.
#[derive(Debug)]
pub(super) struct OpenFiles<T> {
    next: u32,
    open: BTreeMap<FileId, T>,
}

impl<T> Default for OpenFiles<T> {
    fn default() -> Self {
        Self { next: 0, open: BTreeMap::new() }
    }
}

impl<T> OpenFiles<T> {
    pub(super) fn insert(&mut self, file: T) -> FileId {
        let id = FileId(self.next);
        self.next += 1;
        self.open.insert(id, file);
        id
    }

    pub(super) fn get(&self, id: FileId, action: &'static str) -> Result<&T, IoError> {
        self.open.get(&id).ok_or_else(|| not_open(id, action))
    }

    pub(super) fn remove(&mut self, id: FileId, action: &'static str) -> Result<T, IoError> {
        self.open.remove(&id).ok_or_else(|| not_open(id, action))
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &T> {
        self.open.values()
    }

    pub(super) fn clear(&mut self) {
        self.open.clear();
    }
}

fn not_open(id: FileId, action: &'static str) -> IoError {
    let error = Error::new(ErrorKind::InvalidInput, "the file was closed or belongs to another Io");
    IoError::new(action, format!("file {}", id.0), &error)
}

/// Refuses a read that does not fit its buffer, before a driver trusts its length.
pub(super) fn check_fits(op: &IoOp) -> Result<(), IoError> {
    match op {
        IoOp::Read { file, len, into, .. } if *len > into.capacity() => {
            let reason = format!("{len} bytes were asked for, the buffer holds {}", into.capacity());
            Err(IoError::new("read", format!("file {}", file.0), &Error::new(ErrorKind::InvalidInput, reason)))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_id_of_a_closed_file_is_not_given_again() {
        let mut files = OpenFiles::default();
        let first = files.insert(());
        assert!(files.remove(first, "close").is_ok());
        assert_ne!(files.insert(()), first);
        assert!(files.get(first, "read").is_err());
    }
}
