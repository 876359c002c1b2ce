//! Lines from TCP connections: listens on one address and reads every connection that comes.
//!
//! At most once: the other side is not told what was processed, so lines behind the last checkpoint are gone after a crash. Lines
//! of one connection stay in order. A connection that is not read fast enough is slowed down by TCP.
//!
//! Sockets are non-blocking and asked at every read, every millisecond while one is connected and nothing comes. (Not through `Io`: that
//! is the disk.)

use super::parse_error::ParseError;
use super::reader::{ReadContext, ReadStatus, Source, SourceError, SplitReader};
use crate::io::{Io, IoError};
use std::io::{ErrorKind, Read};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;

/// Connections beyond this wait until one ends.
const CONNECTIONS_MAX: usize = 64;
/// A longer line is dropped and counted.
const LINE_LEN_BYTES_MAX: usize = 64 << 10;
/// How much is read from one connection before the next has its turn.
const READ_LEN_BYTES: usize = 16 << 10;
/// When to ask again while a connection is open, and while none is.
const CONNECTED_INTERVAL_NS: u64 = 1_000_000;
const ALONE_INTERVAL_NS: u64 = 10_000_000;
/// How many bad lines are logged; all are counted.
const LOGGED_MAX: u32 = 5;

/// One split: all lines that come to one address. Clones share the listening socket.
#[derive(Clone, Debug)]
pub struct TcpLinesSource<F> {
    listener: Arc<TcpListener>,
    address: SocketAddr,
    parse: F,
}

impl<T: 'static, F: Fn(&str) -> Result<T, ParseError> + Clone + Send + Sync + 'static> TcpLinesSource<F> {
    /// Listens on `address` (`127.0.0.1:7000`, or `:7000` for the same; port 0 takes a free one). `parse` makes a record of each line; a
    /// line that is none is counted by the error's reason, and the first five are logged. May wait for a name to be looked up.
    pub fn listen(address: &str, parse: F) -> Result<Self, SourceError> {
        let full = if address.starts_with(':') { format!("127.0.0.1{address}") } else { address.to_owned() };
        let listen = || -> std::io::Result<_> {
            let listener = TcpListener::bind(&full)?;
            listener.set_nonblocking(true)?;
            let address = listener.local_addr()?;
            Ok((listener, address))
        };
        let (listener, address) = listen().map_err(|e| failed("listen on", &full, &e))?;
        Ok(Self { listener: Arc::new(listener), address, parse })
    }
}

impl<F> TcpLinesSource<F> {
    /// The address it listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

fn failed(action: &'static str, address: &str, error: &std::io::Error) -> SourceError {
    IoError { action, path: address.into(), kind: error.kind(), reason: error.to_string() }.into()
}

impl<T: 'static, F: Fn(&str) -> Result<T, ParseError> + Clone + Send + Sync + 'static> Source for TcpLinesSource<F> {
    type Record = T;
    type Reader = TcpLinesReader<F>;

    fn splits(&self, _: &mut dyn Io) -> Result<Vec<String>, SourceError> {
        Ok(vec![format!("tcp:{}", self.address)])
    }

    fn open(&self, _: &str, _: Option<&[u8]>) -> Result<TcpLinesReader<F>, SourceError> {
        Ok(TcpLinesReader { source: self.clone(), connections: Vec::new(), turn: 0, logged: 0, wake_at_ns: None })
    }
}

/// Reads the connections of one listening socket.
pub struct TcpLinesReader<F> {
    source: TcpLinesSource<F>,
    connections: Vec<Connection>,
    /// Whose turn it is.
    turn: usize,
    logged: u32,
    wake_at_ns: Option<u64>,
}

struct Connection {
    stream: TcpStream,
    peer: SocketAddr,
    /// Bytes that are not yet emitted, from `at` on.
    bytes: Vec<u8>,
    at: usize,
    /// Lines so far.
    line: u64,
    /// The rest of the line is dropped: it was too long.
    is_skipping: bool,
    has_ended: bool,
}

impl Connection {
    /// Reads once; `true` when something came.
    fn fill(&mut self) -> bool {
        if self.has_ended {
            return false;
        }
        self.bytes.drain(..self.at);
        self.at = 0;
        let len = self.bytes.len();
        self.bytes.resize(len + READ_LEN_BYTES, 0);
        let result = self.stream.read(&mut self.bytes[len..]);
        self.bytes.truncate(len + result.as_ref().map_or(0, |&read| read));
        match result {
            Ok(0) => self.has_ended = true,
            Ok(_) => return true,
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(e) => {
                tracing::warn!("the connection from {} broke after {} lines: {e}", self.peer, self.line);
                self.has_ended = true;
            }
        }
        self.has_ended && !self.bytes.is_empty()
    }

    /// The next whole line (at the end also one without an end), and whether it is too long.
    fn next_line(&mut self) -> Option<(std::ops::Range<usize>, bool)> {
        loop {
            let rest = &self.bytes[self.at..];
            let end = rest.iter().position(|&byte| byte == b'\n');
            let range = self.at..self.at + end.unwrap_or(rest.len());
            // The carriage return of a line's end is no part of it.
            let last_is_return = self.bytes[range.clone()].last() == Some(&b'\r');
            let is_too_long = range.len() > LINE_LEN_BYTES_MAX + usize::from(last_is_return);
            let is_whole = end.is_some() || (self.has_ended && !rest.is_empty());
            if !is_whole && !is_too_long {
                return None;
            }
            self.at = range.end + usize::from(end.is_some());
            let was_skipping = std::mem::replace(&mut self.is_skipping, !is_whole);
            // Of a line that is too long, the first piece is reported and the others are not.
            if !was_skipping {
                self.line += 1;
                return Some((range, is_too_long));
            }
        }
    }
}

impl<T: 'static, F: Fn(&str) -> Result<T, ParseError> + Clone + Send + Sync + 'static> SplitReader
    for TcpLinesReader<F>
{
    type Record = T;

    fn read<E: FnMut(&mut ReadContext<'_>, &T, u64)>(
        &mut self,
        cx: &mut ReadContext<'_>,
        records_max: usize,
        mut emit: E,
    ) -> Result<ReadStatus, SourceError> {
        self.accept()?;
        let mut left = records_max;
        let mut worked = false;
        for _ in 0..self.connections.len() {
            self.turn = (self.turn + 1) % self.connections.len();
            let connection = &mut self.connections[self.turn];
            loop {
                if left == 0 {
                    return Ok(ReadStatus::More);
                }
                let Some((range, is_too_long)) = connection.next_line() else { break };
                left -= 1;
                let parsed = match is_too_long {
                    true => {
                        let detail = format!("the line is longer than {LINE_LEN_BYTES_MAX} bytes");
                        Err(ParseError::new("line_too_long", LINE_LEN_BYTES_MAX + 1, detail))
                    }
                    false => parse_line(&connection.bytes[range], &self.source.parse),
                };
                match parsed {
                    Ok(Some(record)) => emit(cx, &record, cx.now_ns),
                    Ok(None) => {}
                    Err(error) => {
                        (cx.dropped)(error.reason);
                        if self.logged < LOGGED_MAX {
                            self.logged += 1;
                            tracing::warn!(
                                "bad record at {}:{}:{}: {error}",
                                connection.peer,
                                connection.line,
                                error.column
                            );
                        }
                    }
                }
            }
            worked |= connection.fill();
        }
        self.connections.retain(|connection| !connection.has_ended || connection.at < connection.bytes.len());
        let interval_ns = if self.connections.is_empty() { ALONE_INTERVAL_NS } else { CONNECTED_INTERVAL_NS };
        self.wake_at_ns = Some(cx.now_ns + interval_ns);
        Ok(if worked { ReadStatus::More } else { ReadStatus::Pending })
    }

    fn position(&self, _: &mut Vec<u8>) {}

    fn wake_at_ns(&self) -> Option<u64> {
        self.wake_at_ns
    }

    fn close(&mut self, _: &mut dyn Io) {
        self.connections.clear();
    }
}

impl<F> TcpLinesReader<F> {
    fn accept(&mut self) -> Result<(), SourceError> {
        while self.connections.len() < CONNECTIONS_MAX {
            let (stream, peer) = match self.source.listener.accept() {
                Ok(accepted) => accepted,
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                // The other side was gone before it was accepted.
                Err(e) if matches!(e.kind(), ErrorKind::ConnectionAborted | ErrorKind::Interrupted) => continue,
                Err(e) => return Err(failed("accept a connection on", &self.source.address.to_string(), &e)),
            };
            if let Err(e) = stream.set_nonblocking(true) {
                return Err(failed("use the connection from", &peer.to_string(), &e));
            }
            let (bytes, at) = (Vec::new(), 0);
            self.connections.push(Connection {
                stream,
                peer,
                bytes,
                at,
                line: 0,
                is_skipping: false,
                has_ended: false,
            });
        }
        Ok(())
    }
}

fn parse_line<T>(bytes: &[u8], parse: &impl Fn(&str) -> Result<T, ParseError>) -> Result<Option<T>, ParseError> {
    let text = std::str::from_utf8(bytes.strip_suffix(b"\r").unwrap_or(bytes))
        .map_err(|e| ParseError::new("not_utf8", e.valid_up_to() + 1, "the line is not UTF-8"))?;
    if text.trim().is_empty() {
        return Ok(None);
    }
    parse(text).map(Some)
}

#[cfg(test)]
mod tests {
    use super::super::test_support::Rig;
    use super::*;
    use std::io::Write;

    fn number(text: &str) -> Result<i64, ParseError> {
        text.parse().map_err(|_| ParseError::new("bad_number", 1, text))
    }

    /// Reads until this many records and drops came.
    fn read<F>(rig: &mut Rig, reader: &mut TcpLinesReader<F>, wanted: usize) -> Vec<i64>
    where
        F: Fn(&str) -> Result<i64, ParseError> + Clone + Send + Sync + 'static,
    {
        let mut all = Vec::new();
        while all.len() + rig.dropped.len() < wanted {
            let (records, _) = rig.read(reader, 2).unwrap();
            all.extend(records.into_iter().map(|(record, _)| record));
        }
        all
    }

    #[test]
    fn lines_of_several_connections_become_records_whole_and_in_order() {
        let mut rig = Rig::new();
        let source = TcpLinesSource::listen(":0", number).unwrap();
        assert!(source.address().ip().is_loopback());
        let mut reader = source.open("", None).unwrap();
        let [mut a, mut b] = [0, 1].map(|_| TcpStream::connect(source.address()).unwrap());
        a.write_all(b"1\n2\r\n\n3").unwrap();
        b.write_all(b"10\n").unwrap();
        let mut first = read(&mut rig, &mut reader, 3);
        first.sort_unstable();
        assert_eq!(first, [1, 2, 10]);
        a.write_all(b"4\n5").unwrap();
        drop(a);
        assert_eq!(read(&mut rig, &mut reader, 2), [34, 5]);
        assert!(reader.wake_at_ns().is_some());
    }

    #[test]
    fn bad_and_too_long_lines_are_counted_and_the_next_ones_are_read() {
        let mut rig = Rig::new();
        let source = TcpLinesSource::listen("127.0.0.1:0", number).unwrap();
        let mut reader = source.open("", None).unwrap();
        let mut stream = TcpStream::connect(source.address()).unwrap();
        stream.write_all(b"x\n\xff\n").unwrap();
        stream.write_all(&[b'1'; LINE_LEN_BYTES_MAX * 3]).unwrap();
        stream.write_all(b"\n7\n").unwrap();
        assert_eq!(read(&mut rig, &mut reader, 4), [7]);
        // As long as a line may be: the carriage return is a part of its end.
        stream.write_all(&[&[b'0'; LINE_LEN_BYTES_MAX - 1][..], b"8\r\n"].concat()).unwrap();
        assert_eq!(read(&mut rig, &mut reader, 4), [8]);
        assert_eq!(rig.dropped, ["bad_number", "not_utf8", "line_too_long"]);
    }

    #[test]
    fn an_address_that_is_taken_is_named() {
        let source = TcpLinesSource::listen("127.0.0.1:0", number).unwrap();
        let address = source.address().to_string();
        let refusal = TcpLinesSource::listen(&address, number).err().unwrap().to_string();
        assert!(refusal.starts_with(&format!("cannot listen on \"{address}\": ")), "{refusal}");
    }
}
