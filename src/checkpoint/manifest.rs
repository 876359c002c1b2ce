//! The manifest: everything a checkpoint is besides the pieces of state themselves.
//!
//! Here: its stored form, an rkyv archive that is only read with checked access after its block passed its checksum.
//! Not here: the block around it (`format`), who names it (`superblock`).

use super::format::{BlockFault, BlockRef};
use super::page_map::MapBlock;
use super::snapshot::{OperatorBlob, StateDescriptor};
use rkyv::{Archive, Deserialize, Serialize};

pub(super) const SCHEMA: &str = "manifest 1: rkyv 0.8 {checkpoint, parent, kind, created_wall_ms, max_parallelism, \
    job_name, vertices[name, parallelism], subtasks[vertex, index, start, end], states[id, operator, name, layout_hash, \
    layout], blobs[operator, subtask, kind, bytes], page_map[block, first(state, group), last(state, group)], added[block], extents[u32], pages, state_bytes}";

/// Why a checkpoint was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SnapshotKind {
    /// Only what changed since the one before.
    Incremental,
    /// All pages: the first one, and the next one after a failure.
    Full,
}

#[derive(Clone, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub(super) struct Manifest {
    pub checkpoint: u64,
    /// 0 when there is none.
    pub parent: u64,
    pub created_wall_ms: i64,
    /// 0 incremental, 1 full.
    pub kind: u16,
    pub max_parallelism: u16,
    pub job_name: String,
    pub vertices: Vec<Vertex>,
    pub subtasks: Vec<Subtask>,
    pub states: Vec<State>,
    pub blobs: Vec<Blob>,
    /// A base, then what later checkpoints changed, in order.
    pub page_map: Vec<MapBlock>,
    /// The blocks that this checkpoint wrote, all but this manifest.
    pub added: Vec<BlockRef>,
    /// The extents that any of this checkpoint lies in, the manifest included.
    pub extents: Vec<u32>,
    pub pages: u64,
    /// Bytes of pieces reachable through the page map.
    pub state_bytes: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub(super) struct Vertex {
    pub name: String,
    pub parallelism: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub(super) struct Subtask {
    pub vertex: String,
    pub index: u32,
    pub key_group_start: u16,
    pub key_group_end: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub(super) struct State {
    pub id: u64,
    pub operator: String,
    pub name: String,
    pub layout_hash: u64,
    pub layout: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
pub(super) struct Blob {
    pub operator: String,
    pub subtask: u32,
    pub kind: String,
    pub bytes: Vec<u8>,
}

impl From<StateDescriptor> for State {
    fn from(from: StateDescriptor) -> Self {
        let StateDescriptor { id, operator, name, layout_hash, layout } = from;
        Self { id, operator, name, layout_hash, layout }
    }
}

impl From<State> for StateDescriptor {
    fn from(from: State) -> Self {
        let State { id, operator, name, layout_hash, layout } = from;
        Self { id, operator, name, layout_hash, layout }
    }
}

impl From<OperatorBlob> for Blob {
    fn from(from: OperatorBlob) -> Self {
        let OperatorBlob { operator, subtask, kind, bytes } = from;
        Self { operator, subtask, kind, bytes }
    }
}

impl From<Blob> for OperatorBlob {
    fn from(from: Blob) -> Self {
        let Blob { operator, subtask, kind, bytes } = from;
        Self { operator, subtask, kind, bytes }
    }
}

impl Manifest {
    pub(super) fn encode(&self) -> Result<rkyv::util::AlignedVec, String> {
        rkyv::to_bytes::<rkyv::rancor::Error>(self).map_err(|error| error.to_string())
    }

    /// Reads an archive that passed its checksum. `bytes` must be aligned to 16. What is allocated is bounded by their
    /// length: the checked access refuses lengths beyond the archive and parts that overlap.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, BlockFault> {
        let malformed = |error: rkyv::rancor::Error| BlockFault::Malformed(error.to_string());
        let archived = rkyv::access::<ArchivedManifest, rkyv::rancor::Error>(bytes).map_err(malformed)?;
        rkyv::deserialize::<Self, rkyv::rancor::Error>(archived).map_err(malformed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_read_back_is_the_manifest() {
        let text = |text: &str| text.to_owned();
        let manifest = Manifest {
            checkpoint: 7,
            parent: 6,
            created_wall_ms: -1,
            kind: 1,
            max_parallelism: 128,
            job_name: text("a job"),
            vertices: vec![Vertex { name: text("count"), parallelism: 2 }],
            subtasks: vec![Subtask { vertex: text("count"), index: 1, key_group_start: 64, key_group_end: 128 }],
            states: vec![State {
                id: 1,
                operator: text("count"),
                name: text("n"),
                layout_hash: 2,
                layout: text("u64"),
            }],
            blobs: vec![Blob { operator: text("src"), subtask: 0, kind: text("position"), bytes: vec![1, 2, 3] }],
            page_map: vec![MapBlock {
                block: BlockRef { checkpoint: 7, offset: 4096, file: 1, len_bytes: 4096, crc: 9, kind: 2 },
                first: (1, 2),
                last: (3, 4),
            }],
            added: vec![],
            extents: vec![1, 2],
            pages: 3,
            state_bytes: 4,
        };
        assert_eq!(Manifest::decode(&manifest.encode().unwrap()).unwrap(), manifest);
    }
}
