//! Histories of failures inside one process: functions that panic or fail at a record, at a timer or when a task is built; a disk that fails while
//! the job fails, once or for a while; memory that is refused; savepoints, stops and cancels at any moment; clocks that jump; engines that are
//! dropped. Whatever comes, a job ends or goes on, nobody waits for an answer for ever, who has ended holds nothing, and a savepoint that was
//! called complete is.

use crate::sim_support::troubles::Troubles;
use crate::sim_support::{SEQUENCES, WINDOWS, Workload};
use crate::{Run, slots};
use millstream::checkpoint::verify;
use millstream::engine::{CheckpointOptions, JobHandle, JobOptions, PendingSavepoint};
use millstream::io::{DiskFault, InjectedFault, Repeat, SimIo, Survivors};
use millstream::job_manager::{JobState, RestartPolicy};
use millstream::memory::{Arena, ArenaOptions, MemoryBudget, Reservation};
use millstream::sim::{Rng, SimEnd, SimFaults, Simulation};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// A job that does not end in so many steps, once nothing fails any more, hangs.
const STEPS_MAX: u64 = 300_000;
/// So does one that takes so many to fail or to be cancelled.
const STEPS_TO_END_MAX: u64 = 30_000;
/// How often a start may fail while the disk does.
const STARTS_MAX: u32 = 20;
/// What a squeeze leaves.
const LEFT_BYTES: [usize; 3] = [0, 64 << 10, 1 << 20];

pub struct Failures {
    rng: Rng,
    machine: Simulation,
    workload: Workload,
    options: JobOptions,
    /// Whether the process is sometimes stopped for a minute.
    stands_still: bool,
    /// How many steps were made when the disk works again.
    heals_at: Option<u64>,
    /// Memory that is taken away, and until which step.
    squeezed: Option<(Vec<Reservation>, u64)>,
    /// And whether the job was to stop with it.
    savepoints: Vec<(PendingSavepoint, bool)>,
    /// Where those are of which their hosts were told that they are complete.
    complete: Vec<PathBuf>,
    /// A job that is drained and goes on has fired windows that were not complete: nobody says which.
    is_drained: bool,
    run: Run,
}

/// One job as its host sees it.
struct Watched {
    job: JobHandle,
    state: JobState,
    /// When it came into this state.
    since: u64,
    is_cancelled: bool,
}

impl Failures {
    pub fn new(seed: u64) -> Self {
        // Seeds of the crashes keep what they mean.
        let mut rng = Rng::new(seed ^ 0x4661_696C);
        let workload = Workload::draw_short(&mut rng);
        let faults = SimFaults {
            crash_per_million_steps: 0,
            survivors: Survivors::Random,
            io_error_permille: [0, 0, 0, 5, 20][rng.index(5)],
            latency_drives_max: 1 + rng.below(8),
        };
        let machine = Simulation::new(rng.next_u64()).slots(slots(&mut rng)).faults(faults);
        let restart = match rng.below(4) {
            0 => RestartPolicy::FixedDelay { attempts_max: rng.below(4) as u32, delay_ms: rng.below(20) },
            _ => RestartPolicy::FixedDelay { attempts_max: u32::MAX, delay_ms: rng.below(20) },
        };
        let interval = Duration::from_millis(5 + rng.below(20));
        let options = JobOptions {
            checkpoints: Some(CheckpointOptions::every("/state", interval)),
            restart,
            memory_bytes: Some(32 << 20),
            ..JobOptions::default()
        };
        let stands_still = rng.chance(100);
        Self {
            rng,
            machine,
            workload,
            options,
            stands_still,
            heals_at: None,
            squeezed: None,
            savepoints: Vec::new(),
            complete: Vec::new(),
            is_drained: false,
            run: Run::default(),
        }
    }

    pub fn run(mut self) -> Result<Run, String> {
        for _ in 0..1 + self.rng.below(3) {
            self.episode()?;
        }
        self.machine.disk().heal();
        self.squeezed = None;
        self.troubles().end();
        let job = self.machine.submit(self.workload.job(), self.options.clone()).map_err(|error| error.to_string())?;
        let end = self.machine.run_until_done(STEPS_MAX);
        self.run.account(&job);
        if end != SimEnd::Done || job.status().state != JobState::Finished {
            return Err(format!("it ended with {end:?}: {:?}", job.status()));
        }
        self.ended("in the end")?;
        if !self.is_drained {
            self.workload.check(&self.machine)?;
        }
        let hidden = hidden_files(&self.machine);
        if !hidden.is_empty() {
            return Err(format!("these files are left: {}", hidden.join(", ")));
        }
        self.run.trace_hash = self.machine.trace_hash();
        self.run.steps = self.machine.steps();
        self.verify_savepoints()?;
        Ok(self.run)
    }

    /// One start of the job, until it ends, or the process does.
    fn episode(&mut self) -> Result<(), String> {
        let steps = [300, 2_000, 8_000][self.rng.index(3)];
        let last = self.machine.steps() + self.rng.below(steps);
        if let Some(job) = self.start()? {
            let state = job.status().state;
            let mut watched = Watched { job, state, since: self.machine.steps(), is_cancelled: false };
            while self.machine.steps() < last || watched.is_cancelled {
                let steps = 1 + self.rng.below(40);
                let end = self.machine.run_until_done(steps);
                self.pass_time();
                if end == SimEnd::Done {
                    break;
                }
                self.watch(&mut watched)?;
                self.act(&mut watched);
            }
            self.run.account(&watched.job);
            if watched.job.has_ended() {
                let state = watched.job.status().state;
                return self.ended("after a job").map_err(|error| format!("{error}; the job was {state:?}"));
            }
            return self.end_process(&watched.job);
        }
        Ok(())
    }

    /// It does not stay where it can only be on its way to its end.
    fn watch(&mut self, watched: &mut Watched) -> Result<(), String> {
        let (state, now) = (watched.job.status().state, self.machine.steps());
        if state != watched.state {
            let has_failed = state == JobState::Failing || state == JobState::Restarting;
            (watched.state, watched.since) = (state, now);
            if has_failed && self.rng.chance(300) {
                self.break_disk(12);
            }
            if has_failed && self.rng.chance(50) {
                self.squeeze();
            }
        }
        let is_passing = matches!(state, JobState::Failing | JobState::Cancelling) || watched.is_cancelled;
        match is_passing && now - watched.since > STEPS_TO_END_MAX {
            true => Err(format!("for {} steps it has been {:?}", now - watched.since, watched.job.status())),
            false => Ok(()),
        }
    }

    /// What the host, the disk and the machine do of themselves.
    fn act(&mut self, watched: &mut Watched) {
        match self.rng.below(400) {
            0 | 1 => self.break_disk(40),
            2 => self.squeeze(),
            3 => {
                watched.job.cancel();
                (watched.is_cancelled, watched.since) = (true, self.machine.steps());
            }
            4 => watched.job.stop(),
            5 | 6 => {
                let (dir, drain) = (self.savepoint_dir(), self.rng.chance(250));
                self.is_drained |= drain;
                self.savepoints.push((watched.job.stop_with_savepoint(dir, drain), true));
            }
            7 | 8 => {
                let dir = self.savepoint_dir();
                self.savepoints.push((watched.job.savepoint(dir), false));
            }
            9 if self.stands_still => self.machine.clock().advance(Duration::from_secs(60)),
            _ => {}
        }
    }

    fn savepoint_dir(&mut self) -> String {
        format!("/savepoints/{}", self.savepoints.len())
    }

    /// Soon an operation fails, or all do for a while.
    fn break_disk(&mut self, within: u64) {
        let repeat = if self.rng.chance(500) { Repeat::Once } else { Repeat::Forever };
        let fault = if self.rng.chance(700) { DiskFault::Eio } else { DiskFault::Enospc };
        let under = [None, Some("/state"), Some("/state"), Some("/out"), Some("/savepoints")][self.rng.index(5)];
        let at_operation = self.machine.disk().operations() + self.rng.below(within);
        self.machine.disk().inject(InjectedFault { at_operation, repeat, fault, under: under.map(Into::into) });
        self.heals_at.get_or_insert(self.machine.steps() + self.rng.below(3_000));
    }

    fn squeeze(&mut self) {
        let left = LEFT_BYTES[self.rng.index(LEFT_BYTES.len())];
        let until = self.machine.steps() + self.rng.below(2_000);
        self.squeezed.get_or_insert((self.machine.squeeze(left), until));
    }

    fn pass_time(&mut self) {
        let now = self.machine.steps();
        if self.heals_at.is_some_and(|at| at <= now) {
            self.heals_at = None;
            self.machine.disk().clear_faults();
        }
        if self.squeezed.as_ref().is_some_and(|(_, until)| *until <= now) {
            self.squeezed = None;
        }
    }

    /// The power fails, the process is killed, or its host drops the engine.
    fn end_process(&mut self, job: &JobHandle) -> Result<(), String> {
        self.squeezed = None;
        match self.rng.below(3) {
            0 => self.machine.crash(),
            1 => self.machine.crash_keeping(Survivors::PageCache),
            _ => {
                self.machine.stop_engine();
                if !job.has_ended() {
                    return Err(format!("its engine is gone, and the job is {:?}", job.status()));
                }
                self.look_at_answers("of an engine that is gone")?;
                let open = self.machine.disk().open_files();
                if !open.is_empty() {
                    return Err(format!("an engine that was dropped left {open:?} open"));
                }
            }
        }
        self.note_complete();
        self.run.crashes += 1;
        self.check_partial("before the end of a process")?;
        self.restart();
        Ok(())
    }

    /// The job has ended: nothing of it is left, and nobody waits.
    fn ended(&mut self, when: &str) -> Result<(), String> {
        self.squeezed = None;
        let left = self.machine.leftovers();
        self.look_at_answers(when)?;
        self.note_complete();
        if !left.is_empty() {
            return Err(format!("{when}: {}", left.join("; ")));
        }
        self.check_partial(when)
    }

    fn look_at_answers(&self, when: &str) -> Result<(), String> {
        for (savepoint, stops) in &self.savepoints {
            match savepoint.wait_for(Duration::ZERO) {
                None => return Err(format!("{when}: a savepoint has no answer")),
                Some(Err(refused)) if *stops && refused.to_string().contains("ask again") => {
                    return Err(format!("{when}: of a job that stops: {refused}"));
                }
                Some(_) => {}
            }
        }
        Ok(())
    }

    /// Whoever was told that his savepoint is complete counts on it, whatever happens next.
    fn note_complete(&mut self) {
        let told = self.savepoints.drain(..).filter_map(|(savepoint, _)| savepoint.wait_for(Duration::ZERO));
        self.complete.extend(told.flatten().map(|savepoint| savepoint.dir));
    }

    fn verify_savepoints(&self) -> Result<(), String> {
        let arena = Arena::new(MemoryBudget::new(64 << 20), ArenaOptions::default());
        for dir in &self.complete {
            let report = verify(&mut SimIo::new(self.machine.disk()), &arena, dir);
            let report = report.map_err(|error| format!("{}: {error}", dir.display()))?;
            if !report.damages.is_empty() || report.intact.len() != 1 {
                return Err(format!("{} is no complete savepoint: {report:?}", dir.display()));
            }
        }
        Ok(())
    }

    fn check_partial(&self, when: &str) -> Result<(), String> {
        if self.is_drained {
            return Ok(());
        }
        self.workload.check_partial(&self.machine).map_err(|error| format!("{when}: {error}"))
    }

    /// A start may be refused while the disk fails; it is tried again, on a new process.
    fn start(&mut self) -> Result<Option<JobHandle>, String> {
        for _ in 0..STARTS_MAX {
            match self.machine.submit(self.workload.job(), self.options.clone()) {
                Ok(job) => return Ok(Some(job)),
                Err(refusal) if refusal.to_string().contains("cannot ") => self.run.refused += 1,
                Err(refusal) => return Err(refusal.to_string()),
            }
            let left = self.machine.leftovers();
            if !left.is_empty() {
                return Err(format!("after a refused start: {}", left.join("; ")));
            }
            self.machine.disk().clear_faults();
        }
        Ok(None)
    }

    fn restart(&mut self) {
        let slots = slots(&mut self.rng);
        self.machine.restart(slots);
    }

    fn troubles(&self) -> &Arc<Troubles> {
        &self.workload.troubles
    }
}

/// What a job that has finished may not leave in its directories.
fn hidden_files(machine: &Simulation) -> Vec<String> {
    // A savepoint that a crash interrupted is cleared by the next one of that name.
    let dirs = [WINDOWS, SEQUENCES, "/state"];
    let names = dirs.iter().flat_map(|dir| {
        let names = machine.disk().names(Path::new(dir)).unwrap_or_default();
        names.into_iter().map(move |name| format!("{dir}/{name}"))
    });
    names.filter(|path| path.contains("/.") || path.ends_with(".tmp")).collect()
}
