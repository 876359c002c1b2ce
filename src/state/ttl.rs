//! How long state lives after its last use: the settings, the clock they are read by, and the stamp that each value carries.
//!
//! Here: when something has expired. Not here: taking it out of the pages (`sweep`), the states that expire (`expiring_*`).
//!
//! A state with a time to live never returns what has expired. Unlike Flink the stamps lie in the pages beside the values: they are part of
//! every checkpoint, and the time between a crash and the restart counts. Unlike Flink a time to live may also be in event time.
//! Semantics: Flink `StateTtlConfig`, `TtlUtils.expired`: `last use + time to live <= now`, without overflow.

use super::StateValue;
use crate::time::EventTimeMs;
use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

/// How many entries each access looks at beside its own, as Flink's heap backend does.
const SWEPT_PER_ACCESS: u32 = 5;

/// When the values of a state expire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StateTtl {
    duration_ms: i64,
    time: TtlTime,
    refreshed_by: TtlRefresh,
    swept_per_access: u32,
}

/// Which time passes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TtlTime {
    /// The machine's wall clock, as it was when the step began.
    #[default]
    Processing,
    /// Event time: a value is stamped with the time of the record at hand, and expires when the operator's watermark has come so far.
    Event,
}

/// What counts as a use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TtlRefresh {
    /// Only writing (Flink `OnCreateAndWrite`).
    #[default]
    OnCreateAndWrite,
    /// Reading too (Flink `OnReadAndWrite`); each read is then also a write.
    OnReadAndWrite,
}

impl StateTtl {
    /// Values live this long after they were last written, in processing time. Less than a millisecond is a millisecond.
    pub fn after(duration: Duration) -> Self {
        let duration_ms = i64::try_from(duration.as_millis()).unwrap_or(i64::MAX).max(1);
        Self {
            duration_ms,
            time: TtlTime::default(),
            refreshed_by: TtlRefresh::default(),
            swept_per_access: SWEPT_PER_ACCESS,
        }
    }

    /// The same in event time.
    pub fn in_event_time(self) -> Self {
        Self { time: TtlTime::Event, ..self }
    }

    /// The same, but reading counts as a use.
    pub fn refreshed_on_read(self) -> Self {
        Self { refreshed_by: TtlRefresh::OnReadAndWrite, ..self }
    }

    /// How many entries each access looks at for others that have expired; 0 leaves it to pages that are full.
    pub fn sweeping(self, entries_per_access: u32) -> Self {
        Self { swept_per_access: entries_per_access, ..self }
    }

    /// What the layout of a state says of it. How long values live may change between two runs, which time their stamps are in may not.
    pub(super) fn layout(&self) -> &'static str {
        match self.time {
            TtlTime::Processing => "expiring in processing time",
            TtlTime::Event => "expiring in event time",
        }
    }
}

/// The times that states of one operator expire by; set by the operator before it hands a record or timer to its function. Clones share the
/// times.
#[derive(Clone, Debug)]
pub struct StateClock(Rc<Times>);

#[derive(Debug)]
struct Times {
    processing_ms: Cell<i64>,
    watermark: Cell<EventTimeMs>,
    at: Cell<EventTimeMs>,
}

impl Default for StateClock {
    fn default() -> Self {
        let start = Cell::new(EventTimeMs::MIN);
        Self(Rc::new(Times { processing_ms: Cell::new(0), watermark: start.clone(), at: start }))
    }
}

impl StateClock {
    /// Sets the wall clock (ms since 1970), the watermark, and the event time of the record or timer at hand.
    #[inline]
    pub fn set(&self, processing_ms: i64, watermark: EventTimeMs, at: EventTimeMs) {
        self.0.processing_ms.set(processing_ms);
        self.0.watermark.set(watermark);
        self.0.at.set(at);
    }
}

/// A time to live and the clock it is read by.
#[derive(Clone, Debug)]
pub(super) struct Lifetime {
    pub ttl: StateTtl,
    pub clock: StateClock,
}

impl Lifetime {
    /// Whether something last used at `stamp` has expired.
    #[inline]
    pub fn has_expired(&self, stamp: i64) -> bool {
        let now = match self.ttl.time {
            TtlTime::Processing => self.clock.0.processing_ms.get(),
            TtlTime::Event => self.clock.0.watermark.get().0,
        };
        stamp.saturating_add(self.ttl.duration_ms) <= now
    }

    /// The stamp of a use now. A record that comes late uses its state at the watermark, or what it writes would be gone at once.
    #[inline]
    pub fn stamp(&self) -> i64 {
        let times = &self.clock.0;
        match self.ttl.time {
            TtlTime::Processing => times.processing_ms.get(),
            TtlTime::Event => times.at.get().max(times.watermark.get()).0,
        }
    }

    /// The stamp of a use now of something used before: records that come out of order do not shorten its life.
    #[inline]
    pub fn stamp_after(&self, stamp: i64) -> i64 {
        match self.ttl.time {
            TtlTime::Processing => self.stamp(),
            TtlTime::Event => self.stamp().max(stamp),
        }
    }

    /// The stamp to put in the place of `stamp` because its value is read; none when it stays.
    #[inline]
    pub fn stamp_of_reading(&self, stamp: i64) -> Option<i64> {
        if self.ttl.refreshed_by == TtlRefresh::OnCreateAndWrite {
            return None;
        }
        Some(self.stamp_after(stamp)).filter(|&new| new != stamp)
    }

    /// How many entries each access looks at.
    pub fn swept_per_access(&self) -> u32 {
        self.ttl.swept_per_access
    }
}

/// The length of a stamp.
pub(super) const STAMP_LEN: usize = 8;

/// A value behind the time of its last use.
#[derive(Clone, Debug)]
pub(super) struct Stamped<V> {
    pub stamp: i64,
    pub value: V,
}

impl<V: StateValue> StateValue for Stamped<V> {
    const FIXED_LEN: Option<usize> = match V::FIXED_LEN {
        Some(len) => Some(STAMP_LEN + len),
        None => None,
    };

    #[inline]
    fn len_bytes(&self) -> usize {
        STAMP_LEN + self.value.len_bytes()
    }

    #[inline]
    fn store(&self, out: &mut [u8]) {
        let (stamp, value) = out.split_at_mut(STAMP_LEN);
        stamp.copy_from_slice(&self.stamp.to_le_bytes());
        self.value.store(value);
    }

    #[inline]
    fn load(bytes: &[u8]) -> Option<Self> {
        let (stamp, value) = bytes.split_first_chunk()?;
        Some(Self { stamp: i64::from_le_bytes(*stamp), value: V::load(value)? })
    }

    fn check(bytes: &[u8]) -> bool {
        bytes.get(STAMP_LEN..).is_some_and(V::check)
    }

    fn layout() -> String {
        V::layout()
    }
}

/// The stamp at the start of a value's bytes.
#[inline]
pub(super) fn stamp_of(bytes: &[u8]) -> Option<i64> {
    bytes.first_chunk().map(|stamp| i64::from_le_bytes(*stamp))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lifetime(ttl: StateTtl, processing_ms: i64, watermark: i64, at: i64) -> Lifetime {
        let clock = StateClock::default();
        clock.set(processing_ms, EventTimeMs(watermark), EventTimeMs(at));
        Lifetime { ttl, clock }
    }

    #[test]
    fn something_expires_when_exactly_its_time_to_live_has_passed() {
        let lifetime = lifetime(StateTtl::after(Duration::from_millis(10)), 100, 0, 0);
        assert!(lifetime.has_expired(90) && !lifetime.has_expired(91));
    }

    #[test]
    fn a_time_to_live_without_end_never_overflows() {
        let lifetime = lifetime(StateTtl::after(Duration::MAX), i64::MAX - 1, 0, 0);
        assert!(!lifetime.has_expired(1) && !lifetime.has_expired(i64::MAX));
    }

    #[test]
    fn in_event_time_a_record_stamps_with_its_own_time_and_a_late_one_with_the_watermark() {
        let ttl = StateTtl::after(Duration::from_millis(10)).in_event_time();
        assert_eq!(lifetime(ttl, 7, 100, 130).stamp(), 130);
        assert_eq!(lifetime(ttl, 7, 100, 80).stamp(), 100);
        assert_eq!(lifetime(ttl, 7, 100, 130).stamp_after(150), 150);
    }
}
