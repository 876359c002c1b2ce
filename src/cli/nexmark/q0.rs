//! Query 0, pass through: every bid.
//!
//! ```text
//! events -> bids -> rows
//! ```

use super::event::{Bid, Event};
use millstream::stream::{Chain, DataStream};

/// All columns of all bids.
pub fn rows(events: DataStream<impl Chain<Out = Event>>) -> DataStream<impl Chain<Out = Bid>> {
    events.flat_map(|event: &Event| event.bid().copied())
}
