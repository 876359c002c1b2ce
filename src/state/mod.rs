//! What is remembered? Keyed state in pages, its snapshots and how they come back.

mod key_group;

pub use key_group::{KeyGroup, KeyGroupRange, MAX_PARALLELISM_MAX, default_max_parallelism, murmur_hash};
