//! A full disk under the state directory: the job goes on, the failed checkpoint is reported with its reason, and the next one
//! succeeds once there is space.
//!
//! Needs a small file system of its own: a tmpfs in a mount namespace of the test, which root may make. Elsewhere it says that it was
//! not run.

use super::program::Scratch;
use std::process::{Command, Stdio};

/// Leaves too little space for a checkpoint, frees it after a failed one, and stops the job after a good one. The job reports as JSON,
/// one object a line.
const SCRIPT: &str = r#"
set -eu
mount -t tmpfs -o size=8m none "$STATE"
head -c 7340032 /dev/zero >"$STATE/filler"
"$PROGRAM" run monitor --state "$STATE" --out "$OUT" --for forever --checkpoint-every 50ms --slots 1 --json >"$REPORT" &
job=$!
wait_for() {
    n=0
    until grep -q "$1" "$REPORT"; do
        n=$((n + 1))
        [ $n -lt 400 ] || { kill -9 $job; echo "never reported: $1"; exit 1; }
        sleep 0.1
    done
}
wait_for '"failed":[1-9]'
rm "$STATE/filler"
wait_for '"completed":[1-9]'
kill -INT $job
wait $job
"#;

#[test]
fn a_full_disk_fails_checkpoints_and_not_the_job() {
    let scratch = Scratch::new("full-disk");
    let (state, report) = (scratch.join("state"), scratch.join("report"));
    std::fs::create_dir(&state).unwrap();
    if !may_mount() {
        println!("not run: this process may not make a mount namespace with a small file system");
        return;
    }
    let ran = Command::new("unshare")
        .args(["--mount", "sh", "-c", SCRIPT])
        .env("PROGRAM", env!("CARGO_BIN_EXE_millstream"))
        .envs([("STATE", &state), ("OUT", &scratch.join("out")), ("REPORT", &report)])
        .output()
        .unwrap();
    let report = std::fs::read_to_string(&report).unwrap_or_default();
    let words = format!("{}{}\n{report}", String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    assert!(ran.status.success(), "{words}");
    assert!(report.contains("no space"), "the reason is not reported: {words}");
    let result: serde_json::Value = serde_json::from_str(report.lines().last().unwrap()).unwrap();
    assert_eq!((&result["type"], &result["state"]), (&"result".into(), &"suspended".into()), "{words}");
    assert_eq!(result["attempt"], 1, "the job was restarted: {words}");
}

fn may_mount() -> bool {
    let tried = Command::new("unshare")
        .args(["--mount", "sh", "-c", "mount -t tmpfs none /mnt"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    tried.is_ok_and(|status| status.success())
}
