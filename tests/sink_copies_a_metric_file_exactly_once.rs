//! A metric file read by the source and written by the sink, on the real file system, with a restart from every checkpoint.
#![cfg(feature = "formats")]
#![allow(clippy::disallowed_methods, reason = "the test looks at the real file system")]

#[path = "support/std_disk.rs"]
mod std_disk;

use millstream::checkpoint::CheckpointId;
use millstream::memory::{Arena, ArenaOptions, MemoryBudget};
use millstream::record::Stamp;
use millstream::sink::{JsonLines, Sink, SinkContext, SinkError, SinkWriter};
use millstream::source::{MetricFileSource, ReadContext, ReadStatus, Reading, Source, SourceError, SplitReader};
use millstream::time::EventTimeMs;
use std::path::{Path, PathBuf};
use std_disk::StdDisk;

/// A directory that is removed with the test.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("millstream-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).unwrap();
    }
}

fn encode(reading: &Reading, line: &mut Vec<u8>) {
    line.extend_from_slice(format!("{},{}", reading.sample.at, reading.sample.value).as_bytes());
}

/// A checkpoint of the whole job: number, position, committable.
type Checkpoint = (u64, Vec<u8>, Vec<u8>);

/// Copies until one more checkpoint is complete (but not committed), or until the file has ended and everything is committed.
fn copy(from: &Path, to: &Path, last: Option<&Checkpoint>) -> Option<Checkpoint> {
    let arena = Arena::new(MemoryBudget::new(16 << 20), ArenaOptions::default());
    let mut io = StdDisk::default();
    let source = MetricFileSource::open([from]);
    let split = source.splits(&mut io).unwrap().remove(0);
    let mut reader = source.open(&split, last.map(|(_, position, _)| &position[..])).unwrap();
    let mut writer = Sink::<Reading>::open(&JsonLines::exactly_once_with(to, encode), 0, 1).unwrap();
    let mut sink = SinkContext { now_ns: 0, io: &mut io, arena: &arena };
    if let Some((_, _, committable)) = last {
        writer.restore(&mut sink, &[(0, committable.clone())]).unwrap();
    }
    while !writer.is_ready() {
        writer.poll(&mut sink).unwrap();
    }
    let (mut records, mut status) = (0, ReadStatus::More);
    while records < 1000 && status != ReadStatus::Ended {
        let mut batch = Vec::new();
        let mut cx = ReadContext { now_ns: 0, wall_ms: 0, io: &mut io, arena: &arena, dropped: &mut |_| () };
        status = reader.read(&mut cx, 100, |_, reading, _| batch.push(reading.clone())).unwrap();
        records += batch.len();
        let mut sink = SinkContext { now_ns: 0, io: &mut io, arena: &arena };
        let stamp = Stamp { at: EventTimeMs(0), clock: EventTimeMs::MIN, split: 0, origin_ns: 0 };
        batch.iter().for_each(|reading| writer.write(&mut sink, &stamp, reading).unwrap());
    }
    let id = last.map_or(1, |(id, ..)| id + 1);
    let mut position = Vec::new();
    reader.position(&mut position);
    let mut sink = SinkContext { now_ns: 0, io: &mut io, arena: &arena };
    let committable = writer.snapshot(&mut sink, CheckpointId(id)).unwrap();
    while !writer.is_prepared() {
        writer.poll(&mut sink).unwrap();
    }
    if status != ReadStatus::Ended {
        return Some((id, position, committable));
    }
    writer.commit(&mut sink, CheckpointId(id)).unwrap();
    while !writer.is_committed() {
        writer.poll(&mut sink).unwrap();
    }
    None
}

#[test]
fn a_copy_that_dies_after_every_checkpoint_is_complete_and_exact() {
    let directory = Directory::new("copy");
    let (from, to) = (directory.0.join("cpu.csv"), directory.0.join("out"));
    let rows: String = (0..10_500).map(|n| format!("{},{}\r\n", n * 1000, f64::from(n) / 7.0)).collect();
    std::fs::write(&from, format!("timestamp,value\r\n{rows}")).unwrap();
    let mut checkpoints: Vec<Checkpoint> = Vec::new();
    while let Some(checkpoint) = copy(&from, &to, checkpoints.last()) {
        checkpoints.push(checkpoint);
    }
    assert_eq!(checkpoints.len(), 10);
    let mut names: Vec<_> = std::fs::read_dir(&to).unwrap().map(|entry| entry.unwrap().path()).collect();
    names.sort();
    assert_eq!(names.len(), 11, "{names:?}");
    let copied: String = names.iter().map(|name| std::fs::read_to_string(name).unwrap()).collect();
    assert!(copied == rows.replace('\r', ""));
}

#[test]
fn a_directory_given_as_a_file_and_a_missing_file_are_refused_by_the_real_file_system_too() {
    let directory = Directory::new("refused");
    let refusal = |path: PathBuf| MetricFileSource::open([path]).splits(&mut StdDisk::default()).unwrap_err();
    assert!(matches!(refusal(directory.0.clone()), SourceError::IsDirectory { .. }));
    assert!(matches!(refusal(directory.0.join("nil")), SourceError::NoSuchFile { .. }));
}

#[test]
fn an_output_directory_that_cannot_be_made_is_an_error() {
    let directory = Directory::new("unmakable");
    let file = directory.0.join("file");
    std::fs::write(&file, "").unwrap();
    let arena = Arena::new(MemoryBudget::new(16 << 20), ArenaOptions::default());
    let mut io = StdDisk::default();
    let mut cx = SinkContext { now_ns: 0, io: &mut io, arena: &arena };
    let mut writer = Sink::<Reading>::open(&JsonLines::exactly_once_with(file.join("out"), encode), 0, 1).unwrap();
    let refusal = writer.poll(&mut cx).unwrap_err();
    assert!(matches!(refusal, SinkError::Io(_)), "{refusal}");
}
