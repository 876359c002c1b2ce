//! That a record read in one pass is the record of its line, whatever the line is.
//!
//! Two ways lead through a file: `parse_ahead` where a line is plain, `parse` for all others. Here every line goes both ways: what the
//! first one takes must be what the second makes of it. (It found the carriage return that the csv crate took for a record's end.)

use super::bad_records::OnBadRecord;
use super::csv::CsvSource;
use super::file_source::{FileSource, LineFormat, LineParser};
use super::json_lines::JsonLinesSource;
use super::metric_file::MetricFileSource;
use super::reader::Source;
use super::test_support::Rig;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::path::Path;

#[derive(serde::Deserialize, Clone, Debug)]
struct Row {
    #[allow(dead_code, reason = "compared through Debug")]
    name: String,
    #[allow(dead_code, reason = "compared through Debug")]
    count: i64,
    #[allow(dead_code, reason = "compared through Debug")]
    value: f64,
    #[allow(dead_code, reason = "compared through Debug")]
    flag: Option<bool>,
    #[allow(dead_code, reason = "compared through Debug")]
    small: Option<u8>,
}

#[derive(serde::Deserialize, Clone, Debug)]
struct Nested {
    #[allow(dead_code, reason = "compared through Debug")]
    at: String,
    #[allow(dead_code, reason = "compared through Debug")]
    value: f64,
    #[allow(dead_code, reason = "compared through Debug")]
    #[serde(default)]
    tags: Vec<(i64, Option<bool>)>,
    #[allow(dead_code, reason = "compared through Debug")]
    #[serde(default)]
    sums: BTreeMap<String, f64>,
    #[allow(dead_code, reason = "compared through Debug")]
    #[serde(default)]
    any: Any,
}

#[derive(serde::Deserialize, Clone, Debug, Default)]
#[serde(untagged)]
#[allow(dead_code, reason = "compared through Debug")]
enum Any {
    #[default]
    Nothing,
    Integer(i64),
    Double(f64),
    Text(String),
}

/// Both ways for one line; whether the one pass took it.
fn agree<F: LineFormat>(source: &FileSource<F>, header: Option<&str>, line: &[u8]) -> bool
where
    <F::Parser as LineParser>::Record: Debug,
{
    let parser = || {
        let mut parser = source.format.parser(Path::new("cpu.csv"));
        header.inspect(|text| parser.header(Some(text.as_bytes())).unwrap());
        parser
    };
    let mut block = line.to_vec();
    block.extend_from_slice(b"\nnext,line");
    // A line is what comes before the first end.
    let len = block.iter().position(|&byte| byte == b'\n').unwrap();
    let text = block[..len].strip_suffix(b"\r").unwrap_or(&block[..len]);
    // It sees only what is text.
    let valid = block.utf8_chunks().next().unwrap().valid();
    let mut ahead = parser();
    let Some((record, taken)) = ahead.parse_ahead(valid) else { return false };
    assert_eq!(taken, len + 1, "{:?}", String::from_utf8_lossy(line));
    let shown = format!("{record:?}");
    let mut whole = parser();
    let record = whole.parse(text);
    let record = record.map(|record| record.map(|record| format!("{record:?}")));
    assert_eq!(record, Ok(Some(shown)), "{:?}", String::from_utf8_lossy(line));
    assert!(parser().parse_ahead(&valid[..len]).is_none(), "a line that does not end in the block was taken");
    true
}

fn rows() -> CsvSource<Row> {
    CsvSource::open("cpu.csv")
}

const ROW_HEADER: Option<&str> = Some("name,count,value,flag,small");

fn tuples() -> CsvSource<(String, f64, Option<i32>)> {
    CsvSource::open("cpu.csv").without_header().delimiter(b';')
}

/// What separates fields here may stand in a number.
fn points() -> CsvSource<(f64, i64, String)> {
    CsvSource::open("cpu.csv").without_header().delimiter(b'.')
}

/// What cannot be read is taken for missing.
#[derive(Debug, serde::Deserialize)]
#[allow(dead_code, reason = "shown as a whole")]
struct Lenient {
    name: String,
    #[serde(deserialize_with = "csv::invalid_option")]
    price: Option<f64>,
    #[serde(deserialize_with = "csv::invalid_option")]
    count: Option<u64>,
}

fn lenient() -> CsvSource<Lenient> {
    CsvSource::open("cpu.csv").without_header()
}

/// A blank line of these is not empty.
fn tabs() -> CsvSource<(String, String)> {
    CsvSource::open("cpu.csv").without_header().delimiter(b'\t')
}

fn lenient_json() -> JsonLinesSource<Lenient> {
    JsonLinesSource::open("cpu.csv")
}

fn nested() -> JsonLinesSource<Nested> {
    JsonLinesSource::open("cpu.csv")
}

fn metrics() -> MetricFileSource {
    MetricFileSource::open(["cpu.csv"])
}

/// A line with some of its bytes replaced by others that mean something.
fn spoilt(lines: &'static [&'static str]) -> impl Strategy<Value = Vec<u8>> {
    let byte = prop::sample::select(&b"0159.-+eE,;:\"\\ \t\r\n{}[]xNtfn/TZ\x00\xc3\xa9\xff"[..]);
    (prop::sample::select(lines), prop::collection::vec((any::<prop::sample::Index>(), byte, 0..3u8), 0..3)).prop_map(
        |(line, changes)| {
            let mut line = line.as_bytes().to_vec();
            for (place, byte, how) in changes {
                let place = place.index(line.len());
                match how {
                    0 => line[place] = byte,
                    1 => line.insert(place, byte),
                    _ if line.len() > 1 => drop(line.remove(place)),
                    _ => {}
                }
            }
            line
        },
    )
}

const METRIC_LINES: &[&str] = &[
    "2014-02-14 14:30:00,0.132",
    "2014-02-14T14:30:00,51.846000000000004\r",
    "2014-12-31 23:59:59,-12345678901",
    "1392388200001,5",
];
const ROW_LINES: &[&str] = &[
    "ada,5,0.5,true,7",
    "b\u{e9}l,-9223372036854775808,-1.25,,\r",
    ",0,51.846000000000004,false,255",
    "\"q\"\"\",1,2e3,,",
];
const TUPLE_LINES: &[&str] = &["ada;0.5;7", "x;-12;", ";.5;-1\r"];
const NESTED_LINES: &[&str] = &[
    r#"{"at":"2014-02-14 14:30:00","value":0.132}"#,
    r#"{"value":5, "at":"\u0041", "tags":[[1,true],[-2,null]]}"#,
    r#" {"at" : "é", "value" : -51.846000000000004 , "sums" : {"a":1,"b":2.5}, "more":[{"x":null}] } "#,
    r#"["a",1.5,[],{},12345678901234567890]"#,
    r#"{"at":"","value":-0.0,"any":-0}"#,
    r#"{"at":"","value":1,"any":"t"}"#,
    r#"{"at":"","value":1,"any":18}"#,
];

#[test]
fn plain_lines_are_taken_in_one_pass() {
    assert!(METRIC_LINES[..3].iter().all(|line| agree(&metrics(), None, line.as_bytes())));
    assert!(ROW_LINES[..3].iter().all(|line| agree(&rows(), ROW_HEADER, line.as_bytes())));
    assert!(TUPLE_LINES.iter().all(|line| agree(&tuples(), None, line.as_bytes())));
    assert!([0, 2, 5, 6].iter().all(|&line| agree(&nested(), None, NESTED_LINES[line].as_bytes())));
}

#[test]
fn a_number_beyond_all_doubles_is_left_to_the_format() {
    let digits = "9".repeat(400);
    assert!(!agree(&metrics(), None, format!("2014-02-14 14:30:00,{digits}").as_bytes()));
    assert!(!agree(&nested(), None, format!("{{\"at\":\"\",\"value\":{digits}.5}}").as_bytes()));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn a_metric_line_is_the_same_both_ways(line in spoilt(METRIC_LINES)) {
        agree(&metrics(), None, &line);
    }

    #[test]
    fn a_csv_line_is_the_same_both_ways(line in spoilt(ROW_LINES)) {
        agree(&rows(), ROW_HEADER, &line);
    }

    #[test]
    fn a_csv_line_without_a_header_is_the_same_both_ways(line in spoilt(TUPLE_LINES)) {
        agree(&tuples(), None, &line);
    }

    #[test]
    fn a_csv_line_with_points_between_fields_is_the_same_both_ways(line in spoilt(&["5.6.x", "-5.6."])) {
        agree(&points(), None, &line);
    }

    #[test]
    fn a_csv_line_whose_errors_are_taken_for_missing_values_is_the_same_both_ways(
        line in spoilt(&["bob,\"1.5\",7", "bob,0x1F,0x1F", "b,1.5,7", "b,x,-7", "b,1.5,7,8,9"]),
    ) {
        agree(&lenient(), None, &line);
    }

    #[test]
    fn a_csv_line_with_tabs_between_fields_is_the_same_both_ways(line in spoilt(&["a\tb", "\t", " \t "])) {
        agree(&tabs(), None, &line);
    }

    #[test]
    fn a_json_line_whose_errors_are_taken_for_missing_values_is_the_same_both_ways(
        line in spoilt(&[
            r#"{"name":"a","price":1.5,"count":1234567890123456789}"#,
            r#"{"name":"a","price":-0,"count":7}"#,
        ]),
    ) {
        agree(&lenient_json(), None, &line);
    }

    #[test]
    fn a_json_line_is_the_same_both_ways(line in spoilt(NESTED_LINES)) {
        agree(&nested(), None, &line);
    }

    #[test]
    fn every_double_that_is_written_is_read_back_from_all_formats(value in any::<f64>().prop_filter("finite", |v| v.is_finite())) {
        let (whole, json) = (value.to_string(), format!("{{\"at\":\"\",\"value\":{value:?}}}"));
        let mut metric = metrics().format.parser(Path::new("cpu.csv"));
        let read = metric.parse(format!("0,{whole}").as_bytes()).unwrap().unwrap().sample.value;
        prop_assert_eq!(read.to_bits(), value.to_bits());
        let read = nested().format.parser(Path::new("cpu.csv")).parse(json.as_bytes()).unwrap().unwrap().value;
        prop_assert_eq!(read.to_bits(), value.to_bits());
    }
}

/// A file's records and what was dropped of it, line by line.
fn line_by_line<F: LineFormat>(source: &FileSource<F>, file: &[u8]) -> (Vec<String>, Vec<&'static str>)
where
    <F::Parser as LineParser>::Record: Debug,
{
    let mut parser = source.format.parser(Path::new("cpu.csv"));
    let (mut records, mut dropped) = (Vec::new(), Vec::new());
    let file = file.strip_prefix(b"\xef\xbb\xbf").unwrap_or(file);
    let mut lines = file.split(|&byte| byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    if parser.has_header() {
        parser.header(lines.next()).unwrap();
    }
    for line in lines {
        match parser.parse(line) {
            Ok(record) => records.extend(record.map(|record| format!("{record:?}"))),
            Err(error) => dropped.push(error.reason),
        }
    }
    (records, dropped)
}

fn a_whole_file_is_read_as_its_lines<F: LineFormat>(source: FileSource<F>, start: &str, lines: &[&str])
where
    <F::Parser as LineParser>::Record: Debug + Clone,
{
    // Several blocks of 64 KiB, their borders anywhere in a line; a bad line now and then.
    let mut file = start.as_bytes().to_vec();
    for n in 0..12_000usize {
        file.extend_from_slice(lines[n * n % lines.len()].as_bytes());
        if n % 37 == 0 {
            file.extend_from_slice(&b"x,\"},"[..n % 5 + 1]);
        }
        if n % 41 == 0 {
            // No text.
            file.push(0xff);
        }
        file.push(b'\n');
    }
    let mut rig = Rig::new();
    rig.io.put("cpu.csv", file.clone());
    let source = source.on_bad_record(OnBadRecord::Skip);
    let records = rig.read_all(&mut source.open("cpu.csv", None).unwrap()).unwrap();
    let (expected, dropped) = line_by_line(&source, &file);
    assert!(records.iter().map(|record| format!("{record:?}")).eq(expected));
    assert!(rig.dropped == dropped && !dropped.is_empty(), "{} and {}", rig.dropped.len(), dropped.len());
}

#[test]
fn a_metric_file_of_many_blocks_is_read_as_its_lines() {
    a_whole_file_is_read_as_its_lines(metrics(), "\u{feff}timestamp,value\r\n", METRIC_LINES);
}

#[test]
fn a_csv_file_of_many_blocks_is_read_as_its_lines() {
    a_whole_file_is_read_as_its_lines(rows(), "name,count,value,flag,small\n", ROW_LINES);
}

#[test]
fn a_json_file_of_many_blocks_is_read_as_its_lines() {
    a_whole_file_is_read_as_its_lines(nested(), "\u{feff}", NESTED_LINES);
}
