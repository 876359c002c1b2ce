//! The same facts for every driver of the disk.

#[path = "support/io_suite.rs"]
mod io_suite;

use io_suite::{FACTS, Subject};
use millstream::io::{BlockingIo, Io, SimDisk, SimDiskOptions, SimIo, UringIo};
use millstream::slot::Doorbell;
use std::path::{Path, PathBuf};
use std::sync::Arc;

fn run(driver: &str, real_files: bool, start: impl Fn(Arc<Doorbell>) -> Box<dyn Io>) {
    let base = if real_files {
        Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("io-{driver}-{}", std::process::id()))
    } else {
        PathBuf::from("/simulated")
    };
    for (name, fact) in FACTS {
        println!("{driver}: {name}");
        let doorbell = Arc::new(Doorbell::new().unwrap());
        let io = start(Arc::clone(&doorbell));
        fact(&mut Subject::new(io, doorbell, &base.join(name)));
    }
    if real_files {
        std::fs::remove_dir_all(&base).unwrap();
    }
}

#[test]
fn the_ring_does_what_every_driver_must() {
    match UringIo::new(Arc::new(Doorbell::new().unwrap())) {
        Ok(_) => run("ring", true, |bell| Box::new(UringIo::new(bell).unwrap())),
        Err(why) => println!("skipped: {why}"),
    }
}

#[test]
fn the_helper_thread_does_what_every_driver_must() {
    run("helper", true, |bell| Box::new(BlockingIo::new(bell).unwrap()));
}

#[test]
fn the_simulated_disk_does_what_every_driver_must() {
    for seed in 0..20 {
        run("simulated", false, |_| Box::new(SimIo::new(&SimDisk::new(seed, SimDiskOptions::default()))));
    }
}
