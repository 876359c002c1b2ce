//! An engine without threads: whoever holds it steps its slots and its control, with the time and the disk of his choice.
//!
//! Here: the machines that `builder` gives threads to, put together in one place. Not here: in which order they are stepped (`sim`).

use super::control::{Control, ControlCommand, ControlSender, Machine};
use super::handle::JobHandle;
use super::options::{JobOptions, SubmitError};
use crate::checkpoint::StoreOptions;
use crate::io::Io;
use crate::memory::{ArenaOptions, HugePages};
use crate::slot::{Doorbell, Progress, Slot, StepContext};
use crate::stream::Job;
use crate::time::Clock;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;

/// The slots and the control of an engine. Dropping it is what a killed process does: nothing is closed, told or finished.
pub(crate) struct SteppedEngine {
    slots: Vec<Slot>,
    control: Control,
    commands: ControlSender,
    clock: Arc<dyn Clock>,
}

impl SteppedEngine {
    /// An engine that runs nothing yet. Fails when the process has no descriptor left for a doorbell.
    pub(crate) fn new(
        slots: u32,
        memory_bytes: usize,
        store: StoreOptions,
        clock: Arc<dyn Clock>,
        seed: u64,
    ) -> std::io::Result<Self> {
        let bell = Arc::new(Doorbell::new()?);
        let slot = |_| Ok(Slot::new(Arc::new(Doorbell::new()?), Some(bell.clone()), clock.clone()));
        let slots: Vec<Slot> = (0..slots).map(slot).collect::<std::io::Result<_>>()?;
        let commands = ControlSender::new(bell.clone());
        let machine = Machine { memory_bytes, arena: ArenaOptions { huge_pages: HugePages::Off }, store };
        let handles = slots.iter().map(|slot| slot.handle().clone()).collect();
        let control = Control::new(handles, commands.clone(), machine, clock.clone(), seed);
        Ok(Self { slots, control, commands, clock })
    }

    /// How many slots there are.
    pub(crate) fn slot_count(&self) -> usize {
        self.slots.len()
    }

    /// A step of one slot, as its thread would make it.
    pub(crate) fn step_slot(&mut self, slot: usize, io: &mut dyn Io) -> Progress {
        let (now_ns, wall_ms) = (self.clock.monotonic_ns(), self.clock.wall_ms());
        self.slots[slot].step(&mut StepContext { now_ns, wall_ms, io })
    }

    /// A step of the control. `Worked` when there was something to do.
    pub(crate) fn step_control(&mut self, io: &mut dyn Io) -> Progress {
        let worked = self.control.has_waiting_input();
        self.control.step(io);
        if worked || self.control.has_waiting_input() { Progress::Worked } else { Progress::Idle }
    }

    /// Submits a job: the control's next step, at once.
    pub(crate) fn submit(&mut self, job: Job, options: JobOptions, io: &mut dyn Io) -> Result<JobHandle, SubmitError> {
        let (reply, answer) = sync_channel(1);
        self.commands.send(ControlCommand::Submit { graph: job.into_graph(), options: Box::new(options), reply });
        self.control.step(io);
        answer.try_recv().unwrap_or(Err(SubmitError::EngineStopped))
    }

    /// When a machine has something to do although no other gives it anything.
    pub(crate) fn wake_at_ns(&self) -> u64 {
        let slots = self.slots.iter().filter_map(Slot::wake_at_ns);
        slots.chain([self.control.wake_at_ns()]).min().expect("the control always wants to be woken")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::{SimDisk, SimDiskOptions, SimIo};
    use crate::sink::Discard;
    use crate::source::{Generator, PushSource};
    use crate::time::ManualClock;
    use std::time::Duration;

    const SECOND_NS: u64 = 1_000_000_000;

    /// Steps everything for some time of the clock, which only moves when nothing is left to do; how often it moved.
    fn run(engine: &mut SteppedEngine, clock: &ManualClock, io: &mut dyn Io, for_ns: u64) -> usize {
        let until_ns = clock.monotonic_ns() + for_ns;
        let mut sleeps = 0;
        while clock.monotonic_ns() < until_ns {
            let worked = (0..engine.slot_count()).any(|slot| engine.step_slot(slot, io) == Progress::Worked);
            if engine.step_control(io) == Progress::Idle && !worked {
                sleeps += 1;
                let sleep_ns = engine.wake_at_ns().saturating_sub(clock.monotonic_ns());
                clock.advance(Duration::from_nanos(sleep_ns.max(1)));
            }
        }
        sleeps
    }

    fn engine(clock: &Arc<ManualClock>) -> (SteppedEngine, SimIo) {
        let io = SimIo::new(&SimDisk::new(1, SimDiskOptions::default()));
        (SteppedEngine::new(1, 64 << 20, StoreOptions::default(), clock.clone(), 1).unwrap(), io)
    }

    #[test]
    fn an_engine_whose_sources_are_silent_wakes_once_a_second() {
        let clock = Arc::new(ManualClock::default());
        let (mut engine, mut io) = engine(&clock);
        let (job, (source, _numbers)) = (Job::new("silent"), PushSource::<u64>::new(4));
        job.source("numbers", source).ingestion_time().sink("nowhere", Discard);
        engine.submit(job, JobOptions::default(), &mut io).unwrap();
        // Until the split has become idle.
        run(&mut engine, &clock, &mut io, 10 * SECOND_NS);
        let sleeps = run(&mut engine, &clock, &mut io, 60 * SECOND_NS);
        // Heartbeats between JobManager and TaskManager come beside the looks.
        assert!((60..=75).contains(&sleeps), "{sleeps} in a minute");
    }

    #[test]
    fn slots_at_work_are_looked_at_five_times_a_second() {
        let clock = Arc::new(ManualClock::default());
        let (mut engine, mut io) = engine(&clock);
        let job = Job::new("steady");
        job.source("numbers", Generator::new(|n: u64| n).per_second(0.1)).ingestion_time().sink("nowhere", Discard);
        let handle = engine.submit(job, JobOptions::default(), &mut io).unwrap();
        run(&mut engine, &clock, &mut io, 10 * SECOND_NS);
        handle.cancel();
        engine.step_control(&mut io);
        let wake_ns = engine.control.wake_at_ns();
        assert!(wake_ns <= clock.monotonic_ns() + SECOND_NS / 5, "a command ends the long sleep");
    }
}
