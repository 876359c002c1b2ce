//! A buffer: a block with a write position, the form in which bytes are handed to `io`.

use super::arena::Arena;
use super::block::{Block, BlockSize};
use super::budget::MemoryError;

/// A block on loan and how much of it holds data. Its address is stable and aligned to 4 KiB.
#[derive(Debug)]
pub struct Buffer {
    block: Block,
    len: usize,
}

impl Buffer {
    /// Borrows a buffer that can hold at least `capacity_bytes` (at most 1 MiB) for `who`, empty.
    ///
    /// # Panics
    /// Asserts that `capacity_bytes` is at most 1 MiB.
    pub fn take(arena: &Arena, who: &'static str, capacity_bytes: usize) -> Result<Self, MemoryError> {
        let size = BlockSize::holding(capacity_bytes);
        assert!(
            size.is_some(),
            "a buffer holds at most {} bytes, {who} asked for {capacity_bytes}",
            BlockSize::M1.bytes()
        );
        Ok(Self { block: arena.take(who, size.unwrap_or(BlockSize::M1))?, len: 0 })
    }

    /// A buffer around a block whose every byte is data.
    pub(crate) fn full(block: Block) -> Self {
        let len = block.len();
        Self { block, len }
    }

    /// The block, without what it holds being forgotten.
    pub(crate) fn into_block(self) -> Block {
        self.block
    }

    /// Bytes that hold data.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether no byte holds data.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes that fit in all.
    pub fn capacity(&self) -> usize {
        self.block.len()
    }

    /// Bytes that still fit.
    pub fn remaining(&self) -> usize {
        self.capacity() - self.len
    }

    /// Says that the first `len` bytes hold data.
    ///
    /// # Panics
    /// Asserts that `len` is within the capacity.
    pub fn set_len(&mut self, len: usize) {
        assert!(len <= self.capacity());
        self.len = len;
    }

    /// Forgets the data.
    pub fn clear(&mut self) {
        self.len = 0;
    }

    /// Appends `bytes`, or returns `false` and appends nothing when they do not fit.
    #[must_use]
    pub fn append(&mut self, bytes: &[u8]) -> bool {
        if bytes.len() > self.remaining() {
            return false;
        }
        self.block[self.len..self.len + bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len();
        true
    }

    /// Appends zeros until the length is a multiple of `alignment` (a power of two no larger than the capacity).
    pub fn pad_to(&mut self, alignment: usize) {
        let padded = self.len.next_multiple_of(alignment);
        self.block[self.len..padded].fill(0);
        self.len = padded;
    }

    /// The data.
    pub fn filled(&self) -> &[u8] {
        &self.block[..self.len]
    }

    /// The data, to change it.
    pub fn filled_mut(&mut self) -> &mut [u8] {
        &mut self.block[..self.len]
    }

    /// All bytes, whether they hold data or not (never uninitialised).
    pub fn whole_mut(&mut self) -> &mut [u8] {
        &mut self.block
    }

    /// The block underneath.
    pub(crate) fn block(&self) -> &Block {
        &self.block
    }
}
