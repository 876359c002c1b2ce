//! Functions of a simulated job that fail: in which of them, at which call, follows from the seed.
//!
//! A failure leaves nothing behind that the job does not restore: the next attempt calls the same functions again.

use millstream::memory::MemoryError;
use millstream::sim::Rng;
use millstream::source::SourceError;
use millstream::state::StateError;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

/// What a planted panic says.
pub const PLANTED: &str = "a planted failure";

/// A function of the job.
#[derive(Clone, Copy, Debug)]
pub enum Place {
    /// A source is asked for records: an error.
    Read,
    /// A split is opened: an error.
    OpenSplit,
    /// A record is judged: a panic.
    Filter,
    /// A record is processed: an error.
    Record,
    /// A timer fires: an error.
    Timer,
    /// A line is written: a panic.
    Write,
    /// States are registered while the task is built: a panic.
    Open,
}

/// After how many calls of each function it fails, next time first.
#[derive(Debug, Default)]
pub struct Troubles {
    calls_left: Mutex<[Vec<u64>; 7]>,
    are_over: AtomicBool,
}

impl Troubles {
    pub fn draw(rng: &mut Rng) -> Self {
        let calls = std::array::from_fn(|_| match rng.chance(400) {
            true => {
                let within = [3, 50, 500][rng.index(3)];
                (0..1 + rng.below(4)).map(|_| 1 + rng.below(within)).collect()
            }
            false => Vec::new(),
        });
        Self { calls_left: Mutex::new(calls), are_over: AtomicBool::new(false) }
    }

    /// Nothing fails any more.
    pub fn end(&self) {
        self.are_over.store(true, Ordering::Relaxed);
    }

    /// True, or a panic.
    pub fn pass(&self, place: Place) -> bool {
        if self.is_due(place) {
            std::panic::panic_any(PLANTED);
        }
        true
    }

    pub fn source(&self, place: Place) -> Result<(), SourceError> {
        match self.is_due(place) {
            true => Err(SourceError::BadInput { place: format!("{place:?}"), reason: PLANTED.to_owned() }),
            false => Ok(()),
        }
    }

    pub fn state(&self, place: Place) -> Result<(), StateError> {
        if !self.is_due(place) {
            return Ok(());
        }
        let source = MemoryError::BudgetExhausted { who: PLANTED, asked_bytes: 1, left_bytes: 0, limit_bytes: 0 };
        Err(StateError::Memory { operator: "sequences".to_owned(), state: "sequence".to_owned(), source })
    }

    fn is_due(&self, place: Place) -> bool {
        if self.are_over.load(Ordering::Relaxed) {
            return false;
        }
        let mut calls = self.calls_left.lock().unwrap_or_else(PoisonError::into_inner);
        let of_place = &mut calls[place as usize];
        let Some(left) = of_place.first_mut() else { return false };
        *left -= 1;
        let is_due = *left == 0;
        if is_due {
            of_place.remove(0);
        }
        is_due
    }
}
