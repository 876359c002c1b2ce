//! `millstream checkpoints` over the real state of the monitor: what it shows, exports, compares, copies and prunes, and what it can
//! still read of a damaged directory.

use crate::data_set;
use crate::program::{Ended, Monitor, Scratch, run};
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// A run of the monitor over a few files, stopped while it waits for more: windows and timers are open then.
fn watched(scratch: &Scratch, name: &str, files: usize) -> Monitor {
    let files: Vec<PathBuf> = data_set::files().into_iter().take(files).collect();
    let monitor = Monitor::over(&files, scratch, name).with(&["--checkpoint-every", "10ms", "--slots", "2"]);
    let monitor = monitor.with(&["--follow", "--for", "700ms"]);
    monitor.finish();
    monitor
}

fn tool(args: &[&str], paths: &[&Path]) -> Ended {
    let mut line = vec!["checkpoints".to_owned()];
    line.extend(args.iter().map(|arg| (*arg).to_owned()));
    line.extend(paths.iter().map(|path| path.to_str().unwrap().to_owned()));
    run(&line)
}

fn code(ended: &Ended) -> i32 {
    ended.status.code().unwrap_or(-1)
}

fn inspect(dir: &Path) -> Value {
    let ended = tool(&["inspect", "--json"], &[dir]);
    serde_json::from_str(&ended.stdout).unwrap_or_else(|error| panic!("{error}: {} {}", ended.stdout, ended.stderr))
}

/// The names, keys and entries of all states.
fn states(inspected: &Value) -> Vec<(String, u64, u64)> {
    let name = |state: &Value| format!("{}/{}", state["operator"].as_str().unwrap(), state["name"].as_str().unwrap());
    let count = |state: &Value, what: &str| state[what].as_u64().unwrap();
    let states = inspected["states"].as_array().unwrap().iter();
    states.map(|state| (name(state), count(state, "keys"), count(state, "entries"))).collect()
}

fn exported(dir: &Path, state: &str) -> Vec<Value> {
    let ended = tool(&["export", "--state", state], &[dir]);
    assert!(ended.status.success(), "{}", ended.stderr);
    ended.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn inspect_counts_what_export_writes() {
    let scratch = Scratch::new("tools-inspect");
    let state = watched(&scratch, "a", 3).state;
    let inspected = inspect(&state);
    assert!(inspected["damages"].as_array().unwrap().is_empty());
    assert!(inspected["job"].as_str().unwrap().starts_with("monitor of files"));
    let states = states(&inspected);
    assert!(states.iter().any(|(_, keys, _)| *keys > 0), "{states:?}");
    for (name, keys, _) in &states {
        let lines = exported(&state, name);
        assert_eq!(lines.len() as u64, *keys, "{name} holds values and timers only");
        let groups: BTreeSet<u64> = lines.iter().map(|line| line["key_group"].as_u64().unwrap()).collect();
        assert!(groups.iter().all(|group| *group < 128));
    }
    let shown = tool(&["inspect", "--key-groups"], &[&state]);
    assert!(shown.status.success());
    for (name, ..) in &states {
        assert!(shown.stdout.contains(name), "{name} in {}", shown.stdout);
    }
    assert!(shown.stdout.contains("metrics: splits"), "{}", shown.stdout);
}

#[test]
fn export_names_the_series_that_were_watched() {
    let scratch = Scratch::new("tools-export");
    let files: Vec<PathBuf> = data_set::files().into_iter().take(2).collect();
    let state = watched(&scratch, "a", 2).state;
    let windows = exported(&state, "windows/slices");
    let parts = windows[0].as_object().unwrap().keys().map(String::as_str).collect::<Vec<_>>();
    assert_eq!(parts, ["key", "key_group", "namespace", "value"]);
    let series: BTreeSet<String> = windows.iter().filter_map(|line| Some(line["key"].as_str()?.to_owned())).collect();
    for file in &files {
        let name = file.file_stem().unwrap().to_str().unwrap();
        assert!(series.iter().any(|series| series.contains(name)), "{name} in {series:?}");
    }
    let csv = tool(&["export", "--format", "csv", "--state", "alerts/statistics"], &[&state]);
    assert!(csv.stdout.starts_with("key_group,key,value\n"), "{}", csv.stdout);
    assert_eq!(csv.stdout.lines().count(), exported(&state, "alerts/statistics").len() + 1);
}

#[test]
fn a_state_that_is_not_there_is_refused_with_those_that_are() {
    let scratch = Scratch::new("tools-state");
    let state = watched(&scratch, "a", 1).state;
    let refused = tool(&["export", "--state", "nothing"], &[&state]);
    assert_eq!(code(&refused), 2);
    assert!(refused.stderr.contains("alerts/") && refused.stderr.contains("\"nothing\""), "{}", refused.stderr);
    let refused = tool(&["inspect", "--checkpoint", "999999"], &[&state]);
    assert_eq!(code(&refused), 2);
    assert!(refused.stderr.contains("999999"), "{}", refused.stderr);
}

#[test]
fn diff_tells_equal_checkpoints_from_different_ones() {
    let scratch = Scratch::new("tools-diff");
    let (one, two) = (watched(&scratch, "a", 1).state, watched(&scratch, "b", 2).state);
    assert_eq!(code(&tool(&["diff"], &[&one, &one])), 0);
    let differs = tool(&["diff", "--entries"], &[&one, &two]);
    assert_eq!(code(&differs), 1, "{}", differs.stderr);
    assert!(differs.stdout.lines().any(|line| line.starts_with('+')), "{}", differs.stdout);
    assert!(differs.stderr.contains("differ"), "{}", differs.stderr);
}

#[test]
fn the_same_input_on_other_slots_leaves_the_same_state() {
    let scratch = Scratch::new("tools-same");
    let files: Vec<PathBuf> = data_set::files().into_iter().take(2).collect();
    let [one, two] = [("a", "1"), ("b", "3")].map(|(name, slots)| {
        let monitor = Monitor::over(&files, &scratch, name).with(&["--checkpoint-every", "10ms", "--slots", slots]);
        monitor.finish();
        monitor.state
    });
    let same = tool(&["diff", "--entries"], &[&one, &two]);
    assert_eq!(code(&same), 0, "{}{}", same.stdout, same.stderr);
}

#[test]
fn a_copy_is_a_savepoint_that_holds_the_same_and_can_be_started_from() {
    let scratch = Scratch::new("tools-copy");
    let monitor = watched(&scratch, "a", 2);
    let copy = scratch.join("copy");
    let copied = tool(&["copy"], &[&monitor.state, &copy]);
    assert!(copied.status.success(), "{}", copied.stderr);
    assert_eq!(code(&tool(&["verify"], &[&copy])), 0);
    assert_eq!(code(&tool(&["diff"], &[&monitor.state, &copy])), 0);
    assert_eq!(code(&tool(&["copy"], &[&monitor.state, &copy])), 2, "a name is used once");
    // Moved, and on a file system where nothing may be written.
    let moved = scratch.join("moved");
    std::fs::rename(&copy, &moved).unwrap();
    for entry in std::fs::read_dir(&moved).unwrap() {
        read_only(&entry.unwrap().path());
    }
    read_only(&moved);
    let (out, state) = (monitor.out.clone(), scratch.join("again-state"));
    let mut args = vec!["run".into(), "monitor".into(), "--json".into(), "--from-savepoint".into(), moved.clone()];
    args.extend(["--out".into(), out, "--state".into(), state, "--input".into()]);
    args.extend(data_set::files().into_iter().take(2));
    let ended = run(&args);
    assert!(ended.status.success(), "{}", ended.stderr);
    writable(&moved);
    let result: Value = serde_json::from_str(ended.stdout.lines().last().unwrap()).unwrap();
    // While a file is followed, a last line without its end is not read yet: that is all that may be new.
    assert!(result["records"].as_u64().unwrap() <= 2, "{result}");
}

fn read_only(path: &Path) {
    let mut permissions = std::fs::metadata(path).unwrap().permissions();
    permissions.set_readonly(true);
    std::fs::set_permissions(path, permissions).unwrap();
}

fn writable(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn prune_leaves_the_newest_checkpoint_and_what_it_needs() {
    let scratch = Scratch::new("tools-prune");
    let monitor = watched(&scratch, "a", 2);
    let before = inspect(&monitor.state);
    std::fs::write(monitor.state.join("extent-000900.ms"), vec![0; 8192]).unwrap();
    let pruned = tool(&["prune", "--keep", "1"], &[&monitor.state]);
    assert!(pruned.status.success(), "{}", pruned.stderr);
    assert!(!monitor.state.join("extent-000900.ms").exists(), "{}", pruned.stdout);
    let listed = tool(&["ls"], &[&monitor.state]);
    assert_eq!(listed.stdout.lines().count(), 2, "{}", listed.stdout);
    assert_eq!(code(&tool(&["verify"], &[&monitor.state])), 0);
    assert_eq!(inspect(&monitor.state), before);
    monitor.finish();
}

#[test]
fn a_directory_in_use_is_not_pruned() {
    let scratch = Scratch::new("tools-prune-used");
    let owner = Monitor::over(&[], &scratch, "live").with(&["--for", "forever", "--checkpoint-every", "20ms"]);
    let mut child = owner.start();
    crate::program::wait_until("the first checkpoint is there", || code(&tool(&["ls"], &[&owner.state])) == 0);
    let refused = tool(&["prune"], &[&owner.state]);
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(code(&refused), 2, "{}", refused.stderr);
    assert!(refused.stderr.contains("locked by running process"), "{}", refused.stderr);
}

/// The extent files of a directory, with their contents.
fn extents(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let paths = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let extents = paths.filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with("extent-"));
    extents.map(|path| (path.clone(), std::fs::read(path).unwrap())).collect()
}

#[test]
fn a_damaged_page_costs_its_entries_only() {
    let scratch = Scratch::new("tools-damaged");
    let source = watched(&scratch, "a", 4).state;
    let copy = scratch.join("copy");
    assert!(tool(&["copy"], &[&source, &copy]).status.success());
    let whole = inspect(&copy);
    let (path, bytes) = extents(&copy).into_iter().next().unwrap();
    // Into the middle of the first block, which holds pieces.
    let mut damaged = bytes.clone();
    let at = damaged.iter().skip(64 + 200).position(|byte| *byte != 0).unwrap() + 64 + 200;
    damaged[at] ^= 0x55;
    std::fs::write(&path, &damaged).unwrap();
    let shown = tool(&["inspect", "--json"], &[&copy]);
    assert_eq!(code(&shown), 1, "{}", shown.stdout);
    let part: Value = serde_json::from_str(&shown.stdout).unwrap();
    assert_eq!(part["damages"].as_array().unwrap().len(), 1, "{part}");
    let sum = |inspected: &Value| states(inspected).iter().map(|(.., entries)| entries).sum::<u64>();
    assert!(sum(&part) > 0 && sum(&part) < sum(&whole), "{} of {}", sum(&part), sum(&whole));
    assert_eq!(code(&tool(&["diff"], &[&source, &copy])), 1);
}

#[test]
fn a_directory_with_a_damaged_page_is_not_pruned() {
    let scratch = Scratch::new("tools-prune-damaged");
    let state = watched(&scratch, "a", 2).state;
    let copy = scratch.join("copy");
    assert!(tool(&["copy"], &[&state, &copy]).status.success());
    let (path, mut bytes) = extents(&copy).into_iter().next().unwrap();
    let at = bytes.iter().skip(64 + 200).position(|byte| *byte != 0).unwrap() + 64 + 200;
    bytes[at] ^= 0x55;
    std::fs::write(&path, &bytes).unwrap();
    assert_eq!(code(&tool(&["ls"], &[&copy])), 0, "the manifest is intact");
    let refused = tool(&["prune"], &[&copy]);
    assert_eq!(code(&refused), 1, "{}", refused.stdout);
}

#[test]
fn without_superblocks_the_newest_checkpoint_is_still_read() {
    let scratch = Scratch::new("tools-superblock");
    let state = watched(&scratch, "a", 2).state;
    let before = inspect(&state);
    for entry in std::fs::read_dir(&state).unwrap() {
        let path = entry.unwrap().path();
        if path.file_name().unwrap().to_str().unwrap().starts_with("superblock-") {
            std::fs::remove_file(path).unwrap();
        }
    }
    let found = tool(&["inspect", "--json"], &[&state]);
    assert_eq!(code(&found), 1);
    let found: Value = serde_json::from_str(&found.stdout).unwrap();
    assert_eq!(found["checkpoint"], before["checkpoint"]);
    assert_eq!(found["states"], before["states"]);
}

#[test]
fn what_is_no_checkpoint_directory_is_unopened_to_every_tool() {
    let scratch = Scratch::new("tools-nothing");
    let (empty, missing, to) = (scratch.join("empty"), scratch.join("missing"), scratch.join("to"));
    std::fs::create_dir(&empty).unwrap();
    for dir in [&empty, &missing] {
        for args in [&["ls"][..], &["verify"], &["inspect"], &["export", "--state", "x"], &["prune"]] {
            let ended = tool(args, &[dir]);
            assert_eq!(code(&ended), 2, "{args:?} {}: {}", dir.display(), ended.stderr);
            assert_eq!(ended.stderr.lines().count(), 1);
        }
        assert_eq!(code(&tool(&["diff"], &[dir, dir])), 2);
        assert_eq!(code(&tool(&["copy"], &[dir, &to])), 2);
    }
    assert!(!to.exists() && std::fs::read_dir(&empty).unwrap().next().is_none());
}
