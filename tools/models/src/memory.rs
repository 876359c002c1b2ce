//! Segments on the heap: the protocols ask for memory, not for mappings.

use std::cell::Cell;
use std::ptr::NonNull;

/// Lends without a limit.
#[derive(Clone, Debug, Default)]
pub struct Arena;

/// Never comes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("memory has an end")]
pub struct MemoryError;

/// The one size of the models.
#[derive(Clone, Copy, Debug)]
pub enum BlockSize {
    /// 32 KiB.
    K32,
}

/// Some memory, aligned to 16 bytes.
pub struct Block(Box<[Cell<u128>]>);

impl Arena {
    /// Memory of that size.
    pub fn take(&self, _who: &'static str, size: BlockSize) -> Result<Block, MemoryError> {
        Ok(Block(vec![Cell::new(0); size.bytes() / size_of::<u128>()].into()))
    }
}

impl BlockSize {
    /// In bytes.
    pub const fn bytes(self) -> usize {
        32 << 10
    }
}

impl Block {
    /// In bytes.
    #[allow(clippy::len_without_is_empty, reason = "as the engine's")]
    pub fn len(&self) -> usize {
        size_of_val(&*self.0)
    }

    /// Where it begins.
    pub fn start(&self) -> NonNull<u8> {
        NonNull::from(&*self.0).cast()
    }
}
