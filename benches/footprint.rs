//! B12: what it costs to have an engine in one's process.
//!
//! ```text
//!  start    a new process: builder -> engine -> job of 5 operators -> first record at the sink; then stop, until all threads are gone
//!  idle     an engine of two slots, a job with 10 sources nobody pushes into, another with one that waits for its time
//!  jobs     1,000 jobs in one process, each with a key_by and state of one key, then left alone
//!  leaks    engines started and stopped one after the other: what stays open or mapped
//!  binary   examples/embedded.rs without default features, stripped
//! ```
//! Each runs in a process of its own, which does nothing else. Limits are what is asked; the start of a process that does nothing stands beside
//! as kernel. Wake-ups are voluntary context switches of all threads, the control thread's included. `--only=start` (`idle`, `jobs`,
//! `leaks`, `binary`) runs a part. The binary is built only by a whole run that is not quick.
#![allow(clippy::disallowed_methods, reason = "a bench reads clocks and /proc and starts processes itself")]

#[path = "support/median.rs"]
mod median;
mod support;

use median::median;
use millstream::engine::{Engine, JobHandle, JobOptions};
use millstream::record::Stamp;
use millstream::sink::Callback;
use millstream::source::{Generator, PushHandle, PushSource};
use millstream::stream::Job;
use millstream::time::{EventTimeMs, Watermarks};
use rustix::time::{ClockId, clock_gettime};
use std::collections::HashMap;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};
use support::{Bench, Figure};

const MIB: f64 = 1048576.0;
/// What tells a child process what to measure, and for how many jobs or how long.
const CHILD: &str = "MILLSTREAM_BENCH_CHILD";
const SLOTS: u32 = 2;

fn main() {
    if let Some(what) = std::env::var_os(CHILD) {
        return child(&what.to_string_lossy());
    }
    let mut bench = Bench::start("footprint");
    let quick = bench.is_quick();
    let only = std::env::args().find_map(|arg| Some(arg.strip_prefix("--only=")?.to_owned()));
    let runs_part = |part: &str| only.as_ref().is_none_or(|only| only == part);
    if runs_part("start") {
        start(&mut bench, if quick { 3 } else { 25 });
    }
    if runs_part("idle") {
        idle(&mut bench, if quick { 1 } else { 20 });
    }
    if runs_part("jobs") {
        jobs(&mut bench, if quick { 100 } else { 1_000 }, if quick { 1 } else { 10 });
    }
    if runs_part("leaks") {
        leaks(&mut bench, if quick { 3 } else { 20 });
    }
    if runs_part("binary") && !quick {
        binary(&mut bench);
    }
    bench.needs_cores(SLOTS as usize);
    bench.finish();
}

/// A value that is to be at most what is asked.
fn asked(bench: &mut Bench, scenario: &str, metric: &'static str, value: f64, unit: &'static str, at_most: f64) {
    let (limit, goal) = (Some(at_most), Some(1.0));
    bench.figure(Figure { limit, goal, ..Figure::new(scenario, metric, value, unit) });
}

fn start(bench: &mut Bench, runs: usize) {
    let measured: Vec<_> = (0..runs).map(|_| measure("start")).collect();
    let middle = |name: &str| {
        let mut values = measured.iter().map(|of| of[name]);
        median(runs, || values.next().unwrap_or_default())
    };
    let most = |name: &str| measured.iter().map(|of| of[name]).fold(0.0, f64::max);
    asked(bench, "builder to first record, 5 operators", "p50", middle("first_ms"), "ms", 5.0);
    bench.figure(Figure::new("builder to first record, 5 operators", "max", most("first_ms"), "ms"));
    bench.figure(Figure::new("of that, until the engine has started", "p50", middle("engine_ms"), "ms"));
    asked(bench, "stop with a running job", "p50", middle("stop_ms"), "ms", 20.0);
    bench.figure(Figure::new("stop with a running job", "max", most("stop_ms"), "ms"));
    let nothing = median(runs, || {
        let begun = Instant::now();
        measure("nothing");
        begun.elapsed().as_secs_f64() * 1e3
    });
    bench.figure(Figure::new("a process that only starts", "p50", nothing, "ms"));
}

fn idle(bench: &mut Bench, seconds: u64) {
    let of = measure(&format!("idle {seconds}"));
    let scenario = "idle, 10 sources, 2 slots";
    asked(bench, scenario, "CPU", of["cpu_percent"], "% core", 0.1);
    asked(bench, scenario, "wake-ups", of["wakes_per_s"] / f64::from(SLOTS), "1/s/slot", 5.0);
    asked(bench, scenario, "resident", of["resident_mib"], "MiB", 12.0);
    bench.figure(Figure::new("the same process before the engine", "resident", of["resident_before_mib"], "MiB"));
    bench.figure(Figure::new(scenario, "threads", of["threads"], ""));
    bench.figure(Figure::new(scenario, "open files", of["files"], ""));
}

fn jobs(bench: &mut Bench, jobs: u64, seconds: u64) {
    let of = measure(&format!("jobs {jobs} {seconds}"));
    let scenario = format!("{jobs} idle jobs");
    let share = jobs as f64 / 1_000.0;
    asked(bench, &scenario, "resident", of["resident_mib"] - of["resident_before_mib"], "MiB", 128.0 * share);
    asked(bench, &scenario, "CPU", of["cpu_percent"], "% core", share);
    bench.figure(Figure::new(&scenario, "wake-ups", of["wakes_per_s"] / f64::from(SLOTS), "1/s/slot"));
    bench.figure(Figure::new(&scenario, "threads", of["threads"], ""));
    bench.figure(Figure::new(&scenario, "open files", of["files"], ""));
    bench.figure(Figure::new(&scenario, "each start", of["start_ms"] / jobs as f64 * 1e3, "us"));
    bench.figure(Figure::new(&scenario, "stop all", of["stop_ms"], "ms"));
}

fn leaks(bench: &mut Bench, engines: u64) {
    let of = measure(&format!("leaks {engines}"));
    let scenario = format!("{engines} engines, one after the other");
    for (metric, name) in [("open files", "files"), ("mappings", "mappings"), ("threads", "threads")] {
        // One more would be too many.
        bench.figure(Figure { limit: Some(1.0), goal: Some(0.99), ..Figure::new(&scenario, metric, of[name], "") });
    }
    bench.figure(Figure::new(scenario, "resident", of["resident_mib"], "MiB"));
}

fn binary(bench: &mut Bench) {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let built = Command::new(cargo)
        .args(["build", "--quiet", "--release", "--no-default-features", "--example", "embedded"])
        .status();
    let program = Path::new("target/release/examples/embedded");
    let stripped = Path::new("target/release/examples/embedded.stripped");
    let is_stripped = Command::new("strip").arg("-o").arg(stripped).arg(program).status();
    match (built, is_stripped, std::fs::metadata(stripped)) {
        (Ok(built), Ok(strip), Ok(file)) if built.success() && strip.success() => {
            asked(bench, "examples/embedded.rs, stripped", "size", file.len() as f64 / MIB, "MiB", 4.0);
        }
        _ => eprintln!("warning: examples/embedded.rs could not be built and stripped: its size is not measured"),
    }
}

/// What a child process printed: names and numbers.
fn measure(what: &str) -> HashMap<String, f64> {
    let program = std::env::current_exe().expect("this program has a path");
    let output = Command::new(program).env(CHILD, what).stderr(Stdio::inherit()).output().expect("it starts");
    assert!(output.status.success(), "measuring {what} failed");
    let text = String::from_utf8_lossy(&output.stdout);
    let number =
        |line: &str| line.split_once(' ').and_then(|(name, value)| Some((name.to_owned(), value.parse().ok()?)));
    text.lines().filter_map(number).collect()
}

fn child(what: &str) {
    let (what, numbers) = what.split_once(' ').unwrap_or((what, ""));
    let mut numbers = numbers.split(' ').flat_map(str::parse::<u64>);
    let mut number = || numbers.next().unwrap_or_default();
    match what {
        "start" => start_once(),
        "idle" => sit_idle(Duration::from_secs(number())),
        "jobs" => run_jobs(number(), Duration::from_secs(number())),
        "leaks" => start_and_stop(number()),
        _ => {}
    }
}

fn engine(memory_bytes: usize) -> Engine {
    Engine::builder().slots(SLOTS).memory(memory_bytes).start().expect("two slots start anywhere")
}

/// Two chains with one exchange between them; what comes out is received.
fn five_operators(name: &str, source: PushSource<u64>) -> (Job, Receiver<u64>) {
    let (job, (seen, received)) = (Job::new(name), channel());
    job.source("numbers", source)
        .ingestion_time()
        .map(|n: &u64| n + 1)
        .filter(|n: &u64| *n > 0)
        .key_by("by-key", |n: &u64| *n)
        .reduce("last", |_, b| *b)
        .sink(
            "results",
            Callback::new(move |_: &Stamp, n: &u64| {
                // The receiver lives as long as the job.
                let _ = seen.send(*n);
            }),
        );
    (job, received)
}

fn start_once() {
    let begun = Instant::now();
    let ms = |since: Instant| since.elapsed().as_secs_f64() * 1e3;
    let engine = engine(256 << 20);
    println!("engine_ms {}", ms(begun));
    let (source, numbers) = PushSource::new(16);
    let (job, received) = five_operators("start", source);
    let _handle = engine.submit(job, JobOptions::default()).expect("the job is valid");
    numbers.push(1).expect("the job runs");
    received.recv().expect("the job runs");
    println!("first_ms {}", ms(begun));
    // As a host has it that stops later.
    std::thread::sleep(Duration::from_millis(50));
    let begun = Instant::now();
    engine.stop();
    println!("stop_ms {}", ms(begun));
}

fn sit_idle(for_time: Duration) {
    println!("resident_before_mib {}", resident_mib());
    let engine = engine(256 << 20);
    let job = Job::new("idle");
    let mut numbers = Vec::new();
    for index in 0..10 {
        let (source, handle) = PushSource::<u64>::new(16);
        numbers.push(handle);
        job.source(&format!("numbers-{index}"), source)
            .ingestion_time()
            .key_by(&format!("by-key-{index}"), |n: &u64| *n)
            .reduce(&format!("last-{index}"), |_, b| *b)
            .sink(&format!("nowhere-{index}"), Callback::new(|_: &Stamp, _: &u64| ()));
    }
    let waiting = Job::new("waiting");
    waiting
        .source("numbers", Generator::new(|n: u64| n).per_second(1e-3))
        .event_time(|n: &u64| EventTimeMs(*n as i64), Watermarks::monotonous())
        .sink("nowhere", Callback::new(|_: &Stamp, _: &u64| ()));
    let _handles = [job, waiting].map(|job| engine.submit(job, JobOptions::default()).expect("the jobs are valid"));
    numbers.iter().for_each(|numbers| numbers.push(1).expect("the job runs"));
    watch_idle(for_time);
    engine.stop();
}

fn run_jobs(jobs: u64, for_time: Duration) {
    let engine = engine(jobs as usize * (8 << 20));
    std::thread::sleep(Duration::from_millis(100));
    println!("resident_before_mib {}", resident_mib());
    let begun = Instant::now();
    let running: Vec<(JobHandle, PushHandle<u64>, Receiver<u64>)> = (0..jobs)
        .map(|index| {
            let (source, numbers) = PushSource::new(16);
            let (job, received) = five_operators(&format!("job-{index}"), source);
            let options = JobOptions { parallelism: Some(1), memory_bytes: Some(8 << 20), ..JobOptions::default() };
            (engine.submit(job, options).expect("the job is valid"), numbers, received)
        })
        .collect();
    for (_, numbers, received) in &running {
        numbers.push(1).expect("the job runs");
        received.recv().expect("the job runs");
    }
    println!("start_ms {}", begun.elapsed().as_secs_f64() * 1e3);
    watch_idle(for_time);
    let begun = Instant::now();
    engine.stop();
    println!("stop_ms {}", begun.elapsed().as_secs_f64() * 1e3);
}

/// What the process uses while nothing is to be done.
fn watch_idle(for_time: Duration) {
    // Until the splits have noticed that they are silent, in a run whose figures count.
    std::thread::sleep(if for_time > Duration::from_secs(1) { Duration::from_secs(7) } else { for_time / 2 });
    let (cpu_before, wakes_before, begun) = (cpu_s(), voluntary_switches(), Instant::now());
    std::thread::sleep(for_time);
    let (seconds, cpu) = (begun.elapsed().as_secs_f64(), cpu_s() - cpu_before);
    println!("cpu_percent {}", cpu / seconds * 100.0);
    println!("wakes_per_s {}", (voluntary_switches() - wakes_before) as f64 / seconds);
    println!("resident_mib {}", resident_mib());
    println!("threads {}", entries("/proc/self/task"));
    println!("files {}", entries("/proc/self/fd"));
}

fn start_and_stop(engines: u64) {
    let once = || {
        let engine = engine(256 << 20);
        let (source, numbers) = PushSource::new(16);
        let (job, received) = five_operators("leaks", source);
        let handle = engine.submit(job, JobOptions::default()).expect("the job is valid");
        numbers.push(1).expect("the job runs");
        received.recv().expect("the job runs");
        handle.cancel();
        let _ = handle.wait();
        engine.stop();
    };
    let look = || [entries("/proc/self/fd"), lines("/proc/self/maps"), entries("/proc/self/task")];
    // What the process gets once and keeps: the allocator's arenas, stacks that are used again.
    (0..3).for_each(|_| once());
    let before = look();
    (0..engines).for_each(|_| once());
    for (name, (before, after)) in ["files", "mappings", "threads"].into_iter().zip(before.into_iter().zip(look())) {
        println!("{name} {}", after.saturating_sub(before));
    }
    println!("resident_mib {}", resident_mib());
}

/// CPU time of this process.
fn cpu_s() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

fn voluntary_switches() -> u64 {
    let tasks = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    tasks.map(|task| field(&task.path().join("status"), "voluntary_ctxt_switches:")).sum()
}

fn resident_mib() -> f64 {
    field(Path::new("/proc/self/status"), "VmRSS:") as f64 / 1024.0
}

/// The number behind a name in a file of /proc.
fn field(path: &Path, name: &str) -> u64 {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let behind = text.lines().find_map(|line| line.strip_prefix(name));
    behind.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or_default()
}

fn entries(dir: &str) -> usize {
    std::fs::read_dir(dir).map_or(0, Iterator::count)
}

fn lines(path: &str) -> usize {
    std::fs::read_to_string(path).unwrap_or_default().lines().count()
}
