//! One small job, and the machine stops before each of its I/O operations; and each operation fails, once or from then on. What is
//! visible is never wrong, and the job ends right after a restart on a machine that works.
//!
//! Every operation in small: `MILLSTREAM_EVERY=1` places a fault at every operation, without it the operations are sampled so that the
//! run takes seconds; `MILLSTREAM_DRAWS=28` draws so many times what survives of a crash. `sim_ledger.md` says what was run.

#[allow(dead_code, reason = "each test uses a part")]
mod sim_support;

use millstream::engine::{CheckpointOptions, JobOptions};
use millstream::io::{DiskFault, InjectedFault, Repeat, Survivors};
use millstream::job_manager::{JobState, RestartPolicy};
use millstream::sim::{Rng, SimEnd, Simulation};
use sim_support::{Pipeline, Workload};
use std::time::Duration;

/// The reference job takes about a tenth of this.
const STEPS_MAX: u64 = 300_000;

/// Two splits, three windows' worth of records, four or five checkpoints on two slots.
fn workload() -> Workload {
    let workload = Workload::draw(&mut Rng::new(11));
    Workload { pipeline: Pipeline::Both, every_ns: 1_000_000, batch_max: 10, ..workload }
}

fn options() -> JobOptions {
    JobOptions {
        checkpoints: Some(CheckpointOptions::every("/state", Duration::from_millis(5))),
        restart: RestartPolicy::FixedDelay { attempts_max: 20, delay_ms: 1 },
        ..JobOptions::default()
    }
}

fn machine() -> Simulation {
    Simulation::new(3).slots(2)
}

/// Runs the job on a machine that works; it must end and be right.
fn finish(machine: &mut Simulation, workload: &Workload) -> Result<(), String> {
    let job = machine.submit(workload.job(), options()).map_err(|refusal| refusal.to_string())?;
    let end = machine.run_until_done(STEPS_MAX);
    if end != SimEnd::Done || job.status().state != JobState::Finished {
        return Err(format!("it ended with {end:?}: {:?}", job.status()));
    }
    workload.check(machine)
}

/// How many operations the reference job makes, undisturbed.
fn operations(workload: &Workload) -> u64 {
    let mut machine = machine();
    finish(&mut machine, workload).unwrap();
    machine.disk().operations()
}

/// Every operation, or about so many of them, the first and the last included.
fn places(operations: u64, about: u64) -> impl Iterator<Item = u64> {
    let every = std::env::var("MILLSTREAM_EVERY").ok().and_then(|text| text.parse().ok());
    let every = every.unwrap_or_else(|| (operations / about).max(1));
    // A start that differs from place to place in the run, so that a stride does not always hit the same kind of operation.
    (0..operations).filter(move |place| place % every == place / every % every || place + 1 == operations)
}

/// Stops the machine before an operation (or when the job has ended before it), then finishes the job on another number of slots.
fn crash_at(operation: u64, survivors: Survivors, seed: u64, workload: &Workload) -> Result<(), String> {
    let mut machine = machine();
    machine.disk().halt_at(operation);
    let mut end = SimEnd::StepsUsedUp;
    // Refused where the machine stops while the job is being submitted.
    if machine.submit(workload.job(), options()).is_ok() {
        for _ in 0..STEPS_MAX {
            if machine.disk().is_halted() || end == SimEnd::Done {
                break;
            }
            end = machine.run_until_done(1);
        }
    }
    if !machine.disk().is_halted() && end != SimEnd::Done {
        return Err("it hangs".to_owned());
    }
    machine.disk().crash_keeping(survivors, &mut Rng::new(seed));
    machine.restart(1 + (seed % 3) as u32);
    workload.check_partial(&machine).map_err(|error| format!("after the crash: {error}"))?;
    finish(&mut machine, workload)
}

#[test]
fn wherever_the_machine_stops_the_job_ends_right() {
    let workload = workload();
    let operations = operations(&workload);
    let mut failed = Vec::new();
    let mut states = 0;
    let draws = std::env::var("MILLSTREAM_DRAWS").ok().and_then(|text| text.parse().ok()).unwrap_or(2);
    for place in places(operations, 80) {
        let survivors = [Survivors::Nothing, Survivors::Everything].into_iter();
        let survivors = survivors.chain(std::iter::repeat_n(Survivors::Random, draws));
        for (seed, survivors) in (place * (2 + draws as u64)..).zip(survivors) {
            states += 1;
            if let Err(error) = crash_at(place, survivors, seed, &workload) {
                failed.push(format!("before operation {place}, {survivors:?}, seed {seed}: {error}"));
            }
        }
    }
    println!("{states} crashes over {operations} operations");
    assert!(states >= 300);
    assert!(failed.is_empty(), "{} of {states} failed:\n{}", failed.len(), failed[..failed.len().min(5)].join("\n"));
}

fn fail_at(operation: u64, fault: DiskFault, repeat: Repeat, workload: &Workload) -> Result<bool, String> {
    let mut machine = machine();
    machine.disk().inject(InjectedFault { at_operation: operation, repeat, fault, under: None });
    let submitted = machine.submit(workload.job(), options());
    let finished = match &submitted {
        Err(_) => false,
        Ok(job) => {
            // With a full disk or without a disk for ever the job may go on without checkpoints; it must not claim to have ended well.
            let end = machine.run_until_done(STEPS_MAX / 10);
            if end == SimEnd::StepsUsedUp && repeat == Repeat::Once {
                return Err(format!("it hangs: {:?}", job.status()));
            }
            end == SimEnd::Done && job.status().state == JobState::Finished
        }
    };
    workload.check_partial(&machine).map_err(|error| format!("while it fails: {error}"))?;
    if finished {
        workload.check(&machine)?;
    }
    machine.disk().heal();
    machine.crash();
    machine.restart(2);
    finish(&mut machine, workload).map(|()| finished)
}

#[test]
fn whatever_operation_fails_the_job_recovers_or_says_so_and_is_never_wrong() {
    let workload = workload();
    let operations = operations(&workload);
    let (mut failed, mut states, mut recovered) = (Vec::new(), 0, 0);
    for place in places(operations, 50) {
        for fault in [DiskFault::Eio, DiskFault::Enospc] {
            for repeat in [Repeat::Once, Repeat::Forever] {
                states += 1;
                match fail_at(place, fault, repeat, &workload) {
                    Ok(finished) => recovered += u32::from(finished && repeat == Repeat::Once),
                    Err(error) => failed.push(format!("{fault:?} {repeat:?} at operation {place}: {error}")),
                }
            }
        }
    }
    println!(
        "{states} faults over {operations} operations, {recovered} single ones recovered from without a new process"
    );
    assert!(recovered > states / 3, "single faults must mostly be survived: {recovered} of {}", states / 2);
    assert!(failed.is_empty(), "{} of {states} failed:\n{}", failed.len(), failed[..failed.len().min(5)].join("\n"));
}

#[test]
fn interruptions_and_short_transfers_are_invisible_to_a_job() {
    let workload = workload();
    let operations = operations(&workload);
    for place in places(operations, 15) {
        for fault in [DiskFault::Eintr, DiskFault::Eagain, DiskFault::Short] {
            let mut machine = machine();
            machine.disk().inject(InjectedFault { at_operation: place, repeat: Repeat::Once, fault, under: None });
            let job = machine.submit(workload.job(), options()).unwrap();
            assert_eq!(machine.run_until_done(STEPS_MAX), SimEnd::Done);
            assert_eq!((job.status().state, job.status().attempt), (JobState::Finished, 1), "{fault:?} at {place}");
            workload.check(&machine).unwrap();
        }
    }
}
