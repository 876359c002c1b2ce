//! The arena: anonymous memory mapped in 2 MiB chunks as it is needed, carved into blocks, never unmapped while in use.
//!
//! Here: growth, carving, the free lists. Not here: who may use how much beyond the one budget (`budget`).
//!
//! Invariant: the mapped bytes never exceed the budget; a chunk stays mapped until the last block and the arena are gone.

use super::block::{Block, BlockSize};
use super::budget::{MemoryBudget, MemoryError, Reservation};
use super::frames::Frames;
use memmap2::{MmapMut, MmapOptions};
use std::ptr::NonNull;
use std::sync::{Arc, Mutex};

/// One huge page, the unit in which the arena grows.
pub(super) const CHUNK_LEN_BYTES: usize = 2 << 20;

/// Whether the kernel is asked to back the arena with huge pages (worth 1.5-4x on random state).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HugePages {
    /// Advised from an arena's second chunk of 2 MiB on; the kernel decides.
    Advised,
    /// Not asked for.
    Off,
}

/// How an arena maps its memory.
#[derive(Clone, Copy, Debug)]
pub struct ArenaOptions {
    /// Whether huge pages are advised.
    pub huge_pages: HugePages,
}

impl Default for ArenaOptions {
    fn default() -> Self {
        Self { huge_pages: HugePages::Advised }
    }
}

/// Lends blocks of memory; cloning shares the arena.
#[derive(Clone)]
pub struct Arena {
    shared: Arc<ArenaShared>,
}

pub(super) struct ArenaShared {
    budget: MemoryBudget,
    options: ArenaOptions,
    /// Taken once per block, never per record: a loan lasts for thousands of records.
    carved: Mutex<Carved>,
}

#[derive(Default)]
struct Carved {
    chunks: Vec<Chunk>,
    free: [Vec<FreeBlock>; BlockSize::ALL.len()],
    /// What came back since free blocks were last put together.
    returned_bytes: usize,
}

struct Chunk {
    map: MmapMut,
    _reserved: Reservation,
}

struct FreeBlock(NonNull<u8>);

#[allow(unsafe_code, reason = "a free block is an address into a chunk that nobody refers to")]
// SAFETY: the address is only dereferenced after it became an exclusively owned `Block`.
unsafe impl Send for FreeBlock {}

impl Arena {
    /// An arena that maps nothing yet and counts every chunk against `budget`.
    pub fn new(budget: MemoryBudget, options: ArenaOptions) -> Self {
        Self { shared: Arc::new(ArenaShared { budget, options, carved: Mutex::default() }) }
    }

    /// Lends a block of `size` to `who`; grows by a chunk when nothing is free, refuses when the budget is exhausted.
    /// Blocks other borrowers only for the moment of taking a block off a list. Recycled bytes are not zeroed.
    pub fn take(&self, who: &'static str, size: BlockSize) -> Result<Block, MemoryError> {
        self.take_from(&mut self.shared.lock(), who, size)
    }

    /// As `take`, but leaves at least `leave_bytes` to others, and those in large blocks as far as possible: once no chunk can be mapped
    /// beyond them, what is lent are free blocks of this size, or ones that small blocks can be made into. For those who can do with less.
    pub fn take_leaving(&self, who: &'static str, size: BlockSize, leave_bytes: usize) -> Result<Block, MemoryError> {
        let mut carved = self.shared.lock();
        let can_lend = self.can_map_leaving(leave_bytes)
            || self.can_spare(&carved, size, leave_bytes)
                && (!carved.free[size as usize].is_empty()
                    || carved.gather_if_worthwhile(size)
                    || carved.cut_larger(size, BlockSize::K16));
        if !can_lend {
            let (asked_bytes, limit_bytes) = (size.bytes(), self.budget().limit_bytes());
            let left_bytes = self.budget().left_bytes();
            return Err(MemoryError::BudgetExhausted { who, asked_bytes, left_bytes, limit_bytes });
        }
        self.take_from(&mut carved, who, size)
    }

    /// Whether `take_leaving` would lend a block now without making it of others. Blocks nobody while the budget is far from used up.
    pub fn can_lend_leaving(&self, size: BlockSize, leave_bytes: usize) -> bool {
        self.can_map_leaving(leave_bytes) || {
            let carved = self.shared.lock();
            self.can_spare(&carved, size, leave_bytes) && !carved.free[size as usize].is_empty()
        }
    }

    fn can_map_leaving(&self, leave_bytes: usize) -> bool {
        self.budget().left_bytes() >= leave_bytes.saturating_add(CHUNK_LEN_BYTES)
    }

    fn can_spare(&self, carved: &Carved, size: BlockSize, leave_bytes: usize) -> bool {
        self.budget().left_bytes() + carved.free_bytes() >= leave_bytes.saturating_add(size.bytes())
    }

    fn take_from(&self, carved: &mut Carved, who: &'static str, size: BlockSize) -> Result<Block, MemoryError> {
        if carved.free[size as usize].is_empty()
            && let Err(refusal) = self.shared.refill(carved, who, size)
            && !carved.cut_larger(size, BlockSize::M1)
            && !carved.gather_if_worthwhile(size)
        {
            return Err(refusal);
        }
        let FreeBlock(start) = carved.free[size as usize].pop().expect("refill left a free block of this size");
        #[allow(unsafe_code, reason = "the free list gives up its only reference")]
        // SAFETY: `start` came off the free list, so nobody else refers to these bytes; they lie in a chunk that `shared` holds,
        // are zero-initialised by the mapping, and 4 KiB-aligned because chunks are page-aligned and sizes multiples of 4 KiB.
        let block = unsafe { Block::from_raw(start, size, self.shared.clone()) };
        Ok(block)
    }

    pub(super) fn shared(&self) -> &Arc<ArenaShared> {
        &self.shared
    }

    /// The budget this arena counts against.
    pub fn budget(&self) -> &MemoryBudget {
        &self.shared.budget
    }

    /// Bytes mapped so far, whether lent or free.
    pub fn mapped_bytes(&self) -> usize {
        self.shared.lock().chunks.iter().map(|chunk| chunk.map.len()).sum()
    }
}

impl std::fmt::Debug for Arena {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Arena").field("mapped_bytes", &self.mapped_bytes()).finish_non_exhaustive()
    }
}

impl ArenaShared {
    fn lock(&self) -> std::sync::MutexGuard<'_, Carved> {
        // A panic cannot leave the lists half changed: every change is one push or pop.
        self.carved.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Cuts up a free block of a larger size, which may first have to be cut off itself: a small block must not use up a whole chunk.
    fn refill(&self, carved: &mut Carved, who: &'static str, size: BlockSize) -> Result<(), MemoryError> {
        let (start, len) = match size.cut_from() {
            Some(larger) => {
                if carved.free[larger as usize].is_empty() {
                    self.refill(carved, who, larger)?;
                }
                let block = carved.free[larger as usize].pop();
                let FreeBlock(start) = block.expect("there was one, or refill left one");
                (start, larger.bytes())
            }
            None => self.map_chunk(carved, who)?,
        };
        carved.cut(start, len, size);
        Ok(())
    }

    fn map_chunk(&self, carved: &mut Carved, who: &'static str) -> Result<(NonNull<u8>, usize), MemoryError> {
        let reserved = self.budget.reserve(who, CHUNK_LEN_BYTES)?;
        let refused =
            |e: std::io::Error| MemoryError::MapRefused { who, asked_bytes: CHUNK_LEN_BYTES, reason: e.to_string() };
        let mut options = MmapOptions::new();
        options.len(CHUNK_LEN_BYTES);
        if !cfg!(miri) {
            // The budget is the limit; swap is not set aside for it. Miri knows no such flag.
            options.no_reserve_swap();
        }
        let mut map = options.map_anon().map_err(refused)?;
        // A job that needs little of its first chunk would have all of it cleared and resident as a huge page; one that needs a second
        // chunk will fill both.
        let earlier = carved.chunks.last().filter(|_| carved.chunks.len() == 1).map(|chunk| &chunk.map);
        if self.options.huge_pages == HugePages::Advised && !cfg!(miri) && !carved.chunks.is_empty() {
            // Refused where the kernel has no transparent huge pages: the memory works all the same.
            earlier.into_iter().chain([&map]).for_each(|map| drop(map.advise(memmap2::Advice::HugePage)));
        }
        let start = NonNull::new(map.as_mut_ptr()).expect("a mapping is never at address zero");
        carved.chunks.push(Chunk { map, _reserved: reserved });
        Ok((start, CHUNK_LEN_BYTES))
    }

    pub(super) fn give_back(&self, start: NonNull<u8>, size: BlockSize) {
        let mut carved = self.lock();
        carved.free[size as usize].push(FreeBlock(start));
        carved.returned_bytes += size.bytes();
    }
}

impl Carved {
    fn free_bytes(&self) -> usize {
        BlockSize::ALL.into_iter().map(|size| self.free[size as usize].len() * size.bytes()).sum()
    }

    /// Cuts memory up into free blocks of a size; what is left over becomes the smallest blocks.
    fn cut(&mut self, start: NonNull<u8>, len: usize, size: BlockSize) {
        // Blocks are pushed highest address first, so that they are lent lowest first and memory is touched in order.
        let mut free = |size: BlockSize, offset: usize| {
            let address = NonNull::new(start.as_ptr().wrapping_add(offset)).expect("inside a mapping");
            self.free[size as usize].push(FreeBlock(address));
        };
        let cut = len - len % size.bytes();
        (cut..len).step_by(BlockSize::K4.bytes()).for_each(|offset| free(BlockSize::K4, offset));
        (0..cut).step_by(size.bytes()).rev().for_each(|offset| free(size, offset));
    }

    /// Cuts up the smallest larger block there is, of at most this size. Whether there is a block of the size asked for now.
    fn cut_larger(&mut self, size: BlockSize, at_most: BlockSize) -> bool {
        let mut larger = BlockSize::ALL.into_iter().filter(|larger| size < *larger && *larger <= at_most);
        let smallest = larger.find_map(|larger| Some((self.free[larger as usize].pop()?, larger)));
        let Some((FreeBlock(start), larger)) = smallest else { return false };
        self.cut(start, larger.bytes(), size);
        true
    }

    /// Puts smaller free blocks together where they lie side by side, when memory is used up and enough came back since that was last
    /// tried: it looks at all of them. Whether there is a block of this size now.
    fn gather_if_worthwhile(&mut self, size: BlockSize) -> bool {
        const RETURNED_BYTES_MAX: usize = 1 << 20;
        let share_bytes = self.chunks.len() * CHUNK_LEN_BYTES / 64;
        if self.returned_bytes < share_bytes.clamp(size.bytes(), RETURNED_BYTES_MAX) {
            return false;
        }
        self.returned_bytes = 0;
        let mut chunks: Vec<_> = self.chunks.iter_mut().map(|chunk| (chunk.map.as_mut_ptr(), Frames::none())).collect();
        chunks.sort_unstable_by_key(|(start, _)| start.addr());
        for smaller in BlockSize::ALL.into_iter().filter(|smaller| *smaller < size) {
            for FreeBlock(block) in self.free[smaller as usize].drain(..) {
                let after = chunks.partition_point(|(start, _)| start.addr() <= block.addr().get());
                let (start, frames) = &mut chunks[after - 1];
                frames.add(block.addr().get() - start.addr(), smaller);
            }
        }
        for (start, frames) in chunks {
            frames.each_block(size, |offset, size| {
                let address = NonNull::new(start.wrapping_add(offset)).expect("inside a mapping");
                self.free[size as usize].push(FreeBlock(address));
            });
        }
        !self.free[size as usize].is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arena(limit_bytes: usize) -> Arena {
        Arena::new(MemoryBudget::new(limit_bytes), ArenaOptions::default())
    }

    #[test]
    fn two_blocks_never_share_a_byte() {
        let arena = arena(4 << 20);
        let mut a = arena.take("test", BlockSize::K4).unwrap();
        let mut b = arena.take("test", BlockSize::K4).unwrap();
        a.fill(1);
        b.fill(2);
        assert!(a.iter().all(|&x| x == 1) && b.iter().all(|&x| x == 2));
    }

    #[test]
    fn blocks_of_every_size_are_cut_so_that_nothing_is_lost_and_none_overlap() {
        for size in BlockSize::ALL {
            let arena = arena(2 << 20);
            let mut blocks = Vec::new();
            while let Ok(mut block) = arena.take("test", size) {
                block.fill(1);
                blocks.push(block);
            }
            while let Ok(mut block) = arena.take("test", BlockSize::K4) {
                block.fill(1);
                blocks.push(block);
            }
            assert_eq!(blocks.iter().map(|block| block.len()).sum::<usize>(), 2 << 20, "{size:?}");
            let count = blocks.len();
            let own = blocks.iter_mut().filter_map(|block| (std::mem::take(&mut block[0]) == 1).then_some(()));
            assert_eq!(own.count(), count, "two blocks of {size:?} begin at the same byte");
        }
    }

    #[test]
    fn a_returned_block_is_lent_again_before_the_arena_grows() {
        let arena = arena(2 << 20);
        for _ in 0..1000 {
            arena.take("test", BlockSize::K64).unwrap()[0] = 7;
        }
        assert_eq!(arena.mapped_bytes(), 2 << 20);
    }

    #[test]
    fn a_small_block_leaves_the_rest_of_its_chunk_whole() {
        let arena = arena(2 << 20);
        let _small = arena.take("test", BlockSize::K4).unwrap();
        let _large = arena.take("test", BlockSize::M1).unwrap();
        let _other = arena.take("test", BlockSize::K256).unwrap();
        assert_eq!(arena.mapped_bytes(), 2 << 20);
    }

    #[test]
    fn an_arena_never_maps_more_than_its_budget() {
        let arena = arena(4 << 20);
        let held: Vec<_> = std::iter::from_fn(|| arena.take("the pool", BlockSize::M1).ok()).collect();
        assert_eq!(held.len(), 4);
        assert!(matches!(
            arena.take("the pool", BlockSize::K4),
            Err(MemoryError::BudgetExhausted { who: "the pool", left_bytes: 0, .. })
        ));
    }

    #[test]
    fn blocks_that_came_back_side_by_side_are_lent_as_larger_ones_when_memory_is_used_up() {
        let arena = arena(2 << 20);
        let mut small: Vec<_> = std::iter::from_fn(|| arena.take("test", BlockSize::K12).ok()).collect();
        assert!(arena.take("test", BlockSize::K32).is_err(), "all is lent in small blocks");
        small.retain(|block| block.as_ptr().addr() % (1 << 20) < 512 << 10);
        let mut large: Vec<_> = std::iter::from_fn(|| arena.take("test", BlockSize::K32).ok()).collect();
        assert!(large.len() >= 14, "{} blocks", large.len());
        let ends = |block: &Block| [block[0], block[block.len() - 1]];
        small.iter_mut().for_each(|block| block.fill(1));
        large.iter_mut().for_each(|block| block.fill(2));
        assert!(small.iter().all(|block| ends(block) == [1; 2]) && large.iter().all(|block| ends(block) == [2; 2]));
    }

    #[test]
    fn a_block_outlives_the_arena_handle_it_came_from() {
        let mut block = arena(2 << 20).take("test", BlockSize::K16).unwrap();
        block[16383] = 9;
        assert_eq!(block[16383], 9);
    }
}
