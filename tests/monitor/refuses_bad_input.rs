//! Each bad input gets one clear sentence on stderr and a bad exit code; nothing panics, hangs or is damaged.

use super::program::{Ended, Monitor, Scratch, run, wait, wait_until};
use super::{data_set, output};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

const GOOD: &str = "timestamp,value\n1392388200000,1\n1392388500000,2\n";

/// One sentence that names these things, and this exit code.
fn assert_refused(ended: &Ended, code: i32, named: &[&str]) {
    let stderr = ended.stderr.trim_end();
    assert_eq!(ended.status.code(), Some(code), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "more than one sentence: {stderr}");
    assert!(stderr.starts_with("millstream: "), "{stderr}");
    for name in named {
        assert!(stderr.contains(name), "{name:?} is not in: {stderr}");
    }
    for debug in ["panicked", "Some(", "Err(", "Error {", " { ", "src/"] {
        assert!(!stderr.contains(debug), "{debug:?} is not for users: {stderr}");
    }
}

fn refused_file(name: &str, text: &str, code: i32, named: &[&str]) {
    let scratch = Scratch::new(&format!("bad-{name}"));
    let file = scratch.file(&format!("{name}.csv"), text);
    let monitor = Monitor::over(&[file], &scratch, "run").with(&["--on-bad-record", "fail"]);
    assert_refused(&monitor.run(), code, named);
}

#[test]
fn unknown_flags_and_values_without_sense_are_usage_errors() {
    for (args, named) in [
        (&["--nonsense"][..], &["--nonsense"][..]),
        (&["run", "monitor", "--slot", "2"], &["--slot"]),
        (&["run", "nothing"], &["nothing"]),
        (&["run", "monitor", "--slots", "0"], &["--slots", "0"]),
        (&["run", "monitor", "--slots", "129"], &["--slots", "129", "128"]),
        (&["run", "monitor", "--slots", "two"], &["--slots", "two"]),
        (&["run", "monitor", "--window", "10"], &["--window", "10", "unit"]),
        (&["run", "monitor", "--window", "0s"], &["--window"]),
        (&["run", "monitor", "--window", "99999999999999d"], &["--window"]),
        (&["run", "monitor", "--slide=-5m"], &["--slide", "-5m"]),
        (&["run", "monitor", "--window", "3600001ms", "--slide", "5m"], &["--window", "--slide"]),
        (&["run", "monitor", "--memory", "lots"], &["--memory", "lots"]),
        (&["run", "monitor", "--memory", "512"], &["--memory", "512", "MiB"]),
        (&["run", "monitor", "--sigma", "NaN"], &["--sigma", "NaN"]),
        (&["run", "monitor", "--alpha", "1.5"], &["--alpha", "1.5"]),
        (&["run", "monitor", "--for", "sometimes"], &["--for", "sometimes"]),
        (&["run", "monitor", "--io", "fast"], &["--io", "fast"]),
        (&["run", "monitor", "--follow"], &["--input"]),
        (&["run", "monitor", "--checkpoint-every", "1ms"], &["--checkpoint-every", "10ms"]),
        (&["run", "nexmark"], &["--query"]),
        (&["run", "nexmark", "--query", "q99"], &["--query", "q99", "q0, q1, q2, q3, q5, q7, q8"]),
        (&["run", "nexmark", "--query", "q5", "--events", "0"], &["--events", "more than none"]),
        (&["run", "nexmark", "--query", "q5", "--events", "many"], &["--events", "many", "10M"]),
        (&["run", "nexmark", "--query", "q5", "--rate", "0"], &["--rate", "more than none"]),
        (&["run", "nexmark", "--query", "q5", "--state", "somewhere"], &["--out"]),
        (
            &["run", "nexmark", "--query", "q5", "--out", "o", "--checkpoint-every", "1ms"],
            &["--checkpoint-every", "10ms"],
        ),
        (&["run", "ysb", "--campaigns", "0"], &["--campaigns", "0"]),
        (&["run", "ysb", "--splits", "0"], &["--splits", "0"]),
        (&["checkpoints", "verify"], &["<DIR>"]),
    ] {
        assert_refused(&run(args), 2, named);
    }
}

#[test]
fn files_that_cannot_be_read_are_refused_before_anything_is_written() {
    let scratch = Scratch::new("bad-files");
    let good = scratch.file("good.csv", GOOD);
    let unreadable = scratch.file("unreadable.csv", GOOD);
    std::fs::set_permissions(&unreadable, std::fs::Permissions::from_mode(0o000)).unwrap();
    std::fs::create_dir(scratch.join("other")).unwrap();
    let twin = scratch.file("other/good.csv", GOOD);
    let mut cases = vec![
        (vec![good.clone(), scratch.join("missing.csv")], "missing.csv"),
        (vec![good.clone(), scratch.join("other")], "directory"),
        (vec![good.clone(), good.clone()], "good.csv"),
        (vec![good.clone(), twin], "good"),
    ];
    let runs_as_root = std::fs::read(&unreadable).is_ok();
    match runs_as_root {
        true => println!("the unreadable file is not tried: this process may read everything"),
        false => cases.push((vec![unreadable], "unreadable.csv")),
    }
    for (index, (files, named)) in cases.into_iter().enumerate() {
        let monitor = Monitor::over(&files, &scratch, &format!("case-{index}"));
        assert_refused(&monitor.run(), 1, &[named]);
        assert!(!monitor.state.exists(), "a refused job left a state directory");
    }
}

#[test]
fn an_empty_file_is_refused() {
    refused_file("empty", "", 1, &["empty.csv", "empty"]);
}

#[test]
fn a_wrong_header_is_refused_with_the_right_one() {
    refused_file("header", "time;value\n1;2\n", 1, &["header.csv:1", "timestamp,value"]);
}

#[test]
fn a_bad_number_is_refused_by_file_line_and_column() {
    refused_file("number", "timestamp,value\n1392388200000,1\n1392388500000,x1\n", 1, &["number.csv:3:15", "x1"]);
}

#[test]
fn a_value_that_is_no_number_is_refused() {
    refused_file("nan", "timestamp,value\n1392388200000,NaN\n", 1, &["nan.csv:2", "NaN"]);
}

#[test]
fn a_timestamp_before_1970_is_refused() {
    refused_file("old", "timestamp,value\n1969-12-31 23:59:59,1\n", 1, &["old.csv:2", "1969-12-31 23:59:59"]);
}

#[test]
fn a_timestamp_in_the_year_9999_is_refused() {
    refused_file("far", "timestamp,value\n9999-12-31 23:59:59,1\n", 1, &["far.csv:2", "9999-12-31 23:59:59"]);
}

#[test]
fn bad_records_are_put_aside_unless_asked_otherwise_and_the_run_says_so_at_its_end() {
    let scratch = Scratch::new("bad-records");
    let text = "timestamp,value\n1392388200000,1\nyesterday,2\n1392388500000,NaN\n1392388800000,4\n";
    let file = scratch.file("mixed.csv", text);
    let monitor = Monitor::over(&[file], &scratch, "run");
    let ended = monitor.run();
    let last = ended.stderr.lines().last().unwrap_or_default();
    assert_eq!(ended.status.code(), Some(3), "{}", ended.stderr);
    assert!(last.starts_with("millstream: 2 records") && last.contains("bad-records"), "{}", ended.stderr);
    let aside = std::fs::read_to_string(monitor.out.join("bad-records.jsonl")).unwrap();
    assert!(aside.contains("yesterday") && aside.contains("NaN") && aside.lines().count() == 2, "{aside}");
    let longest = output::windows(&monitor.out).iter().map(|window| window.count).max();
    assert_eq!(longest, Some(2), "the good records are all there");
}

#[test]
fn skipped_records_are_only_counted() {
    let scratch = Scratch::new("bad-skipped");
    let file = scratch.file("mixed.csv", "timestamp,value\n1392388200000,1\nyesterday,2\n");
    let ended = Monitor::over(&[file], &scratch, "run").with(&["--on-bad-record", "skip", "--json"]).finish();
    let result: serde_json::Value = serde_json::from_str(ended.stdout.lines().last().unwrap()).unwrap();
    assert_eq!(result["dropped"]["bad_record"], 1, "{result}");
}

#[test]
fn a_state_directory_of_another_job_is_refused_and_left_as_it_is() {
    let scratch = Scratch::new("bad-other-job");
    let file = scratch.file("cpu.csv", GOOD);
    let first = Monitor::over(std::slice::from_ref(&file), &scratch, "run");
    first.finish();
    let other = first.clone().with(&["--window", "30m"]);
    assert_refused(&other.run(), 1, &["run-state", "30m", "1h"]);
    first.finish();
}

#[test]
fn a_state_directory_of_a_newer_version_is_refused_and_left_as_it_is() {
    let scratch = Scratch::new("bad-newer");
    let monitor = Monitor::over(&[scratch.file("cpu.csv", GOOD)], &scratch, "run");
    monitor.finish();
    let before = superblocks(&monitor.state);
    let newer: Vec<(PathBuf, Vec<u8>)> =
        before.iter().map(|(path, bytes)| (path.clone(), in_version(bytes, 9))).collect();
    write(&newer);
    assert_refused(&monitor.run(), 1, &["version 9"]);
    assert!(superblocks(&monitor.state) == newer, "the refused run changed the directory");
    write(&before);
    monitor.finish();
}

#[test]
fn a_state_directory_in_use_is_refused_and_its_owner_not_disturbed() {
    let scratch = Scratch::new("bad-locked");
    let owner = Monitor::over(&[], &scratch, "live").with(&["--for", "forever", "--checkpoint-every", "20ms"]);
    let mut child = owner.start();
    wait_until("the first checkpoint is there", || owner.state.exists() && !superblocks(&owner.state).is_empty());
    let pid = child.id().to_string();
    assert_refused(&owner.run(), 1, &["live-state", &pid]);
    assert!(wait(&mut child, std::time::Duration::ZERO).is_none(), "the owner has ended");
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn too_little_memory_is_refused_with_figures() {
    let scratch = Scratch::new("bad-memory");
    let monitor = Monitor::over(&data_set::files(), &scratch, "run").with(&["--memory", "64KiB"]);
    assert_refused(&monitor.run(), 1, &["64", "--memory"]);
}

#[test]
fn a_directory_without_checkpoints_is_nothing_to_verify() {
    let scratch = Scratch::new("bad-verify");
    let empty = scratch.join("empty");
    std::fs::create_dir(&empty).unwrap();
    for what in ["ls", "verify"] {
        assert_refused(&run(&["checkpoints", what, empty.to_str().unwrap()]), 2, &["empty"]);
        let missing = scratch.join("missing");
        assert_refused(&run(&["checkpoints", what, missing.to_str().unwrap()]), 2, &["missing"]);
    }
}

#[test]
fn a_damaged_checkpoint_is_found_and_named() {
    let scratch = Scratch::new("bad-damaged");
    let monitor = Monitor::over(&[scratch.file("cpu.csv", GOOD)], &scratch, "run");
    monitor.finish();
    let state = monitor.state.to_str().unwrap();
    assert!(run(&["checkpoints", "verify", state]).status.success());
    let damaged: Vec<_> = superblocks(&monitor.state)
        .into_iter()
        .map(|(path, mut bytes)| {
            bytes.iter_mut().step_by(512).for_each(|byte| *byte ^= 1);
            (path, bytes)
        })
        .collect();
    write(&damaged);
    let found = run(&["checkpoints", "verify", state]);
    assert_refused(&found, 1, &["damage"]);
    assert!(found.stdout.contains("superblock"), "{}", found.stdout);
}

/// The superblock files of a state directory with their bytes.
fn superblocks(state: &std::path::Path) -> Vec<(PathBuf, Vec<u8>)> {
    let entries = std::fs::read_dir(state).unwrap().map(|entry| entry.unwrap().path());
    let paths = entries.filter(|path| path.file_name().unwrap().to_string_lossy().starts_with("superblock-"));
    let mut files: Vec<_> = paths.filter(|path| path.extension().is_some_and(|end| end == "ms")).collect();
    files.sort();
    files.into_iter().map(|path| (path.clone(), std::fs::read(path).unwrap())).collect()
}

fn write(files: &[(PathBuf, Vec<u8>)]) {
    files.iter().for_each(|(path, bytes)| std::fs::write(path, bytes).unwrap());
}

/// The bytes of a superblock file as another version would write them: every slot's version changed, its checksum right.
fn in_version(bytes: &[u8], version: u16) -> Vec<u8> {
    let mut changed = bytes.to_vec();
    for slot in changed.chunks_mut(4096) {
        slot[8..10].copy_from_slice(&version.to_le_bytes());
        slot[12..16].fill(0);
        let crc = crc32c(slot);
        slot[12..16].copy_from_slice(&crc.to_le_bytes());
    }
    changed
}

/// CRC32C bit by bit: the checksum that all versions share.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg()))
    })
}
