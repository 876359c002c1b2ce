//! The bytes of one simulated file: as programs see them, as the medium holds them, and what lies between.
//!
//! Between two flushes every write and every change of length is a fact of its own. A crash decides for each 512-byte sector
//! separately how many of its writes reached the medium, and separately again which length did: writes tear, overtake each
//! other, and a grown file may hold zeros where data was written. Source: the fault model of redb's and TigerBeetle's simulators.

use super::sim_disk::Survivors;
use crate::sim::Rng;
use std::collections::BTreeMap;
use std::ops::Range;

/// More than this is not kept back: what has waited longest reaches the medium without a flush, as an operating system sees to it.
const PENDING_BYTES_MAX: usize = 4 << 20;

/// What a medium writes at once.
pub(super) const SECTOR_BYTES: usize = 512;

/// A file of a simulated disk.
#[derive(Debug, Default)]
pub(super) struct SimFile {
    current: Vec<u8>,
    durable: Vec<u8>,
    pending: Vec<Fact>,
    pending_bytes: usize,
}

#[derive(Debug)]
enum Fact {
    Written { offset: usize, bytes: Vec<u8> },
    Resized { from: usize, to: usize },
}

impl SimFile {
    pub(super) fn len(&self) -> usize {
        self.current.len()
    }

    /// The bytes as programs see them.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.current
    }

    /// The bytes at `offset`, fewer than `len` at the end of the file.
    pub(super) fn read(&self, offset: usize, len: usize) -> &[u8] {
        let start = offset.min(self.current.len());
        &self.current[start..start.saturating_add(len).min(self.current.len())]
    }

    pub(super) fn write(&mut self, offset: usize, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let end = offset + bytes.len();
        if end > self.current.len() {
            self.resize(end);
        }
        self.current[offset..end].copy_from_slice(bytes);
        self.pending.push(Fact::Written { offset, bytes: bytes.to_vec() });
        self.pending_bytes += bytes.len();
        if self.pending_bytes > PENDING_BYTES_MAX {
            self.write_back(self.pending.len() / 2);
        }
    }

    pub(super) fn resize(&mut self, len: usize) {
        self.pending.push(Fact::Resized { from: self.current.len(), to: len });
        self.current.resize(len, 0);
    }

    /// A flush that succeeds: everything pending is on the medium.
    pub(super) fn sync(&mut self) {
        self.write_back(self.pending.len());
    }

    fn write_back(&mut self, oldest: usize) {
        for fact in self.pending.drain(..oldest) {
            match fact {
                Fact::Written { offset, bytes } => {
                    self.pending_bytes -= bytes.len();
                    overlay(&mut self.durable, offset, &bytes);
                }
                Fact::Resized { to, .. } => self.durable.resize(to, 0),
            }
        }
    }

    /// A flush that fails: some of what was pending reached the medium, the rest is given up for ever, although programs go on
    /// reading it and the next flush succeeds (as Linux does).
    pub(super) fn fail_sync(&mut self, rng: &mut Rng) {
        self.durable = self.after_crash(Survivors::Random, rng);
        self.pending.clear();
        self.pending_bytes = 0;
    }

    /// The machine stops: what the medium holds is what there is.
    pub(super) fn crash(&mut self, survivors: Survivors, rng: &mut Rng) {
        self.durable = self.after_crash(survivors, rng);
        self.current.clone_from(&self.durable);
        self.pending.clear();
        self.pending_bytes = 0;
    }

    /// Changes a byte behind everybody's back.
    pub(super) fn flip(&mut self, offset: usize, mask: u8) {
        for image in [&mut self.current, &mut self.durable] {
            if let Some(byte) = image.get_mut(offset) {
                *byte ^= mask;
            }
        }
    }

    fn after_crash(&mut self, survivors: Survivors, rng: &mut Rng) -> Vec<u8> {
        let mut image = std::mem::take(&mut self.durable);
        if self.pending.is_empty() || survivors == Survivors::Nothing {
            return image;
        }
        let everything = survivors == Survivors::Everything;
        let mut len = image.len();
        for fact in &self.pending {
            if let Fact::Resized { to, .. } = fact
                && (everything || rng.chance(500))
            {
                len = *to;
            }
        }
        for (sector, facts) in self.facts_by_sector() {
            let reached = if everything { facts.len() } else { rng.index(facts.len() + 1) };
            for fact in &facts[..reached] {
                self.pending[*fact].overlay_sector(&mut image, sector);
            }
        }
        image.resize(len, 0);
        image
    }

    /// Which facts change each sector, oldest first.
    fn facts_by_sector(&self) -> BTreeMap<usize, Vec<usize>> {
        let mut by_sector: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (index, fact) in self.pending.iter().enumerate() {
            let changed = fact.changed();
            for sector in changed.start / SECTOR_BYTES..changed.end.div_ceil(SECTOR_BYTES) {
                by_sector.entry(sector).or_default().push(index);
            }
        }
        by_sector
    }
}

impl Fact {
    /// The bytes whose contents this changes; growing changes none.
    fn changed(&self) -> Range<usize> {
        match self {
            Self::Written { offset, bytes } => *offset..offset + bytes.len(),
            Self::Resized { from, to } => *to..(*from).max(*to),
        }
    }

    fn overlay_sector(&self, image: &mut Vec<u8>, sector: usize) {
        let changed = self.changed();
        let start = changed.start.max(sector * SECTOR_BYTES);
        let end = changed.end.min((sector + 1) * SECTOR_BYTES);
        match self {
            Self::Written { offset, bytes } => overlay(image, start, &bytes[start - offset..end - offset]),
            Self::Resized { .. } => {
                let end = end.min(image.len());
                image[start.min(end)..end].fill(0);
            }
        }
    }
}

fn overlay(image: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    let end = offset + bytes.len();
    if image.len() < end {
        image.resize(end, 0);
    }
    image[offset..end].copy_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn synced(bytes: &[u8]) -> SimFile {
        let mut file = SimFile::default();
        file.write(0, bytes);
        file.sync();
        file
    }

    #[test]
    fn synced_bytes_survive_every_crash() {
        for seed in 0..200 {
            let mut file = synced(&[7; 2000]);
            file.crash(Survivors::Random, &mut Rng::new(seed));
            assert_eq!(file.bytes(), [7; 2000]);
        }
    }

    #[test]
    fn an_unsynced_overwrite_tears_at_sectors_and_nowhere_else() {
        let mut torn = 0;
        for seed in 0..200 {
            let mut file = synced(&[7; 2048]);
            file.write(0, &[8; 2048]);
            file.crash(Survivors::Random, &mut Rng::new(seed));
            assert_eq!(file.len(), 2048);
            let sectors: Vec<u8> = file.bytes().chunks(SECTOR_BYTES).map(|sector| sector[0]).collect();
            for (sector, first) in file.bytes().chunks(SECTOR_BYTES).zip(&sectors) {
                assert!(sector.iter().all(|byte| byte == first), "a sector tore inside");
            }
            torn += usize::from(sectors.contains(&7) && sectors.contains(&8));
        }
        assert!(torn > 100, "{torn} of 200");
    }

    #[test]
    fn a_later_unsynced_write_may_survive_without_an_earlier_one() {
        let reordered = (0..200).any(|seed| {
            let mut file = synced(&[0; 1024]);
            file.write(0, &[1; 512]);
            file.write(512, &[2; 512]);
            file.crash(Survivors::Random, &mut Rng::new(seed));
            file.bytes()[0] == 0 && file.bytes()[512] == 2
        });
        assert!(reordered);
    }

    #[test]
    fn the_length_of_an_appended_file_survives_independently_of_its_bytes() {
        let outcomes: Vec<(usize, bool)> = (0..200)
            .map(|seed| {
                let mut file = synced(&[1; 512]);
                file.write(512, &[2; 512]);
                file.crash(Survivors::Random, &mut Rng::new(seed));
                (file.len(), file.bytes().get(512) == Some(&2))
            })
            .collect();
        for expected in [(512, false), (1024, false), (1024, true)] {
            assert!(outcomes.contains(&expected), "{expected:?} never happened");
        }
    }

    #[test]
    fn a_failed_flush_gives_up_the_data_although_the_next_one_succeeds() {
        let lost = (0..50).any(|seed| {
            let mut file = synced(&[1; 512]);
            file.write(0, &[2; 512]);
            file.fail_sync(&mut Rng::new(seed));
            assert_eq!(file.bytes(), [2; 512], "programs still read what they wrote");
            file.sync();
            file.crash(Survivors::Everything, &mut Rng::new(seed));
            file.bytes() == [1; 512]
        });
        assert!(lost);
    }

    #[test]
    fn everything_surviving_is_what_programs_saw() {
        let mut file = synced(&[1; 3000]);
        file.resize(700);
        file.write(600, &[2; 1500]);
        file.resize(2500);
        let seen = file.bytes().to_vec();
        file.crash(Survivors::Everything, &mut Rng::new(1));
        assert_eq!(file.bytes(), seen);
    }
}
