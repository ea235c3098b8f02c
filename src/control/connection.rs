//! One client of the control socket, and the thread that serves it.
//!
//! Contract: what was read from a client and not yet handled, its outstanding request, and
//! what was not yet sent to it stand in the [`ConnectionState`]. The thread changes the
//! state only while it holds an `ActivityGuard`, and does not block meanwhile. So when the
//! threads are quiesced, the state is complete, and a thread of the next image goes on
//! with it.

use super::admission::{Admission, MOST, MOST_WAITING};
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
    state: Arc<Mutex<ConnectionState>>,
    admission: Admission,
}

/// A client on its way through an execve(2).
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct SavedClient {
    stream: Fd,
    number: u64,
    admission: Admission,
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

/// The entry of a connection in the table: dropping it removes the entry.
#[derive(Debug)]
struct Membership {
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
            Admission::Idle,
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
        admission: Admission,
        state: ConnectionState,
        tell: T,
        rest: Quiesce,
    ) -> Connection<T> {
        let (stream, state) = (Arc::new(stream), Arc::new(Mutex::new(state)));
        let entry = Entry { number, stream: Arc::clone(&stream), state: Arc::clone(&state), admission };
        entries.list.push(entry);
        Connection { stream, peer, state, membership: Membership { table: self.clone(), number }, tell, rest }
    }

    /// Lists the descriptors and writes down the rest. The threads have to rest:
    /// answers that they have not taken are moved to their states.
    pub(super) fn save(&self, transfer: &mut FdTransfer) -> io::Result<(u64, Vec<SavedClient>)> {
        let entries = self.lock();
        let mut saved = Vec::new();
        for entry in &entries.list {
            let mut state = lock(&entry.state);
            state.set_aside();
            let outstanding = state.outstanding.as_ref();
            saved.push(SavedClient {
                stream: transfer.add(&*entry.stream)?,
                number: entry.number,
                admission: entry.admission,
                buffer: state.lines.rest().to_vec(),
                requests: state.requests,
                outstanding: outstanding.map(|it| SavedRequest {
                    client: it.client,
                    progress: it.progress,
                    over: it.over,
                }),
                unsent: state.unsent.clone(),
                closing: state.closing,
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
            let state = ConnectionState {
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
            let (number, admission) = (saved.number, saved.admission);
            let stream = (stream, peer);
            connections.push(self.open(
                &mut entries,
                number,
                stream,
                admission,
                state,
                tell.clone(),
                rest.clone(),
            ));
        }
        (connections, ways)
    }
}

impl Entry {
    /// Whether it can go: `false` if it has sent nothing, `true` if the beginning of a
    /// line. Whatever it has asked for is carried out, and answered.
    fn spared(&self) -> Option<bool> {
        (self.admission == Admission::Idle).then(|| self.has_begun(&lock(&self.state)))?
    }

    fn has_begun(&self, state: &ConnectionState) -> Option<bool> {
        let begun = state.lines.rest();
        let asked = state.outstanding.is_some() || !state.unsent.is_empty() || begun.contains(&b'\n');
        let comes = || poll(&mut [PollFd::new(self.stream.as_fd(), PollFlags::POLLIN)], PollTimeout::ZERO);
        (!asked && comes() == Ok(0)).then_some(!begun.is_empty())
    }

    /// Whatever it sends from now on is not carried out. False if it has sent
    /// something since.
    fn send_away(&self) -> bool {
        let mut state = lock(&self.state);
        if self.has_begun(&state).is_none() {
            return false;
        }
        state.closing = true;
        let why = "sent away for another client, nothing was done (too many are connected)";
        let reply = protocol::line(&protocol::Reply::failed(why));
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        let _ = send(self.stream.as_raw_fd(), &reply, flags);
        let _ = self.stream.shutdown(Shutdown::Both);
        true
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        self.table.lock().list.retain(|entry| entry.number != self.number);
    }
}

fn lock(state: &Mutex<ConnectionState>) -> MutexGuard<'_, ConnectionState> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a connection's thread knows.
#[derive(Debug)]
pub(super) struct Connection<T> {
    stream: Arc<UnixStream>,
    peer: Peer,
    state: Arc<Mutex<ConnectionState>>,
    membership: Membership,
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
            let mut state = self.state();
            state.written.clear();
            while state.stays {
                drop(state);
                std::thread::park();
                state = self.state();
            }
            let (closing, waits) = (state.closing, state.outstanding.as_ref().map(|it| it.over));
            drop(state);
            let goes_on = match waits {
                _ if closing => return,
                Some(true) => {
                    let _busy = self.rest.busy();
                    self.state().outstanding = None;
                    self.admission(Admission::Idle);
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

    fn state(&self) -> MutexGuard<'_, ConnectionState> {
        lock(&self.state)
    }

    /// False if there is no room for one more that waits.
    fn admission(&self, admission: Admission) -> bool {
        let mut entries = self.membership.table.lock();
        let waiting = entries.list.iter().filter(|entry| entry.admission.is_long()).count();
        if admission.is_long() && waiting >= MOST_WAITING {
            return false;
        }
        if let Some(entry) = entries.list.iter_mut().find(|entry| entry.number == self.membership.number) {
            entry.admission = admission;
        }
        true
    }

    fn say_gone(&self) {
        let _busy = self.rest.busy();
        if let Some(outstanding) = self.state().outstanding.take() {
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
        while !self.state().unsent.is_empty() {
            if !self.wait(PollFlags::POLLOUT, Some(PATIENCE)) {
                return false;
            }
            let _busy = self.rest.busy();
            let mut state = self.state();
            let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
            match send(self.stream.as_raw_fd(), &state.unsent, flags) {
                Ok(sent) => drop(state.unsent.drain(..sent)),
                Err(Errno::EAGAIN | Errno::EINTR) => {}
                Err(_) => return false,
            }
        }
        true
    }

    /// Takes the next answer, or looks whether the client is still there.
    fn await_answer(&self) -> bool {
        let Some(answers) = self.state().outstanding.as_ref().map(|it| it.answers.clone()) else {
            return true;
        };
        let mut select = Select::new();
        select.recv(&answers);
        let _ = select.ready_timeout(GLANCE);
        let _busy = self.rest.busy();
        let mut state = self.state();
        match answers.try_recv() {
            Ok(answer) => {
                state.put(answer);
                true
            }
            // They may have been set aside.
            Err(TryRecvError::Disconnected) => !state.unsent.is_empty(),
            Err(TryRecvError::Empty) => {
                let Some((client, progress)) = state.outstanding.as_ref().map(|it| (it.client, it.progress))
                else {
                    return true;
                };
                drop(state);
                let heard = !progress || (self.tell)(Message::Progress(client));
                heard && !peer::has_gone(&*self.stream)
            }
        }
    }

    /// Reads from the client, and asks for what it wants.
    fn read(&self) -> bool {
        let busy = self.rest.busy();
        let mut state = self.state();
        match state.lines.take(PATIENCE) {
            None => {
                let left = state.lines.left(PATIENCE);
                drop(state);
                drop(busy);
                self.wait(PollFlags::POLLIN, left);
                return self.receive();
            }
            Some(Line::TooLong) => {
                state.refuse(format!("a request has at most {} bytes", protocol::LONGEST_LINE));
                state.closing = true;
            }
            Some(Line::TooSlow) => {
                state.refuse(format!("half a request was not completed within {} s", PATIENCE.as_secs()));
                state.closing = true;
            }
            Some(Line::Whole(line)) if line.trim_ascii().is_empty() => {}
            Some(Line::Whole(line)) => {
                state.requests += 1;
                match Request::read(&line) {
                    Ok(request) => return self.ask(state, request),
                    Err(why) => state.refuse(why),
                }
            }
        }
        true
    }

    /// Takes what has come; false if the client has gone.
    fn receive(&self) -> bool {
        let _busy = self.rest.busy();
        let mut bytes = [0; 4096];
        // What has been read goes to the state at once: it is saved from there.
        let mut state = self.state();
        match recv(self.stream.as_raw_fd(), &mut bytes, MsgFlags::MSG_DONTWAIT) {
            // Nothing more comes: what there is, is all of it.
            Ok(0) if !state.lines.rest().is_empty() => state.lines.push(b"\n"),
            Ok(0) => return false,
            Ok(count) => state.lines.push(&bytes[..count]),
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            Err(_) => return false,
        }
        true
    }

    /// Asks the loop; false once nobody is there.
    fn ask(&self, mut state: MutexGuard<'_, ConnectionState>, request: Request) -> bool {
        // So many requests that two have the same number never come.
        let client = ClientId(self.membership.number << 32 | state.requests);
        let (way, answers) = ReplyQueue::channel();
        state.outstanding = Some(Outstanding { client, progress: request.progress, answers, over: false });
        drop(state);
        if !self.admission(Admission::of(&request.verb, request.wait)) {
            let why =
                format!("{MOST_WAITING} clients wait already (the other places are for status and stop)");
            let mut state = self.state();
            state.outstanding = None;
            state.unsent.extend(protocol::line(&protocol::Reply::failed(why)));
            return true;
        }
        let Request { verb, wait, .. } = request;
        let (peer, answers) = (self.peer.clone(), way);
        (self.tell)(Message::Asked(Asked { client, verb, wait, peer, answers }))
    }
}
