//! What this machine can do at best: every limit that the other benches hold their figures against.
//!
//! `cargo bench --bench limits [-- --quick --json]`. Nothing of the engine runs here but its doorbell and its pinning.
#![allow(clippy::disallowed_methods, reason = "a bench reads clocks, starts threads and writes files itself")]

#[path = "support/cache_line.rs"]
mod cache_line;
#[path = "support/cpus.rs"]
mod cpus;
#[path = "support/disk.rs"]
mod disk;
#[path = "support/hiccup.rs"]
mod hiccup;
#[path = "support/median.rs"]
mod median;
#[path = "support/memory.rs"]
mod memory;
#[path = "support/spsc.rs"]
mod spsc;
#[path = "support/spsc_chunked.rs"]
mod spsc_chunked;
mod support;
#[path = "support/wake.rs"]
mod wake;

use hdrhistogram::Histogram;
use median::median;
use std::time::Duration;
use support::{Bench, Figure};

fn main() {
    let mut bench = Bench::start("limits");
    between_cores(&mut bench);
    of_memory(&mut bench);
    if let Err(reason) = of_the_disk(&mut bench) {
        eprintln!("warning: the disk under target/ cannot be measured: {reason}");
    }
    bench.finish();
}

fn between_cores(bench: &mut Bench) {
    let scale = if bench.is_quick() { 1 } else { 10 };
    times(bench, "hiccup: gaps of a spinning thread", &hiccup::gaps(Duration::from_millis(300 * scale)));
    times(bench, "cache-line hop, one way", &cache_line::hop(200_000 * scale));
    let queue = median(3, || spsc::numbers_per_s(1_000_000 * scale));
    bench.figure(Figure::new("ArrayQueue, u64 by u64", "rate", queue / 1e6, "M/s"));
    let chunked = median(3, || spsc_chunked::records_per_s(10_000_000 * scale));
    bench.figure(Figure::new("ArrayQueue of 32 KiB, 32 B records", "rate", chunked / 1e6, "M/s"));
    times(bench, "wake a parked thread, futex", &wake::futex(300 * scale));
    times(bench, "wake a parked thread, eventfd", &wake::eventfd(300 * scale));
}

fn of_memory(bench: &mut Bench) {
    let (mib, updates) = if bench.is_quick() { (64, 1_000_000) } else { (1024, 20_000_000) };
    let mut memory = memory::Memory::new(mib << 20);
    let mut figure = |scenario: &str, metric, unit, run: &mut dyn FnMut(&mut memory::Memory) -> f64| {
        let value = median(3, || run(&mut memory));
        bench.figure(Figure::new(format!("{scenario}, {mib} MiB"), metric, value, unit));
    };
    figure("sequential read", "bandwidth", "GB/s", &mut |memory| memory.read_gb_s());
    figure("sequential write", "bandwidth", "GB/s", &mut |memory| memory.write_gb_s());
    figure("random update, one by one", "each", "ns", &mut |memory| memory.update_ns(updates));
    figure("random update, touched ahead by 32", "each", "ns", &mut |memory| memory.grouped_update_ns(updates));
    figure("copy of a cold 16 KiB page", "each", "us", &mut |memory| memory.page_copy_us(updates / 1_000));
}

fn of_the_disk(bench: &mut Bench) -> std::io::Result<()> {
    let (mib, rounds) = if bench.is_quick() { (32, 50) } else { (256, 1_000) };
    let disk = disk::Disk::new(mib)?;
    let how = if disk.is_direct { "O_DIRECT" } else { "buffered (O_DIRECT refused)" };
    let rate = disk.write_mb_s()?;
    bench.figure(Figure::new(format!("overwrite by 1 MiB, {how}"), "bandwidth", rate, "MB/s"));
    times(bench, &format!("4 KiB overwrite + fdatasync, {how}"), &disk.durable_write(rounds)?);
    Ok(())
}

fn times(bench: &mut Bench, scenario: &str, times: &Histogram<u64>) {
    bench.latencies(scenario, times, &[]);
    for (metric, quantile) in [("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999), ("max", 1.0)] {
        bench.figure(Figure::new(scenario, metric, times.value_at_quantile(quantile) as f64, "ns"));
    }
}
