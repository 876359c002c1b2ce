//! After an engine was stopped and dropped, the process holds what it held before: no descriptor, no thread, no mapping of an arena.

#![allow(clippy::disallowed_methods, reason = "the test looks into /proc")]

use millstream::engine::{Engine, JobOptions};
use millstream::sink::Callback;
use millstream::source::PushSource;
use millstream::stream::Job;
use std::sync::mpsc::channel;

/// One engine with a job that has seen a record; every other one is stopped while its job runs.
fn start_and_stop(round: usize) {
    let engine = Engine::builder().slots(2).memory(64 << 20).start().unwrap();
    let ((source, numbers), (seen, received)) = (PushSource::new(4), channel());
    let job = Job::new("passing");
    job.source("numbers", source)
        .ingestion_time()
        .key_by("by-key", |n: &u64| *n)
        .reduce("last", |_, b| *b)
        .sink("results", Callback::new(move |_, n: &u64| seen.send(*n).unwrap_or_default()));
    let handle = engine.submit(job, JobOptions::default()).unwrap();
    numbers.push(7).unwrap();
    assert_eq!(received.recv().unwrap(), 7);
    if round.is_multiple_of(2) {
        handle.cancel();
        let _ = handle.wait();
    }
    engine.stop();
}

/// Open descriptors, threads, and mappings as long as a whole number of chunks.
fn held() -> [usize; 3] {
    let entries = |dir: &str| std::fs::read_dir(dir).unwrap().count();
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let is_arena = |line: &&str| {
        let (range, rest) = line.split_once(' ').unwrap();
        let (from, to) = range.split_once('-').unwrap();
        let [from, to] = [from, to].map(|address| usize::from_str_radix(address, 16).unwrap());
        rest.starts_with("rw-p") && rest.trim_end().ends_with(" 0") && (to - from).is_multiple_of(2 << 20)
    };
    [entries("/proc/self/fd"), entries("/proc/self/task"), maps.lines().filter(is_arena).count()]
}

#[test]
fn an_engine_that_is_gone_leaves_no_descriptor_no_thread_and_no_arena() {
    // What a process gets once and keeps: the allocator's own arenas, stacks that are used again.
    (0..2).for_each(start_and_stop);
    let before = held();
    (0..6).for_each(start_and_stop);
    let after = held();
    assert!(after.iter().zip(before).all(|(after, before)| *after <= before), "before {before:?}, after {after:?}");
}
