//! Checkpoints of every format version there ever was, kept in `tests/golden/v<version>`: what they hold, and how the jobs they were
//! taken from end when they go on from them, is for ever what it was.
//!
//! Beside each directory `NAME` lie `NAME.holds.txt` (every state, entry and small state), `NAME.out` (what the job had written, which
//! the checkpoint's sinks have promised) and `NAME.all.txt` (the lines written in all when the job goes on from there, sorted). `cargo test --test golden -- --ignored` writes those of the version this program has, anew:
//! only before that version is released, or with scenarios that are new.
//!
//! Not here: windows that have outgrown their memory. A checkpoint holds nothing of their runs: they are merged into the pages before the first
//! of these is written (`tests/windows_outgrow_memory.rs` restarts from such checkpoints).
#![allow(clippy::disallowed_methods, reason = "the fixtures are files of the repository")]

use millstream::checkpoint::FORMAT_VERSION;
use millstream::engine::{CheckpointOptions, Engine, FromSavepoint, JobOptions};
use millstream::io::{self, Io, IoChoice, Survivors};
use millstream::job_manager::JobState;
use millstream::memory::{Arena, ArenaOptions, MemoryBudget};
use millstream::offline::{OfflineCheckpoint, SavepointWriter};
use millstream::operator::{
    Aggregate, BroadcastState, Count, Emit, KeyedContext, KeyedProcess, ListSharing, NoSide, OperatorList,
    StateRegistry, Sum,
};
use millstream::sim::{SimEnd, Simulation};
use millstream::sink::JsonLines;
use millstream::slot::Doorbell;
use millstream::source::Generator;
use millstream::state::{
    ArchivedValue, ExpiringList, ExpiringMap, ExpiringValue, ListState, MapState, StateError, StateTtl, ValueState,
};
use millstream::stream::{DataStream, Job};
use millstream::time::{EventTimeMs, Watermarks};
use millstream::window::{Sliding, Tumbling, WindowResult};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

const RECORDS: u64 = 600;
const SPLITS: u32 = 2;
const KEY_GROUPS: u16 = 8;
/// Even, so that all records of a key are of one split, in an order that no speed changes.
const KEYS: u64 = 12;

/// A job, and how its fixture is taken.
struct Scenario {
    name: &'static str,
    job: fn(&Path) -> Job,
    taken: Taken,
}

#[derive(Clone, Copy, PartialEq)]
enum Taken {
    /// The state directory as a power failure leaves it: several checkpoints, deltas over images.
    ByCrash,
    /// A savepoint.
    AsSavepoint,
}

const SCENARIOS: [Scenario; 7] = [
    Scenario { name: "reduce", job: reduce, taken: Taken::ByCrash },
    Scenario { name: "sliding-windows", job: sliding, taken: Taken::ByCrash },
    Scenario { name: "tumbling-windows", job: tumbling, taken: Taken::ByCrash },
    Scenario { name: "process", job: process, taken: Taken::ByCrash },
    Scenario { name: "event-time-order", job: in_order, taken: Taken::ByCrash },
    Scenario { name: "expiring-and-operator-state", job: aside, taken: Taken::ByCrash },
    Scenario { name: "savepoint", job: process, taken: Taken::AsSavepoint },
];

fn numbers(job: &Job) -> DataStream<impl millstream::stream::Chain<Out = u64> + use<>> {
    let numbers = Generator::new(|n: u64| n).in_splits(SPLITS).count(RECORDS).per_second(2_000.0);
    // Every seventh number is late by up to 60 ms, and waits in windows and queues.
    let at = |n: &u64| EventTimeMs((*n * 5) as i64 - if n.is_multiple_of(7) { 60 } else { 0 });
    job.source("numbers", numbers).event_time(at, Watermarks::bounded(100).never_idle())
}

fn key_of(n: &u64) -> u64 {
    n % KEYS
}

fn written(text: impl std::fmt::Display, line: &mut Vec<u8>) {
    line.extend_from_slice(text.to_string().as_bytes());
}

fn reduce(out: &Path) -> Job {
    let job = Job::new("golden reduce");
    let write = |n: &u64, line: &mut Vec<u8>| written(n, line);
    numbers(&job)
        .key_by("by-key", key_of)
        .reduce("sum", |a, b| a + b - a % KEYS)
        .sink("out", JsonLines::exactly_once_with(out, write));
    job
}

fn write_window(result: &WindowResult<u64, (u64, i64)>, line: &mut Vec<u8>) {
    let (count, sum) = result.value;
    written(format_args!("[{},{},{count},{sum}]", result.key, result.window.start), line);
}

fn sliding(out: &Path) -> Job {
    let job = Job::new("golden sliding windows");
    numbers(&job)
        .key_by("by-key", key_of)
        .window(Sliding::of(300).every(100))
        .aggregate("windows", Count.and(Sum::of(|n: &u64| *n as i64)))
        .sink("out", JsonLines::exactly_once_with(out, write_window));
    job
}

fn tumbling(out: &Path) -> Job {
    let job = Job::new("golden tumbling windows");
    numbers(&job)
        .key_by("by-key", key_of)
        .window(Tumbling::of(250))
        .aggregate("windows", Count.and(Sum::of(|n: &u64| *n as i64)))
        .sink("out", JsonLines::exactly_once_with(out, write_window));
    job
}

fn process(out: &Path) -> Job {
    let job = Job::new("golden process");
    let write = |text: &String, line: &mut Vec<u8>| written(text, line);
    numbers(&job)
        .key_by("by-key", key_of)
        .process("remember", Remember)
        .sink("out", JsonLines::exactly_once_with(out, write));
    job
}

fn in_order(out: &Path) -> Job {
    let job = Job::new("golden event-time order");
    let write = |text: &String, line: &mut Vec<u8>| written(text, line);
    numbers(&job)
        .key_by("by-key", key_of)
        .in_event_time_order()
        .process("remember", Remember)
        .sink("out", JsonLines::exactly_once_with(out, write));
    job
}

fn aside(out: &Path) -> Job {
    let job = Job::new("golden expiring and operator state");
    let write = |text: &String, line: &mut Vec<u8>| written(text, line);
    numbers(&job)
        .key_by("by-key", key_of)
        .process("aside", Aside)
        .sink("out", JsonLines::exactly_once_with(out, write));
    job
}

/// One state of each kind, and timers: what it writes at a timer depends on all of them.
#[derive(Clone)]
struct Remember;

struct Remembered {
    count: ValueState<u64, u64>,
    name: ValueState<u64, ArchivedValue<Vec<String>>>,
    recent: ListState<u64, u64>,
    by_rest: MapState<u64, str, u32>,
}

impl KeyedProcess<u64, u64> for Remember {
    type Out = String;
    type Side = NoSide;
    type State = Remembered;

    fn open(&self, states: &mut StateRegistry<'_>) -> Result<Remembered, StateError> {
        Ok(Remembered {
            count: states.value("count")?,
            name: states.value("name")?,
            recent: states.list("recent")?,
            by_rest: states.map("by-rest")?,
        })
    }

    fn on_record(
        &self,
        state: &mut Remembered,
        cx: &mut KeyedContext<'_, u64>,
        n: &u64,
        _: &mut impl Emit<String, NoSide>,
    ) -> Result<(), StateError> {
        let key = cx.hashed();
        state.count.put(&key, &(state.count.get(&key).unwrap_or(0) + 1))?;
        state.name.put(&key, &ArchivedValue::new(&vec!["key".to_owned(), cx.key().to_string()])?)?;
        // Splits are read in turn, so only what does not depend on their order is remembered.
        if state.recent.len(&key) < 3 {
            state.recent.push(&key, n)?;
        }
        let rest = (n % 3).to_string();
        let seen = state.by_rest.get(&key, &rest).unwrap_or(0);
        state.by_rest.put(&key, &rest, &(seen + 1))?;
        cx.set_timer(EventTimeMs((*n * 5) as i64 + 1_500))
    }

    fn on_timer(
        &self,
        state: &mut Remembered,
        cx: &mut KeyedContext<'_, u64>,
        out: &mut impl Emit<String, NoSide>,
    ) -> Result<(), StateError> {
        let key = cx.hashed();
        let name = state.name.get(&key).unwrap();
        let name = name.get()?.iter().map(|part| part.as_str()).collect::<Vec<_>>().join(" ");
        // The counts at a timer depend on how far the other split was: only at the end of the input they are what they are.
        if cx.at().0 == ((RECORDS - KEYS) / KEYS * KEYS) as i64 * 5 + *cx.key() as i64 * 5 + 1_500 {
            let (count, recent) = (state.count.get(&key).unwrap(), state.recent.len(&key));
            let rests: Vec<u32> = ["0", "1", "2"].map(|rest| state.by_rest.get(&key, rest).unwrap_or(0)).to_vec();
            out.emit(&format!("{name}: {count} {recent} {rests:?}"));
        }
        out.emit(&format!("{name} at {}", cx.at().0));
        Ok(())
    }
}

/// States that expire in event time, and states beside the keys: what it writes at a key's last timer depends on all of them.
#[derive(Clone)]
struct Aside;

struct Expiring {
    lasting: ExpiringValue<u64, u64>,
    brief: ExpiringValue<u64, u64>,
    recent: ExpiringList<u64, u64>,
    by_rest: ExpiringMap<u64, str, u32>,
    /// The keys whose first record came to this subtask, or their part of them after a restart.
    dealt: OperatorList<u64>,
    /// The same of all subtasks, after a restart.
    joined: OperatorList<u64>,
    limits: BroadcastState<str, u64>,
}

impl KeyedProcess<u64, u64> for Aside {
    type Out = String;
    type Side = NoSide;
    type State = Expiring;

    fn open(&self, states: &mut StateRegistry<'_>) -> Result<Expiring, StateError> {
        let after = |time| StateTtl::after(time).in_event_time();
        Ok(Expiring {
            lasting: states.expiring_value("lasting", after(Duration::from_secs(3600)))?,
            brief: states.expiring_value("brief", after(Duration::from_millis(300)))?,
            recent: states.expiring_list("recent", after(Duration::from_secs(3600)))?,
            by_rest: states.expiring_map("by-rest", after(Duration::from_secs(3600)))?,
            dealt: states.operator_list("dealt", ListSharing::Split)?,
            joined: states.operator_list("joined", ListSharing::Union)?,
            limits: states.broadcast("limits")?,
        })
    }

    fn on_record(
        &self,
        state: &mut Expiring,
        cx: &mut KeyedContext<'_, u64>,
        n: &u64,
        _: &mut impl Emit<String, NoSide>,
    ) -> Result<(), StateError> {
        let key = cx.hashed();
        let before = state.lasting.get(&key);
        if before.is_none() {
            state.dealt.push(*cx.key())?;
            state.joined.push(*cx.key())?;
        }
        state.limits.put("timer", 1_500)?;
        state.lasting.put(&key, before.unwrap_or(0) + 1)?;
        state.brief.put(&key, *n)?;
        if state.recent.len(&key) < 3 {
            state.recent.push(&key, *n)?;
        }
        let rest = (n % 3).to_string();
        let seen = state.by_rest.get(&key, &rest).unwrap_or(0);
        state.by_rest.put(&key, &rest, &(seen + 1))?;
        let timer = state.limits.with("timer", |ms| *ms).unwrap();
        cx.set_timer(EventTimeMs((*n * 5 + timer) as i64))
    }

    fn on_timer(
        &self,
        state: &mut Expiring,
        cx: &mut KeyedContext<'_, u64>,
        out: &mut impl Emit<String, NoSide>,
    ) -> Result<(), StateError> {
        let key = cx.hashed();
        out.emit(&format!("{} at {}", cx.key(), cx.at().0));
        // Only at a key's last timer is it certain what has expired, whatever the other split did.
        if cx.at().0 != (RECORDS - KEYS + cx.key()) as i64 * 5 + 1_500 {
            return Ok(());
        }
        let mut recent = Vec::new();
        state.recent.for_each(&key, |n| recent.push(n));
        let rests = ["0", "1", "2"].map(|rest| state.by_rest.get(&key, rest).unwrap_or(0));
        let (lasting, brief) = (state.lasting.get(&key), state.brief.get(&key));
        out.emit(&format!("{}: {lasting:?} {brief:?} {recent:?} {rests:?}", cx.key()));
        let mut is_joined = false;
        state.joined.for_each(|of| is_joined |= of == cx.key());
        out.emit(&format!("{} joined: {is_joined}", cx.key()));
        state.dealt.take().into_iter().for_each(|of| out.emit(&format!("{of} dealt")));
        Ok(())
    }
}

fn golden(version: u16) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/v{version}"))
}

fn tools() -> (Box<dyn Io>, Arena) {
    let io = io::open(IoChoice::Blocking, Arc::new(Doorbell::new().unwrap())).unwrap();
    (io, Arena::new(MemoryBudget::new(64 << 20), ArenaOptions::default()))
}

/// Everything a checkpoint holds, as text that does not depend on where in its pages it lies.
fn holds(dir: &Path) -> String {
    use std::fmt::Write;
    let (mut io, arena) = tools();
    let opened = OfflineCheckpoint::open(&mut *io, &arena, dir, None).unwrap();
    assert!(opened.damages().is_empty(), "{}: {:?}", dir.display(), opened.damages());
    let checkpoint = opened.checkpoint();
    let mut text = format!("job {}\ncheckpoint {}\n", checkpoint.job_name(), checkpoint.id());
    writeln!(text, "key groups {}\nvertices {:?}", checkpoint.max_parallelism(), checkpoint.parallelism()).unwrap();
    for state in opened.states() {
        writeln!(text, "state {}/{}: {}", state.operator, state.name, state.layout).unwrap();
        let each = |group, entry: millstream::state::RawEntry| {
            let (kind, key, value) = (entry.kind, hexadecimal(&entry.key), hexadecimal(&entry.value));
            writeln!(text, "  {group} {kind:?} {key} {value}").unwrap();
        };
        let damages = opened.for_each_entry(&mut *io, state, each).unwrap();
        assert!(damages.is_empty(), "{}: {damages:?}", dir.display());
    }
    for blob in opened.blobs() {
        writeln!(text, "small state {}[{}] {}: {}", blob.operator, blob.subtask, blob.kind, hexadecimal(&blob.bytes))
            .unwrap();
    }
    text
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Starts the scenario's job from a fixture on so many slots and returns what is written in all, sorted.
fn rest(scenario: &Scenario, fixture: &Path, slots: u32) -> String {
    let scratch =
        Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("golden-{}-{slots}-{}", scenario.name, std::process::id()));
    let _ = std::fs::remove_dir_all(&scratch);
    let (out, state) = (scratch.join("out"), scratch.join("state"));
    std::fs::create_dir_all(&out).unwrap();
    // Where nothing was visible yet there is no such directory.
    for entry in std::fs::read_dir(fixture.with_extension("out")).into_iter().flatten() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, out.join(path.file_name().unwrap())).unwrap();
    }
    let engine = Engine::builder().slots(slots).memory(128 << 20).pin(false).start().unwrap();
    let options = JobOptions {
        checkpoints: Some(CheckpointOptions::every(&state, Duration::from_millis(20))),
        from_savepoint: Some(FromSavepoint::in_dir(fixture)),
        ..JobOptions::default()
    };
    let job = engine.submit((scenario.job)(&out), options).unwrap_or_else(|error| panic!("{}: {error}", scenario.name));
    let ended = job.wait_for(Duration::from_secs(60));
    let ended = ended.unwrap_or_else(|| panic!("the job hangs: {:?}", job.status())).unwrap();
    assert_eq!(ended.state, JobState::Finished);
    let mut lines = Vec::new();
    for entry in std::fs::read_dir(&out).unwrap() {
        let path = entry.unwrap().path();
        if !path.file_name().unwrap().to_str().unwrap().starts_with('.') {
            lines.extend(std::fs::read_to_string(path).unwrap().lines().map(str::to_owned));
        }
    }
    let _ = std::fs::remove_dir_all(&scratch);
    lines.sort();
    lines.join("\n") + "\n"
}

/// The fixtures of every version: the directory and its name.
fn fixtures() -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    for version in 1..=FORMAT_VERSION {
        for entry in std::fs::read_dir(golden(version)).unwrap().map(|entry| entry.unwrap().path()) {
            if entry.is_dir() && entry.extension().is_none() {
                let name = entry.file_name().unwrap().to_str().unwrap().to_owned();
                found.push((entry, name));
            }
        }
    }
    assert!(found.len() > SCENARIOS.len(), "every version has its fixtures");
    found
}

/// The text file beside a fixture.
fn beside(fixture: &Path, what: &str) -> PathBuf {
    fixture.with_extension(format!("{what}.txt"))
}

#[test]
fn golden_checkpoints_hold_what_they_held() {
    for (fixture, name) in fixtures() {
        let expected = std::fs::read_to_string(beside(&fixture, "holds")).unwrap();
        let held = holds(&fixture);
        let differs = held.lines().zip(expected.lines()).find(|(held, expected)| held != expected);
        assert!(held == expected, "{name} holds something else: {differs:?}");
    }
}

#[test]
fn jobs_go_on_from_golden_checkpoints_as_they_did() {
    for (fixture, name) in fixtures() {
        let Some(scenario) = SCENARIOS.iter().find(|scenario| scenario.name == name) else { continue };
        let expected = std::fs::read_to_string(beside(&fixture, "all")).unwrap();
        assert!(expected.lines().count() > 20, "{name} is caught on its way");
        for slots in [1, 2, 3] {
            assert!(rest(scenario, &fixture, slots) == expected, "{} on {slots} slots", fixture.display());
        }
    }
}

#[test]
#[ignore = "writes the fixtures of this version anew"]
fn write_the_fixtures_of_this_version() {
    let dir = golden(FORMAT_VERSION);
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&dir).unwrap();
    for scenario in &SCENARIOS {
        let fixture = dir.join(scenario.name);
        take(scenario, &fixture);
        std::fs::write(beside(&fixture, "holds"), holds(&fixture)).unwrap();
        std::fs::write(beside(&fixture, "all"), rest(scenario, &fixture, 2)).unwrap();
    }
    let fixture = dir.join("every-state");
    every_state(&fixture);
    std::fs::write(beside(&fixture, "holds"), holds(&fixture)).unwrap();
}

/// Runs the job on a simulated machine and copies its directory as it is in the middle of the run.
fn take(scenario: &Scenario, fixture: &Path) {
    let mut machine = Simulation::new(1).slots(2);
    let options = JobOptions {
        max_parallelism: Some(KEY_GROUPS),
        checkpoints: Some(CheckpointOptions::every("/state", Duration::from_millis(40))),
        ..JobOptions::default()
    };
    let job = machine.submit((scenario.job)(Path::new("/out")), options).unwrap();
    while job.status().checkpoints.completed < 3 {
        assert_eq!(machine.run_until_done(10), SimEnd::StepsUsedUp, "{} ended too early", scenario.name);
    }
    let mut taken = Path::new("/state");
    if scenario.taken == Taken::AsSavepoint {
        taken = Path::new("/savepoint");
        let savepoint = job.stop_with_savepoint(taken, false);
        let ended = loop {
            machine.run_until_done(1);
            if let Some(ended) = savepoint.wait_for(Duration::ZERO) {
                break ended;
            }
        };
        ended.unwrap();
    }
    machine.crash_keeping(Survivors::Everything);
    std::fs::create_dir_all(fixture).unwrap();
    let out = fixture.with_extension("out");
    std::fs::create_dir_all(&out).unwrap();
    for name in machine.disk().names(Path::new("/out")).unwrap() {
        std::fs::write(out.join(&name), machine.disk().bytes(&Path::new("/out").join(&name)).unwrap()).unwrap();
    }
    for name in machine.disk().names(taken).unwrap() {
        let bytes = machine.disk().bytes(&taken.join(&name)).unwrap();
        // An extent is preallocated: the zeros behind its last block say nothing. A superblock file is as long as it says.
        let used = match name.starts_with("extent-") {
            true => bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| (last + 1).next_multiple_of(4096)),
            false => bytes.len(),
        };
        if used > 0 {
            std::fs::write(fixture.join(&name), &bytes[..used.min(bytes.len())]).unwrap();
        }
    }
}

/// Every kind of state with every kind of key and value, full pages, splits and values in chunks.
fn every_state(fixture: &Path) {
    let (mut io, arena) = tools();
    let mut writer = SavepointWriter::new("golden states", KEY_GROUPS, &arena);
    let states = writer.states();
    let context = states.key_context();
    let fixed = states.value::<u64, u64>("op", "fixed").unwrap();
    let archived = states.value::<str, ArchivedValue<Vec<String>>>("op", "archived").unwrap();
    let list = states.list::<i64, f64>("op", "list").unwrap();
    let map = states.map::<str, [u8], [u32; 2]>("op", "map").unwrap();
    let mut namespaced = states.namespaced::<u32, i64, u8>("op", "namespaced").unwrap();
    let mut timers = states.timers::<str>("op", "timers").unwrap();
    let mut queue = states.event_queue::<[u8], u64>("op", "queue").unwrap();
    // More than one page in some key groups.
    (0..5_000u64).for_each(|key| fixed.put(&context.hash(&(key * 7)), &(key * key)).unwrap());
    for n in 0..40u64 {
        let text = format!("key {n}");
        let long: Vec<String> = (0..n * 10).map(|part| format!("part {part}")).collect();
        archived.put(&context.hash(text.as_str()), &ArchivedValue::new(&long).unwrap()).unwrap();
        list.push(&context.hash(&-(n as i64)), &(n as f64 / 3.0)).unwrap();
        list.push(&context.hash(&0), &(n as f64)).unwrap();
        map.put(&context.hash(text.as_str()), &[n as u8; 5], &[1, n as u32]).unwrap();
        map.put(&context.hash("one"), &n.to_le_bytes(), &[n as u32, 2]).unwrap();
        namespaced.update(&context.hash(&(n as u32)), &-(n as i64), |_| Some(n as u8)).unwrap();
        timers.set(&context.hash(text.as_str()), EventTimeMs(n as i64 - 20)).unwrap();
        queue.push(&context.hash(text.as_bytes()), EventTimeMs(n as i64), n as u32 % 3, &[n as u8; 100]).unwrap();
    }
    writer.write(&mut *io, fixture).unwrap();
}
