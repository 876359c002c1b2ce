//! Which windows does a record belong to? Assigners, and the slices that overlapping windows share.
//!
//! Here: the arithmetic of windows. Not here: the operator that keeps and fires them (`operator::window_aggregate`).

mod assigner;
mod time_window;

pub use assigner::{Slice, SlicedWindows, Sliding, Tumbling};
pub use time_window::{TimeWindow, WindowResult};
