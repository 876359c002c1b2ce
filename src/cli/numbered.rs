//! A source whose record n follows from n alone: made when it is read, or made ahead and replayed from memory.
//!
//! ```text
//! splits 3:   split 0 reads 0 3 6 9 ..   split 1 reads 1 4 7 ..   split 2 reads 2 5 8 ..
//! ```
//! Replayed records are made before the job starts, up to a number of them; where the job reads more, they come again, moved on to the
//! numbers they then stand for. The position of a split is how many records it has emitted.
//!
//! Here: reading by number. Not here: what record n is (`nexmark`, `ysb`).

use crate::io::Io;
use crate::source::{ReadContext, ReadStatus, Source, SourceError, SplitReader};
use std::hint::black_box;
use std::sync::{Arc, Mutex, PoisonError};

/// How many replayed records are brought into the cache before the first of them is read.
const TOUCHED_AHEAD: u64 = 16;

/// Makes records out of their numbers.
pub trait Numbered: Clone + Send + Sync + 'static {
    /// What it makes.
    type Record: Clone + Send + 'static;
    /// The memory in which records are made one after the other.
    type Maker: Send + 'static;

    /// Memory to make records in.
    fn maker(&self) -> Self::Maker;
    /// Makes record `number`.
    fn make<'a>(&self, maker: &'a mut Self::Maker, number: u64) -> &'a Self::Record;
    /// Some number of a record, which reading brings the record into the cache.
    fn touch(&self, record: &Self::Record) -> u64;
    /// Turns record `from` into what stands for record `to` in a replay.
    fn move_on(&self, record: &mut Self::Record, from: u64, to: u64);
}

/// Where the records are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// When they are read.
    Inline,
    /// Before the job starts; at most so many (at least one for each split), which are replayed.
    PreGenerated {
        /// How many over all splits.
        records_max: u64,
    },
}

/// Records 0, 1, ... below a number, dealt out to the splits in turn.
pub struct NumberedSource<N: Numbered> {
    of: N,
    splits: u32,
    count: u64,
    origin: Origin,
    /// Of each split, for whoever opens it first.
    made_ahead: Arc<[Mutex<Option<Vec<N::Record>>>]>,
}

/// Reads the records of one split.
pub struct NumberedReader<N: Numbered> {
    of: N,
    /// Where the next reader of the split looks for records made ahead.
    made_ahead: Arc<[Mutex<Option<Vec<N::Record>>>]>,
    numbers: Numbers,
    emitted: u64,
    records: Records<N>,
}

/// Which numbers are those of a split.
#[derive(Clone, Copy)]
struct Numbers {
    split: u64,
    splits: u64,
    /// How many there are.
    count: u64,
}

enum Records<N: Numbered> {
    Made(N::Maker),
    Replayed(Vec<N::Record>),
}

impl Numbers {
    fn new(split: u32, splits: u32, count: u64) -> Self {
        let (split, splits) = (u64::from(split), u64::from(splits));
        Self { split, splits, count: (count + splits - 1 - split) / splits }
    }

    /// The number of this split's record after `emitted` others.
    fn number(&self, emitted: u64) -> u64 {
        emitted * self.splits + self.split
    }
}

impl<N: Numbered> NumberedSource<N> {
    /// `count` records in so many splits (at least one). Makes the records that are to be replayed.
    pub fn new(of: N, count: u64, splits: u32, origin: Origin) -> Self {
        let splits = splits.max(1);
        let made_ahead = (0..splits).map(|split| Mutex::new(made(&of, Numbers::new(split, splits, count), origin)));
        Self { made_ahead: made_ahead.collect(), of, splits, count, origin }
    }

    /// Reads split `split` from its beginning.
    pub fn reader(&self, split: u32) -> NumberedReader<N> {
        self.reader_from(split, 0)
    }

    fn reader_from(&self, split: u32, emitted: u64) -> NumberedReader<N> {
        let numbers = Numbers::new(split, self.splits, self.count);
        let ready = self.made_ahead[split as usize].lock().unwrap_or_else(PoisonError::into_inner).take();
        let records = match ready.or_else(|| made(&self.of, numbers, self.origin)) {
            None => Records::Made(self.of.maker()),
            Some(mut replayed) => {
                move_all_on(&self.of, numbers, &mut replayed, emitted);
                Records::Replayed(replayed)
            }
        };
        NumberedReader { of: self.of.clone(), made_ahead: self.made_ahead.clone(), numbers, emitted, records }
    }
}

/// The records of a split that are made ahead, if they are.
fn made<N: Numbered>(of: &N, numbers: Numbers, origin: Origin) -> Option<Vec<N::Record>> {
    let Origin::PreGenerated { records_max } = origin else { return None };
    let mut maker = of.maker();
    let len = numbers.count.min(records_max / numbers.splits).max(1);
    Some((0..len).map(|emitted| of.make(&mut maker, numbers.number(emitted)).clone()).collect())
}

/// As they stand once `emitted` records have been read.
fn move_all_on<N: Numbered>(of: &N, numbers: Numbers, records: &mut [N::Record], emitted: u64) {
    let len = records.len() as u64;
    if emitted <= len {
        return;
    }
    for (record, place) in records.iter_mut().zip(0..) {
        let passes = (emitted.saturating_sub(place)).div_ceil(len);
        let last = passes.saturating_sub(1);
        for pass in 1..=last {
            let [from, to] = [pass - 1, pass].map(|pass| numbers.number(place + pass * len));
            of.move_on(record, from, to);
        }
    }
}

/// Where the next replayed records lie, up to `end`, and they, turned into what they stand for.
#[inline]
fn next_replayed<'a, N: Numbered>(
    of: &N,
    numbers: Numbers,
    records: &'a mut [N::Record],
    emitted: u64,
    end: u64,
) -> (usize, &'a [N::Record]) {
    let len = records.len() as u64;
    let first = (emitted % len) as usize;
    let last = len.min(first as u64 + (end - emitted).min(TOUCHED_AHEAD)) as usize;
    let group = &mut records[first..last];
    if emitted >= len {
        for (record, emitted) in group.iter_mut().zip(emitted..) {
            of.move_on(record, numbers.number(emitted - len), numbers.number(emitted));
        }
    }
    (first, group)
}

impl<N: Numbered> NumberedReader<N> {
    /// Hands at most `records_max` records to `each`; says whether there are more.
    #[inline]
    pub fn read_each(&mut self, records_max: usize, mut each: impl FnMut(&N::Record)) -> bool {
        let Self { of, numbers, emitted, records, .. } = self;
        let end = numbers.count.min(*emitted + records_max as u64);
        while *emitted < end {
            let (first, len) = match records {
                Records::Made(_) => (0, end - *emitted),
                Records::Replayed(records) => {
                    let (first, group) = next_replayed(of, *numbers, records, *emitted, end);
                    // Their lines are fetched side by side, instead of one whenever work on the record before it is done.
                    black_box(group.iter().fold(0, |touched, record| touched ^ of.touch(record)));
                    (first, group.len() as u64)
                }
            };
            // `each` is called in one place, so that it becomes a part of the loop.
            for place in 0..len {
                each(match records {
                    Records::Made(maker) => of.make(maker, numbers.number(*emitted + place)),
                    Records::Replayed(records) => &records[first + place as usize],
                });
            }
            *emitted += len;
        }
        end < numbers.count
    }
}

impl<N: Numbered> Drop for NumberedReader<N> {
    /// Gives back what was made ahead, if it is as it was made.
    fn drop(&mut self) {
        if let Records::Replayed(records) = &mut self.records
            && self.emitted <= records.len() as u64
        {
            let place = &self.made_ahead[self.numbers.split as usize];
            *place.lock().unwrap_or_else(PoisonError::into_inner) = Some(std::mem::take(records));
        }
    }
}

impl<N: Numbered> Clone for NumberedSource<N> {
    fn clone(&self) -> Self {
        Self { of: self.of.clone(), made_ahead: self.made_ahead.clone(), ..*self }
    }
}

impl<N: Numbered> Source for NumberedSource<N> {
    type Record = N::Record;
    type Reader = NumberedReader<N>;

    fn splits(&self, _: &mut dyn Io) -> Result<Vec<String>, SourceError> {
        Ok((0..self.splits).map(|split| split.to_string()).collect())
    }

    fn open(&self, split: &str, position: Option<&[u8]>) -> Result<Self::Reader, SourceError> {
        let bad = |reason: String| SourceError::BadPosition { split: split.to_owned(), reason };
        let index = split.parse().ok().filter(|&index: &u32| index < self.splits);
        let index = index.ok_or_else(|| bad(format!("there are {} splits", self.splits)))?;
        let emitted = position.map_or(Ok([0; 8]), <[u8; 8]>::try_from);
        let emitted = u64::from_le_bytes(emitted.map_err(|_| bad("a count of records is 8 bytes".to_owned()))?);
        match Numbers::new(index, self.splits, self.count).count {
            count if emitted > count => Err(bad(format!("{emitted} records of {count} were read"))),
            _ => Ok(self.reader_from(index, emitted)),
        }
    }
}

impl<N: Numbered> SplitReader for NumberedReader<N> {
    type Record = N::Record;

    fn read<E: FnMut(&mut ReadContext<'_>, &N::Record, u64)>(
        &mut self,
        cx: &mut ReadContext<'_>,
        records_max: usize,
        mut emit: E,
    ) -> Result<ReadStatus, SourceError> {
        let now_ns = cx.now_ns;
        let has_more = self.read_each(records_max, |record| emit(cx, record, now_ns));
        Ok(if has_more { ReadStatus::More } else { ReadStatus::Ended })
    }

    fn position(&self, into: &mut Vec<u8>) {
        into.extend_from_slice(&self.emitted.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A record that says its number, and how often it was moved on.
    #[derive(Clone, Debug)]
    struct Itself;

    impl Numbered for Itself {
        type Record = (u64, u64);
        type Maker = (u64, u64);

        fn maker(&self) -> (u64, u64) {
            (0, 0)
        }

        fn make<'a>(&self, maker: &'a mut (u64, u64), number: u64) -> &'a (u64, u64) {
            *maker = (number, 0);
            maker
        }

        fn touch(&self, record: &(u64, u64)) -> u64 {
            record.0
        }

        fn move_on(&self, record: &mut (u64, u64), from: u64, to: u64) {
            assert_eq!(record.0, from);
            *record = (to, record.1 + 1);
        }
    }

    const ORIGINS: [Origin; 4] = [
        Origin::Inline,
        Origin::PreGenerated { records_max: 0 },
        Origin::PreGenerated { records_max: 11 },
        Origin::PreGenerated { records_max: 1_000 },
    ];

    fn read(reader: &mut NumberedReader<Itself>, records_max: usize) -> (Vec<(u64, u64)>, bool) {
        let mut records = Vec::new();
        let has_more = reader.read_each(records_max, |record| records.push(*record));
        (records, has_more)
    }

    #[test]
    fn the_splits_together_read_every_number_once_wherever_records_are_made() {
        for origin in ORIGINS {
            for (count, splits) in [(0, 1), (2, 3), (50, 1), (50, 3)] {
                let source = NumberedSource::new(Itself, count, splits, origin);
                let mut all = Vec::new();
                for split in 0..splits {
                    let mut reader = source.reader(split);
                    while read(&mut reader, 7).1 {}
                    let mut again = source.reader(split);
                    let (records, has_more) = read(&mut again, 1_000);
                    assert!(!has_more);
                    all.extend(records.into_iter().map(|record| record.0));
                }
                all.sort_unstable();
                assert_eq!(all, (0..count).collect::<Vec<_>>(), "{origin:?}, {splits} splits");
            }
        }
    }

    #[test]
    fn a_reader_goes_on_where_another_stood_with_the_same_records() {
        for origin in ORIGINS {
            let source = NumberedSource::new(Itself, 60, 2, origin);
            for stood in 0..=30 {
                let mut reader = source.reader(1);
                read(&mut reader, stood);
                let mut position = Vec::new();
                reader.position(&mut position);
                let mut next = source.open("1", Some(&position)).unwrap();
                assert_eq!(read(&mut next, 100), read(&mut reader, 100), "{origin:?}, after {stood}");
            }
        }
    }

    #[test]
    fn unknown_splits_and_positions_behind_the_end_are_refused() {
        let source = NumberedSource::new(Itself, 5, 2, Origin::Inline);
        for (split, position) in [("2", &[0; 8][..]), ("x", &[0; 8]), ("1", &[3, 0, 0, 0, 0, 0, 0, 0]), ("0", &[1])] {
            assert!(source.open(split, Some(position)).is_err(), "{split} {position:?}");
        }
    }
}
