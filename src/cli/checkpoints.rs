//! `millstream checkpoints ls|verify DIR`: what a state directory holds, and whether every byte of it is intact.
//!
//! Reads only, without the directory's lock, so a running job is not disturbed.

use super::console::say;
use super::error::CliError;
use super::values::shown_utc;
use millstream::checkpoint::{CheckpointSummary, Damage, RestoreError, list, verify};
use millstream::io::{self, Io, IoChoice};
use millstream::memory::{Arena, ArenaOptions, MemoryBudget};
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
        /// The state directory of a job
        dir: PathBuf,
    },
    /// Read and verify every block of every retained checkpoint
    Verify {
        /// The state directory of a job
        dir: PathBuf,
    },
}

/// Does it.
pub fn run(command: &Command) -> Result<(), CliError> {
    let (Command::Ls { dir } | Command::Verify { dir }) = command;
    if !dir.is_dir() {
        return Err(CliError::failed(format_args!("there is no directory \"{}\": check the path", dir.display())));
    }
    let doorbell = Arc::new(Doorbell::new().map_err(CliError::failed)?);
    let mut io = io::open(IoChoice::Blocking, doorbell).map_err(CliError::failed)?;
    let arena = Arena::new(MemoryBudget::new(MEMORY_BYTES), ArenaOptions::default());
    match command {
        Command::Ls { dir } => show(io.as_mut(), &arena, dir),
        Command::Verify { dir } => check(io.as_mut(), &arena, dir),
    }
}

fn show(io: &mut dyn Io, arena: &Arena, dir: &Path) -> Result<(), CliError> {
    let (summaries, damages) = list(io, arena, dir).map_err(CliError::failed)?;
    if summaries.is_empty() && damages.is_empty() {
        return Err(holds_nothing(dir));
    }
    say(format_args!(
        "{:>10}  {:<24}  {:<11}  {:>12}  {:>12}  {:>8}  job",
        "checkpoint", "created (UTC)", "kind", "added", "state", "pages"
    ));
    for CheckpointSummary { id, created_wall_ms, kind, job_name, new_bytes, state_bytes, pages, .. } in &summaries {
        let (created, kind) = (shown_utc(*created_wall_ms), format!("{kind:?}").to_lowercase());
        say(format_args!(
            "{:>10}  {created:<24}  {kind:<11}  {new_bytes:>12}  {state_bytes:>12}  {pages:>8}  {job_name}",
            id.0
        ));
    }
    report(dir, &damages)
}

fn check(io: &mut dyn Io, arena: &Arena, dir: &Path) -> Result<(), CliError> {
    let report_found = verify(io, arena, dir).map_err(|error: RestoreError| CliError::failed(error))?;
    if report_found.intact.is_empty() && report_found.damages.is_empty() {
        return Err(holds_nothing(dir));
    }
    let bytes: u64 = report_found.checked.iter().map(|(_, range)| range.end - range.start).sum();
    for id in &report_found.intact {
        say(format_args!("checkpoint {id} is intact"));
    }
    say(format_args!("{bytes} bytes of extents were read and verified"));
    report(dir, &report_found.damages)
}

fn report(dir: &Path, damages: &[Damage]) -> Result<(), CliError> {
    for damage in damages {
        say(format_args!("damaged: {damage}"));
    }
    match damages.len() {
        0 => Ok(()),
        count => Err(CliError::failed(format_args!(
            "{count} damaged places in \"{}\": a job falls back to the newest intact checkpoint by itself; keep a copy of the directory",
            dir.display()
        ))),
    }
}

fn holds_nothing(dir: &Path) -> CliError {
    CliError::failed(format_args!("\"{}\" holds no checkpoint: is it the --state directory of a job?", dir.display()))
}
