//! What happens to a record? One operator per file; each is a stage of a chain that calls the next stage directly.
//!
//! Here: the stage trait, what stages are told besides records, and the operators. Not here: where records come from and go
//! (`source`, `exchange`, `sink`), who steps a chain (`task`).
//!
//! Architecture invariant: an operator never sees a segment or a channel; only the ends of chains (`exchange`, `output`) hold a gate.

mod aggregate;
mod combine;
mod exchange;
mod filter;
mod flat_map;
mod key_list;
mod keyed;
mod keyed_process;
mod map;
mod operator_state;
mod ordered_process;
mod output;
mod process;
mod reduce;
mod running_window;
mod sink_stage;
mod slice_queue;
mod spare_memory;
mod stage;
mod window_aggregate;
mod window_ends;

pub use aggregate::{Aggregate, And, Count, Max, Mean, Min, Moments, Number, Sum, Variance};
pub use combine::{Combine, MergePartials, Partial};
pub use exchange::{Exchange, KeyedExchange};
pub use filter::Filter;
pub use flat_map::FlatMap;
pub use keyed::{KeyedHead, KeyedRecord, KeyedStage};
pub use keyed_process::{Emit, KeyedContext, KeyedProcess, NoSide, StateRegistry};
pub use map::Map;
pub use operator_state::{BroadcastState, ListSharing, OPERATOR_STATE_BYTES_MAX, OperatorList, OperatorStates};
pub use ordered_process::OrderedProcess;
pub use output::{Output, SideGate};
pub use process::Process;
pub use reduce::Reduce;
pub use sink_stage::SinkStage;
pub use stage::{ChainContext, Flow, OperatorFailure, Restored, Signal, SnapshotBuilder, Stage};
pub use window_aggregate::WindowAggregate;
