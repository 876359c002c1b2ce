//! How does a job survive? Barriers, aligned snapshots, the store on disk, restore.

mod aligner;
mod blobs;
mod catalog;
pub mod coordinator;
mod error;
mod files;
mod format;
#[doc(hidden)]
pub mod fuzzing;
mod loader;
mod lock;
mod manifest;
mod page_map;
mod restored;
mod savepoint;
mod savepoint_pieces;
mod snapshot;
mod store;
mod superblock;
mod superblock_file;
mod verify;

pub use aligner::{Alignment, BarrierAction, BarrierAligner, Guarantee};
pub use blobs::RestoredBlobs;
pub use coordinator::{CheckpointAction, CheckpointCoordinator, CheckpointKind, CheckpointSettings};
pub use error::{CheckpointError, Damage, RestoreError, SavepointError};
pub use files::{CheckpointFollower, CommittedFiles, NamedCheckpoint, extent_file_name};
pub use format::{BlockFault, FORMAT_VERSION};
pub use loader::{LoadedPiece, PieceLoader};
pub use manifest::SnapshotKind;
pub use page_map::PieceRef;
pub use restored::{PageIndex, RestoredCheckpoint};
pub use savepoint::{Savepoint, SavepointContents, SavepointCopy};
pub use snapshot::{HashSpan, OperatorBlob, PageKey, Piece, PieceBlock, PieceKind, StateDescriptor, SubtaskSnapshot};
pub(crate) use store::StorePins;
pub use store::{
    CheckpointPlan, CheckpointStore, ImagesNeeded, JobIdentity, OpenedStore, Pruned, StoreEvent, StoreOptions,
};
pub use verify::{CheckpointSummary, VerifyReport, list, verify};

/// The number of a checkpoint; they grow by one, over restarts too. The first is 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CheckpointId(pub u64);

impl std::fmt::Display for CheckpointId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)
    }
}
