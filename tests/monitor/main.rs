//! The monitor job as its users run it: the program, its files, its output.
//!
//! One scenario per file; here are only the parts they share. The data set is `MILLSTREAM_DATA` (a directory of metric files), or
//! the real one beside the repository, or the small one in `tests/data`.
#![cfg(feature = "cli")]
#![allow(clippy::disallowed_methods, reason = "the tests wait for another process and keep their files themselves")]

mod data_set;
mod naive;
mod output;
mod program;

mod checkpoint_tools;
mod equals_naive;
mod full_disk;
mod refuses_bad_input;
mod survives_kill_9;
