//! One client of the control socket, and the thread that serves it.
//!
//! Contract: whatever has been read of a client, asked for it or answered, and has
//! not reached it yet, stands in the [`ConnectionState`]. The thread changes that only while it
//! is busy, and waits for nobody meanwhile; so when it rests, the desk is all that
//! there is, and another thread in another image can go on from there.

use super::admission::{MOST, MOST_WAITING, Rank};
use super::connection_state::{ConnectionState, Outstanding};
use super::line::{Line, Lines};
use super::message::{Asked, ClientId, Message};
use super::protocol::{self, Request};
use super::reply_queue::ReplyQueue;
use crate::reexec::fd_transfer::{Fd, FdTransfer, InheritedFds};
use crate::reexec::quiesce::Quiesce;
use crate::sys::peer::{self, Peer};
use crossbeam_channel::{Select, TryRecvError};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, recv, send};
use serde::{Deserialize, Serialize};
use std::io;
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How long half a request may take, and a client to read what was sent.
const PATIENCE: Duration = Duration::from_secs(5);
/// While an answer is waited for: how often we look whether the client is there,
/// and how often it hears of progress.
const GLANCE: Duration = Duration::from_millis(250);

/// Every connection, in the order of their age.
#[derive(Debug, Default, Clone)]
pub(super) struct Table(Arc<Mutex<Entries>>);

#[derive(Debug, Default)]
struct Entries {
    list: Vec<Entry>,
    /// The number of the last one.
    last: u64,
}

#[derive(Debug)]
struct Entry {
    number: u64,
    stream: Arc<UnixStream>,
    desk: Arc<Mutex<ConnectionState>>,
    rank: Rank,
}

/// A client on its way through an execve(2).
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct SavedClient {
    stream: Fd,
    number: u64,
    rank: Rank,
    buffer: Vec<u8>,
    requests: u64,
    outstanding: Option<SavedRequest>,
    unsent: Vec<u8>,
    closing: bool,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct SavedRequest {
    client: ClientId,
    progress: bool,
    over: bool,
}

/// An entry of the table, until its connection ends.
#[derive(Debug)]
struct Place {
    table: Table,
    number: u64,
}

impl Table {
    fn lock(&self) -> MutexGuard<'_, Entries> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Room for one more, if need be at the cost of the oldest that can be spared.
    pub(super) fn enter<T>(
        &self,
        stream: UnixStream,
        peer: Peer,
        tell: T,
        rest: Quiesce,
    ) -> Result<Connection<T>, UnixStream> {
        let mut entries = self.lock();
        if entries.list.len() >= MOST {
            let spared = entries.list.iter().enumerate();
            let spared = spared.filter_map(|(index, entry)| Some((entry.spared()?, entry.number, index)));
            let Some((.., index)) = spared.min() else { return Err(stream) };
            if !entries.list[index].send_away() {
                return Err(stream);
            }
            entries.list.remove(index);
        }
        entries.last += 1;
        let number = entries.last;
        Ok(self.open(
            &mut entries,
            number,
            (stream, peer),
            Rank::Idle,
            ConnectionState::default(),
            tell,
            rest,
        ))
    }

    #[allow(clippy::too_many_arguments, reason = "it is what an entry and its connection are made of")]
    fn open<T>(
        &self,
        entries: &mut Entries,
        number: u64,
        (stream, peer): (UnixStream, Peer),
        rank: Rank,
        desk: ConnectionState,
        tell: T,
        rest: Quiesce,
    ) -> Connection<T> {
        let (stream, desk) = (Arc::new(stream), Arc::new(Mutex::new(desk)));
        let entry = Entry { number, stream: Arc::clone(&stream), desk: Arc::clone(&desk), rank };
        entries.list.push(entry);
        Connection { stream, peer, desk, place: Place { table: self.clone(), number }, tell, rest }
    }

    /// Lists the descriptors and writes down the rest. The threads have to rest:
    /// answers that they have not taken are put on their desks.
    pub(super) fn save(&self, transfer: &mut FdTransfer) -> io::Result<(u64, Vec<SavedClient>)> {
        let entries = self.lock();
        let mut saved = Vec::new();
        for entry in &entries.list {
            let mut desk = lock(&entry.desk);
            desk.set_aside();
            let outstanding = desk.outstanding.as_ref();
            saved.push(SavedClient {
                stream: transfer.add(&*entry.stream)?,
                number: entry.number,
                rank: entry.rank,
                buffer: desk.lines.rest().to_vec(),
                requests: desk.requests,
                outstanding: outstanding.map(|it| SavedRequest {
                    client: it.client,
                    progress: it.progress,
                    over: it.over,
                }),
                unsent: desk.unsent.clone(),
                closing: desk.closing,
            });
        }
        Ok((entries.last, saved))
    }

    /// The connections as they were, to be served again, and the way back to those
    /// that wait.
    pub(super) fn restore<T: Clone>(
        &self,
        (last, saved): (u64, Vec<SavedClient>),
        fds: &mut InheritedFds,
        tell: &T,
        rest: &Quiesce,
    ) -> (Vec<Connection<T>>, Vec<(ClientId, ReplyQueue)>) {
        let (mut connections, mut ways) = (Vec::new(), Vec::new());
        let mut entries = self.lock();
        entries.last = last;
        for saved in saved {
            let outstanding = saved.outstanding.map(|SavedRequest { client, progress, over }| {
                let (way, answers) = ReplyQueue::channel();
                ways.push((client, way));
                Outstanding { client, progress, answers, over }
            });
            let desk = ConnectionState {
                lines: Lines::from(saved.buffer),
                requests: saved.requests,
                outstanding,
                unsent: saved.unsent,
                written: Vec::new(),
                stays: false,
                closing: saved.closing,
            };
            let stream = UnixStream::from(fds.take(saved.stream));
            // It was told once, and has not changed.
            let Ok(peer) = peer::peer(&stream) else { continue };
            let (number, rank) = (saved.number, saved.rank);
            let stream = (stream, peer);
            connections.push(self.open(&mut entries, number, stream, rank, desk, tell.clone(), rest.clone()));
        }
        (connections, ways)
    }
}

impl Entry {
    /// Whether it can go: `false` if it has sent nothing, `true` if the beginning of a
    /// line. Whatever it has asked for is carried out, and answered.
    fn spared(&self) -> Option<bool> {
        (self.rank == Rank::Idle).then(|| self.has_begun(&lock(&self.desk)))?
    }

    fn has_begun(&self, desk: &ConnectionState) -> Option<bool> {
        let begun = desk.lines.rest();
        let asked = desk.outstanding.is_some() || !desk.unsent.is_empty() || begun.contains(&b'\n');
        let comes = || poll(&mut [PollFd::new(self.stream.as_fd(), PollFlags::POLLIN)], PollTimeout::ZERO);
        (!asked && comes() == Ok(0)).then_some(!begun.is_empty())
    }

    /// Whatever it sends from now on is not carried out. False if it has sent
    /// something since.
    fn send_away(&self) -> bool {
        let mut desk = lock(&self.desk);
        if self.has_begun(&desk).is_none() {
            return false;
        }
        desk.closing = true;
        let why = "sent away for another client, nothing was done (too many are connected)";
        let reply = protocol::line(&protocol::Reply::failed(why));
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        let _ = send(self.stream.as_raw_fd(), &reply, flags);
        let _ = self.stream.shutdown(Shutdown::Both);
        true
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.table.lock().list.retain(|entry| entry.number != self.number);
    }
}

fn lock(desk: &Mutex<ConnectionState>) -> MutexGuard<'_, ConnectionState> {
    desk.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a connection's thread knows.
#[derive(Debug)]
pub(super) struct Connection<T> {
    stream: Arc<UnixStream>,
    peer: Peer,
    desk: Arc<Mutex<ConnectionState>>,
    place: Place,
    tell: T,
    rest: Quiesce,
}

impl<T: Fn(Message) -> bool> Connection<T> {
    /// Until the client has gone.
    pub(super) fn serve(&self) {
        loop {
            if !self.send() {
                return self.say_gone();
            }
            let mut desk = self.desk();
            desk.written.clear();
            while desk.stays {
                drop(desk);
                std::thread::park();
                desk = self.desk();
            }
            let (closing, waits) = (desk.closing, desk.outstanding.as_ref().map(|it| it.over));
            drop(desk);
            let goes_on = match waits {
                _ if closing => return,
                Some(true) => {
                    let _busy = self.rest.busy();
                    self.desk().outstanding = None;
                    self.rank(Rank::Idle);
                    true
                }
                Some(false) => self.await_answer(),
                None => self.read(),
            };
            if !goes_on {
                return self.say_gone();
            }
        }
    }

    fn desk(&self) -> MutexGuard<'_, ConnectionState> {
        lock(&self.desk)
    }

    /// False if there is no room for one more that waits.
    fn rank(&self, rank: Rank) -> bool {
        let mut entries = self.place.table.lock();
        let waiting = entries.list.iter().filter(|entry| entry.rank.is_long()).count();
        if rank.is_long() && waiting >= MOST_WAITING {
            return false;
        }
        if let Some(entry) = entries.list.iter_mut().find(|entry| entry.number == self.place.number) {
            entry.rank = rank;
        }
        true
    }

    fn say_gone(&self) {
        let _busy = self.rest.busy();
        if let Some(outstanding) = self.desk().outstanding.take() {
            (self.tell)(Message::Gone(outstanding.client));
        }
    }

    /// Awaits until the stream is ready; false if it is not within `limit`.
    fn wait(&self, events: PollFlags, limit: Option<Duration>) -> bool {
        let timeout =
            limit.map_or(PollTimeout::NONE, |limit| PollTimeout::try_from(limit).unwrap_or(PollTimeout::MAX));
        loop {
            match poll(&mut [PollFd::new(self.stream.as_fd(), events)], timeout) {
                Err(Errno::EINTR) => {}
                ready => return ready.is_ok_and(|count| count > 0),
            }
        }
    }

    /// Sends what is to be sent. False if the client does not read it.
    fn send(&self) -> bool {
        while !self.desk().unsent.is_empty() {
            if !self.wait(PollFlags::POLLOUT, Some(PATIENCE)) {
                return false;
            }
            let _busy = self.rest.busy();
            let mut desk = self.desk();
            let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
            match send(self.stream.as_raw_fd(), &desk.unsent, flags) {
                Ok(sent) => drop(desk.unsent.drain(..sent)),
                Err(Errno::EAGAIN | Errno::EINTR) => {}
                Err(_) => return false,
            }
        }
        true
    }

    /// Takes the next answer, or looks whether the client is still there.
    fn await_answer(&self) -> bool {
        let Some(answers) = self.desk().outstanding.as_ref().map(|it| it.answers.clone()) else {
            return true;
        };
        let mut select = Select::new();
        select.recv(&answers);
        let _ = select.ready_timeout(GLANCE);
        let _busy = self.rest.busy();
        let mut desk = self.desk();
        match answers.try_recv() {
            Ok(answer) => {
                desk.put(answer);
                true
            }
            // They may have been set aside.
            Err(TryRecvError::Disconnected) => !desk.unsent.is_empty(),
            Err(TryRecvError::Empty) => {
                let Some((client, progress)) = desk.outstanding.as_ref().map(|it| (it.client, it.progress))
                else {
                    return true;
                };
                drop(desk);
                let heard = !progress || (self.tell)(Message::Progress(client));
                heard && !peer::has_gone(&*self.stream)
            }
        }
    }

    /// Reads from the client, and asks for what it wants.
    fn read(&self) -> bool {
        let busy = self.rest.busy();
        let mut desk = self.desk();
        match desk.lines.take(PATIENCE) {
            None => {
                let left = desk.lines.left(PATIENCE);
                drop(desk);
                drop(busy);
                self.wait(PollFlags::POLLIN, left);
                return self.receive();
            }
            Some(Line::TooLong) => {
                desk.refuse(format!("a request has at most {} bytes", protocol::LONGEST_LINE));
                desk.closing = true;
            }
            Some(Line::TooSlow) => {
                desk.refuse(format!("half a request was not completed within {} s", PATIENCE.as_secs()));
                desk.closing = true;
            }
            Some(Line::Whole(line)) if line.trim_ascii().is_empty() => {}
            Some(Line::Whole(line)) => {
                desk.requests += 1;
                match Request::read(&line) {
                    Ok(request) => return self.ask(desk, request),
                    Err(why) => desk.refuse(why),
                }
            }
        }
        true
    }

    /// Takes what has come; false if the client has gone.
    fn receive(&self) -> bool {
        let _busy = self.rest.busy();
        let mut bytes = [0; 4096];
        // What has been read is on the desk, for whoever looks.
        let mut desk = self.desk();
        match recv(self.stream.as_raw_fd(), &mut bytes, MsgFlags::MSG_DONTWAIT) {
            // Nothing more comes: what there is, is all of it.
            Ok(0) if !desk.lines.rest().is_empty() => desk.lines.push(b"\n"),
            Ok(0) => return false,
            Ok(count) => desk.lines.push(&bytes[..count]),
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            Err(_) => return false,
        }
        true
    }

    /// Asks the loop; false once nobody is there.
    fn ask(&self, mut desk: MutexGuard<'_, ConnectionState>, request: Request) -> bool {
        // So many requests that two have the same number never come.
        let client = ClientId(self.place.number << 32 | desk.requests);
        let (way, answers) = ReplyQueue::channel();
        desk.outstanding = Some(Outstanding { client, progress: request.progress, answers, over: false });
        drop(desk);
        if !self.rank(Rank::of(&request.verb, request.wait)) {
            let why =
                format!("{MOST_WAITING} clients wait already (the other places are for status and stop)");
            let mut desk = self.desk();
            desk.outstanding = None;
            desk.unsent.extend(protocol::line(&protocol::Reply::failed(why)));
            return true;
        }
        let Request { verb, wait, .. } = request;
        let (peer, answers) = (self.peer.clone(), way);
        (self.tell)(Message::Asked(Asked { client, verb, wait, peer, answers }))
    }
}
