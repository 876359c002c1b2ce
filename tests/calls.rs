//! Calls into a running job: each is answered once with the state of its key, whatever its caller and the job do meanwhile.
#![allow(clippy::disallowed_methods, reason = "the tests play the host program, which has threads, files and a clock")]

use millstream::call::{CallError, CallHandle, Durability, Effect, KeyedCall, TryCallError};
use millstream::engine::{CheckpointOptions, Engine, JobHandle, JobOptions};
use millstream::job_manager::RestartPolicy;
use millstream::operator::{Emit, KeyedContext, NoSide, StateRegistry};
use millstream::sink::Collect;
use millstream::state::{StateError, ValueState};
use millstream::stream::Job;
use millstream::time::{EventTimeMs, Watermarks};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(20);

fn engine(slots: u32) -> Engine {
    Engine::builder().slots(slots).memory(128 << 20).pin(false).start().unwrap()
}

/// A job that counts the calls of each key.
fn counting(job: &Job) -> CallHandle<u64, u64> {
    job.calls("calls", |key: &u64| *key).answer_from_value("count", |count: &mut u64, _: &u64| {
        *count += 1;
        *count
    })
}

fn quick_restarts() -> RestartPolicy {
    RestartPolicy::FixedDelay { attempts_max: 3, delay_ms: 1 }
}

struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("millstream-calls-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        Self(dir)
    }

    fn every(&self, interval: Duration) -> JobOptions {
        JobOptions {
            checkpoints: Some(CheckpointOptions::every(&self.0, interval)),
            restart: quick_restarts(),
            ..JobOptions::default()
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A function that waits for leave in every call, to hold a job exactly where a test wants it.
#[derive(Clone)]
struct Gate {
    entered: Sender<u64>,
    leave: Arc<Mutex<Receiver<()>>>,
}

fn gate(job: &Job, queue: usize) -> (CallHandle<u64, u64>, Receiver<u64>, Sender<()>) {
    let (entered, enters) = channel();
    let (leaves, leave) = channel();
    let gate = Gate { entered, leave: Arc::new(Mutex::new(leave)) };
    let entered = Arc::new(Mutex::new(gate.entered));
    let leave = gate.leave;
    let calls = job.calls("calls", |_: &u64| 0u64).queue(queue).answer_from_value(
        "gate",
        move |count: &mut u64, event: &u64| {
            entered.lock().unwrap().send(*event).unwrap();
            leave.lock().unwrap().recv().unwrap();
            *count += 1;
            *count
        },
    );
    (calls, enters, leaves)
}

#[test]
fn calls_of_many_threads_are_answered_with_the_state_of_their_keys() {
    let engine = engine(2);
    let job = Job::new("counts");
    let calls = counting(&job);
    let handle = engine.submit(job, JobOptions::default()).unwrap();
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let calls = calls.clone();
            std::thread::spawn(move || (0..500u64).map(|n| calls.call(n % 10).unwrap()).collect::<Vec<_>>())
        })
        .collect();
    let mut replies: Vec<u64> = threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
    replies.sort_unstable();
    let expected: Vec<u64> = (1..=200).flat_map(|count| [count; 10]).collect();
    assert_eq!(replies, expected);
    drop(calls);
    handle.wait().unwrap();
    // The slot hands its last latencies over when it drops the task, just after the job's end was told.
    let mut latencies = std::iter::repeat_with(|| handle.sink_latency("calls").count);
    assert!(latencies.any(|count| count == 2_000));
}

#[test]
fn calls_of_one_key_take_effect_in_the_order_in_which_they_were_handed_over() {
    let engine = engine(2);
    let job = Job::new("order");
    let calls = job
        .calls("calls", |(key, _): &(u64, u64)| *key)
        .answer_from_value("last", |last: &mut u64, (_, n): &(u64, u64)| std::mem::replace(last, *n));
    engine.submit(job, JobOptions::default()).unwrap();
    assert!(calls.wait_ready(SOON));
    let mut pending: Vec<_> = (1..=900).map(|n| calls.try_call((n % 3, n), Durability::None).unwrap()).collect();
    for (n, pending) in (1u64..).zip(pending.drain(..)) {
        assert_eq!(pending.wait().unwrap(), n.saturating_sub(3));
    }
}

#[test]
fn a_call_before_the_job_runs_is_refused_or_waits() {
    let job = Job::new("early");
    let calls = counting(&job);
    assert_eq!(calls.try_call(7, Durability::None).err(), Some(TryCallError::NotRunning { event: 7 }));
    assert_eq!(
        calls.call_within(7, Durability::None, Duration::from_millis(5)),
        Err(CallError::TimedOut { waited: Duration::from_millis(5), effect: Effect::None })
    );
    let early = {
        let calls = calls.clone();
        std::thread::spawn(move || calls.call(7))
    };
    let engine = engine(1);
    engine.submit(job, JobOptions::default()).unwrap();
    assert_eq!(early.join().unwrap(), Ok(1));
}

#[test]
fn a_full_queue_gives_the_event_back_and_a_waiting_call_gets_its_turn() {
    let engine = engine(1);
    let job = Job::new("full");
    let (calls, enters, leaves) = gate(&job, 1);
    engine.submit(job, JobOptions::default()).unwrap();
    assert!(calls.wait_ready(SOON));
    let first = calls.try_call(1, Durability::None).unwrap();
    assert_eq!(enters.recv(), Ok(1));
    let second = calls.try_call(2, Durability::None).unwrap();
    assert_eq!(calls.try_call(3, Durability::None).err(), Some(TryCallError::QueueFull { event: 3, capacity: 1 }));
    let third = {
        let calls = calls.clone();
        std::thread::spawn(move || calls.call(3))
    };
    (0..3).for_each(|_| leaves.send(()).unwrap());
    assert_eq!((first.wait(), second.wait(), third.join().unwrap()), (Ok(1), Ok(2), Ok(3)));
}

#[test]
fn a_call_given_up_in_the_queue_has_no_effect_and_one_given_up_at_work_may_have() {
    let engine = engine(1);
    let job = Job::new("patience");
    let (calls, enters, leaves) = gate(&job, 8);
    engine.submit(job, JobOptions::default()).unwrap();
    assert!(calls.wait_ready(SOON));
    let at_work = calls.try_call(1, Durability::None).unwrap();
    assert_eq!(enters.recv(), Ok(1));
    let waited = Duration::from_millis(5);
    assert_eq!(
        calls.call_within(2, Durability::None, waited),
        Err(CallError::TimedOut { waited, effect: Effect::None })
    );
    assert_eq!(at_work.wait_for(waited), Err(CallError::TimedOut { waited, effect: Effect::Possible }));
    (0..2).for_each(|_| leaves.send(()).unwrap());
    // The one at work took effect, the one in the queue never does.
    assert_eq!(calls.call(3), Ok(2));
    assert_eq!(enters.try_iter().collect::<Vec<_>>(), [3]);
}

#[test]
fn a_caller_that_reads_no_replies_stops_only_itself() {
    let engine = engine(1);
    let job = Job::new("unread");
    let calls = job.calls("calls", |key: &u64| *key).under_way(2).answer_from_value("count", |n: &mut u64, _: &u64| {
        *n += 1;
        *n
    });
    engine.submit(job, JobOptions::default()).unwrap();
    assert!(calls.wait_ready(SOON));
    let unread: Vec<_> = (0..2).map(|_| calls.try_call(5, Durability::None).unwrap()).collect();
    let refused = calls.try_call(5, Durability::None).err();
    assert_eq!(refused, Some(TryCallError::TooManyUnderWay { event: 5, under_way_max: 2 }));
    assert_eq!(calls.clone().call(5), Ok(3));
    drop(unread);
    assert_eq!(calls.call(5), Ok(4));
}

#[test]
fn a_caller_that_dies_leaves_its_calls_without_effect_or_done_and_its_places_to_others() {
    let engine = engine(1);
    let job = Job::new("dies");
    let (calls, enters, leaves) = gate(&job, 8);
    engine.submit(job, JobOptions::default()).unwrap();
    assert!(calls.wait_ready(SOON));
    let caller = {
        let calls = calls.clone();
        std::thread::spawn(move || {
            let _under_way: Vec<_> = (1..=3).map(|n| calls.try_call(n, Durability::None).unwrap()).collect();
            // The first is at work when it dies, the others are in the queue.
            assert_eq!(enters.recv(), Ok(1));
            std::panic::resume_unwind(Box::new(enters));
        })
    };
    let enters = *caller.join().unwrap_err().downcast::<Receiver<u64>>().unwrap();
    (0..2).for_each(|_| leaves.send(()).unwrap());
    assert_eq!(calls.call(4), Ok(2), "the one at work took effect, those in the queue did not");
    assert_eq!(enters.try_iter().collect::<Vec<_>>(), [4]);
}

#[test]
fn dropped_calls_do_not_use_up_the_handle() {
    let engine = engine(1);
    let job = Job::new("dropped");
    let calls = job.calls("calls", |key: &u64| *key).under_way(2).answer_from_value("count", |n: &mut u64, _: &u64| {
        *n += 1;
        *n
    });
    engine.submit(job, JobOptions::default()).unwrap();
    assert!(calls.wait_ready(SOON));
    for _ in 0..100 {
        match calls.try_call(1, Durability::None) {
            Ok(pending) => drop(pending),
            Err(refusal) => assert!(refusal.is_temporary()),
        }
    }
    assert!(calls.call(1).is_ok());
}

#[test]
fn a_call_after_the_job_has_stopped_is_refused_without_effect() {
    let engine = engine(1);
    let job = Job::new("stopped");
    let calls = counting(&job);
    let handle = engine.submit(job, JobOptions::default()).unwrap();
    assert_eq!(calls.call(1), Ok(1));
    handle.stop();
    handle.wait().unwrap();
    drop(handle);
    engine.stop();
    assert_eq!(calls.call(1), Err(CallError::JobEnded { effect: Effect::None }));
    assert_eq!(calls.try_call(1, Durability::None).err(), Some(TryCallError::JobEnded { event: 1 }));
}

#[test]
fn calls_that_wait_in_the_queue_when_the_job_is_cancelled_hear_of_it() {
    let engine = engine(1);
    let job = Job::new("cancelled");
    let (calls, enters, leaves) = gate(&job, 8);
    let handle = engine.submit(job, JobOptions::default()).unwrap();
    assert!(calls.wait_ready(SOON));
    let at_work = calls.try_call(1, Durability::None).unwrap();
    assert_eq!(enters.recv(), Ok(1));
    let waits = calls.try_call(2, Durability::None).unwrap();
    handle.cancel();
    // The cancellation is there before the step with the first call ends.
    std::thread::sleep(Duration::from_millis(50));
    (0..2).for_each(|_| leaves.send(()).unwrap());
    assert_eq!(at_work.wait(), Ok(1));
    handle.wait().unwrap();
    let outcome = waits.wait();
    assert!(matches!(outcome, Ok(2) | Err(CallError::JobEnded { effect: Effect::None })), "{outcome:?}");
}

#[test]
fn a_job_that_only_calls_keep_alive_ends_when_the_last_handle_is_dropped() {
    let engine = engine(2);
    let job = Job::new("ends");
    let calls = counting(&job);
    let handle = engine.submit(job, JobOptions::default()).unwrap();
    assert_eq!(calls.call(3), Ok(1));
    let other = calls.clone();
    drop(calls);
    assert_eq!(other.call(3), Ok(2));
    drop(other);
    handle.wait().unwrap();
}

#[test]
fn events_without_size_are_calls_like_others() {
    #[derive(Debug, PartialEq)]
    struct Tick;
    let engine = engine(1);
    let job = Job::new("ticks");
    let calls = job.calls("calls", |_: &Tick| 0u64).answer_from_value("seen", |_: &mut u64, _: &Tick| Tick);
    engine.submit(job, JobOptions::default()).unwrap();
    (0..3).for_each(|_| assert_eq!(calls.call(Tick), Ok(Tick)));
}

#[test]
fn events_and_replies_may_be_of_any_type_and_keys_texts() {
    let engine = engine(2);
    let job = Job::new("texts");
    let calls = job.calls_by_ref("calls", |text: &String| text.as_str()).answer_from_value(
        "count",
        |count: &mut u64, text: &String| {
            *count += 1;
            format!("{text} {count}")
        },
    );
    engine.submit(job, JobOptions::default()).unwrap();
    for (text, reply) in [("a", "a 1"), ("b", "b 1"), ("a", "a 2")] {
        assert_eq!(calls.call(text.to_owned()).as_deref(), Ok(reply));
    }
}

#[test]
fn a_call_is_a_future_under_any_runtime() {
    let engine = engine(1);
    let job = Job::new("async");
    let calls = counting(&job);
    engine.submit(job, JobOptions::default()).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let replies = runtime.block_on(async {
        let calls: Vec<_> = (0..50u64).map(|n| calls.call_async(n % 5, Durability::None)).collect();
        let mut replies = Vec::new();
        for call in calls {
            replies.push(tokio::time::timeout(SOON, call).await.unwrap().unwrap());
        }
        replies
    });
    assert_eq!(replies, (0..50).map(|n| n / 5 + 1).collect::<Vec<u64>>());
}

#[test]
fn futures_wait_for_room_without_being_lost() {
    let engine = engine(1);
    let job = Job::new("room");
    let calls =
        job.calls("calls", |key: &u64| *key).queue(2).under_way(3).answer_from_value("n", |n: &mut u64, _: &u64| {
            *n += 1;
            *n
        });
    engine.submit(job, JobOptions::default()).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let last = runtime.block_on(async {
        let tasks: Vec<_> = (0..200).map(|_| tokio::spawn(calls.call_async(1, Durability::None))).collect();
        let mut last = 0;
        for task in tasks {
            last = last.max(tokio::time::timeout(SOON, task).await.unwrap().unwrap().unwrap());
        }
        last
    });
    assert_eq!(last, 200);
}

#[test]
fn a_reply_after_commit_is_never_lost() {
    let scratch = Scratch::new("committed");
    let start = || {
        let engine = engine(2);
        let job = Job::new("committed");
        let calls = counting(&job);
        let handle = engine.submit(job, scratch.every(Duration::from_millis(5))).unwrap();
        (engine, calls, handle)
    };
    let (engine, calls, handle) = start();
    let pending: Vec<_> = {
        assert!(calls.wait_ready(SOON));
        (0..100u64).map(|n| calls.try_call(n % 10, Durability::Committed).unwrap()).collect()
    };
    let replies: Vec<u64> = pending.into_iter().map(|pending| pending.wait().unwrap()).collect();
    assert_eq!(replies, (0..100).map(|n| n / 10 + 1).collect::<Vec<u64>>());
    assert!(handle.status().checkpoints.completed < 100);
    // Ended where it stands, as by a crash: what was answered is in a checkpoint.
    engine.stop();
    let (_engine, calls, _handle) = start();
    assert!((0..10).all(|key| calls.call(key) == Ok(11)));
}

#[test]
fn a_reply_after_commit_is_refused_by_a_job_without_checkpoints() {
    let engine = engine(1);
    let job = Job::new("volatile");
    let calls = counting(&job);
    engine.submit(job, JobOptions::default()).unwrap();
    assert!(calls.wait_ready(SOON));
    assert_eq!(calls.call_within(1, Durability::Committed, SOON), Err(CallError::NotDurable));
    assert_eq!(calls.try_call(1, Durability::Committed).err(), Some(TryCallError::NotDurable { event: 1 }));
}

/// Counts calls and panics in those of 13.
fn superstitious(job: &Job) -> CallHandle<u64, u64> {
    job.calls("calls", |_: &u64| 0u64).answer_from_value("count", |count: &mut u64, event: &u64| {
        assert!(*event != 13, "13 brings bad luck");
        *count += 1;
        *count
    })
}

#[test]
fn a_call_at_which_the_job_fails_has_no_effect_and_those_behind_it_are_answered_after_the_restart() {
    let scratch = Scratch::new("restart");
    let engine = engine(1);
    let job = Job::new("restart");
    let calls = superstitious(&job);
    let handle = engine.submit(job, scratch.every(Duration::from_millis(5))).unwrap();
    assert_eq!(calls.call_within(1, Durability::Committed, SOON), Ok(1));
    let bad = calls.try_call(13, Durability::None).unwrap();
    let behind = calls.try_call(2, Durability::None).unwrap();
    assert_eq!(bad.wait(), Err(CallError::JobFailed));
    assert_eq!(behind.wait(), Ok(2));
    assert!(handle.status().attempt <= 2);
}

#[test]
fn replies_held_when_the_job_fails_are_shown_exactly_if_their_checkpoint_was_committed() {
    let scratch = Scratch::new("held");
    let engine = engine(1);
    let job = Job::new("held");
    let calls = superstitious(&job);
    engine.submit(job, scratch.every(Duration::from_secs(3_600))).unwrap();
    assert!(calls.wait_ready(SOON));
    let held = calls.try_call(1, Durability::Committed).unwrap();
    let bad = calls.try_call(13, Durability::Committed).unwrap();
    assert_eq!((bad.wait(), held.wait()), (Err(CallError::JobFailed), Err(CallError::JobFailed)));
    // Its effect was undone with it.
    assert_eq!(calls.call(2), Ok(1));
}

#[test]
fn replies_held_when_the_engine_is_stopped_say_that_their_calls_may_have_taken_effect() {
    let scratch = Scratch::new("held-stop");
    let engine = engine(1);
    let job = Job::new("held-stop");
    let calls = counting(&job);
    engine.submit(job, scratch.every(Duration::from_secs(3_600))).unwrap();
    assert!(calls.wait_ready(SOON));
    let held = calls.try_call(1, Durability::Committed).unwrap();
    assert_eq!(calls.call(1), Ok(2));
    engine.stop();
    assert_eq!(held.wait(), Err(CallError::JobEnded { effect: Effect::Possible }));
}

#[test]
fn a_job_that_is_stopped_commits_and_shows_what_it_holds() {
    let scratch = Scratch::new("final");
    let engine = engine(1);
    let job = Job::new("final");
    let calls = counting(&job);
    let handle: JobHandle = engine.submit(job, scratch.every(Duration::from_secs(3_600))).unwrap();
    assert!(calls.wait_ready(SOON));
    let held: Vec<_> = (0..300).map(|_| calls.try_call(1, Durability::Committed).unwrap()).collect();
    assert_eq!(calls.call(2), Ok(1));
    handle.stop();
    handle.wait().unwrap();
    assert!(held.into_iter().zip(1..).all(|(held, n)| held.wait() == Ok(n)));
}

/// Emits every call, and again what a key has spent ten seconds of event time after its first call.
#[derive(Clone)]
struct Spent;

impl KeyedCall<u64, (u64, i64, u64)> for Spent {
    type Reply = u64;
    type Out = (u64, u64);
    type State = ValueState<u64, u64>;

    fn open(&self, states: &mut StateRegistry<'_>) -> Result<Self::State, StateError> {
        states.value("spent")
    }

    fn on_call(
        &self,
        state: &mut Self::State,
        cx: &mut KeyedContext<'_, u64>,
        (key, at, cents): &(u64, i64, u64),
        out: &mut impl Emit<(u64, u64), NoSide>,
    ) -> Result<u64, StateError> {
        let before = state.get(&cx.hashed());
        if before.is_none() {
            cx.set_timer(EventTimeMs(at + 10_000))?;
        }
        let spent = before.unwrap_or(0) + cents;
        state.put(&cx.hashed(), &spent)?;
        out.emit(&(*key, *cents));
        Ok(spent)
    }

    fn on_timer(
        &self,
        state: &mut Self::State,
        cx: &mut KeyedContext<'_, u64>,
        out: &mut impl Emit<(u64, u64), NoSide>,
    ) -> Result<(), StateError> {
        out.emit(&(*cx.key(), state.get(&cx.hashed()).unwrap_or(0)));
        Ok(())
    }
}

#[test]
fn what_a_function_emits_in_calls_and_timers_is_a_stream() {
    let engine = engine(2);
    let job = Job::new("stream");
    let seen = Collect::immediate();
    let (calls, spent) = job
        .calls("calls", |(key, ..): &(u64, i64, u64)| *key)
        .event_time(|(_, at, _)| EventTimeMs(*at), Watermarks::monotonous())
        .answer_and_emit("spent", Spent);
    spent.map(|(key, cents)| (*key, *cents)).sink("seen", seen.clone());
    let handle = engine.submit(job, JobOptions::default()).unwrap();
    for (event, reply) in [((1, 0, 5), 5), ((1, 100, 6), 11), ((1, 10_001, 1), 12)] {
        assert_eq!(calls.call(event), Ok(reply));
    }
    drop(calls);
    handle.wait().unwrap();
    assert_eq!(seen.take(), [(1, 5), (1, 6), (1, 1), (1, 12)]);
}

#[test]
fn on_the_calling_thread_a_call_is_answered_in_place() {
    let mut engine = Engine::builder().memory(128 << 20).start_local().unwrap();
    let job = Job::new("local");
    let calls = counting(&job);
    let handle = engine.submit(job, JobOptions::default()).unwrap();
    let replies: Vec<u64> = (0..100u64).map(|n| engine.call(&calls, n % 10).unwrap()).collect();
    assert_eq!(replies, (0..100).map(|n| n / 10 + 1).collect::<Vec<u64>>());
    let other = {
        let calls = calls.clone();
        std::thread::spawn(move || calls.call(3))
    };
    while !other.is_finished() {
        engine.run_for(Duration::from_millis(1));
    }
    assert_eq!(other.join().unwrap(), Ok(11));
    drop(calls);
    engine.wait(&handle).unwrap();
}

#[test]
fn on_the_calling_thread_replies_after_commit_outlive_the_engine() {
    let scratch = Scratch::new("local-committed");
    let start = || {
        let engine = Engine::builder().memory(128 << 20).start_local().unwrap();
        let job = Job::new("local-committed");
        let calls = counting(&job);
        let handle = engine.submit(job, scratch.every(Duration::from_millis(5))).unwrap();
        (engine, calls, handle)
    };
    let (mut engine, calls, _handle) = start();
    assert_eq!(engine.call(&calls, 4), Ok(1));
    assert_eq!(engine.call_within(&calls, 4, Durability::Committed, SOON), Ok(2));
    drop(engine);
    assert_eq!(calls.call(4), Err(CallError::JobEnded { effect: Effect::None }));
    let (mut engine, calls, _handle) = start();
    assert_eq!(engine.call(&calls, 4), Ok(3));
}

#[test]
fn a_panic_in_a_call_on_the_calling_thread_fails_the_job_and_not_its_caller() {
    let scratch = Scratch::new("local-panic");
    let mut engine = Engine::builder().memory(128 << 20).start_local().unwrap();
    let job = Job::new("local-panic");
    let calls = superstitious(&job);
    let handle = engine.submit(job, scratch.every(Duration::from_millis(5))).unwrap();
    assert_eq!(engine.call_within(&calls, 1, Durability::Committed, SOON), Ok(1));
    assert_eq!(engine.call(&calls, 13), Err(CallError::JobFailed));
    let again = std::iter::repeat_with(|| engine.call(&calls, 2)).find(|reply| *reply != Err(CallError::JobFailed));
    assert_eq!(again, Some(Ok(2)));
    assert!(handle.status().reason.is_some_and(|reason| reason.contains("13 brings bad luck")));
}

#[test]
fn calls_on_the_calling_thread_are_among_the_latencies() {
    let mut engine = Engine::builder().memory(128 << 20).start_local().unwrap();
    let job = Job::new("local-latency");
    let calls = counting(&job);
    let handle = engine.submit(job, JobOptions::default()).unwrap();
    (0..100).for_each(|key| assert_eq!(engine.call(&calls, key), Ok(1)));
    // Figures come one request after the one that asks for them.
    while handle.sink_latency("calls").count < 100 {
        engine.step();
    }
    let latency = handle.sink_latency("calls");
    assert_eq!(latency.count, 100);
    assert!(0 < latency.p50_ns && latency.p50_ns <= latency.max_ns, "{latency:?}");
}

/// Answers at once and speaks again at the end of time.
#[derive(Clone)]
struct SpeaksAtTheEnd;

impl KeyedCall<u64, u64> for SpeaksAtTheEnd {
    type Reply = ();
    type Out = u64;
    type State = ();

    fn open(&self, _: &mut StateRegistry<'_>) -> Result<(), StateError> {
        Ok(())
    }

    fn on_call(
        &self,
        (): &mut (),
        cx: &mut KeyedContext<'_, u64>,
        _: &u64,
        _: &mut impl Emit<u64, NoSide>,
    ) -> Result<(), StateError> {
        cx.set_timer(EventTimeMs(1_000_000))
    }

    fn on_timer(
        &self,
        (): &mut (),
        cx: &mut KeyedContext<'_, u64>,
        out: &mut impl Emit<u64, NoSide>,
    ) -> Result<(), StateError> {
        out.emit(cx.key());
        Ok(())
    }
}

#[test]
fn a_drained_job_fires_every_timer_of_its_calls_although_their_results_do_not_fit_into_its_outputs() {
    const KEYS: u64 = 20_000;
    let scratch = Scratch::new("drained");
    let mut engine = Engine::builder().memory(128 << 20).start_local().unwrap();
    let job = Job::new("drained");
    let results = Collect::exactly_once();
    let (calls, stream) = job
        .calls("calls", |key: &u64| *key)
        .event_time(|_: &u64| EventTimeMs(1), Watermarks::monotonous())
        .answer_and_emit("speaks", SpeaksAtTheEnd);
    stream.rebalance("spread").sink("results", results.clone());
    let handle = engine.submit(job, scratch.every(Duration::from_secs(3_600))).unwrap();
    (0..KEYS).for_each(|key| engine.call(&calls, key).unwrap());
    let savepoint = handle.stop_with_savepoint(scratch.0.join("savepoint"), true);
    engine.wait(&handle).unwrap();
    savepoint.wait().unwrap();
    let mut spoken = results.take();
    spoken.sort_unstable();
    assert!(spoken.iter().copied().eq(0..KEYS), "{} of {KEYS} spoke", spoken.len());
}
