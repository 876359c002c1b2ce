//! How does a job survive? Barriers, aligned snapshots, the store on disk, restore.

mod aligner;
mod blobs;
pub mod coordinator;
mod snapshot;

pub use aligner::{Alignment, BarrierAction, BarrierAligner, Guarantee};
pub use blobs::RestoredBlobs;
pub use coordinator::{CheckpointAction, CheckpointCoordinator, CheckpointKind, CheckpointSettings};
pub use snapshot::{OperatorBlob, PageKey, Piece, PieceBlock, PieceKind, StateDescriptor, SubtaskSnapshot};

/// The number of a checkpoint; they grow by one, over restarts too. The first is 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CheckpointId(pub u64);

impl std::fmt::Display for CheckpointId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)
    }
}
