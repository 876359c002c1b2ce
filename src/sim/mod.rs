//! How does a user test a job? One seed drives the clock, the schedule, the disk and its faults.

mod seed;

pub use seed::Rng;
