//! What is known of one card, and what follows from it: the part that a business would write.
//!
//! The sliding hour is twelve slices of five minutes by the payments' own time; a slice is reused once its five minutes come round again.

use millstream::Record;
use serde::{Deserialize, Serialize};

const SLICE_MS: i64 = 5 * 60 * 1_000;
const SLICES: usize = 12;
/// How many ids are remembered: more payments of one card are never under way at once.
const RECENT: usize = 32;

const CENTS_PER_HOUR_MAX: u64 = 500_000;
const PAYMENTS_PER_HOUR_MAX: u64 = 30;
const PAYMENTS_PER_HOUR_SUSPECT: u64 = 15;

/// A payment as the client sends it.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub struct Payment {
    /// The client's own: sent again, it counts once.
    pub id: u64,
    pub card: u64,
    pub cents: u64,
    pub at_ms: i64,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Decision {
    Approve,
    Review,
    Decline,
}

/// The state of one card.
#[derive(Record, Clone, Copy, Debug, Default, PartialEq)]
#[repr(C)]
pub struct Card {
    payments: u64,
    cents: u64,
    slices: [Slice; SLICES],
    recent: [Recent; RECENT],
}

/// Approved payments of five minutes.
#[derive(Record, Clone, Copy, Debug, Default, PartialEq)]
#[repr(C)]
struct Slice {
    number: i64,
    payments: u64,
    cents: u64,
}

/// A payment that was decided.
#[derive(Record, Clone, Copy, Debug, Default, PartialEq)]
#[repr(C)]
struct Recent {
    id: u64,
    /// 0: none; else 1 more than the decision's number.
    decision: u64,
}

/// What a client may see of it.
#[derive(Serialize)]
pub struct Summary {
    pub payments: u64,
    pub cents: u64,
}

impl Card {
    /// Decides, or repeats what was decided about the same id.
    pub fn decide(&mut self, payment: &Payment) -> Decision {
        if let Some(recent) = self.recent.iter().find(|recent| recent.decision > 0 && recent.id == payment.id) {
            return Decision::from_number(recent.decision - 1);
        }
        let slice = payment.at_ms.div_euclid(SLICE_MS);
        let (payments, cents) = self.last_hour(slice);
        let decision = match () {
            () if cents + payment.cents > CENTS_PER_HOUR_MAX || payments >= PAYMENTS_PER_HOUR_MAX => Decision::Decline,
            () if payments >= PAYMENTS_PER_HOUR_SUSPECT => Decision::Review,
            () => Decision::Approve,
        };
        self.recent[self.payments as usize % RECENT] = Recent { id: payment.id, decision: decision.number() + 1 };
        self.payments += 1;
        if decision != Decision::Decline {
            self.cents += payment.cents;
            self.add(slice, payment.cents);
        }
        decision
    }

    pub fn summary(&self) -> Summary {
        Summary { payments: self.payments, cents: self.cents }
    }

    fn last_hour(&self, now: i64) -> (u64, u64) {
        let in_hour = self.slices.iter().filter(|slice| (now - SLICES as i64 + 1..=now).contains(&slice.number));
        in_hour.fold((0, 0), |(payments, cents), slice| (payments + slice.payments, cents + slice.cents))
    }

    fn add(&mut self, number: i64, cents: u64) {
        let slice = &mut self.slices[number.rem_euclid(SLICES as i64) as usize];
        if slice.number < number {
            *slice = Slice { number, payments: 0, cents: 0 };
        }
        // A payment from more than an hour ago finds its slice taken by a later one, and counts in no window.
        if slice.number == number {
            slice.payments += 1;
            slice.cents += cents;
        }
    }
}

impl Decision {
    fn number(self) -> u64 {
        match self {
            Self::Approve => 0,
            Self::Review => 1,
            Self::Decline => 2,
        }
    }

    fn from_number(number: u64) -> Self {
        match number {
            0 => Self::Approve,
            1 => Self::Review,
            _ => Self::Decline,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payment(id: u64, cents: u64, minute: i64) -> Payment {
        Payment { id, card: 1, cents, at_ms: minute * 60_000 }
    }

    #[test]
    fn the_same_id_counts_once_and_gets_the_same_answer() {
        let mut card = Card::default();
        let first = card.decide(&payment(9, 100, 1_000));
        assert_eq!(card.decide(&payment(9, 100, 1_000)), first);
        assert_eq!((card.payments, card.cents), (1, 100));
    }

    #[test]
    fn too_much_in_an_hour_is_declined_until_the_hour_has_gone_by() {
        let mut card = Card::default();
        assert_eq!(card.decide(&payment(1, 400_000, 1_000)), Decision::Approve);
        assert_eq!(card.decide(&payment(2, 200_000, 1_030)), Decision::Decline);
        assert_eq!(card.decide(&payment(3, 200_000, 1_061)), Decision::Approve);
    }

    #[test]
    fn many_payments_in_an_hour_are_reviewed_and_then_declined() {
        let mut card = Card::default();
        let decisions: Vec<_> = (0..31).map(|id| card.decide(&payment(id, 1, 1_000 + id as i64))).collect();
        assert_eq!(
            (decisions[14], decisions[15], decisions[30]),
            (Decision::Approve, Decision::Review, Decision::Decline)
        );
    }
}
