//! Query 2, selection: the bids for every 123rd auction.
//!
//! ```text
//! events -> bids with auction mod 123 = 0 -> rows
//! ```

use super::event::{Bid, Event};
use millstream::stream::{Chain, DataStream};
use serde::Serialize;

/// Auctions whose numbers it divides are selected.
const EVERY: u64 = 123;

/// A selected bid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[allow(missing_docs, reason = "the columns of a well-known query")]
pub struct SelectedBid {
    pub auction: u64,
    pub price: u64,
}

/// The selected bids.
pub fn rows(events: DataStream<impl Chain<Out = Event>>) -> DataStream<impl Chain<Out = SelectedBid>> {
    events.flat_map(|event: &Event| event.bid().and_then(selected))
}

/// The bid's row, if it is selected.
#[inline]
pub fn selected(bid: &Bid) -> Option<SelectedBid> {
    bid.auction.is_multiple_of(EVERY).then_some(SelectedBid { auction: bid.auction, price: bid.price })
}
