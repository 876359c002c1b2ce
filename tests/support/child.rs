//! Runs one test of this binary again in a process of its own, with a limit on how long it may take.

use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

/// Waits for a child, and kills it when it takes longer than `at_most`: `None` is a hang.
pub fn wait_at_most(child: &mut Child, at_most: Duration) -> Option<ExitStatus> {
    for _ in 0..at_most.as_millis() / 5 {
        if let Some(status) = child.try_wait().unwrap() {
            return Some(status);
        }
        std::thread::park_timeout(Duration::from_millis(5));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    None
}

/// The arguments that make this test binary run just `test`.
pub fn only(command: &mut Command, test: &str) {
    command.args(["--exact", test, "--nocapture", "--test-threads", "1"]).stdin(Stdio::null());
}
