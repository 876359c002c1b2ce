//! A checkpoint or savepoint read without its job.

use crate::checkpoint::{
    BlockFault, CheckpointId, Damage, OperatorBlob, PageKey, PieceKind, PieceLoader, RestoreError, RestoredCheckpoint,
    StateDescriptor,
};
use crate::io::Io;
use crate::memory::Arena;
use crate::state::{KeyGroupRange, RawEntry, RawKeyGroup, StateBackend, StateError, check_compatible};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// A checkpoint that is only read. Nothing is locked: a job that runs meanwhile may remove what is being read.
///
/// ```
/// # use millstream::io::{self, IoChoice};
/// # use millstream::memory::{Arena, ArenaOptions, MemoryBudget};
/// # use millstream::offline::{OfflineCheckpoint, SavepointWriter};
/// # use millstream::slot::Doorbell;
/// # use millstream::state::{KeyGroupRange, StateBackend};
/// # let dir = std::env::temp_dir().join(format!("millstream-offline-doc-{}", std::process::id()));
/// # let mut io = io::open(IoChoice::Blocking, std::sync::Arc::new(Doorbell::new()?))?;
/// let arena = Arena::new(MemoryBudget::new(64 << 20), ArenaOptions::default());
/// let mut writer = SavepointWriter::new("card-totals", 128, &arena);
/// let totals = writer.states().value::<u64, i64>("totals", "cents")?;
/// totals.put(&writer.states().key_context().hash(&7), &500)?;
/// writer.write(&mut *io, &dir)?;
///
/// let savepoint = OfflineCheckpoint::open(&mut *io, &arena, &dir, None)?;
/// let mut states = StateBackend::new(KeyGroupRange { start: 0, end: 128 }, 128, arena.clone());
/// let totals = states.value::<u64, i64>("totals", "cents")?;
/// savepoint.load_into(&mut *io, &mut states)?;
/// assert_eq!(totals.get(&states.key_context().hash(&7)), Some(500));
/// # std::fs::remove_dir_all(dir)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct OfflineCheckpoint {
    checkpoint: Arc<RestoredCheckpoint>,
    arena: Arena,
    dir: PathBuf,
    damages: Vec<Damage>,
}

/// Why state could not be read, compared or loaded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OfflineError {
    /// The directory holds no checkpoint that can be read.
    #[error(transparent)]
    Restore(#[from] RestoreError),
    /// The state is not as the program expects it, or damaged.
    #[error(transparent)]
    State(#[from] StateError),
    /// The checkpoint has no such state.
    #[error("checkpoint {checkpoint} has no state \"{asked}\": it has {held}")]
    NoSuchState {
        /// The checkpoint.
        checkpoint: CheckpointId,
        /// What was asked for.
        asked: String,
        /// What there is.
        held: String,
    },
}

/// What one key group of one state holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyGroupEntries {
    /// Its entries, in no particular order.
    pub entries: Vec<RawEntry>,
    /// How many pages they lie in.
    pub pages: u64,
    /// How many bytes of pieces these are on disk.
    pub stored_bytes: u64,
    /// What could not be read.
    pub damages: Vec<Damage>,
}

impl OfflineCheckpoint {
    /// Opens the checkpoint of this number, or the newest one that can be opened at all. `damages` tells what was passed over.
    pub fn open(io: &mut dyn Io, arena: &Arena, dir: &Path, asked: Option<CheckpointId>) -> Result<Self, RestoreError> {
        let (checkpoint, damages) = RestoredCheckpoint::rescue(io, arena, dir, asked)?;
        Ok(Self { checkpoint, arena: arena.clone(), dir: dir.to_owned(), damages })
    }

    /// What its manifest says.
    pub fn checkpoint(&self) -> &Arc<RestoredCheckpoint> {
        &self.checkpoint
    }

    /// What was damaged when it was opened: superblocks, newer manifests, parts of the page map.
    pub fn damages(&self) -> &[Damage] {
        &self.damages
    }

    /// Its keyed states.
    pub fn states(&self) -> &[StateDescriptor] {
        self.checkpoint.states()
    }

    /// Its operators' small states.
    pub fn blobs(&self) -> &[OperatorBlob] {
        self.checkpoint.all_blobs()
    }

    /// The state called `operator/name`, or only `name` where no other has that.
    pub fn state(&self, asked: &str) -> Result<&StateDescriptor, OfflineError> {
        let full = |state: &&StateDescriptor| format!("{}/{}", state.operator, state.name) == asked;
        let mut named = self.states().iter().filter(|state| state.name == asked);
        let only = match (named.next(), named.next()) {
            (Some(only), None) => Some(only),
            _ => None,
        };
        self.states().iter().find(full).or(only).ok_or_else(|| {
            let names: Vec<String> =
                self.states().iter().map(|state| format!("{}/{}", state.operator, state.name)).collect();
            OfflineError::NoSuchState {
                checkpoint: self.checkpoint.id(),
                asked: asked.to_owned(),
                held: if names.is_empty() { "none".to_owned() } else { names.join(", ") },
            }
        })
    }

    /// Reads one key group of a state. Pages that are damaged are passed over and reported.
    pub fn key_group(
        &self,
        io: &mut dyn Io,
        state: &StateDescriptor,
        key_group: u16,
    ) -> Result<KeyGroupEntries, OfflineError> {
        let mut raw = RawKeyGroup::new(state, key_group, &self.arena)?;
        let mut found = KeyGroupEntries::default();
        let range = KeyGroupRange { start: key_group, end: key_group + 1 };
        let (index, damages) = self.checkpoint.index_of_what_is_left(io, &self.arena, state.id, range)?;
        found.damages = damages;
        if index.pages(state.id, range).next().is_none() {
            return Ok(found);
        }
        let mut loader = PieceLoader::new(self.checkpoint.clone(), self.arena.clone());
        for (page, chain) in index.pages(state.id, range) {
            found.pages += 1;
            found.stored_bytes += chain.iter().map(|piece| u64::from(piece.len)).sum::<u64>();
            loader.request(page, chain);
            let read = read_pieces(io, &mut loader, chain.len());
            let added = read.map_err(|error| self.damage_of(page, error)).and_then(|pieces| {
                let pieces = pieces.iter().map(|(kind, bytes)| (*kind, bytes.as_slice()));
                raw.add_page(page, pieces).map_err(|error| self.damage(page, &error.to_string()))
            });
            found.damages.extend(added.err());
        }
        loader.close(io);
        let (entries, incomplete) = raw.into_entries();
        found.entries = entries;
        let page = PageKey { state: state.id, key_group, page: 0 };
        let what = |key: Vec<u8>| format!("the long value of a key of {} bytes is not complete", key.len());
        found.damages.extend(incomplete.into_iter().map(|key| self.damage(page, &what(key))));
        Ok(found)
    }

    /// Calls `each` with the entries of a state, one key group after the other; what could not be read is returned.
    pub fn for_each_entry(
        &self,
        io: &mut dyn Io,
        state: &StateDescriptor,
        mut each: impl FnMut(u16, RawEntry),
    ) -> Result<Vec<Damage>, OfflineError> {
        let mut damages = Vec::new();
        for key_group in 0..self.checkpoint.max_parallelism() {
            let mut found = self.key_group(io, state, key_group)?;
            found.entries.sort_unstable();
            found.entries.into_iter().for_each(|entry| each(key_group, entry));
            extend_damages(&mut damages, found.damages);
        }
        Ok(damages)
    }

    /// Fills the states that `backend` has registered, which must be unused, with what the checkpoint holds of them in the backend's
    /// key groups. Nothing is passed over: any damage is an error. Call `rebuild` of timers afterwards.
    pub fn load_into(&self, io: &mut dyn Io, backend: &mut StateBackend) -> Result<(), OfflineError> {
        let mut loader = PieceLoader::new(self.checkpoint.clone(), self.arena.clone());
        let loaded = self.load(io, &mut loader, backend);
        loader.close(io);
        loaded
    }

    fn load(&self, io: &mut dyn Io, loader: &mut PieceLoader, backend: &mut StateBackend) -> Result<(), OfflineError> {
        for asked in backend.descriptors() {
            let Some(stored) = self.states().iter().find(|stored| stored.id == asked.id) else { continue };
            check_compatible(stored, &asked)?;
            let index = self.checkpoint.index(io, &self.arena, asked.id, backend.key_groups())?;
            for (page, chain) in index.pages(asked.id, backend.key_groups()) {
                loader.request(page, chain);
            }
            while !loader.is_idle() {
                match next_piece(io, loader)? {
                    None => break,
                    Some(piece) => backend.restore_piece(piece.page, piece.kind, piece.bytes())?,
                }
            }
        }
        Ok(backend.finish_restore()?)
    }

    fn damage_of(&self, page: PageKey, error: RestoreError) -> Damage {
        let mut damage = self.damage(page, "");
        match error {
            RestoreError::PieceDamaged { path, offset, fault, .. } => Damage { path, offset, fault, ..damage },
            other => {
                damage.fault = BlockFault::Unreadable(other.to_string());
                damage
            }
        }
    }

    fn damage(&self, page: PageKey, what: &str) -> Damage {
        let PageKey { state, key_group, page } = page;
        let named = self.states().iter().find(|known| known.id == state);
        let state = named.map_or_else(|| format!("{state:016x}"), |known| format!("{}/{}", known.operator, known.name));
        Damage {
            checkpoint: self.checkpoint.id(),
            path: self.dir.clone(),
            offset: 0,
            what: format!("state {state}, key group {key_group}, page {page}"),
            fault: BlockFault::Malformed(what.to_owned()),
        }
    }
}

/// Adds what was not told before: a block of the page map is about many key groups.
pub fn extend_damages(told: &mut Vec<Damage>, found: Vec<Damage>) {
    for damage in found {
        if !told.contains(&damage) {
            told.push(damage);
        }
    }
}

/// All pieces of the page that was requested, or the first error among them.
fn read_pieces(
    io: &mut dyn Io,
    loader: &mut PieceLoader,
    count: usize,
) -> Result<Vec<(PieceKind, Vec<u8>)>, RestoreError> {
    let mut pieces = Ok(Vec::with_capacity(count));
    while !loader.is_idle() {
        match next_piece(io, loader) {
            Ok(None) => break,
            Ok(Some(piece)) => {
                if let Ok(pieces) = &mut pieces {
                    pieces.push((piece.kind, piece.bytes().to_vec()));
                }
            }
            Err(error) => pieces = pieces.and(Err(error)),
        }
    }
    pieces
}

fn next_piece(
    io: &mut dyn Io,
    loader: &mut PieceLoader,
) -> Result<Option<crate::checkpoint::LoadedPiece>, RestoreError> {
    loop {
        io.drive();
        loader.step(io);
        if let Some(piece) = loader.next_piece() {
            return piece.map(Some);
        }
        if loader.is_idle() {
            return Ok(None);
        }
        if io.in_flight() > 0 {
            io.wait(Duration::from_millis(10));
        }
    }
}
