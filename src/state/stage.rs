//! Where old contents wait that the sealed epoch still needs while their slots are already written anew.
//!
//! Here: single slots, chained per page, and whole pages. Not here: when something must be staged (`seal`).
//! Its blocks come from the arena and go back when the snapshot is done.

use super::page::{LANES, NONE, SlotAt};
use super::piece::slot_of;
use super::residency::Spilled;
use crate::memory::{Arena, Block, BlockSize, MemoryError};
use std::collections::BTreeMap;

const WHO: &str = "a snapshot of keyed state";
const BLOCK_SIZE: BlockSize = BlockSize::K64;
const HEAD_LEN: usize = 8;

/// The staged contents of one table.
#[derive(Default)]
pub(super) struct StageLog {
    blocks: Vec<Block>,
    /// Bytes used of the last block.
    len: usize,
    /// By the index of the page.
    images: BTreeMap<u32, StagedImage>,
    /// Pages whose images are on their way to the spill file.
    writing: Vec<u32>,
    /// The staged slots of the page being harvested: the lanes of each group, and where each slot's content is.
    collected_lanes: Vec<u8>,
    collected_at: Vec<u32>,
}

/// A whole page that is kept.
pub(super) enum StagedImage {
    /// In memory.
    Here(Block),
    /// In the spill file.
    Spilled(Spilled),
}

/// One staged slot.
pub(super) struct StagedSlot<'a> {
    /// The slot staged before it for the same page.
    pub previous: u32,
    /// Slot number and state, as in a delta (`piece`).
    pub slot: u16,
    /// The cell, empty unless the slot was live.
    pub cell: &'a [u8],
}

impl StageLog {
    /// Keeps a slot's content; answers its position.
    pub fn push(&mut self, arena: &Arena, staged: &StagedSlot) -> Result<u32, MemoryError> {
        let len = HEAD_LEN + staged.cell.len();
        if self.blocks.is_empty() || self.len + len > BLOCK_SIZE.bytes() {
            self.blocks.push(arena.take(WHO, BLOCK_SIZE)?);
            self.len = 0;
        }
        let last = self.blocks.len() - 1;
        let out = &mut self.blocks[last][self.len..self.len + len];
        out[..4].copy_from_slice(&staged.previous.to_le_bytes());
        out[4..6].copy_from_slice(&staged.slot.to_le_bytes());
        out[6..8].copy_from_slice(&(staged.cell.len() as u16).to_le_bytes());
        out[HEAD_LEN..].copy_from_slice(staged.cell);
        // Positions count units of 8 bytes, so that 32 bits reach 32 GiB.
        let position = (last * BLOCK_SIZE.bytes() + self.len) / 8;
        self.len = (self.len + len).next_multiple_of(8);
        Ok(position as u32)
    }

    /// The slot at a position that `push` answered.
    pub fn slot(&self, position: u32) -> StagedSlot<'_> {
        let offset = position as usize * 8;
        let bytes = &self.blocks[offset / BLOCK_SIZE.bytes()][offset % BLOCK_SIZE.bytes()..];
        let (previous, rest) = bytes.split_at(4);
        let len = usize::from(u16::from_le_bytes([rest[2], rest[3]]));
        StagedSlot {
            previous: u32::from_le_bytes(previous.try_into().expect("split at four bytes")),
            slot: u16::from_le_bytes([rest[0], rest[1]]),
            cell: &rest[4..4 + len],
        }
    }

    /// Looks up all slots staged for a page, from the last one.
    pub fn collect(&mut self, last: u32) {
        let mut position = last;
        while position != NONE {
            let StagedSlot { previous, slot, .. } = self.slot(position);
            let at = SlotAt::of(usize::from(slot_of(slot)));
            if self.collected_lanes.len() <= at.group {
                self.collected_lanes.resize(at.group + 1, 0);
                self.collected_at.resize((at.group + 1) * LANES, NONE);
            }
            self.collected_lanes[at.group] |= 1 << at.lane;
            self.collected_at[at.slot()] = position;
            position = previous;
        }
    }

    /// One past the last group in which `collect` found something.
    pub fn collected_groups(&self) -> usize {
        self.collected_lanes.len()
    }

    /// The lanes of a group that `collect` found.
    #[inline]
    pub fn collected_lanes(&self, group: usize) -> u8 {
        self.collected_lanes.get(group).copied().unwrap_or(0)
    }

    /// A slot that `collect` found.
    pub fn collected(&self, at: SlotAt) -> StagedSlot<'_> {
        self.slot(self.collected_at[at.slot()])
    }

    /// Ends what `collect` began.
    pub fn forget_collected(&mut self) {
        self.collected_lanes.clear();
    }

    /// Keeps a whole page.
    pub fn put_image(&mut self, page: u32, image: StagedImage) {
        if let StagedImage::Spilled(_) = image {
            self.writing.push(page);
        }
        self.images.insert(page, image);
    }

    /// Calls `is_written` for every image that is on its way to the spill file, until it says so.
    pub fn each_being_written(&mut self, mut is_written: impl FnMut(&mut Spilled) -> bool) {
        let images = &mut self.images;
        self.writing.retain(|page| match images.get_mut(page) {
            Some(StagedImage::Spilled(spilled)) => !is_written(spilled),
            _ => false,
        });
    }

    /// What `put_image` kept of a page; it is not kept any longer.
    #[inline]
    pub fn take_image(&mut self, page: u32) -> Option<StagedImage> {
        self.images.remove(&page)
    }

    /// The pages that are kept outside memory, which are not kept any longer.
    pub fn take_spilled(&mut self) -> impl Iterator<Item = Spilled> {
        self.writing.clear();
        std::mem::take(&mut self.images).into_values().filter_map(|image| match image {
            StagedImage::Spilled(spilled) => Some(spilled),
            _ => None,
        })
    }

    /// Gives all blocks back.
    pub fn clear(&mut self) {
        self.blocks.clear();
        self.images.clear();
        self.writing.clear();
        self.len = 0;
    }
}
