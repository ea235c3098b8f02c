//! The table of connections: how many there may be, and how they go through an execve(2).

use super::admission::{Admission, MOST, MOST_WAITING};
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

    /// Room for one more, if need be at the cost of the oldest that can be spared.
    pub(super) fn enter(&self, stream: UnixStream, peer: Peer) -> Result<Admitted, UnixStream> {
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
    pub(super) fn restore(
        &self,
        (last, saved): (u64, Vec<SavedClient>),
        fds: &mut InheritedFds,
    ) -> (Vec<Admitted>, Vec<(ClientId, ReplyQueue)>) {
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
            connections.push(self.open(&mut entries, number, stream, admission, state));
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

impl Membership {
    /// False if there is no room for one more that waits.
    pub(super) fn set_admission(&self, admission: Admission) -> bool {
        let mut entries = self.table.lock();
        let waiting = entries.list.iter().filter(|entry| entry.admission.is_long()).count();
        if admission.is_long() && waiting >= MOST_WAITING {
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

/// Locks a state, also after a thread has panicked while it held the lock.
pub(super) fn lock(state: &Mutex<ConnectionState>) -> MutexGuard<'_, ConnectionState> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}
