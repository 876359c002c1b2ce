//! A query as a job, also for the comparison with other engines.

use millstream::engine::{Engine, JobOptions};
use millstream::nexmark::Nexmark;
use millstream::rows::Rows;
use millstream::sink::{Checksum, RowSum};
use std::time::{Duration, Instant};

/// The rows, and how long it took from submitting the job to its end.
pub fn run(engine: &Engine, nexmark: &Nexmark) -> (RowSum, Duration) {
    let sum = Checksum::default();
    let job = nexmark.job("nexmark", &Rows::Hashed(sum.clone()));
    let options = JobOptions { memory_bytes: Some(1 << 30), ..JobOptions::default() };
    let begun = Instant::now();
    let handle = engine.submit(job, options).expect("the job is valid");
    handle.wait().expect("nothing in the job fails");
    (sum.sum(), begun.elapsed())
}
