//! What the monitor job must compute, computed in the plainest way: whole files in memory, one file after the other, every value
//! copied into every window. No type of the engine is used, and none of its shortcuts.
//!
//! Rules. The clock of a file is its latest time so far, less the bound, less 1 ms; it advances with every record. A record
//! counts in a window unless the window's last millisecond is at or before the clock. For alerts a record at or before the clock is
//! late; the others are sorted by time, equal times in the order of the file.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The options that matter.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    pub window_ms: i64,
    pub slide_ms: i64,
    pub out_of_order_ms: i64,
    pub sigma: f64,
    pub alpha: f64,
    pub silent_ms: i64,
}

/// A line of `windows/`.
#[derive(Clone, Debug, PartialEq)]
pub struct Window {
    pub series: String,
    pub start: i64,
    pub end: i64,
    pub count: u64,
    pub min: f64,
    pub max: f64,
    pub mean: f64,
    pub stddev: f64,
}

/// A line of `alerts/`.
#[derive(Clone, Debug, PartialEq)]
pub struct Alert {
    pub series: String,
    pub kind: String,
    pub at: i64,
    pub value: Option<f64>,
    pub mean: Option<f64>,
    pub stddev: Option<f64>,
}

/// Everything the job must put out, and count.
#[derive(Debug, Default)]
pub struct Expected {
    pub records: u64,
    pub windows: Vec<Window>,
    pub alerts: Vec<Alert>,
    pub late_for_windows: u64,
    pub late_for_alerts: u64,
}

/// A record with the clock of its file after it.
struct Clocked {
    at: i64,
    value: f64,
    clock: i64,
}

impl Default for Settings {
    /// The defaults of the job over files.
    fn default() -> Self {
        let minute = 60_000;
        Self {
            window_ms: 60 * minute,
            slide_ms: 5 * minute,
            out_of_order_ms: 10 * minute,
            sigma: 6.0,
            alpha: 0.05,
            silent_ms: 60 * minute,
        }
    }
}

/// What the job must make of these files.
pub fn expected(files: &[PathBuf], settings: Settings) -> Expected {
    let mut expected = Expected::default();
    for file in files {
        let series = file.file_stem().unwrap().to_str().unwrap();
        let records = clocked(&read(file), settings.out_of_order_ms);
        expected.records += records.len() as u64;
        add_windows(&mut expected, series, &records, settings);
        add_alerts(&mut expected, series, &records, settings);
    }
    expected.windows.sort_by(|a, b| (&a.series, a.start).cmp(&(&b.series, b.start)));
    expected
}

fn add_windows(expected: &mut Expected, series: &str, records: &[Clocked], settings: Settings) {
    let mut windows: BTreeMap<i64, Vec<f64>> = BTreeMap::new();
    for record in records {
        let mut is_late = true;
        let mut start = record.at.div_euclid(settings.slide_ms) * settings.slide_ms;
        while start > record.at - settings.window_ms {
            if start + settings.window_ms - 1 > record.clock {
                windows.entry(start).or_default().push(record.value);
                is_late = false;
            }
            start -= settings.slide_ms;
        }
        expected.late_for_windows += u64::from(is_late);
    }
    for (start, values) in windows {
        let count = values.len() as f64;
        let mean = values.iter().sum::<f64>() / count;
        let variance = values.iter().map(|value| (value - mean) * (value - mean)).sum::<f64>() / count;
        expected.windows.push(Window {
            series: series.to_owned(),
            start,
            end: start + settings.window_ms,
            count: values.len() as u64,
            min: values.iter().copied().fold(f64::INFINITY, f64::min),
            max: values.iter().copied().fold(f64::NEG_INFINITY, f64::max),
            mean,
            stddev: variance.sqrt(),
        });
    }
}

fn add_alerts(expected: &mut Expected, series: &str, records: &[Clocked], settings: Settings) {
    let mut in_time: Vec<&Clocked> = records.iter().filter(|record| record.at > record.clock).collect();
    expected.late_for_alerts += (records.len() - in_time.len()) as u64;
    in_time.sort_by_key(|record| record.at); // stable: equal times stay in the order of the file
    let mut alert = |kind: &str, at: i64, figures: Option<[f64; 3]>| {
        expected.alerts.push(Alert {
            series: series.to_owned(),
            kind: kind.to_owned(),
            at,
            value: figures.map(|[value, _, _]| value),
            mean: figures.map(|[_, mean, _]| mean),
            stddev: figures.map(|[_, _, stddev]| stddev),
        });
    };
    let (mut seen, mut mean, mut var, mut in_alarm) = (0, 0.0, 0.0f64, false);
    for (index, record) in in_time.iter().enumerate() {
        let x = record.value;
        if seen == 0 {
            mean = x;
        } else {
            let d: f64 = x - mean;
            let stddev = var.sqrt();
            if seen >= 30 && var > 0.0 {
                if !in_alarm && d.abs() > settings.sigma * stddev {
                    alert("anomaly", record.at, Some([x, mean, stddev]));
                    in_alarm = true;
                } else if in_alarm && d.abs() <= settings.sigma / 2.0 * stddev {
                    alert("recovered", record.at, Some([x, mean, stddev]));
                    in_alarm = false;
                }
            }
            mean += settings.alpha * d;
            var = (1.0 - settings.alpha) * (var + settings.alpha * d * d);
        }
        seen += 1;
        let silent_at = record.at + settings.silent_ms;
        if in_time.get(index + 1).is_none_or(|next| next.at > silent_at) {
            alert("silent", silent_at, None);
        }
    }
}

fn clocked(records: &[(i64, f64)], out_of_order_ms: i64) -> Vec<Clocked> {
    let mut latest = i64::MIN;
    let clocked = records.iter().map(|&(at, value)| {
        latest = latest.max(at);
        Clocked { at, value, clock: latest - out_of_order_ms - 1 }
    });
    clocked.collect()
}

fn read(file: &Path) -> Vec<(i64, f64)> {
    let text = std::fs::read_to_string(file).unwrap();
    let lines = text.lines().skip(1).filter(|line| !line.is_empty());
    lines
        .map(|line| {
            let (at, value) = line.split_once(',').unwrap();
            (milliseconds(at), value.parse().unwrap())
        })
        .collect()
}

/// `2014-02-14 14:30:00`, with a blank or a `T`, or milliseconds since 1970.
fn milliseconds(text: &str) -> i64 {
    if let Ok(ms) = text.parse() {
        return ms;
    }
    let fields: Vec<i64> = text.split(['-', ' ', 'T', ':']).map(|field| field.parse().unwrap()).collect();
    let [year, month, day, hour, minute, second] = fields[..] else { panic!("{text} is no timestamp") };
    let is_leap = |year: i64| year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days_of_years: i64 = (1970..year).map(|year| 365 + i64::from(is_leap(year))).sum();
    let days_of_months = [31, 28 + i64::from(is_leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let days = days_of_years + days_of_months[..month as usize - 1].iter().sum::<i64>() + day - 1;
    (((days * 24 + hour) * 60 + minute) * 60 + second) * 1000
}
