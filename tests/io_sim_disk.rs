//! What a simulated disk does to those who forget a flush, and never to those who do not.

use millstream::io::{
    DiskFault, FileId, InjectedFault, Io, IoError, IoOp, IoOutput, OpenMode, Repeat, SimDisk, SimDiskOptions, SimIo,
    Survivors,
};
use millstream::memory::{Arena, ArenaOptions, Buffer, MemoryBudget};
use millstream::sim::Rng;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

struct Machine {
    disk: SimDisk,
    io: SimIo,
    arena: Arena,
}

impl Machine {
    fn new(seed: u64) -> Self {
        Self::with(seed, SimDiskOptions::default())
    }

    fn with(seed: u64, options: SimDiskOptions) -> Self {
        let disk = SimDisk::new(seed, options);
        let io = SimIo::new(&disk);
        Self { disk, io, arena: Arena::new(MemoryBudget::new(64 << 20), ArenaOptions::default()) }
    }

    fn filled(&self, bytes: &[u8]) -> Buffer {
        let mut buffer = Buffer::take(&self.arena, "sim disk test", bytes.len()).unwrap();
        assert!(buffer.append(bytes));
        buffer
    }

    fn create(&mut self, path: &str) -> Result<FileId, IoError> {
        let open = IoOp::Open { path: PathBuf::from(path), mode: OpenMode::CreateNew, direct: false };
        match self.io.complete(open)? {
            IoOutput::File(file) => Ok(file),
            other => panic!("an open gave {other:?}"),
        }
    }

    fn write(&mut self, file: FileId, bytes: &[u8]) -> Result<IoOutput, IoError> {
        let from = self.filled(bytes);
        self.io.complete(IoOp::Write { file, offset: 0, from })
    }

    fn sync(&mut self, file: FileId) -> Result<IoOutput, IoError> {
        self.io.complete(IoOp::SyncData { file })
    }

    fn sync_root(&mut self) -> Result<IoOutput, IoError> {
        self.io.complete(IoOp::SyncDir { path: "/".into() })
    }

    /// Loses power, and starts again.
    fn crash(&mut self, survivors: Survivors, seed: u64) {
        self.disk.crash_keeping(survivors, &mut Rng::new(seed));
        self.io = SimIo::new(&self.disk);
    }

    fn bytes(&self, path: &str) -> Option<Vec<u8>> {
        self.disk.bytes(Path::new(path))
    }

    fn inject(&self, at_operation: u64, repeat: Repeat, fault: DiskFault) {
        self.disk.inject(InjectedFault { at_operation, repeat, fault, under: None });
    }
}

#[test]
fn a_file_whose_bytes_and_directory_were_flushed_survives_every_crash() {
    for seed in 0..100 {
        let mut machine = Machine::new(seed);
        let file = machine.create("/file").unwrap();
        machine.write(file, &[7; 5000]).unwrap();
        machine.sync(file).unwrap();
        machine.sync_root().unwrap();
        machine.crash(Survivors::Random, seed);
        assert_eq!(machine.bytes("/file"), Some(vec![7; 5000]), "seed {seed}");
    }
}

#[test]
fn a_file_whose_directory_was_not_flushed_may_vanish() {
    let vanished = (0..50).filter(|seed| {
        let mut machine = Machine::new(*seed);
        let file = machine.create("/file").unwrap();
        machine.write(file, &[7; 5000]).unwrap();
        machine.sync(file).unwrap();
        machine.crash(Survivors::Random, *seed);
        machine.bytes("/file").is_none()
    });
    assert!((5..45).contains(&vanished.count()));
}

#[test]
fn what_a_killed_process_did_not_flush_is_there_until_the_power_fails() {
    let mut machine = Machine::new(1);
    let file = machine.create("/file").unwrap();
    machine.sync_root().unwrap();
    machine.write(file, &[7; 5000]).unwrap();
    machine.crash(Survivors::PageCache, 1);
    assert_eq!(machine.bytes("/file"), Some(vec![7; 5000]));
    machine.crash(Survivors::Nothing, 1);
    assert_eq!(machine.bytes("/file"), Some(Vec::new()));
}

#[test]
fn renaming_without_a_flush_may_leave_an_empty_file_and_with_one_never_does() {
    let replace = |seed: u64, flush: bool| {
        let mut machine = Machine::new(seed);
        let file = machine.create("/MANIFEST").unwrap();
        machine.write(file, b"old").unwrap();
        machine.sync(file).unwrap();
        machine.sync_root().unwrap();
        let new = machine.create("/MANIFEST.tmp").unwrap();
        machine.write(new, b"new").unwrap();
        if flush {
            machine.sync(new).unwrap();
        }
        machine.io.complete(IoOp::Rename { from: "/MANIFEST.tmp".into(), to: "/MANIFEST".into() }).unwrap();
        machine.crash(Survivors::Random, seed);
        machine.bytes("/MANIFEST").unwrap()
    };
    let careless: Vec<_> = (0..100).map(|seed| replace(seed, false)).collect();
    assert!(careless.contains(&Vec::new()));
    for seed in 0..100 {
        let bytes = replace(seed, true);
        assert!(bytes == b"old" || bytes == b"new", "seed {seed}: {bytes:?}");
    }
}

#[test]
fn a_write_under_way_when_the_power_fails_may_reach_the_disk_in_part() {
    let mut outcomes = Vec::new();
    for seed in 0..100 {
        let mut machine = Machine::with(seed, SimDiskOptions { latency_drives_max: 1000, ..Default::default() });
        let file = machine.create("/file").unwrap();
        machine.write(file, &[1; 2048]).unwrap();
        machine.sync(file).unwrap();
        machine.sync_root().unwrap();
        let from = machine.filled(&[2; 2048]);
        let token = machine.io.submit(IoOp::Write { file, offset: 0, from });
        machine.disk.crash(&mut Rng::new(seed));
        machine.io.drive();
        assert_eq!(machine.io.take(token).unwrap().unwrap_err().kind, ErrorKind::NotConnected);
        let sectors = machine.bytes("/file").unwrap().chunks(512).filter(|sector| sector[0] == 2).count();
        outcomes.push(sectors);
    }
    assert!(outcomes.contains(&0) && outcomes.contains(&4) && outcomes.contains(&2), "{outcomes:?}");
}

#[test]
fn the_nth_operation_fails_once_or_for_ever() {
    for (repeat, successes_after) in [(Repeat::Once, 5), (Repeat::Forever, 0)] {
        let mut machine = Machine::new(1);
        let file = machine.create("/file").unwrap();
        machine.inject(machine.disk.operations() + 2, repeat, DiskFault::Eio);
        let results: Vec<bool> = (0..8).map(|_| machine.write(file, &[1; 512]).is_ok()).collect();
        assert_eq!(results[..3], [true, true, false]);
        assert_eq!(results[3..].iter().filter(|ok| **ok).count(), successes_after);
    }
}

#[test]
fn a_fault_names_its_errno_and_the_file_it_hit() {
    let cases = [(DiskFault::Eio, 5), (DiskFault::Enospc, 28), (DiskFault::Edquot, 122)];
    for (fault, errno) in cases {
        let mut machine = Machine::new(1);
        let file = machine.create("/file").unwrap();
        machine.inject(0, Repeat::Once, fault);
        let error = machine.write(file, &[1; 512]).unwrap_err();
        assert_eq!((error.action, error.path.as_path()), ("write", Path::new("/file")));
        assert!(error.reason.contains(&format!("os error {errno}")), "{error}");
    }
}

#[test]
fn a_fault_below_one_directory_leaves_the_others_alone() {
    let mut machine = Machine::new(1);
    machine.io.complete(IoOp::CreateDirAll { path: "/state".into() }).unwrap();
    let under = Some(PathBuf::from("/state"));
    machine.disk.inject(InjectedFault { at_operation: 0, repeat: Repeat::Forever, fault: DiskFault::Enospc, under });
    assert!(machine.create("/output").is_ok());
    assert_eq!(machine.create("/state/file").unwrap_err().kind, ErrorKind::StorageFull);
    machine.disk.heal();
    assert!(machine.create("/state/file").is_ok());
}

#[test]
fn interruptions_and_short_transfers_are_invisible() {
    for fault in [DiskFault::Eintr, DiskFault::Eagain, DiskFault::Short] {
        let mut machine = Machine::new(1);
        let file = machine.create("/file").unwrap();
        machine.inject(0, Repeat::Forever, fault);
        assert!(machine.write(file, &[1; 5000]).is_ok());
        assert_eq!(machine.bytes("/file"), Some(vec![1; 5000]));
    }
}

#[test]
fn after_a_failed_flush_the_next_one_succeeds_and_the_bytes_may_be_lost() {
    let lost = (0..50).filter(|seed| {
        let mut machine = Machine::new(*seed);
        let file = machine.create("/file").unwrap();
        machine.sync_root().unwrap();
        machine.write(file, &[1; 512]).unwrap();
        machine.sync(file).unwrap();
        machine.write(file, &[2; 512]).unwrap();
        machine.inject(0, Repeat::Once, DiskFault::Eio);
        assert!(machine.sync(file).is_err());
        assert!(machine.sync(file).is_ok());
        assert_eq!(machine.bytes("/file"), Some(vec![2; 512]));
        machine.crash(Survivors::Everything, *seed);
        machine.bytes("/file") == Some(vec![1; 512])
    });
    assert!(lost.count() > 5);
}

#[test]
fn a_full_disk_refuses_and_takes_again_when_something_was_removed() {
    let mut machine = Machine::with(1, SimDiskOptions { capacity_bytes: 10_000, ..Default::default() });
    let first = machine.create("/first").unwrap();
    machine.write(first, &[1; 8000]).unwrap();
    let second = machine.create("/second").unwrap();
    assert_eq!(machine.write(second, &[2; 4000]).unwrap_err().kind, ErrorKind::StorageFull);
    assert!(machine.disk.used_bytes() <= 10_000);
    assert!(machine.write(first, &[3; 8000]).is_ok(), "overwriting takes no space");
    let more = machine.io.complete(IoOp::Allocate { file: second, len_bytes: 5000 });
    assert_eq!(more.unwrap_err().kind, ErrorKind::StorageFull);
    machine.io.complete(IoOp::Remove { path: "/first".into() }).unwrap();
    assert!(machine.write(second, &[2; 4000]).is_ok());
}

#[test]
fn lost_and_misdirected_writes_are_acknowledged() {
    let mut machine = Machine::new(1);
    let file = machine.create("/file").unwrap();
    machine.write(file, &[1; 8192]).unwrap();
    machine.inject(0, Repeat::Once, DiskFault::LostWrite);
    assert!(machine.write(file, &[2; 4096]).is_ok());
    assert_eq!(machine.bytes("/file"), Some(vec![1; 8192]));
    machine.inject(0, Repeat::Once, DiskFault::MisdirectedWrite);
    assert!(machine.write(file, &[3; 4096]).is_ok());
    assert_eq!(machine.bytes("/file"), Some([[1; 4096], [3; 4096]].concat()));
}

#[test]
fn a_machine_halted_at_an_operation_does_nothing_more() {
    let mut machine = Machine::new(1);
    let file = machine.create("/file").unwrap();
    machine.disk.halt_at(machine.disk.operations() + 1);
    assert!(machine.write(file, &[1; 512]).is_ok());
    assert!(machine.disk.is_halted());
    assert_eq!(machine.write(file, &[2; 512]).unwrap_err().kind, ErrorKind::NotConnected);
    assert_eq!(machine.bytes("/file"), Some(vec![1; 512]));
    machine.crash(Survivors::Everything, 1);
    assert!(!machine.disk.is_halted());
    assert!(machine.create("/next").is_ok());
}

#[test]
fn the_same_seed_gives_the_same_trace_and_another_one_another_order() {
    let run = |seed: u64| {
        let options = SimDiskOptions { error_permille: 100, ..Default::default() };
        let mut machine = Machine::with(seed, options);
        let names: Vec<String> = (0..20).map(|i| format!("/{i}")).collect();
        for name in &names {
            machine.io.submit(IoOp::Open { path: name.into(), mode: OpenMode::Create, direct: false });
        }
        while machine.io.in_flight() > 0 {
            machine.io.drive();
        }
        machine.crash(Survivors::Random, seed);
        let listed = machine.io.complete(IoOp::List { path: "/".into() });
        (machine.disk.trace_hash(), format!("{listed:?}"))
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
}

#[test]
fn a_corrupted_byte_is_read_back_changed() {
    let mut machine = Machine::new(1);
    let file = machine.create("/file").unwrap();
    machine.write(file, &[1; 100]).unwrap();
    machine.sync(file).unwrap();
    assert!(machine.disk.corrupt(Path::new("/file"), 50, 0x80));
    assert_eq!(machine.bytes("/file").unwrap()[49..52], [1, 0x81, 1]);
    assert!(!machine.disk.corrupt(Path::new("/missing"), 0, 1));
}
