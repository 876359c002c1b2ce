//! Calls under crashes, failing disks, functions that panic and callers that leave: what was answered after commit is in the state for ever, what
//! was said to have no effect never is, no caller waits for ever, and nothing is left of a job that was cancelled.
//!
//! `MILLSTREAM_SEED=7` runs one seed, `MILLSTREAM_SEEDS=5000` so many.

use millstream::call::{CallError, CallHandle, Durability, Effect, PendingCall};
use millstream::engine::{CheckpointOptions, JobHandle, JobOptions};
use millstream::io::Survivors;
use millstream::job_manager::RestartPolicy;
use millstream::sim::{Rng, SimEnd, SimFaults, Simulation};
use millstream::stream::Job;
use std::time::Duration;

const SEEDS: u64 = 60;
const KEYS: u64 = 5;
const STEPS_MAX: u64 = 300_000;

#[derive(Clone, Copy)]
enum Event {
    Add(u64),
    Look(u64),
    /// The function panics.
    Bad(u64),
}

impl Event {
    fn key(&self) -> u64 {
        let (Self::Add(key) | Self::Look(key) | Self::Bad(key)) = self;
        *key
    }
}

/// What is known of the calls that added to one key.
#[derive(Clone, Copy, Debug, Default)]
struct Ledger {
    /// Answered after commit: they are in the state.
    committed: u64,
    /// Answered at once, given up, or without a definite answer: they may be.
    possible: u64,
}

struct Scenario {
    rng: Rng,
    /// Of what came later, so that the other seeds stay what they were.
    other: Rng,
    machine: Simulation,
    ledgers: [Ledger; KEYS as usize],
    under_way: Vec<(u64, Durability, PendingCall<u64>)>,
    answered: u64,
}

fn job() -> (Job, CallHandle<Event, u64>) {
    let job = Job::new("calls");
    let calls = job.calls("calls", Event::key).queue(8).under_way(32).answer_from_value(
        "count",
        |count: &mut u64, event: &Event| {
            match event {
                Event::Add(_) => *count += 1,
                Event::Look(_) => {}
                Event::Bad(_) => std::panic::panic_any("a function that fails"),
            }
            *count
        },
    );
    (job, calls)
}

fn options() -> JobOptions {
    JobOptions {
        checkpoints: Some(CheckpointOptions::every("/state", Duration::from_millis(5))),
        restart: RestartPolicy::FixedDelay { attempts_max: 1_000, delay_ms: 1 },
        ..JobOptions::default()
    }
}

impl Scenario {
    fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let io_error_permille = [0, 0, 5, 20][rng.index(4)];
        let faults = SimFaults { survivors: Survivors::Random, io_error_permille, ..SimFaults::default() };
        let slots = 1 + rng.below(2) as u32;
        let machine = Simulation::new(rng.next_u64()).slots(slots).faults(faults);
        let other = Rng::new(seed ^ 0x4361_6E63);
        Self { rng, other, machine, ledgers: [Ledger::default(); KEYS as usize], under_way: Vec::new(), answered: 0 }
    }

    /// Calls, looks and leaves for a while, then the power fails.
    fn run_until_crash(&mut self) {
        let (job, calls) = job();
        // With a failing disk the start may be refused, as that of a process may.
        if let Ok(handle) = self.machine.submit(job, options()) {
            for _ in 0..self.rng.below(150) {
                self.turn(&calls);
            }
            if self.other.chance(300) {
                self.cancel(&handle);
            }
        }
        self.machine.crash();
        drop(calls);
        self.look();
        assert!(self.under_way.is_empty(), "{} calls are neither answered nor refused", self.under_way.len());
        self.machine.restart(1 + self.rng.below(2) as u32);
    }

    fn turn(&mut self, calls: &CallHandle<Event, u64>) {
        for _ in 0..self.rng.below(4) {
            let key = self.rng.below(KEYS);
            let event = if self.rng.chance(10) { Event::Bad(key) } else { Event::Add(key) };
            let durability = if self.rng.chance(700) { Durability::Committed } else { Durability::None };
            match calls.try_call(event, durability) {
                Ok(pending) => self.under_way.push((key, durability, pending)),
                Err(refusal) => assert!(refusal.is_temporary(), "{}", CallError::JobFailed),
            }
        }
        let steps = 1 + self.rng.below(300);
        assert_eq!(self.machine.run_until_done(steps), SimEnd::StepsUsedUp);
        self.look();
        if !self.under_way.is_empty() && self.rng.chance(50) {
            let (key, ..) = self.under_way.swap_remove(self.rng.index(self.under_way.len()));
            self.ledgers[key as usize].possible += 1;
        }
    }

    /// Whatever is under way and whatever fails: the job ends, its callers hear so, and nothing of it is left.
    fn cancel(&mut self, handle: &JobHandle) {
        handle.cancel();
        assert_eq!(self.machine.run_until_done(STEPS_MAX), SimEnd::Done);
        self.look();
        assert!(self.under_way.is_empty(), "{} calls of a job that was cancelled hang", self.under_way.len());
        assert_eq!(self.machine.leftovers(), [""; 0]);
    }

    fn look(&mut self) {
        let Self { under_way, ledgers, answered, .. } = self;
        under_way.retain_mut(|(key, durability, pending)| {
            let Some(result) = pending.try_take() else { return true };
            let ledger = &mut ledgers[*key as usize];
            match (result, durability) {
                (Ok(count), Durability::Committed) => {
                    ledger.committed += 1;
                    *answered += 1;
                    assert!(count >= ledger.committed, "key {key}: {count} counted, {ledger:?}");
                }
                (Ok(_), Durability::None) => ledger.possible += 1,
                (Err(error), _) if error.effect() == Effect::Possible => ledger.possible += 1,
                (Err(_), _) => {}
            }
            false
        });
    }

    /// What the state holds in the end, on a disk that works.
    fn check(mut self) -> u64 {
        self.machine.disk().heal();
        let (job, calls) = job();
        let handle = self.machine.submit(job, options()).expect("the disk works again");
        for key in 0..KEYS {
            let mut steps = 0;
            let mut pending = loop {
                match calls.try_call(Event::Look(key), Durability::None) {
                    Ok(pending) => break pending,
                    Err(refusal) => assert!(refusal.is_temporary()),
                }
                steps += 1_000;
                assert!(steps < STEPS_MAX, "the job does not start");
                self.machine.run_until_done(1_000);
            };
            let count = loop {
                if let Some(result) = pending.try_take() {
                    break result.expect("nothing fails any more");
                }
                steps += 1_000;
                assert!(steps < STEPS_MAX, "a call is not answered");
                self.machine.run_until_done(1_000);
            };
            let ledger = self.ledgers[key as usize];
            let range = ledger.committed..=ledger.committed + ledger.possible;
            assert!(range.contains(&count), "key {key}: {count} counted, {ledger:?}");
        }
        self.cancel(&handle);
        self.answered
    }
}

#[test]
fn what_callers_were_told_is_what_the_state_holds() {
    std::panic::set_hook(Box::new(|info| {
        // The functions that are to fail need not be heard.
        if info.payload().downcast_ref::<&str>() != Some(&"a function that fails") {
            eprintln!("{info}");
        }
    }));
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seeds = match number("MILLSTREAM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("MILLSTREAM_SEEDS").unwrap_or(SEEDS),
    };
    let (mut answered, count) = (0, seeds.end - seeds.start);
    for seed in seeds {
        println!("MILLSTREAM_SEED={seed}");
        let mut scenario = Scenario::new(seed);
        for _ in 0..1 + scenario.rng.below(3) {
            scenario.run_until_crash();
        }
        answered += scenario.check();
    }
    println!("{answered} calls answered after commit under {count} seeds");
    assert!(answered > 0);
}
