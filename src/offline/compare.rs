//! What two checkpoints hold differently: by state and entry, not by page, so that two histories of the same content are equal.

use super::read::{OfflineCheckpoint, OfflineError, extend_damages};
use crate::checkpoint::{Damage, StateDescriptor};
use crate::io::Io;
use crate::state::RawEntry;
use std::collections::BTreeMap;

/// How one state differs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StateDifference {
    /// The state: `operator/name`.
    pub state: String,
    /// Both layouts, when they differ; entries are compared as bytes all the same.
    pub layouts: Option<(String, String)>,
    /// Entries that both hold alike.
    pub same: u64,
    /// Entries that only the first holds.
    pub only_first: u64,
    /// Entries that only the second holds.
    pub only_second: u64,
    /// Entries with different values.
    pub changed: u64,
}

/// One entry that differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Difference {
    /// Only the first checkpoint holds it.
    OnlyFirst(RawEntry),
    /// Only the second holds it.
    OnlySecond(RawEntry),
    /// Both hold it, with these values.
    Changed(RawEntry, RawEntry),
}

impl StateDifference {
    /// Whether both hold the same.
    pub fn is_none(&self) -> bool {
        self.layouts.is_none() && self.only_first + self.only_second + self.changed == 0
    }
}

/// Compares all states, key group by key group; `each` is told of every entry that differs. Returns what differs by state, and what
/// could not be read: that is compared as if it were not there.
pub fn compare(
    io: &mut dyn Io,
    first: &OfflineCheckpoint,
    second: &OfflineCheckpoint,
    mut each: impl FnMut(&StateDescriptor, u16, Difference),
) -> Result<(Vec<StateDifference>, Vec<Damage>), OfflineError> {
    let mut states: BTreeMap<u64, [Option<&StateDescriptor>; 2]> = BTreeMap::new();
    for (side, checkpoint) in [first, second].into_iter().enumerate() {
        checkpoint.states().iter().for_each(|state| states.entry(state.id).or_default()[side] = Some(state));
    }
    let key_groups = first.checkpoint().max_parallelism().max(second.checkpoint().max_parallelism());
    let (mut differences, mut damages) = (Vec::new(), Vec::new());
    for sides in states.into_values() {
        let Some(named) = sides[0].or(sides[1]) else { continue };
        let mut difference =
            StateDifference { state: format!("{}/{}", named.operator, named.name), ..StateDifference::default() };
        if let [Some(a), Some(b)] = sides
            && a.layout != b.layout
        {
            difference.layouts = Some((a.layout.clone(), b.layout.clone()));
        }
        for key_group in 0..key_groups {
            let mut held = [BTreeMap::new(), BTreeMap::new()];
            for (side, checkpoint) in [first, second].into_iter().enumerate() {
                let Some(state) = sides[side].filter(|_| key_group < checkpoint.checkpoint().max_parallelism()) else {
                    continue;
                };
                let found = checkpoint.key_group(io, state, key_group)?;
                extend_damages(&mut damages, found.damages);
                held[side].extend(found.entries.into_iter().map(|entry| ((entry.kind, entry.key), entry.value)));
            }
            let [mut of_first, of_second] = held;
            for ((kind, key), value) in of_second {
                let now = RawEntry { kind, key, value };
                match of_first.remove(&(kind, now.key.clone())) {
                    Some(value) if value == now.value => difference.same += 1,
                    Some(value) => {
                        difference.changed += 1;
                        let before = RawEntry { kind, key: now.key.clone(), value };
                        each(named, key_group, Difference::Changed(before, now));
                    }
                    None => {
                        difference.only_second += 1;
                        each(named, key_group, Difference::OnlySecond(now));
                    }
                }
            }
            for ((kind, key), value) in of_first {
                difference.only_first += 1;
                each(named, key_group, Difference::OnlyFirst(RawEntry { kind, key, value }));
            }
        }
        differences.push(difference);
    }
    Ok((differences, damages))
}
