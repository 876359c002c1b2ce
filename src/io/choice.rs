//! Which driver a process gets: io_uring where it is allowed, the helper thread where it is not.
//!
//! Here: the choice, why io_uring is refused and what to do about it. Not here: the drivers.

use super::{BlockingIo, Io, UringIo};
use crate::slot::Doorbell;
use std::io::Error;
use std::sync::{Arc, Once, OnceLock};

/// Which driver to use (`--io`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IoChoice {
    /// io_uring where it works, else the helper thread, with one warning for the process.
    #[default]
    Auto,
    /// io_uring or an error.
    Uring,
    /// The helper thread.
    Blocking,
}

/// No driver could be started.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IoUnavailable {
    /// The kernel answered io_uring_setup with an error.
    #[error("io_uring is refused ({reason}): {refusal}")]
    Refused {
        /// Why, as far as one can tell.
        refusal: Refusal,
        /// The operating system's words.
        reason: String,
    },
    /// The ring could be set up but not entered.
    #[error(
        "io_uring was set up but answered nothing within {waited_ms} ms: io_uring_enter is probably refused by a seccomp profile; \
         allow io_uring_enter there, or choose blocking I/O"
    )]
    Silent {
        /// How long it was waited for.
        waited_ms: u64,
    },
    /// The calling thread runs an asynchronous runtime already; a second one cannot run inside.
    #[error(
        "io_uring cannot be driven from inside an asynchronous runtime: use a thread of its own, or choose blocking I/O"
    )]
    InsideRuntime,
    /// The process has no file descriptor left.
    #[error("no file descriptor is left for the I/O of a slot ({reason}): raise the limit (ulimit -n)")]
    NoDescriptor {
        /// The operating system's words.
        reason: String,
    },
    /// The helper thread of the blocking driver could not be started.
    #[error("cannot start the I/O helper thread ({reason}): raise the limit of threads (ulimit -u, pids cgroup)")]
    NoHelper {
        /// The operating system's words.
        reason: String,
    },
}

/// Why io_uring is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The administrator switched it off.
    #[error(
        "sysctl kernel.io_uring_disabled is {value}; set it to 0, or to 1 and join the group of kernel.io_uring_group, or choose \
         blocking I/O"
    )]
    SwitchedOff {
        /// 1: only for a group, 2: for everybody.
        value: u32,
    },
    /// A seccomp profile or security module filters the call, as Docker's default profile does.
    #[error(
        "a seccomp profile or security module filters it (containers often do); allow io_uring_setup, io_uring_enter and \
         io_uring_register there, or choose blocking I/O"
    )]
    Filtered,
    /// The kernel does not know the call.
    #[error("Linux {release} is too old; 5.11 or newer is needed, or choose blocking I/O")]
    KernelTooOld {
        /// What uname says.
        release: String,
    },
    /// The rings count against the locked memory of an unprivileged process.
    #[error("no memory for its rings; raise the limit of locked memory (ulimit -l), or choose blocking I/O")]
    NoMemory,
    /// Something else.
    #[error("choose blocking I/O if this cannot be helped")]
    Other,
}

/// Starts a driver for the calling thread, whose doorbell is `doorbell`. `Auto` fails only when not even a thread can be started.
pub fn open(choice: IoChoice, doorbell: Arc<Doorbell>) -> Result<Box<dyn Io>, IoUnavailable> {
    match choice {
        IoChoice::Uring => Ok(Box::new(UringIo::new(doorbell)?)),
        IoChoice::Blocking => Ok(Box::new(BlockingIo::new(doorbell)?)),
        IoChoice::Auto => automatic(doorbell),
    }
}

/// The ring is asked for once and a refusal kept: each refused attempt costs tokio-uring an epoll descriptor that it never closes.
fn automatic(doorbell: Arc<Doorbell>) -> Result<Box<dyn Io>, IoUnavailable> {
    static REFUSED: OnceLock<()> = OnceLock::new();
    static WARNED: Once = Once::new();
    if REFUSED.get().is_none() {
        match UringIo::new(Arc::clone(&doorbell)) {
            Ok(ring) => return Ok(Box::new(ring)),
            Err(why) => {
                WARNED.call_once(|| tracing::warn!("files go through one helper thread for each slot: {why}"));
                if why.holds_for_the_process() {
                    // Another thread may have found out at the same time.
                    let _ = REFUSED.set(());
                }
            }
        }
    }
    Ok(Box::new(BlockingIo::new(doorbell)?))
}

impl IoUnavailable {
    fn holds_for_the_process(&self) -> bool {
        matches!(self, Self::Refused { .. } | Self::Silent { .. })
    }

    /// Explains an error of io_uring_setup.
    pub(super) fn refused(error: &Error) -> Self {
        let sysctl = io_uring_disabled();
        let release = rustix::system::uname().release().to_string_lossy().into_owned();
        match Refusal::explain(error, sysctl, &release) {
            Some(refusal) => Self::Refused { refusal, reason: error.to_string() },
            None => Self::NoDescriptor { reason: error.to_string() },
        }
    }
}

impl Refusal {
    /// What stands behind `error`; nothing about io_uring when the descriptors ran out.
    fn explain(error: &Error, sysctl: Option<u32>, release: &str) -> Option<Self> {
        use rustix::io::Errno;
        let errno = Errno::from_io_error(error);
        Some(match (errno, sysctl) {
            (Some(Errno::MFILE | Errno::NFILE), _) => return None,
            (Some(Errno::PERM), Some(value)) if value > 0 => Self::SwitchedOff { value },
            (Some(Errno::PERM | Errno::ACCESS), _) => Self::Filtered,
            (Some(Errno::NOSYS), _) if is_before_5_11(release) => Self::KernelTooOld { release: release.to_owned() },
            (Some(Errno::NOSYS), _) => Self::Filtered,
            (Some(Errno::INVAL), _) if is_before_5_11(release) => Self::KernelTooOld { release: release.to_owned() },
            (Some(Errno::NOMEM), _) => Self::NoMemory,
            _ => Self::Other,
        })
    }
}

/// What the administrator set; nothing before Linux 6.6.
#[allow(clippy::disallowed_methods, reason = "a kernel setting, read before there is any `Io`")]
fn io_uring_disabled() -> Option<u32> {
    std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled").ok()?.trim().parse().ok()
}

/// 5.11 is the first kernel with every operation used here (renameat and unlinkat came last).
fn is_before_5_11(release: &str) -> bool {
    let mut parts = release.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse::<u32>().unwrap_or(0));
    (parts.next().unwrap_or(0), parts.next().unwrap_or(0)) < (5, 11)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn explain(errno: i32, sysctl: Option<u32>, release: &str) -> Option<Refusal> {
        Refusal::explain(&Error::from_raw_os_error(errno), sysctl, release)
    }

    #[test]
    fn a_refusal_names_the_sysctl_the_filter_or_the_kernel() {
        assert_eq!(explain(1, Some(2), "6.18.0"), Some(Refusal::SwitchedOff { value: 2 }));
        assert_eq!(explain(1, Some(0), "6.18.0"), Some(Refusal::Filtered));
        assert_eq!(explain(38, None, "6.1.0-13-cloud"), Some(Refusal::Filtered));
        assert_eq!(explain(38, None, "4.19.5"), Some(Refusal::KernelTooOld { release: "4.19.5".into() }));
        assert_eq!(explain(12, None, "5.10.1"), Some(Refusal::NoMemory));
    }

    #[test]
    fn running_out_of_descriptors_is_not_called_a_refusal() {
        assert_eq!(explain(24, Some(0), "6.18.0"), None);
    }
}
