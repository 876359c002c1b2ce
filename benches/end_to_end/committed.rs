//! How long a record takes until the line it became can be read and survives a power cut: the file sink's whole protocol, one checkpoint
//! after the other.

use crate::disk::Disk;
use crate::support::{Bench, Figure, histogram};
use crate::{QUANTILES, Reading};
use hdrhistogram::Histogram;
use millstream::checkpoint::CheckpointId;
use millstream::engine::{CheckpointOptions, Engine, JobOptions};
use millstream::io::Io;
use millstream::record::Stamp;
use millstream::sink::{JsonLines, Sink, SinkContext, SinkError, SinkWriter};
use millstream::source::Generator;
use millstream::stream::Job;
use millstream::time::{Clock, EventTimeMs, MachineClock, Watermarks};
use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

const PER_SECOND: u64 = 10_000;
const EPOCH: Duration = Duration::from_millis(5);
const KEYS: u64 = 10_000;

pub fn measure(bench: &mut Bench, time: Duration) {
    let probe = || match Disk::new(1).and_then(|disk| disk.durable_write(200)) {
        Ok(times) => times,
        Err(error) => panic!("the disk under target/ cannot be measured: {error}"),
    };
    let ms = |times: &Histogram<u64>, quantile| times.value_at_quantile(quantile) as f64 / 1e6;
    let before = probe();
    let Times { latencies, stages } = times(time);
    let after = probe();
    let mut flush = before.clone();
    flush.add(&after).expect("their bounds are the same");
    bench.probe("fdatasync, p50", "ms", ms(&before, 0.5), ms(&after, 0.5));
    let scenario = "10 k ev/s, committed, 5 ms epochs";
    bench.latencies(scenario, &latencies, &[("fdatasync", &flush)]);
    for (metric, quantile) in QUANTILES {
        let limit = match metric {
            "p50" => Some(8.0),
            "p99" => Some(EPOCH.as_secs_f64() * 1e3 + 1.5 * ms(&flush, 0.99)),
            _ => None,
        };
        let (goal, kernel) = (limit.map(|_| 1.0), Some(ms(&flush, quantile)));
        bench.figure(Figure { limit, kernel, goal, ..Figure::new(scenario, metric, ms(&latencies, quantile), "ms") });
    }
    for (stage, times) in STAGES.iter().zip(&stages) {
        for (metric, quantile) in QUANTILES.iter().take(2) {
            bench.figure(Figure::new(format!("of an epoch: {stage}"), metric, ms(times, *quantile), "ms"));
        }
    }
}

/// What the end of an epoch is made of.
const STAGES: [&str; 4] = ["barrier to barrier", "barrier to prepared", "prepared to commit", "commit to visible"];

/// How long each record took, and each stage of the end of an epoch.
struct Times {
    latencies: Histogram<u64>,
    stages: [Histogram<u64>; STAGES.len()],
}

/// From the intended time of a record to the end of the commit that its line is part of.
fn times(time: Duration) -> Times {
    let dir = Path::new("target").join("bench-committed");
    let _ = std::fs::remove_dir_all(&dir);
    let times = Arc::new(Mutex::new(Times { latencies: histogram(), stages: std::array::from_fn(|_| histogram()) }));
    let engine = Engine::builder().slots(2).memory(256 << 20).start().expect("two slots start anywhere");
    let job = Job::new("committed");
    let count = (PER_SECOND as f64 * time.as_secs_f64()) as u64;
    job.source("readings", Generator::new(|n: u64| n).count(count).per_second(PER_SECOND as f64))
        .event_time(|n: &u64| EventTimeMs(*n as i64), Watermarks::monotonous())
        .map(|n: &u64| Reading::nth(*n, KEYS))
        .key_by("by-key", |reading: &Reading| reading.key)
        .reduce("count", |a, b| Reading { key: a.key, count: a.count + b.count })
        .map(|reading: &Reading| (reading.key, reading.count))
        .sink("lines", Timed { lines: JsonLines::exactly_once(dir.join("out")), times: times.clone() });
    let checkpoints = Some(CheckpointOptions::every(dir.join("state"), EPOCH));
    let handle = engine.submit(job, JobOptions { checkpoints, ..JobOptions::default() }).expect("the job is valid");
    handle.wait().expect("nothing in the job fails");
    engine.stop();
    let _ = std::fs::remove_dir_all(&dir);
    let empty = Times { latencies: histogram(), stages: std::array::from_fn(|_| histogram()) };
    let times = std::mem::replace(&mut *times.lock().expect("no slot panics"), empty);
    assert_eq!(times.latencies.len(), count, "every line is committed once");
    times
}

/// A sink that notes when its lines were committed.
#[derive(Clone)]
struct Timed<S> {
    lines: S,
    times: Arc<Mutex<Times>>,
}

struct TimedWriter<W> {
    writer: W,
    times: Arc<Mutex<Times>>,
    /// When the last barrier came, when it was prepared, and when its commit was told.
    barrier_ns: u64,
    prepared_ns: Option<u64>,
    told_ns: u64,
    /// When the lines since the last barrier were meant to be emitted.
    open: Vec<u64>,
    /// The same of earlier ones, by the checkpoint they are part of.
    prepared: VecDeque<(CheckpointId, Vec<u64>)>,
    /// The newest checkpoint that was committed.
    committing: Option<CheckpointId>,
}

impl<V, S: Sink<V>> Sink<V> for Timed<S> {
    type Writer = TimedWriter<S::Writer>;

    fn open(&self, subtask: u32, parallelism: u32) -> Result<Self::Writer, SinkError> {
        let writer = self.lines.open(subtask, parallelism)?;
        let times = self.times.clone();
        let (open, prepared) = (Vec::new(), VecDeque::new());
        let (barrier_ns, prepared_ns, told_ns) = (MachineClock.monotonic_ns(), Some(0), 0);
        Ok(TimedWriter { writer, times, barrier_ns, prepared_ns, told_ns, open, prepared, committing: None })
    }
}

impl<W> TimedWriter<W> {
    fn note(&self, stage: usize, since_ns: u64) {
        let took_ns = MachineClock.monotonic_ns().saturating_sub(since_ns);
        self.times.lock().expect("no slot panics").stages[stage].saturating_record(took_ns);
    }
}

impl<V, W: SinkWriter<V>> SinkWriter<V> for TimedWriter<W> {
    fn write(&mut self, cx: &mut SinkContext<'_>, stamp: &Stamp, record: &V) -> Result<(), SinkError> {
        self.open.push(stamp.origin_ns);
        self.writer.write(cx, stamp, record)
    }

    fn is_full(&self) -> bool {
        self.writer.is_full()
    }

    fn poll(&mut self, cx: &mut SinkContext<'_>) -> Result<bool, SinkError> {
        let worked = self.writer.poll(cx)?;
        if self.prepared_ns.is_none() && self.writer.is_prepared() {
            self.prepared_ns = Some(MachineClock.monotonic_ns());
            self.note(1, self.barrier_ns);
        }
        if let Some(id) = self.committing
            && self.writer.is_committed()
        {
            self.note(3, self.told_ns);
            let now_ns = MachineClock.monotonic_ns();
            let latencies = &mut self.times.lock().expect("no slot panics").latencies;
            let committed = self.prepared.partition_point(|(checkpoint, _)| *checkpoint <= id);
            for (_, times) in self.prepared.drain(..committed) {
                times.iter().for_each(|origin_ns| latencies.saturating_record(now_ns.saturating_sub(*origin_ns)));
            }
            self.committing = None;
        }
        Ok(worked)
    }

    fn snapshot(&mut self, cx: &mut SinkContext<'_>, id: CheckpointId) -> Result<Vec<u8>, SinkError> {
        self.prepared.push_back((id, std::mem::take(&mut self.open)));
        self.note(0, self.barrier_ns);
        (self.barrier_ns, self.prepared_ns) = (MachineClock.monotonic_ns(), None);
        self.writer.snapshot(cx, id)
    }

    fn is_prepared(&self) -> bool {
        self.writer.is_prepared()
    }

    fn commit(&mut self, cx: &mut SinkContext<'_>, id: CheckpointId) -> Result<(), SinkError> {
        self.committing = Some(id);
        self.note(2, self.prepared_ns.unwrap_or(self.barrier_ns));
        self.told_ns = MachineClock.monotonic_ns();
        self.writer.commit(cx, id)
    }

    fn is_committed(&self) -> bool {
        self.committing.is_none() && self.writer.is_committed()
    }

    fn is_ready(&self) -> bool {
        self.writer.is_ready()
    }

    fn set_doorbell(&mut self, doorbell: &Arc<millstream::slot::Doorbell>) {
        self.writer.set_doorbell(doorbell);
    }

    fn close(&mut self, io: &mut dyn Io) {
        self.writer.close(io);
    }
}
