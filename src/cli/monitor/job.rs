//! The monitor as a job: one source, one shuffle by series, windows and alerts side by side.
//!
//! ```text
//! metrics --event time--> by series --+--> windows --> OUT/windows
//!                                     +--> alerts (in event-time order) --> OUT/alerts
//! ```

use super::lines::{write_alert, write_window};
use super::options::{Input, Options};
use millstream::operator::{Aggregate, Max, Min, Variance};
use millstream::sink::JsonLines;
use millstream::source::{ArchivedReading, MetricFileSource, ProcSource, Reading};
use millstream::stream::{Chain, DataStream, Job};
use millstream::time::{EventTimeMs, Watermarks};
use millstream::window::Sliding;
use std::time::Duration;

/// The names of the operators; counters and state are found by them.
pub const SOURCE: &str = "metrics";
pub const WINDOWS: &str = "windows";
pub const ALERTS: &str = "alerts";
pub const WINDOW_FILES: &str = "window-files";
pub const ALERT_FILES: &str = "alert-files";

/// How often this machine is looked at.
const MACHINE_EVERY: Duration = Duration::from_millis(100);
/// A split that is silent for so long no longer holds the clock, where input may come late at all.
const IDLE_AFTER_MS: u64 = 5_000;
/// Years 1970 to 2999. Times outside are mistakes of whoever wrote them; one from the year 9999 would make all others late.
const TIMES_MS: std::ops::RangeInclusive<i64> = 0..=32_503_679_999_999;

/// Builds the job.
pub fn build(options: &Options) -> Job {
    let job = Job::new(&options.job_name());
    let watermarks = Watermarks::bounded(options.out_of_order_ms);
    match &options.input {
        Input::Machine => {
            let source = job.source(SOURCE, ProcSource::default().every(MACHINE_EVERY));
            analyse(source.event_time(time_of, watermarks.idle_after(IDLE_AFTER_MS)), options);
        }
        Input::Files { files, follow, on_bad_record } => {
            let files = MetricFileSource::open(files).follow(*follow).on_bad_record(on_bad_record.clone());
            let watermarks = match follow {
                true => watermarks.idle_after(IDLE_AFTER_MS),
                false => watermarks.never_idle(),
            };
            analyse(job.source(SOURCE, files.times_within(TIMES_MS)).event_time(time_of, watermarks), options);
        }
    }
    job
}

fn analyse<C: Chain<Out = Reading>>(readings: DataStream<C>, options: &Options) {
    let by_series = readings.key_by_ref("by-series", |reading: &Reading| reading.series.as_str());
    let statistics = Variance::of(value_of).and(Min::of(value_of)).and(Max::of(value_of));
    by_series
        .clone()
        .window(Sliding::of(options.window_ms).every(options.slide_ms))
        .aggregate(WINDOWS, statistics)
        .sink(WINDOW_FILES, JsonLines::exactly_once_with(options.out.join("windows"), write_window));
    by_series
        .in_event_time_order()
        .process(ALERTS, options.rule)
        .sink(ALERT_FILES, JsonLines::exactly_once_with(options.out.join("alerts"), write_alert));
}

fn time_of(reading: &Reading) -> EventTimeMs {
    EventTimeMs(reading.sample.at)
}

fn value_of(reading: &ArchivedReading) -> f64 {
    reading.sample.value.to_native()
}
