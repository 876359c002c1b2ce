//! A sink into a bounded queue that a thread of the host reads: a subscription to any stream.
//!
//! At least once: records are there at once, and come again when the job goes back to a checkpoint. What happens when the
//! subscriber does not keep up is its own choice: the job waits, or records are dropped and counted.

use super::writer::{Sink, SinkContext, SinkError, SinkWriter};
use crate::metrics::{LatencyReader, LatencyRecorder, LatencySummary, latency_channel};
use crate::record::Stamp;
use crate::slot::{Doorbell, Doorbells, HostWait, HostWaiters};
use crate::time::{Clock, MachineClock};
use crossbeam_queue::ArrayQueue;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

/// What happens to a record that finds the queue full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenFull {
    /// It waits, and with it the job, back to its sources.
    Block,
    /// It is dropped and counted, here and in the metrics of the sink.
    DropNewest,
}

/// The writing end: the sink. Clones write into the same queue.
pub struct Subscribe<T, C = fn(&T) -> T> {
    shared: Arc<Shared<T>>,
    convert: C,
    when_full: WhenFull,
    _guard: Arc<WritingEnd<T>>,
}

/// The reading end, for one thread. When it is dropped, records are thrown away and the job goes on.
pub struct Subscription<T> {
    shared: Arc<Shared<T>>,
    recorder: LatencyRecorder,
    reader: LatencyReader,
}

struct Shared<T> {
    /// Records with when they were meant to be emitted.
    queue: ArrayQueue<(T, u64)>,
    dropped: AtomicU64,
    is_abandoned: AtomicBool,
    has_ended: AtomicBool,
    waiters: HostWaiters,
    bells: Doorbells,
}

/// Dropped with the last sink and writer.
struct WritingEnd<T>(Arc<Shared<T>>);

impl<T: Clone + Send + 'static> Subscribe<T> {
    /// A sink and its subscription, with room for `capacity` records (at least one).
    ///
    /// ```
    /// use millstream::engine::{Engine, JobOptions};
    /// use millstream::sink::{Subscribe, WhenFull};
    /// use millstream::source::VecSource;
    /// use millstream::stream::Job;
    ///
    /// let (job, (sink, mut evens)) = (Job::new("evens"), Subscribe::new(2, WhenFull::Block));
    /// job.source("numbers", VecSource::new(vec![(0..10u64).collect()]))
    ///     .ingestion_time()
    ///     .filter(|n| n % 2 == 0)
    ///     .sink("evens", sink);
    /// let engine = Engine::builder().slots(1).memory(64 << 20).start()?;
    /// engine.submit(job, JobOptions::default())?;
    /// let all: Vec<u64> = std::iter::from_fn(|| evens.next()).collect();
    /// assert_eq!(all, [0, 2, 4, 6, 8]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn new(capacity: usize, when_full: WhenFull) -> (Self, Subscription<T>) {
        Self::with(capacity, when_full, T::clone)
    }
}

impl<T: Send + 'static, C> Subscribe<T, C> {
    /// As `new`, for records that become `T` through `convert` (views, for example).
    pub fn with(capacity: usize, when_full: WhenFull, convert: C) -> (Self, Subscription<T>) {
        let shared = Arc::new(Shared {
            queue: ArrayQueue::new(capacity.max(1)),
            dropped: AtomicU64::new(0),
            is_abandoned: AtomicBool::new(false),
            has_ended: AtomicBool::new(false),
            waiters: HostWaiters::default(),
            bells: Doorbells::default(),
        });
        let (recorder, reader) = latency_channel();
        let sink = Self { shared: shared.clone(), convert, when_full, _guard: Arc::new(WritingEnd(shared.clone())) };
        (sink, Subscription { shared, recorder, reader })
    }
}

impl<T> Subscription<T> {
    /// The next record, if one is there.
    pub fn try_next(&mut self) -> Option<T> {
        let (record, origin_ns) = self.shared.queue.pop()?;
        self.recorder.record(MachineClock.monotonic_ns().saturating_sub(origin_ns));
        self.shared.bells.ring();
        Some(record)
    }

    /// The next record; `None` once the job has ended and all were read. Blocks the calling thread, which must not be a slot's.
    #[allow(clippy::should_implement_trait, reason = "an iterator would hide that it blocks")]
    pub fn next(&mut self) -> Option<T> {
        HostWait::new(None).block_on(|waker| self.ready(waker)).flatten()
    }

    /// The next record within `at_most`; `None` also when there is none by then.
    pub fn next_within(&mut self, at_most: Duration) -> Option<T> {
        HostWait::new(Some(at_most)).block_on(|waker| self.ready(waker)).flatten()
    }

    /// For asynchronous tasks of any runtime: the next record, `None` at the end, as of a `futures::Stream`.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<T>> {
        self.ready(cx.waker()).map_or(Poll::Pending, Poll::Ready)
    }

    /// The next record, `None` at the end, without blocking the thread.
    pub async fn next_async(&mut self) -> Option<T> {
        std::future::poll_fn(|cx| self.poll_next(cx)).await
    }

    /// Whether the job has ended and everything was read.
    pub fn has_ended(&self) -> bool {
        // Asked first: what was written before the end is in the queue then.
        self.shared.has_ended.load(Ordering::Acquire) && self.shared.queue.is_empty()
    }

    /// How many records were dropped because the queue was full.
    pub fn dropped(&self) -> u64 {
        self.shared.dropped.load(Ordering::Relaxed)
    }

    /// From when records were meant to be emitted by their source until they were taken here.
    pub fn latency(&mut self) -> LatencySummary {
        self.reader.collect();
        self.recorder.hand_over_if_asked();
        self.reader.collect();
        self.reader.summary()
    }

    /// A record or the end, or the waker is left to be woken by either.
    fn ready(&mut self, waker: &std::task::Waker) -> Option<Option<T>> {
        if let Some(record) = self.try_next() {
            return Some(Some(record));
        }
        self.shared.waiters.wait_with(waker);
        let has_ended = self.shared.has_ended.load(Ordering::Acquire);
        match self.try_next() {
            None if !has_ended => None,
            record => Some(record),
        }
    }
}

impl<T> Drop for Subscription<T> {
    fn drop(&mut self) {
        self.shared.is_abandoned.store(true, Ordering::Release);
        while self.shared.queue.pop().is_some() {}
        self.shared.bells.ring();
    }
}

impl<T> Drop for WritingEnd<T> {
    fn drop(&mut self) {
        self.0.has_ended.store(true, Ordering::Release);
        self.0.waiters.wake();
    }
}

impl<T, C: Clone> Clone for Subscribe<T, C> {
    fn clone(&self) -> Self {
        let Self { shared, convert, when_full, _guard } = self;
        Self { shared: shared.clone(), convert: convert.clone(), when_full: *when_full, _guard: _guard.clone() }
    }
}

impl<V: 'static, T: Send + 'static, C: Fn(&V) -> T + Clone + Send + Sync + 'static> Sink<V> for Subscribe<T, C> {
    type Writer = SubscriptionWriter<T, C>;

    fn open(&self, _: u32, _: u32) -> Result<Self::Writer, SinkError> {
        Ok(SubscriptionWriter { to: self.clone(), waiting: VecDeque::new(), has_news: false, dropped: 0 })
    }
}

/// Writes the records of one subtask.
pub struct SubscriptionWriter<T, C> {
    to: Subscribe<T, C>,
    /// Found the queue full; what one batch of records yields at most, for no other is delivered before.
    waiting: VecDeque<(T, u64)>,
    /// The subscriber was not yet woken for something in the queue.
    has_news: bool,
    dropped: u64,
}

impl<T, C> SubscriptionWriter<T, C> {
    fn push(&mut self, entry: (T, u64)) -> Result<(), (T, u64)> {
        self.to.shared.queue.push(entry)?;
        self.has_news = true;
        Ok(())
    }

    fn is_abandoned(&self) -> bool {
        self.to.shared.is_abandoned.load(Ordering::Acquire)
    }
}

impl<V: 'static, T: Send + 'static, C: Fn(&V) -> T + Clone + Send + Sync + 'static> SinkWriter<V>
    for SubscriptionWriter<T, C>
{
    fn write(&mut self, _: &mut SinkContext<'_>, stamp: &Stamp, record: &V) -> Result<(), SinkError> {
        if self.is_abandoned() {
            return Ok(());
        }
        let entry = ((self.to.convert)(record), stamp.origin_ns);
        let refused = if self.waiting.is_empty() { self.push(entry).err() } else { Some(entry) };
        match (refused, self.to.when_full) {
            (None, _) => {}
            (Some(entry), WhenFull::Block) => self.waiting.push_back(entry),
            (Some(_), WhenFull::DropNewest) => {
                self.dropped += 1;
                self.to.shared.dropped.fetch_add(1, Ordering::Relaxed);
            }
        }
        Ok(())
    }

    fn is_full(&self) -> bool {
        !self.waiting.is_empty()
    }

    fn poll(&mut self, _: &mut SinkContext<'_>) -> Result<bool, SinkError> {
        if self.is_abandoned() {
            self.waiting.clear();
        }
        while let Some(entry) = self.waiting.pop_front() {
            if let Err(entry) = self.push(entry) {
                self.waiting.push_front(entry);
                break;
            }
        }
        let had_news = std::mem::take(&mut self.has_news);
        if had_news {
            self.to.shared.waiters.wake();
        }
        Ok(had_news)
    }

    fn is_committed(&self) -> bool {
        self.waiting.is_empty()
    }

    fn take_dropped(&mut self) -> u64 {
        std::mem::take(&mut self.dropped)
    }

    fn set_doorbell(&mut self, doorbell: &Arc<Doorbell>) {
        self.to.shared.bells.add(doorbell);
    }
}

#[cfg(test)]
mod tests {
    use super::super::test_support::{Rig, stamp};
    use super::*;

    type Writer = SubscriptionWriter<u32, fn(&u32) -> u32>;

    fn open(capacity: usize, when_full: WhenFull) -> (Writer, Subscription<u32>) {
        let (sink, subscription) = Subscribe::new(capacity, when_full);
        (sink.open(0, 1).unwrap(), subscription)
    }

    fn write(writer: &mut Writer, records: impl IntoIterator<Item = u32>) {
        let mut rig = Rig::new();
        for record in records {
            rig.with(|cx| writer.write(cx, &stamp(), &record)).unwrap();
        }
        poll(writer);
    }

    fn poll(writer: &mut Writer) {
        Rig::new().with(|cx| SinkWriter::<u32>::poll(writer, cx)).unwrap();
    }

    fn is_full(writer: &Writer) -> bool {
        SinkWriter::<u32>::is_full(writer)
    }

    #[test]
    fn a_writer_that_may_block_keeps_what_found_no_room_in_order() {
        let (mut writer, mut subscription) = open(2, WhenFull::Block);
        write(&mut writer, 0..5);
        assert!(is_full(&writer) && !SinkWriter::<u32>::is_committed(&writer));
        let mut all = Vec::new();
        while let Some(record) = subscription.try_next() {
            all.push(record);
            poll(&mut writer);
        }
        assert_eq!(all, [0, 1, 2, 3, 4]);
        assert!(!is_full(&writer) && subscription.dropped() == 0);
    }

    #[test]
    fn a_writer_that_must_not_block_drops_the_newest_and_counts_them() {
        let (mut writer, mut subscription) = open(2, WhenFull::DropNewest);
        write(&mut writer, 0..5);
        assert!(!is_full(&writer));
        assert_eq!((subscription.dropped(), SinkWriter::<u32>::take_dropped(&mut writer)), (3, 3));
        assert_eq!(std::iter::from_fn(|| subscription.try_next()).collect::<Vec<_>>(), [0, 1]);
        assert_eq!(subscription.latency().count, 2);
    }

    #[test]
    fn a_subscriber_that_is_gone_holds_nobody_back() {
        let (mut writer, subscription) = open(1, WhenFull::Block);
        write(&mut writer, 0..3);
        drop(subscription);
        poll(&mut writer);
        assert!(!is_full(&writer));
        write(&mut writer, 0..3);
        assert!(!is_full(&writer));
    }

    #[test]
    fn a_subscription_ends_behind_the_last_record() {
        let (mut writer, mut subscription) = open(4, WhenFull::Block);
        write(&mut writer, 0..2);
        assert_eq!(subscription.next_within(Duration::ZERO), Some(0));
        drop(writer);
        assert!(!subscription.has_ended());
        assert_eq!((subscription.next(), subscription.next()), (Some(1), None));
        assert!(subscription.has_ended());
    }

    #[test]
    fn a_sleeping_subscriber_is_woken_by_a_record() {
        let (mut writer, mut subscription) = open(4, WhenFull::Block);
        let reader = crate::slot::spawn_slot("subscriber", None, move || subscription.next()).unwrap();
        write(&mut writer, [9]);
        assert_eq!(reader.join().unwrap(), Some(9));
    }
}
