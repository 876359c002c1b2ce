//! How does a user test a job? One seed drives the clock, the schedule, the disk and its faults.
//!
//! Here: a whole engine on one thread (`simulation`), the randomness of everything (`seed`). Not here: the simulated disk (`io`),
//! the machines that are stepped (`engine`, `slot`, `task`).

mod schedule;
mod seed;
mod simulation;

pub use seed::Rng;
pub use simulation::{SimEnd, SimFaults, Simulation};
