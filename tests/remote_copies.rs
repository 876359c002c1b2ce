//! Copies of checkpoints in an object store: what a fresh machine fetches is what the job had, however the store behaves.
#![cfg(feature = "object-store")]
#![allow(clippy::disallowed_methods, reason = "the tests look at what is really in the directories")]

use futures_util::stream::BoxStream;
use millstream::checkpoint::{CheckpointFollower, CheckpointId, verify};
use millstream::engine::{CheckpointOptions, Engine, FromSavepoint, JobOptions};
use millstream::io::{self, Io, IoChoice};
use millstream::job_manager::JobState;
use millstream::memory::{Arena, ArenaOptions, MemoryBudget};
use millstream::offline::{OfflineCheckpoint, compare};
use millstream::remote::{RemoteCopies, RemoteError};
use millstream::sink::Collect;
use millstream::slot::Doorbell;
use millstream::source::Generator;
use millstream::stream::Job;
use millstream::time::{EventTimeMs, Watermarks};
use object_store::memory::InMemory;
use object_store::path::Path as Object;
use object_store::*;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("remote-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).unwrap();
        Self(dir)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn tools() -> (Box<dyn Io>, Arena) {
    let io = io::open(IoChoice::Blocking, Arc::new(Doorbell::new().unwrap())).unwrap();
    (io, Arena::new(MemoryBudget::new(128 << 20), ArenaOptions::default()))
}

/// Sums over so many numbers.
fn sums_of(count: u64) -> Job {
    let (job, sink) = (Job::new("copied"), Collect::immediate());
    job.source("numbers", Generator::new(|n: u64| n).in_splits(2).count(count).per_second(40_000.0))
        .event_time(|n: &u64| EventTimeMs(*n as i64), Watermarks::monotonous())
        .key_by("by-key", |n: &u64| n % 5_000)
        .reduce("sum", |a, b| a + b)
        .sink("out", sink);
    job
}

fn endless() -> Job {
    sums_of(u64::MAX)
}

fn options(state: &Path, copies: &RemoteCopies) -> JobOptions {
    let follower: Arc<dyn CheckpointFollower> = Arc::new(copies.clone());
    let checkpoints = CheckpointOptions::every(state, Duration::from_millis(20));
    JobOptions {
        checkpoints: Some(CheckpointOptions { follower: Some(follower), ..checkpoints }),
        ..JobOptions::default()
    }
}

/// Runs a job over 20,000 numbers to its end, with its checkpoints copied.
fn run(state: &Path, copies: &RemoteCopies) -> JobState {
    let engine = Engine::builder().slots(2).memory(128 << 20).pin(false).start().unwrap();
    let handle = engine.submit(sums_of(20_000), options(state, copies)).unwrap();
    handle.wait_for(Duration::from_secs(60)).expect("the job hangs").unwrap().state
}

/// Whether two directories hold the same.
fn hold_the_same(a: &Path, b: &Path) -> bool {
    let (mut io, arena) = tools();
    let a = OfflineCheckpoint::open(&mut *io, &arena, a, None).unwrap();
    let b = OfflineCheckpoint::open(&mut *io, &arena, b, None).unwrap();
    let (states, damages) = compare(&mut *io, &a, &b, |_, _, _| {}).unwrap();
    assert!(damages.is_empty() && states.iter().any(|state| state.same > 0 || !state.is_none()));
    a.checkpoint().id() == b.checkpoint().id() && states.iter().all(|state| state.is_none())
}

#[test]
fn a_fresh_machine_fetches_the_last_checkpoint_of_a_job_and_goes_on_from_it() {
    let scratch = Scratch::new("fetch");
    let (state, fetched) = (scratch.0.join("state"), scratch.0.join("fetched"));
    let store = Arc::new(InMemory::new());
    let copies = RemoteCopies::into_store(store.clone(), "jobs/copied").every(Duration::from_millis(30));
    assert_eq!(run(&state, &copies), JobState::Finished);
    let figures = copies.figures();
    assert!(figures.copied >= 2 && figures.failed == 0, "{figures:?}");
    let (mut io, arena) = tools();
    let id = copies.download(&mut *io, &arena, None, &fetched).unwrap();
    assert_eq!(Some(id), figures.last);
    let report = verify(&mut *io, &arena, &fetched).unwrap();
    assert!(report.damages.is_empty() && report.intact == [id], "{report:?}");
    assert!(hold_the_same(&state, &fetched));
    // It is the job's own directory from now on.
    assert_eq!(run(&fetched, &RemoteCopies::into_store(store, "jobs/again")), JobState::Finished);
    let occupied = copies.download(&mut *io, &arena, None, &fetched).unwrap_err();
    assert!(matches!(occupied, RemoteError::Occupied { .. }), "{occupied}");
}

#[test]
fn only_what_is_new_goes_over() {
    let scratch = Scratch::new("incremental");
    let store = Arc::new(InMemory::new());
    let copies = RemoteCopies::into_store(store.clone(), "p").every(Duration::ZERO);
    assert_eq!(run(&scratch.0.join("state"), &copies), JobState::Finished);
    let figures = copies.figures();
    let (mut io, arena) = tools();
    let before = figures.bytes;
    // The same directory again, from another process's point of view: everything is there.
    let again = RemoteCopies::into_store(store.clone(), "p");
    assert_eq!(again.upload(&mut *io, &arena, &scratch.0.join("state")).unwrap(), figures.last.unwrap());
    assert!(before < figures.copied * (2 << 20) + (8 << 20), "{figures:?}");
}

#[test]
fn a_savepoint_can_be_carried_over_a_store() {
    let scratch = Scratch::new("savepoint");
    let (state, savepoint, fetched) = (scratch.0.join("state"), scratch.0.join("savepoint"), scratch.0.join("fetched"));
    let copies = RemoteCopies::into_store(Arc::new(InMemory::new()), "");
    assert_eq!(run(&state, &copies), JobState::Finished);
    let (mut io, arena) = tools();
    let opened = OfflineCheckpoint::open(&mut *io, &arena, &state, None).unwrap();
    let source = opened.checkpoint().clone();
    let copy = millstream::checkpoint::SavepointCopy::start(&mut *io, &arena, source, &savepoint, Default::default());
    copy.unwrap().complete(&mut *io).unwrap();
    let place = RemoteCopies::into_store(Arc::new(InMemory::new()), "savepoints/one");
    place.upload(&mut *io, &arena, &savepoint).unwrap();
    place.download(&mut *io, &arena, None, &fetched).unwrap();
    assert!(hold_the_same(&state, &fetched));
    let _ = FromSavepoint::in_dir(&fetched);
}

#[test]
fn savepoints_of_a_job_whose_checkpoints_are_copied_are_copied_too() {
    let scratch = Scratch::new("savepoints");
    let copies = RemoteCopies::into_store(Arc::new(InMemory::new()), "jobs/copied");
    let engine = Engine::builder().slots(2).memory(128 << 20).pin(false).start().unwrap();
    let handle = engine.submit(endless(), options(&scratch.0.join("state"), &copies)).unwrap();
    let [first, last] = ["first", "last"].map(|name| scratch.0.join(name));
    handle.savepoint(&first).wait().unwrap();
    handle.stop_with_savepoint(&last, false).wait().unwrap();
    assert_eq!(handle.wait_for(Duration::from_secs(60)).expect("the job hangs").unwrap().state, JobState::Suspended);
    // The job counts as running until both have been carried.
    let figures = copies.figures();
    assert_eq!((figures.savepoints, figures.failed), (2, 0), "{figures:?}");
    let (mut io, arena) = tools();
    for (name, savepoint) in [("first", first), ("last", last)] {
        let fetched = scratch.0.join(format!("fetched-{name}"));
        copies.of_savepoint(name).download(&mut *io, &arena, None, &fetched).unwrap();
        assert!(hold_the_same(&savepoint, &fetched), "{name}");
    }
    // They are beside the checkpoints, whose last one is the job's.
    let fetched = scratch.0.join("fetched-checkpoint");
    assert_eq!(Some(copies.download(&mut *io, &arena, None, &fetched).unwrap()), figures.last);
}

#[test]
fn a_savepoint_that_cannot_be_copied_costs_four_attempts_and_not_the_job() {
    let scratch = Scratch::new("unreachable");
    let copies = RemoteCopies::into_store(Arc::new(InMemory::new()), "p");
    let engine = Engine::builder().slots(1).memory(128 << 20).pin(false).start().unwrap();
    let handle = engine.submit(endless(), options(&scratch.0.join("state"), &copies)).unwrap();
    let savepoint = scratch.0.join("savepoint");
    // As if its owner had moved it away at once.
    copies.savepoint(&savepoint);
    handle.savepoint(scratch.0.join("another")).wait().unwrap();
    handle.stop();
    assert_eq!(handle.wait_for(Duration::from_secs(60)).expect("the job hangs").unwrap().state, JobState::Suspended);
    let figures = copies.figures();
    assert_eq!((figures.savepoints, figures.failed), (1, 4), "{figures:?}");
    assert!(figures.last_failure.unwrap().contains("savepoint"), "it says which directory");
}

#[test]
fn an_empty_place_and_a_checkpoint_that_is_not_there_are_refused() {
    let scratch = Scratch::new("empty");
    let copies = RemoteCopies::into_store(Arc::new(InMemory::new()), "nothing");
    let (mut io, arena) = tools();
    let refused = copies.download(&mut *io, &arena, None, &scratch.0.join("fetched")).unwrap_err();
    assert!(matches!(refused, RemoteError::NoCheckpoint { .. }), "{refused}");
    let asked = Some(CheckpointId(3));
    assert!(copies.download(&mut *io, &arena, asked, &scratch.0.join("fetched")).is_err());
    assert!(RemoteCopies::to("no address").is_err() && RemoteCopies::to("gopher://x/y").is_err());
}

#[test]
fn a_job_that_began_anew_does_not_overwrite_the_copies_of_another() {
    let scratch = Scratch::new("another");
    let store = Arc::new(InMemory::new());
    let copies = RemoteCopies::into_store(store.clone(), "p").every(Duration::from_millis(10));
    assert_eq!(run(&scratch.0.join("one"), &copies), JobState::Finished);
    let last = copies.figures().last.unwrap();
    let (mut io, arena) = tools();
    // Other content under the same number.
    let other = RemoteCopies::into_store(store.clone(), "p");
    let mut writer = millstream::offline::SavepointWriter::new("copied", 128, &arena);
    let sum = writer.states().value::<u64, u64>("sum", "reduced").unwrap();
    let context = writer.states().key_context();
    sum.put(&context.hash(&1), &1).unwrap();
    let savepoint = scratch.0.join("savepoint");
    writer.number(last);
    writer.write(&mut *io, &savepoint).unwrap();
    let refused = other.upload(&mut *io, &arena, &savepoint).unwrap_err();
    assert!(matches!(refused, RemoteError::AnotherWriter { .. }), "{refused}");
    copies.download(&mut *io, &arena, None, &scratch.0.join("fetched")).unwrap();
    assert!(hold_the_same(&scratch.0.join("one"), &scratch.0.join("fetched")));
}

/// A store in which an operation fails, or panics, where `fault` says so.
struct Failing {
    inner: Arc<InMemory>,
    fault: Fault,
}

/// Asked before every put and get, with the object.
type Fault = Box<dyn Fn(&'static str, &Object) -> Result<()> + Send + Sync>;

fn planted() -> Error {
    Error::Generic { store: "failing", source: "planted".into() }
}

impl std::fmt::Debug for Failing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self}")
    }
}

impl std::fmt::Display for Failing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("failing")
    }
}

#[async_trait::async_trait]
impl ObjectStore for Failing {
    async fn put_opts(&self, location: &Object, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        (self.fault)("put", location)?;
        self.inner.put_opts(location, payload, opts).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Object,
        opts: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, opts).await
    }

    async fn get_opts(&self, location: &Object, options: GetOptions) -> Result<GetResult> {
        (self.fault)("get", location)?;
        self.inner.get_opts(location, options).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Object>>) -> BoxStream<'static, Result<Object>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Object>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Object>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Object, to: &Object, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

#[test]
fn a_store_that_fails_costs_time_and_neither_the_job_nor_the_copy() {
    let scratch = Scratch::new("failing");
    let operations = AtomicU64::new(0);
    let fault: Fault = Box::new(move |action, _| match action {
        "put" if operations.fetch_add(1, Ordering::Relaxed) % 3 == 2 => Err(planted()),
        _ => Ok(()),
    });
    let store = Arc::new(Failing { inner: Arc::new(InMemory::new()), fault });
    let copies = RemoteCopies::into_store(store, "p").every(Duration::from_millis(10));
    assert_eq!(run(&scratch.0.join("state"), &copies), JobState::Finished);
    let figures = copies.figures();
    assert!(figures.failed > 0 && figures.last_failure.is_some(), "{figures:?}");
    let (mut io, arena) = tools();
    let id = copies.download(&mut *io, &arena, None, &scratch.0.join("fetched")).unwrap();
    assert_eq!(Some(id), figures.last);
    assert!(verify(&mut *io, &arena, &scratch.0.join("fetched")).unwrap().damages.is_empty());
}

#[test]
fn an_index_that_could_not_be_read_keeps_its_parts() {
    let scratch = Scratch::new("unread");
    let (state, inner) = (scratch.0.join("state"), Arc::new(InMemory::new()));
    let copies = RemoteCopies::into_store(inner.clone(), "p").every(Duration::from_millis(10));
    assert_eq!(run(&state, &copies), JobState::Finished);
    let last = copies.figures().last.unwrap();
    // Another process, which reads all indexes but those of older checkpoints.
    let newest = format!("checkpoint-{:020}", last.0);
    let is_older =
        move |object: &Object| object.filename().is_some_and(|name| name.starts_with("checkpoint-") && name != newest);
    let fault: Fault = Box::new(move |action, object| match action == "get" && is_older(object) {
        true => Err(planted()),
        false => Ok(()),
    });
    let (mut io, arena) = tools();
    let failing = RemoteCopies::into_store(Arc::new(Failing { inner, fault }), "p");
    let refused = failing.upload(&mut *io, &arena, &state).unwrap_err();
    assert!(refused.to_string().contains("planted"), "{refused}");
    let fetched = (1..last.0).rev().find_map(|id| {
        let dir = scratch.0.join(format!("fetched-{id}"));
        match copies.download(&mut *io, &arena, Some(CheckpointId(id)), &dir) {
            Err(RemoteError::Store { object, .. }) if object.contains("checkpoint-") => None,
            other => Some(other.map(|_| ())),
        }
    });
    assert!(matches!(fetched, Some(Ok(()))), "{fetched:?}");
}

#[test]
fn a_store_that_panics_costs_the_copies_and_not_the_job() {
    let scratch = Scratch::new("panics");
    let fault: Fault = Box::new(|_, _| std::panic::panic_any("no store today"));
    let store = Arc::new(Failing { inner: Arc::new(InMemory::new()), fault });
    let copies = RemoteCopies::into_store(store, "p").every(Duration::from_millis(10));
    assert_eq!(run(&scratch.0.join("state"), &copies), JobState::Finished);
    let figures = copies.figures();
    assert!(figures.last_failure.is_some_and(|failure| failure.contains("no store today")) && figures.copied == 0);
}
