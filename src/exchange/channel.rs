//! A channel: one producer, one consumer, a bounded queue of segments between them, and a second queue for the way back.
//!
//! Here: how a channel is made, what both ends share, its errors. Not here: writing (`sender`), reading (`receiver`).
//!
//! ```text
//!            filling       | sent: at most `segments_in_flight_max` |      reading
//!   Sender  ---------->  [ ArrayQueue of SegmentReader ]  -------------->  Receiver
//!           <----------  [ ArrayQueue of spent segments ] <--------------
//! ```
//! The free places of the first queue are the credit: there are no credit messages. A segment is sent at its first publication
//! and stays readable while it fills. Spent segments go back as they are, so steady state neither allocates nor locks.
//!
//! Memory: none before the first record; then the segment that fills, the one being read and those sent, 6 x 32 KiB with the default, and
//! for the length of one step of the sender what it wrote beyond the credit. An edge between N and N subtasks has N x N channels:
//! at most 192 KiB on one slot, 768 KiB on 2, 12 MiB on 8, 768 MiB on 64, all of it of the job's budget.

use super::receiver::Receiver;
use super::record_shape::RecordShape;
use super::segment::SegmentReader;
use super::sender::Sender;
use crate::memory::{Arena, MemoryError};
use crate::slot::Doorbell;
use crate::sync::atomic::{AtomicBool, AtomicU64};
use crossbeam_queue::ArrayQueue;
use std::sync::Arc;

/// How many sent segments may wait for the consumer when nothing else is said: 128 KiB, well under 1 ms of work.
pub const SEGMENTS_IN_FLIGHT_DEFAULT: usize = 4;

/// What a channel is made of.
#[derive(Clone, Debug)]
pub struct ChannelOptions {
    /// Who borrows the segments, for refusals.
    pub who: &'static str,
    /// How every record lies in memory.
    pub shape: RecordShape,
    /// How many sent segments may wait for the consumer (at least 1).
    pub segments_in_flight_max: usize,
    /// Where segments come from, one at a time as they are needed.
    pub arena: Arena,
    /// Rung when there is something to read, or the producer is gone.
    pub consumer: Arc<Doorbell>,
    /// Rung when a blocked producer may go on, or the consumer is gone.
    pub producer: Arc<Doorbell>,
}

/// Why a record or an event was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExchangeError {
    /// A record that no segment can hold.
    #[error(
        "{who}: a record of {record_bytes} bytes (key, payload and padding) does not fit into a segment of {segment_bytes} bytes: make its fields smaller or pass a reference"
    )]
    RecordTooLarge {
        /// The channel.
        who: &'static str,
        /// What the record takes in a frame.
        record_bytes: usize,
        /// What a frame in an empty segment can hold.
        segment_bytes: usize,
    },
    /// No memory for another segment; the record was not taken, everything before it was.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// The consumer was dropped; whatever it had not read is lost with it.
    #[error(
        "{who}: the receiving subtask is gone, nothing more can be sent to it: restart the job from its last checkpoint"
    )]
    ReceiverGone {
        /// The channel.
        who: &'static str,
    },
}

/// What went through one end of a channel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ChannelCounters {
    /// Records.
    pub records: u64,
    /// Bytes of records and events, with headers and padding.
    pub bytes: u64,
    /// Segments begun.
    pub segments: u64,
}

impl std::ops::AddAssign for ChannelCounters {
    fn add_assign(&mut self, other: Self) {
        self.records += other.records;
        self.bytes += other.bytes;
        self.segments += other.segments;
    }
}

/// Makes a channel; it borrows no memory until something is sent. Its two ends may move to two threads.
///
/// # Panics
/// Asserts that at least one segment may be in flight.
pub fn channel(options: ChannelOptions) -> (Sender, Receiver) {
    assert!(options.segments_in_flight_max > 0, "{}: a channel needs at least one segment in flight", options.who);
    let shared = Arc::new(Shared {
        sent: ArrayQueue::new(options.segments_in_flight_max),
        // One more is being read and one being filled; what overdraft adds beyond that goes back to the arena.
        spent: ArrayQueue::new(options.segments_in_flight_max + 2),
        frames_consumed: OwnLine(AtomicU64::new(0)),
        producer_blocked: OwnLine(AtomicBool::new(false)),
        sender_gone: AtomicBool::new(false),
        receiver_gone: AtomicBool::new(false),
        consumer: options.consumer,
        producer: options.producer,
    });
    let receiver = Receiver::new(shared.clone(), options.shape);
    (Sender::new(shared, options.who, options.shape, options.arena), receiver)
}

/// What both ends see.
pub(super) struct Shared {
    pub(super) sent: ArrayQueue<SegmentReader>,
    pub(super) spent: ArrayQueue<SegmentReader>,
    /// How many frames the consumer is done with; the producer compares it with what it published.
    pub(super) frames_consumed: OwnLine<AtomicU64>,
    /// Whether segments wait beyond the credit.
    pub(super) producer_blocked: OwnLine<AtomicBool>,
    pub(super) sender_gone: AtomicBool,
    pub(super) receiver_gone: AtomicBool,
    pub(super) consumer: Arc<Doorbell>,
    pub(super) producer: Arc<Doorbell>,
}

/// Keeps a value that one side writes often away from what the other side reads (two lines: the prefetcher fetches pairs).
#[repr(align(128))]
pub(super) struct OwnLine<T>(pub(super) T);

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::checkpoint::CheckpointId;
    use crate::exchange::{Delivery, InBand, SEGMENT_LEN_BYTES};
    use crate::memory::{ArenaOptions, MemoryBudget};
    use crate::record::Stamp;
    use crate::slot::Progress;
    use crate::state::KeyGroup;
    use crate::time::EventTimeMs;

    pub const SHAPE: RecordShape = RecordShape::Fixed { key_len: 8, payload_len: 8 };

    pub fn options(shape: RecordShape, segments_in_flight_max: usize) -> ChannelOptions {
        let arena = Arena::new(MemoryBudget::new(8 << 20), ArenaOptions::default());
        let bell = || Arc::new(Doorbell::new().unwrap());
        ChannelOptions { who: "test", shape, segments_in_flight_max, arena, consumer: bell(), producer: bell() }
    }

    pub fn stamp(origin_ns: u64) -> Stamp {
        Stamp { at: EventTimeMs(5), clock: EventTimeMs::MIN, split: 3, origin_ns }
    }

    pub fn send(sender: &mut Sender, value: u64) {
        sender.push(&stamp(1), KeyGroup(0), bytemuck::bytes_of(&value), bytemuck::bytes_of(&(value * 2))).unwrap();
    }

    /// The keys of all records that are readable, and the events as negative numbers of their order.
    pub fn receive(receiver: &mut Receiver) -> Vec<u64> {
        let mut keys = Vec::new();
        while let Some(delivery) = receiver.peek() {
            if let Delivery::Records(frame) = delivery {
                keys.extend(frame.records().map(|record| bytemuck::pod_read_unaligned::<u64>(record.key)));
            }
            receiver.advance();
        }
        keys
    }

    #[test]
    fn records_and_events_arrive_in_the_order_in_which_they_were_sent() {
        let (mut sender, mut receiver) = channel(options(SHAPE, 4));
        send(&mut sender, 1);
        send(&mut sender, 2);
        sender.event(InBand::Barrier(CheckpointId(9))).unwrap();
        send(&mut sender, 3);
        sender.event(InBand::EndOfInput).unwrap();
        let mut seen = Vec::new();
        while let Some(delivery) = receiver.peek() {
            match delivery {
                Delivery::Records(frame) => seen.push(format!("{} records of split {}", frame.count(), frame.split())),
                Delivery::Event(event) => seen.push(format!("{event:?}")),
            }
            receiver.advance();
        }
        assert_eq!(seen, ["2 records of split 3", "Barrier(CheckpointId(9))", "1 records of split 3", "EndOfInput"]);
        assert!(receiver.is_ended());
    }

    #[test]
    fn a_record_is_invisible_until_it_is_flushed() {
        let (mut sender, mut receiver) = channel(options(SHAPE, 4));
        send(&mut sender, 1);
        assert!(receiver.peek().is_none());
        sender.flush().unwrap();
        assert_eq!(receive(&mut receiver), [1]);
    }

    #[test]
    fn records_of_different_origins_lie_in_different_frames() {
        let (mut sender, mut receiver) = channel(options(SHAPE, 4));
        for origin_ns in [1, 1, 2] {
            sender.push(&stamp(origin_ns), KeyGroup(0), &[0; 8], &[0; 8]).unwrap();
        }
        sender.flush().unwrap();
        let mut frames = Vec::new();
        while let Some(Delivery::Records(frame)) = receiver.peek() {
            frames.push((frame.origin_ns(), frame.count()));
            receiver.advance();
        }
        assert_eq!(frames, [(1, 2), (2, 1)]);
    }

    #[test]
    fn times_that_lie_too_far_apart_for_one_frame_arrive_in_several() {
        let (mut sender, mut receiver) = channel(options(SHAPE, 4));
        let times = [0, 5, i64::MAX, i64::MIN, i64::MIN + 1, 1 << 47, 0];
        for at in times {
            let stamp = Stamp { at: EventTimeMs(at), ..stamp(1) };
            sender.push(&stamp, KeyGroup(9), &[0; 8], &[0; 8]).unwrap();
        }
        sender.flush().unwrap();
        let (mut seen, mut frames) = (Vec::new(), Vec::new());
        while let Some(Delivery::Records(frame)) = receiver.peek() {
            frames.push(frame.count());
            seen.extend(frame.records().map(|record| (record.at.0, record.group)));
            receiver.advance();
        }
        assert_eq!(seen, times.map(|at| (at, KeyGroup(9))));
        // The largest time and the smallest are neighbours, as differences wrap around.
        assert_eq!(frames, [2, 3, 2]);
    }

    #[test]
    fn a_step_that_writes_more_than_the_credit_loses_nothing_and_blocks_the_producer() {
        let (mut sender, mut receiver) = channel(options(SHAPE, 1));
        let count = (6 * SEGMENT_LEN_BYTES / 24) as u64;
        (0..count).for_each(|value| send(&mut sender, value));
        sender.flush().unwrap();
        assert!(sender.is_blocked());
        let mut seen = Vec::new();
        while sender.is_blocked() {
            seen.extend(receive(&mut receiver));
            assert_eq!(sender.step(), Progress::Worked);
        }
        seen.extend(receive(&mut receiver));
        assert_eq!(seen, (0..count).collect::<Vec<_>>());
    }

    #[test]
    fn a_blocked_producer_stays_blocked_until_the_consumer_takes_a_segment() {
        let (mut sender, mut receiver) = channel(options(SHAPE, 1));
        (0..(3 * SEGMENT_LEN_BYTES / 48) as u64).for_each(|value| send(&mut sender, value));
        sender.flush().unwrap();
        assert_eq!(sender.step(), Progress::Idle);
        assert!(sender.is_blocked());
        receiver.peek();
        assert_eq!(sender.step(), Progress::Worked);
        assert!(!sender.is_blocked());
    }

    #[test]
    fn taking_a_segment_wakes_a_producer_that_is_blocked_and_no_other() {
        let options = options(SHAPE, 1);
        let producer = options.producer.clone();
        let (mut sender, mut receiver) = channel(options);
        send(&mut sender, 0);
        sender.flush().unwrap();
        producer.announce();
        receiver.peek();
        assert!(!rung(&producer));
        (0..(4 * SEGMENT_LEN_BYTES / 24) as u64).for_each(|value| send(&mut sender, value));
        sender.flush().unwrap();
        assert!(sender.is_blocked());
        producer.announce();
        receive(&mut receiver);
        assert!(rung(&producer));
    }

    #[test]
    fn a_sleeping_producer_is_woken_when_half_of_its_credit_is_free() {
        let options = options(SHAPE, 4);
        let producer = options.producer.clone();
        let (mut sender, mut receiver) = channel(options);
        (0..(8 * SEGMENT_LEN_BYTES / 24) as u64).for_each(|value| send(&mut sender, value));
        sender.flush().unwrap();
        producer.announce();
        let mut rung_after = Vec::new();
        for taken in 1..=3 {
            while receiver.has_delivery() && receiver.counters().segments < taken {
                receiver.advance();
            }
            rung_after.push(rung(&producer));
        }
        assert_eq!(rung_after, [false, true, true]);
    }

    fn rung(bell: &Doorbell) -> bool {
        let mut fds = [rustix::event::PollFd::from_borrowed_fd(bell.fd(), rustix::event::PollFlags::IN)];
        rustix::event::poll(&mut fds, Some(&rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 })).unwrap() == 1
    }

    #[test]
    fn a_flush_wakes_a_sleeping_consumer() {
        let options = options(SHAPE, 4);
        let consumer = options.consumer.clone();
        let (mut sender, _receiver) = channel(options);
        consumer.announce();
        send(&mut sender, 1);
        assert!(!rung(&consumer));
        sender.flush().unwrap();
        assert!(rung(&consumer));
    }

    #[test]
    fn an_exhausted_budget_refuses_by_name_and_keeps_what_was_sent_before() {
        let mut options = options(SHAPE, 1);
        options.arena = Arena::new(MemoryBudget::new(2 << 20), ArenaOptions::default());
        let (mut sender, mut receiver) = channel(options);
        let mut sent = 0u64;
        let refusal = loop {
            match sender.push(&stamp(1), KeyGroup(0), bytemuck::bytes_of(&sent), &[0; 8]) {
                Ok(()) => sent += 1,
                Err(refusal) => break refusal,
            }
        };
        assert!(matches!(refusal, ExchangeError::Memory(MemoryError::BudgetExhausted { who: "test", .. })));
        let mut seen = Vec::new();
        while (seen.len() as u64) < sent {
            seen.extend(receive(&mut receiver));
            sender.step();
        }
        send(&mut sender, sent);
        sender.flush().unwrap();
        sender.step();
        seen.extend(receive(&mut receiver));
        assert_eq!(seen, (0..=sent).collect::<Vec<_>>());
    }

    #[test]
    fn a_record_larger_than_a_segment_is_refused_with_both_sizes() {
        let (mut sender, mut receiver) = channel(options(RecordShape::Sized, 4));
        let refusal = sender.push(&stamp(1), KeyGroup(0), b"k", &vec![0; 40_000]).unwrap_err();
        assert_eq!(
            refusal,
            ExchangeError::RecordTooLarge { who: "test", record_bytes: 40_032, segment_bytes: SEGMENT_LEN_BYTES - 48 }
        );
        sender.push(&stamp(1), KeyGroup(0), b"", &vec![0; SEGMENT_LEN_BYTES - 48 - 16]).unwrap();
        sender.flush().unwrap();
        assert!(matches!(receiver.peek(), Some(Delivery::Records(frame)) if frame.count() == 1));
    }

    #[test]
    #[should_panic(expected = "a key of 8 and a payload of 7 bytes")]
    fn a_record_of_other_lengths_is_refused_on_a_fixed_channel() {
        let (mut sender, _receiver) = channel(options(SHAPE, 4));
        drop(sender.push(&stamp(1), KeyGroup(0), &[0; 8], &[0; 7]));
    }

    #[test]
    fn sized_payloads_lie_at_addresses_that_are_multiples_of_16() {
        let (mut sender, mut receiver) = channel(options(RecordShape::Sized, 4));
        for len in 0..50 {
            sender.push(&stamp(len as u64 / 3), KeyGroup(0), &vec![1; len], &vec![2; 2 * len]).unwrap();
        }
        sender.flush().unwrap();
        let mut seen = 0;
        while let Some(Delivery::Records(frame)) = receiver.peek() {
            for record in frame.records() {
                assert!(record.payload.as_ptr().addr().is_multiple_of(16));
                assert_eq!((record.key.len(), record.payload.len()), (seen, 2 * seen));
                seen += 1;
            }
            receiver.advance();
        }
        assert_eq!(seen, 50);
    }

    #[test]
    fn a_receiver_learns_that_its_sender_went_without_an_end() {
        let (mut sender, mut receiver) = channel(options(SHAPE, 4));
        send(&mut sender, 1);
        sender.flush().unwrap();
        drop(sender);
        assert!(!receiver.is_abandoned());
        assert_eq!(receive(&mut receiver), [1]);
        assert!(receiver.is_abandoned() && !receiver.is_ended());
    }

    #[test]
    fn a_sender_learns_that_its_receiver_is_gone_and_is_not_blocked_by_it() {
        let (mut sender, receiver) = channel(options(SHAPE, 1));
        (0..(4 * SEGMENT_LEN_BYTES / 24) as u64).for_each(|value| send(&mut sender, value));
        assert!(sender.is_blocked());
        drop(receiver);
        assert_eq!(sender.step(), Progress::Worked);
        assert!(!sender.is_blocked());
        send(&mut sender, 1);
        assert_eq!(sender.flush(), Err(ExchangeError::ReceiverGone { who: "test" }));
    }

    #[test]
    fn steady_state_borrows_no_more_segments_than_the_credit_and_two() {
        let options = options(SHAPE, 2);
        let arena = options.arena.clone();
        let (mut sender, mut receiver) = channel(options);
        let held = std::iter::from_fn(|| arena.take("others", crate::memory::BlockSize::K32).ok())
            .take(252)
            .collect::<Vec<_>>();
        for round in 0..2_000u64 {
            (0..500).for_each(|i| send(&mut sender, round * 500 + i));
            sender.flush().unwrap();
            assert_eq!(receive(&mut receiver).len(), 500);
        }
        assert_eq!(held.len() + 4, (8 << 20) / SEGMENT_LEN_BYTES);
        assert!(receiver.counters().segments > 500);
        assert_eq!(receiver.counters(), sender.counters());
    }

    #[test]
    fn everything_a_channel_borrowed_is_back_when_both_ends_are_gone() {
        let options = options(SHAPE, 1);
        let arena = options.arena.clone();
        let (mut sender, mut receiver) = channel(options);
        (0..(20 * SEGMENT_LEN_BYTES / 24) as u64).for_each(|value| send(&mut sender, value));
        receiver.peek();
        drop(receiver);
        drop(sender);
        let all = std::iter::from_fn(|| arena.take("test", crate::memory::BlockSize::K32).ok()).collect::<Vec<_>>();
        assert_eq!(all.len(), (8 << 20) / SEGMENT_LEN_BYTES);
    }

    #[test]
    fn a_flush_is_due_at_once_when_the_consumer_has_read_everything() {
        let (mut sender, mut receiver) = channel(options(SHAPE, 4));
        send(&mut sender, 1);
        sender.flush_if_due(1_000).unwrap();
        assert_eq!(receive(&mut receiver), [1]);
    }

    #[test]
    fn a_flush_is_due_50_us_after_the_first_unpublished_record_when_the_consumer_is_behind() {
        let (mut sender, mut receiver) = channel(options(SHAPE, 4));
        send(&mut sender, 1);
        sender.flush().unwrap();
        send(&mut sender, 2);
        sender.flush_if_due(1_000).unwrap();
        sender.flush_if_due(50_999).unwrap();
        assert!(sender.has_unpublished());
        sender.flush_if_due(51_000).unwrap();
        assert!(!sender.has_unpublished());
        assert_eq!(receive(&mut receiver), [1, 2]);
    }

    #[test]
    fn two_threads_exchange_every_record_once_and_in_order() {
        let count = if cfg!(miri) { 3_000u64 } else { 300_000 };
        let (mut sender, mut receiver) = channel(options(SHAPE, 2));
        let producer = move || {
            for value in 0..count {
                send(&mut sender, value);
                if value % 100 == 0 {
                    sender.flush().unwrap();
                }
                while sender.is_blocked() && sender.step() == Progress::Idle {
                    std::thread::yield_now();
                }
            }
            sender.event(InBand::EndOfInput).unwrap();
            while sender.is_blocked() {
                sender.step();
            }
        };
        std::thread::scope(|scope| {
            scope.spawn(producer);
            let mut next = 0;
            while !receiver.is_ended() {
                for key in receive(&mut receiver) {
                    assert_eq!(key, next);
                    next += 1;
                }
                std::thread::yield_now();
            }
            assert_eq!(next, count);
        });
    }
}
