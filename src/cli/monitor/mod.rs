//! `millstream run monitor`: watches this machine, or metric files.
//!
//! Here: the run from the command line to the exit code. The job itself is `job`, its arithmetic `anomaly`, its lines `lines`.

mod anomaly;
#[cfg(feature = "object-store")]
mod copies;
mod figures;
mod job;
mod lines;
mod options;
mod report;

pub use options::Args;

use super::error::CliError;
use super::interrupt::Interrupt;
use super::values::RunTime;
use figures::Figures;
use millstream::engine::{CheckpointOptions, Engine, JobError, JobHandle, JobOptions, JobOutcome, SubmitError};
use millstream::job_manager::{JobState, RestartPolicy};
use millstream::time::{Clock, MachineClock};
use options::{Input, Options};
use report::Report;
use std::time::Duration;

/// Checkpoints that are kept.
const RETAINED: usize = 3;
/// A failed watch of this machine is tried again after 0.2, 0.4 and 0.8 s: a disk may have been busy, a sink in the way will stay.
const RESTART: RestartPolicy = RestartPolicy::ExponentialDelay {
    initial_ms: 200,
    max_ms: 60_000,
    multiplier_permille: 2_000,
    jitter_permille: 100,
    reset_after_ms: 3_600_000,
    attempts_max: Some(3),
};
/// How soon a signal is noticed.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Runs the monitor until its input ends, its time is over, or somebody stops it.
pub fn run(args: Args) -> Result<(), CliError> {
    let options = args.complete()?;
    let interrupt = Interrupt::listen()?;
    let engine = Engine::builder().memory(options.memory_bytes).io(options.io);
    let engine = match options.slots {
        Some(slots) => engine.slots(slots),
        None => engine,
    };
    let engine = engine.start().map_err(CliError::failed)?;
    #[allow(unused_mut, reason = "only copies change it, and they are a feature")]
    let mut job_options = job_options(&options);
    #[cfg(feature = "object-store")]
    copies::prepare(&options, &mut job_options)?;
    let job = engine.submit(job::build(&options), job_options).map_err(refusal)?;
    let ended = Watch { job, options: &options, interrupt, start_ns: MachineClock.monotonic_ns() }.until_it_ends();
    engine.stop();
    ended
}

fn job_options(options: &Options) -> JobOptions {
    let checkpoints = CheckpointOptions::every(&options.state, options.checkpoint_every);
    let restart = match options.input {
        Input::Machine => RESTART,
        // The same file fails in the same way: whoever started the job must see that at once.
        Input::Files { .. } => RestartPolicy::None,
    };
    JobOptions {
        max_parallelism: Some(options::KEY_GROUPS),
        memory_bytes: Some(options.memory_bytes),
        restart,
        checkpoints: Some(CheckpointOptions {
            retained: RETAINED,
            allow_dropped_state: options.allow_dropped_state,
            ..checkpoints
        }),
        from_savepoint: options.from_savepoint.clone(),
        ..JobOptions::default()
    }
}

/// Why the job was not accepted, in the words of the command line.
fn refusal(error: SubmitError) -> CliError {
    match error {
        SubmitError::MemoryTooSmall { needed_bytes, channels, given_bytes, .. } => CliError::failed(format_args!(
            "--memory {} KiB is too little: {} KiB is the least for the {channels} channels of so many slots",
            given_bytes >> 10,
            needed_bytes.div_ceil(1 << 10)
        )),
        SubmitError::Source { error, .. } => CliError::failed(error),
        error => CliError::failed(error),
    }
}

/// The job while it runs.
struct Watch<'a> {
    job: JobHandle,
    options: &'a Options,
    interrupt: Interrupt,
    start_ns: u64,
}

impl Watch<'_> {
    fn until_it_ends(self) -> Result<(), CliError> {
        let mut report = Report::new(self.options.json);
        let mut is_stopping = false;
        let mut savepoint = None;
        let outcome = loop {
            if let Some(outcome) = self.job.wait_for(LOOK_EVERY) {
                break outcome;
            }
            if !is_stopping && (self.interrupt.was_asked() || self.time_is_over()) {
                is_stopping = true;
                match &self.options.savepoint {
                    Some(dir) => savepoint = Some(self.job.stop_with_savepoint(dir, self.options.drain)),
                    None => self.job.stop(),
                }
            }
            let elapsed_ns = self.elapsed_ns();
            if report.is_due(elapsed_ns) {
                report.progress(Figures::gather(&self.job, elapsed_ns));
            }
        };
        report.end_line();
        let JobOutcome { state, .. } = outcome.map_err(|JobError::Failed { reason, .. }| CliError::failed(reason))?;
        let figures = Figures::gather(&self.job, self.elapsed_ns());
        report.result(state, &figures, self.options);
        self.judge(state, &figures)?;
        match (&self.options.savepoint, savepoint) {
            (Some(_), Some(savepoint)) => savepoint.wait().map(|_| ()).map_err(CliError::failed),
            (Some(dir), None) => Err(CliError::failed(format_args!(
                "the job ended before it was stopped, so no savepoint \"{}\" was taken: copy its last checkpoint with `millstream checkpoints copy \"{}\" \"{}\"`",
                dir.display(),
                self.options.state.display(),
                dir.display()
            ))),
            (None, _) => Ok(()),
        }
    }

    fn judge(&self, state: JobState, figures: &Figures) -> Result<(), CliError> {
        if !matches!(state, JobState::Finished | JobState::Suspended) {
            return Err(CliError::failed(format_args!("the job ended {}", format!("{state:?}").to_lowercase())));
        }
        let count: u64 = figures.dropped.values().sum();
        match self.options.side_file() {
            Some(file) if count > 0 => Err(CliError::PutAside(format!(
                "{count} records could not be read and were put into \"{}\" (one file per input): see there for line and reason",
                file.display()
            ))),
            _ => Ok(()),
        }
    }

    fn time_is_over(&self) -> bool {
        match self.options.run_time {
            RunTime::Forever => false,
            RunTime::For(time) => u128::from(self.elapsed_ns()) >= time.as_nanos(),
        }
    }

    fn elapsed_ns(&self) -> u64 {
        MachineClock.monotonic_ns() - self.start_ns
    }
}
