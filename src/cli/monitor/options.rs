//! The options of the monitor: what the command line says, the defaults that depend on what is watched, and what cannot be.

use crate::cli::error::CliError;
use crate::cli::values::{self, RunTime, shown_ms};
use millstream::engine::FromSavepoint;
use millstream::io::IoChoice;
use millstream::source::OnBadRecord;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::anomaly::AnomalyRule;

/// Key groups of the job: fixed, because a checkpoint is cut into them. More slots than these would have nothing to do.
pub const KEY_GROUPS: u16 = 128;
/// Each window merges its slices when it fires; more than these make it slow.
const SLICES_PER_WINDOW_MAX: i64 = 10_000;

/// Options of `run monitor`, as given.
#[derive(clap::Args, Default)]
pub struct Args {
    /// Metric files to read instead of this machine: CSV with the header `timestamp,value`, one series per file; timestamps ISO 8601
    /// in UTC or milliseconds since 1970
    #[arg(long, value_name = "FILE", num_args = 1..)]
    input: Vec<PathBuf>,

    /// Wait for more at the end of the files instead of ending there
    #[arg(long, requires = "input")]
    follow: bool,

    /// How long to run, or `forever`; then the job stops with a final checkpoint [default: 20s; with --input: forever]
    #[arg(long = "for", value_name = "TIME", value_parser = values::run_time)]
    run_time: Option<RunTime>,

    /// Where the output goes: DIR/windows/*.jsonl and DIR/alerts/*.jsonl, every line exactly once
    #[arg(long, value_name = "DIR", default_value = OUT)]
    out: Option<PathBuf>,

    /// Where the checkpoints go; a run with the same directory continues where the last one ended, however it ended
    #[arg(long, value_name = "DIR", default_value = STATE)]
    state: Option<PathBuf>,

    /// Go on although the checkpoint holds state that this version of the program does not use any more; that state is lost
    #[arg(long)]
    allow_dropped_state: bool,
    /// Start from this savepoint; the --state directory must hold no checkpoint then
    #[arg(long, value_name = "DIR")]
    from_savepoint: Option<PathBuf>,

    /// The savepoint may be of a job of another name
    #[arg(long, requires = "from_savepoint")]
    any_job: bool,

    /// When the job is stopped, copy its final checkpoint into this new directory, to start from later, here or elsewhere
    #[arg(long, value_name = "DIR")]
    savepoint: Option<PathBuf>,

    /// Fire all windows and timers before that savepoint, as if the input had ended: for a job that is not meant to go on
    #[arg(long, requires = "savepoint")]
    drain: bool,

    /// Copy checkpoints to this object store beside the job, and on a fresh machine fetch the newest from there first:
    /// s3://BUCKET/PREFIX, keys and endpoint from the environment (AWS_ACCESS_KEY_ID, AWS_ENDPOINT, ...)
    #[cfg(feature = "object-store")]
    #[arg(long, value_name = "URL")]
    copies: Option<String>,

    /// How many slots (pinned threads) work [default: the CPUs this process may use]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=KEY_GROUPS as i64))]
    slots: Option<u32>,

    /// The most memory the engine may take
    #[arg(long, value_name = "SIZE", default_value = "512MiB", value_parser = values::size_bytes)]
    memory: Option<usize>,

    /// How long a window is [default: 10s; with --input: 1h]
    #[arg(long, value_name = "TIME", value_parser = values::positive_duration)]
    window: Option<Duration>,

    /// How often a window begins [default: 1s; with --input: 5m]
    #[arg(long, value_name = "TIME", value_parser = values::positive_duration)]
    slide: Option<Duration>,

    /// How much later than a later one a record may come [default: 0s; with --input: 10m]
    #[arg(long, value_name = "TIME", value_parser = values::duration)]
    out_of_order: Option<Duration>,

    /// How many standard deviations from the mean make an anomaly
    #[arg(long, value_name = "X", default_value = "6", value_parser = values::positive_number)]
    sigma: Option<f64>,

    /// The weight of each new value in mean and variance, above 0 and at most 1
    #[arg(long, value_name = "X", default_value = "0.05", value_parser = values::share)]
    alpha: Option<f64>,

    /// How long a series may be silent before that is an alert [default: 5s; with --input: 1h]
    #[arg(long, value_name = "TIME", value_parser = values::positive_duration)]
    silent: Option<Duration>,

    /// How often a checkpoint begins, 10ms or longer
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = values::positive_duration)]
    checkpoint_every: Option<Duration>,

    /// How bytes reach the disk: io_uring where the kernel allows it (auto), io_uring or nothing (uring), a thread (blocking)
    #[arg(long, value_name = "WAY", value_enum, default_value = "auto")]
    io: Option<IoWay>,

    /// What happens to lines that are no records: fail, skip (count and log them), or a FILE to put them into; with several
    /// input files FILE.jsonl becomes FILE.<series>.jsonl [default: bad-records.jsonl in the --out directory]
    #[arg(long, value_name = "fail|skip|FILE")]
    on_bad_record: Option<PathBuf>,

    /// Report as JSON on stdout: one object per line, the last one has "type":"result"
    #[arg(long)]
    json: bool,
}

const OUT: &str = "./millstream-out";
const STATE: &str = "./millstream-state";

/// `--io`.
#[derive(Clone, Copy, clap::ValueEnum)]
enum IoWay {
    Auto,
    Uring,
    Blocking,
}

/// Options of the monitor, complete and possible.
#[derive(Clone, Debug)]
pub struct Options {
    pub input: Input,
    pub run_time: RunTime,
    pub out: PathBuf,
    pub state: PathBuf,
    pub allow_dropped_state: bool,
    pub from_savepoint: Option<FromSavepoint>,
    pub savepoint: Option<PathBuf>,
    pub drain: bool,
    #[cfg(feature = "object-store")]
    pub copies: Option<String>,
    /// `None`: one per CPU this process may use.
    pub slots: Option<u32>,
    pub memory_bytes: usize,
    pub window_ms: i64,
    pub slide_ms: i64,
    pub out_of_order_ms: i64,
    pub rule: AnomalyRule,
    pub checkpoint_every: Duration,
    pub io: IoChoice,
    pub json: bool,
}

/// What is watched.
#[derive(Clone, Debug)]
pub enum Input {
    /// This machine, from /proc.
    Machine,
    /// Metric files.
    Files { files: Vec<PathBuf>, follow: bool, on_bad_record: OnBadRecord },
}

/// What depends on the input.
struct Defaults {
    run_time: RunTime,
    window_ms: i64,
    slide_ms: i64,
    out_of_order_ms: i64,
    silent_ms: i64,
}

const MACHINE: Defaults = Defaults {
    run_time: RunTime::For(Duration::from_secs(20)),
    window_ms: 10_000,
    slide_ms: 1_000,
    out_of_order_ms: 0,
    silent_ms: 5_000,
};

const FILES: Defaults = Defaults {
    run_time: RunTime::Forever,
    window_ms: 3_600_000,
    slide_ms: 300_000,
    out_of_order_ms: 600_000,
    silent_ms: 3_600_000,
};

impl Args {
    /// The options with their defaults, or what is impossible about them.
    pub fn complete(self) -> Result<Options, CliError> {
        let defaults = if self.input.is_empty() { MACHINE } else { FILES };
        let out = self.out.unwrap_or_else(|| OUT.into());
        let ms = |given: Option<Duration>, default| given.map_or(default, |given| given.as_millis() as i64);
        let options = Options {
            run_time: self.run_time.unwrap_or(defaults.run_time),
            state: self.state.unwrap_or_else(|| STATE.into()),
            allow_dropped_state: self.allow_dropped_state,
            from_savepoint: self.from_savepoint.map(|dir| FromSavepoint { dir, of_any_job: self.any_job }),
            savepoint: self.savepoint,
            drain: self.drain,
            #[cfg(feature = "object-store")]
            copies: self.copies,
            slots: self.slots,
            memory_bytes: self.memory.unwrap_or(512 << 20),
            window_ms: ms(self.window, defaults.window_ms),
            slide_ms: ms(self.slide, defaults.slide_ms),
            out_of_order_ms: ms(self.out_of_order, defaults.out_of_order_ms),
            rule: AnomalyRule {
                sigma: self.sigma.unwrap_or(6.0),
                alpha: self.alpha.unwrap_or(0.05),
                silent_ms: ms(self.silent, defaults.silent_ms),
            },
            checkpoint_every: self.checkpoint_every.unwrap_or(Duration::from_secs(1)),
            io: self.io.map_or(IoChoice::Auto, IoChoice::from),
            json: self.json,
            input: match self.input.is_empty() {
                true => Input::Machine,
                false => Input::Files {
                    on_bad_record: on_bad_record(self.on_bad_record, &out),
                    files: self.input,
                    follow: self.follow,
                },
            },
            out,
        };
        options.check()?;
        Ok(options)
    }
}

impl Options {
    /// The job's name, and so that of its state directory. What decides over the content of windows is in it: a run with
    /// other windows must not continue from these.
    pub fn job_name(&self) -> String {
        let what = match self.input {
            Input::Machine => "this machine",
            Input::Files { .. } => "files",
        };
        format!("monitor of {what}, windows of {} every {}", shown_ms(self.window_ms), shown_ms(self.slide_ms))
    }

    /// Where records that could not be read are put, if anywhere.
    pub fn side_file(&self) -> Option<&Path> {
        match &self.input {
            Input::Files { on_bad_record: OnBadRecord::SideFile(path), .. } => Some(path),
            _ => None,
        }
    }

    fn check(&self) -> Result<(), CliError> {
        let slices = self.window_ms / greatest_common_divisor(self.window_ms, self.slide_ms);
        if slices > SLICES_PER_WINDOW_MAX {
            return Err(CliError::Usage(format!(
                "--window {} and --slide {} cut a window into {slices} slices, {SLICES_PER_WINDOW_MAX} are possible: make the \
                 window a multiple of a longer slide",
                shown_ms(self.window_ms),
                shown_ms(self.slide_ms)
            )));
        }
        if let Some(dir) = self.savepoint.as_ref().filter(|dir| dir.exists()) {
            return Err(CliError::Usage(format!(
                "--savepoint \"{}\" exists already: give each savepoint a name of its own",
                dir.display()
            )));
        }
        if self.checkpoint_every < Duration::from_millis(10) {
            let asked = shown_ms(self.checkpoint_every.as_millis() as i64);
            return Err(CliError::Usage(format!(
                "--checkpoint-every {asked} is too often: 10ms or longer is possible"
            )));
        }
        Ok(())
    }
}

impl From<IoWay> for IoChoice {
    fn from(way: IoWay) -> Self {
        match way {
            IoWay::Auto => Self::Auto,
            IoWay::Uring => Self::Uring,
            IoWay::Blocking => Self::Blocking,
        }
    }
}

fn on_bad_record(given: Option<PathBuf>, out: &Path) -> OnBadRecord {
    match given {
        None => OnBadRecord::SideFile(out.join("bad-records.jsonl")),
        Some(word) if word == Path::new("fail") => OnBadRecord::Fail,
        Some(word) if word == Path::new("skip") => OnBadRecord::Skip,
        Some(file) => OnBadRecord::SideFile(file),
    }
}

fn greatest_common_divisor(a: i64, b: i64) -> i64 {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn options(args: &[&str]) -> Result<Options, CliError> {
        Line::try_parse_from([&["monitor"], args].concat()).unwrap().args.complete()
    }

    #[test]
    fn this_machine_is_watched_for_20_s_with_short_windows() {
        for options in [options(&[]).unwrap(), Args::default().complete().unwrap()] {
            assert!(matches!(options.input, Input::Machine));
            assert_eq!(options.run_time, RunTime::For(Duration::from_secs(20)));
            assert_eq!((options.window_ms, options.slide_ms, options.out_of_order_ms), (10_000, 1_000, 0));
            assert_eq!(options.rule, AnomalyRule { sigma: 6.0, alpha: 0.05, silent_ms: 5_000 });
            assert_eq!((options.memory_bytes, options.slots), (512 << 20, None));
            assert_eq!((options.out, options.state), (OUT.into(), STATE.into()));
        }
    }

    #[test]
    fn files_are_read_to_their_end_with_long_windows() {
        let options = options(&["--input", "a.csv", "b.csv", "--out", "o"]).unwrap();
        assert_eq!(options.run_time, RunTime::Forever);
        assert_eq!((options.window_ms, options.slide_ms, options.out_of_order_ms), (3_600_000, 300_000, 600_000));
        assert_eq!(options.rule.silent_ms, 3_600_000);
        assert_eq!(options.side_file(), Some(Path::new("o/bad-records.jsonl")));
    }

    #[test]
    fn windows_are_part_of_the_jobs_name() {
        let name = |args| options(args).unwrap().job_name();
        assert_eq!(name(&[]), "monitor of this machine, windows of 10s every 1s");
        assert_eq!(name(&["--input", "a", "--window", "90m"]), "monitor of files, windows of 90m every 5m");
    }

    #[test]
    fn a_window_of_too_many_slices_is_refused() {
        assert!(options(&["--window", "10s", "--slide", "1ms"]).is_ok());
        let refusal = options(&["--window", "10001ms", "--slide", "1s"]).unwrap_err().to_string();
        assert!(refusal.contains("--window 10001ms") && refusal.contains("10001 slices"), "{refusal}");
    }
}
