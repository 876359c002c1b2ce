//! What of the state the channel knows.

#[path = "../../../src/state/key_group.rs"]
mod key_group;

pub use key_group::KeyGroup;
