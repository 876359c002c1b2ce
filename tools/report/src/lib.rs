//! What a bench leaves behind, and the page that shows all of them.
//!
//! ```text
//! target/millstream-report/
//!   index.html               made anew from the files below
//!   call.jsonl               one line for each figure
//!   call/open-loop.svg       a chart
//!   call/open-loop.hgrm      percentiles as text, one file for each curve of the chart
//!   call/open-loop.hlog      the histograms themselves, one tag for each curve
//! ```
//! Here: figures as lines (`figure`), the machine they were taken on (`machine`, `probe`), histograms as files (`latencies`), charts
//! (`chart`), the directory (`folder`) and the page (`page`). Not here: measuring, which is the benches' own.
//!
//! Charts are SVG written by hand: three kinds of chart take fewer lines than setting up a plotting crate takes, and only so do their
//! colours follow the page into the dark.
#![allow(clippy::disallowed_methods, reason = "a report reads the clock, /proc and its own directory")]

pub mod chart;
mod figure;
mod folder;
mod latencies;
mod machine;
mod page;
mod probe;

pub use figure::{FigureLine, short};
pub use folder::{ReportError, ReportFolder};
pub use latencies::{Curve, hgrm, hlog};
pub use machine::{Machine, MachineWatch};
