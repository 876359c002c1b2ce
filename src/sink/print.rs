//! A sink that prints: one line per record on the standard output, for looking, not for load (a full pipe blocks the slot).
//!
//! At least once: after a restart records behind the last checkpoint are printed again.

use super::writer::{Sink, SinkContext, SinkError, SinkWriter};
use crate::checkpoint::CheckpointId;
use crate::io::IoError;
use crate::record::Stamp;
use std::fmt::Debug;
use std::io::{Stdout, Write};
use std::sync::Arc;

/// How many bytes wait at most before they are printed.
const WAITING_BYTES_MAX: usize = 64 << 10;

/// Prints `[name:subtask] record`, the record as its `Debug`.
#[derive(Clone, Debug)]
pub struct Print {
    name: Arc<str>,
}

/// Prints the records of one subtask; lines are collected until the next `poll`.
#[derive(Debug)]
pub struct PrintWriter<W = Stdout> {
    prefix: String,
    waiting: Vec<u8>,
    to: W,
}

impl Print {
    /// Prints lines that begin with this name.
    pub fn new(name: &str) -> Self {
        Self { name: name.into() }
    }
}

impl<V: Debug + 'static> Sink<V> for Print {
    type Writer = PrintWriter;

    fn open(&self, subtask: u32, _: u32) -> Result<PrintWriter, SinkError> {
        Ok(PrintWriter::to(std::io::stdout(), &self.name, subtask))
    }
}

impl<W: Write> PrintWriter<W> {
    fn to(to: W, name: &str, subtask: u32) -> Self {
        Self { prefix: format!("[{name}:{subtask}] "), waiting: Vec::new(), to }
    }

    fn print(&mut self) -> Result<bool, SinkError> {
        if self.waiting.is_empty() {
            return Ok(false);
        }
        let result = self.to.write_all(&self.waiting).and_then(|()| self.to.flush());
        self.waiting.clear();
        result.map_err(|e| IoError {
            action: "print to",
            path: "standard output".into(),
            kind: e.kind(),
            reason: e.to_string(),
        })?;
        Ok(true)
    }
}

impl<V: Debug + 'static, W: Write + 'static> SinkWriter<V> for PrintWriter<W> {
    fn write(&mut self, _: &mut SinkContext<'_>, _: &Stamp, record: &V) -> Result<(), SinkError> {
        writeln!(self.waiting, "{}{record:?}", self.prefix)
            .map_err(|e| SinkError::BadRecord { reason: e.to_string() })?;
        if self.waiting.len() >= WAITING_BYTES_MAX {
            self.print()?;
        }
        Ok(())
    }

    fn poll(&mut self, _: &mut SinkContext<'_>) -> Result<bool, SinkError> {
        self.print()
    }

    fn snapshot(&mut self, _: &mut SinkContext<'_>, _: CheckpointId) -> Result<Vec<u8>, SinkError> {
        self.print()?;
        Ok(Vec::new())
    }
}

#[cfg(test)]
mod tests {
    use super::super::test_support::{Rig, stamp};
    use super::*;

    #[test]
    fn every_record_is_a_line_with_the_name_and_the_subtask() {
        let mut rig = Rig::new();
        let mut writer = PrintWriter::to(Vec::new(), "loud", 3);
        for record in [1, 2] {
            rig.with(|cx| writer.write(cx, &stamp(), &record)).unwrap();
        }
        assert!(writer.to.is_empty());
        rig.with(|cx| SinkWriter::<i32>::poll(&mut writer, cx)).unwrap();
        assert_eq!(String::from_utf8(writer.to).unwrap(), "[loud:3] 1\n[loud:3] 2\n");
    }

    #[test]
    fn a_closed_standard_output_is_an_error() {
        struct Closed;
        impl Write for Closed {
            fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
                Err(std::io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let mut rig = Rig::new();
        let mut writer = PrintWriter::to(Closed, "loud", 0);
        rig.with(|cx| writer.write(cx, &stamp(), &1)).unwrap();
        let refusal = rig.with(|cx| SinkWriter::<i32>::poll(&mut writer, cx)).unwrap_err();
        assert_eq!(refusal.to_string(), "cannot print to \"standard output\": broken pipe");
    }
}
