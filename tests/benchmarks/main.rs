//! The benchmarks that the program runs as jobs: Nexmark and the Yahoo Streaming Benchmark. Their rows are those of naive code.
//!
//! One scenario per file.
#![cfg(feature = "cli")]
#![allow(clippy::disallowed_methods, reason = "the tests wait for another process and keep their files themselves")]

mod naive;

mod answers;
mod survives_kill_9;
