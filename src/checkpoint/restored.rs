//! The checkpoint a job starts from: what its manifest says and where its pages lie. Immutable, shared by all tasks.
//!
//! Here: what is known as soon as the manifest is read, and reading parts of the page map when they are asked for.
//! Not here: reading pages (`loader`), the newest intact checkpoint of a directory (`store`).

use super::CheckpointId;
use super::catalog::{Depth, LoadFault, Reader};
use super::error::{Damage, RestoreError};
use super::format::{self, BlockFault};
use super::manifest::{Manifest, SnapshotKind};
use super::page_map::{Entry, MapBlock, PageMap, PieceRef};
use super::snapshot::{OperatorBlob, PageKey, StateDescriptor};
use super::superblock::Superblock;
use crate::io::Io;
use crate::memory::Arena;
use crate::state::KeyGroupRange;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A committed checkpoint as read back. While it is held, the store keeps the files it lies in.
#[derive(Debug)]
pub struct RestoredCheckpoint {
    id: CheckpointId,
    job_name: String,
    created_wall_ms: i64,
    kind: SnapshotKind,
    max_parallelism: u16,
    vertices: BTreeMap<String, u32>,
    states: Vec<StateDescriptor>,
    blobs: Vec<OperatorBlob>,
    map_blocks: Vec<MapBlock>,
    pages: u64,
    job: u64,
    dir: PathBuf,
    is_suspect: Arc<AtomicBool>,
    is_doubted: bool,
    _extents_pinned: Arc<()>,
}

/// Where the pages of some states lie, as far as the page map was read.
#[derive(Clone, Debug, Default)]
pub struct PageIndex {
    map: PageMap,
}

impl RestoredCheckpoint {
    pub(super) fn new(dir: &Path, manifest: Manifest, extents_pinned: Arc<()>) -> Self {
        let kind = kind_of(&manifest);
        let job = format::fnv1a(manifest.job_name.as_bytes());
        let Manifest {
            checkpoint,
            job_name,
            created_wall_ms,
            max_parallelism,
            vertices,
            states,
            blobs,
            page_map,
            pages,
            ..
        } = manifest;
        let mut states: Vec<StateDescriptor> = states.into_iter().map(Into::into).collect();
        states.sort_by_key(|state| state.id);
        states.dedup_by_key(|state| state.id);
        Self {
            id: CheckpointId(checkpoint),
            job_name,
            created_wall_ms,
            kind,
            max_parallelism,
            vertices: vertices.into_iter().map(|vertex| (vertex.name, vertex.parallelism)).collect(),
            states,
            blobs: blobs.into_iter().map(Into::into).collect(),
            map_blocks: page_map,
            pages,
            job,
            dir: dir.to_owned(),
            is_suspect: Arc::default(),
            is_doubted: false,
            _extents_pinned: extents_pinned,
        }
    }

    /// The newest intact checkpoint of a directory that is only read: a savepoint, or the directory of a job that does not run.
    /// Blocks. Nothing is locked or written, and nobody keeps the files: they must stay as long as they are read. `asked` is the
    /// job it must be of.
    pub fn of_savepoint(
        io: &mut dyn Io,
        arena: &Arena,
        dir: &Path,
        asked: Option<&str>,
    ) -> Result<Arc<Self>, RestoreError> {
        let mut reader = Reader::new(io, arena, dir);
        let catalog = match reader.catalog(asked) {
            Err(RestoreError::OtherJob { dir, found, asked }) => {
                return Err(RestoreError::SavepointOfOtherJob { dir, found, asked });
            }
            catalog => catalog?,
        };
        let mut damages = catalog.damages;
        for superblock in &catalog.checkpoints {
            match reader.load(superblock, Depth::Added) {
                Ok(manifest) => {
                    for damage in &damages {
                        tracing::error!(dir = %dir.display(), %damage, "the savepoint is damaged");
                    }
                    return Ok(Arc::new(Self::new(dir, manifest, Arc::new(()))));
                }
                Err(LoadFault::Refused(refusal)) => return Err(refusal),
                Err(LoadFault::Damaged(found)) => damages.extend(found),
            }
        }
        match (damages.is_empty(), catalog.extent_numbers.is_empty()) {
            (true, true) => Err(RestoreError::NoCheckpoint { dir: dir.to_owned() }),
            _ => Err(RestoreError::AllDamaged { dir: dir.to_owned(), damages }),
        }
    }

    /// Its number.
    pub fn id(&self) -> CheckpointId {
        self.id
    }

    /// What can be read of a checkpoint, however damaged its directory is; blocks, and locks nothing. `asked` is its number, else the
    /// newest is taken whose manifest is intact. Manifests are looked for block by block when the superblocks do not name the one.
    pub fn rescue(
        io: &mut dyn Io,
        arena: &Arena,
        dir: &Path,
        asked: Option<CheckpointId>,
    ) -> Result<(Arc<Self>, Vec<Damage>), RestoreError> {
        let mut reader = Reader::new(io, arena, dir);
        let catalog = reader.catalog(None)?;
        let mut damages = catalog.damages;
        let is_meant = |superblock: &Superblock| asked.is_none_or(|asked| asked.0 == superblock.checkpoint);
        let mut named = catalog.checkpoints;
        for round in 0..2 {
            for superblock in named.iter().filter(|superblock| is_meant(superblock)) {
                let job = format::fnv1a(superblock.job_name.as_bytes());
                match reader.manifest(job, superblock) {
                    Ok(manifest) => {
                        if round > 0 {
                            damages.push(unnamed(dir, superblock));
                        }
                        return Ok((Arc::new(Self::new(dir, manifest, Arc::new(()))), damages));
                    }
                    Err(LoadFault::Refused(refusal)) => return Err(refusal),
                    Err(LoadFault::Damaged(found)) => damages.extend(found),
                }
            }
            if round == 0 {
                named = reader.scan(&catalog.extent_numbers);
            }
        }
        match (asked, damages.is_empty()) {
            (None, true) => Err(RestoreError::NoCheckpoint { dir: dir.to_owned() }),
            (Some(asked), true) => Err(RestoreError::NotHeld { dir: dir.to_owned(), asked }),
            (_, false) => Err(RestoreError::AllDamaged { dir: dir.to_owned(), damages }),
        }
    }

    /// The job it is of.
    pub fn job_name(&self) -> &str {
        &self.job_name
    }

    /// When it began, in milliseconds since the Unix epoch.
    pub fn created_wall_ms(&self) -> i64 {
        self.created_wall_ms
    }

    /// Why and how it was taken.
    pub fn kind(&self) -> SnapshotKind {
        self.kind
    }

    /// Into how many key groups its state is cut.
    pub fn max_parallelism(&self) -> u16 {
        self.max_parallelism
    }

    /// How many subtasks each job vertex had.
    pub fn parallelism(&self) -> &BTreeMap<String, u32> {
        &self.vertices
    }

    /// Its keyed states, by id, each once.
    pub fn states(&self) -> &[StateDescriptor] {
        &self.states
    }

    /// The small states of one operator, of all its former subtasks.
    pub fn blobs<'a>(&'a self, operator: &'a str) -> impl Iterator<Item = &'a OperatorBlob> {
        self.blobs.iter().filter(move |blob| blob.operator == operator)
    }

    /// All small states.
    pub fn all_blobs(&self) -> &[OperatorBlob] {
        &self.blobs
    }

    /// How many pages it has.
    pub fn page_count(&self) -> u64 {
        self.pages
    }

    /// Reads where the pages of one state within some key groups lie; blocks. Damage makes the checkpoint suspect.
    pub fn index(
        &self,
        io: &mut dyn Io,
        arena: &Arena,
        state: u64,
        key_groups: KeyGroupRange,
    ) -> Result<PageIndex, RestoreError> {
        let mut index = PageIndex::default();
        let blocks = self.map_blocks_of(state, key_groups);
        self.read_map_blocks(io, arena, &blocks, |_, entry| {
            let page = entry.page;
            let wanted = page.state == state && key_groups.contains(crate::state::KeyGroup(page.key_group));
            if wanted { index.map.apply_entry(&entry) } else { Ok(()) }
        })?;
        let places = Reader::new(io, arena, &self.dir).check_places(self.id.0, &index.map);
        places.map_err(|fault| self.unreadable_map(fault))?;
        Ok(index)
    }

    /// The same as far as the page map can be read; what cannot is reported and passed over.
    pub fn index_of_what_is_left(
        &self,
        io: &mut dyn Io,
        arena: &Arena,
        state: u64,
        key_groups: KeyGroupRange,
    ) -> Result<(PageIndex, Vec<Damage>), RestoreError> {
        let (mut index, mut damages) = (PageIndex::default(), Vec::new());
        for number in self.map_blocks_of(state, key_groups) {
            let read = self.read_map_blocks(io, arena, &[number], |_, entry| {
                let page = entry.page;
                if page.state == state && key_groups.contains(crate::state::KeyGroup(page.key_group)) {
                    // A delta whose image was named by a damaged block: that damage is told.
                    let _ = index.map.apply_entry(&entry);
                }
                Ok(())
            });
            match read {
                Ok(()) => {}
                Err(RestoreError::MapDamaged { damage }) => damages.extend(*damage),
                Err(refusal) => return Err(refusal),
            }
        }
        Ok((index, damages))
    }

    /// Which blocks of the page map name pages of a state in some key groups, in the order in which they are applied.
    pub(crate) fn map_blocks_of(&self, state: u64, key_groups: KeyGroupRange) -> Vec<usize> {
        let blocks = self.map_blocks.iter().enumerate();
        blocks.filter(|(_, map)| map.may_name(state, key_groups)).map(|(number, _)| number).collect()
    }

    /// Reads blocks of the page map; `each` gets the block's number with every entry.
    pub(super) fn read_map_blocks(
        &self,
        io: &mut dyn Io,
        arena: &Arena,
        numbers: &[usize],
        mut each: impl FnMut(usize, Entry) -> Result<(), format::BlockFault>,
    ) -> Result<(), RestoreError> {
        let blocks: Vec<MapBlock> = numbers.iter().filter_map(|number| self.map_blocks.get(*number).copied()).collect();
        let mut reader = Reader::new(io, arena, &self.dir);
        let read = reader.read_map(self.job, self.id.0, &blocks, |index, entry| each(numbers[index], entry));
        read.map_err(|fault| self.unreadable_map(fault))
    }

    fn unreadable_map(&self, fault: LoadFault) -> RestoreError {
        match fault {
            LoadFault::Refused(refusal) => refusal,
            LoadFault::Damaged(damages) => {
                self.suspect();
                RestoreError::MapDamaged { damage: Box::new(damages.into_iter().next()) }
            }
        }
    }

    /// Says that some of its bytes are damaged: the next start must verify all of them before it uses it again.
    pub(crate) fn suspect(&self) {
        self.is_suspect.store(true, Ordering::Release);
    }

    /// Says that damage was found in its directory before: whoever reads its pages checks all of their content.
    pub(super) fn doubted(self, is_doubted: bool) -> Self {
        Self { is_doubted, ..self }
    }

    pub(crate) fn is_doubted(&self) -> bool {
        self.is_doubted
    }

    /// Becomes true when damage is found; outlives this value.
    pub(crate) fn suspicion(&self) -> Arc<AtomicBool> {
        self.is_suspect.clone()
    }

    pub(super) fn job(&self) -> u64 {
        self.job
    }

    pub(crate) fn extent_path(&self, file: u32) -> PathBuf {
        self.dir.join(format::extent_name(file))
    }
}

impl PageIndex {
    /// The pages of one state within some key groups, in order, each with its pieces in the order of application.
    pub fn pages(&self, state: u64, key_groups: KeyGroupRange) -> impl Iterator<Item = (PageKey, &[PieceRef])> {
        self.map.range(state, key_groups)
    }

    /// The pieces of one page, the image first; empty when there is no such page.
    pub fn pieces(&self, page: PageKey) -> &[PieceRef] {
        self.map.chain(page)
    }
}

/// A manifest that was found although no superblock names it.
fn unnamed(dir: &Path, found: &Superblock) -> Damage {
    let lies = format!("its manifest was found at byte {}", found.manifest.offset);
    Damage {
        checkpoint: CheckpointId(found.checkpoint),
        path: dir.join(format::extent_name(found.manifest.file)),
        offset: found.manifest.offset,
        what: "superblock".to_owned(),
        fault: BlockFault::Malformed(format!("no readable superblock names this checkpoint, {lies}")),
    }
}

/// The kind a manifest says.
pub(super) fn kind_of(manifest: &Manifest) -> SnapshotKind {
    if manifest.kind == 0 { SnapshotKind::Incremental } else { SnapshotKind::Full }
}
