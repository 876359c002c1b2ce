//! What the tests of sinks need: a disk in memory, an arena, and a context made of them.

pub use crate::source::test_disk::MemDisk;

use super::writer::SinkContext;
use crate::memory::{Arena, ArenaOptions, MemoryBudget};
use crate::record::Stamp;
use crate::time::EventTimeMs;

/// Everything a writer may use.
pub struct Rig {
    pub io: MemDisk,
    arena: Arena,
}

impl Rig {
    pub fn new() -> Self {
        Self::on(MemDisk::new())
    }

    pub fn on(io: MemDisk) -> Self {
        Self { io, arena: Arena::new(MemoryBudget::new(64 << 20), ArenaOptions::default()) }
    }

    pub fn with<R>(&mut self, act: impl FnOnce(&mut SinkContext<'_>) -> R) -> R {
        act(&mut SinkContext { now_ns: 0, io: &mut self.io, arena: &self.arena })
    }
}

/// A stamp when it does not matter.
pub fn stamp() -> Stamp {
    Stamp { at: EventTimeMs(0), clock: EventTimeMs::MIN, split: 0, origin_ns: 0 }
}
