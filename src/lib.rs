//! Millstream runs stateful stream jobs inside your process, on one machine, with the semantics of Apache Flink's
//! TaskManager and the latency of a hand-written loop.

#[cfg(target_endian = "big")]
compile_error!("segments and checkpoints are little-endian in memory: big-endian targets are not supported");

pub mod checkpoint;
pub mod io;
pub mod job_manager;
pub mod memory;
pub mod metrics;
pub mod record;
pub mod slot;
pub mod state;
pub mod task_manager;
pub mod time;
