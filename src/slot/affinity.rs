//! The CPUs this process may use, and pinning a thread to one of them.
//!
//! Here: the affinity mask (containers and `taskset` set it) and the cgroup's CPU quota, both read once, before any thread is
//! pinned. Not here: how many slots there are (`task_manager`).
//!
//! Invariant: pinning never fails a start: where it is refused, one warning says so and the thread runs unpinned.

use rustix::thread::CpuSet;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// What the process may use.
#[derive(Clone, Debug, PartialEq)]
pub struct AllowedCpus {
    cpus: Vec<usize>,
    quota_cpus: Option<f64>,
}

static ALLOWED: OnceLock<AllowedCpus> = OnceLock::new();

impl AllowedCpus {
    /// The CPUs in the affinity mask of the thread that asks first, and the quota of the process's cgroup. Read once.
    pub fn of_process() -> &'static Self {
        ALLOWED.get_or_init(|| Self { cpus: cpus_in_mask(), quota_cpus: quota_of_cgroup() })
    }

    /// Allowed CPUs as given: for tests and for hosts that know better.
    pub fn new(cpus: Vec<usize>, quota_cpus: Option<f64>) -> Self {
        Self { cpus, quota_cpus }
    }

    /// The numbers of the allowed CPUs, ascending.
    pub fn cpus(&self) -> &[usize] {
        &self.cpus
    }

    /// How many CPUs' worth of time the cgroup grants, if it limits it.
    pub fn quota_cpus(&self) -> Option<f64> {
        self.quota_cpus
    }

    /// How many threads can run at full speed at once: the mask, or the quota rounded up if that is less; at least 1.
    pub fn usable(&self) -> usize {
        let quota = self.quota_cpus.map_or(usize::MAX, |cpus| cpus.ceil() as usize);
        self.cpus.len().min(quota).max(1)
    }

    /// The CPU of each of `slots` slots. With more slots than CPUs, or under a quota, none is pinned: a thread pinned to a shared CPU
    /// waits for its neighbour while another CPU may be free, and a quota does not say which CPUs it means.
    pub fn for_slots(&self, slots: usize) -> Vec<Option<usize>> {
        if slots > self.usable() || self.usable() < self.cpus.len() {
            return vec![None; slots];
        }
        self.cpus.iter().copied().map(Some).take(slots).collect()
    }
}

impl AllowedCpus {
    /// What is to be said about so many slots on these CPUs, if they outnumber them: they take turns, and none of them spins.
    pub fn shortage(&self, slots: usize) -> Option<String> {
        if slots <= self.usable() {
            return None;
        }
        let allowed = self.cpus.len();
        let why = match self.quota_cpus {
            Some(quota) if self.usable() < allowed => {
                format!("the cgroup grants {quota} of {allowed} CPUs: raise its cpu.max")
            }
            _ => format!("the process may use {allowed} CPUs: allow it more"),
        };
        Some(format!("{slots} slots take turns, unpinned and without spinning, because {why}, or use fewer slots"))
    }
}

/// Pins the calling thread to `cpu`; where the kernel refuses, logs a warning and leaves it unpinned. Says whether it is pinned.
pub fn pin_current_thread(who: &str, cpu: usize) -> bool {
    let mut only = CpuSet::new();
    let pinned = if cpu < CpuSet::MAX_CPU {
        only.set(cpu);
        rustix::thread::sched_setaffinity(None, &only)
    } else {
        Err(rustix::io::Errno::INVAL)
    };
    if let Err(reason) = pinned {
        tracing::warn!("{who} runs unpinned: the kernel refused CPU {cpu} ({reason}); latencies will vary more");
    }
    pinned.is_ok()
}

fn cpus_in_mask() -> Vec<usize> {
    match rustix::thread::sched_getaffinity(None) {
        Ok(mask) => (0..CpuSet::MAX_CPU).filter(|&cpu| mask.is_set(cpu)).collect(),
        Err(reason) => {
            let count = std::thread::available_parallelism().map_or(1, usize::from);
            tracing::warn!("the affinity mask cannot be read ({reason}): assuming CPUs 0 to {}", count - 1);
            (0..count).collect()
        }
    }
}

/// The tightest quota from the process's cgroup up to the root, version 2 or 1; `None` when unlimited or unreadable.
fn quota_of_cgroup() -> Option<f64> {
    let groups = read(Path::new("/proc/self/cgroup"))?;
    let unified = group_path(&groups, "").into_iter().flat_map(|path| ancestors("/sys/fs/cgroup", path));
    let by_controller = group_path(&groups, "cpu").into_iter().flat_map(|path| ancestors("/sys/fs/cgroup/cpu", path));
    let quotas_v2 = unified.filter_map(|group| quota_v2(&read(&group.join("cpu.max"))?));
    let quotas_v1 = by_controller.filter_map(|group| {
        quota_v1(&read(&group.join("cpu.cfs_quota_us"))?, &read(&group.join("cpu.cfs_period_us"))?)
    });
    quotas_v2.chain(quotas_v1).min_by(f64::total_cmp)
}

/// The path in the line of `/proc/self/cgroup` that belongs to a controller (`""` for version 2).
fn group_path<'a>(groups: &'a str, controller: &str) -> Option<&'a str> {
    groups.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        fields.next()?.split(',').any(|name| name == controller).then(|| fields.next())?
    })
}

fn ancestors(mount: &str, path: &str) -> Vec<PathBuf> {
    let relative = Path::new(path.trim_start_matches('/'));
    relative.ancestors().map(|ancestor| Path::new(mount).join(ancestor)).collect()
}

fn quota_v2(cpu_max: &str) -> Option<f64> {
    let (quota, period) = cpu_max.trim().split_once(' ')?;
    quota_v1(quota, period)
}

/// `max` and negative numbers mean unlimited.
fn quota_v1(quota_us: &str, period_us: &str) -> Option<f64> {
    let (quota, period): (f64, f64) = (quota_us.trim().parse().ok()?, period_us.trim().parse().ok()?);
    (quota > 0.0 && period > 0.0).then(|| quota / period)
}

#[allow(clippy::disallowed_methods, reason = "this file owns the few kernel files that say which CPUs may be used")]
fn read(path: &Path) -> Option<String> {
    std::fs::read_to_string(path).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::slot::IdleAction;

    #[test]
    fn each_slot_gets_a_cpu_of_its_own_while_there_are_enough() {
        let allowed = AllowedCpus::new(vec![2, 5, 7], None);
        assert_eq!(allowed.for_slots(2), [Some(2), Some(5)]);
    }

    #[test]
    fn more_slots_than_cpus_run_unpinned() {
        assert_eq!(AllowedCpus::new(vec![0, 1], None).for_slots(3), [None, None, None]);
    }

    #[test]
    fn a_quota_below_the_mask_counts_and_nothing_is_pinned_under_it() {
        let allowed = AllowedCpus::new((0..16).collect(), Some(1.5));
        assert_eq!(allowed.usable(), 2);
        assert_eq!(allowed.for_slots(2), [None, None]);
    }

    #[test]
    fn slots_beyond_the_quota_or_the_mask_are_warned_of_with_figures() {
        let under_quota = AllowedCpus::new((0..16).collect(), Some(1.5));
        assert_eq!(under_quota.shortage(2), None);
        assert_eq!(
            under_quota.shortage(3).unwrap(),
            "3 slots take turns, unpinned and without spinning, because the cgroup grants 1.5 of 16 CPUs: raise its cpu.max, or use fewer slots"
        );
        let masked = AllowedCpus::new(vec![4], None);
        assert!(masked.shortage(2).unwrap().contains("the process may use 1 CPUs"));
        assert_eq!(masked.shortage(1), None);
    }

    #[test]
    fn slots_beyond_the_quota_do_not_spin() {
        let allowed = AllowedCpus::new((0..16).collect(), Some(1.5));
        let idle_step = |slots| crate::slot::IdlePolicy::for_slots(slots, allowed.usable()).after_step(false, 0);
        assert_eq!((idle_step(2), idle_step(3)), (IdleAction::Spin, IdleAction::Yield));
    }

    #[test]
    fn quotas_of_both_cgroup_versions_are_understood() {
        assert_eq!(quota_v2("150000 100000\n"), Some(1.5));
        assert_eq!(quota_v2("max 100000\n"), None);
        assert_eq!(quota_v1("-1\n", "100000\n"), None);
        assert_eq!(quota_v1("50000\n", "100000\n"), Some(0.5));
    }

    #[test]
    fn the_cgroup_of_the_cpu_controller_is_found_in_both_forms() {
        let groups = "4:memory:/a\n1:cpu,cpuacct:/docker/x\n0::/user.slice/y\n";
        assert_eq!(group_path(groups, "cpu"), Some("/docker/x"));
        assert_eq!(group_path(groups, ""), Some("/user.slice/y"));
        assert_eq!(group_path("1:cpuset:/z\n", "cpu"), None);
    }

    #[test]
    fn a_thread_that_cannot_be_pinned_runs_on() {
        assert!(!pin_current_thread("test", usize::MAX));
    }

    #[test]
    fn the_process_may_use_at_least_one_cpu() {
        assert!(!AllowedCpus::of_process().cpus().is_empty());
    }
}
