//! A source of files, one split per file: lines from `file_reader`, a parser for each, a policy for those that are no records.
//!
//! Here: the settings, the splits, the header, emitting. Not here: what a line means (`csv`, `json_lines`, `metric_file`).
//!
//! A split is named by its path as given. Its position is the byte offset and number of the next line.

use super::bad_records::{BadRecords, OnBadRecord};
use super::file_reader::{FilePosition, LineReader, LineStep};
use super::parse_error::ParseError;
use super::reader::{ReadContext, ReadStatus, Source, SourceError, SplitReader};
use super::text_window::TextWindow;
use crate::io::{Io, IoOp, IoOutput, OpenMode};
use std::collections::BTreeSet;
use std::hash::BuildHasher;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Lines longer than this are bad records, unless `line_len_bytes_max` says otherwise.
const LINE_LEN_BYTES_MAX: usize = 1 << 20;

/// What a kind of file is: how a parser for one of them is made.
pub trait LineFormat: Clone + Send + Sync + 'static {
    /// What reads the lines.
    type Parser: LineParser;

    /// Refuses files that cannot be read together.
    fn check(&self, _files: &[PathBuf]) -> Result<(), SourceError> {
        Ok(())
    }

    /// A parser for the file at this path.
    fn parser(&self, file: &Path) -> Self::Parser;
}

/// Makes records of lines. Reuses one record, so that a line costs no allocation that the record itself does not need.
pub trait LineParser: 'static {
    /// What it makes.
    type Record: 'static;

    /// Whether the first line is a header.
    fn has_header(&self) -> bool;

    /// Takes the header; `None` when the file is empty.
    fn header(&mut self, text: Option<&[u8]>) -> Result<(), ParseError>;

    /// Makes a record of a line; `None` when the line is blank.
    fn parse(&mut self, text: &[u8]) -> Result<Option<&Self::Record>, ParseError>;

    /// Makes a record of the line that `text` begins with, in one pass: the record `parse` would make, and how long the line is with its end.
    /// `None` when the line is not of the form that this reads, or does not end in the text: then it is cut out and goes through `parse`,
    /// which knows what is the matter with it.
    fn parse_ahead(&mut self, _text: &str) -> Option<(&Self::Record, usize)> {
        None
    }
}

/// Files of one format, one split each. Cloning is cheap.
#[derive(Clone)]
pub struct FileSource<F> {
    files: Arc<[PathBuf]>,
    pub(super) format: F,
    follow: bool,
    on_bad_record: OnBadRecord,
    line_len_bytes_max: usize,
}

impl<F: LineFormat> FileSource<F> {
    pub(super) fn of(files: impl IntoIterator<Item = impl Into<PathBuf>>, format: F) -> Self {
        Self {
            files: files.into_iter().map(Into::into).collect(),
            format,
            follow: false,
            on_bad_record: OnBadRecord::Fail,
            line_len_bytes_max: LINE_LEN_BYTES_MAX,
        }
    }

    /// Whether to wait for more at the end of a file (looking every 100 ms) instead of ending. A line counts when it is finished.
    pub fn follow(mut self, follow: bool) -> Self {
        self.follow = follow;
        self
    }

    /// What to do with lines that are no records; `Fail` unless set.
    pub fn on_bad_record(mut self, policy: OnBadRecord) -> Self {
        self.on_bad_record = policy;
        self
    }

    /// How long a line may be, 1 MiB unless set; a longer one is a bad record.
    pub fn line_len_bytes_max(mut self, bytes: usize) -> Self {
        self.line_len_bytes_max = bytes;
        self
    }

    /// The policy for one file: with several files, each has its own side file.
    fn policy_for(&self, file: &Path) -> OnBadRecord {
        match &self.on_bad_record {
            OnBadRecord::SideFile(path) if self.files.len() > 1 => {
                let stem = file.file_stem().unwrap_or_default().to_string_lossy();
                let is_unique = self.files.iter().filter(|other| other.file_stem() == file.file_stem()).count() == 1;
                let name = match is_unique {
                    true => stem.into_owned(),
                    false => {
                        format!("{stem}-{:08x}", foldhash::quality::FixedState::with_seed(0).hash_one(file) as u32)
                    }
                };
                let extension = path.extension().unwrap_or_default().to_string_lossy().into_owned();
                OnBadRecord::SideFile(path.with_extension(match extension.is_empty() {
                    true => name,
                    false => format!("{name}.{extension}"),
                }))
            }
            policy => policy.clone(),
        }
    }
}

impl<F: LineFormat> Source for FileSource<F> {
    type Record = <F::Parser as LineParser>::Record;
    type Reader = FileSplitReader<F::Parser>;

    fn splits(&self, io: &mut dyn Io) -> Result<Vec<String>, SourceError> {
        if self.files.is_empty() {
            return Err(bad("the file source", "no file was given: name at least one"));
        }
        let mut names = BTreeSet::new();
        for file in self.files.iter() {
            let name = file.to_str().ok_or_else(|| bad(file.display(), "the path is not UTF-8: rename the file"))?;
            if !names.insert(name) {
                return Err(bad(name, "the file was given twice: name it once"));
            }
            check_readable(file, io)?;
        }
        self.format.check(&self.files)?;
        Ok(self.files.iter().map(|file| file.display().to_string()).collect())
    }

    fn open(&self, split: &str, position: Option<&[u8]>) -> Result<Self::Reader, SourceError> {
        let resume = position.map(|bytes| {
            FilePosition::read(bytes).ok_or_else(|| SourceError::BadPosition {
                split: split.to_owned(),
                reason: format!("a file's position is 16 bytes, this is {}", bytes.len()),
            })
        });
        let resume = resume.transpose()?.unwrap_or_default();
        let file = Path::new(split);
        let parser = self.format.parser(file);
        // The header is read even after a restart: the parser needs it, and it shows that the file is the same.
        let (phase, start) = match parser.has_header() {
            true => (Phase::Header(resume), FilePosition::default()),
            false => (Phase::Records, resume),
        };
        Ok(FileSplitReader {
            lines: LineReader::new(file, start, self.follow, self.line_len_bytes_max),
            parser,
            bad: BadRecords::new(split, &self.policy_for(file)),
            window: TextWindow::default(),
            phase,
        })
    }
}

/// Reads one file.
pub struct FileSplitReader<P> {
    lines: LineReader,
    parser: P,
    bad: BadRecords,
    window: TextWindow,
    phase: Phase,
}

/// What the next line is.
#[derive(Clone, Copy)]
enum Phase {
    /// The header; behind it, reading goes on here (or right behind the header, if that is further).
    Header(FilePosition),
    /// A record.
    Records,
}

impl<P: LineParser> SplitReader for FileSplitReader<P> {
    type Record = P::Record;

    fn read<E: FnMut(&mut ReadContext<'_>, &P::Record, u64)>(
        &mut self,
        cx: &mut ReadContext<'_>,
        records_max: usize,
        mut emit: E,
    ) -> Result<ReadStatus, SourceError> {
        if let Phase::Header(resume) = self.phase
            && !self.read_header(cx, resume)?
        {
            return Ok(ReadStatus::Pending);
        }
        if (self.bad.has_unwritten()) && !self.bad.poll(cx)? {
            return Ok(ReadStatus::Pending);
        }
        let now_ns = cx.now_ns;
        let mut left = records_max;
        while left > 0 {
            if !self.bad.has_unwritten() && !self.window.passes_by() {
                left -= self.read_ahead(left, |record| emit(cx, record, now_ns));
                if left == 0 {
                    break;
                }
            }
            left -= 1;
            let line = match self.lines.next(cx)? {
                LineStep::Line(line) => line,
                // What is put aside is written first: the position must not stay before it.
                LineStep::Pending => {
                    self.bad.poll(cx)?;
                    return Ok(ReadStatus::Pending);
                }
                LineStep::Ended => match self.bad.poll(cx)? {
                    true => {
                        self.bad.close(cx.io);
                        return Ok(ReadStatus::Ended);
                    }
                    false => return Ok(ReadStatus::Pending),
                },
            };
            let parsed = match line.is_too_long {
                true => Err(too_long(line.text.len())),
                false => self.parser.parse(line.text),
            };
            match parsed {
                Ok(None) => {}
                Ok(Some(_)) if self.bad.has_unwritten() => {
                    self.lines.unread();
                    return match self.bad.poll(cx)? {
                        true => Ok(ReadStatus::More),
                        false => Ok(ReadStatus::Pending),
                    };
                }
                Ok(Some(record)) => emit(cx, record, now_ns),
                Err(error) => {
                    self.bad.take(cx, &line, &error)?;
                    if self.bad.is_full() && !self.bad.poll(cx)? {
                        return Ok(ReadStatus::Pending);
                    }
                }
            }
        }
        Ok(ReadStatus::More)
    }

    fn position(&self, into: &mut Vec<u8>) {
        let position = match self.phase {
            Phase::Header(resume) => resume,
            Phase::Records => self.bad.first_unwritten().unwrap_or(self.lines.position()),
        };
        position.write(into);
    }

    fn wake_at_ns(&self) -> Option<u64> {
        self.lines.wake_at_ns()
    }

    fn close(&mut self, io: &mut dyn Io) {
        self.lines.close(io);
        self.bad.close(io);
    }
}

impl<P: LineParser> FileSplitReader<P> {
    /// Reads at most `records_max` plain lines; how many there were before the first that is not, or whose end is not there yet.
    #[inline]
    fn read_ahead(&mut self, records_max: usize, mut emit: impl FnMut(&P::Record)) -> usize {
        let line_len_bytes_max = self.lines.line_len_bytes_max();
        let mut records = 0;
        while let Some(block) = self.lines.ahead()
            && records < records_max
        {
            let text = self.window.text(block, records_max - records);
            if text.is_empty() {
                break;
            }
            let (mut rest, mut lines) = (text, 0);
            while records + lines < records_max {
                let Some(line) = rest.get(..rest.len().min(line_len_bytes_max)) else { break };
                let Some((record, len_bytes)) = self.parser.parse_ahead(line) else { break };
                emit(record);
                rest = &rest[len_bytes..];
                lines += 1;
            }
            let was_all = rest.is_empty() || records + lines == records_max;
            let len_bytes = text.len() - rest.len();
            self.lines.skip_lines(lines, len_bytes);
            records += lines;
            if !self.window.goes_on(lines, len_bytes, was_all) {
                break;
            }
        }
        records
    }

    /// Reads the header and goes to where the records begin; `false` when it must wait.
    fn read_header(&mut self, cx: &mut ReadContext<'_>, resume: FilePosition) -> Result<bool, SourceError> {
        let header = match self.lines.next(cx)? {
            LineStep::Pending => return Ok(false),
            LineStep::Line(line) if line.is_too_long => Err(too_long(line.text.len())),
            LineStep::Line(line) => self.parser.header(Some(line.text)),
            LineStep::Ended => self.parser.header(None),
        };
        header.map_err(|error| bad(format_args!("{}:1:{}", self.lines.path().display(), error.column), &error))?;
        if resume > self.lines.position() {
            self.lines.reopen_at(resume, cx.io);
        }
        self.phase = Phase::Records;
        Ok(true)
    }
}

fn too_long(kept_bytes: usize) -> ParseError {
    let detail =
        format!("the line is longer than {kept_bytes} bytes: raise line_len_bytes_max, if this is a text file at all");
    ParseError::new("line_too_long", kept_bytes + 1, detail)
}

fn bad(place: impl std::fmt::Display, reason: impl std::fmt::Display) -> SourceError {
    SourceError::BadInput { place: place.to_string(), reason: reason.to_string() }
}

/// Refuses what cannot be opened, before the job runs.
fn check_readable(file: &Path, io: &mut dyn Io) -> Result<(), SourceError> {
    if io.complete(IoOp::List { path: file.to_path_buf() }).is_ok() {
        return Err(SourceError::IsDirectory { path: file.to_path_buf() });
    }
    match io.complete(IoOp::Open { path: file.to_path_buf(), mode: OpenMode::Read, direct: false }) {
        Ok(IoOutput::File(file)) => {
            io.complete(IoOp::Close { file })?;
            Ok(())
        }
        Ok(other) => unreachable!("an open completed with {other:?}"),
        Err(error) if error.kind == std::io::ErrorKind::NotFound => {
            Err(SourceError::NoSuchFile { path: file.to_path_buf() })
        }
        Err(error) => Err(error.into()),
    }
}
