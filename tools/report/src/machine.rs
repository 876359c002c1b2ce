//! On which machine figures were taken, and whether it was left alone meanwhile.

use crate::probe::Probe;
use serde::{Deserialize, Serialize};
use std::process::Command;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// More than this share of a core for others, and figures say little.
const OTHERS_PERCENT_MAX: f64 = 20.0;
const STEAL_PERCENT_MAX: f64 = 1.0;

/// What goes into every line.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// The commit measured; "+" behind it where files differed from it.
    pub commit: String,
    /// Model of the CPU.
    pub cpu: String,
    /// How many CPUs the process may use.
    pub cores: usize,
    /// Release of the kernel.
    pub kernel: String,
    /// What is set for transparent huge pages.
    pub huge_pages: String,
    /// Load of the last minute when the bench began.
    pub load: f64,
    /// CPU time the hypervisor kept for itself during the bench, percent of one core.
    pub steal_percent: f64,
    /// CPU time other processes took during the bench, percent of one core.
    pub others_percent: f64,
    /// When the bench began, seconds since 1970.
    pub began_unix_s: u64,
    /// How long it ran.
    pub seconds: f64,
    /// Whether it ran only to prove that it runs.
    pub is_quick: bool,
    /// Why these figures may mean little.
    pub warnings: Vec<String>,
}

/// A machine that is being watched while a bench runs.
pub struct MachineWatch {
    machine: Machine,
    begun: Instant,
    ticks: Ticks,
    probe: Probe,
}

impl MachineWatch {
    /// Begins to watch.
    pub fn begin(is_quick: bool) -> Self {
        let cpuinfo = read("/proc/cpuinfo");
        let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        let huge = read("/sys/kernel/mm/transparent_hugepage/enabled");
        let machine = Machine {
            commit: commit(),
            cpu: model.map_or_else(|| "unknown CPU".to_owned(), |(_, model)| model.to_owned()),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            huge_pages: huge.split(['[', ']']).nth(1).unwrap_or("unknown").to_owned(),
            load: read("/proc/loadavg").split(' ').next().and_then(|load| load.parse().ok()).unwrap_or_default(),
            began_unix_s: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
            is_quick,
            ..Machine::default()
        };
        let probe = Probe::take();
        Self { machine, probe, begun: Instant::now(), ticks: Ticks::read() }
    }

    /// The machine as known when the bench began.
    pub fn machine(&self) -> &Machine {
        &self.machine
    }

    /// Adds a reason to distrust the figures, and says it.
    pub fn warn(&mut self, warning: String) {
        eprintln!("warning: {warning}");
        if !self.machine.warnings.contains(&warning) {
            self.machine.warnings.push(warning);
        }
    }

    /// Ends the watch: what was stolen, what others took, whether the machine is still as quick as before.
    pub fn end(mut self) -> Machine {
        let (ticks, seconds) = (Ticks::read(), self.begun.elapsed().as_secs_f64());
        // A tick is a hundredth of a second.
        let percent = |ticks: u64| ticks as f64 / seconds.max(0.01);
        let passed = |before: u64, after: u64| after.saturating_sub(before);
        let own = passed(self.ticks.own, ticks.own);
        self.machine.seconds = seconds;
        self.machine.steal_percent = percent(passed(self.ticks.steal, ticks.steal));
        self.machine.others_percent = percent(passed(self.ticks.busy, ticks.busy).saturating_sub(own));
        if self.machine.steal_percent > STEAL_PERCENT_MAX {
            self.warn(format!("the hypervisor took {:.1} % of a core meanwhile", self.machine.steal_percent));
        }
        if self.machine.others_percent > OTHERS_PERCENT_MAX {
            self.warn(format!("other processes took {:.0} % of a core meanwhile", self.machine.others_percent));
        }
        for difference in self.probe.differences(Probe::take()) {
            self.warn(difference);
        }
        self.machine
    }
}

impl std::fmt::Display for Machine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { commit, cpu, cores, kernel, huge_pages, load, .. } = self;
        write!(f, "{cores} x {cpu}, kernel {kernel}, huge pages {huge_pages}, load {load}, commit {commit}")
    }
}

/// Hundredths of a second of CPU time since the machine, and since this process, started.
struct Ticks {
    /// Of all processes.
    busy: u64,
    steal: u64,
    /// Of this process and the children it has waited for.
    own: u64,
}

impl Ticks {
    fn read() -> Self {
        let stat = read("/proc/stat");
        let cpu: Vec<u64> =
            stat.lines().next().unwrap_or_default().split_whitespace().skip(1).flat_map(str::parse).collect();
        let at = |index: usize| cpu.get(index).copied().unwrap_or_default();
        let of_process = read("/proc/self/stat");
        let behind_name = of_process.rsplit_once(')').map_or("", |(_, rest)| rest);
        let own = behind_name.split_whitespace().skip(11).take(4).flat_map(str::parse::<u64>).sum();
        // User, nice, system, and both kinds of interrupts.
        Self { busy: at(0) + at(1) + at(2) + at(5) + at(6), steal: at(7), own }
    }
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

fn commit() -> String {
    let git = |args: &[&str]| Command::new("git").args(args).output().ok();
    let Some(hash) = git(&["rev-parse", "--short", "HEAD"]).filter(|output| output.status.success()) else {
        return "unknown".to_owned();
    };
    let has_changes = git(&["diff", "--quiet", "HEAD"]).is_some_and(|output| !output.status.success());
    format!("{}{}", String::from_utf8_lossy(&hash.stdout).trim(), if has_changes { "+" } else { "" })
}
