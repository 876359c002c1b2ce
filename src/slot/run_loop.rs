//! A slot as a step machine: takes its commands, steps its tasks, measures them, contains their panics.
//!
//! Here: one sweep over the tasks. Not here: who is admitted to a sweep (`schedule`), what happens between sweeps (`driver`).
//!
//! Invariant: a task that panicked is never stepped again. It is asked to give up its files, and dropped; panics in both are contained.
//! Other tasks do not notice.

use super::inbox::{SlotCommand, SlotEvent, SlotHandle, TaskExit, TaskId};
use super::schedule::{self, Patience, Share, Standing};
use super::watch::NameId;
use super::{Doorbell, LocalServices, Progress, SlotTask, StepContext};
use crate::time::Clock;
use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

/// The tasks of one thread, and everything needed to step them. Stays on its thread.
pub struct Slot {
    /// Sorted by priority.
    entries: Vec<Entry>,
    patience: Patience,
    handle: SlotHandle,
    clock: Arc<dyn Clock>,
    services: LocalServices,
    stopped: bool,
}

struct Entry {
    id: TaskId,
    name: Arc<str>,
    name_id: NameId,
    standing: Standing,
    task: Box<dyn SlotTask>,
    report: TaskReport,
    exit: Option<TaskExit>,
}

/// What a task used of its slot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TaskReport {
    /// Steps that worked.
    pub steps: u64,
    /// Time in them.
    pub busy_ns: u64,
    /// The longest of them.
    pub step_ns_max: u64,
}

impl Slot {
    /// A slot without tasks, woken by `bell`, measuring with `clock`. `listener` is rung when a task leaves.
    pub fn new(bell: Arc<Doorbell>, listener: Option<Arc<Doorbell>>, clock: Arc<dyn Clock>) -> Self {
        let handle = SlotHandle::new(bell, listener);
        let services = LocalServices::default();
        Self { entries: Vec::new(), patience: Patience::default(), handle, clock, services, stopped: false }
    }

    /// One sweep: commands first, then a step of each task whose turn it is. `Done` once stopped; its tasks are gone then.
    pub fn step(&mut self, cx: &mut StepContext<'_>) -> Progress {
        let commanded = self.take_commands();
        if self.stopped {
            self.leave_all(|entry| entry.exit = Some(TaskExit::Removed));
            return Progress::Done;
        }
        if self.sweep(cx) | commanded { Progress::Worked } else { Progress::Idle }
    }

    /// Adds a task that was made on this thread.
    pub fn add(&mut self, name: &str, share: Share, task: Box<dyn SlotTask>) -> TaskId {
        let id = TaskId::next();
        self.insert(id, name, share, task);
        id
    }

    /// Says that a task could not be made: whoever waits for it to leave need not.
    pub fn refuse(&mut self, name: &str) {
        self.handle.report(SlotEvent::TaskLeft { task: TaskId::next(), name: name.into(), exit: TaskExit::Removed });
    }

    /// Takes a task off and drops it; `false` when it is not here.
    pub fn remove(&mut self, task: TaskId) -> bool {
        self.leave_all(|entry| {
            if entry.id == task {
                entry.exit = Some(TaskExit::Removed);
            }
        })
    }

    /// When some task wants to be stepped although nobody rings.
    pub fn wake_at_ns(&self) -> Option<u64> {
        self.entries.iter().filter_map(|entry| entry.task.wake_at_ns()).min()
    }

    /// The names of the tasks and what they used.
    pub fn reports(&self) -> impl Iterator<Item = (TaskId, &Arc<str>, TaskReport)> {
        self.entries.iter().map(|entry| (entry.id, &entry.name, entry.report))
    }

    /// Reaches this slot from other threads.
    pub fn handle(&self) -> &SlotHandle {
        &self.handle
    }

    /// What its tasks offer to other code on this thread.
    pub fn services(&self) -> &LocalServices {
        &self.services
    }

    /// The slot's clock.
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    fn take_commands(&mut self) -> bool {
        let mut any = false;
        while !self.stopped
            && let Some(command) = self.handle.next_command()
        {
            any = true;
            match command {
                SlotCommand::Add { id, name, share, task } => self.insert(id, &name, share, task),
                SlotCommand::Remove(task) => {
                    self.remove(task);
                }
                SlotCommand::Call(call) => {
                    // The slot's own state is changed by single pushes and removals, so a call that panics leaves it whole.
                    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| call(self))) {
                        tracing::error!("a call on a slot panicked: {}", panic_message(&*panic));
                    }
                }
                SlotCommand::Stop => self.stopped = true,
            }
        }
        any
    }

    fn insert(&mut self, id: TaskId, name: &str, share: Share, task: Box<dyn SlotTask>) {
        let (name_id, standing) = (self.handle.watch().register(name), Standing::new(share));
        let entry = Entry { id, name: name.into(), name_id, standing, task, report: TaskReport::default(), exit: None };
        let at = self.entries.partition_point(|other| other.standing.share.priority <= share.priority);
        self.entries.insert(at, entry);
    }

    fn sweep(&mut self, cx: &mut StepContext<'_>) -> bool {
        let (mut worked, mut left, mut skipped) = (false, false, false);
        let mut now_ns = cx.now_ns;
        let mut classes =
            self.entries.chunk_by_mut(|a, b| a.standing.share.priority == b.standing.share.priority).peekable();
        while let Some(class) = classes.next() {
            let floor = schedule::floor(class.iter().map(|entry| &entry.standing));
            for entry in class.iter_mut() {
                if !entry.standing.may_run(floor) {
                    skipped = true;
                    continue;
                }
                let mut cx = StepContext { now_ns, wall_ms: cx.wall_ms, io: &mut *cx.io };
                let watch = self.handle.watch();
                watch.enter_task(entry.name_id);
                let progress = entry.step(&mut cx);
                let task_worked = progress != Progress::Idle;
                // A step that did nothing took next to nothing: polling idle tasks costs no look at the clock.
                let begun_ns = now_ns;
                if task_worked {
                    now_ns = self.clock.monotonic_ns();
                }
                let ns = now_ns.saturating_sub(begun_ns);
                watch.leave_task(ns, task_worked);
                entry.charge(ns, task_worked, floor);
                worked |= task_worked;
                left |= entry.exit.is_some();
            }
            if worked && classes.peek().is_some() && self.patience.ends_sweep() {
                break;
            }
        }
        if left {
            self.leave_all(|_| ());
        }
        // Those for whom others were to sit out had nothing to do: the others may have.
        worked || skipped
    }

    /// After `mark`, drops the tasks that have an exit and reports them. Whether there were any.
    fn leave_all(&mut self, mark: impl FnMut(&mut Entry)) -> bool {
        self.entries.iter_mut().for_each(mark);
        let leaving: Vec<Entry> = self.entries.extract_if(.., |entry| entry.exit.is_some()).collect();
        let any = !leaving.is_empty();
        for Entry { id, name, name_id, task, exit, .. } in leaving {
            let dropped = catch_unwind(AssertUnwindSafe(|| drop(task)));
            let exit = match (exit, dropped) {
                (Some(exit @ TaskExit::Panicked(_)), _) => exit,
                (_, Err(panic)) => TaskExit::Panicked(panic_message(&*panic)),
                (exit, Ok(())) => exit.unwrap_or(TaskExit::Removed),
            };
            self.handle.watch().forget(name_id);
            self.handle.report(SlotEvent::TaskLeft { task: id, name, exit });
        }
        any
    }
}

impl Entry {
    /// One step of the task; a panic ends the task, not the slot. Nothing of a task that panicked is looked at again but the files it has
    /// open, so it does not matter in which state the panic left the rest.
    fn step(&mut self, cx: &mut StepContext<'_>) -> Progress {
        match catch_unwind(AssertUnwindSafe(|| self.task.step(cx))) {
            Ok(Progress::Done) => {
                self.exit = Some(TaskExit::Done);
                Progress::Done
            }
            Ok(progress) => progress,
            Err(panic) => {
                self.exit = Some(TaskExit::Panicked(panic_message(&*panic)));
                if let Err(panic) = catch_unwind(AssertUnwindSafe(|| self.task.give_up(cx))) {
                    tracing::error!("{}: giving up its files panicked: {}", self.name, panic_message(&*panic));
                }
                Progress::Done
            }
        }
    }

    fn charge(&mut self, ns: u64, worked: bool, floor: u128) {
        self.standing.charge(ns, worked, floor);
        if worked {
            self.report.steps += 1;
            self.report.busy_ns += ns;
            self.report.step_ns_max = self.report.step_ns_max.max(ns);
        }
    }
}

/// The words of a panic.
pub(crate) fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("a panic without a message").to_owned()
}

impl std::fmt::Debug for Slot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names: Vec<_> = self.entries.iter().map(|entry| &entry.name).collect();
        f.debug_struct("Slot").field("tasks", &names).field("stopped", &self.stopped).finish_non_exhaustive()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::io::{Io, IoError, IoOp, IoOutput, IoToken};
    use crate::time::ManualClock;
    use std::cell::RefCell;
    use std::rc::Rc;
    use std::time::Duration;

    /// No disk; waits on the doorbell only.
    pub struct BellIo(pub Arc<Doorbell>);

    impl Io for BellIo {
        fn submit(&mut self, op: IoOp) -> IoToken {
            panic!("this test uses no disk: {op:?}");
        }

        fn take(&mut self, _token: IoToken) -> Option<Result<IoOutput, IoError>> {
            None
        }

        fn forget(&mut self, _token: IoToken) {}

        fn in_flight(&self) -> usize {
            0
        }

        fn drive(&mut self) {}

        fn wait(&mut self, at_most: Duration) {
            let timeout = rustix::event::Timespec {
                tv_sec: at_most.as_secs() as i64,
                tv_nsec: i64::from(at_most.subsec_nanos()),
            };
            let mut fds = [rustix::event::PollFd::from_borrowed_fd(self.0.fd(), rustix::event::PollFlags::IN)];
            rustix::event::poll(&mut fds, Some(&timeout)).unwrap();
        }
    }

    struct Step<F>(F);

    impl<F: FnMut() -> Progress> SlotTask for Step<F> {
        fn step(&mut self, _cx: &mut StepContext<'_>) -> Progress {
            (self.0)()
        }
    }

    fn boxed(step: impl FnMut() -> Progress + 'static) -> Box<dyn SlotTask> {
        Box::new(Step(step))
    }

    fn slot() -> Slot {
        Slot::new(Arc::new(Doorbell::new().unwrap()), None, Arc::new(ManualClock::default()))
    }

    fn step(slot: &mut Slot) -> Progress {
        let mut io = BellIo(slot.handle().bell().clone());
        let now_ns = slot.clock().monotonic_ns();
        slot.step(&mut StepContext { now_ns, wall_ms: 0, io: &mut io })
    }

    fn share(priority: u8) -> Share {
        Share { priority, weight: 1 }
    }

    fn exits(slot: &Slot) -> Vec<(String, TaskExit)> {
        let left = std::iter::from_fn(|| slot.handle().next_event());
        left.map(|SlotEvent::TaskLeft { name, exit, .. }| (name.to_string(), exit)).collect()
    }

    #[test]
    fn a_panicking_task_leaves_by_name_with_its_message_and_the_others_go_on() {
        let mut slot = slot();
        slot.add("bad", share(1), boxed(|| panic!("division of {} by zero", 7)));
        slot.add("good", share(1), boxed(|| Progress::Worked));
        assert_eq!(step(&mut slot), Progress::Worked);
        assert_eq!(exits(&slot), [("bad".into(), TaskExit::Panicked("division of 7 by zero".into()))]);
        assert_eq!(slot.reports().map(|(_, name, _)| name.to_string()).collect::<Vec<_>>(), ["good"]);
    }

    #[test]
    fn a_task_that_panicked_is_asked_once_to_give_up_its_files() {
        struct Panics(Rc<RefCell<u32>>);
        impl SlotTask for Panics {
            fn step(&mut self, _cx: &mut StepContext<'_>) -> Progress {
                panic!("in a step");
            }

            fn give_up(&mut self, _cx: &mut StepContext<'_>) {
                *self.0.borrow_mut() += 1;
                panic!("in giving up");
            }
        }
        let (mut slot, asked) = (slot(), Rc::default());
        slot.add("bad", share(1), Box::new(Panics(Rc::clone(&asked))));
        step(&mut slot);
        step(&mut slot);
        assert_eq!((*asked.borrow(), exits(&slot)), (1, vec![("bad".into(), TaskExit::Panicked("in a step".into()))]));
    }

    #[test]
    fn a_panic_in_a_drop_is_contained_too() {
        struct BadDrop;
        impl Drop for BadDrop {
            fn drop(&mut self) {
                panic!("in drop");
            }
        }
        let mut slot = slot();
        let bad = BadDrop;
        slot.add(
            "bad",
            share(1),
            boxed(move || {
                let _keep = &bad;
                Progress::Done
            }),
        );
        step(&mut slot);
        assert_eq!(exits(&slot), [("bad".into(), TaskExit::Panicked("in drop".into()))]);
    }

    #[test]
    fn a_done_task_is_removed_and_not_stepped_again() {
        let mut slot = slot();
        let steps = Rc::new(RefCell::new(0));
        let counted = steps.clone();
        slot.add(
            "once",
            share(1),
            boxed(move || {
                *counted.borrow_mut() += 1;
                Progress::Done
            }),
        );
        assert_eq!((step(&mut slot), step(&mut slot)), (Progress::Worked, Progress::Idle));
        assert_eq!((*steps.borrow(), exits(&slot)), (1, vec![("once".into(), TaskExit::Done)]));
    }

    #[test]
    fn a_busy_higher_class_leaves_a_lower_one_a_small_share() {
        let mut slot = slot();
        slot.add("low", share(9), boxed(|| Progress::Worked));
        slot.add("high", share(1), boxed(|| Progress::Worked));
        (0..1600).for_each(|_| {
            step(&mut slot);
        });
        let steps: Vec<_> = slot.reports().map(|(_, name, report)| (name.to_string(), report.steps)).collect();
        assert_eq!(steps, [("high".into(), 1600), ("low".into(), 100)]);
    }

    #[test]
    fn busy_tasks_of_one_class_are_stepped_in_proportion_to_their_weights() {
        let mut slot = slot();
        slot.add("light", Share { priority: 1, weight: 1 }, boxed(|| Progress::Worked));
        slot.add("heavy", Share { priority: 1, weight: 3 }, boxed(|| Progress::Worked));
        (0..10_000).for_each(|_| {
            step(&mut slot);
        });
        let steps: Vec<_> = slot.reports().map(|(_, _, report)| report.steps).collect();
        // The light one may be a hundred steps ahead.
        assert!((3 * (steps[0] - 110)..=3 * steps[0]).contains(&steps[1]), "{steps:?}");
    }

    #[test]
    fn an_idle_higher_class_does_not_hold_back_a_lower_one() {
        let mut slot = slot();
        slot.add("low", share(9), boxed(|| Progress::Worked));
        slot.add("high", share(1), boxed(|| Progress::Idle));
        (0..100).for_each(|_| {
            step(&mut slot);
        });
        assert_eq!(slot.reports().map(|(_, _, report)| report.steps).collect::<Vec<_>>(), [0, 100]);
    }

    #[test]
    fn a_slot_is_idle_exactly_when_all_its_tasks_are() {
        let mut slot = slot();
        slot.add("idle", share(1), boxed(|| Progress::Idle));
        assert_eq!(step(&mut slot), Progress::Idle);
        slot.add("busy", share(2), boxed(|| Progress::Worked));
        assert_eq!(step(&mut slot), Progress::Worked);
    }

    /// With a pass each, a tenth of a millisecond apart, it took two sweeps until the last was asked; a slot that does not spin sleeps after two.
    #[test]
    fn a_slot_does_not_say_that_it_is_idle_while_a_task_sits_out_for_others_that_are() {
        let clock = Arc::new(ManualClock::default());
        let mut slot = Slot::new(Arc::new(Doorbell::new().unwrap()), None, clock.clone());
        for (step_us, mut steps_left) in [(1, 1), (200, 1), (500, 2)] {
            let clock = clock.clone();
            let work = move || {
                if steps_left == 0 {
                    return Progress::Idle;
                }
                steps_left -= 1;
                clock.advance(Duration::from_micros(step_us));
                Progress::Worked
            };
            slot.add("task", share(1), boxed(work));
        }
        while step(&mut slot) == Progress::Worked {}
        assert_eq!(slot.reports().map(|(_, _, report)| report.steps).collect::<Vec<_>>(), [1, 1, 2]);
    }

    #[test]
    fn a_call_runs_on_the_slot_and_may_add_a_task_that_cannot_move_between_threads() {
        let mut slot = slot();
        slot.handle().call(|slot| {
            let here = Rc::new(());
            slot.add(
                "local",
                Share::default(),
                boxed(move || {
                    let _keep = &here;
                    Progress::Worked
                }),
            );
        });
        assert_eq!(step(&mut slot), Progress::Worked);
        assert_eq!(slot.reports().count(), 1);
    }

    #[test]
    fn a_stopped_slot_reports_every_task_as_removed_and_is_done() {
        let mut slot = slot();
        slot.add("a", share(1), boxed(|| Progress::Idle));
        slot.handle().stop();
        assert_eq!(step(&mut slot), Progress::Done);
        assert_eq!(exits(&slot), [("a".into(), TaskExit::Removed)]);
    }

    #[test]
    fn the_earliest_wish_to_wake_counts() {
        struct At(Option<u64>);
        impl SlotTask for At {
            fn step(&mut self, _cx: &mut StepContext<'_>) -> Progress {
                Progress::Idle
            }

            fn wake_at_ns(&self) -> Option<u64> {
                self.0
            }
        }
        let mut slot = slot();
        for at in [None, Some(7), Some(5)] {
            slot.add("timer", share(1), Box::new(At(at)));
        }
        assert_eq!(slot.wake_at_ns(), Some(5));
    }
}
