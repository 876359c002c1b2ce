//! What every bench shares: flags, the machine, one table of figures against limits, JSON lines.
//!
//! Here: `Bench`, which collects figures and prints them. Not here: the limits themselves, one file each beside this one
//! (`cache_line`, `spsc`, `memory`, `wake`, `disk`, `hiccup`); a bench names those it needs with `#[path]`.
//!
//! A bench fails for no figure: it prints `OVER`. Only ratios within one run mean something on a shared machine.

use hdrhistogram::Histogram;
use std::process::Command;

/// One run of one bench binary.
pub struct Bench {
    name: &'static str,
    json: bool,
    quick: bool,
    machine: String,
    figures: Vec<Figure>,
}

/// One measured value and what it is held against.
pub struct Figure {
    /// What was run.
    pub scenario: String,
    /// What was measured.
    pub metric: &'static str,
    /// The value.
    pub value: f64,
    /// Its unit.
    pub unit: &'static str,
    /// What the machine can do at best, measured in this run.
    pub limit: Option<f64>,
    /// What hand-written code for the same work does, measured in this run.
    pub kernel: Option<f64>,
    /// The wanted ratio of value to limit: at least this for rates (units per second), at most this for everything else.
    pub goal: Option<f64>,
}

impl Figure {
    /// A value alone.
    pub fn new(scenario: impl Into<String>, metric: &'static str, value: f64, unit: &'static str) -> Self {
        Self { scenario: scenario.into(), metric, value, unit, limit: None, kernel: None, goal: None }
    }

    fn ratio(&self) -> Option<f64> {
        self.limit.or(self.kernel).map(|held_against| self.value / held_against)
    }

    fn is_rate(&self) -> bool {
        self.unit.ends_with("/s")
    }

    fn goal_words(&self) -> Option<String> {
        let sign = if self.is_rate() { ">=" } else { "<=" };
        self.goal.map(|goal| format!("{sign} {goal}x"))
    }

    fn verdict(&self) -> &'static str {
        match (self.ratio(), self.goal) {
            (Some(ratio), Some(goal)) if (ratio >= goal) == self.is_rate() || ratio == goal => "within",
            (Some(_), Some(_)) => "OVER",
            _ => "",
        }
    }
}

impl Bench {
    /// Reads the flags (`--quick`, `--json`; cargo's own are ignored) and says on which machine it runs.
    pub fn start(name: &'static str) -> Self {
        let flag = |wanted: &str| std::env::args().any(|arg| arg == wanted);
        let machine = machine();
        eprintln!("{name}: {machine}");
        Self { name, json: flag("--json"), quick: flag("--quick"), machine, figures: Vec::new() }
    }

    /// Whether to finish in seconds, to prove that the bench runs.
    pub fn is_quick(&self) -> bool {
        self.quick
    }

    /// Takes a figure.
    pub fn figure(&mut self, figure: Figure) {
        self.figures.push(figure);
    }

    /// Prints the table, and with `--json` one line for each figure.
    pub fn finish(self) {
        let number = |value: Option<f64>| value.map_or(String::new(), short);
        println!(
            "\n{:<44} {:<10} {:>10} {:<7} {:>10} {:>10} {:>8} {:>9}",
            self.name, "metric", "figure", "unit", "limit", "kernel", "ratio", "goal"
        );
        for figure in &self.figures {
            println!(
                "{:<44} {:<10} {:>10} {:<7} {:>10} {:>10} {:>8} {:>9} {}",
                figure.scenario,
                figure.metric,
                short(figure.value),
                figure.unit,
                number(figure.limit),
                number(figure.kernel),
                number(figure.ratio()),
                figure.goal_words().unwrap_or_default(),
                figure.verdict()
            );
        }
        if self.json {
            self.figures.iter().for_each(|figure| println!("{}", self.line(figure)));
        }
    }

    fn line(&self, figure: &Figure) -> String {
        serde_json::json!({
            "bench": self.name, "scenario": figure.scenario, "metric": figure.metric, "value": figure.value,
            "unit": figure.unit, "limit": figure.limit, "kernel": figure.kernel, "ratio": figure.ratio(),
            "goal": figure.goal_words(), "verdict": figure.verdict(), "machine": self.machine,
        })
        .to_string()
    }
}

/// Three significant digits.
fn short(value: f64) -> String {
    match value.abs() {
        v if v >= 1e5 => format!("{value:.3e}"),
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// A histogram of nanoseconds up to a minute, three digits.
#[allow(dead_code, reason = "not every bench measures times")]
pub fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("the bounds are constants in range")
}

/// CPU, kernel, huge pages, load and commit in one line.
fn machine() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cpuinfo = read("/proc/cpuinfo");
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let huge = read("/sys/kernel/mm/transparent_hugepage/enabled");
    let huge = huge.split(['[', ']']).nth(1).unwrap_or("unknown");
    let load = read("/proc/loadavg");
    let steal = read("/proc/stat").lines().next().and_then(|cpu| cpu.split_whitespace().nth(8)?.parse::<u64>().ok());
    let commit = Command::new("git").args(["rev-parse", "--short", "HEAD"]).output().ok();
    let commit = commit.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    format!(
        "{} x {}, kernel {}, huge pages {huge}, load {}, steal {} ticks, commit {}",
        std::thread::available_parallelism().map_or(1, usize::from),
        model.map_or("unknown CPU", |(_, model)| model),
        read("/proc/sys/kernel/osrelease").trim(),
        load.split(' ').next().unwrap_or("?"),
        steal.unwrap_or(0),
        commit.filter(|commit| !commit.is_empty()).unwrap_or_else(|| "unknown".to_owned()),
    )
}
