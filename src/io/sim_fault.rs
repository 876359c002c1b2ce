//! Faults to plant in a simulated disk.

use super::IoOp;
use rustix::io::Errno;
use std::path::{Path, PathBuf};

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskFault {
    /// The medium fails. A write leaves any part of its sectors behind; a flush gives up the data for ever.
    Eio,
    /// The file system is full.
    Enospc,
    /// The quota is used up.
    Edquot,
    /// The call is interrupted; drivers try again, so it only takes longer.
    Eintr,
    /// The call has to wait; drivers try again, so it only takes longer.
    Eagain,
    /// The transfer is short; drivers go on, so it only takes longer.
    Short,
    /// A write is acknowledged and never happens.
    LostWrite,
    /// A write is acknowledged and happens one 4 KiB block further on.
    MisdirectedWrite,
}

/// Whether a fault passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repeat {
    /// The next operation succeeds.
    Once,
    /// Every later operation fails as well.
    Forever,
}

/// A fault and the operation it waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InjectedFault {
    /// The number of the first operation it may hit (`SimDisk::operations` counts from 0); it hits the first at or after it that
    /// can fail in this way.
    pub at_operation: u64,
    /// Once or from then on.
    pub repeat: Repeat,
    /// What goes wrong.
    pub fault: DiskFault,
    /// Only files and directories at or below this path, where given.
    pub under: Option<PathBuf>,
}

impl InjectedFault {
    pub(super) fn hits(&self, number: u64, op: &IoOp, path: &Path) -> bool {
        let here = self.under.as_ref().is_none_or(|under| path.starts_with(under));
        here && number >= self.at_operation && self.fault.can_hit(op)
    }
}

impl DiskFault {
    pub(super) fn can_hit(self, op: &IoOp) -> bool {
        match self {
            // Closing and measuring touch no medium.
            Self::Eio => !matches!(op, IoOp::Close { .. } | IoOp::FileLen { .. }),
            Self::Enospc | Self::Edquot => {
                matches!(op, IoOp::Open { mode, .. } if mode.creates())
                    || matches!(
                        op,
                        IoOp::Write { .. }
                            | IoOp::Allocate { .. }
                            | IoOp::SyncData { .. }
                            | IoOp::CreateDirAll { .. }
                            | IoOp::Rename { .. }
                    )
            }
            Self::Eintr | Self::Eagain => true,
            Self::Short => matches!(op, IoOp::Read { .. } | IoOp::Write { .. }),
            Self::LostWrite | Self::MisdirectedWrite => matches!(op, IoOp::Write { .. }),
        }
    }

    /// Whether a driver makes it invisible by trying again.
    pub(super) fn is_passing(self) -> bool {
        matches!(self, Self::Eintr | Self::Eagain | Self::Short)
    }

    /// The error of an operation it fails.
    pub(super) fn errno(self) -> Option<Errno> {
        match self {
            Self::Eio => Some(Errno::IO),
            Self::Enospc => Some(Errno::NOSPC),
            Self::Edquot => Some(Errno::DQUOT),
            _ => None,
        }
    }
}
