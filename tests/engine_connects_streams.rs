//! Union, broadcast, rebalance, shared streams, side outputs and late records: every way in which streams meet and part.

use millstream::engine::{Engine, JobOptions};
use millstream::job_manager::JobState;
use millstream::operator::{Count, Emit, KeyedContext, KeyedProcess, StateRegistry, Sum};
use millstream::sink::Collect;
use millstream::source::VecSource;
use millstream::state::{MapState, StateError, ValueState};
use millstream::stream::{Chain, DataStream, Job};
use millstream::time::{EventTimeMs, Watermarks};
use millstream::window::{Sliding, Tumbling, WindowResult};

fn run(job: Job, slots: u32) {
    let engine = Engine::builder().slots(slots).memory(128 << 20).pin(false).start().unwrap();
    let outcome = engine.submit(job, JobOptions::default()).unwrap().wait().unwrap();
    assert_eq!(outcome.state, JobState::Finished);
}

/// Numbers whose event time they are, in splits.
fn numbers(job: &Job, name: &str, splits: Vec<Vec<u64>>) -> DataStream<impl Chain<Out = u64> + use<>> {
    job.source(name, VecSource::new(splits))
        .event_time(|n: &u64| EventTimeMs(*n as i64), Watermarks::bounded(0).never_idle())
}

fn sorted<T: Ord + Send + 'static>(collected: &Collect<T>) -> Vec<T> {
    let mut records = collected.take();
    records.sort();
    records
}

#[test]
fn a_union_holds_the_records_of_both_streams() {
    let (job, all) = (Job::new("union"), Collect::immediate());
    let odd = numbers(&job, "odd", vec![vec![1, 3, 5]]);
    let even = numbers(&job, "even", vec![vec![2], vec![4]]).map(|n: &u64| *n);
    odd.union("both", even).sink("all", all.clone());
    run(job, 2);
    assert_eq!(sorted(&all), [1, 2, 3, 4, 5]);
}

#[test]
fn a_broadcast_record_reaches_every_subtask_and_a_rebalanced_one_exactly_one() {
    let (job, all, one) = (Job::new("spread"), Collect::immediate(), Collect::immediate());
    let shared = numbers(&job, "numbers", vec![vec![1, 2, 3, 4]]).shared("both");
    shared.clone().broadcast("everywhere").sink("all", all.clone());
    shared.rebalance("evenly").sink("one", one.clone());
    run(job, 3);
    assert_eq!(sorted(&all), [1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4]);
    assert_eq!(sorted(&one), [1, 2, 3, 4]);
}

#[test]
fn flat_map_emits_every_item_and_filter_passes_what_it_should() {
    let (job, all) = (Job::new("chain"), Collect::immediate());
    numbers(&job, "numbers", vec![vec![1, 2, 3]])
        .flat_map(|n: &u64| vec![*n, *n * 10])
        .filter(|n: &u64| *n != 20)
        .sink("all", all.clone());
    run(job, 1);
    assert_eq!(sorted(&all), [1, 2, 3, 10, 30]);
}

/// Counts the numbers of each remainder and remembers which ones it saw; a timer 100 ms after each number emits the count so far.
#[derive(Clone)]
struct CountAndRemember;

struct Remembered {
    count: ValueState<u64, u64>,
    seen: MapState<u64, u64, u64>,
}

impl KeyedProcess<u64, u64> for CountAndRemember {
    type Out = u64;
    type Side = u64;
    type State = Remembered;

    fn open(&self, states: &mut StateRegistry<'_>) -> Result<Remembered, StateError> {
        Ok(Remembered { count: states.value("count")?, seen: states.map("seen")? })
    }

    fn on_record(
        &self,
        state: &mut Remembered,
        cx: &mut KeyedContext<'_, u64>,
        number: &u64,
        out: &mut impl Emit<u64, u64>,
    ) -> Result<(), StateError> {
        let key = cx.hashed();
        if state.seen.contains(&key, number) {
            out.emit_side(number);
        }
        state.seen.put(&key, number, &1)?;
        state.count.update(&key, |count| Some(count.unwrap_or(0) + 1))?;
        cx.set_timer(cx.at().saturating_add(100))
    }

    fn on_timer(
        &self,
        state: &mut Remembered,
        cx: &mut KeyedContext<'_, u64>,
        out: &mut impl Emit<u64, u64>,
    ) -> Result<(), StateError> {
        out.emit(&(cx.at().0 as u64 * 1_000 + state.count.get(&cx.hashed()).unwrap_or(0)));
        Ok(())
    }
}

#[test]
fn a_process_function_has_state_timers_and_a_side_output() {
    let (job, main, side) = (Job::new("process"), Collect::immediate(), Collect::immediate());
    let keyed = numbers(&job, "numbers", vec![vec![2, 4, 4, 150]]).key_by("by-parity", |n: &u64| n % 2);
    let (results, repeated) = keyed.in_event_time_order().process_with_side_output("count", CountAndRemember);
    results.sink("results", main.clone());
    repeated.sink("repeated", side.clone());
    run(job, 2);
    // Timers at 102 and 104 (set twice, fires once) come before 150 and count three numbers; the one at 250 counts all four.
    assert_eq!(sorted(&main), [102_003, 104_003, 250_004]);
    assert_eq!(sorted(&side), [4]);
}

#[test]
fn records_that_are_late_for_all_their_windows_come_out_at_the_side_and_are_counted() {
    let (job, late) = (Job::new("late"), Collect::immediate());
    let counts = Collect::immediate_with(|result: &WindowResult<u64, u64>| (result.window.start, result.value));
    let keyed = numbers(&job, "numbers", vec![vec![5, 25, 7, 21, 15]]).key_by("all", |_: &u64| 0u64);
    let (windows, too_late) = keyed.window(Tumbling::of(10)).aggregate_with_late_output("counts", Count);
    windows.sink("windows", counts.clone());
    too_late.sink("too-late", late.clone());
    run(job, 1);
    // After 25 the clock stands at 24: the windows that end at 10 and 20 are over.
    assert_eq!(sorted(&late), [7, 15]);
    let mut counts = counts.take();
    counts.sort();
    assert_eq!(counts, [(0, 1), (20, 2)]);
}

#[test]
fn a_record_late_for_some_windows_counts_in_the_others_only() {
    let job = Job::new("partly-late");
    let counts = Collect::immediate_with(|result: &WindowResult<u64, u64>| (result.window.start, result.value));
    numbers(&job, "numbers", vec![vec![12, 26, 14]])
        .key_by("all", |_: &u64| 0u64)
        .window(Sliding::of(20).every(10))
        .aggregate("counts", Count)
        .sink("windows", counts.clone());
    run(job, 1);
    // 14 belongs to the windows 0..20 and 10..30; the clock stood at 25 when it came, so 0..20 was over.
    let mut counts = counts.take();
    counts.sort();
    assert_eq!(counts, [(0, 1), (10, 3), (20, 1)]);
}

#[test]
fn records_without_a_time_and_at_the_end_of_all_times_are_in_no_window_and_disturb_none() {
    for combines in [false, true] {
        let job = Job::new("no-time");
        let counts = Collect::immediate_with(|result: &WindowResult<u64, u64>| (result.window.start, result.value));
        let numbers = numbers(&job, "numbers", vec![vec![5, i64::MIN as u64, 7, 12, i64::MAX as u64]]);
        let (key, windows) = (|_: &u64| 0u64, Tumbling::of(10));
        if combines {
            numbers.combine_by_key("all", key, windows, Count).aggregate("counts").sink("windows", counts.clone());
        } else {
            numbers.key_by("all", key).window(windows).aggregate("counts", Count).sink("windows", counts.clone());
        }
        run(job, 1);
        let mut counts = counts.take();
        counts.sort();
        assert_eq!(counts, [(0, 2), (10, 1)]);
    }
}

#[test]
fn windows_combined_before_the_exchange_hold_what_they_hold_without() {
    // Disorder beyond the bound, so that some records are late for some windows and some for all.
    let split = |salt: u64| {
        let number = move |n: u64| (n.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ salt) >> 33;
        (0..3_000u64).map(|n| n / 2 + number(n) % 60).collect::<Vec<u64>>()
    };
    for (windows, keys) in [(Tumbling::of(20), 3), (Sliding::of(50).every(20), 700), (Sliding::of(10).every(15), 40)] {
        let sink =
            || Collect::immediate_with(|result: &WindowResult<u64, u64>| (result.key, result.window, result.value));
        let (plain, combined) = (sink(), sink());
        let key = move |n: &u64| n.wrapping_mul(0x9E37_79B9_7F4A_7C15) % keys;
        let sum = Sum::of(|n: &u64| *n);
        let job = Job::new("plain");
        numbers(&job, "numbers", vec![split(1), split(2), split(3)])
            .key_by("by-key", key)
            .window(windows)
            .aggregate("sums", sum.clone())
            .sink("windows", plain.clone());
        run(job, 2);
        let job = Job::new("combined");
        numbers(&job, "numbers", vec![split(1), split(2), split(3)])
            .combine_by_key("by-key", key, windows, sum)
            .aggregate("sums")
            .sink("windows", combined.clone());
        run(job, 2);
        let [plain, combined] = [plain, combined].map(|results| {
            let mut results = results.take();
            results.sort_by_key(|(key, window, _)| (window.start, *key));
            results
        });
        assert!(plain.len() > 100);
        assert_eq!(plain, combined);
    }
}
