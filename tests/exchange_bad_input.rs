//! Records that an exchange cannot carry or hardly notices, and consumers that do not keep up.
#![allow(clippy::disallowed_methods, reason = "the tests play the host program")]

use millstream::Record;
use millstream::engine::{CheckpointOptions, Engine, JobOptions};
use millstream::job_manager::{JobState, RestartPolicy};
use millstream::record::Stamp;
use millstream::sink::{Callback, Discard, Subscribe, WhenFull};
use millstream::source::{Generator, Reading, Sample, VecSource};
use millstream::stream::Job;
use millstream::time::{EventTimeMs, Watermarks};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

fn engine(slots: u32) -> Engine {
    Engine::builder().slots(slots).memory(64 << 20).pin(false).start().unwrap()
}

#[test]
fn a_record_larger_than_a_segment_fails_the_job_with_both_sizes() {
    let engine = engine(1);
    let job = Job::new("large");
    let reading = Reading { series: "x".repeat(40_000), sample: Sample::default() };
    job.source("readings", VecSource::new(vec![vec![reading]]))
        .ingestion_time()
        .rebalance("spread")
        .sink("nowhere", Discard);
    let options = JobOptions { restart: RestartPolicy::None, ..JobOptions::default() };
    let error = engine.submit(job, options).unwrap().wait().unwrap_err().to_string();
    assert!(error.contains("a record of 400") && error.contains("a segment of 32720 bytes"), "{error}");
}

#[derive(Record, Clone, Copy, Debug)]
#[repr(C)]
struct Tick {}

#[test]
fn records_without_size_cross_an_exchange_like_others() {
    let engine = engine(2);
    let job = Job::new("ticks");
    let seen = Arc::new(AtomicU64::new(0));
    let counted = seen.clone();
    job.source("ticks", VecSource::new(vec![vec![Tick {}; 10_000]; 2]))
        .ingestion_time()
        .rebalance("spread")
        .key_by("all", |_: &Tick| 0u64)
        .reduce("last", |_, tick| *tick)
        .sink(
            "seen",
            Callback::new(move |_: &Stamp, _: &Tick| {
                counted.fetch_add(1, Ordering::Relaxed);
            }),
        );
    assert_eq!(engine.submit(job, JobOptions::default()).unwrap().wait().unwrap().state, JobState::Finished);
    assert_eq!(seen.load(Ordering::Relaxed), 20_000);
}

/// How many records the source has made so far.
struct Source {
    made: Arc<AtomicU64>,
}

impl Source {
    const RECORDS: u64 = 300_000;

    fn generator(&self) -> Generator<u64, impl Fn(u64) -> u64 + Clone + Send + Sync + use<>> {
        let made = self.made.clone();
        let make = move |n: u64| {
            made.fetch_add(1, Ordering::Relaxed);
            n
        };
        Generator::new(make)
    }

    /// Waits until it makes no more, and says how many it made.
    fn until_held_back(&self) -> u64 {
        let mut before = u64::MAX;
        loop {
            let made = self.made.load(Ordering::Relaxed);
            if made == before && made > 0 {
                return made;
            }
            before = made;
            std::thread::park_timeout(Duration::from_millis(200));
        }
    }
}

#[test]
fn a_sink_that_takes_nothing_holds_back_the_source_and_loses_nothing() {
    let engine = engine(2);
    let job = Job::new("dead-sink");
    let source = Source { made: Arc::default() };
    let (sink, mut subscription) = Subscribe::new(4, WhenFull::Block);
    job.source("numbers", source.generator().count(Source::RECORDS))
        .event_time(|n: &u64| EventTimeMs(*n as i64), Watermarks::monotonous())
        .rebalance("spread")
        .sink("subscriber", sink);
    engine.submit(job, JobOptions::default()).unwrap();
    let made = source.until_held_back();
    assert!(made < Source::RECORDS, "nothing held the source back");
    let mut taken: Vec<u64> = std::iter::from_fn(|| subscription.next()).collect();
    taken.sort_unstable();
    assert!(taken.into_iter().eq(0..Source::RECORDS));
}

#[test]
fn a_checkpoint_completes_while_a_slow_sink_holds_back_the_source() {
    let dir = std::env::temp_dir().join(format!("millstream-slow-sink-{}", std::process::id()));
    let engine = engine(2);
    let job = Job::new("slow-sink");
    let source = Source { made: Arc::default() };
    let (sink, mut subscription) = Subscribe::new(4, WhenFull::Block);
    job.source("numbers", source.generator())
        .event_time(|n: &u64| EventTimeMs(*n as i64), Watermarks::monotonous())
        .key_by("by-number", |n: &u64| n % 100)
        .reduce("last", |_, n| *n)
        .sink("subscriber", sink);
    let checkpoints = Some(CheckpointOptions::every(&dir, Duration::from_millis(20)));
    let handle = engine.submit(job, JobOptions { checkpoints, ..JobOptions::default() }).unwrap();
    source.until_held_back();
    // The source has no end, so no checkpoint waits for it: a barrier passes behind what is under way.
    while handle.status().checkpoints.completed < 2 {
        assert!(subscription.next().is_some() && !handle.has_ended(), "{:?}", handle.status());
    }
    handle.cancel();
    drop(engine);
    let _ = std::fs::remove_dir_all(dir);
}
