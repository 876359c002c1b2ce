//! `prune`: fewer checkpoints, and no file that none of them needs.

use super::{Tools, holds_nothing, is_directory, report, unopened};
use crate::cli::console::say;
use crate::cli::error::CliError;
use millstream::checkpoint::{self, CheckpointStore, JobIdentity, Pruned, StoreOptions};
use std::path::PathBuf;

/// Options of `prune`.
#[derive(clap::Args)]
pub struct Args {
    /// The state directory of a job that does not run
    dir: PathBuf,

    /// How many checkpoints are kept, the newest ones
    #[arg(long, value_name = "N", default_value = "2", value_parser = clap::value_parser!(u64).range(1..))]
    keep: u64,
}

pub(super) fn run(tools: &mut Tools, args: &Args) -> Result<(), CliError> {
    is_directory(&args.dir)?;
    let verified = checkpoint::verify(&mut *tools.io, &tools.arena, &args.dir).map_err(unopened)?;
    // What looks unneeded in a damaged directory may be what can still be rescued: a job falls back to an older
    // checkpoint where a block of a newer one is damaged, and manifests alone do not tell.
    report(&args.dir, &verified.damages)?;
    let (summaries, _) = checkpoint::list(&mut *tools.io, &tools.arena, &args.dir).map_err(unopened)?;
    let newest = summaries.first().ok_or_else(|| holds_nothing(&args.dir))?;
    let job = JobIdentity { name: newest.job_name.clone() };
    let keep = usize::try_from(args.keep).unwrap_or(usize::MAX);
    let options = StoreOptions { retained_count: keep, lock_patience_ms: Some(0), ..StoreOptions::default() };
    let opened =
        CheckpointStore::open(&mut *tools.io, &tools.arena, &args.dir, &job, options).map_err(CliError::unopened)?;
    let Pruned { kept, forgotten, removed, freed_bytes } =
        opened.store.prune(&mut *tools.io, keep).map_err(CliError::failed)?;
    for id in &forgotten {
        say(format_args!("checkpoint {id} is forgotten"));
    }
    removed.iter().for_each(|name| say(format_args!("{name} was removed")));
    say(format_args!("{} checkpoints are left, {freed_bytes} bytes were freed", kept.len()));
    Ok(())
}
