//! Who runs? A slot: one pinned thread that steps the tasks given to it, and sleeps when there is nothing to do.

mod doorbell;

pub use doorbell::Doorbell;

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
}
