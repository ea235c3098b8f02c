//! What clients speak: one request on a connection of its own, and the answer.
//!
//! Contract: an answer is `generation G supervisor P`, if the protocol has room
//! for it. A failure is told as [`client`](crate::client) tells it.

use std::thread;
use std::time::Duration;

use crate::client::{Connection, Failure, Target};

/// How long a client of [`Protocol::Late`] thinks.
const LATE: Duration = Duration::from_millis(30);

/// What a server answers.
#[derive(Debug, Clone, Copy)]
pub enum Answer {
    /// Its generation and its supervisor's pid.
    By(u64, u32),
    /// The protocol has no room for more than that it answers.
    Whole,
}

/// A protocol.
#[derive(Debug, Clone, Copy)]
pub enum Protocol {
    /// `GET /`
    Http,
    /// `GET /`, and an end in step with the server's, of which no kernel counts a reset.
    #[allow(dead_code)] // of the servers of --adopt alone
    InStep,
    /// `GET /`, tens of milliseconds after the connection was asked for.
    #[allow(dead_code)] // of the servers of --adopt alone
    Late,
    /// A FastCGI responder that is asked for this file of the server's directory.
    FastCgi(&'static str),
    /// A TXT query over TCP for `answer.test.`
    Dns,
    /// The handshake of a MySQL client; the answer is the server's version.
    MySql,
    /// A command of Redis that takes 30 ms, and one more behind it.
    Redis,
    /// A call of the port mapper's procedure 0 over TCP, which does nothing.
    Rpc,
    /// `GET` of this path, answered whole and by 200.
    #[allow(dead_code)] // of the interop alone
    Page(&'static str),
    /// These bytes, answered by something that begins with those.
    #[allow(dead_code)] // of the interop alone
    Plain(&'static str, &'static str),
}

impl Protocol {
    /// One request, never sent twice.
    pub fn ask(self, target: &Target) -> Result<Answer, Failure> {
        let mut connection = Connection::open(target)?;
        match self {
            Protocol::Http | Protocol::InStep | Protocol::Late => {
                if matches!(self, Protocol::Late) {
                    thread::park_timeout(LATE);
                }
                let reply = connection.get("/", true)?;
                if matches!(self, Protocol::InStep) {
                    connection.finish();
                }
                find_answer(reply.body.as_bytes()).filter(|_| reply.status == 200)
            }
            Protocol::FastCgi(script) => {
                connection.send(&fast_cgi_request(script))?;
                find_answer(&connection.receive_until(fast_cgi_reply)?)
            }
            Protocol::Dns => {
                connection.send(DNS_QUERY)?;
                find_answer(&connection.receive_until(dns_reply)?)
            }
            Protocol::MySql => {
                let greeting = connection.receive_until(my_sql_packet)?;
                connection.send(MY_SQL_LOGIN)?;
                // The first byte of a packet that says yes is zero.
                connection
                    .receive_until(my_sql_packet)?
                    .starts_with(&[0])
                    .then_some(())
                    .ok_or(Failure::BadBody)?;
                connection.send(MY_SQL_QUIT)?;
                find_answer(&greeting)
            }
            Protocol::Redis => {
                connection.send(REDIS_COMMANDS)?;
                connection.receive_until(redis_replies)?
            }
            Protocol::Rpc => {
                connection.send(RPC_CALL)?;
                connection.receive_until(rpc_reply)?
            }
            Protocol::Page(path) => (connection.get(path, true)?.status == 200).then_some(Answer::Whole),
            Protocol::Plain(ask, answer) => {
                connection.send(ask.as_bytes())?;
                connection.receive_until(|received| begins_with(received, answer.as_bytes()))?
            }
        }
        .ok_or(Failure::BadBody)
    }
}

/// Reads the first `generation G supervisor P` of these bytes.
fn find_answer(bytes: &[u8]) -> Option<Answer> {
    let text = String::from_utf8_lossy(bytes);
    let (_, rest) = text.split_once("generation ")?;
    let (generation, rest) = rest.split_once(" supervisor ")?;
    let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    Some(Answer::By(generation.parse().ok()?, rest[..digits].parse().ok()?))
}

/// Whether this begins the right way; `None` before it is long enough.
fn begins_with(received: &[u8], right: &[u8]) -> Option<Option<Answer>> {
    let start = received.get(..right.len())?;
    Some((start == right).then_some(Answer::Whole))
}

/// A request of a responder (FastCGI 1.0, 3.3): begin, parameters, no input.
fn fast_cgi_request(script: &str) -> Vec<u8> {
    let mut parameters = Vec::new();
    for (name, value) in [("SCRIPT_FILENAME", script), ("REQUEST_METHOD", "GET")] {
        parameters.extend([name.len() as u8, value.len() as u8]);
        parameters.extend([name.as_bytes(), value.as_bytes()].concat());
    }
    let record = |kind: u8, content: &[u8]| {
        let [high, low] = (content.len() as u16).to_be_bytes();
        [&[1, kind, 0, 1, high, low, 0, 0], content].concat()
    };
    let begin = [0, 1, 0, 0, 0, 0, 0, 0];
    [record(1, &begin), record(4, &parameters), record(4, &[]), record(5, &[])].concat()
}

/// What the responder wrote, once it has ended the request.
fn fast_cgi_reply(mut received: &[u8]) -> Option<Vec<u8>> {
    let mut output = Vec::new();
    loop {
        let [_, kind, _, _, high, low, padding, _, rest @ ..] = received else { return None };
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        let content = rest.get(..length)?;
        received = rest.get(length + usize::from(*padding)..)?;
        match kind {
            3 => return Some(output),
            6 => output.extend(content),
            _ => {}
        }
    }
}

/// A standard query for the TXT record of `answer.test.` with its length before it (RFC 1035, 4).
const DNS_QUERY: &[u8] =
    b"\x00\x1d\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x06answer\x04test\x00\x00\x10\x00\x01";

fn dns_reply(received: &[u8]) -> Option<Vec<u8>> {
    let [high, low, message @ ..] = received else { return None };
    message.get(..usize::from(u16::from_be_bytes([*high, *low]))).map(<[u8]>::to_vec)
}

/// A login of root without a password: protocol 4.1, secure connection, packets
/// of 16 MB, utf8; 23 zeros, the user, a length of zero.
const MY_SQL_LOGIN: &[u8] = b"\x26\0\0\x01\0\x82\0\0\0\0\0\x01\x21\
    \0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0root\0\0";

const MY_SQL_QUIT: &[u8] = &[1, 0, 0, 0, 1];

fn my_sql_packet(received: &[u8]) -> Option<Vec<u8>> {
    let [low, middle, high, _, packet @ ..] = received else { return None };
    let length = u32::from_le_bytes([*low, *middle, *high, 0]) as usize;
    packet.get(..length).map(<[u8]>::to_vec)
}

/// Waits for an element of a list that nobody fills, then asks for a sign of life.
const REDIS_COMMANDS: &[u8] = b"BLPOP nothing 0.03\r\nPING\r\n";

/// Whether both replies are right; `None` before they are whole.
fn redis_replies(received: &[u8]) -> Option<Option<Answer>> {
    const REPLIES: &[u8] = b"*-1\r\n+PONG\r\n";
    (received.len() >= REPLIES.len()).then(|| (received == REPLIES).then_some(Answer::Whole))
}

/// One last fragment of 40 bytes: call 7 of procedure 0, program 100000, version 2,
/// no credentials (RFC 5531, 9 and 11).
const RPC_CALL: &[u8] = b"\x80\0\0\x28\0\0\0\x07\0\0\0\0\0\0\0\x02\0\x01\x86\xa0\0\0\0\x02\0\0\0\0\
    \0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0";

/// Whether the whole reply accepts and says success; `None` before it is whole.
fn rpc_reply(received: &[u8]) -> Option<Option<Answer>> {
    const SUCCESS: &[u8] = b"\x80\0\0\x18\0\0\0\x07\0\0\0\x01\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    (received.len() >= SUCCESS.len()).then(|| (received == SUCCESS).then_some(Answer::Whole))
}
