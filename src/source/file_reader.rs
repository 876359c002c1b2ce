//! Reads the lines of a file through `Io`: 64 KiB at a time, one read ahead, with the byte offset and number of every line.
//!
//! Here: opening, measuring, reading, cutting into lines, following a growing file. Not here: what a line means (`file_source`).
//!
//! Lines end with `\n` or `\r\n`; a byte order mark before the first is skipped. A last line without an end is a line, unless the
//! file is followed: there it may still be growing and waits for its end.
//!
//! Following: at the end the file is closed, and opened by its path again every 100 ms, exactly as after a restart. A file that
//! became shorter, or has no line end where a line ended before, was cut or rotated: that is an error (`SourceError::Replaced`),
//! because what was written to it in between may be lost. A rotated file that is already longer again and happens to fit is not noticed.
//!
//! Invariant: the position is the start of the first line that was not given out; it moves only when a line is given out.

use super::reader::{ReadContext, SourceError};
use crate::io::{FileId, Io, IoError, IoOp, IoOutput, IoToken, OpenMode};
use crate::memory::Buffer;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How much is read at once: two of these are the memory of one split.
const CHUNK_LEN_BYTES: usize = 64 << 10;
/// How often a followed file is looked at.
const FOLLOW_INTERVAL_NS: u64 = 100_000_000;
/// How often `close` waits 10 ms for an operation under way before it gives the operation up.
const SETTLE_WAITS_MAX: u32 = 100;

/// Where a file stands: everything before was given out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct FilePosition {
    /// Bytes before the next line.
    pub offset: u64,
    /// Lines before the next line.
    pub line: u64,
}

/// A line without its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line<'a> {
    /// Its bytes; only the first `line_len_bytes_max` of a line that is too long.
    pub text: &'a [u8],
    /// Where it begins.
    pub at: FilePosition,
    /// Whether it is longer than allowed.
    pub is_too_long: bool,
}

impl Line<'_> {
    /// Its number, from 1.
    pub fn number(&self) -> u64 {
        self.at.line + 1
    }
}

/// What a step gave.
#[derive(Debug, PartialEq, Eq)]
pub enum LineStep<'a> {
    /// The next line.
    Line(Line<'a>),
    /// Nothing yet: a read is under way, or the file may grow.
    Pending,
    /// There are no more lines, and the file is closed.
    Ended,
}

/// Gives out the lines of one file; a step machine.
pub struct LineReader {
    path: PathBuf,
    follow: bool,
    line_len_bytes_max: usize,
    state: State,
    /// The chunk that is cut into lines, and how far it is.
    chunk: Option<Buffer>,
    at: usize,
    /// A buffer for the next read.
    spare: Option<Buffer>,
    /// The beginning of a line that spans chunks (at most `line_len_bytes_max` of it), and how long that beginning really is.
    carry: Vec<u8>,
    carry_len_bytes: u64,
    position: FilePosition,
    /// The line last given out, where it lies, and whether it must be given out again.
    last: Found,
    again: bool,
    wake_at_ns: Option<u64>,
}

/// What is being done with the file.
enum State {
    /// It is to be opened.
    Closed,
    /// It is being opened.
    Opening(IoToken),
    /// Its length is being asked for.
    Measuring(FileId, IoToken),
    /// A read is under way, from `from`.
    Reading { file: FileId, from: u64, token: IoToken, verify: bool },
    /// Everything was read.
    AtEnd(FileId),
    /// A read that nobody wants any more is under way.
    Draining { file: FileId, token: IoToken, then: Afterwards },
    /// It is being closed.
    Closing { token: IoToken, then: Afterwards },
    /// A followed file is left alone until then.
    Resting { until_ns: u64 },
    /// Nothing more will come.
    Ended,
}

#[derive(Clone, Copy)]
enum Afterwards {
    Reopen,
    Rest,
    End,
}

/// Where a line was found, and how long it is with its end.
#[derive(Clone, Copy)]
struct Found {
    place: Place,
    start: FilePosition,
    is_too_long: bool,
}

#[derive(Clone, Copy)]
enum Place {
    Chunk { from: usize, to: usize },
    Carry,
}

enum Advance {
    Line,
    Pending,
    Ended,
}

impl LineReader {
    /// A reader of `path` from `position` on. Nothing is opened yet.
    pub fn new(path: impl Into<PathBuf>, position: FilePosition, follow: bool, line_len_bytes_max: usize) -> Self {
        let place = Place::Chunk { from: 0, to: 0 };
        Self {
            path: path.into(),
            follow,
            line_len_bytes_max,
            state: State::Closed,
            chunk: None,
            at: 0,
            spare: None,
            carry: Vec::new(),
            carry_len_bytes: 0,
            position,
            last: Found { place, start: position, is_too_long: false },
            again: false,
            wake_at_ns: None,
        }
    }

    /// The next line, or why there is none now. Never blocks.
    pub fn next(&mut self, cx: &mut ReadContext<'_>) -> Result<LineStep<'_>, SourceError> {
        if !std::mem::take(&mut self.again) {
            match self.advance(cx)? {
                Advance::Line => {}
                Advance::Pending => return Ok(LineStep::Pending),
                Advance::Ended => return Ok(LineStep::Ended),
            }
        }
        Ok(LineStep::Line(self.last_line()))
    }

    /// What is there of the next line and of those behind it, from the beginning of the next line on. `None` where `next` has more to do than to
    /// look for the line's end.
    #[inline]
    pub fn ahead(&self) -> Option<&[u8]> {
        // The first line may have a mark of its byte order before it.
        if self.again || self.carry_len_bytes > 0 || self.position.offset == 0 {
            return None;
        }
        Some(&self.chunk.as_ref()?.filled()[self.at..])
    }

    /// So many lines were taken from what `ahead` showed: `len_bytes` with their ends.
    #[inline]
    pub fn skip_lines(&mut self, lines: usize, len_bytes: usize) {
        self.at += len_bytes;
        self.position.offset += len_bytes as u64;
        self.position.line += lines as u64;
    }

    /// How long a line may be.
    pub fn line_len_bytes_max(&self) -> usize {
        self.line_len_bytes_max
    }

    /// Takes the last line back: the next call gives it out again, and the position is before it until then.
    pub fn unread(&mut self) {
        self.again = true;
    }

    /// The start of the first line that was not given out (or was taken back).
    pub fn position(&self) -> FilePosition {
        if self.again { self.last.start } else { self.position }
    }

    /// Which file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// When a followed file is looked at again.
    pub fn wake_at_ns(&self) -> Option<u64> {
        self.wake_at_ns
    }

    /// Whether a followed file has ended for now.
    pub fn is_resting(&self) -> bool {
        matches!(self.state, State::Resting { .. })
    }

    /// Goes on at `position`, forgetting what was read ahead.
    pub fn reopen_at(&mut self, position: FilePosition, io: &mut dyn Io) {
        self.position = position;
        self.again = false;
        self.forget_chunk();
        self.begin_close(io, Afterwards::Reopen);
    }

    /// Closes the file; waits shortly for an operation under way.
    pub fn close(&mut self, io: &mut dyn Io) {
        self.forget_chunk();
        if let State::Opening(token) = self.state {
            self.state = match settle(io, token) {
                Some(Ok(IoOutput::File(file))) => State::AtEnd(file),
                _ => State::Ended,
            };
        }
        self.begin_close(io, Afterwards::End);
        if let State::Draining { file, token, then } = self.state {
            settle(io, token);
            self.state = State::Closing { token: io.submit(IoOp::Close { file }), then };
        }
        if let State::Closing { token, .. } = self.state {
            settle(io, token);
        }
        self.state = State::Ended;
    }

    fn last_line(&self) -> Line<'_> {
        let whole = match (self.last.place, &self.chunk) {
            (Place::Chunk { from, to }, Some(chunk)) => &chunk.filled()[from..to],
            _ => &self.carry[..],
        };
        let text = match whole {
            whole if self.last.is_too_long => &whole[..self.line_len_bytes_max],
            [kept @ .., b'\r'] => kept,
            whole => whole,
        };
        let text = if self.last.start.offset == 0 { text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text) } else { text };
        Line { text, at: self.last.start, is_too_long: self.last.is_too_long }
    }

    fn advance(&mut self, cx: &mut ReadContext<'_>) -> Result<Advance, SourceError> {
        if self.carry_len_bytes == 0 {
            self.carry.clear();
        }
        loop {
            if self.scan() {
                return Ok(Advance::Line);
            }
            if let Some(stop) = self.step(cx)? {
                return Ok(stop);
            }
        }
    }

    /// Looks for the end of the next line in the chunk; puts the beginning of an unfinished line aside and gives the chunk back.
    fn scan(&mut self) -> bool {
        let Some(chunk) = self.chunk.take() else { return false };
        let rest = &chunk.filled()[self.at..];
        let found = memchr::memchr(b'\n', rest);
        let len = found.unwrap_or(rest.len());
        // One more than a line may have: should it be a carriage return, it is a part of the line's end.
        let kept_max = self.line_len_bytes_max.saturating_add(1);
        if found.is_some() && self.carry_len_bytes == 0 {
            let kept = &rest[..len.min(kept_max)];
            let place = Place::Chunk { from: self.at, to: self.at + kept.len() };
            self.give_out(place, kept.last().copied(), len as u64, 1);
        } else {
            let kept = len.min(kept_max.saturating_sub(self.carry.len()));
            self.carry.extend_from_slice(&rest[..kept]);
            self.carry_len_bytes += len as u64;
            if found.is_some() {
                self.give_out_carry(1);
            }
        }
        match found {
            Some(len) => {
                self.at += len + 1;
                self.chunk = Some(chunk);
            }
            None => self.spare = Some(chunk),
        }
        found.is_some()
    }

    fn give_out_carry(&mut self, end_len_bytes: u64) {
        self.give_out(Place::Carry, self.carry.last().copied(), self.carry_len_bytes, end_len_bytes);
        // Zero says that the bytes in `carry` are no beginning any more; they stay until the next line is asked for.
        self.carry_len_bytes = 0;
    }

    fn give_out(&mut self, place: Place, last_kept: Option<u8>, len_bytes: u64, end_len_bytes: u64) {
        let too_many = len_bytes.saturating_sub(self.line_len_bytes_max as u64);
        let is_too_long = too_many > 1 || too_many == 1 && last_kept != Some(b'\r');
        self.last = Found { place, start: self.position, is_too_long };
        self.position.offset += len_bytes + end_len_bytes;
        self.position.line += 1;
    }

    /// Does the next thing with the file. `None`: done, go on.
    fn step(&mut self, cx: &mut ReadContext<'_>) -> Result<Option<Advance>, SourceError> {
        match self.state {
            State::Closed => {
                self.wake_at_ns = None;
                let op = IoOp::Open { path: self.path.clone(), mode: OpenMode::Read, direct: false };
                self.state = State::Opening(cx.io.submit(op));
            }
            State::Opening(token) => {
                let Some(result) = cx.io.take(token) else { return Ok(Some(Advance::Pending)) };
                match result.inspect_err(|_| self.state = State::Ended).map_err(|e| self.refused(e))? {
                    IoOutput::File(file) => {
                        self.state = State::Measuring(file, cx.io.submit(IoOp::FileLen { file }));
                    }
                    other => unreachable!("an open completed with {other:?}"),
                }
            }
            State::Measuring(file, token) => {
                let Some(result) = cx.io.take(token) else { return Ok(Some(Advance::Pending)) };
                self.state = State::AtEnd(file);
                let IoOutput::Len(len_bytes) = result.map_err(|e| self.refused(e))? else {
                    unreachable!("asked for a length")
                };
                if len_bytes < self.position.offset {
                    return Err(self.replaced(format!("it holds {len_bytes}")));
                }
                // The byte before the first is read too: it must be a line's end.
                let from = self.position.offset.saturating_sub(1);
                self.submit_read(cx, file, from, from < self.position.offset)?;
            }
            State::Reading { file, from, token, verify } => {
                let Some(result) = cx.io.take(token) else { return Ok(Some(Advance::Pending)) };
                self.state = State::AtEnd(file);
                let IoOutput::Buffer(chunk) = result.map_err(|e| self.refused(e))? else {
                    unreachable!("asked for a buffer")
                };
                self.at = usize::from(verify);
                if verify && !self.fits(chunk.filled()) {
                    return Err(self.replaced("no line ends there".to_owned()));
                }
                if chunk.len() == CHUNK_LEN_BYTES {
                    self.submit_read(cx, file, from + CHUNK_LEN_BYTES as u64, false)?;
                }
                self.chunk = Some(chunk);
            }
            State::AtEnd(_) if self.carry_len_bytes > 0 && !self.follow => {
                self.give_out_carry(0);
                return Ok(Some(Advance::Line));
            }
            State::AtEnd(_) => {
                self.forget_chunk();
                self.begin_close(cx.io, if self.follow { Afterwards::Rest } else { Afterwards::End });
            }
            State::Draining { file, token, then } => {
                if cx.io.take(token).is_none() {
                    return Ok(Some(Advance::Pending));
                }
                self.state = State::Closing { token: cx.io.submit(IoOp::Close { file }), then };
            }
            State::Closing { token, then } => {
                // Nothing was written: that closing failed would not matter.
                if cx.io.take(token).is_none() {
                    return Ok(Some(Advance::Pending));
                }
                self.state = match then {
                    Afterwards::Reopen => State::Closed,
                    Afterwards::Rest => State::Resting { until_ns: cx.now_ns + FOLLOW_INTERVAL_NS },
                    Afterwards::End => State::Ended,
                };
            }
            State::Resting { until_ns } => {
                if cx.now_ns < until_ns {
                    self.wake_at_ns = Some(until_ns);
                    return Ok(Some(Advance::Pending));
                }
                self.state = State::Closed;
            }
            State::Ended => return Ok(Some(Advance::Ended)),
        }
        Ok(None)
    }

    /// Whether a chunk that begins one byte before the position fits it: a line ends there, or (when a last line without an end
    /// was given out) the file does.
    fn fits(&self, chunk: &[u8]) -> bool {
        match chunk {
            [] => false,
            [_] if !self.follow => true,
            [first, ..] => *first == b'\n',
        }
    }

    fn submit_read(
        &mut self,
        cx: &mut ReadContext<'_>,
        file: FileId,
        from: u64,
        verify: bool,
    ) -> Result<(), SourceError> {
        let mut into = match self.spare.take() {
            Some(spare) => spare,
            None => Buffer::take(cx.arena, "a file source's read", CHUNK_LEN_BYTES)?,
        };
        into.clear();
        let token = cx.io.submit(IoOp::Read { file, offset: from, len: CHUNK_LEN_BYTES, into });
        self.state = State::Reading { file, from, token, verify };
        Ok(())
    }

    fn forget_chunk(&mut self) {
        self.chunk = None;
        self.spare = None;
        self.carry.clear();
        self.carry_len_bytes = 0;
    }

    fn begin_close(&mut self, io: &mut dyn Io, then: Afterwards) {
        self.state = match self.state {
            State::AtEnd(file) => State::Closing { token: io.submit(IoOp::Close { file }), then },
            State::Reading { file, token, .. } | State::Measuring(file, token) => State::Draining { file, token, then },
            State::Draining { file, token, .. } => State::Draining { file, token, then },
            State::Closing { token, .. } => State::Closing { token, then },
            // `reopen_at` is called between lines, never while a file is being opened; `close` waits for it.
            State::Opening(token) => State::Opening(token),
            State::Closed | State::Resting { .. } | State::Ended => match then {
                Afterwards::Reopen => State::Closed,
                Afterwards::Rest | Afterwards::End => State::Ended,
            },
        };
    }

    fn refused(&self, error: IoError) -> SourceError {
        match error.kind {
            ErrorKind::NotFound => SourceError::NoSuchFile { path: self.path.clone() },
            ErrorKind::IsADirectory => SourceError::IsDirectory { path: self.path.clone() },
            _ => error.into(),
        }
    }

    fn replaced(&self, found: String) -> SourceError {
        SourceError::Replaced { path: self.path.clone(), read_bytes: self.position.offset, found }
    }
}

impl FilePosition {
    /// As a split's position in a checkpoint: offset and line, little-endian.
    pub fn write(&self, into: &mut Vec<u8>) {
        into.extend_from_slice(&self.offset.to_le_bytes());
        into.extend_from_slice(&self.line.to_le_bytes());
    }

    /// The position that `write` wrote, or `None` when these bytes are none.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let (offset, line) = bytes.split_first_chunk::<8>()?;
        Some(Self { offset: u64::from_le_bytes(*offset), line: u64::from_le_bytes(line.try_into().ok()?) })
    }
}

/// The completion of `token`, waited for (a second at most).
pub(super) fn settle(io: &mut dyn Io, token: IoToken) -> Option<Result<IoOutput, IoError>> {
    for _ in 0..SETTLE_WAITS_MAX {
        io.drive();
        if let Some(result) = io.take(token) {
            return Some(result);
        }
        io.wait(Duration::from_millis(10));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::super::test_support::Rig;
    use super::*;

    fn reader(path: &str, position: FilePosition) -> LineReader {
        LineReader::new(path, position, false, 1000)
    }

    /// Every line with its offset and number, until nothing more comes.
    fn lines(rig: &mut Rig, reader: &mut LineReader) -> Result<Vec<(String, u64, u64)>, SourceError> {
        let mut all = Vec::new();
        for _ in 0..1000 {
            let found = rig.with(|cx| match reader.next(cx) {
                Ok(LineStep::Line(line)) => {
                    Ok(Some((String::from_utf8(line.text.to_vec()).unwrap(), line.at.offset, line.number())))
                }
                Ok(LineStep::Pending) => Ok(None),
                Ok(LineStep::Ended) => Err(None),
                Err(error) => Err(Some(error)),
            });
            match found {
                Ok(Some(line)) => all.push(line),
                Ok(None) => rig.io.drive(),
                Err(None) => return Ok(all),
                Err(Some(error)) => return Err(error),
            }
        }
        Ok(all)
    }

    fn texts(lines: &[(String, u64, u64)]) -> Vec<&str> {
        lines.iter().map(|(text, ..)| &text[..]).collect()
    }

    #[test]
    fn lines_have_offsets_and_numbers_and_the_last_needs_no_end() {
        let mut rig = Rig::new();
        rig.io.put("f", "one\ntwo\r\n\nlast");
        let found = lines(&mut rig, &mut reader("f", FilePosition::default())).unwrap();
        let expected = [("one", 0, 1), ("two", 4, 2), ("", 9, 3), ("last", 10, 4)];
        assert_eq!(found, expected.map(|(text, offset, number)| (text.to_owned(), offset, number)));
    }

    #[test]
    fn an_empty_file_has_no_lines_and_is_closed() {
        let mut rig = Rig::new();
        rig.io.put("f", "");
        assert_eq!(lines(&mut rig, &mut reader("f", FilePosition::default())).unwrap(), []);
        assert_eq!(rig.io.open_files(), 0);
    }

    #[test]
    fn a_byte_order_mark_is_no_part_of_the_first_line() {
        let mut rig = Rig::new();
        rig.io.put("f", "\u{feff}a\nb\n");
        assert_eq!(texts(&lines(&mut rig, &mut reader("f", FilePosition::default())).unwrap()), ["a", "b"]);
    }

    #[test]
    fn lines_across_chunks_come_whole() {
        let mut rig = Rig::new();
        let text: String = (0..40_000).map(|i| format!("line number {i}\n")).collect();
        rig.io.put("f", &text);
        let mut reader = reader("f", FilePosition::default());
        let mut found = Vec::new();
        while let Ok(more) = lines(&mut rig, &mut reader) {
            if more.is_empty() {
                break;
            }
            found.extend(more);
        }
        assert!(text.lines().eq(texts(&found)));
    }

    #[test]
    fn a_reader_opened_at_any_position_gives_exactly_the_lines_behind_it() {
        let mut rig = Rig::new();
        rig.io.put("f", "a\r\nbb\n\nccc");
        let all = lines(&mut rig, &mut reader("f", FilePosition::default())).unwrap();
        for taken in 0..=all.len() {
            let offset = all.get(taken).map_or(10, |line| line.1);
            let rest = lines(&mut rig, &mut reader("f", FilePosition { offset, line: taken as u64 })).unwrap();
            assert_eq!(rest, all[taken..]);
        }
    }

    #[test]
    fn a_line_that_is_too_long_is_marked_and_the_next_one_is_whole() {
        let mut rig = Rig::new();
        for long in [1001, 70_000, 200_000] {
            rig.io.put("f", format!("{}\nnext\n", "x".repeat(long)));
            let mut reader = reader("f", FilePosition::default());
            let mut marks = Vec::new();
            while marks.len() < 2 {
                rig.io.drive();
                rig.with(|cx| {
                    if let LineStep::Line(line) = reader.next(cx).unwrap() {
                        marks.push((line.is_too_long, line.text.len(), line.at.offset));
                    }
                });
            }
            assert_eq!(marks, [(true, 1000, 0), (false, 4, long as u64 + 1)]);
            reader.close(&mut rig.io);
        }
        assert_eq!((rig.io.open_files(), rig.io.in_flight()), (0, 0));
    }

    #[test]
    fn a_line_may_be_as_long_as_allowed_however_it_ends_and_wherever_its_chunk_does() {
        let mut rig = Rig::new();
        for before in [0, CHUNK_LEN_BYTES - 500, CHUNK_LEN_BYTES - 1001, CHUNK_LEN_BYTES - 1002] {
            for (long, end, is_too_long) in
                [(1000, "\n", false), (1000, "\r\n", false), (1001, "\n", true), (1001, "\r\n", true)]
            {
                rig.io.put("f", format!("{}{}{end}", "\n".repeat(before), "x".repeat(long)));
                let (mut reader, mut last) = (reader("f", FilePosition::default()), None);
                while last.is_none() {
                    rig.io.drive();
                    rig.with(|cx| {
                        if let LineStep::Line(line) = reader.next(cx).unwrap()
                            && line.at.offset == before as u64
                        {
                            last = Some((line.is_too_long, line.text.len()));
                        }
                    });
                }
                assert_eq!(last, Some((is_too_long, 1000)), "{long} bytes and {end:?} behind {before}");
                reader.close(&mut rig.io);
            }
        }
    }

    #[test]
    fn a_line_that_was_taken_back_comes_again() {
        let mut rig = Rig::new();
        rig.io.put("f", "a\nb\n");
        let mut reader = reader("f", FilePosition::default());
        let mut given = Vec::new();
        while given.len() < 4 {
            rig.io.drive();
            rig.with(|cx| {
                if let LineStep::Line(line) = reader.next(cx).unwrap() {
                    given.push(line.text[0]);
                    if given.len() % 2 == 1 {
                        let before = line.at;
                        reader.unread();
                        assert_eq!(reader.position(), before);
                    }
                }
            });
        }
        assert_eq!(given, b"aabb");
    }

    #[test]
    fn missing_files_and_directories_are_refused_by_name() {
        let mut rig = Rig::new();
        rig.io.put("dir/f", "");
        let refusal =
            |rig: &mut Rig, path| lines(rig, &mut reader(path, FilePosition::default())).unwrap_err().to_string();
        assert_eq!(refusal(&mut rig, "nil"), "there is no file \"nil\": check the path and the working directory");
        assert_eq!(refusal(&mut rig, "dir"), "\"dir\" is a directory: name the files in it");
    }

    #[test]
    fn a_file_that_became_shorter_or_other_than_the_position_says_is_refused() {
        let mut rig = Rig::new();
        rig.io.put("f", "abc\ndef\n");
        for (offset, found) in [(9, "it holds 8"), (2, "no line ends there")] {
            let refusal = lines(&mut rig, &mut reader("f", FilePosition { offset, line: 1 })).unwrap_err();
            assert!(refusal.to_string().contains(found), "{refusal}");
        }
    }

    #[test]
    fn a_followed_file_gives_lines_as_they_are_finished() {
        let mut rig = Rig::new();
        rig.io.put("f", "a\nb");
        let mut reader = LineReader::new("f", FilePosition::default(), true, 1000);
        assert_eq!(texts(&lines(&mut rig, &mut reader).unwrap()), ["a"]);
        assert_eq!(reader.wake_at_ns(), Some(FOLLOW_INTERVAL_NS));
        assert_eq!(reader.position(), FilePosition { offset: 2, line: 1 });
        rig.io.append("f", "c\nd\n");
        assert_eq!(lines(&mut rig, &mut reader).unwrap(), []);
        rig.now_ns += FOLLOW_INTERVAL_NS;
        assert_eq!(texts(&lines(&mut rig, &mut reader).unwrap()), ["bc", "d"]);
        reader.close(&mut rig.io);
        assert_eq!((rig.io.open_files(), rig.io.in_flight()), (0, 0));
    }

    #[test]
    fn a_followed_file_that_was_cut_is_an_error() {
        let mut rig = Rig::new();
        rig.io.put("f", "aaaa\n");
        let mut reader = LineReader::new("f", FilePosition::default(), true, 1000);
        lines(&mut rig, &mut reader).unwrap();
        rig.io.put("f", "b\n");
        rig.now_ns += FOLLOW_INTERVAL_NS;
        let refusal = lines(&mut rig, &mut reader).unwrap_err();
        assert!(matches!(refusal, SourceError::Replaced { read_bytes: 5, .. }), "{refusal}");
        reader.close(&mut rig.io);
        assert_eq!(rig.io.open_files(), 0);
    }

    #[test]
    fn a_reader_can_be_closed_in_every_state() {
        for steps in 0..12 {
            let mut rig = Rig::new();
            rig.io.put("f", "a\n".repeat(100_000));
            let mut reader = reader("f", FilePosition::default());
            for step in 0..steps {
                if step % 2 == 1 {
                    rig.io.drive();
                }
                rig.with(|cx| assert!(reader.next(cx).is_ok()));
            }
            reader.close(&mut rig.io);
            assert_eq!((rig.io.open_files(), rig.io.in_flight()), (0, 0), "after {steps} steps");
        }
    }

    #[test]
    fn a_failed_read_names_the_file() {
        let mut rig = Rig::new();
        rig.io.put("f", "a\n");
        rig.io.fail(Some(("read", ErrorKind::Other)));
        let refusal = lines(&mut rig, &mut reader("f", FilePosition::default())).unwrap_err();
        assert!(matches!(refusal, SourceError::Io(IoError { action: "read", .. })), "{refusal}");
    }

    #[test]
    fn positions_survive_being_written_and_nothing_else_is_read_as_one() {
        let position = FilePosition { offset: 1 << 40, line: 3 };
        let mut bytes = Vec::new();
        position.write(&mut bytes);
        assert_eq!(FilePosition::read(&bytes), Some(position));
        assert_eq!(FilePosition::read(&bytes[1..]), None);
        assert_eq!(FilePosition::read(b""), None);
    }
}
