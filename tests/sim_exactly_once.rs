//! Whole jobs under crashes, restarts with other parallelism, and a failing disk: what is visible in the end is what the oracle says,
//! each line exactly once, each key's lines in order.
//!
//! `MILLSTREAM_SEEDS=1000..5000` runs other seeds, `MILLSTREAM_SEED=7 RUST_LOG=info` one, with what it says. Seeds that ever failed are in
//! `sim_seeds.txt`, which seeds were ever run in `sim_ledger.md`.

#[path = "sim_support/failures.rs"]
mod failures;
#[allow(dead_code, reason = "each test uses a part")]
mod sim_support;

use failures::Failures;
use millstream::engine::{CheckpointOptions, JobHandle, JobOptions};
use millstream::io::Survivors;
use millstream::job_manager::{JobState, RestartPolicy};
use millstream::sim::{Rng, SimEnd, SimFaults, Simulation};
use sim_support::troubles::PLANTED;
use sim_support::{SMALL_MEMORY_BYTES, Workload};
use std::cell::Cell;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Once;
use std::time::Duration;

const SEEDS: Range<u64> = 0..1_000;
/// Of the histories of failures.
const FAILURE_SEEDS: Range<u64> = 0..500;
/// A job that does not end in so many steps hangs.
const STEPS_MAX: u64 = 3_000_000;
/// How often a start may fail while the disk does.
const STARTS_MAX: u32 = 20;

thread_local! {
    static PANICS: Cell<u32> = const { Cell::new(0) };
}

/// What one seed did.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Run {
    trace_hash: u64,
    steps: u64,
    crashes: u64,
    checkpoints: u64,
    attempts: u64,
    refused: u64,
}

impl Run {
    fn account(&mut self, job: &JobHandle) {
        let status = job.status();
        self.checkpoints += status.checkpoints.completed;
        self.attempts += u64::from(status.attempt);
    }
}

struct Scenario {
    rng: Rng,
    machine: Simulation,
    workload: Workload,
    options: JobOptions,
    run: Run,
}

impl Scenario {
    fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        // Every twentieth has too little memory; of its own, so that the other seeds stay what they were.
        let mut other = Rng::new(seed ^ 0x5370_696C);
        let is_wide = other.chance(50);
        let workload = if is_wide { Workload::draw_wide(&mut other) } else { Workload::draw(&mut rng) };
        let workload = Workload { combines: other.chance(500), ..workload };
        let io_error_permille = [0, 0, 5, 20, 100][rng.index(5)];
        let faults = SimFaults {
            crash_per_million_steps: 0,
            survivors: Survivors::Random,
            io_error_permille,
            latency_drives_max: 1 + rng.below(8),
        };
        let mut machine = Simulation::new(rng.next_u64()).slots(slots(&mut rng)).faults(faults);
        if is_wide {
            machine = machine.memory(SMALL_MEMORY_BYTES);
        }
        let interval = Duration::from_millis(5 + rng.below(46));
        let options = JobOptions {
            checkpoints: Some(CheckpointOptions::every("/state", interval)),
            restart: RestartPolicy::FixedDelay { attempts_max: u32::MAX, delay_ms: rng.below(20) },
            ..JobOptions::default()
        };
        Self { rng, machine, workload, options, run: Run::default() }
    }

    fn run(mut self) -> Result<Run, String> {
        let crashes = 1 + self.rng.below(4);
        for _ in 0..crashes {
            let steps = [300, 3_000, 30_000][self.rng.index(3)];
            let steps = self.rng.below(steps);
            if let Some(job) = self.start()? {
                self.machine.run_until_done(steps);
                self.run.account(&job);
            }
            self.workload.check_partial(&self.machine).map_err(|error| format!("before a crash: {error}"))?;
            self.machine.crash();
            self.run.crashes += 1;
            self.restart();
        }
        self.machine.disk().heal();
        let job = self.machine.submit(self.workload.job(), self.options.clone()).map_err(|error| error.to_string())?;
        let end = self.machine.run_until_done(STEPS_MAX);
        self.run.account(&job);
        if end != SimEnd::Done || job.status().state != JobState::Finished {
            return Err(format!("it ended with {end:?}: {:?}", job.status()));
        }
        self.workload.check(&self.machine)?;
        self.run.trace_hash = self.machine.trace_hash();
        self.run.steps = self.machine.steps();
        Ok(self.run)
    }

    /// A start may be refused while the disk fails; it is tried again, on a new process.
    fn start(&mut self) -> Result<Option<JobHandle>, String> {
        for _ in 0..STARTS_MAX {
            match self.machine.submit(self.workload.job(), self.options.clone()) {
                Ok(job) => return Ok(Some(job)),
                Err(refusal) if refusal.to_string().contains("cannot ") => self.run.refused += 1,
                Err(refusal) => return Err(refusal.to_string()),
            }
            self.restart();
        }
        Ok(None)
    }

    fn restart(&mut self) {
        let slots = slots(&mut self.rng);
        self.machine.restart(slots);
    }
}

fn slots(rng: &mut Rng) -> u32 {
    [1, 2, 3, 4, 8][rng.index(5)]
}

/// What a seed means.
type History = fn(u64) -> Result<Run, String>;

fn crashes(seed: u64) -> Result<Run, String> {
    Scenario::new(seed).run()
}

fn failures(seed: u64) -> Result<Run, String> {
    Failures::new(seed).run()
}

fn run(seed: u64, history: History) -> Result<Run, String> {
    PANICS.set(0);
    let run = catch_unwind(AssertUnwindSafe(|| history(seed)));
    let run = run.unwrap_or_else(|_| Err("the simulation itself panicked".to_owned()))?;
    match PANICS.get() {
        0 => Ok(run),
        panics => Err(format!("{panics} panics inside tasks")),
    }
}

/// Some of them twice, to see that a run is determined by its seed.
fn checked_run(seed: u64, history: History) -> Result<Run, String> {
    let first = run(seed, history)?;
    let again = if seed.is_multiple_of(100) { run(seed, history)? } else { first };
    if first == again { Ok(first) } else { Err(format!("not determined by its seed: {first:?}, {again:?}")) }
}

/// All seeds, dealt to as many threads as there are processors: a simulation stays on one.
fn run_all(seeds: &[u64], history: History) -> Vec<(u64, Result<Run, String>)> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let run_dealt = |first: usize| -> Vec<_> {
        seeds.iter().skip(first).step_by(threads).map(|&seed| (seed, checked_run(seed, history))).collect()
    };
    std::thread::scope(|scope| {
        let running: Vec<_> = (0..threads).map(|first| scope.spawn(move || run_dealt(first))).collect();
        running.into_iter().flat_map(|thread| thread.join().unwrap_or_else(|panic| resume_unwind(panic))).collect()
    })
}

/// The seeds asked for; else the known ones of lines that begin so, and `usual`.
fn seeds(begin: &str, usual: Range<u64>) -> Vec<u64> {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    if let Some(seed) = number("MILLSTREAM_SEED") {
        return vec![seed];
    }
    let known = include_str!("sim_seeds.txt").lines().filter_map(|line| line.strip_prefix(begin));
    let known = known.filter_map(|line| line.split_whitespace().next()?.parse().ok());
    let asked = std::env::var("MILLSTREAM_SEEDS").ok();
    let asked = asked.and_then(|range| range.split_once("..").map(|(from, to)| (from.parse().ok(), to.parse().ok())));
    let asked = asked.map_or(usual, |range| match range {
        (Some(from), Some(to)) => from..to,
        _ => panic!("MILLSTREAM_SEEDS is a range, such as 1000..5000"),
    });
    known.chain(asked).collect()
}

/// Runs many seeds, says what failed, and what all did.
fn campaign(begin: &str, usual: Range<u64>, history: History) -> (u64, Run) {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let print = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if panic.payload().downcast_ref::<&str>() != Some(&PLANTED) {
                PANICS.set(PANICS.get() + 1);
                print(panic);
            }
        }));
        #[cfg(feature = "cli")]
        if std::env::var_os("MILLSTREAM_SEED").is_some() {
            tracing_subscriber::fmt().with_env_filter(tracing_subscriber::EnvFilter::from_default_env()).init();
        }
    });
    let (mut total, mut failed) = (Run::default(), Vec::new());
    let seeds = seeds(begin, usual);
    for (seed, result) in run_all(&seeds, history) {
        match result {
            Ok(run) => {
                total.steps += run.steps;
                total.crashes += run.crashes;
                total.checkpoints += run.checkpoints;
                total.attempts += run.attempts;
                total.refused += run.refused;
            }
            Err(error) => {
                println!("seed {seed}: {error}\n  MILLSTREAM_SEED={seed} cargo test --test sim_exactly_once");
                failed.push(seed);
            }
        }
    }
    println!("{} seeds: {total:?}", seeds.len());
    assert!(failed.is_empty(), "{} of {} seeds failed: {failed:?}", failed.len(), seeds.len());
    (seeds.len() as u64, total)
}

#[test]
fn whatever_crashes_and_fails_every_line_is_visible_exactly_once() {
    let (runs, total) = campaign("crashes ", SEEDS, crashes);
    if runs > 1 {
        assert!(total.checkpoints > 3 * runs && total.crashes >= runs && total.attempts > total.crashes);
    }
}

#[test]
fn whatever_fails_inside_the_process_the_job_ends_or_goes_on_and_leaves_nothing() {
    let (runs, total) = campaign("failures ", FAILURE_SEEDS, failures);
    if runs > 1 {
        assert!(total.checkpoints > runs && total.attempts > 3 * runs);
    }
}
