//! Millstream runs stateful stream jobs inside your process, on one machine, with the semantics of Apache Flink's
//! TaskManager and the latency of a hand-written loop.

#[cfg(target_endian = "big")]
compile_error!("segments and checkpoints are little-endian in memory: big-endian targets are not supported");

// The derive macros name the crate from outside; the crate's own records use it too.
extern crate self as millstream;

pub use bytemuck;
pub use millstream_derive::{Record, Schema};
pub use rkyv;

pub mod call;
pub mod checkpoint;
pub mod engine;
pub mod exchange;
pub mod graph;
pub mod io;
pub mod job_manager;
pub mod memory;
pub mod metrics;
pub mod offline;
pub mod operator;
pub mod record;
#[cfg(feature = "object-store")]
pub mod remote;
pub mod sim;
pub mod sink;
pub mod slot;
pub mod source;
pub mod state;
pub mod stream;
mod sync;
pub mod task;
pub mod task_manager;
pub mod time;
pub mod window;

// The benchmarks as jobs: here, and not in the program, so that tests and benches run the same code.
#[cfg(feature = "cli")]
#[path = "cli/nexmark/mod.rs"]
pub mod nexmark;
#[cfg(feature = "cli")]
#[path = "cli/numbered.rs"]
pub mod numbered;
#[cfg(feature = "cli")]
#[path = "cli/random.rs"]
mod random;
#[cfg(feature = "cli")]
#[path = "cli/rows.rs"]
pub mod rows;
#[cfg(feature = "cli")]
#[path = "cli/ysb/mod.rs"]
pub mod ysb;

/// The program in README.md, compiled and run by the tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
pub struct ReadmeDoctests;
