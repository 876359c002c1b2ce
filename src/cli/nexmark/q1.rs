//! Query 1, currency conversion: every bid with its price in euros.
//!
//! ```text
//! events -> bids, converted -> rows
//! ```

use super::event::{Bid, Event, Extra};
use millstream::stream::{Chain, DataStream};
use serde::Serialize;

/// Thousandths of a euro for a dollar: exact, as SQL's `0.908 * price` is.
const EURO_THOUSANDTHS: u64 = 908;

/// A bid in euros.
#[derive(Clone, Copy, Debug, PartialEq, Hash, Serialize)]
#[allow(missing_docs, reason = "the columns of a well-known query")]
pub struct EuroBid {
    pub auction: u64,
    pub bidder: u64,
    pub price_thousandths: u64,
    /// In milliseconds since 1970.
    pub at: i64,
    pub extra: Extra,
}

/// All bids in euros.
pub fn rows(events: DataStream<impl Chain<Out = Event>>) -> DataStream<impl Chain<Out = EuroBid>> {
    events.flat_map(|event: &Event| event.bid().map(in_euros))
}

/// The bid with its price in euros.
#[inline]
pub fn in_euros(bid: &Bid) -> EuroBid {
    let Bid { auction, bidder, price, at, extra } = *bid;
    EuroBid { auction, bidder, price_thousandths: price * EURO_THOUSANDTHS, at, extra }
}
