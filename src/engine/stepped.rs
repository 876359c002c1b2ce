//! An engine without threads: whoever holds it steps its slots and its control, with the time and the disk of his choice.
//!
//! Here: the machines that `builder` gives threads to, put together in one place. Not here: in which order they are stepped (`sim`).

use super::control::{Control, ControlCommand, ControlSender, Machine};
use super::handle::JobHandle;
use super::options::{JobOptions, SubmitError};
use crate::checkpoint::StoreOptions;
use crate::io::{Io, SharedIo};
use crate::memory::{ArenaOptions, HugePages, MemoryBudget};
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

    /// What the end of a real engine does: the control ends what is left, then the slots drop their tasks. `ios` are the slots' and the control's.
    pub(crate) fn shut_down(&mut self, ios: &mut [SharedIo]) {
        let control = self.slot_count();
        self.control.shut_down(&mut ios[control]);
        for (slot, io) in ios[..control].iter_mut().enumerate() {
            self.slots[slot].handle().stop();
            self.step_slot(slot, io);
        }
    }

    /// The memory of a job that has not ended.
    pub(crate) fn budget_of(&self, job: &JobHandle) -> Option<&MemoryBudget> {
        self.control.budget_of(job.job)
    }

    /// What is still kept although every job has ended, in words.
    pub(crate) fn leftovers(&self) -> Vec<String> {
        let tasks = self.slots.iter().flat_map(|slot| slot.reports());
        let tasks = tasks.map(|(_, name, _)| format!("the task {name} is still on its slot"));
        self.control.leftovers().into_iter().chain(tasks).collect()
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
    use crate::checkpoint::{CheckpointFollower, CheckpointId, CommittedFiles};
    use crate::engine::CheckpointOptions;
    use crate::io::{DiskFault, InjectedFault, Repeat, SimDisk, SimDiskOptions, SimIo};
    use crate::job_manager::{JobState, RestartPolicy};
    use crate::metrics::Metric;
    use crate::operator::{Emit, KeyedContext, KeyedProcess, NoSide, StateRegistry};
    use crate::record::Stamp;
    use crate::sink::{Callback, Discard, Sink, SinkContext, SinkError, SinkWriter};
    use crate::source::{Generator, PushSource, Source, SourceError, VecSource};
    use crate::state::StateError;
    use crate::time::ManualClock;
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
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

    fn engine(clock: &Arc<ManualClock>) -> (SteppedEngine, SharedIo) {
        let io = SharedIo::new(SimIo::new(&SimDisk::new(1, SimDiskOptions::default())));
        let store = StoreOptions { lock_patience_ms: None, ..StoreOptions::default() };
        (SteppedEngine::new(1, 64 << 20, store, clock.clone(), 1).unwrap(), io)
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

    /// Steps one slot for ever busy with two jobs so often, and returns how many records each has read.
    fn records_read(options: [JobOptions; 2], sweeps: usize) -> [u64; 2] {
        let clock = Arc::new(ManualClock::default());
        let (mut engine, mut io) = engine(&clock);
        let handles = options.map(|options| {
            let job = Job::new(&format!("of priority {} and weight {}", options.priority, options.weight));
            job.source("numbers", Generator::new(|n: u64| n)).ingestion_time().sink("nowhere", Discard);
            engine.submit(job, JobOptions { memory_bytes: Some(16 << 20), ..options }, &mut io).unwrap()
        });
        for sweep in 0..sweeps {
            assert_eq!(engine.step_slot(0, &mut io), Progress::Worked, "sources without a rate always have more");
            if sweep % 1_000 == 0 {
                engine.step_control(&mut io);
            }
        }
        handles.map(|handle| {
            let counts = handle.metrics().into_iter().filter(|sample| &*sample.of.operator == "numbers");
            let read = counts.filter_map(|sample| match sample.metric {
                Metric::Count("records_out", count) => Some(count),
                _ => None,
            });
            read.sum()
        })
    }

    #[test]
    fn busy_jobs_of_weights_1_and_3_read_records_1_to_3() {
        let [light, heavy] = [1, 3].map(|weight| JobOptions { weight, ..JobOptions::default() });
        let [light, heavy] = records_read([light, heavy], 20_000);
        let ratio = heavy as f64 / light as f64;
        assert!((2.9..3.1).contains(&ratio), "{light} and {heavy} records");
    }

    #[test]
    fn a_job_of_lower_priority_gets_a_sixteenth_of_the_turns_beside_a_busy_one_and_does_not_starve() {
        let [low, high] = [0, 1].map(|priority| JobOptions { priority, ..JobOptions::default() });
        let [low, high] = records_read([low, high], 20_000);
        let ratio = high as f64 / low as f64;
        assert!((15.5..16.5).contains(&ratio), "{low} and {high} records");
    }

    #[test]
    fn the_latencies_of_a_sink_agree_with_a_stopwatch_outside_the_engine_within_5_percent() {
        let clock = Arc::new(ManualClock::default());
        let (mut engine, mut io) = engine(&clock);
        let stopwatch = Arc::new(Mutex::new(Vec::new()));
        let (seen, outside) = (stopwatch.clone(), clock.clone());
        let job = Job::new("watched");
        job.source("numbers", Generator::new(|n: u64| n).count(100_000).per_second(1e6))
            .ingestion_time()
            .key_by("by-key", |n: &u64| n % 100)
            .reduce("last", |_, b| *b)
            .sink(
                "watched",
                Callback::new(move |stamp: &Stamp, _: &u64| {
                    seen.lock().unwrap().push(outside.monotonic_ns() - stamp.origin_ns);
                }),
            );
        let handle = engine.submit(job, JobOptions::default(), &mut io).unwrap();
        // Each step takes 1 to 3 us; one in a hundred up to 300 us, as on a machine that does something else in between.
        let mut random = 7u64;
        while !handle.has_ended() {
            let worked = engine.step_slot(0, &mut io) == Progress::Worked;
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let longest_ns = if (random >> 20).is_multiple_of(100) { 300_000 } else { 3_000 };
            clock.advance(Duration::from_nanos(1_000 + (random >> 33) % longest_ns));
            if (random >> 25).is_multiple_of(1_000) {
                handle.sink_latency("watched");
            }
            if engine.step_control(&mut io) == Progress::Idle && !worked {
                let sleep_ns = engine.wake_at_ns().saturating_sub(clock.monotonic_ns());
                clock.advance(Duration::from_nanos(sleep_ns));
            }
        }
        drop(engine);
        let mut stopwatch = stopwatch.lock().unwrap();
        stopwatch.sort_unstable();
        let (exact, shown) = (stopwatch[stopwatch.len() * 999 / 1_000 - 1], handle.sink_latency("watched"));
        assert_eq!(shown.count as usize, stopwatch.len());
        assert!(shown.p999_ns.abs_diff(exact) * 20 <= exact, "{} and {exact}", shown.p999_ns);
    }

    #[test]
    fn a_job_that_was_left_alone_for_long_shows_what_has_happened_since() {
        let clock = Arc::new(ManualClock::default());
        let (mut engine, mut io) = engine(&clock);
        let (job, (source, numbers)) = (Job::new("grows"), PushSource::<u64>::new(20_000));
        job.source("numbers", source)
            .ingestion_time()
            .key_by("by-key", |n: &u64| *n)
            .reduce("last", |_, b| *b)
            .sink("nowhere", Discard);
        let handle = engine.submit(job, JobOptions::default(), &mut io).unwrap();
        run(&mut engine, &clock, &mut io, 30 * SECOND_NS);
        let before = handle.status().memory_bytes.0;
        (0..200_000).for_each(|n| {
            while numbers.try_push(n).is_err() {
                assert_eq!(engine.step_slot(0, &mut io), Progress::Worked, "{n}");
            }
        });
        run(&mut engine, &clock, &mut io, 10 * SECOND_NS);
        assert!(handle.status().memory_bytes.0 > before, "200,000 keys take more than the first chunk");
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

    fn endless(name: &str) -> Job {
        let job = Job::new(name);
        job.source("numbers", Generator::new(|n: u64| n).per_second(10.0)).ingestion_time().sink("nowhere", Discard);
        job
    }

    #[test]
    fn an_engine_that_stood_still_for_minutes_runs_its_jobs_on() {
        let clock = Arc::new(ManualClock::default());
        let (mut engine, mut io) = engine(&clock);
        let handle = engine.submit(endless("goes-on"), JobOptions::default(), &mut io).unwrap();
        run(&mut engine, &clock, &mut io, SECOND_NS);
        clock.advance(Duration::from_secs(600));
        run(&mut engine, &clock, &mut io, 60 * SECOND_NS);
        let status = handle.status();
        assert_eq!((status.state, status.attempt), (JobState::Running, 1), "{status:?}");
    }

    #[test]
    fn a_savepoint_asked_of_an_engine_that_is_gone_is_refused_at_once() {
        let clock = Arc::new(ManualClock::default());
        let (mut engine, mut io) = engine(&clock);
        let handle = engine.submit(endless("gone"), JobOptions::default(), &mut io).unwrap();
        let before = handle.savepoint("/before");
        engine.shut_down(&mut [io.clone(), io]);
        for answer in [before, handle.savepoint("/after"), handle.stop_with_savepoint("/stopped", false)] {
            let refused = answer.wait_for(Duration::ZERO).expect("there is an answer").unwrap_err();
            assert!(refused.to_string().contains("the engine was stopped"), "{refused}");
        }
    }

    /// A source whose splits cannot be listed without a panic.
    #[derive(Clone)]
    struct NoSplits;

    impl Source for NoSplits {
        type Record = u64;
        type Reader = <VecSource<u64> as Source>::Reader;

        fn splits(&self, _: &mut dyn Io) -> Result<Vec<String>, SourceError> {
            panic!("no splits today")
        }

        fn open(&self, split: &str, position: Option<&[u8]>) -> Result<Self::Reader, SourceError> {
            VecSource::new(vec![vec![1u64]]).open(split, position)
        }
    }

    #[test]
    fn a_source_that_panics_when_its_splits_are_listed_costs_its_job_and_not_the_control() {
        let clock = Arc::new(ManualClock::default());
        let (mut engine, mut io) = engine(&clock);
        let job = Job::new("unlisted");
        job.source("numbers", NoSplits).ingestion_time().sink("nowhere", Discard);
        let refused = engine.submit(job, JobOptions::default(), &mut io).map(|_| ()).unwrap_err().to_string();
        assert!(refused.contains("numbers") && refused.contains("no splits today"), "{refused}");
    }

    /// Without a delay between its attempts a job that cannot be started had the control go round for ever.
    #[test]
    fn a_job_that_restarts_without_a_delay_and_cannot_leaves_time_to_others() {
        let clock = Arc::new(ManualClock::default());
        let disk = SimDisk::new(1, SimDiskOptions::default());
        let mut io = SharedIo::new(SimIo::new(&disk));
        let store = StoreOptions { lock_patience_ms: None, ..StoreOptions::default() };
        let mut engine = SteppedEngine::new(1, 64 << 20, store, clock.clone(), 1).unwrap();
        let job = Job::new("hopeless");
        job.source("numbers", Generator::new(|_| -> u64 { std::panic::panic_any("no numbers") }))
            .ingestion_time()
            .sink("nowhere", Discard);
        let options = JobOptions {
            checkpoints: Some(CheckpointOptions::every("/state", Duration::from_secs(1))),
            restart: RestartPolicy::FixedDelay { attempts_max: 10_000, delay_ms: 0 },
            ..JobOptions::default()
        };
        let handle = engine.submit(job, options, &mut io).unwrap();
        let (repeat, fault) = (Repeat::Forever, DiskFault::Eio);
        disk.inject(InjectedFault { at_operation: disk.operations(), repeat, fault, under: None });
        engine.step_slot(0, &mut io);
        while handle.status().state == JobState::Running && handle.status().attempt <= 1 {
            engine.step_slot(0, &mut io);
            engine.step_control(&mut io);
        }
        let attempts = handle.status().attempt;
        assert!(attempts < 100, "{attempts} attempts in one step");
        handle.cancel();
        run(&mut engine, &clock, &mut io, SECOND_NS);
        assert_eq!(handle.status().state, JobState::Canceled);
        assert_eq!(engine.leftovers(), [""; 0]);
    }

    #[test]
    fn a_task_that_cannot_be_built_is_not_expected_to_leave_its_slot() {
        #[derive(Clone)]
        struct NoState;

        impl KeyedProcess<u64, u64> for NoState {
            type Out = u64;
            type Side = NoSide;
            type State = ();

            fn open(&self, _: &mut StateRegistry<'_>) -> Result<(), StateError> {
                std::panic::panic_any("no state today")
            }

            fn on_record(
                &self,
                _: &mut (),
                _: &mut KeyedContext<'_, u64>,
                _: &u64,
                _: &mut impl Emit<u64, NoSide>,
            ) -> Result<(), StateError> {
                Ok(())
            }
        }

        let clock = Arc::new(ManualClock::default());
        let (mut engine, mut io) = engine(&clock);
        let job = Job::new("unbuilt");
        job.source("numbers", Generator::new(|n: u64| n))
            .ingestion_time()
            .key_by("by-key", |n: &u64| *n)
            .process("stateless", NoState)
            .sink("nowhere", Discard);
        let options = JobOptions { restart: RestartPolicy::None, ..JobOptions::default() };
        let handle = engine.submit(job, options, &mut io).unwrap();
        run(&mut engine, &clock, &mut io, SECOND_NS);
        assert_eq!(handle.status().state, JobState::Failed);
        assert_eq!(engine.leftovers(), [""; 0]);
    }

    /// Hears how often it was told that no more checkpoints come.
    #[derive(Debug, Default)]
    struct Told(AtomicU32);

    impl CheckpointFollower for Told {
        fn wants(&self, _: u64) -> bool {
            true
        }

        fn follow(&self, _: CommittedFiles, _: u64) {}

        fn finish(&self, _: Option<CommittedFiles>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }

        fn is_busy(&self) -> bool {
            false
        }
    }

    /// Keeps the first checkpoint it hears of.
    #[derive(Debug, Default)]
    struct Keeps(Mutex<Option<CommittedFiles>>);

    impl CheckpointFollower for Keeps {
        fn wants(&self, _: u64) -> bool {
            self.0.lock().unwrap().is_none()
        }

        fn follow(&self, files: CommittedFiles, _: u64) {
            *self.0.lock().unwrap() = Some(files);
        }

        fn finish(&self, _: Option<CommittedFiles>) {}

        fn is_busy(&self) -> bool {
            false
        }
    }

    #[test]
    fn the_files_of_a_checkpoint_that_is_held_stay_though_the_directory_could_at_first_not_be_opened_again() {
        let clock = Arc::new(ManualClock::default());
        let disk = SimDisk::new(1, SimDiskOptions::default());
        let mut io = SharedIo::new(SimIo::new(&disk));
        let extents =
            StoreOptions { extent_bytes_min: 16 << 10, extent_bytes_max: 16 << 10, ..StoreOptions::default() };
        let store = StoreOptions { lock_patience_ms: None, ..extents };
        let mut engine = SteppedEngine::new(1, 64 << 20, store, clock.clone(), 1).unwrap();
        let (follower, fails) = (Arc::new(Keeps::default()), Arc::new(AtomicBool::new(false)));
        let checkpoints = CheckpointOptions::every("/state", Duration::from_secs(1));
        let options = JobOptions {
            checkpoints: Some(CheckpointOptions { follower: Some(follower.clone()), ..checkpoints }),
            restart: RestartPolicy::FixedDelay { attempts_max: 1_000, delay_ms: 100 },
            ..JobOptions::default()
        };
        let (job, is_due) = (Job::new("held"), fails.clone());
        job.source("numbers", Generator::new(|n: u64| n).per_second(1e3))
            .ingestion_time()
            .filter(move |_| if is_due.swap(false, Ordering::Relaxed) { std::panic::panic_any("now") } else { true })
            .key_by("by-key", |n: &u64| n % 50)
            .reduce("last", |_, b| *b)
            .sink("nowhere", Discard);
        let handle = engine.submit(job, options, &mut io).unwrap();
        run(&mut engine, &clock, &mut io, 3 * SECOND_NS);
        let held = follower.0.lock().unwrap().as_ref().expect("there was a checkpoint").extents.clone();
        let (repeat, fault, under) = (Repeat::Forever, DiskFault::Eio, Some("/state".into()));
        disk.inject(InjectedFault { at_operation: disk.operations(), repeat, fault, under });
        fails.store(true, Ordering::Relaxed);
        run(&mut engine, &clock, &mut io, SECOND_NS);
        let reason = handle.status().reason.unwrap_or_default();
        assert!(reason.contains("cannot be opened again"), "{reason}");
        disk.clear_faults();
        run(&mut engine, &clock, &mut io, 60 * SECOND_NS);
        assert!(handle.status().checkpoints.completed > 50, "{:?}", handle.status());
        let names = disk.names(std::path::Path::new("/state")).unwrap();
        let is_gone = |&(number, _): &(u32, u64)| !names.contains(&crate::checkpoint::extent_file_name(number));
        assert!(!held.iter().any(is_gone), "{held:?} were held, {names:?} are there");
    }

    /// Panics at the first checkpoint, and again when it is given up.
    #[derive(Debug)]
    struct Panics;

    impl Drop for Panics {
        fn drop(&mut self) {
            std::panic::panic_any("no drop today");
        }
    }

    impl CheckpointFollower for Panics {
        fn wants(&self, _: u64) -> bool {
            std::panic::panic_any("no checkpoint today")
        }

        fn follow(&self, _: CommittedFiles, _: u64) {}

        fn finish(&self, _: Option<CommittedFiles>) {
            std::panic::panic_any("no end today")
        }

        fn is_busy(&self) -> bool {
            std::panic::panic_any("not busy today")
        }
    }

    #[test]
    fn a_follower_that_panics_costs_neither_the_control_nor_its_job() {
        let clock = Arc::new(ManualClock::default());
        let (mut engine, mut io) = engine(&clock);
        let checkpoints = CheckpointOptions::every("/state", Duration::from_secs(1));
        let checkpoints = Some(CheckpointOptions { follower: Some(Arc::new(Panics)), ..checkpoints });
        let options = JobOptions { checkpoints, ..JobOptions::default() };
        let handle = engine.submit(endless("followed"), options, &mut io).unwrap();
        run(&mut engine, &clock, &mut io, 5 * SECOND_NS);
        assert!(handle.status().checkpoints.completed > 2, "{:?}", handle.status());
        handle.stop();
        run(&mut engine, &clock, &mut io, 10 * SECOND_NS);
        assert_eq!(handle.status().state, JobState::Suspended);
    }

    /// A job that holds something that panics when it is dropped.
    fn bad_to_drop() -> Job {
        let (job, bad) = (Job::new("bad"), Arc::new(Panics));
        job.source("numbers", Generator::new(|n: u64| n).per_second(10.0))
            .ingestion_time()
            .filter(move |_| Arc::strong_count(&bad) > 0)
            .sink("nowhere", Discard);
        job
    }

    #[test]
    fn a_job_that_is_refused_may_hold_what_panics_when_it_is_dropped_and_the_host_hears_why_it_was_refused() {
        let clock = Arc::new(ManualClock::default());
        let (mut engine, mut io) = engine(&clock);
        let checkpoints = Some(CheckpointOptions {
            follower: Some(Arc::new(Panics)),
            ..CheckpointOptions::every("/state", Duration::from_secs(1))
        });
        let options = JobOptions { memory_bytes: Some(1), checkpoints, ..JobOptions::default() };
        let refused = engine.submit(bad_to_drop(), options, &mut io).map(|_| ()).unwrap_err();
        assert!(matches!(refused, SubmitError::MemoryTooSmall { .. }), "{refused}");
        let refused =
            engine.submit(bad_to_drop(), JobOptions { memory_bytes: Some(1 << 30), ..JobOptions::default() }, &mut io);
        assert!(matches!(refused, Err(SubmitError::Refused(_))));
    }

    #[test]
    fn what_a_job_holds_may_panic_when_it_is_dropped_and_costs_nobody_anything() {
        let clock = Arc::new(ManualClock::default());
        let (mut engine, mut io) = engine(&clock);
        let handle = engine.submit(bad_to_drop(), JobOptions::default(), &mut io).unwrap();
        run(&mut engine, &clock, &mut io, SECOND_NS);
        handle.cancel();
        run(&mut engine, &clock, &mut io, SECOND_NS);
        assert_eq!(handle.status().state, JobState::Canceled);
        assert_eq!(engine.leftovers(), [""; 0]);
    }

    /// Panics when a step of the control asks it for the time, if it is to.
    #[derive(Debug, Default)]
    struct BadClock(AtomicBool);

    impl Clock for BadClock {
        fn monotonic_ns(&self) -> u64 {
            if self.0.load(Ordering::Relaxed) { std::panic::panic_any("no time today") } else { 0 }
        }

        fn wall_ms(&self) -> i64 {
            0
        }
    }

    #[test]
    fn hosts_of_a_control_that_panics_hear_that_their_jobs_have_ended() {
        let clock = Arc::new(BadClock::default());
        let bell = Arc::new(Doorbell::new().unwrap());
        let slot = Slot::new(bell.clone(), Some(bell.clone()), clock.clone());
        let commands = ControlSender::new(bell);
        let arena = ArenaOptions { huge_pages: HugePages::Off };
        let store = StoreOptions { lock_patience_ms: None, ..StoreOptions::default() };
        let machine = Machine { memory_bytes: 64 << 20, arena, store };
        let mut control = Control::new(vec![slot.handle().clone()], commands.clone(), machine, clock.clone(), 1);
        let mut io = SimIo::new(&SimDisk::new(1, SimDiskOptions::default()));
        let (reply, answer) = sync_channel(1);
        let checkpoints = Some(CheckpointOptions::every("/state", Duration::from_secs(1)));
        let options = Box::new(JobOptions { checkpoints, ..JobOptions::default() });
        commands.send(ControlCommand::Submit { graph: endless("lost").into_graph(), options, reply });
        control.step(&mut io);
        let handle = answer.try_recv().unwrap().unwrap();
        let savepoint = handle.savepoint("/savepoint");
        clock.0.store(true, Ordering::Relaxed);
        control.run(&mut io);
        assert_eq!(handle.status().state, JobState::Failed);
        for savepoint in [savepoint, handle.savepoint("/later")] {
            assert!(savepoint.wait_for(Duration::ZERO).expect("there is an answer").is_err());
        }
    }

    /// A job may be submitted again as soon as its host hears that it has ended, and before its slots have said that its tasks left. Taken for
    /// one of the next job, such a word had that job's task forgotten: nobody heard when it panicked.
    #[test]
    fn tasks_of_two_jobs_of_one_name_have_different_names() {
        let clock = Arc::new(ManualClock::default());
        let (mut engine, mut io) = engine(&clock);
        let names = [(); 2].map(|()| {
            let handle = engine.submit(endless("again"), JobOptions::default(), &mut io).unwrap();
            run(&mut engine, &clock, &mut io, SECOND_NS);
            let names: Vec<_> = engine.slots[0].reports().map(|(_, name, _)| name.to_string()).collect();
            handle.cancel();
            run(&mut engine, &clock, &mut io, SECOND_NS);
            names
        });
        assert!(!names[0].is_empty() && names[0].iter().all(|name| !names[1].contains(name)), "{names:?}");
    }

    /// A sink that never says that a commit is carried out.
    #[derive(Clone, Default)]
    struct NeverCommits {
        has_begun: bool,
    }

    impl Sink<u64> for NeverCommits {
        type Writer = Self;

        fn open(&self, _: u32, _: u32) -> Result<Self, SinkError> {
            Ok(self.clone())
        }
    }

    impl SinkWriter<u64> for NeverCommits {
        fn write(&mut self, _: &mut SinkContext<'_>, _: &Stamp, _: &u64) -> Result<(), SinkError> {
            Ok(())
        }

        fn commit(&mut self, _: &mut SinkContext<'_>, _: CheckpointId) -> Result<(), SinkError> {
            self.has_begun = true;
            Ok(())
        }

        fn is_committed(&self) -> bool {
            !self.has_begun
        }
    }

    #[test]
    fn a_job_whose_sink_hangs_in_its_last_commit_can_be_cancelled() {
        for is_stopped in [true, false] {
            let clock = Arc::new(ManualClock::default());
            let (mut engine, mut io) = engine(&clock);
            let job = Job::new("hangs");
            let numbers = Generator::new(|n: u64| n).per_second(10.0);
            let numbers = if is_stopped { numbers } else { numbers.count(1) };
            job.source("numbers", numbers).ingestion_time().sink("nowhere", NeverCommits::default());
            let handle = engine.submit(job, JobOptions::default(), &mut io).unwrap();
            run(&mut engine, &clock, &mut io, SECOND_NS);
            if is_stopped {
                handle.stop();
            }
            run(&mut engine, &clock, &mut io, SECOND_NS);
            assert!(!handle.has_ended());
            handle.cancel();
            run(&mut engine, &clock, &mut io, SECOND_NS);
            assert_eq!(handle.status().state, JobState::Canceled, "stopped: {is_stopped}");
            assert_eq!(engine.leftovers(), [""; 0]);
        }
    }

    /// A sink that cannot carry out its first commit.
    #[derive(Clone, Default)]
    struct FailsOnce {
        commits: Arc<AtomicU32>,
        is_due: bool,
    }

    impl Sink<u64> for FailsOnce {
        type Writer = Self;

        fn open(&self, _: u32, _: u32) -> Result<Self, SinkError> {
            Ok(self.clone())
        }
    }

    impl SinkWriter<u64> for FailsOnce {
        fn write(&mut self, _: &mut SinkContext<'_>, _: &Stamp, _: &u64) -> Result<(), SinkError> {
            Ok(())
        }

        fn commit(&mut self, _: &mut SinkContext<'_>, _: CheckpointId) -> Result<(), SinkError> {
            self.is_due = true;
            Ok(())
        }

        fn poll(&mut self, _: &mut SinkContext<'_>) -> Result<bool, SinkError> {
            match std::mem::take(&mut self.is_due) && self.commits.fetch_add(1, Ordering::Relaxed) == 0 {
                true => Err(SinkError::BadRecord { reason: "no commit today".to_owned() }),
                false => Ok(false),
            }
        }

        fn is_committed(&self) -> bool {
            !self.is_due
        }
    }

    #[test]
    fn a_failure_in_the_last_commit_of_a_sink_is_made_good_by_a_restart_or_if_the_job_was_stopped_left_to_the_next_start()
     {
        for (is_stopped, ended, attempts) in [(true, JobState::Suspended, 1), (false, JobState::Finished, 2)] {
            let clock = Arc::new(ManualClock::default());
            let (mut engine, mut io) = engine(&clock);
            let (job, sink) = (Job::new("ends"), FailsOnce::default());
            let commits = sink.commits.clone();
            let numbers = Generator::new(|n: u64| n).per_second(10.0);
            let numbers = if is_stopped { numbers } else { numbers.count(1) };
            job.source("numbers", numbers).ingestion_time().sink("nowhere", sink);
            let options = JobOptions {
                checkpoints: Some(CheckpointOptions::every("/state", Duration::from_secs(600))),
                restart: RestartPolicy::FixedDelay { attempts_max: 1, delay_ms: 1 },
                ..JobOptions::default()
            };
            let handle = engine.submit(job, options, &mut io).unwrap();
            run(&mut engine, &clock, &mut io, SECOND_NS / 100);
            if is_stopped {
                handle.stop();
            }
            run(&mut engine, &clock, &mut io, 60 * SECOND_NS);
            let status = handle.status();
            assert_eq!((status.state, status.attempt), (ended, attempts), "{status:?}");
            assert_eq!(commits.load(Ordering::Relaxed), attempts);
            assert!(!is_stopped || status.reason.is_some_and(|reason| reason.contains("no commit today")));
        }
    }

    #[test]
    fn who_follows_a_job_that_is_over_but_for_its_savepoint_hears_once_that_the_engine_is_gone() {
        let clock = Arc::new(ManualClock::default());
        let (mut engine, mut io) = engine(&clock);
        let follower = Arc::new(Told::default());
        let checkpoints = CheckpointOptions::every("/state", Duration::from_secs(1));
        let checkpoints = Some(CheckpointOptions { follower: Some(follower.clone()), ..checkpoints });
        let options = JobOptions { checkpoints, ..JobOptions::default() };
        let handle = engine.submit(endless("followed"), options, &mut io).unwrap();
        run(&mut engine, &clock, &mut io, SECOND_NS);
        let _savepoint = handle.stop_with_savepoint("/savepoint", false);
        while !engine.leftovers().iter().any(|left| left.contains("lingers")) {
            engine.step_slot(0, &mut io);
            engine.step_control(&mut io);
            io.drive();
            assert!(!handle.has_ended(), "the savepoint was complete before the job was over");
        }
        engine.shut_down(&mut [io.clone(), io]);
        assert_eq!(follower.0.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn who_follows_the_checkpoints_of_a_job_hears_once_that_its_engine_is_gone() {
        let clock = Arc::new(ManualClock::default());
        let (mut engine, mut io) = engine(&clock);
        let follower = Arc::new(Told::default());
        let checkpoints = CheckpointOptions::every("/state", Duration::from_secs(1));
        let checkpoints = Some(CheckpointOptions { follower: Some(follower.clone()), ..checkpoints });
        engine.submit(endless("followed"), JobOptions { checkpoints, ..JobOptions::default() }, &mut io).unwrap();
        run(&mut engine, &clock, &mut io, SECOND_NS);
        engine.shut_down(&mut [io.clone(), io]);
        assert_eq!(follower.0.load(Ordering::Relaxed), 1);
    }
}
