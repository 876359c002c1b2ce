//! The options of the benchmarks: how many events, where they are made, where the rows go.

use crate::cli::error::CliError;
use crate::cli::values;
use millstream::engine::{CheckpointOptions, JobOptions};
use millstream::job_manager::RestartPolicy;
use millstream::nexmark::{Generator, Query};
use millstream::numbered::Origin;
use millstream::rows::Rows;
use millstream::sink::Checksum;
use millstream::ysb::AdEvents;
use std::path::PathBuf;
use std::time::Duration;

/// Key groups of the job: fixed, because a checkpoint is cut into them.
const KEY_GROUPS: u16 = 128;

/// Options of `run nexmark`, as given.
#[derive(clap::Args)]
pub struct NexmarkArgs {
    /// Which query: q0, q1, q2, q3, q5, q7 or q8
    #[arg(long, value_name = "QUERY", value_parser = query)]
    pub query: Query,

    /// How many events happen in a second of event time: it decides how many are in a window, not how fast they come
    #[arg(long, value_name = "N", default_value = "100K", value_parser = values::positive_count)]
    pub rate: u64,

    #[command(flatten)]
    pub run: RunArgs,
}

/// Options of `run ysb`, as given.
#[derive(clap::Args)]
pub struct YsbArgs {
    /// How many campaigns there are, each with ten advertisements
    #[arg(long, value_name = "N", default_value = "100", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub campaigns: u32,

    /// How many events happen in a second of event time: it decides how many are in a window, not how fast they come
    #[arg(long, value_name = "N", default_value = "1M", value_parser = values::positive_count)]
    pub rate: u64,

    #[command(flatten)]
    pub run: RunArgs,
}

/// What both have.
#[derive(clap::Args)]
pub struct RunArgs {
    /// How many events
    #[arg(long, value_name = "N", default_value = "10M", value_parser = values::positive_count)]
    pub events: u64,

    /// Another seed makes other events
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,

    /// Where events are made: when they are read (inline), or before the job starts (pre-generated)
    #[arg(long, value_name = "WAY", value_enum, default_value = "inline")]
    source: Way,

    /// With --source pre-generated: how many events are made at most; where there are more, they come again with later ids and times
    #[arg(long, value_name = "N", default_value = "1M", value_parser = values::positive_count)]
    pool: u64,

    /// How many splits the source has: so many slots can read
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=i64::from(KEY_GROUPS)))]
    pub splits: u32,

    /// How many slots (pinned threads) work [default: the CPUs this process may use]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(KEY_GROUPS)))]
    pub slots: Option<u32>,

    /// The most memory the engine may take
    #[arg(long, value_name = "SIZE", default_value = "1GiB", value_parser = values::size_bytes)]
    pub memory: usize,

    /// Write the rows into DIR/*.jsonl, every line exactly once, instead of hashing them; turns checkpoints on
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,

    /// Where the checkpoints go; a run with the same directory continues where the last one ended, however it ended
    #[arg(long, value_name = "DIR", default_value = "./millstream-state", requires = "out")]
    state: PathBuf,

    /// How often a checkpoint begins, 10ms or longer
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = values::positive_duration, requires = "out")]
    checkpoint_every: Duration,

    /// Report as one JSON object on stdout
    #[arg(long)]
    pub json: bool,
}

/// `--source`.
#[derive(Clone, Copy, clap::ValueEnum)]
enum Way {
    Inline,
    PreGenerated,
}

fn query(name: &str) -> Result<Query, String> {
    Query::of_name(name).ok_or_else(|| {
        let known: Vec<&str> = Query::ALL.into_iter().map(Query::name).collect();
        format!("there are {}", known.join(", "))
    })
}

impl NexmarkArgs {
    /// What decides over the content of every event.
    pub fn generator(&self) -> Generator {
        Generator { seed: self.run.seed, events_per_second: self.rate }
    }
}

impl YsbArgs {
    /// What decides over the content of every event.
    pub fn generator(&self) -> AdEvents {
        AdEvents { seed: self.run.seed, events_per_second: self.rate, campaigns: u64::from(self.campaigns) }
    }
}

impl RunArgs {
    /// Where the events are made.
    pub fn origin(&self) -> Origin {
        match self.source {
            Way::Inline => Origin::Inline,
            Way::PreGenerated => Origin::PreGenerated { records_max: self.pool },
        }
    }

    /// Where the rows go.
    pub fn rows(&self) -> Rows {
        match &self.out {
            None => Rows::Hashed(Checksum::default()),
            Some(directory) => Rows::Written(directory.clone()),
        }
    }

    /// The name of the job that runs `what`. All that decides over its rows is in it: a run over other events must not continue from these.
    pub fn job_name(&self, what: &str, rate: u64) -> String {
        let made = match self.origin() {
            Origin::PreGenerated { records_max } if records_max < self.events => {
                format!(", {records_max} again and again")
            }
            _ => String::new(),
        };
        let Self { events, seed, splits, .. } = self;
        format!("{what}, {events} events, {rate}/s, seed {seed}, {splits} splits{made}")
    }

    /// How the job runs.
    pub fn job_options(&self) -> Result<JobOptions, CliError> {
        if self.checkpoint_every < Duration::from_millis(10) {
            return Err(CliError::Usage("--checkpoint-every must be 10ms or longer".to_owned()));
        }
        let checkpoints = CheckpointOptions::every(&self.state, self.checkpoint_every);
        Ok(JobOptions {
            max_parallelism: Some(KEY_GROUPS),
            memory_bytes: Some(self.memory),
            // The same events fail in the same way: whoever started the job must see that at once.
            restart: RestartPolicy::None,
            checkpoints: self.out.is_some().then_some(checkpoints),
            ..JobOptions::default()
        })
    }

    /// Whether a later run can go on from where this one is stopped.
    pub fn can_go_on(&self) -> bool {
        self.out.is_some()
    }
}
