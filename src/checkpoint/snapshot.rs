//! What one subtask hands over at a checkpoint: blocks of state pieces while it harvests, then everything else at once.
//!
//! Here: the hand-over types between `state`/`task` (which fill them) and the store (which makes them durable), and the way
//! back at restore. Not here: the bytes on disk (`format`), when a checkpoint starts (`coordinator`).

use super::CheckpointId;
use crate::memory::{Arena, Buffer, MemoryError};
use crate::state::KeyGroupRange;
use crc_fast::{CrcAlgorithm, Digest};

/// A piece of keyed state's home: which state, which key group, which page of that key group's table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PageKey {
    /// `StateId`: the hash of the operator's and the state's name; the names are in the manifest.
    pub state: u64,
    /// The key group.
    pub key_group: u16,
    /// The page's number within the key group's table; never reused for another prefix without an image.
    pub page: u32,
}

impl PageKey {
    /// The checksum of a piece of this page: CRC32C of state, key group, page number (little-endian) and the piece's bytes.
    pub(crate) fn checksum(self, bytes: &[u8]) -> u32 {
        PieceDigest::default().checksum(self, bytes)
    }
}

/// Computes the checksums of many pieces: to set it up costs as much as a short piece.
pub(super) struct PieceDigest(Digest);

impl Default for PieceDigest {
    fn default() -> Self {
        Self(Digest::new(CrcAlgorithm::Crc32Iscsi))
    }
}

impl PieceDigest {
    /// `PageKey::checksum`.
    pub(super) fn checksum(&mut self, page: PageKey, bytes: &[u8]) -> u32 {
        let mut key = [0; 14];
        key[..8].copy_from_slice(&page.state.to_le_bytes());
        key[8..10].copy_from_slice(&page.key_group.to_le_bytes());
        key[10..].copy_from_slice(&page.page.to_le_bytes());
        self.0.reset();
        self.0.update(&key);
        self.0.update(bytes);
        self.0.finalize() as u32
    }
}

/// What a piece holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PieceKind {
    /// The whole page: earlier pieces of the page are no longer needed. Without any bytes: the page is gone.
    Image,
    /// Changed slots only, to be applied over the earlier pieces in order.
    Delta,
}

/// Where one piece lies in a block's buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Whose bytes.
    pub page: PageKey,
    /// Image or delta.
    pub kind: PieceKind,
    /// From which byte of the buffer; none lies within its head.
    pub offset: u32,
    /// How many bytes; at most a page image.
    pub len: u32,
    /// Of an image: which hashes the page holds, so that a restore knows before it has read the page.
    pub span: HashSpan,
}

/// The hashes a page holds: those that begin with the first `depth` bits of `prefix`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HashSpan {
    /// The bits, at the top; the rest is zero.
    pub prefix: u64,
    /// How many of them count.
    pub depth: u8,
}

/// A buffer full of pieces on its way to the store.
#[derive(Debug)]
pub struct PieceBlock {
    /// The checkpoint these pieces belong to.
    pub checkpoint: CheckpointId,
    /// The bytes: room for the store's header, then pieces, which never overlap.
    pub buffer: Buffer,
    /// What lies where, in the order in which it must be applied.
    pub pieces: Vec<Piece>,
}

impl PieceBlock {
    /// What the store writes before the pieces, so that the block leaves from this buffer in one write.
    pub const HEAD_BYTES: usize = 64;

    /// A buffer for a block of at most `capacity_bytes` (at most 1 MiB), the head included, without any pieces.
    pub fn take_buffer(arena: &Arena, who: &'static str, capacity_bytes: usize) -> Result<Buffer, MemoryError> {
        let mut buffer = Buffer::take(arena, who, capacity_bytes)?;
        buffer.set_len(Self::HEAD_BYTES);
        buffer.filled_mut().fill(0);
        Ok(buffer)
    }
}

/// A keyed state as the manifest records it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateDescriptor {
    /// The hash of both names, the `state` of every `PageKey`.
    pub id: u64,
    /// The operator that owns it.
    pub operator: String,
    /// The state's name within the operator.
    pub name: String,
    /// A hash of how keys and values lie in memory; a page is only read by a state with the same one.
    pub layout_hash: u64,
    /// The layout in words, for error messages: `key u64, value {count: u64, mean: f64}`.
    pub layout: String,
}

/// A small state of one operator in one subtask: source positions, watermarks, pending sink transactions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OperatorBlob {
    /// The operator's name.
    pub operator: String,
    /// The subtask that wrote it.
    pub subtask: u32,
    /// What kind of blob, as the operator names it (an operator may write several).
    pub kind: String,
    /// The bytes; only the operator reads them.
    pub bytes: Vec<u8>,
}

/// The acknowledgement of one subtask: sent after its last `PieceBlock`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SubtaskSnapshot {
    /// The job vertex (chain) the subtask belongs to.
    pub vertex: String,
    /// Its index.
    pub subtask: u32,
    /// The key groups it owns; empty for non-keyed vertices.
    pub key_groups: KeyGroupRange,
    /// Its keyed states.
    pub states: Vec<StateDescriptor>,
    /// Its operators' small states.
    pub blobs: Vec<OperatorBlob>,
    /// How many piece blocks it handed over for this checkpoint.
    pub blocks: u32,
    /// From the barrier to the last harvested piece, in nanoseconds.
    pub harvest_ns: u64,
}
