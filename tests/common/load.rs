//! A client that hides nothing: one attempt, no retry, no library between it
//! and the socket, and every way to fail told apart.
//!
//! Contract: [`Connection::open`] and [`Connection::get`] either return what the
//! server said, whole, or the one [`Failure`] that says how far the request got.
//! Nothing is ever sent twice, and no connection is closed with SO_LINGER 0: the
//! resets that would send are what the kernel's counters are watched for.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

/// Longest wait for one connect, read or write. It is long because a busy
/// machine must not look like a lost request.
const PATIENCE: Duration = Duration::from_secs(120);

/// A reply head larger than this is not one of ours.
const LARGEST_HEAD: usize = 16 * 1024;

/// Where requests go.
#[derive(Debug, Clone)]
pub enum Target {
    /// TCP, either family.
    Tcp(SocketAddr),
    /// A unix stream socket by its path.
    Unix(PathBuf),
}

/// How a request failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Failure {
    /// Nobody listened: ECONNREFUSED, or ENOENT for a unix path.
    Refused,
    /// The connection was cut while the request was being sent.
    ResetBeforeSend,
    /// The request was sent whole; a reset came instead of the reply's end.
    ResetAfterSend,
    /// The request was sent whole; the connection ended before any reply.
    EofEmpty,
    /// The connection ended inside the reply.
    EofPartial,
    /// Nothing moved for two minutes.
    Timeout,
    /// A whole reply that is not the one asked for.
    BadBody,
    /// This machine had no port or descriptor left for a client. That says
    /// nothing about the server and makes a run invalid.
    Exhausted,
}

impl Failure {
    /// The name it has in reports.
    pub fn name(self) -> &'static str {
        match self {
            Failure::Refused => "REFUSED",
            Failure::ResetBeforeSend => "RESET_BEFORE_SEND",
            Failure::ResetAfterSend => "RESET_AFTER_SEND",
            Failure::EofEmpty => "EOF_EMPTY",
            Failure::EofPartial => "EOF_PARTIAL",
            Failure::Timeout => "TIMEOUT",
            Failure::BadBody => "BAD_BODY",
            Failure::Exhausted => "EXHAUSTED",
        }
    }
}

/// One reply, whole.
#[derive(Debug)]
pub struct Reply {
    /// The status code.
    pub status: u16,
    /// The body, as long as its Content-Length said.
    pub body: String,
    /// The server will not take another request on this connection.
    pub last: bool,
}

enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// One connection to the server.
pub struct Connection {
    stream: Stream,
    received: Vec<u8>,
}

impl Connection {
    /// Connects, once.
    pub fn open(target: &Target) -> Result<Self, Failure> {
        let stream = match target {
            Target::Tcp(address) => {
                let stream = TcpStream::connect_timeout(address, PATIENCE).map_err(refusal)?;
                stream.set_read_timeout(Some(PATIENCE)).map_err(refusal)?;
                stream.set_write_timeout(Some(PATIENCE)).map_err(refusal)?;
                stream.set_nodelay(true).map_err(refusal)?;
                Stream::Tcp(stream)
            }
            Target::Unix(path) => {
                let stream = UnixStream::connect(path).map_err(refusal)?;
                stream.set_read_timeout(Some(PATIENCE)).map_err(refusal)?;
                stream.set_write_timeout(Some(PATIENCE)).map_err(refusal)?;
                Stream::Unix(stream)
            }
        };
        Ok(Connection { stream, received: Vec::new() })
    }

    /// Sends one GET and reads its reply to the end. `last` says that no other
    /// request follows on this connection.
    pub fn get(&mut self, path: &str, last: bool) -> Result<Reply, Failure> {
        let connection = if last { "close" } else { "keep-alive" };
        let request = format!("GET {path} HTTP/1.1\r\nHost: test\r\nConnection: {connection}\r\n\r\n");
        self.send(request.as_bytes())?;
        let head_end = self.receive_until(|received| Some(find(received, b"\r\n\r\n")? + 4))?;
        let head = std::str::from_utf8(&self.received[..head_end]).map_err(|_| Failure::BadBody)?;
        let mut lines = head.split("\r\n");
        let status = lines
            .next()
            .and_then(|line| line.split(' ').nth(1))
            .and_then(|code| code.parse().ok())
            .ok_or(Failure::BadBody)?;
        let mut length = None;
        let mut closes = false;
        for (name, value) in lines.filter_map(|line| line.split_once(':')) {
            if name.eq_ignore_ascii_case("content-length") {
                length = value.trim().parse::<usize>().ok();
            } else if name.eq_ignore_ascii_case("connection") {
                closes = value.trim().eq_ignore_ascii_case("close");
            }
        }
        let end = head_end + length.ok_or(Failure::BadBody)?;
        while self.received.len() < end {
            self.receive()?;
        }
        if self.received.len() > end {
            return Err(Failure::BadBody);
        }
        let body = String::from_utf8(self.received.split_off(head_end));
        Ok(Reply { status, body: body.map_err(|_| Failure::BadBody)?, last: closes })
    }

    /// Ends the connection: says that no more comes, then waits for the server
    /// to say the same.
    ///
    /// A plain close(2) hands the socket to TIME_WAIT while the server's FIN may
    /// be on its way. A kernel that looks the socket up between the two answers
    /// that FIN with a reset, which hurts nobody but is counted.
    pub fn finish(mut self) {
        let ended = match &self.stream {
            Stream::Tcp(stream) => stream.shutdown(Shutdown::Write),
            Stream::Unix(stream) => stream.shutdown(Shutdown::Write),
        };
        if ended.is_ok() {
            self.received.clear();
            while self.receive().is_ok() {}
        }
    }

    /// Receives until `look` finds what it wants in all that has come since.
    pub fn receive_until<T>(&mut self, look: impl Fn(&[u8]) -> Option<T>) -> Result<T, Failure> {
        self.received.clear();
        loop {
            if let Some(found) = look(&self.received) {
                return Ok(found);
            }
            if self.received.len() > LARGEST_HEAD {
                return Err(Failure::BadBody);
            }
            self.receive()?;
        }
    }

    /// Sends these bytes.
    pub fn send(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        let sent = match &mut self.stream {
            Stream::Tcp(stream) => stream.write_all(bytes),
            Stream::Unix(stream) => stream.write_all(bytes),
        };
        sent.map_err(|error| match error.kind() {
            ErrorKind::WouldBlock | ErrorKind::TimedOut => Failure::Timeout,
            _ => Failure::ResetBeforeSend,
        })
    }

    fn receive(&mut self) -> Result<(), Failure> {
        let mut buffer = [0; 8192];
        let got = loop {
            let got = match &mut self.stream {
                Stream::Tcp(stream) => stream.read(&mut buffer),
                Stream::Unix(stream) => stream.read(&mut buffer),
            };
            if !matches!(&got, Err(error) if error.kind() == ErrorKind::Interrupted) {
                break got;
            }
        };
        match got {
            Ok(0) if self.received.is_empty() => Err(Failure::EofEmpty),
            Ok(0) => Err(Failure::EofPartial),
            Ok(n) => {
                self.received.extend_from_slice(&buffer[..n]);
                Ok(())
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                Err(Failure::Timeout)
            }
            Err(_) => Err(Failure::ResetAfterSend),
        }
    }
}

fn refusal(error: io::Error) -> Failure {
    match error.kind() {
        ErrorKind::ConnectionRefused | ErrorKind::NotFound => Failure::Refused,
        ErrorKind::TimedOut | ErrorKind::WouldBlock => Failure::Timeout,
        ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted => Failure::ResetBeforeSend,
        _ => Failure::Exhausted,
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}
