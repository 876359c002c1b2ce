//! Nexmark's queries as timely dataflows, one file for each that needs state.
//!
//! ```text
//!  events, read in place -> what the query needs of them, in batches -> operators -> rows, hashed     one such pipeline per worker
//! ```
//! Meant as timely's best case: what needs neither state nor another worker happens as events are read, as in our chains, so that no event is
//! cloned; records carry no time, the stamp says the window; several thousand events enter between two steps.
//!
//! Here: reading, time, the sink. Not here: what is asked (`millstream::nexmark`).

mod q3;
mod q5;
mod q7;
mod q8;
mod sent;
mod text;

use super::on_workers;
use foldhash::fast::FixedState;
use hashbrown::HashMap;
use millstream::nexmark::q5::SLIDE_MS;
use millstream::nexmark::{Bid, Event, Nexmark, Query, q1, q2};
use millstream::sink::RowSum;
use std::cell::RefCell;
use std::hash::Hash;
use std::rc::Rc;
use std::time::{Duration, Instant};
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::{Operator, Probe};
use timely::dataflow::{InputHandle, ProbeHandle, Stream};
use timely::progress::frontier::MutableAntichain;
use timely::worker::Worker;

type Map<K, V> = HashMap<K, V, FixedState>;

/// What a worker reads before it steps; 1,024 were as fast in q1, q5 and q8.
const BATCH_EVENTS: usize = 4096;

/// A unit of timely's time: so many milliseconds of event time. No window begins or ends within one.
#[derive(Clone, Copy)]
struct Granule {
    ms: i64,
}

impl Granule {
    /// The one that `at` lies in.
    fn of(self, at: i64) -> u64 {
        at.div_euclid(self.ms) as u64
    }

    /// When it begins.
    fn begin_ms(self, time: u64) -> i64 {
        time as i64 * self.ms
    }
}

/// Whether no more comes at `time` or before.
fn is_over(frontier: &MutableAntichain<u64>, time: u64) -> bool {
    !frontier.less_equal(&time)
}

/// Which worker has a key: ids of hot auctions and people have factors in common.
fn place(key: u64) -> u64 {
    key.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32
}

/// The rows of `query`, and how long it took from building the dataflow to its end: the slowest worker's time.
pub fn answer(query: Query, events: &Nexmark, workers: u32) -> (RowSum, Duration) {
    let events = events.clone();
    let each = on_workers(workers, move |worker| {
        let begun = Instant::now();
        (of_worker(query, &events, worker), begun.elapsed())
    });
    each.into_iter().fold(Default::default(), |(mut rows, slowest): (RowSum, Duration), (own, took)| {
        rows.merge(own);
        (rows, slowest.max(took))
    })
}

fn of_worker(query: Query, events: &Nexmark, worker: &mut Worker) -> RowSum {
    // As coarse as the answers allow: a slice of a window is one unit of time, a query without windows is all at one. Units of 10 ms (100,000
    // events of the dense stream, 1,000 of the sparse) were no faster in q0, q3, q5 and q8, where they were tried.
    let ms = match query {
        Query::Q5 => SLIDE_MS,
        _ => query.window_ms().unwrap_or(i64::MAX),
    };
    let run = Run { events, granule: Granule { ms } };
    match query {
        Query::Q0 => run.rows(worker, of_bid(|bid| Some(*bid)), |bids, _| bids, add),
        Query::Q1 => run.rows(worker, of_bid(|bid| Some(q1::in_euros(bid))), |bids, _| bids, add),
        Query::Q2 => run.rows(worker, of_bid(q2::selected), |bids, _| bids, add),
        Query::Q3 => run.rows(worker, q3::entry, |entries, _| q3::joined(entries), q3::add),
        Query::Q5 => run.rows(worker, of_bid(|bid| Some(bid.auction)), q5::hottest, add),
        Query::Q7 => run.rows(worker, q7::Candidates::default().reader(), q7::highest, q7::add),
        Query::Q8 => run.rows(worker, q8::entry, q8::new_sellers, q8::add),
    }
}

/// Rows that are hashed as they are.
fn add(row: &impl Hash, rows: &mut RowSum) {
    rows.add(row);
}

fn of_bid<D>(of: impl Fn(&Bid) -> Option<D>) -> impl FnMut(&Event, &mut Vec<D>) {
    move |event, batch| batch.extend(event.bid().and_then(&of))
}

/// One worker's run of one query.
struct Run<'a> {
    events: &'a Nexmark,
    granule: Granule,
}

impl Run<'_> {
    /// Reads the worker's events; `read` takes from each what the query needs, `query` makes rows of that, `add` hashes them.
    fn rows<D: Clone + 'static, R: Clone + 'static>(
        &self,
        worker: &mut Worker,
        mut read: impl FnMut(&Event, &mut Vec<D>),
        query: impl for<'s> FnOnce(Stream<'s, u64, Vec<D>>, Granule) -> Stream<'s, u64, Vec<R>>,
        add: impl Fn(&R, &mut RowSum) + 'static,
    ) -> RowSum {
        let granule = self.granule;
        let (mut input, probe, sum) =
            (InputHandle::new(), ProbeHandle::new(), Rc::new(RefCell::new(RowSum::default())));
        let added = sum.clone();
        worker.dataflow::<u64, _, _>(|scope| {
            query(input.to_stream(scope), granule)
                .unary(Pipeline, "Rows", move |_, _| {
                    move |input, output| {
                        let mut rows = added.borrow_mut();
                        input.for_each_stamp(|stamp, batches| {
                            for batch in batches {
                                batch.iter().for_each(|row| add(row, &mut rows));
                            }
                            let _ = output.session(&stamp);
                        });
                    }
                })
                .container::<Vec<()>>()
                .probe_with(&probe);
        });
        let mut events = self.events.events(worker.index() as u32);
        let (mut batch, mut over_at, mut has_more) = (Vec::new(), i64::MIN, true);
        while has_more {
            batch.reserve(BATCH_EVENTS);
            has_more = events.read_each(BATCH_EVENTS, |event| {
                if event.at >= over_at {
                    input.send_batch(&mut batch);
                    batch.reserve(BATCH_EVENTS);
                    let time = granule.of(event.at);
                    input.advance_to(time);
                    over_at = granule.begin_ms(time).saturating_add(granule.ms);
                }
                read(event, &mut batch);
            });
            input.send_batch(&mut batch);
            worker.step();
        }
        drop(events);
        input.close();
        worker.step_while(|| !probe.done());
        sum.take()
    }
}
