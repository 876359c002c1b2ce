//! `copy`: a checkpoint as a savepoint.

use super::{Tools, Which, is_directory, unopened};
use crate::cli::console::say;
use crate::cli::error::CliError;
use millstream::checkpoint::{SavepointCopy, SavepointError, StoreOptions};
use std::path::PathBuf;

/// Options of `copy`.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    which: Which,

    /// The new directory
    to: PathBuf,
}

pub(super) fn run(tools: &mut Tools, args: &Args) -> Result<(), CliError> {
    is_directory(&args.which.dir)?;
    let opened = tools.open(&args.which.dir, args.which.checkpoint)?;
    // A savepoint with holes would look like a whole one.
    super::report(&args.which.dir, opened.damages())?;
    let (source, options) = (opened.checkpoint().clone(), StoreOptions::default());
    let copied = SavepointCopy::start(&mut *tools.io, &tools.arena, source, &args.to, options)
        .and_then(|copy| copy.complete(&mut *tools.io));
    match copied {
        Ok(written) => {
            say(format_args!(
                "checkpoint {} was copied into \"{}\": {} pages, {} bytes",
                written.checkpoint,
                written.dir.display(),
                written.pages,
                written.bytes
            ));
            Ok(())
        }
        Err(SavepointError::Source(error)) => Err(unopened(error)),
        Err(error @ (SavepointError::Exists { .. } | SavepointError::NoName { .. })) => Err(CliError::unopened(error)),
        Err(error) => Err(CliError::failed(error)),
    }
}
