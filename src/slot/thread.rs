//! Starts threads: the only place that does.
//!
//! A slot's thread pins itself before it runs its body, and has the kernel end its sleeps when they are over, not up to 50 us later as it
//! may to save power: a slot sleeps until its next record is due. Its creator, if it is pinned and spins, must not hold the CPU
//! on which the new thread begins: it pins itself afterwards.

use super::affinity::pin_current_thread;
use rustix::thread::set_current_timer_slack;
use std::num::NonZeroU64;
use std::thread::JoinHandle;

/// Why a slot could not start.
#[derive(Debug, thiserror::Error)]
pub enum SlotError {
    /// The kernel gave no thread.
    #[error(
        "the thread \"{name}\" cannot be started: {reason}; raise the limit on threads (ulimit -u, pids.max) or use fewer slots"
    )]
    NoThread {
        /// The thread.
        name: String,
        /// The operating system's reason.
        reason: std::io::Error,
    },
}

/// Runs `body` on a thread of its own called `name`, pinned to `cpu` if one is given and the kernel agrees.
pub fn spawn_slot<T: Send + 'static>(
    name: &str,
    cpu: Option<usize>,
    body: impl FnOnce() -> T + Send + 'static,
) -> Result<JoinHandle<T>, SlotError> {
    let own_name = name.to_owned();
    let pinned_body = move || {
        if let Some(cpu) = cpu {
            pin_current_thread(&own_name, cpu);
        }
        // A kernel that refuses leaves the sleeps longer, which the slot measures.
        let _ = set_current_timer_slack(NonZeroU64::new(1));
        body()
    };
    let spawned = std::thread::Builder::new().name(name.to_owned()).spawn(pinned_body);
    spawned.map_err(|reason| SlotError::NoThread { name: name.to_owned(), reason })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::slot::AllowedCpus;

    #[test]
    fn a_slot_thread_runs_on_its_cpu_under_its_name() {
        let cpu = *AllowedCpus::of_process().cpus().last().unwrap();
        let name = || std::thread::current().name().map(str::to_owned);
        let thread = spawn_slot("slot-x", Some(cpu), move || (rustix::thread::sched_getcpu(), name())).unwrap();
        assert_eq!(thread.join().unwrap(), (cpu, Some("slot-x".to_owned())));
    }
}
