//! How the monitor reports: a live line on a terminal, plain lines elsewhere, JSON lines for programs; and a table at the end.
//!
//! Here: texts made of figures. Not here: where the figures come from (`figures`).

use super::figures::Figures;
use super::options::{Input, Options};
use crate::cli::console;
use crate::cli::values::{grouped, shown_utc};
use millstream::job_manager::JobState;
use millstream::metrics::LatencySummary;
use serde_json::{Value, json};

/// How often a line is due.
const LIVE_EVERY_NS: u64 = 500_000_000;
const PLAIN_EVERY_NS: u64 = 5_000_000_000;

/// Input that is older is history, read faster than it happened.
const OLD_MS: i64 = 86_400_000;

/// Shows how the job is doing.
pub struct Report {
    form: Form,
    last: Figures,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    /// One line that is written over again and again.
    Live,
    Plain,
    Json,
}

impl Report {
    /// In the form that fits stdout.
    pub fn new(json: bool) -> Self {
        let form = match json {
            true => Form::Json,
            false if console::is_terminal() => Form::Live,
            false => Form::Plain,
        };
        Self { form, last: Figures::default() }
    }

    /// Whether a line is due `elapsed_ns` after the start.
    pub fn is_due(&self, elapsed_ns: u64) -> bool {
        let every_ns = if self.form == Form::Plain { PLAIN_EVERY_NS } else { LIVE_EVERY_NS };
        elapsed_ns >= self.last.elapsed_ns + every_ns
    }

    /// Shows one line.
    pub fn progress(&mut self, figures: Figures) {
        match self.form {
            Form::Live => console::write(format_args!("\r\x1b[2K{}", progress_line(&figures, &self.last))),
            Form::Plain => console::say(progress_line(&figures, &self.last)),
            Form::Json => console::say(progress_json(&figures, &self.last)),
        }
        self.last = figures;
    }

    /// Leaves the live line, so that something else can be said.
    pub fn end_line(&self) {
        if self.form == Form::Live {
            console::write("\r\x1b[2K");
        }
    }

    /// Shows how it all went.
    pub fn result(&self, state: JobState, figures: &Figures, options: &Options) {
        self.end_line();
        match self.form {
            Form::Live | Form::Plain => console::write(table(state, figures, options)),
            Form::Json => console::say(result_json(state, figures, options)),
        }
    }
}

fn progress_line(now: &Figures, before: &Figures) -> String {
    if let Some(why) = &now.why_waiting {
        return format!("waiting: {why}");
    }
    let checkpoints = &now.checkpoints;
    let checkpoint = match (&checkpoints.last_failure, checkpoints.completed) {
        (Some(failure), _) => format!("FAILED: {failure}"),
        (None, 0) => "none yet".to_owned(),
        (None, _) => format!("{} {}", shown_ns(checkpoints.last_duration_ns), shown_bytes(checkpoints.last_bytes)),
    };
    let busy: Vec<String> = now.slots_busy_permille.iter().map(|busy| format!("{}%", (busy + 5) / 10)).collect();
    format!(
        "{} records/s | {} windows | {} alerts | watermark {} | checkpoint {checkpoint} | slots busy {}",
        grouped(rate(now, before)),
        grouped(now.windows),
        grouped(now.alerts),
        watermark(now),
        busy.join(" ")
    )
}

/// How far the watermark lags; where it stands, when that is so long ago that the lag says nothing.
fn watermark(figures: &Figures) -> String {
    match (figures.watermark_ms, figures.watermark_lag_ms()) {
        (Some(at_ms), Some(lag_ms)) if lag_ms > OLD_MS => format!("at {}", shown_utc(at_ms)),
        (_, Some(lag_ms)) => format!("lag {}", shown_ns(lag_ms.max(0) as u64 * 1_000_000)),
        (_, None) => "none".to_owned(),
    }
}

fn table(state: JobState, figures: &Figures, options: &Options) -> String {
    let how = match state {
        JobState::Finished => "the input ended",
        JobState::Suspended => "stopped with a final checkpoint; run again with the same --state to continue",
        _ => "ended",
    };
    let seconds = figures.elapsed_ns as f64 / 1e9;
    let dropped: Vec<String> =
        figures.dropped.iter().map(|(reason, count)| format!("{} {reason}", grouped(*count))).collect();
    let dropped = if dropped.is_empty() { "0".to_owned() } else { dropped.join(", ") };
    let checkpoints = &figures.checkpoints;
    let failure = checkpoints.last_failure.as_ref().map_or_else(String::new, |failure| format!("; {failure}"));
    let rows = [
        ("", format!("{}: {how}", options.job_name())),
        (
            "records",
            format!("{} in {seconds:.1} s, {} records/s", grouped(figures.records), grouped(mean_rate(figures))),
        ),
        ("windows", grouped(figures.windows)),
        ("alerts", grouped(figures.alerts)),
        (
            "late",
            format!(
                "{} for all their windows, {} for alerts",
                grouped(figures.late_windows),
                grouped(figures.late_alerts)
            ),
        ),
        ("dropped", dropped),
        ("latency", latency_row("windows", &figures.window_latency)),
        ("", latency_row("alerts", &figures.alert_latency)),
        (
            "checkpoints",
            format!(
                "{} completed, {} failed, the last took {} and {}{failure}",
                grouped(checkpoints.completed),
                grouped(checkpoints.failed),
                shown_ns(checkpoints.last_duration_ns),
                shown_bytes(checkpoints.last_bytes)
            ),
        ),
        ("output", format!("{0}/windows/*.jsonl, {0}/alerts/*.jsonl", options.out.display())),
        ("state", options.state.display().to_string()),
    ];
    rows.iter().map(|(name, text)| format!("{name:<12} {text}\n")).collect()
}

fn latency_row(sink: &str, latency: &LatencySummary) -> String {
    if latency.count == 0 {
        return format!("{sink:<8} no lines");
    }
    let [p50, p99, p999, max] = [latency.p50_ns, latency.p99_ns, latency.p999_ns, latency.max_ns].map(shown_ns);
    format!("{sink:<8} p50 {p50}, p99 {p99}, p99.9 {p999}, max {max} ({} lines)", grouped(latency.count))
}

fn progress_json(now: &Figures, before: &Figures) -> Value {
    json!({
        "type": "progress",
        "elapsed_ms": now.elapsed_ns / 1_000_000,
        "attempt": now.attempt,
        "waiting": now.why_waiting,
        "records": now.records,
        "records_per_s": rate(now, before),
        "windows": now.windows,
        "alerts": now.alerts,
        "watermark_ms": now.watermark_ms,
        "watermark_lag_ms": now.watermark_lag_ms(),
        "checkpoints": checkpoints_json(now),
        "slots_busy_permille": now.slots_busy_permille,
    })
}

fn result_json(state: JobState, figures: &Figures, options: &Options) -> Value {
    json!({
        "type": "result",
        "job": options.job_name(),
        "state": state_name(state),
        "elapsed_ms": figures.elapsed_ns / 1_000_000,
        "attempt": figures.attempt,
        "records": figures.records,
        "records_per_s": mean_rate(figures),
        "windows": figures.windows,
        "alerts": figures.alerts,
        "late": { "windows": figures.late_windows, "alerts": figures.late_alerts },
        "dropped": figures.dropped,
        "latency_ns": { "windows": latency_json(&figures.window_latency), "alerts": latency_json(&figures.alert_latency) },
        "checkpoints": checkpoints_json(figures),
        "out_dir": options.out,
        "state_dir": options.state,
        "input": match options.input { Input::Machine => "machine", Input::Files { .. } => "files" },
    })
}

fn checkpoints_json(figures: &Figures) -> Value {
    let checkpoints = &figures.checkpoints;
    json!({
        "completed": checkpoints.completed,
        "failed": checkpoints.failed,
        "last_id": checkpoints.last_id,
        "last_duration_ns": checkpoints.last_duration_ns,
        "last_bytes": checkpoints.last_bytes,
        "last_failure": checkpoints.last_failure,
    })
}

fn latency_json(latency: &LatencySummary) -> Value {
    json!({
        "count": latency.count,
        "p50": latency.p50_ns,
        "p99": latency.p99_ns,
        "p999": latency.p999_ns,
        "max": latency.max_ns,
    })
}

fn state_name(state: JobState) -> String {
    format!("{state:?}").to_lowercase()
}

/// Records per second since the line before.
fn rate(now: &Figures, before: &Figures) -> u64 {
    per_second(now.records.saturating_sub(before.records), now.elapsed_ns.saturating_sub(before.elapsed_ns))
}

fn mean_rate(figures: &Figures) -> u64 {
    per_second(figures.records, figures.elapsed_ns)
}

fn per_second(count: u64, ns: u64) -> u64 {
    (u128::from(count) * 1_000_000_000 / u128::from(ns.max(1))) as u64
}

/// A time in the unit that shows it with three digits.
fn shown_ns(ns: u64) -> String {
    match ns {
        0..1_000 => format!("{ns} ns"),
        1_000..1_000_000 => format!("{:.1} us", ns as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} ms", ns as f64 / 1e6),
        _ => format!("{:.1} s", ns as f64 / 1e9),
    }
}

fn shown_bytes(bytes: u64) -> String {
    match bytes {
        0..1_024 => format!("{bytes} B"),
        1_024..1_048_576 => format!("{:.1} KiB", bytes as f64 / 1_024.0),
        _ => format!("{:.1} MiB", bytes as f64 / 1_048_576.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures() -> Figures {
        Figures {
            elapsed_ns: 2_000_000_000,
            records: 3_000_000,
            windows: 1_234,
            watermark_ms: Some(1_392_388_200_000),
            wall_ms: 1_392_388_200_120,
            slots_busy_permille: vec![504, 20],
            ..Figures::default()
        }
    }

    #[test]
    fn a_line_shows_rates_since_the_line_before() {
        let before = Figures { elapsed_ns: 1_000_000_000, records: 1_000_000, ..Figures::default() };
        assert_eq!(
            progress_line(&figures(), &before),
            "2,000,000 records/s | 1,234 windows | 0 alerts | watermark lag 120.0 ms | checkpoint none yet | slots busy 50% 2%"
        );
    }

    #[test]
    fn a_failed_checkpoint_is_shown_with_its_reason() {
        let mut figures = figures();
        figures.checkpoints.last_failure = Some("found no space".to_owned());
        assert!(progress_line(&figures, &Figures::default()).contains("checkpoint FAILED: found no space"));
    }

    #[test]
    fn the_watermark_of_old_files_is_shown_as_a_time() {
        let old = Figures { wall_ms: 1_500_000_000_000, ..figures() };
        assert!(progress_line(&old, &Figures::default()).contains("watermark at 2014-02-14 14:30:00.000"));
        assert!(progress_line(&Figures::default(), &Figures::default()).contains("watermark none"));
    }

    #[test]
    fn a_waiting_job_says_why() {
        let waiting = Figures { why_waiting: Some("no free slot".to_owned()), ..figures() };
        assert_eq!(progress_line(&waiting, &Figures::default()), "waiting: no free slot");
    }

    #[test]
    fn a_sink_without_lines_has_no_latency() {
        assert_eq!(latency_row("alerts", &LatencySummary::default()), "alerts   no lines");
    }

    #[test]
    fn numbers_are_shown_for_people() {
        assert_eq!([5, 1_500, 2_500_000, 3_000_000_000].map(shown_ns), ["5 ns", "1.5 us", "2.5 ms", "3.0 s"]);
        assert_eq!([5, 2_048, 3 << 20].map(shown_bytes), ["5 B", "2.0 KiB", "3.0 MiB"]);
    }
}
