//! Makes event n out of n alone, with Nexmark's proportions, hot ratios and sizes.
//!
//! ```text
//! n mod 50:  0       1 .. 3      4 .. 49
//!            person  3 auctions  46 bids
//! ```
//! Semantics: nexmark-flink's `NexmarkGenerator` and what it draws with, in its default configuration. The draws themselves are others (SplitMix
//! seeded by seed and event number), so the content of two generators is alike, not equal.

use super::event::{Auction, Bid, Body, EXTRA_LEN_MAX, Event, Extra, Person};
use crate::random::Random;

/// 2015-07-15 00:00:00 UTC, when the first event happens.
pub const BASE_AT_MS: i64 = 1_436_918_400_000;
/// Of so many events in a row ...
pub const EPOCH: u64 = 50;
/// ... so many are people, first,
pub const PEOPLE_PER_EPOCH: u64 = 1;
/// then so many auctions; the others are bids.
pub const AUCTIONS_PER_EPOCH: u64 = 3;

/// The first ids.
const FIRST_ID: u64 = 1_000;
/// One of four auctions is not by the hot seller, one of two bids not for the hot auction, one of four not by the hot bidder.
const HOT_SELLER_RATIO: u64 = 4;
const HOT_AUCTION_RATIO: u64 = 2;
const HOT_BIDDER_RATIO: u64 = 4;
/// Of so many people or auctions in a row one is hot.
const HOT_EVERY: u64 = 100;
const ACTIVE_PEOPLE: u64 = 1_000;
const IN_FLIGHT_AUCTIONS: u64 = 100;
/// So many ids are used before they exist.
const ID_LEAD: u64 = 10;
const FIRST_CATEGORY: u64 = 10;
const CATEGORIES: u64 = 5;

const PERSON_LEN_AVERAGE: u64 = 200;
const AUCTION_LEN_AVERAGE: u64 = 500;
const BID_LEN_AVERAGE: u64 = 100;
const _: () =
    assert!(BID_LEN_AVERAGE - 32 + (BID_LEN_AVERAGE - 32) / 5 <= EXTRA_LEN_MAX as u64, "bids hold their text");

const STATES: [&str; 6] = ["AZ", "CA", "ID", "OR", "WA", "WY"];
const CITIES: [&str; 10] =
    ["Phoenix", "Los Angeles", "San Francisco", "Boise", "Portland", "Bend", "Redmond", "Seattle", "Kent", "Cheyenne"];
const FIRST_NAMES: [&str; 11] =
    ["Peter", "Paul", "Luke", "John", "Saul", "Vicky", "Kate", "Julie", "Sarah", "Deiter", "Walter"];
const LAST_NAMES: [&str; 9] = ["Shultz", "Abrams", "Spencer", "White", "Bartels", "Walton", "Smith", "Jones", "Noris"];

/// What decides over the content of every event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Generator {
    /// Another seed makes other events.
    pub seed: u64,
    /// How many events happen in a second of event time, above 0.
    pub events_per_second: u64,
}

/// Makes events one after the other in memory that it keeps.
#[derive(Clone, Debug)]
pub struct Maker {
    generator: Generator,
    person: Event,
    auction: Event,
    bid: Event,
}

impl Generator {
    /// When event `number` happens.
    #[inline]
    pub fn at_ms(&self, number: u64) -> i64 {
        BASE_AT_MS + (u128::from(number) * 1_000 / u128::from(self.events_per_second)) as i64
    }

    /// Event `number`.
    pub fn event(&self, number: u64) -> Event {
        Maker::new(*self).make(number).clone()
    }

    fn person(&self, number: u64, random: &mut Random, person: &mut Person) {
        person.id = FIRST_ID + last_person(number);
        person.name.clear();
        person.name.push_str(random.choice(&FIRST_NAMES));
        person.name.push(' ');
        person.name.push_str(random.choice(&LAST_NAMES));
        person.email.clear();
        random.text(7, &mut person.email);
        person.email.push('@');
        random.text(5, &mut person.email);
        person.email.push_str(".com");
        person.credit_card.clear();
        for index in 0..16 {
            if index > 0 && index % 4 == 0 {
                person.credit_card.push(' ');
            }
            person.credit_card.push(char::from(b'0' + random.below(10) as u8));
        }
        person.city = random.choice(&CITIES);
        person.state = random.choice(&STATES);
        let texts = [&*person.name, &person.email, &person.credit_card, person.city, person.state];
        let len = 8 + texts.iter().map(|text| text.len() as u64).sum::<u64>();
        refill(random, len, PERSON_LEN_AVERAGE, &mut person.extra);
    }

    fn auction(&self, number: u64, random: &mut Random, auction: &mut Auction) {
        let last = last_auction(number).expect("the number is that of an auction");
        auction.id = FIRST_ID + last;
        auction.seller = FIRST_ID
            + match random.below(HOT_SELLER_RATIO) {
                0 => any_person(number, random),
                _ => last_person(number) / HOT_EVERY * HOT_EVERY,
            };
        auction.category = FIRST_CATEGORY + random.below(CATEGORIES);
        auction.initial_bid = price(random);
        auction.reserve = auction.initial_bid + price(random);
        let at = self.at_ms(number);
        let horizon_ms = self.at_ms(number + IN_FLIGHT_AUCTIONS * EPOCH / AUCTIONS_PER_EPOCH) - at;
        auction.expires = at + 1 + random.below((2 * horizon_ms as u64).max(1)) as i64;
        for (text, len_max) in [(&mut auction.item_name, 20), (&mut auction.description, 100)] {
            text.clear();
            random.text(len_max, text);
        }
        let len = 48 + (auction.item_name.len() + auction.description.len()) as u64;
        refill(random, len, AUCTION_LEN_AVERAGE, &mut auction.extra);
    }

    fn bid(&self, number: u64, random: &mut Random, bid: &mut Bid) {
        let last = last_auction(number).expect("auctions come before bids");
        bid.auction = FIRST_ID
            + match random.below(HOT_AUCTION_RATIO) {
                0 => {
                    let oldest = last.saturating_sub(IN_FLIGHT_AUCTIONS);
                    oldest + random.below(last - oldest + 1 + ID_LEAD)
                }
                _ => last / HOT_EVERY * HOT_EVERY,
            };
        bid.bidder = FIRST_ID
            + match random.below(HOT_BIDDER_RATIO) {
                0 => any_person(number, random),
                // The second of the people, so that hot bidders are not hot sellers.
                _ => last_person(number) / HOT_EVERY * HOT_EVERY + 1,
            };
        bid.price = price(random);
        bid.at = self.at_ms(number);
        let len = random.missing_len(32, BID_LEN_AVERAGE);
        bid.extra = Extra::filled(len, |bytes| random.letters(bytes));
    }
}

impl Maker {
    /// Makes the events of `generator`.
    pub fn new(generator: Generator) -> Self {
        let of = |body| Event { at: 0, body };
        Self {
            generator,
            person: of(Body::Person(Box::default())),
            auction: of(Body::Auction(Box::default())),
            bid: of(Body::Bid(Bid::default())),
        }
    }

    /// Event `number`, until the next one is made.
    pub fn make(&mut self, number: u64) -> &Event {
        let Self { generator, person, auction, bid } = self;
        let mut random = Random::of_event(generator.seed, number);
        let place = number % EPOCH;
        let event = if place < PEOPLE_PER_EPOCH {
            person
        } else if place < PEOPLE_PER_EPOCH + AUCTIONS_PER_EPOCH {
            auction
        } else {
            bid
        };
        event.at = generator.at_ms(number);
        match &mut event.body {
            Body::Person(person) => generator.person(number, &mut random, person),
            Body::Auction(auction) => generator.auction(number, &mut random, auction),
            Body::Bid(bid) => generator.bid(number, &mut random, bid),
        }
        event
    }
}

/// The last person (from 0) who came up to event `number`.
fn last_person(number: u64) -> u64 {
    const { assert!(PEOPLE_PER_EPOCH == 1) };
    number / EPOCH
}

/// The last auction (from 0) that opened up to event `number`; none did before the first person came.
fn last_auction(number: u64) -> Option<u64> {
    let opened = (number % EPOCH + 1).saturating_sub(PEOPLE_PER_EPOCH).min(AUCTIONS_PER_EPOCH);
    (number / EPOCH * AUCTIONS_PER_EPOCH + opened).checked_sub(1)
}

/// Somebody active, or who will come soon.
fn any_person(number: u64, random: &mut Random) -> u64 {
    let people = last_person(number) + 1;
    let active = people.min(ACTIVE_PEOPLE);
    people - active + random.below(active + ID_LEAD)
}

/// From 100 to 100,000,000, each order of magnitude as often.
fn price(random: &mut Random) -> u64 {
    (10f64.powf(random.unit() * 6.0) * 100.0).round() as u64
}

fn refill(random: &mut Random, len: u64, average: u64, extra: &mut String) {
    let mut bytes = std::mem::take(extra).into_bytes();
    bytes.clear();
    bytes.resize(random.missing_len(len, average), 0);
    random.letters(&mut bytes);
    *extra = String::from_utf8(bytes).expect("letters are ASCII");
}

#[cfg(test)]
mod tests {
    use super::*;

    const GENERATOR: Generator = Generator { seed: 1, events_per_second: 10_000 };
    const EVENTS: u64 = 100_000;

    fn events() -> impl Iterator<Item = Event> {
        (0..EVENTS).map(|number| GENERATOR.event(number))
    }

    #[test]
    fn of_fifty_events_one_is_a_person_and_three_are_auctions() {
        let kinds = |events: &mut dyn Iterator<Item = Event>| {
            events.fold([0; 3], |[people, auctions, bids], event| match event.body {
                Body::Person(_) => [people + 1, auctions, bids],
                Body::Auction(_) => [people, auctions + 1, bids],
                Body::Bid(_) => [people, auctions, bids + 1],
            })
        };
        assert_eq!(kinds(&mut events().take(50)), [1, 3, 46]);
        assert_eq!(kinds(&mut events().skip(25).take(5_000)), [100, 300, 4_600]);
    }

    #[test]
    fn people_and_auctions_are_numbered_without_a_gap() {
        let people: Vec<u64> =
            events().filter_map(|e| if let Body::Person(p) = e.body { Some(p.id) } else { None }).collect();
        let auctions: Vec<u64> =
            events().filter_map(|e| if let Body::Auction(a) = e.body { Some(a.id) } else { None }).collect();
        assert_eq!(people, (1_000..1_000 + EVENTS / 50).collect::<Vec<_>>());
        assert_eq!(auctions, (1_000..1_000 + EVENTS / 50 * 3).collect::<Vec<_>>());
    }

    #[test]
    fn sizes_are_the_averages_of_nexmark() {
        let (mut bytes, mut counts) = ([0; 3], [0; 3]);
        for event in events() {
            let kind = match event.body {
                Body::Person(_) => 0,
                Body::Auction(_) => 1,
                Body::Bid(_) => 2,
            };
            bytes[kind] += event.len_bytes();
            counts[kind] += 1;
        }
        for (kind, average) in [200.0, 500.0, 100.0].into_iter().enumerate() {
            let found = bytes[kind] as f64 / f64::from(counts[kind]);
            assert!((found / average - 1.0).abs() < 0.05, "kind {kind}: {found} bytes");
        }
    }

    #[test]
    fn names_cities_and_states_fit_into_texts() {
        let names = FIRST_NAMES.iter().flat_map(|first| LAST_NAMES.map(|last| format!("{first} {last}")));
        for text in names.chain(CITIES.map(str::to_owned)).chain(STATES.map(str::to_owned)) {
            assert_eq!(super::super::Text::new(&text).as_str(), text);
        }
    }

    #[test]
    fn half_the_bids_are_for_a_hot_auction_and_three_quarters_by_a_hot_bidder() {
        let bids: Vec<Bid> = events().filter_map(|event| event.bid().copied()).collect();
        let share = |is_hot: fn(&Bid) -> bool| bids.iter().filter(|bid| is_hot(bid)).count() as f64 / bids.len() as f64;
        let auctions = share(|bid| bid.auction % 100 == 0);
        let bidders = share(|bid| bid.bidder % 100 == 1);
        assert!((auctions - 0.505).abs() < 0.02 && (bidders - 0.7525).abs() < 0.02, "{auctions} {bidders}");
    }

    #[test]
    fn bids_are_for_auctions_in_flight_or_soon_to_come() {
        for number in 4..EVENTS {
            let event = GENERATOR.event(number);
            if let Some(bid) = event.bid() {
                let last = 1_000 + last_auction(number).unwrap();
                assert!(bid.auction + 200 >= last && bid.auction <= last + ID_LEAD, "{number}: {} {last}", bid.auction);
                assert!((100..=100_000_000).contains(&bid.price));
            }
        }
    }

    #[test]
    fn events_happen_at_the_rate() {
        assert_eq!(GENERATOR.at_ms(0), BASE_AT_MS);
        assert_eq!(GENERATOR.at_ms(9), BASE_AT_MS);
        assert_eq!(GENERATOR.at_ms(10), BASE_AT_MS + 1);
        assert_eq!(GENERATOR.at_ms(10_000), BASE_AT_MS + 1_000);
        let dense = Generator { events_per_second: 3_000_000, ..GENERATOR };
        assert_eq!(dense.at_ms(u64::MAX / 2) - BASE_AT_MS, 3_074_457_345_618_258);
    }

    #[test]
    fn an_event_is_made_alone_and_after_others_alike() {
        let mut maker = Maker::new(GENERATOR);
        for number in (0..2_000).chain([3, 1, 0, 70]) {
            assert_eq!(*maker.make(number), GENERATOR.event(number), "{number}");
        }
        let other = Generator { seed: 2, ..GENERATOR };
        assert_ne!(other.event(70), GENERATOR.event(70));
    }
}
