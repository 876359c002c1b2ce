//! Query 3, local item suggestion: who sells in Oregon, Idaho or California in category 10, and in which auctions.
//!
//! ```text
//! events -> those people and auctions --by seller--> join -> rows
//! ```
//! The join is incremental and remembers both sides for ever: each new person meets the auctions so far, each new auction the people.

use super::event::{Auction, Body, Event, Person};
use super::text::Text;
use millstream::Record;
use millstream::operator::{Emit, KeyedContext, KeyedProcess, NoSide, StateRegistry};
use millstream::state::{ListState, StateError};
use millstream::stream::{Chain, DataStream};

const CATEGORY: u64 = 10;
const STATES: [&str; 3] = ["OR", "ID", "CA"];

/// Somebody local and what they sell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[allow(missing_docs, reason = "the columns of a well-known query")]
pub struct LocalItem {
    pub name: Text,
    pub city: Text,
    pub state: Text,
    pub auction: u64,
}

/// One side or the other of the join.
#[derive(Clone, Copy, Record)]
#[repr(C)]
struct Entry {
    seller: u64,
    /// 0 when it is the seller who came.
    auction: u64,
    person: LocalPerson,
}

#[derive(Clone, Copy, Default, Record)]
#[repr(C)]
struct LocalPerson {
    name: Text,
    city: Text,
    state: Text,
}

/// Who sells what.
pub fn rows(events: DataStream<impl Chain<Out = Event>>) -> DataStream<impl Chain<Out = LocalItem>> {
    let entries = events.flat_map(|event: &Event| match &event.body {
        Body::Person(person) if is_local(person) => {
            Some(Entry { seller: person.id, auction: 0, person: LocalPerson::of(person) })
        }
        Body::Auction(auction) if is_in_category(auction) => {
            Some(Entry { seller: auction.seller, auction: auction.id, person: LocalPerson::default() })
        }
        _ => None,
    });
    entries.key_by("by-seller", |entry: &Entry| entry.seller).process("join", Join)
}

/// Whether somebody lives in one of the states.
#[inline]
pub fn is_local(person: &Person) -> bool {
    STATES.contains(&person.state)
}

/// Whether something of the category is sold.
#[inline]
pub fn is_in_category(auction: &Auction) -> bool {
    auction.category == CATEGORY
}

impl LocalPerson {
    fn of(person: &Person) -> Self {
        let [name, city, state] = [&person.name, person.city, person.state].map(Text::new);
        Self { name, city, state }
    }

    fn item(&self, auction: u64) -> LocalItem {
        LocalItem { name: self.name, city: self.city, state: self.state, auction }
    }
}

/// Joins the people and the auctions of each seller.
#[derive(Clone)]
struct Join;

/// What there was of each seller.
struct Seen {
    people: ListState<u64, LocalPerson>,
    auctions: ListState<u64, u64>,
}

impl KeyedProcess<u64, Entry> for Join {
    type Out = LocalItem;
    type Side = NoSide;
    type State = Seen;

    fn open(&self, states: &mut StateRegistry<'_>) -> Result<Seen, StateError> {
        Ok(Seen { people: states.list("people")?, auctions: states.list("auctions")? })
    }

    fn on_record(
        &self,
        state: &mut Seen,
        cx: &mut KeyedContext<'_, u64>,
        record: &Entry,
        out: &mut impl Emit<LocalItem, NoSide>,
    ) -> Result<(), StateError> {
        let seller = cx.hashed();
        match record.auction {
            0 => {
                state.people.push(&seller, &record.person)?;
                state.auctions.for_each(&seller, |auction| out.emit(&record.person.item(auction)));
            }
            auction => {
                state.auctions.push(&seller, &auction)?;
                state.people.for_each(&seller, |person| out.emit(&person.item(auction)));
            }
        }
        Ok(())
    }
}
