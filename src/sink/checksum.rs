//! A sink that hashes rows: a count and a checksum that do not depend on their order.
//!
//! For jobs whose results are compared with those of another run or of other code. At least once: after a restart within this process, rows
//! behind the last checkpoint count again.

use super::writer::{Sink, SinkContext, SinkError, SinkWriter};
use crate::io::Io;
use crate::record::Stamp;
use foldhash::fast::FixedState;
use std::hash::{BuildHasher, Hash};
use std::sync::{Arc, Mutex};

/// Hashes rows; clones share the sum.
#[derive(Clone, Debug, Default)]
pub struct Checksum {
    sum: Arc<Mutex<RowSum>>,
}

/// How many rows there were, and the sum of their hashes: equal for the same rows in any order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RowSum {
    /// How many.
    pub rows: u64,
    /// The sum of their hashes, modulo 2^64.
    pub checksum: u64,
}

impl RowSum {
    /// Adds one row.
    #[inline]
    pub fn add(&mut self, row: &impl Hash) {
        self.rows += 1;
        self.checksum = self.checksum.wrapping_add(FixedState::with_seed(0).hash_one(row));
    }

    /// Adds the rows of another sum.
    pub fn merge(&mut self, other: RowSum) {
        self.rows += other.rows;
        self.checksum = self.checksum.wrapping_add(other.checksum);
    }
}

impl Checksum {
    /// The sum over the rows that all subtasks have handed over: all of them once the job has ended.
    pub fn sum(&self) -> RowSum {
        // Every change is a few additions: a panic leaves nothing half done.
        *self.sum.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn take(&self, own: &mut RowSum) {
        if own.rows > 0 {
            self.sum.lock().unwrap_or_else(std::sync::PoisonError::into_inner).merge(std::mem::take(own));
        }
    }
}

/// Hashes the rows of one subtask.
#[derive(Debug)]
pub struct ChecksumWriter {
    to: Checksum,
    own: RowSum,
}

impl<V: Hash + 'static> Sink<V> for Checksum {
    type Writer = ChecksumWriter;

    fn open(&self, _: u32, _: u32) -> Result<ChecksumWriter, SinkError> {
        Ok(ChecksumWriter { to: self.clone(), own: RowSum::default() })
    }
}

impl<V: Hash + 'static> SinkWriter<V> for ChecksumWriter {
    #[inline]
    fn write(&mut self, _: &mut SinkContext<'_>, _: &Stamp, record: &V) -> Result<(), SinkError> {
        self.own.add(record);
        Ok(())
    }

    fn close(&mut self, _: &mut dyn Io) {
        self.to.take(&mut self.own);
    }
}

#[cfg(test)]
mod tests {
    use super::super::test_support::{Rig, stamp};
    use super::*;

    fn sum(rows: &[&[&'static str]]) -> RowSum {
        let sink = Checksum::default();
        let mut rig = Rig::new();
        for rows in rows {
            let mut writer = Sink::<&str>::open(&sink, 0, 1).unwrap();
            for row in *rows {
                rig.with(|cx| writer.write(cx, &stamp(), row)).unwrap();
            }
            rig.with(|cx| SinkWriter::<&str>::close(&mut writer, cx.io));
        }
        sink.sum()
    }

    #[test]
    fn the_sum_does_not_depend_on_the_order_of_rows_or_on_who_wrote_them() {
        let expected = sum(&[&["a", "b", "c", "c"]]);
        assert_eq!(expected.rows, 4);
        assert_eq!(sum(&[&["c", "a"], &["c", "b"]]), expected);
    }

    #[test]
    fn another_row_is_another_sum() {
        assert_ne!(sum(&[&["a", "b"]]).checksum, sum(&[&["a", "c"]]).checksum);
        assert_ne!(sum(&[&["a", "a"]]).checksum, sum(&[&["b", "b"]]).checksum);
    }
}
