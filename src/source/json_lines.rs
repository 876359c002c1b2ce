//! JSON Lines: one JSON value per line, read with serde. Blank lines are skipped.

use super::file_source::{FileSource, LineFormat, LineParser};
use super::json_plain;
use super::parse_error::ParseError;
use serde::de::DeserializeOwned;
use std::marker::PhantomData;
use std::path::{Path, PathBuf};

/// JSON Lines files of records `T`, one split each.
pub type JsonLinesSource<T> = FileSource<JsonLinesFormat<T>>;

/// The format of JSON Lines files.
pub struct JsonLinesFormat<T> {
    record: PhantomData<fn() -> T>,
}

impl<T: DeserializeOwned + 'static> FileSource<JsonLinesFormat<T>> {
    /// This one file.
    pub fn open(file: impl Into<PathBuf>) -> Self {
        Self::files([file])
    }

    /// These files, one split each.
    pub fn files(files: impl IntoIterator<Item = impl Into<PathBuf>>) -> Self {
        Self::of(files, JsonLinesFormat { record: PhantomData })
    }
}

impl<T> Clone for JsonLinesFormat<T> {
    fn clone(&self) -> Self {
        Self { record: PhantomData }
    }
}

impl<T: DeserializeOwned + 'static> LineFormat for JsonLinesFormat<T> {
    type Parser = JsonLine<T>;

    fn parser(&self, _: &Path) -> JsonLine<T> {
        JsonLine { record: None }
    }
}

/// Reads one line at a time.
pub struct JsonLine<T> {
    record: Option<T>,
}

impl<T: DeserializeOwned + 'static> LineParser for JsonLine<T> {
    type Record = T;

    fn has_header(&self) -> bool {
        false
    }

    fn header(&mut self, _: Option<&[u8]>) -> Result<(), ParseError> {
        Ok(())
    }

    fn parse(&mut self, text: &[u8]) -> Result<Option<&T>, ParseError> {
        if text.trim_ascii().is_empty() {
            return Ok(None);
        }
        match serde_json::from_slice(text) {
            Ok(record) => Ok(Some(self.record.insert(record))),
            Err(error) => Err(refusal(&error)),
        }
    }

    #[inline]
    fn parse_ahead(&mut self, text: &str) -> Option<(&T, usize)> {
        let (record, len_bytes) = json_plain::read(text).ok()?;
        Some((self.record.insert(record), len_bytes))
    }
}

#[cold]
fn refusal(error: &serde_json::Error) -> ParseError {
    let reason = match error.classify() {
        serde_json::error::Category::Data => "wrong_fields",
        _ => "bad_json",
    };
    let text = error.to_string();
    // The place is said in front, with the line of the file.
    let detail = text.split_once(" at line ").map_or(&text[..], |(detail, _)| detail);
    ParseError::new(reason, error.column().max(1), detail)
}

#[cfg(test)]
mod tests {
    use super::super::bad_records::OnBadRecord;
    use super::super::reader::{ReadStatus, Source, SourceError, SplitReader};
    use super::super::test_support::{Rig, position_of};
    use super::*;
    use crate::io::Io as _;

    #[derive(serde::Deserialize, Clone, Debug, PartialEq)]
    struct Login {
        user: String,
        tries: u32,
    }

    fn source() -> JsonLinesSource<Login> {
        JsonLinesSource::open("logins.jsonl")
    }

    fn users(rig: &mut Rig, source: &JsonLinesSource<Login>, position: Option<&[u8]>) -> Result<String, SourceError> {
        let records = rig.read_all(&mut source.open("logins.jsonl", position)?)?;
        Ok(records.iter().map(|login| login.user.as_str()).collect())
    }

    fn line(user: &str) -> String {
        format!("{{\"user\":\"{user}\",\"tries\":1}}\n")
    }

    #[test]
    fn every_line_is_a_record() {
        let mut rig = Rig::new();
        rig.io.put(
            "logins.jsonl",
            "{\"tries\": 3, \"user\": \"ada\"}\r\n\n {\"user\":\"b\\u00e9\",\"tries\":0,\"more\":[1]} ",
        );
        let records = rig.read_all(&mut source().open("logins.jsonl", None).unwrap()).unwrap();
        assert_eq!(records, [Login { user: "ada".into(), tries: 3 }, Login { user: "bé".into(), tries: 0 }]);
    }

    #[test]
    fn an_empty_file_has_no_records() {
        let mut rig = Rig::new();
        rig.io.put("logins.jsonl", "");
        assert_eq!(users(&mut rig, &source(), None).unwrap(), "");
    }

    #[test]
    fn bad_lines_are_named_by_line_and_column_of_the_file() {
        let mut rig = Rig::new();
        for (bad, expected) in [
            ("{\"user\":", "logins.jsonl:2:8: EOF while parsing a value"),
            ("{\"user\":\"a\",\"tries\":-1}", "logins.jsonl:2:22: invalid value: integer `-1`, expected u32"),
            ("{\"user\":\"a\"}", "logins.jsonl:2:12: missing field `tries`"),
            ("{\"user\":\"a\",\"tries\":NaN}", "logins.jsonl:2:21: expected value"),
        ] {
            rig.io.put("logins.jsonl", line("a") + bad);
            assert_eq!(users(&mut rig, &source(), None).unwrap_err().to_string(), expected);
        }
    }

    fn entry(line: u64) -> String {
        format!(
            "{{\"file\":\"logins.jsonl\",\"line\":{line},\"column\":1,\"reason\":\"bad_json\",\"text\":\"bad \\\"{line}\\\"\"}}\n"
        )
    }

    fn mixed() -> String {
        (1..=9)
            .map(|number| if number % 3 == 1 { line(&number.to_string()) } else { format!("bad \"{number}\"\n") })
            .collect()
    }

    #[test]
    fn the_side_file_holds_every_bad_line_with_its_place_and_reason() {
        let mut rig = Rig::new();
        rig.io.put("logins.jsonl", mixed());
        let source = source().on_bad_record(OnBadRecord::SideFile("side/bad.jsonl".into()));
        assert_eq!(users(&mut rig, &source, None).unwrap(), "147");
        assert_eq!(rig.io.get("side/bad.jsonl").unwrap(), [2, 3, 5, 6, 8, 9].map(entry).concat());
        assert_eq!((rig.dropped.len(), rig.io.open_files(), rig.io.in_flight()), (6, 0, 0));
    }

    #[test]
    fn without_bad_lines_no_side_file_appears() {
        let mut rig = Rig::new();
        rig.io.put("logins.jsonl", line("a"));
        users(&mut rig, &source().on_bad_record(OnBadRecord::SideFile("bad.jsonl".into())), None).unwrap();
        assert_eq!(rig.io.names(), ["logins.jsonl"]);
    }

    #[test]
    fn wherever_the_process_dies_the_side_file_gets_every_bad_line_once_and_records_come_once() {
        let source = source().on_bad_record(OnBadRecord::SideFile("bad.jsonl".into()));
        let mut crashes = 0;
        for ops in 0..60 {
            let mut rig = Rig::new();
            rig.io.put("logins.jsonl", mixed());
            rig.io.put("bad.jsonl", entry(2) + "{\"file\":\"logins.jso");
            rig.io.die_after(ops);
            let mut reader = source.open("logins.jsonl", None).unwrap();
            let mut seen = String::new();
            let mut position = position_of(&reader);
            loop {
                match rig.read(&mut reader, 2) {
                    Ok((records, status)) => {
                        seen.extend(records.iter().map(|(login, _)| login.user.as_str()));
                        position = position_of(&reader);
                        if status == ReadStatus::Ended {
                            break;
                        }
                    }
                    Err(_) => {
                        crashes += 1;
                        break;
                    }
                }
            }
            rig.io.revive();
            let mut rig = Rig::on(rig.io.clone());
            seen += &users(&mut rig, &source, Some(&position)).unwrap();
            assert_eq!(seen, "147", "died after {ops} operations");
            let held = rig.io.get("bad.jsonl").unwrap();
            assert_eq!(held, [2, 3, 5, 6, 8, 9].map(entry).concat(), "died after {ops} operations");
        }
        assert!(crashes > 10, "{crashes}");
    }

    #[test]
    fn a_followed_file_yields_what_is_appended() {
        let mut rig = Rig::new();
        rig.io.put("logins.jsonl", line("a") + "{\"user\":");
        let mut reader = source().follow(true).open("logins.jsonl", None).unwrap();
        assert_eq!(rig.read_all(&mut reader).unwrap().len(), 1);
        rig.io.append("logins.jsonl", "\"b\",\"tries\":2}\n");
        rig.now_ns = reader.wake_at_ns().unwrap();
        assert_eq!(rig.read_all(&mut reader).unwrap()[0].user, "b");
    }

    #[test]
    fn with_several_files_each_has_its_own_side_file() {
        let mut rig = Rig::new();
        for file in ["x/a.jsonl", "y/a.jsonl", "b.jsonl"] {
            rig.io.put(file, "bad\n");
        }
        let source = JsonLinesSource::<Login>::files(["x/a.jsonl", "y/a.jsonl", "b.jsonl"])
            .on_bad_record(OnBadRecord::SideFile("out.jsonl".into()));
        for split in source.splits(&mut rig.io).unwrap() {
            rig.read_all(&mut source.open(&split, None).unwrap()).unwrap();
        }
        let names = rig.io.names();
        let sides: Vec<_> = names.iter().filter(|name| name.starts_with("out.")).collect();
        assert_eq!(sides.len(), 3, "{names:?}");
        assert!(sides.contains(&&"out.b.jsonl".to_owned()));
    }
}
