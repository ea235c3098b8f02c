//! How the sockets that all generations have in common come about: what a worker binds is
//! replaced by ours, or becomes ours.

use super::Adopt;
use super::key::{Key, Transport};
use super::replace::{can_be_replaced, replace};
use super::shared::{New, listens};
use crate::ack::accepting;
use crate::core::event::{Time, WorkerId};
use crate::sys::borrow;
use crate::sys::seccomp::{self, Answer, Call};
use crate::sys::{fd, flows, steering};
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
        let Ok((_, inode)) = fd::identity(socket.as_raw_fd()) else { return Answer::Continue };
        // A call that was interrupted and is made again.
        if self.shared.knows(inode) {
            return Answer::Done;
        }
        let Some(worker) = self.workers.get(&id) else { return Answer::Continue };
        let sockets = self.shared.sockets.get(&key).map(Vec::as_slice).unwrap_or_default();
        // What it holds is known by a look at all of it, which is spared a resolver.
        let held = match sockets.is_empty() {
            true => HashSet::new(),
            false => flows::held(worker.root, &BTreeSet::new()).unwrap_or_default(),
        };
        let Some(ours) = sockets.iter().find(|socket| !held.contains(&socket.inode)) else {
            if key.transport == Transport::Datagram {
                self.note(id, call, key.clone(), inode);
            }
            self.tell_near(id, &key);
            return Answer::Continue;
        };
        if !can_be_replaced(call, &socket) {
            return self.bind_beside(id, call, key, &socket, inode);
        }
        let nonblock = fcntl(&socket, F_GETFL).unwrap_or(0) & OFlag::O_NONBLOCK.bits() != 0;
        if !replace(calls, call, ours.fd.as_fd(), nonblock, false) {
            return Answer::Continue;
        }
        // UDP has nothing more to do; and some servers that find a socket to listen already
        // leave it at that.
        if key.transport == Transport::Datagram || listens(ours.fd.as_fd()) {
            self.heard(id, key);
        }
        Answer::Done
    }

    /// The caller waits on its socket already (epoll(7)), which one of ours in its place would not
    /// change. Datagrams can go to both, as long as there are two.
    fn bind_beside(&mut self, id: WorkerId, call: &Call, key: Key, socket: &OwnedFd, inode: u64) -> Answer {
        let sockets = self.shared.sockets.get(&key).map(Vec::as_slice).unwrap_or_default();
        if key.transport == Transport::Stream || sockets.iter().any(|socket| socket.ours) {
            self.tell(id, format!(
                "pid {} waits on its socket before it binds it to {key}: a shared one cannot be put in its place (leave -b and --adopt=share out)",
                call.thread
            ));
            return Answer::Continue;
        }
        let failed = sockets
            .iter()
            .map(|socket| socket.fd.as_fd())
            .chain([socket.as_fd()])
            .find_map(|socket| steering::reuseport(socket).err());
        if let Some(errno) = failed {
            self.tell(id, format!("cannot set SO_REUSEPORT for {key}: {errno}"));
        }
        self.note(id, call, key, inode);
        Answer::Continue
    }

    /// What the worker that serves has bound since the last look, as servers do that serve something
    /// else first, is held as well.
    pub(super) fn settle_late(&mut self) {
        self.shared.new.retain(|new| self.workers.get(&new.worker).is_some_and(|worker| !worker.gone));
        let Some(id) = self.serving.filter(|id| self.shared.new.iter().any(|new| new.worker == *id)) else {
            return;
        };
        let Some(worker) = self.workers.get(&id) else { return };
        for key in self.shared.settle(id, worker.root) {
            self.unheard(id, &key);
        }
    }

    fn note(&mut self, id: WorkerId, call: &Call, key: Key, inode: u64) {
        /// More than a server has, and less than a resolver binds in passing.
        const MOST: usize = 64;
        if self.shared.new.iter().filter(|new| new.worker == id).count() >= MOST {
            return;
        }
        let process = seccomp::process_of(call.thread).unwrap_or(call.thread).as_raw();
        self.shared.new.push(New { worker: id, key, process, inode });
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
        // One of ours has the backlog that the user wants.
        let ours = self.shared.all_ours().any(|ours| ours == inode) && listens(socket.as_fd());
        if !ours && let Err(errno) = steering::relisten(socket.as_fd(), backlog) {
            return Answer::Failed(errno);
        }
        if !self.shared.knows(inode) {
            match self.workers.get(&id).is_some_and(|worker| worker.ready) {
                true => self.shared.hold(key.clone(), socket, false),
                false => self.note(id, call, key.clone(), inode),
            }
        }
        self.heard(id, key);
        Answer::Done
    }

    /// Looks at what was bound since. True if the worker has one more address by that.
    pub fn look_bound(&mut self, id: WorkerId, now: Time) -> bool {
        self.now = now;
        let bound = |new: &&New| {
            let socket = borrow::by_inode(Pid::from_raw(new.process), new.inode);
            new.worker == id
                && socket.and_then(|socket| Key::of_bound(socket.as_fd())).as_ref() == Some(&new.key)
        };
        let keys: Vec<Key> = self.shared.new.iter().filter(bound).map(|new| new.key.clone()).collect();
        let before = self.workers.get(&id).map_or(0, |worker| worker.listens.len());
        let keys: Vec<Key> = keys.into_iter().chain(self.waited_for(id)).collect();
        keys.into_iter().for_each(|key| self.heard(id, key));
        self.workers.get(&id).is_some_and(|worker| worker.listens.len() > before)
    }

    /// Where the worker was given a socket that listened already, and waits on it.
    fn waited_for(&self, id: WorkerId) -> Vec<Key> {
        let Some(worker) = self.workers.get(&id) else { return Vec::new() };
        let waits = |inode: u64| accepting::is_accepting(worker.root, &BTreeSet::from([inode]));
        let inherited = worker.inherited.iter().filter(|(key, _)| !worker.listens.contains(*key));
        inherited.filter(|(_, inode)| waits(**inode)).map(|(key, _)| key.clone()).collect()
    }

    /// A worker that binds something else than what we hold of the same port will fail, and not
    /// say why.
    fn tell_near(&mut self, id: WorkerId, key: &Key) {
        let near = self
            .shared
            .sockets
            .iter()
            .find(|(held, sockets)| held.is_near(key) && sockets.iter().any(|socket| socket.ours));
        let Some((held, _)) = near else { return };
        let write = match (key.address.ip().is_unspecified(), key.address.is_ipv4(), key.v6only) {
            (true, true, _) => format!("*:{}", key.address.port()),
            (true, false, true) => format!("[::]:{},v6only", key.address.port()),
            (true, false, false) => format!("[::]:{}", key.address.port()),
            _ => key.address.to_string(),
        };
        let line = format!(
            "the worker binds {key}, and -b holds {held}: they are not the same (write -b '{write}')"
        );
        self.tell(id, line);
    }
}
