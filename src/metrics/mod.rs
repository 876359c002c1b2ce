//! How does one see it? Counters and latencies, written by one thread each and read by any, gathered by name.

mod counters;
mod latency;
mod registry;
mod task_metrics;

pub use counters::{Counter, EventTimeGauge, LossReason, OperatorCounters};
pub use latency::{LatencyReader, LatencyRecorder, LatencySummary, latency_channel, summarize};
pub use registry::{Metric, MetricsRegistry, OperatorName, Sample};
pub use task_metrics::TaskMetrics;
