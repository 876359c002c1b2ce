//! A sink into a list that the host program holds: for tests and for embedding.
//!
//! Exactly once (`Collect::exactly_once`): records appear when their checkpoint completes, and once over restarts within this
//! process. The list dies with the process: records that were committed before are not given again after a restart of the program.
//! At least once (`Collect::immediate`): records appear at once, and again when the job goes back to a checkpoint.

use super::writer::{Sink, SinkContext, SinkError, SinkWriter};
use crate::checkpoint::CheckpointId;
use crate::record::Stamp;
use std::sync::{Arc, Mutex, MutexGuard};

/// How many records a subtask keeps to itself before it takes the lock of the list.
const UNSHARED_MAX: usize = 256;

/// A list of records `T`; clones share it. With `C`, records of another type (views, for example) are converted first.
pub struct Collect<T, C = fn(&T) -> T> {
    list: Arc<Mutex<List<T>>>,
    convert: C,
    is_immediate: bool,
}

struct List<T> {
    visible: Vec<T>,
    /// Not yet committed, in the order of the barriers.
    prepared: Vec<Prepared<T>>,
}

struct Prepared<T> {
    checkpoint: CheckpointId,
    subtask: u32,
    records: Vec<T>,
}

impl<T: Clone + Send + 'static> Collect<T> {
    /// Records appear when their checkpoint completes.
    pub fn exactly_once() -> Self {
        Self::exactly_once_with(T::clone)
    }

    /// Records appear at once.
    pub fn immediate() -> Self {
        Self::immediate_with(T::clone)
    }
}

impl<T: Send + 'static, C> Collect<T, C> {
    /// As `exactly_once`, for records that become `T` through `convert`.
    pub fn exactly_once_with(convert: C) -> Self {
        Self { list: Arc::default(), convert, is_immediate: false }
    }

    /// As `immediate`, for records that become `T` through `convert`.
    pub fn immediate_with(convert: C) -> Self {
        Self { list: Arc::default(), convert, is_immediate: true }
    }

    /// Takes everything that is visible out of the list.
    pub fn take(&self) -> Vec<T> {
        std::mem::take(&mut lock(&self.list).visible)
    }

    /// How many records are visible.
    pub fn len(&self) -> usize {
        lock(&self.list).visible.len()
    }

    /// Whether no record is visible.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A copy of everything that is visible.
    pub fn records(&self) -> Vec<T>
    where
        T: Clone,
    {
        lock(&self.list).visible.clone()
    }
}

impl<T, C: Clone> Clone for Collect<T, C> {
    fn clone(&self) -> Self {
        Self { list: self.list.clone(), convert: self.convert.clone(), is_immediate: self.is_immediate }
    }
}

impl<T> Default for List<T> {
    fn default() -> Self {
        Self { visible: Vec::new(), prepared: Vec::new() }
    }
}

fn lock<T>(list: &Mutex<List<T>>) -> MutexGuard<'_, List<T>> {
    // Every change is one append or removal: a panic leaves nothing half done.
    list.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

impl<V: 'static, T: Send + 'static, C: Fn(&V) -> T + Clone + Send + Sync + 'static> Sink<V> for Collect<T, C> {
    type Writer = CollectWriter<T, C>;

    fn open(&self, subtask: u32, parallelism: u32) -> Result<Self::Writer, SinkError> {
        Ok(CollectWriter { to: self.clone(), subtask, parallelism, is_started: false, current: Vec::new() })
    }
}

/// Collects the records of one subtask.
pub struct CollectWriter<T, C> {
    to: Collect<T, C>,
    subtask: u32,
    parallelism: u32,
    /// Whether what an earlier run prepared was committed or thrown away.
    is_started: bool,
    current: Vec<T>,
}

impl<T, C> CollectWriter<T, C> {
    /// Without a checkpoint to go back to, nothing prepared by an earlier run may become visible.
    fn start(&mut self) {
        if !std::mem::replace(&mut self.is_started, true) {
            lock(&self.to.list).prepared.retain(|one| one.subtask % self.parallelism != self.subtask);
        }
    }

    fn share(&mut self) -> bool {
        if self.current.is_empty() || !self.to.is_immediate {
            return false;
        }
        lock(&self.to.list).visible.append(&mut self.current);
        true
    }
}

impl<V: 'static, T: Send + 'static, C: Fn(&V) -> T + Clone + Send + Sync + 'static> SinkWriter<V>
    for CollectWriter<T, C>
{
    fn write(&mut self, _: &mut SinkContext<'_>, _: &Stamp, record: &V) -> Result<(), SinkError> {
        self.current.push((self.to.convert)(record));
        if self.current.len() >= UNSHARED_MAX {
            self.share();
        }
        Ok(())
    }

    fn poll(&mut self, _: &mut SinkContext<'_>) -> Result<bool, SinkError> {
        self.start();
        Ok(self.share())
    }

    fn snapshot(&mut self, _: &mut SinkContext<'_>, id: CheckpointId) -> Result<Vec<u8>, SinkError> {
        self.start();
        self.share();
        if !self.current.is_empty() {
            let records = std::mem::take(&mut self.current);
            lock(&self.to.list).prepared.push(Prepared { checkpoint: id, subtask: self.subtask, records });
        }
        Ok(id.0.to_le_bytes().to_vec())
    }

    fn commit(&mut self, _: &mut SinkContext<'_>, id: CheckpointId) -> Result<(), SinkError> {
        let mut list = lock(&self.to.list);
        let mine = list.prepared.extract_if(.., |one| one.checkpoint <= id && one.subtask == self.subtask);
        let mut records: Vec<T> = mine.flat_map(|one| one.records).collect();
        list.visible.append(&mut records);
        Ok(())
    }

    fn restore(&mut self, _: &mut SinkContext<'_>, committables: &[(u32, Vec<u8>)]) -> Result<(), SinkError> {
        let mut id = CheckpointId::default();
        for (subtask, bytes) in committables {
            let bytes = bytes.as_slice().try_into().map_err(|_| SinkError::BadCommittable {
                subtask: *subtask,
                reason: format!("a collecting sink's committable is 8 bytes, this is {}", bytes.len()),
            })?;
            id = id.max(CheckpointId(u64::from_le_bytes(bytes)));
        }
        self.is_started = true;
        let mut list = lock(&self.to.list);
        let parallelism = self.parallelism;
        let mine = list.prepared.extract_if(.., |one| one.subtask % parallelism == self.subtask);
        let promised = mine.filter(|one| one.checkpoint <= id);
        let mut records: Vec<T> = promised.flat_map(|one| one.records).collect();
        list.visible.append(&mut records);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::test_support::{Rig, stamp};
    use super::*;

    type Writer = CollectWriter<u32, fn(&u32) -> u32>;

    fn write(writer: &mut Writer, records: &[u32]) {
        let mut rig = Rig::new();
        for record in records {
            rig.with(|cx| writer.write(cx, &stamp(), record)).unwrap();
        }
        rig.with(|cx| SinkWriter::<u32>::poll(writer, cx)).unwrap();
    }

    fn snapshot(writer: &mut Writer, id: u64) -> (u32, Vec<u8>) {
        let bytes = Rig::new().with(|cx| SinkWriter::<u32>::snapshot(writer, cx, CheckpointId(id))).unwrap();
        (writer.subtask, bytes)
    }

    fn restore(writer: &mut Writer, committables: &[(u32, Vec<u8>)]) {
        Rig::new().with(|cx| SinkWriter::<u32>::restore(writer, cx, committables)).unwrap();
    }

    #[test]
    fn immediate_records_are_visible_with_the_next_poll() {
        let sink = Collect::immediate();
        write(&mut sink.open(0, 1).unwrap(), &[1, 2]);
        assert_eq!((sink.len(), sink.take(), sink.is_empty()), (2, vec![1, 2], true));
    }

    #[test]
    fn exactly_once_records_are_visible_from_the_commit_of_their_checkpoint() {
        let sink = Collect::exactly_once();
        let mut writer = sink.open(0, 1).unwrap();
        write(&mut writer, &[1]);
        snapshot(&mut writer, 1);
        write(&mut writer, &[2]);
        snapshot(&mut writer, 2);
        write(&mut writer, &[3]);
        assert!(sink.is_empty());
        Rig::new().with(|cx| SinkWriter::<u32>::commit(&mut writer, cx, CheckpointId(2))).unwrap();
        assert_eq!(sink.records(), [1, 2]);
    }

    #[test]
    fn a_restart_shows_what_the_checkpoint_promised_and_drops_what_came_later() {
        let sink = Collect::exactly_once();
        let mut committables = Vec::new();
        for subtask in 0..3 {
            let mut writer = sink.open(subtask, 3).unwrap();
            write(&mut writer, &[subtask]);
            committables.push(snapshot(&mut writer, 1));
            write(&mut writer, &[100]);
            snapshot(&mut writer, 2);
        }
        for _ in 0..2 {
            for subtask in 0..2 {
                restore(&mut sink.open(subtask, 2).unwrap(), &committables);
            }
        }
        let mut visible = sink.take();
        visible.sort_unstable();
        assert_eq!(visible, [0, 1, 2]);
    }

    #[test]
    fn a_start_without_a_checkpoint_forgets_what_was_prepared() {
        let sink = Collect::exactly_once();
        let mut writer = sink.open(0, 1).unwrap();
        write(&mut writer, &[1]);
        snapshot(&mut writer, 1);
        let mut again = sink.open(0, 1).unwrap();
        write(&mut again, &[1]);
        snapshot(&mut again, 1);
        Rig::new().with(|cx| SinkWriter::<u32>::commit(&mut again, cx, CheckpointId(1))).unwrap();
        assert_eq!(sink.records(), [1]);
    }
}
