//! `ls` and `verify`: which checkpoints are retained, and whether every byte of them is intact.

use super::{Tools, holds_nothing, is_directory, report, unopened};
use crate::cli::console::say;
use crate::cli::error::CliError;
use crate::cli::values::shown_utc;
use millstream::checkpoint::{self, CheckpointSummary};
use std::path::Path;

pub(super) fn list(tools: &mut Tools, dir: &Path) -> Result<(), CliError> {
    is_directory(dir)?;
    let (summaries, damages) = checkpoint::list(&mut *tools.io, &tools.arena, dir).map_err(unopened)?;
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

pub(super) fn verify(tools: &mut Tools, dir: &Path) -> Result<(), CliError> {
    is_directory(dir)?;
    let found = checkpoint::verify(&mut *tools.io, &tools.arena, dir).map_err(unopened)?;
    if found.intact.is_empty() && found.damages.is_empty() {
        return Err(holds_nothing(dir));
    }
    let bytes: u64 = found.checked.iter().map(|(_, range)| range.end - range.start).sum();
    for id in &found.intact {
        say(format_args!("checkpoint {id} is intact"));
    }
    say(format_args!("{bytes} bytes of extents were read and verified"));
    report(dir, &found.damages)
}
