//! Limits: writes of 1 MiB past the page cache with several in flight, through the engine's own driver, into a new file with space
//! allocated and over a file written before.

use millstream::io::{FileId, Io, IoChoice, IoError, IoOp, IoOutput, OpenMode};
use millstream::memory::{Arena, ArenaOptions, Buffer, MemoryBudget};
use millstream::slot::Doorbell;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

const MIB: usize = 1 << 20;

/// A file that is removed again.
pub struct DiskQueue {
    io: Box<dyn Io>,
    file: FileId,
    path: PathBuf,
    buffers: Vec<Buffer>,
    len_mib: u64,
    next_mib: u64,
    /// What the first pass over the file came to.
    new_mb_s: f64,
}

impl DiskQueue {
    /// A file of `len_mib` MiB.
    pub fn open(len_mib: u64) -> Result<Self, IoError> {
        let bell = Arc::new(Doorbell::new().expect("the process has a free file descriptor"));
        let mut io = millstream::io::open(IoChoice::Auto, bell).expect("some way of I/O works");
        static OPENED: AtomicU64 = AtomicU64::new(0);
        let name = format!("disk-queue-{}-{}", std::process::id(), OPENED.fetch_add(1, Ordering::Relaxed));
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        let opened = io.complete(IoOp::Open { path: path.clone(), mode: OpenMode::Create, direct: true })?;
        let IoOutput::File(file) = opened else { unreachable!("opening gives a file") };
        let arena = Arena::new(MemoryBudget::new(16 * MIB), ArenaOptions::default());
        let buffer = || {
            let mut buffer = Buffer::take(&arena, "the disk probe", MIB).expect("the budget holds eight");
            buffer.set_len(MIB);
            buffer.filled_mut().fill(0x5A);
            buffer
        };
        let buffers = (0..8).map(|_| buffer()).collect();
        io.complete(IoOp::Allocate { file, len_bytes: len_mib * MIB as u64 })?;
        let mut queue = Self { io, file, path, buffers, len_mib, next_mib: 0, new_mb_s: 0.0 };
        queue.new_mb_s = queue.write_mb_s(4)?;
        Ok(queue)
    }

    /// Fills a file that was new, with its space allocated, and flushes it, four writes in flight: MB/s. What a file system does for space
    /// that was never written costs as much as half of the writing.
    pub fn new_mb_s(&self) -> f64 {
        self.new_mb_s
    }

    /// Overwrites the file with `depth` writes in flight and flushes it: MB/s.
    pub fn write_mb_s(&mut self, depth: usize) -> Result<f64, IoError> {
        let begun = Instant::now();
        let (mut next, mut in_flight) = (0, Vec::new());
        while next < self.len_mib || !in_flight.is_empty() {
            while next < self.len_mib && in_flight.len() < depth {
                let Some(from) = self.buffers.pop() else { break };
                in_flight.push(self.io.submit(IoOp::Write { file: self.file, offset: next * MIB as u64, from }));
                next += 1;
            }
            self.io.drive();
            let before = in_flight.len();
            for token in std::mem::take(&mut in_flight) {
                match self.io.take(token) {
                    None => in_flight.push(token),
                    Some(output) => self.keep(output?),
                }
            }
            if in_flight.len() == before {
                self.io.wait(Duration::from_millis(1));
            }
        }
        self.io.complete(IoOp::SyncData { file: self.file })?;
        Ok((self.len_mib * MIB as u64) as f64 / 1e6 / begun.elapsed().as_secs_f64())
    }

    /// One write of 1 MiB and fdatasync.
    pub fn durable_mib(&mut self) -> Result<Duration, IoError> {
        let Some(from) = self.buffers.pop() else { unreachable!("no write is in flight") };
        let begun = Instant::now();
        let written = self.io.complete(IoOp::Write { file: self.file, offset: self.next_mib * MIB as u64, from })?;
        self.io.complete(IoOp::SyncData { file: self.file })?;
        let took = begun.elapsed();
        self.keep(written);
        self.next_mib = (self.next_mib + 1) % self.len_mib;
        Ok(took)
    }

    fn keep(&mut self, output: IoOutput) {
        if let IoOutput::Buffer(buffer) = output {
            self.buffers.push(buffer);
        }
    }
}

impl Drop for DiskQueue {
    fn drop(&mut self) {
        drop(std::fs::remove_file(&self.path));
    }
}
