//! The Yahoo Streaming Benchmark as a job: views of advertisements, counted per campaign in windows of 10 s.
//!
//! ```text
//! events -> views -> campaign of the advertisement --by campaign--> count per window -> rows
//! ```
//! No broker and no store, as in Grizzly's and LightSaber's variant: events come from memory or are made when they are read.

mod event;

pub use event::{AdEvent, Campaigns, Id, VIEW};

use crate::numbered::{Numbered, NumberedReader, NumberedSource, Origin};
use crate::random::Random;
use crate::rows::Rows;
use bytemuck::Zeroable;
use event::{AD_TYPES, EVENT_TYPES, id_of_ad};
use millstream::operator::Count;
use millstream::stream::Job;
use millstream::time::{EventTimeMs, Watermarks};
use millstream::window::{Tumbling, WindowResult};
use serde::Serialize;
use std::sync::Arc;

/// How long a window is.
pub const WINDOW_MS: i64 = 10_000;
/// How many advertisements a campaign has.
pub const ADS_PER_CAMPAIGN: u64 = 10;
/// The name of the source, by which its counters are found.
pub const SOURCE: &str = "events";

/// What decides over the content of every event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AdEvents {
    /// Another seed makes other events.
    pub seed: u64,
    /// How many events happen in a second of event time, above 0.
    pub events_per_second: u64,
    /// How many campaigns there are, above 0.
    pub campaigns: u64,
}

/// A run of the benchmark.
#[derive(Clone)]
pub struct Ysb {
    events: AdEvents,
    source: NumberedSource<AdEvents>,
}

/// How often a campaign was seen in a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct CampaignViews {
    /// The campaign.
    pub campaign: u64,
    /// Start of the window, in milliseconds since 1970.
    pub start: i64,
    /// How often.
    pub views: u64,
}

impl Ysb {
    /// The first `count` of `events`. Makes those that are to be replayed.
    pub fn new(events: AdEvents, count: u64, splits: u32, origin: Origin) -> Self {
        Self { events, source: NumberedSource::new(events, count, splits, origin) }
    }

    /// The events of one split, without a job.
    pub fn events(&self, split: u32) -> NumberedReader<AdEvents> {
        self.source.reader(split)
    }

    /// The benchmark as a job that sends its rows to `rows`.
    pub fn job(&self, name: &str, rows: &Rows) -> Job {
        let job = Job::new(name);
        let campaigns = Arc::new(self.events.campaigns());
        let views = job
            .source(SOURCE, self.source.clone())
            .event_time(|event: &AdEvent| EventTimeMs(event.at), Watermarks::monotonous().never_idle())
            .filter(|event| event.event_type == VIEW)
            .flat_map(move |event| campaigns.of(&event.ad))
            .combine_by_key("by-campaign", |campaign: &u64| *campaign, Tumbling::of(WINDOW_MS), Count)
            .aggregate("views");
        rows.end(views.map(|of: &WindowResult<u64, u64>| CampaignViews {
            campaign: of.key,
            start: of.window.start,
            views: of.value,
        }));
        job
    }
}

impl AdEvents {
    /// Which campaign each advertisement belongs to.
    pub fn campaigns(&self) -> Campaigns {
        Campaigns::new(self.campaigns, self.ads())
    }

    fn ads(&self) -> u64 {
        self.campaigns.saturating_mul(ADS_PER_CAMPAIGN)
    }

    fn at_ms(&self, number: u64) -> i64 {
        (u128::from(number) * 1_000 / u128::from(self.events_per_second)) as i64
    }
}

impl Numbered for AdEvents {
    type Record = AdEvent;
    type Maker = AdEvent;

    fn maker(&self) -> AdEvent {
        AdEvent::zeroed()
    }

    fn make<'a>(&self, made: &'a mut AdEvent, number: u64) -> &'a AdEvent {
        let mut random = Random::of_event(self.seed, number);
        *made = AdEvent {
            at: self.at_ms(number),
            event_type: random.below(EVENT_TYPES),
            ad: id_of_ad(random.below(self.ads())),
            user: [random.next(), random.next()],
            page: [random.next(), random.next()],
            ad_type: random.below(AD_TYPES),
            ip: random.next(),
            padding: [0; 6],
        };
        made
    }

    #[inline]
    fn touch(&self, event: &AdEvent) -> u64 {
        event.at as u64
    }

    fn move_on(&self, event: &mut AdEvent, _: u64, to: u64) {
        event.at = self.at_ms(to);
    }
}
