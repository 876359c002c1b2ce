//! Query 5, hot items: the auctions with the most bids in the last 10 s, every 2 s.
//!
//! ```text
//! events -> bids, counted --by auction--> count per window -> those that may be the most --by window--> the most -> rows
//! ```

use super::event::Event;
use super::highest::HighestSent;
use millstream::Record;
use millstream::operator::{Count, Emit, KeyedContext, KeyedProcess, NoSide, StateRegistry};
use millstream::state::{ListState, StateError, ValueState};
use millstream::stream::{Chain, DataStream};
use millstream::time::EventTimeMs;
use millstream::window::{Sliding, WindowResult};
use serde::Serialize;

/// How long a window is.
pub const WINDOW_MS: i64 = 10_000;
/// How often one begins.
pub const SLIDE_MS: i64 = 2_000;

/// An auction with the most bids of a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Record, Serialize)]
#[repr(C)]
#[allow(missing_docs, reason = "the columns of a well-known query")]
pub struct HotAuction {
    pub auction: u64,
    pub bids: u64,
}

/// How many bids an auction had in a window.
#[derive(Clone, Copy, Record)]
#[repr(C)]
struct AuctionBids {
    window_end: i64,
    auction: u64,
    bids: u64,
}

/// The hot auctions of each window.
pub fn rows(events: DataStream<impl Chain<Out = Event>>) -> DataStream<impl Chain<Out = HotAuction>> {
    let sent = HighestSent::new();
    events
        .flat_map(|event: &Event| event.bid().map(|bid| bid.auction))
        .combine_by_key("by-auction", |auction: &u64| *auction, Sliding::of(WINDOW_MS).every(SLIDE_MS), Count)
        .aggregate("bids")
        .filter(move |counted: &WindowResult<u64, u64>| sent.lets_pass(counted.window.end, counted.value))
        .map(|counted| AuctionBids { window_end: counted.window.end, auction: counted.key, bids: counted.value })
        .key_by("by-window", |counted: &AuctionBids| counted.window_end)
        .process("hottest", Hottest)
}

/// Keeps the auctions with the most bids of each window until it is complete.
#[derive(Clone)]
struct Hottest;

struct Most {
    bids: ValueState<i64, u64>,
    auctions: ListState<i64, u64>,
}

impl KeyedProcess<i64, AuctionBids> for Hottest {
    type Out = HotAuction;
    type Side = NoSide;
    type State = Most;

    fn open(&self, states: &mut StateRegistry<'_>) -> Result<Most, StateError> {
        Ok(Most { bids: states.value("bids")?, auctions: states.list("auctions")? })
    }

    fn on_record(
        &self,
        state: &mut Most,
        cx: &mut KeyedContext<'_, i64>,
        record: &AuctionBids,
        _: &mut impl Emit<HotAuction, NoSide>,
    ) -> Result<(), StateError> {
        let window = cx.hashed();
        match state.bids.get(&window) {
            Some(most) if record.bids < most => return Ok(()),
            Some(most) if record.bids == most => {}
            _ => {
                state.auctions.clear(&window);
                state.bids.put(&window, &record.bids)?;
                // All counts of a window carry its last millisecond.
                cx.set_timer(EventTimeMs(record.window_end - 1))?;
            }
        }
        state.auctions.push(&window, &record.auction)
    }

    fn on_timer(
        &self,
        state: &mut Most,
        cx: &mut KeyedContext<'_, i64>,
        out: &mut impl Emit<HotAuction, NoSide>,
    ) -> Result<(), StateError> {
        let window = cx.hashed();
        if let Some(bids) = state.bids.get(&window) {
            state.auctions.for_each(&window, |auction| out.emit(&HotAuction { auction, bids }));
        }
        state.auctions.clear(&window);
        state.bids.remove(&window);
        Ok(())
    }
}
