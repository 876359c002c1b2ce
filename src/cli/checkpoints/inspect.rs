//! `inspect`: what a checkpoint holds.

use super::{Tools, Which, report, shown};
use crate::cli::console::say;
use crate::cli::error::CliError;
use crate::cli::values::shown_utc;
use millstream::checkpoint::{Damage, StateDescriptor};
use millstream::offline::{OfflineCheckpoint, extend_damages};
use serde_json::json;
use std::collections::BTreeMap;

/// Options of `inspect`.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    which: Which,

    /// List the key groups of each state
    #[arg(long)]
    key_groups: bool,

    /// Answer in JSON, one object on one line
    #[arg(long)]
    json: bool,
}

/// What a state amounts to.
#[derive(Default)]
struct Figures {
    pages: u64,
    keys: u64,
    entries: u64,
    stored_bytes: u64,
    /// Keys of each key group that has any page.
    by_group: BTreeMap<u16, u64>,
}

pub(super) fn run(tools: &mut Tools, args: &Args) -> Result<(), CliError> {
    let opened = tools.open(&args.which.dir, args.which.checkpoint)?;
    let mut damages = opened.damages().to_vec();
    let mut states = Vec::new();
    for state in opened.states() {
        states.push((state, figures(tools, &opened, state, &mut damages)?));
    }
    match args.json {
        true => say(as_json(&opened, &states, &damages)),
        false => table(&opened, &states, args.key_groups),
    }
    match args.json {
        true => super::damaged(&args.which.dir, damages.len()),
        false => report(&args.which.dir, &damages),
    }
}

fn figures(
    tools: &mut Tools,
    opened: &OfflineCheckpoint,
    state: &StateDescriptor,
    damages: &mut Vec<Damage>,
) -> Result<Figures, CliError> {
    let mut figures = Figures::default();
    for key_group in 0..opened.checkpoint().max_parallelism() {
        let found = opened.key_group(&mut *tools.io, state, key_group).map_err(CliError::failed)?;
        let keys = found.entries.iter().filter(|entry| entry.kind.stands_for_a_key()).count() as u64;
        figures.pages += found.pages;
        figures.keys += keys;
        figures.entries += found.entries.len() as u64;
        figures.stored_bytes += found.stored_bytes;
        extend_damages(damages, found.damages);
        if found.pages > 0 {
            figures.by_group.insert(key_group, keys);
        }
    }
    Ok(figures)
}

fn table(opened: &OfflineCheckpoint, states: &[(&StateDescriptor, Figures)], with_groups: bool) {
    let checkpoint = opened.checkpoint();
    say(format_args!("job          {}", checkpoint.job_name()));
    say(format_args!("checkpoint   {}, begun {} UTC", checkpoint.id(), shown_utc(checkpoint.created_wall_ms())));
    say(format_args!("key groups   {}", checkpoint.max_parallelism()));
    let vertices: Vec<String> = checkpoint.parallelism().iter().map(|(name, n)| format!("{name} x {n}")).collect();
    say(format_args!("vertices     {}", vertices.join(", ")));
    say(format_args!(
        "\n{:>10}  {:>10}  {:>8}  {:>12}  {:>10}  state",
        "keys", "entries", "pages", "stored bytes", "groups"
    ));
    for (state, figures) in states {
        let Figures { pages, keys, entries, stored_bytes, by_group } = figures;
        say(format_args!(
            "{keys:>10}  {entries:>10}  {pages:>8}  {stored_bytes:>12}  {:>10}  {}/{}: {}",
            by_group.len(),
            state.operator,
            state.name,
            state.layout
        ));
        if with_groups {
            let groups: Vec<String> = by_group.iter().map(|(group, keys)| format!("{group}: {keys}")).collect();
            say(format_args!("{:>10}  keys by key group: {}", "", groups.join(", ")));
        }
    }
    let blobs = small_states(opened);
    say(format_args!("\n{:>10}  {:>10}  small state", "subtasks", "bytes"));
    for ((operator, kind), (subtasks, bytes)) in &blobs {
        say(format_args!("{subtasks:>10}  {bytes:>10}  {operator}: {kind}"));
    }
}

/// By operator and kind: how many subtasks wrote how many bytes.
fn small_states(opened: &OfflineCheckpoint) -> BTreeMap<(&str, &str), (u64, usize)> {
    let mut sums: BTreeMap<(&str, &str), (u64, usize)> = BTreeMap::new();
    for blob in opened.blobs() {
        let sum = sums.entry((&blob.operator, &blob.kind)).or_default();
        *sum = (sum.0 + 1, sum.1 + blob.bytes.len());
    }
    sums
}

fn as_json(
    opened: &OfflineCheckpoint,
    states: &[(&StateDescriptor, Figures)],
    damages: &[Damage],
) -> serde_json::Value {
    let checkpoint = opened.checkpoint();
    let states = states.iter().map(|(state, figures)| {
        let Figures { pages, keys, entries, stored_bytes, by_group } = figures;
        json!({
            "operator": state.operator, "name": state.name, "layout": state.layout,
            "layout_hash": shown::hexadecimal(&state.layout_hash.to_be_bytes()),
            "keys": keys, "entries": entries, "pages": pages, "stored_bytes": stored_bytes, "keys_by_key_group": by_group,
        })
    });
    let small = small_states(opened).into_iter().map(|((operator, kind), (subtasks, bytes))| {
        json!({"operator": operator, "kind": kind, "subtasks": subtasks, "bytes": bytes})
    });
    json!({
        "job": checkpoint.job_name(), "checkpoint": checkpoint.id().0, "created_ms": checkpoint.created_wall_ms(),
        "key_groups": checkpoint.max_parallelism(), "vertices": checkpoint.parallelism(),
        "states": states.collect::<Vec<_>>(), "small_states": small.collect::<Vec<_>>(),
        "damages": damages.iter().map(ToString::to_string).collect::<Vec<_>>(),
    })
}
