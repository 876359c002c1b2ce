//! Theirs: timely dataflow, in the same process, workers pinned to the cores that our slots get.
//!
//! State is hashbrown's map with foldhash, the quickest general table there is; records are plain vectors, as in its own examples.

mod nexmark;

use crate::peer::{OpenLoop, Peer};
use crate::support::histogram;
use crate::workloads::{KeyedStream, Outcome, square};
use foldhash::fast::FixedState;
use hashbrown::HashMap;
use hdrhistogram::Histogram;
use millstream::nexmark::{Nexmark, Query};
use millstream::sink::RowSum;
use millstream::slot::{AllowedCpus, pin_current_thread};
use millstream::time::{Clock, MachineClock};
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};
use timely::dataflow::channels::pact::{Exchange, Pipeline};
use timely::dataflow::operators::{Operator, Probe};
use timely::dataflow::{InputHandle, ProbeHandle};

/// Records a worker sends before it steps.
const BATCH: u64 = 4096;
/// Rounds that may be under way: enough that no worker waits for the progress of the other.
const ROUNDS_UNDER_WAY: u64 = 8;

/// Timely dataflow.
pub struct Timely;

type Counts = HashMap<u64, u64, FixedState>;

impl Peer for Timely {
    fn name(&self) -> &'static str {
        "timely"
    }

    fn rolling_sum(&self, stream: KeyedStream, workers: u32) -> Option<Outcome> {
        let each = on_workers(workers, move |worker| {
            let (index, peers) = (worker.index() as u64, worker.peers() as u64);
            let (mut input, probe, sum) = (InputHandle::new(), ProbeHandle::new(), Rc::new(Cell::new(0u64)));
            let added = sum.clone();
            worker.dataflow::<u64, _, _>(|scope| {
                input
                    .to_stream(scope)
                    .unary(Exchange::new(|record: &(u64, u64)| record.0), "Count", |_, _| {
                        let mut counts = Counts::default();
                        move |input, output| {
                            input.for_each_stamp(|stamp, batches| {
                                let mut session = output.session(&stamp);
                                for (key, by) in batches.flat_map(|batch| batch.drain(..)) {
                                    let count = counts.entry(key).or_default();
                                    *count += by;
                                    session.give((key, *count));
                                }
                            });
                        }
                    })
                    .container::<Vec<(u64, u64)>>()
                    .unary(Pipeline, "Sum", move |_, _| {
                        move |input, output| {
                            input.for_each_stamp(|stamp, batches| {
                                let each = batches.flat_map(|batch| batch.drain(..));
                                added.set(each.fold(added.get(), |sum, (_, count)| sum.wrapping_add(count)));
                                let _ = output.session(&stamp);
                            });
                        }
                    })
                    .container::<Vec<()>>()
                    .probe_with(&probe);
            });
            let mut round = 0;
            let mut send = |numbers: std::ops::Range<u64>| {
                let mut own = (numbers.start + (index + peers - numbers.start % peers) % peers..numbers.end)
                    .step_by(peers as usize)
                    .peekable();
                while own.peek().is_some() {
                    own.by_ref().take(BATCH as usize).for_each(|n| input.send((stream.key(n), 1)));
                    round += 1;
                    input.advance_to(round);
                    worker.step();
                    worker.step_while(|| probe.less_than(&round.saturating_sub(ROUNDS_UNDER_WAY)));
                }
                // The other worker's records are counted here, too.
                worker.step_while(|| probe.less_than(&round));
            };
            send(0..stream.keys);
            let begun = Instant::now();
            send(stream.keys..stream.total());
            input.close();
            worker.step_while(|| !probe.done());
            (sum.get(), begun.elapsed())
        });
        Some(outcome(&each, stream.records))
    }

    fn tumbling_sum(&self, stream: KeyedStream, workers: u32) -> Option<Outcome> {
        let each = on_workers(workers, move |worker| {
            let (index, peers) = (worker.index() as u64, worker.peers() as u64);
            let (mut input, probe, sum) = (InputHandle::new(), ProbeHandle::new(), Rc::new(Cell::new(0u64)));
            let added = sum.clone();
            // Time is the number of the second.
            worker.dataflow::<u64, _, _>(|scope| {
                input
                    .to_stream(scope)
                    .unary_frontier(Exchange::new(|record: &(u64, u64)| record.0), "Window", |_, _| {
                        let (mut windows, mut spare) = (Vec::<(_, Counts)>::new(), Counts::default());
                        move |(input, frontier), output| {
                            input.for_each_stamp(|stamp, batches| {
                                let Some(stamp) = stamp.retain_least(output.output_index()) else { return };
                                let at = windows.iter().position(|(of, _)| *of == stamp).unwrap_or_else(|| {
                                    windows.push((stamp, std::mem::take(&mut spare)));
                                    windows.len() - 1
                                });
                                for (key, by) in batches.flat_map(|batch| batch.drain(..)) {
                                    *windows[at].1.entry(key).or_default() += by;
                                }
                            });
                            while let Some(over) = windows.iter().position(|(of, _)| !frontier.less_equal(of.time())) {
                                let (stamp, mut counts) = windows.swap_remove(over);
                                output.session(&stamp).give_iterator(counts.drain());
                                spare = counts;
                            }
                        }
                    })
                    .container::<Vec<(u64, u64)>>()
                    .unary(Pipeline, "Sum", move |_, _| {
                        move |input, output| {
                            input.for_each_stamp(|stamp, batches| {
                                let each = batches.flat_map(|batch| batch.drain(..));
                                added.set(each.fold(added.get(), |sum, (_, count)| sum.wrapping_add(square(count))));
                                let _ = output.session(&stamp);
                            });
                        }
                    })
                    .container::<Vec<()>>()
                    .probe_with(&probe);
            });
            let mut begun = Instant::now();
            for second in 0..stream.total().div_ceil(stream.per_second) {
                let numbers = second * stream.per_second..((second + 1) * stream.per_second).min(stream.total());
                let mut own = (numbers.start + (index + peers - numbers.start % peers) % peers..numbers.end)
                    .step_by(peers as usize)
                    .peekable();
                while own.peek().is_some() {
                    own.by_ref().take(BATCH as usize).for_each(|n| input.send((stream.key(n), 1)));
                    worker.step();
                }
                if second == 0 {
                    begun = Instant::now();
                }
                input.advance_to(second + 1);
                worker.step_while(|| probe.less_than(&second));
            }
            input.close();
            worker.step_while(|| !probe.done());
            (sum.get(), begun.elapsed())
        });
        Some(outcome(&each, stream.total() - stream.per_second))
    }

    fn nexmark(&self, query: Query, events: &Nexmark, workers: u32) -> Option<(RowSum, Duration)> {
        Some(nexmark::answer(query, events, workers))
    }

    fn hop(&self, load: OpenLoop) -> Option<Histogram<u64>> {
        let each = on_workers(2, move |worker| {
            let (mut input, probe) = (InputHandle::new(), ProbeHandle::new());
            let latencies = Rc::new(RefCell::new(histogram()));
            let recorded = latencies.clone();
            let begun_ns = MachineClock.monotonic_ns();
            let intended = move |n: u64| begun_ns + n * 1_000_000_000 / load.rate;
            let warm_up_ns = intended(load.count / 10);
            worker.dataflow::<u64, _, _>(|scope| {
                input
                    .to_stream(scope)
                    .unary(Exchange::new(|record: &(u64, u64)| record.0), "Count", |_, _| {
                        let mut counts = Counts::default();
                        move |input, output| {
                            input.for_each_stamp(|stamp, batches| {
                                for (key, origin_ns) in batches.flat_map(|batch| batch.drain(..)) {
                                    *counts.entry(key).or_default() += 1;
                                    let now_ns = MachineClock.monotonic_ns();
                                    if origin_ns > warm_up_ns {
                                        recorded.borrow_mut().saturating_record(now_ns.saturating_sub(origin_ns));
                                    }
                                }
                                let _ = output.session(&stamp);
                            });
                        }
                    })
                    .container::<Vec<()>>()
                    .probe_with(&probe);
            });
            if worker.index() == 0 {
                let (mut next, mut round) = (0, 0);
                while next < load.count {
                    let now_ns = MachineClock.monotonic_ns();
                    if intended(next) <= now_ns {
                        while next < load.count && intended(next) <= now_ns {
                            input.send((load.key(next), intended(next)));
                            next += 1;
                        }
                        // Hands over what was sent.
                        round += 1;
                        input.advance_to(round);
                    }
                    worker.step();
                }
            }
            input.close();
            worker.step_while(|| !probe.done());
            let latencies = latencies.borrow();
            latencies.clone()
        });
        each.into_iter().reduce(|mut all, of_worker| {
            all.add(of_worker).expect("both have the same bounds");
            all
        })
    }
}

/// The slowest worker's time counts.
fn outcome(each: &[(u64, Duration)], records: u64) -> Outcome {
    let took = each.iter().map(|(_, took)| *took).max().unwrap_or_default();
    let checksum = each.iter().fold(0u64, |sum, (of_worker, _)| sum.wrapping_add(*of_worker));
    Outcome { per_s: records as f64 / took.as_secs_f64(), checksum }
}

/// Runs the same on so many pinned workers.
fn on_workers<T: Send + 'static>(
    workers: u32,
    run: impl Fn(&mut timely::worker::Worker) -> T + Send + Sync + 'static,
) -> Vec<T> {
    let cpus = AllowedCpus::of_process().for_slots(workers as usize);
    let config = match workers {
        1 => timely::Config::thread(),
        _ => timely::Config::process(workers as usize),
    };
    let guards = timely::execute(config, move |worker| {
        cpus[worker.index()].map(|cpu| pin_current_thread("timely", cpu));
        run(worker)
    });
    let ended = guards.expect("timely starts its threads").join();
    ended.into_iter().map(|of_worker| of_worker.expect("no worker panics")).collect()
}
