//! Highest bid: each worker sends only bids that are not below one it sent before; the worker that has the window keeps the highest.

use super::sent::Sent;
use super::{Granule, Map, is_over};
use millstream::nexmark::q7::{WINDOW_MS, is_first_ms, window_end};
use millstream::nexmark::{Bid, Event};
use millstream::sink::RowSum;
use timely::dataflow::Stream;
use timely::dataflow::channels::pact::Exchange;
use timely::dataflow::operators::{Capability, Operator};

/// A bid and the end of a window that it may be the highest of. A bid at the end itself does not make the window's price.
type Candidate = (i64, Sent<Bid>);

/// The end of the newest window and its highest price so far.
#[derive(Default)]
pub struct Candidates {
    end: i64,
    highest: u64,
}

impl Candidates {
    pub fn reader(mut self) -> impl FnMut(&Event, &mut Vec<Candidate>) {
        move |event, batch| {
            let Some(bid) = event.bid() else { return };
            if bid.at >= self.end {
                (self.end, self.highest) = (window_end(bid.at), 0);
            }
            if bid.price >= self.highest {
                self.highest = bid.price;
                batch.push((self.end, Sent(*bid)));
            }
            if is_first_ms(bid.at) {
                batch.push((bid.at, Sent(*bid)));
            }
        }
    }
}

pub fn add(bid: &Sent<Bid>, rows: &mut RowSum) {
    rows.add(&bid.0);
}

/// What is known of a window.
struct Highest {
    capability: Capability<u64>,
    price: u64,
    bids: Vec<Bid>,
    /// The bids at its end.
    guests: Vec<Bid>,
}

impl Highest {
    fn add(&mut self, end: i64, bid: Bid) {
        if bid.at == end {
            return self.guests.push(bid);
        }
        if bid.price > self.price {
            self.price = bid.price;
            self.bids.clear();
        }
        if bid.price == self.price {
            self.bids.push(bid);
        }
    }

    fn rows(&self) -> impl Iterator<Item = Sent<Bid>> {
        let guests = self.guests.iter().filter(|bid| bid.price == self.price && !self.bids.is_empty());
        self.bids.iter().chain(guests).map(|bid| Sent(*bid))
    }
}

pub fn highest(candidates: Stream<'_, u64, Vec<Candidate>>, granule: Granule) -> Stream<'_, u64, Vec<Sent<Bid>>> {
    let of_window = |(end, _): &Candidate| (end / WINDOW_MS) as u64;
    candidates.unary_frontier(Exchange::new(of_window), "Highest", move |_, _| {
        let mut windows = Map::<i64, Highest>::default();
        move |(input, frontier), output| {
            input.for_each_stamp(|stamp, batches| {
                let Some(capability) = stamp.retain_least(output.output_index()) else { return };
                let open =
                    || Highest { capability: capability.clone(), price: 0, bids: Vec::new(), guests: Vec::new() };
                for (end, Sent(bid)) in batches.flat_map(|batch| batch.drain(..)) {
                    windows.entry(end).or_insert_with(open).add(end, bid);
                }
            });
            windows.retain(|end, window| {
                // The bids at the end come behind it.
                let is_over = is_over(frontier, granule.of(*end));
                if is_over {
                    output.session(&window.capability).give_iterator(window.rows());
                }
                !is_over
            });
        }
    })
}
