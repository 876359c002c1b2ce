//! One owner per checkpoint directory: `flock` on `DIR/LOCK`, with the owner's pid in the file for the error message.
//!
//! Here: the only place of the checkpoint folder that calls the operating system past `io::Io`, because a lock is held
//! by an open file and must fall with the process. The lock of a killed process may linger for a moment, so taking it is
//! tried for up to five seconds.

use super::error::RestoreError;
use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use std::os::fd::OwnedFd;
use std::path::Path;

const ATTEMPT_EVERY_MS: u64 = 50;

/// The lock, held until this is dropped.
#[derive(Debug)]
pub(super) struct DirLock {
    _file: OwnedFd,
}

impl DirLock {
    /// The name of the lock file.
    pub(super) const NAME: &str = "LOCK";

    /// Takes the lock of `dir`, waiting for up to `patience_ms` (blocks the calling thread).
    pub(super) fn take(dir: &Path, patience_ms: u64) -> Result<Self, RestoreError> {
        let path = dir.join(Self::NAME);
        let refused = |errno: Errno| match errno {
            Errno::ACCESS | Errno::PERM | Errno::ROFS => {
                RestoreError::NoPermission { path: path.clone(), reason: errno.to_string() }
            }
            _ => RestoreError::LockFailed { path: path.clone(), reason: errno.to_string() },
        };
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC;
        let file = rustix::fs::open(&path, flags, Mode::from_raw_mode(0o644)).map_err(refused)?;
        for attempt in 0.. {
            match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => break,
                Err(Errno::WOULDBLOCK | Errno::INTR) if attempt * ATTEMPT_EVERY_MS < patience_ms => {
                    wait(ATTEMPT_EVERY_MS)
                }
                Err(Errno::WOULDBLOCK | Errno::INTR) => {
                    return Err(RestoreError::Locked { dir: dir.to_owned(), pid: pid_in(&file) });
                }
                Err(errno) => return Err(refused(errno)),
            }
        }
        // The pid only serves the message, the lock is held without it.
        let pid = format!("{}\n", rustix::process::getpid().as_raw_nonzero());
        if let Err(errno) = rustix::fs::ftruncate(&file, 0).and_then(|()| rustix::io::pwrite(&file, pid.as_bytes(), 0))
        {
            tracing::warn!(path = %path.display(), %errno, "the pid could not be written into the lock file");
        }
        Ok(Self { _file: file })
    }
}

fn pid_in(file: &OwnedFd) -> String {
    let mut bytes = [0; 16];
    let len = rustix::io::pread(file, &mut bytes[..], 0).unwrap_or(0);
    let digits: String = bytes[..len].iter().take_while(|b| b.is_ascii_digit()).map(|b| char::from(*b)).collect();
    if digits.is_empty() { "unknown".to_owned() } else { digits }
}

#[allow(clippy::disallowed_methods, reason = "runs before the job starts, on the thread that opens the store")]
fn wait(ms: u64) {
    std::thread::sleep(std::time::Duration::from_millis(ms));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_has_one_owner_and_the_refusal_names_its_pid() {
        let dir = std::env::temp_dir().join(format!("millstream-lock-{}", std::process::id()));
        rustix::fs::mkdir(&dir, Mode::from_raw_mode(0o755)).unwrap();
        let held = DirLock::take(&dir, 0).unwrap();
        let refusal = DirLock::take(&dir, 0).unwrap_err();
        assert!(
            refusal.to_string().contains(&format!("locked by running process {}", std::process::id())),
            "{refusal}"
        );
        drop(held);
        assert!(DirLock::take(&dir, 0).is_ok());
        rustix::fs::unlink(dir.join("LOCK")).unwrap();
        rustix::fs::rmdir(&dir).unwrap();
    }
}
