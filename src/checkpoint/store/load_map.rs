//! Reads the page map of the restored checkpoint while the job already runs: the store needs it for the next checkpoint only.
//!
//! A block per step, so that the control thread stays free; `finish_loading` reads the rest at once when a checkpoint is due before that.
//! Damage found here makes every checkpoint fail and is remembered in the restored checkpoint, so that the next start verifies all.

use super::CheckpointStore;
use crate::checkpoint::catalog::{LoadFault, Reader};
use crate::checkpoint::page_map::MapBlock;
use crate::checkpoint::restored::RestoredCheckpoint;
use crate::io::Io;
use std::ops::Range;
use std::sync::Arc;

/// What is still to be read, or why it cannot be.
#[derive(Debug)]
pub(super) struct MapLoading {
    restored: Arc<RestoredCheckpoint>,
    next: usize,
    fault: Option<String>,
}

impl MapLoading {
    pub(super) fn new(restored: Arc<RestoredCheckpoint>) -> Self {
        Self { restored, next: 0, fault: None }
    }

    pub(super) fn reason(&self) -> String {
        self.fault.clone().unwrap_or_else(|| "it is still being read".to_owned())
    }
}

impl CheckpointStore {
    /// Reads what is left of the restored checkpoint's page map; blocks. Call before `pages_needing_images` and `begin`.
    pub fn finish_loading(&mut self, io: &mut dyn Io) {
        self.load_map(io, usize::MAX);
    }

    /// Why the restored checkpoint's page map cannot be read, and so no checkpoint can begin; `None` as long as nothing is wrong with it.
    pub fn page_map_fault(&self) -> Option<&str> {
        self.loading.as_ref()?.fault.as_deref()
    }

    /// Whether the restored checkpoint's page map is still being read: more steps are needed.
    pub fn is_loading(&self) -> bool {
        self.loading.as_ref().is_some_and(|loading| loading.fault.is_none())
    }

    /// Reads the next blocks of the restored checkpoint's page map, if any are left.
    pub(super) fn load_some_map(&mut self, io: &mut dyn Io) {
        /// Some hundred microseconds.
        const BLOCKS_PER_STEP: usize = 1;
        self.load_map(io, BLOCKS_PER_STEP);
    }

    fn load_map(&mut self, io: &mut dyn Io, blocks_max: usize) {
        let Some(mut loading) = self.loading.take_if(|loading| loading.fault.is_none()) else { return };
        let blocks = loading.next..self.map_blocks.len().min(loading.next.saturating_add(blocks_max));
        loading.next = blocks.end;
        match self.read_map_blocks(io, &loading, blocks) {
            Ok(()) if loading.next == self.map_blocks.len() => self.map_is_complete(),
            Ok(()) => self.loading = Some(loading),
            Err(fault) => {
                tracing::error!(dir = %self.dir.display(), %fault, "the page map of the restored checkpoint cannot be read");
                loading.restored.suspect();
                loading.fault = Some(fault);
                self.loading = Some(loading);
            }
        }
    }

    fn read_map_blocks(&mut self, io: &mut dyn Io, of: &MapLoading, blocks: Range<usize>) -> Result<(), String> {
        let is_last = blocks.end == self.map_blocks.len();
        let mut reader = Reader::new(io, &self.arena, &self.dir);
        let blocks: &[MapBlock] = &self.map_blocks[blocks];
        let (map, restored) = (&mut self.map, &of.restored);
        let id = restored.id().0;
        let read = reader.read_map(restored.job(), id, blocks, |_, entry| map.apply_entry(&entry));
        let read = read.and_then(|()| if is_last { reader.check_places(id, map) } else { Ok(()) });
        read.map_err(|fault| match fault {
            LoadFault::Damaged(damages) => damages.first().map_or_else(String::new, ToString::to_string),
            LoadFault::Refused(refusal) => refusal.to_string(),
        })
    }

    fn map_is_complete(&mut self) {
        let map = std::mem::take(&mut self.map);
        map.lens().for_each(|(page, len)| self.note_chain(page, len));
        self.map = map;
    }
}
