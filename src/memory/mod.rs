//! Where do bytes live? One budget, one arena of anonymous memory, blocks lent out of it.
//!
//! Here: the budget every byte counts against, the arena and its free lists, exclusive blocks and buffers.
//! Not here: the segments shared between two slots while they fill (`exchange`), pages of keyed state (`state`).

mod arena;
mod block;
mod budget;
mod buffer;
mod frames;

pub use arena::{Arena, ArenaOptions, HugePages};
pub use block::{Block, BlockSize};
pub use budget::{MemoryBudget, MemoryError, Reservation};
pub use buffer::Buffer;
