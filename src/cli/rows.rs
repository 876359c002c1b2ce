//! Where the rows of a benchmark's job go: into a checksum, or into files.

use crate::sink::{Checksum, JsonLines};
use crate::stream::{Chain, DataStream};
use serde::Serialize;
use std::hash::Hash;
use std::path::PathBuf;

/// The name of the sink, by which its counters are found.
pub const SINK: &str = "rows";

/// Where rows go.
#[derive(Clone, Debug)]
pub enum Rows {
    /// Hashed and forgotten.
    Hashed(Checksum),
    /// JSON Lines in this directory, exactly once.
    Written(PathBuf),
}

impl Rows {
    /// Ends a stream of rows.
    pub fn end<R: Hash + Serialize + 'static>(&self, rows: DataStream<impl Chain<Out = R>>) {
        match self {
            Self::Hashed(checksum) => rows.sink(SINK, checksum.clone()),
            Self::Written(directory) => rows.sink(SINK, JsonLines::exactly_once(directory)),
        }
    }
}
