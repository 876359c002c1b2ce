//! B11: what more slots cost, and what that predicts for more cores than there are.
//!
//! ```text
//!  keys -> key_by -> reduce -> sink, each on every slot; 1, 2, 4, 8, 16 and 64 slots on the cores there are
//! ```
//! Measured: records per second, and CPU time per record. On as many cores as slots, N slots take CPU(N) / N for a record; so CPU(N) over
//! CPU(1) is the denominator of the universal scalability law, 1 + sigma (N - 1) + kappa N (N - 1), and both are fitted to it. The slots
//! beyond the cores add what switching between threads costs, so the prediction errs on the low side. A second prediction knows nothing of
//! runs with more than one slot: CPU(1), and for the share (N - 1) / N of the records the time in which two bare threads hand one over. It is
//! checked against the measured run on two slots. Not covered: the bandwidth of the memory, which other cores share; what
//! it would have to be stands beside. `--keys=N` takes other numbers of keys.
#![allow(clippy::disallowed_methods, reason = "a bench reads clocks and starts threads itself")]

#[path = "support/cpus.rs"]
mod cpus;
#[path = "support/median.rs"]
mod median;
#[path = "support/spsc_chunked.rs"]
mod spsc_chunked;
mod support;
#[allow(dead_code, reason = "windows are not asked for here")]
#[path = "support/workloads.rs"]
mod workloads;

use median::median;
use millstream_report::chart::{Line, lines};
use rustix::time::{ClockId, clock_gettime};
use support::{Bench, Figure};
use workloads::{KeyedStream, rolling_sum};

/// A line of state read and written back, and a record written and read on its way.
const BYTES_PER_RECORD: f64 = 2.0 * 64.0 + 2.0 * 40.0;

fn main() {
    let mut bench = Bench::start("scaling");
    let quick = bench.is_quick();
    bench.needs_cores(2);
    let asked = std::env::args().find_map(|arg| arg.strip_prefix("--keys=")?.parse().ok());
    let keys = asked.unwrap_or(if quick { 10_000 } else { 1_000_000 });
    let stream = KeyedStream { keys, records: if quick { 200_000 } else { 15_000_000 }, per_second: 1_000_000 };
    let (slots, runs): (&[u32], _) = if quick { (&[1, 2, 8], 1) } else { (&[1, 2, 4, 8, 16, 64], 3) };
    let handing_over = || 1e9 / spsc_chunked::records_per_s(if quick { 500_000 } else { 30_000_000 });

    let before = handing_over();
    let mut measured: Vec<Vec<Run>> = slots.iter().map(|_| Vec::new()).collect();
    for _ in 0..runs {
        slots.iter().zip(&mut measured).for_each(|(&slots, runs)| runs.push(run(stream, slots)));
    }
    let after = handing_over();
    bench.probe("a record from thread to thread", "ns", before, after);
    let middle = |runs: &[Run], of: fn(&Run) -> f64| {
        let mut values = runs.iter().map(of);
        median(runs.len(), || values.next().unwrap_or_default())
    };
    let rows: Vec<Row> = slots
        .iter()
        .zip(&measured)
        .map(|(&slots, runs)| Row {
            slots: f64::from(slots),
            per_s: middle(runs, |run| run.per_s),
            cpu_ns: middle(runs, |run| run.cpu_ns),
        })
        .collect();
    report(&mut bench, &rows, before.min(after));
    bench.finish();
}

#[derive(Clone, Copy)]
struct Run {
    per_s: f64,
    cpu_ns: f64,
}

struct Row {
    slots: f64,
    per_s: f64,
    /// CPU time of the process for one record.
    cpu_ns: f64,
}

fn run(stream: KeyedStream, slots: u32) -> Run {
    let before_ns = cpu_ns();
    let per_s = rolling_sum(stream, slots).per_s;
    Run { per_s, cpu_ns: (cpu_ns() - before_ns) / stream.total() as f64 }
}

/// CPU time of this process.
fn cpu_ns() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 * 1e9 + time.tv_nsec as f64
}

fn report(bench: &mut Bench, rows: &[Row], handing_over_ns: f64) {
    let (one, two) = (&rows[0], &rows[1]);
    for row in rows {
        let scenario = format!("{} slots", row.slots);
        bench.figure(Figure { kernel: Some(one.cpu_ns), ..Figure::new(&scenario, "CPU", row.cpu_ns, "ns") });
        // What 2 slots do is the measure of those that share their cores.
        let goal = (row.slots == 8.0).then_some(0.8);
        let limit = (row.slots > 2.0).then_some(two.per_s / 1e6);
        bench.figure(Figure { limit, goal, ..Figure::new(&scenario, "rate", row.per_s / 1e6, "M/s") });
    }
    bench.figure(Figure {
        limit: Some(one.per_s / 1e6),
        goal: Some(1.6),
        ..Figure::new("2 slots over 1", "rate", two.per_s / 1e6, "M/s")
    });

    let law = Law::fit(rows);
    bench.figure(Figure::new("contention", "sigma", law.sigma, ""));
    bench.figure(Figure::new("coherency", "kappa", law.kappa, ""));
    let by_hops = |n: f64| n * 1e9 / (one.cpu_ns + handing_over_ns * (n - 1.0) / n);
    let predicted_two = by_hops(2.0) / 1e6;
    bench.figure(Figure {
        kernel: Some(predicted_two),
        ..Figure::new("2 slots measured over predicted from 1", "rate", two.per_s / 1e6, "M/s")
    });
    let counts: Vec<f64> = (0..=6).map(|power| f64::from(1 << power)).collect();
    for n in counts.iter().copied().filter(|n| *n > 2.0) {
        let scenario = format!("predicted, {n} slots on {n} cores");
        let goal = (n == 16.0).then_some(14.0);
        bench.figure(Figure { limit: Some(1.0), goal, ..Figure::new(&scenario, "speed-up", law.speed_up(n), "x") });
        let per_s = law.speed_up(n) * 1e9 / one.cpu_ns;
        bench.figure(Figure::new(&scenario, "memory", per_s * BYTES_PER_RECORD / 1e9, "GB/s"));
    }

    let points = |of: &dyn Fn(f64) -> f64| counts.iter().map(|&n| (n, of(n))).collect::<Vec<_>>();
    let measured: Vec<(f64, f64)> = rows.iter().map(|row| (row.slots, row.per_s / 1e6)).collect();
    let (by_law, by_hop) = (points(&|n| law.speed_up(n) * 1e3 / one.cpu_ns), points(&|n| by_hops(n) / 1e6));
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let chart = lines(
        "Records per second over slots",
        "slots",
        "M/s",
        &[
            Line { name: &format!("measured, {cores} cores"), points: &measured, is_dashed: false },
            Line { name: "predicted, a core a slot", points: &by_law, is_dashed: true },
            Line { name: "predicted from 1 slot and hops", points: &by_hop, is_dashed: true },
        ],
    );
    bench.chart("records per second", &chart);
    let cpu: Vec<(f64, f64)> = rows.iter().map(|row| (row.slots, row.cpu_ns)).collect();
    let fitted = points(&|n| one.cpu_ns * n / law.speed_up(n));
    let chart = lines(
        "CPU time per record over slots",
        "slots",
        "ns",
        &[
            Line { name: "measured", points: &cpu, is_dashed: false },
            Line { name: "fitted", points: &fitted, is_dashed: true },
        ],
    );
    bench.chart("cpu per record", &chart);
}

/// The universal scalability law (Gunther 1993).
struct Law {
    sigma: f64,
    kappa: f64,
}

impl Law {
    /// Least squares of CPU(N) / CPU(1) - 1 = sigma (N - 1) + kappa N (N - 1), neither below 0.
    fn fit(rows: &[Row]) -> Self {
        let mut sums = [0.0; 5];
        for row in rows {
            let (a, b) = (row.slots - 1.0, row.slots * (row.slots - 1.0));
            let excess = row.cpu_ns / rows[0].cpu_ns - 1.0;
            [a * a, a * b, b * b, a * excess, b * excess].into_iter().zip(&mut sums).for_each(|(x, sum)| *sum += x);
        }
        let [aa, ab, bb, ae, be] = sums;
        let determinant = aa * bb - ab * ab;
        let (sigma, kappa) = ((ae * bb - be * ab) / determinant, (be * aa - ae * ab) / determinant);
        match (sigma >= 0.0, kappa >= 0.0) {
            (true, true) => Self { sigma, kappa },
            (false, _) => Self { sigma: 0.0, kappa: (be / bb).max(0.0) },
            (true, false) => Self { sigma: (ae / aa).max(0.0), kappa: 0.0 },
        }
    }

    fn speed_up(&self, n: f64) -> f64 {
        n / (1.0 + self.sigma * (n - 1.0) + self.kappa * n * (n - 1.0))
    }
}
