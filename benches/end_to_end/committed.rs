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
    let latencies = latencies(time);
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
}

/// From the intended time of a record to the end of the commit that its line is part of.
fn latencies(time: Duration) -> Histogram<u64> {
    let dir = Path::new("target").join("bench-committed");
    let _ = std::fs::remove_dir_all(&dir);
    let latencies = Arc::new(Mutex::new(histogram()));
    let engine = Engine::builder().slots(2).memory(256 << 20).start().expect("two slots start anywhere");
    let job = Job::new("committed");
    let count = (PER_SECOND as f64 * time.as_secs_f64()) as u64;
    job.source("readings", Generator::new(|n: u64| n).count(count).per_second(PER_SECOND as f64))
        .event_time(|n: &u64| EventTimeMs(*n as i64), Watermarks::monotonous())
        .map(|n: &u64| Reading::nth(*n, KEYS))
        .key_by("by-key", |reading: &Reading| reading.key)
        .reduce("count", |a, b| Reading { key: a.key, count: a.count + b.count })
        .map(|reading: &Reading| (reading.key, reading.count))
        .sink("lines", Timed { lines: JsonLines::exactly_once(dir.join("out")), latencies: latencies.clone() });
    let checkpoints = Some(CheckpointOptions::every(dir.join("state"), EPOCH));
    let handle = engine.submit(job, JobOptions { checkpoints, ..JobOptions::default() }).expect("the job is valid");
    handle.wait().expect("nothing in the job fails");
    engine.stop();
    let _ = std::fs::remove_dir_all(&dir);
    let latencies = std::mem::replace(&mut *latencies.lock().expect("no slot panics"), histogram());
    assert_eq!(latencies.len(), count, "every line is committed once");
    latencies
}

/// A sink that notes when its lines were committed.
#[derive(Clone)]
struct Timed<S> {
    lines: S,
    latencies: Arc<Mutex<Histogram<u64>>>,
}

struct TimedWriter<W> {
    writer: W,
    latencies: Arc<Mutex<Histogram<u64>>>,
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
        let latencies = self.latencies.clone();
        Ok(TimedWriter { writer, latencies, open: Vec::new(), prepared: VecDeque::new(), committing: None })
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
        if let Some(id) = self.committing
            && self.writer.is_committed()
        {
            let now_ns = MachineClock.monotonic_ns();
            let mut latencies = self.latencies.lock().expect("no slot panics");
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
        self.writer.snapshot(cx, id)
    }

    fn is_prepared(&self) -> bool {
        self.writer.is_prepared()
    }

    fn commit(&mut self, cx: &mut SinkContext<'_>, id: CheckpointId) -> Result<(), SinkError> {
        self.committing = Some(id);
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
