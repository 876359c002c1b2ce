//! Making one attempt of a job: its channels, then its tasks, each built on its own slot.

use super::job_runtime::JobRuntime;
use crate::exchange::{
    ChannelOptions, InputGate, OutputGate, Partitioner, Receiver, SEGMENTS_IN_FLIGHT_DEFAULT, Sender, channel,
};
use crate::graph::{BuildContext, Edge, EdgeId, JobGraph, Partitioning, VertexId, VertexInput};
use crate::job_manager::TaskAddress;
use crate::metrics::TaskMetrics;
use crate::operator::OperatorFailure;
use crate::slot::{Doorbell, LocalServices, SlotHandle};
use crate::state::{KeyGroupRange, StateBackend};
use crate::task::{Deployment, Execution, ReportSender, Task, TaskInbox, TaskReport};
use crate::time::Clock;
use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;

/// The ends of all channels of an attempt, until their tasks take them.
struct Channels {
    outputs: BTreeMap<(EdgeId, u32), Vec<Sender>>,
    inputs: BTreeMap<(VertexId, u32), Vec<Receiver>>,
}

impl JobRuntime {
    /// Builds and starts every task of the attempt whose slots are all known. Does not wait for the slots.
    pub(super) fn deploy(&mut self, slots: &[SlotHandle], reports: &ReportSender, names: &mut TaskNames) {
        let slot_of: BTreeMap<TaskAddress, &SlotHandle> = std::mem::take(&mut self.starting)
            .into_iter()
            .map(|(task, slot)| (task, &slots[slot.0 as usize]))
            .collect();
        let mut channels = self.channels(&slot_of);
        self.inboxes.clear();
        for (&task, slot) in &slot_of {
            let of = Execution { task, attempt: self.attempt };
            let inbox = Arc::new(TaskInbox::new(slot.bell().clone()));
            self.inboxes.insert(task, inbox.clone());
            let vertex = VertexId(task.vertex as usize);
            let name = self.task_name(task);
            names.insert(name.as_str().into(), of);
            let start = self.start(of, vertex, &mut channels, inbox, reports.clone(), slot.bell().clone());
            let (share, reports) = (self.share, reports.clone());
            slot.call(move |slot| {
                let (clock, local) = (slot.clock().clone(), slot.services().clone());
                let built = catch_unwind(AssertUnwindSafe(|| start.build(clock, local)));
                let failure = match built {
                    Ok(Ok(task)) => {
                        slot.add(&name, share, Box::new(task));
                        return;
                    }
                    Ok(Err(error)) => error.to_string(),
                    Err(_) => "a function panicked while the task was being built".to_owned(),
                };
                slot.refuse(&name);
                reports.send(TaskReport::Failed(of, OperatorFailure::new(name, failure)));
            });
        }
        self.forget_restored();
    }

    /// How a task is called, by a name that no other task of the engine ever has: `job/vertex[2]#7.1` is subtask 2 in the first attempt of job 7.
    fn task_name(&self, task: TaskAddress) -> String {
        let vertex = &self.graph.vertices[task.vertex as usize].name;
        format!("{}/{vertex}[{}]#{}.{}", self.graph.name, task.subtask, task.job.0, self.attempt.0)
    }

    fn start(
        &self,
        of: Execution,
        vertex: VertexId,
        channels: &mut Channels,
        inbox: Arc<TaskInbox>,
        reports: ReportSender,
        doorbell: Arc<Doorbell>,
    ) -> Start {
        let Execution { task, .. } = of;
        let described = &self.graph.vertices[vertex.0];
        let is_source = matches!(described.input, VertexInput::Source(_));
        let outputs = self.graph.outputs(vertex).map(|(edge, described)| {
            let senders = channels.outputs.remove(&(edge, task.subtask)).unwrap_or_default();
            (edge, OutputGate::new(senders, self.partitioner(described, task.subtask)))
        });
        Start {
            graph: self.graph.clone(),
            deployment: Deployment {
                of,
                vertex: described.name.as_str().into(),
                key_groups: KeyGroupRange::of_subtask(task.subtask, self.parallelism, self.max_parallelism),
                chains: described.chains.clone(),
                input: (!is_source)
                    .then(|| InputGate::new(channels.inputs.remove(&(vertex, task.subtask)).unwrap_or_default())),
                restore: self.restored().cloned(),
                spill_path: self.spill_path(task),
                dropping: self.dropping(vertex),
                inbox,
                reports,
            },
            outputs: outputs.collect(),
            parallelism: self.parallelism,
            max_parallelism: self.max_parallelism,
            arena: self.arena.clone(),
            splits: self.splits.get(&vertex).cloned().unwrap_or_else(|| [].into()),
            metrics: TaskMetrics::new(self.shared.metrics.clone(), self.graph.name.as_str().into(), task.subtask),
            doorbell,
            is_durable: self.has_store(),
        }
    }

    fn channels(&self, slot_of: &BTreeMap<TaskAddress, &SlotHandle>) -> Channels {
        let mut channels = Channels { outputs: BTreeMap::new(), inputs: BTreeMap::new() };
        let bell = |vertex: VertexId, subtask| {
            let task = slot_of.keys().find(|task| task.vertex as usize == vertex.0 && task.subtask == subtask);
            task.and_then(|task| slot_of.get(task)).map(|slot| slot.bell().clone())
        };
        for (index, edge) in self.graph.edges.iter().enumerate() {
            for from in 0..self.parallelism {
                for to in receivers(edge, from, self.parallelism) {
                    let (Some(producer), Some(consumer)) = (bell(edge.from, from), bell(edge.to, to)) else { continue };
                    let (sender, receiver) = channel(ChannelOptions {
                        who: "a channel between two tasks",
                        shape: edge.shape,
                        segments_in_flight_max: SEGMENTS_IN_FLIGHT_DEFAULT,
                        arena: self.arena.clone(),
                        consumer,
                        producer,
                    });
                    channels.outputs.entry((EdgeId(index), from)).or_default().push(sender);
                    channels.inputs.entry((edge.to, to)).or_default().push(receiver);
                }
            }
        }
        channels
    }

    fn partitioner(&self, edge: &Edge, subtask: u32) -> Partitioner {
        match edge.partitioning {
            Partitioning::Forward => Partitioner::Forward,
            Partitioning::Hash => Partitioner::hash(self.parallelism, self.max_parallelism),
            Partitioning::Rebalance => Partitioner::rebalance(subtask, self.parallelism),
            Partitioning::Broadcast => Partitioner::Broadcast,
        }
    }

    /// How many tasks an attempt has.
    pub(super) fn task_count(&self) -> usize {
        self.graph.vertices.len() * self.parallelism as usize
    }
}

/// The tasks on the slots by the names they have there.
pub(super) type TaskNames = HashMap<Arc<str>, Execution>;

/// Everything a task is built from, on its way to its slot.
struct Start {
    graph: Arc<JobGraph>,
    deployment: Deployment,
    outputs: HashMap<EdgeId, OutputGate>,
    parallelism: u32,
    max_parallelism: u16,
    arena: crate::memory::Arena,
    splits: Arc<[String]>,
    metrics: TaskMetrics,
    doorbell: Arc<Doorbell>,
    is_durable: bool,
}

impl Start {
    fn build(self, clock: Arc<dyn Clock>, local: LocalServices) -> Result<Task, crate::graph::BuildError> {
        let Self { graph, deployment, outputs, parallelism, max_parallelism, arena, splits, .. } = self;
        let (metrics, doorbell, is_durable) = (self.metrics, self.doorbell, self.is_durable);
        let now_ns = clock.monotonic_ns();
        let state = StateBackend::new(deployment.key_groups, max_parallelism, arena.clone());
        let cx = BuildContext {
            graph,
            subtask: deployment.of.task.subtask,
            parallelism,
            max_parallelism,
            arena,
            state: Rc::new(RefCell::new(state)),
            outputs,
            splits,
            metrics,
            doorbell,
            clock,
            is_durable,
            local,
        };
        Task::build(deployment, cx, now_ns)
    }
}

/// The receiving subtasks of an edge, as sending subtask `from` sees them.
fn receivers(edge: &Edge, from: u32, parallelism: u32) -> std::ops::Range<u32> {
    match edge.partitioning {
        Partitioning::Forward => from..from + 1,
        Partitioning::Hash | Partitioning::Rebalance | Partitioning::Broadcast => 0..parallelism,
    }
}

impl JobGraph {
    /// The vertices as the JobManager must know them.
    pub(super) fn submissions(&self, parallelism: u32) -> Vec<crate::job_manager::VertexSubmission> {
        let submission = |name: &String| crate::job_manager::VertexSubmission { name: name.clone(), parallelism };
        self.vertices.iter().map(|vertex| submission(&vertex.name)).collect()
    }
}
