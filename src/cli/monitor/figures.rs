//! What the job's metrics say about the monitor, gathered for the report.
//!
//! Counts are those of this run of the program: a run that continues from a checkpoint counts from 0.

use super::job::{ALERT_FILES, ALERTS, SOURCE, WINDOW_FILES, WINDOWS};
use millstream::engine::{CheckpointFigures, JobHandle};
use millstream::metrics::LatencySummary;
use std::collections::BTreeMap;

/// One look at the running job.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    pub elapsed_ns: u64,
    pub attempt: u32,
    pub why_waiting: Option<String>,
    pub records: u64,
    pub windows: u64,
    pub alerts: u64,
    pub late_windows: u64,
    pub late_alerts: u64,
    /// Records that could not be used, by reason.
    pub dropped: BTreeMap<String, u64>,
    /// How far the slowest clock is behind the wall clock; of no meaning for old files.
    pub watermark_lag_ms: Option<i64>,
    pub window_latency: LatencySummary,
    pub alert_latency: LatencySummary,
    pub checkpoints: CheckpointFigures,
    pub slots_busy_permille: Vec<u16>,
}
