//! Query 8, monitor new users: who came and opened an auction within the same 10 s.
//!
//! ```text
//! events -> people and sellers --by id--> both sides per window -> those with both -> rows
//! ```

use super::event::{Body, Event, Person};
use bytemuck::{Pod, Zeroable};
use millstream::Schema;
use millstream::operator::Aggregate;
use millstream::stream::{Chain, DataStream};
use millstream::window::{Tumbling, WindowResult};
use serde::Serialize;

/// How long a window is.
pub const WINDOW_MS: i64 = 10_000;

/// Somebody new who sells.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
#[allow(missing_docs, reason = "the columns of a well-known query")]
pub struct NewSeller {
    pub id: u64,
    pub name: String,
    /// Of the window, in milliseconds since 1970.
    pub start: i64,
}

/// A name within a fixed-size record, filled up with zeros.
type Name = [u8; 24];

/// One side or the other: a person with a name, or a seller.
struct Entry {
    id: u64,
    is_seller: u64,
    name: Name,
}

/// What a window holds of one id.
#[derive(Clone, Copy, Pod, Zeroable, Schema)]
#[repr(C)]
struct Sides {
    sells: u64,
    name: Name,
}

/// The new sellers of each window.
pub fn rows(events: DataStream<impl Chain<Out = Event>>) -> DataStream<impl Chain<Out = NewSeller>> {
    let entries = events.flat_map(|event: &Event| match &event.body {
        Body::Person(person) => Some(Entry { id: person.id, is_seller: 0, name: name_of(person) }),
        Body::Auction(auction) => Some(Entry { id: auction.seller, is_seller: 1, name: Name::default() }),
        Body::Bid(_) => None,
    });
    entries
        .combine_by_key("by-id", |entry: &Entry| entry.id, Tumbling::of(WINDOW_MS), BothSides)
        .aggregate("sides")
        .flat_map(|of: &WindowResult<u64, Option<Name>>| {
            of.value.map(|name| NewSeller { id: of.key, name: text_of(&name), start: of.window.start })
        })
}

/// Whether an id came as a person and as a seller.
#[derive(Clone, Copy)]
struct BothSides;

impl Aggregate<Entry> for BothSides {
    type Accumulator = Sides;
    type Out = Option<Name>;
    const MERGES_IN_ANY_ORDER: bool = true;

    fn create(&self) -> Sides {
        Sides::zeroed()
    }

    fn add(&self, sides: &mut Sides, entry: &Entry) {
        self.merge(sides, &Sides { sells: entry.is_seller, name: entry.name });
    }

    /// An id is one person's, so of two names one is empty or both are the same.
    fn merge(&self, sides: &mut Sides, other: &Sides) {
        sides.sells |= other.sells;
        sides.name = sides.name.max(other.name);
    }

    fn result(&self, sides: &Sides) -> Option<Name> {
        (sides.sells == 1 && sides.name != Name::default()).then_some(sides.name)
    }
}

fn name_of(person: &Person) -> Name {
    let mut name = Name::default();
    // The longest name that is made has 14 letters.
    let len = person.name.len().min(name.len());
    name[..len].copy_from_slice(&person.name.as_bytes()[..len]);
    name
}

fn text_of(name: &Name) -> String {
    String::from_utf8_lossy(name).trim_end_matches('\0').to_owned()
}
