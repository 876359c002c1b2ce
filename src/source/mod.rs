//! Where do records come from? Sources are cut into splits; a split is the unit of position, of order and of event time.
//!
//! Here: the traits every source implements, and the sources. Not here: assigning splits to subtasks and clocks to splits (`task`).
//! Semantics: Flink FLIP-27 (`Source`, `SourceReader`, splits).

#[cfg(feature = "formats")]
mod bad_records;
#[cfg(feature = "formats")]
mod csv;
#[cfg(feature = "formats")]
mod csv_plain;
#[cfg(feature = "formats")]
mod file_reader;
#[cfg(feature = "formats")]
mod file_source;
mod generator;
mod handle;
#[cfg(feature = "formats")]
mod json_lines;
#[cfg(feature = "formats")]
mod json_plain;
mod memory;
#[cfg(feature = "formats")]
mod metric_file;
#[cfg(feature = "formats")]
mod not_plain;
#[cfg(all(test, feature = "formats"))]
mod one_pass;
mod parse_error;
#[cfg(feature = "formats")]
mod plain_text;
mod proc;
mod proc_text;
mod reader;
mod reading;
#[cfg(feature = "formats")]
mod side_file;
mod tcp_lines;
#[cfg(test)]
pub(crate) mod test_disk;
#[cfg(test)]
mod test_support;
#[cfg(feature = "formats")]
mod text_window;
mod timestamp;

#[cfg(feature = "formats")]
pub use bad_records::OnBadRecord;
#[cfg(feature = "formats")]
pub use csv::{CsvFormat, CsvSource};
#[cfg(feature = "formats")]
pub use file_source::{FileSource, FileSplitReader, LineFormat, LineParser};
pub use generator::{Generator, GeneratorReader};
pub use handle::{PushError, PushHandle, PushReader, PushSource};
#[cfg(feature = "formats")]
pub use json_lines::{JsonLinesFormat, JsonLinesSource};
pub use memory::{VecReader, VecSource};
#[cfg(feature = "formats")]
pub use metric_file::{MetricFile, MetricFileSource};
pub use parse_error::ParseError;
pub use proc::{ProcReader, ProcSource};
pub use reader::{ReadContext, ReadStatus, Source, SourceError, SplitReader};
pub use reading::{ArchivedReading, ArchivedSample, Reading, Sample};
pub use tcp_lines::{TcpLinesReader, TcpLinesSource};
pub use timestamp::parse_timestamp_ms;
