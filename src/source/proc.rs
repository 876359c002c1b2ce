//! This machine's metrics from /proc at a fixed interval: one split per family (`cpu`, `memory`, `disk`, `network`).
//!
//! Here: when to sample, rates from counters, emitting. Not here: what the files say (`proc_text`).
//!
//! Series: `cpu.busy_percent`, `cpu0.busy_percent`; `memory.used_percent`, `memory.available_bytes`; `disk.vda.read_bytes_per_s`,
//! `disk.vda.write_bytes_per_s`; `network.lo.rx_bytes_per_s`, `network.lo.tx_bytes_per_s`. Event time is the wall clock's.
//! Percentages and rates come from two samples, so the first has none, and a counter that went back (a device was replaced) has none once.
//! Nothing is remembered over a restart. A family that cannot be read (in a container, perhaps) is reported once and ends.

use super::proc_text::{ByteCounters, CpuTimes, cpu_times, disks, memory, networks};
use super::reader::{ReadContext, ReadStatus, Source, SourceError, SplitReader};
use super::reading::{Reading, Sample};
use crate::io::Io;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Longer files are not read to their end: /proc/stat with 4096 processors is 0.5 MiB.
const TEXT_LEN_BYTES_MAX: usize = 1 << 20;

/// The metrics of this machine.
#[derive(Clone, Debug)]
pub struct ProcSource {
    root: PathBuf,
    interval_ns: u64,
    for_ns: Option<u64>,
}

impl Default for ProcSource {
    /// Every 100 ms, without end.
    fn default() -> Self {
        Self { root: "/proc".into(), interval_ns: 100_000_000, for_ns: None }
    }
}

impl ProcSource {
    /// How often to sample (1 ms at least).
    pub fn every(mut self, interval: Duration) -> Self {
        self.interval_ns = interval.max(Duration::from_millis(1)).as_nanos() as u64;
        self
    }

    /// Ends after this time; `None` goes on until the job is stopped.
    pub fn for_duration(mut self, duration: Option<Duration>) -> Self {
        self.for_ns = duration.map(|duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX));
        self
    }

    /// Reads another directory instead of /proc, one with the same files.
    pub fn root(mut self, root: impl Into<PathBuf>) -> Self {
        self.root = root.into();
        self
    }
}

/// A family of metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    Cpu,
    Memory,
    Disk,
    Network,
}

impl Family {
    const ALL: [Self; 4] = [Self::Cpu, Self::Memory, Self::Disk, Self::Network];

    fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Memory => "memory",
            Self::Disk => "disk",
            Self::Network => "network",
        }
    }

    fn file(self) -> &'static str {
        match self {
            Self::Cpu => "stat",
            Self::Memory => "meminfo",
            Self::Disk => "diskstats",
            Self::Network => "net/dev",
        }
    }
}

impl Source for ProcSource {
    type Record = Reading;
    type Reader = ProcReader;

    fn splits(&self, _: &mut dyn Io) -> Result<Vec<String>, SourceError> {
        Ok(Family::ALL.map(|family| family.name().to_owned()).to_vec())
    }

    fn open(&self, split: &str, _: Option<&[u8]>) -> Result<ProcReader, SourceError> {
        let family = Family::ALL.into_iter().find(|family| family.name() == split);
        let family = family.ok_or_else(|| SourceError::BadPosition {
            split: split.to_owned(),
            reason: "the families of metrics are cpu, memory, disk and network".to_owned(),
        })?;
        Ok(ProcReader {
            family,
            source: self.clone(),
            file: None,
            text: vec![0; 16 << 10],
            start_ns: None,
            next_ns: 0,
            last: None,
            readings: Vec::new(),
            emitted: 0,
            intended_ns: 0,
            has_ended: false,
        })
    }
}

/// Samples one family.
pub struct ProcReader {
    family: Family,
    source: ProcSource,
    file: Option<File>,
    text: Vec<u8>,
    start_ns: Option<u64>,
    /// The next point of the grid start + n x interval.
    next_ns: u64,
    last: Option<Counters>,
    /// The last sample, the time it was meant for, and how much of it is emitted.
    readings: Vec<Reading>,
    emitted: usize,
    intended_ns: u64,
    has_ended: bool,
}

/// The counters of one sample and when they were read.
struct Counters {
    at_ns: u64,
    cpus: Vec<CpuTimes>,
    devices: Vec<ByteCounters>,
}

impl SplitReader for ProcReader {
    type Record = Reading;

    fn read<E: FnMut(&mut ReadContext<'_>, &Reading, u64)>(
        &mut self,
        cx: &mut ReadContext<'_>,
        records_max: usize,
        mut emit: E,
    ) -> Result<ReadStatus, SourceError> {
        if self.emitted == self.readings.len() && !self.has_ended {
            let start_ns = *self.start_ns.get_or_insert_with(|| {
                self.next_ns = cx.now_ns;
                cx.now_ns
            });
            if self.source.for_ns.is_some_and(|for_ns| cx.now_ns - start_ns >= for_ns) {
                self.has_ended = true;
            } else if cx.now_ns < self.next_ns {
                return Ok(ReadStatus::Pending);
            } else {
                self.sample(cx);
            }
        }
        let end = self.readings.len().min(self.emitted.saturating_add(records_max));
        for reading in &self.readings[self.emitted..end] {
            emit(cx, reading, self.intended_ns);
        }
        self.emitted = end;
        Ok(match self.emitted == self.readings.len() {
            false => ReadStatus::More,
            true if self.has_ended => ReadStatus::Ended,
            true => ReadStatus::Pending,
        })
    }

    fn position(&self, _: &mut Vec<u8>) {}

    fn wake_at_ns(&self) -> Option<u64> {
        let end_ns = self.source.for_ns.zip(self.start_ns).map(|(for_ns, start_ns)| start_ns.saturating_add(for_ns));
        Some(self.next_ns.min(end_ns.unwrap_or(u64::MAX)))
    }

    fn close(&mut self, _: &mut dyn Io) {
        self.file = None;
    }
}

impl ProcReader {
    /// Reads the family's file, turns it into readings, and chooses the next point of the grid (passed ones are left out: their time
    /// cannot be sampled any more).
    fn sample(&mut self, cx: &ReadContext<'_>) {
        self.intended_ns = self.next_ns;
        self.next_ns += ((cx.now_ns - self.next_ns) / self.source.interval_ns + 1) * self.source.interval_ns;
        self.readings.clear();
        self.emitted = 0;
        match self.read_file() {
            Ok(len) => {
                let text = String::from_utf8_lossy(&self.text[..len]).into_owned();
                if !self.take(&text, cx.now_ns, cx.wall_ms) {
                    self.end("it holds no such metrics");
                }
            }
            Err(e) => self.end(&e.to_string()),
        }
    }

    fn end(&mut self, reason: &str) {
        let path = self.path();
        tracing::warn!("no {} metrics: {} cannot be used: {reason}", self.family.name(), path.display());
        self.has_ended = true;
        self.file = None;
    }

    fn path(&self) -> PathBuf {
        Path::new(&self.source.root).join(self.family.file())
    }

    #[allow(
        clippy::disallowed_methods,
        reason = "files under /proc are made by the kernel when they are read: no disk I/O"
    )]
    fn read_file(&mut self) -> std::io::Result<usize> {
        let file = match &self.file {
            Some(file) => file,
            None => self.file.insert(File::open(Path::new(&self.source.root).join(self.family.file()))?),
        };
        let mut len = 0;
        loop {
            if len == self.text.len() && len < TEXT_LEN_BYTES_MAX {
                self.text.resize(len * 2, 0);
            }
            match file.read_at(&mut self.text[len..], len as u64) {
                Ok(0) => return Ok(len),
                Ok(read) => len += read,
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }

    /// Turns a sample into readings; `false` when there is nothing in it.
    fn take(&mut self, text: &str, now_ns: u64, wall_ms: i64) -> bool {
        let mut counters = Counters { at_ns: now_ns, cpus: Vec::new(), devices: Vec::new() };
        match self.family {
            Family::Memory => {
                let Some(memory) = memory(text) else { return false };
                let used_percent = 100.0 * (memory.total - memory.available) as f64 / memory.total as f64;
                self.add("memory.used_percent".to_owned(), wall_ms, used_percent);
                self.add("memory.available_bytes".to_owned(), wall_ms, memory.available as f64);
                return true;
            }
            Family::Cpu => counters.cpus = cpu_times(text),
            Family::Disk => counters.devices = disks(text),
            Family::Network => counters.devices = networks(text),
        }
        if let Some(last) = self.last.take() {
            self.add_cpus(&last, &counters, wall_ms);
            self.add_devices(&last, &counters, wall_ms);
        }
        let is_empty = counters.cpus.is_empty() && counters.devices.is_empty();
        self.last = Some(counters);
        !is_empty
    }

    fn add_cpus(&mut self, last: &Counters, now: &Counters, wall_ms: i64) {
        for cpu in &now.cpus {
            let before = last.cpus.iter().find(|before| before.name == cpu.name);
            let share = before.and_then(|before| {
                let total = cpu.total.checked_sub(before.total).filter(|&total| total > 0)?;
                Some(cpu.busy.checked_sub(before.busy)?.min(total) as f64 / total as f64)
            });
            if let Some(share) = share {
                self.add(format!("{}.busy_percent", cpu.name), wall_ms, 100.0 * share);
            }
        }
    }

    fn add_devices(&mut self, last: &Counters, now: &Counters, wall_ms: i64) {
        let (incoming, outgoing) = if self.family == Family::Disk { ("read", "write") } else { ("rx", "tx") };
        let seconds = (now.at_ns - last.at_ns) as f64 / 1e9;
        for device in &now.devices {
            let Some(before) = last.devices.iter().find(|before| before.name == device.name) else { continue };
            let both = [(incoming, device.incoming, before.incoming), (outgoing, device.outgoing, before.outgoing)];
            for (direction, now, before) in both {
                if let Some(bytes) = now.checked_sub(before).filter(|_| seconds > 0.0) {
                    let series = format!("{}.{}.{direction}_bytes_per_s", self.family.name(), device.name);
                    self.add(series, wall_ms, bytes as f64 / seconds);
                }
            }
        }
    }

    fn add(&mut self, series: String, at: i64, value: f64) {
        self.readings.push(Reading { series, sample: Sample { at, value } });
    }
}

#[cfg(test)]
mod tests {
    use super::super::test_support::Rig;
    use super::*;

    fn sampled(reader: &mut ProcReader, text: &str, now_ns: u64) -> Vec<(String, f64)> {
        reader.readings.clear();
        assert!(reader.take(text, now_ns, 5));
        reader.readings.iter().map(|reading| (reading.series.clone(), reading.sample.value)).collect()
    }

    fn reader(family: &str) -> ProcReader {
        ProcSource::default().open(family, None).unwrap()
    }

    #[test]
    fn processors_have_a_share_from_the_second_sample_on() {
        let mut reader = reader("cpu");
        assert_eq!(sampled(&mut reader, "cpu  10 0 0 90\ncpu0 10 0 0 90\n", 0), []);
        let second = sampled(&mut reader, "cpu  13 0 0 97\ncpu0 10 0 0 90\n", 1);
        assert_eq!(second, [("cpu.busy_percent".to_owned(), 30.0)]);
    }

    #[test]
    fn rates_are_differences_over_time_and_a_counter_that_went_back_has_none() {
        let mut reader = reader("network");
        let text = |rx: u64, tx: u64| format!("lo: {rx} 0 0 0 0 0 0 0 {tx} 0\n");
        assert_eq!(sampled(&mut reader, &text(100, 200), 0), []);
        let expected = [("network.lo.rx_bytes_per_s", 1000.0), ("network.lo.tx_bytes_per_s", 0.0)];
        let expected = expected.map(|(series, value)| (series.to_owned(), value));
        assert_eq!(sampled(&mut reader, &text(200, 200), 100_000_000), expected);
        assert_eq!(
            sampled(&mut reader, &text(50, 210), 200_000_000),
            [("network.lo.tx_bytes_per_s".to_owned(), 100.0)]
        );
    }

    #[test]
    fn disks_and_memory_have_their_series() {
        let mut disk = reader("disk");
        sampled(&mut disk, "1 0 vda 0 0 0 0 0 0 0 0", 0);
        let second = sampled(&mut disk, "1 0 vda 0 0 2 0 0 0 4 0", 1_000_000_000);
        let expected = [("disk.vda.read_bytes_per_s", 1024.0), ("disk.vda.write_bytes_per_s", 2048.0)];
        assert_eq!(second, expected.map(|(series, value)| (series.to_owned(), value)));
        let found = sampled(&mut reader("memory"), "MemTotal: 4 kB\nMemAvailable: 1 kB\n", 0);
        let expected = [("memory.used_percent", 75.0), ("memory.available_bytes", 1024.0)];
        assert_eq!(found, expected.map(|(series, value)| (series.to_owned(), value)));
    }

    #[test]
    fn samples_are_meant_for_the_grid_and_the_split_ends_on_time() {
        let mut rig = Rig::new();
        rig.now_ns = 1000;
        rig.wall_ms = 77;
        let source = ProcSource::default().for_duration(Some(Duration::from_millis(450)));
        let mut reader = source.open("memory", None).unwrap();
        let mut times = Vec::new();
        for now_ns in [1000, 50_001_000, 130_001_000, 399_001_000, 400_001_000] {
            rig.now_ns = now_ns;
            let (records, status) = rig.read(&mut reader, 9).unwrap();
            assert!(records.iter().all(|(reading, _)| reading.sample.at == 77));
            assert_eq!(status, ReadStatus::Pending);
            times.push(records.first().map(|(_, intended_ns)| *intended_ns));
        }
        assert_eq!(times, [Some(1000), None, Some(100_001_000), Some(200_001_000), Some(400_001_000)]);
        assert_eq!(reader.wake_at_ns(), Some(450_001_000));
        rig.now_ns = 450_001_000;
        assert_eq!(rig.read(&mut reader, 9).unwrap(), (vec![], ReadStatus::Ended));
    }

    #[test]
    fn a_sample_larger_than_a_read_comes_in_pieces_of_the_same_time() {
        let mut rig = Rig::new();
        let mut reader = reader("memory");
        assert_eq!(rig.read(&mut reader, 1).unwrap().1, ReadStatus::More);
        let (rest, status) = rig.read(&mut reader, 1).unwrap();
        assert_eq!((rest[0].0.series.as_str(), rest[0].1, status), ("memory.available_bytes", 0, ReadStatus::Pending));
    }

    #[test]
    fn a_family_that_cannot_be_read_ends() {
        let mut rig = Rig::new();
        let source = ProcSource::default().root("/nonexistent");
        for family in source.splits(&mut rig.io).unwrap() {
            let mut reader = source.open(&family, None).unwrap();
            assert_eq!(rig.read(&mut reader, 9).unwrap(), (vec![], ReadStatus::Ended));
        }
        assert!(source.open("weather", None).is_err());
    }

    #[test]
    fn this_machine_has_processors_and_memory() {
        let mut rig = Rig::new();
        for family in ["cpu", "memory"] {
            let mut reader = reader(family);
            assert_eq!(rig.read(&mut reader, 1000).unwrap().1, ReadStatus::Pending, "{family}");
        }
    }
}
