//! Jobs and naive code give the same rows, however the job is cut up and wherever its events are made.

use super::naive;
use millstream::engine::{Engine, JobOptions};
use millstream::nexmark::{Event, Generator, Nexmark, Query};
use millstream::numbered::{Numbered, NumberedReader, Origin};
use millstream::rows::Rows;
use millstream::sink::{Checksum, RowSum};
use millstream::stream::Job;
use millstream::ysb::{AdEvents, Ysb};

/// Half a minute of event time, and a few milliseconds of it.
const RATES: [u64; 2] = [1_000, 10_000_000];
const EVENTS: u64 = 30_000;
const MADE_AHEAD: Origin = Origin::PreGenerated { records_max: EVENTS };
/// Each event comes about four times.
const REPLAYED: Origin = Origin::PreGenerated { records_max: 7_000 };

#[test]
fn every_query_answers_what_naive_code_answers() {
    for rate in RATES {
        for query in Query::ALL {
            let nexmark = |origin| nexmark(query, rate, 1, origin);
            let expected = naive::answer(query, &all(&mut nexmark(Origin::Inline).events(0)));
            assert!(expected.rows > 0, "{query:?} at {rate}/s");
            assert_eq!(run(nexmark(Origin::Inline), 1), expected, "{query:?} at {rate}/s");
        }
    }
}

#[test]
fn answers_depend_neither_on_slots_nor_on_splits_nor_on_where_events_are_made() {
    for query in Query::ALL {
        let expected = run(nexmark(query, RATES[0], 1, Origin::Inline), 1);
        for (slots, splits, origin) in
            [(2, 1, Origin::Inline), (1, 3, MADE_AHEAD), (2, 4, Origin::Inline), (2, 4, MADE_AHEAD)]
        {
            let answer = run(nexmark(query, RATES[0], splits, origin), slots);
            assert_eq!(answer, expected, "{query:?} on {slots} slots from {splits} splits, {origin:?}");
        }
    }
}

#[test]
fn a_replay_is_answered_as_the_events_it_stands_for() {
    for query in Query::ALL {
        let replayed = |splits| nexmark(query, RATES[0], splits, REPLAYED);
        let events: Vec<Event> = (0..2).flat_map(|split| all(&mut replayed(2).events(split))).collect();
        assert_eq!(events.len() as u64, EVENTS);
        assert_eq!(run(replayed(2), 2), naive::answer(query, &events), "{query:?}");
    }
}

#[test]
fn the_yahoo_benchmark_counts_what_naive_code_counts() {
    let events = AdEvents { seed: 5, events_per_second: 1_000, campaigns: 7 };
    for (origin, splits, slots) in [(Origin::Inline, 1, 1), (MADE_AHEAD, 3, 2), (REPLAYED, 2, 1)] {
        let ysb = Ysb::new(events, EVENTS, splits, origin);
        let all: Vec<_> = (0..splits).flat_map(|split| all(&mut ysb.events(split))).collect();
        let expected = naive::campaign_views(&all, &events.campaigns());
        assert_eq!(expected.rows, 7 * 3);
        assert_eq!(sum_of(slots, |rows| ysb.job("ysb", rows)), expected, "{origin:?}");
    }
}

fn nexmark(query: Query, rate: u64, splits: u32, origin: Origin) -> Nexmark {
    Nexmark::new(query, Generator { seed: 3, events_per_second: rate }, EVENTS, splits, origin)
}

fn all<N: Numbered>(reader: &mut NumberedReader<N>) -> Vec<N::Record> {
    let mut records = Vec::new();
    while reader.read_each(1_000, |record| records.push(record.clone())) {}
    records
}

fn run(nexmark: Nexmark, slots: u32) -> RowSum {
    sum_of(slots, |rows| nexmark.job("nexmark", rows))
}

fn sum_of(slots: u32, job: impl FnOnce(&Rows) -> Job) -> RowSum {
    let engine = Engine::builder().slots(slots).memory(256 << 20).start().expect("slots start anywhere");
    let sum = Checksum::default();
    let handle = engine.submit(job(&Rows::Hashed(sum.clone())), JobOptions::default()).expect("the job is valid");
    handle.wait().expect("nothing in the job fails");
    engine.stop();
    sum.sum()
}
