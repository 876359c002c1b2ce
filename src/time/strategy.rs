//! How a source makes its clock: each split a clock of its own, the splits of one subtask joined into one watermark.
//!
//! Here: `Watermarks`, what a program writes; `SplitClock`, the clock of one split; `SplitClocks`, the splits of one source subtask.
//! Not here: joining subtasks (`valve`), which records are late (the operators, by `Stamp::clock`).
//!
//! Invariants: no clock ever goes back, not even when a job is restored with a larger bound; nothing here depends on how fast a
//! split is read except idleness.
//! Semantics: Flink BoundedOutOfOrdernessWatermarks, WatermarksWithIdleness, WatermarkOutputMultiplexer (with FLINK-38454). Unlike
//! Flink, the clock advances with every record instead of every 200 ms, idleness is on by default, and clocks are part of the checkpoint.

use super::{ClockChange, EventTimeMs, StreamStatus, Watermark};
use std::sync::Arc;

/// How long a split may stay silent before the clock stops waiting for it, unless the program says otherwise.
pub const IDLE_AFTER_MS_DEFAULT: u64 = 5_000;

/// How far behind the latest record the clock runs, and when a silent split stops holding it.
#[derive(Clone, Debug)]
pub struct Watermarks {
    rule: Rule,
    idle_after_ms: Option<u64>,
}

/// The clock of one split, fed with every record of it.
#[derive(Clone, Debug)]
pub struct SplitClock {
    strategy: Watermarks,
    max_at: EventTimeMs,
    clock: Watermark,
    /// The time of the last record.
    last_at: EventTimeMs,
    /// The clock by which another of that time is late; `MIN` when it comes in time.
    last_passed: EventTimeMs,
    /// Whether there was one since the last look; then the split is being heard.
    saw_event: bool,
    activity: Activity,
}

/// What a checkpoint records of a split's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SplitClockState {
    /// The largest time seen.
    pub max_at: EventTimeMs,
    /// The clock.
    pub clock: Watermark,
    /// Whether the split was idle.
    pub idle: bool,
}

/// The splits of one source subtask and the watermark they have in common.
#[derive(Clone, Debug)]
pub struct SplitClocks {
    strategy: Watermarks,
    splits: Vec<(u32, SplitClock)>,
    last_output: Watermark,
    status: StreamStatus,
}

#[derive(Clone)]
enum Rule {
    Bounded { bound_ms: i64 },
    Custom(CustomRule),
}

type CustomRule = Arc<dyn Fn(EventTimeMs, EventTimeMs) -> Watermark + Send + Sync>;

/// Whether a split is being heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Activity {
    Heard,
    /// The first check without a new record was at this time; the idle time counts from there.
    Silent {
        since_ms: u64,
    },
    Idle,
}

impl Watermarks {
    /// Times never go back within a split (Flink `forMonotonousTimestamps`): the clock is the latest time less 1 ms.
    pub fn monotonous() -> Self {
        Self::bounded(0)
    }

    /// Records come at most `bound_ms` out of order: the clock is the latest time less the bound, less 1 ms. A negative bound is 0.
    pub fn bounded(bound_ms: i64) -> Self {
        Self { rule: Rule::Bounded { bound_ms: bound_ms.max(0) }, idle_after_ms: Some(IDLE_AFTER_MS_DEFAULT) }
    }

    /// `rule(at, max_at)` gives the clock after a record at `at`, when the latest so far (this one included) is `max_at`: the record itself
    /// is judged by the clock before it (Flink `WatermarkGenerator::onEvent`). It must depend on its arguments alone, or a restored job differs. A clock that goes back is ignored. Costs an indirect call for every record
    /// whose time is another one than that of the record before.
    pub fn custom(rule: impl Fn(EventTimeMs, EventTimeMs) -> Watermark + Send + Sync + 'static) -> Self {
        Self { rule: Rule::Custom(Arc::new(rule)), idle_after_ms: Some(IDLE_AFTER_MS_DEFAULT) }
    }

    /// A split that stays silent longer than `ms` no longer holds the clock.
    pub fn idle_after(self, ms: u64) -> Self {
        Self { idle_after_ms: Some(ms), ..self }
    }

    /// The clock waits for every split for ever: for files, where silence only means a slow disk.
    pub fn never_idle(self) -> Self {
        Self { idle_after_ms: None, ..self }
    }
}

impl std::fmt::Debug for Rule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Bounded { bound_ms } => write!(f, "Bounded({bound_ms} ms)"),
            Self::Custom(_) => write!(f, "Custom"),
        }
    }
}

impl SplitClock {
    /// The clock of a split that was never read. It stands at `MIN`.
    pub fn new(strategy: Watermarks) -> Self {
        Self::restored(strategy, SplitClockState { max_at: EventTimeMs::MIN, clock: Watermark::MIN, idle: false })
    }

    /// A clock that continues where a checkpoint recorded it. The strategy may be another one; the clock does not go back.
    pub fn restored(strategy: Watermarks, state: SplitClockState) -> Self {
        let activity = if state.idle { Activity::Idle } else { Activity::Heard };
        Self {
            strategy,
            max_at: state.max_at,
            clock: state.clock,
            last_at: state.max_at,
            last_passed: EventTimeMs::MIN,
            saw_event: false,
            activity,
        }
    }

    /// A record at `at` was read: returns the clock after it. An idle split is active again.
    #[inline(always)]
    pub fn on_event(&mut self, at: EventTimeMs) -> Watermark {
        self.passed(at);
        self.clock
    }

    /// The same, but returns the clock before it, if that had reached `at`, and `MIN` for a record that came in time.
    #[inline(always)]
    pub fn passed(&mut self, at: EventTimeMs) -> EventTimeMs {
        // Many records of a busy split have the time of the one before, which changes nothing.
        if self.saw_event && at == self.last_at { self.last_passed } else { self.passed_at_new_time(at) }
    }

    fn passed_at_new_time(&mut self, at: EventTimeMs) -> EventTimeMs {
        let judged_by = |clock: Watermark| if clock >= at { clock } else { EventTimeMs::MIN };
        let passed = judged_by(self.clock);
        self.last_at = at;
        self.saw_event = true;
        self.activity = Activity::Heard;
        self.max_at = self.max_at.max(at);
        let clock = match &self.strategy.rule {
            Rule::Bounded { bound_ms } => self.max_at.saturating_add(-1 - bound_ms),
            Rule::Custom(rule) => rule(at, self.max_at),
        };
        self.clock = self.clock.max(clock);
        self.last_passed = judged_by(self.clock);
        passed
    }

    /// The periodic look (every 200 ms or so): whether the split has just become idle. Silence counts from the first look that
    /// saw no new record, and must last strictly longer than the idle time. True once per silence.
    pub fn check_idle(&mut self, now_ms: u64) -> bool {
        let Some(idle_after_ms) = self.strategy.idle_after_ms else { return false };
        if std::mem::take(&mut self.saw_event) {
            return false;
        }
        match self.activity {
            Activity::Heard => self.activity = Activity::Silent { since_ms: now_ms },
            Activity::Silent { since_ms } if now_ms.saturating_sub(since_ms) > idle_after_ms => {
                self.activity = Activity::Idle;
                return true;
            }
            Activity::Silent { .. } | Activity::Idle => {}
        }
        false
    }

    /// When a look could find the split idle if nothing is read until then; at the next look where
    /// its silence has not begun yet.
    fn idle_check_at_ms(&self, next_ms: u64) -> Option<u64> {
        let idle_after_ms = self.strategy.idle_after_ms?;
        match self.activity {
            Activity::Silent { since_ms } => {
                Some(since_ms.saturating_add(idle_after_ms).saturating_add(1).max(next_ms))
            }
            Activity::Heard => Some(next_ms),
            Activity::Idle => None,
        }
    }

    /// The clock now: no record of this split at or before it is in time.
    pub fn clock(&self) -> Watermark {
        self.clock
    }

    /// Whether the split holds nobody back.
    pub fn is_idle(&self) -> bool {
        self.activity == Activity::Idle
    }

    /// What a checkpoint records. How long a split has been silent is not part of it: it counts anew after a restore.
    pub fn state(&self) -> SplitClockState {
        SplitClockState { max_at: self.max_at, clock: self.clock, idle: self.is_idle() }
    }
}

impl SplitClocks {
    /// No splits yet. A subtask without splits is idle: it has nothing that others should wait for.
    pub fn new(strategy: Watermarks) -> Self {
        Self::restored(strategy, Watermark::MIN)
    }

    /// No splits yet, and a watermark that was already sent before a restore. It starts active and says `Idle` at the first
    /// `advance` if it is: its receivers were restored as well, and wait for it until told otherwise.
    pub fn restored(strategy: Watermarks, last_output: Watermark) -> Self {
        Self { strategy, splits: Vec::new(), last_output, status: StreamStatus::Active }
    }

    /// Adds a split that was never read.
    pub fn add(&mut self, split: u32) {
        self.splits.push((split, SplitClock::new(self.strategy.clone())));
    }

    /// Adds a split as a checkpoint recorded it.
    pub fn add_restored(&mut self, split: u32, state: SplitClockState) {
        self.splits.push((split, SplitClock::restored(self.strategy.clone(), state)));
    }

    /// A split came to its end and holds nobody back any more. (The end of the whole input is the source's to announce.)
    pub fn remove(&mut self, split: u32) {
        self.splits.retain(|(number, _)| *number != split);
    }

    /// The clock of one split, looked up once per batch and then fed record by record; `None` when it is not here (any more).
    pub fn split_mut(&mut self, split: u32) -> Option<&mut SplitClock> {
        self.splits.iter_mut().find(|(number, _)| *number == split).map(|(_, clock)| clock)
    }

    /// Lets every split notice its silence; call `advance` afterwards.
    pub fn check_idle(&mut self, now_ms: u64) {
        for (_, clock) in &mut self.splits {
            clock.check_idle(now_ms);
        }
    }

    /// When the next look is needed, `next_ms` at the earliest; `None` while no split can become idle: all are, or none ever does.
    pub fn idle_check_at_ms(&self, next_ms: u64) -> Option<u64> {
        self.splits.iter().filter_map(|(_, clock)| clock.idle_check_at_ms(next_ms)).min()
    }

    /// What to send on after a batch or a check: the minimum over the active splits, if it grew. When all are idle, the maximum
    /// over them, before the status (a split that returns holds the watermark again, and does not turn it back).
    pub fn advance(&mut self) -> ClockChange {
        let active = self.splits.iter().filter(|(_, clock)| !clock.is_idle()).map(|(_, clock)| clock.clock()).min();
        let status = if active.is_some() { StreamStatus::Active } else { StreamStatus::Idle };
        let clock = active.or_else(|| self.splits.iter().map(|(_, clock)| clock.clock()).max());
        let watermark = clock.filter(|&clock| clock > self.last_output);
        self.last_output = watermark.unwrap_or(self.last_output);
        let changed = (status != self.status).then_some(status);
        self.status = status;
        ClockChange { watermark, status: changed }
    }

    /// The last watermark sent on; part of the checkpoint.
    pub fn last_output(&self) -> Watermark {
        self.last_output
    }

    /// The split that holds the watermark, with its clock; `None` when none is active.
    pub fn holder(&self) -> Option<(u32, Watermark)> {
        let active = self.splits.iter().filter(|(_, clock)| !clock.is_idle());
        active.map(|(split, clock)| (*split, clock.clock())).min_by_key(|&(_, clock)| clock)
    }

    /// Every split with what a checkpoint records of it.
    pub fn states(&self) -> impl Iterator<Item = (u32, SplitClockState)> + '_ {
        self.splits.iter().map(|(split, clock)| (*split, clock.state()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: i64) -> EventTimeMs {
        EventTimeMs(ms)
    }

    fn sent(watermark: Option<i64>, status: Option<StreamStatus>) -> ClockChange {
        ClockChange { watermark: watermark.map(EventTimeMs), status }
    }

    #[test]
    fn a_bounded_clock_runs_behind_the_latest_record_by_the_bound_and_a_millisecond() {
        let mut clock = SplitClock::new(Watermarks::bounded(50));
        assert_eq!(clock.clock(), Watermark::MIN);
        assert_eq!(clock.on_event(at(1_000)), at(949));
        assert_eq!(clock.on_event(at(990)), at(949));
        assert_eq!(clock.on_event(at(1_001)), at(950));
    }

    #[test]
    fn a_monotonous_clock_is_a_millisecond_behind() {
        assert_eq!(SplitClock::new(Watermarks::monotonous()).on_event(at(7)), at(6));
    }

    #[test]
    fn a_clock_at_the_ends_of_time_does_not_overflow() {
        let mut clock = SplitClock::new(Watermarks::bounded(i64::MAX));
        assert_eq!(clock.on_event(at(i64::MIN)), Watermark::MIN);
        assert_eq!(clock.on_event(at(-5)), Watermark::MIN);
        assert_eq!(SplitClock::new(Watermarks::bounded(-3)).on_event(at(0)), at(-1), "a negative bound is none");
    }

    #[test]
    fn a_record_is_judged_by_the_clock_before_it_even_if_the_clock_then_reaches_its_time() {
        let mut clock = SplitClock::new(Watermarks::custom(|at, _| at));
        assert_eq!((clock.passed(at(5)), clock.clock()), (EventTimeMs::MIN, at(5)));
        assert_eq!((clock.passed(at(5)), clock.passed(at(3))), (at(5), at(5)));
        assert_eq!((clock.passed(at(8)), clock.clock()), (EventTimeMs::MIN, at(8)));
    }

    #[test]
    fn a_custom_clock_sees_record_and_latest_and_never_goes_back() {
        let mut clock = SplitClock::new(Watermarks::custom(|at, max_at| EventTimeMs(max_at.0 - at.0)));
        assert_eq!(clock.on_event(at(10)), at(0));
        assert_eq!(clock.on_event(at(4)), at(6));
        assert_eq!(clock.on_event(at(9)), at(6));
    }

    #[test]
    fn silence_counts_from_the_first_check_that_saw_nothing_and_must_exceed_the_idle_time() {
        let mut clock = SplitClock::new(Watermarks::monotonous().idle_after(100));
        clock.on_event(at(1));
        assert!(!clock.check_idle(1_000), "saw the record");
        assert!(!clock.check_idle(5_000), "silence begins here");
        assert!(!clock.check_idle(5_100), "exactly the idle time is not more");
        assert!(clock.check_idle(5_101));
        assert!(!clock.check_idle(9_000), "told once");
        assert!(clock.is_idle());
    }

    #[test]
    fn a_record_ends_idleness_and_restarts_the_count() {
        let mut clock = SplitClock::new(Watermarks::monotonous().idle_after(100));
        assert!(!clock.check_idle(0));
        assert!(clock.check_idle(101));
        clock.on_event(at(1));
        assert!(!clock.is_idle());
        assert!(!clock.check_idle(500));
        assert!(!clock.check_idle(501));
        assert!(!clock.check_idle(601));
        assert!(clock.check_idle(602));
    }

    #[test]
    fn a_record_at_the_time_of_the_one_before_ends_idleness_too() {
        let mut clock = SplitClock::new(Watermarks::monotonous().idle_after(100));
        assert_eq!((clock.on_event(at(5)), clock.on_event(at(5))), (at(4), at(4)));
        assert_eq!([0, 200, 400].map(|now_ms| clock.check_idle(now_ms)), [false, false, true]);
        clock.on_event(at(5));
        assert!(!clock.is_idle());
    }

    #[test]
    fn a_split_is_idle_after_five_seconds_unless_told_never() {
        let mut clock = SplitClock::new(Watermarks::monotonous());
        assert!(!clock.check_idle(0));
        assert!(!clock.check_idle(5_000));
        assert!(clock.check_idle(5_001));
        let mut patient = SplitClock::new(Watermarks::monotonous().never_idle());
        assert!(!patient.check_idle(0));
        assert!(!patient.check_idle(u64::MAX));
    }

    #[test]
    fn looks_are_only_asked_for_while_a_split_can_become_idle() {
        let mut clocks = SplitClocks::new(Watermarks::monotonous().idle_after(100));
        clocks.add(0);
        assert_eq!(clocks.idle_check_at_ms(200), Some(200), "its silence has not begun");
        clocks.check_idle(200);
        assert_eq!(clocks.idle_check_at_ms(201), Some(301), "nothing can change before");
        clocks.check_idle(301);
        assert_eq!(clocks.idle_check_at_ms(501), None, "it is idle until a record comes");
        clocks.split_mut(0).unwrap().on_event(at(1));
        assert_eq!(clocks.idle_check_at_ms(501), Some(501));
        let mut patient = SplitClocks::new(Watermarks::monotonous().never_idle());
        patient.add(0);
        assert_eq!(patient.idle_check_at_ms(200), None);
    }

    #[test]
    fn a_restored_clock_does_not_go_back_when_the_bound_has_grown() {
        let mut clock = SplitClock::new(Watermarks::bounded(10));
        clock.on_event(at(1_000));
        let mut restored = SplitClock::restored(Watermarks::bounded(500), clock.state());
        assert_eq!(restored.on_event(at(1_001)), at(989));
        assert_eq!(restored.on_event(at(2_000)), at(1_499));
    }

    #[test]
    fn idleness_is_restored() {
        let mut clock = SplitClock::new(Watermarks::monotonous().idle_after(1));
        clock.check_idle(0);
        clock.check_idle(2);
        assert!(SplitClock::restored(Watermarks::monotonous(), clock.state()).is_idle());
    }

    fn two_splits(idle_after_ms: u64) -> SplitClocks {
        let mut clocks = SplitClocks::new(Watermarks::monotonous().idle_after(idle_after_ms));
        clocks.add(3);
        clocks.add(8);
        clocks
    }

    fn feed(clocks: &mut SplitClocks, split: u32, ms: i64) -> ClockChange {
        clocks.split_mut(split).unwrap().on_event(at(ms));
        clocks.advance()
    }

    #[test]
    fn the_slowest_split_holds_the_watermark_and_is_named() {
        let mut clocks = two_splits(100);
        assert_eq!(feed(&mut clocks, 3, 50), sent(None, None));
        assert_eq!(clocks.holder(), Some((8, Watermark::MIN)));
        assert_eq!(feed(&mut clocks, 8, 20), sent(Some(19), None));
        assert_eq!(clocks.holder(), Some((8, at(19))));
    }

    #[test]
    fn an_idle_split_no_longer_holds_the_watermark() {
        let mut clocks = two_splits(100);
        clocks.check_idle(0);
        let _ = feed(&mut clocks, 3, 50);
        clocks.check_idle(101);
        assert_eq!(clocks.advance(), sent(Some(49), None));
    }

    #[test]
    fn when_all_splits_are_idle_the_latest_clock_is_flushed() {
        let mut clocks = two_splits(100);
        let _ = feed(&mut clocks, 3, 50);
        let _ = feed(&mut clocks, 8, 20);
        clocks.check_idle(0);
        clocks.check_idle(1);
        clocks.check_idle(102);
        assert_eq!(clocks.advance(), sent(Some(49), Some(StreamStatus::Idle)));
        assert_eq!(clocks.holder(), None);
        assert_eq!(feed(&mut clocks, 8, 30), sent(None, Some(StreamStatus::Active)), "behind: nothing to promise");
        assert_eq!(feed(&mut clocks, 8, 80), sent(Some(79), None));
    }

    #[test]
    fn an_ended_split_no_longer_holds_the_watermark() {
        let mut clocks = two_splits(100);
        let _ = feed(&mut clocks, 3, 50);
        clocks.remove(8);
        assert_eq!(clocks.advance(), sent(Some(49), None));
        assert!(clocks.split_mut(8).is_none());
    }

    #[test]
    fn a_subtask_without_splits_is_idle() {
        let mut clocks = SplitClocks::new(Watermarks::monotonous());
        assert_eq!(clocks.advance(), sent(None, Some(StreamStatus::Idle)));
        assert_eq!(clocks.advance(), sent(None, None));
    }

    #[test]
    fn restored_splits_continue_from_the_watermark_already_sent() {
        let mut before = two_splits(100);
        let _ = feed(&mut before, 3, 50);
        let _ = feed(&mut before, 8, 20);
        let mut after = SplitClocks::restored(Watermarks::monotonous(), before.last_output());
        before.states().for_each(|(split, state)| after.add_restored(split, state));
        assert_eq!(after.advance(), sent(None, None));
        assert_eq!(feed(&mut after, 8, 30), sent(Some(29), None));
    }
}
