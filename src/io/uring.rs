//! The slot's own io_uring, driven from a plain loop.
//!
//! Here: when the ring is submitted to and reaped. Not here: what an operation does (`uring_op`), whether a ring may be
//! used at all (`choice`).
//!
//! tokio-uring 0.5 submits only when its thread parks, and ignores an error of that submission. Therefore:
//! 1. `drive` forces a park that returns at once: it makes an eventfd readable and awaits it (the tick).
//! 2. While anything is in flight, a wait is broken by a timer every few milliseconds (the heartbeat): the park after it submits
//!    again what a failed `io_uring_enter` left behind. Without it one EINTR or EAGAIN hangs the thread for ever.
//! 3. Operations in flight are limited to half the submission queue, so that pushing never finds it full (tokio-uring would
//!    panic when that flush failed). The others queue here.
//!
//! Not used: `defer_taskrun` (hangs), linked entries (broken by a flush between two pushes), `tokio_uring::start` (panics
//! where the ring is refused).

use super::blocking::wait_readable;
use super::choice::IoUnavailable;
use super::completions::Completions;
use super::owned_buf::watch_readable;
use super::uring_op::{self, RingFiles};
use super::{FileId, Io, IoError, IoOp, IoOutput, IoToken};
use crate::slot::Doorbell;
use rustix::event::{EventfdFlags, eventfd};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::io::unix::AsyncFd;
use tokio::time::MissedTickBehavior;

/// Entries of the submission queue; the kernel makes the completion queue twice as long.
const QUEUE_ENTRIES: u32 = 256;

/// Operations in the ring at a time.
const IN_FLIGHT_MAX: usize = QUEUE_ENTRIES as usize / 2;

/// tokio runs at most 61 local tasks a turn: so many completions in one turn mean that more may wait.
const TASKS_A_TURN: u64 = 32;

/// How long a failed submission stays unnoticed at most.
const HEARTBEAT: Duration = Duration::from_millis(4);

/// How long a fresh ring may take to answer a no-op; only a ring whose `io_uring_enter` is refused takes this long.
const FIRST_ANSWER_MAX: Duration = Duration::from_secs(1);

/// Pauses of 10 ms without any completion after which dropping gives up on the disk.
const SILENT_PAUSES_MAX: u32 = 500;

/// An `Io` over one io_uring, for the thread that created it, which must not run another asynchronous runtime around it.
///
/// Dropping it finishes what was submitted. If the disk does not answer for 5 s, or if the thread is unwinding, the ring and what
/// the kernel still holds are leaked instead: waiting would hang, and tokio-uring may panic.
pub struct UringIo {
    /// Gone only while this is being dropped.
    ring: Option<Ring>,
    doorbell: Arc<Doorbell>,
    shared: Rc<Shared>,
    queued: VecDeque<(IoToken, IoOp)>,
}

/// The runtime and the descriptors it watches, dropped in this order.
struct Ring {
    tick: AsyncFd<OwnedFd>,
    bell: AsyncFd<OwnedFd>,
    /// Ends short waits in time: the runtime's own timers know whole milliseconds only.
    alarm: AsyncFd<OwnedFd>,
    runtime: tokio_uring::Runtime,
}

/// What the tasks of the operations reach.
#[derive(Default)]
struct Shared {
    completions: RefCell<Completions>,
    files: RingFiles,
    running: Cell<usize>,
    finished: Cell<u64>,
    orphans: RefCell<Vec<FileId>>,
    sleeper: RefCell<Option<Waker>>,
}

impl UringIo {
    /// Sets up a ring and sees it answer. `doorbell` is that of this thread. Fails where the kernel, a container or a limit
    /// refuses io_uring.
    pub fn new(doorbell: Arc<Doorbell>) -> Result<Self, IoUnavailable> {
        let ring = Ring::start(&doorbell)?;
        Ok(Self { ring: Some(ring), doorbell, shared: Rc::default(), queued: VecDeque::new() })
    }

    /// Hands queued operations to the ring. Inside `block_on` only.
    fn start_queued(queued: &mut VecDeque<(IoToken, IoOp)>, shared: &Rc<Shared>) {
        while shared.running.get() < IN_FLIGHT_MAX {
            let Some((token, op)) = queued.pop_front() else { return };
            shared.running.set(shared.running.get() + 1);
            let ending = Ending { shared: Rc::clone(shared), token, action: op.action(), result: None };
            tokio_uring::spawn(async move {
                let result = uring_op::run(&ending.shared.files, op).await;
                ending.with(result);
            });
        }
    }

    fn queue_orphans(&mut self) {
        let orphans = std::mem::take(&mut *self.shared.orphans.borrow_mut());
        for file in orphans {
            self.close_forgotten(file);
        }
    }

    fn close_forgotten(&mut self, file: FileId) {
        let token = self.submit(IoOp::Close { file });
        self.forget(token);
    }

    /// Parks until something completed, `at_most` is over, or, if asked for, the doorbell rang.
    fn pause(&mut self, at_most: Duration, listen: Listen) {
        let Self { ring: Some(ring), shared, queued, .. } = self else { return };
        let alarmed = at_most < HEARTBEAT && set_alarm(&ring.alarm, at_most).is_ok();
        ring.runtime.block_on(async {
            Self::start_queued(queued, shared);
            let event = poll_fn(|cx| {
                *shared.sleeper.borrow_mut() = Some(cx.waker().clone());
                let rung = listen == Listen::ToDoorbell && poll_readable(&ring.bell, cx);
                let over = alarmed && poll_readable(&ring.alarm, cx);
                if rung || over || shared.completions.borrow().has_unreported() {
                    Poll::Ready(())
                } else {
                    Poll::Pending
                }
            });
            beating(at_most, event).await;
            *shared.sleeper.borrow_mut() = None;
        });
    }

    /// Whether everything submitted came to its end.
    fn drain(&mut self) -> bool {
        let mut silent_pauses = 0;
        while self.in_flight() > 0 && silent_pauses < SILENT_PAUSES_MAX {
            let before = self.shared.finished.get();
            self.shared.completions.borrow_mut().mark_reported();
            self.pause(Duration::from_millis(10), Listen::ToCompletionsOnly);
            silent_pauses = if self.shared.finished.get() == before { silent_pauses + 1 } else { 0 };
        }
        self.in_flight() == 0
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Listen {
    ToDoorbell,
    ToCompletionsOnly,
}

/// Ends an operation exactly once, also when its task panics or is dropped.
struct Ending {
    shared: Rc<Shared>,
    token: IoToken,
    action: &'static str,
    result: Option<Result<IoOutput, IoError>>,
}

impl Ending {
    fn with(mut self, result: Result<IoOutput, IoError>) {
        self.result = Some(result);
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        let result = self.result.take().unwrap_or_else(|| {
            let error =
                std::io::Error::other("the operation was abandoned: its task panicked or its ring is being dropped");
            Err(IoError::new(self.action, PathBuf::new(), &error))
        });
        let shared = &self.shared;
        if let Some(orphan) = shared.completions.borrow_mut().finish(self.token, result) {
            shared.orphans.borrow_mut().push(orphan);
        }
        shared.running.set(shared.running.get() - 1);
        shared.finished.set(shared.finished.get() + 1);
        if let Some(sleeper) = shared.sleeper.borrow().as_ref() {
            sleeper.wake_by_ref();
        }
    }
}

impl Io for UringIo {
    fn submit(&mut self, op: IoOp) -> IoToken {
        let token = self.shared.completions.borrow_mut().begin();
        self.queued.push_back((token, op));
        token
    }

    fn take(&mut self, token: IoToken) -> Option<Result<IoOutput, IoError>> {
        self.shared.completions.borrow_mut().take(token)
    }

    fn forget(&mut self, token: IoToken) {
        let orphan = self.shared.completions.borrow_mut().forget(token);
        if let Some(file) = orphan {
            self.close_forgotten(file);
        }
    }

    fn in_flight(&self) -> usize {
        self.shared.completions.borrow().under_way()
    }

    fn drive(&mut self) {
        if self.in_flight() == 0 {
            return;
        }
        let Self { ring: Some(ring), shared, queued, .. } = self else { return };
        ring.runtime.block_on(async {
            Self::start_queued(queued, shared);
            force_park(&ring.tick).await;
            // The park found completions; the tasks they belong to run while this one steps back.
            loop {
                let finished = shared.finished.get();
                step_back().await;
                if shared.finished.get() - finished < TASKS_A_TURN {
                    break;
                }
            }
        });
        self.queue_orphans();
    }

    fn wait(&mut self, at_most: Duration) {
        self.doorbell.announce();
        if self.in_flight() == 0 {
            if !self.shared.completions.borrow().has_unreported() {
                wait_readable(self.doorbell.fd(), at_most);
            }
        } else if at_most.is_zero() {
            self.drive();
        } else {
            self.pause(at_most, Listen::ToDoorbell);
            self.queue_orphans();
        }
        self.shared.completions.borrow_mut().mark_reported();
        self.doorbell.withdraw();
    }
}

impl Drop for UringIo {
    fn drop(&mut self) {
        let drained = !std::thread::panicking() && self.drain();
        let ring = self.ring.take();
        if drained {
            self.shared.files.borrow_mut().clear();
            return;
        }
        std::mem::forget(ring);
        if self.in_flight() > 0 {
            tracing::warn!(
                in_flight = self.in_flight(),
                "leaving an io_uring behind, the disk did not answer or its thread panicked"
            );
        }
    }
}

impl std::fmt::Debug for UringIo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UringIo")
            .field("running", &self.shared.running.get())
            .field("queued", &self.queued.len())
            .finish_non_exhaustive()
    }
}

impl Ring {
    fn start(doorbell: &Doorbell) -> Result<Self, IoUnavailable> {
        if tokio::runtime::Handle::try_current().is_ok() {
            return Err(IoUnavailable::InsideRuntime);
        }
        let runtime = start_runtime().map_err(|error| IoUnavailable::refused(&error))?;
        match runtime.block_on(beating(FIRST_ANSWER_MAX, tokio_uring::no_op())) {
            Some(Ok(())) => {}
            Some(Err(error)) => return Err(IoUnavailable::refused(&error)),
            None => {
                // Dropped with an operation that it cannot submit, the runtime would panic.
                std::mem::forget(runtime);
                return Err(IoUnavailable::Silent { waited_ms: FIRST_ANSWER_MAX.as_millis() as u64 });
            }
        }
        let watched = runtime.block_on(async { watch(doorbell) });
        let [tick, bell, alarm] = watched.map_err(|error| IoUnavailable::NoDescriptor { reason: error.to_string() })?;
        Ok(Self { tick, bell, alarm, runtime })
    }
}

/// A runtime whose ring has the flags this kernel accepts: completions need no interrupt (5.19), one thread submits (6.0).
fn start_runtime() -> std::io::Result<tokio_uring::Runtime> {
    let mut frugal = tokio_uring::uring_builder();
    frugal.setup_coop_taskrun().setup_single_issuer();
    let mut builder = tokio_uring::builder();
    builder.entries(QUEUE_ENTRIES).uring_builder(&frugal);
    match tokio_uring::Runtime::new(&builder) {
        Err(error) if error.kind() == std::io::ErrorKind::InvalidInput => {
            let mut plain = tokio_uring::builder();
            plain.entries(QUEUE_ENTRIES);
            tokio_uring::Runtime::new(&plain)
        }
        other => other,
    }
}

fn watch(doorbell: &Doorbell) -> std::io::Result<[AsyncFd<OwnedFd>; 3]> {
    let tick = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?;
    let bell = doorbell.fd().try_clone_to_owned()?;
    let alarm = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
    Ok([watch_readable(tick)?, watch_readable(bell)?, watch_readable(alarm)?])
}

/// Makes the alarm readable after this time (a nanosecond at least: none would switch it off), and no longer for a former one.
fn set_alarm(alarm: &AsyncFd<OwnedFd>, after: Duration) -> std::io::Result<()> {
    let it_value = Timespec { tv_sec: after.as_secs() as i64, tv_nsec: i64::from(after.subsec_nanos()).max(1) };
    let once = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value };
    timerfd_settime(alarm, TimerfdTimerFlags::empty(), &once)?;
    Ok(())
}

/// Awaits `future` for `at_most`, waking up at every heartbeat.
async fn beating<F: Future>(at_most: Duration, future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    let mut deadline = pin!(tokio::time::sleep(at_most));
    let mut heartbeat = tokio::time::interval_at(tokio::time::Instant::now() + HEARTBEAT, HEARTBEAT);
    heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    poll_fn(|cx| {
        if let Poll::Ready(output) = future.as_mut().poll(cx) {
            return Poll::Ready(Some(output));
        }
        if deadline.as_mut().poll(cx).is_ready() {
            return Poll::Ready(None);
        }
        // Nothing to do at a beat: what counts is the park that follows.
        while heartbeat.poll_tick(cx).is_ready() {}
        Poll::Pending
    })
    .await
}

/// Makes the thread park, which submits, and come back at once.
async fn force_park(tick: &AsyncFd<OwnedFd>) {
    // The counter would overflow after 2^64 - 1 ticks; each write wakes, whatever the counter says.
    let _ = rustix::io::write(tick.get_ref(), &1u64.to_ne_bytes());
    if let Ok(mut ready) = tick.readable().await {
        ready.clear_ready();
    }
}

/// Lets the other tasks of this runtime run once, without parking.
async fn step_back() {
    let mut stepped = false;
    poll_fn(|cx| {
        if stepped {
            return Poll::Ready(());
        }
        stepped = true;
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// Whether a descriptor is readable now. tokio remembers readiness that was used up (a counter emptied, an alarm set anew), so the
/// descriptor decides.
fn poll_readable(watched: &AsyncFd<OwnedFd>, cx: &mut Context<'_>) -> bool {
    while let Poll::Ready(ready) = watched.poll_read_ready(cx) {
        let Ok(mut ready) = ready else { return true };
        ready.clear_ready();
        if wait_readable(watched.as_fd(), Duration::ZERO) {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::OpenMode;
    use crate::memory::{Arena, ArenaOptions, Buffer, MemoryBudget};

    /// A ring with a read under way that ends only when something is written into the pipe.
    struct Stalled {
        io: UringIo,
        doorbell: Arc<Doorbell>,
        token: IoToken,
        file: FileId,
        path: PathBuf,
    }

    impl Stalled {
        fn new(name: &str) -> Option<Self> {
            let doorbell = Arc::new(Doorbell::new().unwrap());
            let mut io = UringIo::new(Arc::clone(&doorbell)).map_err(|why| println!("skipped: {why}")).ok()?;
            let path = std::env::temp_dir().join(format!("millstream-{name}-{}", std::process::id()));
            let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
            rustix::fs::mkfifoat(rustix::fs::CWD, &path, mode).unwrap();
            let open = IoOp::Open { path: path.clone(), mode: OpenMode::ReadWrite, direct: false };
            let Ok(IoOutput::File(file)) = io.complete(open) else { panic!("cannot open a pipe") };
            let token = io.submit(IoOp::Read { file, offset: 0, len: 4, into: buffer(4096) });
            io.drive();
            Some(Self { io, doorbell, token, file, path })
        }

        fn write_into_pipe(&mut self) {
            let mut from = buffer(4096);
            assert!(from.append(b"data"));
            assert!(self.io.complete(IoOp::Write { file: self.file, offset: 0, from }).is_ok());
        }
    }

    impl Drop for Stalled {
        fn drop(&mut self) {
            let _ = rustix::fs::unlink(&self.path);
        }
    }

    fn buffer(capacity: usize) -> Buffer {
        Buffer::take(&Arena::new(MemoryBudget::new(8 << 20), ArenaOptions::default()), "test", capacity).unwrap()
    }

    #[test]
    fn a_wait_with_operations_under_way_ends_when_the_doorbell_rings() {
        let Some(mut stalled) = Stalled::new("rung") else { return };
        for _ in 0..3 {
            stalled.doorbell.write();
            stalled.io.wait(Duration::from_secs(3600));
            assert_eq!(stalled.io.in_flight(), 1);
        }
        stalled.write_into_pipe();
        while stalled.io.in_flight() > 0 {
            stalled.io.wait(Duration::from_secs(3600));
        }
        let Some(Ok(IoOutput::Buffer(read))) = stalled.io.take(stalled.token) else { panic!("the read failed") };
        assert_eq!(read.filled(), b"data");
    }

    #[test]
    fn a_used_up_ring_of_the_doorbell_does_not_end_the_next_wait() {
        let Some(mut stalled) = Stalled::new("used") else { return };
        stalled.doorbell.write();
        stalled.io.wait(Duration::from_secs(3600));
        let finished = stalled.io.shared.finished.get();
        let Some(ring) = &stalled.io.ring else { panic!("no ring") };
        let rung = ring.runtime.block_on(poll_fn(|cx| Poll::Ready(poll_readable(&ring.bell, cx))));
        assert!(!rung);
        stalled.write_into_pipe();
        while stalled.io.in_flight() > 0 {
            stalled.io.wait(Duration::from_secs(3600));
        }
        assert!(stalled.io.shared.finished.get() > finished);
    }

    #[test]
    fn inside_an_asynchronous_runtime_a_ring_is_refused_by_name() {
        let host = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let refused = host.block_on(async { UringIo::new(Arc::new(Doorbell::new().unwrap())).map(|_| ()) });
        assert_eq!(refused, Err(IoUnavailable::InsideRuntime));
    }

    #[test]
    fn a_panic_with_an_operation_under_way_is_caught_and_the_next_ring_works() {
        let Some(stalled) = Stalled::new("panic") else { return };
        let unwound = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
            let _stalled = stalled;
            panic!("planted");
        }));
        assert!(unwound.is_err());
        let mut next = UringIo::new(Arc::new(Doorbell::new().unwrap())).unwrap();
        assert!(next.complete(IoOp::List { path: std::env::temp_dir() }).is_ok());
    }

    #[test]
    fn dropping_a_ring_finishes_what_was_submitted() {
        let Some(mut stalled) = Stalled::new("dropped") else { return };
        stalled.write_into_pipe();
        let dir = std::env::temp_dir().join(format!("millstream-dropped-dir-{}", std::process::id()));
        let path = dir.join("file");
        assert!(stalled.io.complete(IoOp::CreateDirAll { path: dir.clone() }).is_ok());
        for i in 0..300 {
            let path = dir.join(i.to_string());
            stalled.io.submit(IoOp::Open { path, mode: OpenMode::CreateNew, direct: false });
        }
        stalled.io.submit(IoOp::Open { path, mode: OpenMode::CreateNew, direct: false });
        drop(stalled);
        let mut next = UringIo::new(Arc::new(Doorbell::new().unwrap())).unwrap();
        let Ok(IoOutput::Names(names)) = next.complete(IoOp::List { path: dir.clone() }) else { panic!("no listing") };
        assert_eq!(names.len(), 301);
        for name in names {
            assert!(next.complete(IoOp::Remove { path: dir.join(name) }).is_ok());
        }
        rustix::fs::rmdir(&dir).unwrap();
    }
}
