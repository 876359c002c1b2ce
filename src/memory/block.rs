//! A block: a piece of arena memory with exactly one owner.
//!
//! Invariant: the bytes of a block belong to this value alone from the moment the arena hands it out until it is dropped,
//! and the arena's mapping outlives it (each block holds the arena).
#![allow(unsafe_code, reason = "turns the arena's raw chunk memory into exclusively owned slices")]

use super::arena::{Arena, ArenaShared};
use std::ptr::NonNull;
use std::sync::Arc;

/// The sizes in which the arena lends memory; all are aligned to 4 KiB at least.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum BlockSize {
    /// 4 KiB.
    K4 = 0,
    /// 8 KiB.
    K8 = 1,
    /// 12 KiB, a page of keyed state after a split.
    K12 = 2,
    /// 16 KiB, a full page of keyed state.
    K16 = 3,
    /// 32 KiB, a segment of an exchange.
    K32 = 4,
    /// 64 KiB.
    K64 = 5,
    /// 256 KiB.
    K256 = 6,
    /// 1 MiB, a checkpoint block.
    M1 = 7,
}

impl BlockSize {
    /// Every size, smallest first.
    pub const ALL: [BlockSize; 8] =
        [Self::K4, Self::K8, Self::K12, Self::K16, Self::K32, Self::K64, Self::K256, Self::M1];

    /// The size in bytes.
    pub const fn bytes(self) -> usize {
        match self {
            Self::K4 => 4 << 10,
            Self::K8 => 8 << 10,
            Self::K12 => 12 << 10,
            Self::K16 => 16 << 10,
            Self::K32 => 32 << 10,
            Self::K64 => 64 << 10,
            Self::K256 => 256 << 10,
            Self::M1 => 1 << 20,
        }
    }

    /// The size of the blocks that are cut to get some of this size; `None` when those are whole chunks. What cutting leaves over is 4 KiB.
    pub(super) const fn cut_from(self) -> Option<Self> {
        match self {
            Self::K4 => Some(Self::K8),
            Self::K8 => Some(Self::K16),
            // 21 of them, and 4 KiB are left.
            Self::K12 => Some(Self::K256),
            Self::K16 => Some(Self::K32),
            Self::K32 => Some(Self::K64),
            Self::K64 => Some(Self::K256),
            Self::K256 => Some(Self::M1),
            Self::M1 => None,
        }
    }

    /// The smallest size that holds `bytes`, if any does.
    pub fn holding(bytes: usize) -> Option<Self> {
        Self::ALL.into_iter().find(|size| size.bytes() >= bytes)
    }
}

/// Exclusively owned memory on loan from the arena; it goes back when dropped. Fresh blocks are zeroed, recycled ones are not.
pub struct Block {
    start: NonNull<u8>,
    /// `size.bytes()`, kept because every access to the bytes needs it.
    len_bytes: u32,
    size: BlockSize,
    arena: Arc<ArenaShared>,
}

// SAFETY: a block is the only owner of its bytes (invariant above), so moving it to another thread moves that ownership;
// shared references only allow reads.
unsafe impl Send for Block {}
// SAFETY: as above; `&Block` gives `&[u8]` only.
unsafe impl Sync for Block {}

impl Block {
    /// Takes ownership of `size.bytes()` bytes at `start`.
    ///
    /// # Safety
    /// The bytes lie in one of `arena`'s chunks, are initialised, aligned to 4 KiB, and nobody else refers to them.
    pub(super) unsafe fn from_raw(start: NonNull<u8>, size: BlockSize, arena: Arc<ArenaShared>) -> Self {
        Self { start, len_bytes: size.bytes() as u32, size, arena }
    }

    /// A block without bytes: what is left where the bytes went elsewhere.
    pub(crate) fn nothing(arena: &Arena) -> Self {
        Self { start: NonNull::dangling(), len_bytes: 0, size: BlockSize::K4, arena: arena.shared().clone() }
    }

    /// The size class of this block.
    pub fn size(&self) -> BlockSize {
        self.size
    }

    /// Asks the processor to bring the cache line at `offset` nearer, without waiting for it. A hint: nothing can be observed of it.
    #[inline(always)]
    pub fn prefetch(&self, offset: usize) {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: SSE belongs to every x86-64; a prefetch reads and writes nothing the program could see and never faults, so any
        // address is allowed.
        unsafe {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            _mm_prefetch::<_MM_HINT_T0>(self.start.as_ptr().wrapping_add(offset).cast());
        }
        #[cfg(not(target_arch = "x86_64"))]
        std::hint::black_box(self.get(offset));
    }

    /// The address of the first byte; it stays the same for the block's whole life.
    pub(crate) fn start(&self) -> NonNull<u8> {
        self.start
    }
}

impl std::ops::Deref for Block {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        // SAFETY: invariant of the type: initialised, exclusively owned, alive as long as `arena` is held.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len_bytes as usize) }
    }
}

impl std::ops::DerefMut for Block {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`, and `&mut self` makes this the only reference.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len_bytes as usize) }
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        if self.len_bytes > 0 {
            self.arena.give_back(self.start, self.size);
        }
    }
}

impl std::fmt::Debug for Block {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Block").field("size", &self.size).finish_non_exhaustive()
    }
}
