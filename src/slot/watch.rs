//! What others see of a slot without disturbing it: is it alive, what is it doing, how long do its steps take.
//!
//! The slot is the only writer and uses plain relaxed stores; readers may see values a few nanoseconds old. Names are numbers
//! here, so that saying what runs costs one store; the lock around their table is only taken when tasks come and go, and by readers.

use super::step_lengths::{STEP_BUCKETS, StepLengths};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// A registered name; `NameId::NONE` is nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NameId(u32);

impl NameId {
    /// Nobody.
    pub const NONE: Self = Self(0);
}

/// Written by the slot, read by the watchdog and the metrics.
#[derive(Debug)]
pub struct SlotWatch {
    steps: AtomicU64,
    busy_ns: AtomicU64,
    step_ns_max: AtomicU64,
    task: AtomicU32,
    operator: AtomicU32,
    step_lengths: [AtomicU64; STEP_BUCKETS],
    names: Mutex<Names>,
}

#[derive(Debug, Default)]
struct Names {
    last: u32,
    by_id: HashMap<u32, Arc<str>>,
}

/// A slot at one instant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotObservation {
    /// Steps of tasks begun and ended since the start. A slot inside a task whose count stands still hangs.
    pub progress: u64,
    /// The task being stepped, if the slot is inside one.
    pub task: Option<Arc<str>>,
    /// The operator at work in it, if the task says so.
    pub operator: Option<Arc<str>>,
    /// Time spent in steps that worked.
    pub busy_ns: u64,
    /// The longest step of a task.
    pub step_ns_max: u64,
    /// How long the steps that worked took.
    pub step_lengths: StepLengths,
}

impl Default for SlotWatch {
    fn default() -> Self {
        Self {
            steps: AtomicU64::new(0),
            busy_ns: AtomicU64::new(0),
            step_ns_max: AtomicU64::new(0),
            task: AtomicU32::new(0),
            operator: AtomicU32::new(0),
            step_lengths: std::array::from_fn(|_| AtomicU64::new(0)),
            names: Mutex::default(),
        }
    }
}

impl SlotWatch {
    /// Gives a name a number, until `forget`.
    pub fn register(&self, name: &str) -> NameId {
        let mut names = self.names();
        names.last += 1;
        let id = names.last;
        names.by_id.insert(id, name.into());
        NameId(id)
    }

    /// Forgets a name.
    pub fn forget(&self, name: NameId) {
        self.names().by_id.remove(&name.0);
    }

    /// The slot's task enters an operator: one store. Only for code that runs on the slot's thread.
    #[inline]
    pub fn enter_operator(&self, operator: NameId) {
        self.operator.store(operator.0, Ordering::Relaxed);
    }

    /// What the slot is doing.
    pub fn observe(&self) -> SlotObservation {
        let names = self.names();
        let name = |id: &AtomicU32| names.by_id.get(&id.load(Ordering::Relaxed)).cloned();
        SlotObservation {
            progress: self.steps.load(Ordering::Relaxed),
            task: name(&self.task),
            operator: name(&self.operator),
            busy_ns: self.busy_ns.load(Ordering::Relaxed),
            step_ns_max: self.step_ns_max.load(Ordering::Relaxed),
            step_lengths: StepLengths::new(std::array::from_fn(|bucket| {
                self.step_lengths[bucket].load(Ordering::Relaxed)
            })),
        }
    }

    #[inline]
    pub(super) fn enter_task(&self, task: NameId) {
        self.task.store(task.0, Ordering::Relaxed);
    }

    /// A step ended after `ns`; only steps that worked count as busy time and in the lengths.
    #[inline]
    pub(super) fn leave_task(&self, ns: u64, worked: bool) {
        add(&self.steps, 1);
        self.task.store(NameId::NONE.0, Ordering::Relaxed);
        self.operator.store(NameId::NONE.0, Ordering::Relaxed);
        if worked {
            add(&self.busy_ns, ns);
            add(&self.step_lengths[StepLengths::bucket(ns)], 1);
            if ns > self.step_ns_max.load(Ordering::Relaxed) {
                self.step_ns_max.store(ns, Ordering::Relaxed);
            }
        }
    }

    fn names(&self) -> std::sync::MutexGuard<'_, Names> {
        // A panic cannot leave the table half changed: every change is one insert or remove.
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An addition by the only writer needs no read-modify-write.
#[inline]
fn add(counter: &AtomicU64, by: u64) {
    counter.store(counter.load(Ordering::Relaxed) + by, Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_observer_sees_the_task_and_operator_at_work_by_name() {
        let watch = SlotWatch::default();
        let (task, operator) = (watch.register("job/source"), watch.register("parse"));
        watch.enter_task(task);
        watch.enter_operator(operator);
        let seen = watch.observe();
        assert_eq!((seen.task.as_deref(), seen.operator.as_deref()), (Some("job/source"), Some("parse")));
        watch.leave_task(5, true);
        assert_eq!(watch.observe().task, None);
    }

    #[test]
    fn steps_are_counted_by_powers_of_two_and_idle_ones_are_not_busy() {
        let watch = SlotWatch::default();
        watch.leave_task(0, true);
        watch.leave_task(1_000, true);
        watch.leave_task(u64::MAX >> 8, true);
        watch.leave_task(1_000, false);
        let seen = watch.observe();
        let lengths: Vec<_> = seen.step_lengths.buckets().collect();
        assert_eq!(lengths, [(1, 1), (1_023, 1), (u64::MAX, 1)]);
        assert_eq!(seen.progress, 4);
    }
}
