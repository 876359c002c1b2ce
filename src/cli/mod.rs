//! What can be asked of the program on its command line, and with which words and exit code it answers.
//!
//! Every refusal is one sentence on stderr. Exit codes: 0 done, 1 failed (`checkpoints`: damaged, different), 2 the command line makes
//! no sense (`checkpoints`: or nothing could be opened), 3 done, but records
//! that could not be read were put aside; 130 on a second Ctrl-C.

mod benchmark;
mod checkpoints;
mod console;
mod error;
mod interrupt;
mod logs;
mod monitor;
mod values;

use clap::{Parser, Subcommand};
use error::CliError;
use std::process::ExitCode;

/// Runs stateful stream jobs on one machine. Without a command: watches this machine for 20 s.
#[derive(Parser)]
#[command(name = "millstream", version, after_help = EXIT_CODES)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,

    /// What to log to stderr: error, warn, info, debug, trace, or directives as in RUST_LOG
    #[arg(long, global = true, value_name = "LEVEL")]
    log: Option<String>,
}

const EXIT_CODES: &str =
    "Exit codes: 0 done, 1 failed (checkpoints: damaged or different), 2 wrong usage (checkpoints: or nothing to open), 3 done but some records were put aside, 130 second Ctrl-C.

Examples:
  millstream                                             watch this machine for 20 s
  millstream run monitor --for forever                   watch it until Ctrl-C; run again to continue
  millstream run monitor --input cpu.csv net.csv         the same over metric files, to their end
  millstream run monitor --savepoint ./before-upgrade    watch it for 20 s and stop with a savepoint
  millstream run nexmark --query q5 --events 10M         answer a query of a benchmark; `run ysb` is another one
  millstream checkpoints verify ./millstream-state       read and check every byte of every checkpoint
  millstream checkpoints inspect ./millstream-state      show which states it holds; export, diff and copy go further";

#[derive(Subcommand)]
enum Command {
    /// Run a job
    #[command(subcommand)]
    Run(Job),
    /// Look at a state directory
    #[command(subcommand)]
    Checkpoints(checkpoints::Command),
}

#[derive(Subcommand)]
enum Job {
    /// Watch this machine, or metric files: windows of statistics, alerts on anomalies and silence
    Monitor(Box<monitor::Args>),
    /// Answer a query of the Nexmark benchmark: people, auctions and bids
    Nexmark(Box<benchmark::NexmarkArgs>),
    /// Count views per campaign: the Yahoo Streaming Benchmark, without a broker and a store
    Ysb(Box<benchmark::YsbArgs>),
}

/// Does what the command line says.
pub fn main() -> ExitCode {
    let done = parse().and_then(|cli| {
        logs::start(cli.log.as_deref())?;
        match cli.command {
            None => monitor::run(monitor::Args::default()),
            Some(Command::Run(Job::Monitor(args))) => monitor::run(*args),
            Some(Command::Run(Job::Nexmark(args))) => benchmark::run_nexmark(&args),
            Some(Command::Run(Job::Ysb(args))) => benchmark::run_ysb(&args),
            Some(Command::Checkpoints(command)) => checkpoints::run(&command),
        }
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(CliError::Shown(text)) => {
            console::write(text);
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("millstream: {error}");
            error.exit_code()
        }
    }
}

fn parse() -> Result<Cli, CliError> {
    Cli::try_parse().map_err(|error| match error.use_stderr() {
        true => CliError::Usage(one_sentence(&error.to_string())),
        false => CliError::Shown(error.render().ansi().to_string()),
    })
}

/// What clap says over several lines, as one sentence: what is wrong, what may be meant, where to read on.
fn one_sentence(text: &str) -> String {
    let paragraphs = text.split("\n\n").map(|paragraph| {
        let lines: Vec<&str> = paragraph.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        lines.join(" ")
    });
    let told = paragraphs.filter(|paragraph| !paragraph.starts_with("Usage:") && !paragraph.starts_with("For more"));
    let told = told.map(|paragraph| paragraph.trim_start_matches("error: ").trim_start_matches("tip: ").to_owned());
    let told: Vec<String> = told.filter(|paragraph| !paragraph.is_empty()).collect();
    format!("{} (see --help)", told.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn what_clap_says_becomes_one_sentence() {
        let text = Cli::try_parse_from(["millstream", "run", "monitor", "--slot", "2"]).err().unwrap().to_string();
        assert_eq!(
            one_sentence(&text),
            "unexpected argument '--slot' found; a similar argument exists: '--slots' (see --help)"
        );
        let text = Cli::try_parse_from(["millstream", "checkpoints", "verify"]).err().unwrap().to_string();
        assert_eq!(one_sentence(&text), "the following required arguments were not provided: <DIR> (see --help)");
    }

    #[test]
    fn every_command_explains_itself() {
        for args in [
            &["millstream", "--help"][..],
            &["millstream", "run", "monitor", "--help"],
            &["millstream", "run", "nexmark", "--help"],
        ] {
            let help = Cli::try_parse_from(args).err().unwrap();
            assert!(!help.use_stderr() && help.to_string().contains("--help"), "{help}");
        }
    }
}
