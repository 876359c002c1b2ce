//! The metrics of one subtask: the registry, already knowing job and subtask.

use super::{LatencyRecorder, MetricsRegistry, OperatorCounters, OperatorName};
use std::sync::Arc;

/// Registers the operators of one subtask.
#[derive(Clone, Debug)]
pub struct TaskMetrics {
    registry: MetricsRegistry,
    job: Arc<str>,
    subtask: u32,
}

impl TaskMetrics {
    /// For one subtask of one job.
    pub fn new(registry: MetricsRegistry, job: Arc<str>, subtask: u32) -> Self {
        Self { registry, job, subtask }
    }

    /// The counters of an operator. Locks: once per start, never per record.
    pub fn counters(&self, operator: &Arc<str>) -> Arc<OperatorCounters> {
        self.registry.counters(self.name(operator))
    }

    /// A recorder of the latencies a sink sees. Locks as well.
    pub fn latency(&self, operator: &Arc<str>) -> LatencyRecorder {
        self.registry.latency_recorder(self.name(operator))
    }

    fn name(&self, operator: &Arc<str>) -> OperatorName {
        OperatorName { job: self.job.clone(), operator: operator.clone(), subtask: self.subtask }
    }
}
