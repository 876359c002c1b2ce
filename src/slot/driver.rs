//! The driver under a slot on a real thread: step, drive the I/O, wait when there is nothing to do.
//!
//! Sleeping: announce on the doorbell, step once more (so that nothing published before the announcement is missed), then wait in `Io::wait`
//! until the doorbell rings, an operation completes, a task's wish to wake is nearly due, or a second is over.

use super::idle::{IdleAction, IdlePolicy, Slept};
use super::{Doorbell, Progress, Slot, StepContext};
use crate::io::Io;
use crate::time::Clock;
use std::sync::Arc;
use std::time::Duration;

/// The longest sleep: a lost wake-up of a faulty kernel or device costs this much, and one wake-up a second costs nothing.
const SLEEP_NS_MAX: u64 = 1_000_000_000;

/// How often a busy slot lets its I/O make progress: a tick of the ring costs 1.4 us, so this takes 1.4 % at most.
const DRIVE_EVERY_NS: u64 = 100_000;

/// Runs a slot on the calling thread until it is stopped. `io` must wait on the slot's doorbell.
pub fn drive(slot: &mut Slot, io: &mut dyn Io, mut idle: IdlePolicy) {
    let mut turns = Turns::new(slot);
    loop {
        let (mut progress, now_ns) = turns.turn(slot, io);
        if progress != Progress::Done {
            match idle.after_step(progress == Progress::Worked, now_ns) {
                IdleAction::Step => {}
                IdleAction::Spin => std::hint::spin_loop(),
                IdleAction::Yield => std::thread::yield_now(),
                IdleAction::Park => {
                    let parked;
                    (progress, parked) = turns.park_until_disturbed(slot, io, idle.early_ns());
                    match parked {
                        Parked::Slept(slept) => idle.after_sleep(slept),
                        Parked::NearlyDue { now_ns } | Parked::FoundWork { now_ns } => {
                            idle.after_step(true, now_ns);
                        }
                    }
                }
            }
        }
        if progress == Progress::Done {
            return;
        }
    }
}

/// Takes a slot's turns on the calling thread, one at a time.
pub(crate) struct Turns {
    clock: Arc<dyn Clock>,
    bell: Arc<Doorbell>,
    wall: WallTime,
    driven_ns: u64,
}

/// How a wish to sleep ended.
pub(crate) enum Parked {
    Slept(Slept),
    /// There was no time to sleep.
    NearlyDue {
        now_ns: u64,
    },
    /// The look behind the announcement found something to do.
    FoundWork {
        now_ns: u64,
    },
}

impl Turns {
    pub(crate) fn new(slot: &Slot) -> Self {
        let (clock, bell) = (slot.clock().clone(), slot.handle().bell().clone());
        let wall = WallTime::read(&*clock);
        Self { driven_ns: wall.read_ns, clock, bell, wall }
    }

    /// A step of the slot and, when it is time, of its I/O; and when the step began.
    #[inline]
    pub(crate) fn turn(&mut self, slot: &mut Slot, io: &mut dyn Io) -> (Progress, u64) {
        let (now_ns, wall_ms) = self.now();
        let progress = slot.step(&mut StepContext { now_ns, wall_ms, io });
        let worked = progress == Progress::Worked;
        if io.in_flight() > 0 && (!worked || now_ns.saturating_sub(self.driven_ns) >= DRIVE_EVERY_NS) {
            io.drive();
            self.driven_ns = now_ns;
        }
        (progress, now_ns)
    }

    /// Parks, and parks again after each sleep that lasted its whole second. There may be thousands of tasks, each of which costs a look.
    ///
    /// Invariant: behind every announcement the slot is stepped once before it sleeps. Who publishes something afterwards ends the sleep, and so
    /// does the disk; so a sleep that nobody ended leaves nothing to find but what comes with the time, and that is found by the step behind
    /// the next announcement. Only a sleep that was ended is worth stepping and spinning for.
    fn park_until_disturbed(&mut self, slot: &mut Slot, io: &mut dyn Io, early_ns: u64) -> (Progress, Parked) {
        loop {
            match self.park(slot, io, SLEEP_NS_MAX, early_ns) {
                (Progress::Idle, Parked::Slept(slept)) if slept.ns >= SLEEP_NS_MAX => {}
                ended => return ended,
            }
        }
    }

    /// Sleeps until somebody rings, `early_ns` before a task wants to be stepped, or for `at_most_ns`, unless there is something to do.
    pub(crate) fn park(
        &mut self,
        slot: &mut Slot,
        io: &mut dyn Io,
        at_most_ns: u64,
        early_ns: u64,
    ) -> (Progress, Parked) {
        self.bell.announce();
        let (announced_ns, wall_ms) = self.now();
        let progress = slot.step(&mut StepContext { now_ns: announced_ns, wall_ms, io });
        let parked = if progress == Progress::Idle {
            let due_ns = slot.wake_at_ns().map_or(u64::MAX, |at| at.saturating_sub(announced_ns + early_ns));
            self.sleep(io, announced_ns, due_ns.min(at_most_ns))
        } else {
            Parked::FoundWork { now_ns: announced_ns }
        };
        self.bell.withdraw();
        (progress, parked)
    }

    fn sleep(&self, io: &mut dyn Io, now_ns: u64, for_ns: u64) -> Parked {
        if for_ns == 0 {
            return Parked::NearlyDue { now_ns };
        }
        io.wait(Duration::from_nanos(for_ns));
        let ns = self.clock.monotonic_ns().saturating_sub(now_ns);
        Parked::Slept(Slept { ns, overslept_ns: ns.checked_sub(for_ns) })
    }

    /// Monotonic nanoseconds and wall-clock milliseconds.
    #[inline]
    pub(crate) fn now(&mut self) -> (u64, i64) {
        let now_ns = self.clock.monotonic_ns();
        (now_ns, self.wall.at(now_ns, &*self.clock))
    }
}

/// The wall clock, read again after a millisecond: it has no finer grain here, and a spinning slot looks at it all the time.
struct WallTime {
    read_ns: u64,
    wall_ms: i64,
}

impl WallTime {
    fn read(clock: &dyn Clock) -> Self {
        Self { read_ns: clock.monotonic_ns(), wall_ms: clock.wall_ms() }
    }

    fn at(&mut self, now_ns: u64, clock: &dyn Clock) -> i64 {
        if now_ns.saturating_sub(self.read_ns) >= 1_000_000 {
            *self = Self::read(clock);
        }
        self.wall_ms
    }
}

#[cfg(test)]
mod tests {
    use super::super::run_loop::tests::BellIo;
    use super::*;
    use crate::checkpoint::CheckpointId;
    use crate::exchange::{ChannelOptions, Delivery, InBand, Receiver, RecordShape, Sender, channel};
    use crate::io::{IoError, IoOp, IoOutput, IoToken};
    use crate::memory::{Arena, ArenaOptions, MemoryBudget};
    use crate::slot::{Share, SlotEvent, SlotHandle, SlotTask, TaskExit, spawn_slot};
    use crate::time::{MachineClock, ManualClock};
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::thread::JoinHandle;

    fn start(name: &str, listener: &Arc<Doorbell>) -> (SlotHandle, JoinHandle<()>) {
        let (bell, listener) = (Arc::new(Doorbell::new().unwrap()), listener.clone());
        let (send, receive) = std::sync::mpsc::channel();
        let thread = spawn_slot(name, None, move || {
            let mut slot = Slot::new(bell.clone(), Some(listener), Arc::new(MachineClock));
            send.send(slot.handle().clone()).unwrap();
            drive(&mut slot, &mut BellIo(bell), IdlePolicy::for_slots(2, 1));
        });
        (receive.recv().unwrap(), thread.unwrap())
    }

    /// Sends back every event it receives, until the end.
    struct Echo {
        from: Receiver,
        to: Sender,
        left: u64,
    }

    impl SlotTask for Echo {
        fn step(&mut self, _cx: &mut StepContext<'_>) -> Progress {
            let Some(Delivery::Event(InBand::Barrier(CheckpointId(n)))) = self.from.peek() else {
                return Progress::Idle;
            };
            self.from.advance();
            // The other end leaves first when it has sent its last; nobody is left to read the answer then.
            let _ = self.to.event(InBand::Barrier(CheckpointId(n + 1)));
            self.left -= 1;
            if self.left == 0 { Progress::Done } else { Progress::Worked }
        }
    }

    #[test]
    fn two_sleeping_slots_wake_each_other_for_every_event() {
        let listener = Arc::new(Doorbell::new().unwrap());
        let (a, thread_a) = start("a", &listener);
        let (b, thread_b) = start("b", &listener);
        let arena = Arena::new(MemoryBudget::new(2 << 20), ArenaOptions::default());
        let options = |from: &SlotHandle, to: &SlotHandle| ChannelOptions {
            who: "test",
            shape: RecordShape::Sized,
            segments_in_flight_max: 2,
            arena: arena.clone(),
            consumer: to.bell().clone(),
            producer: from.bell().clone(),
        };
        let (mut to_b, from_a) = channel(options(&a, &b));
        let (to_a, from_b) = channel(options(&b, &a));
        to_b.event(InBand::Barrier(CheckpointId(0))).unwrap();
        b.add("echo b", Share::default(), Box::new(Echo { from: from_a, to: to_a, left: 1_000 }));
        a.add("echo a", Share::default(), Box::new(Echo { from: from_b, to: to_b, left: 1_000 }));
        for handle in [&a, &b] {
            let exit = loop {
                if let Some(SlotEvent::TaskLeft { exit, .. }) = handle.next_event() {
                    break exit;
                }
                BellIo(listener.clone()).wait(Duration::from_millis(1));
            };
            assert_eq!(exit, TaskExit::Done);
            handle.stop();
        }
        thread_a.join().unwrap();
        thread_b.join().unwrap();
    }

    struct NeverReady;

    impl SlotTask for NeverReady {
        fn step(&mut self, _cx: &mut StepContext<'_>) -> Progress {
            Progress::Idle
        }
    }

    /// Works for ever, 10 us of the clock at a time.
    struct AlwaysBusy(Arc<ManualClock>);

    impl SlotTask for AlwaysBusy {
        fn step(&mut self, _cx: &mut StepContext<'_>) -> Progress {
            self.0.advance(Duration::from_micros(10));
            Progress::Worked
        }
    }

    /// No disk: something is under way for ever, or nothing. It counts how often it is driven and sleeps on a manual clock, until the bell rings.
    struct NoDisk {
        clock: Arc<ManualClock>,
        in_flight: usize,
        driven: u64,
        rings_at_ns: u64,
    }

    impl NoDisk {
        fn new(clock: &Arc<ManualClock>) -> Self {
            Self { clock: clock.clone(), in_flight: 0, driven: 0, rings_at_ns: 0 }
        }
    }

    impl Io for NoDisk {
        fn submit(&mut self, op: IoOp) -> IoToken {
            panic!("this test uses no disk: {op:?}");
        }

        fn take(&mut self, _token: IoToken) -> Option<Result<IoOutput, IoError>> {
            None
        }

        fn forget(&mut self, _token: IoToken) {}

        fn in_flight(&self) -> usize {
            self.in_flight
        }

        fn drive(&mut self) {
            self.driven += 1;
        }

        fn wait(&mut self, at_most: Duration) {
            let until_ring_ns = self.rings_at_ns.checked_sub(self.clock.monotonic_ns()).filter(|ns| *ns > 0);
            self.clock.advance(at_most.min(until_ring_ns.map_or(at_most, Duration::from_nanos)));
        }
    }

    #[test]
    fn a_slot_that_always_has_work_lets_its_disk_get_on_every_tenth_of_a_millisecond() {
        let (bell, clock) = (Arc::new(Doorbell::new().unwrap()), Arc::new(ManualClock::default()));
        let mut slot = Slot::new(bell, None, clock.clone());
        let mut io = NoDisk { in_flight: 1, ..NoDisk::new(&clock) };
        slot.add("busy", Share::default(), Box::new(AlwaysBusy(clock)));
        let mut turns = Turns::new(&slot);
        (0..1_000).for_each(|_| assert_eq!(turns.turn(&mut slot, &mut io).0, Progress::Worked));
        assert_eq!(io.driven, 99, "10 ms of work");
    }

    /// Has something to do every five seconds, and counts how often it is asked.
    struct EveryFiveSeconds {
        clock: Arc<ManualClock>,
        due_ns: u64,
        asked: Arc<AtomicU64>,
    }

    impl SlotTask for EveryFiveSeconds {
        fn step(&mut self, cx: &mut StepContext<'_>) -> Progress {
            self.asked.fetch_add(1, Ordering::Relaxed);
            if cx.now_ns < self.due_ns {
                return Progress::Idle;
            }
            assert_eq!(self.clock.monotonic_ns(), self.due_ns, "it is found when it is due");
            self.due_ns += 5_000_000_000;
            Progress::Worked
        }

        fn wake_at_ns(&self) -> Option<u64> {
            Some(self.due_ns)
        }
    }

    #[test]
    fn after_a_second_in_which_nobody_rang_every_task_is_asked_once() {
        let (bell, clock) = (Arc::new(Doorbell::new().unwrap()), Arc::new(ManualClock::default()));
        let (asked, due_ns) = (Arc::new(AtomicU64::new(0)), 5_000_000_000);
        let mut slot = Slot::new(bell, None, clock.clone());
        slot.add(
            "task",
            Share::default(),
            Box::new(EveryFiveSeconds { clock: clock.clone(), due_ns, asked: asked.clone() }),
        );
        let mut turns = Turns::new(&slot);
        let mut io = NoDisk { rings_at_ns: 7_300_000_000, ..NoDisk::new(&clock) };
        let mut park = |slot: &mut Slot| {
            let (progress, parked) = turns.park_until_disturbed(slot, &mut io, 0);
            (progress, matches!(parked, Parked::Slept(_)), clock.monotonic_ns(), asked.swap(0, Ordering::Relaxed))
        };
        // Five sleeps, a look before each, and the one that finds what has become due.
        assert_eq!(park(&mut slot), (Progress::Worked, false, 5_000_000_000, 6));
        // A ring ends the third sleep, and the slot is stepped and spins as after any.
        assert_eq!(park(&mut slot), (Progress::Idle, true, 7_300_000_000, 3));
    }

    #[test]
    fn a_slot_with_idle_tasks_sleeps_instead_of_polling_them() {
        let listener = Arc::new(Doorbell::new().unwrap());
        let (handle, thread) = start("parked", &listener);
        handle.add("never ready", Share::default(), Box::new(NeverReady));
        let pause = || BellIo(listener.clone()).wait(Duration::from_millis(100));
        while handle.watch().observe().progress == 0 {
            pause();
        }
        let before = handle.watch().observe().progress;
        pause();
        // A sweep or two of the parking and one wake-up a second, against hundreds of thousands when polling.
        assert!(handle.watch().observe().progress - before < 10);
        handle.stop();
        thread.join().unwrap();
    }
}
