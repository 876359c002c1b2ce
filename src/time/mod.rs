//! When? Event time and watermarks; the clocks that drivers pass on.

mod clock;
mod event_time;

pub use clock::{Clock, MachineClock, ManualClock};
pub use event_time::{EventTimeMs, Watermark};
