//! Starting and stopping an engine inside a host process.

use super::control::{Control, ControlCommand, ControlSender, Machine};
use super::handle::JobHandle;
use super::options::{JobOptions, SubmitError};
use crate::checkpoint::StoreOptions;
use crate::io::{Io, IoChoice, IoUnavailable, SharedIo};
use crate::memory::{ArenaOptions, HugePages};
use crate::slot::{AllowedCpus, Doorbell, IdlePolicy, Slot, SlotError, SlotHandle, SlotObservation, drive, spawn_slot};
use crate::stream::Job;
use crate::time::{Clock, MachineClock};
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::thread::JoinHandle;

/// Runs jobs in this process: a thread per slot, pinned where the process may, and one control thread.
///
/// ```
/// use millstream::engine::{Engine, JobOptions};
/// use millstream::sink::Collect;
/// use millstream::source::VecSource;
/// use millstream::stream::Job;
///
/// let engine = Engine::builder().slots(1).memory(64 << 20).start()?;
/// let (job, evens) = (Job::new("evens"), Collect::immediate());
/// job.source("numbers", VecSource::new(vec![vec![1u64, 2, 3, 4]]))
///     .ingestion_time()
///     .filter(|n| n % 2 == 0)
///     .sink("evens", evens.clone());
/// engine.submit(job, JobOptions::default())?.wait()?;
/// assert_eq!(evens.take(), [2, 4]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Engine {
    control: ControlSender,
    control_thread: Option<JoinHandle<()>>,
    slots: Vec<SlotHandle>,
    slot_threads: Vec<JoinHandle<()>>,
}

/// How an engine is to be started.
#[derive(Clone, Debug)]
pub struct EngineBuilder {
    slots: Option<u32>,
    memory_bytes: usize,
    io: IoChoice,
    huge_pages: HugePages,
    pin: bool,
    busy_poll: bool,
}

/// Why an engine does not start.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// Nothing could run.
    #[error("an engine needs at least 1 slot, 0 were asked for")]
    NoSlots,
    /// A thread could not be started.
    #[error(transparent)]
    Slot(#[from] SlotError),
    /// A doorbell could not be made.
    #[error("no event descriptor can be made ({0}): raise the limit on open files (ulimit -n)")]
    Doorbell(std::io::Error),
    /// The disk cannot be reached as asked.
    #[error(transparent)]
    Io(#[from] IoUnavailable),
}

impl Engine {
    /// An engine with one slot for each CPU the process may use, 512 MiB of memory, io_uring where the kernel allows it.
    pub fn builder() -> EngineBuilder {
        EngineBuilder {
            slots: None,
            memory_bytes: 512 << 20,
            io: IoChoice::Auto,
            huge_pages: HugePages::Advised,
            pin: true,
            busy_poll: false,
        }
    }

    /// Submits a job. Returns once its program, its state directory and its sources are accepted; it may then wait for memory.
    pub fn submit(&self, job: Job, options: JobOptions) -> Result<JobHandle, SubmitError> {
        let (reply, answer) = sync_channel(1);
        self.control.send(ControlCommand::Submit { graph: job.into_graph(), options: Box::new(options), reply });
        answer.recv().unwrap_or(Err(SubmitError::EngineStopped))
    }

    /// How many slots there are.
    pub fn slot_count(&self) -> usize {
        self.slots.len()
    }

    /// What each slot is doing, and how long its steps took: one that works in long steps delays every other task on it. Does not
    /// disturb the slots.
    pub fn slots(&self) -> Vec<SlotObservation> {
        self.slots.iter().map(|slot| slot.watch().observe()).collect()
    }

    /// Stops all threads and waits for them. Jobs that still run end where they are: stop them before, to keep what they did since
    /// their last checkpoints. Dropping the engine does the same.
    pub fn stop(self) {}

    fn shut_down(&mut self) {
        self.control.send(ControlCommand::Shutdown);
        if let Some(thread) = self.control_thread.take() {
            let _ = thread.join();
        }
        self.slots.iter().for_each(SlotHandle::stop);
        for thread in self.slot_threads.drain(..) {
            // A slot contains the panics of its tasks; one of its own was printed by the panic hook already.
            let _ = thread.join();
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.shut_down();
    }
}

impl EngineBuilder {
    /// How many slots: threads, each pinned to a core of its own if there are enough.
    pub fn slots(self, slots: u32) -> Self {
        Self { slots: Some(slots), ..self }
    }

    /// The memory all jobs may have together, in bytes.
    pub fn memory(self, memory_bytes: usize) -> Self {
        Self { memory_bytes, ..self }
    }

    /// How files are reached.
    pub fn io(self, io: IoChoice) -> Self {
        Self { io, ..self }
    }

    /// Whether huge pages are asked for.
    pub fn huge_pages(self, huge_pages: HugePages) -> Self {
        Self { huge_pages, ..self }
    }

    /// Whether slots are pinned to cores.
    pub fn pin(self, pin: bool) -> Self {
        Self { pin, ..self }
    }

    /// Whether slots never sleep: each takes its CPU whole, and sees a record as soon as it is visible instead of after a wake-up
    /// (4 to 40 us). Without effect, but for a line in the log, where slots outnumber the CPUs.
    pub fn busy_poll(self, busy_poll: bool) -> Self {
        Self { busy_poll, ..self }
    }

    /// How `count` slots wait on so many CPUs.
    fn idle_policy(&self, count: usize, usable_cpus: usize) -> IdlePolicy {
        if !self.busy_poll {
            return IdlePolicy::for_slots(count, usable_cpus);
        }
        if count <= usable_cpus {
            return IdlePolicy::busy_poll();
        }
        tracing::warn!("{count} slots on {usable_cpus} CPUs do not poll: each would keep another from running");
        IdlePolicy::for_slots(count, usable_cpus)
    }

    pub(super) fn io_choice(&self) -> IoChoice {
        self.io
    }

    /// Starts all threads. They sleep until a job is submitted.
    pub fn start(self) -> Result<Engine, EngineError> {
        let cpus = AllowedCpus::of_process();
        let count = self.slots.map_or(cpus.usable(), |slots| slots as usize);
        if count == 0 {
            return Err(EngineError::NoSlots);
        }
        if let Some(shortage) = cpus.shortage(count) {
            tracing::warn!("{shortage}");
        }
        let pins = if self.pin { cpus.for_slots(count) } else { vec![None; count] };
        let idle = self.idle_policy(count, cpus.usable());
        let control_bell = Arc::new(Doorbell::new().map_err(EngineError::Doorbell)?);
        let control = ControlSender::new(control_bell.clone());
        let mut engine = Engine::without_threads(control, Vec::new());
        for (index, cpu) in pins.into_iter().enumerate() {
            let bell = Arc::new(Doorbell::new().map_err(EngineError::Doorbell)?);
            let (listener, choice) = (control_bell.clone(), self.io);
            let idle = idle.clone();
            let (started, answer) = sync_channel(1);
            let thread = spawn_slot(&format!("slot-{index}"), cpu, move || {
                let mut io = match crate::io::open(choice, bell.clone()) {
                    Ok(io) => SharedIo::new(io),
                    Err(error) => return drop(started.send(Err(error))),
                };
                let mut slot = Slot::new(bell, Some(listener), Arc::new(MachineClock));
                if started.send(Ok(slot.handle().clone())).is_ok() {
                    drive(&mut slot, &mut io, idle);
                }
            })?;
            engine.slot_threads.push(thread);
            engine.slots.push(answer.recv().map_err(|_| EngineError::NoSlots)??);
        }
        engine.start_control(&self, control_bell)?;
        Ok(engine)
    }
}

impl Engine {
    /// An engine whose slots somebody else steps.
    pub(super) fn without_threads(control: ControlSender, slots: Vec<SlotHandle>) -> Self {
        Self { control, control_thread: None, slots, slot_threads: Vec::new() }
    }

    pub(super) fn start_control(&mut self, builder: &EngineBuilder, bell: Arc<Doorbell>) -> Result<(), EngineError> {
        let machine = Machine {
            memory_bytes: builder.memory_bytes,
            arena: ArenaOptions { huge_pages: builder.huge_pages },
            store: StoreOptions::default(),
        };
        let seed = MachineClock.wall_ms() as u64 ^ MachineClock.monotonic_ns().rotate_left(32);
        let (slots, commands) = (self.slots.clone(), self.control.clone());
        let choice = builder.io;
        let (started, answer) = sync_channel(1);
        let thread = spawn_slot("control", None, move || {
            let mut io: Box<dyn Io> = match crate::io::open(choice, bell) {
                Ok(io) => io,
                Err(error) => return drop(started.send(Err(error))),
            };
            if started.send(Ok(())).is_ok() {
                Control::new(slots, commands, machine, Arc::new(MachineClock), seed).run(&mut *io);
            }
        })?;
        self.control_thread = Some(thread);
        answer.recv().map_err(|_| EngineError::NoSlots)??;
        Ok(())
    }
}
