//! Reads pages back, several at a time, on the slot that needs them and through that slot's own `Io`.
//!
//! Here: the order of answers, the reads in flight, the checksum of every piece. Not here: what a piece means (`state`),
//! which pages there are (`RestoredCheckpoint::index`).
//!
//! Invariant: pieces come out in the order of the requests, those of one page in the order of application.

use super::catalog::{check_piece, sectors_around};
use super::error::RestoreError;
use super::format::BlockFault;
use super::page_map::PieceRef;
use super::restored::RestoredCheckpoint;
use super::snapshot::{PageKey, PieceKind};
use crate::io::{FileId, Io, IoOp, IoOutput, IoToken, OpenMode};
use crate::memory::{Arena, Buffer};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// Reads in flight at most.
const READS_IN_FLIGHT_MAX: usize = 16;

/// A piece of a page as it was handed to the store.
#[derive(Debug)]
pub struct LoadedPiece {
    /// Whose piece.
    pub page: PageKey,
    /// Image or delta.
    pub kind: PieceKind,
    /// Whether it is the last one of its page.
    pub is_last: bool,
    buffer: Buffer,
    skip: usize,
    len: usize,
}

/// Loads requested pages; a step machine.
#[derive(Debug)]
pub struct PieceLoader {
    restored: Arc<RestoredCheckpoint>,
    arena: Arena,
    files: BTreeMap<u32, OpenFile>,
    queue: VecDeque<Wanted>,
    reading: VecDeque<Reading>,
}

#[derive(Debug)]
enum OpenFile {
    Opening(IoToken),
    Open(FileId),
}

#[derive(Clone, Copy, Debug)]
struct Wanted {
    page: PageKey,
    piece: PieceRef,
    is_last: bool,
}

#[derive(Debug)]
struct Reading {
    wanted: Wanted,
    state: ReadState,
}

#[derive(Debug)]
enum ReadState {
    UnderWay(IoToken),
    Ended(Result<Buffer, RestoreError>),
}

impl LoadedPiece {
    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.buffer.filled()[self.skip..self.skip + self.len]
    }
}

impl PieceLoader {
    /// A loader that borrows its buffers from `arena`. All calls must be given the same `Io`.
    pub fn new(restored: Arc<RestoredCheckpoint>, arena: Arena) -> Self {
        Self { restored, arena, files: BTreeMap::new(), queue: VecDeque::new(), reading: VecDeque::new() }
    }

    /// Asks for a page that lies in these pieces (`PageIndex::pieces`).
    pub fn request(&mut self, page: PageKey, chain: &[PieceRef]) {
        let last = chain.len().wrapping_sub(1);
        self.queue.extend(chain.iter().enumerate().map(|(i, piece)| Wanted {
            page,
            piece: *piece,
            is_last: i == last,
        }));
    }

    /// Whether every requested piece was taken.
    pub fn is_idle(&self) -> bool {
        self.queue.is_empty() && self.reading.is_empty()
    }

    /// Starts reads and collects finished ones; never blocks. Returns whether anything happened.
    pub fn step(&mut self, io: &mut dyn Io) -> bool {
        let mut worked = self.collect(io);
        while self.reading.len() < READS_IN_FLIGHT_MAX {
            let Some(wanted) = self.queue.front().copied() else { break };
            let state = match self.files.get(&wanted.piece.file) {
                Some(OpenFile::Opening(_)) => break,
                Some(OpenFile::Open(file)) => self.read(io, *file, &wanted),
                None => {
                    let path = self.restored.extent_path(wanted.piece.file);
                    let token = io.submit(IoOp::Open { path, mode: OpenMode::Read, direct: true });
                    self.files.insert(wanted.piece.file, OpenFile::Opening(token));
                    break;
                }
            };
            self.queue.pop_front();
            self.reading.push_back(Reading { wanted, state });
            worked = true;
        }
        worked
    }

    /// The next piece in order, if it was read. After an error the loader may be dropped: the checkpoint is damaged.
    pub fn next_piece(&mut self) -> Option<Result<LoadedPiece, RestoreError>> {
        if matches!(self.reading.front()?.state, ReadState::UnderWay(_)) {
            return None;
        }
        let Reading { wanted, state } = self.reading.pop_front()?;
        let ReadState::Ended(result) = state else { return None };
        let Wanted { page, piece, is_last } = wanted;
        let skip = (piece.offset - sectors_around(&piece).start) as usize;
        Some(result.map(|buffer| LoadedPiece {
            page,
            kind: piece.kind,
            is_last,
            buffer,
            skip,
            len: piece.len as usize,
        }))
    }

    /// Closes the files. What was requested and not taken is given up; waits for reads under way.
    pub fn close(mut self, io: &mut dyn Io) {
        self.queue.clear();
        while self.reading.iter().any(|reading| matches!(reading.state, ReadState::UnderWay(_)))
            || self.files.values().any(|file| matches!(file, OpenFile::Opening(_)))
        {
            io.drive();
            if !self.collect(io) {
                io.wait(std::time::Duration::from_millis(1));
            }
        }
        for file in self.files.into_values() {
            if let OpenFile::Open(file) = file {
                // Only read from: a failing close changes nothing.
                let _ = io.complete(IoOp::Close { file });
            }
        }
    }

    fn collect(&mut self, io: &mut dyn Io) -> bool {
        let mut worked = false;
        let mut refused = Vec::new();
        for (number, file) in &mut self.files {
            let OpenFile::Opening(token) = file else { continue };
            match io.take(*token) {
                None => {}
                Some(Ok(IoOutput::File(opened))) => {
                    *file = OpenFile::Open(opened);
                    worked = true;
                }
                Some(Ok(other)) => refused.push((*number, format!("the driver answered {other:?}"))),
                Some(Err(error)) => refused.push((*number, error.to_string())),
            }
        }
        for (number, reason) in refused {
            self.files.remove(&number);
            if let Some(wanted) = self.queue.pop_front() {
                let error = self.damaged(&wanted, BlockFault::Unreadable(reason));
                self.reading.push_back(Reading { wanted, state: ReadState::Ended(Err(error)) });
            }
            worked = true;
        }
        for i in 0..self.reading.len() {
            let ReadState::UnderWay(token) = self.reading[i].state else { continue };
            if let Some(result) = io.take(token) {
                let wanted = self.reading[i].wanted;
                let checked = match result {
                    Ok(IoOutput::Buffer(buffer)) => checked(buffer, &wanted),
                    Ok(other) => Err(BlockFault::Unreadable(format!("the driver answered {other:?}"))),
                    Err(error) => Err(BlockFault::Unreadable(error.to_string())),
                };
                let ended = checked.map_err(|fault| self.damaged(&wanted, fault));
                self.reading[i].state = ReadState::Ended(ended);
                worked = true;
            }
        }
        worked
    }

    fn read(&self, io: &mut dyn Io, file: FileId, wanted: &Wanted) -> ReadState {
        let span = sectors_around(&wanted.piece);
        let len = (span.end - span.start) as usize;
        match Buffer::take(&self.arena, "checkpoint loader", len.min(1 << 20)) {
            Ok(into) if len <= into.capacity() => {
                ReadState::UnderWay(io.submit(IoOp::Read { file, offset: span.start, len, into }))
            }
            Ok(_) => {
                let fault = BlockFault::Malformed(format!("a piece of {} bytes", wanted.piece.len));
                ReadState::Ended(Err(self.damaged(wanted, fault)))
            }
            Err(error) => ReadState::Ended(Err(error.into())),
        }
    }

    fn damaged(&self, wanted: &Wanted, fault: BlockFault) -> RestoreError {
        let PageKey { state, key_group, page } = wanted.page;
        let path = self.restored.extent_path(wanted.piece.file);
        RestoreError::PieceDamaged { path, offset: wanted.piece.offset, state, key_group, page, fault }
    }
}

fn checked(buffer: Buffer, wanted: &Wanted) -> Result<Buffer, BlockFault> {
    let piece = &wanted.piece;
    let skip = (piece.offset - sectors_around(piece).start) as usize;
    let asked_bytes = u64::from(piece.len);
    let found_bytes = buffer.len().saturating_sub(skip) as u64;
    let bytes = buffer.filled().get(skip..skip + piece.len as usize);
    check_piece(wanted.page, bytes.ok_or(BlockFault::Truncated { asked_bytes, found_bytes })?, piece)?;
    Ok(buffer)
}
