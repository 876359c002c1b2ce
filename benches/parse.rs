//! Parsing: megabytes per second and core of the monitor's records (`timestamp,value`), from a file's bytes in memory to a record.
//!
//! ```text
//!  file in memory -> 64 KiB blocks -> FileSplitReader (lines, parser) -> sum of times and values
//! ```
//! Limit: reading memory in the same run; and the 1 GB/s that were asked for. Kernel: a hand-written loop over the bytes of the CSV that knows
//! the format (eight bytes at a time, no branch on where a short number ends) and refuses nothing.
#![allow(clippy::disallowed_methods, reason = "a bench reads clocks itself")]

#[path = "support/median.rs"]
mod median;
#[path = "support/memory.rs"]
#[allow(dead_code, reason = "only reading is held against here")]
mod memory;
mod support;

use median::median;
use millstream::io::{FileId, Io, IoError, IoOp, IoOutput, IoToken};
use millstream::memory::{Arena, ArenaOptions, MemoryBudget};
use millstream::source::{
    CsvSource, JsonLinesSource, MetricFileSource, ReadContext, ReadStatus, Reading, Source, SplitReader,
    parse_timestamp_ms,
};
use std::collections::VecDeque;
use std::hint::black_box;
use std::time::{Duration, Instant};
use support::{Bench, Figure};

/// One file, read by copying.
struct Bytes<'a> {
    file: &'a [u8],
    done: VecDeque<(IoToken, IoOutput)>,
    next: u64,
}

impl Io for Bytes<'_> {
    fn submit(&mut self, op: IoOp) -> IoToken {
        let token = IoToken(self.next);
        self.next += 1;
        let output = match op {
            IoOp::Open { .. } => IoOutput::File(FileId(1)),
            IoOp::FileLen { .. } => IoOutput::Len(self.file.len() as u64),
            IoOp::Read { offset, len, mut into, .. } => {
                let rest = &self.file[offset as usize..];
                let read = rest.len().min(len);
                into.whole_mut()[..read].copy_from_slice(&rest[..read]);
                into.set_len(read);
                IoOutput::Buffer(into)
            }
            _ => IoOutput::Done,
        };
        self.done.push_back((token, output));
        token
    }

    fn take(&mut self, token: IoToken) -> Option<Result<IoOutput, IoError>> {
        let place = self.done.iter().position(|(done, _)| *done == token)?;
        self.done.remove(place).map(|(_, output)| Ok(output))
    }

    fn forget(&mut self, _: IoToken) {}

    fn in_flight(&self) -> usize {
        0
    }

    fn drive(&mut self) {}

    fn wait(&mut self, _: Duration) {}
}

#[derive(serde::Deserialize, Clone, Copy)]
struct Timed {
    #[serde(deserialize_with = "time")]
    timestamp: i64,
    value: f64,
}

/// Reads a time where it lies.
fn time<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<i64, D::Error> {
    struct Text;
    impl serde::de::Visitor<'_> for Text {
        type Value = i64;
        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("a time")
        }
        fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<i64, E> {
            parse_timestamp_ms(text.as_bytes()).map_err(E::custom)
        }
    }
    deserializer.deserialize_str(Text)
}

/// MB/s of reading the whole file, and what came out as one number.
fn read<S: Source>(source: &S, file: &[u8], arena: &Arena, take: impl Fn(&S::Record) -> (i64, f64)) -> (f64, u64) {
    let mut io = Bytes { file, done: VecDeque::new(), next: 1 };
    let mut reader = source.open("bench.csv", None).expect("the source opens anything");
    let mut dropped = |reason: &'static str| panic!("the bench's own file is bad: {reason}");
    let mut sum = 0u64;
    let begun = Instant::now();
    loop {
        let mut cx = ReadContext { now_ns: 0, wall_ms: 0, io: &mut io, arena, dropped: &mut dropped };
        let status = reader.read(&mut cx, 128, |_, record, _| {
            let (at, value) = take(record);
            sum = sum.wrapping_mul(31).wrapping_add(at as u64 ^ value.to_bits());
        });
        if status.expect("the bench's own file is good") == ReadStatus::Ended {
            return (file.len() as f64 / begun.elapsed().as_secs_f64() / 1e6, black_box(sum));
        }
    }
}

/// The hand-written loop: nothing is checked.
fn kernel(file: &[u8]) -> (f64, u64) {
    let begun = Instant::now();
    let (mut sum, mut at, mut day, mut day_ms) = (0u64, 0, [0; 10], 0);
    at += file.iter().position(|&byte| byte == b'\n').map_or(file.len(), |end| end + 1);
    while at < file.len() {
        let text = &file[at..];
        if text[..10] != day {
            day.copy_from_slice(&text[..10]);
            let midnight = [&day[..], b" 00:00:00"].concat();
            day_ms = parse_timestamp_ms(&midnight).unwrap_or_default();
        }
        let time = day_ms + text[11..].first_chunk().map_or(0, |bytes| time_of_day_ms(u64::from_le_bytes(*bytes)));
        let value = &text[20..];
        let short = value.first_chunk().and_then(|bytes| short_number(u64::from_le_bytes(*bytes)));
        let (number, len) = short.unwrap_or_else(|| long_number(value));
        sum = sum.wrapping_mul(31).wrapping_add(time as u64 ^ number.to_bits());
        at += 20 + len + 1;
    }
    (file.len() as f64 / begun.elapsed().as_secs_f64() / 1e6, black_box(sum))
}

/// `hh:mm:ss`, eight bytes as one number: tens and ones, then the three together.
fn time_of_day_ms(text: u64) -> i64 {
    let digits = text & 0x0f0f_000f_0f00_0f0f;
    let pairs = digits.wrapping_mul(10).wrapping_add(digits >> 8) & 0x00ff_0000_ff00_00ff;
    let minutes = (pairs & 0xffff_ffff).wrapping_mul(60 | 3600 << 24) >> 24 & 0xff_ffff;
    ((minutes + (pairs >> 48)) * 1000) as i64
}

/// A number with a point that ends within eight bytes, and its length.
fn short_number(text: u64) -> Option<(f64, usize)> {
    let digits = text ^ 0x3030_3030_3030_3030;
    let others = digits.wrapping_add(0x7676_7676_7676_7676) & 0x8080_8080_8080_8080;
    let (point, end) = (others.trailing_zeros() & 0x78, (others & others.wrapping_sub(1)).trailing_zeros() & 0x78);
    if end == 64 || digits >> point & 0xff != 0x1e {
        return None;
    }
    let whole = (1u64 << point) - 1;
    let joined = (digits & whole | digits >> 8 & !whole) << (72 - end);
    let pairs = joined.wrapping_mul(10).wrapping_add(joined >> 8) & 0x00ff_00ff_00ff_00ff;
    let fours = pairs.wrapping_mul(100).wrapping_add(pairs >> 16) & 0x0000_ffff_0000_ffff;
    let mantissa = fours.wrapping_mul(10_000).wrapping_add(fours >> 32) as u32;
    Some((f64::from(mantissa) / POWERS_OF_TEN[(end - point) as usize / 8 - 1], end as usize / 8))
}

/// A number of any length, and its length.
#[cold]
fn long_number(text: &[u8]) -> (f64, usize) {
    let (mut mantissa, mut places, mut end, mut has_point) = (0u64, 0, 0, false);
    while text[end] != b'\n' {
        match text[end] {
            b'.' => has_point = true,
            byte => {
                mantissa = mantissa.wrapping_mul(10).wrapping_add(u64::from(byte - b'0'));
                places += usize::from(has_point);
            }
        }
        end += 1;
    }
    match mantissa < 1 << 53 && places <= 22 {
        true => (mantissa as f64 / POWERS_OF_TEN[places], end),
        false => (std::str::from_utf8(&text[..end]).ok().and_then(|text| text.parse().ok()).unwrap_or_default(), end),
    }
}

const POWERS_OF_TEN: [f64; 23] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20,
    1e21, 1e22,
];

/// Lines as the monitor's: every five minutes; values with three places, and some with as many as a double has.
fn lines(bytes: usize, long_values: bool) -> (String, String) {
    let (mut csv, mut json) = (String::from("timestamp,value\n"), String::new());
    let mut random = 1u64;
    let mut minute = 0u64;
    while csv.len() < bytes {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        minute += 5;
        let (day, month) = (minute / 1440 % 28 + 1, minute / 40_320 % 12 + 1);
        let time = format!("2014-{month:02}-{day:02} {:02}:{:02}:00", minute / 60 % 24, minute % 60);
        let value = match long_values && random >> 61 == 0 {
            true => (random >> 11) as f64 / 1e14,
            false => (random >> 47) as f64 / 1e3,
        };
        csv += &format!("{time},{value}\n");
        json += &format!("{{\"timestamp\":\"{time}\",\"value\":{value}}}\n");
    }
    (csv, json)
}

fn main() {
    let mut bench = Bench::start("parse");
    let (bytes, runs) = if bench.is_quick() { (256 << 10, 1) } else { (64 << 20, 5) };
    let bandwidth = memory::Memory::new(if bench.is_quick() { 1 << 20 } else { 1 << 28 }).read_gb_s() * 1e3;
    let arena = Arena::new(MemoryBudget::new(8 << 20), ArenaOptions::default());
    let timed = |timed: &Timed| (timed.timestamp, timed.value);
    for (values, long_values) in [("three places", false), ("one of 8 as long as a double", true)] {
        let (csv, json) = lines(bytes, long_values);
        let metric = MetricFileSource::open(["bench.csv"]);
        let csv_source = CsvSource::<Timed>::open("bench.csv");
        let json_source = JsonLinesSource::<Timed>::open("bench.csv");
        let of_reading = |reading: &Reading| (reading.sample.at, reading.sample.value);
        let expected = kernel(csv.as_bytes()).1;
        assert_eq!(read(&metric, csv.as_bytes(), &arena, of_reading).1, expected);
        assert_eq!(read(&csv_source, csv.as_bytes(), &arena, timed).1, expected);
        assert_eq!(read(&json_source, json.as_bytes(), &arena, timed).1, expected);
        let by_hand = median(runs, || kernel(csv.as_bytes()).0);
        let rates = [
            ("metric file", median(runs, || read(&metric, csv.as_bytes(), &arena, of_reading).0)),
            ("CSV through serde", median(runs, || read(&csv_source, csv.as_bytes(), &arena, timed).0)),
            ("JSON Lines through serde", median(runs, || read(&json_source, json.as_bytes(), &arena, timed).0)),
        ];
        for (format, rate) in rates {
            let scenario = format!("{format}, {values}");
            bench.figure(Figure {
                limit: Some(1_000.0),
                kernel: Some(by_hand),
                goal: Some(1.0),
                ..Figure::new(&scenario, "asked", rate, "MB/s")
            });
            bench.figure(Figure { limit: Some(bandwidth), ..Figure::new(&scenario, "memory", rate, "MB/s") });
        }
    }
    bench.finish();
}
