//! A simulated machine with an engine on it: one thread, virtual time, a seeded schedule, a simulated disk, crashes.
//!
//! The slots and the control are stepped by the same calls as on real threads, in an order that follows from the seed. Nothing
//! sleeps: when no thread has anything to do, the clock jumps to the next time at which one has.
//!
//! Not simulated: doorbells (every thread is polled, so a lost wake-up is not found here), several machines, memory ordering.
//! A job whose functions use time, randomness or files of their own is not determined by the seed.
//!
//! Invariant: the same program and the same seed give the same `trace_hash`.

use super::Rng;
use super::schedule::Schedule;
use crate::checkpoint::StoreOptions;
use crate::engine::{JobHandle, JobOptions, SteppedEngine, SubmitError};
use crate::io::{Io, SharedIo, SimDisk, SimDiskOptions, SimIo, Survivors};
use crate::memory::{MemoryBudget, Reservation};
use crate::slot::Progress;
use crate::stream::Job;
use crate::time::{Clock, ManualClock};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// A step takes up to this long on the virtual clock.
const STEP_NS_MAX: u64 = 10_000;
/// How far the clock goes on when every thread only waits for the disk.
const DISK_WAIT_NS: u64 = 20_000;
/// How long it goes on at most when nobody has anything to do.
const IDLE_NS_MAX: u64 = 1_000_000_000;
/// After a step a thread lets its I/O make progress in so many of 1000 cases.
const DRIVE_PERMILLE: u32 = 600;
/// How often every thread is stepped behind the last job before what is held then counts as left over.
const LEAVING_ROUNDS_MAX: u32 = 200;
/// Extents grow from here: the disk is memory.
const EXTENT_BYTES: u64 = 256 << 10;

/// A machine, its disk and the engine that runs on it.
///
/// ```
/// use millstream::engine::{CheckpointOptions, JobOptions};
/// use millstream::sim::{SimEnd, SimFaults, Simulation};
/// use millstream::sink::JsonLines;
/// use millstream::source::VecSource;
/// use millstream::stream::Job;
/// use std::time::Duration;
///
/// let job = || {
///     let job = Job::new("evens");
///     job.source("numbers", VecSource::new(vec![(0..1000u64).collect()]))
///         .ingestion_time()
///         .filter(|n| n % 2 == 0)
///         .sink("evens", JsonLines::exactly_once_with("/out", |n: &u64, line: &mut Vec<u8>| {
///             line.extend_from_slice(n.to_string().as_bytes());
///         }));
///     job
/// };
/// let options = JobOptions {
///     checkpoints: Some(CheckpointOptions::every("/state", Duration::from_millis(5))),
///     ..JobOptions::default()
/// };
/// let mut machine = Simulation::new(7).slots(2);
/// machine.submit(job(), options.clone())?;
/// machine.run_until_done(200);
/// machine.crash(); // the power fails, wherever the job stands
/// machine.restart(1);
/// machine.submit(job(), options)?;
/// assert_eq!(machine.run_until_done(1_000_000), SimEnd::Done);
/// assert_eq!(machine.lines("/out").len(), 500);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Simulation {
    rng: Rng,
    clock: Arc<ManualClock>,
    disk: SimDisk,
    disk_seed: u64,
    faults: SimFaults,
    slots: u32,
    memory_bytes: usize,
    process: Option<Process>,
    steps: u64,
    trace: u64,
}

/// What goes wrong on a simulated machine, beside what is asked for by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SimFaults {
    /// In so many of a million steps the power fails.
    pub crash_per_million_steps: u32,
    /// What a power failure leaves of what was not flushed.
    pub survivors: Survivors,
    /// So many of 1000 I/O operations fail.
    pub io_error_permille: u32,
    /// An I/O operation completes after 1 to this many turns of its thread.
    pub latency_drives_max: u64,
}

/// Why a run came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SimEnd {
    /// Every submitted job has ended; their handles say how.
    Done,
    /// The power failed, or the disk was told to stop here: `restart`, and submit the jobs again.
    Crashed,
    /// Jobs still run after so many steps.
    StepsUsedUp,
}

/// What a crash destroys.
struct Process {
    engine: SteppedEngine,
    /// One for each slot, the control's last.
    ios: Vec<SharedIo>,
    schedule: Schedule,
    jobs: Vec<JobHandle>,
    /// The memory of every job there was.
    budgets: Vec<(String, MemoryBudget)>,
    /// Steps in a row in which nothing was done.
    idle_steps: usize,
}

impl Default for SimFaults {
    /// Nothing goes wrong by itself; operations take a few turns.
    fn default() -> Self {
        let SimDiskOptions { latency_drives_max, error_permille, .. } = SimDiskOptions::default();
        let survivors = Survivors::Random;
        Self { crash_per_million_steps: 0, survivors, io_error_permille: error_permille, latency_drives_max }
    }
}

impl Simulation {
    /// A machine with one slot, 256 MiB for the engine, an empty disk and no faults.
    pub fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let (clock, disk_seed) = (Arc::new(ManualClock::default()), rng.next_u64());
        let disk = SimDisk::new(disk_seed, SimDiskOptions::default());
        let faults = SimFaults::default();
        let memory_bytes = 256 << 20;
        Self { rng, clock, disk, disk_seed, faults, slots: 1, memory_bytes, process: None, steps: 0, trace: 0 }
    }

    /// How many slots the engine has.
    pub fn slots(self, slots: u32) -> Self {
        Self { slots, ..self }
    }

    /// The memory all jobs may have together, in bytes.
    pub fn memory(self, memory_bytes: usize) -> Self {
        Self { memory_bytes, ..self }
    }

    /// What goes wrong by itself. Call it first: the disk is empty afterwards.
    pub fn faults(self, faults: SimFaults) -> Self {
        let SimFaults { latency_drives_max, io_error_permille: error_permille, .. } = faults;
        let options = SimDiskOptions { latency_drives_max, error_permille, ..SimDiskOptions::default() };
        Self { disk: SimDisk::new(self.disk_seed, options), faults, ..self }
    }

    /// Submits a job; its handle must not be waited on (`wait_for` with no time is allowed). After a crash it is submitted again.
    ///
    /// # Panics
    /// Asserts that the process may have a descriptor for each slot.
    pub fn submit(&mut self, job: Job, options: JobOptions) -> Result<JobHandle, SubmitError> {
        if self.process.is_none() {
            self.start();
        }
        let Some(Process { engine, ios, jobs, budgets, .. }) = &mut self.process else {
            return Err(SubmitError::EngineStopped);
        };
        let handle = engine.submit(job, options, &mut ios[engine.slot_count()])?;
        budgets.extend(engine.budget_of(&handle).map(|budget| (handle.name().to_owned(), budget.clone())));
        jobs.push(handle.clone());
        Ok(handle)
    }

    /// Steps the machine until every job has ended, the power fails, or `steps_max` steps are over.
    pub fn run_until_done(&mut self, steps_max: u64) -> SimEnd {
        for _ in 0..steps_max {
            let Some(process) = &mut self.process else { return SimEnd::Crashed };
            process.jobs.retain(|job| !job.has_ended());
            if process.jobs.is_empty() {
                return SimEnd::Done;
            }
            if self.disk.is_halted() || self.rng.below(1_000_000) < u64::from(self.faults.crash_per_million_steps) {
                self.crash();
                return SimEnd::Crashed;
            }
            self.step();
        }
        SimEnd::StepsUsedUp
    }

    /// The power fails: the process is gone, and so is any part of what it did not flush.
    pub fn crash(&mut self) {
        self.crash_keeping(self.faults.survivors);
    }

    /// The power fails, and what survives is chosen. `PageCache` is a process that was killed on a machine that goes on.
    pub fn crash_keeping(&mut self, survivors: Survivors) {
        self.fold(u64::MAX);
        self.disk.crash_keeping(survivors, &mut self.rng);
        self.process = None;
    }

    /// Starts an engine with so many slots, on the disk as it is. What ran before is gone.
    pub fn restart(&mut self, slots: u32) {
        if self.process.is_some() {
            self.crash_keeping(Survivors::PageCache);
        }
        self.slots = slots;
        self.start();
    }

    /// Stops the engine as a host does that drops it: jobs that still run end where they are.
    pub fn stop_engine(&mut self) {
        self.fold(u64::MAX - 1);
        if let Some(mut process) = self.process.take() {
            process.engine.shut_down(&mut process.ios);
        }
    }

    /// Takes all but so many bytes of the memory that each job has left, until what is returned is dropped.
    pub fn squeeze(&self, leave_bytes: usize) -> Vec<Reservation> {
        let budgets = self.process.iter().flat_map(|process| &process.budgets);
        let take =
            |budget: &MemoryBudget| budget.reserve("a squeeze", budget.left_bytes().saturating_sub(leave_bytes)).ok();
        budgets.filter_map(|(_, budget)| take(budget)).collect()
    }

    /// What the engine still holds although every job has ended, in words: tasks, memory, open files, operations under way. What needs
    /// some steps to go gets them.
    pub fn leftovers(&mut self) -> Vec<String> {
        for _ in 0..LEAVING_ROUNDS_MAX {
            let Some(process) = &mut self.process else { break };
            for thread in 0..process.ios.len() {
                process.step_thread(thread, true);
            }
            if self.held().is_empty() {
                return Vec::new();
            }
        }
        self.held()
    }

    fn held(&self) -> Vec<String> {
        let Some(process) = &self.process else { return Vec::new() };
        let memory = process.budgets.iter().filter(|(_, budget)| budget.used_bytes() > 0);
        let memory = memory.map(|(job, budget)| format!("{} bytes of the job {job} are in use", budget.used_bytes()));
        let files = self.disk.open_files().into_iter().map(|path| format!("{} is open", path.display()));
        let under_way: usize = process.ios.iter().map(|io| io.in_flight()).sum();
        let under_way = (under_way > 0).then(|| format!("{under_way} I/O operations are under way"));
        process.engine.leftovers().into_iter().chain(memory).chain(files).chain(under_way).collect()
    }

    /// The machine's disk: to plant faults and files, and to look at what was written.
    pub fn disk(&self) -> &SimDisk {
        &self.disk
    }

    /// The machine's clock: to let the wall clock jump.
    pub fn clock(&self) -> &ManualClock {
        &self.clock
    }

    /// How many steps were made.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// A hash of every step and every I/O operation: equal for equal runs.
    pub fn trace_hash(&self) -> u64 {
        fold(self.trace, self.disk.trace_hash())
    }

    /// The lines of all visible files of a directory, in the order of their names; none when there is no such directory.
    pub fn lines(&self, dir: impl AsRef<Path>) -> Vec<String> {
        let dir = dir.as_ref();
        let names = self.disk.names(dir).unwrap_or_default();
        let visible = names.iter().filter(|name| !name.starts_with('.'));
        let bytes = visible.filter_map(|name| self.disk.bytes(&dir.join(name)));
        bytes.flat_map(|bytes| String::from_utf8_lossy(&bytes).lines().map(str::to_owned).collect::<Vec<_>>()).collect()
    }

    fn start(&mut self) {
        // Simulated disks know no locks, and nobody else has them.
        let store = StoreOptions {
            lock_patience_ms: None,
            extent_bytes_min: EXTENT_BYTES,
            extent_bytes_max: 4 * EXTENT_BYTES,
            ..StoreOptions::default()
        };
        let seed = self.rng.next_u64();
        let engine = SteppedEngine::new(self.slots, self.memory_bytes, store, self.clock.clone(), seed);
        let engine = engine.expect("a process may have a descriptor for each simulated slot");
        let threads = engine.slot_count() + 1;
        let ios = (0..threads).map(|_| SharedIo::new(SimIo::new(&self.disk))).collect();
        let schedule = Schedule::new(threads, self.rng.split());
        self.process = Some(Process { engine, ios, schedule, jobs: Vec::new(), budgets: Vec::new(), idle_steps: 0 });
    }

    fn step(&mut self) {
        let Some(process) = &mut self.process else { return };
        let thread = process.schedule.next();
        let drives = self.rng.chance(DRIVE_PERMILLE);
        let progress = process.step_thread(thread, drives);
        let mut passed_ns = self.rng.below(STEP_NS_MAX);
        process.idle_steps = if progress == Progress::Idle { process.idle_steps + 1 } else { 0 };
        if process.idle_steps > 2 * process.ios.len() {
            passed_ns += process.wait(self.clock.monotonic_ns());
        }
        self.clock.advance(Duration::from_nanos(passed_ns));
        self.steps += 1;
        self.fold((thread as u64) << 8 | u64::from(progress == Progress::Worked) << 1 | u64::from(drives));
        self.fold(passed_ns);
    }

    fn fold(&mut self, what: u64) {
        self.trace = fold(self.trace, what);
    }
}

impl Process {
    fn step_thread(&mut self, thread: usize, drives: bool) -> Progress {
        let io = &mut self.ios[thread];
        let progress = match thread < self.engine.slot_count() {
            true => self.engine.step_slot(thread, io),
            false => self.engine.step_control(io),
        };
        if drives {
            io.drive();
        }
        progress
    }

    /// Nobody seems to have anything to do: asks everybody, and says for how long that is going to be so.
    fn wait(&mut self, now_ns: u64) -> u64 {
        self.idle_steps = 0;
        for thread in 0..self.ios.len() {
            if self.step_thread(thread, true) != Progress::Idle {
                return 0;
            }
        }
        if self.ios.iter().any(|io| io.in_flight() > 0) {
            return DISK_WAIT_NS;
        }
        self.engine.wake_at_ns().saturating_sub(now_ns).min(IDLE_NS_MAX)
    }
}

/// FNV-1a over words, then mixed so that every bit counts.
fn fold(hash: u64, word: u64) -> u64 {
    (hash ^ word).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(23)
}

impl std::fmt::Debug for Simulation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Simulation").field("steps", &self.steps).field("faults", &self.faults).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::CheckpointOptions;
    use crate::sink::JsonLines;
    use crate::source::VecSource;

    fn job(records: u64) -> Job {
        let job = Job::new("numbers");
        job.source("numbers", VecSource::new(vec![(0..records).collect(), (records..2 * records).collect()]))
            .ingestion_time()
            .sink(
                "lines",
                JsonLines::exactly_once_with("/out", |n: &u64, line: &mut Vec<u8>| {
                    line.extend_from_slice(n.to_string().as_bytes());
                }),
            );
        job
    }

    fn options() -> JobOptions {
        let checkpoints = Some(CheckpointOptions::every("/state", Duration::from_millis(5)));
        JobOptions { checkpoints, ..JobOptions::default() }
    }

    fn run(seed: u64) -> (u64, u64) {
        let mut machine = Simulation::new(seed).slots(2);
        machine.submit(job(2_000), options()).unwrap();
        assert_eq!(machine.run_until_done(300_000), SimEnd::Done);
        let mut lines: Vec<u64> = machine.lines("/out").iter().map(|line| line.parse().unwrap()).collect();
        lines.sort_unstable();
        assert!(lines.into_iter().eq(0..4_000));
        (machine.trace_hash(), machine.steps())
    }

    #[test]
    fn a_job_runs_to_its_end_without_a_thread() {
        run(1);
    }

    #[test]
    fn a_seed_determines_the_run_and_another_gives_another() {
        assert_eq!(run(2), run(2));
        assert_ne!(run(2), run(3));
    }

    #[test]
    fn nothing_of_a_process_runs_on_after_a_crash() {
        let mut machine = Simulation::new(4);
        let handle = machine.submit(job(50_000), options()).unwrap();
        assert_eq!(machine.run_until_done(20), SimEnd::StepsUsedUp);
        machine.crash();
        assert_eq!(machine.run_until_done(20), SimEnd::Crashed);
        assert!(!handle.has_ended());
    }

    #[test]
    fn a_machine_crashes_by_itself_as_often_as_it_is_told() {
        let faults = SimFaults { crash_per_million_steps: 100_000, ..SimFaults::default() };
        let mut machine = Simulation::new(5).faults(faults);
        machine.submit(job(50_000), options()).unwrap();
        assert_eq!(machine.run_until_done(1_000), SimEnd::Crashed);
    }
}
