//! A failed io_uring_enter used to hang the thread for ever: tokio-uring drops the error and does not submit again before the
//! next park, which never comes. The heartbeat of `wait` and the tick of `drive` make that park come.
//!
//! strace makes the Nth call fail. Skipped, saying so, where there is no strace or no io_uring.

#[path = "support/child.rs"]
mod child;
#[path = "support/small_job.rs"]
mod small_job;

use millstream::io::{Io, IoChoice, IoOp, IoOutput, OpenMode, UringIo};
use millstream::memory::{Arena, ArenaOptions, Buffer, MemoryBudget};
use millstream::slot::Doorbell;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

const ERRORS: [&str; 4] = ["EINTR", "EAGAIN", "EBUSY", "ENOMEM"];

/// Which calls fail: single ones, some in a row (the runtime often parks twice by itself, which hides a single one), every third.
const CALLS: [&str; 12] = ["1", "2", "3", "4", "5", "10", "40", "1..4", "3..9", "10..14", "20..30", "5+3"];

#[test]
fn operations_complete_after_io_uring_enter_failed() {
    const CHILD: &str = "MILLSTREAM_TEST_UNDER_STRACE";
    if std::env::var_os(CHILD).is_some() {
        return write_polling_and_waiting();
    }
    if let Some(reason) = cannot_run() {
        println!("skipped: {reason}");
        return;
    }
    for error in ERRORS {
        for call in CALLS {
            let inject = format!("inject=io_uring_enter:error={error}:when={call}");
            let mut command = Command::new("strace");
            command.args(["-f", "-o", "/dev/null", "-e", "trace=io_uring_enter", "-e", &inject]);
            command.arg(std::env::current_exe().unwrap()).stdout(Stdio::null());
            child::only(command.env(CHILD, "1"), "operations_complete_after_io_uring_enter_failed");
            let status = child::wait_at_most(&mut command.spawn().unwrap(), Duration::from_secs(60));
            let status = status.unwrap_or_else(|| panic!("hangs with {inject}"));
            assert!(status.success(), "fails with {inject}: {status}");
        }
    }
}

#[test]
fn a_job_completes_although_io_uring_enter_fails() {
    const CHILD: &str = "MILLSTREAM_TEST_JOB_UNDER_STRACE";
    let test = "a_job_completes_although_io_uring_enter_fails";
    if std::env::var_os(CHILD).is_some() {
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{test}-{}", std::process::id()));
        return small_job::writes_every_number_once(&dir, IoChoice::Uring);
    }
    if let Some(reason) = cannot_run() {
        println!("skipped: {reason}");
        return;
    }
    for (error, call) in [("EAGAIN", "1"), ("EINTR", "5..20"), ("EBUSY", "10+7"), ("ENOMEM", "30..40")] {
        let inject = format!("inject=io_uring_enter:error={error}:when={call}");
        let mut command = Command::new("strace");
        command.args(["-f", "-o", "/dev/null", "-e", "trace=io_uring_enter", "-e", &inject]);
        command.arg(std::env::current_exe().unwrap()).stdout(Stdio::null());
        child::only(command.env(CHILD, "1"), test);
        let status = child::wait_at_most(&mut command.spawn().unwrap(), Duration::from_secs(60));
        let status = status.unwrap_or_else(|| panic!("hangs with {inject}"));
        assert!(status.success(), "fails with {inject}: {status}");
    }
}

fn cannot_run() -> Option<String> {
    if let Err(why) = UringIo::new(Arc::new(Doorbell::new().unwrap())) {
        return Some(why.to_string());
    }
    let traced = Command::new("strace").args(["-o", "/dev/null", "true"]).stderr(Stdio::null()).status();
    match traced {
        Ok(status) if status.success() => None,
        Ok(status) => Some(format!("strace may not trace here: {status}")),
        Err(error) => Some(format!("no strace: {error}")),
    }
}

/// In the child: enough calls of io_uring_enter for every N, from both ways of driving a ring.
fn write_polling_and_waiting() {
    // A killed strace lets go of what it traces: a hang has to end itself.
    let watchdog = std::thread::Builder::new().spawn(|| {
        std::thread::park_timeout(Duration::from_secs(50));
        std::process::exit(3);
    });
    watchdog.unwrap();
    let arena = Arena::new(MemoryBudget::new(8 << 20), ArenaOptions::default());
    let mut io = UringIo::new(Arc::new(Doorbell::new().unwrap())).unwrap();
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("enter-fails-{}", std::process::id()));
    let open = IoOp::Open { path: path.clone(), mode: OpenMode::CreateNew, direct: false };
    let Ok(IoOutput::File(file)) = io.complete(open) else { panic!("cannot create {path:?}") };
    for i in 0..30u64 {
        let mut from = Buffer::take(&arena, "enter fails", 4096).unwrap();
        from.set_len(4096);
        from.filled_mut().fill(i as u8);
        let token = io.submit(IoOp::Write { file, offset: i * 4096, from });
        let result = loop {
            if i % 2 == 0 {
                io.wait(Duration::from_secs(3600));
            } else {
                io.drive();
            }
            if let Some(result) = io.take(token) {
                break result;
            }
        };
        assert!(result.is_ok(), "{result:?}");
    }
    assert!(io.complete(IoOp::SyncData { file }).is_ok());
    for i in 0..30u64 {
        let into = Buffer::take(&arena, "enter fails", 4096).unwrap();
        let read = io.complete(IoOp::Read { file, offset: i * 4096, len: 4096, into });
        let Ok(IoOutput::Buffer(read)) = read else { panic!("{read:?}") };
        assert_eq!(read.filled(), [i as u8; 4096]);
    }
    assert!(io.complete(IoOp::Remove { path }).is_ok());
}
