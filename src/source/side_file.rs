//! The side file: where lines that are no records go, as JSON Lines `{"file","line","column","reason","text"}`.
//!
//! Here: opening it on the first bad line, looking through what it already holds, appending. Not here: whether to (`bad_records`).
//!
//! Each split has its own side file, so that nobody else appends to it. After a restart some bad lines are met again: an entry
//! that the file already holds is not written a second time. An entry cut short by a crash is cut off and written again.
//! The source goes on behind a bad line only when its entry is written: the death of the process loses none. (It is not synced:
//! the death of the machine may lose the entries of the last seconds.)

use super::file_reader::{FilePosition, LineReader, LineStep, settle};
use super::reader::{ReadContext, SourceError};
use crate::io::{FileId, Io, IoOp, IoOutput, IoToken, OpenMode};
use crate::memory::Buffer;
use std::collections::HashSet;
use std::hash::BuildHasher;
use std::path::PathBuf;

/// How much is written at once.
const WRITE_LEN_BYTES: usize = 64 << 10;
/// From how many waiting bytes on the source must wait for the file.
const WAITING_BYTES_MAX: usize = 256 << 10;
/// Longer entries of an earlier run are not recognised (and written again).
const ENTRY_LEN_BYTES_MAX: usize = 8 << 20;

/// One split's side file; a step machine.
pub struct SideFile {
    path: PathBuf,
    state: State,
    /// Whole entries, each with its line end, not yet handed to `Io`.
    waiting: Vec<u8>,
    /// Hashes of the entries that were there at the start.
    known: HashSet<u64>,
}

/// What is being done with the file.
enum State {
    /// Nothing: there was no bad line yet.
    Untouched,
    /// Its directory is being created.
    CreatingDirectory(IoToken),
    /// It is being opened or created.
    Opening(IoToken),
    /// What it holds is being looked through.
    Scanning(FileId, Box<LineReader>),
    /// A torn last entry is being cut off.
    Cutting(FileId, u64, IoToken),
    /// Ready to append at this offset.
    Ready(FileId, u64),
    /// Appending; then the file ends at this offset.
    Writing(FileId, u64, IoToken),
}

/// An entry, in the order in which its fields are written.
#[derive(serde::Serialize)]
struct Entry<'a> {
    file: &'a str,
    line: u64,
    column: usize,
    reason: &'a str,
    text: std::borrow::Cow<'a, str>,
}

impl SideFile {
    /// A side file that is created with its first entry.
    pub fn new(path: PathBuf) -> Self {
        Self { path, state: State::Untouched, waiting: Vec::new(), known: HashSet::new() }
    }

    /// Takes an entry; `poll` writes it.
    pub fn push(&mut self, file: &str, line: u64, column: usize, reason: &str, text: &[u8]) -> Result<(), SourceError> {
        let start = self.waiting.len();
        let entry = Entry { file, line, column, reason, text: String::from_utf8_lossy(text) };
        serde_json::to_writer(&mut self.waiting, &entry).map_err(|e| SourceError::BadInput {
            place: format!("{file}:{line}:{column}"),
            reason: format!("cannot be written to the side file \"{}\": {e}", self.path.display()),
        })?;
        self.waiting.push(b'\n');
        if self.known.contains(&hash(&self.waiting[start..self.waiting.len() - 1])) {
            self.waiting.truncate(start);
        }
        Ok(())
    }

    /// Whether entries are not yet written.
    pub fn has_unwritten(&self) -> bool {
        !self.waiting.is_empty() || matches!(self.state, State::Writing(..))
    }

    /// Whether `poll` must get all entries written before more come.
    pub fn is_full(&self) -> bool {
        self.waiting.len() >= WAITING_BYTES_MAX
    }

    /// Goes on writing; `true` when everything is written.
    pub fn poll(&mut self, cx: &mut ReadContext<'_>) -> Result<bool, SourceError> {
        while self.has_unwritten() {
            if !self.step(cx)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Closes the file.
    pub fn close(&mut self, io: &mut dyn Io) {
        let file = match std::mem::replace(&mut self.state, State::Untouched) {
            State::Untouched => return,
            State::CreatingDirectory(token) => {
                settle(io, token);
                return;
            }
            State::Opening(token) => match settle(io, token) {
                Some(Ok(IoOutput::File(file))) => file,
                _ => return,
            },
            State::Scanning(file, mut lines) => {
                lines.close(io);
                file
            }
            State::Cutting(file, _, token) | State::Writing(file, _, token) => {
                settle(io, token);
                file
            }
            State::Ready(file, _) => file,
        };
        let token = io.submit(IoOp::Close { file });
        settle(io, token);
    }

    /// Does the next thing; `false` when it must wait for `Io`.
    fn step(&mut self, cx: &mut ReadContext<'_>) -> Result<bool, SourceError> {
        match &mut self.state {
            State::Untouched => {
                let parent = self.path.parent().filter(|parent| !parent.as_os_str().is_empty());
                self.state = match parent {
                    Some(parent) => {
                        State::CreatingDirectory(cx.io.submit(IoOp::CreateDirAll { path: parent.to_path_buf() }))
                    }
                    None => State::Opening(cx.io.submit(self.open_op())),
                };
            }
            State::CreatingDirectory(token) => {
                let Some(result) = cx.io.take(*token) else { return Ok(false) };
                self.state = State::Untouched;
                result?;
                self.state = State::Opening(cx.io.submit(self.open_op()));
            }
            State::Opening(token) => {
                let Some(result) = cx.io.take(*token) else { return Ok(false) };
                self.state = State::Untouched;
                let IoOutput::File(file) = result? else { unreachable!("asked for a file") };
                // Followed, so that an entry without its end is not taken for an entry.
                let lines = LineReader::new(&self.path, FilePosition::default(), true, ENTRY_LEN_BYTES_MAX);
                self.state = State::Scanning(file, Box::new(lines));
            }
            State::Scanning(file, lines) => {
                let is_paused = match lines.next(cx)? {
                    LineStep::Line(line) => {
                        self.known.insert(hash(line.text));
                        return Ok(true);
                    }
                    LineStep::Pending => true,
                    LineStep::Ended => false,
                };
                if is_paused && !lines.is_resting() {
                    return Ok(false);
                }
                let (file, end) = (*file, lines.position().offset);
                let cut = IoOp::Truncate { file, len_bytes: end };
                self.state = State::Cutting(file, end, cx.io.submit(cut));
            }
            State::Cutting(file, end, token) => {
                let Some(result) = cx.io.take(*token) else { return Ok(false) };
                self.state = State::Ready(*file, *end);
                result?;
                self.drop_known();
            }
            State::Ready(file, end) => {
                let mut from = Buffer::take(cx.arena, "a side file's write", WRITE_LEN_BYTES)?;
                let len = self.waiting.len().min(WRITE_LEN_BYTES);
                let fits = from.append(&self.waiting[..len]);
                assert!(fits, "the buffer was taken for this many bytes");
                self.waiting.drain(..len);
                let token = cx.io.submit(IoOp::Write { file: *file, offset: *end, from });
                self.state = State::Writing(*file, *end + len as u64, token);
            }
            State::Writing(file, end, token) => {
                let Some(result) = cx.io.take(*token) else { return Ok(false) };
                self.state = State::Ready(*file, *end);
                result?;
            }
        }
        Ok(true)
    }

    fn open_op(&self) -> IoOp {
        IoOp::Open { path: self.path.clone(), mode: OpenMode::Create, direct: false }
    }

    /// Drops waiting entries that the file already held; later ones are dropped as they come.
    fn drop_known(&mut self) {
        let waiting = std::mem::take(&mut self.waiting);
        for entry in waiting.split_inclusive(|&byte| byte == b'\n') {
            let text = entry.strip_suffix(b"\n").unwrap_or(entry);
            if !self.known.contains(&hash(text)) {
                self.waiting.extend_from_slice(entry);
            }
        }
    }
}

fn hash(entry: &[u8]) -> u64 {
    foldhash::quality::FixedState::with_seed(0).hash_one(entry)
}
