//! Which 4 KiB frames of a chunk are free, and the blocks that can be cut from them.

use super::arena::CHUNK_LEN_BYTES;
use super::block::BlockSize;

const FRAME_LEN: usize = BlockSize::K4.bytes();
const FRAMES: usize = CHUNK_LEN_BYTES / FRAME_LEN;

/// The free frames of one chunk.
pub(super) struct Frames([bool; FRAMES]);

impl Frames {
    pub fn none() -> Self {
        Self([false; FRAMES])
    }

    /// A block at this offset is free.
    pub fn add(&mut self, offset: usize, size: BlockSize) {
        let first = offset / FRAME_LEN;
        self.0[first..first + size.bytes() / FRAME_LEN].fill(true);
    }

    /// Calls `each` with offset and size of blocks that together are the free frames: as many as possible of `size`, none larger, the rest
    /// in sizes that are powers of two. Blocks begin at multiples of their size, those of 12 KiB anywhere.
    pub fn each_block(&self, size: BlockSize, mut each: impl FnMut(usize, BlockSize)) {
        let (mut at, mut end) = (0, 0);
        while at < FRAMES {
            if at >= end {
                end = at + self.0[at..].iter().take_while(|&&free| free).count();
            }
            let fits = |other: &BlockSize| {
                let frames = other.bytes() / FRAME_LEN;
                let is_aligned = frames.is_power_of_two() && at.is_multiple_of(frames);
                *other <= size && at + frames <= end && (is_aligned || *other == size && size == BlockSize::K12)
            };
            match BlockSize::ALL.into_iter().rev().find(fits) {
                Some(block) => {
                    each(at * FRAME_LEN, block);
                    at += block.bytes() / FRAME_LEN;
                }
                None => at += 1,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(frames: &Frames, size: BlockSize) -> Vec<(usize, BlockSize)> {
        let mut blocks = Vec::new();
        frames.each_block(size, |offset, size| blocks.push((offset >> 10, size)));
        blocks
    }

    #[test]
    fn neighbours_become_one_block_where_it_may_begin() {
        let mut frames = Frames::none();
        (1..4).for_each(|block| frames.add(block * (16 << 10), BlockSize::K16));
        assert_eq!(cut(&frames, BlockSize::K32), [(16, BlockSize::K16), (32, BlockSize::K32)]);
        assert_eq!(cut(&frames, BlockSize::K12), [12, 24, 36, 48].map(|at| (at + 4, BlockSize::K12)));
    }

    #[test]
    fn nothing_that_is_lent_is_in_a_block() {
        let mut frames = Frames::none();
        frames.add(0, BlockSize::K12);
        frames.add(16 << 10, BlockSize::K4);
        let expected = [(0, BlockSize::K8), (8, BlockSize::K4), (16, BlockSize::K4)];
        assert_eq!(cut(&frames, BlockSize::M1), expected);
    }
}
