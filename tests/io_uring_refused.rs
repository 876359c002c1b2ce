//! Containers refuse io_uring: Docker's default seccomp profile with EPERM, others with ENOSYS, some only io_uring_enter.
//!
//! Each test starts itself again with a filter that does so, and runs every fact of the conformance suite over what `Auto` chose.
#![allow(unsafe_code, reason = "installs a seccomp filter, for which there is no safe call")]

#[path = "support/child.rs"]
mod child;
#[path = "support/io_suite.rs"]
mod io_suite;
#[path = "support/small_job.rs"]
mod small_job;

use io_suite::{FACTS, Subject};
use millstream::io::{IoChoice, IoUnavailable, Refusal, open};
use millstream::slot::Doorbell;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const IO_URING_SETUP: u32 = 425;
const IO_URING_ENTER: u32 = 426;

#[test]
fn a_ring_refused_with_eperm_is_replaced_by_the_helper_thread() {
    under_a_filter("a_ring_refused_with_eperm_is_replaced_by_the_helper_thread", IO_URING_SETUP, libc::EPERM, |why| {
        // A machine that has io_uring switched off as well is told about that first.
        assert!(matches!(why, IoUnavailable::Refused { refusal: Refusal::Filtered | Refusal::SwitchedOff { .. }, .. }));
    });
}

#[test]
fn a_ring_refused_with_enosys_is_replaced_by_the_helper_thread() {
    under_a_filter(
        "a_ring_refused_with_enosys_is_replaced_by_the_helper_thread",
        IO_URING_SETUP,
        libc::ENOSYS,
        |why| {
            assert!(matches!(
                why,
                IoUnavailable::Refused { refusal: Refusal::Filtered | Refusal::KernelTooOld { .. }, .. }
            ));
        },
    );
}

#[test]
fn a_ring_that_cannot_be_entered_is_replaced_by_the_helper_thread() {
    under_a_filter(
        "a_ring_that_cannot_be_entered_is_replaced_by_the_helper_thread",
        IO_URING_ENTER,
        libc::EPERM,
        |why| {
            // Where io_uring_setup is refused too, that is what is reported.
            assert!(matches!(why, IoUnavailable::Silent { .. } | IoUnavailable::Refused { .. }));
        },
    );
}

fn under_a_filter(test: &str, syscall: u32, errno: i32, expect: impl Fn(&IoUnavailable)) {
    const CHILD: &str = "MILLSTREAM_TEST_UNDER_FILTER";
    if std::env::var_os(CHILD).is_some() {
        refuse(syscall, errno);
        return falls_back(test, expect);
    }
    let mut command = Command::new(std::env::current_exe().unwrap());
    child::only(command.env(CHILD, "1"), test);
    let status = child::wait_at_most(&mut command.spawn().unwrap(), Duration::from_secs(120));
    assert!(status.expect("hangs without io_uring").success());
}

/// In the child: the ring is an error by name, the automatic choice works and says why, once.
fn falls_back(test: &str, expect: impl Fn(&IoUnavailable)) {
    let warnings = Warnings::default();
    tracing::subscriber::set_global_default(warnings.clone()).unwrap();
    let why = open(IoChoice::Uring, Arc::new(Doorbell::new().unwrap())).map(|_| ()).unwrap_err();
    println!("{why}");
    expect(&why);
    let base = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{test}-{}", std::process::id()));
    for (name, fact) in FACTS {
        let doorbell = Arc::new(Doorbell::new().unwrap());
        let io = open(IoChoice::Auto, Arc::clone(&doorbell)).unwrap();
        fact(&mut Subject::new(io, doorbell, &base.join(name)));
    }
    std::fs::remove_dir_all(&base).unwrap();
    small_job::writes_every_number_once(&base, IoChoice::Auto);
    let lines = warnings.lines.lock().unwrap();
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].contains(&why.to_string()), "{lines:?}");
}

/// Makes `syscall` fail with `errno` in this thread and those it starts.
fn refuse(syscall: u32, errno: i32) {
    let op = |code: u32, k: u32, jt: u8, jf: u8| libc::sock_filter { code: code as u16, jt, jf, k };
    let mut program = [
        op(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        op(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, syscall, 0, 1),
        op(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ERRNO | errno as u32, 0, 0),
        op(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW, 0, 0),
    ];
    let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: both calls only read their arguments, and the program outlives them.
    let installed = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
            && libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const filter) == 0
    };
    assert!(installed, "cannot install the filter: {}", std::io::Error::last_os_error());
}

/// Collects the warnings of the process.
#[derive(Clone, Default)]
struct Warnings {
    lines: Arc<Mutex<Vec<String>>>,
    spans: Arc<AtomicUsize>,
}

struct Message(String);

impl tracing::field::Visit for Message {
    fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
        if field.name() == "message" {
            self.0 = format!("{value:?}");
        }
    }
}

impl tracing::Subscriber for Warnings {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        metadata.target().starts_with("millstream") && *metadata.level() <= tracing::Level::WARN
    }

    fn event(&self, event: &tracing::Event<'_>) {
        let mut message = Message(String::new());
        event.record(&mut message);
        self.lines.lock().unwrap().push(message.0);
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(self.spans.fetch_add(1, Ordering::Relaxed) as u64 + 1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}
