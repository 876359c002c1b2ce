//! State read and written without a job: every kind of state comes back, a job starts from what was written, damage costs a page.
#![allow(clippy::disallowed_methods, reason = "the tests damage files as no part of the engine would")]

use millstream::Record;
use millstream::checkpoint::{CheckpointId, Damage, RestoreError};
use millstream::engine::{CheckpointOptions, Engine, FromSavepoint, JobOptions, SubmitError};
use millstream::io::{self, Io, IoChoice};
use millstream::job_manager::JobState;
use millstream::memory::{Arena, ArenaOptions, MemoryBudget};
use millstream::offline::{Decoded, OfflineCheckpoint, OfflineError, SavepointWriter, compare, decode};
use millstream::sink::Collect;
use millstream::slot::Doorbell;
use millstream::source::VecSource;
use millstream::state::{ArchivedValue, EntryKind, KeyGroupRange, StateBackend, StateError};
use millstream::stream::Job;
use millstream::time::{EventTimeMs, Watermarks};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

const GROUPS: u16 = 16;

/// A directory of one test, and the disk it lies on.
struct Place {
    dir: PathBuf,
    io: Box<dyn Io>,
    arena: Arena,
}

impl Place {
    fn new(name: &str) -> Self {
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("offline-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).unwrap();
        let io = io::open(IoChoice::Blocking, Arc::new(Doorbell::new().unwrap())).unwrap();
        Self { dir, io, arena: Arena::new(MemoryBudget::new(256 << 20), ArenaOptions::default()) }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn open(&mut self, name: &str) -> OfflineCheckpoint {
        let dir = self.path(name);
        OfflineCheckpoint::open(&mut *self.io, &self.arena, &dir, None).unwrap()
    }

    fn backend(&self) -> StateBackend {
        StateBackend::new(KeyGroupRange { start: 0, end: GROUPS }, GROUPS, self.arena.clone())
    }

    /// A savepoint with one state, `keys` numbers and their squares.
    fn squares(&mut self, name: &str, keys: u64) {
        let mut writer = SavepointWriter::new("squares", GROUPS, &self.arena);
        let squares = writer.states().value::<u64, u64>("square", "of").unwrap();
        let context = writer.states().key_context();
        (0..keys).for_each(|key| squares.put(&context.hash(&key), &(key * key)).unwrap());
        writer.write(&mut *self.io, &self.dir.join(name)).unwrap();
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

#[test]
fn every_kind_of_state_comes_back_as_it_was_written() {
    let mut place = Place::new("kinds");
    let mut writer = SavepointWriter::new("kinds", GROUPS, &place.arena);
    let states = writer.states();
    let context = states.key_context();
    let value = states.value::<str, ArchivedValue<Vec<String>>>("op", "value").unwrap();
    let list = states.list::<u64, f64>("op", "list").unwrap();
    let map = states.map::<str, str, i32>("op", "map").unwrap();
    let mut namespaced = states.namespaced::<u64, i64, u64>("op", "windows").unwrap();
    let mut timers = states.timers::<str>("op", "timers").unwrap();
    // Longer than a cell: it is cut into chunks.
    let long: Vec<String> = (0..2_000).map(|n| format!("string {n}")).collect();
    for n in 0..500u64 {
        let name = format!("key {n}");
        value.put(&context.hash(name.as_str()), &ArchivedValue::new(&vec![name.clone()]).unwrap()).unwrap();
        list.push(&context.hash(&n), &(n as f64 / 2.0)).unwrap();
        list.push(&context.hash(&n), &0.25).unwrap();
        map.put(&context.hash(name.as_str()), "inner", &(n as i32)).unwrap();
        namespaced.update(&context.hash(&n), &1_000, |_| Some(n)).unwrap();
        timers.set(&context.hash(name.as_str()), EventTimeMs(n as i64)).unwrap();
    }
    value.put(&context.hash("long"), &ArchivedValue::new(&long).unwrap()).unwrap();
    writer.write(&mut *place.io, &place.dir.join("kinds")).unwrap();

    let read = place.open("kinds");
    assert!(read.damages().is_empty());
    assert_eq!((read.checkpoint().job_name(), read.checkpoint().max_parallelism()), ("kinds", GROUPS));
    let mut backend = place.backend();
    let value = backend.value::<str, ArchivedValue<Vec<String>>>("op", "value").unwrap();
    let list = backend.list::<u64, f64>("op", "list").unwrap();
    let map = backend.map::<str, str, i32>("op", "map").unwrap();
    let mut namespaced = backend.namespaced::<u64, i64, u64>("op", "windows").unwrap();
    let mut timers = backend.timers::<str>("op", "timers").unwrap();
    read.load_into(&mut *place.io, &mut backend).unwrap();
    timers.rebuild();
    assert_eq!(timers.len(), 500);
    for n in 0..500u64 {
        let name = format!("key {n}");
        assert_eq!(value.get(&context.hash(name.as_str())).unwrap().get().unwrap()[0], name);
        assert_eq!(list.get(&context.hash(&n), 0), Some(n as f64 / 2.0));
        assert_eq!(list.len(&context.hash(&n)), 2);
        assert_eq!(map.get(&context.hash(name.as_str()), "inner"), Some(n as i32));
        assert_eq!(namespaced.get(&context.hash(&n), &1_000), Some(n));
    }
    assert_eq!(value.get(&context.hash("long")).unwrap().get().unwrap().len(), 2_000);
    // The same without types.
    let counts: Vec<(String, usize)> = read
        .states()
        .to_vec()
        .into_iter()
        .map(|state| {
            let mut keys = 0;
            let damages = read.for_each_entry(&mut *place.io, &state, |_, entry| {
                keys += usize::from(entry.kind.stands_for_a_key());
                if entry.kind != EntryKind::Other(0) && entry.key == b"long" {
                    assert!(entry.value.len() > 20_000, "chunks are put together");
                }
            });
            assert!(damages.unwrap().is_empty());
            (state.name, keys)
        })
        .collect();
    let mut counts = counts;
    counts.sort();
    let expected = [("list", 500), ("map", 500), ("timers", 500), ("value", 501), ("windows", 500)];
    assert_eq!(counts, expected.map(|(name, keys)| (name.to_owned(), keys)));
}

fn decoded(place: &mut Place, name: &str, state: &str) -> Vec<Vec<(&'static str, Decoded)>> {
    let read = place.open(name);
    let state = read.state(state).unwrap().clone();
    let mut all = Vec::new();
    read.for_each_entry(&mut *place.io, &state, |_, entry| all.extend(decode(&state.layout, &entry))).unwrap();
    all.into_iter().map(|entry| entry.parts).collect()
}

#[test]
fn entries_are_decoded_by_the_layout_in_the_manifest() {
    let mut place = Place::new("decode");
    let mut writer = SavepointWriter::new("decode", GROUPS, &place.arena);
    let states = writer.states();
    let context = states.key_context();
    states.value::<u64, f64>("op", "value").unwrap().put(&context.hash(&7), &1.5).unwrap();
    states.list::<str, [u16; 2]>("op", "list").unwrap().push(&context.hash("a"), &[1, 2]).unwrap();
    states.map::<i64, str, i32>("op", "map").unwrap().put(&context.hash(&-1), "m", &-5).unwrap();
    states.namespaced::<str, i64, u64>("op", "windows").unwrap().update(&context.hash("w"), &-60, |_| Some(9)).unwrap();
    states.timers::<str>("op", "timers").unwrap().set(&context.hash("t"), EventTimeMs(5)).unwrap();
    writer.write(&mut *place.io, &place.dir.join("decode")).unwrap();
    let text = |text: &str| Decoded::Text(text.to_owned());
    let (unsigned, signed) = (Decoded::Unsigned, Decoded::Signed);
    assert_eq!(decoded(&mut place, "decode", "value"), [[("key", unsigned(7)), ("value", Decoded::Float(1.5))]]);
    let pair = Decoded::Many(vec![(None, unsigned(1)), (None, unsigned(2))]);
    assert_eq!(decoded(&mut place, "decode", "list"), [[("key", text("a")), ("index", unsigned(0)), ("value", pair)]]);
    let entry = [("key", signed(-1)), ("index", unsigned(0)), ("map_key", text("m")), ("value", signed(-5))];
    assert_eq!(decoded(&mut place, "decode", "map"), [entry]);
    let window = [("key", text("w")), ("namespace", signed(-60)), ("value", unsigned(9))];
    assert_eq!(decoded(&mut place, "decode", "windows"), [window]);
    assert_eq!(decoded(&mut place, "decode", "op/timers"), [[("at", signed(5)), ("key", text("t"))]]);
}

#[derive(Record, Clone, Copy, Debug, PartialEq)]
#[repr(C)]
struct Payment {
    card: u64,
    cents: i64,
}

#[test]
fn a_job_goes_on_from_state_that_was_written_by_hand() {
    let mut place = Place::new("job");
    let mut writer = SavepointWriter::new("totals", 128, &place.arena);
    let totals = writer.states().value::<u64, Payment>("total", "reduced").unwrap();
    let context = writer.states().key_context();
    (0..100).for_each(|card| totals.put(&context.hash(&card), &Payment { card, cents: 1_000 }).unwrap());
    writer.write(&mut *place.io, &place.dir.join("history")).unwrap();

    let run = |from: &Path, state: &Path| {
        let (job, results) = (Job::new("totals"), Collect::exactly_once());
        job.source("payments", VecSource::new(vec![(0..100).map(|card| Payment { card, cents: 1 }).collect()]))
            .event_time(|_: &Payment| EventTimeMs(0), Watermarks::monotonous())
            .key_by("by-card", |payment: &Payment| payment.card)
            .reduce("total", |sum, next| Payment { card: next.card, cents: sum.cents + next.cents })
            .sink("results", results.clone());
        let options = JobOptions {
            max_parallelism: Some(128),
            checkpoints: Some(CheckpointOptions::every(state, Duration::from_millis(20))),
            from_savepoint: Some(FromSavepoint::in_dir(from)),
            ..JobOptions::default()
        };
        let engine = Engine::builder().slots(2).memory(128 << 20).pin(false).start().unwrap();
        engine.submit(job, options).map(|handle| (handle.wait().unwrap().state, results.take()))
    };
    let (state, results) = run(&place.path("history"), &place.path("state")).unwrap();
    assert_eq!(state, JobState::Finished);
    assert_eq!(results.len(), 100);
    assert!(results.iter().all(|total: &Payment| total.cents == 1_001), "{:?}", results[0]);

    place.squares("other", 10);
    let refused = run(&place.path("other"), &place.path("state-2")).map(|_| ()).unwrap_err();
    let SubmitError::Restore(RestoreError::SavepointOfOtherJob { found, asked, .. }) = &refused else {
        panic!("{refused}")
    };
    assert_eq!((found.as_str(), asked.as_str()), ("squares", "totals"));
}

#[test]
fn a_changed_copy_keeps_what_it_was_not_told_to_change() {
    let mut place = Place::new("changed");
    place.squares("before", 1_000);
    let before = place.open("before");
    let mut writer = SavepointWriter::over(&before, &place.arena);
    let squares = writer.states().value::<u64, u64>("square", "of").unwrap();
    before.load_into(&mut *place.io, writer.states()).unwrap();
    let context = writer.states().key_context();
    squares.put(&context.hash(&5), &26).unwrap();
    squares.remove(&context.hash(&6));
    squares.put(&context.hash(&1_000_000), &0).unwrap();
    writer.write(&mut *place.io, &place.dir.join("after")).unwrap();
    let after = place.open("after");
    assert_eq!(after.checkpoint().id(), before.checkpoint().id());
    let mut told = 0;
    let (states, damages) = compare(&mut *place.io, &before, &after, |_, _, _| told += 1).unwrap();
    assert!(damages.is_empty());
    let [only] = &states[..] else { panic!("{states:?}") };
    assert_eq!((only.same, only.only_first, only.only_second, only.changed), (998, 1, 1, 1));
    assert_eq!(told, 3);
}

#[test]
fn a_state_of_another_type_is_refused_by_name() {
    let mut place = Place::new("type");
    place.squares("squares", 10);
    let read = place.open("squares");
    let mut backend = place.backend();
    backend.value::<u64, f64>("square", "of").unwrap();
    let refused = read.load_into(&mut *place.io, &mut backend).unwrap_err();
    assert!(matches!(refused, OfflineError::State(StateError::LayoutDiffers { .. })), "{refused}");
    let missing = read.state("cube").map(|_| ()).unwrap_err().to_string();
    assert!(missing.contains("\"cube\"") && missing.contains("square/of"), "{missing}");
}

/// The extent of a savepoint, and its bytes.
fn extent(place: &Place, name: &str) -> (PathBuf, Vec<u8>) {
    let path = place.path(name).join("extent-000001.ms");
    let bytes = std::fs::read(&path).unwrap();
    (path, bytes)
}

#[test]
fn wherever_a_byte_changes_everything_else_is_read_or_the_damage_is_told() {
    let mut place = Place::new("damage");
    place.squares("squares", 3_000);
    let (path, whole) = extent(&place, "squares");
    let dir = place.path("squares");
    let (mut partly, mut untouched) = (0, 0);
    for at in (0..whole.len()).step_by(997) {
        let mut damaged = whole.clone();
        damaged[at] ^= 0xff;
        std::fs::write(&path, &damaged).unwrap();
        let opened = OfflineCheckpoint::open(&mut *place.io, &place.arena, &dir, None);
        let Ok(read) = opened else { continue };
        let Ok(state) = read.state("of").cloned() else { panic!("an intact manifest names its states") };
        let mut keys = 0;
        let mut each = |_, entry: millstream::state::RawEntry| {
            let key = u64::from_le_bytes(entry.key.try_into().unwrap());
            let value = u64::from_le_bytes(entry.value.try_into().unwrap());
            assert_eq!(value, key * key, "what is read is right");
            keys += 1;
        };
        let mut damages: Vec<Damage> = read.for_each_entry(&mut *place.io, &state, &mut each).unwrap();
        damages.extend(read.damages().to_vec());
        match (keys, damages.len()) {
            // The byte was between the pieces.
            (3_000, _) => untouched += 1,
            (0, _) => assert!(!damages.is_empty()),
            (_, 0) => panic!("{keys} of 3000 keys after a change at byte {at}, and no damage told"),
            _ => partly += 1,
        }
    }
    assert!(partly > 20, "{partly} partly, {untouched} whole");
}

#[test]
fn a_savepoint_cut_anywhere_is_refused_or_read_in_part() {
    let mut place = Place::new("cut");
    place.squares("squares", 2_000);
    let (path, whole) = extent(&place, "squares");
    let dir = place.path("squares");
    for len in (0..whole.len()).step_by(4096 / 2) {
        std::fs::write(&path, &whole[..len]).unwrap();
        match OfflineCheckpoint::open(&mut *place.io, &place.arena, &dir, None) {
            Err(error) => assert!(matches!(error, RestoreError::AllDamaged { .. }), "{len}: {error}"),
            Ok(_) => panic!("the manifest lies at the end, and {len} of {} bytes are there", whole.len()),
        }
    }
}

#[test]
fn another_number_than_the_one_held_is_refused() {
    let mut place = Place::new("number");
    place.squares("squares", 10);
    let dir = place.path("squares");
    let refused =
        OfflineCheckpoint::open(&mut *place.io, &place.arena, &dir, Some(CheckpointId(9))).map(|_| ()).unwrap_err();
    assert!(matches!(refused, RestoreError::NotHeld { asked: CheckpointId(9), .. }), "{refused}");
}
