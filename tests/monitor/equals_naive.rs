//! The job's output equals that of a plain program that knows no engine.

use super::naive::{Alert, Settings, Window, expected};
use super::program::{Monitor, Scratch};
use super::{data_set, output};

#[test]
fn the_windows_of_every_file_equal_those_of_a_naive_program() {
    let scratch = Scratch::new("equals-naive-windows");
    let files = data_set::files();
    let monitor = Monitor::over(&files, &scratch, "all");
    monitor.finish();
    compare_windows(&output::windows(&monitor.out), &expected(&files, Settings::default()).windows);
}

#[test]
fn the_alerts_of_every_file_equal_those_of_a_naive_program() {
    let scratch = Scratch::new("equals-naive-alerts");
    let files = data_set::files();
    let monitor = Monitor::over(&files, &scratch, "all").with(&["--slots", "3"]);
    monitor.finish();
    let mut naive = expected(&files, Settings::default()).alerts;
    output::sort_alerts(&mut naive);
    assert!(naive.iter().any(|alert| alert.kind == "anomaly") && naive.iter().any(|alert| alert.kind == "recovered"));
    compare_alerts(&output::alerts(&monitor.out), &naive);
}

#[test]
fn other_options_give_what_a_naive_program_gives_with_them() {
    let scratch = Scratch::new("equals-naive-options");
    let files = data_set::files();
    let settings = Settings {
        window_ms: 70 * 60_000,
        slide_ms: 20 * 60_000,
        out_of_order_ms: 0,
        sigma: 3.5,
        alpha: 0.2,
        silent_ms: 30 * 60_000,
    };
    let args = [
        ["--window", "70m"],
        ["--slide", "20m"],
        ["--out-of-order", "0s"],
        ["--sigma", "3.5"],
        ["--alpha", "0.2"],
        ["--silent", "30m"],
    ];
    let monitor = Monitor::over(&files, &scratch, "all").with(args.as_flattened());
    monitor.finish();
    let mut naive = expected(&files, settings);
    output::sort_alerts(&mut naive.alerts);
    compare_windows(&output::windows(&monitor.out), &naive.windows);
    compare_alerts(&output::alerts(&monitor.out), &naive.alerts);
}

#[test]
fn the_report_counts_every_record_and_every_late_one() {
    let scratch = Scratch::new("equals-naive-counts");
    let files = data_set::files();
    let ended = Monitor::over(&files, &scratch, "all").with(&["--json"]).finish();
    let last = ended.stdout.lines().last().expect("the last line is the result");
    let report: serde_json::Value = serde_json::from_str(last).unwrap();
    let naive = expected(&files, Settings::default());
    assert_eq!(report["type"], "result", "{last}");
    assert_eq!(report["state"], "finished", "{last}");
    assert_eq!(report["records"], naive.records, "{last}");
    assert_eq!(report["windows"], naive.windows.len(), "{last}");
    assert_eq!(report["alerts"], naive.alerts.len(), "{last}");
    assert_eq!(report["late"]["windows"], naive.late_for_windows, "{last}");
    assert_eq!(report["late"]["alerts"], naive.late_for_alerts, "{last}");
}

#[test]
fn a_second_run_over_files_that_ended_adds_nothing() {
    let scratch = Scratch::new("equals-naive-again");
    let monitor = Monitor::over(&data_set::files(), &scratch, "all");
    monitor.finish();
    let once = output::sorted_lines(&monitor.out.join("windows"));
    monitor.finish();
    assert!(output::sorted_lines(&monitor.out.join("windows")) == once, "the second run changed the output");
}

fn compare_windows(found: &[Window], naive: &[Window]) {
    for (found, naive) in found.iter().zip(naive) {
        let exact = |window: &Window| {
            let Window { series, start, end, count, min, max, .. } = window;
            (series.clone(), *start, *end, *count, *min, *max)
        };
        assert_eq!(exact(found), exact(naive), "found {found:?}, expected {naive:?}");
        // A sum of squares loses digits where the values are large beside their distance: judge by both.
        let scale = naive.stddev.max(naive.mean.abs() * 1e-6);
        let is_close = close(found.mean, naive.mean, naive.min.abs().max(naive.max.abs()))
            && close(found.stddev, naive.stddev, scale);
        assert!(is_close, "found {found:?}, expected {naive:?}");
    }
    assert_eq!(found.len(), naive.len(), "windows");
}

fn compare_alerts(found: &[Alert], naive: &[Alert]) {
    for (found, naive) in found.iter().zip(naive) {
        let exact = |alert: &Alert| (alert.series.clone(), alert.kind.clone(), alert.at, alert.value);
        assert_eq!(exact(found), exact(naive), "found {found:?}, expected {naive:?}");
        let is_close = |found: Option<f64>, naive: Option<f64>| match (found, naive) {
            (Some(found), Some(naive)) => close(found, naive, naive.abs()),
            (found, naive) => found.is_none() && naive.is_none(),
        };
        let are_close = is_close(found.mean, naive.mean) && is_close(found.stddev, naive.stddev);
        assert!(are_close, "found {found:?}, expected {naive:?}");
    }
    assert_eq!(found.len(), naive.len(), "alerts");
}

fn close(found: f64, naive: f64, scale: f64) -> bool {
    (found - naive).abs() <= 1e-9 * scale
}
