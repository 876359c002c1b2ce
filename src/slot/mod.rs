//! Who runs? A slot: one pinned thread that steps the tasks given to it, and sleeps when there is nothing to do.
//!
//! Here: the slot as a step machine (`run_loop`), which task is next (`schedule`), how a slot waits (`idle`), what is offered on its own thread (`local`), how host threads wait for it (`host_wait`), the thread and the
//! driver under it (`thread`, `driver`), the CPUs it may use (`affinity`), what others see of it (`watch`, `step_lengths`) and how they
//! reach it (`inbox`). Not here: what a task does (`task`), which task goes to which slot (`job_manager`).

mod affinity;
mod doorbell;
mod doorbells;
mod driver;
mod host_wait;
mod idle;
mod inbox;
mod local;
mod run_loop;
mod schedule;
mod step_lengths;
mod thread;
mod watch;

pub use affinity::{AllowedCpus, pin_current_thread};
pub use doorbell::Doorbell;
pub(crate) use doorbells::Doorbells;
pub(crate) use driver::Turns;
pub use driver::drive;
pub(crate) use host_wait::{HostWait, HostWaiters};
pub use idle::{IdleAction, IdlePolicy, SPIN_BUDGET_MAX_NS, Slept, WAKE_COST_DEFAULT_NS};
pub use inbox::{SlotCall, SlotEvent, SlotHandle, TaskExit, TaskId};
pub use local::LocalServices;
pub(crate) use run_loop::panic_message;
pub use run_loop::{Slot, TaskReport};
pub use schedule::Share;
pub use step_lengths::{STEP_BUCKETS, StepLengths};
pub use thread::{SlotError, spawn_slot};
pub use watch::{NameId, SlotObservation, SlotWatch};

use crate::io::Io;

/// What one call of a step achieved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Something was done; calling again at once may do more.
    Worked,
    /// Nothing could be done: no input, no free buffer, no completed operation.
    Idle,
    /// Finished for ever; do not call again.
    Done,
}

impl Progress {
    /// The livelier of two (`Done` only when both are).
    pub fn or(self, other: Self) -> Self {
        match (self, other) {
            (Self::Worked, _) | (_, Self::Worked) => Self::Worked,
            (Self::Done, Self::Done) => Self::Done,
            _ => Self::Idle,
        }
    }
}

/// What a driver passes to every step: the time and the disk.
pub struct StepContext<'a> {
    /// Nanoseconds of the engine's monotonic clock at the start of the step.
    pub now_ns: u64,
    /// Milliseconds since 1970 of the wall clock at the start of the step.
    pub wall_ms: i64,
    /// The slot's own I/O.
    pub io: &'a mut dyn Io,
}

/// What a slot runs: bounded steps (100 us at most under normal load), never blocking.
pub trait SlotTask {
    /// Does a bounded amount of work.
    fn step(&mut self, cx: &mut StepContext<'_>) -> Progress;

    /// The task panicked and is dropped next: gives up files and operations under way, which the slot's I/O would keep. Whatever the panic
    /// left half done is as it was.
    fn give_up(&mut self, _cx: &mut StepContext<'_>) {}

    /// When the task wants to be stepped although nobody rings (monotonic clock): its next timer, its next retry. Asked
    /// before the slot sleeps, after a step that was `Idle`.
    fn wake_at_ns(&self) -> Option<u64> {
        None
    }
}
