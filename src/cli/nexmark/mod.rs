//! Nexmark: queries over people, auctions and bids, as jobs. What `millstream run nexmark` runs, and what tests and benches check and time.
//!
//! Here: the events, one file per query, the job around them. Not here: the command line (`cli/benchmark`), naive answers to compare
//! with (`tests/nexmark`), kernels to be held against (`benches/nexmark`).
//!
//! Semantics: the SQL of nexmark-flink (`queries/q0.sql` and so on), event time with 4 s for what comes late.

mod event;
mod generator;
mod highest;
mod q0;
pub mod q1;
pub mod q2;
pub mod q3;
pub mod q5;
pub mod q7;
pub mod q8;
mod text;

pub use event::{Auction, Bid, Body, Event, Extra, Person};
pub use generator::{Generator, Maker};
pub use text::Text;

use crate::numbered::{Numbered, NumberedReader, NumberedSource, Origin};
use crate::rows::Rows;
use generator::{AUCTIONS_PER_EPOCH, EPOCH, PEOPLE_PER_EPOCH};
use millstream::stream::{Chain, DataStream, Job};
use millstream::time::{EventTimeMs, Watermarks};

/// How much later than a later one an event may come, as the tables of nexmark-flink say.
const OUT_OF_ORDER_MS: i64 = 4_000;
/// The name of the source, by which its counters are found.
pub const SOURCE: &str = "events";

/// One of the queries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Query {
    /// Pass through.
    Q0,
    /// Currency conversion.
    Q1,
    /// Selection.
    Q2,
    /// Local item suggestion.
    Q3,
    /// Hot items.
    Q5,
    /// Highest bid.
    Q7,
    /// Monitor new users.
    Q8,
}

/// A run of a query.
#[derive(Clone)]
pub struct Nexmark {
    query: Query,
    source: NumberedSource<Generator>,
}

impl Query {
    /// All of them.
    pub const ALL: [Query; 7] = [Self::Q0, Self::Q1, Self::Q2, Self::Q3, Self::Q5, Self::Q7, Self::Q8];

    /// `q0` and so on.
    pub fn name(self) -> &'static str {
        match self {
            Self::Q0 => "q0",
            Self::Q1 => "q1",
            Self::Q2 => "q2",
            Self::Q3 => "q3",
            Self::Q5 => "q5",
            Self::Q7 => "q7",
            Self::Q8 => "q8",
        }
    }

    /// The query of this name.
    pub fn of_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|query| query.name() == name)
    }

    /// How long its windows are, if it has some.
    pub fn window_ms(self) -> Option<i64> {
        match self {
            Self::Q0 | Self::Q1 | Self::Q2 | Self::Q3 => None,
            Self::Q5 => Some(q5::WINDOW_MS),
            Self::Q7 => Some(q7::WINDOW_MS),
            Self::Q8 => Some(q8::WINDOW_MS),
        }
    }
}

impl Nexmark {
    /// `query` over the first `events` events. Makes those that are to be replayed.
    pub fn new(query: Query, generator: Generator, events: u64, splits: u32, origin: Origin) -> Self {
        Self { query, source: NumberedSource::new(generator, events, splits, origin) }
    }

    /// Another query over the same events, made once for both.
    pub fn asking(&self, query: Query) -> Self {
        Self { query, source: self.source.clone() }
    }

    /// The events of one split, without a job.
    pub fn events(&self, split: u32) -> NumberedReader<Generator> {
        self.source.reader(split)
    }

    /// The query as a job that sends its rows to `rows`.
    pub fn job(&self, name: &str, rows: &Rows) -> Job {
        let job = Job::new(name);
        let watermarks = Watermarks::bounded(OUT_OF_ORDER_MS).never_idle();
        let events =
            job.source(SOURCE, self.source.clone()).event_time(|event: &Event| EventTimeMs(event.at), watermarks);
        answer(self.query, events, rows);
        job
    }
}

fn answer(query: Query, events: DataStream<impl Chain<Out = Event>>, to: &Rows) {
    match query {
        Query::Q0 => to.end(q0::rows(events)),
        Query::Q1 => to.end(q1::rows(events)),
        Query::Q2 => to.end(q2::rows(events)),
        Query::Q3 => to.end(q3::rows(events)),
        Query::Q5 => to.end(q5::rows(events)),
        Query::Q7 => to.end(q7::rows(events)),
        Query::Q8 => to.end(q8::rows(events)),
    }
}

impl Numbered for Generator {
    type Record = Event;
    type Maker = Maker;

    fn maker(&self) -> Maker {
        Maker::new(*self)
    }

    fn make<'a>(&self, maker: &'a mut Maker, number: u64) -> &'a Event {
        maker.make(number)
    }

    #[inline]
    fn touch(&self, event: &Event) -> u64 {
        event.at as u64
    }

    /// Moves the time on, and people and auctions by as many as came between. Everything else is as it was.
    fn move_on(&self, event: &mut Event, from: u64, to: u64) {
        let epochs = to / EPOCH - from / EPOCH;
        let (people, auctions) = (epochs * PEOPLE_PER_EPOCH, epochs * AUCTIONS_PER_EPOCH);
        let at = self.at_ms(to);
        match &mut event.body {
            Body::Person(person) => person.id += people,
            Body::Auction(auction) => {
                auction.id += auctions;
                auction.seller += people;
                auction.expires += at - event.at;
            }
            Body::Bid(bid) => {
                bid.auction += auctions;
                bid.bidder += people;
                bid.at = at;
            }
        }
        event.at = at;
    }
}
