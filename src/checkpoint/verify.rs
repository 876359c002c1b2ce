//! Looks at a checkpoint directory from outside: what is retained, and whether every byte of it is intact.
//!
//! Read-only and without the lock, for the command line; blocks. While a job writes to the directory a checkpoint may
//! disappear between being listed and being read: look again before calling that damage.

use super::CheckpointId;
use super::catalog::{Depth, LoadFault, Reader};
use super::error::{Damage, RestoreError};
use super::format;
use super::manifest::SnapshotKind;
use super::restored::kind_of;
use crate::io::Io;
use crate::memory::Arena;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// A retained checkpoint, as `list` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckpointSummary {
    /// Its number.
    pub id: CheckpointId,
    /// The one before it, if any.
    pub parent: Option<CheckpointId>,
    /// When it began, in milliseconds since the Unix epoch.
    pub created_wall_ms: i64,
    /// Incremental or full.
    pub kind: SnapshotKind,
    /// The job.
    pub job_name: String,
    /// Bytes that it added to the directory.
    pub new_bytes: u64,
    /// Bytes of state that it reaches.
    pub state_bytes: u64,
    /// Pages that it reaches.
    pub pages: u64,
    /// Its keyed states: `operator/name`.
    pub states: Vec<String>,
}

/// What `verify` found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VerifyReport {
    /// The checkpoints in which every block and every piece is intact, newest first.
    pub intact: Vec<CheckpointId>,
    /// Everything that is not what was written.
    pub damages: Vec<Damage>,
    /// The ranges of files that were read and verified.
    pub checked: Vec<(PathBuf, Range<u64>)>,
}

/// Verifies every retained checkpoint: superblocks, manifests, page maps, the blocks each one added, every piece.
pub fn verify(io: &mut dyn Io, arena: &Arena, dir: &Path) -> Result<VerifyReport, RestoreError> {
    let mut reader = Reader::new(io, arena, dir);
    let catalog = reader.catalog(None)?;
    let mut report = VerifyReport { damages: catalog.damages, ..VerifyReport::default() };
    for superblock in &catalog.checkpoints {
        match reader.load(superblock, Depth::Everything) {
            Ok(_) => report.intact.push(CheckpointId(superblock.checkpoint)),
            Err(LoadFault::Damaged(damages)) => report.damages.extend(damages),
            Err(LoadFault::Refused(refusal)) => return Err(refusal),
        }
    }
    let path = |(file, range): (u32, Range<u64>)| (dir.join(format::extent_name(file)), range);
    report.checked = std::mem::take(&mut reader.checked).into_iter().map(path).collect();
    Ok(report)
}

/// The retained checkpoints, newest first; damaged ones are in the second part.
pub fn list(io: &mut dyn Io, arena: &Arena, dir: &Path) -> Result<(Vec<CheckpointSummary>, Vec<Damage>), RestoreError> {
    let mut reader = Reader::new(io, arena, dir);
    let catalog = reader.catalog(None)?;
    let mut damages = catalog.damages;
    let mut summaries = Vec::new();
    for superblock in &catalog.checkpoints {
        let job = format::fnv1a(superblock.job_name.as_bytes());
        match reader.manifest(job, superblock) {
            Ok(manifest) => {
                let added = manifest.added.iter().map(|block| u64::from(block.len_bytes)).sum::<u64>();
                summaries.push(CheckpointSummary {
                    id: CheckpointId(manifest.checkpoint),
                    parent: (manifest.parent != 0).then_some(CheckpointId(manifest.parent)),
                    created_wall_ms: manifest.created_wall_ms,
                    kind: kind_of(&manifest),
                    new_bytes: added + u64::from(superblock.manifest.len_bytes),
                    state_bytes: manifest.state_bytes,
                    pages: manifest.pages,
                    states: manifest.states.iter().map(|state| format!("{}/{}", state.operator, state.name)).collect(),
                    job_name: manifest.job_name,
                });
            }
            Err(LoadFault::Damaged(found)) => damages.extend(found),
            Err(LoadFault::Refused(refusal)) => return Err(refusal),
        }
    }
    Ok((summaries, damages))
}
