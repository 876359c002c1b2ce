//! What a store does for savepoints: it pins a committed checkpoint for whoever copies it, and it writes the copy.
//!
//! Here: the store's side. Not here: the copying itself (`savepoint`).

use super::{CheckpointStore, Pin, StoreOptions};
use crate::checkpoint::CheckpointId;
use crate::checkpoint::files::{CommittedFiles, NamedCheckpoint};
use crate::checkpoint::format;
use crate::checkpoint::lock::DirLock;
use crate::checkpoint::page_map::PageMap;
use crate::checkpoint::restored::RestoredCheckpoint;
use crate::io::FileId;
use crate::memory::Arena;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Weak};

/// The files of a finished copy.
#[derive(Debug)]
pub(in crate::checkpoint) struct CopiedFiles {
    /// The extent filled last, and how many of its bytes are used.
    pub last_extent: Option<(FileId, u64)>,
    pub superblock: Option<FileId>,
}

impl CheckpointStore {
    /// The checkpoint committed last, to be read while the job goes on. Its extents stay until nobody holds it; `None` before the
    /// first commit since the store was opened.
    pub fn pin_newest(&mut self) -> Option<Arc<RestoredCheckpoint>> {
        let manifest = self.newest.clone()?;
        let kept = self.retained.first().filter(|kept| kept.superblock.checkpoint == manifest.checkpoint)?;
        let alive = Arc::new(());
        self.pins.push(Pin { alive: Arc::downgrade(&alive), extents: kept.extents.clone() });
        Some(Arc::new(RestoredCheckpoint::new(&self.dir, manifest, alive)))
    }

    /// The files of the checkpoint committed last, to be carried elsewhere. They stay until nobody holds the answer.
    pub fn newest_files(&mut self) -> Option<CommittedFiles> {
        let kept = self.retained.first()?;
        let pinned = Arc::new(());
        let used = |number: u32| match self.current {
            Some(extent) if extent.number == number => Some(extent.used_bytes),
            _ => self.extents.get(&number).copied(),
        };
        let extents = kept.extents.iter().map(|number| Some((*number, used(*number)?))).collect::<Option<_>>()?;
        self.pins.push(Pin { alive: Arc::downgrade(&pinned), extents: kept.extents.clone() });
        let named = NamedCheckpoint::of(&kept.superblock);
        Some(CommittedFiles { dir: self.dir.clone(), named, extents, _pinned: Some(pinned) })
    }

    /// The pins of a store that is about to be closed, for the next one over the same directory.
    pub(crate) fn take_pins(&mut self) -> StorePins {
        StorePins(std::mem::take(&mut self.pins))
    }

    /// Goes on keeping what another store over this directory kept.
    pub(crate) fn adopt_pins(&mut self, pins: StorePins) {
        self.pins.extend(pins.0);
    }

    /// The next checkpoint has at least the number after `id`: what the job starts from came from elsewhere.
    pub fn number_after(&mut self, id: CheckpointId) {
        self.next_id = self.next_id.max(id.0.saturating_add(1));
    }

    /// A store over a directory that exists and is empty; unlike `open` it waits for nothing.
    pub(in crate::checkpoint) fn in_empty_directory(
        arena: &Arena,
        dir: &Path,
        job_name: &str,
        options: StoreOptions,
        lock: Option<DirLock>,
    ) -> Self {
        Self {
            dir: dir.to_owned(),
            job_name: job_name.to_owned(),
            arena: arena.clone(),
            options,
            _lock: lock,
            map: PageMap::default(),
            map_blocks: Vec::new(),
            map_deltas: 0,
            long_chains: BTreeSet::new(),
            needs_full: true,
            next_id: 1,
            next_extent: 1,
            extent_bytes_limit: options.extent_bytes_min.next_multiple_of(format::SECTOR_BYTES as u64),
            written_bytes: 0,
            next_superblock: 1,
            retained: Vec::new(),
            superblock: None,
            old_superblocks: BTreeSet::new(),
            extents: BTreeMap::new(),
            current: None,
            restored_alive: Weak::new(),
            restored_extents: BTreeSet::new(),
            newest: None,
            pins: Vec::new(),
            active: None,
            background: Vec::new(),
            spares: Vec::new(),
            condemned: BTreeSet::new(),
            loading: None,
        }
    }

    /// Whether nothing is under way.
    pub(in crate::checkpoint) fn is_quiet(&self) -> bool {
        self.active.is_none() && self.background.is_empty()
    }

    /// Gives up the files of a store that is quiet, and keeps the lock.
    pub(in crate::checkpoint) fn into_files(self) -> (CopiedFiles, Option<DirLock>) {
        let files = CopiedFiles {
            last_extent: self.current.map(|extent| (extent.file, extent.used_bytes)),
            superblock: self.superblock.map(|superblock| superblock.file),
        };
        (files, self._lock)
    }
}

/// Checkpoints that are still being copied, between two stores over one directory.
#[derive(Debug, Default)]
pub(crate) struct StorePins(Vec<Pin>);
