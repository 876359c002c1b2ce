//! What is kept and what goes: retained checkpoints, unreachable extents, pages that must move so that extents die.
//!
//! Page chains keep old images alive, so extents would rarely become unreachable by themselves. Once they together take
//! half as much again as what lives in them, and one extent more, those that are less than half alive are emptied, the emptiest first,
//! a bounded number of bytes per checkpoint, by asking for images of the pages that live there.
//!
//! A page is also due when its deltas together are as long as its image: what is written for a change, which is held in a delta and, once
//! in a while, in an image, is then about twice the delta, and a restore reads at most two and a half times the state. Many short deltas
//! are due earlier, by their number: each is a read of its own where one page is wanted alone. Both limits are spread by page, so that
//! pages that change alike do not all become images at once.

use super::{Background, CheckpointStore, ImagesNeeded};
use crate::checkpoint::format::{SECTOR_BYTES, extent_name, superblock_name};
use crate::checkpoint::page_map::ChainLen;
use crate::checkpoint::snapshot::PageKey;
use crate::io::{FileId, Io, IoOp};
use std::collections::{BTreeMap, BTreeSet};

/// An extent holds some checkpoints like the last, so that none but every eighth has to open one; those that came after it was filled make it
/// unreachable soon, and it can be written again.
const CHECKPOINTS_PER_EXTENT: u64 = 8;
/// And extents are this part of all that there are, so that a large state does not lie in many.
const EXTENTS_MIN: u64 = 4;

/// How many extents are kept to be written again, however little checkpoints write. The blocks of a new file must be entered into the file
/// system's journal when they are flushed; those of one that was written before need not be.
const SPARES_MIN: usize = 2;

/// In so many steps, from one to one and a half times its image, a page's deltas may add up before an image is due.
const SPREAD_BYTES: usize = 8;

impl CheckpointStore {
    /// Which pages the next checkpoint must hand over as images. Ask before every `begin`; costs a walk over the page map
    /// when an extent is nearly dead.
    pub fn pages_needing_images(&self) -> ImagesNeeded {
        if self.needs_full {
            return ImagesNeeded::Everything;
        }
        let mut pages = self.long_chains.clone();
        let leaving = self.extents_to_empty();
        let mut left_bytes = self.options.move_bytes_max;
        if !leaving.is_empty() {
            let lives_there = |file: u32| leaving.contains(&file);
            for (page, chain) in self.map.iter().filter(|(_, chain)| chain.iter().any(|piece| lives_there(piece.file)))
            {
                let bytes = chain.iter().map(|piece| u64::from(piece.len)).sum();
                pages.insert(page);
                match left_bytes.checked_sub(bytes) {
                    Some(left) => left_bytes = left,
                    None => break,
                }
            }
        }
        ImagesNeeded::Pages(pages.into_iter().collect())
    }

    /// The emptiest extents whose living pieces fit into what may move at once; at least one if any is half dead. None while there is room.
    fn extents_to_empty(&self) -> BTreeSet<u32> {
        let live: u64 = self.map.live_bytes().values().sum();
        // Those in which nothing lives go by themselves, with the last retained checkpoint that reaches them.
        let taken: u64 = self.map.live_bytes().keys().filter_map(|number| self.extents.get(number)).sum();
        if taken <= live + live / 2 + self.extent_bytes_limit {
            return BTreeSet::new();
        }
        let current = self.current.map(|extent| extent.number);
        let half_dead = |(number, live): (&u32, &u64)| {
            let len = self.extents.get(number).copied().unwrap_or(0);
            (Some(*number) != current && *live * 2 < len).then_some((*live, *number))
        };
        let mut candidates: Vec<(u64, u32)> = self.map.live_bytes().iter().filter_map(half_dead).collect();
        candidates.sort_unstable();
        let mut moved = 0;
        let fits = |(live, _): &(u64, u32)| {
            let first = moved == 0;
            moved += live;
            first || moved <= self.options.move_bytes_max
        };
        candidates.into_iter().take_while(fits).map(|(_, number)| number).collect()
    }

    /// Keeps track of pages whose chain is so long that an image is due. A chain only grows until its page gets an image.
    pub(super) fn note_chain(&mut self, page: PageKey, len: ChainLen) {
        if len.deltas == 0 {
            self.long_chains.remove(&page);
            return;
        }
        let spread = page.page as usize + usize::from(page.key_group);
        let deltas_due = self.options.deltas_max - spread % (self.options.deltas_max / 2).max(1);
        let bytes_due = len.image_bytes + len.image_bytes * (spread % SPREAD_BYTES) as u64 / (2 * SPREAD_BYTES) as u64;
        if len.deltas >= deltas_due || len.delta_bytes >= bytes_due {
            self.long_chains.insert(page);
        }
    }

    /// How long the next new extent is. What a file system does when it writes to new space costs more than the write itself: an extent
    /// that is too long for what is written is used once for a long time.
    pub(super) fn extent_bytes(&self) -> u64 {
        let taken: u64 = self.extents.values().sum();
        let wanted = (taken / EXTENTS_MIN).max(self.written_bytes.saturating_mul(CHECKPOINTS_PER_EXTENT));
        wanted.max(self.options.extent_bytes_min).next_multiple_of(SECTOR_BYTES as u64).min(self.extent_bytes_limit)
    }

    /// Removes what no retained checkpoint, no reader and no writer needs, but for extents to be written again: a few, or as many as hold what
    /// the last checkpoint wrote. Failures are logged and tried again later.
    pub(super) fn remove_unreachable(&mut self, io: &mut dyn Io) {
        let mut needed: BTreeSet<u32> = self.retained.iter().flat_map(|kept| kept.extents.iter().copied()).collect();
        needed.extend(self.current.map(|extent| extent.number));
        if self.restored_alive.strong_count() > 0 {
            needed.extend(&self.restored_extents);
        }
        self.pins.retain(|pin| pin.alive.strong_count() > 0);
        needed.extend(self.pins.iter().flat_map(|pin| &pin.extents));
        let (kept, gone): (BTreeMap<u32, u64>, BTreeMap<u32, u64>) =
            std::mem::take(&mut self.extents).into_iter().partition(|(number, _)| needed.contains(number));
        self.extents = kept;
        // What checkpoints write varies: one that is a little shorter than a new one would be does as well.
        let (mut spare_bytes, spare_bytes_min) = (0, self.extent_bytes() / 4 * 3);
        for (number, len_bytes) in std::mem::take(&mut self.spares).into_iter().chain(gone) {
            let is_condemned = self.condemned.remove(&number);
            let is_wanted = self.spares.len() < SPARES_MIN || spare_bytes + len_bytes <= self.written_bytes;
            if !is_condemned && len_bytes >= spare_bytes_min && is_wanted {
                self.spares.push((number, len_bytes));
                spare_bytes += len_bytes;
            } else {
                self.remove_extent(io, number, len_bytes);
            }
        }
        for number in std::mem::take(&mut self.old_superblocks) {
            let token = io.submit(IoOp::Remove { path: self.dir.join(superblock_name(number)) });
            self.background.push((token, Background::RemovingSuperblock(number)));
        }
    }

    pub(super) fn remove_extent(&mut self, io: &mut dyn Io, number: u32, len_bytes: u64) {
        let token = io.submit(IoOp::Remove { path: self.dir.join(extent_name(number)) });
        self.background.push((token, Background::RemovingExtent(number, len_bytes)));
    }

    pub(super) fn close_later(&mut self, io: &mut dyn Io, file: FileId) {
        let token = io.submit(IoOp::Close { file });
        self.background.push((token, Background::Closing));
    }

    pub(super) fn collect_background(&mut self, io: &mut dyn Io) {
        let waiting = std::mem::take(&mut self.background);
        for (token, what) in waiting {
            match (io.take(token), what) {
                (None, what) => self.background.push((token, what)),
                (Some(Ok(_)), _) => {}
                (Some(Err(error)), what) => {
                    tracing::warn!(%error, "cleaning up the checkpoint directory failed, it is tried again later");
                    match what {
                        Background::Closing => {}
                        _ if error.kind == std::io::ErrorKind::NotFound => {}
                        Background::RemovingExtent(number, len_bytes) => {
                            self.condemned.insert(number);
                            self.extents.insert(number, len_bytes);
                        }
                        Background::RemovingSuperblock(number) => {
                            self.old_superblocks.insert(number);
                        }
                    }
                }
            }
        }
    }
}
