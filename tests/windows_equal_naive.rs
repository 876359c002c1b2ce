//! Windows of every shape give what a map of all windows gives: few slices and many, with gaps, disorder and late records, for aggregates that
//! retract and others, with checkpoints and a restart on the way.
#![allow(clippy::disallowed_methods, reason = "a host program waits and cleans up as it likes")]

use millstream::Record;
use millstream::engine::{CheckpointOptions, Engine, JobOptions};
use millstream::job_manager::{JobState, RestartPolicy};
use millstream::operator::{Aggregate, Count, Max, Sum};
use millstream::sim::Rng;
use millstream::sink::Collect;
use millstream::source::Generator;
use millstream::stream::Job;
use millstream::time::{EventTimeMs, Watermarks};
use millstream::window::{Sliding, WindowResult};
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const EVENTS: usize = 1_500;
/// Size and slide: one slice, two, some with two to a slide, gaps, as many as a word has bits and one more, many.
const SHAPES: [(i64, i64); 9] =
    [(250, 250), (200, 100), (500, 200), (700, 300), (100, 150), (640, 10), (650, 10), (3_000, 20), (90, 70)];

#[derive(Record, Clone, Copy, Debug)]
#[repr(C)]
struct Event {
    key: u64,
    n: i64,
    at: i64,
}

#[derive(Clone, Debug)]
struct Workload {
    size_ms: i64,
    slide_ms: i64,
    bound_ms: i64,
    events: Arc<[Event]>,
    /// Where the job fails once.
    fails_at: i64,
}

impl Workload {
    fn of(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let (size_ms, slide_ms) = SHAPES[seed as usize % SHAPES.len()];
        let keys = [1, 5, 60][rng.index(3)];
        let (disorder_ms, bound_ms) = ([0, 30, 900][rng.index(3)], [0, 30, 300][rng.index(3)]);
        let mut at = -500;
        let mut event = |n| {
            at += if rng.chance(5) { 4 * size_ms } else { rng.below(15) as i64 };
            Event { key: rng.below(keys), n, at: at - rng.below(disorder_ms + 1) as i64 }
        };
        let events = (0..EVENTS as i64).map(&mut event).collect();
        Self { size_ms, slide_ms, bound_ms, events, fails_at: rng.below(2 * EVENTS as u64) as i64 }
    }

    /// The records of each window by key and start, without those that are late for it.
    fn windows(&self) -> BTreeMap<(u64, i64), Vec<Event>> {
        let (mut windows, mut clock) = (BTreeMap::<_, Vec<_>>::new(), i64::MIN);
        for &event in &*self.events {
            clock = clock.max(event.at - self.bound_ms - 1);
            let mut start = event.at - event.at.rem_euclid(self.slide_ms);
            while start + self.size_ms > event.at {
                if start + self.size_ms - 1 > clock {
                    windows.entry((event.key, start)).or_default().push(event);
                }
                start -= self.slide_ms;
            }
        }
        windows
    }

    /// Runs the job and compares its results with `expected` of the records of each window.
    fn check<A>(&self, name: &str, aggregate: A, expected: impl Fn(&[Event]) -> A::Out)
    where
        A: Aggregate<Event>,
        A::Out: Copy + Send + Sync + Ord + Debug,
    {
        let dir = std::env::temp_dir().join(format!("millstream-{name}-{}", std::process::id()));
        let engine = Engine::builder().slots(2).memory(64 << 20).pin(false).start().unwrap();
        let job = Job::new(name);
        let (events, has_failed, fails_at) = (self.events.clone(), Arc::new(AtomicBool::new(false)), self.fails_at);
        type Row<T> = (u64, i64, T);
        type Rows<T> = Collect<Row<T>, fn(&WindowResult<u64, T>) -> Row<T>>;
        let rows: Rows<A::Out> = Collect::exactly_once_with(|result| (result.key, result.window.start, result.value));
        job.source("events", Generator::new(move |n: u64| events[n as usize]).count(EVENTS as u64).per_second(40e3))
            .event_time(|event: &Event| EventTimeMs(event.at), Watermarks::bounded(self.bound_ms).never_idle())
            .map(move |event: &Event| {
                assert!(event.n != fails_at || has_failed.swap(true, Ordering::Relaxed), "event {fails_at}");
                *event
            })
            .key_by("by-key", |event: &Event| event.key)
            .window(Sliding::of(self.size_ms).every(self.slide_ms))
            .aggregate("windows", aggregate)
            .sink("rows", rows.clone());
        let options = JobOptions {
            checkpoints: Some(CheckpointOptions::every(&dir, Duration::from_millis(7))),
            restart: RestartPolicy::FixedDelay { attempts_max: 2, delay_ms: 1 },
            ..JobOptions::default()
        };
        let ended = engine.submit(job, options).unwrap().wait_for(Duration::from_secs(60)).expect("the job ends");
        let _ = std::fs::remove_dir_all(&dir);
        assert_eq!(ended.unwrap().state, JobState::Finished);
        let mut rows = rows.take();
        rows.sort_unstable();
        let expected: Vec<_> =
            self.windows().into_iter().map(|((key, start), events)| (key, start, expected(&events))).collect();
        assert_eq!(rows.len(), expected.len(), "{name}: no row is missing or there twice");
        if let Some((row, expected)) = rows.iter().zip(&expected).find(|(row, expected)| row != expected) {
            panic!("{name}: {row:?} should be {expected:?}");
        }
    }
}

#[test]
fn windows_that_go_on_from_the_one_before_equal_those_of_a_map() {
    for seed in 0..45 {
        let workload = Workload::of(seed);
        let counts = Count.and(Sum::of(|event: &Event| event.n));
        let of = |events: &[Event]| (events.len() as u64, events.iter().map(|event| event.n).sum());
        workload.check(&format!("counts-{seed}"), counts, of);
    }
}

#[test]
fn windows_out_of_which_nothing_can_be_taken_equal_those_of_a_map() {
    for seed in 100..145 {
        let workload = Workload::of(seed);
        let largest = Max::of(|event: &Event| event.n % 97);
        workload.check(&format!("largest-{seed}"), largest, |events| events.iter().map(|event| event.n % 97).max());
    }
}

/// A sum that leaves it open whether the order of merging tells.
#[derive(Clone)]
struct SumInOrder;

impl Aggregate<Event> for SumInOrder {
    type Accumulator = i64;
    type Out = i64;

    fn create(&self) -> i64 {
        0
    }

    fn add(&self, sum: &mut i64, event: &Event) {
        *sum += event.n;
    }

    fn merge(&self, sum: &mut i64, other: &i64) {
        *sum += other;
    }

    fn result(&self, sum: &i64) -> i64 {
        *sum
    }
}

#[test]
fn windows_merged_in_order_equal_those_of_a_map() {
    for seed in 200..245 {
        let workload = Workload::of(seed);
        workload
            .check(&format!("in-order-{seed}"), SumInOrder, |events| events.iter().map(|event| event.n).sum::<i64>());
    }
}
