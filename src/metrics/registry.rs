//! All metrics of an engine by name: job, operator, subtask, metric.
//!
//! Registering and reading lock; recording does not: whoever counts holds its counters by itself. What a finished subtask counted stays
//! until its job is forgotten, so that the final table is complete. A restarted subtask registers under its old name and goes on counting.

use super::counters::{LossReason, OperatorCounters};
use super::latency::{LatencyReader, LatencyRecorder, LatencySummary, latency_channel, summarize};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Where metrics are registered and read. Cloning shares it.
#[derive(Clone, Debug, Default)]
pub struct MetricsRegistry {
    entries: Arc<Mutex<BTreeMap<OperatorName, Entry>>>,
}

/// Whose metrics.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OperatorName {
    /// The job's name.
    pub job: Arc<str>,
    /// The operator's name.
    pub operator: Arc<str>,
    /// The subtask.
    pub subtask: u32,
}

/// One figure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Whose.
    pub of: OperatorName,
    /// What it says.
    pub metric: Metric,
}

/// What a figure says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Metric {
    /// A count, with its name.
    Count(&'static str, u64),
    /// Records lost, and why; only reasons that occurred.
    Lost(LossReason, u64),
    /// Where the watermark stands, once there is one.
    Watermark(crate::time::Watermark),
    /// Latencies of a sink.
    Latency(LatencySummary),
}

#[derive(Debug, Default)]
struct Entry {
    counters: Arc<OperatorCounters>,
    /// One per recorder that records, for each attempt of a subtask has its own; what those that are gone recorded is in one more.
    latencies: Vec<LatencyReader>,
}

impl OperatorName {
    /// The name of one operator in one subtask.
    pub fn new(job: &str, operator: &str, subtask: u32) -> Self {
        Self { job: job.into(), operator: operator.into(), subtask }
    }
}

impl MetricsRegistry {
    /// Nothing registered.
    pub fn new() -> Self {
        Self::default()
    }

    /// The counters of an operator: new ones, or those it counted in before a restart. Locks.
    pub fn counters(&self, of: OperatorName) -> Arc<OperatorCounters> {
        self.lock().entry(of).or_default().counters.clone()
    }

    /// A recorder of latencies for a sink. Locks.
    pub fn latency_recorder(&self, of: OperatorName) -> LatencyRecorder {
        let (recorder, reader) = latency_channel();
        let mut entries = self.lock();
        let latencies = &mut entries.entry(of).or_default().latencies;
        // A job may restart for ever, and a histogram is 29 KiB.
        let past = latencies.extract_if(.., LatencyReader::has_ended).reduce(|mut past, reader| {
            past.absorb(reader);
            past
        });
        latencies.extend(past);
        latencies.push(reader);
        recorder
    }

    /// All figures now, by name. Latencies are those of one request ago, see `LatencyReader::collect`.
    pub fn snapshot(&self) -> Vec<Sample> {
        let mut samples = Vec::new();
        for (of, entry) in self.lock().iter_mut() {
            samples.extend(entry.metrics().into_iter().map(|metric| Sample { of: of.clone(), metric }));
        }
        samples
    }

    /// The latencies of all sinks of a job together.
    pub fn job_latency(&self, job: &str) -> LatencySummary {
        self.latency(|of| &*of.job == job)
    }

    /// The latencies of one sink, all its subtasks together.
    pub fn sink_latency(&self, job: &str, sink: &str) -> LatencySummary {
        self.latency(|of| &*of.job == job && &*of.operator == sink)
    }

    fn latency(&self, is_asked: impl Fn(&OperatorName) -> bool) -> LatencySummary {
        let mut entries = self.lock();
        let asked = entries.iter_mut().filter(|(of, _)| is_asked(of));
        asked.flat_map(|(_, entry)| &mut entry.latencies).for_each(LatencyReader::collect);
        summarize(entries.iter().filter(|(of, _)| is_asked(of)).flat_map(|(_, entry)| &entry.latencies))
    }

    /// Forgets a job.
    pub fn forget(&self, job: &str) {
        self.lock().retain(|of, _| &*of.job != job);
    }

    /// A panic while the lock was held leaves a map that is whole: each change is one call on it.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<OperatorName, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    fn metrics(&mut self) -> Vec<Metric> {
        let counters = &self.counters;
        let mut metrics = vec![
            Metric::Count("records_in", counters.records_in.get()),
            Metric::Count("records_out", counters.records_out.get()),
            Metric::Count("bytes_in", counters.bytes_in.get()),
            Metric::Count("bytes_out", counters.bytes_out.get()),
            Metric::Count("busy_ns", counters.busy_ns.get()),
            Metric::Count("backpressured_ns", counters.backpressured_ns.get()),
        ];
        let lost = LossReason::ALL.into_iter().map(|reason| (reason, counters.lost(reason).get()));
        metrics.extend(lost.filter(|&(_, count)| count > 0).map(|(reason, count)| Metric::Lost(reason, count)));
        let watermark = counters.watermark.get();
        if watermark > crate::time::Watermark::MIN {
            metrics.push(Metric::Watermark(watermark));
        }
        if !self.latencies.is_empty() {
            self.latencies.iter_mut().for_each(LatencyReader::collect);
            metrics.push(Metric::Latency(summarize(&self.latencies)));
        }
        metrics
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::EventTimeMs;

    fn windows(subtask: u32) -> OperatorName {
        OperatorName::new("monitor", "windows", subtask)
    }

    fn of(samples: &[Sample], name: &OperatorName) -> Vec<Metric> {
        samples.iter().filter(|sample| sample.of == *name).map(|sample| sample.metric).collect()
    }

    #[test]
    fn a_snapshot_holds_every_figure_under_its_name() {
        let registry = MetricsRegistry::new();
        registry.counters(windows(0)).records_in.add(3);
        registry.counters(windows(1)).records_in.add(4);
        let samples = registry.snapshot();
        assert!(of(&samples, &windows(0)).contains(&Metric::Count("records_in", 3)));
        assert!(of(&samples, &windows(1)).contains(&Metric::Count("records_in", 4)));
    }

    #[test]
    fn losses_and_watermarks_appear_once_there_are_any() {
        let registry = MetricsRegistry::new();
        let counters = registry.counters(windows(0));
        assert_eq!(of(&registry.snapshot(), &windows(0)).len(), 6);
        counters.lost(LossReason::LateForWindow).add(2);
        counters.watermark.set(EventTimeMs(9));
        let metrics = of(&registry.snapshot(), &windows(0));
        assert_eq!(metrics[6..], [Metric::Lost(LossReason::LateForWindow, 2), Metric::Watermark(EventTimeMs(9))]);
    }

    #[test]
    fn a_restarted_subtask_goes_on_counting() {
        let registry = MetricsRegistry::new();
        registry.counters(windows(0)).records_in.add(3);
        registry.counters(windows(0)).records_in.add(3);
        assert!(of(&registry.snapshot(), &windows(0)).contains(&Metric::Count("records_in", 6)));
    }

    #[test]
    fn latencies_of_a_job_are_merged_over_its_subtasks_and_attempts() {
        let registry = MetricsRegistry::new();
        for subtask in [0, 0, 1] {
            registry.latency_recorder(windows(subtask)).record(50);
        }
        registry.latency_recorder(OperatorName::new("other", "sink", 0)).record(9_999);
        let latency = registry.job_latency("monitor");
        assert_eq!((latency.count, latency.max_ns), (3, 50));
        assert_eq!(registry.sink_latency("monitor", "windows").count, 3);
        assert_eq!(registry.sink_latency("monitor", "sink").count, 0);
        let in_snapshot = of(&registry.snapshot(), &windows(0));
        assert!(matches!(in_snapshot[..], [.., Metric::Latency(LatencySummary { count: 2, .. })]), "{in_snapshot:?}");
    }

    #[test]
    fn a_sink_that_was_restarted_often_keeps_its_figures_and_not_a_histogram_for_each_attempt() {
        let registry = MetricsRegistry::new();
        (0..1_000).for_each(|_| registry.latency_recorder(windows(0)).record(50));
        let kept: usize = registry.lock().values().map(|entry| entry.latencies.len()).sum();
        assert!(kept <= 2, "{kept} readers");
        let latency = registry.sink_latency("monitor", "windows");
        assert_eq!((latency.count, latency.max_ns), (1_000, 50));
    }

    #[test]
    fn a_forgotten_job_is_gone_and_its_counters_still_count() {
        let registry = MetricsRegistry::new();
        let counters = registry.counters(windows(0));
        registry.forget("monitor");
        counters.records_in.add(1);
        assert!(registry.snapshot().is_empty());
    }
}
