//! Query 8, monitor new users: who came and opened an auction within the same 10 s.
//!
//! ```text
//! events -> people and sellers --by id--> both sides per window -> those with both -> rows
//! ```

use super::event::{Body, Event};
use super::text::Text;
use bytemuck::{Pod, Zeroable};
use millstream::Schema;
use millstream::operator::Aggregate;
use millstream::stream::{Chain, DataStream};
use millstream::window::{Tumbling, WindowResult};
use serde::Serialize;

/// How long a window is.
pub const WINDOW_MS: i64 = 10_000;

/// Somebody new who sells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[allow(missing_docs, reason = "the columns of a well-known query")]
pub struct NewSeller {
    pub id: u64,
    pub name: Text,
    /// Of the window, in milliseconds since 1970.
    pub start: i64,
}

/// One side or the other: a person with a name, or a seller.
struct Entry {
    id: u64,
    is_seller: u64,
    name: Text,
}

/// What a window holds of one id.
#[derive(Clone, Copy, Pod, Zeroable, Schema)]
#[repr(C)]
struct Sides {
    sells: u64,
    name: Text,
}

/// The new sellers of each window.
pub fn rows(events: DataStream<impl Chain<Out = Event>>) -> DataStream<impl Chain<Out = NewSeller>> {
    let entries = events.flat_map(|event: &Event| match &event.body {
        Body::Person(person) => Some(Entry { id: person.id, is_seller: 0, name: Text::new(&person.name) }),
        Body::Auction(auction) => Some(Entry { id: auction.seller, is_seller: 1, name: Text::default() }),
        Body::Bid(_) => None,
    });
    entries
        .combine_by_key("by-id", |entry: &Entry| entry.id, Tumbling::of(WINDOW_MS), BothSides)
        .aggregate("sides")
        .flat_map(|of: &WindowResult<u64, Option<Text>>| {
            of.value.map(|name| NewSeller { id: of.key, name, start: of.window.start })
        })
}

/// Whether an id came as a person and as a seller.
#[derive(Clone, Copy)]
struct BothSides;

impl Aggregate<Entry> for BothSides {
    type Accumulator = Sides;
    type Out = Option<Text>;
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
        if sides.name.is_empty() {
            sides.name = other.name;
        }
    }

    fn result(&self, sides: &Sides) -> Option<Text> {
        (sides.sells == 1 && !sides.name.is_empty()).then_some(sides.name)
    }
}
