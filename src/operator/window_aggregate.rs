//! Aggregates the records of each key in event-time windows, slice by slice.
//!
//! A record is added to the one slice it lies in; a window that is complete merges its slices. One accumulator per key and slice, whatever the
//! overlap; one timer per key group and window end (`window_ends`). A window fires when the watermark reaches its last millisecond, key group
//! by key group: where the state is larger than its memory the pages of one key group are read once for all of its keys. It goes on from
//! what the window before held (`running_window`): only those slices are read that enter or leave.
//!
//! A record too late for some of its windows and in time for others (its split's clock has passed the ends of the first) counts in
//! the others only. Such records have accumulators of their own, by how many windows they miss, so that what a window holds
//! depends on the input alone and not on when other splits let the watermark advance.
//!
//! Semantics: Flink `WindowOperator` with `EventTimeTrigger`, results in event time `window.maxTimestamp`. Unlike Flink, lateness is judged
//! by the clock of the record's split, and records that fall between windows (slide larger than size) are counted.

use super::aggregate::Aggregate;
use super::key_list::{Behind, KeyList, KeySlice};
use super::keyed::{KeyedRecord, KeyedStage};
use super::output::SideGate;
use super::running_window::{Kept, RunningWindow, SliceSet};
use super::slice_queue::SliceQueues;
use super::spare_memory::SpareMemory;
use super::window_ends::{Listed, Relisting, WindowEnds};
use super::{ChainContext, Flow, Signal, Stage};
use crate::exchange::RecordFrame;
use crate::graph::{BuildContext, BuildError};
use crate::metrics::{LossReason, OperatorCounters};
use crate::record::{Key, Record, Stamp};
use crate::state::{
    Both, FixedValue, Hashed, KeyGroup, LOOK_AHEAD, NamespacedState, Place, Seen, Spot, StateBackend, StateError,
    next_group,
};
use crate::time::{EventTimeMs, Watermark};
use crate::window::{Slice, SlicedWindows, TimeWindow, WindowResult};
use std::cell::RefCell;
use std::cmp::Ordering;
use std::sync::Arc;

/// What windows held that others go on from takes at most this share of the budget.
const RUNNING_SHARE: usize = 8;
/// How many windows fire before other tasks get the slot.
const WINDOWS_PER_CALL_MAX: usize = 64;

/// Which accumulator of a key: the slice, and how many of the slice's first windows its records missed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct SliceKey {
    start: i64,
    missed: u64,
}

/// In front of the accumulator with `missed` 0: what else there is of the slice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable, millstream::Schema)]
#[repr(C)]
struct SliceHeader {
    /// 1 when this accumulator holds a record (it also stands for the slice when only others do).
    holds: u32,
    /// The largest `missed` of the slice's accumulators.
    missed_max: u32,
}

/// The windows that end at one time in one key group, while they fire.
struct Firing<T> {
    at: EventTimeMs,
    window: TimeWindow,
    group: KeyGroup,
    /// The number of its newest slice, and the slices that it is the last to hold.
    newest: i64,
    leaving: SliceSet,
    /// The number of the newest of these.
    leaving_through: i64,
    /// The keys with slices that enter, or all with all their slices.
    keys: KeyList,
    /// The next of the keys.
    next: usize,
    entering: Entering,
    /// What is left of what the window before held, if not all slices are listed.
    before: RunningWindow<T>,
    /// What the next window goes on from.
    after: RunningWindow<T>,
}

/// What a listed slice brings into a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Entering {
    /// The accumulator that counts from this window on.
    New,
    /// All that count in this window.
    All,
}

/// The window of one key.
struct KeyedWindow<'a, K: ?Sized> {
    key: &'a K,
    group: KeyGroup,
    window: TimeWindow,
    /// The number of its newest slice.
    newest: i64,
}

/// Whether an accumulator stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reading {
    Get,
    Take,
}

/// Keeps and fires the windows of one subtask's keys.
pub struct WindowAggregate<K: Key + ?Sized + ToOwned, R: Record, A: Aggregate<R::View>, N> {
    operator: Arc<str>,
    windows: SlicedWindows,
    aggregate: A,
    slices: NamespacedState<K, SliceKey, Both<SliceHeader, A::Accumulator>>,
    ends: WindowEnds<K>,
    firing: Option<Firing<A::Accumulator>>,
    /// Of each key group what its last window held, if that is known.
    running: Vec<Option<RunningWindow<A::Accumulator>>>,
    running_memory: SpareMemory,
    /// Their slices, of an aggregate that does not retract.
    queues: SliceQueues<A::Accumulator>,
    /// Empty again, for the next window.
    spare: RunningWindow<A::Accumulator>,
    watermark: Watermark,
    /// That of the last record.
    slice: Slice,
    late_output: SideGate<R::View>,
    counters: Arc<OperatorCounters>,
    /// The number of the operator's first key group among all that records come from.
    first_split: u32,
    /// Reused from window to window, so that firing allocates nothing for the key.
    result: Option<WindowResult<K::Owned, A::Out>>,
    next: N,
}

impl<K, R, A, N> WindowAggregate<K, R, A, N>
where
    K: Key + ?Sized + ToOwned,
    R: Record,
    R::View: Record,
    A: Aggregate<R::View>,
    N: Stage<WindowResult<K::Owned, A::Out>>,
{
    /// Sets up the states of this subtask, in front of `next`.
    pub fn open(
        operator: &Arc<str>,
        windows: SlicedWindows,
        aggregate: A,
        late_output: SideGate<R::View>,
        cx: &mut BuildContext,
        next: N,
    ) -> Result<Self, BuildError> {
        const { assert!(A::MERGES_IN_ANY_ORDER || !A::RETRACTS, "what retracts must also merge in any order") };
        let mut state = cx.state.borrow_mut();
        let slices = match A::MERGES_IN_ANY_ORDER {
            true => state.namespaced_merging(operator, "slices", merging(aggregate.clone()))?,
            false => state.namespaced(operator, "slices")?,
        };
        let key_groups = state.key_groups();
        let (count, budget) = (windows.slices_per_window(), cx.arena.budget().clone());
        let running_memory = SpareMemory::new("running windows", budget.clone(), RUNNING_SHARE);
        let ends = WindowEnds::new(state.timers(operator, "window-ends")?, key_groups, count, budget);
        Ok(Self {
            windows,
            aggregate,
            slices,
            ends,
            firing: None,
            running: key_groups.iter().map(|_| Some(RunningWindow::default())).collect(),
            running_memory,
            queues: SliceQueues::default(),
            spare: RunningWindow::default(),
            watermark: Watermark::MIN,
            slice: windows.slice_at(0),
            late_output,
            counters: cx.metrics.counters(operator),
            first_split: cx.first_split(operator),
            result: None,
            operator: operator.clone(),
            next,
        })
    }

    fn add(
        &mut self,
        cx: &mut ChainContext<'_>,
        stamp: &Stamp,
        (key, group): (&K, KeyGroup),
        place: Place,
        record: &R::View,
    ) -> Result<(), StateError> {
        if !self.slice.holds(stamp.at.0) {
            self.slice = self.windows.slice_at(stamp.at.0);
        }
        let Slice { start, windows, .. } = self.slice;
        // An input that was idle has let the operator's own clock pass its split's: the later of the two has closed windows.
        let clock = stamp.clock.max(self.watermark);
        let missed = self.slice.passed(clock);
        if windows == 0 {
            let reason = if self.slice.is_in_time() { LossReason::BetweenWindows } else { LossReason::NoTimestamp };
            self.counters.lost(reason).add(1);
            return Ok(());
        }
        if missed == windows {
            self.counters.lost(LossReason::LateForWindow).add(1);
            self.late_output.emit(cx, stamp, record);
            return Ok(());
        }
        let aggregate = &self.aggregate;
        let mut is_first = false;
        let slice = SliceKey { start, missed: missed as u64 };
        let place = if missed == 0 { place } else { self.slices.place(key, group, &slice) };
        let (seen, spot) = self.slices.add_at(place, key, group, &slice, |stored| {
            let mut entry = stored.unwrap_or_else(|| Both(SliceHeader::default(), aggregate.create()));
            is_first = entry.0.holds == 0;
            entry.0.holds = 1;
            aggregate.add(&mut entry.1, record);
            entry
        })?;
        if !is_first {
            return Ok(());
        }
        let key = Hashed::in_group(key, group);
        if missed > 0 {
            let whole = SliceKey { start, missed: 0 };
            self.slices.add(&key, &whole, |stored| {
                let mut entry = stored.unwrap_or_else(|| Both(SliceHeader::default(), aggregate.create()));
                entry.0.missed_max = entry.0.missed_max.max(missed as u32);
                entry
            })?;
        }
        // The first window these records count in; each window that fires sets the end of the next.
        let window = self.windows.window_ending(self.slice.end_of(missed));
        let behind = Behind::new(self.slice.slices_behind(missed));
        // Where an accumulator of those that missed windows lies says nothing of the slice.
        let spot = if missed == 0 { spot } else { Spot::UNKNOWN };
        self.ends.add(&key, window.max_timestamp(), KeySlice { behind, spot }, seen == Seen::Whole)
    }

    /// Fires the window of the next key, if there is one: in the order of keys, those that the window before held and those that are listed.
    #[inline]
    fn fire(&mut self, cx: &mut ChainContext<'_>, firing: &mut Firing<A::Accumulator>) -> bool {
        let Firing { window, group, keys, next, leaving, leaving_through, before, after, .. } = firing;
        let order = before.cmp_front(keys, *next);
        // Most keys of a window with many slices: nothing comes and nothing goes.
        if A::RETRACTS
            && order.is_lt()
            && let Some((key, Kept { slices, sum: Some(sum), .. })) = before.front::<K>()
            && !slices.meets(*leaving)
        {
            self.emit(cx, (key, *group), *window, sum);
            before.hand_on(after);
            return true;
        }
        if !A::RETRACTS
            && order.is_lt()
            && let Some((key, kept)) = before.front_mut::<K>()
            && self.queues.oldest(&kept.queue).is_some_and(|oldest| oldest > *leaving_through)
        {
            if let Some(merged) = self.merge_queue(kept, None) {
                self.emit(cx, (key, *group), *window, &merged);
            }
            before.hand_on(after);
            return true;
        }
        self.fire_changed(cx, firing, order)
    }

    fn fire_changed(
        &mut self,
        cx: &mut ChainContext<'_>,
        firing: &mut Firing<A::Accumulator>,
        order: Ordering,
    ) -> bool {
        let Firing { window, group, newest, leaving_through, keys, next, entering, before, after, .. } = firing;
        let held = if order.is_le() { before.pop_front::<K>() } else { None };
        let listed = || Some((keys.nth(*next)?, Kept::default(), Spot::UNKNOWN));
        let Some((key, mut kept, mut spot)) = held.or_else(listed) else { return false };
        let of = KeyedWindow { key, group: *group, window: *window, newest: *newest };
        let slices = order.is_ge().then(|| keys.slices_of(*next)).into_iter().flatten();
        let slices = slices.inspect(|_| *next += 1);
        if !A::RETRACTS {
            let merged = self.merge(&of, slices, &mut kept);
            self.leave_queue(&of, *leaving_through, &mut kept);
            if let Some(merged) = merged {
                self.emit(cx, (key, *group), *window, &merged);
            }
        } else {
            let passing = self.slide(&of, *entering, slices, &mut kept, &mut spot);
            let leaving = self.leave(&of, &mut kept, spot);
            match (&mut kept.sum, passing) {
                (None, None) => {}
                (None, Some(passing)) => self.emit(cx, (key, *group), *window, &passing),
                (Some(sum), None) => self.emit(cx, (key, *group), *window, sum),
                (Some(sum), Some(passing)) => {
                    self.aggregate.merge(sum, &passing);
                    self.emit(cx, (key, *group), *window, sum);
                    self.aggregate.retract(sum, &passing);
                }
            }
            match (&mut kept.sum, leaving) {
                _ if kept.accumulators == 0 => kept = Kept::default(),
                (Some(sum), Some(leaving)) => self.aggregate.retract(sum, &leaving),
                _ => {}
            }
        }
        if !kept.is_empty() {
            after.push_back(key, kept, spot);
        }
        true
    }

    /// Adds the slices that enter to what the window before held of a key; answers what of them is in this window only. `newest_spot` becomes where
    /// the last one is.
    #[inline]
    fn slide(
        &mut self,
        of: &KeyedWindow<'_, K>,
        entering: Entering,
        slices: impl Iterator<Item = KeySlice>,
        kept: &mut Kept<A::Accumulator>,
        newest_spot: &mut Spot,
    ) -> Option<A::Accumulator> {
        let (mut passing, mut is_complete) = (None, false);
        for KeySlice { behind, spot } in slices {
            match behind.count() {
                _ if is_complete => {}
                Some(behind) => {
                    *newest_spot =
                        self.slide_to(of, entering, behind, spot, kept, &mut passing).unwrap_or(*newest_spot);
                }
                None => {
                    // It stands for all of them, and comes first: the key's window begins anew.
                    *kept = Kept::default();
                    for behind in (0..self.windows.slices_per_window() as i64).rev() {
                        self.slide_to(of, Entering::All, behind, Spot::UNKNOWN, kept, &mut passing);
                    }
                    is_complete = true;
                }
            }
        }
        passing
    }

    #[inline]
    fn slide_to(
        &mut self,
        of: &KeyedWindow<'_, K>,
        entering: Entering,
        behind: i64,
        spot: Spot,
        kept: &mut Kept<A::Accumulator>,
        passing: &mut Option<A::Accumulator>,
    ) -> Option<Spot> {
        let Self { windows, aggregate, slices, .. } = self;
        let (start, nth) = (windows.slice_before(of.window.end, behind), windows.windows_before(behind));
        if entering == Entering::New && nth > 0 {
            // Records that missed the windows before.
            let slice = SliceKey { start, missed: nth as u64 };
            if let Some((part, _)) = slices.get_there(Spot::UNKNOWN, of.key, of.group, &slice) {
                merge(aggregate, &mut kept.sum, part.1);
                kept.accumulators += 1;
                kept.slices.insert(of.newest - behind);
            }
            None
        } else if windows.is_last(behind) {
            read_slice(slices, of, start, spot, Reading::Take, nth, |part, _| merge(aggregate, passing, part));
            None
        } else {
            let before = kept.accumulators;
            let found = read_slice(slices, of, start, spot, Reading::Get, nth, |part, _| {
                merge(aggregate, &mut kept.sum, part);
                kept.accumulators += 1;
            });
            if kept.accumulators > before {
                kept.slices.insert(of.newest - behind);
            }
            found
        }
    }

    /// Takes out the slices of a key for which this window is the last; answers what they add up to.
    #[inline]
    fn leave(
        &mut self,
        of: &KeyedWindow<'_, K>,
        kept: &mut Kept<A::Accumulator>,
        spot: Spot,
    ) -> Option<A::Accumulator> {
        let Self { windows, aggregate, slices, .. } = self;
        let mut leaving = None;
        for behind in windows.last_behind() {
            let number = of.newest - behind;
            if kept.slices.may_hold(number) {
                let (start, nth) = (windows.slice_before(of.window.end, behind), windows.windows_before(behind));
                read_slice(slices, of, start, spot, Reading::Take, nth, |part, _| {
                    merge(aggregate, &mut leaving, part);
                    kept.accumulators -= 1;
                });
                kept.slices.remove(number, windows.slices_per_window());
            }
        }
        leaving
    }

    /// Puts the slices that enter behind those of the window before, and merges all. Where the window before had no memory for them, or one enters
    /// in front of another, the key's window begins anew.
    #[inline]
    fn merge(
        &mut self,
        of: &KeyedWindow<'_, K>,
        entering: impl Iterator<Item = KeySlice>,
        kept: &mut Kept<A::Accumulator>,
    ) -> Option<A::Accumulator> {
        let (mut known, mut passing) = (kept.slices, None);
        for KeySlice { behind, spot } in entering {
            match behind.count() {
                Some(behind) if known.is_empty() && self.is_newest(of.newest - behind, kept) => {
                    if !self.push_slice(of, behind, spot, kept, &mut passing) {
                        known.insert(of.newest - behind);
                    }
                }
                Some(behind) => known.insert(of.newest - behind),
                None => known = SliceSet::ALL,
            }
        }
        if known.is_empty() {
            return self.merge_queue(kept, passing);
        }
        self.queues.for_each(&kept.queue, |number| known.insert(number));
        self.queues.clear(&mut kept.queue);
        *kept = Kept::default();
        let (mut merged, mut has_room) = (passing, true);
        for behind in (0..self.windows.slices_per_window() as i64).rev() {
            if known.may_hold(of.newest - behind) {
                self.merge_slice(of, behind, kept, &mut merged, &mut has_room);
            }
        }
        merged
    }

    /// Whether a slice is behind all that are in the queue.
    #[inline]
    fn is_newest(&self, number: i64, kept: &Kept<A::Accumulator>) -> bool {
        self.queues.newest(&kept.queue).is_none_or(|newest| newest < number)
    }

    /// Puts a slice behind the others; if it is in this window only, and first, merges it with `passing` instead. Answers whether there was
    /// memory; if not, part of it may be there.
    #[inline]
    fn push_slice(
        &mut self,
        of: &KeyedWindow<'_, K>,
        behind: i64,
        spot: Spot,
        kept: &mut Kept<A::Accumulator>,
        passing: &mut Option<A::Accumulator>,
    ) -> bool {
        let Self { windows, aggregate, slices, queues, running_memory, .. } = self;
        let (start, nth) = (windows.slice_before(of.window.end, behind), windows.windows_before(behind));
        if kept.queue.is_empty() && windows.is_last(behind) {
            read_slice(slices, of, start, spot, Reading::Take, nth, |part, _| merge(aggregate, passing, part));
            return true;
        }
        let (number, mut has_room) = (of.newest - behind, true);
        read_slice(slices, of, start, spot, Reading::Get, nth, |part, spot| {
            if A::MERGES_IN_ANY_ORDER {
                match &mut kept.sum {
                    Some(sum) => aggregate.merge(sum, &part),
                    None => kept.sum = Some(part.clone()),
                }
            }
            has_room = has_room && queues.push(&mut kept.queue, (number, spot), part, running_memory);
        });
        has_room
    }

    /// What the queue of a key holds behind `passing`.
    #[inline]
    fn merge_queue(
        &mut self,
        kept: &mut Kept<A::Accumulator>,
        passing: Option<A::Accumulator>,
    ) -> Option<A::Accumulator> {
        let Self { aggregate, queues, .. } = self;
        let merge_two = |into: &mut _, from: &_| aggregate.merge(into, from);
        if !A::MERGES_IN_ANY_ORDER {
            return queues.in_order(&kept.queue, passing, merge_two);
        }
        let mut merged = queues.in_any_order(&mut kept.queue, &mut kept.sum, merge_two);
        if let Some(passing) = passing {
            merge(aggregate, &mut merged, passing);
        }
        merged
    }

    /// Takes out the slices of a key for which this window is the last.
    #[inline]
    fn leave_queue(&mut self, of: &KeyedWindow<'_, K>, through: i64, kept: &mut Kept<A::Accumulator>) {
        let Self { windows, slices, queues, .. } = self;
        let mut left = None;
        while queues.oldest(&kept.queue).is_some_and(|oldest| oldest <= through) {
            let Some((number, spot)) = queues.pop(&mut kept.queue) else { return };
            if left.replace(number) != Some(number) {
                let behind = of.newest - number;
                let (start, nth) = (windows.slice_before(of.window.end, behind), windows.windows_before(behind));
                read_slice(slices, of, start, spot, Reading::Take, nth, |_, _| {});
            }
        }
    }

    /// Merges a slice of a window that begins anew, in the order of event time. The next one goes on from a queue as long as there is room for it, and
    /// otherwise knows which slices there are.
    fn merge_slice(
        &mut self,
        of: &KeyedWindow<'_, K>,
        behind: i64,
        kept: &mut Kept<A::Accumulator>,
        merged: &mut Option<A::Accumulator>,
        has_room: &mut bool,
    ) {
        let Self { windows, aggregate, slices, queues, running_memory, .. } = self;
        let (start, nth) = (windows.slice_before(of.window.end, behind), windows.windows_before(behind));
        let (is_last, number) = (windows.is_last(behind), of.newest - behind);
        let reading = if is_last { Reading::Take } else { Reading::Get };
        let found = read_slice(slices, of, start, Spot::UNKNOWN, reading, nth, |part, spot| {
            *has_room =
                *has_room && (is_last || queues.push(&mut kept.queue, (number, spot), part.clone(), running_memory));
            merge(aggregate, merged, part);
        });
        if *has_room || found.is_none() {
            return;
        }
        queues.for_each(&kept.queue, |number| kept.slices.insert(number));
        queues.clear(&mut kept.queue);
        if !is_last {
            kept.slices.insert(number);
        }
    }

    fn emit(
        &mut self,
        cx: &mut ChainContext<'_>,
        (key, group): (&K, KeyGroup),
        window: TimeWindow,
        accumulator: &A::Accumulator,
    ) {
        self.counters.records_out.add(1);
        let value = self.aggregate.result(accumulator);
        let result = match &mut self.result {
            Some(result) => {
                key.clone_into(&mut result.key);
                (result.window, result.value) = (window, value);
                result
            }
            empty @ None => empty.insert(WindowResult { key: key.to_owned(), window, value }),
        };
        let at = window.max_timestamp();
        let split = self.first_split + u32::from(group.0);
        let stamp = Stamp { at, clock: EventTimeMs::MIN, split, origin_ns: cx.origin_ns };
        self.next.record(cx, &stamp, result);
    }

    /// The windows that fire next: what is left of the last ones, or those of the next key group and end that are due.
    fn next_firing(&mut self, watermark: Watermark) -> Result<Option<Firing<A::Accumulator>>, StateError> {
        if let Some(firing) = self.firing.take() {
            return Ok(Some(firing));
        }
        let Some((at, group)) = self.ends.next_due(watermark) else { return Ok(None) };
        let before = self.running_of(group).take();
        self.running_memory.used_bytes -= before.as_ref().map_or(0, RunningWindow::capacity_bytes);
        let listed = self.ends.take_list(at, group);
        let before = match (&listed, before) {
            (Listed::GivenUp | Listed::Unknown, Some(before)) => self.forget(before),
            (_, before) => before,
        };
        let (mut keys, entering, before) = match (listed, before) {
            (Listed::Keys(keys), Some(before)) => (keys, Entering::New, before),
            (Listed::Keys(_) | Listed::GivenUp, _) => {
                (self.keys_with_slices(at, group, None)?, Entering::All, RunningWindow::default())
            }
            (Listed::Unknown, _) => {
                let mut later = self.ends.relist(group);
                let keys = self.keys_with_slices(at, group, Some(&mut later))?;
                self.ends.relisted(later);
                (keys, Entering::All, RunningWindow::default())
            }
        };
        keys.sort();
        let window = self.windows.window_ending(at.0 + 1);
        let newest = window.end.div_euclid(self.windows.slice_ms());
        let leaving_through = newest - self.windows.last_behind().start;
        let mut leaving = SliceSet::default();
        self.windows.last_behind().for_each(|behind| leaving.insert(newest - behind));
        let after = std::mem::take(&mut self.spare);
        Ok(Some(Firing { at, window, group, newest, leaving, leaving_through, keys, next: 0, entering, before, after }))
    }

    /// What a window held is not gone on from.
    fn forget(&mut self, mut window: RunningWindow<A::Accumulator>) -> Option<RunningWindow<A::Accumulator>> {
        window.queues().for_each(|queue| self.queues.clear(queue));
        None
    }

    fn running_of(&mut self, group: KeyGroup) -> &mut Option<RunningWindow<A::Accumulator>> {
        &mut self.running[usize::from(group.0 - self.ends.key_groups().start)]
    }

    /// Fires at most `keys_max` keys, and keeps the others for later; answers how many of the allowed keys are used up: all if it cannot go on.
    fn fire_some(
        &mut self,
        cx: &mut ChainContext<'_>,
        mut firing: Firing<A::Accumulator>,
        keys_max: usize,
    ) -> Result<usize, StateError> {
        let mut fired = 0;
        while fired < keys_max && !self.next.is_blocked() && cx.failure.is_none() {
            if !self.fire(cx, &mut firing) {
                self.fired(firing)?;
                return Ok(fired);
            }
            fired += 1;
        }
        self.firing = Some(firing);
        Ok(keys_max)
    }

    /// All keys have fired: the next window goes on from here.
    fn fired(&mut self, firing: Firing<A::Accumulator>) -> Result<(), StateError> {
        let Firing { at, group, keys, mut before, after, .. } = firing;
        if let Some((first, _)) = after.front::<K>() {
            self.ends.go_on(&Hashed::in_group(first, group), at.saturating_add(self.windows.slide_ms()))?;
        }
        self.ends.remove(at, group);
        self.ends.keep(keys);
        self.slices.release_empty(group);
        let bytes = after.capacity_bytes();
        if self.running_memory.has_room_for(bytes) {
            self.running_memory.used_bytes += bytes;
            *self.running_of(group) = Some(after);
        } else {
            self.forget(after);
        }
        before.clear();
        self.spare = before;
        Ok(())
    }

    /// The keys of a group that have slices in the windows that end with `at`; those in windows that end later are listed in `later`.
    fn keys_with_slices(
        &mut self,
        at: EventTimeMs,
        group: KeyGroup,
        mut later: Option<&mut Relisting>,
    ) -> Result<KeyList, StateError> {
        let Self { windows, slices, ends, .. } = self;
        let window = windows.window_ending(at.0 + 1);
        let mut keys = KeyList::default();
        let mut last_slice = windows.slice_at(window.end);
        slices.for_each_spot(group, |key, SliceKey { start, missed }, spot| {
            if start < window.start {
                return;
            }
            if missed == 0 && start < window.end {
                let behind = Behind::new((window.end - start) / windows.slice_ms() - 1);
                keys.push(key, KeySlice { behind, spot });
            } else if let Some(later) = &mut later {
                if last_slice.start != start {
                    last_slice = windows.slice_at(start);
                }
                let counts_from = missed as i64;
                if missed == 0 {
                    ends.list_later(later, &last_slice, key, spot);
                } else if last_slice.end_of(counts_from) > window.end {
                    ends.list_in(later, &last_slice, counts_from, key, Spot::UNKNOWN);
                }
            }
        })?;
        Ok(keys)
    }

    /// Takes over what a restore brought back. What the last windows held is only known of key groups where there are none.
    fn restore(&mut self) {
        self.ends.rebuild();
        self.running_memory.used_bytes = 0;
        self.queues = SliceQueues::default();
        for (group, running) in self.ends.key_groups().iter().zip(&mut self.running) {
            *running = self.ends.is_empty(group).then(RunningWindow::default);
        }
    }

    fn advance(&mut self, cx: &mut ChainContext<'_>, watermark: Watermark) -> Flow {
        // Windows fire in the order of their ends. The operator's clock follows when all have.
        let mut left = WINDOWS_PER_CALL_MAX;
        while left > 0 && !self.next.is_blocked() && cx.failure.is_none() {
            let fired = self.next_firing(watermark).and_then(|firing| {
                let Some(firing) = firing else { return Ok(None) };
                self.fire_some(cx, firing, left).map(Some)
            });
            match fired {
                // One more for the key group.
                Ok(Some(keys)) => left = left.saturating_sub(keys + 1),
                Ok(None) => {
                    self.watermark = self.watermark.max(watermark);
                    self.counters.watermark.set(self.watermark);
                    return Flow::Done;
                }
                Err(error) => cx.fail(&self.operator, error),
            }
        }
        Flow::More
    }
}

/// Merges an accumulator with those before it.
#[inline]
fn merge<V, A: Aggregate<V>>(aggregate: &A, merged: &mut Option<A::Accumulator>, part: A::Accumulator) {
    match merged {
        Some(merged) => aggregate.merge(merged, &part),
        None => *merged = Some(part),
    }
}

/// Calls `each` with the accumulators of a slice that count in the `nth` of its windows, and where the slice is. Answers where the slice is, if the key has it.
#[inline]
fn read_slice<K: Key + ?Sized, T: FixedValue>(
    slices: &mut NamespacedState<K, SliceKey, Both<SliceHeader, T>>,
    KeyedWindow { key, group, .. }: &KeyedWindow<'_, K>,
    start: i64,
    spot: Spot,
    reading: Reading,
    nth: i64,
    mut each: impl FnMut(T, Spot),
) -> Option<Spot> {
    let mut read = |spot, missed| match reading {
        Reading::Get => slices.get_there(spot, key, *group, &SliceKey { start, missed }),
        Reading::Take => slices.take_there(spot, key, *group, &SliceKey { start, missed }).map(|part| (part, spot)),
    };
    let (Both(header, accumulator), spot) = read(spot, 0)?;
    if header.holds == 1 {
        each(accumulator, spot);
    }
    if header.missed_max > 0 {
        for missed in 1..=u64::from(header.missed_max).min(nth as u64) {
            if let Some((Both(_, part), _)) = read(Spot::UNKNOWN, missed) {
                each(part, spot);
            }
        }
    }
    Some(spot)
}

/// How the stored accumulators of one slice become one.
fn merging<V, A: Aggregate<V>>(
    aggregate: A,
) -> impl Fn(&mut Both<SliceHeader, A::Accumulator>, &Both<SliceHeader, A::Accumulator>) {
    move |into, from| {
        into.0.holds = into.0.holds.max(from.0.holds);
        into.0.missed_max = into.0.missed_max.max(from.0.missed_max);
        aggregate.merge(&mut into.1, &from.1);
    }
}

impl<K, R, A, N> KeyedStage<K, R> for WindowAggregate<K, R, A, N>
where
    K: Key + ?Sized + ToOwned,
    R: Record,
    R::View: Record,
    A: Aggregate<R::View>,
    N: Stage<WindowResult<K::Owned, A::Out>>,
{
    // Always, as that of `Reduce`.
    #[inline(always)]
    fn records<'a>(
        &mut self,
        cx: &mut ChainContext<'_>,
        frame: &RecordFrame<'a>,
        mut records: impl Iterator<Item = KeyedRecord<'a, K, R>>,
    ) {
        let (windows, last) = (self.windows, self.slice);
        let start_of = |at: i64| if last.holds(at) { last.start } else { windows.slice_start(at) };
        let mut group = [None; LOOK_AHEAD];
        loop {
            let slices = &mut self.slices;
            // Most records miss no window; the others find their accumulator without help. The key's own hash is not kept: it is not needed.
            let mut placed = records.by_ref().map(|KeyedRecord { at, key, view, .. }| {
                let place = slices.place(key.key, key.group, &SliceKey { start: start_of(at.0), missed: 0 });
                (at, key.key, key.group, place, view)
            });
            let group = next_group(&mut placed, &mut group);
            self.slices.fetch(group.iter().flatten().map(|&(.., place, _)| place));
            for &(at, key, key_group, place, view) in group.iter().flatten() {
                if let Err(error) = self.add(cx, &frame.stamp(at), (key, key_group), place, view) {
                    cx.fail(&self.operator, error);
                }
            }
            if group.len() < LOOK_AHEAD {
                return;
            }
        }
    }

    fn look_ahead(
        &mut self,
        _state: &RefCell<StateBackend>,
        at: EventTimeMs,
        key: Hashed<'_, K>,
    ) -> Result<bool, StateError> {
        let slice = SliceKey { start: self.windows.slice_start(at.0), missed: 0 };
        self.slices.look_ahead(&key, &slice)
    }

    fn needs_pages(&self) -> bool {
        !self.slices.adds_blindly()
    }

    fn signal(&mut self, cx: &mut ChainContext<'_>, signal: &mut Signal<'_>) -> Flow {
        match signal {
            Signal::Watermark(watermark) if self.advance(cx, *watermark) == Flow::More => return Flow::More,
            Signal::Restore(_) => self.restore(),
            _ => {}
        }
        let side = self.late_output.signal(cx, signal);
        let next = self.next.signal(cx, signal);
        assert!(side == Flow::Done, "an exchange takes every signal at once");
        next
    }

    fn is_blocked(&self) -> bool {
        self.next.is_blocked() || self.late_output.is_blocked()
    }
}
