//! The engine's own protocols between threads, compiled against loom, which walks through the orders of their atomic accesses, stale values
//! that a weak processor may show included. (Orders that it takes for equal it leaves out; so every protocol was broken on purpose to see
//! which faults it finds: the tests say which.)
//!
//! Here: the engine's files as they are, and in the modules beside them what they stand on (the atomics of `sync`, a queue, an event
//! descriptor, memory without mapping). Not here: what is proved of them (`tests`, one protocol per file).
//!
//! The engine's files say `crate::sync`, `crossbeam_queue` and `rustix`: all three names lead to this crate.

#![allow(dead_code, reason = "the engine's files have parts that no model needs")]

extern crate self as crossbeam_queue;
extern crate self as rustix;

pub mod call;
pub mod checkpoint;
pub mod event;
pub mod exchange;
pub mod io;
pub mod memory;
pub mod metrics;
mod queue;
pub mod record;
pub mod slot;
pub mod state;
mod sync;
pub mod time;

pub use queue::ArrayQueue;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Runs `model` in the orders with at most so many preemptions (switches away from a thread that could go on), and says how many there
/// were. A model that has few accesses takes `None`, which is all there are; `LOOM_MAX_PREEMPTIONS` allows more of the others.
pub fn in_every_order(name: &str, preemptions_max: Option<usize>, model: impl Fn() + Send + Sync + 'static) {
    let orders = Arc::new(AtomicU64::new(0));
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = preemptions_max.map(|max| builder.preemption_bound.unwrap_or(max));
    builder.max_branches = 10_000;
    let counted = orders.clone();
    builder.check(move || {
        counted.fetch_add(1, Ordering::Relaxed);
        model();
    });
    println!("{name}: {} orders, preemptions at most {preemptions_max:?}", orders.load(Ordering::Relaxed));
}

/// Writes a model's shared data in a way that loom checks: two accesses that nothing orders are a fault.
#[derive(Default)]
pub struct Traced(loom::cell::UnsafeCell<()>);

impl Traced {
    /// Changes the data.
    pub fn write(&self) {
        self.0.with_mut(|_| ());
    }

    /// Reads the data.
    pub fn read(&self) {
        self.0.with(|_| ());
    }
}
