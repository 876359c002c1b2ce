//! B6: what it costs to hand a record from one slot to another.
//!
//! ```text
//!  hop        slot 0: Pinger --channel--> slot 1: Echo --channel--> slot 0     one 32 B record under way
//!  saturated  slot 0: Fill   --channel--> slot 1: Drain                        as fast as backpressure lets it
//!  one core   push 500 records, flush, read 500 records                        the work without the distance
//!  parked     slot 0: Ringer --channel--> slot 1: Drain (asleep)               one record each 300 us
//! ```
//! Limits of the same run: a cache line's way between the same cores, a queue of 32 KiB buffers filled and summed by hand, a wake-up
//! by eventfd. Kernels: the same channel between two bare threads, without slots; a wake-up by futex. `--only=one-core --records=N` runs
//! nothing else, to count its instructions.
#![allow(clippy::disallowed_methods, reason = "a bench reads clocks and starts threads itself")]

#[path = "support/bell_io.rs"]
mod bell_io;
#[path = "support/cache_line.rs"]
mod cache_line;
#[path = "support/cpus.rs"]
mod cpus;
#[path = "support/median.rs"]
mod median;
#[path = "support/spsc_chunked.rs"]
mod spsc_chunked;
mod support;
#[path = "support/wake.rs"]
mod wake;

use bell_io::BellIo;
use hdrhistogram::Histogram;
use median::median;
use millstream::exchange::{ChannelOptions, Delivery, InBand, Receiver, RecordShape, Sender, channel};
use millstream::memory::{Arena, ArenaOptions, MemoryBudget};
use millstream::record::Stamp;
use millstream::slot::{
    AllowedCpus, Doorbell, IdlePolicy, Progress, Share, Slot, SlotTask, StepContext, drive, spawn_slot,
};
use millstream::state::KeyGroup;
use millstream::time::{Clock, EventTimeMs, MachineClock};
use std::sync::Arc;
use std::time::Duration;
use support::{Bench, Figure, histogram};

/// 8 bytes of event time and key group, 8 of key, 16 of payload: 32 in a frame.
const SHAPE: RecordShape = RecordShape::fixed::<u64, [u64; 2]>();

fn main() {
    let mut bench = Bench::start("exchange_hop");
    let scale = if bench.is_quick() { 1 } else { 10 };
    let flag = |name: &str| std::env::args().find_map(|arg| Some(arg.strip_prefix(name)?.to_owned()));
    let records = flag("--records=").and_then(|records| records.parse().ok()).unwrap_or(10_000_000 * scale);
    if flag("--only=").as_deref() == Some("one-core") {
        report_one_core(&mut bench, records);
        return bench.finish();
    }

    let line = cache_line::hop(100_000 * scale);
    let bare = bare_hop(100_000 * scale);
    let hop = slot_hop(100_000 * scale);
    for (metric, quantile) in [("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999), ("max", 1.0)] {
        let at = |times: &Histogram<u64>| times.value_at_quantile(quantile) as f64;
        let goal = (metric == "p50").then_some(3.0);
        let (limit, kernel) = (Some(at(&line)), Some(at(&bare)));
        bench.figure(Figure {
            limit,
            kernel,
            goal,
            ..Figure::new("hop between slots, one way", metric, at(&hop), "ns")
        });
    }

    bench.latencies(
        "hop between slots, one way",
        &hop,
        &[("cache line", &line), ("channel between bare threads", &bare)],
    );

    let limit = median(3, || spsc_chunked::records_per_s(records));
    let rate = median(3, || saturated(records));
    bench.figure(Figure {
        limit: Some(limit / 1e6),
        goal: Some(0.25),
        ..Figure::new("saturated, 32 B records", "rate", rate / 1e6, "M/s")
    });

    report_one_core(&mut bench, records);

    let (wake, futex) = (wake::eventfd(300 * scale), wake::futex(300 * scale));
    let parked = parked(300 * scale);
    for (metric, quantile) in [("p50", 0.5), ("p99", 0.99)] {
        let at = |times: &Histogram<u64>| times.value_at_quantile(quantile) as f64;
        let goal = (metric == "p50").then_some(1.2);
        bench.figure(Figure {
            limit: Some(at(&wake)),
            kernel: Some(at(&futex)),
            goal,
            ..Figure::new("to a parked slot, one way", metric, at(&parked), "ns")
        });
    }

    bench.latencies("to a parked slot, one way", &parked, &[("eventfd", &wake), ("futex", &futex)]);

    let line_after = cache_line::hop(100_000 * scale);
    let (before, after) = (line.value_at_quantile(0.5) as f64, line_after.value_at_quantile(0.5) as f64);
    bench.needs_cores(2);
    bench.probe("cache-line hop, p50", "ns", before, after);
    bench.finish();
}

fn report_one_core(bench: &mut Bench, records: u64) {
    let (write_ns, read_ns) = one_core(records);
    bench.figure(Figure::new("one core, write a record", "each", write_ns, "ns"));
    bench.figure(Figure::new("one core, read a record", "each", read_ns, "ns"));
}

/// Two slots that run one task each until both are done, joined.
fn on_two_slots<A, B>(bells: [Arc<Doorbell>; 2], a: impl FnOnce() -> A, b: impl FnOnce() -> B)
where
    A: SlotTask + Send + 'static,
    B: SlotTask + Send + 'static,
{
    let allowed = AllowedCpus::of_process();
    let cpus = allowed.for_slots(2);
    let tasks: [Box<dyn SlotTask + Send>; 2] = [Box::new(a()), Box::new(b())];
    let threads: Vec<_> = tasks
        .into_iter()
        .zip(bells)
        .zip(cpus)
        .map(|((task, bell), cpu)| {
            let idle = IdlePolicy::for_slots(2, allowed.usable());
            spawn_slot("bench", cpu, move || {
                let mut slot = Slot::new(bell.clone(), None, Arc::new(MachineClock));
                let stop = slot.handle().clone();
                slot.add("bench", Share::default(), Box::new(StopAfter { task, stop }));
                drive(&mut slot, &mut BellIo(bell), idle);
            })
            .expect("the machine has two threads left")
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().expect("a slot does not panic"));
}

/// Stops its slot when its task is done.
struct StopAfter {
    task: Box<dyn SlotTask + Send>,
    stop: millstream::slot::SlotHandle,
}

impl SlotTask for StopAfter {
    fn step(&mut self, cx: &mut StepContext<'_>) -> Progress {
        let progress = self.task.step(cx);
        if progress == Progress::Done {
            self.stop.stop();
        }
        progress
    }

    fn wake_at_ns(&self) -> Option<u64> {
        self.task.wake_at_ns()
    }
}

fn bells() -> [Arc<Doorbell>; 2] {
    [(); 2].map(|()| Arc::new(Doorbell::new().expect("the process has a free file descriptor")))
}

fn connect(from: &Arc<Doorbell>, to: &Arc<Doorbell>) -> (Sender, Receiver) {
    channel(ChannelOptions {
        who: "bench",
        shape: SHAPE,
        segments_in_flight_max: 4,
        arena: Arena::new(MemoryBudget::new(8 << 20), ArenaOptions::default()),
        consumer: to.clone(),
        producer: from.clone(),
    })
}

fn push(sender: &mut Sender, value: u64) {
    let stamp = Stamp { at: EventTimeMs(value as i64), clock: EventTimeMs::MIN, split: 0, origin_ns: 0 };
    let payload = [value, value];
    sender
        .push(&stamp, KeyGroup(0), bytemuck::bytes_of(&value), bytemuck::bytes_of(&payload))
        .expect("the receiver lives");
}

fn send(sender: &mut Sender, value: u64) {
    push(sender, value);
    sender.flush().expect("the receiver lives");
}

/// The sum of what is readable, at most one frame, or `None`.
#[inline]
fn receive(receiver: &mut Receiver) -> Option<u64> {
    let sum = match receiver.peek()? {
        Delivery::Records(frame) => frame.records().fold(0u64, |sum, record| {
            let key: u64 = bytemuck::pod_read_unaligned(record.key);
            let payload: &[u64; 2] = bytemuck::from_bytes(record.payload);
            sum.wrapping_add(key ^ payload[0]).wrapping_add(payload[1])
        }),
        Delivery::Event(_) => 0,
    };
    receiver.advance();
    Some(sum)
}

struct Pinger {
    to: Sender,
    from: Receiver,
    warm_up: u64,
    left: u64,
    begun_ns: u64,
    times: std::sync::mpsc::Sender<Histogram<u64>>,
    histogram: Histogram<u64>,
}

impl SlotTask for Pinger {
    fn step(&mut self, _cx: &mut StepContext<'_>) -> Progress {
        if self.begun_ns != 0 && receive(&mut self.from).is_none() {
            return Progress::Idle;
        }
        let now_ns = MachineClock.monotonic_ns();
        if self.warm_up > 0 {
            self.warm_up -= 1;
        } else {
            self.histogram.saturating_record((now_ns - self.begun_ns) / 2);
            self.left -= 1;
        }
        self.begun_ns = now_ns;
        if self.left == 0 {
            let _ = self.to.event(InBand::EndOfInput);
            drop(self.times.send(self.histogram.clone()));
            return Progress::Done;
        }
        send(&mut self.to, self.left);
        Progress::Worked
    }
}

struct Echo {
    from: Receiver,
    to: Sender,
}

impl SlotTask for Echo {
    fn step(&mut self, _cx: &mut StepContext<'_>) -> Progress {
        match receive(&mut self.from) {
            None => Progress::Idle,
            Some(_) if self.from.is_ended() => Progress::Done,
            Some(value) => {
                send(&mut self.to, value);
                Progress::Worked
            }
        }
    }
}

fn slot_hop(rounds: u64) -> Histogram<u64> {
    let bells = bells();
    let (to, echo_from) = connect(&bells[0], &bells[1]);
    let (echo_to, from) = connect(&bells[1], &bells[0]);
    let (times, taken) = std::sync::mpsc::channel();
    on_two_slots(
        bells,
        || Pinger { to, from, warm_up: rounds / 10, left: rounds, begun_ns: 0, times, histogram: histogram() },
        || Echo { from: echo_from, to: echo_to },
    );
    taken.recv().expect("the pinger reports before it ends")
}

/// The same round trips between two threads that only poll their channel.
fn bare_hop(rounds: u64) -> Histogram<u64> {
    let bells = bells();
    let (mut to, mut echo_from) = connect(&bells[0], &bells[1]);
    let (mut echo_to, mut from) = connect(&bells[1], &bells[0]);
    let total = rounds + rounds / 10;
    let ping = move || {
        let mut times = histogram();
        let mut begun_ns = MachineClock.monotonic_ns();
        for round in 0..total {
            send(&mut to, round);
            while receive(&mut from).is_none() {
                std::hint::spin_loop();
            }
            let now_ns = MachineClock.monotonic_ns();
            if round >= rounds / 10 {
                times.saturating_record((now_ns - begun_ns) / 2);
            }
            begun_ns = now_ns;
        }
        times
    };
    let pong = move || {
        for _ in 0..total {
            let value = loop {
                match receive(&mut echo_from) {
                    Some(value) => break value,
                    None => std::hint::spin_loop(),
                }
            };
            send(&mut echo_to, value);
        }
    };
    cpus::on_two_cores(ping, pong).0
}

/// As many records per step as a step of ordinary length holds.
const RECORDS_PER_STEP: u64 = 2_000;

struct Fill {
    to: Sender,
    left: u64,
}

impl SlotTask for Fill {
    fn step(&mut self, cx: &mut StepContext<'_>) -> Progress {
        if self.to.is_blocked() && (self.to.step() == Progress::Idle || self.to.is_blocked()) {
            return Progress::Idle;
        }
        if self.left == 0 {
            return Progress::Done;
        }
        let now = RECORDS_PER_STEP.min(self.left);
        for value in 0..now {
            push(&mut self.to, self.left - value);
        }
        self.left -= now;
        if self.left == 0 {
            let _ = self.to.event(InBand::EndOfInput);
        } else {
            let _ = self.to.flush_if_due(cx.now_ns);
        }
        Progress::Worked
    }
}

struct Drain {
    from: Receiver,
    sum: u64,
}

impl SlotTask for Drain {
    fn step(&mut self, _cx: &mut StepContext<'_>) -> Progress {
        match receive(&mut self.from) {
            None => Progress::Idle,
            Some(_) if self.from.is_ended() => Progress::Done,
            Some(sum) => {
                self.sum = std::hint::black_box(self.sum.wrapping_add(sum));
                Progress::Worked
            }
        }
    }
}

/// Records per second from slot to slot.
fn saturated(records: u64) -> f64 {
    let bells = bells();
    let (to, from) = connect(&bells[0], &bells[1]);
    let begun_ns = MachineClock.monotonic_ns();
    on_two_slots(bells, || Fill { to, left: records }, || Drain { from, sum: 0 });
    records as f64 / (MachineClock.monotonic_ns() - begun_ns) as f64 * 1e9
}

/// Nanoseconds for writing and for reading one record on the same core.
fn one_core(records: u64) -> (f64, f64) {
    const BATCH: u64 = 500;
    let bells = bells();
    let (mut to, mut from) = connect(&bells[0], &bells[1]);
    let (mut write_ns, mut read_ns, mut sum) = (0, 0, 0u64);
    for batch in 0..records / BATCH {
        let begun_ns = MachineClock.monotonic_ns();
        for value in 0..BATCH {
            push(&mut to, batch + value);
        }
        to.flush().expect("the receiver lives");
        let written_ns = MachineClock.monotonic_ns();
        while let Some(of_frame) = receive(&mut from) {
            sum = sum.wrapping_add(of_frame);
        }
        write_ns += written_ns - begun_ns;
        read_ns += MachineClock.monotonic_ns() - written_ns;
    }
    std::hint::black_box(sum);
    (write_ns as f64 / records as f64, read_ns as f64 / records as f64)
}

/// Sends the time each time it wakes, long after the receiver fell asleep.
struct Ringer {
    to: Sender,
    left: u64,
    next_ns: u64,
}

const RING_EVERY: Duration = Duration::from_micros(300);

impl SlotTask for Ringer {
    fn step(&mut self, _cx: &mut StepContext<'_>) -> Progress {
        let now_ns = MachineClock.monotonic_ns();
        if now_ns < self.next_ns {
            return Progress::Idle;
        }
        self.next_ns = now_ns + RING_EVERY.as_nanos() as u64;
        if self.left == 0 {
            let _ = self.to.event(InBand::EndOfInput);
            return Progress::Done;
        }
        self.left -= 1;
        send(&mut self.to, MachineClock.monotonic_ns());
        Progress::Worked
    }

    fn wake_at_ns(&self) -> Option<u64> {
        Some(self.next_ns)
    }
}

struct Clocked {
    from: Receiver,
    histogram: Histogram<u64>,
    times: std::sync::mpsc::Sender<Histogram<u64>>,
}

impl SlotTask for Clocked {
    fn step(&mut self, _cx: &mut StepContext<'_>) -> Progress {
        let Some(delivery) = self.from.peek() else { return Progress::Idle };
        if let Delivery::Records(frame) = delivery {
            for record in frame.records() {
                let sent_ns: u64 = bytemuck::pod_read_unaligned(record.key);
                self.histogram.saturating_record(MachineClock.monotonic_ns().saturating_sub(sent_ns));
            }
        }
        self.from.advance();
        if self.from.is_ended() {
            drop(self.times.send(self.histogram.clone()));
            return Progress::Done;
        }
        Progress::Worked
    }
}

fn parked(rounds: u64) -> Histogram<u64> {
    let bells = bells();
    let (to, from) = connect(&bells[0], &bells[1]);
    let (times, taken) = std::sync::mpsc::channel();
    on_two_slots(bells, || Ringer { to, left: rounds, next_ns: 0 }, || Clocked { from, histogram: histogram(), times });
    taken.recv().expect("the receiver reports before it ends")
}
