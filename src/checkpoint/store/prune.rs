//! Forgetting checkpoints on request: for a directory whose job does not run.
//!
//! A superblock file that names only the kept checkpoints is written, flushed and renamed; only then the files go that those do not
//! need. A crash at any point leaves the kept checkpoints, and files that the next commit or pruning removes.

use super::CheckpointStore;
use crate::checkpoint::CheckpointId;
use crate::checkpoint::catalog::refusal;
use crate::checkpoint::error::RestoreError;
use crate::checkpoint::format::{extent_name, superblock_name};
use crate::io::{Io, IoOp};
use std::collections::BTreeSet;

/// What pruning did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pruned {
    /// The checkpoints that are still there, newest first.
    pub kept: Vec<CheckpointId>,
    /// Those that are not.
    pub forgotten: Vec<CheckpointId>,
    /// The names of removed files.
    pub removed: Vec<String>,
    /// How long the removed extents were.
    pub freed_bytes: u64,
}

impl CheckpointStore {
    /// Keeps the newest `keep` checkpoints (at least one) and removes every file that they do not need. Blocks.
    ///
    /// # Panics
    /// Asserts that no checkpoint is in progress.
    pub fn prune(mut self, io: &mut dyn Io, keep: usize) -> Result<Pruned, RestoreError> {
        assert!(self.active.is_none(), "a directory is pruned before its first checkpoint or after its last");
        let forgotten = self.retained.split_off(self.retained.len().min(keep.max(1)));
        let number = |kept: &super::Retained| CheckpointId(kept.superblock.checkpoint);
        let mut pruned = Pruned {
            kept: self.retained.iter().map(number).collect(),
            forgotten: forgotten.iter().map(number).collect(),
            ..Pruned::default()
        };
        if !forgotten.is_empty() {
            let new = self.new_superblock(io)?;
            if let Some(old) = self.superblock.replace(new) {
                // Its contents were flushed before; only its name is still needed, to remove it.
                let _ = io.complete(IoOp::Close { file: old.file });
                self.old_superblocks.insert(old.number);
            }
        }
        let needed: BTreeSet<u32> = self.retained.iter().flat_map(|kept| kept.extents.iter().copied()).collect();
        let unneeded: Vec<(u32, u64)> =
            self.extents.iter().filter(|(number, _)| !needed.contains(number)).map(|(n, len)| (*n, *len)).collect();
        let superblocks =
            std::mem::take(&mut self.old_superblocks).into_iter().map(|number| (superblock_name(number), 0));
        let extents = unneeded.into_iter().map(|(number, len_bytes)| (extent_name(number), len_bytes));
        for (name, len_bytes) in superblocks.chain(extents) {
            io.complete(IoOp::Remove { path: self.dir.join(&name) }).map_err(refusal)?;
            pruned.freed_bytes += len_bytes;
            pruned.removed.push(name);
        }
        io.complete(IoOp::SyncDir { path: self.dir.clone() }).map_err(refusal)?;
        self.close(io);
        Ok(pruned)
    }
}
