//! What the job's metrics say about the monitor, gathered for the report.
//!
//! Counts are those of this run of the program: a run that continues from a checkpoint counts from 0.

use super::job::{ALERT_FILES, ALERTS, SOURCE, WINDOW_FILES, WINDOWS};
use millstream::engine::{CheckpointFigures, JobHandle};
use millstream::metrics::{LatencySummary, LossReason, Metric, Sample};
use millstream::time::{Clock, MachineClock, Watermark};
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
    /// The clock of the slowest subtask, in milliseconds since 1970; `None` before the first record and after the last.
    pub watermark_ms: Option<i64>,
    /// The wall clock at this look.
    pub wall_ms: i64,
    pub window_latency: LatencySummary,
    pub alert_latency: LatencySummary,
    pub checkpoints: CheckpointFigures,
    pub slots_busy_permille: Vec<u16>,
}

impl Figures {
    /// How far the slowest clock is behind the wall clock.
    pub fn watermark_lag_ms(&self) -> Option<i64> {
        self.watermark_ms.map(|watermark_ms| self.wall_ms.saturating_sub(watermark_ms))
    }

    /// What the job says now.
    pub fn gather(job: &JobHandle, elapsed_ns: u64) -> Self {
        let status = job.status();
        let mut figures = Self {
            elapsed_ns,
            attempt: status.attempt,
            why_waiting: status.why_waiting,
            window_latency: job.sink_latency(WINDOW_FILES),
            alert_latency: job.sink_latency(ALERT_FILES),
            checkpoints: status.checkpoints,
            wall_ms: MachineClock.wall_ms(),
            slots_busy_permille: status.slots_busy_permille,
            ..Self::default()
        };
        let mut watermark = None;
        for sample in job.metrics() {
            figures.add(&sample);
            if let Metric::Watermark(at) = sample.metric {
                watermark = Some(watermark.map_or(at, |least: Watermark| least.min(at)));
            }
        }
        figures.watermark_ms = watermark.filter(|watermark| *watermark < Watermark::MAX).map(|watermark| watermark.0);
        figures
    }

    fn add(&mut self, sample: &Sample) {
        match (&*sample.of.operator, sample.metric) {
            (SOURCE, Metric::Count("records_out", count)) => self.records += count,
            (WINDOW_FILES, Metric::Count("records_in", count)) => self.windows += count,
            (ALERT_FILES, Metric::Count("records_in", count)) => self.alerts += count,
            (WINDOWS, Metric::Lost(LossReason::LateForWindow, count)) => self.late_windows += count,
            (ALERTS, Metric::Lost(LossReason::LateForOrder, count)) => self.late_alerts += count,
            (_, Metric::Lost(reason, count)) => {
                *self.dropped.entry(reason.name().trim_start_matches("dropped_").to_owned()).or_default() += count;
            }
            _ => {}
        }
    }
}
