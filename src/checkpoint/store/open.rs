//! Opening a checkpoint directory: lock it, find the newest intact checkpoint, say loudly what is not.
//!
//! Runs before the job, and blocks. Nothing is removed here: what a crash left behind goes with the next commit.

use super::load_map::MapLoading;
use super::{CheckpointStore, JobIdentity, OpenedStore, Retained, StoreOptions};
use crate::checkpoint::CheckpointId;
use crate::checkpoint::catalog::{Catalog, Depth, LoadFault, Reader, list_names, refusal};
use crate::checkpoint::error::{Damage, RestoreError};
use crate::checkpoint::format::{self, BlockChecksum, BlockFault, BlockRef, SECTOR_BYTES};
use crate::checkpoint::lock::DirLock;
use crate::checkpoint::manifest::Manifest;
use crate::checkpoint::restored::RestoredCheckpoint;
use crate::checkpoint::superblock::{self, COPIES, NAME_BYTES_MAX, RETAINED_MAX, Superblock};
use crate::checkpoint::superblock_file::{SuperblockCreation, SuperblockFile, is_temporary};
use crate::io::{FileId, Io, IoOp, IoOutput, OpenMode};
use crate::memory::{Arena, Buffer};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// How much of what was perhaps not flushed is written again at once.
const WRITTEN_AGAIN_BYTES: usize = 256 << 10;

/// Pairs of slots in a superblock file: one more than checkpoints are kept, so that the one being written overwrites none.
pub(in crate::checkpoint) fn pairs_for(options: &StoreOptions) -> usize {
    (options.retained_count + 1).max(4)
}

impl CheckpointStore {
    /// Opens the directory (creating it if it is missing) and finds the newest intact checkpoint; blocks. Buffers are
    /// borrowed from `arena`.
    ///
    /// Every damage that was passed over is in the answer and in the log. Another job's directory and a newer format are
    /// refused, and so is a directory in which no retained checkpoint is intact: it is never taken for an empty one.
    pub fn open(
        io: &mut dyn Io,
        arena: &Arena,
        dir: &Path,
        job: &JobIdentity,
        options: StoreOptions,
    ) -> Result<OpenedStore, RestoreError> {
        if job.name.len() > NAME_BYTES_MAX {
            return Err(RestoreError::JobNameTooLong { name: job.name.clone(), max_bytes: NAME_BYTES_MAX });
        }
        let options = StoreOptions { retained_count: options.retained_count.clamp(2, RETAINED_MAX), ..options };
        io.complete(IoOp::CreateDirAll { path: dir.to_owned() }).map_err(refusal)?;
        let lock = options.lock_patience_ms.map(|patience_ms| DirLock::take(dir, patience_ms)).transpose()?;
        let mut reader = Reader::new(io, arena, dir);
        let catalog = reader.catalog(Some(&job.name))?;
        refuse_unread(&reader, dir)?;
        let depth = if options.verify_everything { Depth::Everything } else { Depth::Added };
        let found = find(&mut reader, dir, &catalog, depth)?;
        let extents = extent_lengths(&mut reader, &catalog);
        drop(reader);
        if let (Some((manifest, _)), Some(newest)) = (&found.newest, found.retained.first()) {
            write_added_again(io, arena, dir, manifest, &newest.superblock, options.one_flush_bytes_max)?;
        }
        for name in list_names(io, dir)?.iter().filter(|name| is_temporary(name) || is_spill(name)) {
            io.complete(IoOp::Remove { path: dir.join(name) }).map_err(refusal)?;
        }
        for damage in &found.damages {
            tracing::error!(dir = %dir.display(), %damage, "the checkpoint directory is damaged");
        }
        if let (Some((manifest, _)), false) = (&found.newest, found.damages.is_empty()) {
            tracing::error!(checkpoint = manifest.checkpoint, "restoring the newest checkpoint that is intact");
        }
        let seen = catalog.superblock.iter().flat_map(|(_, pairs)| pairs).copied().max().unwrap_or(0);
        let mut store = Self {
            // A damaged superblock may have held a later number.
            next_id: seen.saturating_add(1 + catalog.damages.len() as u64),
            next_extent: catalog.extent_numbers.iter().max().map_or(1, |number| number.saturating_add(1)),
            next_superblock: catalog.superblock_numbers.iter().max().map_or(1, |number| number.saturating_add(1)),
            retained: found.retained,
            old_superblocks: catalog.superblock_numbers.iter().copied().collect(),
            extents,
            ..Self::in_empty_directory(arena, dir, &job.name, options, lock)
        };
        if let Err(error) = store.open_superblock(io, &catalog, !found.damages.is_empty()) {
            store.close(io);
            return Err(error);
        }
        let restored = found.newest.map(|(manifest, extents)| store.start_from(manifest, extents));
        Ok(OpenedStore { store, restored, damages: found.damages })
    }

    /// Goes on with the superblock file that is there if nothing is wrong with it or with what it names, else with a new one. A
    /// checkpoint that was passed over is forgotten for good then: what sinks prepared for it is gone as soon as the job runs.
    fn open_superblock(&mut self, io: &mut dyn Io, catalog: &Catalog, is_damaged: bool) -> Result<(), RestoreError> {
        if let (Some((number, pairs)), false) = (&catalog.superblock, is_damaged)
            && pairs.len() >= pairs_for(&self.options)
        {
            let path = self.dir.join(format::superblock_name(*number));
            let opened = io.complete(IoOp::Open { path, mode: OpenMode::ReadWrite, direct: true }).map_err(refusal)?;
            if let IoOutput::File(file) = opened {
                self.old_superblocks.remove(number);
                self.superblock = Some(SuperblockFile { number: *number, file, pairs: pairs.clone() });
                let newest = self.retained.first().map(|kept| kept.superblock.checkpoint);
                if let Some(pair) = pairs.iter().position(|held| Some(*held) == newest) {
                    let pair_bytes = (COPIES * SECTOR_BYTES) as u64;
                    let start = pair as u64 * pair_bytes;
                    let mut names_it = false;
                    write_again(io, &self.arena, &self.dir, file, start..start + pair_bytes, |pair| {
                        let copies = (start..).step_by(SECTOR_BYTES).zip(pair.chunks(SECTOR_BYTES));
                        let mut read = copies.flat_map(|(offset, copy)| superblock::read_slot(copy, *number, offset));
                        // A crash may have left an older one in one of the two.
                        names_it = read.any(|superblock| Some(superblock.checkpoint) == newest);
                    })?;
                    if !names_it {
                        return Err(changed(&self.dir, &format::superblock_name(*number)));
                    }
                }
                io.complete(IoOp::SyncData { file }).map_err(refusal)?;
            }
            return Ok(());
        }
        self.superblock = Some(self.new_superblock(io)?);
        if is_damaged {
            for number in std::mem::take(&mut self.old_superblocks) {
                io.complete(IoOp::Remove { path: self.dir.join(format::superblock_name(number)) }).map_err(refusal)?;
            }
            io.complete(IoOp::SyncDir { path: self.dir.clone() }).map_err(refusal)?;
        }
        Ok(())
    }

    /// Writes a superblock file that names the retained checkpoints; waits for it.
    pub(super) fn new_superblock(&mut self, io: &mut dyn Io) -> Result<SuperblockFile, RestoreError> {
        let number = self.next_superblock;
        self.next_superblock = number.saturating_add(1);
        let free = Superblock::free(&self.job_name, pairs_for(&self.options));
        let retained: Vec<Superblock> = self.retained.iter().map(|kept| kept.superblock.clone()).collect();
        let mut creation = SuperblockCreation::start(io, &self.arena, &self.dir, number, &free, &retained)?;
        let opened = loop {
            io.drive();
            if let Some(ended) = creation.step(io) {
                break ended.map_err(refusal)?;
            }
            io.wait(Duration::from_millis(10));
        };
        Ok(opened)
    }

    /// Takes the restored pages for its own: the next checkpoint builds on them. Which they are is read in the steps that follow.
    fn start_from(&mut self, manifest: Manifest, extents: BTreeSet<u32>) -> Arc<RestoredCheckpoint> {
        self.map_blocks = manifest.page_map.clone();
        // How many checkpoints wrote these blocks: the base counts for none.
        let writers: BTreeSet<u64> = self.map_blocks.iter().map(|map| map.block.checkpoint).collect();
        self.map_deltas = writers.len().saturating_sub(1);
        self.needs_full = false;
        self.restored_extents = extents;
        let alive = Arc::new(());
        self.restored_alive = Arc::downgrade(&alive);
        let restored = RestoredCheckpoint::new(&self.dir, manifest, alive).doubted(self.options.verify_everything);
        let restored = Arc::new(restored);
        if !self.map_blocks.is_empty() {
            self.loading = Some(MapLoading::new(restored.clone()));
        }
        restored
    }
}

/// Whether a crash left it behind, or a disk that would not remove it: nobody has a file open under this name for longer than it takes to
/// remove it.
fn is_spill(name: &str) -> bool {
    name.starts_with("spill-") && name.ends_with(".tmp")
}

/// What can be used, and what cannot.
struct Found {
    newest: Option<(Manifest, BTreeSet<u32>)>,
    retained: Vec<Retained>,
    damages: Vec<Damage>,
}

fn find(reader: &mut Reader<'_>, dir: &Path, catalog: &Catalog, depth: Depth) -> Result<Found, RestoreError> {
    let mut found = Found { newest: None, retained: Vec::new(), damages: catalog.damages.clone() };
    for superblock in &catalog.checkpoints {
        let job = format::fnv1a(superblock.job_name.as_bytes());
        // Only the one that is restored is read whole; of older ones it is enough to know which files they need.
        let result = match found.newest {
            None => reader.load(superblock, depth).map(|manifest| (manifest.extents.clone(), Some(manifest))),
            Some(_) => reader.manifest(job, superblock).map(|manifest| (manifest.extents, None)),
        };
        match result {
            Ok((extents, manifest)) => {
                let extents: BTreeSet<u32> = extents.into_iter().chain([superblock.manifest.file]).collect();
                if let Some(manifest) = manifest {
                    found.newest = Some((manifest, extents.clone()));
                }
                found.retained.push(Retained { superblock: superblock.clone(), extents });
            }
            Err(LoadFault::Refused(refusal)) => return Err(refusal),
            Err(LoadFault::Damaged(damages)) => {
                refuse_unread(reader, dir)?;
                found.damages.extend(damages);
            }
        }
    }
    if found.newest.is_none() && catalog.superblock.is_none() && !catalog.extent_numbers.is_empty() {
        found.damages.push(Damage {
            checkpoint: CheckpointId(0),
            path: dir.to_owned(),
            offset: 0,
            what: "superblock".to_owned(),
            fault: BlockFault::Unreadable("there are extents but no readable superblock file".to_owned()),
        });
    }
    if found.newest.is_none() && !found.damages.is_empty() {
        return Err(RestoreError::AllDamaged { dir: dir.to_owned(), damages: found.damages });
    }
    Ok(found)
}

/// Makes durable what the newest checkpoint added; `open_superblock` does the same for what names it. Its process may have been killed behind the
/// writes and before their flush: what is published from here on must not be undone by a power cut.
///
/// A flush alone does not do: one may have failed before, and what it gave up is read as if it were on the medium, and not written by the next
/// flush, which succeeds. So it is all written once more, as it was; torn by a power cut it is what it was, too.
fn write_added_again(
    io: &mut dyn Io,
    arena: &Arena,
    dir: &Path,
    manifest: &Manifest,
    superblock: &Superblock,
    bytes_max: u64,
) -> Result<(), RestoreError> {
    let mut files: BTreeMap<u32, Vec<&BlockRef>> = BTreeMap::new();
    // A superblock that calls its checkpoint durable was written behind their flush.
    for block in manifest.added.iter().chain([&superblock.manifest]).filter(|_| !superblock.durable) {
        files.entry(block.file).or_default().push(block);
    }
    // More than that is no checkpoint of a store's own, but a copy that was put here and flushed, whose superblock does not say so.
    let added_bytes: u64 = files.values().flatten().map(|block| u64::from(block.len_bytes)).sum();
    if added_bytes > bytes_max {
        files.values_mut().for_each(Vec::clear);
    }
    for (number, blocks) in files {
        let name = format::extent_name(number);
        let path = dir.join(&name);
        let opened = io.complete(IoOp::Open { path, mode: OpenMode::ReadWrite, direct: true }).map_err(refusal)?;
        if let IoOutput::File(file) = opened {
            let written = blocks.iter().try_for_each(|block| {
                let (range, mut sum) = (block.offset..block.offset + u64::from(block.len_bytes), None);
                write_again(io, arena, dir, file, range, |bytes| match &mut sum {
                    None => sum = Some(BlockChecksum::begin(bytes)),
                    Some(sum) => sum.add(bytes),
                })?;
                match sum.map(BlockChecksum::finish) == Some(block.crc) {
                    true => Ok(()),
                    false => Err(changed(dir, &name)),
                }
            });
            let flushed = written.and_then(|()| io.complete(IoOp::SyncData { file }).map_err(refusal));
            io.complete(IoOp::Close { file }).map_err(refusal).and(flushed)?;
        }
    }
    io.complete(IoOp::SyncDir { path: dir.to_owned() }).map_err(refusal)?;
    Ok(())
}

/// What is read is not what was verified when the directory was opened: the kernel may have let go of what it could not flush. The next start
/// finds the damage, and goes on from an older checkpoint.
fn changed(dir: &Path, name: &str) -> RestoreError {
    let reason = format!("\"{name}\" holds other bytes than it did a moment ago: start again");
    RestoreError::Unreadable { dir: dir.to_owned(), reason }
}

/// Reads a range of a file, lets somebody look at the bytes, and writes them to the same place.
fn write_again(
    io: &mut dyn Io,
    arena: &Arena,
    dir: &Path,
    file: FileId,
    range: Range<u64>,
    mut look: impl FnMut(&[u8]),
) -> Result<(), RestoreError> {
    let mut offset = range.start;
    while offset < range.end {
        let len = WRITTEN_AGAIN_BYTES.min((range.end - offset) as usize);
        let into = Buffer::take(arena, "checkpoint store", len)?;
        match io.complete(IoOp::Read { file, offset, len, into }).map_err(refusal)? {
            IoOutput::Buffer(from) if from.len() == len => {
                look(from.filled());
                io.complete(IoOp::Write { file, offset, from }).map_err(refusal)?;
            }
            _ => {
                let reason = format!("a file has less than the {} bytes that it had a moment ago", range.end);
                return Err(RestoreError::Unreadable { dir: dir.to_owned(), reason });
            }
        }
        offset += len as u64;
    }
    Ok(())
}

/// A read that failed is no damage: to fall back for it would give up a checkpoint that is there.
fn refuse_unread(reader: &Reader<'_>, dir: &Path) -> Result<(), RestoreError> {
    let unread = |reason: &String| RestoreError::Unreadable { dir: dir.to_owned(), reason: reason.clone() };
    reader.failure.as_ref().map_or(Ok(()), |reason| Err(unread(reason)))
}

fn extent_lengths(reader: &mut Reader<'_>, catalog: &Catalog) -> BTreeMap<u32, u64> {
    let len = |number: &u32| (*number, reader.extent_len(*number).unwrap_or(0));
    catalog.extent_numbers.iter().map(len).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::SnapshotKind;
    use crate::checkpoint::store::{CheckpointPlan, ImagesNeeded, StoreEvent};
    use crate::io::{DiskFault, InjectedFault, Repeat, SimDisk, SimDiskOptions, SimIo, Survivors};
    use crate::memory::{ArenaOptions, MemoryBudget};
    use crate::sim::Rng;

    fn opened(disk: &SimDisk) -> (OpenedStore, SimIo) {
        let arena = Arena::new(MemoryBudget::new(16 << 20), ArenaOptions::default());
        let options = StoreOptions { extent_bytes_min: 64 << 10, lock_patience_ms: None, ..StoreOptions::default() };
        let (mut io, job) = (SimIo::new(disk), JobIdentity { name: "flushed".to_owned() });
        let mut opened = CheckpointStore::open(&mut io, &arena, Path::new("/state"), &job, options).unwrap();
        opened.store.finish_loading(&mut io);
        (opened, io)
    }

    fn restored(disk: &SimDisk) -> Option<CheckpointId> {
        let (opened, mut io) = opened(disk);
        opened.store.close(&mut io);
        opened.restored.map(|restored| restored.id())
    }

    /// A checkpoint of no state.
    fn commit(store: &mut CheckpointStore, io: &mut SimIo) -> StoreEvent {
        let kind = match store.pages_needing_images() {
            ImagesNeeded::Everything => SnapshotKind::Full,
            ImagesNeeded::Pages(_) => SnapshotKind::Incremental,
        };
        let id = store.next_id();
        store
            .begin(CheckpointPlan { id, kind, max_parallelism: 8, vertices: Vec::new(), created_wall_ms: 0 }, 0)
            .unwrap();
        store.seal(id).unwrap();
        loop {
            if let Some(event) = store.step(io, 0) {
                return event;
            }
            io.wait(Duration::ZERO);
        }
    }

    /// The second of two checkpoints fails from one of its operations on, and so does all that follows, until the job has ended. Where the
    /// flush was what failed, its bytes can be read, and the next flush succeeds, although they are on no medium.
    #[test]
    fn what_is_started_from_survives_a_power_cut_whatever_of_it_could_not_be_flushed_before() {
        let mut started_from = [0; 2];
        for seed in 0..20 {
            for place in 0..40 {
                let disk = SimDisk::new(seed, SimDiskOptions::default());
                let (OpenedStore { mut store, .. }, mut io) = opened(&disk);
                assert!(matches!(commit(&mut store, &mut io), StoreEvent::Committed { .. }));
                let (repeat, fault) = (Repeat::Forever, DiskFault::Eio);
                disk.inject(InjectedFault { at_operation: disk.operations() + place, repeat, fault, under: None });
                let has_failed = matches!(commit(&mut store, &mut io), StoreEvent::Failed { .. });
                store.close(&mut io);
                disk.clear_faults();
                let from = restored(&disk);
                if has_failed {
                    started_from[from.map_or(0, |id| id.0 as usize - 1)] += 1;
                }
                disk.crash_keeping(Survivors::Nothing, &mut Rng::new(seed));
                assert_eq!(restored(&disk), from, "seed {seed}, operation {place}");
            }
        }
        assert!(started_from.iter().all(|times| *times > 0), "{started_from:?}: neither was failed and started from");
    }

    /// The kernel may let go of pages that it could not flush: then what was verified a moment ago is read no more.
    #[test]
    fn what_is_not_read_again_as_it_was_is_not_started_from() {
        for name in ["extent-000001.ms", "superblock-000001.ms"] {
            let disk = SimDisk::new(1, SimDiskOptions::default());
            let (OpenedStore { mut store, .. }, mut io) = opened(&disk);
            // What the first one added is flushed before its superblock is written.
            for _ in 0..2 {
                assert!(matches!(commit(&mut store, &mut io), StoreEvent::Committed { .. }));
            }
            store.close(&mut io);
            let arena = Arena::new(MemoryBudget::new(16 << 20), ArenaOptions::default());
            let dir = Path::new("/state");
            let mut reader = Reader::new(&mut io, &arena, dir);
            let catalog = reader.catalog(Some("flushed")).unwrap();
            let found = find(&mut reader, dir, &catalog, Depth::Added).unwrap();
            drop(reader);
            for sector in 0..8 {
                assert!(disk.corrupt(&dir.join(name), sector * SECTOR_BYTES + 100, 1));
            }
            let (manifest, _) = found.newest.as_ref().unwrap();
            let superblock = &found.retained[0].superblock;
            let extents = write_added_again(&mut io, &arena, dir, manifest, superblock, u64::MAX);
            let job = JobIdentity { name: "flushed".to_owned() };
            let options = StoreOptions { lock_patience_ms: None, ..StoreOptions::default() };
            let mut store = CheckpointStore {
                retained: found.retained,
                ..CheckpointStore::in_empty_directory(&arena, dir, &job.name, options, None)
            };
            let superblocks = store.open_superblock(&mut io, &catalog, false);
            let refused = if name.starts_with("extent") { extents } else { superblocks };
            assert!(matches!(refused, Err(RestoreError::Unreadable { .. })), "{name}: {refused:?}");
            store.close(&mut io);
        }
    }
}
