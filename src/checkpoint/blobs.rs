//! The operators' small states as a restored checkpoint holds them.

use super::snapshot::OperatorBlob;

/// All small states of a checkpoint, written by every subtask of every operator.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RestoredBlobs {
    blobs: Vec<OperatorBlob>,
}

impl RestoredBlobs {
    /// The blobs of one checkpoint.
    pub fn new(blobs: Vec<OperatorBlob>) -> Self {
        Self { blobs }
    }

    /// What the subtasks of `operator` wrote under `kind`, in the order of their indices.
    pub fn of<'a>(&'a self, operator: &'a str, kind: &'a str) -> impl Iterator<Item = &'a OperatorBlob> {
        self.blobs.iter().filter(move |blob| blob.operator == operator && blob.kind == kind)
    }
}
