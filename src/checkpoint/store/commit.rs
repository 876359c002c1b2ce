//! How one checkpoint becomes durable, step by step, and what happens when anything on the way fails.
//!
//! ```text
//! Collecting -> Sealed -> Mapping* -> Manifest -> Writing -+-> Superblock -> WritingSuperblock -> Flushing -> committed
//!                                                          +-> FlushingData -^  (all written; large, or the first one)
//! any failure -> Failing -> (ReplacingSuperblock) -> failed
//! ```
//! A small checkpoint spends one flush: data, manifest and superblock are written and flushed together, in any order, and `open`
//! verifies every block the manifest added. A large one is flushed before its superblock is written, which then says
//! "durable", so that opening never reads gigabytes. So is one without a retained predecessor: a crash must then leave
//! either nothing or all of it, for there would be nothing to fall back to.

use super::{Active, Advance, CheckpointStore, Extent, Op, Opening, Phase, Queued, Retained, StoreEvent};
use crate::checkpoint::error::CheckpointError;
use crate::checkpoint::format::{self, BlockKind, BlockPlace, BlockRef, SECTOR_BYTES};
use crate::checkpoint::manifest::{Manifest, SnapshotKind, Subtask, Vertex};
use crate::checkpoint::page_map::{EntriesWriter, Entry, MapBlock, MapRange, PieceRef};
use crate::checkpoint::snapshot::{PageKey, Piece};
use crate::checkpoint::superblock::{COPIES, Superblock};
use crate::checkpoint::superblock_file::SuperblockCreation;
use crate::io::{Io, IoError, IoOp, IoOutput, OpenMode};
use crate::memory::Buffer;
use std::collections::BTreeSet;
use std::io::ErrorKind;

impl CheckpointStore {
    /// Takes the answers that are there; returns whether there were any.
    pub(super) fn collect(&mut self, io: &mut dyn Io, active: &mut Active) -> bool {
        let mut answers = false;
        for (token, op) in std::mem::take(&mut active.ops) {
            match io.take(token) {
                None => active.ops.push((token, op)),
                Some(Ok(output)) => {
                    answers = true;
                    active.ended(op);
                    self.succeeded(io, active, op, output);
                }
                Some(Err(error)) => {
                    answers = true;
                    active.ended(op);
                    self.failed(active, op, error);
                }
            }
        }
        answers
    }

    fn succeeded(&mut self, io: &mut dyn Io, active: &mut Active, op: Op, output: IoOutput) {
        match (op, output, active.opening) {
            (Op::RenameExtent(_), _, Some(Opening { number, .. })) => {
                let path = self.dir.join(format::extent_name(number));
                let token = io.submit(IoOp::Open { path, mode: OpenMode::ReadWrite, direct: true });
                active.ops.push((token, Op::OpenExtent));
            }
            (Op::OpenExtent, IoOutput::File(file), Some(opening)) => {
                active.opening = Some(Opening { file: Some(file), ..opening });
                active.created.insert(opening.number, file);
                self.extents.insert(opening.number, opening.len_bytes);
                let allocate = io.submit(IoOp::Allocate { file, len_bytes: opening.len_bytes });
                active.ops.push((allocate, Op::AllocateExtent(opening.number)));
                let sync = io.submit(IoOp::SyncDir { path: self.dir.clone() });
                active.ops.push((sync, Op::SyncDir));
            }
            (Op::AllocateExtent(_), _, Some(Opening { number, len_bytes, file: Some(file) })) => {
                active.opening = None;
                self.current = Some(Extent { number, file, len_bytes, used_bytes: 0 });
            }
            _ => {}
        }
    }

    fn failed(&mut self, active: &mut Active, op: Op, error: IoError) {
        match op {
            Op::RenameExtent(number) => {
                if let Some(opening) = active.opening.take() {
                    self.condemned.insert(number);
                    self.extents.insert(number, opening.len_bytes);
                }
            }
            Op::OpenExtent => {
                if let Some(opening) = active.opening.take() {
                    self.condemned.insert(opening.number);
                    self.extents.insert(opening.number, opening.len_bytes);
                }
            }
            Op::AllocateExtent(number) => {
                active.opening = None;
                active.condemned.insert(number);
            }
            Op::WriteExtent(number, _) | Op::SyncExtent(number) => {
                active.condemned.insert(number);
            }
            Op::WriteSuperblock | Op::SyncSuperblock | Op::SyncDir => {}
        }
        let id = active.plan.id;
        active.failure.get_or_insert(match error.kind {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => CheckpointError::NoSpace { id, error },
            _ => CheckpointError::Disk { id, error },
        });
    }

    pub(super) fn advance(&mut self, io: &mut dyn Io, active: &mut Active, now_ns: u64) -> Advance {
        if active.failure.is_some() && !matches!(active.phase, Phase::Failing | Phase::ReplacingSuperblock) {
            active.phase = Phase::Failing;
            active.queue.clear();
        }
        let placed = self.place_queued(io, active);
        let quiet = active.ops.is_empty() && active.queue.is_empty();
        let before = (active.phase, active.failure.is_some());
        match active.phase {
            Phase::Collecting => {}
            Phase::Sealed if active.queue.is_empty() => self.choose_mapping(active),
            Phase::MappingAll { last } if active.queue.len() < self.options.blocks_queued_max => {
                self.map_all(active, last)
            }
            Phase::MappingChanges { next } if active.queue.len() < self.options.blocks_queued_max => {
                self.map_changes(active, next);
            }
            Phase::Manifest if active.queue.is_empty() => self.queue_manifest(active),
            Phase::Writing if active.queue.is_empty() => self.placed(io, active, quiet),
            Phase::FlushingData if quiet => active.phase = Phase::Superblock,
            Phase::Superblock => self.write_superblock(io, active),
            Phase::WritingSuperblock if quiet => self.flush(io, active),
            Phase::Flushing if quiet => return Advance::Ended(self.committed(io, active, now_ns)),
            Phase::Failing if quiet => self.clean_up(io, active),
            Phase::ReplacingSuperblock => {
                if let Some(event) = self.replace_superblock(io, active, now_ns) {
                    return Advance::Ended(event);
                }
            }
            _ => {}
        }
        let worked = placed || before != (active.phase, active.failure.is_some());
        if worked { Advance::Worked } else { Advance::Waiting }
    }

    /// Gives waiting blocks a place and starts their writes, while the disk has not got all the bytes that may be in flight: counted in
    /// writes, the short blocks of a small checkpoint would wait, and behind them page map and manifest, for each other's ends.
    fn place_queued(&mut self, io: &mut dyn Io, active: &mut Active) -> bool {
        let mut placed = false;
        while active.in_flight_bytes < self.options.write_bytes_in_flight_max && active.failure.is_none() {
            let Some(queued) = active.queue.front() else { break };
            let len = queued.parts.iter().map(|part| part.len() as u64).sum::<u64>();
            let room = self.current.map_or(0, |extent| extent.len_bytes - extent.used_bytes);
            if room < len {
                return self.open_extent(io, active, len) || placed;
            }
            if let Some(queued) = active.queue.pop_front() {
                self.place(io, active, queued, len);
            }
            placed = true;
        }
        placed
    }

    fn open_extent(&mut self, io: &mut dyn Io, active: &mut Active, room_bytes: u64) -> bool {
        if active.opening.is_some() {
            return false;
        }
        let number = self.next_extent;
        self.next_extent = number.saturating_add(1);
        let path = self.dir.join(format::extent_name(number));
        if let Some(index) = self.spares.iter().position(|spare| spare.1 >= room_bytes) {
            let (spare, len_bytes) = self.spares.swap_remove(index);
            active.opening = Some(Opening { number, len_bytes, file: None });
            let token = io.submit(IoOp::Rename { from: self.dir.join(format::extent_name(spare)), to: path });
            active.ops.push((token, Op::RenameExtent(spare)));
            return true;
        }
        // The first checkpoint of a large state is soon as long as many short extents.
        let begun_bytes = active.new_bytes.min(self.extent_bytes_limit);
        let len_bytes = self.extent_bytes().max(begun_bytes).max(room_bytes);
        self.extent_bytes_limit = (self.extent_bytes_limit * 2).min(self.options.extent_bytes_max);
        active.opening = Some(Opening { number, len_bytes, file: None });
        let token = io.submit(IoOp::Open { path, mode: OpenMode::CreateNew, direct: true });
        active.ops.push((token, Op::OpenExtent));
        true
    }

    fn place(&mut self, io: &mut dyn Io, active: &mut Active, mut queued: Queued, len: u64) {
        let Some(extent) = self.current.as_mut() else { return };
        let (number, file, mut offset) = (extent.number, extent.file, extent.used_bytes);
        extent.used_bytes += len;
        active.touched.insert(number, file);
        active.new_bytes += len;
        let job = format::fnv1a(self.job_name.as_bytes());
        let place = BlockPlace { job, checkpoint: active.plan.id.0, file: number, offset };
        let block = match &mut queued.parts[..] {
            [part] if queued.kind == BlockKind::Pieces => {
                self.seal_pieces(active, part, place, queued.payload_len, &queued.pieces)
            }
            parts => format::seal(parts, queued.kind, place, queued.payload_len),
        };
        match queued.kind {
            BlockKind::Manifest => active.manifest = Some(block),
            BlockKind::PageMap => {
                let (first, last) = queued.map_range;
                active.map_blocks.push(MapBlock { block, first, last });
                active.added.push(block);
            }
            BlockKind::Pieces | BlockKind::Superblock => active.added.push(block),
        }
        for from in queued.parts {
            let part_len = from.len() as u64;
            let token = io.submit(IoOp::Write { file, offset, from });
            active.ops.push((token, Op::WriteExtent(number, part_len)));
            active.in_flight_bytes += part_len;
            offset += part_len;
        }
    }

    /// Completes a block of pieces and enters them into the page map.
    fn seal_pieces(
        &mut self,
        active: &mut Active,
        part: &mut Buffer,
        place: BlockPlace,
        payload_len: u64,
        pieces: &[Piece],
    ) -> BlockRef {
        let first_entry = active.entries.len();
        let note = |piece: &Piece, crc: u32| {
            let offset = place.offset + u64::from(piece.offset);
            let placed = PieceRef { file: place.file, len: piece.len, offset, crc, kind: piece.kind, span: piece.span };
            if let Some(chain_len) = self.map.apply_late(piece.page, placed) {
                self.note_chain(piece.page, chain_len);
                active.entries.push(Entry { page: piece.page, piece: placed });
            } else {
                let (id, PageKey { state, key_group, page }) = (active.plan.id, piece.page);
                active.failure.get_or_insert(CheckpointError::DeltaWithoutImage { id, state, key_group, page });
            }
        };
        let block = format::seal_pieces(part, place, payload_len, pieces, note);
        // While the next block is still being filled; what is sorted in parts is soon sorted as a whole.
        active.entries[first_entry..].sort_by_key(|entry| entry.page);
        block
    }

    fn choose_mapping(&mut self, active: &mut Active) {
        let all = active.plan.kind == SnapshotKind::Full
            || self.map_deltas + 1 >= self.options.page_map_deltas_max
            || active.entries.len() >= self.map.pieces();
        if all {
            self.map.settle();
        }
        active.map_blocks = if all { Vec::new() } else { self.map_blocks.clone() };
        self.map_deltas = if all { 0 } else { self.map_deltas + 1 };
        // A stable sort: the pieces of a page stay in the order in which they are applied.
        active.entries.sort_by_key(|entry| entry.page);
        active.phase = if all { Phase::MappingAll { last: None } } else { Phase::MappingChanges { next: 0 } };
    }

    fn map_all(&mut self, active: &mut Active, last: Option<PageKey>) {
        let mut writer = EntriesWriter::default();
        let fits = |(page, chain): &(PageKey, &[PieceRef])| writer.push(*page, chain);
        let reached = self.map.after(last).take_while(fits).last().map(|(page, _)| page);
        active.phase = match reached {
            Some(_) => Phase::MappingAll { last: reached },
            None => Phase::Manifest,
        };
        self.queue_map_block(active, writer);
    }

    fn map_changes(&mut self, active: &mut Active, next: usize) {
        let mut writer = EntriesWriter::default();
        let rest = &active.entries[next..];
        let count = rest.iter().take_while(|entry| writer.push(entry.page, &[entry.piece])).count();
        active.phase = if count > 0 { Phase::MappingChanges { next: next + count } } else { Phase::Manifest };
        self.queue_map_block(active, writer);
    }

    fn queue_map_block(&mut self, active: &mut Active, writer: EntriesWriter) {
        if let Some((payload, map_range)) = writer.finish() {
            self.queue_payload(active, BlockKind::PageMap, &payload, map_range);
        }
    }

    fn queue_payload(&mut self, active: &mut Active, kind: BlockKind, payload: &[u8], map_range: MapRange) {
        match format::buffers_for(&self.arena, payload) {
            Ok(parts) => active.queue.push_back(Queued {
                parts,
                kind,
                payload_len: payload.len() as u64,
                pieces: Vec::new(),
                map_range,
            }),
            Err(error) => {
                active.failure.get_or_insert(CheckpointError::Memory { id: active.plan.id, error });
            }
        }
    }

    fn queue_manifest(&mut self, active: &mut Active) {
        let blocks = active.added.iter().chain(active.map_blocks.iter().map(|map| &map.block)).map(|block| block.file);
        active.manifest_extents = blocks.chain(self.map.live_bytes().keys().copied()).collect();
        let mut manifest = Manifest {
            checkpoint: active.plan.id.0,
            parent: self.last_committed().map_or(0, |id| id.0),
            created_wall_ms: active.plan.created_wall_ms,
            kind: u16::from(active.plan.kind == SnapshotKind::Full),
            max_parallelism: active.plan.max_parallelism,
            job_name: self.job_name.clone(),
            vertices: Vec::with_capacity(active.plan.vertices.len()),
            subtasks: Vec::with_capacity(active.acknowledged.len()),
            states: Vec::new(),
            blobs: Vec::new(),
            page_map: active.map_blocks.clone(),
            added: active.added.clone(),
            extents: active.manifest_extents.iter().copied().collect(),
            pages: self.map.pages() as u64,
            state_bytes: self.map.live_bytes().values().sum(),
        };
        for (name, parallelism) in &active.plan.vertices {
            manifest.vertices.push(Vertex { name: name.clone(), parallelism: *parallelism });
        }
        let mut known = BTreeSet::new();
        for ((vertex, index), snapshot) in std::mem::take(&mut active.acknowledged) {
            let (key_group_start, key_group_end) = (snapshot.key_groups.start, snapshot.key_groups.end);
            manifest.subtasks.push(Subtask { vertex, index, key_group_start, key_group_end });
            manifest.states.extend(snapshot.states.into_iter().filter(|state| known.insert(state.id)).map(Into::into));
            manifest.blobs.extend(snapshot.blobs.into_iter().map(Into::into));
        }
        active.phase = Phase::Writing;
        match manifest.encode() {
            Ok(archive) => self.queue_payload(active, BlockKind::Manifest, &archive, MapRange::default()),
            Err(reason) => {
                active.failure.get_or_insert(CheckpointError::Encode { id: active.plan.id, reason });
            }
        }
        active.says = Some(manifest);
    }

    /// All blocks have their places, and are written if it `is_quiet`.
    fn placed(&mut self, io: &mut dyn Io, active: &mut Active, is_quiet: bool) {
        active.durable = active.new_bytes > self.options.one_flush_bytes_max || self.retained.is_empty();
        if !active.durable {
            active.phase = Phase::Superblock;
        } else if is_quiet {
            sync_extents(io, active);
            active.phase = Phase::FlushingData;
        }
    }

    fn write_superblock(&mut self, io: &mut dyn Io, active: &mut Active) {
        let Some(manifest) = active.manifest else { return };
        if self.superblock.is_none() {
            if let Some(Err(error)) = self.create_superblock(io, active) {
                active.failure.get_or_insert(error);
            }
            if self.superblock.is_none() {
                return;
            }
        }
        let Some(open) = self.superblock.as_mut() else { return };
        let kept = |checkpoint: u64| self.retained.iter().any(|kept| kept.superblock.checkpoint == checkpoint);
        let free = open.pairs.iter().enumerate().filter(|(_, held)| !kept(**held)).min_by_key(|(_, held)| **held);
        active.pair = free.map_or(0, |(pair, _)| pair);
        let older = self.retained.iter().take(self.options.retained_count - 1);
        let superblock = Superblock {
            checkpoint: active.plan.id.0,
            manifest,
            durable: active.durable,
            retained: older.map(|kept| kept.superblock.checkpoint).collect(),
            job_name: self.job_name.clone(),
            pairs: open.pairs.len() as u64,
        };
        let job = format::fnv1a(self.job_name.as_bytes());
        match superblock.copies(&self.arena, job, open.number, active.pair) {
            Ok(from) => {
                let offset = (active.pair * COPIES * SECTOR_BYTES) as u64;
                active.superblock_written = true;
                let token = io.submit(IoOp::Write { file: open.file, offset, from });
                active.ops.push((token, Op::WriteSuperblock));
                active.phase = Phase::WritingSuperblock;
            }
            Err(error) => {
                active.failure.get_or_insert(CheckpointError::Memory { id: active.plan.id, error });
            }
        }
    }

    fn flush(&mut self, io: &mut dyn Io, active: &mut Active) {
        if !active.durable {
            sync_extents(io, active);
        }
        if let Some(open) = &self.superblock {
            let token = io.submit(IoOp::SyncData { file: open.file });
            active.ops.push((token, Op::SyncSuperblock));
        }
        active.phase = Phase::Flushing;
    }

    fn committed(&mut self, io: &mut dyn Io, active: &mut Active, now_ns: u64) -> StoreEvent {
        let (id, kind) = (active.plan.id, active.plan.kind);
        if let (Some(manifest), Some(open)) = (active.manifest, self.superblock.as_mut()) {
            open.pairs[active.pair] = id.0;
            let older = self.retained.iter().take(self.options.retained_count - 1);
            let superblock = Superblock {
                checkpoint: id.0,
                manifest,
                durable: active.durable,
                retained: older.map(|kept| kept.superblock.checkpoint).collect(),
                job_name: self.job_name.clone(),
                pairs: open.pairs.len() as u64,
            };
            let mut extents = std::mem::take(&mut active.manifest_extents);
            extents.insert(manifest.file);
            self.newest = active.says.take();
            self.retained.insert(0, Retained { superblock, extents });
        }
        self.retained.truncate(self.options.retained_count);
        self.map_blocks = std::mem::take(&mut active.map_blocks);
        self.needs_full = false;
        let current = self.current.map(|extent| extent.number);
        let mut files = std::mem::take(&mut active.created);
        files.extend(active.began_in.map(|extent| (extent.number, extent.file)));
        for (_, file) in files.into_iter().filter(|(number, _)| Some(*number) != current) {
            self.close_later(io, file);
        }
        self.written_bytes = active.new_bytes;
        self.remove_unreachable(io);
        StoreEvent::Committed {
            id,
            kind,
            new_bytes: active.new_bytes,
            state_bytes: self.map.live_bytes().values().sum(),
            pages: self.map.pages() as u64,
            duration_ns: now_ns.saturating_sub(active.began_ns),
        }
    }

    /// Nothing is in flight any more: forgets what the checkpoint wrote, condemns what failed.
    fn clean_up(&mut self, io: &mut dyn Io, active: &mut Active) {
        if active.creation.is_some() && self.create_superblock(io, active).is_none() {
            return;
        }
        self.needs_full = true;
        // Where a long extent found no space a short one may.
        self.extent_bytes_limit = self.options.extent_bytes_min.next_multiple_of(SECTOR_BYTES as u64);
        // A superblock that was written, in whole or in part, must not speak for a checkpoint that was reported as failed.
        if active.superblock_written
            && let Some(open) = self.superblock.take()
        {
            self.old_superblocks.insert(open.number);
            self.close_later(io, open.file);
        }
        active.phase = Phase::ReplacingSuperblock;
    }

    fn replace_superblock(&mut self, io: &mut dyn Io, active: &mut Active, now_ns: u64) -> Option<StoreEvent> {
        if self.superblock.is_none()
            && let Err(error) = self.create_superblock(io, active)?
        {
            tracing::error!(%error, "the condemned superblock file could not be replaced, the next checkpoint tries again");
        }
        self.forget_extents(io, active);
        let id = active.plan.id;
        let reason = || "no reason was given".to_owned();
        let error = active.failure.take().unwrap_or_else(|| CheckpointError::Aborted { id, reason: reason() });
        Some(StoreEvent::Failed { id, error, duration_ns: now_ns.saturating_sub(active.began_ns) })
    }

    /// What the failed checkpoint wrote may go, unless a superblock may still name it: then it stays until the next commit, and is not
    /// written over, because without an older checkpoint a start would find nothing but damage.
    fn forget_extents(&mut self, io: &mut dyn Io, active: &mut Active) {
        let is_named = active.superblock_written && self.superblock.is_none();
        if is_named {
            active.condemned.extend(active.touched.keys());
        }
        for (number, file) in std::mem::take(&mut active.created) {
            self.close_later(io, file);
            if !is_named {
                let len_bytes = self.extents.remove(&number).unwrap_or(0);
                self.remove_extent(io, number, len_bytes);
            }
        }
        self.condemned.extend(active.condemned.iter().filter(|number| self.extents.contains_key(number)));
        self.current = active.began_in.filter(|extent| !active.condemned.contains(&extent.number));
        if let Some(condemned) = active.began_in.filter(|extent| active.condemned.contains(&extent.number)) {
            self.close_later(io, condemned.file);
        }
    }

    /// Goes on creating a superblock file with the retained checkpoints; `Some` when there is one, or none will be.
    fn create_superblock(&mut self, io: &mut dyn Io, active: &mut Active) -> Option<Result<(), CheckpointError>> {
        let id = active.plan.id;
        if active.creation.is_none() {
            let number = self.next_superblock;
            self.next_superblock = number.saturating_add(1);
            let free = Superblock::free(&self.job_name, super::open::pairs_for(&self.options));
            let retained: Vec<Superblock> = self.retained.iter().map(|kept| kept.superblock.clone()).collect();
            match SuperblockCreation::start(io, &self.arena, &self.dir, number, &free, &retained) {
                Ok(creation) => active.creation = Some(creation),
                Err(error) => return Some(Err(CheckpointError::Memory { id, error })),
            }
            io.drive();
        }
        let ended = active.creation.as_mut()?.step(io)?;
        active.creation = None;
        Some(match ended {
            Ok(open) => {
                self.superblock = Some(open);
                Ok(())
            }
            Err(error) => Err(CheckpointError::Disk { id, error }),
        })
    }
}

/// One fdatasync per extent written to.
fn sync_extents(io: &mut dyn Io, active: &mut Active) {
    for (number, file) in &active.touched {
        let token = io.submit(IoOp::SyncData { file: *file });
        active.ops.push((token, Op::SyncExtent(*number)));
    }
}
