//! The directory of a report: what lies where, and what a run replaces.

use crate::{Curve, FigureLine, chart, hgrm, hlog, page};
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The directory.
#[derive(Clone, Debug)]
pub struct ReportFolder {
    dir: PathBuf,
}

/// A report could not be written.
#[derive(Debug)]
pub struct ReportError {
    path: PathBuf,
    source: std::io::Error,
}

/// All that is known of one bench.
pub(crate) struct BenchReport {
    pub(crate) name: String,
    pub(crate) figures: Vec<FigureLine>,
    /// SVG, in the order of their files' names.
    pub(crate) charts: Vec<String>,
}

impl ReportFolder {
    /// This directory; it need not be there yet.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }

    /// Forgets what an earlier run of this bench left.
    pub fn clear(&self, bench: &str) -> Result<(), ReportError> {
        for removed in [std::fs::remove_file(self.lines_path(bench)), std::fs::remove_dir_all(self.dir.join(bench))] {
            match removed {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(self.error(bench)(error)),
                _ => {}
            }
        }
        Ok(())
    }

    /// Writes the figures of a run; of an earlier one stay those that this run did not measure.
    pub fn write_figures(&self, bench: &str, figures: &[FigureLine]) -> Result<(), ReportError> {
        let path = self.lines_path(bench);
        let same = |a: &FigureLine, b: &FigureLine| (&a.scenario, &a.metric) == (&b.scenario, &b.metric);
        let mut all = read_figures(&path);
        all.retain(|old| !figures.iter().any(|figure| same(old, figure)));
        all.extend_from_slice(figures);
        let mut text = String::new();
        for figure in &all {
            // A figure has no map with keys that are no strings: nothing else can fail.
            let _ = writeln!(text, "{}", serde_json::to_string(figure).unwrap_or_default());
        }
        self.write(&path, text.as_bytes())
    }

    /// Writes latencies as `.hgrm` for each curve, one `.hlog` and a percentile plot.
    pub fn write_latencies(
        &self,
        bench: &str,
        scenario: &str,
        curves: &[Curve<'_>],
        began_unix_s: u64,
        took: Duration,
    ) -> Result<(), ReportError> {
        for (index, curve) in curves.iter().enumerate() {
            // The first curve is the scenario itself.
            let beside = if index == 0 { String::new() } else { format!(".{}", file_name(curve.name)) };
            let path = self.dir.join(bench).join(format!("{}{beside}.hgrm", file_name(scenario)));
            self.write(&path, hgrm(curve.times_ns).as_bytes())?;
        }
        let path = self.dir.join(bench).join(format!("{}.hlog", file_name(scenario)));
        self.write(&path, &hlog(curves, began_unix_s, took))?;
        self.write_chart(bench, scenario, &chart::percentiles(scenario, curves))
    }

    /// Writes a chart.
    pub fn write_chart(&self, bench: &str, name: &str, svg: &str) -> Result<(), ReportError> {
        self.write(&self.dir.join(bench).join(format!("{}.svg", file_name(name))), svg.as_bytes())
    }

    /// Makes the page anew from all that is there, and says where it is.
    pub fn write_index(&self) -> Result<PathBuf, ReportError> {
        let path = self.dir.join("index.html");
        self.write(&path, page::html(&self.read()?).as_bytes())?;
        Ok(path)
    }

    fn read(&self) -> Result<Vec<BenchReport>, ReportError> {
        let paths = |dir: &Path, extension: &str| -> Vec<PathBuf> {
            let entries = std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
            let mut paths: Vec<_> = entries.filter(|path| path.extension().is_some_and(|is| is == extension)).collect();
            paths.sort();
            paths
        };
        let mut benches = Vec::new();
        for lines in paths(&self.dir, "jsonl") {
            let name = lines.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            let figures = read_figures(&lines);
            let charts = paths(&self.dir.join(&name), "svg");
            let charts = charts.iter().map(std::fs::read_to_string).collect::<Result<_, _>>();
            benches.push(BenchReport { figures, charts: charts.map_err(self.error(&name))?, name });
        }
        Ok(benches)
    }

    fn lines_path(&self, bench: &str) -> PathBuf {
        self.dir.join(format!("{bench}.jsonl"))
    }

    fn write(&self, path: &Path, bytes: &[u8]) -> Result<(), ReportError> {
        let error = |source| ReportError { path: path.to_owned(), source };
        path.parent().map_or(Ok(()), std::fs::create_dir_all).map_err(error)?;
        std::fs::write(path, bytes).map_err(error)
    }

    fn error(&self, below: &str) -> impl Fn(std::io::Error) -> ReportError {
        let path = self.dir.join(below);
        move |source| ReportError { path: path.clone(), source }
    }
}

/// Lines of an older form are left out: the next run of their bench replaces them.
fn read_figures(path: &Path) -> Vec<FigureLine> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().flat_map(serde_json::from_str).collect()
}

/// Letters, digits and hyphens.
fn file_name(scenario: &str) -> String {
    let words = scenario.split(|c: char| !c.is_ascii_alphanumeric() && c != '.').filter(|word| !word.is_empty());
    words.collect::<Vec<_>>().join("-").to_lowercase()
}

impl std::fmt::Display for ReportError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the report in {} cannot be written: {}", self.path.display(), self.source)
    }
}

impl std::error::Error for ReportError {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Machine;
    use hdrhistogram::Histogram;

    /// A directory that is removed again.
    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let dir = std::env::temp_dir().join(format!("millstream-report-{name}-{}", std::process::id()));
            let _ = std::fs::remove_dir_all(&dir);
            Self(dir)
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn figure(scenario: &str, value: f64) -> FigureLine {
        FigureLine {
            bench: "hop".to_owned(),
            scenario: scenario.to_owned(),
            metric: "p50".to_owned(),
            value,
            unit: "ns".to_owned(),
            limit: Some(50.0),
            kernel: None,
            ratio: Some(value / 50.0),
            goal: Some("<= 3x".to_owned()),
            verdict: "OVER".to_owned(),
            machine: Machine::default(),
        }
    }

    #[test]
    fn a_partial_run_replaces_only_what_it_measured() {
        let scratch = Scratch::new("partial");
        let folder = ReportFolder::new(&scratch.0);
        folder.write_figures("hop", &[figure("one <way>", 100.0), figure("parked", 20.0)]).unwrap();
        folder.write_figures("hop", &[figure("parked", 30.0)]).unwrap();
        let values: Vec<f64> = read_figures(&scratch.0.join("hop.jsonl")).iter().map(|figure| figure.value).collect();
        assert_eq!(values, [100.0, 30.0]);
    }

    #[test]
    fn the_page_shows_every_bench_and_its_charts_and_asks_no_other_host() {
        let scratch = Scratch::new("page");
        let folder = ReportFolder::new(&scratch.0);
        let mut times = Histogram::<u64>::new_with_bounds(1, 1_000_000, 3).unwrap();
        times.record(500).unwrap();
        folder.write_figures("hop", &[figure("one <way>", 100.0)]).unwrap();
        let curves = [Curve { name: "hop", times_ns: &times }, Curve { name: "hiccup probe", times_ns: &times }];
        folder.write_latencies("hop", "one <way>", &curves, 0, Duration::from_secs(1)).unwrap();
        let page = std::fs::read_to_string(folder.write_index().unwrap()).unwrap();
        for wanted in ["one &lt;way&gt;", "hiccup probe", "OVER", "<svg"] {
            assert!(page.contains(wanted), "{wanted} is missing");
        }
        assert!(!page.contains("<script") && !page.replace("http://www.w3.org/2000/svg", "").contains("://"));
        for file in ["one-way.svg", "one-way.hlog", "one-way.hgrm", "one-way.hiccup-probe.hgrm"] {
            assert!(scratch.0.join("hop").join(file).exists(), "{file} is missing");
        }
    }
}
