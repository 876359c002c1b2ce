//! `export`: the entries of a state, a line each.

use super::{Tools, Which, shown};
use crate::cli::error::CliError;
use millstream::checkpoint::Damage;
use millstream::offline::{DecodedEntry, decode};
use serde_json::{Map, Value};
use std::io::{BufWriter, Write};

/// Options of `export`.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    which: Which,

    /// Which state, as `inspect` shows it: OPERATOR/NAME, or NAME where that is enough
    #[arg(long, value_name = "NAME")]
    state: String,

    /// As JSON Lines, or as CSV with a header
    #[arg(long, value_enum, default_value = "jsonl")]
    format: Format,
}

/// How lines are written.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    Jsonl,
    Csv,
}

pub(super) fn run(tools: &mut Tools, args: &Args) -> Result<(), CliError> {
    let opened = tools.open(&args.which.dir, args.which.checkpoint)?;
    let state = opened.state(&args.state).map_err(CliError::unopened)?.clone();
    let mut lines = Lines { out: BufWriter::new(std::io::stdout().lock()), format: args.format, header: None };
    let mut written = Ok(());
    let damages = opened.for_each_entry(&mut *tools.io, &state, |key_group, entry| {
        if let (Ok(()), Some(decoded)) = (&written, decode(&state.layout, &entry)) {
            written = lines.write(key_group, &decoded);
        }
    });
    let damages: Vec<Damage> = opened.damages().iter().cloned().chain(damages.map_err(CliError::failed)?).collect();
    match written.and_then(|()| lines.out.flush()) {
        // Whoever reads the lines has seen enough.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => return Ok(()),
        written => written.map_err(|error| CliError::failed(format_args!("cannot write to stdout: {error}")))?,
    }
    // Stdout holds nothing but lines of the state.
    damages.iter().for_each(|damage| eprintln!("damaged: {damage}"));
    super::damaged(&args.which.dir, damages.len())
}

struct Lines<W: Write> {
    out: W,
    format: Format,
    /// The columns of a CSV file, once the first entry told them.
    header: Option<Vec<&'static str>>,
}

impl<W: Write> Lines<W> {
    fn write(&mut self, key_group: u16, entry: &DecodedEntry) -> std::io::Result<()> {
        match self.format {
            Format::Jsonl => {
                let parts = entry.parts.iter().map(|(name, value)| ((*name).to_owned(), shown::json(value)));
                let line: Map<String, Value> =
                    [("key_group".to_owned(), key_group.into())].into_iter().chain(parts).collect();
                writeln!(self.out, "{}", Value::Object(line))
            }
            Format::Csv => {
                if self.header.is_none() {
                    let names: Vec<&str> = entry.parts.iter().map(|(name, _)| *name).collect();
                    writeln!(self.out, "key_group,{}", names.join(","))?;
                    self.header = Some(names);
                }
                write!(self.out, "{key_group}")?;
                for (_, value) in &entry.parts {
                    write!(self.out, ",{}", quoted(&shown::text(value)))?;
                }
                writeln!(self.out)
            }
        }
    }
}

/// A CSV field (RFC 4180).
fn quoted(text: &str) -> String {
    match text.contains([',', '"', '\n', '\r']) {
        true => format!("\"{}\"", text.replace('"', "\"\"")),
        false => text.to_owned(),
    }
}
