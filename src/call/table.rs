//! The reply slots of one handle: made with it, so that no call allocates, and as many as it may have calls under way.

use super::reply_slot::ReplySlot;
use crate::slot::HostWaiters;
use crossbeam_queue::ArrayQueue;
use std::sync::Arc;

/// Slots that are in no call.
pub(super) struct Table<R> {
    free: ArrayQueue<Arc<ReplySlot<R>>>,
    pub(super) room: HostWaiters,
}

impl<R> Table<R> {
    /// `under_way_max` slots, at least one.
    pub(super) fn new(under_way_max: usize) -> Self {
        let free = ArrayQueue::new(under_way_max.max(1));
        while free.push(Arc::new(ReplySlot::new())).is_ok() {}
        Self { free, room: HostWaiters::default() }
    }

    /// How many calls may be under way.
    pub(super) fn under_way_max(&self) -> usize {
        self.free.capacity()
    }

    /// A slot for one call, if there is one.
    #[inline]
    pub(super) fn take(&self) -> Option<Arc<ReplySlot<R>>> {
        self.free.pop()
    }

    /// A slot whose call is over, or was never handed over.
    #[inline]
    pub(super) fn give_back(&self, slot: Arc<ReplySlot<R>>) {
        // There are never more slots than places.
        let _ = self.free.push(slot);
        self.room.wake();
    }

    /// The call of a slot was abandoned: the job still has that slot, so another takes its place.
    pub(super) fn replace(&self) {
        self.give_back(Arc::new(ReplySlot::new()));
    }
}
