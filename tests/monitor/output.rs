//! Reads what the job put out: the committed lines of a sink's directory, field by field in their exact form.

use super::naive::{Alert, Window};
use std::path::Path;
use std::str::FromStr;

/// Every committed line of the directory, sorted; hidden files are not committed.
pub fn sorted_lines(directory: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display())) {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        if name.starts_with('.') {
            continue;
        }
        assert!(name.ends_with(".jsonl"), "{name} is in the way of `cat {}/*.jsonl`", directory.display());
        let text = std::fs::read_to_string(entry.path()).unwrap();
        assert!(text.is_empty() || text.ends_with('\n'), "{name} ends in half a line");
        lines.extend(text.lines().map(str::to_owned));
    }
    lines.sort();
    lines
}

/// The hidden files of a sink's directory: parts that no checkpoint has committed.
pub fn hidden_files(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap());
    let names = entries.map(|entry| entry.file_name().into_string().unwrap());
    names.filter(|name| name.starts_with('.')).collect()
}

/// The windows under `out`, by series and start.
pub fn windows(out: &Path) -> Vec<Window> {
    let mut windows: Vec<_> = sorted_lines(&out.join("windows")).iter().map(|line| window(line)).collect();
    windows.sort_by(|a, b| (&a.series, a.start).cmp(&(&b.series, b.start)));
    windows
}

/// The alerts under `out`, by series, time and kind.
pub fn alerts(out: &Path) -> Vec<Alert> {
    let mut alerts: Vec<_> = sorted_lines(&out.join("alerts")).iter().map(|line| alert(line)).collect();
    sort_alerts(&mut alerts);
    alerts
}

/// The order in which alerts are compared.
pub fn sort_alerts(alerts: &mut [Alert]) {
    alerts.sort_by(|a, b| (&a.series, a.at, &a.kind).cmp(&(&b.series, b.at, &b.kind)));
}

fn window(line: &str) -> Window {
    let names = ["series", "window_start", "window_end", "count", "min", "max", "mean", "stddev"];
    let [series, start, end, count, min, max, mean, stddev] = fields(line, names);
    Window {
        series: text(series),
        start: number(start),
        end: number(end),
        count: number(count),
        min: number(min),
        max: number(max),
        mean: number(mean),
        stddev: number(stddev),
    }
}

fn alert(line: &str) -> Alert {
    let [series, kind, at, value, mean, stddev] = fields(line, ["series", "kind", "at", "value", "mean", "stddev"]);
    let figure = |field: &str| (field != "null").then(|| number(field));
    Alert {
        series: text(series),
        kind: text(kind),
        at: number(at),
        value: figure(value),
        mean: figure(mean),
        stddev: figure(stddev),
    }
}

/// The values of a line that holds exactly these fields in this order. The series of the data sets need no escapes.
fn fields<'a, const N: usize>(line: &'a str, names: [&str; N]) -> [&'a str; N] {
    let inner = line.strip_prefix('{').and_then(|line| line.strip_suffix('}'));
    let inner = inner.unwrap_or_else(|| panic!("no object: {line}"));
    let values: Vec<&str> = inner.split(',').zip(names).map(|(field, name)| value_of(field, name, line)).collect();
    assert_eq!(inner.split(',').count(), N, "fields of {line}");
    values.try_into().unwrap()
}

fn value_of<'a>(field: &'a str, name: &str, line: &str) -> &'a str {
    let value = field.strip_prefix(&format!("\"{name}\":"));
    value.unwrap_or_else(|| panic!("expected the field \"{name}\", found {field} in {line}"))
}

fn text(field: &str) -> String {
    field.trim_matches('"').to_owned()
}

fn number<T: FromStr>(field: &str) -> T {
    field.parse().unwrap_or_else(|_| panic!("{field} is no number"))
}
