//! What a barrier carries.

/// As the engine's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckpointId(pub u64);
