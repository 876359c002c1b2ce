//! Metric files: CSV with the header `timestamp,value`, one series per file, named by the file's stem.
//!
//! The fast path beside `csv`: no quotes, no names, one reused record. Timestamps as in `timestamp`; a value is a finite number.

use super::file_source::{FileSource, LineFormat, LineParser};
use super::parse_error::{ParseError, shown};
use super::plain_text::leading_number;
use super::reader::SourceError;
use super::reading::Reading;
use super::timestamp::{PLAIN_LEN_BYTES, leading_time_ms, parse_timestamp_ms};
use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

/// Metric files, one split each.
pub type MetricFileSource = FileSource<MetricFile>;

/// The format of a metric file.
#[derive(Clone, Debug, Default)]
pub struct MetricFile {
    times_ms: Option<RangeInclusive<i64>>,
}

impl FileSource<MetricFile> {
    /// These metric files. Two of the same stem are refused when the job starts: both would be the same series.
    pub fn open(files: impl IntoIterator<Item = impl Into<PathBuf>>) -> Self {
        Self::of(files, MetricFile::default())
    }

    /// Which timestamps are believed, in milliseconds since 1970; a record with another one is bad. One wrong date in the far future
    /// would make every record behind it late.
    pub fn times_within(mut self, times_ms: RangeInclusive<i64>) -> Self {
        self.format.times_ms = Some(times_ms);
        self
    }
}

impl LineFormat for MetricFile {
    type Parser = MetricLines;

    fn check(&self, files: &[PathBuf]) -> Result<(), SourceError> {
        let mut seen: HashMap<String, &Path> = HashMap::new();
        for file in files {
            if let Some(other) = seen.insert(series_of(file), file) {
                return Err(SourceError::BadInput {
                    place: file.display().to_string(),
                    reason: format!(
                        "the series would be called \"{}\", as that of \"{}\": rename one of the files",
                        series_of(file),
                        other.display()
                    ),
                });
            }
        }
        Ok(())
    }

    fn parser(&self, file: &Path) -> MetricLines {
        let reading = Reading { series: series_of(file), ..Reading::default() };
        MetricLines { reading, times_ms: self.times_ms.clone() }
    }
}

/// Reads the lines of one metric file.
pub struct MetricLines {
    reading: Reading,
    times_ms: Option<RangeInclusive<i64>>,
}

impl LineParser for MetricLines {
    type Record = Reading;

    fn has_header(&self) -> bool {
        true
    }

    fn header(&mut self, text: Option<&[u8]>) -> Result<(), ParseError> {
        let Some(text) = text else {
            return Err(ParseError::new(
                "wrong_header",
                1,
                "the file is empty, expected the header \"timestamp,value\"",
            ));
        };
        let names = text.split(|&byte| byte == b',').map(<[u8]>::trim_ascii);
        match names.eq([&b"timestamp"[..], b"value"]) {
            true => Ok(()),
            false => {
                let detail = format!("the header is {}, expected \"timestamp,value\"", shown(text));
                Err(ParseError::new("wrong_header", 1, detail))
            }
        }
    }

    fn parse(&mut self, text: &[u8]) -> Result<Option<&Reading>, ParseError> {
        if text.trim_ascii().is_empty() {
            return Ok(None);
        }
        let comma = memchr::memchr(b',', text).ok_or_else(|| columns(text, 1))?;
        let (at, value) = (text[..comma].trim_ascii(), text[comma + 1..].trim_ascii());
        let wrong_time = |wrong| ParseError::new("bad_timestamp", 1, format!("the timestamp {}: {wrong}", shown(at)));
        let at = parse_timestamp_ms(at).map_err(wrong_time)?;
        if self.times_ms.as_ref().is_some_and(|times| !times.contains(&at)) {
            return Err(wrong_time("outside the times that are believed here"));
        }
        let number = std::str::from_utf8(value).ok().and_then(|value| value.parse::<f64>().ok());
        let Some(number) = number else { return Err(bad_value(text, comma, value)) };
        if !number.is_finite() {
            let detail = format!("the value {} is not a finite number", shown(value));
            return Err(ParseError::new("not_finite", comma + 2, detail));
        }
        self.reading.sample.at = at;
        self.reading.sample.value = number;
        Ok(Some(&self.reading))
    }

    #[inline]
    fn parse_ahead(&mut self, text: &str) -> Option<(&Reading, usize)> {
        const VALUE: usize = PLAIN_LEN_BYTES + 1;
        let text = text.as_bytes();
        let at = leading_time_ms(text)?;
        if self.times_ms.as_ref().is_some_and(|times| !times.contains(&at)) {
            return None;
        }
        if text.get(VALUE - 1) != Some(&b',') {
            return None;
        }
        let number = leading_number(&text[VALUE..])?;
        let end = VALUE + number.len_bytes;
        let end_len_bytes = match text[end..] {
            [b'\n', ..] => 1,
            [b'\r', b'\n', ..] => 2,
            _ => return None,
        };
        self.reading.sample.at = at;
        self.reading.sample.value = number.value;
        Some((&self.reading, end + end_len_bytes))
    }
}

#[cold]
fn bad_value(text: &[u8], comma: usize, value: &[u8]) -> ParseError {
    match value.contains(&b',') {
        true => columns(text, text.split(|&byte| byte == b',').count()),
        false => ParseError::new("bad_number", comma + 2, format!("the value {} is not a number", shown(value))),
    }
}

#[cold]
fn columns(text: &[u8], found: usize) -> ParseError {
    ParseError::new("wrong_column_count", 1, format!("{} has {found} columns, expected 2", shown(text)))
}

fn series_of(file: &Path) -> String {
    file.file_stem().unwrap_or(file.as_os_str()).to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::super::bad_records::OnBadRecord;
    use super::super::reader::{ReadStatus, Source, SplitReader};
    use super::super::test_support::{Rig, position_of};
    use super::*;
    use crate::io::Io as _;

    const FILE: &str = "timestamp,value\r\n2014-02-14 14:30:00,1.5\r\n1392388200001,-2e3\n\n1969-12-31T23:59:59Z, 0\n";

    fn source() -> MetricFileSource {
        MetricFileSource::open(["dir/cpu.csv"])
    }

    fn all(rig: &mut Rig, source: &MetricFileSource, position: Option<&[u8]>) -> Result<Vec<(i64, f64)>, SourceError> {
        let records = rig.read_all(&mut source.open("dir/cpu.csv", position)?)?;
        assert!(records.iter().all(|reading| reading.series == "cpu"));
        Ok(records.iter().map(|reading| (reading.sample.at, reading.sample.value)).collect())
    }

    #[test]
    fn a_metric_file_is_the_series_of_its_stem() {
        let mut rig = Rig::new();
        rig.io.put("dir/cpu.csv", FILE);
        let expected = [(1_392_388_200_000, 1.5), (1_392_388_200_001, -2000.0), (-1000, 0.0)];
        assert_eq!(source().splits(&mut rig.io).unwrap(), ["dir/cpu.csv"]);
        assert_eq!(all(&mut rig, &source(), None).unwrap(), expected);
        assert_eq!((rig.io.open_files(), rig.dropped.len()), (0, 0));
    }

    #[test]
    fn after_a_restart_at_any_position_exactly_the_rest_is_read() {
        let mut rig = Rig::new();
        rig.io.put("dir/cpu.csv", FILE);
        let expected = all(&mut rig, &source(), None).unwrap();
        let mut reader = source().open("dir/cpu.csv", None).unwrap();
        let (mut taken, mut restarts) = (0, 0);
        loop {
            let position = position_of(&reader);
            assert_eq!(all(&mut rig, &source(), Some(&position)).unwrap(), expected[taken..]);
            restarts += 1;
            let (records, status) = rig.read(&mut reader, 1).unwrap();
            taken += records.len();
            if status == ReadStatus::Ended {
                break;
            }
        }
        assert!(taken == 3 && restarts > 6, "{taken} records, {restarts} restarts");
        reader.close(&mut rig.io);
        assert_eq!((rig.io.open_files(), rig.io.in_flight()), (0, 0));
    }

    #[test]
    fn a_bad_line_fails_the_job_by_file_line_and_column() {
        for (line, expected) in [
            ("x,1", "dir/cpu.csv:2:1: the timestamp \"x\": expected YYYY-MM-DDThh:mm:ss or milliseconds since 1970"),
            ("1,y", "dir/cpu.csv:2:3: the value \"y\" is not a number"),
            ("1,NaN", "dir/cpu.csv:2:3: the value \"NaN\" is not a finite number"),
            ("1,-inf", "dir/cpu.csv:2:3: the value \"-inf\" is not a finite number"),
            ("1,1e999", "dir/cpu.csv:2:3: the value \"1e999\" is not a finite number"),
            ("1,", "dir/cpu.csv:2:3: the value \"\" is not a number"),
            ("1", "dir/cpu.csv:2:1: \"1\" has 1 columns, expected 2"),
            ("1,2,3", "dir/cpu.csv:2:1: \"1,2,3\" has 3 columns, expected 2"),
        ] {
            let mut rig = Rig::new();
            rig.io.put("dir/cpu.csv", format!("timestamp,value\n{line}\n"));
            assert_eq!(all(&mut rig, &source(), None).unwrap_err().to_string(), expected);
        }
    }

    #[test]
    fn a_wrong_or_missing_header_fails_the_job_whatever_the_policy() {
        for (text, expected) in [
            ("time,value\n1,2\n", "dir/cpu.csv:1:1: the header is \"time,value\", expected \"timestamp,value\""),
            ("", "dir/cpu.csv:1:1: the file is empty, expected the header \"timestamp,value\""),
        ] {
            let mut rig = Rig::new();
            rig.io.put("dir/cpu.csv", text);
            let lenient = source().on_bad_record(OnBadRecord::Skip);
            assert_eq!(all(&mut rig, &lenient, None).unwrap_err().to_string(), expected);
        }
    }

    #[test]
    fn skipped_lines_are_counted_by_reason() {
        let mut rig = Rig::new();
        rig.io.put("dir/cpu.csv", "timestamp,value\n1,1\nx,1\n2,y\n3,NaN\n4,4\n");
        assert_eq!(all(&mut rig, &source().on_bad_record(OnBadRecord::Skip), None).unwrap(), [(1, 1.0), (4, 4.0)]);
        assert_eq!(rig.dropped, ["bad_timestamp", "bad_number", "not_finite"]);
    }

    #[test]
    fn a_time_outside_those_believed_is_a_bad_record() {
        let mut rig = Rig::new();
        rig.io.put("dir/cpu.csv", "timestamp,value\n-1,1\n0,2\n1000,3\n1001,4\n");
        let source = source().times_within(0..=1000).on_bad_record(OnBadRecord::Skip);
        assert_eq!(all(&mut rig, &source, None).unwrap(), [(0, 2.0), (1000, 3.0)]);
        assert_eq!(rig.dropped, ["bad_timestamp", "bad_timestamp"]);
    }

    #[test]
    fn a_line_that_is_too_long_is_a_bad_record() {
        let mut rig = Rig::new();
        rig.io.put("dir/cpu.csv", format!("timestamp,value\n1,{}\n2,2\n", "1".repeat(100)));
        let source = source().line_len_bytes_max(50).on_bad_record(OnBadRecord::Skip);
        assert_eq!(all(&mut rig, &source, None).unwrap(), [(2, 2.0)]);
        assert_eq!(rig.dropped, ["line_too_long"]);
    }

    #[test]
    fn files_that_cannot_be_read_are_refused_before_the_job_runs() {
        let mut rig = Rig::new();
        for file in ["a/cpu.csv", "b/cpu.csv"] {
            rig.io.put(file, FILE);
        }
        let mut refusal = |files: &[&str]| MetricFileSource::open(files).splits(&mut rig.io).unwrap_err().to_string();
        assert_eq!(refusal(&[]), "the file source: no file was given: name at least one");
        assert_eq!(refusal(&["a"]), "\"a\" is a directory: name the files in it");
        assert!(refusal(&["a/nil"]).starts_with("there is no file \"a/nil\""));
        assert!(refusal(&["a/cpu.csv", "a/cpu.csv"]).contains("given twice"));
        let expected =
            "b/cpu.csv: the series would be called \"cpu\", as that of \"a/cpu.csv\": rename one of the files";
        assert_eq!(refusal(&["a/cpu.csv", "b/cpu.csv"]), expected);
    }

    #[test]
    fn a_position_of_something_else_is_refused() {
        let refusal = source().open("dir/cpu.csv", Some(b"seven")).err().unwrap();
        assert!(matches!(refusal, SourceError::BadPosition { .. }), "{refusal}");
    }

    #[test]
    fn a_followed_file_yields_what_is_appended() {
        let mut rig = Rig::new();
        rig.io.put("dir/cpu.csv", "timestamp,value\n1,1\n2,");
        let mut reader = source().follow(true).open("dir/cpu.csv", None).unwrap();
        assert_eq!(rig.read_all(&mut reader).unwrap().len(), 1);
        rig.io.append("dir/cpu.csv", "2\n");
        rig.now_ns = reader.wake_at_ns().unwrap();
        assert_eq!(rig.read_all(&mut reader).unwrap()[0].sample.value, 2.0);
        reader.close(&mut rig.io);
        assert_eq!(rig.io.open_files(), 0);
    }
}
