//! What a chain is built with, once per subtask, on the slot that will run it; and what it becomes.

use super::{EdgeId, JobGraph};
use crate::exchange::{OutputGate, RecordFrame};
use crate::memory::{Arena, MemoryError};
use crate::metrics::TaskMetrics;
use crate::operator::{ChainContext, Flow, Signal};
use crate::sink::SinkError;
use crate::slot::{Doorbell, LocalServices};
use crate::state::{StateBackend, StateError};
use crate::time::Clock;
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

/// Builds one subtask's copy of a chain.
pub type ChainFactory = Arc<dyn Fn(&mut BuildContext) -> Result<BuiltChain, BuildError> + Send + Sync>;

/// A chain as the task drives it: one virtual call per batch or signal, direct calls inside.
pub enum BuiltChain {
    /// Reads splits itself.
    Source(Box<dyn SourceRoot>),
    /// Is given the frames of its task's input gate.
    Edge(Box<dyn EdgeRoot>),
}

/// The head of any chain.
pub trait ChainRoot {
    /// Hands a signal through the chain, see [`crate::operator::Stage::signal`].
    fn signal(&mut self, cx: &mut ChainContext<'_>, signal: &mut Signal<'_>) -> Flow;

    /// Whether an output at the end of the chain waits for room.
    fn is_blocked(&self) -> bool;
}

/// The head of a chain that is fed from an edge.
pub trait EdgeRoot: ChainRoot {
    /// Whether the state that the records of a frame need is in memory; if not, starts to read it, and the frame is offered again.
    fn is_ready_for(&mut self, _cx: &mut ChainContext<'_>, _frame: &RecordFrame<'_>) -> bool {
        true
    }

    /// Takes the records of a frame, in order.
    fn records(&mut self, cx: &mut ChainContext<'_>, frame: &RecordFrame<'_>);
}

/// The head of a chain that reads splits.
pub trait SourceRoot: ChainRoot {
    /// Reads a bounded number of records and passes them down the chain with their watermarks.
    fn read(&mut self, cx: &mut ChainContext<'_>) -> SourceStep;

    /// Passes on the last watermark although the splits have not ended; nothing is read after it. `More` asks to be called again once the
    /// outputs have room: the barrier waits for it.
    fn drain(&mut self, cx: &mut ChainContext<'_>) -> Flow;

    /// The barrier of a checkpoint with which the job is to end has passed, and nothing may be taken behind it (`true`); or that checkpoint
    /// was given up (`false`). `read` is not called in between.
    fn set_stopped(&mut self, _stopped: bool) {}

    /// When to read again although no doorbell rings.
    fn wake_at_ns(&self) -> Option<u64>;
}

/// What one read of a source achieved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceStep {
    /// Records were read, or may be at once.
    Worked,
    /// Nothing now.
    Idle,
    /// Every split has ended and the last watermark was sent.
    Ended,
}

/// How many splits or key groups an operator has at most, for what comes from them to be told apart.
const SPLITS_MAX: u32 = 1 << 20;

/// What a chain is built with.
pub struct BuildContext {
    /// The whole job.
    pub graph: Arc<JobGraph>,
    /// The index of the subtask.
    pub subtask: u32,
    /// How many subtasks the vertex has.
    pub parallelism: u32,
    /// The number of key groups.
    pub max_parallelism: u16,
    /// Where memory comes from.
    pub arena: Arena,
    /// The keyed state of this subtask.
    pub state: Rc<RefCell<StateBackend>>,
    /// The gates of the edges that leave this vertex; each is taken by the chain that ends in it.
    pub outputs: HashMap<EdgeId, OutputGate>,
    /// The names of all splits, for sources.
    pub splits: Arc<[String]>,
    /// Where this subtask's figures go.
    pub metrics: TaskMetrics,
    /// Wakes the slot this subtask runs on.
    pub doorbell: Arc<Doorbell>,
    /// The engine's clock.
    pub clock: Arc<dyn Clock>,
    /// Whether the job's checkpoints are durable.
    pub is_durable: bool,
    /// What this subtask offers to other code on its thread.
    pub local: LocalServices,
}

/// Why a chain could not be built.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BuildError {
    /// A state could not be set up.
    #[error(transparent)]
    State(#[from] StateError),
    /// A sink could not be opened.
    #[error("sink \"{sink}\": {error}")]
    Sink {
        /// Which sink.
        sink: String,
        /// Why.
        error: SinkError,
    },
    /// There is no memory for combining records before an exchange.
    #[error("\"{exchange}\": {error}")]
    Combine {
        /// The name of the exchange.
        exchange: String,
        /// Who asked for how much, and what is left.
        error: MemoryError,
    },
}

impl BuildContext {
    /// The number of an operator's first split or key group among those of all operators (`Stamp::split`).
    pub fn first_split(&self, operator: &str) -> u32 {
        let nth = self.graph.operators.iter().position(|name| name == operator).unwrap_or_default();
        (nth as u32).wrapping_mul(SPLITS_MAX)
    }

    /// The gate of an edge that leaves this vertex.
    ///
    /// # Panics
    /// Asserts that the deployment made a gate for the edge and that no other chain took it.
    pub fn take_output(&mut self, edge: EdgeId) -> OutputGate {
        let gate = self.outputs.remove(&edge);
        gate.expect("the deployment makes one gate per leaving edge, and one chain ends in it")
    }
}
