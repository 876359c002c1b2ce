//! How other threads reach a slot, and what the slot tells them: control messages only, never data.
//!
//! Both queues are unbounded, which is allowed here because their senders are: one message per task added, removed or ended.

use super::schedule::Share;
use super::watch::SlotWatch;
use super::{Doorbell, Slot, SlotTask};
use crossbeam_queue::SegQueue;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Names a task for as long as the process lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TaskId(pub u64);

/// Something to do on the slot's thread, between two steps.
pub type SlotCall = Box<dyn FnOnce(&mut Slot) + Send>;

/// Why a task is no longer on its slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TaskExit {
    /// It said `Done`.
    Done,
    /// It was removed by a command.
    Removed,
    /// It panicked, with this message; nothing of it runs any more.
    Panicked(String),
}

/// What a slot reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SlotEvent {
    /// A task left the slot.
    TaskLeft {
        /// Which.
        task: TaskId,
        /// Its name.
        name: Arc<str>,
        /// Why.
        exit: TaskExit,
    },
}

pub(super) enum SlotCommand {
    Add { id: TaskId, name: String, share: Share, task: Box<dyn SlotTask + Send> },
    Remove(TaskId),
    Call(SlotCall),
    Stop,
}

/// Reaches a slot from any thread; cloning shares it. Nothing here blocks.
#[derive(Clone)]
pub struct SlotHandle {
    shared: Arc<Mailbox>,
}

pub(super) struct Mailbox {
    commands: SegQueue<SlotCommand>,
    events: SegQueue<SlotEvent>,
    bell: Arc<Doorbell>,
    listener: Option<Arc<Doorbell>>,
    watch: Arc<SlotWatch>,
}

static TASK_ID_LAST: AtomicU64 = AtomicU64::new(0);

impl TaskId {
    pub(super) fn next() -> Self {
        Self(TASK_ID_LAST.fetch_add(1, Ordering::Relaxed) + 1)
    }
}

impl SlotHandle {
    pub(super) fn new(bell: Arc<Doorbell>, listener: Option<Arc<Doorbell>>) -> Self {
        let (commands, events, watch) = (SegQueue::new(), SegQueue::new(), Arc::default());
        Self { shared: Arc::new(Mailbox { commands, events, bell, listener, watch }) }
    }

    /// Gives the slot a task. A task that cannot move between threads is made on the slot instead: `call` and `Slot::add`.
    pub fn add(&self, name: &str, share: Share, task: Box<dyn SlotTask + Send>) -> TaskId {
        let id = TaskId::next();
        self.send(SlotCommand::Add { id, name: name.to_owned(), share, task });
        id
    }

    /// Takes a task off the slot and drops it there; no effect when it already left.
    pub fn remove(&self, task: TaskId) {
        self.send(SlotCommand::Remove(task));
    }

    /// Runs `call` on the slot's thread, between two steps. A panic in it is logged and ends nothing else.
    pub fn call(&self, call: impl FnOnce(&mut Slot) + Send + 'static) {
        self.send(SlotCommand::Call(Box::new(call)));
    }

    /// Ends the slot: its tasks are dropped, its driver returns.
    pub fn stop(&self) {
        self.send(SlotCommand::Stop);
    }

    /// What happened, oldest first; each event is taken once.
    pub fn next_event(&self) -> Option<SlotEvent> {
        self.shared.events.pop()
    }

    /// What others may see of the slot.
    pub fn watch(&self) -> &Arc<SlotWatch> {
        &self.shared.watch
    }

    /// Wakes the slot; given to everybody who has something for its tasks.
    pub fn bell(&self) -> &Arc<Doorbell> {
        &self.shared.bell
    }

    pub(super) fn next_command(&self) -> Option<SlotCommand> {
        self.shared.commands.pop()
    }

    pub(super) fn report(&self, event: SlotEvent) {
        self.shared.events.push(event);
        if let Some(listener) = &self.shared.listener {
            listener.ring();
        }
    }

    fn send(&self, command: SlotCommand) {
        self.shared.commands.push(command);
        self.shared.bell.ring();
    }
}

impl std::fmt::Debug for SlotHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SlotHandle").field("watch", &self.shared.watch).finish_non_exhaustive()
    }
}
