//! A part: one hidden file of a transaction on its way to the disk: created with its first record, written, synced, closed.
//!
//! Here: the file and its buffers. Not here: which records are in it, its names, when it becomes visible (`file_transaction`).
//!
//! Invariant: a part is synced only after every byte was written and fdatasync succeeded; after any failure it never is.

use crate::io::{FileId, Io, IoError, IoOp, IoOutput, IoToken, OpenMode};
use crate::memory::{Arena, Buffer, MemoryError};
use std::collections::VecDeque;
use std::path::PathBuf;

/// How much is written at once.
pub(super) const BUFFER_LEN_BYTES: usize = 64 << 10;

/// One hidden file being written; a step machine.
pub(super) struct Part {
    state: State,
    /// Where the next buffer goes.
    end: u64,
    /// Full buffers, oldest first.
    full: VecDeque<Buffer>,
    /// The buffer being filled.
    filling: Option<Buffer>,
    spare: Option<Buffer>,
    /// Nothing more comes: write the rest, sync, close.
    is_closed: bool,
}

/// What is being done with the file.
enum State {
    /// It does not exist yet.
    Absent(PathBuf),
    /// It is being created.
    Creating(IoToken),
    /// Nothing is under way.
    Open(FileId),
    /// A buffer is being written.
    Writing(FileId, IoToken),
    /// Everything was written and is being synced.
    Syncing(FileId, IoToken),
    /// It is synced and being closed.
    Closing(IoToken),
    /// It is synced and closed.
    Finished,
    /// Something failed: the file is never touched again, only closed.
    Condemned(Option<FileId>),
}

impl Part {
    /// A part that will be created at `path`, which must not exist.
    pub fn new(path: PathBuf) -> Self {
        Self { state: State::Absent(path), end: 0, full: VecDeque::new(), filling: None, spare: None, is_closed: false }
    }

    /// Appends bytes; they may be spread over several writes.
    pub fn append(&mut self, arena: &Arena, mut bytes: &[u8]) -> Result<(), MemoryError> {
        while !bytes.is_empty() {
            let filling = match &mut self.filling {
                Some(filling) => filling,
                None => {
                    let mut fresh = match self.spare.take() {
                        Some(spare) => spare,
                        None => Buffer::take(arena, "a file sink's buffer", BUFFER_LEN_BYTES)?,
                    };
                    fresh.clear();
                    self.filling.insert(fresh)
                }
            };
            let (now, later) = bytes.split_at(bytes.len().min(BUFFER_LEN_BYTES - filling.len()));
            let fits = filling.append(now);
            assert!(fits, "split to what fits");
            if filling.len() == BUFFER_LEN_BYTES {
                self.full.extend(self.filling.take());
            }
            bytes = later;
        }
        Ok(())
    }

    /// Says that nothing more comes.
    pub fn finish(&mut self) {
        self.full.extend(self.filling.take());
        self.spare = None;
        self.is_closed = true;
    }

    /// Full buffers not yet written.
    pub fn pending_buffers(&self) -> usize {
        self.full.len()
    }

    /// Whether the file exists, so that syncing its directory makes its name durable.
    pub fn is_created(&self) -> bool {
        !matches!(self.state, State::Absent(_) | State::Creating(_) | State::Condemned(_))
    }

    /// Whether the contents are durable.
    pub fn is_synced(&self) -> bool {
        matches!(self.state, State::Closing(_) | State::Finished)
    }

    /// Whether the contents are durable and the file is closed.
    pub fn is_finished(&self) -> bool {
        matches!(self.state, State::Finished)
    }

    /// Does what can be done; `true` when something happened.
    pub fn poll(&mut self, io: &mut dyn Io) -> Result<bool, IoError> {
        let mut worked = false;
        while self.step(io)? {
            worked = true;
        }
        Ok(worked)
    }

    fn step(&mut self, io: &mut dyn Io) -> Result<bool, IoError> {
        match &mut self.state {
            State::Absent(path) => {
                let op = IoOp::Open { path: std::mem::take(path), mode: OpenMode::CreateNew, direct: false };
                self.state = State::Creating(io.submit(op));
            }
            State::Creating(token) => {
                let Some(result) = io.take(*token) else { return Ok(false) };
                self.state = State::Condemned(None);
                let IoOutput::File(file) = result? else { unreachable!("asked for a file") };
                self.state = State::Open(file);
            }
            State::Open(file) => {
                let file = *file;
                match self.full.pop_front() {
                    Some(from) => {
                        let offset = self.end;
                        self.end += from.len() as u64;
                        self.state = State::Writing(file, io.submit(IoOp::Write { file, offset, from }));
                    }
                    None if self.is_closed => self.state = State::Syncing(file, io.submit(IoOp::SyncData { file })),
                    None => return Ok(false),
                }
            }
            State::Writing(file, token) => {
                let Some(result) = io.take(*token) else { return Ok(false) };
                let file = *file;
                self.state = State::Condemned(Some(file));
                if let IoOutput::Buffer(written) = result?
                    && !self.is_closed
                {
                    self.spare = Some(written);
                }
                self.state = State::Open(file);
            }
            State::Syncing(file, token) => {
                let Some(result) = io.take(*token) else { return Ok(false) };
                let file = *file;
                self.state = State::Condemned(Some(file));
                result?;
                self.state = State::Closing(io.submit(IoOp::Close { file }));
            }
            State::Closing(token) => {
                let Some(result) = io.take(*token) else { return Ok(false) };
                self.state = State::Condemned(None);
                result?;
                self.state = State::Finished;
            }
            State::Finished | State::Condemned(_) => return Ok(false),
        }
        Ok(true)
    }

    /// Gives the file up as it is.
    pub fn close(&mut self, io: &mut dyn Io) {
        let file = match std::mem::replace(&mut self.state, State::Condemned(None)) {
            State::Creating(token) => match settle(io, token) {
                Some(Ok(IoOutput::File(file))) => Some(file),
                _ => None,
            },
            State::Open(file) => Some(file),
            State::Writing(file, token) | State::Syncing(file, token) => {
                settle(io, token);
                Some(file)
            }
            State::Condemned(file) => file,
            State::Closing(token) => {
                settle(io, token);
                None
            }
            State::Absent(_) | State::Finished => None,
        };
        if let Some(file) = file {
            let token = io.submit(IoOp::Close { file });
            settle(io, token);
        }
    }
}

/// How often an operation under way is waited for, 10 ms each, before it is given up.
const SETTLE_WAITS_MAX: u32 = 100;

/// The completion of `token`, waited for (a second at most).
pub(super) fn settle(io: &mut dyn Io, token: IoToken) -> Option<Result<IoOutput, IoError>> {
    for _ in 0..SETTLE_WAITS_MAX {
        io.drive();
        if let Some(result) = io.take(token) {
            return Some(result);
        }
        io.wait(std::time::Duration::from_millis(10));
    }
    None
}
