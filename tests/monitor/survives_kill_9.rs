//! `kill -9` at random instants, 50 in all, with 1, 2 and 3 slots and with a number of slots that changes from run to run: the
//! committed lines are those of the undisturbed run, byte for byte.
//!
//! `MILLSTREAM_SEED` replays the instants of a failed run (as far as a machine repeats itself), `MILLSTREAM_KILLS=4` kills four times as often.

use super::program::{Monitor, Scratch, run, wait};
use super::{data_set, output};
use std::time::{Duration, Instant};

/// How the number of slots goes from run to run.
const SLOT_PLANS: [&[&str]; 4] = [&["1"], &["2"], &["3"], &["2", "3", "1"]];
/// Kills for each plan; with two checkpoint intervals 50 in all.
const KILLS: [usize; 4] = [6, 6, 6, 7];
/// A run may end before it is killed, which counts for nothing; not so often that the test would show nothing.
const STARTS_PER_KILL_MAX: usize = 8;

#[test]
fn output_is_exactly_once_when_killed_between_checkpoints_of_1_s() {
    kill_and_compare("kill-1s", "1s", 1, 1);
}

#[test]
fn output_is_exactly_once_when_killed_between_checkpoints_of_20_ms() {
    // A run gets far between two kills that follow each other soon.
    kill_and_compare("kill-20ms", "20ms", 2, 3);
}

/// The lines of both sinks, sorted: the order between series is free.
#[derive(PartialEq)]
struct Lines {
    windows: Vec<String>,
    alerts: Vec<String>,
}

struct Trial {
    undisturbed: Lines,
    /// Instants are drawn from this.
    took: Duration,
    random: SplitMix,
    interval: &'static str,
}

/// Kills within this part of the time that an undisturbed run takes.
fn kill_and_compare(name: &str, interval: &'static str, number: u64, part: u32) {
    let seed = std::env::var("MILLSTREAM_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(20_261_122);
    println!("MILLSTREAM_SEED={seed}");
    let times = std::env::var("MILLSTREAM_KILLS").ok().and_then(|times| times.parse().ok()).unwrap_or(1);
    let scratch = Scratch::new(name);
    let undisturbed = monitor(&scratch, "undisturbed", interval);
    let start = Instant::now();
    undisturbed.clone().with(&["--slots", "2"]).finish();
    let took = start.elapsed() / part;
    let lines = Lines::of(&undisturbed);
    assert!(!lines.windows.is_empty() && !lines.alerts.is_empty());
    let mut trial = Trial { undisturbed: lines, took, random: SplitMix(seed + number), interval };
    for (index, (slots, kills)) in SLOT_PLANS.into_iter().zip(KILLS).enumerate() {
        trial.run(&scratch, &format!("plan-{index}"), slots, kills * times);
    }
}

impl Trial {
    fn run(&mut self, scratch: &Scratch, name: &str, slots: &[&str], kills: usize) {
        let (mut killed, mut finished) = (0, 0);
        let mut slots = slots.iter().cycle();
        for start in 0.. {
            assert!(start < kills * STARTS_PER_KILL_MAX, "only {killed} of {start} runs could be killed");
            let monitor = monitor(scratch, &format!("{name}-{finished}"), self.interval);
            let mut child = monitor.clone().with(&["--slots", slots.next().unwrap()]).start();
            let delay = Duration::from_nanos(self.random.next() % self.took.as_nanos() as u64);
            match wait(&mut child, delay) {
                None => {
                    child.kill().unwrap();
                    child.wait().unwrap();
                    killed += 1;
                }
                Some(status) => {
                    assert!(status.success(), "a run after {killed} kills ended with {status}");
                    self.compare(&monitor, killed);
                    finished += 1;
                }
            }
            if killed == kills {
                monitor.with(&["--slots", slots.next().unwrap()]).finish();
                break;
            }
        }
        self.compare(&monitor(scratch, &format!("{name}-{finished}"), self.interval), killed);
    }

    fn compare(&self, monitor: &Monitor, killed: usize) {
        let found = Lines::of(monitor);
        for (what, found, expected) in [
            ("windows", &found.windows, &self.undisturbed.windows),
            ("alerts", &found.alerts, &self.undisturbed.alerts),
        ] {
            let differs = found.iter().zip(expected).find(|(found, expected)| found != expected);
            assert!(differs.is_none(), "after {killed} kills {what} differ first in (found, expected) {differs:?}");
            assert_eq!(found.len(), expected.len(), "after {killed} kills, {what}");
            let left = output::hidden_files(&monitor.out.join(what));
            assert!(left.is_empty(), "after {killed} kills uncommitted parts are left in {what}: {left:?}");
        }
        let verified = run(&["checkpoints", "verify", monitor.state.to_str().unwrap()]);
        assert!(verified.status.success(), "{}{}", verified.stdout, verified.stderr);
    }
}

impl Lines {
    fn of(monitor: &Monitor) -> Self {
        let lines = |sink| output::sorted_lines(&monitor.out.join(sink));
        Self { windows: lines("windows"), alerts: lines("alerts") }
    }
}

fn monitor(scratch: &Scratch, name: &str, interval: &str) -> Monitor {
    Monitor::over(&data_set::files(), scratch, name).with(&["--checkpoint-every", interval])
}

/// Steele, Lea and Flood 2014.
struct SplitMix(u64);

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}
