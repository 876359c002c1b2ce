//! Tumbling and sliding windows, cut into slices that overlapping windows share.
//!
//! A record is added to one slice, whatever the overlap; a window is the sum of its slices. Results equal those of one copy per window.
//! Semantics: Flink `TumblingEventTimeWindows`, `SlidingEventTimeWindows`, `TimeWindow.getWindowStartWithOffset`; slices as in Flink
//! SQL's `SliceAssigners`. Correct for negative times.

use super::TimeWindow;
use crate::time::EventTimeMs;

/// Windows of one size that follow each other without gap or overlap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tumbling;

/// Windows of one size that start at regular distances and may overlap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sliding {
    size_ms: i64,
}

/// Windows of `size` that start every `slide`, at `offset` from 1970, and the slices they are made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlicedWindows {
    size_ms: i64,
    slide_ms: i64,
    offset_ms: i64,
    slice_ms: i64,
    // Quotients of the above: a division takes longer than finding the slice of a key.
    slices_per_window: i64,
    slices_per_slide: i64,
}

/// A slice and the windows that hold it. Whoever asks again for records of one slice saves the divisions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slice {
    /// Where it starts.
    pub start: i64,
    /// Where the next one starts.
    pub end: i64,
    /// The end of the first window that holds it; `None` when no window does (slide larger than size).
    pub first_end: Option<i64>,
    /// How many windows hold it.
    pub windows: i64,
    slide_ms: i64,
    slices_per_slide: i64,
    /// How many slices of its first window lie behind it.
    behind_in_first: i64,
    /// Whether all its windows begin and end at times there are.
    is_in_time: bool,
}

impl Slice {
    /// Whether a record at `at` lies in it.
    #[inline]
    pub fn holds(&self, at: i64) -> bool {
        self.start <= at && at < self.end
    }

    /// Whether its records have a time, and windows of them would begin and end at times there are. If not, no window holds it.
    pub fn is_in_time(&self) -> bool {
        self.is_in_time
    }

    /// The end of the `nth` window that holds it, counted from 0.
    #[inline]
    pub(crate) fn end_of(&self, nth: i64) -> i64 {
        self.first_end.unwrap_or_default() + nth * self.slide_ms
    }

    /// How many slices of the `nth` window that holds it lie behind it.
    #[inline]
    pub(crate) fn slices_behind(&self, nth: i64) -> i64 {
        self.behind_in_first + nth * self.slices_per_slide
    }

    /// How many of its windows (the first ones) are complete once event time has come to `clock`.
    #[inline]
    pub fn passed(&self, clock: EventTimeMs) -> i64 {
        let Some(first_end) = self.first_end else { return 0 };
        match clock.0.saturating_sub(first_end - 1) {
            ahead if ahead < 0 => 0,
            ahead => (ahead / self.slide_ms).saturating_add(1).min(self.windows),
        }
    }
}

impl Tumbling {
    /// Windows of `size_ms`.
    ///
    /// # Panics
    /// Asserts that the size is positive.
    pub fn of(size_ms: i64) -> SlicedWindows {
        SlicedWindows::new(size_ms, size_ms)
    }
}

impl Sliding {
    /// Windows of `size_ms`; say how often they start with `every`.
    pub fn of(size_ms: i64) -> Self {
        Self { size_ms }
    }

    /// A window starts every `slide_ms`. With a slide larger than the size some records are in no window; unlike Flink, they are counted.
    ///
    /// # Panics
    /// Asserts that size and slide are positive.
    pub fn every(self, slide_ms: i64) -> SlicedWindows {
        SlicedWindows::new(self.size_ms, slide_ms)
    }
}

impl SlicedWindows {
    fn new(size_ms: i64, slide_ms: i64) -> Self {
        assert!(
            size_ms > 0 && slide_ms > 0,
            "windows need a size and a slide above 0, not {size_ms} ms and {slide_ms} ms"
        );
        let slice_ms = gcd(size_ms, slide_ms);
        let (slices_per_window, slices_per_slide) = (size_ms / slice_ms, slide_ms / slice_ms);
        Self { size_ms, slide_ms, offset_ms: 0, slice_ms, slices_per_window, slices_per_slide }
    }

    /// Moves the start of all windows by `offset_ms` (for days that do not begin at UTC midnight).
    ///
    /// # Panics
    /// Asserts that the offset is smaller than the slide, as Flink does.
    pub fn offset(self, offset_ms: i64) -> Self {
        assert!(
            offset_ms.abs() < self.slide_ms,
            "the offset of {offset_ms} ms must be smaller than the slide of {} ms",
            self.slide_ms
        );
        Self { offset_ms, ..self }
    }

    /// The length of every slice: the greatest common divisor of size and slide.
    pub fn slice_ms(self) -> i64 {
        self.slice_ms
    }

    /// The size of every window.
    pub fn size_ms(self) -> i64 {
        self.size_ms
    }

    /// From the start of one window to the start of the next.
    pub fn slide_ms(self) -> i64 {
        self.slide_ms
    }

    /// The start of the slice that holds `at`.
    #[inline]
    pub fn slice_start(self, at: i64) -> i64 {
        start_at_or_before(at, self.offset_ms, self.slice_ms)
    }

    /// The end of the first window that holds the slice at `slice_start`, or `None` when no window does (slide larger than size).
    #[inline]
    pub fn first_end(self, slice_start: i64) -> Option<i64> {
        let last_start = start_at_or_before(slice_start, self.offset_ms, self.slide_ms);
        // Windows that hold the slice start in (slice_start + slice - size ..= last_start], in steps of the slide.
        let overlap = self.size_ms - self.slice_ms - (slice_start - last_start);
        (overlap >= 0).then(|| last_start - overlap / self.slide_ms * self.slide_ms + self.size_ms)
    }

    /// The end of the last window that holds the slice at `slice_start`, where one does.
    #[inline]
    pub fn last_end(self, slice_start: i64) -> i64 {
        start_at_or_before(slice_start, self.offset_ms, self.slide_ms) + self.size_ms
    }

    /// The slice that holds `at`.
    pub fn slice_at(self, at: i64) -> Slice {
        let (slide_ms, slices_per_slide) = (self.slide_ms, self.slices_per_slide);
        let Some(start) = self.slice_start_in_time(at) else {
            return Slice {
                start: at,
                end: at.saturating_add(1),
                first_end: None,
                windows: 0,
                slide_ms,
                slices_per_slide,
                behind_in_first: 0,
                is_in_time: false,
            };
        };
        let first_end = self.first_end(start);
        let windows = first_end.map_or(0, |first_end| (self.last_end(start) - first_end) / self.slide_ms + 1);
        let end = start + self.slice_ms;
        let behind_in_first = first_end.map_or(0, |first_end| (first_end - end) / self.slice_ms);
        Slice { start, end, first_end, windows, slide_ms, slices_per_slide, behind_in_first, is_in_time: true }
    }

    /// The start of the slice that holds `at`, if it and all windows that may hold it begin behind the first of all times and end at the last.
    fn slice_start_in_time(self, at: i64) -> Option<i64> {
        at.checked_sub(self.offset_ms)?;
        let start = Some(self.slice_start(at)).filter(|start| *start <= at)?;
        start.checked_sub(self.offset_ms)?;
        let last_start =
            Some(start_at_or_before(start, self.offset_ms, self.slide_ms)).filter(|last| *last <= start)?;
        let first_start = last_start.checked_sub(self.size_ms - self.slice_ms)?;
        let is_in_time = first_start > i64::MIN
            && start.checked_add(self.slice_ms).is_some()
            && last_start.checked_add(self.size_ms).is_some();
        is_in_time.then_some(start)
    }

    /// The window that ends at `end`.
    pub fn window_ending(self, end: i64) -> TimeWindow {
        TimeWindow { start: end - self.size_ms, end }
    }

    /// How many slices every window has.
    #[inline]
    pub fn slices_per_window(self) -> usize {
        self.slices_per_window as usize
    }

    /// The start of the slice of a window that so many of its slices lie behind.
    #[inline]
    pub(crate) fn slice_before(self, window_end: i64, behind: i64) -> i64 {
        window_end - (behind + 1) * self.slice_ms
    }

    /// In how many windows before this one a slice was that so many of the window's slices lie behind.
    #[inline]
    pub(crate) fn windows_before(self, behind: i64) -> i64 {
        if behind < self.slices_per_slide { 0 } else { behind / self.slices_per_slide }
    }

    /// Whether a window is the last to hold the slice that so many of its slices lie behind.
    #[inline]
    pub(crate) fn is_last(self, behind: i64) -> bool {
        behind >= self.slices_per_window - self.slices_per_slide
    }

    /// The slices that a window is the last to hold: how many of its slices lie behind each.
    #[inline]
    pub(crate) fn last_behind(self) -> std::ops::Range<i64> {
        (self.slices_per_window - self.slices_per_slide).max(0)..self.slices_per_window
    }
}

/// Flink's `getWindowStartWithOffset`.
#[inline]
fn start_at_or_before(at: i64, offset_ms: i64, step_ms: i64) -> i64 {
    // Near the first and the last of all times it wraps around: `slice_at` finds that out.
    at.wrapping_sub(at.wrapping_sub(offset_ms).rem_euclid(step_ms))
}

fn gcd(a: i64, b: i64) -> i64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Flink's sliding assigner, literally: the newest window first.
    fn flink_windows(at: i64, size: i64, slide: i64, offset: i64) -> Vec<TimeWindow> {
        let remainder = (at - offset) % slide;
        let mut start = if remainder < 0 { at - (remainder + slide) } else { at - remainder };
        let mut windows = Vec::new();
        while start > at - size {
            windows.push(TimeWindow { start, end: start + size });
            start -= slide;
        }
        windows
    }

    #[test]
    fn a_window_may_be_as_long_as_half_of_all_times() {
        let slice = Tumbling::of(i64::MAX).slice_at(7);
        assert_eq!((slice.start, slice.first_end, slice.is_in_time()), (0, Some(i64::MAX), true));
        assert!(!Tumbling::of(1024).slice_at(i64::MIN).is_in_time());
    }

    proptest! {
        #[test]
        fn the_windows_of_a_records_slice_are_the_windows_flink_assigns(
            at in -1_000_000i64..1_000_000, size in 1i64..500, slide in 1i64..500, offset in -400i64..400,
        ) {
            prop_assume!(offset.abs() < slide);
            let windows = Sliding::of(size).every(slide).offset(offset);
            let slice = windows.slice_start(at);
            let ends: Vec<i64> = match windows.first_end(slice) {
                None => Vec::new(),
                Some(first) => (first..=windows.last_end(slice)).step_by(slide as usize).collect(),
            };
            let mut expected: Vec<i64> = flink_windows(at, size, slide, offset).iter().map(|w| w.end).collect();
            expected.reverse();
            prop_assert_eq!(ends, expected);
        }

        #[test]
        fn a_window_has_passed_when_the_clock_reached_its_last_millisecond(
            at in -1_000i64..1_000, size in 1i64..100, slide in 1i64..100, clock in -1_500i64..1_500,
        ) {
            let windows = Sliding::of(size).every(slide);
            let assigned = flink_windows(at, size, slide, 0);
            let passed = assigned.iter().filter(|window| window.end - 1 <= clock).count();
            let slice = windows.slice_at(at);
            let counted = (slice.windows, slice.passed(EventTimeMs(clock)) as usize);
            prop_assert_eq!(counted, (assigned.len() as i64, passed));
            prop_assert!((slice.start..slice.end).all(|at| slice.holds(at) && windows.slice_at(at) == slice));
            prop_assert!(!slice.holds(slice.start - 1) && !slice.holds(slice.end));
        }

        #[test]
        fn where_times_end_a_slice_has_the_windows_of_its_records_or_none_at_all(
            from_end in 0i64..2_000, is_first in any::<bool>(), size in 1i64..500, slide in 1i64..500, offset in -400i64..400,
        ) {
            prop_assume!(offset.abs() < slide);
            let at = if is_first { i64::MIN + from_end } else { i64::MAX - from_end };
            let windows = Sliding::of(size).every(slide).offset(offset);
            let slice = windows.slice_at(at);
            prop_assert!(slice.is_in_time() || slice.windows == 0 && from_end <= 1_500);
            if slice.is_in_time() {
                prop_assert!(slice.holds(at) && slice.start > i64::MIN);
                // The same at another time, which lies a multiple of the slide away.
                let away = (at / 2) - (at / 2) % slide;
                let assigned = flink_windows(at - away, size, slide, offset);
                prop_assert_eq!(slice.windows, assigned.len() as i64);
                prop_assert_eq!(slice.first_end, assigned.last().map(|window| window.end + away));
            }
        }

        #[test]
        fn the_slices_of_a_window_cover_it_exactly(size in 1i64..500, slide in 1i64..500, number in -100i64..100) {
            let windows = Sliding::of(size).every(slide);
            let window = windows.window_ending(number * slide + size);
            let behind = (0..windows.slices_per_window() as i64).rev();
            let slices: Vec<i64> = behind.map(|behind| window.end - (behind + 1) * windows.slice_ms()).collect();
            prop_assert_eq!(slices[0], window.start);
            prop_assert!(slices.iter().all(|&slice| windows.slice_start(slice) == slice));
            prop_assert_eq!(slices.last().unwrap() + windows.slice_ms(), window.end);
        }
    }
}
