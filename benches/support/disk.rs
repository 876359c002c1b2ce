//! Limits: what the disk under `target/` takes past the page cache, and what making it durable costs.

use crate::support::histogram;
use hdrhistogram::Histogram;
use millstream::memory::{Arena, ArenaOptions, Buffer, MemoryBudget};
use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::PathBuf;
use std::time::Instant;

const MIB: usize = 1 << 20;
const BLOCK: usize = 4 << 10;

/// A file that is removed again.
pub struct Disk {
    file: File,
    path: PathBuf,
    buffer: Buffer,
    len_mib: u64,
    /// Whether O_DIRECT was granted.
    pub is_direct: bool,
}

impl Disk {
    /// A file of `len_mib` MiB, written once so that later writes overwrite.
    pub fn new(len_mib: u64) -> std::io::Result<Self> {
        let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("disk-probe-{}", std::process::id()));
        let open = |flags| {
            OpenOptions::new().read(true).write(true).create(true).truncate(true).custom_flags(flags).open(&path)
        };
        let direct = open(rustix::fs::OFlags::DIRECT.bits() as i32);
        let is_direct = direct.is_ok();
        let file = direct.or_else(|_| open(0))?;
        let arena = Arena::new(MemoryBudget::new(4 * MIB), ArenaOptions::default());
        let mut buffer = Buffer::take(&arena, "the disk probe", MIB).map_err(std::io::Error::other)?;
        buffer.whole_mut().fill(0x5A);
        buffer.set_len(MIB);
        let disk = Self { file, path, buffer, len_mib, is_direct };
        disk.write_all()?;
        Ok(disk)
    }

    fn write_all(&self) -> std::io::Result<()> {
        (0..self.len_mib).try_for_each(|mib| self.file.write_all_at(self.buffer.filled(), mib * MIB as u64))?;
        self.file.sync_data()
    }

    /// Overwrites the file in writes of 1 MiB, one at a time, and syncs once: MB/s.
    pub fn write_mb_s(&self) -> std::io::Result<f64> {
        let begun = Instant::now();
        self.write_all()?;
        Ok((self.len_mib * MIB as u64) as f64 / 1e6 / begun.elapsed().as_secs_f64())
    }

    /// Overwrites 4 KiB and calls fdatasync, `rounds` times: nanoseconds each.
    pub fn durable_write(&self, rounds: u64) -> std::io::Result<Histogram<u64>> {
        let mut times = histogram();
        for round in 0..rounds {
            let begun = Instant::now();
            self.file.write_all_at(&self.buffer.filled()[..BLOCK], round * 7 % (self.len_mib * 256) * BLOCK as u64)?;
            self.file.sync_data()?;
            times.saturating_record(begun.elapsed().as_nanos() as u64);
        }
        Ok(times)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        drop(std::fs::remove_file(&self.path));
    }
}
