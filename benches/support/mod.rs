//! What every bench shares: flags, the machine, one table of figures against limits, JSON lines, the report.
//!
//! Here: `Bench`, which collects figures and prints them. Not here: the limits themselves, one file each beside this one
//! (`cache_line`, `spsc`, `memory`, `wake`, `disk`, `hiccup`); a bench names those it needs with `#[path]`. Nor files and charts: those
//! are `tools/report`.
//!
//! A bench fails for no figure: it prints `OVER`. Only ratios within one run mean something on a shared machine.
//! A whole run replaces the bench's part of target/millstream-report, a run of a part (`--only=`, `--keys=`) what it measured, and a quick
//! run leaves nothing there unless `--json` is asked for.

use hdrhistogram::Histogram;
use millstream_report::{Curve, FigureLine, Machine, MachineWatch, ReportError, ReportFolder, chart, short};
use std::time::{Duration, Instant};

/// Probes before and after that differ by more say that the machine was not steady.
const PROBES_DIFFER_MAX: f64 = 0.1;

/// One run of one bench binary.
pub struct Bench {
    name: &'static str,
    json: bool,
    quick: bool,
    begun: Instant,
    watch: MachineWatch,
    figures: Vec<Figure>,
    report: Option<ReportFolder>,
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
    /// The wanted ratio of value to limit: at least this for rates (units per second) and factors ("x"), at most this for everything else.
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

    fn more_is_better(&self) -> bool {
        self.unit.ends_with("/s") || self.unit == "x"
    }

    fn goal_words(&self) -> Option<String> {
        let sign = if self.more_is_better() { ">=" } else { "<=" };
        self.goal.map(|goal| format!("{sign} {}x", (goal * 1e3).round() / 1e3))
    }

    fn verdict(&self) -> &'static str {
        match (self.ratio(), self.goal) {
            (Some(ratio), Some(goal)) if (ratio >= goal) == self.more_is_better() || ratio == goal => "within",
            (Some(_), Some(_)) => "OVER",
            _ => "",
        }
    }
}

impl Bench {
    /// Reads the flags (`--quick`, `--json`; cargo's own are ignored) and says on which machine it runs.
    pub fn start(name: &'static str) -> Self {
        let flag = |wanted: &str| std::env::args().any(|arg| arg == wanted);
        let (json, quick) = (flag("--json"), flag("--quick"));
        let watch = MachineWatch::begin(quick);
        eprintln!("{name}: {}", watch.machine());
        let report = (json || !quick).then(|| ReportFolder::new("target/millstream-report"));
        let bench = Self { name, json, quick, begun: Instant::now(), watch, figures: Vec::new(), report };
        let is_part = std::env::args().any(|arg| arg.starts_with("--") && arg.contains('='));
        if !is_part {
            bench.write(|report| report.clear(name));
        }
        bench
    }

    /// Whether to finish in seconds, to prove that the bench runs.
    pub fn is_quick(&self) -> bool {
        self.quick
    }

    /// Takes a figure.
    pub fn figure(&mut self, figure: Figure) {
        self.figures.push(figure);
    }

    /// Prints the table, and with `--json` one line for each figure; leaves the report.
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
        let machine = self.watch.end();
        let lines: Vec<FigureLine> =
            self.figures.iter().map(|figure| line(self.name, figure, machine.clone())).collect();
        if self.json {
            lines.iter().flat_map(serde_json::to_string).for_each(|line| println!("{line}"));
        }
        let Some(report) = self.report else { return };
        match report.write_figures(self.name, &lines).and_then(|()| report.write_index()) {
            Ok(index) => eprintln!("report: {}", index.display()),
            Err(error) => eprintln!("warning: {error}"),
        }
    }

    fn write(&self, write: impl FnOnce(&ReportFolder) -> Result<(), ReportError>) {
        if let Some(Err(error)) = self.report.as_ref().map(write) {
            eprintln!("warning: {error}");
        }
    }
}

#[allow(dead_code, reason = "not every bench measures times, needs several cores or draws")]
impl Bench {
    /// Keeps the whole distribution of a scenario beside others: what the machine or hand-written code did to the same loop.
    pub fn latencies(&mut self, scenario: &str, times_ns: &Histogram<u64>, beside: &[(&str, &Histogram<u64>)]) {
        let curves = curves(("measured", times_ns), beside);
        let began_unix_s = self.watch.machine().began_unix_s;
        let took = self.begun.elapsed();
        self.write(|report| report.write_latencies(self.name, scenario, &curves, began_unix_s, took));
    }

    /// Keeps how often pauses of each length came.
    pub fn pauses(&mut self, title: &str, first: (&str, &Histogram<u64>), beside: &[(&str, &Histogram<u64>)]) {
        self.chart(title, &chart::pauses(title, &curves(first, beside)));
    }

    /// Keeps a chart.
    pub fn chart(&mut self, name: &str, svg: &str) {
        self.write(|report| report.write_chart(self.name, name, svg));
    }

    /// Warns where the machine has fewer cores than the figures need to mean something.
    pub fn needs_cores(&mut self, cores: usize) {
        let there = self.watch.machine().cores;
        if there < cores {
            self.watch.warn(format!("{cores} threads share {there} cores: figures between cores are meaningless"));
        }
    }

    /// Takes a limit that was measured before and after, and warns when it moved.
    pub fn probe(&mut self, what: &str, unit: &str, before: f64, after: f64) {
        if (after / before - 1.0).abs() > PROBES_DIFFER_MAX {
            let (before, after) = (short(before), short(after));
            self.watch.warn(format!("{what}: {before} {unit} before and {after} after: the machine was not steady"));
        }
    }
}

fn curves<'a>(first: (&'a str, &'a Histogram<u64>), beside: &[(&'a str, &'a Histogram<u64>)]) -> Vec<Curve<'a>> {
    let curve = |(name, times_ns)| Curve { name, times_ns };
    std::iter::once(first).chain(beside.iter().copied()).map(curve).collect()
}

fn line(bench: &str, figure: &Figure, machine: Machine) -> FigureLine {
    FigureLine {
        bench: bench.to_owned(),
        scenario: figure.scenario.clone(),
        metric: figure.metric.to_owned(),
        value: figure.value,
        unit: figure.unit.to_owned(),
        limit: figure.limit,
        kernel: figure.kernel,
        ratio: figure.ratio(),
        goal: figure.goal_words(),
        verdict: figure.verdict().to_owned(),
        machine,
    }
}

/// A histogram of nanoseconds up to a minute, three digits.
#[allow(dead_code, reason = "not every bench measures times")]
pub fn histogram() -> Histogram<u64> {
    let minute = Duration::from_secs(60).as_nanos() as u64;
    Histogram::new_with_bounds(1, minute, 3).expect("the bounds are constants in range")
}
