//! When? Event time and watermarks; the clocks that drivers pass on.

mod clock;
mod event_time;
mod strategy;
mod valve;

pub use clock::{Clock, MachineClock, ManualClock};
pub use event_time::{EventTimeMs, Watermark};
pub use strategy::{IDLE_AFTER_MS_DEFAULT, SplitClock, SplitClockState, SplitClocks, Watermarks};
pub use valve::{ClockChange, Holder, StreamStatus, WatermarkValve};
