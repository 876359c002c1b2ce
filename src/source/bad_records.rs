//! What happens to lines that are no records: they fail the job, or are counted, logged and kept elsewhere. Nothing vanishes.

use super::file_reader::{FilePosition, Line};
use super::parse_error::ParseError;
use super::reader::{ReadContext, SourceError};
use super::side_file::SideFile;
use crate::io::Io;
use std::path::PathBuf;

/// How many bad lines of a split are logged; all are counted.
const LOGGED_MAX: u32 = 5;

/// What to do with a line that is no record.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum OnBadRecord {
    /// The job fails, naming file, line and column.
    #[default]
    Fail,
    /// It is counted by reason, and the first five of a file are logged.
    Skip,
    /// As `Skip`, and the line goes to this file as JSON Lines `{"file","line","column","reason","text"}`. A source of several files
    /// writes one side file for each: `bad.jsonl` becomes `bad.cpu.jsonl` for `cpu.csv`.
    SideFile(PathBuf),
}

/// The policy at work on one split.
pub struct BadRecords {
    file: String,
    policy: Policy,
    logged: u32,
    /// The first bad line whose entry is not yet written.
    first_unwritten: Option<FilePosition>,
}

enum Policy {
    Fail,
    Skip,
    SideFile(SideFile),
}

impl BadRecords {
    /// The policy for the split `file`; its side file is `policy`'s path as it is.
    pub fn new(file: &str, policy: &OnBadRecord) -> Self {
        let policy = match policy {
            OnBadRecord::Fail => Policy::Fail,
            OnBadRecord::Skip => Policy::Skip,
            OnBadRecord::SideFile(path) => Policy::SideFile(SideFile::new(path.clone())),
        };
        Self { file: file.to_owned(), policy, logged: 0, first_unwritten: None }
    }

    /// Takes a bad line.
    pub fn take(&mut self, cx: &mut ReadContext<'_>, line: &Line<'_>, error: &ParseError) -> Result<(), SourceError> {
        let (number, column) = (line.number(), error.column);
        match &mut self.policy {
            Policy::Fail => {
                return Err(SourceError::BadInput {
                    place: format!("{}:{number}:{column}", self.file),
                    reason: error.to_string(),
                });
            }
            Policy::Skip => {}
            Policy::SideFile(side) => {
                side.push(&self.file, number, column, error.reason, line.text)?;
                if side.has_unwritten() {
                    self.first_unwritten.get_or_insert(line.at);
                }
            }
        }
        (cx.dropped)(error.reason);
        if self.logged < LOGGED_MAX {
            self.logged += 1;
            let rest = if self.logged == LOGGED_MAX { " (further ones are only counted)" } else { "" };
            tracing::warn!("bad record at {}:{number}:{column}: {error}{rest}", self.file);
        }
        Ok(())
    }

    /// Whether the source must not emit, and keep its position, until `poll` said that everything is written.
    pub fn has_unwritten(&self) -> bool {
        self.first_unwritten.is_some()
    }

    /// Whether no more bad lines should come before everything is written.
    pub fn is_full(&self) -> bool {
        matches!(&self.policy, Policy::SideFile(side) if side.is_full())
    }

    /// The position of the first line that is neither emitted nor safely put aside.
    pub fn first_unwritten(&self) -> Option<FilePosition> {
        self.first_unwritten
    }

    /// Goes on writing; `true` when everything is written.
    pub fn poll(&mut self, cx: &mut ReadContext<'_>) -> Result<bool, SourceError> {
        let is_written = match &mut self.policy {
            Policy::SideFile(side) => side.poll(cx)?,
            Policy::Fail | Policy::Skip => true,
        };
        if is_written {
            self.first_unwritten = None;
        }
        Ok(is_written)
    }

    /// Gives up the side file.
    pub fn close(&mut self, io: &mut dyn Io) {
        if let Policy::SideFile(side) = &mut self.policy {
            side.close(io);
        }
    }
}
