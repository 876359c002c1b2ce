//! Monitor new users: per window a map of those who came and a set of those who sell, on the worker that has the id.

use super::text::Text;
use super::{Granule, Map, is_over, place};
use foldhash::fast::FixedState;
use hashbrown::HashSet;
use millstream::nexmark::q8::WINDOW_MS;
use millstream::nexmark::{Body, Event};
use millstream::sink::RowSum;
use serde::{Deserialize, Serialize};
use timely::dataflow::Stream;
use timely::dataflow::channels::pact::Exchange;
use timely::dataflow::operators::{Capability, Operator};

/// Somebody who came, or who sells.
#[derive(Clone, Copy, Serialize, Deserialize)]
pub enum Entry {
    Person { id: u64, name: Text },
    Seller { id: u64 },
}

/// Who came and sells, and the beginning of the window.
pub type NewSeller = (u64, Text, i64);

pub fn entry(event: &Event, batch: &mut Vec<Entry>) {
    match &event.body {
        Body::Person(person) => batch.push(Entry::Person { id: person.id, name: Text::new(&person.name) }),
        Body::Auction(auction) => batch.push(Entry::Seller { id: auction.seller }),
        Body::Bid(_) => {}
    }
}

pub fn add((id, name, start): &NewSeller, rows: &mut RowSum) {
    rows.add(&(*id, name.as_str(), *start));
}

struct Window {
    number: u64,
    capability: Capability<u64>,
    people: Map<u64, Text>,
    sellers: HashSet<u64, FixedState>,
}

pub fn new_sellers(entries: Stream<'_, u64, Vec<Entry>>, granule: Granule) -> Stream<'_, u64, Vec<NewSeller>> {
    let granules_per_window = (WINDOW_MS / granule.ms) as u64;
    let of_id = |entry: &Entry| match entry {
        Entry::Person { id, .. } | Entry::Seller { id } => place(*id),
    };
    entries.unary_frontier(Exchange::new(of_id), "Both", move |_, _| {
        let (mut windows, mut spare) = (Vec::<Window>::new(), (Map::default(), HashSet::default()));
        move |(input, frontier), output| {
            input.for_each_stamp(|stamp, batches| {
                let Some(capability) = stamp.retain_least(output.output_index()) else { return };
                let number = capability.time() / granules_per_window;
                let at = windows.iter().position(|window| window.number == number).unwrap_or_else(|| {
                    let (people, sellers) = std::mem::take(&mut spare);
                    windows.push(Window { number, capability, people, sellers });
                    windows.len() - 1
                });
                let Window { people, sellers, .. } = &mut windows[at];
                for entry in batches.flat_map(|batch| batch.iter()) {
                    match entry {
                        Entry::Person { id, name } => _ = people.insert(*id, *name),
                        Entry::Seller { id } => _ = sellers.insert(*id),
                    }
                }
            });
            let is_over = |window: &Window| is_over(frontier, (window.number + 1) * granules_per_window - 1);
            while let Some(over) = windows.iter().position(is_over) {
                let Window { number, capability, mut people, mut sellers } = windows.swap_remove(over);
                let start = number as i64 * WINDOW_MS;
                let both = people.drain().filter(|(id, _)| sellers.contains(id)).map(|(id, name)| (id, name, start));
                output.session(&capability).give_iterator(both);
                sellers.clear();
                spare = (people, sellers);
            }
        }
    })
}
