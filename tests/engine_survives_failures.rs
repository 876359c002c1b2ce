//! Jobs that fail, stop and wait: what the engine promises about each.
#![allow(clippy::disallowed_methods, reason = "a host program waits and cleans up as it likes")]

use millstream::checkpoint::{CheckpointFollower, CommittedFiles};
use millstream::engine::{CheckpointOptions, Engine, JobHandle, JobOptions, SubmitError};
use millstream::job_manager::{JobState, RestartPolicy};
use millstream::operator::Count;
use millstream::sink::Collect;
use millstream::source::{Generator, VecSource};
use millstream::stream::Job;
use millstream::time::{EventTimeMs, Watermarks};
use millstream::window::{Tumbling, WindowResult};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

fn engine(slots: u32) -> Engine {
    Engine::builder().slots(slots).memory(256 << 20).pin(false).start().unwrap()
}

/// A directory that is removed with the test.
struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Self {
        Self(std::env::temp_dir().join(format!("millstream-{name}-{}", std::process::id())))
    }

    fn options(&self, interval_ms: u64) -> JobOptions {
        let checkpoints = CheckpointOptions::every(&self.0, Duration::from_millis(interval_ms));
        let restart = RestartPolicy::FixedDelay { attempts_max: 100, delay_ms: 1 };
        JobOptions { checkpoints: Some(checkpoints), restart, ..JobOptions::default() }
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..2_000 {
        if holds() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("waited in vain until {what}");
}

fn wait(handle: &JobHandle) -> JobState {
    let ended = handle.wait_for(Duration::from_secs(60)).expect("the job ends within a minute");
    ended.unwrap().state
}

type Counts = Collect<(u64, i64, u64), fn(&WindowResult<u64, u64>) -> (u64, i64, u64)>;

fn counts() -> Counts {
    Collect::exactly_once_with(|result| (result.key, result.window.start, result.value))
}

/// Counts the numbers below `count` by their remainder of 10, in windows of 1,000; `watch` sees every number on its way.
fn count_numbers(job: &Job, count: u64, splits: u32, watch: impl Fn(u64) + Clone + Send + Sync + 'static) -> Counts {
    let counts = counts();
    job.source("numbers", Generator::new(|n: u64| n).in_splits(splits).count(count))
        .event_time(|n: &u64| EventTimeMs(*n as i64), Watermarks::bounded(0).never_idle())
        .map(move |n: &u64| {
            watch(*n);
            *n
        })
        .key_by("by-digit", |n: &u64| n % 10)
        .window(Tumbling::of(1_000))
        .aggregate("counts", Count)
        .sink("results", counts.clone());
    counts
}

fn every_count(count: u64) -> Vec<(u64, i64, u64)> {
    (0..10).flat_map(|digit| (0..count as i64 / 1_000).map(move |window| (digit, window * 1_000, 100))).collect()
}

fn sorted(counts: &Counts) -> Vec<(u64, i64, u64)> {
    let mut counts = counts.take();
    counts.sort();
    counts
}

#[test]
fn a_job_whose_function_panics_restarts_from_its_checkpoint_and_counts_everything_once() {
    let (engine, dir) = (engine(2), Dir::new("panic"));
    let job = Job::new("panics");
    let panics = Arc::new(AtomicU64::new(0));
    let seen = panics.clone();
    let counts = count_numbers(&job, 400_000, 2, move |n| {
        if n % 100_000 == 99_999 && seen.load(Ordering::Relaxed) <= n / 100_000 {
            seen.fetch_add(1, Ordering::Relaxed);
            panic!("number {n}");
        }
    });
    let handle = engine.submit(job, dir.options(5)).unwrap();
    assert_eq!(wait(&handle), JobState::Finished);
    assert!(panics.load(Ordering::Relaxed) >= 4, "every planned panic happened");
    assert!(handle.status().attempt > 1);
    assert_eq!(sorted(&counts), every_count(400_000));
}

#[test]
fn a_job_that_keeps_failing_ends_with_the_reason_once_its_restarts_are_used_up() {
    let engine = engine(1);
    let job = Job::new("hopeless");
    let _counts = count_numbers(&job, 1_000, 1, |n| assert!(n < 500, "number {n} is too large"));
    let restart = RestartPolicy::FixedDelay { attempts_max: 2, delay_ms: 1 };
    let handle = engine.submit(job, JobOptions { restart, ..JobOptions::default() }).unwrap();
    let error = handle.wait_for(Duration::from_secs(60)).unwrap().unwrap_err().to_string();
    assert!(error.contains("hopeless") && error.contains("number 500 is too large"), "{error}");
}

/// Works on the first checkpoint it hears of until it hears that no more will come.
#[derive(Debug, Default)]
struct NeverReady {
    has_one: AtomicBool,
    is_finished: AtomicBool,
}

impl CheckpointFollower for NeverReady {
    fn wants(&self, _: u64) -> bool {
        true
    }

    fn follow(&self, _: CommittedFiles, _: u64) {
        self.has_one.store(true, Ordering::Relaxed);
    }

    fn finish(&self, last: Option<CommittedFiles>) {
        assert!(last.is_none(), "the store is closed");
        self.is_finished.store(true, Ordering::Relaxed);
    }

    fn is_busy(&self) -> bool {
        self.has_one.load(Ordering::Relaxed) && !self.is_finished.load(Ordering::Relaxed)
    }
}

/// Runs a job whose checkpoints are taken away before it fails; what it ends with.
fn run_without_its_checkpoints(name: &str, follower: &Arc<NeverReady>) -> String {
    let (engine, dir) = (engine(2), Dir::new(name));
    let (job, path, heard) = (Job::new(name), dir.0.clone(), follower.clone());
    let is_moved = Mutex::new(false);
    let watch = Arc::new(move |n| {
        if heard.has_one.load(Ordering::Relaxed) {
            let mut is_moved = is_moved.lock().unwrap_or_else(PoisonError::into_inner);
            if !std::mem::replace(&mut *is_moved, true) {
                std::fs::rename(&path, path.with_extension("moved")).unwrap();
                std::fs::write(&path, "no directory").unwrap();
            }
            panic!("number {n}");
        }
    });
    let _counts = count_numbers(&job, u64::MAX, 2, move |n| watch(n));
    let mut options = dir.options(5);
    options.restart = RestartPolicy::FixedDelay { attempts_max: 2, delay_ms: 1 };
    options.checkpoints.as_mut().unwrap().follower = Some(follower.clone());
    let handle = engine.submit(job, options).unwrap();
    let ended = handle.wait_for(Duration::from_secs(60)).expect("the job ends within a minute");
    std::fs::remove_file(&dir.0).unwrap();
    std::fs::rename(dir.0.with_extension("moved"), &dir.0).unwrap();
    ended.unwrap_err().to_string()
}

#[test]
fn a_job_whose_checkpoints_became_unreadable_ends_with_the_reason() {
    let error = run_without_its_checkpoints("taken-away", &Arc::default());
    assert!(error.contains("the state directory cannot be opened again"), "{error}");
}

#[test]
fn a_job_whose_checkpoints_became_unreadable_tells_who_follows_them_that_it_ends() {
    let follower = Arc::new(NeverReady::default());
    run_without_its_checkpoints("follower-told", &follower);
    assert!(follower.is_finished.load(Ordering::Relaxed));
}

#[test]
fn a_stopped_job_goes_on_where_it_was_on_another_number_of_slots() {
    let dir = Dir::new("stop");
    let total = 2_000_000;
    let mut all = Vec::new();
    for (run, slots) in [2, 1, 3].into_iter().enumerate() {
        let engine = engine(slots);
        let job = Job::new("stops");
        let counts = count_numbers(&job, total, 3, |_| ());
        let handle = engine.submit(job, dir.options(10)).unwrap();
        if run < 2 {
            wait_until("a checkpoint is complete", || {
                handle.status().checkpoints.completed > 0 || handle.status().state.has_ended()
            });
            handle.stop();
        }
        let state = wait(&handle);
        assert!(matches!(state, JobState::Suspended | JobState::Finished), "{state:?}");
        all.extend(counts.take());
    }
    all.sort();
    assert_eq!(all, every_count(total));
}

#[test]
fn a_job_for_which_there_is_no_memory_now_waits_and_says_why() {
    let engine = engine(1);
    let options = |mib: usize| JobOptions { memory_bytes: Some(mib << 20), ..JobOptions::default() };
    let endless = Job::new("endless");
    endless
        .source("numbers", Generator::new(|n: u64| n).per_second(10.0))
        .ingestion_time()
        .sink("nowhere", Collect::immediate());
    let endless = engine.submit(endless, options(200)).unwrap();
    wait_until("the first job runs", || endless.status().state == JobState::Running);

    let second = Job::new("second");
    second.source("numbers", VecSource::new(vec![vec![1u64]])).ingestion_time().sink("nowhere", Collect::immediate());
    let second = engine.submit(second, options(100)).unwrap();
    wait_until("the second job says why it waits", || second.status().why_waiting.is_some());
    let why = second.status().why_waiting.unwrap();
    assert!(why.contains("100 MiB") && why.contains("56 MiB"), "{why}");

    endless.cancel();
    assert_eq!(wait(&endless), JobState::Canceled);
    assert_eq!(wait(&second), JobState::Finished);
}

#[test]
fn a_job_that_can_never_fit_is_refused_at_once_with_figures() {
    let engine = engine(1);
    let job = |name| {
        let job = Job::new(name);
        job.source("numbers", VecSource::new(vec![vec![1u64]])).ingestion_time().sink("nowhere", Collect::immediate());
        job
    };
    let too_large = JobOptions { memory_bytes: Some(1 << 30), ..JobOptions::default() };
    let refused = engine.submit(job("large"), too_large).err().unwrap().to_string();
    assert!(refused.contains("1073741824") && refused.contains("268435456"), "{refused}");
    let too_wide = JobOptions { parallelism: Some(4), ..JobOptions::default() };
    let refused = engine.submit(job("wide"), too_wide).err().unwrap().to_string();
    assert!(refused.contains("parallelism 4") && refused.contains("1 slots"), "{refused}");
    let too_small = JobOptions { memory_bytes: Some(1 << 20), ..JobOptions::default() };
    assert!(matches!(engine.submit(job("small"), too_small), Err(SubmitError::MemoryTooSmall { .. })));
}

#[test]
fn a_state_directory_belongs_to_one_job_and_to_one_run_at_a_time() {
    let (engine, dir) = (engine(1), Dir::new("owner"));
    let endless = |name: &str| {
        let job = Job::new(name);
        job.source("numbers", Generator::new(|n: u64| n).per_second(100.0))
            .ingestion_time()
            .sink("nowhere", Collect::immediate());
        job
    };
    let first = engine.submit(endless("first"), dir.options(10)).unwrap();
    wait_until("a checkpoint is complete", || first.status().checkpoints.completed > 0);
    let locked = engine.submit(endless("second"), dir.options(10)).err().unwrap().to_string();
    assert!(locked.contains(&std::process::id().to_string()), "{locked}");
    first.stop();
    assert_eq!(wait(&first), JobState::Suspended);
    let foreign = engine.submit(endless("second"), dir.options(10)).err().unwrap().to_string();
    assert!(foreign.contains("first") && foreign.contains("second"), "{foreign}");
}

#[test]
fn a_slot_that_makes_no_progress_is_reported_by_job_and_vertex() {
    let engine = engine(1);
    let job = Job::new("stuck");
    let release = Arc::new(AtomicU64::new(0));
    let gate = release.clone();
    let _counts = count_numbers(&job, 10, 1, move |n| {
        while n == 5 && gate.load(Ordering::Relaxed) == 0 {
            std::thread::sleep(Duration::from_millis(5));
        }
    });
    let handle = engine.submit(job, JobOptions::default()).unwrap();
    wait_until("the stall is reported", || handle.status().stalled.is_some());
    let stalled = handle.status().stalled.unwrap();
    assert!(stalled.contains("stuck") && stalled.contains("numbers"), "{stalled}");
    release.store(1, Ordering::Relaxed);
    assert_eq!(wait(&handle), JobState::Finished);
}
