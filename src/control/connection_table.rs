//! The table of connections: how many there may be, and how they go through an execve(2).

use super::admission::{Admission, MAX_CONNECTIONS, MAX_WAITING};
use super::connection_state::{ConnectionState, Outstanding};
use super::line::Lines;
use super::message::ClientId;
use super::protocol;
use super::reply_queue::ReplyQueue;
use crate::reexec::fd_transfer::{Fd, FdTransfer, InheritedFds};
use crate::sys::peer::{self, Peer};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, send};
use serde::{Deserialize, Serialize};
use std::io;
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Every connection, the oldest first.
#[derive(Debug, Default, Clone)]
pub(super) struct Table(Arc<Mutex<Entries>>);

#[derive(Debug, Default)]
struct Entries {
    list: Vec<Entry>,
    /// The number of the newest connection.
    last: u64,
}

#[derive(Debug)]
struct Entry {
    number: u64,
    stream: Arc<UnixStream>,
    state: Arc<Mutex<ConnectionState>>,
    admission: Admission,
}

/// A client whose connection goes through an execve(2).
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
pub(super) struct Membership {
    table: Table,
    pub(super) number: u64,
}

/// A connection that is in the table, and is to be served.
#[derive(Debug)]
pub(super) struct Admitted {
    pub(super) stream: Arc<UnixStream>,
    pub(super) peer: Peer,
    pub(super) state: Arc<Mutex<ConnectionState>>,
    pub(super) membership: Membership,
}

impl Table {
    fn lock(&self) -> MutexGuard<'_, Entries> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a connection. If the table is full, it closes the oldest one that has no request
    /// under way; if there is none, it returns the stream.
    pub(super) fn admit(&self, stream: UnixStream, peer: Peer) -> Result<Admitted, UnixStream> {
        let mut entries = self.lock();
        if entries.list.len() >= MAX_CONNECTIONS {
            let idle = entries.list.iter().enumerate();
            let idle = idle.filter_map(|(index, entry)| Some((entry.eviction_order()?, entry.number, index)));
            let Some((.., index)) = idle.min() else { return Err(stream) };
            if !entries.list[index].evict() {
                return Err(stream);
            }
            entries.list.remove(index);
        }
        entries.last += 1;
        let number = entries.last;
        let stream = (stream, peer);
        Ok(self.open(&mut entries, number, stream, Admission::Idle, ConnectionState::default()))
    }

    fn open(
        &self,
        entries: &mut Entries,
        number: u64,
        (stream, peer): (UnixStream, Peer),
        admission: Admission,
        state: ConnectionState,
    ) -> Admitted {
        let (stream, state) = (Arc::new(stream), Arc::new(Mutex::new(state)));
        let entry = Entry { number, stream: Arc::clone(&stream), state: Arc::clone(&state), admission };
        entries.list.push(entry);
        Admitted { stream, peer, state, membership: Membership { table: self.clone(), number } }
    }

    /// Lists the descriptors and saves everything else. The threads must be quiesced: answers
    /// that they have not taken are moved to the states.
    pub(super) fn save(&self, transfer: &mut FdTransfer) -> io::Result<(u64, Vec<SavedClient>)> {
        let entries = self.lock();
        let mut saved = Vec::new();
        for entry in &entries.list {
            let mut state = lock(&entry.state);
            state.take_answers();
            let outstanding = state.outstanding.as_ref();
            saved.push(SavedClient {
                stream: transfer.add(&*entry.stream)?,
                number: entry.number,
                admission: entry.admission,
                buffer: state.lines.buffered().to_vec(),
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

    /// The connections as they were, to be served again, and the reply queues of those that
    /// wait for an answer.
    pub(super) fn restore(
        &self,
        (last, saved): (u64, Vec<SavedClient>),
        fds: &mut InheritedFds,
    ) -> (Vec<Admitted>, Vec<(ClientId, ReplyQueue)>) {
        let (mut connections, mut queues) = (Vec::new(), Vec::new());
        let mut entries = self.lock();
        entries.last = last;
        for saved in saved {
            let outstanding = saved.outstanding.map(|SavedRequest { client, progress, over }| {
                let (queue, answers) = ReplyQueue::channel();
                queues.push((client, queue));
                Outstanding { client, progress, answers, over }
            });
            let state = ConnectionState {
                lines: Lines::from(saved.buffer),
                requests: saved.requests,
                outstanding,
                unsent: saved.unsent,
                written: Vec::new(),
                keep_open: false,
                closing: saved.closing,
            };
            let stream = UnixStream::from(fds.take(saved.stream));
            // The kernel keeps it for as long as the connection is open.
            let Ok(peer) = peer::peer(&stream) else { continue };
            let (number, admission) = (saved.number, saved.admission);
            let stream = (stream, peer);
            connections.push(self.open(&mut entries, number, stream, admission, state));
        }
        (connections, queues)
    }
}

impl Entry {
    /// None if the connection may not be closed for another one: every request that was sent
    /// is executed and answered. `false`, which comes first, if the client has sent nothing;
    /// `true` if it has sent the beginning of a line.
    fn eviction_order(&self) -> Option<bool> {
        (self.admission == Admission::Idle).then(|| self.has_partial_line(&lock(&self.state)))?
    }

    /// Whether the client has sent the beginning of a line; None if it has sent a request.
    fn has_partial_line(&self, state: &ConnectionState) -> Option<bool> {
        let buffered = state.lines.buffered();
        let requested = state.outstanding.is_some() || !state.unsent.is_empty() || buffered.contains(&b'\n');
        let unread = || poll(&mut [PollFd::new(self.stream.as_fd(), PollFlags::POLLIN)], PollTimeout::ZERO);
        (!requested && unread() == Ok(0)).then_some(!buffered.is_empty())
    }

    /// Closes the connection: what the client sends from now on is not executed. False if it
    /// has sent something meanwhile.
    fn evict(&self) -> bool {
        let mut state = lock(&self.state);
        if self.has_partial_line(&state).is_none() {
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

impl Membership {
    /// False if no further client may wait.
    pub(super) fn set_admission(&self, admission: Admission) -> bool {
        let mut entries = self.table.lock();
        let waiting = entries.list.iter().filter(|entry| entry.admission.is_waiting()).count();
        if admission.is_waiting() && waiting >= MAX_WAITING {
            return false;
        }
        if let Some(entry) = entries.list.iter_mut().find(|entry| entry.number == self.number) {
            entry.admission = admission;
        }
        true
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        self.table.lock().list.retain(|entry| entry.number != self.number);
    }
}

/// Locks a state, even if a thread has panicked while it held the lock.
pub(super) fn lock(state: &Mutex<ConnectionState>) -> MutexGuard<'_, ConnectionState> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}
