//! CSV files of records that serde can read, one line each (a quoted field cannot hold a line break: that is a bad record).
//!
//! Fields are matched by the names in the header, or by their order with `without_header`. The metric files of the monitor have a faster way:
//! `metric_file`. Whether a field may hold "NaN" is for the record type to say: a string field may.

use super::csv_plain;
use super::file_source::{FileSource, LineFormat, LineParser};
use super::parse_error::{ParseError, shown};
use csv::ByteRecord;
use serde::de::DeserializeOwned;
use std::marker::PhantomData;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// CSV files of records `T`, one split each.
pub type CsvSource<T> = FileSource<CsvFormat<T>>;

/// The format of CSV files.
pub struct CsvFormat<T> {
    delimiter: u8,
    has_header: bool,
    expected: Option<Arc<[String]>>,
    record: PhantomData<fn() -> T>,
}

impl<T: DeserializeOwned + 'static> FileSource<CsvFormat<T>> {
    /// This one file.
    pub fn open(file: impl Into<PathBuf>) -> Self {
        Self::files([file])
    }

    /// These files, one split each.
    pub fn files(files: impl IntoIterator<Item = impl Into<PathBuf>>) -> Self {
        Self::of(files, CsvFormat { delimiter: b',', has_header: true, expected: None, record: PhantomData })
    }

    /// What separates fields; a comma unless set.
    pub fn delimiter(mut self, delimiter: u8) -> Self {
        self.format.delimiter = delimiter;
        self
    }

    /// The header must be exactly this.
    pub fn header(mut self, names: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.format.expected = Some(names.into_iter().map(Into::into).collect());
        self
    }

    /// The first line is a record already; fields are matched by their order.
    pub fn without_header(mut self) -> Self {
        self.format.has_header = false;
        self
    }
}

impl<T> Clone for CsvFormat<T> {
    fn clone(&self) -> Self {
        Self { expected: self.expected.clone(), ..*self }
    }
}

impl<T: DeserializeOwned + 'static> LineFormat for CsvFormat<T> {
    type Parser = CsvLines<T>;

    fn parser(&self, _: &Path) -> CsvLines<T> {
        CsvLines {
            format: self.clone(),
            reader: csv_reader(self.delimiter),
            fields: ByteRecord::new(),
            header: None,
            names: None,
            record: None,
            knows_delimiter: csv_plain::knows(self.delimiter),
        }
    }
}

/// Reads the lines of one file.
pub struct CsvLines<T> {
    format: CsvFormat<T>,
    reader: csv::Reader<OneLine>,
    fields: ByteRecord,
    header: Option<ByteRecord>,
    /// The same names, as the one pass takes them.
    names: Option<Vec<Vec<u8>>>,
    record: Option<T>,
    /// Whether there is one pass at all.
    knows_delimiter: bool,
}

/// Feeds the CSV reader one line at a time, and remembers whether it wanted more.
#[derive(Default)]
struct OneLine {
    bytes: Vec<u8>,
    at: usize,
    wanted_more: bool,
}

impl std::io::Read for OneLine {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        let len = into.len().min(self.bytes.len() - self.at);
        into[..len].copy_from_slice(&self.bytes[self.at..self.at + len]);
        self.at += len;
        self.wanted_more |= len == 0;
        Ok(len)
    }
}

fn csv_reader(delimiter: u8) -> csv::Reader<OneLine> {
    // Not its default, to which a lone carriage return ends a record too: the rest of the line would stand before the next one.
    let terminator = csv::Terminator::Any(b'\n');
    csv::ReaderBuilder::new()
        .delimiter(delimiter)
        .terminator(terminator)
        .has_headers(false)
        .flexible(true)
        .from_reader(OneLine::default())
}

impl<T: DeserializeOwned + 'static> LineParser for CsvLines<T> {
    type Record = T;

    fn has_header(&self) -> bool {
        self.format.has_header
    }

    fn header(&mut self, text: Option<&[u8]>) -> Result<(), ParseError> {
        let wrong = |detail: String| Err(ParseError::new("wrong_header", 1, detail));
        let Some(text) = text else { return wrong("the file is empty, expected a header".to_owned()) };
        self.split(text)?;
        if let Some(expected) = &self.format.expected
            && !self.fields.iter().eq(expected.iter().map(String::as_bytes))
        {
            return wrong(format!("the header is {}, expected \"{}\"", shown(text), expected.join(",")));
        }
        self.names = Some(self.fields.iter().map(<[u8]>::to_vec).collect());
        self.header = Some(self.fields.clone());
        Ok(())
    }

    fn parse(&mut self, text: &[u8]) -> Result<Option<&T>, ParseError> {
        if text.trim_ascii().is_empty() {
            return Ok(None);
        }
        self.split(text)?;
        if let Some(header) = &self.header
            && header.len() != self.fields.len()
        {
            let detail = format!("{} has {} columns, the header {}", shown(text), self.fields.len(), header.len());
            return Err(ParseError::new("wrong_column_count", 1, detail));
        }
        match self.fields.deserialize(self.header.as_ref()) {
            Ok(record) => Ok(Some(self.record.insert(record))),
            Err(error) => Err(self.refusal(text, &error)),
        }
    }

    #[inline]
    fn parse_ahead(&mut self, text: &str) -> Option<(&T, usize)> {
        if !self.knows_delimiter {
            return None;
        }
        let (record, len_bytes) = csv_plain::read(text, self.format.delimiter, self.names.as_deref()).ok()?;
        Some((self.record.insert(record), len_bytes))
    }
}

impl<T> CsvLines<T> {
    /// Splits a line into `fields`.
    fn split(&mut self, text: &[u8]) -> Result<(), ParseError> {
        let line = self.reader.get_mut();
        line.bytes.clear();
        line.bytes.extend_from_slice(text);
        line.bytes.push(b'\n');
        line.at = 0;
        let result = self.reader.read_byte_record(&mut self.fields);
        if result.is_ok() && !self.reader.get_ref().wanted_more {
            return Ok(());
        }
        // It has seen an end of input, and would never read again.
        self.reader = csv_reader(self.format.delimiter);
        let quote = memchr::memchr(b'"', text).map_or(1, |at| at + 1);
        Err(ParseError::new("open_quote", quote, format!("a quoted field in {} does not end on its line", shown(text))))
    }

    #[cold]
    fn refusal(&self, text: &[u8], error: &csv::Error) -> ParseError {
        let csv::ErrorKind::Deserialize { err, .. } = error.kind() else {
            return ParseError::new("bad_csv", 1, error.to_string());
        };
        let Some(field) = err.field().map(|field| field as usize) else {
            return ParseError::new("wrong_fields", 1, err.kind().to_string());
        };
        let value = shown(self.fields.get(field).unwrap_or_default());
        let name = self.header.as_ref().and_then(|header| header.get(field)).map(shown);
        let detail = format!("field {} is {value}: {}", name.unwrap_or((field + 1).to_string()), err.kind());
        ParseError::new("bad_field", field_start(text, self.format.delimiter, field) + 1, detail)
    }
}

/// Where the field of this index begins in a line.
fn field_start(text: &[u8], delimiter: u8, field: usize) -> usize {
    let mut is_quoted = false;
    let delimiters = text.iter().enumerate().filter(|&(_, &byte)| {
        is_quoted ^= byte == b'"';
        byte == delimiter && !is_quoted
    });
    let starts = std::iter::once(0).chain(delimiters.map(|(at, _)| at + 1));
    starts.take(field + 1).last().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::super::bad_records::OnBadRecord;
    use super::super::reader::{Source, SourceError};
    use super::super::test_support::Rig;
    use super::*;

    #[derive(serde::Deserialize, Clone, Debug, PartialEq)]
    struct Payment {
        card: String,
        cents: i64,
        note: Option<String>,
    }

    fn read<T: DeserializeOwned + Clone + 'static>(rig: &mut Rig, source: CsvSource<T>) -> Result<Vec<T>, SourceError> {
        rig.read_all(&mut source.open("p.csv", None).unwrap())
    }

    fn payment(card: &str, cents: i64, note: Option<&str>) -> Payment {
        Payment { card: card.into(), cents, note: note.map(Into::into) }
    }

    #[test]
    fn fields_are_matched_by_the_names_in_the_header() {
        let mut rig = Rig::new();
        rig.io.put("p.csv", "cents,note,card,more\n5,\"a \"\"b\"\", c\",x,1\r\n\n-6,,y,2");
        let records = read(&mut rig, CsvSource::<Payment>::open("p.csv")).unwrap();
        assert_eq!(records, [payment("x", 5, Some("a \"b\", c")), payment("y", -6, None)]);
    }

    #[test]
    fn without_a_header_fields_are_matched_by_their_order() {
        let mut rig = Rig::new();
        rig.io.put("p.csv", "x;5\ny;6\n");
        let source = CsvSource::<(String, i64)>::open("p.csv").without_header().delimiter(b';');
        assert_eq!(read(&mut rig, source).unwrap(), [("x".to_owned(), 5), ("y".to_owned(), 6)]);
    }

    #[test]
    fn bad_lines_are_named_by_file_line_and_column() {
        let mut rig = Rig::new();
        for (line, expected) in [
            ("x,five,", "p.csv:2:3: field \"cents\" is \"five\": invalid digit found in string"),
            ("\"a,b\",five,", "p.csv:2:7: field \"cents\" is \"five\": invalid digit found in string"),
            ("x,5", "p.csv:2:1: \"x,5\" has 2 columns, the header 3"),
            ("x,5,\"open", "p.csv:2:5: a quoted field in \"x,5,\\\"open\" does not end on its line"),
        ] {
            rig.io.put("p.csv", format!("card,cents,note\n{line}\n"));
            let refusal = read(&mut rig, CsvSource::<Payment>::open("p.csv")).unwrap_err();
            assert_eq!(refusal.to_string(), expected);
        }
    }

    #[test]
    fn a_bad_line_does_not_spoil_the_ones_behind_it() {
        let mut rig = Rig::new();
        rig.io.put("p.csv", "card,cents,note\nx,\"1,\nx,2,\nx,three,\nx\nx,4,\n");
        let source = CsvSource::<Payment>::open("p.csv").on_bad_record(OnBadRecord::Skip);
        let cents: Vec<_> = read(&mut rig, source).unwrap().iter().map(|payment| payment.cents).collect();
        assert_eq!(cents, [2, 4]);
        assert_eq!(rig.dropped, ["open_quote", "bad_field", "wrong_column_count"]);
    }

    #[test]
    fn a_carriage_return_within_a_line_is_a_part_of_its_field_and_spoils_no_other_line() {
        let mut rig = Rig::new();
        rig.io.put("p.csv", "card,cents,note\nx,1,a\rb\n\"y\",2,\r\nz,3,\n");
        let records = read(&mut rig, CsvSource::<Payment>::open("p.csv")).unwrap();
        assert_eq!(records, [payment("x", 1, Some("a\rb")), payment("y", 2, None), payment("z", 3, None)]);
    }

    #[test]
    fn a_header_that_must_be_exact_is_checked() {
        let mut rig = Rig::new();
        rig.io.put("p.csv", "card,cent,note\n");
        let source = CsvSource::<Payment>::open("p.csv").header(["card", "cents", "note"]);
        let refusal = read(&mut rig, source).unwrap_err();
        assert_eq!(refusal.to_string(), "p.csv:1:1: the header is \"card,cent,note\", expected \"card,cents,note\"");
    }

    #[test]
    fn after_a_restart_the_header_still_names_the_fields() {
        let mut rig = Rig::new();
        rig.io.put("p.csv", "cents,card,note\n1,a,\n2,b,\n");
        let source = CsvSource::<Payment>::open("p.csv");
        let mut position = Vec::new();
        super::super::file_reader::FilePosition { offset: 21, line: 2 }.write(&mut position);
        let records = rig.read_all(&mut source.open("p.csv", Some(&position)).unwrap()).unwrap();
        assert_eq!(records, [payment("b", 2, None)]);
    }
}
