//! Query 7, highest bid: all bids with the highest price of each 10 s.
//!
//! ```text
//! events -> bids that may be the highest --by window--> the highest -> rows
//! ```
//! The query says `BETWEEN window_end - 10 s AND window_end`, both included: a bid in the first millisecond of a window also counts where it
//! reaches the highest price of the window before.

use super::event::{Bid, Event};
use super::highest::HighestSent;
use millstream::Record;
use millstream::operator::{Emit, KeyedContext, KeyedProcess, NoSide, StateRegistry};
use millstream::state::{ListState, StateError, ValueState};
use millstream::stream::{Chain, DataStream};
use millstream::time::EventTimeMs;

/// How long a window is.
pub const WINDOW_MS: i64 = 10_000;

/// A bid that may be one of the highest of a window.
#[derive(Clone, Copy, Record)]
#[repr(C)]
struct Candidate {
    window_end: i64,
    bid: Bid,
}

impl Candidate {
    /// Whether it is a bid of the window behind, which does not make the window's price.
    fn is_guest(&self) -> bool {
        self.bid.at == self.window_end
    }
}

/// The highest bids of each window.
pub fn rows(events: DataStream<impl Chain<Out = Event>>) -> DataStream<impl Chain<Out = Bid>> {
    let sent = HighestSent::new();
    events
        .filter(move |event: &Event| {
            let may_win = |bid: &Bid| sent.lets_pass(window_end(event.at), bid.price) || is_first_ms(event.at);
            event.bid().is_some_and(may_win)
        })
        .flat_map(|event: &Event| event.bid().copied().into_iter().flat_map(candidates))
        .key_by("by-window", |candidate: &Candidate| candidate.window_end)
        .process("highest", Highest)
}

/// The end of the window that holds `at`.
#[inline]
pub fn window_end(at: i64) -> i64 {
    at - at.rem_euclid(WINDOW_MS) + WINDOW_MS
}

/// Whether the window before may have the bids of this millisecond as guests.
#[inline]
pub fn is_first_ms(at: i64) -> bool {
    at.rem_euclid(WINDOW_MS) == 0
}

fn candidates(bid: Bid) -> impl Iterator<Item = Candidate> {
    let ends = [Some(window_end(bid.at)), is_first_ms(bid.at).then_some(bid.at)];
    ends.into_iter().flatten().map(move |window_end| Candidate { window_end, bid })
}

/// Keeps the highest bids of each window until it is complete.
#[derive(Clone)]
struct Highest;

struct Best {
    price: ValueState<i64, u64>,
    bids: ListState<i64, Bid>,
}

impl KeyedProcess<i64, Candidate> for Highest {
    type Out = Bid;
    type Side = NoSide;
    type State = Best;

    fn open(&self, states: &mut StateRegistry<'_>) -> Result<Best, StateError> {
        Ok(Best { price: states.value("price")?, bids: states.list("bids")? })
    }

    fn on_record(
        &self,
        state: &mut Best,
        cx: &mut KeyedContext<'_, i64>,
        record: &Candidate,
        _: &mut impl Emit<Bid, NoSide>,
    ) -> Result<(), StateError> {
        let window = cx.hashed();
        let highest = state.price.get(&window);
        if highest.is_some_and(|highest| record.bid.price < highest) {
            return Ok(());
        }
        if !record.is_guest() && highest != Some(record.bid.price) {
            state.price.put(&window, &record.bid.price)?;
            let mut still = Vec::new();
            state.bids.for_each(&window, |bid| still.extend((bid.price >= record.bid.price).then_some(bid)));
            state.bids.clear(&window);
            still.iter().try_for_each(|bid| state.bids.push(&window, bid))?;
        }
        // Not the window's last millisecond: guests come in the one behind it.
        cx.set_timer(EventTimeMs(record.window_end))?;
        state.bids.push(&window, &record.bid)
    }

    fn on_timer(
        &self,
        state: &mut Best,
        cx: &mut KeyedContext<'_, i64>,
        out: &mut impl Emit<Bid, NoSide>,
    ) -> Result<(), StateError> {
        let window = cx.hashed();
        let highest = state.price.get(&window);
        state.bids.for_each(&window, |bid| {
            if Some(bid.price) == highest {
                out.emit(&bid);
            }
        });
        state.bids.clear(&window);
        state.price.remove(&window);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use millstream::engine::{Engine, JobOptions};
    use millstream::nexmark::Body;
    use millstream::sink::Collect;
    use millstream::source::VecSource;
    use millstream::stream::Job;
    use millstream::time::Watermarks;

    /// The auctions of the rows for bids (auction, time, price), read from two splits in turn.
    fn highest(bids: &[(u64, i64, u64)]) -> Vec<u64> {
        let event = |&(auction, at, price): &(u64, i64, u64)| Event {
            at,
            body: Body::Bid(Bid { auction, price, at, ..Bid::default() }),
        };
        let (first, second) = bids.split_at(bids.len() / 2);
        let splits = [first, second].map(|bids| bids.iter().map(event).collect());
        let (job, found) = (Job::new("highest"), Collect::immediate());
        let watermarks = Watermarks::bounded(4_000).never_idle();
        let events = job.source("events", VecSource::new(splits.to_vec()));
        rows(events.event_time(|event: &Event| EventTimeMs(event.at), watermarks)).sink("found", found.clone());
        let engine = Engine::builder().slots(1).memory(64 << 20).start().unwrap();
        engine.submit(job, JobOptions::default()).unwrap().wait().unwrap();
        let mut auctions: Vec<u64> = found.take().iter().map(|bid: &Bid| bid.auction).collect();
        auctions.sort_unstable();
        auctions
    }

    #[test]
    fn all_bids_of_the_highest_price_of_a_window_are_rows() {
        assert_eq!(highest(&[(1, 1, 5), (2, 2, 7), (3, 3, 7), (4, 9_999, 6), (5, 10_001, 1), (6, 0, 7)]), [2, 3, 5, 6]);
    }

    #[test]
    fn a_bid_at_the_end_of_a_window_is_a_row_of_it_only_if_it_reaches_its_price() {
        // Auction 2 reaches the 5 of the window before; auction 3 is above it and auction 4 below.
        let bids = [(1, 9_000, 5), (2, 10_000, 5), (3, 10_000, 9), (4, 10_000, 4)];
        assert_eq!(highest(&bids), [1, 2, 3]);
        // It does not make the price of the window before, and a window without bids has none.
        assert_eq!(highest(&[(1, 9_000, 5), (2, 10_000, 8), (3, 10_001, 7), (4, 30_000, 9)]), [1, 2, 4]);
    }
}
