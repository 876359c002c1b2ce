//! What the tests of sources need: a disk in memory, an arena, and a context made of them.

pub use super::test_disk::MemDisk;

use super::reader::{ReadContext, ReadStatus, SourceError, SplitReader};
use crate::io::Io as _;
use crate::memory::{Arena, ArenaOptions, MemoryBudget};

/// Records with the times they were meant for, and what the read left behind.
pub type Emitted<T> = (Vec<(T, u64)>, ReadStatus);

/// Everything a reader may use.
pub struct Rig {
    pub io: MemDisk,
    pub now_ns: u64,
    pub wall_ms: i64,
    pub dropped: Vec<&'static str>,
    arena: Arena,
}

impl Rig {
    pub fn new() -> Self {
        Self::on(MemDisk::new())
    }

    pub fn on(io: MemDisk) -> Self {
        let arena = Arena::new(MemoryBudget::new(64 << 20), ArenaOptions::default());
        Self { io, now_ns: 0, wall_ms: 0, dropped: Vec::new(), arena }
    }

    pub fn with<R>(&mut self, act: impl FnOnce(&mut ReadContext<'_>) -> R) -> R {
        let dropped = &mut self.dropped;
        let mut count = |reason| dropped.push(reason);
        act(&mut ReadContext {
            now_ns: self.now_ns,
            wall_ms: self.wall_ms,
            io: &mut self.io,
            arena: &self.arena,
            dropped: &mut count,
        })
    }

    /// One read of at most `records_max`; the disk moves on before it.
    pub fn read<S: SplitReader>(
        &mut self,
        reader: &mut S,
        records_max: usize,
    ) -> Result<Emitted<S::Record>, SourceError>
    where
        S::Record: Clone,
    {
        self.io.drive();
        let mut records = Vec::new();
        let status =
            self.with(|cx| reader.read(cx, records_max, |_, record, at_ns| records.push((record.clone(), at_ns))))?;
        Ok((records, status))
    }

    /// Reads until the split has ended (or nothing came for some time), without moving the clock.
    pub fn read_all<S: SplitReader>(&mut self, reader: &mut S) -> Result<Vec<S::Record>, SourceError>
    where
        S::Record: Clone,
    {
        let mut all = Vec::new();
        let mut idle = 0;
        while idle < 100 {
            let (records, status) = self.read(reader, 7)?;
            idle = if records.is_empty() { idle + 1 } else { 0 };
            all.extend(records.into_iter().map(|(record, _)| record));
            if status == ReadStatus::Ended {
                break;
            }
        }
        Ok(all)
    }
}

/// A reader's position as bytes.
pub fn position_of(reader: &impl SplitReader) -> Vec<u8> {
    let mut bytes = Vec::new();
    reader.position(&mut bytes);
    bytes
}
