//! `millstream checkpoints`: what a state directory or savepoint holds, and whether it is intact.
//!
//! Everything but `copy` and `prune` only reads, without the directory's lock, so a running job is not disturbed (it may remove a
//! checkpoint while that is being read: look again then). Damaged directories are read as far as possible.
//!
//! Exit codes: 0 intact, equal, done; 1 damaged, different, or not done; 2 wrong usage, or nothing there that could be opened.

mod copy;
mod diff;
mod export;
mod inspect;
mod look;
mod prune;
mod shown;

use super::console::say;
use super::error::CliError;
use millstream::checkpoint::{CheckpointId, Damage, RestoreError};
use millstream::io::{self, Io, IoChoice};
use millstream::memory::{Arena, ArenaOptions, MemoryBudget};
use millstream::offline::OfflineCheckpoint;
use millstream::slot::Doorbell;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Room for the largest manifest and page map.
const MEMORY_BYTES: usize = 256 << 20;

/// What to do with a state directory.
#[derive(clap::Subcommand)]
pub enum Command {
    /// List the retained checkpoints, newest first
    Ls {
        /// The state directory of a job, or a savepoint
        dir: PathBuf,
    },
    /// Read and verify every block of every retained checkpoint
    Verify {
        /// The state directory of a job, or a savepoint
        dir: PathBuf,
    },
    /// Show what a checkpoint holds: states, keys, sizes, key groups, the operators' small states
    Inspect(inspect::Args),
    /// Write the entries of a state to stdout, a line each
    Export(export::Args),
    /// Compare what two checkpoints hold; exit code 1 when it differs
    Diff(diff::Args),
    /// Copy a checkpoint into a new directory, as a savepoint: complete in itself, to be moved anywhere and started from
    Copy(copy::Args),
    /// Forget old checkpoints of a job that does not run, and remove files that no checkpoint needs
    Prune(prune::Args),
}

/// Which checkpoint of which directory.
#[derive(clap::Args)]
pub struct Which {
    /// The state directory of a job, or a savepoint
    dir: PathBuf,

    /// The number of the checkpoint [default: the newest that can be read]
    #[arg(long, value_name = "N")]
    checkpoint: Option<u64>,
}

/// What every command works with.
struct Tools {
    io: Box<dyn Io>,
    arena: Arena,
}

/// Does it.
pub fn run(command: &Command) -> Result<(), CliError> {
    let doorbell = Arc::new(Doorbell::new().map_err(CliError::failed)?);
    let io = io::open(IoChoice::Blocking, doorbell).map_err(CliError::failed)?;
    let mut tools = Tools { io, arena: Arena::new(MemoryBudget::new(MEMORY_BYTES), ArenaOptions::default()) };
    match command {
        Command::Ls { dir } => look::list(&mut tools, dir),
        Command::Verify { dir } => look::verify(&mut tools, dir),
        Command::Inspect(args) => inspect::run(&mut tools, args),
        Command::Export(args) => export::run(&mut tools, args),
        Command::Diff(args) => diff::run(&mut tools, args),
        Command::Copy(args) => copy::run(&mut tools, args),
        Command::Prune(args) => prune::run(&mut tools, args),
    }
}

impl Tools {
    /// The checkpoint asked for, as far as it can be read.
    fn open(&mut self, dir: &Path, checkpoint: Option<u64>) -> Result<OfflineCheckpoint, CliError> {
        is_directory(dir)?;
        OfflineCheckpoint::open(&mut *self.io, &self.arena, dir, checkpoint.map(CheckpointId)).map_err(unopened)
    }
}

fn is_directory(dir: &Path) -> Result<(), CliError> {
    match dir.is_dir() {
        true => Ok(()),
        false => Err(CliError::unopened(format_args!("there is no directory \"{}\": check the path", dir.display()))),
    }
}

/// A directory that could not be opened; one in which nothing is intact any more is damaged.
fn unopened(error: RestoreError) -> CliError {
    match error {
        RestoreError::AllDamaged { .. } | RestoreError::PieceDamaged { .. } => CliError::failed(error),
        _ => CliError::unopened(error),
    }
}

fn holds_nothing(dir: &Path) -> CliError {
    CliError::unopened(format_args!(
        "\"{}\" holds no checkpoint: is it a savepoint or the --state directory of a job?",
        dir.display()
    ))
}

/// Says what is damaged; an error if anything is.
fn report(dir: &Path, damages: &[Damage]) -> Result<(), CliError> {
    for damage in damages {
        say(format_args!("damaged: {damage}"));
    }
    damaged(dir, damages.len())
}

fn damaged(dir: &Path, count: usize) -> Result<(), CliError> {
    match count {
        0 => Ok(()),
        count => Err(CliError::failed(format_args!(
            "{count} damaged places in \"{}\": a job falls back to the newest intact checkpoint by itself; keep a copy of the directory",
            dir.display()
        ))),
    }
}
