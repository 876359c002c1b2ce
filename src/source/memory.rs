//! A source of records that are in memory already, for tests and small jobs.

use super::reader::{ReadContext, ReadStatus, Source, SourceError, SplitReader};
use crate::io::Io;
use std::sync::Arc;

/// Lists of records, one split each, named "0", "1", ... The position is how many were emitted; cloning shares the lists.
#[derive(Debug)]
pub struct VecSource<T> {
    splits: Arc<[Vec<T>]>,
}

/// Reads one list.
#[derive(Debug)]
pub struct VecReader<T> {
    splits: Arc<[Vec<T>]>,
    split: usize,
    next: usize,
}

impl<T> VecSource<T> {
    /// These lists.
    pub fn new(splits: Vec<Vec<T>>) -> Self {
        Self { splits: splits.into() }
    }
}

impl<T> Clone for VecSource<T> {
    fn clone(&self) -> Self {
        Self { splits: self.splits.clone() }
    }
}

impl<T: Send + Sync + 'static> Source for VecSource<T> {
    type Record = T;
    type Reader = VecReader<T>;

    fn splits(&self, _: &mut dyn Io) -> Result<Vec<String>, SourceError> {
        Ok((0..self.splits.len()).map(|split| split.to_string()).collect())
    }

    fn open(&self, split: &str, position: Option<&[u8]>) -> Result<VecReader<T>, SourceError> {
        let bad = |reason: String| SourceError::BadPosition { split: split.to_owned(), reason };
        let index = split.parse().ok().filter(|&index: &usize| index < self.splits.len());
        let index = index.ok_or_else(|| bad(format!("there are {} lists", self.splits.len())))?;
        let len = self.splits[index].len();
        let next = read_count(split, position)?;
        let next = usize::try_from(next).ok().filter(|&next| next <= len);
        let next = next.ok_or_else(|| bad(format!("the list has only {len} records")))?;
        Ok(VecReader { splits: self.splits.clone(), split: index, next })
    }
}

impl<T: 'static> SplitReader for VecReader<T> {
    type Record = T;

    fn read<E: FnMut(&mut ReadContext<'_>, &T, u64)>(
        &mut self,
        cx: &mut ReadContext<'_>,
        records_max: usize,
        mut emit: E,
    ) -> Result<ReadStatus, SourceError> {
        let list = &self.splits[self.split];
        let end = list.len().min(self.next.saturating_add(records_max));
        list[self.next..end].iter().for_each(|record| emit(cx, record, cx.now_ns));
        self.next = end;
        Ok(if end == list.len() { ReadStatus::Ended } else { ReadStatus::More })
    }

    fn position(&self, into: &mut Vec<u8>) {
        into.extend_from_slice(&(self.next as u64).to_le_bytes());
    }
}

/// A position that is a count of records: 8 bytes, little-endian; 0 without one.
pub(super) fn read_count(split: &str, position: Option<&[u8]>) -> Result<u64, SourceError> {
    let Some(bytes) = position else { return Ok(0) };
    let count = bytes.try_into().map_err(|_| SourceError::BadPosition {
        split: split.to_owned(),
        reason: format!("a count of records is 8 bytes, this is {}", bytes.len()),
    })?;
    Ok(u64::from_le_bytes(count))
}

#[cfg(test)]
mod tests {
    use super::super::test_support::{Rig, position_of};
    use super::*;

    #[test]
    fn every_list_is_a_split_and_goes_on_at_its_position() {
        let mut rig = Rig::new();
        let source = VecSource::new(vec![vec![1, 2, 3], vec![]]);
        assert_eq!(source.splits(&mut rig.io).unwrap(), ["0", "1"]);
        let mut reader = source.open("0", None).unwrap();
        assert_eq!(rig.read(&mut reader, 2).unwrap(), (vec![(1, 0), (2, 0)], ReadStatus::More));
        let mut again = source.open("0", Some(&position_of(&reader))).unwrap();
        assert_eq!(rig.read(&mut again, 2).unwrap(), (vec![(3, 0)], ReadStatus::Ended));
        assert_eq!(rig.read(&mut source.open("1", None).unwrap(), 2).unwrap(), (vec![], ReadStatus::Ended));
    }

    #[test]
    fn positions_beyond_the_list_and_unknown_lists_are_refused() {
        let source = VecSource::new(vec![vec![1]]);
        for (split, position) in [("1", 0u64), ("x", 0), ("0", 2)] {
            assert!(source.open(split, Some(&position.to_le_bytes())).is_err(), "{split} {position}");
        }
        assert!(source.open("0", Some(b"1")).is_err());
    }
}
