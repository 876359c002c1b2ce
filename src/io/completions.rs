//! The ledger of one `Io`: which operations are under way, which completed and wait to be taken.
//!
//! Invariant: a completion is given out once; a forgotten one never.

use super::{FileId, IoError, IoOutput, IoToken};
use std::collections::BTreeMap;

/// What is under way and what completed.
#[derive(Debug, Default)]
pub(super) struct Completions {
    next: u64,
    under_way: BTreeMap<IoToken, Interest>,
    done: BTreeMap<IoToken, Done>,
    unreported: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Interest {
    Wanted,
    Forgotten,
}

#[derive(Debug)]
struct Done {
    result: Result<IoOutput, IoError>,
    reported: bool,
}

impl Completions {
    /// A name for an operation that begins now.
    pub(super) fn begin(&mut self) -> IoToken {
        let token = IoToken(self.next);
        self.next += 1;
        self.under_way.insert(token, Interest::Wanted);
        token
    }

    /// The operation ended. Gives back a file that was opened and that nobody asks for any more: close it.
    #[must_use]
    pub(super) fn finish(&mut self, token: IoToken, result: Result<IoOutput, IoError>) -> Option<FileId> {
        let interest = self.under_way.remove(&token);
        debug_assert!(interest.is_some(), "operation {token:?} ended twice");
        if interest == Some(Interest::Wanted) {
            self.done.insert(token, Done { result, reported: false });
            self.unreported += 1;
            return None;
        }
        match result {
            Ok(IoOutput::File(file)) => Some(file),
            _ => None,
        }
    }

    pub(super) fn take(&mut self, token: IoToken) -> Option<Result<IoOutput, IoError>> {
        let done = self.done.remove(&token)?;
        if !done.reported {
            self.unreported -= 1;
        }
        Some(done.result)
    }

    /// Drops the completion of `token`, now or when it comes. Gives back a file that is open and must be closed.
    #[must_use]
    pub(super) fn forget(&mut self, token: IoToken) -> Option<FileId> {
        if let Some(interest) = self.under_way.get_mut(&token) {
            *interest = Interest::Forgotten;
            return None;
        }
        match self.take(token) {
            Some(Ok(IoOutput::File(file))) => Some(file),
            _ => None,
        }
    }

    /// Ends everything under way with `error`: the driver is gone.
    pub(super) fn fail_all(&mut self, error: &IoError) {
        for token in self.under_way.keys().copied().collect::<Vec<_>>() {
            // An error brings no file.
            let _ = self.finish(token, Err(error.clone()));
        }
    }

    pub(super) fn under_way(&self) -> usize {
        self.under_way.len()
    }

    pub(super) fn has_unreported(&self) -> bool {
        self.unreported > 0
    }

    /// The wait that returns now has told its caller of everything there is, so that a completion nobody takes costs one
    /// early return and not every sleep after it.
    pub(super) fn mark_reported(&mut self) {
        if self.unreported > 0 {
            self.done.values_mut().for_each(|done| done.reported = true);
            self.unreported = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_completion_is_given_once() {
        let mut ledger = Completions::default();
        let token = ledger.begin();
        assert!(ledger.take(token).is_none());
        assert_eq!(ledger.finish(token, Ok(IoOutput::Done)), None);
        assert!(ledger.take(token).is_some());
        assert!(ledger.take(token).is_none());
    }

    #[test]
    fn a_file_opened_for_somebody_who_left_is_handed_back_to_be_closed() {
        let mut ledger = Completions::default();
        let (early, late) = (ledger.begin(), ledger.begin());
        assert_eq!(ledger.forget(early), None);
        assert_eq!(ledger.finish(early, Ok(IoOutput::File(FileId(1)))), Some(FileId(1)));
        assert_eq!(ledger.finish(late, Ok(IoOutput::File(FileId(2)))), None);
        assert_eq!(ledger.forget(late), Some(FileId(2)));
        assert!(ledger.take(early).is_none() && ledger.take(late).is_none());
    }

    #[test]
    fn a_completion_nobody_takes_is_reported_by_one_wait_only() {
        let mut ledger = Completions::default();
        let token = ledger.begin();
        assert_eq!(ledger.finish(token, Ok(IoOutput::Done)), None);
        assert!(ledger.has_unreported());
        ledger.mark_reported();
        assert!(!ledger.has_unreported());
        assert!(ledger.take(token).is_some());
        assert!(!ledger.has_unreported());
    }
}
