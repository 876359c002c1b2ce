//! A window of event time and what comes out of it.

use crate::time::EventTimeMs;

/// The times `start <= t < end`, in milliseconds (Flink `TimeWindow`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TimeWindow {
    /// The first millisecond inside.
    pub start: i64,
    /// The first millisecond after.
    pub end: i64,
}

/// The result of one window of one key; its event time is `window.max_timestamp()`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct WindowResult<K, T> {
    /// The key.
    pub key: K,
    /// The window.
    pub window: TimeWindow,
    /// What the aggregate made of the window's records.
    pub value: T,
}

impl TimeWindow {
    /// The last millisecond inside: the window is complete once the watermark reaches it.
    pub fn max_timestamp(self) -> EventTimeMs {
        EventTimeMs(self.end - 1)
    }
}
