//! What happens at an auction house: people come, auctions open, bids are made.
//!
//! Columns are those of Nexmark's tables. Bids, 46 of 50 events, are fixed-size with their text inside; people and auctions keep theirs on
//! the heap.

use bytemuck::{Pod, Zeroable};
use millstream::{Record, Schema};
use serde::{Serialize, Serializer};
use std::hash::{Hash, Hasher};

/// One event.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// Its event time, in milliseconds since 1970.
    pub at: i64,
    /// What happened.
    pub body: Body,
}

/// What happened.
#[derive(Clone, Debug, PartialEq)]
pub enum Body {
    /// Somebody came.
    Person(Box<Person>),
    /// An auction opened.
    Auction(Box<Auction>),
    /// A bid was made.
    Bid(Bid),
}

/// Somebody who sells and bids.
#[derive(Clone, Debug, Default, PartialEq)]
#[allow(missing_docs, reason = "the columns of a well-known table")]
pub struct Person {
    pub id: u64,
    pub name: String,
    pub email: String,
    pub credit_card: String,
    pub city: &'static str,
    pub state: &'static str,
    pub extra: String,
}

/// An auction.
#[derive(Clone, Debug, Default, PartialEq)]
#[allow(missing_docs, reason = "the columns of a well-known table")]
pub struct Auction {
    pub id: u64,
    pub item_name: String,
    pub description: String,
    pub initial_bid: u64,
    pub reserve: u64,
    /// In milliseconds since 1970.
    pub expires: i64,
    pub seller: u64,
    pub category: u64,
    pub extra: String,
}

/// A bid. As a row: all columns of the table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Hash, Record, Serialize)]
#[repr(C)]
#[allow(missing_docs, reason = "the columns of a well-known table")]
pub struct Bid {
    pub auction: u64,
    pub bidder: u64,
    pub price: u64,
    /// Its event time, in milliseconds since 1970.
    pub at: i64,
    pub extra: Extra,
}

/// The longest text of a bid.
pub const EXTRA_LEN_MAX: usize = 84;

/// The text of a bid, within it.
#[derive(Clone, Copy, PartialEq, Pod, Zeroable, Schema)]
#[repr(C)]
pub struct Extra {
    bytes: [u8; EXTRA_LEN_MAX],
    len: u32,
}

impl Event {
    /// The bid, if it is one.
    #[inline]
    pub fn bid(&self) -> Option<&Bid> {
        match &self.body {
            Body::Bid(bid) => Some(bid),
            _ => None,
        }
    }

    /// How many bytes its columns take.
    pub fn len_bytes(&self) -> usize {
        match &self.body {
            Body::Person(person) => {
                let texts =
                    [&*person.name, &person.email, &person.credit_card, person.city, person.state, &person.extra];
                16 + texts.iter().map(|text| text.len()).sum::<usize>()
            }
            Body::Auction(auction) => 56 + auction.item_name.len() + auction.description.len() + auction.extra.len(),
            Body::Bid(bid) => 32 + bid.extra.as_bytes().len(),
        }
    }
}

impl Extra {
    /// A text of `len` bytes, at most `EXTRA_LEN_MAX`, that `fill` writes.
    pub fn filled(len: usize, fill: impl FnOnce(&mut [u8])) -> Self {
        let mut extra = Self { bytes: [0; EXTRA_LEN_MAX], len: len.min(EXTRA_LEN_MAX) as u32 };
        fill(&mut extra.bytes[..extra.len as usize]);
        extra
    }

    /// The text.
    #[inline]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..EXTRA_LEN_MAX.min(self.len as usize)]
    }
}

impl Default for Extra {
    fn default() -> Self {
        Self { bytes: [0; EXTRA_LEN_MAX], len: 0 }
    }
}

impl std::fmt::Debug for Extra {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", String::from_utf8_lossy(self.as_bytes()))
    }
}

impl Hash for Extra {
    #[inline]
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write(self.as_bytes());
    }
}

impl Serialize for Extra {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&String::from_utf8_lossy(self.as_bytes()))
    }
}
