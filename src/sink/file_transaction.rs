//! Makes the bytes of one subtask appear in files exactly once: hidden parts, prepared at a barrier, renamed at its commit.
//!
//! Here: the directory at the start, the part in progress, preparing, publishing, restoring. Not here: the file (`part`), names and
//! bytes of committables (`committable`), records (`json_lines`).
//!
//! ```text
//! write     .part-<subtask>-<number>.tmp is created with the first record, and written behind the records
//! snapshot  the part is closed; poll: write the rest, fdatasync; beside that, sync the directory = prepared
//! commit    poll: is the final name free? rename, sync the directory = visible
//! restore   the parts in the checkpoint are renamed where they are still hidden; all other hidden parts are removed
//! ```
//! A part is prepared when its bytes and its name are durable, in whatever order: the first by fdatasync of the file, the second by any sync of
//! the directory that began after the file was created. The one that follows the renames of an earlier checkpoint is often such a one.
//!
//! Invariants: every visible `part-*.jsonl` is committed; nothing visible is ever replaced or removed; a subtask removes only hidden
//! parts of subtasks that are its own number modulo the parallelism, and only before it creates one itself. After an error nothing
//! is done any more (a file whose write or sync failed cannot be trusted): the job restarts from the last checkpoint.
//! Semantics: Flink `FileSink` (in-progress, pending, finished), `TwoPhaseCommitSinkFunction`.

use super::committable::{Committable, PreparedPart, hidden_name, parse_final_name, parse_hidden_name};
use super::part::{Part, settle};
use super::writer::{SinkContext, SinkError};
use crate::checkpoint::CheckpointId;
use crate::io::{FileId, Io, IoError, IoOp, IoOutput, IoToken, OpenMode};
use std::collections::VecDeque;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// With more than this many buffers waiting to be written, no more records should come.
const PENDING_BUFFERS_MAX: usize = 4;

/// The transactions of one subtask; a step machine.
pub(super) struct FileTransaction {
    directory: Arc<Path>,
    subtask: u32,
    parallelism: u32,
    start: Start,
    /// What the checkpoint promised, when there was one.
    restored: Option<Restored>,
    /// The number of the next part.
    next_number: u64,
    /// The part being filled, if anything was written since the last barrier.
    current: Option<(u64, Part)>,
    /// Closed parts that are not yet durable, oldest first.
    preparing: VecDeque<(PreparedPart, Part)>,
    /// Files of durable parts that are being closed.
    closing: Vec<Part>,
    /// A sync of the directory for the names of parts that are being prepared.
    naming: Option<DirSync>,
    /// The names of all parts with smaller numbers are durable.
    named_below: u64,
    /// Durable parts whose checkpoint is not yet complete, oldest first.
    prepared: VecDeque<PreparedPart>,
    /// Parts to be made visible, oldest first.
    publishing: VecDeque<PreparedPart>,
    /// Parts that are visible, but perhaps not after a power cut. Until then every checkpoint must still name them.
    renamed: Vec<PreparedPart>,
    publish: Publish,
    /// The first error; nothing is done any more.
    condemned: Option<SinkError>,
}

/// What has to happen before the first record.
enum Start {
    /// Nothing was done yet.
    Untouched,
    /// The directory is being created.
    CreatingDirectory(IoToken),
    /// Its names are being listed.
    Listing(IoToken),
    /// Hidden parts of an earlier run are being removed: the last of these right now.
    Removing(Vec<String>, Option<IoToken>),
    /// All done.
    Done,
}

struct Restored {
    checkpoint: CheckpointId,
    /// All parts of all subtasks.
    parts: Vec<PreparedPart>,
}

/// What is being done to make the oldest part visible.
enum Publish {
    /// Nothing.
    Idle,
    /// Its final name is tried: it must not exist.
    Trying(IoToken),
    /// The final name exists; the file behind it is being closed.
    ClosingFinal(IoToken),
    /// The final name exists: the hidden one is tried.
    TryingHidden(IoToken),
    /// Both exist; the hidden file is being closed.
    ClosingHidden(IoToken),
    /// It is being renamed.
    Renaming(IoToken),
    /// Some were renamed, the directory is not yet synced.
    Renamed,
    /// The directory is being synced.
    Syncing(DirSync),
}

/// A sync of the directory under way, and whose names it makes durable: those of all parts with smaller numbers.
#[derive(Clone, Copy)]
struct DirSync {
    token: IoToken,
    names_below: u64,
}

impl FileTransaction {
    /// The transactions of `subtask` in `directory`.
    pub fn new(directory: Arc<Path>, subtask: u32, parallelism: u32) -> Self {
        Self {
            directory,
            subtask,
            parallelism,
            start: Start::Untouched,
            restored: None,
            next_number: 0,
            current: None,
            preparing: VecDeque::new(),
            closing: Vec::new(),
            naming: None,
            named_below: 0,
            prepared: VecDeque::new(),
            publishing: VecDeque::new(),
            renamed: Vec::new(),
            publish: Publish::Idle,
            condemned: None,
        }
    }

    /// Appends to the part in progress.
    pub fn append(&mut self, cx: &SinkContext<'_>, bytes: &[u8]) -> Result<(), SinkError> {
        self.check()?;
        if self.current.is_none() {
            let number = self.next_number;
            self.next_number += 1;
            self.current = Some((number, Part::new(self.directory.join(hidden_name(self.subtask, number)))));
        }
        if let Some((_, part)) = &mut self.current {
            part.append(cx.arena, bytes)?;
        }
        Ok(())
    }

    /// Whether more than four buffers wait to be written.
    pub fn is_full(&self) -> bool {
        let parts = self.preparing.iter().map(|(_, part)| part).chain(self.current.iter().map(|(_, part)| part));
        parts.map(Part::pending_buffers).sum::<usize>() > PENDING_BUFFERS_MAX
    }

    /// Closes the part in progress and names all parts that no commit has made visible.
    pub fn snapshot(&mut self, id: CheckpointId) -> Result<Vec<u8>, SinkError> {
        self.check()?;
        if let Some((number, mut part)) = self.current.take() {
            part.finish();
            self.preparing.push_back((PreparedPart { checkpoint: id, subtask: self.subtask, number }, part));
        }
        let preparing = self.preparing.iter().map(|(part, _)| part);
        let prepared = self.renamed.iter().chain(&self.publishing).chain(&self.prepared);
        let parts = prepared.chain(preparing).copied().collect();
        Ok(Committable { checkpoint: id, parts }.write())
    }

    /// Whether everything before the last snapshot is durable, names included.
    pub fn is_prepared(&self) -> bool {
        self.preparing.is_empty()
    }

    /// Lets `poll` make visible what was prepared up to checkpoint `id`.
    pub fn commit(&mut self, id: CheckpointId) -> Result<(), SinkError> {
        self.check()?;
        let count = self.prepared.iter().take_while(|part| part.checkpoint <= id).count();
        self.publishing.extend(self.prepared.drain(..count));
        Ok(())
    }

    /// Whether everything committed is visible and durable.
    pub fn is_committed(&self) -> bool {
        self.publishing.is_empty() && matches!(self.publish, Publish::Idle)
    }

    /// Takes the committables of all subtasks, before the first `poll`.
    pub fn restore(&mut self, committables: &[(u32, Vec<u8>)]) -> Result<(), SinkError> {
        let mut restored = Restored { checkpoint: CheckpointId::default(), parts: Vec::new() };
        for (subtask, bytes) in committables {
            let committable = Committable::read(*subtask, bytes)?;
            restored.checkpoint = restored.checkpoint.max(committable.checkpoint);
            restored.parts.extend(committable.parts);
        }
        let mine = restored.parts.iter().zip((0..self.parallelism).cycle());
        self.publishing.extend(mine.filter(|&(_, whose)| whose == self.subtask).map(|(part, _)| *part));
        // Even when all were renamed before: the directory may not have been synced.
        let numbers = restored.parts.iter().filter(|part| part.subtask == self.subtask).map(|part| part.number + 1);
        self.next_number = numbers.max().unwrap_or(0).max(self.next_number);
        self.restored = Some(restored);
        Ok(())
    }

    /// Whether records may come: the directory is clean and what the checkpoint promised is visible.
    pub fn is_ready(&self) -> bool {
        matches!(self.start, Start::Done) && (self.restored.is_none() || self.is_committed())
    }

    /// Does what can be done; `true` when something happened.
    pub fn poll(&mut self, io: &mut dyn Io) -> Result<bool, SinkError> {
        self.check()?;
        let result = self.work(io);
        if let Err(error) = &result {
            self.condemned = Some(error.clone());
        }
        result
    }

    /// Gives up all files.
    pub fn close(&mut self, io: &mut dyn Io) {
        let unfinished = self.preparing.iter_mut().map(|(_, part)| part).chain(&mut self.closing);
        for part in unfinished.chain(self.current.iter_mut().map(|(_, part)| part)) {
            part.close(io);
        }
        let start = match std::mem::replace(&mut self.start, Start::Untouched) {
            Start::CreatingDirectory(token) | Start::Listing(token) => Some(token),
            Start::Removing(_, token) => token,
            Start::Untouched | Start::Done => None,
        };
        let publish = match std::mem::replace(&mut self.publish, Publish::Idle) {
            Publish::Trying(token) | Publish::TryingHidden(token) => {
                if let Some(Ok(IoOutput::File(file))) = settle(io, token) {
                    let closing = io.submit(IoOp::Close { file });
                    settle(io, closing);
                }
                None
            }
            Publish::ClosingFinal(token) | Publish::ClosingHidden(token) | Publish::Renaming(token) => Some(token),
            Publish::Syncing(sync) => Some(sync.token),
            Publish::Idle | Publish::Renamed => None,
        };
        let naming = self.naming.take().map(|sync| sync.token);
        for token in [start, publish, naming].into_iter().flatten() {
            settle(io, token);
        }
    }

    fn check(&self) -> Result<(), SinkError> {
        self.condemned.clone().map_or(Ok(()), Err)
    }

    fn work(&mut self, io: &mut dyn Io) -> Result<bool, SinkError> {
        let mut worked = false;
        while self.start_step(io)? {
            worked = true;
        }
        if !matches!(self.start, Start::Done) {
            return Ok(worked);
        }
        while self.publish_step(io)? {
            worked = true;
        }
        worked |= self.prepare(io)?;
        if let Some((_, part)) = &mut self.current {
            worked |= part.poll(io)?;
        }
        Ok(worked)
    }

    /// One step of the start; `false` when it must wait or is done.
    fn start_step(&mut self, io: &mut dyn Io) -> Result<bool, SinkError> {
        match &mut self.start {
            Start::Untouched => {
                let op = IoOp::CreateDirAll { path: self.directory.to_path_buf() };
                self.start = Start::CreatingDirectory(io.submit(op));
            }
            Start::CreatingDirectory(token) => {
                let Some(result) = io.take(*token) else { return Ok(false) };
                self.start = Start::Untouched;
                result?;
                self.start = Start::Listing(io.submit(IoOp::List { path: self.directory.to_path_buf() }));
            }
            Start::Listing(token) => {
                let Some(result) = io.take(*token) else { return Ok(false) };
                self.start = Start::Untouched;
                let IoOutput::Names(names) = result? else { unreachable!("asked for names") };
                self.check_visible(&names)?;
                self.start = Start::Removing(self.leftovers(names), None);
            }
            Start::Removing(names, Some(token)) => {
                let Some(result) = io.take(*token) else { return Ok(false) };
                let names = std::mem::take(names);
                self.start = Start::Removing(names, None);
                result?;
            }
            Start::Removing(names, token) => match names.pop() {
                Some(name) => *token = Some(io.submit(IoOp::Remove { path: self.directory.join(name) })),
                None => self.start = Start::Done,
            },
            Start::Done => return Ok(false),
        }
        Ok(true)
    }

    /// Refuses a directory with output that would be mixed up with, or written again by, this run.
    fn check_visible(&self, names: &[String]) -> Result<(), SinkError> {
        let mut visible = names.iter().filter_map(|name| Some((name, parse_final_name(name)?.0)));
        let in_the_way = match &self.restored {
            None => visible.next().map(|(name, _)| (name, "of an earlier run".to_owned())),
            Some(Restored { checkpoint, .. }) => visible.find(|(_, of)| of > checkpoint).map(|(name, of)| {
                (name, format!("of checkpoint {of}, newer than checkpoint {checkpoint} which this run goes on from"))
            }),
        };
        match in_the_way {
            None => Ok(()),
            Some((name, whence)) => {
                Err(SinkError::OutputOccupied { directory: self.directory.to_path_buf(), name: name.clone(), whence })
            }
        }
    }

    /// The hidden parts this subtask must remove: no checkpoint knows them, and they are of a subtask it stands for.
    fn leftovers(&self, names: Vec<String>) -> Vec<String> {
        let promised = self.restored.as_ref().map_or(&[][..], |restored| &restored.parts);
        let is_leftover = |name: &String| {
            parse_hidden_name(name).is_some_and(|(subtask, number)| {
                let is_promised = promised.iter().any(|part| (part.subtask, part.number) == (subtask, number));
                subtask % self.parallelism == self.subtask && !is_promised
            })
        };
        names.into_iter().filter(is_leftover).collect()
    }

    /// Goes on with closed parts.
    fn prepare(&mut self, io: &mut dyn Io) -> Result<bool, SinkError> {
        let mut worked = false;
        for part in self.preparing.iter_mut().map(|(_, part)| part).chain(&mut self.closing) {
            worked |= part.poll(io)?;
        }
        self.closing.retain(|part| !part.is_finished());
        if let Some(sync) = self.naming
            && let Some(result) = io.take(sync.token)
        {
            self.naming = None;
            result?;
            self.names_are_durable(sync);
            worked = true;
        }
        let named_below = self.named_below;
        let is_prepared = |(part, file): &(PreparedPart, Part)| file.is_synced() && part.number < named_below;
        let prepared = self.preparing.iter().take_while(|closed| is_prepared(closed)).count();
        for (part, file) in self.preparing.drain(..prepared) {
            self.prepared.push_back(part);
            self.closing.push(file);
        }
        if self.naming.is_none() && self.lacks_a_name() {
            self.naming = Some(self.sync_directory(io));
            worked = true;
        }
        Ok(worked || prepared > 0)
    }

    /// Whether a closed part's file exists, but its name is not durable and no sync under way makes it so.
    fn lacks_a_name(&self) -> bool {
        let under_way = match self.publish {
            Publish::Syncing(sync) => sync.names_below,
            _ => 0,
        };
        let below = self.named_below.max(under_way);
        self.preparing.iter().any(|(part, file)| file.is_created() && part.number >= below)
    }

    /// Begins to make durable all names that there are now.
    fn sync_directory(&self, io: &mut dyn Io) -> DirSync {
        let closed = self.preparing.iter().map(|(part, file)| (part.number, file));
        let mut all = closed.chain(self.current.iter().map(|(number, file)| (*number, file)));
        let names_below = all.find(|(_, file)| !file.is_created()).map_or(self.next_number, |(number, _)| number);
        DirSync { token: io.submit(IoOp::SyncDir { path: self.directory.to_path_buf() }), names_below }
    }

    fn names_are_durable(&mut self, sync: DirSync) {
        self.named_below = self.named_below.max(sync.names_below);
    }

    /// One step of making parts visible; `false` when it must wait or there is nothing to do.
    fn publish_step(&mut self, io: &mut dyn Io) -> Result<bool, SinkError> {
        let Some(&part) = self.publishing.front() else { return self.sync_renamed(io) };
        let (hidden, visible) = (self.directory.join(part.hidden_name()), self.directory.join(part.final_name()));
        match self.publish {
            Publish::Idle | Publish::Renamed => {
                self.publish = Publish::Trying(io.submit(open(visible)));
            }
            Publish::Trying(token) => match opened(io, token)? {
                None => return Ok(false),
                Some(None) => self.publish = Publish::Renaming(io.submit(IoOp::Rename { from: hidden, to: visible })),
                Some(Some(file)) => self.publish = Publish::ClosingFinal(io.submit(IoOp::Close { file })),
            },
            Publish::ClosingFinal(token) => {
                let Some(result) = io.take(token) else { return Ok(false) };
                result?;
                self.publish = Publish::TryingHidden(io.submit(open(hidden)));
            }
            Publish::TryingHidden(token) => match opened(io, token)? {
                None => return Ok(false),
                // It was renamed before.
                Some(None) => self.published(),
                Some(Some(file)) => self.publish = Publish::ClosingHidden(io.submit(IoOp::Close { file })),
            },
            Publish::ClosingHidden(token) => {
                let Some(result) = io.take(token) else { return Ok(false) };
                result?;
                self.publish = Publish::Idle;
                return Err(SinkError::OutputOccupied {
                    directory: self.directory.to_path_buf(),
                    name: part.final_name(),
                    whence: format!("of somebody else, which part {} must not replace", part.hidden_name()),
                });
            }
            Publish::Renaming(token) => {
                let Some(result) = io.take(token) else { return Ok(false) };
                self.publish = Publish::Idle;
                match result {
                    Err(error) if error.kind == ErrorKind::NotFound => {
                        return Err(SinkError::OutputRemoved {
                            directory: self.directory.to_path_buf(),
                            name: part.final_name(),
                            checkpoint: part.checkpoint,
                        });
                    }
                    result => result?,
                };
                self.published();
            }
            Publish::Syncing(sync) => return self.take_sync(io, sync),
        }
        Ok(true)
    }

    fn published(&mut self) {
        self.renamed.extend(self.publishing.pop_front());
        self.publish = Publish::Renamed;
    }

    fn sync_renamed(&mut self, io: &mut dyn Io) -> Result<bool, SinkError> {
        match self.publish {
            Publish::Renamed => {
                self.publish = Publish::Syncing(self.sync_directory(io));
                Ok(true)
            }
            Publish::Syncing(sync) => self.take_sync(io, sync),
            _ => Ok(false),
        }
    }

    fn take_sync(&mut self, io: &mut dyn Io, sync: DirSync) -> Result<bool, SinkError> {
        let Some(result) = io.take(sync.token) else { return Ok(false) };
        self.publish = Publish::Idle;
        result?;
        self.names_are_durable(sync);
        self.renamed.clear();
        Ok(true)
    }
}

fn open(path: PathBuf) -> IoOp {
    IoOp::Open { path, mode: OpenMode::Read, direct: false }
}

/// Whether the file that was tried is there: `None` while that is not known.
fn opened(io: &mut dyn Io, token: IoToken) -> Result<Option<Option<FileId>>, IoError> {
    match io.take(token) {
        None => Ok(None),
        Some(Ok(IoOutput::File(file))) => Ok(Some(Some(file))),
        Some(Ok(other)) => unreachable!("an open completed with {other:?}"),
        Some(Err(error)) if error.kind == ErrorKind::NotFound => Ok(Some(None)),
        Some(Err(error)) => Err(error),
    }
}
