//! What every `Io` must do, one fact a function. `FACTS` lists them, so that a run over another driver leaves none out.
//!
//! Not here: what only the simulated disk does (crashes, faults), and which driver a process gets.

use millstream::io::{FileId, Io, IoError, IoOp, IoOutput, IoToken, OpenMode};
use millstream::memory::{Arena, ArenaOptions, Buffer, MemoryBudget};
use millstream::slot::Doorbell;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// A driver, its doorbell and an empty directory of its own.
pub struct Subject {
    pub io: Box<dyn Io>,
    pub doorbell: Arc<Doorbell>,
    pub root: PathBuf,
    arena: Arena,
}

impl Subject {
    pub fn new(io: Box<dyn Io>, doorbell: Arc<Doorbell>, root: &Path) -> Self {
        let arena = Arena::new(MemoryBudget::new(256 << 20), ArenaOptions::default());
        let mut subject = Self { io, doorbell, root: root.to_path_buf(), arena };
        subject.ok(IoOp::CreateDirAll { path: root.to_path_buf() });
        subject
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    fn buffer(&self, capacity: usize) -> Buffer {
        Buffer::take(&self.arena, "io suite", capacity).unwrap()
    }

    fn filled(&self, bytes: &[u8]) -> Buffer {
        let mut buffer = self.buffer(bytes.len().max(1));
        assert!(buffer.append(bytes));
        buffer
    }

    fn ok(&mut self, op: IoOp) -> IoOutput {
        self.io.complete(op).unwrap()
    }

    fn fails(&mut self, op: IoOp) -> IoError {
        self.io.complete(op).unwrap_err()
    }

    fn open(&mut self, name: &str, mode: OpenMode, direct: bool) -> Result<FileId, IoError> {
        let path = self.path(name);
        match self.io.complete(IoOp::Open { path, mode, direct })? {
            IoOutput::File(file) => Ok(file),
            other => panic!("an open gave {other:?}"),
        }
    }

    fn create(&mut self, name: &str) -> FileId {
        self.open(name, OpenMode::CreateNew, false).unwrap()
    }

    fn write(&mut self, file: FileId, offset: u64, bytes: &[u8]) {
        let from = self.filled(bytes);
        match self.ok(IoOp::Write { file, offset, from }) {
            IoOutput::Buffer(buffer) => assert_eq!(buffer.filled(), bytes),
            other => panic!("a write gave {other:?}"),
        }
    }

    fn read(&mut self, file: FileId, offset: u64, len: usize) -> Vec<u8> {
        let into = self.buffer(len.max(1));
        match self.ok(IoOp::Read { file, offset, len, into }) {
            IoOutput::Buffer(buffer) => buffer.filled().to_vec(),
            other => panic!("a read gave {other:?}"),
        }
    }

    fn len(&mut self, file: FileId) -> u64 {
        match self.ok(IoOp::FileLen { file }) {
            IoOutput::Len(len) => len,
            other => panic!("a length gave {other:?}"),
        }
    }

    fn list(&mut self, name: &str) -> Vec<String> {
        let path = self.path(name);
        match self.ok(IoOp::List { path }) {
            IoOutput::Names(names) => names,
            other => panic!("a listing gave {other:?}"),
        }
    }

    /// Whether a wait of an hour ends because another thread rings, as producers ring: without writing unless it is announced.
    pub fn is_woken_by_the_doorbell(&mut self) -> bool {
        let bell = Arc::clone(&self.doorbell);
        let awake = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&awake);
        let ringing = std::thread::Builder::new().spawn(move || {
            for _ in 0..100_000 {
                bell.ring();
                if seen.load(Ordering::Acquire) {
                    return true;
                }
                std::thread::park_timeout(Duration::from_micros(100));
            }
            bell.write();
            false
        });
        self.io.wait(Duration::from_secs(3600));
        awake.store(true, Ordering::Release);
        ringing.unwrap().join().unwrap()
    }

    fn finish(&mut self, token: IoToken) -> Result<IoOutput, IoError> {
        for _ in 0..10_000 {
            self.io.drive();
            if let Some(result) = self.io.take(token) {
                return result;
            }
            self.io.wait(Duration::from_millis(10));
        }
        panic!("the operation never completed")
    }
}

/// A fact and its name.
pub type Fact = (&'static str, fn(&mut Subject));

/// Every fact.
pub const FACTS: &[Fact] = &[
    ("what_was_written_is_read_back", what_was_written_is_read_back),
    ("a_read_at_the_end_of_a_file_is_short", a_read_at_the_end_of_a_file_is_short),
    ("an_empty_write_changes_nothing", an_empty_write_changes_nothing),
    ("a_read_larger_than_its_buffer_is_refused", a_read_larger_than_its_buffer_is_refused),
    ("a_missing_file_is_opened_only_by_a_creating_mode", a_missing_file_is_opened_only_by_a_creating_mode),
    ("create_new_refuses_a_file_that_is_there", create_new_refuses_a_file_that_is_there),
    ("create_keeps_what_is_there", create_keeps_what_is_there),
    ("a_file_opened_for_reading_cannot_be_written", a_file_opened_for_reading_cannot_be_written),
    ("a_direct_file_reads_what_was_written_and_ends_where_it_was_cut", a_direct_file_reads_what_was_written),
    ("allocation_makes_a_file_longer_and_never_shorter", allocation_makes_a_file_longer_and_never_shorter),
    ("truncation_cuts_a_file", truncation_cuts_a_file),
    ("a_flush_of_files_and_directories_succeeds", a_flush_of_files_and_directories_succeeds),
    ("a_listing_is_sorted", a_listing_is_sorted),
    ("a_rename_replaces_what_is_there", a_rename_replaces_what_is_there),
    ("a_removed_file_is_gone_but_stays_readable_where_it_is_open", a_removed_file_is_gone),
    ("directories_are_created_with_their_parents_and_once_more", directories_are_created_with_their_parents),
    ("an_error_says_what_was_tried_on_which_path", an_error_says_what_was_tried_on_which_path),
    ("a_closed_file_takes_no_more_operations", a_closed_file_takes_no_more_operations),
    ("many_operations_at_once_all_complete", many_operations_at_once_all_complete),
    ("a_completion_is_given_once", a_completion_is_given_once),
    ("a_forgotten_operation_takes_effect_and_gives_its_buffer_back", a_forgotten_operation_takes_effect),
    ("an_idle_wait_ends_by_itself", an_idle_wait_ends_by_itself),
    ("a_wait_ends_when_the_doorbell_rings", a_wait_ends_when_the_doorbell_rings),
    ("a_wait_ends_when_an_operation_completes", a_wait_ends_when_an_operation_completes),
    ("a_polling_loop_that_never_waits_makes_progress", a_polling_loop_that_never_waits_makes_progress),
];

fn what_was_written_is_read_back(on: &mut Subject) {
    let file = on.create("data");
    let bytes: Vec<u8> = (0..300_000u32).map(|i| (i % 251) as u8).collect();
    on.write(file, 0, &bytes);
    on.write(file, 1000, b"over");
    assert_eq!(on.read(file, 998, 8), [&bytes[998..1000], b"over", &bytes[1004..1006]].concat());
    assert_eq!(on.read(file, 0, 300_000).len(), 300_000);
    assert_eq!(on.read(file, 299_000, 1000), bytes[299_000..]);
}

fn a_read_at_the_end_of_a_file_is_short(on: &mut Subject) {
    let file = on.create("short");
    on.write(file, 0, b"0123456789");
    assert_eq!(on.read(file, 6, 100), b"6789");
    assert_eq!(on.read(file, 10, 100), b"");
    assert_eq!(on.read(file, 1 << 40, 100), b"");
}

fn an_empty_write_changes_nothing(on: &mut Subject) {
    let file = on.create("empty");
    on.write(file, 5000, b"");
    assert_eq!(on.len(file), 0);
}

fn a_read_larger_than_its_buffer_is_refused(on: &mut Subject) {
    let file = on.create("large");
    let into = on.buffer(4096);
    let error = on.fails(IoOp::Read { file, offset: 0, len: 4097, into });
    assert_eq!(error.kind, ErrorKind::InvalidInput);
}

fn a_missing_file_is_opened_only_by_a_creating_mode(on: &mut Subject) {
    assert_eq!(on.open("missing", OpenMode::Read, false).unwrap_err().kind, ErrorKind::NotFound);
    assert_eq!(on.open("missing", OpenMode::ReadWrite, false).unwrap_err().kind, ErrorKind::NotFound);
    assert!(on.open("missing", OpenMode::Create, false).is_ok());
    assert!(on.open("missing", OpenMode::Read, false).is_ok());
}

fn create_new_refuses_a_file_that_is_there(on: &mut Subject) {
    on.create("there");
    assert_eq!(on.open("there", OpenMode::CreateNew, false).unwrap_err().kind, ErrorKind::AlreadyExists);
    assert_eq!(on.open("there", OpenMode::CreateNew, true).unwrap_err().kind, ErrorKind::AlreadyExists);
    assert!(on.open("not there", OpenMode::CreateNew, true).is_ok());
}

fn create_keeps_what_is_there(on: &mut Subject) {
    let file = on.create("kept");
    on.write(file, 0, b"kept");
    let again = on.open("kept", OpenMode::Create, false).unwrap();
    assert_eq!(on.read(again, 0, 10), b"kept");
}

fn a_file_opened_for_reading_cannot_be_written(on: &mut Subject) {
    on.create("readable");
    let file = on.open("readable", OpenMode::Read, false).unwrap();
    let from = on.filled(b"no");
    assert_eq!(on.fails(IoOp::Write { file, offset: 0, from }).action, "write");
    assert_eq!(on.read(file, 0, 10), b"");
}

fn a_direct_file_reads_what_was_written(on: &mut Subject) {
    let file = on.open("direct", OpenMode::CreateNew, true).unwrap();
    on.write(file, 0, &[7; 16384]);
    on.write(file, 4096, &[8; 4096]);
    on.ok(IoOp::SyncData { file });
    assert_eq!(on.read(file, 4096, 8192), [[8; 4096], [7; 4096]].concat());
    assert_eq!(on.read(file, 12288, 8192), [7; 4096]);
    assert_eq!(on.read(file, 16384, 4096), Vec::<u8>::new());
    on.ok(IoOp::Truncate { file, len_bytes: 5000 });
    assert_eq!(on.read(file, 0, 16384).len(), 5000);
}

fn allocation_makes_a_file_longer_and_never_shorter(on: &mut Subject) {
    let file = on.create("allocated");
    on.ok(IoOp::Allocate { file, len_bytes: 100_000 });
    assert_eq!(on.len(file), 100_000);
    assert_eq!(on.read(file, 99_990, 100), [0; 10]);
    on.ok(IoOp::Allocate { file, len_bytes: 10 });
    assert_eq!(on.len(file), 100_000);
}

fn truncation_cuts_a_file(on: &mut Subject) {
    let file = on.create("cut");
    on.write(file, 0, b"0123456789");
    on.ok(IoOp::Truncate { file, len_bytes: 4 });
    assert_eq!(on.len(file), 4);
    on.ok(IoOp::Truncate { file, len_bytes: 6 });
    assert_eq!(on.read(file, 0, 10), b"0123\0\0");
}

fn a_flush_of_files_and_directories_succeeds(on: &mut Subject) {
    let file = on.create("flushed");
    on.write(file, 0, b"bytes");
    on.ok(IoOp::SyncData { file });
    let path = on.root.clone();
    on.ok(IoOp::SyncDir { path });
}

fn a_listing_is_sorted(on: &mut Subject) {
    for name in ["b", "a", ".hidden", "c"] {
        on.create(name);
    }
    assert_eq!(on.list(""), [".hidden", "a", "b", "c"]);
}

fn a_rename_replaces_what_is_there(on: &mut Subject) {
    let new = on.create("new");
    on.write(new, 0, b"new");
    let old = on.create("old");
    on.write(old, 0, b"old");
    let (from, to) = (on.path("new"), on.path("old"));
    on.ok(IoOp::Rename { from, to });
    assert_eq!(on.list(""), ["old"]);
    let file = on.open("old", OpenMode::Read, false).unwrap();
    assert_eq!(on.read(file, 0, 10), b"new");
    assert_eq!(on.read(old, 0, 10), b"old");
}

fn a_removed_file_is_gone(on: &mut Subject) {
    let file = on.create("removed");
    on.write(file, 0, b"still");
    let path = on.path("removed");
    on.ok(IoOp::Remove { path: path.clone() });
    assert!(on.list("").is_empty());
    assert_eq!(on.read(file, 0, 10), b"still");
    assert_eq!(on.fails(IoOp::Remove { path }).kind, ErrorKind::NotFound);
}

fn directories_are_created_with_their_parents(on: &mut Subject) {
    let path = on.path("a/b/c");
    on.ok(IoOp::CreateDirAll { path: path.clone() });
    on.ok(IoOp::CreateDirAll { path });
    on.create("a/b/c/file");
    assert_eq!(on.list("a/b"), ["c"]);
    assert_eq!(on.list("a/b/c"), ["file"]);
}

fn an_error_says_what_was_tried_on_which_path(on: &mut Subject) {
    let missing = on.path("missing");
    let to = on.path("to");
    let opening = IoOp::Open { path: missing.clone(), mode: OpenMode::Read, direct: false };
    let cases = [
        (opening, "open"),
        (IoOp::Remove { path: missing.clone() }, "remove"),
        (IoOp::Rename { from: missing.clone(), to }, "rename"),
        (IoOp::List { path: missing.clone() }, "list"),
        (IoOp::SyncDir { path: missing.clone() }, "sync directory"),
    ];
    for (op, action) in cases {
        let error = on.fails(op);
        assert_eq!((error.action, &error.path, error.kind), (action, &missing, ErrorKind::NotFound));
        let text = error.to_string();
        assert!(text.starts_with(&format!("cannot {action} \"")) && text.contains("os error 2"), "{text}");
    }
}

fn a_closed_file_takes_no_more_operations(on: &mut Subject) {
    let file = on.create("closed");
    on.ok(IoOp::Close { file });
    assert_eq!(on.fails(IoOp::FileLen { file }).kind, ErrorKind::InvalidInput);
    assert_eq!(on.fails(IoOp::Close { file }).kind, ErrorKind::InvalidInput);
}

fn many_operations_at_once_all_complete(on: &mut Subject) {
    let file = on.create("many");
    let tokens: Vec<_> = (0..500u64)
        .map(|i| {
            let from = on.filled(&i.to_le_bytes());
            on.io.submit(IoOp::Write { file, offset: i * 8, from })
        })
        .collect();
    assert_eq!(on.io.in_flight(), 500);
    // The last first: completions wait for whoever asks, in any order.
    for token in tokens.into_iter().rev() {
        assert!(on.finish(token).is_ok());
    }
    assert_eq!(on.io.in_flight(), 0);
    let expected: Vec<u8> = (0..500u64).flat_map(u64::to_le_bytes).collect();
    assert_eq!(on.read(file, 0, 4000), expected);
}

fn a_completion_is_given_once(on: &mut Subject) {
    let path = on.root.clone();
    let token = on.io.submit(IoOp::List { path });
    assert!(on.finish(token).is_ok());
    on.io.drive();
    assert!(on.io.take(token).is_none());
}

fn a_forgotten_operation_takes_effect(on: &mut Subject) {
    let file = on.create("forgotten");
    // Room for few buffers: they run out unless each comes back.
    let arena = Arena::new(MemoryBudget::new(4 << 20), ArenaOptions::default());
    for round in 0..20u64 {
        let mut from = Buffer::take(&arena, "forgotten", 1 << 20).unwrap();
        from.set_len(1 << 20);
        let written = on.io.submit(IoOp::Write { file, offset: round << 20, from });
        let path = on.path("opened in vain");
        let opened = on.io.submit(IoOp::Open { path, mode: OpenMode::Create, direct: false });
        on.io.forget(written);
        on.io.forget(opened);
        while on.io.in_flight() > 0 {
            on.io.drive();
            on.io.wait(Duration::from_millis(10));
        }
        assert!(on.io.take(written).is_none() && on.io.take(opened).is_none());
    }
    assert_eq!(on.len(file), 20 << 20);
    assert_eq!(on.list(""), ["forgotten", "opened in vain"]);
}

fn an_idle_wait_ends_by_itself(on: &mut Subject) {
    on.io.wait(Duration::from_millis(1));
    on.io.wait(Duration::ZERO);
    on.io.drive();
    assert_eq!(on.io.in_flight(), 0);
}

fn a_wait_ends_when_the_doorbell_rings(on: &mut Subject) {
    for _ in 0..20 {
        assert!(on.is_woken_by_the_doorbell());
    }
}

fn a_wait_ends_when_an_operation_completes(on: &mut Subject) {
    let file = on.create("awaited");
    for i in 0..20u64 {
        let from = on.filled(&[1; 4096]);
        let token = on.io.submit(IoOp::Write { file, offset: i * 4096, from });
        let mut result = on.io.take(token);
        while result.is_none() {
            on.io.wait(Duration::from_secs(3600));
            result = on.io.take(token);
        }
        assert!(result.is_some_and(|result| result.is_ok()));
    }
}

fn a_polling_loop_that_never_waits_makes_progress(on: &mut Subject) {
    let file = on.create("polled");
    let from = on.filled(&[1; 4096]);
    let token = on.io.submit(IoOp::Write { file, offset: 0, from });
    let mut polls = 0u64;
    while on.io.take(token).is_none() {
        on.io.drive();
        polls += 1;
        assert!(polls < 100_000_000, "never completed");
    }
}
