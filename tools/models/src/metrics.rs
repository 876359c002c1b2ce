//! The two histograms that go round.

#[path = "../../../src/metrics/latency.rs"]
mod latency;

pub use latency::{LatencyReader, LatencyRecorder, latency_channel};
