//! Copies of checkpoints over S3: a job uploads to a server on this machine, a fresh directory is filled from it, and holds the same.

use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use millstream::checkpoint::CheckpointFollower;
use millstream::engine::{CheckpointOptions, Engine, JobOptions};
use millstream::io::{self, IoChoice};
use millstream::job_manager::JobState;
use millstream::memory::{Arena, ArenaOptions, MemoryBudget};
use millstream::offline::{OfflineCheckpoint, compare};
use millstream::remote::RemoteCopies;
use millstream::sink::Collect;
use millstream::slot::Doorbell;
use millstream::source::Generator;
use millstream::stream::Job;
use millstream::time::{EventTimeMs, Watermarks};
use object_store::RetryConfig;
use object_store::aws::{AmazonS3, AmazonS3Builder};
use s3s::auth::SimpleAuth;
use s3s::service::S3ServiceBuilder;
use s3s_fs::FileSystem;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;

const BUCKET: &str = "copies";
const KEY: &str = "key";
const SECRET: &str = "secret";

struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(dir.join("server").join(BUCKET)).unwrap();
        Self(dir)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A server over a directory, on loopback; it ends with the runtime.
fn serve(runtime: &tokio::runtime::Runtime, root: &Path) -> SocketAddr {
    let service = {
        let mut builder = S3ServiceBuilder::new(FileSystem::new(root).unwrap());
        builder.set_auth(SimpleAuth::from_single(KEY, SECRET));
        builder.build()
    };
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
    let address = listener.local_addr().unwrap();
    runtime.spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let service = service.clone();
            tokio::spawn(async move {
                let _ = Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(socket), service).await;
            });
        }
    });
    address
}

fn store(address: SocketAddr, secret: &str) -> Arc<AmazonS3> {
    let builder = AmazonS3Builder::new()
        .with_endpoint(format!("http://{address}"))
        .with_allow_http(true)
        .with_region("us-east-1")
        .with_bucket_name(BUCKET)
        .with_access_key_id(KEY)
        .with_secret_access_key(secret)
        // The client's own patience is minutes.
        .with_retry(RetryConfig { max_retries: 1, ..RetryConfig::default() });
    Arc::new(builder.build().unwrap())
}

/// Runs a job over 20,000 numbers to its end, with its checkpoints copied.
fn run(state: &Path, copies: &RemoteCopies) -> JobState {
    let engine = Engine::builder().slots(2).memory(128 << 20).pin(false).start().unwrap();
    let (job, sink) = (Job::new("copied"), Collect::immediate());
    job.source("numbers", Generator::new(|n: u64| n).in_splits(2).count(20_000).per_second(40_000.0))
        .event_time(|n: &u64| EventTimeMs(*n as i64), Watermarks::monotonous())
        .key_by("by-key", |n: &u64| n % 5_000)
        .reduce("sum", |a, b| a + b)
        .sink("out", sink);
    let follower: Arc<dyn CheckpointFollower> = Arc::new(copies.clone());
    let checkpoints = CheckpointOptions::every(state, Duration::from_millis(20));
    let checkpoints = Some(CheckpointOptions { follower: Some(follower), ..checkpoints });
    let handle = engine.submit(job, JobOptions { checkpoints, ..JobOptions::default() }).unwrap();
    handle.wait_for(Duration::from_secs(60)).expect("the job hangs").unwrap().state
}

#[test]
fn a_fresh_machine_fetches_over_s3_what_the_job_had() {
    let scratch = Scratch::new("s3");
    let (state, fetched) = (scratch.0.join("state"), scratch.0.join("fetched"));
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let address = serve(&runtime, &scratch.0.join("server"));
    let copies = RemoteCopies::into_store(store(address, SECRET), "jobs/copied").every(Duration::from_millis(30));
    assert_eq!(run(&state, &copies), JobState::Finished);
    let figures = copies.figures();
    assert!(figures.copied > 0 && figures.failed == 0, "{figures:?}");

    let mut io = io::open(IoChoice::Blocking, Arc::new(Doorbell::new().unwrap())).unwrap();
    let arena = Arena::new(MemoryBudget::new(128 << 20), ArenaOptions::default());
    copies.download(&mut *io, &arena, None, &fetched).unwrap();
    let here = OfflineCheckpoint::open(&mut *io, &arena, &state, None).unwrap();
    let there = OfflineCheckpoint::open(&mut *io, &arena, &fetched, None).unwrap();
    assert_eq!(here.checkpoint().id(), there.checkpoint().id());
    let (states, damages) = compare(&mut *io, &here, &there, |_, _, _| {}).unwrap();
    assert!(damages.is_empty() && !states.is_empty() && states.iter().all(|state| state.is_none()));
}

#[test]
fn a_wrong_secret_is_told_and_does_not_disturb_the_job() {
    let scratch = Scratch::new("s3-secret");
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let address = serve(&runtime, &scratch.0.join("server"));
    let copies = RemoteCopies::into_store(store(address, "guess"), "jobs/copied").every(Duration::from_millis(30));
    assert_eq!(run(&scratch.0.join("state"), &copies), JobState::Finished);
    let figures = copies.figures();
    assert!(figures.copied == 0 && figures.failed > 0, "{figures:?}");
}
