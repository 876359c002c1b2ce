//! Whole jobs through the engine: what goes in comes out, once, on any number of slots, over restarts and stops.

use millstream::Record;
use millstream::engine::{CheckpointOptions, Engine, JobOptions};
use millstream::job_manager::JobState;
use millstream::operator::Aggregate;
use millstream::operator::{Count, Sum};
use millstream::sink::Collect;
use millstream::source::VecSource;
use millstream::stream::Job;
use millstream::time::{EventTimeMs, Watermarks};
use millstream::window::{Tumbling, WindowResult};
use std::collections::BTreeMap;
use std::time::Duration;

#[derive(Record, Clone, Copy, Debug, PartialEq)]
#[repr(C)]
struct Payment {
    card: u64,
    cents: i64,
    at: i64,
}

fn payments(splits: u64, per_split: u64) -> Vec<Vec<Payment>> {
    let payment =
        |split: u64, n: u64| Payment { card: (n * 7 + split) % 10, cents: (n % 100) as i64, at: (n * 10) as i64 };
    (0..splits).map(|split| (0..per_split).map(|n| payment(split, n)).collect()).collect()
}

fn engine(slots: u32) -> Engine {
    Engine::builder().slots(slots).memory(256 << 20).pin(false).start().unwrap()
}

type Results = Vec<(u64, i64, u64, i64)>;

fn windowed(
    job: &Job,
    input: Vec<Vec<Payment>>,
) -> Collect<
    (u64, i64, u64, i64),
    impl Fn(&WindowResult<u64, (u64, i64)>) -> (u64, i64, u64, i64) + Clone + Send + Sync + use<>,
> {
    let results = Collect::exactly_once_with(|result: &WindowResult<u64, (u64, i64)>| {
        (result.key, result.window.start, result.value.0, result.value.1)
    });
    job.source("payments", VecSource::new(input))
        .event_time(|p: &Payment| EventTimeMs(p.at), Watermarks::bounded(0).never_idle())
        .key_by("by-card", |p: &Payment| p.card)
        .window(Tumbling::of(1_000))
        .aggregate("per-second", Count.and(Sum::of(|p: &Payment| p.cents)))
        .sink("results", results.clone());
    results
}

fn expected(input: &[Vec<Payment>]) -> Results {
    let mut sums = BTreeMap::new();
    for payment in input.iter().flatten() {
        let sum: &mut (u64, i64) = sums.entry((payment.card, payment.at / 1_000 * 1_000)).or_default();
        sum.0 += 1;
        sum.1 += payment.cents;
    }
    sums.into_iter().map(|((card, start), (count, cents))| (card, start, count, cents)).collect()
}

fn sorted(mut results: Results) -> Results {
    results.sort();
    results
}

#[test]
fn windows_of_several_splits_are_the_same_on_any_number_of_slots() {
    let input = payments(3, 20_000);
    for slots in [1, 2, 3, 5] {
        let engine = engine(slots);
        let job = Job::new("windows");
        let results = windowed(&job, input.clone());
        let outcome = engine.submit(job, JobOptions::default()).unwrap().wait().unwrap();
        assert_eq!(outcome.state, JobState::Finished);
        assert_eq!(sorted(results.take()), expected(&input), "{slots} slots");
    }
}

#[test]
fn a_finished_job_with_checkpoints_has_written_its_last_one() {
    let dir = std::env::temp_dir().join(format!("millstream-engine-{}", std::process::id()));
    let input = payments(2, 50_000);
    let engine = engine(2);
    let job = Job::new("windows");
    let results = windowed(&job, input.clone());
    let checkpoints = Some(CheckpointOptions::every(&dir, Duration::from_millis(10)));
    let outcome = engine
        .submit(job, JobOptions { checkpoints: checkpoints.clone(), ..JobOptions::default() })
        .unwrap()
        .wait()
        .unwrap();
    assert_eq!(outcome.state, JobState::Finished);
    assert!(outcome.status.checkpoints.completed >= 1, "{:?}", outcome.status.checkpoints);
    assert_eq!(sorted(results.take()), expected(&input));

    // Run again: everything is in the checkpoint, nothing comes twice.
    let job = Job::new("windows");
    let again = windowed(&job, input);
    let outcome = engine.submit(job, JobOptions { checkpoints, ..JobOptions::default() }).unwrap().wait().unwrap();
    assert_eq!(outcome.state, JobState::Finished);
    assert_eq!(again.len(), 0);
    let _ = std::fs::remove_dir_all(dir);
}
