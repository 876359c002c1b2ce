//! Jobs for the simulator with an oracle beside each: a paced source of several disordered splits, a windowed count and a function in
//! event-time order, both into exactly-once files; and what must be in those files, computed in memory without an engine.

use millstream::Record;
use millstream::io::Io;
use millstream::operator::{Aggregate, Count, Emit, KeyedContext, KeyedProcess, NoSide, StateRegistry, Sum};
use millstream::sim::{Rng, Simulation};
use millstream::sink::JsonLines;
use millstream::source::{ReadContext, ReadStatus, Source, SourceError, SplitReader};
use millstream::state::{StateError, ValueState};
use millstream::stream::Job;
use millstream::time::{EventTimeMs, Watermarks};
use millstream::window::{SlicedWindows, Sliding, Tumbling, WindowResult};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use troubles::{Place, Troubles};

pub mod troubles;

pub const WINDOWS: &str = "/out/windows";
pub const SEQUENCES: &str = "/out/sequences";
/// Memory that holds a job, but not its state if that is wide.
pub const SMALL_MEMORY_BYTES: usize = 12 << 20;

#[derive(Record, Clone, Copy, Debug, PartialEq)]
#[repr(C)]
pub struct Event {
    pub key: u64,
    pub n: u64,
    pub at: i64,
}

/// What a job computes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pipeline {
    Windows,
    Sequences,
    Both,
}

/// A job and its input, drawn from a seed.
#[derive(Clone, Debug)]
pub struct Workload {
    pub pipeline: Pipeline,
    pub input: Vec<Vec<Event>>,
    pub batch_max: usize,
    pub every_ns: u64,
    pub bound_ms: i64,
    pub size_ms: i64,
    pub slide_ms: i64,
    /// Each key has a large value.
    pub is_wide: bool,
    /// Where there is nothing but windows: whether every second start of the job combines before the exchange.
    pub combines: bool,
    /// How often the job was made.
    pub starts: Arc<AtomicU32>,
    /// Where its functions fail.
    pub troubles: Arc<Troubles>,
}

impl Workload {
    pub fn draw(rng: &mut Rng) -> Self {
        let keys = [1, 7, 40, 500][rng.index(4)];
        let splits = 1 + rng.index(5);
        let per_split = 100 + rng.below(500);
        Self::with(rng, keys, splits, per_split)
    }

    /// One whose state `SMALL_MEMORY_BYTES` do not hold.
    pub fn draw_wide(rng: &mut Rng) -> Self {
        let (splits, per_split) = (3 + rng.index(3), 1_500 + rng.below(500));
        let workload = Self::with(rng, 6_000, splits, per_split);
        Self { batch_max: workload.batch_max * 10, is_wide: true, ..workload }
    }

    /// A short one whose functions may fail. Often many records are late, for some of their windows or for all, and the clocks of the splits
    /// lie apart: so windows begin that those of a checkpoint stand behind.
    pub fn draw_short(rng: &mut Rng) -> Self {
        let keys = [1, 3, 7, 40][rng.index(4)];
        let splits = 1 + rng.index(4);
        let (disorder_ms, bound_ms) = ([0, 100, 300, 1_000][rng.index(4)], [0, 0, 30, 300][rng.index(4)]);
        let (apart_ms, pace_ms) = ([1, 300, 2_000][rng.index(3)], [2, 10, 40][rng.index(3)]);
        let per_split = 40 + rng.below(160);
        let mut n = 0;
        let mut split = |rng: &mut Rng| {
            let mut at = rng.below(apart_ms) as i64;
            let mut event = |rng: &mut Rng| {
                at += rng.below(pace_ms) as i64;
                n += 1;
                Event { key: rng.below(keys), n, at: at - rng.below(disorder_ms + 1) as i64 }
            };
            (0..per_split).map(|_| event(rng)).collect()
        };
        let input: Vec<Vec<Event>> = (0..splits).map(|_| split(rng)).collect();
        let sizes = [(100, 100), (1_000, 1_000), (300, 100), (400, 100), (500, 200), (1_000, 100), (100, 150)];
        let (size_ms, slide_ms) = sizes[rng.index(sizes.len())];
        Self {
            pipeline: [Pipeline::Windows, Pipeline::Windows, Pipeline::Sequences, Pipeline::Both][rng.index(4)],
            input,
            batch_max: 1 + rng.index(6),
            every_ns: 200_000 + rng.below(1_500_000),
            bound_ms,
            size_ms,
            slide_ms,
            is_wide: false,
            combines: rng.chance(300),
            starts: Arc::default(),
            troubles: Arc::new(Troubles::draw(rng)),
        }
    }

    fn with(rng: &mut Rng, keys: u64, splits: usize, per_split: u64) -> Self {
        let (disorder_ms, bound_ms) = ([0, 30, 300][rng.index(3)], [0, 30, 300][rng.index(3)]);
        let mut n = 0;
        let mut split = |rng: &mut Rng| {
            let mut at = rng.below(200) as i64;
            let mut event = |rng: &mut Rng| {
                at += rng.below(20) as i64;
                n += 1;
                Event { key: rng.below(keys), n, at: at - rng.below(disorder_ms + 1) as i64 }
            };
            (0..per_split / 2 + rng.below(per_split / 2 + 1)).map(|_| event(rng)).collect()
        };
        let (size_ms, slide_ms) = [(100, 100), (1_000, 1_000), (300, 100), (500, 200), (100, 150)][rng.index(5)];
        let input: Vec<Vec<Event>> = (0..splits).map(|_| split(rng)).collect();
        Self {
            combines: false,
            starts: Arc::default(),
            troubles: Arc::default(),
            input,
            pipeline: [Pipeline::Windows, Pipeline::Sequences, Pipeline::Both][rng.index(3)],
            batch_max: 1 + rng.index(10),
            every_ns: 200_000 + rng.below(3_000_000),
            bound_ms,
            size_ms,
            slide_ms,
            is_wide: false,
        }
    }

    /// The job as a program writes it.
    pub fn job(&self) -> Job {
        let job = Job::new("simulated");
        let source = Paced {
            input: self.input.clone().into(),
            batch_max: self.batch_max,
            every_ns: self.every_ns,
            troubles: self.troubles.clone(),
        };
        let watermarks = Watermarks::bounded(self.bound_ms).never_idle();
        let events = job.source("events", source).event_time(|event: &Event| EventTimeMs(event.at), watermarks);
        let [in_filter, in_windows, in_lines] = [(); 3].map(|()| self.troubles.clone());
        let events = events.filter(move |_| in_filter.pass(Place::Filter));
        let count_and_sum = Count.and(Sum::of(|event: &Event| event.n as i64));
        let write = move |result: &WindowResult<u64, (u64, i64)>, line: &mut Vec<u8>| {
            in_windows.pass(Place::Write);
            line.extend_from_slice(window_line(result.key, result.window.start, result.value).as_bytes());
        };
        let windows_out = JsonLines::exactly_once_with(WINDOWS, write);
        let is_second_start = self.starts.fetch_add(1, Ordering::Relaxed) % 2 == 1;
        if self.pipeline == Pipeline::Windows && self.combines && is_second_start {
            events
                .combine_by_key("by-key", |event: &Event| event.key, self.windows(), count_and_sum)
                .aggregate("windows")
                .sink("windows-out", windows_out);
            return job;
        }
        let keyed = events.key_by("by-key", |event: &Event| event.key);
        if self.pipeline != Pipeline::Sequences {
            keyed.clone().window(self.windows()).aggregate("windows", count_and_sum).sink("windows-out", windows_out);
        }
        if self.pipeline != Pipeline::Windows {
            let write = move |line_of: &String, line: &mut Vec<u8>| {
                in_lines.pass(Place::Write);
                line.extend_from_slice(line_of.as_bytes());
            };
            keyed
                .in_event_time_order()
                .process("sequences", Sequence { is_wide: self.is_wide, troubles: self.troubles.clone() })
                .sink("sequences-out", JsonLines::exactly_once_with(SEQUENCES, write));
        }
        job
    }

    fn windows(&self) -> SlicedWindows {
        match self.size_ms == self.slide_ms {
            true => Tumbling::of(self.size_ms),
            false => Sliding::of(self.size_ms).every(self.slide_ms),
        }
    }

    /// Compares what is visible with what must be; the difference in words.
    pub fn check(&self, machine: &Simulation) -> Result<(), String> {
        if self.pipeline != Pipeline::Sequences {
            let mut lines = machine.lines(WINDOWS);
            lines.sort();
            same("windows", &lines, &self.expected_windows())?;
        }
        if self.pipeline != Pipeline::Windows {
            // Files sort by checkpoint, and one key is in one file of a checkpoint: its lines come in order.
            let mut by_key: BTreeMap<String, Vec<String>> = BTreeMap::new();
            for line in machine.lines(SEQUENCES) {
                let key = line.split(',').next().unwrap_or_default().to_owned();
                by_key.entry(key).or_default().push(line);
            }
            let lines: Vec<String> = by_key.into_values().flatten().collect();
            same("sequences", &lines, &self.expected_sequences())?;
        }
        Ok(())
    }

    /// Whether everything visible so far must be there, as often as it is there: output is never wrong, only incomplete.
    pub fn check_partial(&self, machine: &Simulation) -> Result<(), String> {
        let subset = |what: &str, mut seen: Vec<String>, expected: Vec<String>| {
            seen.sort();
            let expected: BTreeSet<String> = expected.into_iter().collect();
            if let Some(twice) = seen.windows(2).find(|pair| pair[0] == pair[1]) {
                return Err(format!("{what}: {} is there twice", twice[0]));
            }
            match seen.iter().find(|line| !expected.contains(*line)) {
                None => Ok(()),
                Some(wrong) => Err(format!("{what}: {wrong} is wrong")),
            }
        };
        subset("windows", machine.lines(WINDOWS), self.expected_windows())?;
        subset("sequences", machine.lines(SEQUENCES), self.expected_sequences())
    }

    /// The events with the clock of their split when they come.
    fn clocked(&self) -> impl Iterator<Item = (usize, Event, i64)> + '_ {
        self.input.iter().enumerate().flat_map(move |(split, events)| {
            let mut clock = i64::MIN;
            events.iter().map(move |event| {
                clock = clock.max(event.at - self.bound_ms - 1);
                (split, *event, clock)
            })
        })
    }

    fn expected_windows(&self) -> Vec<String> {
        let mut windows: BTreeMap<(u64, i64), (u64, i64)> = BTreeMap::new();
        for (_, event, clock) in self.clocked() {
            let mut start = event.at - event.at.rem_euclid(self.slide_ms);
            while start + self.size_ms > event.at {
                if start + self.size_ms - 1 > clock {
                    let sum = windows.entry((event.key, start)).or_default();
                    *sum = (sum.0 + 1, sum.1 + event.n as i64);
                }
                start -= self.slide_ms;
            }
        }
        let mut lines: Vec<String> =
            windows.into_iter().map(|((key, start), value)| window_line(key, start, value)).collect();
        lines.sort();
        lines
    }

    fn expected_sequences(&self) -> Vec<String> {
        // Records (0) before timers (1) of one time; records by split and then as they come.
        type Due = BTreeMap<(i64, u8, usize, usize), Event>;
        let mut due: BTreeMap<String, Due> = BTreeMap::new();
        for (place, (split, event, clock)) in self.clocked().enumerate() {
            if event.at > clock {
                let key = format!("[{}", event.key);
                due.entry(key).or_default().insert((event.at, 0, split, place), event);
            }
        }
        let mut lines = Vec::new();
        for mut due in due.into_values() {
            let mut state = [0, 0];
            while let Some(((at, kind, ..), event)) = due.pop_first() {
                let what = match kind {
                    0 => {
                        due.insert((timer_at(at), 1, 0, 0), event);
                        event.n
                    }
                    _ => at as u64,
                };
                state = next_state(state, what);
                lines.push(sequence_line(event.key, state, kind == 1));
            }
        }
        lines
    }
}

fn same(what: &str, seen: &[String], expected: &[String]) -> Result<(), String> {
    if seen == expected {
        return Ok(());
    }
    let place = seen.iter().zip(expected).take_while(|(seen, expected)| seen == expected).count();
    let (seen_there, expected_there) = (seen.get(place), expected.get(place));
    Err(format!(
        "{what}: {} lines instead of {}; line {place} is {seen_there:?} instead of {expected_there:?}",
        seen.len(),
        expected.len()
    ))
}

fn window_line(key: u64, start: i64, (count, sum): (u64, i64)) -> String {
    format!("[{key},{start},{count},{sum}]")
}

/// Numbers the records and timers of each key, and hashes all before: a line lost, doubled or out of order changes all after it.
#[derive(Clone)]
struct Sequence {
    is_wide: bool,
    troubles: Arc<Troubles>,
}

struct SequenceState {
    sequence: ValueState<u64, [u64; 2]>,
    /// The sequence again, as large as a value may be without being archived.
    wide: Option<ValueState<u64, Wide>>,
}

type Wide = [u64; 250];

fn widened([count, hash]: [u64; 2]) -> Wide {
    std::array::from_fn(|at| hash.rotate_left(at as u32) ^ count)
}

impl SequenceState {
    fn advance(&mut self, cx: &KeyedContext<'_, u64>, what: u64) -> Result<[u64; 2], StateError> {
        let stored = self.sequence.get(&cx.hashed());
        let mut next = next_state(stored.unwrap_or_default(), what);
        if let Some(wide) = &self.wide {
            if wide.get(&cx.hashed()) != stored.map(widened) {
                // Shows in the output, and in all that follows.
                next = [0; 2];
            }
            wide.put(&cx.hashed(), &widened(next))?;
        }
        self.sequence.put(&cx.hashed(), &next)?;
        Ok(next)
    }
}

fn next_state([count, hash]: [u64; 2], what: u64) -> [u64; 2] {
    [count + 1, (hash ^ what).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29)]
}

fn timer_at(at: i64) -> i64 {
    at + 50 + (-at - 50).rem_euclid(100)
}

fn sequence_line(key: u64, [count, hash]: [u64; 2], is_timer: bool) -> String {
    format!("[{key},{count},{hash},{is_timer}]")
}

impl KeyedProcess<u64, Event> for Sequence {
    type Out = String;
    type Side = NoSide;
    type State = SequenceState;

    fn open(&self, states: &mut StateRegistry<'_>) -> Result<Self::State, StateError> {
        self.troubles.pass(Place::Open);
        let sequence = states.value("sequence")?;
        let wide = self.is_wide.then(|| states.value("wide")).transpose()?;
        Ok(SequenceState { sequence, wide })
    }

    fn on_record(
        &self,
        state: &mut Self::State,
        cx: &mut KeyedContext<'_, u64>,
        event: &Event,
        out: &mut impl Emit<String, NoSide>,
    ) -> Result<(), StateError> {
        self.troubles.state(Place::Record)?;
        let next = state.advance(cx, event.n)?;
        cx.set_timer(EventTimeMs(timer_at(cx.at().0)))?;
        out.emit(&sequence_line(*cx.key(), next, false));
        Ok(())
    }

    fn on_timer(
        &self,
        state: &mut Self::State,
        cx: &mut KeyedContext<'_, u64>,
        out: &mut impl Emit<String, NoSide>,
    ) -> Result<(), StateError> {
        self.troubles.state(Place::Timer)?;
        let next = state.advance(cx, cx.at().0 as u64)?;
        out.emit(&sequence_line(*cx.key(), next, true));
        Ok(())
    }
}

/// A source that yields a few records of each split at a time, so that a job lasts for several checkpoints.
#[derive(Clone)]
struct Paced {
    input: Arc<[Vec<Event>]>,
    batch_max: usize,
    every_ns: u64,
    troubles: Arc<Troubles>,
}

struct PacedReader {
    source: Paced,
    split: usize,
    next: usize,
    next_ns: u64,
}

impl Source for Paced {
    type Record = Event;
    type Reader = PacedReader;

    fn splits(&self, _: &mut dyn Io) -> Result<Vec<String>, SourceError> {
        Ok((0..self.input.len()).map(|split| split.to_string()).collect())
    }

    fn open(&self, split: &str, position: Option<&[u8]>) -> Result<PacedReader, SourceError> {
        self.troubles.source(Place::OpenSplit)?;
        let split = split.parse().expect("the names are numbers");
        let next = position.map_or(0, |bytes| u64::from_le_bytes(bytes.try_into().expect("8 bytes")) as usize);
        Ok(PacedReader { source: self.clone(), split, next, next_ns: 0 })
    }
}

impl SplitReader for PacedReader {
    type Record = Event;

    fn read<E: FnMut(&mut ReadContext<'_>, &Event, u64)>(
        &mut self,
        cx: &mut ReadContext<'_>,
        records_max: usize,
        mut emit: E,
    ) -> Result<ReadStatus, SourceError> {
        if cx.now_ns < self.next_ns {
            return Ok(ReadStatus::Pending);
        }
        self.source.troubles.source(Place::Read)?;
        let events = &self.source.input[self.split];
        let end = events.len().min(self.next + self.source.batch_max.min(records_max));
        events[self.next..end].iter().for_each(|event| emit(cx, event, cx.now_ns));
        self.next = end;
        self.next_ns = cx.now_ns + self.source.every_ns;
        Ok(if end == events.len() { ReadStatus::Ended } else { ReadStatus::More })
    }

    fn position(&self, into: &mut Vec<u8>) {
        into.extend_from_slice(&(self.next as u64).to_le_bytes());
    }

    fn wake_at_ns(&self) -> Option<u64> {
        Some(self.next_ns)
    }
}
