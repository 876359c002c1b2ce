//! Hot items: counts per auction and slice, their sum over the slices of a window kept as they come and go; of each worker its hottest auctions
//! go to the one that has the window.

use super::{Granule, Map, is_over, place};
use hashbrown::hash_map::Entry;
use millstream::nexmark::q5::{HotAuction, SLIDE_MS, WINDOW_MS};
use std::collections::VecDeque;
use timely::dataflow::Stream;
use timely::dataflow::channels::pact::Exchange;
use timely::dataflow::operators::{Capability, Operator};
use timely::progress::frontier::MutableAntichain;

const SLICES: usize = (WINDOW_MS / SLIDE_MS) as usize;

type Counts = Map<u64, u64>;
/// The number of a window's last slice, an auction, its bids.
type Hot = (u64, u64, u64);

/// What a worker counted.
struct Windows {
    granules_per_slice: u64,
    /// Slices of which more may come.
    open: Vec<(u64, Counts)>,
    /// The others of the last window, and what they add up to.
    closed: VecDeque<Counts>,
    window: Counts,
    spare: Counts,
}

impl Windows {
    fn slice(&mut self, number: u64) -> &mut Counts {
        let at = self.open.iter().position(|(of, _)| *of == number).unwrap_or_else(|| {
            self.open.push((number, std::mem::take(&mut self.spare)));
            self.open.len() - 1
        });
        &mut self.open[at].1
    }

    /// The next slice of which no more comes.
    fn next_over(&self, frontier: &MutableAntichain<u64>, from: u64) -> Option<u64> {
        let next = match self.window.is_empty() {
            // Nothing happened for a window's length.
            true => self.open.iter().map(|(slice, _)| *slice).min()?,
            false => from,
        };
        is_over(frontier, (next + 1) * self.granules_per_slice - 1).then_some(next)
    }

    /// Ends a slice, and so a window.
    fn close(&mut self, number: u64, mut hot: impl FnMut(Hot)) {
        let at = self.open.iter().position(|(of, _)| *of == number);
        let slice = at.map(|at| self.open.swap_remove(at).1).unwrap_or_default();
        for (auction, bids) in &slice {
            *self.window.entry(*auction).or_default() += bids;
        }
        self.closed.push_back(slice);
        let most = self.window.values().max().copied().unwrap_or_default();
        self.window
            .iter()
            .filter(|(_, bids)| **bids == most)
            .for_each(|(auction, bids)| hot((number, *auction, *bids)));
        if self.closed.len() == SLICES {
            let mut oldest = self.closed.pop_front().unwrap_or_default();
            for (auction, bids) in oldest.drain() {
                if let Entry::Occupied(mut counted) = self.window.entry(auction) {
                    *counted.get_mut() -= bids;
                    if *counted.get() == 0 {
                        counted.remove();
                    }
                }
            }
            self.spare = oldest;
        }
    }
}

pub fn hottest(auctions: Stream<'_, u64, Vec<u64>>, granule: Granule) -> Stream<'_, u64, Vec<HotAuction>> {
    let granules_per_slice = (SLIDE_MS / granule.ms) as u64;
    auctions
        .unary_frontier(Exchange::new(|auction: &u64| place(*auction)), "Count", move |capability, _| {
            let mut windows = Windows {
                granules_per_slice,
                open: Vec::new(),
                closed: VecDeque::new(),
                window: Counts::default(),
                spare: Counts::default(),
            };
            let (mut held, mut next) = (Some(capability), 0);
            move |(input, frontier), output| {
                input.for_each_stamp(|stamp, batches| {
                    let Some(time) = stamp.least() else { return };
                    let counts = windows.slice(time / granules_per_slice);
                    for batch in batches {
                        batch.iter().for_each(|auction| *counts.entry(*auction).or_default() += 1);
                    }
                });
                let Some(capability) = &mut held else { return };
                while let Some(slice) = windows.next_over(frontier, next) {
                    capability.downgrade(&(slice * granules_per_slice));
                    let mut session = output.session(&*capability);
                    windows.close(slice, |hot| session.give(hot));
                    next = slice + 1;
                }
                capability.downgrade(&(next * granules_per_slice));
                if frontier.is_empty() {
                    held = None;
                }
            }
        })
        .container::<Vec<Hot>>()
        .unary_frontier(Exchange::new(|(slice, ..): &Hot| *slice), "Hottest", move |_, _| {
            let mut windows = Vec::<(Capability<u64>, u64, Vec<u64>)>::new();
            move |(input, frontier), output| {
                input.for_each_stamp(|stamp, batches| {
                    let Some(capability) = stamp.retain_least(output.output_index()) else { return };
                    let at = windows.iter().position(|(of, ..)| *of == capability).unwrap_or_else(|| {
                        windows.push((capability, 0, Vec::new()));
                        windows.len() - 1
                    });
                    let (_, most, hottest) = &mut windows[at];
                    for (_, auction, bids) in batches.flat_map(|batch| batch.drain(..)) {
                        if bids > *most {
                            *most = bids;
                            hottest.clear();
                        }
                        if bids == *most {
                            hottest.push(auction);
                        }
                    }
                });
                windows.retain(|(capability, bids, hottest)| {
                    let is_over = is_over(frontier, *capability.time());
                    if is_over {
                        let rows = hottest.iter().map(|auction| HotAuction { auction: *auction, bids: *bids });
                        output.session(capability).give_iterator(rows);
                    }
                    !is_over
                });
            }
        })
}
