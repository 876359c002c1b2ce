//! The lines that the monitor writes: their fields, their order, their names.
//!
//! These are read by other programs: a field is never renamed or moved.

use millstream::operator::Moments;
use millstream::time::EventTimeMs;
use millstream::window::WindowResult;
use serde::Serialize;

/// The statistics of one window as the aggregates give them: moments, smallest, largest.
pub type Statistics = ((Moments, Option<f64>), Option<f64>);

/// A line of `alerts/`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Alert {
    series: String,
    kind: AlertKind,
    at: i64,
    value: Option<f64>,
    mean: Option<f64>,
    stddev: Option<f64>,
}

/// What an alert tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum AlertKind {
    /// A value is far from the mean.
    Anomaly,
    /// The first value near the mean again.
    Recovered,
    /// No value came for a while.
    Silent,
}

/// A line of `windows/`.
#[derive(Serialize)]
struct WindowLine<'a> {
    series: &'a str,
    window_start: i64,
    window_end: i64,
    count: u64,
    min: f64,
    max: f64,
    mean: f64,
    stddev: f64,
}

impl Alert {
    /// About `series`, with value, mean and standard deviation.
    pub fn new(series: &str, kind: AlertKind, at: EventTimeMs, [value, mean, stddev]: [Option<f64>; 3]) -> Self {
        Self { series: series.to_owned(), kind, at: at.0, value, mean, stddev }
    }
}

/// Appends the line of a window, without its end.
pub fn write_window(result: &WindowResult<String, Statistics>, line: &mut Vec<u8>) {
    let ((moments, min), max) = &result.value;
    let window = WindowLine {
        series: &result.key,
        window_start: result.window.start,
        window_end: result.window.end,
        count: moments.count,
        min: min.unwrap_or(f64::NAN),
        max: max.unwrap_or(f64::NAN),
        mean: moments.mean,
        stddev: moments.stddev(),
    };
    write(&window, line);
}

/// Appends the line of an alert, without its end.
pub fn write_alert(alert: &Alert, line: &mut Vec<u8>) {
    write(alert, line);
}

fn write(value: &impl Serialize, line: &mut Vec<u8>) {
    serde_json::to_writer(line, value).expect("strings and numbers are always JSON, and a vector takes every byte");
}

#[cfg(test)]
mod tests {
    use super::*;
    use millstream::window::TimeWindow;

    fn text(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut line = Vec::new();
        write(&mut line);
        String::from_utf8(line).unwrap()
    }

    #[test]
    fn a_window_is_written_in_its_exact_form() {
        let mut moments = Moments::default();
        [1.0, 3.0].into_iter().for_each(|value| moments.add(value));
        let window = TimeWindow { start: 0, end: 3_600_000 };
        let result = WindowResult { key: "cpu \"0\"".to_owned(), window, value: ((moments, Some(1.0)), Some(3.0)) };
        assert_eq!(
            text(|line| write_window(&result, line)),
            r#"{"series":"cpu \"0\"","window_start":0,"window_end":3600000,"count":2,"min":1.0,"max":3.0,"mean":2.0,"stddev":1.0}"#
        );
    }

    #[test]
    fn alerts_are_written_in_their_exact_form() {
        let anomaly = Alert::new("a", AlertKind::Anomaly, EventTimeMs(7), [Some(9.5), Some(1.0), Some(0.25)]);
        let silent = Alert::new("a", AlertKind::Silent, EventTimeMs(8), [None; 3]);
        assert_eq!(
            text(|line| write_alert(&anomaly, line)),
            r#"{"series":"a","kind":"anomaly","at":7,"value":9.5,"mean":1.0,"stddev":0.25}"#
        );
        assert_eq!(
            text(|line| write_alert(&silent, line)),
            r#"{"series":"a","kind":"silent","at":8,"value":null,"mean":null,"stddev":null}"#
        );
    }
}
