//! Charts as SVG: percentiles of latencies, how often pauses of each length come, lines over numbers.

mod frame;
mod lines;
mod pauses;
mod percentiles;
mod scale;

pub use lines::{Line, lines};
pub use pauses::pauses;
pub use percentiles::percentiles;

pub(crate) use frame::escape;
