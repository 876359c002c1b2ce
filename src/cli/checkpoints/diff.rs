//! `diff`: what two checkpoints hold differently, by state and entry.

use super::{Tools, shown};
use crate::cli::console::say;
use crate::cli::error::CliError;
use millstream::checkpoint::StateDescriptor;
use millstream::offline::{Difference, StateDifference, compare, decode};
use millstream::state::RawEntry;
use std::path::PathBuf;

/// Options of `diff`.
#[derive(clap::Args)]
pub struct Args {
    /// A state directory or savepoint
    first: PathBuf,

    /// Another one, or the same with other checkpoints
    second: PathBuf,

    /// The number of the checkpoint in the first directory [default: the newest that can be read]
    #[arg(long, value_name = "N")]
    first_checkpoint: Option<u64>,

    /// The number of the checkpoint in the second directory [default: the newest that can be read]
    #[arg(long, value_name = "N")]
    second_checkpoint: Option<u64>,

    /// Show every entry that differs: `-` only in the first, `+` only in the second
    #[arg(long)]
    entries: bool,
}

pub(super) fn run(tools: &mut Tools, args: &Args) -> Result<(), CliError> {
    let first = tools.open(&args.first, args.first_checkpoint)?;
    let second = tools.open(&args.second, args.second_checkpoint)?;
    let compared = compare(&mut *tools.io, &first, &second, |state, key_group, difference| {
        if args.entries {
            match &difference {
                Difference::OnlyFirst(entry) => show('-', state, key_group, entry),
                Difference::OnlySecond(entry) => show('+', state, key_group, entry),
                Difference::Changed(before, now) => {
                    show('-', state, key_group, before);
                    show('+', state, key_group, now);
                }
            }
        }
    });
    let (states, mut damages) = compared.map_err(CliError::failed)?;
    say(format_args!("{:>10}  {:>10}  {:>11}  {:>10}  state", "same", "only first", "only second", "changed"));
    for StateDifference { state, layouts, same, only_first, only_second, changed } in &states {
        say(format_args!("{same:>10}  {only_first:>10}  {only_second:>11}  {changed:>10}  {state}"));
        if let Some((of_first, of_second)) = layouts {
            say(format_args!("            its layout was `{of_first}` and is `{of_second}`"));
        }
    }
    damages.extend(first.damages().iter().chain(second.damages()).cloned());
    for damage in &damages {
        say(format_args!("damaged: {damage}"));
    }
    let differing = states.iter().filter(|state| !state.is_none()).count();
    match (differing, damages.len()) {
        (0, 0) => Ok(()),
        (0, count) => Err(CliError::failed(format_args!(
            "what could be read is the same, {count} damaged places could not be compared"
        ))),
        (states, _) => Err(CliError::failed(format_args!(
            "{states} states differ between checkpoint {} in \"{}\" and checkpoint {} in \"{}\"",
            first.checkpoint().id(),
            args.first.display(),
            second.checkpoint().id(),
            args.second.display()
        ))),
    }
}

fn show(sign: char, state: &StateDescriptor, key_group: u16, entry: &RawEntry) {
    let Some(decoded) = decode(&state.layout, entry) else { return };
    let parts: Vec<String> =
        decoded.parts.iter().map(|(name, value)| format!("{name}={}", shown::json(value))).collect();
    say(format_args!("{sign} {}/{} key group {key_group}: {}", state.operator, state.name, parts.join(" ")));
}
