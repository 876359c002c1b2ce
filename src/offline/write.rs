//! A savepoint made of states that were filled by hand: to start a job with history, or to change what a job remembers.

use super::read::OfflineCheckpoint;
use crate::checkpoint::{
    CheckpointId, OperatorBlob, Savepoint, SavepointContents, SavepointCopy, SavepointError, StoreOptions,
};
use crate::io::Io;
use crate::memory::Arena;
use crate::state::{KeyGroupRange, StateBackend};
use std::collections::BTreeMap;
use std::path::Path;

/// The vertex that stands for this writer where a job's vertices are named; a restore does not ask for it.
const VERTEX: &str = "offline";

/// A savepoint in the making. Register the states under the names of the operators that will read them, fill them, write.
pub struct SavepointWriter {
    states: StateBackend,
    arena: Arena,
    contents: SavepointContents,
}

impl SavepointWriter {
    /// For a job of this name whose state is cut into `max_parallelism` key groups. Pages and buffers come from `arena`, so its
    /// budget bounds how much state one savepoint can be given.
    ///
    /// # Panics
    /// Asserts that there is at least one key group.
    pub fn new(job_name: &str, max_parallelism: u16, arena: &Arena) -> Self {
        let all = KeyGroupRange { start: 0, end: max_parallelism };
        let contents = SavepointContents {
            id: CheckpointId(1),
            job_name: job_name.to_owned(),
            created_wall_ms: 0,
            max_parallelism,
            vertices: BTreeMap::from([(VERTEX.to_owned(), 1)]),
            states: Vec::new(),
            blobs: Vec::new(),
        };
        Self { states: StateBackend::new(all, max_parallelism, arena.clone()), arena: arena.clone(), contents }
    }

    /// For a changed copy of a checkpoint: its number, job, key groups, source positions and all other small states are taken over.
    /// Its keyed states are not: register those that are wanted and fill them, with [`OfflineCheckpoint::load_into`] or by hand.
    pub fn over(checkpoint: &OfflineCheckpoint, arena: &Arena) -> Self {
        let from = checkpoint.checkpoint();
        let mut writer = Self::new(from.job_name(), from.max_parallelism(), arena);
        writer.contents.id = from.id();
        writer.contents.created_wall_ms = from.created_wall_ms();
        if !from.parallelism().is_empty() {
            writer.contents.vertices.clone_from(from.parallelism());
        }
        writer.contents.blobs = from.all_blobs().to_vec();
        writer
    }

    /// Where states are registered; all key groups are its own.
    pub fn states(&mut self) -> &mut StateBackend {
        &mut self.states
    }

    /// The operators' small states: source positions, watermarks, pending sink transactions.
    pub fn blobs(&mut self) -> &mut Vec<OperatorBlob> {
        &mut self.contents.blobs
    }

    /// Its number; 1 unless it is set or taken over. The checkpoints of a job that starts from it have greater ones.
    pub fn number(&mut self, id: CheckpointId) {
        self.contents.id = id;
    }

    /// When the state was what it is, in milliseconds since the Unix epoch, for those who look at it.
    pub fn created_at(&mut self, wall_ms: i64) {
        self.contents.created_wall_ms = wall_ms;
    }

    /// Writes the savepoint into `dir`, which must not exist; blocks.
    pub fn write(self, io: &mut dyn Io, dir: &Path) -> Result<Savepoint, SavepointError> {
        self.write_with(io, dir, StoreOptions::default())
    }

    /// The same with other sizes, or without a lock where there is none (simulated disks).
    pub fn write_with(self, io: &mut dyn Io, dir: &Path, options: StoreOptions) -> Result<Savepoint, SavepointError> {
        let Self { states, arena, mut contents } = self;
        contents.states = states.descriptors();
        SavepointCopy::start_from_backend(io, &arena, contents, states, dir, options)?.complete(io)
    }
}
