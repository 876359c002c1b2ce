//! What the queries ask for, word by word, over a list of events: no slices, no order, no state that is kept small.

use millstream::nexmark::q1::EuroBid;
use millstream::nexmark::q2::SelectedBid;
use millstream::nexmark::q3::LocalItem;
use millstream::nexmark::q5::HotAuction;
use millstream::nexmark::q8::NewSeller;
use millstream::nexmark::{Auction, Bid, Body, Event, Person, Query, Text};
use millstream::sink::RowSum;
use millstream::ysb::{AdEvent, CampaignViews, Campaigns};
use std::collections::{BTreeMap, BTreeSet};
use std::hash::Hash;

/// The sum over all rows of the answer.
pub fn answer(query: Query, events: &[Event]) -> RowSum {
    match query {
        Query::Q0 => sum(bids(events)),
        Query::Q1 => sum(bids(events).map(|bid| EuroBid {
            auction: bid.auction,
            bidder: bid.bidder,
            price_thousandths: bid.price * 908,
            at: bid.at,
            extra: bid.extra,
        })),
        Query::Q2 => sum(bids(events)
            .filter(|bid| bid.auction % 123 == 0)
            .map(|bid| SelectedBid { auction: bid.auction, price: bid.price })),
        Query::Q3 => local_items(events),
        Query::Q5 => hot_auctions(events),
        Query::Q7 => highest_bids(events),
        Query::Q8 => new_sellers(events),
    }
}

/// Views of each campaign in each 10 s.
pub fn campaign_views(events: &[AdEvent], campaigns: &Campaigns) -> RowSum {
    let mut views = BTreeMap::new();
    for event in events.iter().filter(|event| event.event_type == 0) {
        let campaign = campaigns.of(&event.ad).expect("every advertisement has a campaign");
        *views.entry((campaign, event.at / 10_000 * 10_000)).or_insert(0) += 1;
    }
    sum(views.into_iter().map(|((campaign, start), views)| CampaignViews { campaign, start, views }))
}

fn sum<R: Hash>(rows: impl IntoIterator<Item = R>) -> RowSum {
    let mut sum = RowSum::default();
    rows.into_iter().for_each(|row| sum.add(&row));
    sum
}

fn bids(events: &[Event]) -> impl Iterator<Item = Bid> {
    events.iter().filter_map(|event| event.bid().copied())
}

fn people(events: &[Event]) -> impl Iterator<Item = (i64, &Person)> {
    events.iter().filter_map(|event| match &event.body {
        Body::Person(person) => Some((event.at, &**person)),
        _ => None,
    })
}

fn auctions(events: &[Event]) -> impl Iterator<Item = (i64, &Auction)> {
    events.iter().filter_map(|event| match &event.body {
        Body::Auction(auction) => Some((event.at, &**auction)),
        _ => None,
    })
}

fn local_items(events: &[Event]) -> RowSum {
    let mut sellers: BTreeMap<u64, Vec<&Person>> = BTreeMap::new();
    for (_, person) in people(events).filter(|(_, person)| ["OR", "ID", "CA"].contains(&person.state)) {
        sellers.entry(person.id).or_default().push(person);
    }
    sum(auctions(events).filter(|(_, auction)| auction.category == 10).flat_map(|(_, auction)| {
        let sellers = sellers.get(&auction.seller).into_iter().flatten();
        sellers.map(|person| LocalItem {
            name: Text::new(&person.name),
            city: Text::new(person.city),
            state: Text::new(person.state),
            auction: auction.id,
        })
    }))
}

/// One copy of every bid for each of its five windows.
fn hot_auctions(events: &[Event]) -> RowSum {
    let mut windows: BTreeMap<i64, BTreeMap<u64, u64>> = BTreeMap::new();
    for bid in bids(events) {
        for start in (bid.at - 9_999..=bid.at).filter(|start| start % 2_000 == 0) {
            *windows.entry(start).or_default().entry(bid.auction).or_default() += 1;
        }
    }
    sum(windows.into_values().flat_map(|counts| {
        let most = *counts.values().max().expect("a window holds a bid");
        counts.into_iter().filter(move |(_, bids)| *bids == most).map(|(auction, bids)| HotAuction { auction, bids })
    }))
}

fn highest_bids(events: &[Event]) -> RowSum {
    let mut highest: BTreeMap<i64, u64> = BTreeMap::new();
    for bid in bids(events) {
        let price = highest.entry(bid.at / 10_000 * 10_000 + 10_000).or_default();
        *price = bid.price.max(*price);
    }
    sum(highest.into_iter().flat_map(|(end, price)| {
        bids(events).filter(move |bid| bid.price == price && (end - 10_000..=end).contains(&bid.at))
    }))
}

fn new_sellers(events: &[Event]) -> RowSum {
    let window = |at: i64| at / 10_000 * 10_000;
    let people: BTreeSet<_> = people(events).map(|(at, person)| (person.id, &person.name, window(at))).collect();
    let sellers: BTreeSet<_> = auctions(events).map(|(at, auction)| (auction.seller, window(at))).collect();
    sum(people
        .into_iter()
        .filter(|(id, _, start)| sellers.contains(&(*id, *start)))
        .map(|(id, name, start)| NewSeller { id, name: Text::new(name), start }))
}
