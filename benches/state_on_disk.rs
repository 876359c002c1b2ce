//! B9 and B10: a restart that does not wait for its state, and state larger than its memory.
//!
//! ```text
//!  first result   a new process: engine, job, checkpoint directory -> first record -> reduce -> Callback; page cache dropped
//!  full speed     a backend brings all pages of a checkpoint into memory
//!  spill          Generator -> key_by -> reduce over four times the memory budget, uniform keys
//!  windows        Generator -> key_by -> tumbling sum whose one window is four times the memory budget, against the same in memory
//! ```
//! Limits: a process that only starts; reading a file from front to back past the page cache; reading 16 KiB pages of it at random, 32 at
//! a time; beside it as kernel, reading them and writing them back, 128 at a time.
//! `--only=restart`, `spill` or `windows` runs a part, `--state-mib=N` other sizes. Without the right to drop the page cache only what is read past it is cold, which is all but directories.
#![allow(clippy::disallowed_methods, reason = "a bench reads clocks and files itself")]

#[path = "support/median.rs"]
mod median;
mod support;

use median::median;
use millstream::Record;
use millstream::checkpoint::{CheckpointStore, JobIdentity, StoreOptions};
use millstream::engine::{CheckpointOptions, Engine, JobOptions};
use millstream::io::{FileId, Io, IoChoice, IoOp, IoOutput, OpenMode, SharedIo};
use millstream::memory::{Arena, ArenaOptions, Buffer, MemoryBudget};
use millstream::operator::Sum;
use millstream::record::Stamp;
use millstream::sink::Callback;
use millstream::slot::Doorbell;
use millstream::source::Generator;
use millstream::state::{KeyGroupRange, StateBackend};
use millstream::stream::Job;
use millstream::time::{EventTimeMs, Watermarks};
use millstream::window::{Tumbling, WindowResult};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use support::{Bench, Figure};

const MIB: u64 = 1 << 20;
/// What tells a child process which directory to start from; "-" to do nothing but start.
const CHILD: &str = "MILLSTREAM_BENCH_CHILD";
const KEY_GROUPS: u16 = 128;

#[derive(Record, Clone, Copy)]
#[repr(C)]
struct Reading {
    key: u64,
    sum: u64,
    rest: [u64; 26],
}

/// What one key takes of a page.
const BYTES_PER_KEY: u64 = 290;
/// What one key's slice takes of pages: 42 bytes a slot, four of five slots in use.
const BYTES_PER_WINDOW_KEY: u64 = 52;

fn main() {
    if let Some(dir) = std::env::var_os(CHILD) {
        return child(Path::new(&dir));
    }
    let mut bench = Bench::start("state_on_disk");
    let only = std::env::args().find_map(|arg| Some(arg.strip_prefix("--only=")?.to_owned()));
    let runs_part = |part: &str| only.as_ref().is_none_or(|only| only == part);
    if runs_part("restart") {
        restarts(&mut bench);
    }
    let (budget_mib, seconds) = if bench.is_quick() { (16, 1) } else { (64, 10) };
    if runs_part("spill") {
        spill(&mut bench, budget_mib, Duration::from_secs(seconds));
    }
    if runs_part("windows") {
        let budget_mib = if bench.is_quick() { 12 } else { 64 };
        windows(&mut bench, budget_mib);
    }
    bench.finish();
}

fn restarts(bench: &mut Bench) {
    let asked: Vec<u64> = std::env::args().filter_map(|arg| arg.strip_prefix("--state-mib=")?.parse().ok()).collect();
    let sizes: &[u64] = match (asked.is_empty(), bench.is_quick()) {
        (false, _) => &asked,
        (true, true) => &[8, 16],
        (true, false) => &[64, 1024, 4096],
    };
    let mut first_results = Vec::new();
    for &mib in sizes {
        let dir = directory(&format!("restart-{mib}"));
        fill(&dir, mib * MIB / BYTES_PER_KEY);
        first_results.push(first_result(bench, mib, &dir));
        full_speed(bench, mib, &dir);
        let _ = std::fs::remove_dir_all(&dir);
    }
    let (least, most) =
        first_results.iter().fold((f64::MAX, 0.0f64), |(least, most), ms| (least.min(*ms), most.max(*ms)));
    bench.figure(Figure {
        kernel: Some(least),
        goal: Some(1.5),
        ..Figure::new("first result, slowest size over fastest", "median", most, "ms")
    });
}

/// Three windows, each with a sum for every key: how many records a second, firing included.
fn windows(bench: &mut Bench, budget_mib: u64) {
    let keys = 4 * budget_mib * MIB / BYTES_PER_WINDOW_KEY;
    let records = 3 * keys;
    let (spilled, resident) = window_rate(keys, records, (budget_mib * MIB) as usize);
    let (in_memory, _) = window_rate(keys, records, 4 << 30);
    let scenario = format!("windows of {} MiB in {budget_mib} MiB", 4 * budget_mib);
    bench.figure(Figure {
        kernel: Some(in_memory / 1e3),
        goal: Some(0.2),
        ..Figure::new(&scenario, "records", spilled / 1e3, "k/s")
    });
    bench.figure(Figure {
        limit: Some(budget_mib as f64),
        goal: Some(1.05),
        ..Figure::new(&scenario, "resident", resident as f64 / MIB as f64, "MiB")
    });
}

/// Records per second, and the most that was resident beyond what was before.
fn window_rate(keys: u64, records: u64, memory_bytes: usize) -> (f64, u64) {
    let dir = directory("windows");
    let (resident_before, mut resident_most) = (resident_bytes(), 0);
    let engine = engine(memory_bytes);
    let fired = Arc::new(AtomicU64::new(0));
    let counted = fired.clone();
    let job = Job::new("windows-on-disk");
    job.source("readings", Generator::new(|n: u64| n).count(records))
        .event_time(move |n: &u64| EventTimeMs((n / keys) as i64 * 1000), Watermarks::monotonous())
        .map(move |n: &u64| {
            // Every key once a window, in an order that has nothing to do with where it lies.
            Reading { key: (n % keys).wrapping_mul(0x9E37_79B9_7F4A_7C15), sum: 1, rest: [*n; 26] }
        })
        .key_by("by-key", |reading: &Reading| reading.key)
        .window(Tumbling::of(1000))
        .aggregate("sums", Sum::of(|reading: &Reading| reading.sum as i64))
        .sink(
            "results",
            Callback::new(move |_: &Stamp, _: &WindowResult<u64, i64>| {
                counted.fetch_add(1, Ordering::Relaxed);
            }),
        );
    let begun = Instant::now();
    let handle = engine.submit(job, options(&dir, memory_bytes)).expect("the job is valid");
    let outcome = loop {
        if let Some(outcome) = handle.wait_for(Duration::from_millis(5)) {
            break outcome;
        }
        resident_most = resident_most.max(resident_bytes().saturating_sub(resident_before));
    };
    let took = begun.elapsed();
    assert!(outcome.is_ok(), "{outcome:?}");
    engine.stop();
    let _ = std::fs::remove_dir_all(&dir);
    assert_eq!(fired.load(Ordering::Relaxed), records, "each key once a window");
    (records as f64 / took.as_secs_f64(), resident_most)
}

fn directory(name: &str) -> PathBuf {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&dir);
    dir
}

/// Random keys behind the first `keys`, each of which comes once.
fn job(keys: u64, per_second: Option<f64>, seen: impl FnMut(&Reading) + Clone + Send + Sync + 'static) -> Job {
    let mut seen = seen;
    let job = Job::new("state-on-disk");
    let mut source = Generator::new(|n: u64| n);
    if let Some(per_second) = per_second {
        source = source.per_second(per_second);
    }
    job.source("readings", source)
        .event_time(|n: &u64| EventTimeMs(*n as i64), Watermarks::monotonous())
        .map(move |n: &u64| {
            let random = n.wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(31);
            Reading { key: if *n < keys { *n } else { random % keys }, sum: 1, rest: [*n; 26] }
        })
        .key_by("by-key", |reading: &Reading| reading.key)
        .reduce("sums", |a, b| Reading { sum: a.sum + b.sum, ..*b })
        .sink("results", Callback::new(move |_: &Stamp, reading: &Reading| seen(reading)));
    job
}

fn engine(memory_bytes: usize) -> Engine {
    Engine::builder().slots(1).memory(memory_bytes).start().expect("the engine starts")
}

fn options(dir: &Path, memory_bytes: usize) -> JobOptions {
    JobOptions {
        checkpoints: Some(CheckpointOptions::every(dir, Duration::from_secs(3600))),
        memory_bytes: Some(memory_bytes),
        ..JobOptions::default()
    }
}

/// A checkpoint of so many keys.
fn fill(dir: &Path, keys: u64) {
    let memory_bytes = 8usize << 30;
    let engine = engine(memory_bytes);
    let seen = Arc::new(AtomicU64::new(0));
    let (counted, mut results) = (seen.clone(), 0);
    let count = move |_: &Reading| {
        results += 1;
        counted.store(results, Ordering::Relaxed);
    };
    let handle = engine.submit(job(keys, None, count), options(dir, memory_bytes)).expect("the job is valid");
    while seen.load(Ordering::Relaxed) < keys {
        assert!(!handle.has_ended(), "{:?}", handle.status().reason);
        std::thread::sleep(Duration::from_millis(1));
    }
    handle.stop();
    let outcome = handle.wait();
    assert!(outcome.is_ok(), "{outcome:?}");
    engine.stop();
    std::fs::write(dir.join("keys"), keys.to_string()).expect("the directory can be written");
}

/// A new process that goes on from a directory says when its first result is there.
fn child(dir: &Path) {
    if dir == Path::new("-") {
        println!("started");
        return;
    }
    let keys = std::fs::read_to_string(dir.join("keys")).ok().and_then(|keys| keys.parse().ok()).expect("filled");
    let memory_bytes = 8usize << 30;
    let engine = engine(memory_bytes);
    let first = move |reading: &Reading| {
        assert!(reading.sum >= 2, "the state was there");
        println!("first result");
        std::process::exit(0);
    };
    let handle = engine.submit(job(keys, Some(100.0), first), options(dir, memory_bytes)).expect("valid");
    let outcome = handle.wait();
    panic!("the job ended before its first result: {outcome:?}");
}

/// From the start of a process to the line it prints, in milliseconds.
fn until_line(child: &Path) -> f64 {
    let begun = Instant::now();
    let program = std::env::current_exe().expect("this program has a path");
    let mut process = Command::new(program)
        .env(CHILD, child)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("it starts");
    let mut line = String::new();
    let stdout = process.stdout.take().expect("it is piped");
    BufReader::new(stdout).read_line(&mut line).expect("it can be read");
    let took = begun.elapsed();
    let _ = process.wait();
    assert!(!line.is_empty(), "the child ended without a line");
    took.as_secs_f64() * 1e3
}

fn drop_page_cache() {
    rustix::fs::sync();
    // Refused without the right to; what the engine reads bypasses the cache anyway.
    let _ = std::fs::write("/proc/sys/vm/drop_caches", "1");
}

fn first_result(bench: &mut Bench, mib: u64, dir: &Path) -> f64 {
    let runs = if bench.is_quick() { 1 } else { 5 };
    let start = median(runs, || until_line(Path::new("-")));
    let first = median(runs, || {
        drop_page_cache();
        // The program itself is needed in both.
        until_line(Path::new("-"));
        until_line(dir)
    });
    bench.figure(Figure {
        limit: Some(25.0),
        goal: Some(1.0),
        ..Figure::new(format!("first result, {mib} MiB of state"), "beyond start", first - start, "ms")
    });
    bench.figure(Figure {
        limit: Some(start),
        ..Figure::new(format!("first result, {mib} MiB of state"), "median", first, "ms")
    });
    first
}

fn driver() -> Box<dyn Io> {
    let bell = Arc::new(Doorbell::new().expect("the process has a free file descriptor"));
    millstream::io::open(IoChoice::Auto, bell).expect("some way of I/O works")
}

fn full_speed(bench: &mut Bench, mib: u64, dir: &Path) {
    let runs = if bench.is_quick() { 1 } else { 3 };
    let mut bytes = 0;
    let limit = || median(runs, || sequential_mb_s(dir));
    let before = limit();
    let mb_s = median(runs, || {
        let arena = Arena::new(MemoryBudget::new(8 << 30), ArenaOptions::default());
        let mut io = SharedIo::new(driver());
        let identity = JobIdentity { name: "state-on-disk".to_owned() };
        let opened = CheckpointStore::open(&mut io, &arena, dir, &identity, StoreOptions::default()).expect("intact");
        let all = KeyGroupRange { start: 0, end: KEY_GROUPS };
        let mut backend = StateBackend::new(all, KEY_GROUPS, arena.clone());
        let _sums = backend.value::<u64, Reading>("sums", "reduced").expect("a new backend");
        let begun = Instant::now();
        backend.attach(io.clone(), opened.restored, None);
        while backend.is_warming_up() {
            if !backend.warm_up().expect("intact") {
                io.drive();
                io.wait(Duration::from_micros(100));
            }
        }
        let took = begun.elapsed();
        assert!(!backend.has_absent());
        bytes = backend.page_bytes();
        opened.store.close(&mut io);
        bytes as f64 / 1e6 / took.as_secs_f64()
    });
    let limit = before.max(limit());
    bench.figure(Figure {
        limit: Some(limit),
        goal: Some(0.7),
        ..Figure::new(
            format!("restore to full speed, {} MiB of pages ({mib})", bytes as u64 / MIB),
            "rate",
            mb_s,
            "MB/s",
        )
    });
}

fn largest_extent(io: &mut dyn Io, dir: &Path) -> (FileId, u64) {
    let extents = std::fs::read_dir(dir).expect("it is there").flatten();
    let sized = extents.filter_map(|entry| Some((entry.metadata().ok()?.len(), entry.path())));
    let (len, path) = sized.max().expect("a checkpoint has an extent");
    match io.complete(IoOp::Open { path, mode: OpenMode::Read, direct: true }) {
        Ok(IoOutput::File(file)) => (file, len),
        other => panic!("{other:?}"),
    }
}

/// Reads `spans` of a file with so many operations in flight, and writes what was read where it was if asked to; how long it took.
fn read_spans(
    io: &mut dyn Io,
    file: FileId,
    len: usize,
    depth: usize,
    mut spans: impl Iterator<Item = u64>,
    writes_back: bool,
) -> Duration {
    let arena = Arena::new(MemoryBudget::new(128 << 20), ArenaOptions::default());
    let mut buffers: Vec<Buffer> =
        (0..depth).map(|_| Buffer::take(&arena, "the disk probe", len).expect("the budget holds them")).collect();
    let (begun, mut in_flight) = (Instant::now(), Vec::new());
    loop {
        while let Some(into) = buffers.pop() {
            let Some(offset) = spans.next() else {
                buffers.push(into);
                break;
            };
            in_flight.push((io.submit(IoOp::Read { file, offset, len, into }), writes_back.then_some(offset)));
        }
        if in_flight.is_empty() {
            return begun.elapsed();
        }
        io.drive();
        let mut has_come = false;
        for (token, write_to) in std::mem::take(&mut in_flight) {
            match (io.take(token), write_to) {
                (None, _) => in_flight.push((token, write_to)),
                (Some(Ok(IoOutput::Buffer(from))), Some(offset)) => {
                    has_come = true;
                    in_flight.push((io.submit(IoOp::Write { file, offset, from }), None));
                }
                (Some(Ok(IoOutput::Buffer(buffer))), None) => {
                    has_come = true;
                    buffers.push(buffer);
                }
                (Some(other), _) => panic!("{other:?}"),
            }
        }
        if !has_come {
            io.wait(Duration::from_millis(1));
        }
    }
}

fn sequential_mb_s(dir: &Path) -> f64 {
    let mut io = driver();
    let (file, len) = largest_extent(&mut *io, dir);
    let chunks = (len / MIB).min(1024);
    let took = read_spans(&mut *io, file, MIB as usize, 4, (0..chunks).map(|chunk| chunk * MIB), false);
    (chunks * MIB) as f64 / 1e6 / took.as_secs_f64()
}

/// How many pages a second are read at random, 32 at a time, and how many are read and written back, 128 at a time.
fn random_pages_per_s(mib: u64) -> (f64, f64) {
    const PAGE: u64 = 16 << 10;
    const READS: u64 = 20_000;
    let dir = directory("random-reads");
    std::fs::create_dir_all(&dir).expect("it can be created");
    let block = vec![0x5A; MIB as usize];
    let mut file = std::fs::File::create(dir.join("pages")).expect("it can be created");
    (0..mib).for_each(|_| std::io::Write::write_all(&mut file, &block).expect("the disk has room"));
    file.sync_all().expect("the disk works");
    let mut io = driver();
    let open = IoOp::Open { path: dir.join("pages"), mode: OpenMode::ReadWrite, direct: true };
    let Ok(IoOutput::File(file)) = io.complete(open) else { panic!("it was just written") };
    let pages = mib * MIB / PAGE;
    let place = |n: u64| n.wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(31) % pages * PAGE;
    let reads = read_spans(&mut *io, file, PAGE as usize, 32, (0..READS).map(place), false);
    let pairs = read_spans(&mut *io, file, PAGE as usize, 128, (0..READS).map(place), true);
    let _ = std::fs::remove_dir_all(&dir);
    (READS as f64 / reads.as_secs_f64(), READS as f64 / pairs.as_secs_f64())
}

fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    statm.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or_default() * 4096
}

fn spill(bench: &mut Bench, budget_mib: u64, for_time: Duration) {
    let keys = 4 * budget_mib * MIB / BYTES_PER_KEY;
    let dir = directory("spill");
    let (reads_before, pairs_before) = random_pages_per_s(4 * budget_mib);
    let memory_bytes = (budget_mib * MIB) as usize;
    let resident_before = resident_bytes();
    let engine = engine(memory_bytes);
    let count = Arc::new(AtomicU64::new(0));
    let counted = count.clone();
    let mut results = 0;
    let seen = move |_: &Reading| {
        results += 1;
        counted.store(results, Ordering::Relaxed);
    };
    let handle = engine.submit(job(keys, None, seen), options(&dir, memory_bytes)).expect("the job is valid");
    let wait_until = |records: u64| {
        while count.load(Ordering::Relaxed) < records {
            assert!(!handle.status().state.has_ended(), "the job ended: {:?}", handle.status().reason);
            std::thread::sleep(Duration::from_millis(5));
        }
    };
    wait_until(keys + keys / 100);
    let (begun, first) = (Instant::now(), count.load(Ordering::Relaxed));
    let mut resident_most = 0;
    while begun.elapsed() < for_time {
        resident_most = resident_most.max(resident_bytes().saturating_sub(resident_before));
        std::thread::sleep(Duration::from_millis(10));
    }
    let rate = (count.load(Ordering::Relaxed) - first) as f64 / begun.elapsed().as_secs_f64();
    handle.cancel();
    let _ = handle.wait();
    engine.stop();
    let _ = std::fs::remove_dir_all(&dir);
    let (reads_behind, pairs_behind) = random_pages_per_s(4 * budget_mib);
    // An eighth of the budget is kept for other things than pages.
    let misses_per_s = rate * (1.0 - 0.25 * 7.0 / 8.0);
    let scenario = format!("state of {} MiB in {budget_mib} MiB", 4 * budget_mib);
    bench.figure(Figure {
        limit: Some(reads_before.max(reads_behind) / 1e3),
        kernel: Some(pairs_before.max(pairs_behind) / 1e3),
        goal: Some(0.7),
        ..Figure::new(&scenario, "misses", misses_per_s / 1e3, "k/s")
    });
    bench.figure(Figure::new(&scenario, "records", rate / 1e3, "k/s"));
    bench.figure(Figure {
        limit: Some(budget_mib as f64),
        goal: Some(1.05),
        ..Figure::new(&scenario, "resident", resident_most as f64 / MIB as f64, "MiB")
    });
}
