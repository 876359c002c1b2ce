//! Records cross a channel whole and in order, and neither end sleeps while the other waits for it.
//!
//! Both ends sleep as slots do. Planted and found: `publish`, `seal` or `refresh` without its ordering (an unordered access); no fence in
//! `credit_freed`, no ring behind a publication, a receiver that leaves without ringing (deadlocks). Planted and harmless: no fence, or no
//! second look, in `send_overdraft`: a task that is about to sleep looks once more itself, behind the fence of its announcement.

use loom::sync::Arc;
use millstream_models::event::wait_readable;
use millstream_models::exchange::{ChannelOptions, Delivery, InBand, Receiver, RecordShape, Sender, channel};
use millstream_models::memory::Arena;
use millstream_models::record::Stamp;
use millstream_models::slot::Doorbell;
use millstream_models::state::KeyGroup;
use millstream_models::time::EventTimeMs;
use millstream_models::{Traced, in_every_order};

/// Two do not fit into a segment.
const PAYLOAD_LEN_BYTES: usize = 20_000;

fn sleep_unless(bell: &Doorbell, mut is_ready: impl FnMut() -> bool) {
    bell.announce();
    if !is_ready() {
        wait_readable(bell.fd());
    }
    bell.withdraw();
}

fn send(sender: &mut Sender, n: usize, payload: &[u8], traces: &[Traced]) {
    traces[n].write();
    let stamp = Stamp { at: EventTimeMs(n as i64), clock: EventTimeMs::MIN, split: 0, origin_ns: 0 };
    sender.push(&stamp, KeyGroup(0), &[], payload).unwrap();
}

/// Sleeps while segments wait beyond the credit.
fn unblock(sender: &mut Sender, bell: &Doorbell) {
    while sender.is_blocked() {
        sender.step();
        if sender.is_blocked() {
            sleep_unless(bell, || {
                sender.step();
                !sender.is_blocked()
            });
        }
    }
}

/// How many records came before the end, each in its turn.
fn receive(receiver: &mut Receiver, bell: &Doorbell, traces: &[Traced]) -> usize {
    let mut seen = 0;
    while !receiver.is_ended() {
        match receiver.peek() {
            Some(Delivery::Records(frame)) => {
                for record in frame.records() {
                    assert_eq!(record.at, EventTimeMs(seen as i64));
                    traces[seen].read();
                    seen += 1;
                }
                receiver.advance();
            }
            Some(Delivery::Event(_)) => receiver.advance(),
            None => sleep_unless(bell, || receiver.has_delivery()),
        }
    }
    seen
}

fn sent_and_received(name: &str, preemptions_max: Option<usize>, payloads: &'static [usize], flushed: usize) {
    in_every_order(name, preemptions_max, move || {
        let bell = || std::sync::Arc::new(Doorbell::new().unwrap());
        let (producer, consumer) = (bell(), bell());
        let (mut sender, mut receiver) = channel(ChannelOptions {
            who: "model",
            shape: RecordShape::Sized,
            segments_in_flight_max: 1,
            arena: Arena,
            consumer: consumer.clone(),
            producer: producer.clone(),
        });
        let traces: Arc<Vec<Traced>> = Arc::new(payloads.iter().map(|_| Traced::default()).collect());
        let sending = {
            let traces = traces.clone();
            loom::thread::spawn(move || {
                for (n, len) in payloads.iter().enumerate() {
                    send(&mut sender, n, &vec![7; *len], &traces);
                    if n < flushed {
                        sender.flush().unwrap();
                    }
                    unblock(&mut sender, &producer);
                }
                sender.event(InBand::EndOfInput).unwrap();
                unblock(&mut sender, &producer);
            })
        };
        assert_eq!(receive(&mut receiver, &consumer, &traces), payloads.len());
        sending.join().unwrap();
    });
}

#[test]
fn records_of_one_segment_are_seen_as_they_are_published() {
    sent_and_received("one segment, each record flushed", Some(3), &[8, 8], 2);
}

#[test]
fn a_sender_out_of_credit_goes_on_when_the_receiver_took_a_segment() {
    sent_and_received("segments beyond the credit", Some(2), &[PAYLOAD_LEN_BYTES; 2], 0);
}

#[test]
fn records_behind_the_last_flush_of_a_full_segment_are_seen() {
    let payloads = &[8, PAYLOAD_LEN_BYTES, PAYLOAD_LEN_BYTES];
    sent_and_received("a segment sent before it is sealed", Some(2), payloads, 1);
}

#[test]
fn spent_segments_come_back_and_hold_other_records() {
    sent_and_received("segments that come back", Some(1), &[PAYLOAD_LEN_BYTES; 3], 0);
}

#[test]
fn a_receiver_that_leaves_does_not_leave_its_sender_blocked() {
    in_every_order("the receiver leaves", Some(3), || {
        let bell = || std::sync::Arc::new(Doorbell::new().unwrap());
        let (producer, consumer) = (bell(), bell());
        let (mut sender, receiver) = channel(ChannelOptions {
            who: "model",
            shape: RecordShape::Sized,
            segments_in_flight_max: 1,
            arena: Arena,
            consumer,
            producer: producer.clone(),
        });
        let leaving = loom::thread::spawn(move || drop(receiver));
        let stamp = Stamp { at: EventTimeMs(0), clock: EventTimeMs::MIN, split: 0, origin_ns: 0 };
        for _ in 0..3 {
            if sender.push(&stamp, KeyGroup(0), &[], &[7; PAYLOAD_LEN_BYTES]).is_err() {
                break;
            }
        }
        let _ = sender.flush();
        unblock(&mut sender, &producer);
        leaving.join().unwrap();
    });
}
