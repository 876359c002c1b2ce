//! A function in event-time order sees its records in one order, whatever the speed and the parallelism: also those of equal time that come from
//! different sources or from different keys of an operator before it.

use millstream::Record;
use millstream::engine::JobOptions;
use millstream::operator::{Count, Emit, KeyedContext, KeyedProcess, NoSide, StateRegistry};
use millstream::sim::{SimEnd, Simulation};
use millstream::sink::Collect;
use millstream::source::VecSource;
use millstream::state::{StateError, ValueState};
use millstream::stream::{Chain, DataStream, Job};
use millstream::time::{EventTimeMs, Watermarks};
use millstream::window::{Tumbling, WindowResult};

const STEPS_MAX: u64 = 1_000_000;

#[derive(Record, Clone, Copy, Debug, PartialEq)]
#[repr(C)]
struct Event {
    at: i64,
    n: u64,
}

/// Emits a hash over all records so far: another order gives another hash.
#[derive(Clone)]
struct HashOfAll;

impl KeyedProcess<u64, Event> for HashOfAll {
    type Out = Event;
    type Side = NoSide;
    type State = ValueState<u64, u64>;

    fn open(&self, states: &mut StateRegistry<'_>) -> Result<Self::State, StateError> {
        states.value("hash")
    }

    fn on_record(
        &self,
        hash: &mut Self::State,
        cx: &mut KeyedContext<'_, u64>,
        event: &Event,
        out: &mut impl Emit<Event, NoSide>,
    ) -> Result<(), StateError> {
        let before = hash.get(&cx.hashed()).unwrap_or(0);
        let n = (before ^ event.n).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29);
        hash.put(&cx.hashed(), &n)?;
        out.emit(&Event { at: event.at, n });
        Ok(())
    }
}

fn events(job: &Job, name: &str, splits: Vec<Vec<Event>>) -> DataStream<impl Chain<Out = Event> + use<>> {
    job.source(name, VecSource::new(splits))
        .event_time(|event: &Event| EventTimeMs(event.at), Watermarks::bounded(0).never_idle())
}

/// Three events of each time, for one split.
fn split(nth: u64) -> Vec<Event> {
    (0..600).map(|n| Event { at: n as i64 / 3, n: n * 100 + nth }).collect()
}

/// Lets one key see all events in their order.
fn hash_of_all(events: DataStream<impl Chain<Out = Event>>, out: Collect<Event>) {
    events.key_by("together", |_: &Event| 0u64).in_event_time_order().process("hash", HashOfAll).sink("out", out);
}

/// Runs the job on different machines, and compares what comes out.
fn is_always_the_same(job: impl Fn(Collect<Event>) -> Job) {
    let mut first: Option<Vec<Event>> = None;
    for (seed, slots) in (0..24).zip([1, 2, 3, 4, 8].into_iter().cycle()) {
        let (mut machine, out) = (Simulation::new(seed).slots(slots), Collect::immediate());
        machine.submit(job(out.clone()), JobOptions::default()).unwrap();
        assert_eq!(machine.run_until_done(STEPS_MAX), SimEnd::Done);
        let events = out.take();
        let first = first.get_or_insert_with(|| events.clone());
        let differs_at = events.iter().zip(&*first).position(|(event, other)| event != other);
        assert_eq!((differs_at, events.len()), (None, first.len()), "seed {seed}, {slots} slots");
    }
}

#[test]
fn records_of_equal_time_from_two_sources_come_in_one_order() {
    is_always_the_same(|out| {
        let job = Job::new("two sources");
        // On one slot the first stream is read more slowly than the second, on three at the same pace.
        let left = events(&job, "left", vec![split(0), split(1), split(2)]);
        let right = events(&job, "right", vec![split(10)]);
        hash_of_all(left.union("both", right), out);
        job
    });
}

#[test]
fn windows_of_different_keys_that_end_together_come_in_one_order() {
    is_always_the_same(|out| {
        let job = Job::new("windows");
        let counts = events(&job, "events", vec![split(0), split(1)])
            .key_by("by-remainder", |event: &Event| event.n / 100 % 40)
            .window(Tumbling::of(20))
            .aggregate("count", Count)
            .map(|count: &WindowResult<u64, u64>| Event { at: count.window.end, n: count.key * 1_000 + count.value });
        hash_of_all(counts, out);
        job
    });
}

#[test]
fn results_of_a_function_in_event_time_order_come_in_one_order_to_the_next() {
    is_always_the_same(|out| {
        let job = Job::new("functions");
        let hashes = events(&job, "events", vec![split(0), split(1)])
            .key_by("by-remainder", |event: &Event| event.n / 100 % 40)
            .in_event_time_order()
            .process("hash of each", HashOfAll);
        hash_of_all(hashes, out);
        job
    });
}

/// Emits, when a timer fires, its time and what the function is told of the watermark then and when it was set.
#[derive(Clone)]
struct Watermarked;

impl KeyedProcess<u64, Event> for Watermarked {
    type Out = [i64; 3];
    type Side = NoSide;
    type State = ValueState<u64, i64>;

    fn open(&self, states: &mut StateRegistry<'_>) -> Result<Self::State, StateError> {
        states.value("watermark")
    }

    fn on_record(
        &self,
        watermark: &mut Self::State,
        cx: &mut KeyedContext<'_, u64>,
        _: &Event,
        _: &mut impl Emit<[i64; 3], NoSide>,
    ) -> Result<(), StateError> {
        watermark.put(&cx.hashed(), &cx.watermark().0)?;
        cx.set_timer(cx.at().saturating_add(5))
    }

    fn on_timer(
        &self,
        watermark: &mut Self::State,
        cx: &mut KeyedContext<'_, u64>,
        out: &mut impl Emit<[i64; 3], NoSide>,
    ) -> Result<(), StateError> {
        let of_record = watermark.get(&cx.hashed()).unwrap_or_default();
        out.emit(&[cx.at().0, cx.watermark().0, of_record]);
        Ok(())
    }
}

/// What `Watermarked` emits for records every 10 ms.
fn watermarks(is_in_event_time_order: bool) -> Vec<[i64; 3]> {
    let (job, out) = (Job::new("watermarks"), Collect::immediate());
    let split = (0..300).map(|n| Event { at: n * 10, n: 0 }).collect();
    let keyed = events(&job, "events", vec![split]).key_by("together", |_: &Event| 0u64);
    let keyed = if is_in_event_time_order { keyed.in_event_time_order() } else { keyed };
    keyed.process("watermarked", Watermarked).sink("out", out.clone());
    let mut machine = Simulation::new(1);
    machine.submit(job, JobOptions::default()).unwrap();
    assert_eq!(machine.run_until_done(STEPS_MAX), SimEnd::Done);
    out.take()
}

#[test]
fn a_timer_sees_the_watermark_that_has_reached_it() {
    let seen = watermarks(false);
    assert!(seen.len() == 300 && seen.iter().all(|[at, watermark, _]| watermark >= at), "{seen:?}");
}

#[test]
fn in_event_time_order_a_function_sees_a_watermark_that_does_not_depend_on_speed() {
    let expected: Vec<_> = (0..300).map(|n| [n * 10 + 5, n * 10 + 5, n * 10 - 1]).collect();
    assert_eq!(watermarks(true), expected);
}
