//! `millstream run nexmark` and `millstream run ysb`: a benchmark's job from the command line to the exit code.
//!
//! Here: running and reporting. Not here: the jobs themselves (modules `nexmark` and `ysb` of the library, whose files are beside this folder).

mod options;

pub use options::{NexmarkArgs, YsbArgs};

use super::console;
use super::error::CliError;
use super::interrupt::Interrupt;
use super::values::{grouped, shown_ms};
use millstream::engine::{Engine, JobError, JobHandle};
use millstream::job_manager::JobState;
use millstream::metrics::Metric;
use millstream::nexmark::{self, Nexmark};
use millstream::rows::{Rows, SINK};
use millstream::stream::Job;
use millstream::time::{Clock, MachineClock};
use millstream::ysb::{self, Ysb};
use options::RunArgs;
use serde_json::json;
use std::time::Duration;

/// How soon a signal is noticed.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Runs a query of Nexmark.
pub fn run_nexmark(args: &NexmarkArgs) -> Result<(), CliError> {
    let what = format!("nexmark {}", args.query.name());
    let benchmark = Nexmark::new(args.query, args.generator(), args.run.events, args.run.splits, args.run.origin());
    let build = |name: &str, rows: &Rows| benchmark.job(name, rows);
    run(
        Benchmark {
            what,
            rate: args.rate,
            window_ms: args.query.window_ms(),
            source: nexmark::SOURCE,
            args: &args.run,
        },
        build,
    )
}

/// Runs the Yahoo Streaming Benchmark.
pub fn run_ysb(args: &YsbArgs) -> Result<(), CliError> {
    let what = format!("ysb with {} campaigns", args.campaigns);
    let benchmark = Ysb::new(args.generator(), args.run.events, args.run.splits, args.run.origin());
    let build = |name: &str, rows: &Rows| benchmark.job(name, rows);
    run(
        Benchmark { what, rate: args.rate, window_ms: Some(ysb::WINDOW_MS), source: ysb::SOURCE, args: &args.run },
        build,
    )
}

/// What is run.
struct Benchmark<'a> {
    what: String,
    rate: u64,
    window_ms: Option<i64>,
    /// The name of the source.
    source: &'static str,
    args: &'a RunArgs,
}

/// What came of it.
struct Outcome {
    state: JobState,
    elapsed_ns: u64,
    slots: usize,
    /// Of this run: one that went on from a checkpoint counts from there.
    events: u64,
    rows: u64,
    checksum: Option<u64>,
}

fn run(benchmark: Benchmark<'_>, build: impl FnOnce(&str, &Rows) -> Job) -> Result<(), CliError> {
    let args = benchmark.args;
    let options = args.job_options()?;
    let interrupt = Interrupt::listen()?;
    let engine = Engine::builder().memory(args.memory);
    let engine = match args.slots {
        Some(slots) => engine.slots(slots),
        None => engine,
    };
    let engine = engine.start().map_err(CliError::failed)?;
    let rows = args.rows();
    let job = build(&args.job_name(&benchmark.what, benchmark.rate), &rows);
    let start_ns = MachineClock.monotonic_ns();
    let job = engine.submit(job, options).map_err(CliError::failed)?;
    let state = until_it_ends(&job, &interrupt, args.can_go_on())?;
    let elapsed_ns = MachineClock.monotonic_ns() - start_ns;
    let sum = match &rows {
        Rows::Hashed(checksum) => Some(checksum.sum().checksum),
        Rows::Written(_) => None,
    };
    let outcome = Outcome {
        state,
        elapsed_ns,
        slots: engine.slot_count(),
        events: counted(&job, benchmark.source, "records_out"),
        rows: counted(&job, SINK, "records_in"),
        checksum: sum,
    };
    engine.stop();
    match args.json {
        true => console::say(benchmark.json(&outcome)),
        false => console::write(benchmark.text(&outcome)),
    }
    match state {
        JobState::Finished | JobState::Suspended => Ok(()),
        state => Err(CliError::failed(format_args!("the job ended {}", format!("{state:?}").to_lowercase()))),
    }
}

fn until_it_ends(job: &JobHandle, interrupt: &Interrupt, can_go_on: bool) -> Result<JobState, CliError> {
    let mut is_stopping = false;
    loop {
        if let Some(outcome) = job.wait_for(LOOK_EVERY) {
            let failed = |JobError::Failed { reason, .. }| CliError::failed(reason);
            return outcome.map(|outcome| outcome.state).map_err(failed);
        }
        if !is_stopping && interrupt.was_asked() {
            is_stopping = true;
            match can_go_on {
                true => job.stop(),
                false => job.cancel(),
            }
        }
    }
}

fn counted(job: &JobHandle, operator: &str, counter: &str) -> u64 {
    let samples = job.metrics().into_iter().filter(|sample| &*sample.of.operator == operator);
    samples
        .filter_map(|sample| match sample.metric {
            Metric::Count(name, count) if name == counter => Some(count),
            _ => None,
        })
        .sum()
}

impl Benchmark<'_> {
    /// How many events there are in each window.
    fn events_per_window(&self) -> Option<u64> {
        let of = |window_ms: i64| (u128::from(self.rate) * window_ms as u128 / 1_000) as u64;
        self.window_ms.map(of)
    }

    fn text(&self, outcome: &Outcome) -> String {
        let Self { what, rate, .. } = self;
        let windows = self.window_ms.zip(self.events_per_window()).map_or(String::new(), |(window_ms, events)| {
            format!(", {} in a window of {}", grouped(events), shown_ms(window_ms))
        });
        let checksum = outcome.checksum.map_or(String::new(), |checksum| format!(", checksum {checksum:016x}"));
        format!(
            "{what}: {} events in {:.3} s, {} events/s, slots {}, {}\nevents per second of event time {}{windows}\nrows {}{checksum}\n",
            grouped(outcome.events),
            outcome.elapsed_ns as f64 / 1e9,
            grouped(outcome.events_per_s()),
            outcome.slots,
            format!("{:?}", outcome.state).to_lowercase(),
            grouped(*rate),
            grouped(outcome.rows),
        )
    }

    fn json(&self, outcome: &Outcome) -> serde_json::Value {
        json!({
            "type": "result",
            "benchmark": self.what,
            "state": format!("{:?}", outcome.state).to_lowercase(),
            "elapsed_ms": outcome.elapsed_ns / 1_000_000,
            "slots": outcome.slots,
            "events": outcome.events,
            "events_per_s": outcome.events_per_s(),
            "rate": self.rate,
            "events_per_window": self.events_per_window(),
            "rows": outcome.rows,
            "checksum": outcome.checksum.map(|checksum| format!("{checksum:016x}")),
        })
    }
}

impl Outcome {
    fn events_per_s(&self) -> u64 {
        (u128::from(self.events) * 1_000_000_000 / u128::from(self.elapsed_ns.max(1))) as u64
    }
}
