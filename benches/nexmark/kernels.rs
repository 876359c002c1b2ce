//! The queries as somebody would write them by hand for one core: a loop, hash tables, no state that outlives the process.
//!
//! Each trusts that events come in the order of their time, which holds for one split.

use foldhash::fast::FixedState;
use hashbrown::hash_map::Entry;
use hashbrown::{HashMap, HashSet};
use millstream::nexmark::q5::{self, HotAuction};
use millstream::nexmark::{Bid, Body, Event, Generator, Query, q1, q2, q3, q7, q8};
use millstream::numbered::NumberedReader;
use millstream::sink::RowSum;
use std::collections::VecDeque;

type Map<K, V> = HashMap<K, V, FixedState>;
type Events = NumberedReader<Generator>;

/// The sum over all rows of the answer.
pub fn answer(query: Query, events: &mut Events) -> RowSum {
    match query {
        Query::Q0 => each_bid(events, |bid, rows| rows.add(bid)),
        Query::Q1 => each_bid(events, |bid, rows| rows.add(&q1::in_euros(bid))),
        Query::Q2 => each_bid(events, |bid, rows| {
            if let Some(selected) = q2::selected(bid) {
                rows.add(&selected);
            }
        }),
        Query::Q3 => local_items(events),
        Query::Q5 => hot_auctions(events),
        Query::Q7 => highest_bids(events),
        Query::Q8 => new_sellers(events),
    }
}

fn each(events: &mut Events, mut each: impl FnMut(&Event)) {
    while events.read_each(usize::MAX, &mut each) {}
}

fn each_bid(events: &mut Events, mut act: impl FnMut(&Bid, &mut RowSum)) -> RowSum {
    let mut rows = RowSum::default();
    each(events, |event| {
        if let Some(bid) = event.bid() {
            act(bid, &mut rows);
        }
    });
    rows
}

/// What there was of a seller: people, auctions.
#[derive(Default)]
struct Seller {
    people: Vec<(String, &'static str, &'static str)>,
    auctions: Vec<u64>,
}

fn local_items(events: &mut Events) -> RowSum {
    let (mut rows, mut sellers) = (RowSum::default(), Map::<u64, Seller>::default());
    each(events, |event| match &event.body {
        Body::Person(person) if q3::is_local(person) => {
            let seller = sellers.entry(person.id).or_default();
            for auction in &seller.auctions {
                rows.add(&(&*person.name, person.city, person.state, *auction));
            }
            seller.people.push((person.name.clone(), person.city, person.state));
        }
        Body::Auction(auction) if q3::is_in_category(auction) => {
            let seller = sellers.entry(auction.seller).or_default();
            for (name, city, state) in &seller.people {
                rows.add(&(&**name, *city, *state, auction.id));
            }
            seller.auctions.push(auction.id);
        }
        _ => {}
    });
    rows
}

/// Counts per slice, and their sum over the slices of the window that ends with the newest.
#[derive(Default)]
struct Slices {
    newest: Map<u64, u64>,
    newest_end: i64,
    older: VecDeque<Map<u64, u64>>,
    window: Map<u64, u64>,
    rows: RowSum,
}

const SLICES: usize = (q5::WINDOW_MS / q5::SLIDE_MS) as usize;

impl Slices {
    /// Ends the newest slice, and so a window.
    fn close(&mut self) {
        let slice = std::mem::take(&mut self.newest);
        for (auction, bids) in &slice {
            *self.window.entry(*auction).or_default() += bids;
        }
        self.older.push_back(slice);
        if let Some(most) = self.window.values().max() {
            for (auction, bids) in self.window.iter().filter(|(_, bids)| *bids == most) {
                self.rows.add(&HotAuction { auction: *auction, bids: *bids });
            }
        }
        if self.older.len() == SLICES {
            for (auction, bids) in self.older.pop_front().into_iter().flatten() {
                if let Entry::Occupied(mut counted) = self.window.entry(auction) {
                    *counted.get_mut() -= bids;
                    if *counted.get() == 0 {
                        counted.remove();
                    }
                }
            }
        }
        self.newest_end += q5::SLIDE_MS;
    }
}

fn hot_auctions(events: &mut Events) -> RowSum {
    let mut slices = Slices::default();
    each(events, |event| {
        let Some(bid) = event.bid() else { return };
        if bid.at >= slices.newest_end {
            if slices.newest_end == 0 {
                slices.newest_end = bid.at - bid.at % q5::SLIDE_MS + q5::SLIDE_MS;
            }
            while bid.at >= slices.newest_end {
                slices.close();
            }
        }
        *slices.newest.entry(bid.auction).or_default() += 1;
    });
    (0..SLICES).for_each(|_| slices.close());
    slices.rows
}

fn highest_bids(events: &mut Events) -> RowSum {
    let (mut rows, mut end, mut before) = (RowSum::default(), 0, None);
    let (mut highest, mut bids) = (0, Vec::<Bid>::new());
    each(events, |event| {
        let Some(bid) = event.bid() else { return };
        if bid.at >= end {
            bids.drain(..).for_each(|bid| rows.add(&bid));
            before = (q7::window_end(bid.at) == end + q7::WINDOW_MS).then_some(highest);
            (end, highest) = (q7::window_end(bid.at), 0);
        }
        if bid.price >= highest {
            if bid.price > highest {
                bids.clear();
                highest = bid.price;
            }
            bids.push(*bid);
        }
        // The query's BETWEEN takes in the first millisecond behind a window.
        if q7::is_first_ms(bid.at) && before == Some(bid.price) {
            rows.add(bid);
        }
    });
    bids.iter().for_each(|bid| rows.add(bid));
    rows
}

fn new_sellers(events: &mut Events) -> RowSum {
    let (mut rows, mut start) = (RowSum::default(), i64::MIN);
    let (mut people, mut sellers) = (Map::<u64, String>::default(), HashSet::<u64, FixedState>::default());
    let mut close = |people: &mut Map<u64, String>, sellers: &mut HashSet<u64, FixedState>, start: i64| {
        for (id, name) in people.drain().filter(|(id, _)| sellers.contains(id)) {
            rows.add(&(id, name, start));
        }
        sellers.clear();
    };
    each(events, |event| {
        let of_event = event.at - event.at % q8::WINDOW_MS;
        if of_event != start {
            close(&mut people, &mut sellers, start);
            start = of_event;
        }
        match &event.body {
            Body::Person(person) => {
                people.insert(person.id, person.name.clone());
            }
            Body::Auction(auction) => {
                sellers.insert(auction.seller);
            }
            Body::Bid(_) => {}
        }
    });
    close(&mut people, &mut sellers, start);
    rows
}
