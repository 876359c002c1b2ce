//! Aggregates the records of each key in event-time windows, slice by slice.
//!
//! A record is added to the one slice it lies in; a window that is complete merges its slices. One accumulator per key and slice, whatever the
//! overlap; one timer per key group and window end (`window_ends`). A window fires when the watermark reaches its last millisecond, key group
//! by key group: where the state is larger than its memory the pages of one key group are read once for all of its keys.
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
use super::window_ends::{Listed, Relisting, WindowEnds};
use super::{ChainContext, Flow, Signal, Stage};
use crate::exchange::RecordFrame;
use crate::graph::{BuildContext, BuildError};
use crate::metrics::{LossReason, OperatorCounters};
use crate::record::{Key, Record, Stamp};
use crate::state::{
    Both, Hashed, KeyGroup, LOOK_AHEAD, NamespacedState, Place, Seen, Spot, StateBackend, StateError, next_group,
};
use crate::time::{EventTimeMs, Watermark};
use crate::window::{Slice, SlicedWindows, TimeWindow, WindowResult};
use std::cell::RefCell;
use std::sync::Arc;

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
struct Firing {
    at: EventTimeMs,
    window: TimeWindow,
    group: KeyGroup,
    keys: KeyList,
    /// The next of the keys.
    next: usize,
}

/// Keeps and fires the windows of one subtask's keys.
pub struct WindowAggregate<K: Key + ?Sized + ToOwned, R: Record, A: Aggregate<R::View>, N> {
    operator: Arc<str>,
    windows: SlicedWindows,
    aggregate: A,
    slices: NamespacedState<K, SliceKey, Both<SliceHeader, A::Accumulator>>,
    ends: WindowEnds<K>,
    firing: Option<Firing>,
    /// Keys that have fired, and have slices for the next window as well.
    going_on: KeyList,
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
        let mut state = cx.state.borrow_mut();
        let slices = match A::MERGES_IN_ANY_ORDER {
            true => state.namespaced_merging(operator, "slices", merging(aggregate.clone()))?,
            false => state.namespaced(operator, "slices")?,
        };
        let key_groups = state.key_groups();
        let (count, budget) = (windows.slices_per_window(), cx.arena.budget().clone());
        let ends = WindowEnds::new(state.timers(operator, "window-ends")?, key_groups, count, budget);
        Ok(Self {
            windows,
            aggregate,
            slices,
            ends,
            firing: None,
            going_on: KeyList::default(),
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
        let behind = Behind::new(self.slice.slices_behind(missed), self.windows.slices_per_window());
        // Where an accumulator of those that missed windows lies says nothing of the slice.
        let spot = if missed == 0 { spot } else { Spot::UNKNOWN };
        self.ends.add(&key, window.max_timestamp(), KeySlice { behind, spot }, seen == Seen::Whole)
    }

    /// Fires the window that ends with `at` of the next of the keys; answers how many of the list that was.
    fn fire(&mut self, cx: &mut ChainContext<'_>, firing: &Firing) -> Option<usize> {
        let Firing { window, group, keys, next, .. } = firing;
        let key: &K = keys.nth(*next)?;
        let (mut merged, mut listed) = (None, 0);
        for slice in keys.slices_of(*next) {
            listed += 1;
            match slice.behind.count() {
                Some(behind) => {
                    if let Some(spot) = self.fire_slice(&mut merged, key, *group, *window, behind, slice.spot) {
                        let behind =
                            Behind::new(behind + self.windows.slices_per_slide(), self.windows.slices_per_window());
                        self.going_on.push(key.bytes(), KeySlice { behind, spot });
                    }
                }
                // It stands for all of them: it is the only one, and the only one that goes on.
                None => {
                    let mut goes_on = false;
                    for behind in (0..self.windows.slices_per_window() as i64).rev() {
                        goes_on |= self.fire_slice(&mut merged, key, *group, *window, behind, slice.spot).is_some();
                    }
                    if goes_on {
                        self.going_on.push(key.bytes(), KeySlice::ANY);
                    }
                }
            }
        }
        if let Some(accumulator) = merged {
            self.emit(cx, (key, *group), *window, &accumulator);
        }
        Some(listed)
    }

    /// Merges what the slice that so many of a window's slices lie behind holds. Answers where that is if the next window holds it too, and takes it
    /// out otherwise.
    fn fire_slice(
        &mut self,
        merged: &mut Option<A::Accumulator>,
        key: &K,
        group: KeyGroup,
        window: TimeWindow,
        behind: i64,
        spot: Spot,
    ) -> Option<Spot> {
        let start = window.end - (behind + 1) * self.windows.slice_ms();
        let is_last = start - window.start < self.windows.slide_ms();
        let whole = SliceKey { start, missed: 0 };
        let found = match is_last {
            true => self.slices.take_there(spot, key, group, &whole).map(|whole| (whole, spot)),
            false => self.slices.get_there(spot, key, group, &whole),
        };
        let (Both(header, accumulator), spot) = found?;
        if header.holds == 1 {
            self.merge(merged, accumulator);
        }
        if header.missed_max > 0 {
            // The accumulators of records that missed no more windows than have ended before this one.
            let first_end = self.windows.first_end(start).unwrap_or(window.end);
            let may_miss = (window.end - first_end) / self.windows.slide_ms();
            for missed in 1..=u64::from(header.missed_max).min(may_miss as u64) {
                let slice = SliceKey { start, missed };
                let part = match is_last {
                    true => self.slices.take_there(Spot::UNKNOWN, key, group, &slice),
                    false => self.slices.get_there(Spot::UNKNOWN, key, group, &slice).map(|(part, _)| part),
                };
                if let Some(part) = part {
                    self.merge(merged, part.1);
                }
            }
        }
        (!is_last).then_some(spot)
    }

    fn merge(&self, merged: &mut Option<A::Accumulator>, part: A::Accumulator) {
        match merged {
            Some(merged) => self.aggregate.merge(merged, &part),
            None => *merged = Some(part),
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
        let result = match self.result.take() {
            Some(mut result) => {
                key.clone_into(&mut result.key);
                WindowResult { window, value, ..result }
            }
            None => WindowResult { key: key.to_owned(), window, value },
        };
        let at = window.max_timestamp();
        let split = self.first_split + u32::from(group.0);
        let stamp = Stamp { at, clock: EventTimeMs::MIN, split, origin_ns: cx.origin_ns };
        self.next.record(cx, &stamp, &result);
        self.result = Some(result);
    }

    /// The windows that fire next: what is left of the last ones, or those of the next key group and end that are due.
    fn next_firing(&mut self, watermark: Watermark) -> Result<Option<Firing>, StateError> {
        if let Some(firing) = self.firing.take() {
            return Ok(Some(firing));
        }
        let Some((at, group)) = self.ends.next_due(watermark) else { return Ok(None) };
        let mut keys = match self.ends.take_list(at, group) {
            Listed::Keys(keys) => keys,
            Listed::GivenUp => self.keys_with_slices(at, group, None)?,
            Listed::Unknown => {
                let mut later = self.ends.relist(group);
                let keys = self.keys_with_slices(at, group, Some(&mut later))?;
                self.ends.relisted(later);
                keys
            }
        };
        keys.sort();
        let window = self.windows.window_ending(at.0 + 1);
        Ok(Some(Firing { at, window, group, keys, next: 0 }))
    }

    /// Fires at most `keys_max` keys, and keeps the others for later; answers how many of the allowed keys are used up: all if it cannot go on.
    fn fire_some(
        &mut self,
        cx: &mut ChainContext<'_>,
        mut firing: Firing,
        keys_max: usize,
    ) -> Result<usize, StateError> {
        let Firing { at, group, .. } = firing;
        let mut fired = 0;
        while fired < keys_max
            && !self.next.is_blocked()
            && cx.failure.is_none()
            && let Some(listed) = self.fire(cx, &firing)
        {
            firing.next += listed;
            fired += 1;
        }
        self.ends.add_all(group, at.saturating_add(self.windows.slide_ms()), &mut self.going_on)?;
        if firing.next < firing.keys.len() {
            self.firing = Some(firing);
            return Ok(keys_max);
        }
        self.ends.remove(at, group);
        self.ends.keep(firing.keys);
        self.slices.release_empty(group);
        Ok(fired)
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
        let (count, slice_ms) = (windows.slices_per_window(), windows.slice_ms());
        let mut later_slice = windows.slice_at(window.end);
        slices.for_each_spot(group, |key, SliceKey { start, missed }, spot| match &mut later {
            _ if missed > 0 || start < window.start => {}
            _ if start < window.end => {
                let behind = Behind::new((window.end - start) / slice_ms - 1, count);
                keys.push(key, KeySlice { behind, spot });
            }
            None => {}
            Some(later) => {
                if later_slice.start != start {
                    later_slice = windows.slice_at(start);
                }
                ends.list_later(later, &later_slice, count, key, spot);
            }
        })?;
        Ok(keys)
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
            Signal::Restore(_) => self.ends.rebuild(),
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
