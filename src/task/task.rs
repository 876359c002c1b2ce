//! A task: one subtask of a vertex, as a step machine.
//!
//! One step: take commands; deliver a bounded amount of input, unless an output is blocked, and push the running snapshot on by a slice
//! behind each frame; let sinks and outputs work; report. Nothing is delivered behind a barrier before its snapshot.

use super::input::{EdgeInput, SourceInput, Taken, TaskInput};
use super::messages::{Execution, ImageRequest, ReportSender, TaskCommand, TaskInbox, TaskReport};
use super::restoring::{Dropping, Restoring};
use super::snapshotting::Snapshotting;
use crate::checkpoint::{CheckpointId, RestoredCheckpoint};
use crate::exchange::InputGate;
use crate::graph::{BuildContext, BuildError, BuiltChain, ChainFactory, SourceStep};
use crate::operator::{ChainContext, Flow, OperatorFailure, Restored, Signal, SnapshotBuilder};
use crate::slot::{Progress, SlotTask, StepContext};
use crate::state::{KeyGroupRange, StateBackend};
use crate::time::EventTimeMs;
use std::cell::RefCell;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;

/// How many frames or events one step delivers at most.
const DELIVERIES_PER_STEP_MAX: usize = 8;
/// The kind of blob that holds a task's watermark.
const WATERMARK: &str = "watermark";

/// What a task is made of, sent to its slot and built there.
pub struct Deployment {
    /// Which task.
    pub of: Execution,
    /// The vertex's name.
    pub vertex: Arc<str>,
    /// The key groups it owns.
    pub key_groups: KeyGroupRange,
    /// The chains to build.
    pub chains: Vec<ChainFactory>,
    /// The channels it reads; `None` for a source.
    pub input: Option<InputGate>,
    /// Where it starts from.
    pub restore: Option<Arc<RestoredCheckpoint>>,
    /// A file of its own for state that the memory does not hold.
    pub spill_path: Option<PathBuf>,
    /// Which of the states there it answers for.
    pub dropping: Dropping,
    /// Commands for it.
    pub inbox: Arc<TaskInbox>,
    /// Where it reports.
    pub reports: ReportSender,
}

/// A running task.
pub struct Task {
    of: Execution,
    vertex: Arc<str>,
    parallelism: u32,
    input: TaskInput,
    state: Rc<RefCell<StateBackend>>,
    key_groups: KeyGroupRange,
    inbox: Arc<TaskInbox>,
    reports: ReportSender,
    phase: Phase,
    snapshot: Option<Snapshotting>,
    /// What the store wants of which checkpoint.
    images: (CheckpointId, ImageRequest),
    /// The last checkpoint this task will see was completed: end once the sinks have committed.
    last_complete: bool,
    /// Whether the end of the input was reported.
    is_draining: bool,
}

enum Phase {
    /// Reading state back, then waiting for sinks to be ready.
    Restoring(Box<Restoring>),
    /// Records flow.
    Running,
    /// Nothing more happens.
    Ended,
}

impl Task {
    /// Builds the task on its slot.
    pub fn build(deployment: Deployment, mut cx: BuildContext, now_ns: u64) -> Result<Self, BuildError> {
        let Deployment { of, vertex, key_groups, chains, input, restore, spill_path, dropping, inbox, reports } =
            deployment;
        let built = chains.iter().map(|build| build(&mut cx)).collect::<Result<Vec<_>, _>>()?;
        let restored_id = restore.as_ref().map_or(CheckpointId::default(), |checkpoint| checkpoint.id());
        let input = TaskInput::assemble(built, input, restored_id, now_ns);
        let restoring = Restoring::new(restore, spill_path, &cx.state, key_groups, cx.arena, dropping);
        Ok(Self {
            of,
            vertex,
            parallelism: cx.parallelism,
            input,
            state: cx.state,
            key_groups,
            inbox,
            reports,
            phase: Phase::Restoring(Box::new(restoring)),
            snapshot: None,
            images: Default::default(),
            last_complete: false,
            is_draining: false,
        })
    }

    fn step_phase(&mut self, cx: &mut ChainContext<'_>) -> Progress {
        self.take_commands(cx);
        match &self.phase {
            Phase::Ended => Progress::Done,
            Phase::Restoring(_) => self.restore(cx),
            Phase::Running => self.run(cx),
        }
    }

    fn run(&mut self, cx: &mut ChainContext<'_>) -> Progress {
        let mut worked = self.deliver(cx);
        if self.has_ended() {
            return Progress::Done;
        }
        if !self.is_draining && self.input.has_ended() {
            self.is_draining = true;
            self.reports.send(TaskReport::Draining(self.of));
        }
        worked |= self.tend_state(cx);
        self.input.signal_all(cx, Signal::Poll(&mut worked));
        if self.last_complete {
            let mut committed = true;
            self.input.signal_all(cx, Signal::Committed(&mut committed));
            if committed && cx.failure.is_none() {
                self.end(cx, TaskReport::Finished(self.of));
                return Progress::Done;
            }
        }
        if worked { Progress::Worked } else { Progress::Idle }
    }

    /// Brings restored state into memory, and makes room when there is none.
    fn tend_state(&mut self, cx: &mut ChainContext<'_>) -> bool {
        let mut state = self.state.borrow_mut();
        let tended = state.warm_up().and_then(|worked| state.keep_room().map(|()| worked));
        tended.unwrap_or_else(|error| {
            cx.fail(&self.vertex, error);
            true
        })
    }

    /// Delivers a bounded amount of input, with a slice of the running snapshot before each frame but the first: none of them waits for
    /// several slices, or for one and for the other tasks of the slot.
    fn deliver(&mut self, cx: &mut ChainContext<'_>) -> bool {
        let mut worked = self.deliver_one(cx);
        for _ in 1..DELIVERIES_PER_STEP_MAX {
            worked |= self.push_snapshot(cx);
            if !self.deliver_one(cx) {
                return worked;
            }
            worked = true;
        }
        worked
    }

    fn deliver_one(&mut self, cx: &mut ChainContext<'_>) -> bool {
        // A barrier behind a snapshot that is still being harvested waits: one at a time.
        if self.input.is_blocked() || cx.failure.is_some() || self.has_ended() {
            return false;
        }
        let taken = match &mut self.input {
            TaskInput::Source(source) => read(source, cx),
            TaskInput::Edges(edges) => edges.take(cx),
        };
        match taken {
            Taken::Nothing => false,
            Taken::Something => true,
            Taken::Barrier(id) => {
                // The command was sent before the barrier set out, so it is here. So may be one to stop.
                self.take_commands(cx);
                if !self.has_ended() {
                    self.begin_snapshot(id, cx);
                }
                true
            }
        }
    }

    fn push_snapshot(&mut self, cx: &mut ChainContext<'_>) -> bool {
        let Some(snapshot) = &mut self.snapshot else { return false };
        let worked = snapshot.step(cx, &mut self.input, &self.state, &self.reports, self.of);
        if snapshot.is_handed_over() {
            self.snapshot = None;
        }
        worked
    }

    fn begin_snapshot(&mut self, id: CheckpointId, cx: &mut ChainContext<'_>) {
        if self.snapshot.take().is_some() {
            // The coordinator gave the former one up: it never has two under way.
            self.state.borrow_mut().abandon_snapshot();
        }
        let mut builder = SnapshotBuilder { id, subtask: self.of.task.subtask, blobs: Vec::new() };
        self.input.signal_all(cx, Signal::Snapshot(&mut builder));
        if let TaskInput::Edges(edges) = &self.input {
            builder.blob(&self.vertex, WATERMARK, edges.watermark().0.to_le_bytes().to_vec());
        }
        // Images are for the checkpoint they were asked for: a late barrier of one given up must not use them up.
        let images = if self.images.0 == id { std::mem::take(&mut self.images).1 } else { ImageRequest::None };
        self.snapshot =
            Some(Snapshotting::begin(builder, images, &self.state, &self.vertex, self.key_groups, cx.now_ns));
    }

    fn take_commands(&mut self, cx: &mut ChainContext<'_>) {
        while !self.has_ended()
            && cx.failure.is_none()
            && let Some(command) = self.inbox.take()
        {
            match command {
                TaskCommand::Trigger { id, images, stop, drain } => {
                    self.images = (id, images);
                    if let TaskInput::Source(source) = &mut self.input {
                        source.stopped = stop.then_some(id);
                        source.root.set_stopped(stop);
                        if drain && source.root.drain(cx) == Flow::More {
                            source.draining = Some(id);
                        } else {
                            self.begin_snapshot(id, cx);
                        }
                    }
                }
                TaskCommand::Complete { id, last } => {
                    self.input.signal_all(cx, Signal::Complete(id));
                    self.last_complete |= last;
                }
                TaskCommand::Abort { id } => {
                    if let TaskInput::Source(source) = &mut self.input
                        && source.stopped == Some(id)
                    {
                        (source.stopped, source.draining) = (None, None);
                        source.root.set_stopped(false);
                    }
                }
                // Even behind the last checkpoint: what its sinks have not published by then, the next start from it does.
                TaskCommand::Cancel => self.end(cx, TaskReport::Canceled(self.of)),
            }
        }
    }

    fn restore(&mut self, cx: &mut ChainContext<'_>) -> Progress {
        let Phase::Restoring(restoring) = &mut self.phase else { return Progress::Idle };
        if !restoring.is_state_complete() {
            return match restoring.step(cx, &self.state) {
                Ok(progress) => progress,
                Err(error) => {
                    match error.is_permanent() {
                        true => cx.fail_for_good(&self.vertex, error),
                        false => cx.fail(&self.vertex, error),
                    }
                    Progress::Idle
                }
            };
        }
        if !restoring.chains_told {
            restoring.chains_told = true;
            let blobs = restoring.blobs();
            let id = restoring.checkpoint_id();
            let restored = Restored { subtask: self.of.task.subtask, parallelism: self.parallelism, blobs: &blobs, id };
            self.input.signal_all(cx, Signal::Restore(&restored));
            let watermarks = blobs.of(&self.vertex, WATERMARK);
            let stored =
                watermarks.filter_map(|blob| blob.bytes.as_slice().try_into().ok().map(i64::from_le_bytes)).min();
            if let (TaskInput::Edges(edges), Some(watermark)) = (&mut self.input, stored) {
                edges.restore_watermark(EventTimeMs(watermark), cx.now_ns);
            }
        }
        let mut worked = false;
        self.input.signal_all(cx, Signal::Poll(&mut worked));
        let mut committed = true;
        self.input.signal_all(cx, Signal::Committed(&mut committed));
        if committed && !self.input.is_blocked() && cx.failure.is_none() {
            self.phase = Phase::Running;
            self.reports.send(TaskReport::Running(self.of));
            worked = true;
        }
        if worked { Progress::Worked } else { Progress::Idle }
    }

    fn has_ended(&self) -> bool {
        matches!(self.phase, Phase::Ended)
    }

    fn end(&mut self, cx: &mut ChainContext<'_>, report: TaskReport) {
        if !self.has_ended() {
            self.close(cx);
            self.reports.send(report);
        }
    }

    /// Gives up files and operations under way: the slot's I/O outlives the task, and would keep them and their buffers.
    fn close(&mut self, cx: &mut ChainContext<'_>) {
        if let Phase::Restoring(restoring) = &mut self.phase {
            restoring.close(cx.io);
        }
        self.snapshot = None;
        self.state.borrow_mut().close();
        self.input.signal_all(cx, Signal::Close);
        self.phase = Phase::Ended;
    }
}

fn read(source: &mut SourceInput, cx: &mut ChainContext<'_>) -> Taken {
    if let Some(id) = source.draining {
        if source.root.drain(cx) == Flow::More {
            return Taken::Something;
        }
        source.draining = None;
        return Taken::Barrier(id);
    }
    if source.stopped.is_some() || source.ended {
        return Taken::Nothing;
    }
    match source.root.read(cx) {
        SourceStep::Worked => Taken::Something,
        SourceStep::Idle => Taken::Nothing,
        SourceStep::Ended => {
            source.ended = true;
            Taken::Nothing
        }
    }
}

impl TaskInput {
    fn assemble(built: Vec<BuiltChain>, gate: Option<InputGate>, restored: CheckpointId, now_ns: u64) -> Self {
        let mut source = None;
        let mut edges = Vec::new();
        for chain in built {
            match chain {
                BuiltChain::Source(root) => source = Some(root),
                BuiltChain::Edge(root) => edges.push(root),
            }
        }
        match (source, gate) {
            (Some(root), None) => Self::Source(SourceInput { root, ended: false, stopped: None, draining: None }),
            (None, Some(gate)) => Self::Edges(EdgeInput::new(gate, restored, edges, now_ns)),
            _ => {
                unreachable!("a vertex is either one source chain or chains behind edges: `stream` builds nothing else")
            }
        }
    }
}

impl SlotTask for Task {
    fn step(&mut self, step: &mut StepContext<'_>) -> Progress {
        let mut failure: Option<OperatorFailure> = None;
        let StepContext { now_ns, wall_ms, ref mut io } = *step;
        let mut cx = ChainContext { now_ns, wall_ms, origin_ns: now_ns, io: &mut **io, failure: &mut failure };
        let progress = self.step_phase(&mut cx);
        if cx.failure.is_some() {
            self.close(&mut cx);
        }
        match failure {
            None => progress,
            Some(failure) => {
                self.reports.send(TaskReport::Failed(self.of, failure));
                Progress::Done
            }
        }
    }

    fn give_up(&mut self, step: &mut StepContext<'_>) {
        let mut failure: Option<OperatorFailure> = None;
        let StepContext { now_ns, wall_ms, ref mut io } = *step;
        let mut cx = ChainContext { now_ns, wall_ms, origin_ns: now_ns, io: &mut **io, failure: &mut failure };
        if !self.has_ended() {
            self.close(&mut cx);
        }
    }

    fn wake_at_ns(&self) -> Option<u64> {
        match (&self.input, &self.phase) {
            (TaskInput::Source(source), Phase::Running) if source.stopped.is_none() && !source.ended => {
                source.root.wake_at_ns()
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exchange::{ChannelOptions, InBand, RecordFrame, RecordShape, channel};
    use crate::graph::{ChainRoot, EdgeRoot};
    use crate::io::{SharedIo, SimDisk, SimDiskOptions, SimIo};
    use crate::job_manager::{Attempt, JobId, TaskAddress};
    use crate::memory::{Arena, ArenaOptions, MemoryBudget};
    use crate::metrics::{MetricsRegistry, TaskMetrics};
    use crate::slot::{Doorbell, LocalServices};
    use crate::time::ManualClock;
    use crossbeam_queue::{ArrayQueue, SegQueue};
    use std::collections::HashMap;
    use std::sync::Mutex;

    /// Hears what it is told, and has its task cancelled by the first watermark, in the middle of a step.
    struct Told {
        signals: Arc<Mutex<Vec<&'static str>>>,
        inbox: Arc<TaskInbox>,
    }

    impl ChainRoot for Told {
        fn signal(&mut self, _: &mut ChainContext<'_>, signal: &mut Signal<'_>) -> Flow {
            let name = match signal {
                Signal::Watermark(EventTimeMs(1)) => {
                    self.inbox.send(TaskCommand::Cancel);
                    "the first watermark"
                }
                Signal::Watermark(_) => "another watermark",
                Signal::Snapshot(_) => "a snapshot",
                Signal::Close => "close",
                Signal::Poll(_) | Signal::Committed(_) | Signal::Prepared(_) => "a question",
                Signal::Restore(_) | Signal::Complete(_) | Signal::Idle(_) => "something else",
            };
            self.signals.lock().unwrap().push(name);
            Flow::Done
        }

        fn is_blocked(&self) -> bool {
            false
        }
    }

    impl EdgeRoot for Told {
        fn records(&mut self, _: &mut ChainContext<'_>, _: &RecordFrame<'_>) {}
    }

    #[test]
    fn a_task_that_is_cancelled_while_it_delivers_does_nothing_more() {
        let arena = Arena::new(MemoryBudget::new(8 << 20), ArenaOptions::default());
        let bell = Arc::new(Doorbell::new().unwrap());
        let (mut sender, receiver) = channel(ChannelOptions {
            who: "test",
            shape: RecordShape::fixed::<u64, u64>(),
            segments_in_flight_max: 4,
            arena: arena.clone(),
            consumer: bell.clone(),
            producer: bell.clone(),
        });
        let barrier = InBand::Barrier(CheckpointId(1));
        [InBand::Watermark(EventTimeMs(1)), barrier, InBand::Watermark(EventTimeMs(2))]
            .into_iter()
            .for_each(|event| sender.event(event).unwrap());
        let (signals, inbox) = (Arc::<Mutex<Vec<_>>>::default(), Arc::new(TaskInbox::new(bell.clone())));
        let told = (signals.clone(), inbox.clone());
        let chain: ChainFactory =
            Arc::new(move |_| Ok(BuiltChain::Edge(Box::new(Told { signals: told.0.clone(), inbox: told.1.clone() }))));
        let (reports, key_groups) = (Arc::new(SegQueue::new()), KeyGroupRange::of_subtask(0, 1, 8));
        let deployment = Deployment {
            of: Execution { task: TaskAddress { job: JobId(1), vertex: 0, subtask: 0 }, attempt: Attempt(1) },
            vertex: "told".into(),
            key_groups,
            chains: vec![chain],
            input: Some(InputGate::new([receiver])),
            restore: None,
            spill_path: None,
            dropping: Dropping::default(),
            inbox,
            reports: ReportSender::new(Arc::clone(&reports), Arc::new(ArrayQueue::new(1)), bell.clone()),
        };
        let cx = BuildContext {
            graph: Arc::default(),
            subtask: 0,
            parallelism: 1,
            max_parallelism: 8,
            state: Rc::new(RefCell::new(StateBackend::new(key_groups, 8, arena.clone()))),
            arena,
            outputs: HashMap::new(),
            splits: [].into(),
            metrics: TaskMetrics::new(MetricsRegistry::new(), "job".into(), 0),
            doorbell: bell,
            clock: Arc::new(ManualClock::default()),
            is_durable: false,
            local: LocalServices::default(),
        };
        let mut task = Task::build(deployment, cx, 0).unwrap();
        let mut io = SharedIo::new(SimIo::new(&SimDisk::new(1, SimDiskOptions::default())));
        while task.step(&mut StepContext { now_ns: 0, wall_ms: 0, io: &mut io }) != Progress::Done {}
        let signals = signals.lock().unwrap();
        let behind: Vec<_> = signals.iter().skip_while(|signal| **signal != "the first watermark").collect();
        assert_eq!(behind, [&"the first watermark", &"close"]);
        let reports: Vec<_> = std::iter::from_fn(|| reports.pop()).collect();
        assert!(matches!(reports[..], [TaskReport::Running(_), TaskReport::Canceled(_)]), "{reports:?}");
    }
}
