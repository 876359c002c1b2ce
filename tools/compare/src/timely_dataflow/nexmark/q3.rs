//! Local item suggestion: both sides of the join in one map by seller, on the seller's worker.

use super::text::Text;
use super::{Map, place};
use millstream::nexmark::{Body, Event, q3};
use millstream::sink::RowSum;
use serde::{Deserialize, Serialize};
use timely::dataflow::Stream;
use timely::dataflow::channels::pact::Exchange;
use timely::dataflow::operators::Operator;

#[derive(Clone, Copy, Serialize, Deserialize)]
pub struct LocalPerson {
    name: Text,
    city: Text,
    state: Text,
}

/// One side or the other.
#[derive(Clone, Copy, Serialize, Deserialize)]
pub enum Entry {
    Person { id: u64, person: LocalPerson },
    Auction { id: u64, seller: u64 },
}

/// A person and an auction.
pub type Item = (LocalPerson, u64);

pub fn entry(event: &Event, batch: &mut Vec<Entry>) {
    match &event.body {
        Body::Person(person) if q3::is_local(person) => {
            let [name, city, state] = [&person.name, person.city, person.state].map(Text::new);
            batch.push(Entry::Person { id: person.id, person: LocalPerson { name, city, state } });
        }
        Body::Auction(auction) if q3::is_in_category(auction) => {
            batch.push(Entry::Auction { id: auction.id, seller: auction.seller });
        }
        _ => {}
    }
}

pub fn add((person, auction): &Item, rows: &mut RowSum) {
    rows.add(&(person.name.as_str(), person.city.as_str(), person.state.as_str(), *auction));
}

#[derive(Default)]
struct Seller {
    people: Vec<LocalPerson>,
    auctions: Vec<u64>,
}

pub fn joined(entries: Stream<'_, u64, Vec<Entry>>) -> Stream<'_, u64, Vec<Item>> {
    let seller = |entry: &Entry| match entry {
        Entry::Person { id, .. } => *id,
        Entry::Auction { seller, .. } => *seller,
    };
    entries.unary(Exchange::new(move |entry| place(seller(entry))), "Join", move |_, _| {
        let mut sellers = Map::<u64, Seller>::default();
        move |input, output| {
            input.for_each_stamp(|stamp, batches| {
                let mut items = output.session(&stamp);
                for entry in batches.flat_map(|batch| batch.drain(..)) {
                    let of_seller = sellers.entry(seller(&entry)).or_default();
                    match entry {
                        Entry::Person { person, .. } => {
                            items.give_iterator(of_seller.auctions.iter().map(|auction| (person, *auction)));
                            of_seller.people.push(person);
                        }
                        Entry::Auction { id, .. } => {
                            items.give_iterator(of_seller.people.iter().map(|person| (*person, id)));
                            of_seller.auctions.push(id);
                        }
                    }
                }
            });
        }
    })
}
