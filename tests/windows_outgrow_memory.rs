//! Windows whose state is almost three times their memory give exactly what a map in memory gives, with checkpoints on the way and restarts
//! from them.
#![allow(clippy::disallowed_methods, reason = "a host program waits and cleans up as it likes")]

use millstream::engine::{CheckpointOptions, Engine, JobOptions};
use millstream::job_manager::{JobState, RestartPolicy};
use millstream::operator::Aggregate;
use millstream::sink::Collect;
use millstream::source::Generator;
use millstream::stream::Job;
use millstream::time::{EventTimeMs, Watermarks};
use millstream::window::{SlicedWindows, Sliding, Tumbling, WindowResult};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

const MEMORY_BYTES: usize = 12 << 20;
const WIDTH: usize = 24;

/// A sum that takes much room.
#[derive(Clone)]
struct WideSum;

impl Aggregate<u64> for WideSum {
    type Accumulator = [u64; WIDTH];
    type Out = u64;
    const MERGES_IN_ANY_ORDER: bool = true;

    fn create(&self) -> [u64; WIDTH] {
        [0; WIDTH]
    }

    fn add(&self, sum: &mut [u64; WIDTH], number: &u64) {
        self.merge(sum, &[*number; WIDTH]);
    }

    fn merge(&self, sum: &mut [u64; WIDTH], other: &[u64; WIDTH]) {
        sum.iter_mut().zip(other).for_each(|(sum, other)| *sum += other);
    }

    fn result(&self, sum: &[u64; WIDTH]) -> u64 {
        assert!(sum.iter().all(|word| *word == sum[0]), "every word took the same sums");
        sum[0]
    }
}

#[derive(Clone, Copy)]
struct Workload {
    windows: SlicedWindows,
    numbers: u64,
    per_ms: u64,
    keys: u64,
}

impl Workload {
    fn key_of(self, number: u64) -> u64 {
        number.wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(31) % self.keys
    }

    fn at(self, number: u64) -> i64 {
        (number / self.per_ms) as i64
    }

    /// By key and start of the window.
    fn expected(self) -> BTreeMap<(u64, i64), u64> {
        let (size, slide) = (self.windows.size_ms(), self.windows.slide_ms());
        let mut sums = BTreeMap::new();
        for number in 0..self.numbers {
            let at = self.at(number);
            let mut start = at - at.rem_euclid(slide);
            while start + size > at {
                *sums.entry((self.key_of(number), start)).or_default() += number;
                start -= slide;
            }
        }
        sums
    }

    /// Runs it with checkpoints, and a panic each time the numbers reach one of `panics_at`.
    fn run(self, name: &str, panics_at: &'static [u64]) {
        let dir = std::env::temp_dir().join(format!("millstream-{name}-{}", std::process::id()));
        let engine = Engine::builder().slots(2).memory(64 << 20).pin(false).start().unwrap();
        let job = Job::new(name);
        let panics = Arc::new(AtomicU64::new(0));
        let panicked = panics.clone();
        type Sums = Collect<((u64, i64), u64), fn(&WindowResult<u64, u64>) -> ((u64, i64), u64)>;
        let sums: Sums = Collect::exactly_once_with(|result| ((result.key, result.window.start), result.value));
        job.source("numbers", Generator::new(|n: u64| n).count(self.numbers))
            .event_time(move |n: &u64| EventTimeMs(self.at(*n)), Watermarks::monotonous().never_idle())
            .map(move |n: &u64| {
                let done = panicked.load(Ordering::Relaxed) as usize;
                if panics_at.get(done) == Some(n) {
                    panicked.fetch_add(1, Ordering::Relaxed);
                    panic!("number {n}");
                }
                *n
            })
            .key_by("by-key", move |n: &u64| self.key_of(*n))
            .window(self.windows)
            .aggregate("sums", WideSum)
            .sink("results", sums.clone());
        let options = JobOptions {
            checkpoints: Some(CheckpointOptions::every(&dir, Duration::from_millis(1_500))),
            restart: RestartPolicy::FixedDelay { attempts_max: 10, delay_ms: 1 },
            memory_bytes: Some(MEMORY_BYTES),
            ..JobOptions::default()
        };
        let handle = engine.submit(job, options).unwrap();
        let ended = handle.wait_for(Duration::from_secs(240)).expect("the job ends").unwrap();
        let _ = std::fs::remove_dir_all(&dir);
        assert_eq!(ended.state, JobState::Finished);
        assert_eq!(panics.load(Ordering::Relaxed) as usize, panics_at.len(), "every planned panic happened");
        let expected = self.expected();
        let mut sums = sums.take();
        sums.sort_unstable();
        assert_eq!(sums.len(), expected.len(), "no result is missing or there twice");
        assert!(sums.into_iter().eq(expected), "the sums are those of a map in memory");
    }
}

#[test]
fn tumbling_windows_larger_than_memory_are_exact_through_checkpoints_and_restarts() {
    // About 165,000 keys of 216 bytes in each of two windows.
    let workload = Workload { windows: Tumbling::of(1_000), numbers: 600_000, per_ms: 300, keys: 210_000 };
    const { assert!(165_000 * 216 > 5 * MEMORY_BYTES / 2) };
    workload.run("tumbling-larger-than-memory", &[250_000, 500_000]);
}

#[test]
fn sliding_windows_larger_than_memory_are_exact_through_checkpoints_and_restarts() {
    let workload = Workload { windows: Sliding::of(600).every(300), numbers: 400_000, per_ms: 200, keys: 80_000 };
    workload.run("sliding-larger-than-memory", &[250_000]);
}
