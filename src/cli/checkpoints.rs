//! `millstream checkpoints ls|verify DIR`: what a state directory holds, and whether every byte of it is intact.
//!
//! Reads only, without the directory's lock, so a running job is not disturbed.

use super::console::say;
use super::error::CliError;
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
        let (created, kind) = (utc(*created_wall_ms), format!("{kind:?}").to_lowercase());
        say(format_args!(
            "{id:>10}  {created:<24}  {kind:<11}  {new_bytes:>12}  {state_bytes:>12}  {pages:>8}  {job_name}"
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

/// `2014-02-14 14:30:00.000`, proleptic Gregorian (H. Hinnant, `civil_from_days`).
fn utc(ms: i64) -> String {
    let (days, ms) = (ms.div_euclid(86_400_000) + 719_468, ms.rem_euclid(86_400_000));
    let (era, day_of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + i64::from(month <= 2);
    let (hour, minute, second, ms) = (ms / 3_600_000, ms / 60_000 % 60, ms / 1000 % 60, ms % 1000);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}.{ms:03}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_shown_in_utc() {
        assert_eq!(utc(0), "1970-01-01 00:00:00.000");
        assert_eq!(utc(1_392_388_200_123), "2014-02-14 14:30:00.123");
        assert_eq!(utc(951_782_400_000), "2000-02-29 00:00:00.000");
        assert_eq!(utc(-1), "1969-12-31 23:59:59.999");
    }
}
