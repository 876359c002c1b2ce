//! Advertising events of 128 bytes, and which campaign an advertisement belongs to.
//!
//! Fields as in LightSaber's and Grizzly's variant of the benchmark: ids of 16 bytes, no text. Semantics: yahoo/streaming-benchmarks.

use bytemuck::{Pod, Zeroable};
use foldhash::fast::FixedState;
use hashbrown::HashMap;

/// An id as wide as a UUID.
pub type Id = [u64; 2];

/// Somebody saw, clicked or bought something.
#[derive(Clone, Copy, Debug, PartialEq, Pod, Zeroable)]
#[repr(C)]
pub struct AdEvent {
    /// Its event time, in milliseconds since 1970.
    pub at: i64,
    /// One of `EVENT_TYPES`.
    pub event_type: u64,
    /// The advertisement.
    pub ad: Id,
    /// Who.
    pub user: Id,
    /// Where.
    pub page: Id,
    /// One of `AD_TYPES`.
    pub ad_type: u64,
    /// From which address.
    pub ip: u64,
    /// What makes it 128 bytes.
    pub padding: [u64; 6],
}

const _: () = assert!(size_of::<AdEvent>() == 128, "limits count 128 bytes for an event");

/// View, click, purchase.
pub const EVENT_TYPES: u64 = 3;
/// Banner, modal, sponsored search, mail, mobile.
pub const AD_TYPES: u64 = 5;
/// The event type that is counted.
pub const VIEW: u64 = 0;

/// The campaign of every advertisement.
#[derive(Clone, Debug)]
pub struct Campaigns {
    of_ads: HashMap<Id, u64, FixedState>,
}

impl Campaigns {
    /// `campaigns` of them, each with as many of the `ads` advertisements.
    pub fn new(campaigns: u64, ads: u64) -> Self {
        Self { of_ads: (0..ads).map(|ad| (id_of_ad(ad), ad % campaigns)).collect() }
    }

    /// The campaign of an advertisement, if there is such a one.
    #[inline]
    pub fn of(&self, ad: &Id) -> Option<u64> {
        self.of_ads.get(ad).copied()
    }
}

/// The id of advertisement number `ad`.
#[inline]
pub fn id_of_ad(ad: u64) -> Id {
    [ad.wrapping_mul(0x9e37_79b9_7f4a_7c15), !ad]
}
