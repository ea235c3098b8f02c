//! The threads of the control socket: one accepts, one serves each connection.
//!
//! Contract: who may not connect is told so before anything of theirs is read.
//! There is an end to the number of connections, the length of a line, the time
//! that half a line may take, and what waits for a client that does not read. What
//! a client does or leaves undone holds up its own thread and nobody else's.

use super::answers::{Answer, Answers};
use super::facts::{self, Snapshot};
use super::line::{Line, Lines};
use super::metrics;
use super::protocol::{self, Outcome, Reply, Request, Status, Verb};
use crate::error::reason;
use crate::sys::peer::{self, Peer};
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use nix::errno::Errno;
use nix::unistd::{Gid, Uid};
use serde_json::value::to_raw_value;
use std::fs::File;
use std::io::{self, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Connections at a time.
const MOST: usize = 16;
/// How long half a request may take, and a client to read what was sent.
const PATIENCE: Duration = Duration::from_secs(5);
/// While an answer is waited for: how often we look whether the client is there,
/// and how often it hears of progress.
const GLANCE: Duration = Duration::from_millis(250);
/// After the system had no descriptor for a connection, this long passes.
const BREATH: Duration = Duration::from_millis(100);
const STACK: usize = 128 * 1024;

/// What the threads tell the loop.
#[derive(Debug)]
pub enum Message {
    /// A client asks.
    Asked(Asked),
    /// It wants to know how far it is.
    Progress(ClientId),
    /// It does not wait any more.
    Gone(ClientId),
}

/// One request of one client; never given out twice.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct ClientId(u64);

/// A request.
#[derive(Debug)]
pub struct Asked {
    /// Whose.
    pub client: ClientId,
    /// For what.
    pub verb: Verb,
    /// Whether the outcome is waited for.
    pub wait: bool,
    /// By whom.
    pub peer: Peer,
    /// Where the answers go.
    pub answers: Answers,
}

/// Starts the threads. `group` may connect beside root and ourselves; `tell` returns
/// false once nobody listens any more.
///
/// # Errors
/// When no thread can be had.
pub fn start(
    listener: UnixListener,
    group: Option<Gid>,
    tell: impl Fn(Message) -> bool + Clone + Send + 'static,
) -> io::Result<()> {
    let spare = File::open("/dev/null").ok();
    let accept = move || accept(&listener, group, spare, &tell);
    std::thread::Builder::new().name("control".into()).stack_size(STACK).spawn(accept).map(drop)
}

fn accept<T>(listener: &UnixListener, group: Option<Gid>, mut spare: Option<File>, tell: &T)
where
    T: Fn(Message) -> bool + Clone + Send + 'static,
{
    let table = Table::default();
    let mut number = 0;
    loop {
        let stream = match listener.accept() {
            Ok((stream, _)) => Arc::new(stream),
            Err(error) => {
                // With the spare one, whoever waits learns that there is no room.
                drop(spare.take());
                if out_of_descriptors(&error) {
                    drop(listener.accept());
                }
                std::thread::sleep(BREATH);
                spare = File::open("/dev/null").ok();
                continue;
            }
        };
        let peer = match admit(&stream, group) {
            Ok(peer) => peer,
            Err(why) => {
                log::debug!("control: {why}");
                send_away(&stream, &Reply::because(Outcome::Denied, why));
                continue;
            }
        };
        number += 1;
        let Some(place) = table.enter(number, &stream) else {
            send_away(&stream, &Reply::failed(format!("{MOST} clients wait already")));
            continue;
        };
        let tell = tell.clone();
        let serve = move || Connection { stream, place, number, peer, tell }.serve();
        let started = std::thread::Builder::new().name("client".into()).stack_size(STACK).spawn(serve);
        if let Err(error) = started {
            log::info!("control: a client is not served: {}", reason(&error));
        }
    }
}

/// Nothing has been sent to it: there is room for a line.
fn send_away(mut stream: &UnixStream, reply: &Reply) {
    let _ = stream.set_nonblocking(true);
    let _ = stream.write_all(&protocol::line(reply));
}

fn out_of_descriptors(error: &io::Error) -> bool {
    matches!(error.raw_os_error().map(Errno::from_raw), Some(Errno::EMFILE | Errno::ENFILE))
}

/// Root, ourselves, and the group if there is one.
fn admit(stream: &UnixStream, group: Option<Gid>) -> Result<Peer, String> {
    let denied = |who: String| format!("{who} may not connect");
    let peer =
        peer::peer(stream).map_err(|errno| denied(format!("who cannot be told from others ({errno})")))?;
    let member = group.is_some_and(|group| peer.groups.contains(&group));
    match peer.uid.is_root() || peer.uid == Uid::effective() || member {
        true => Ok(peer),
        false => Err(denied(peer.to_string())),
    }
}

/// Every connection, in the order of their age.
#[derive(Debug, Default, Clone)]
struct Table(Arc<Mutex<Vec<Entry>>>);

#[derive(Debug)]
struct Entry {
    number: u64,
    stream: Arc<UnixStream>,
    rank: Rank,
}

/// Who has to go first when another one comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    /// It has asked for nothing, or not yet.
    Idle,
    /// It listens to events.
    Listens,
    /// It waits for a result.
    Waits,
}

/// An entry of the table, until its connection ends.
#[derive(Debug)]
struct TablePlace {
    table: Table,
    number: u64,
}

impl Table {
    fn lock(&self) -> MutexGuard<'_, Vec<Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Room for one more, if need be at the cost of the oldest that can be spared.
    fn enter(&self, number: u64, stream: &Arc<UnixStream>) -> Option<TablePlace> {
        let mut entries = self.lock();
        if entries.len() >= MOST {
            let spared = entries.iter().enumerate().filter(|(_, entry)| entry.rank < Rank::Waits);
            let (index, _) = spared.min_by_key(|(_, entry)| (entry.rank, entry.number))?;
            let _ = entries.remove(index).stream.shutdown(Shutdown::Both);
        }
        entries.push(Entry { number, stream: Arc::clone(stream), rank: Rank::Idle });
        Some(TablePlace { table: self.clone(), number })
    }
}

impl TablePlace {
    fn rank(&self, rank: Rank) {
        let mut entries = self.table.lock();
        if let Some(entry) = entries.iter_mut().find(|entry| entry.number == self.number) {
            entry.rank = rank;
        }
    }
}

impl Drop for TablePlace {
    fn drop(&mut self) {
        self.table.lock().retain(|entry| entry.number != self.number);
    }
}

struct Connection<T> {
    stream: Arc<UnixStream>,
    place: TablePlace,
    number: u64,
    peer: Peer,
    tell: T,
}

impl<T: Fn(Message) -> bool> Connection<T> {
    fn serve(&self) {
        let _ = self.stream.set_write_timeout(Some(PATIENCE));
        let mut lines = Lines::default();
        let mut requests = 0;
        loop {
            self.place.rank(Rank::Idle);
            let refused = match lines.next(&*self.stream, PATIENCE) {
                Line::End => return,
                Line::TooLong => {
                    let limit = protocol::LONGEST_LINE;
                    self.write(&Reply::because(
                        Outcome::Invalid,
                        format!("a request has at most {limit} bytes"),
                    ));
                    return;
                }
                Line::TooSlow => {
                    let limit = PATIENCE.as_secs();
                    self.write(&Reply::because(
                        Outcome::Invalid,
                        format!("half a request was not completed within {limit} s"),
                    ));
                    return;
                }
                Line::Whole(line) if line.trim_ascii().is_empty() => continue,
                Line::Whole(line) => {
                    requests += 1;
                    match Request::read(&line).and_then(|request| Ok((request.verb()?, request))) {
                        Ok((verb, request)) => {
                            // So many requests that two have the same number never come.
                            let client = ClientId(self.number << 32 | requests);
                            if !self.ask(client, verb, &request) {
                                return;
                            }
                            continue;
                        }
                        Err(why) => why,
                    }
                }
            };
            if !self.write(&Reply::because(Outcome::Invalid, refused)) {
                return;
            }
        }
    }

    /// Asks the loop and passes its answers on. False once the connection is over.
    fn ask(&self, client: ClientId, verb: Verb, request: &Request) -> bool {
        self.place.rank(if verb == Verb::Events { Rank::Listens } else { Rank::Waits });
        let (queue, answers) = Answers::channel();
        let asked = Asked { client, verb, wait: request.wait, peer: self.peer.clone(), answers: queue };
        if !(self.tell)(Message::Asked(asked)) {
            return false;
        }
        let goes_on = self.pass_on(client, &answers, request.progress);
        if !goes_on {
            (self.tell)(Message::Gone(client));
        }
        goes_on
    }

    fn pass_on(&self, client: ClientId, answers: &Receiver<Answer>, progress: bool) -> bool {
        loop {
            let (answer, last) = match answers.recv_timeout(GLANCE) {
                Ok(Answer::Line(line)) => (self.send(&line), false),
                Ok(Answer::Progress(about)) => (self.write(&progress_of(*about)), false),
                Ok(Answer::Status(about, _written)) => (self.write(&status_of(*about)), true),
                Ok(Answer::Metrics(about, _written)) => (self.write(&metrics_of(*about)), true),
                Ok(Answer::Result(reply, _written)) => (self.write(&*reply), true),
                Ok(Answer::LastResult(reply, written)) => {
                    self.write(&*reply);
                    stay(written)
                }
                Ok(Answer::LastLine(line, written)) => {
                    self.send(&line);
                    stay(written)
                }
                Err(RecvTimeoutError::Disconnected) => return false,
                Err(RecvTimeoutError::Timeout) => {
                    let asked = !progress || (self.tell)(Message::Progress(client));
                    (asked && !peer::has_gone(&*self.stream), false)
                }
            };
            if !answer || last {
                return answer;
            }
        }
    }

    fn write(&self, value: &impl serde::Serialize) -> bool {
        self.send(&protocol::line(value))
    }

    /// A write that finds nobody is an error, not a signal: Rust ignores SIGPIPE.
    fn send(&self, line: &[u8]) -> bool {
        (&*self.stream).write_all(line).is_ok()
    }
}

/// The client sees the end of our process by that of its connection.
fn stay(written: Option<Sender<()>>) -> ! {
    drop(written);
    loop {
        std::thread::park();
    }
}

fn status_of((mut status, snapshot): (Status, Snapshot)) -> Reply {
    facts::complete(&mut status, &snapshot);
    Reply { status: to_raw_value(&status).ok(), ..Reply::new(Outcome::Ok) }
}

fn metrics_of((mut status, snapshot): (Status, Snapshot)) -> Reply {
    facts::complete(&mut status, &snapshot);
    Reply { metrics: Some(metrics::render(&status)), ..Reply::new(Outcome::Ok) }
}

fn progress_of((mut status, snapshot): (Status, Snapshot)) -> serde_json::Value {
    facts::complete(&mut status, &snapshot);
    let newest = status.workers.iter().map(|worker| worker.generation).max().unwrap_or(status.generation);
    let count = |stages: &[&str], generation: Option<u32>| {
        let is = |worker: &&protocol::Worker| {
            stages.contains(&worker.stage.as_str()) && generation.is_none_or(|it| it == worker.generation)
        };
        status.workers.iter().filter(is).count()
    };
    let connections: Vec<u32> = status.workers.iter().filter_map(|worker| worker.connections).collect();
    serde_json::json!({
        "event": "progress",
        "phase": status.phase,
        "generation": newest,
        "ready": count(&["ready"], Some(newest)),
        "of": count(&["starting", "ready"], Some(newest)),
        "draining": count(&["draining", "killed"], None),
        "connections": (!connections.is_empty()).then(|| connections.iter().sum::<u32>()),
    })
}
