//! A source that computes its records from their numbers, as fast as they are taken or at a given rate.
//!
//! At a rate it is an open loop: record n is meant for start + n / rate whether or not anybody takes it, and carries that time, so
//! that latency counts what the engine delayed (no coordinated omission).

use super::memory::read_count;
use super::reader::{ReadContext, ReadStatus, Source, SourceError, SplitReader};
use crate::io::Io;
use std::marker::PhantomData;

/// Records `f(0)`, `f(1)`, ..., dealt out to the splits in turn. The position is how many records a split has emitted.
pub struct Generator<T, F> {
    function: F,
    splits: u32,
    records_max: u64,
    per_second: Option<f64>,
    record: PhantomData<fn() -> T>,
}

/// Generates the records of one split.
pub struct GeneratorReader<T, F> {
    source: Generator<T, F>,
    split: u32,
    /// How many records this split has emitted, ever.
    emitted: u64,
    /// When this reader began, and how many records the split had emitted then.
    start: Option<(u64, u64)>,
}

impl<T: 'static, F: Fn(u64) -> T + Clone + Send + Sync + 'static> Generator<T, F> {
    /// Endless, in one split, as fast as records are taken.
    pub fn new(function: F) -> Self {
        Self { function, splits: 1, records_max: u64::MAX, per_second: None, record: PhantomData }
    }

    /// In so many splits (at least one).
    pub fn in_splits(mut self, splits: u32) -> Self {
        self.splits = splits.max(1);
        self
    }

    /// Ends after so many records over all splits.
    pub fn count(mut self, records_max: u64) -> Self {
        self.records_max = records_max;
        self
    }

    /// So many records per second over all splits (more than none).
    pub fn per_second(mut self, records: f64) -> Self {
        self.per_second = (records > 0.0).then_some(records);
        self
    }
}

impl<T, F: Clone> Clone for Generator<T, F> {
    fn clone(&self) -> Self {
        Self { function: self.function.clone(), ..*self }
    }
}

impl<T: 'static, F: Fn(u64) -> T + Clone + Send + Sync + 'static> Source for Generator<T, F> {
    type Record = T;
    type Reader = GeneratorReader<T, F>;

    fn splits(&self, _: &mut dyn Io) -> Result<Vec<String>, SourceError> {
        Ok((0..self.splits).map(|split| split.to_string()).collect())
    }

    fn open(&self, split: &str, position: Option<&[u8]>) -> Result<Self::Reader, SourceError> {
        let index = split.parse().ok().filter(|&index: &u32| index < self.splits);
        let index = index.ok_or_else(|| SourceError::BadPosition {
            split: split.to_owned(),
            reason: format!("the generator has {} splits", self.splits),
        })?;
        Ok(GeneratorReader { source: self.clone(), split: index, emitted: read_count(split, position)?, start: None })
    }
}

impl<T, F> GeneratorReader<T, F> {
    /// The number of this split's record after `emitted` others, if there is one.
    fn number(&self, emitted: u64) -> Option<u64> {
        let number = emitted.checked_mul(u64::from(self.source.splits))?.checked_add(u64::from(self.split))?;
        Some(number).filter(|&number| number < self.source.records_max)
    }

    /// When this split's record after `emitted()` others is meant to be emitted, if there is a rate.
    fn intended_ns(&self, emitted: impl FnOnce() -> u64) -> Option<u64> {
        let (per_second, (start_ns, before)) = (self.source.per_second?, self.start?);
        let emitted = emitted();
        let since = (emitted - before) as f64 * f64::from(self.source.splits) + f64::from(self.split);
        Some(start_ns + (since * 1e9 / per_second) as u64)
    }
}

impl<T: 'static, F: Fn(u64) -> T + Clone + Send + Sync + 'static> SplitReader for GeneratorReader<T, F> {
    type Record = T;

    fn read<E: FnMut(&mut ReadContext<'_>, &T, u64)>(
        &mut self,
        cx: &mut ReadContext<'_>,
        records_max: usize,
        mut emit: E,
    ) -> Result<ReadStatus, SourceError> {
        let now_ns = cx.now_ns;
        self.start.get_or_insert((now_ns, self.emitted));
        let Some(first) = self.number(self.emitted) else { return Ok(ReadStatus::Ended) };
        let step = u64::from(self.source.splits);
        let left = (self.source.records_max - 1 - first) / step + 1;
        let records = left.min(records_max as u64);
        // Only the number is counted up: what else there is to know follows from it.
        let (mut number, end) = (first, first.wrapping_add(records * step));
        while number != end {
            let emitted = || self.emitted + number.wrapping_sub(first) / step;
            let intended_ns = self.intended_ns(emitted).unwrap_or(now_ns);
            if intended_ns > now_ns {
                self.emitted = emitted();
                return Ok(ReadStatus::Pending);
            }
            emit(cx, &(self.source.function)(number), intended_ns);
            number = number.wrapping_add(step);
        }
        self.emitted += records;
        Ok(if records == left { ReadStatus::Ended } else { ReadStatus::More })
    }

    fn position(&self, into: &mut Vec<u8>) {
        into.extend_from_slice(&self.emitted.to_le_bytes());
    }

    fn wake_at_ns(&self) -> Option<u64> {
        self.intended_ns(|| self.emitted)
    }
}

#[cfg(test)]
mod tests {
    use super::super::test_support::{Rig, position_of};
    use super::*;

    #[test]
    fn the_splits_together_make_every_record_once_over_restarts() {
        let mut rig = Rig::new();
        let source = Generator::new(|n| n * 10).in_splits(3).count(8);
        let mut all = Vec::new();
        for split in source.splits(&mut rig.io).unwrap() {
            let mut position = None;
            loop {
                let mut reader = source.open(&split, position.as_deref()).unwrap();
                let (records, status) = rig.read(&mut reader, 2).unwrap();
                all.extend(records.into_iter().map(|(record, _)| record));
                position = Some(position_of(&reader));
                if status == ReadStatus::Ended {
                    break;
                }
            }
        }
        all.sort_unstable();
        assert_eq!(all, [0, 10, 20, 30, 40, 50, 60, 70]);
    }

    #[test]
    fn at_a_rate_every_record_carries_the_time_it_was_meant_for_however_late_it_is() {
        let mut rig = Rig::new();
        rig.now_ns = 5000;
        let source = Generator::new(|n| n).in_splits(2).per_second(1e9 / 100.0);
        let mut reader = source.open("1", None).unwrap();
        assert_eq!(rig.read(&mut reader, 9).unwrap(), (vec![], ReadStatus::Pending));
        assert_eq!(reader.wake_at_ns(), Some(5100));
        rig.now_ns = 5599;
        let expected = (vec![(1, 5100), (3, 5300), (5, 5500)], ReadStatus::Pending);
        assert_eq!(rig.read(&mut reader, 9).unwrap(), expected);
        assert_eq!(reader.wake_at_ns(), Some(5700));
    }
}
