//! A job that stops and starts again as another version of itself: state that migrates, that is dropped, that is not to be dropped; and what
//! operators remember beside their keys when their number changes.

use millstream::Record;
use millstream::engine::{CheckpointOptions, Engine, JobError, JobOptions, SubmitError};
use millstream::operator::{Emit, KeyedContext, KeyedProcess, ListSharing, NoSide, OperatorList, StateRegistry};
use millstream::sink::Collect;
use millstream::source::VecSource;
use millstream::state::{ExpiringValue, StateError, StateTtl, ValueState};
use millstream::stream::Job;
use millstream::time::{EventTimeMs, Watermarks};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

#[derive(Record, Clone, Copy, Debug, PartialEq)]
#[repr(C)]
struct Payment {
    card: u64,
    cents: i64,
    at: i64,
}

/// A split of payments, one each millisecond.
fn payments(at: Range<u64>) -> Vec<Payment> {
    at.map(|n| Payment { card: n % 10, cents: 1, at: n as i64 }).collect()
}

/// Every run finds one more split than the run before it, which read its own to the end.
fn splits(ends: &[u64]) -> Vec<Vec<Payment>> {
    let starts = [0].iter().chain(ends);
    starts.zip(ends).map(|(&start, &end)| payments(start..end)).collect()
}

struct Dir(PathBuf);

impl Dir {
    fn new(test: &str) -> Self {
        let path = std::env::temp_dir().join(format!("millstream-programs-{test}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        Self(path)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Runs a program over splits that end at these times, from and to the state in `dir`; what it emitted.
fn run<P>(
    dir: &Path,
    operator: &str,
    function: P,
    ends: &[u64],
    slots: u32,
    allow_dropped_state: bool,
) -> Result<Vec<i64>, String>
where
    P: KeyedProcess<u64, Payment, Out = i64>,
{
    let engine = Engine::builder().slots(slots).memory(256 << 20).pin(false).start().unwrap();
    let job = Job::new("cards");
    let results = Collect::exactly_once();
    job.source("payments", VecSource::new(splits(ends)))
        .event_time(|p: &Payment| EventTimeMs(p.at), Watermarks::bounded(0).never_idle())
        .key_by("by-card", |p: &Payment| p.card)
        .process(operator, function)
        .sink("results", results.clone());
    let checkpoints =
        CheckpointOptions { allow_dropped_state, ..CheckpointOptions::every(dir, Duration::from_millis(20)) };
    // With the default policy, which restarts for ever: what cannot succeed must end all the same.
    let options = JobOptions { checkpoints: Some(checkpoints), ..JobOptions::default() };
    let submitted = engine.submit(job, options).map_err(|error: SubmitError| error.to_string())?;
    submitted.wait().map_err(|error: JobError| error.to_string())?;
    let mut results = results.take();
    results.sort();
    Ok(results)
}

/// Version 1: the sum of a card, and how many payments it had.
#[derive(Clone)]
struct Version1;

impl KeyedProcess<u64, Payment> for Version1 {
    type Out = i64;
    type Side = NoSide;
    type State = (ValueState<u64, i64>, ValueState<u64, u32>);

    fn open(&self, states: &mut StateRegistry<'_>) -> Result<Self::State, StateError> {
        Ok((states.value("sum")?, states.value("count")?))
    }

    fn on_record(
        &self,
        (sum, count): &mut Self::State,
        cx: &mut KeyedContext<'_, u64>,
        record: &Payment,
        out: &mut impl Emit<i64, NoSide>,
    ) -> Result<(), StateError> {
        count.update(&cx.hashed(), |old| Some(old.unwrap_or(0) + 1))?;
        let new = sum.get(&cx.hashed()).unwrap_or(0) + record.cents;
        out.emit(&new);
        sum.put(&cx.hashed(), &new)
    }
}

/// Version 2: the sum as a floating-point number, no count.
#[derive(Clone)]
struct Version2 {
    migrates: bool,
}

impl KeyedProcess<u64, Payment> for Version2 {
    type Out = i64;
    type Side = NoSide;
    type State = ValueState<u64, f64>;

    fn open(&self, states: &mut StateRegistry<'_>) -> Result<Self::State, StateError> {
        let sum = states.value("sum")?;
        Ok(if self.migrates { sum.migrate_from(|old: i64| old as f64) } else { sum })
    }

    fn on_record(
        &self,
        sum: &mut Self::State,
        cx: &mut KeyedContext<'_, u64>,
        record: &Payment,
        out: &mut impl Emit<i64, NoSide>,
    ) -> Result<(), StateError> {
        let new = sum.get(&cx.hashed()).unwrap_or(0.0) + record.cents as f64;
        out.emit(&(new as i64));
        sum.put(&cx.hashed(), &new)
    }
}

#[test]
fn state_that_a_program_no_longer_uses_stops_it_unless_that_is_allowed() {
    let dir = Dir::new("dropped");
    let migrating = || Version2 { migrates: true };
    run(&dir.0, "totals", Version1, &[100], 2, false).unwrap();
    let refusal = run(&dir.0, "totals", migrating(), &[100, 110], 2, false).unwrap_err();
    assert!(
        refusal.contains("holds state that this program does not use: \"count\" of operator \"totals\""),
        "{refusal}"
    );
    assert_eq!(run(&dir.0, "totals", migrating(), &[100, 110], 2, true).unwrap(), [11; 10]);
    // What was dropped and what was migrated is gone from the checkpoint: now nothing has to be allowed or migrated, on any number of slots.
    assert_eq!(run(&dir.0, "totals", Version2 { migrates: false }, &[100, 110, 120], 3, false).unwrap(), [12; 10]);
}

#[test]
fn an_operator_under_another_name_is_refused_at_submission_unless_that_is_allowed() {
    let dir = Dir::new("renamed");
    run(&dir.0, "totals", Version1, &[100], 2, false).unwrap();
    let refusal = run(&dir.0, "sums", Version1, &[100, 110], 2, false).unwrap_err();
    assert!(
        refusal.contains("holds state that the program does not use: ") && refusal.contains("--allow-dropped-state"),
        "{refusal}"
    );
    assert_eq!(run(&dir.0, "sums", Version1, &[100, 110], 2, true).unwrap(), [1; 10]);
    assert_eq!(run(&dir.0, "sums", Version1, &[100, 110, 120], 1, false).unwrap(), [2; 10]);
    // The former name finds nothing of its own again.
    assert_eq!(run(&dir.0, "totals", Version1, &[100, 110, 120, 130], 2, true).unwrap(), [1; 10]);
}

#[test]
fn a_changed_type_stops_the_job_with_operator_state_and_both_layouts() {
    let dir = Dir::new("changed");
    run(&dir.0, "totals", Version1, &[100], 2, false).unwrap();
    let refusal = run(&dir.0, "totals", Version2 { migrates: false }, &[100, 110], 2, true).unwrap_err();
    for part in ["state \"sum\" of operator \"totals\"", "value i64 (8 bytes)", "value f64 (8 bytes)", "value was i64"]
    {
        assert!(refusal.contains(part), "{part}: {refusal}");
    }
    assert_eq!(run(&dir.0, "totals", Version1, &[100, 110], 2, false).unwrap(), [11; 10]);
}

/// Puts the first hundred records into lists of their subtasks; with the first one after these it emits what its subtask has.
#[derive(Clone)]
struct Remembering;

impl KeyedProcess<u64, Payment> for Remembering {
    type Out = i64;
    type Side = NoSide;
    type State = (OperatorList<i64>, OperatorList<i64>);

    fn open(&self, states: &mut StateRegistry<'_>) -> Result<Self::State, StateError> {
        Ok((states.operator_list("split", ListSharing::Split)?, states.operator_list("union", ListSharing::Union)?))
    }

    fn on_record(
        &self,
        (split, union): &mut Self::State,
        _: &mut KeyedContext<'_, u64>,
        record: &Payment,
        out: &mut impl Emit<i64, NoSide>,
    ) -> Result<(), StateError> {
        if record.at < 100 {
            split.push(record.at)?;
            return union.push(record.at);
        }
        if !split.is_empty() {
            split.take().into_iter().for_each(|at| out.emit(&at));
            out.emit(&(1000 + union.len() as i64));
        }
        Ok(())
    }
}

#[test]
fn lists_beside_the_keys_are_shared_out_when_the_number_of_subtasks_changes() {
    for (before, after) in [(1, 3), (3, 1), (2, 2)] {
        let dir = Dir::new("lists");
        assert!(run(&dir.0, "op", Remembering, &[100], before, false).unwrap().is_empty());
        let emitted = run(&dir.0, "op", Remembering, &[100, 400], after, false).unwrap();
        let (split, unions): (Vec<i64>, Vec<i64>) = emitted.into_iter().partition(|&value| value < 1000);
        assert_eq!(split, (0..100).collect::<Vec<i64>>());
        assert_eq!(unions, vec![1100; after as usize]);
    }
}

/// Counts the payments of a card within 50 ms of event time.
#[derive(Clone)]
struct Recent;

impl KeyedProcess<u64, Payment> for Recent {
    type Out = i64;
    type Side = NoSide;
    type State = ExpiringValue<u64, i64>;

    fn open(&self, states: &mut StateRegistry<'_>) -> Result<Self::State, StateError> {
        states.expiring_value("recent", StateTtl::after(Duration::from_millis(50)).in_event_time())
    }

    fn on_record(
        &self,
        recent: &mut Self::State,
        cx: &mut KeyedContext<'_, u64>,
        record: &Payment,
        out: &mut impl Emit<i64, NoSide>,
    ) -> Result<(), StateError> {
        if record.card == 0 || record.at == 9 || record.at == 99 {
            let count = recent.get(&cx.hashed()).unwrap_or(0) + 1;
            out.emit(&count);
            recent.put(&cx.hashed(), count)?;
        }
        Ok(())
    }
}

#[test]
fn in_event_time_order_state_expires_by_the_time_of_the_records_whatever_the_speed() {
    let engine = Engine::builder().slots(2).memory(256 << 20).pin(false).start().unwrap();
    let job = Job::new("cards");
    let results = Collect::immediate();
    job.source("payments", VecSource::new(vec![payments(0..100)]))
        .event_time(|p: &Payment| EventTimeMs(p.at), Watermarks::bounded(0).never_idle())
        .key_by("by-card", |p: &Payment| p.card)
        .in_event_time_order()
        .process("op", Recent)
        .sink("results", results.clone());
    engine.submit(job, JobOptions::default()).unwrap().wait().unwrap();
    let mut counts: Vec<i64> = results.take();
    counts.sort();
    // Card 0 comes every 10 ms and never expires; card 9 comes at 9 and 99.
    assert_eq!(counts, [1, 1, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
}
