//! Query 3, local item suggestion: who sells in Oregon, Idaho or California in category 10, and in which auctions.
//!
//! ```text
//! events -> those people and auctions --by seller--> join -> rows
//! ```
//! The join is incremental and remembers both sides for ever: each new person meets the auctions so far, each new auction the people.

use super::event::{Auction, Body, Event, Person};
use millstream::Record;
use millstream::operator::{Emit, KeyedContext, KeyedProcess, NoSide, StateRegistry};
use millstream::state::{ArchivedValue, ListState, StateError};
use millstream::stream::{Chain, DataStream};
use rkyv::{Archive, Deserialize, Serialize};

const CATEGORY: u64 = 10;
const STATES: [&str; 3] = ["OR", "ID", "CA"];

/// Somebody local and what they sell.
#[derive(Clone, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[allow(missing_docs, reason = "the columns of a well-known query")]
pub struct LocalItem {
    pub name: String,
    pub city: String,
    pub state: String,
    pub auction: u64,
}

/// One side or the other of the join.
#[derive(Record, Archive, Serialize, Deserialize)]
#[record(archived)]
enum Entry {
    Person { id: u64, seller: LocalPerson },
    Auction { id: u64, seller: u64 },
}

#[derive(Clone, millstream::Schema, Archive, Serialize, Deserialize)]
struct LocalPerson {
    name: String,
    city: String,
    state: String,
}

/// Who sells what.
pub fn rows(events: DataStream<impl Chain<Out = Event>>) -> DataStream<impl Chain<Out = LocalItem>> {
    let entries = events.flat_map(|event: &Event| match &event.body {
        Body::Person(person) if is_local(person) => Some(Entry::of(person)),
        Body::Auction(auction) if is_in_category(auction) => {
            Some(Entry::Auction { id: auction.id, seller: auction.seller })
        }
        _ => None,
    });
    entries.key_by("by-seller", Entry::seller).process("join", Join)
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

impl Entry {
    fn of(person: &Person) -> Self {
        let seller =
            LocalPerson { name: person.name.clone(), city: person.city.to_owned(), state: person.state.to_owned() };
        Self::Person { id: person.id, seller }
    }

    fn seller(&self) -> u64 {
        match self {
            Self::Person { id, .. } => *id,
            Self::Auction { seller, .. } => *seller,
        }
    }
}

impl ArchivedLocalPerson {
    fn item(&self, auction: u64) -> LocalItem {
        let [name, city, state] = [&self.name, &self.city, &self.state].map(|text| text.as_str().to_owned());
        LocalItem { name, city, state, auction }
    }

    fn kept(&self) -> LocalPerson {
        let [name, city, state] = [&self.name, &self.city, &self.state].map(|text| text.as_str().to_owned());
        LocalPerson { name, city, state }
    }
}

/// Joins the people and the auctions of each seller.
#[derive(Clone)]
struct Join;

/// What there was of each seller.
struct Seen {
    people: ListState<u64, ArchivedValue<LocalPerson>>,
    auctions: ListState<u64, u64>,
}

impl KeyedProcess<u64, ArchivedEntry> for Join {
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
        record: &ArchivedEntry,
        out: &mut impl Emit<LocalItem, NoSide>,
    ) -> Result<(), StateError> {
        let seller = cx.hashed();
        match record {
            ArchivedEntry::Person { seller: person, .. } => {
                state.people.push(&seller, &ArchivedValue::new(&person.kept())?)?;
                state.auctions.for_each(&seller, |auction| out.emit(&person.item(auction)));
            }
            ArchivedEntry::Auction { id, .. } => {
                let auction = id.to_native();
                state.auctions.push(&seller, &auction)?;
                let mut damage = Ok(());
                state.people.for_each(&seller, |person| match person.get() {
                    Ok(person) => out.emit(&person.item(auction)),
                    Err(error) => damage = Err(error),
                });
                damage?;
            }
        }
        Ok(())
    }
}
