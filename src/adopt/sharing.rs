//! How sockets become shared by all generations: a socket that a worker binds is replaced by the
//! shared one of its address or, if there is none, becomes the shared one.

use super::Adopt;
use super::key::{Key, Transport};
use super::replace::{can_be_replaced, replace};
use super::shared::{New, listens, serves};
use crate::ack::accepting;
use crate::core::event::{Time, WorkerId};
use crate::sys::seccomp::{self, Answer, Call};
use crate::sys::{fd, held, pidfd, steering};
use nix::fcntl::{F_GETFL, OFlag, fcntl};
use nix::unistd::Pid;
use std::collections::{BTreeSet, HashSet};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;

impl Adopt {
    pub(super) fn bind_shared(
        &mut self,
        id: WorkerId,
        call: &Call,
        calls: &Arc<OwnedFd>,
        key: Key,
        socket: OwnedFd,
    ) -> Answer {
        let Ok((_, inode)) = fd::device_and_inode(socket.as_raw_fd()) else { return Answer::Continue };
        // The call was interrupted and is repeated.
        if self.shared.contains(inode) {
            return Answer::Done;
        }
        self.share_of_sibling(id, &key);
        let Some(worker) = self.workers.get(&id) else { return Answer::Continue };
        let sockets = self.shared.sockets.get(&key).map(Vec::as_slice).unwrap_or_default();
        // This reads all its descriptors, so it is left out for addresses that have no shared socket,
        // such as those of a resolver.
        let held = match sockets.is_empty() {
            true => HashSet::new(),
            false => held::tree_sockets(worker.root, &BTreeSet::new()).unwrap_or_default(),
        };
        let Some(ours) = sockets.iter().find(|socket| !held.contains(&socket.inode)) else {
            self.note_new(id, call, key.clone(), inode);
            self.warn_of_overlap(id, &key);
            return Answer::Continue;
        };
        if !can_be_replaced(call, &socket) {
            return self.bind_beside(id, call, key, &socket, inode);
        }
        let nonblock = fcntl(&socket, F_GETFL).unwrap_or(0) & OFlag::O_NONBLOCK.bits() != 0;
        if !replace(calls, call, ours.fd.as_fd(), nonblock, false) {
            return Answer::Continue;
        }
        // UDP does not listen, and some servers do not call listen(2) on a socket that listens
        // already.
        if key.transport == Transport::Datagram || listens(ours.fd.as_fd()) {
            self.add_address(id, key);
        }
        Answer::Done
    }

    /// The caller already waits on its own socket (epoll(7)), so that replacing it would not help.
    /// Its socket is bound beside the shared one; datagrams then go to both.
    fn bind_beside(&mut self, id: WorkerId, call: &Call, key: Key, socket: &OwnedFd, inode: u64) -> Answer {
        let sockets = self.shared.sockets.get(&key).map(Vec::as_slice).unwrap_or_default();
        if key.transport == Transport::Stream || sockets.iter().any(|socket| socket.ours) {
            self.warn_once(id, format!(
                "pid {} waits on its socket before it binds it to {key}: a shared one cannot be put in its place (leave -b and --adopt=share out)",
                call.thread
            ));
            return Answer::Continue;
        }
        let failed = sockets
            .iter()
            .map(|socket| socket.fd.as_fd())
            .chain([socket.as_fd()])
            .find_map(|socket| steering::set_reuseport(socket).err());
        if let Some(errno) = failed {
            self.warn_once(id, format!("cannot set SO_REUSEPORT for {key}: {errno}"));
        }
        self.note_new(id, call, key, inode);
        Answer::Continue
    }

    /// Shares the sockets that workers that serve have bound since they became ready: some servers
    /// bind a socket only later.
    pub(super) fn share_late(&mut self) {
        self.shared.new.retain(|new| self.workers.get(&new.worker).is_some_and(|worker| !worker.gone));
        let serving: BTreeSet<WorkerId> =
            self.shared.new.iter().map(|new| new.worker).filter(|id| self.serving.contains(id)).collect();
        for id in serving {
            let Some(worker) = self.workers.get(&id) else { continue };
            for key in self.shared.share_new(id, worker.root) {
                self.remove_address(id, &key);
            }
        }
    }

    pub(super) fn note_new(&mut self, id: WorkerId, call: &Call, key: Key, inode: u64) {
        /// More than a server has, and fewer than a resolver binds.
        const MOST: usize = 64;
        let mut own = self.shared.new.iter().filter(|new| new.worker == id);
        if own.clone().count() >= MOST || own.any(|new| new.inode == inode) {
            return;
        }
        let process = seccomp::process_of(call.thread).unwrap_or(call.thread).as_raw();
        self.shared.new.push(New { worker: id, key, process, inode, file: None });
    }

    pub(super) fn listen_shared(
        &mut self,
        id: WorkerId,
        call: &Call,
        key: Key,
        socket: OwnedFd,
        inode: u64,
        backlog: i32,
    ) -> Answer {
        // Our own socket has the backlog that the user has chosen.
        let ours = self.shared.all_ours().any(|ours| ours == inode) && listens(socket.as_fd());
        if !ours && let Err(errno) = steering::listen(socket.as_fd(), backlog) {
            return Answer::Failed(errno);
        }
        if !self.shared.contains(inode) {
            match self.workers.get(&id).is_some_and(|worker| worker.ready) {
                true => self.shared.add(key.clone(), socket, false),
                false => self.note_new(id, call, key.clone(), inode),
            }
        }
        self.add_address(id, key);
        Answer::Done
    }

    /// Checks which sockets have been bound meanwhile.
    pub fn check_bound(&mut self, id: WorkerId, now: Time) {
        self.now = now;
        let bound = |new: &&New| {
            let socket = || pidfd::duplicate_by_inode(Pid::from_raw(new.process), new.inode);
            let is_server = |socket: OwnedFd| {
                Key::of_bound(socket.as_fd()).as_ref() == Some(&new.key) && serves(&new.key, socket.as_fd())
            };
            new.worker == id && socket().is_some_and(is_server)
        };
        let keys: Vec<Key> = self.shared.new.iter().filter(bound).map(|new| new.key.clone()).collect();
        let keys: Vec<Key> = keys.into_iter().chain(self.waited_for(id)).collect();
        keys.into_iter().for_each(|key| self.add_address(id, key));
    }

    /// The addresses at which the worker was given a socket that listened already, and waits on it.
    fn waited_for(&self, id: WorkerId) -> Vec<Key> {
        let Some(worker) = self.workers.get(&id) else { return Vec::new() };
        let waits = |inode: u64| accepting::is_accepting(worker.root, &BTreeSet::from([inode]));
        let inherited = worker.inherited.iter().filter(|(key, _)| !worker.listens.contains(*key));
        inherited.filter(|(_, inode)| waits(**inode)).map(|(key, _)| key.clone()).collect()
    }

    /// Warns if a worker binds another address than the shared one of the same port: its bind(2)
    /// will fail, and the server may not report why.
    fn warn_of_overlap(&mut self, id: WorkerId, key: &Key) {
        let near = self
            .shared
            .sockets
            .iter()
            .find(|(held, sockets)| held.is_similar(key) && sockets.iter().any(|socket| socket.ours));
        let Some((held, _)) = near else { return };
        let Some(address) = key.address.inet() else { return };
        let write = match (address.ip().is_unspecified(), address.is_ipv4(), key.v6only) {
            (true, true, _) => format!("*:{}", address.port()),
            (true, false, true) => format!("[::]:{},v6only", address.port()),
            (true, false, false) => format!("[::]:{}", address.port()),
            _ => address.to_string(),
        };
        let line = format!(
            "the worker binds {key}, and -b holds {held}: they are not the same (write -b '{write}')"
        );
        self.warn_once(id, line);
    }
}
