//! A source that the host program's threads push records into, through a bounded lock-free queue.
//!
//! At most once: records in the queue, and records behind the last checkpoint, are gone after a crash, unless the host pushes them
//! again. A job that restarts within this process goes on with the queue, but does not see again what it had taken from it.

use super::reader::{ReadContext, ReadStatus, Source, SourceError, SplitReader};
use crate::io::Io;
use crate::slot::{Doorbell, Doorbells};
use crate::time::{Clock, MachineClock};
use crossbeam_queue::ArrayQueue;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How often a blocked push tries again at once, and then how often it yields before it sleeps.
const SPINS_MAX: u32 = 64;
const YIELDS_MAX: u32 = 128;
/// How long a blocked push sleeps between tries: a full queue takes longer than this to drain.
const NAP: Duration = Duration::from_micros(50);

/// The reading ends of one queue or several, each a split. Clones share the queues; one reader at a time takes from each.
pub struct PushSource<T> {
    queues: Arc<[Arc<ReadingEnd<T>>]>,
}

/// The pushing end. Clones push into the same queue; the split ends when one is closed, or all are dropped.
pub struct PushHandle<T> {
    shared: Arc<Shared<T>>,
    _guard: Arc<PushingEnd<T>>,
}

/// Why a record was not taken; it is given back.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum PushError<T> {
    /// The queue is full: the job does not keep up.
    #[error("the queue of {capacity} records is full: try again, or push more slowly")]
    Full {
        /// The record.
        record: T,
        /// How many records the queue holds.
        capacity: usize,
    },
    /// The handle was closed, or the source and all its readers are gone.
    #[error("nobody reads what is pushed: the source was closed or its job has ended")]
    Closed {
        /// The record.
        record: T,
    },
}

struct Shared<T> {
    /// Records, and when they were meant to be emitted (0: when they are read).
    queue: ArrayQueue<(T, u64)>,
    is_closed: AtomicBool,
    is_abandoned: AtomicBool,
    bells: Doorbells,
}

/// Dropped with the last handle.
struct PushingEnd<T>(Arc<Shared<T>>);

/// Dropped with the last source and reader.
struct ReadingEnd<T>(Arc<Shared<T>>);

impl<T: Send + 'static> PushSource<T> {
    /// Both ends of a queue of `capacity` records (at least one).
    pub fn new(capacity: usize) -> (Self, PushHandle<T>) {
        let (end, handle) = queue(capacity);
        (Self { queues: [end].into() }, handle)
    }

    /// A queue of its own for each of so many handles: threads that push do not touch each other's cache lines, and none fills the queue
    /// of another. Each queue is a split, so several subtasks read.
    pub fn with_handles(handles: usize, capacity: usize) -> (Self, Vec<PushHandle<T>>) {
        let (ends, handles): (Vec<_>, Vec<_>) = (0..handles).map(|_| queue(capacity)).unzip();
        (Self { queues: ends.into() }, handles)
    }
}

fn queue<T>(capacity: usize) -> (Arc<ReadingEnd<T>>, PushHandle<T>) {
    let shared = Arc::new(Shared {
        queue: ArrayQueue::new(capacity.max(1)),
        is_closed: AtomicBool::new(false),
        is_abandoned: AtomicBool::new(false),
        bells: Doorbells::default(),
    });
    (Arc::new(ReadingEnd(shared.clone())), PushHandle { shared: shared.clone(), _guard: Arc::new(PushingEnd(shared)) })
}

impl<T> PushHandle<T> {
    /// Pushes a record if there is room. Its latency counts from when it is read.
    pub fn try_push(&self, record: T) -> Result<(), PushError<T>> {
        self.try_push_at(record, 0)
    }

    /// As `try_push`; the record's latency counts from now, and how long it waits in the queue is among the source's metrics. Costs a
    /// look at the clock.
    pub fn try_push_timed(&self, record: T) -> Result<(), PushError<T>> {
        self.try_push_at(record, MachineClock.monotonic_ns())
    }

    /// As `try_push`; the record's latency counts from `intended_ns` of the engine's monotonic clock.
    pub fn try_push_at(&self, record: T, intended_ns: u64) -> Result<(), PushError<T>> {
        if self.shared.is_closed.load(Ordering::Acquire) || self.shared.is_abandoned.load(Ordering::Acquire) {
            return Err(PushError::Closed { record });
        }
        match self.shared.queue.push((record, intended_ns)) {
            Ok(()) => {
                self.shared.bells.ring();
                Ok(())
            }
            Err((record, _)) => Err(PushError::Full { record, capacity: self.shared.queue.capacity() }),
        }
    }

    /// Pushes a record, waiting for room: blocks the calling thread, which must not be a slot's.
    pub fn push(&self, record: T) -> Result<(), PushError<T>> {
        let mut record = record;
        let mut tries = 0;
        loop {
            match self.try_push(record) {
                Err(PushError::Full { record: back, .. }) => record = back,
                done => return done,
            }
            tries += 1;
            if tries <= SPINS_MAX {
                std::hint::spin_loop();
            } else if tries <= SPINS_MAX + YIELDS_MAX {
                std::thread::yield_now();
            } else {
                std::thread::park_timeout(NAP);
            }
        }
    }

    /// Ends the split once everything pushed before was read.
    pub fn close(&self) {
        self.shared.close();
    }
}

impl<T> Clone for PushSource<T> {
    fn clone(&self) -> Self {
        Self { queues: self.queues.clone() }
    }
}

impl<T> Clone for PushHandle<T> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone(), _guard: self._guard.clone() }
    }
}

impl<T> Shared<T> {
    fn close(&self) {
        self.is_closed.store(true, Ordering::Release);
        self.bells.ring();
    }
}

impl<T> Drop for PushingEnd<T> {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl<T> Drop for ReadingEnd<T> {
    fn drop(&mut self) {
        self.0.is_abandoned.store(true, Ordering::Release);
    }
}

impl<T: Send + 'static> Source for PushSource<T> {
    type Record = T;
    type Reader = PushReader<T>;

    fn splits(&self, _: &mut dyn Io) -> Result<Vec<String>, SourceError> {
        Ok((0..self.queues.len()).map(split_name).collect())
    }

    fn open(&self, split: &str, _: Option<&[u8]>) -> Result<PushReader<T>, SourceError> {
        let queue = self.queues.iter().enumerate().find(|(index, _)| split_name(*index) == split);
        let Some((_, end)) = queue else {
            let reason = format!("there are {} queues, none is called so", self.queues.len());
            return Err(SourceError::BadPosition { split: split.to_owned(), reason });
        };
        Ok(PushReader { end: end.clone() })
    }
}

/// What the split of a queue is called.
fn split_name(index: usize) -> String {
    if index == 0 { "push".to_owned() } else { format!("push-{index}") }
}

/// Takes from one queue.
pub struct PushReader<T> {
    end: Arc<ReadingEnd<T>>,
}

impl<T: Send + 'static> SplitReader for PushReader<T> {
    type Record = T;

    const MEASURES_WAIT: bool = true;

    fn read<E: FnMut(&mut ReadContext<'_>, &T, u64)>(
        &mut self,
        cx: &mut ReadContext<'_>,
        records_max: usize,
        mut emit: E,
    ) -> Result<ReadStatus, SourceError> {
        // Asked first: what was pushed before the end is in the queue then.
        let Shared { queue, is_closed, .. } = &*self.end.0;
        let is_closed = is_closed.load(Ordering::Acquire);
        for _ in 0..records_max {
            match queue.pop() {
                Some((record, 0)) => emit(cx, &record, cx.now_ns),
                Some((record, intended_ns)) => emit(cx, &record, intended_ns),
                None if is_closed => return Ok(ReadStatus::Ended),
                None => return Ok(ReadStatus::Pending),
            }
        }
        Ok(ReadStatus::More)
    }

    fn position(&self, _: &mut Vec<u8>) {}

    fn set_doorbell(&mut self, doorbell: &Arc<Doorbell>) {
        self.end.0.bells.add(doorbell);
    }
}

#[cfg(test)]
mod tests {
    use super::super::test_support::Rig;
    use super::*;

    #[test]
    fn records_come_in_order_and_the_split_ends_when_it_is_closed() {
        let mut rig = Rig::new();
        rig.now_ns = 7;
        let (source, handle) = PushSource::new(8);
        let mut reader = source.open("push", None).unwrap();
        assert_eq!(rig.read(&mut reader, 5).unwrap(), (vec![], ReadStatus::Pending));
        handle.try_push(1).unwrap();
        handle.try_push_at(2, 3).unwrap();
        handle.close();
        assert_eq!(handle.try_push(3), Err(PushError::Closed { record: 3 }));
        assert_eq!(rig.read(&mut reader, 5).unwrap(), (vec![(1, 7), (2, 3)], ReadStatus::Ended));
    }

    #[test]
    fn a_full_queue_gives_the_record_back() {
        let (_source, handle) = PushSource::new(2);
        handle.try_push(1).unwrap();
        handle.try_push(2).unwrap();
        assert_eq!(handle.try_push(3), Err(PushError::Full { record: 3, capacity: 2 }));
    }

    #[test]
    fn the_split_ends_when_the_last_handle_is_dropped() {
        let mut rig = Rig::new();
        let (source, handle) = PushSource::<u8>::new(2);
        let mut reader = source.open("push", None).unwrap();
        let other = handle.clone();
        drop(handle);
        assert_eq!(rig.read(&mut reader, 1).unwrap().1, ReadStatus::Pending);
        drop(other);
        assert_eq!(rig.read(&mut reader, 1).unwrap().1, ReadStatus::Ended);
    }

    #[test]
    fn pushing_is_refused_once_the_source_and_all_readers_are_gone() {
        let (source, handle) = PushSource::new(2);
        let reader = source.open("push", None).unwrap();
        drop(source);
        handle.push(1).unwrap();
        drop(reader);
        assert_eq!(handle.push(2), Err(PushError::Closed { record: 2 }));
    }

    #[test]
    #[allow(clippy::disallowed_methods, reason = "the test plays the host program")]
    fn nothing_is_lost_between_many_threads_that_wait_for_room_and_a_reader() {
        let mut rig = Rig::new();
        let (source, handle) = PushSource::new(4);
        let mut reader = source.open("push", None).unwrap();
        let threads: Vec<_> = (0..3)
            .map(|thread| {
                let handle = handle.clone();
                std::thread::spawn(move || (0..500u32).for_each(|n| handle.push(thread * 500 + n).unwrap()))
            })
            .collect();
        drop(handle);
        let mut all = Vec::new();
        loop {
            let (records, status) = rig.read(&mut reader, 3).unwrap();
            all.extend(records.into_iter().map(|(record, _)| record));
            match status {
                ReadStatus::Ended => break,
                ReadStatus::Pending => std::thread::yield_now(),
                ReadStatus::More => {}
            }
        }
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        all.sort_unstable();
        assert!(all.into_iter().eq(0..1500));
    }

    #[test]
    fn each_handle_of_several_has_a_queue_and_a_split_of_its_own() {
        let mut rig = Rig::new();
        let (source, handles) = PushSource::with_handles(2, 1);
        let names = source.splits(&mut rig.io).unwrap();
        assert_eq!(names, ["push", "push-1"]);
        let mut readers: Vec<_> = names.iter().map(|name| source.open(name, None).unwrap()).collect();
        (0..2).for_each(|index| handles[index].try_push(index).unwrap());
        assert!(handles[0].try_push(7).is_err());
        drop(handles);
        let read: Vec<_> = readers.iter_mut().map(|reader| rig.read(reader, 5).unwrap().0).collect();
        assert_eq!(read, [[(0, 0)], [(1, 0)]]);
        assert!(source.open("push-2", None).is_err());
    }

    #[test]
    fn a_push_rings_every_slot_that_reads() {
        let (source, handle) = PushSource::new(4);
        let bells: Vec<_> = (0..2).map(|_| Arc::new(Doorbell::new().unwrap())).collect();
        let mut reader = source.open("push", None).unwrap();
        for bell in bells.iter().chain(&bells) {
            reader.set_doorbell(bell);
        }
        bells.iter().for_each(|bell| bell.announce());
        handle.try_push(1).unwrap();
        for bell in &bells {
            let mut counter = [0u8; 8];
            assert_eq!(rustix::io::read(bell.fd(), &mut counter), Ok(8));
            assert_eq!(u64::from_ne_bytes(counter), 1);
        }
    }
}
