//! `kill -9` and a second start: the rows of query 5 are in the files once, as if nothing had happened.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// No run takes longer; one that does hangs.
const RUN_MAX: Duration = Duration::from_secs(60);
const KILLS: usize = 2;

#[test]
fn the_rows_of_a_killed_run_are_those_of_an_undisturbed_one() {
    let scratch = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("benchmarks-kill-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&scratch);
    let undisturbed = scratch.join("undisturbed");
    let start = Instant::now();
    finish(&undisturbed, "2");
    let took = start.elapsed();
    let expected = rows(&undisturbed);
    assert!(!expected.is_empty());

    let killed = scratch.join("killed");
    let mut kills = 0;
    for start in 0..10 {
        let mut child = query_5(&killed, ["1", "2"][start % 2]).spawn().expect("the program was built for this test");
        std::thread::sleep(took / 3);
        let was_running = child.try_wait().unwrap().is_none();
        child.kill().unwrap();
        child.wait().unwrap();
        kills += usize::from(was_running && has_checkpoint(&killed));
        if kills == KILLS || !was_running {
            break;
        }
    }
    assert!(kills > 0, "no run could be killed behind its first checkpoint");
    finish(&killed, "2");
    assert_eq!(rows(&killed), expected, "after {kills} kills");
    std::fs::remove_dir_all(&scratch).unwrap();
}

fn query_5(directory: &Path, slots: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_millstream"));
    command.args(["run", "nexmark", "--query", "q5", "--events", "400K", "--rate", "5K", "--slots", slots]);
    command.args(["--checkpoint-every", "20ms", "--out"]).arg(directory.join("rows"));
    command.arg("--state").arg(directory.join("state"));
    command.stdin(Stdio::null()).stdout(Stdio::null()).env_remove("RUST_LOG");
    command
}

fn finish(directory: &Path, slots: &str) {
    let mut child = query_5(directory, slots).spawn().expect("the program was built for this test");
    let deadline = Instant::now() + RUN_MAX;
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if Instant::now() > deadline {
            child.kill().unwrap();
            panic!("a run did not end within {} s", RUN_MAX.as_secs());
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    assert!(status.success(), "{status}");
}

fn has_checkpoint(directory: &Path) -> bool {
    files(&directory.join("state")).iter().any(|file| file.to_string_lossy().contains("superblock"))
}

/// Every committed line, sorted.
fn rows(directory: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    for file in files(&directory.join("rows")) {
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        assert!(!name.starts_with('.'), "an uncommitted part is left: {name}");
        lines.extend(std::fs::read_to_string(&file).unwrap().lines().map(str::to_owned));
    }
    lines.sort();
    lines
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).into_iter().flatten();
    entries.map(|entry| entry.unwrap().path()).collect()
}
