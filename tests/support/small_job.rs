//! A job that uses the disk for all it can: checkpoints, and a file sink that commits with them.
#![allow(clippy::disallowed_methods, reason = "a test looks at what is really in the directory")]

use millstream::engine::{CheckpointOptions, Engine, JobOptions};
use millstream::io::IoChoice;
use millstream::job_manager::JobState;
use millstream::sink::JsonLines;
use millstream::source::Generator;
use millstream::stream::Job;
use millstream::time::{EventTimeMs, Watermarks};
use std::path::Path;
use std::time::Duration;

/// Runs the job in `dir` and checks that every number came out once.
pub fn writes_every_number_once(dir: &Path, io: IoChoice) {
    const NUMBERS: u64 = 20_000;
    let engine = Engine::builder().slots(2).memory(128 << 20).io(io).pin(false).start().unwrap();
    let job = Job::new("small");
    let out = dir.join("out");
    let encode = |number: &u64, line: &mut Vec<u8>| line.extend_from_slice(number.to_string().as_bytes());
    job.source("numbers", Generator::new(|n: u64| n).in_splits(2).count(NUMBERS).per_second(100_000.0))
        .event_time(|n: &u64| EventTimeMs(*n as i64), Watermarks::monotonous())
        .key_by("by-number", |n: &u64| *n)
        .reduce("last", |_, b| *b)
        .sink("files", JsonLines::exactly_once_with(&out, encode));
    let checkpoints = Some(CheckpointOptions::every(dir.join("state"), Duration::from_millis(20)));
    let handle = engine.submit(job, JobOptions { checkpoints, ..JobOptions::default() }).unwrap();
    let ended = handle.wait_for(Duration::from_secs(45)).expect("the job hangs");
    assert_eq!(ended.unwrap().state, JobState::Finished);
    let mut numbers: Vec<u64> = Vec::new();
    for file in std::fs::read_dir(&out).unwrap() {
        let file = file.unwrap();
        if file.file_name().to_string_lossy().ends_with(".jsonl") {
            let text = std::fs::read_to_string(file.path()).unwrap();
            numbers.extend(text.lines().map(|line| line.parse::<u64>().unwrap()));
        }
    }
    numbers.sort_unstable();
    assert!(numbers.into_iter().eq(0..NUMBERS), "every number once");
    std::fs::remove_dir_all(dir).unwrap();
}
