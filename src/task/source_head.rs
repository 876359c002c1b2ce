//! The head of a source chain: reads this subtask's splits in turn, stamps their records, and keeps their clocks and positions.
//!
//! Split number i (names sorted) belongs to subtask i mod parallelism, so a restore with another parallelism moves whole splits.
//! Semantics: Flink `SourceOperator` with per-split watermarks. Unlike Flink, clocks are restored with the positions.

use crate::graph::{BuildContext, ChainRoot, SourceRoot, SourceStep};
use crate::memory::Arena;
use crate::metrics::{LatencyRecorder, LossReason, OperatorCounters};
use crate::operator::{ChainContext, Flow, Restored, Signal, SnapshotBuilder, Stage};
use crate::record::Stamp;
use crate::slot::Doorbell;
use crate::source::{ReadContext, ReadStatus, Source, SplitReader};
use crate::stream::Timestamps;
use crate::time::{ClockChange, EventTimeMs, SplitClockState, SplitClocks, StreamStatus, Watermark, Watermarks};
use std::collections::HashMap;
use std::sync::Arc;

/// How many records one split may yield before the next one is read.
const RECORDS_PER_SPLIT_MAX: usize = 128;
/// How often splits are looked at for silence (Flink `pipeline.auto-watermark-interval`).
const IDLE_CHECK_EVERY_NS: u64 = 200_000_000;
/// The name under which a source's positions stand in a checkpoint.
const SPLITS: &str = "splits";

/// Reads the splits of one subtask.
pub struct SourceHead<S: Source, F, N> {
    operator: Arc<str>,
    source: S,
    at: Timestamps<F>,
    clocks: SplitClocks,
    splits: Vec<Split<S::Reader>>,
    next_split: usize,
    /// The number of the first split of all among all that records come from.
    first_split: u32,
    idle_checked_ns: u64,
    ended: bool,
    arena: Arena,
    doorbell: Arc<Doorbell>,
    counters: Arc<OperatorCounters>,
    /// How long records waited before they were read, where the source says so.
    waits: Option<LatencyRecorder>,
    next: N,
}

struct Split<R> {
    number: u32,
    name: String,
    state: SplitState<R>,
}

enum SplitState<R> {
    /// Not yet opened: goes on after this position, or begins.
    Unopened(Option<Vec<u8>>),
    Open(R),
    Ended,
}

/// What a checkpoint holds of one subtask's splits.
#[derive(rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
struct SplitSnapshot {
    name: String,
    /// `None` before the first record.
    position: Option<Vec<u8>>,
    max_at: i64,
    clock: i64,
    idle: bool,
    ended: bool,
}

impl<S, F, N> SourceHead<S, F, N>
where
    S: Source,
    F: Fn(&S::Record) -> EventTimeMs + 'static,
    N: Stage<S::Record>,
{
    /// The head of a chain in front of `next`, for the subtask that `cx` names.
    pub fn new(
        operator: Arc<str>,
        source: S,
        at: Timestamps<F>,
        watermarks: Watermarks,
        cx: &mut BuildContext,
        next: N,
    ) -> Self {
        let mut clocks = SplitClocks::new(watermarks);
        let owned = cx.splits.iter().zip(0u32..).filter(|(_, number)| number % cx.parallelism == cx.subtask);
        let splits: Vec<_> = owned
            .map(|(name, number)| Split { number, name: name.clone(), state: SplitState::Unopened(None) })
            .collect();
        splits.iter().for_each(|split| clocks.add(split.number));
        Self {
            source,
            at,
            clocks,
            splits,
            next_split: 0,
            first_split: cx.first_split(&operator),
            idle_checked_ns: 0,
            ended: false,
            arena: cx.arena.clone(),
            doorbell: cx.doorbell.clone(),
            counters: cx.metrics.counters(&operator),
            waits: S::Reader::MEASURES_WAIT.then(|| cx.metrics.latency(&operator)),
            operator,
            next,
        }
    }

    /// Reads one split once, passing its records down the chain.
    fn read_split(&mut self, index: usize, cx: &mut ChainContext<'_>) -> ReadStatus {
        let Self { operator, source, at, clocks, splits, first_split, .. } = self;
        let Self { arena, doorbell, counters, waits, next, .. } = self;
        let split = &mut splits[index];
        if let SplitState::Unopened(position) = &split.state {
            match source.open(&split.name, position.as_deref()) {
                Ok(mut reader) => {
                    reader.set_doorbell(doorbell);
                    split.state = SplitState::Open(reader);
                }
                Err(error) => {
                    cx.fail(operator, error);
                    return ReadStatus::Pending;
                }
            }
        }
        let SplitState::Open(reader) = &mut split.state else { return ReadStatus::Ended };
        let clock = clocks.split_mut(split.number).expect("a split has a clock until it ends");
        let (number, origin) = (split.number, *first_split + split.number);
        let ChainContext { now_ns, wall_ms, io, failure, .. } = cx;
        let failure = &mut **failure;
        let mut dropped = |_reason: &'static str| counters.lost(LossReason::BadRecord).add(1);
        let mut read_cx = ReadContext { now_ns: *now_ns, wall_ms: *wall_ms, io: *io, arena, dropped: &mut dropped };
        let mut records_out = 0;
        let records_read = &mut records_out;
        let at = match &*at {
            Timestamps::OfRecord(at) => Some(at),
            Timestamps::WhenRead => None,
        };
        // By value: what is captured by reference is looked up for every record.
        let read = reader.read(&mut read_cx, RECORDS_PER_SPLIT_MAX, move |cx, record, origin_ns| {
            let at = at.map_or(EventTimeMs(cx.wall_ms), |at| at(record));
            let clock = clock.passed(at);
            let stamp = Stamp { at, clock, split: origin, origin_ns };
            *records_read += 1;
            if let (true, Some(waits)) = (S::Reader::MEASURES_WAIT, &mut *waits)
                && origin_ns < cx.now_ns
            {
                waits.record(cx.now_ns - origin_ns);
            }
            let mut cx = ChainContext { now_ns: cx.now_ns, wall_ms: cx.wall_ms, origin_ns, io: cx.io, failure };
            next.record(&mut cx, &stamp, record);
        });
        counters.records_out.add(records_out);
        match read {
            Ok(ReadStatus::Ended) => {
                reader.close(*io);
                split.state = SplitState::Ended;
                clocks.remove(number);
                ReadStatus::Ended
            }
            Ok(status) => status,
            Err(error) => {
                cx.fail(operator, error);
                ReadStatus::Pending
            }
        }
    }

    /// Sends on what the clocks say, if anything changed.
    fn advance(&mut self, cx: &mut ChainContext<'_>) {
        let all_ended = self.splits.iter().all(|split| matches!(split.state, SplitState::Ended));
        let output = match all_ended {
            true => {
                self.ended = true;
                ClockChange { watermark: Some(Watermark::MAX), status: None }
            }
            false => self.clocks.advance(),
        };
        if output.status == Some(StreamStatus::Active) {
            self.pass(cx, Signal::Idle(false));
        }
        if let Some(watermark) = output.watermark {
            self.pass(cx, Signal::Watermark(watermark));
        }
        if output.status == Some(StreamStatus::Idle) {
            self.pass(cx, Signal::Idle(true));
        }
    }

    fn pass(&mut self, cx: &mut ChainContext<'_>, mut signal: Signal<'_>) {
        let flow = self.next.signal(cx, &mut signal);
        assert!(flow == Flow::Done, "stages chained to a source hold no timers, so they take every signal at once");
    }

    fn record_splits(&self, builder: &mut SnapshotBuilder) {
        let states: HashMap<u32, SplitClockState> = self.clocks.states().collect();
        let never = SplitClockState { max_at: EventTimeMs::MIN, clock: Watermark::MIN, idle: false };
        let splits = self.splits.iter().map(|split| {
            let clock = states.get(&split.number).copied().unwrap_or(never);
            let position = match &split.state {
                SplitState::Unopened(position) => position.clone(),
                SplitState::Open(reader) => {
                    let mut bytes = Vec::new();
                    reader.position(&mut bytes);
                    Some(bytes)
                }
                SplitState::Ended => None,
            };
            SplitSnapshot {
                name: split.name.clone(),
                position,
                max_at: clock.max_at.0,
                clock: clock.clock.0,
                idle: clock.idle,
                ended: matches!(split.state, SplitState::Ended),
            }
        });
        let bytes = rkyv::to_bytes::<rkyv::rancor::Error>(&splits.collect::<Vec<_>>());
        builder.blob(&self.operator, SPLITS, bytes.expect("strings and numbers always archive").into_vec());
    }

    fn take_back_splits(&mut self, cx: &mut ChainContext<'_>, restored: &Restored<'_>) {
        let mut stored: HashMap<String, SplitSnapshot> = HashMap::new();
        for blob in restored.blobs.of(&self.operator, SPLITS) {
            let mut aligned = rkyv::util::AlignedVec::<16>::new();
            aligned.extend_from_slice(&blob.bytes);
            match rkyv::from_bytes::<Vec<SplitSnapshot>, rkyv::rancor::Error>(&aligned) {
                Ok(splits) => stored.extend(splits.into_iter().map(|split| (split.name.clone(), split))),
                Err(error) => {
                    return cx
                        .fail(&self.operator, format_args!("its positions in the checkpoint are unreadable: {error}"));
                }
            }
        }
        for split in &mut self.splits {
            let Some(stored) = stored.remove(&split.name) else { continue };
            self.clocks.remove(split.number);
            if stored.ended {
                split.state = SplitState::Ended;
                continue;
            }
            let clock = SplitClockState {
                max_at: EventTimeMs(stored.max_at),
                clock: EventTimeMs(stored.clock),
                idle: stored.idle,
            };
            self.clocks.add_restored(split.number, clock);
            split.state = SplitState::Unopened(stored.position);
        }
    }
}

impl<S, F, N> ChainRoot for SourceHead<S, F, N>
where
    S: Source,
    F: Fn(&S::Record) -> EventTimeMs + 'static,
    N: Stage<S::Record>,
{
    fn signal(&mut self, cx: &mut ChainContext<'_>, signal: &mut Signal<'_>) -> Flow {
        match signal {
            Signal::Snapshot(builder) => self.record_splits(builder),
            Signal::Restore(restored) => self.take_back_splits(cx, restored),
            Signal::Poll(_) => {
                if let Some(waits) = &mut self.waits {
                    waits.hand_over_if_asked();
                }
            }
            Signal::Close => {
                for split in &mut self.splits {
                    if let SplitState::Open(reader) = &mut split.state {
                        reader.close(cx.io);
                    }
                }
            }
            _ => {}
        }
        self.next.signal(cx, signal)
    }

    fn is_blocked(&self) -> bool {
        self.next.is_blocked()
    }
}

impl<S, F, N> SourceRoot for SourceHead<S, F, N>
where
    S: Source,
    F: Fn(&S::Record) -> EventTimeMs + 'static,
    N: Stage<S::Record>,
{
    fn read(&mut self, cx: &mut ChainContext<'_>) -> SourceStep {
        if self.ended {
            return SourceStep::Ended;
        }
        let mut worked = false;
        for _ in 0..self.splits.len() {
            let index = self.next_split;
            self.next_split = (index + 1) % self.splits.len();
            let was_open = !matches!(self.splits[index].state, SplitState::Ended);
            worked |= was_open && self.read_split(index, cx) != ReadStatus::Pending;
            if self.next.is_blocked() || cx.failure.is_some() {
                break;
            }
        }
        if cx.now_ns.saturating_sub(self.idle_checked_ns) >= IDLE_CHECK_EVERY_NS {
            self.idle_checked_ns = cx.now_ns;
            self.clocks.check_idle(cx.now_ns / 1_000_000);
        }
        self.advance(cx);
        match (self.ended, worked) {
            (true, _) => SourceStep::Ended,
            (false, true) => SourceStep::Worked,
            (false, false) => SourceStep::Idle,
        }
    }

    fn drain(&mut self, cx: &mut ChainContext<'_>) -> Flow {
        if !self.ended {
            self.pass(cx, Signal::Watermark(Watermark::MAX));
        }
        Flow::Done
    }

    fn wake_at_ns(&self) -> Option<u64> {
        let readers = self.splits.iter().filter_map(|split| match &split.state {
            SplitState::Open(reader) => reader.wake_at_ns(),
            SplitState::Unopened(_) | SplitState::Ended => None,
        });
        let next_check_ms = (self.idle_checked_ns + IDLE_CHECK_EVERY_NS).div_ceil(1_000_000);
        let idle_check = (!self.ended).then(|| self.clocks.idle_check_at_ms(next_check_ms)).flatten();
        let idle_check = idle_check.map(|at_ms| at_ms * 1_000_000);
        readers.chain(idle_check).min()
    }
}
