//! Containers allow few CPUs, by an affinity mask or by a quota: an engine starts on those, pins no slot to another, and computes the same.
//!
//! The mask and the quota are read once for a process, so each test starts itself again in a process of its own.
#![allow(clippy::disallowed_methods, reason = "the tests look into /proc and make a cgroup")]

#[path = "support/child.rs"]
mod child;

use millstream::engine::{Engine, JobOptions};
use millstream::job_manager::JobState;
use millstream::sink::Collect;
use millstream::slot::AllowedCpus;
use millstream::source::Generator;
use millstream::stream::Job;
use millstream::time::{EventTimeMs, Watermarks};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const CHILD: &str = "MILLSTREAM_TEST_CHILD";

/// Whether this process is the child of `test`; otherwise runs it, and expects it to end well.
fn is_child(test: &str, prepare: impl FnOnce(&mut Command)) -> bool {
    if std::env::var_os(CHILD).is_some() {
        return true;
    }
    let mut command = Command::new(std::env::current_exe().unwrap());
    child::only(&mut command, test);
    prepare(command.env(CHILD, "1"));
    let mut running = command.spawn().unwrap();
    let status = child::wait_at_most(&mut running, Duration::from_secs(60));
    assert!(status.expect("the engine does not hang").success());
    false
}

/// Runs a job with an exchange on so many slots.
fn sums_are_right(slots: u32) {
    let engine = Engine::builder().slots(slots).memory(128 << 20).start().unwrap();
    let (job, sums) = (Job::new("sums"), Collect::exactly_once());
    job.source("numbers", Generator::new(|n: u64| n).in_splits(slots).count(20_000))
        .event_time(|n: &u64| EventTimeMs(*n as i64), Watermarks::monotonous())
        .key_by("by-rest", |n: &u64| n % 10)
        .reduce("sum", |a, b| a + b)
        .filter(|sum: &u64| *sum > 19_900_000)
        .sink("sums", sums.clone());
    let ended = engine.submit(job, JobOptions::default()).unwrap().wait_for(Duration::from_secs(50));
    assert_eq!(ended.expect("the job ends").unwrap().state, JobState::Finished);
    // The sum of the 2,000 numbers n with n % 10 = r is 19,990,000 + 2,000 r; the one before the last lacks at most 19,999.
    let last = (0..10u64).map(|rest| 19_990_000 + 2_000 * rest);
    let sums = sums.take();
    last.for_each(|sum| assert!(sums.contains(&sum), "{sum} is missing"));
}

/// The CPUs that the threads of this process may run on, by the names of the threads.
fn cpus_of_slots() -> Vec<(String, String)> {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let status = |task: PathBuf| std::fs::read_to_string(task.join("status")).unwrap();
    let field = |status: &str, name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_default().trim().to_owned()
    };
    let of = |task: PathBuf| (field(&status(task.clone()), "Name:"), field(&status(task), "Cpus_allowed_list:"));
    tasks.map(|task| of(task.unwrap().path())).filter(|(name, _)| name.starts_with("slot-")).collect()
}

/// Allows this process its last CPU only.
fn forbid_all_but_the_last_cpu() -> usize {
    let before = sched_getaffinity(None).unwrap();
    let last = (0..CpuSet::MAX_CPU).rev().find(|&cpu| before.is_set(cpu)).unwrap();
    let mut only = CpuSet::new();
    only.set(last);
    sched_setaffinity(None, &only).unwrap();
    last
}

#[test]
fn slots_run_on_the_cpus_that_the_affinity_mask_allows_and_no_other() {
    if !is_child("slots_run_on_the_cpus_that_the_affinity_mask_allows_and_no_other", |_| ()) {
        return;
    }
    let allowed = forbid_all_but_the_last_cpu();
    assert_eq!(AllowedCpus::of_process().cpus(), [allowed]);
    let engine = Engine::builder().slots(1).memory(64 << 20).start().unwrap();
    assert_eq!(cpus_of_slots(), [("slot-0".to_owned(), allowed.to_string())]);
    drop(engine);
    sums_are_right(1);
}

#[test]
fn more_slots_than_allowed_cpus_take_turns_on_those() {
    if !is_child("more_slots_than_allowed_cpus_take_turns_on_those", |_| ()) {
        return;
    }
    forbid_all_but_the_last_cpu();
    sums_are_right(4);
}

/// A cgroup that grants half a CPU; removed when dropped.
struct HalfACpu(PathBuf);

impl HalfACpu {
    /// `None` where this process may not make one.
    fn new() -> Option<Self> {
        let name = format!("millstream-test-{}", std::process::id());
        let v1 = Path::new("/sys/fs/cgroup/cpu").join(&name);
        let v2 = Path::new("/sys/fs/cgroup").join(&name);
        let limit = |dir: &Path, files: &[(&str, &str)]| {
            std::fs::create_dir(dir).ok()?;
            let group = Self(dir.to_owned());
            files.iter().all(|(file, text)| std::fs::write(dir.join(file), text).is_ok()).then_some(group)
        };
        limit(&v1, &[("cpu.cfs_period_us", "100000"), ("cpu.cfs_quota_us", "50000")])
            .or_else(|| limit(&v2, &[("cpu.max", "50000 100000")]))
    }
}

impl Drop for HalfACpu {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir(&self.0);
    }
}

#[test]
fn under_a_quota_of_half_a_cpu_one_slot_is_the_default_and_two_take_turns() {
    let test = "under_a_quota_of_half_a_cpu_one_slot_is_the_default_and_two_take_turns";
    if std::env::var_os(CHILD).is_none() {
        let Some(group) = HalfACpu::new() else {
            return eprintln!("not shown: this process may not make a cgroup with a quota");
        };
        let procs = group.0.join("cgroup.procs");
        is_child(test, |command| {
            command.env("MILLSTREAM_TEST_CGROUP", &procs);
        });
        return;
    }
    let procs = std::env::var_os("MILLSTREAM_TEST_CGROUP").unwrap();
    std::fs::write(procs, std::process::id().to_string()).unwrap();
    assert_eq!((AllowedCpus::of_process().quota_cpus(), AllowedCpus::of_process().usable()), (Some(0.5), 1));
    let engine = Engine::builder().memory(64 << 20).start().unwrap();
    assert_eq!(engine.slot_count(), 1);
    drop(engine);
    sums_are_right(2);
}
