//! One snapshot of one task, from the barrier until everything is handed over: harvest in slices, then the acknowledgement.

use super::input::TaskInput;
use super::messages::{Execution, ImageRequest, ReportSender, TaskReport};
use crate::checkpoint::{CheckpointId, SubtaskSnapshot};
use crate::operator::{ChainContext, Signal, SnapshotBuilder};
use crate::state::{HarvestProgress, KeyGroupRange, StateBackend};
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

/// How many bytes of pages one step harvests, rounded up to a page: about ten microseconds.
const HARVEST_SLICE_BYTES: usize = 16 << 10;

/// A snapshot under way.
pub(super) struct Snapshotting {
    builder: SnapshotBuilder,
    vertex: Arc<str>,
    key_groups: KeyGroupRange,
    begun_ns: u64,
    harvest: Harvest,
}

enum Harvest {
    UnderWay,
    Done { blocks: u32, harvest_ns: u64 },
    HandedOver,
}

impl Snapshotting {
    /// Seals the state. `builder` holds what the operators recorded at the barrier.
    pub(super) fn begin(
        builder: SnapshotBuilder,
        images: ImageRequest,
        state: &Rc<RefCell<StateBackend>>,
        vertex: &Arc<str>,
        key_groups: KeyGroupRange,
        now_ns: u64,
    ) -> Self {
        let mut state = state.borrow_mut();
        match images {
            ImageRequest::None => {}
            ImageRequest::Pages(pages) => state.request_images(pages.iter().copied()),
            ImageRequest::All => state.request_full(),
        }
        state.barrier(builder.id);
        Self { builder, vertex: vertex.clone(), key_groups, begun_ns: now_ns, harvest: Harvest::UnderWay }
    }

    pub(super) fn id(&self) -> CheckpointId {
        self.builder.id
    }

    pub(super) fn is_handed_over(&self) -> bool {
        matches!(self.harvest, Harvest::HandedOver)
    }

    /// A slice of the harvest, or a look whether the sinks are prepared. Whether anything was done.
    pub(super) fn step(
        &mut self,
        cx: &mut ChainContext<'_>,
        input: &mut TaskInput,
        state: &Rc<RefCell<StateBackend>>,
        reports: &ReportSender,
        of: Execution,
    ) -> bool {
        match self.harvest {
            Harvest::HandedOver => false,
            Harvest::UnderWay => {
                let harvested =
                    state.borrow_mut().harvest(HARVEST_SLICE_BYTES, &mut |block| reports.offer_pieces(block));
                match harvested {
                    Ok(HarvestProgress::Worked) => true,
                    Ok(HarvestProgress::Refused) => false,
                    Ok(HarvestProgress::Done { blocks }) => {
                        let harvest_ns = cx.now_ns.saturating_sub(self.begun_ns);
                        self.harvest = Harvest::Done { blocks, harvest_ns };
                        true
                    }
                    Err(error) => {
                        reports.send(TaskReport::Declined(of, self.id(), error.to_string()));
                        self.harvest = Harvest::HandedOver;
                        true
                    }
                }
            }
            Harvest::Done { blocks, harvest_ns } => {
                let mut prepared = true;
                input.signal_all(cx, Signal::Prepared(&mut prepared));
                if !prepared {
                    return false;
                }
                let snapshot = SubtaskSnapshot {
                    vertex: self.vertex.to_string(),
                    subtask: of.task.subtask,
                    key_groups: self.key_groups,
                    states: state.borrow().descriptors(),
                    blobs: std::mem::take(&mut self.builder.blobs),
                    blocks,
                    harvest_ns,
                };
                reports.send(TaskReport::Snapshot(of, self.id(), Box::new(snapshot)));
                self.harvest = Harvest::HandedOver;
                true
            }
        }
    }
}
