//! Savepoints on a simulated machine: what a job started from one produces is what the job it was taken from had left to produce; and
//! wherever the machine stops while one is written, a complete savepoint is there or none.

#[allow(dead_code, reason = "each test uses a part")]
mod sim_support;

use millstream::checkpoint::{RestoreError, RestoredCheckpoint, verify};
use millstream::engine::{
    CheckpointOptions, FromSavepoint, JobHandle, JobOptions, JobSavepointError, PendingSavepoint, SubmitError,
};
use millstream::io::{DiskFault, InjectedFault, Repeat, SimIo, Survivors};
use millstream::job_manager::{JobState, RestartPolicy};
use millstream::memory::{Arena, ArenaOptions, MemoryBudget};
use millstream::sim::{Rng, SimEnd, SimFaults, Simulation};
use sim_support::{Pipeline, SEQUENCES, WINDOWS, Workload};
use std::path::Path;
use std::time::Duration;

const STEPS_MAX: u64 = 300_000;
const SAVEPOINT: &str = "/savepoints/first";

fn workload(seed: u64) -> Workload {
    let workload = Workload::draw(&mut Rng::new(seed));
    Workload { pipeline: Pipeline::Both, every_ns: 1_000_000, batch_max: 10, ..workload }
}

fn options(state: &str) -> JobOptions {
    JobOptions {
        checkpoints: Some(CheckpointOptions::every(state, Duration::from_millis(5))),
        restart: RestartPolicy::FixedDelay { attempts_max: 20, delay_ms: 1 },
        ..JobOptions::default()
    }
}

fn from_savepoint(state: &str) -> JobOptions {
    JobOptions { from_savepoint: Some(FromSavepoint::in_dir(SAVEPOINT)), ..options(state) }
}

fn arena() -> Arena {
    Arena::new(MemoryBudget::new(64 << 20), ArenaOptions::default())
}

/// Runs until the savepoint has ended.
fn until_ended(machine: &mut Simulation, savepoint: &PendingSavepoint) -> Result<(), JobSavepointError> {
    for _ in 0..STEPS_MAX {
        if let Some(ended) = savepoint.wait_for(Duration::ZERO) {
            return ended.map(|_| ());
        }
        machine.run_until_done(1);
    }
    panic!("the savepoint hangs");
}

/// How many steps the job takes on so many slots.
fn steps_of(workload: &Workload, seed: u64, slots: u32) -> u64 {
    let mut machine = Simulation::new(seed).slots(slots);
    machine.submit(workload.job(), options("/state")).unwrap();
    until_done(&mut machine);
    machine.steps()
}

/// Runs until every job has ended, and nothing of them is left.
fn until_done(machine: &mut Simulation) {
    assert_eq!(machine.run_until_done(STEPS_MAX), SimEnd::Done);
    assert_eq!(machine.leftovers(), [""; 0]);
}

/// Runs a job for so many steps.
fn started(machine: &mut Simulation, workload: &Workload, steps: u64) -> JobHandle {
    let job = machine.submit(workload.job(), options("/state")).unwrap();
    assert_eq!(machine.run_until_done(steps), SimEnd::StepsUsedUp, "the job is to be caught while it runs");
    job
}

fn is_complete(machine: &Simulation) -> bool {
    let names = machine.disk().names(Path::new(SAVEPOINT));
    let Some(names) = names else { return false };
    assert!(!names.is_empty(), "a savepoint is never a directory without contents");
    let report = verify(&mut SimIo::new(machine.disk()), &arena(), Path::new(SAVEPOINT)).unwrap();
    assert!(report.damages.is_empty() && report.intact.len() == 1, "{report:?}");
    true
}

#[test]
fn a_job_stopped_with_a_savepoint_and_started_from_it_has_produced_everything_once() {
    for seed in 0..12 {
        let (workload, slots) = (workload(seed), 1 + (seed % 3) as u32);
        let mut machine = Simulation::new(seed).slots(slots);
        let job = started(&mut machine, &workload, steps_of(&workload, seed, slots) * (1 + seed % 4) / 6);
        let savepoint = job.stop_with_savepoint(SAVEPOINT, false);
        until_ended(&mut machine, &savepoint).unwrap();
        until_done(&mut machine);
        assert_eq!(job.status().state, JobState::Suspended);
        assert!(is_complete(&machine));
        let bytes_before = files_of(&machine);
        machine.restart(1 + (seed % 4) as u32);
        let again = machine.submit(workload.job(), from_savepoint("/state-2")).unwrap();
        until_done(&mut machine);
        assert_eq!(again.status().state, JobState::Finished);
        workload.check(&machine).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        assert_eq!(files_of(&machine), bytes_before, "a restore changes nothing in a savepoint");
    }
}

fn files_of(machine: &Simulation) -> Vec<(String, Option<Vec<u8>>)> {
    let dir = Path::new(SAVEPOINT);
    let names = machine.disk().names(dir).unwrap();
    names.into_iter().map(|name| (name.clone(), machine.disk().bytes(&dir.join(name)))).collect()
}

#[test]
fn a_savepoint_of_a_running_job_disturbs_nothing_and_survives_the_job() {
    for seed in 20..26 {
        let (workload, mut machine) = (workload(seed), Simulation::new(seed).slots(2));
        // Behind the last barrier of its input there is nothing left to take a savepoint of.
        let job = started(&mut machine, &workload, steps_of(&workload, seed, 2) / 4);
        let savepoint = job.savepoint(SAVEPOINT);
        until_ended(&mut machine, &savepoint).unwrap();
        let taken = savepoint.wait().unwrap();
        until_done(&mut machine);
        workload.check(&machine).unwrap();
        assert!(is_complete(&machine));
        let mut io = SimIo::new(machine.disk());
        let read = RestoredCheckpoint::of_savepoint(&mut io, &arena(), Path::new(SAVEPOINT), None).unwrap();
        assert_eq!(read.id(), taken.checkpoint);
    }
}

#[test]
fn a_drained_job_fires_every_window_and_timer_before_its_savepoint() {
    let (workload, mut machine) = (workload(3), Simulation::new(3).slots(2));
    let job = started(&mut machine, &workload, 500);
    let before = machine.lines(WINDOWS).len();
    let savepoint = job.stop_with_savepoint(SAVEPOINT, true);
    until_ended(&mut machine, &savepoint).unwrap();
    until_done(&mut machine);
    assert_eq!(job.status().state, JobState::Suspended);
    let drained = (machine.lines(WINDOWS).len(), machine.lines(SEQUENCES).len());
    assert!(drained.0 > before);

    // The same without drain leaves windows open.
    let mut other = Simulation::new(3).slots(2);
    let job = started(&mut other, &workload, 500);
    let savepoint = job.stop_with_savepoint(SAVEPOINT, false);
    until_ended(&mut other, &savepoint).unwrap();
    until_done(&mut other);
    let kept = (other.lines(WINDOWS).len(), other.lines(SEQUENCES).len());
    assert!(kept.0 < drained.0 && kept.1 < drained.1, "{kept:?} and drained {drained:?}");

    // Everything that was read is in what the drained job wrote: each record counts in its windows' sums.
    let timers = machine.lines(SEQUENCES).iter().filter(|line| line.ends_with("true]")).count();
    assert!(timers > 0);
}

#[test]
fn wherever_the_machine_stops_the_savepoint_is_complete_or_absent() {
    let workload = workload(11);
    let (mut machine, mut places) = (Simulation::new(3).slots(2), Vec::new());
    let job = started(&mut machine, &workload, 700);
    let first = machine.disk().operations();
    until_ended(&mut machine, &job.savepoint(SAVEPOINT)).unwrap();
    let last = machine.disk().operations();
    assert!(is_complete(&machine));
    let (mut complete, mut absent) = (0, 0);
    for (place, survivors) in
        (first..=last + 20).zip([Survivors::Random, Survivors::Nothing, Survivors::PageCache].into_iter().cycle())
    {
        let mut machine = Simulation::new(3).slots(2);
        let job = started(&mut machine, &workload, 700);
        machine.disk().halt_at(place);
        let savepoint = job.savepoint(SAVEPOINT);
        let mut was_told = false;
        for _ in 0..STEPS_MAX {
            if machine.disk().is_halted() {
                break;
            }
            machine.run_until_done(1);
            was_told = savepoint.wait_for(Duration::ZERO).is_some_and(|ended| ended.is_ok());
        }
        machine.disk().crash_keeping(survivors, &mut Rng::new(place));
        machine.restart(1);
        match is_complete(&machine) {
            true => complete += 1,
            false => absent += 1,
        }
        assert!(is_complete(&machine) || !was_told, "operation {place}: the host was told of a savepoint that is gone");
        places.push(place);
        // The name can be used again, whatever was left, and the job goes on.
        let job = machine.submit(workload.job(), options("/state")).unwrap();
        if !is_complete(&machine) && place % 5 == 0 {
            until_ended(&mut machine, &job.savepoint(SAVEPOINT)).unwrap();
            assert!(is_complete(&machine));
        }
        if place % 10 == 0 {
            until_done(&mut machine);
            workload.check(&machine).unwrap();
        }
    }
    println!("{} crashes: {complete} complete, {absent} absent", places.len());
    assert!(places.len() > 40 && complete > 5 && absent > 20);
}

/// What is under way when the engine is dropped may still happen: also the renaming that makes a savepoint complete.
#[test]
fn whenever_the_engine_is_dropped_the_savepoint_is_complete_or_absent() {
    let workload = workload(11);
    let (mut complete, mut absent, mut steps) = (0, 0, 0);
    for seed in 0..2 {
        for stops in [false, true] {
            loop {
                let faults = SimFaults { latency_drives_max: 1 + 7 * (seed % 2), ..SimFaults::default() };
                let mut machine = Simulation::new(seed).slots(2).faults(faults);
                let job = started(&mut machine, &workload, 700);
                let savepoint =
                    if stops { job.stop_with_savepoint(SAVEPOINT, false) } else { job.savepoint(SAVEPOINT) };
                for _ in 0..steps {
                    machine.run_until_done(1);
                }
                let was_told = savepoint.wait_for(Duration::ZERO).map(|ended| ended.is_ok());
                let copying = machine.disk().names(Path::new("/savepoints/first.tmp"));
                let is_copying = copying.is_none_or(|names| !names.iter().any(|name| name.starts_with("superblock")));
                let is_near_its_end = !is_copying || is_complete(&machine);
                machine.stop_engine();
                let told = savepoint.wait_for(Duration::ZERO).expect("whoever waits is told").is_ok();
                assert_eq!(is_complete(&machine), told, "seed {seed}, stops {stops}, {steps} steps");
                let left = machine.disk().names(Path::new("/savepoints/first.tmp")).unwrap_or_default();
                assert!(left.len() <= 1, "seed {seed}, stops {stops}, {steps} steps left {left:?}");
                if told {
                    complete += 1
                } else {
                    absent += 1
                }
                if was_told == Some(true) {
                    break;
                }
                steps += if is_near_its_end { 1 } else { 9 };
            }
            steps = 0;
        }
    }
    println!("{complete} complete, {absent} absent");
    assert!(complete >= 4 && absent > 100);
}

#[test]
fn an_operation_that_fails_costs_the_savepoint_and_not_the_job() {
    let workload = workload(11);
    let mut machine = Simulation::new(3).slots(2);
    let job = started(&mut machine, &workload, 700);
    let first = machine.disk().operations();
    until_ended(&mut machine, &job.savepoint(SAVEPOINT)).unwrap();
    let last = machine.disk().operations();
    let mut failed = 0;
    for place in first..last {
        for fault in [DiskFault::Eio, DiskFault::Enospc] {
            let mut machine = Simulation::new(3).slots(2);
            let job = started(&mut machine, &workload, 700);
            let under = Some("/savepoints".into());
            machine.disk().inject(InjectedFault { at_operation: place, repeat: Repeat::Once, fault, under });
            match until_ended(&mut machine, &job.savepoint(SAVEPOINT)) {
                Ok(()) => assert!(is_complete(&machine)),
                Err(_) => {
                    failed += 1;
                    assert!(!is_complete(&machine), "operation {place}: the host was told that there is none");
                    let left = machine.disk().names(Path::new("/savepoints/first.tmp")).unwrap_or_default();
                    assert!(left.len() <= 1, "operation {place} left {left:?}");
                    until_ended(&mut machine, &job.savepoint(SAVEPOINT)).unwrap();
                }
            }
            until_done(&mut machine);
            workload.check(&machine).unwrap();
        }
    }
    assert!(failed > 20, "{failed} failures");
}

#[test]
fn a_name_that_is_taken_is_refused_and_what_is_there_stays() {
    let (workload, mut machine) = (workload(11), Simulation::new(3).slots(2));
    let job = started(&mut machine, &workload, 500);
    until_ended(&mut machine, &job.savepoint(SAVEPOINT)).unwrap();
    let before = files_of(&machine);
    let refused = until_ended(&mut machine, &job.savepoint(SAVEPOINT)).unwrap_err();
    assert!(refused.to_string().contains("exists already"), "{refused}");
    assert_eq!(files_of(&machine), before);
}

#[test]
fn a_job_that_has_ended_or_has_no_directory_takes_no_savepoint() {
    let (workload, mut machine) = (workload(5), Simulation::new(5));
    let job = machine.submit(workload.job(), JobOptions::default()).unwrap();
    let refused = until_ended(&mut machine, &job.savepoint(SAVEPOINT)).unwrap_err();
    assert!(matches!(refused, JobSavepointError::NoCheckpoints { .. }), "{refused}");
    until_done(&mut machine);
    let gone = job.savepoint(SAVEPOINT);
    let (_, refused) = (machine.submit(workload.job(), options("/state")), until_ended(&mut machine, &gone));
    assert!(matches!(refused, Err(JobSavepointError::JobGone { .. })));
}

#[test]
fn a_directory_that_holds_checkpoints_is_not_started_from_a_savepoint() {
    let (workload, mut machine) = (workload(5), Simulation::new(5));
    let job = started(&mut machine, &workload, 200);
    until_ended(&mut machine, &job.stop_with_savepoint(SAVEPOINT, false)).unwrap();
    until_done(&mut machine);
    let refused = machine.submit(workload.job(), from_savepoint("/state")).map(|_| ()).unwrap_err();
    assert!(matches!(refused, SubmitError::SavepointNotNeeded { .. }), "{refused}");
}

#[test]
fn a_directory_without_a_savepoint_is_refused_by_name() {
    let (workload, mut machine) = (workload(5), Simulation::new(5));
    let refused = machine.submit(workload.job(), from_savepoint("/state")).map(|_| ()).unwrap_err();
    assert!(refused.to_string().contains(SAVEPOINT), "{refused}");
    assert!(matches!(refused, SubmitError::Restore(RestoreError::Io(_))), "{refused:?}");
}

#[test]
fn a_job_that_fails_before_its_first_checkpoint_starts_from_the_savepoint_again() {
    let (workload, mut machine) = (workload(9), Simulation::new(9).slots(2));
    let job = started(&mut machine, &workload, 600);
    until_ended(&mut machine, &job.stop_with_savepoint(SAVEPOINT, false)).unwrap();
    until_done(&mut machine);
    for _ in 0..3 {
        machine.restart(2);
        machine.submit(workload.job(), from_savepoint("/state-2")).unwrap();
        machine.run_until_done(60);
        machine.crash();
    }
    machine.restart(2);
    let again = machine.submit(workload.job(), from_savepoint("/state-2"));
    match again {
        Ok(_) => until_done(&mut machine),
        Err(refused) => panic!("{refused}"),
    }
    workload.check(&machine).unwrap();
}
