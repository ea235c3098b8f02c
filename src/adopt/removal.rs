//! The paths of adopted unix sockets: whoever removes one, or renames another file over it, while we
//! hold its socket.
//!
//! Contract: servers remove a path before they bind it, and when they end. As long as we hold the socket
//! and are not to stop, that succeeds without being done, so that the path is there for every client. It
//! is done later if nobody has the socket any more. When everything stops, the calls are left to the
//! kernel: a server that removes its path does so, and one that never does leaves it, as without us.

use super::key::{Key, Transport};
use super::shared::Socket;
use super::{Adopt, Names};
use crate::core::event::WorkerId;
use crate::sys::caller_path::{self, Place};
use crate::sys::seccomp::{self, Answer, Call, Operation, PathAt};
use crate::sys::{fd, pidfd, proc_fd};
use log::info;
use std::collections::BTreeSet;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

impl Adopt {
    /// The answer to a call about files.
    pub(super) fn removal(&mut self, id: WorkerId, call: &Call) -> Answer {
        if self.stopping {
            return Answer::Continue;
        }
        let answer = match call.operation {
            Operation::Unlink(path) => self.unlink(id, call, path),
            Operation::Rename(from, to) => self.rename(id, call, from, to),
            _ => None,
        };
        answer.unwrap_or(Answer::Continue)
    }

    fn place(&self, id: WorkerId, call: &Call, path: PathAt) -> Option<Place> {
        let text = caller_path::read(call.thread, path.at).ok()?;
        let calls = &self.workers.get(&id)?.calls;
        seccomp::is_pending(calls.as_fd(), call.id).then_some(())?;
        caller_path::resolve(call.thread, path.directory, &text).ok()?
    }

    fn unlink(&mut self, id: WorkerId, call: &Call, path: PathAt) -> Option<Answer> {
        let place = self.place(id, call, path)?;
        let key = key_of(&place);
        if !self.hold_unix(&key, Some(&place), id) {
            return None;
        }
        // An old worker that ends means its own socket, and its path is the next one's by now.
        let counts = self.workers.get(&id).is_some_and(|worker| !worker.stop_sent);
        for socket in self.shared.sockets.get_mut(&key).into_iter().flatten() {
            socket.is_unlinked |= counts;
        }
        self.looks.begin(self.now);
        Some(Answer::Done)
    }

    /// A worker binds to another name, and renames that over the path.
    fn rename(&mut self, id: WorkerId, call: &Call, from: PathAt, to: PathAt) -> Option<Answer> {
        let (from, to) = (self.place(id, call, from)?, self.place(id, call, to)?);
        let file = from.socket()?;
        let (before, key) = (key_of(&from), key_of(&to));
        let own = self.shared.new.iter().position(|new| new.worker == id && new.key == before)?;
        if !self.hold_unix(&key, Some(&to), id) {
            // It is the first one: its socket is shared under this path.
            let new = self.shared.new.get_mut(own)?;
            (new.key, new.file) = (key.clone(), Some(file));
            self.move_address(id, &before, key);
            return None;
        }
        let new = self.shared.new.iter().find(|new| new.worker == id && new.key == before)?.clone();
        let process = seccomp::process_of(call.thread).unwrap_or(call.thread);
        let (number, _) = proc_fd::socket_fds(process).find(|&(_, inode)| inode == new.inode)?;
        let socket = pidfd::duplicate(call.thread, number).ok()?;
        let same = fd::device_and_inode(socket.as_raw_fd()).is_ok_and(|(_, inode)| inode == new.inode);
        let calls = self.workers.get(&id).map(|worker| Arc::clone(&worker.calls)).filter(|_| same)?;
        let by_socket = Call { fd: number, ..*call };
        if !self.give_unix(id, &by_socket, &calls, &key, &socket) {
            return None;
        }
        self.shared.new.retain(|other| other.inode != new.inode);
        self.move_address(id, &before, key);
        let _ = from.remove();
        Some(Answer::Done)
    }

    /// The worker listens there, if it listened at the other address.
    fn move_address(&mut self, id: WorkerId, from: &Key, to: Key) {
        let listens = self.workers.get(&id).is_some_and(|worker| worker.listens.contains(from));
        self.remove_address(id, from);
        if let Some(worker) = self.workers.get_mut(&id) {
            worker.early.remove(from);
            worker.bound.insert(to.clone());
        }
        if listens {
            self.add_address(id, to);
        }
    }

    /// Nobody has the sockets of this address any more. Where that was asked for, their path is removed.
    pub(super) fn remove_path(key: &Key, lost: &[Socket]) {
        for socket in lost.iter().filter(|socket| socket.is_unlinked) {
            if let Some(path) = key.path()
                && socket.file.is_some()
                && caller_path::socket_at(path) == socket.file
            {
                info!("{key} is removed, as the worker that had it has asked for");
                let _ = std::fs::remove_file(path);
            }
        }
    }

    /// The names of the files that matter, for the threads that receive calls.
    pub fn names(&self) -> Arc<Names> {
        Arc::clone(&self.names)
    }

    /// Tells the threads that receive calls which files matter.
    pub(super) fn update_names(&self) {
        let keys = self.shared.sockets.keys().chain(self.shared.new.iter().map(|new| &new.key));
        let paths = keys.filter(|key| key.transport == Transport::Unix).filter_map(Key::path);
        let names = paths.filter_map(|path| Some(path.file_name()?.as_bytes().to_vec()));
        self.names.set(if self.stopping { BTreeSet::new() } else { names.collect() });
    }
}

fn key_of(place: &Place) -> Key {
    Key::unix(place.path.as_os_str().as_bytes().to_vec())
}
