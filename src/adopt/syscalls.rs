//! The answers to the bind(2) and listen(2) calls of workers; [`probing`](super::probing) has those to
//! connect(2).

use super::group::Socket;
use super::key::{Key, Transport};
use super::listener::Listener;
use super::replace::{can_be_replaced, inspection_failed, replace};
use super::{Adopt, Adopted, drain, report};
use crate::core::event::{Time, WorkerId};
use crate::error::reason;
use crate::sys::seccomp::{self, Answer, Call, Operation};
use crate::sys::{fd, held, pidfd, steering};
use nix::errno::Errno;
use nix::fcntl::{F_GETFL, OFlag, fcntl};
use socket2::SockRef;
use std::collections::BTreeSet;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;

/// The addresses that are remembered of a worker: more than a server has, and fewer than a resolver.
pub(super) const MOST_BOUND: usize = 64;

/// The kernel takes no program that names more sockets: any part of them can be selected.
const MOST_MEMBERS: usize = 2047;

impl Adopt {
    /// Answers a call of a process of the worker.
    pub fn call(&mut self, id: WorkerId, call: &Call, now: Time) {
        self.now = now;
        let Some(calls) = self.workers.get(&id).map(|worker| Arc::clone(&worker.calls)) else { return };
        // There may be many of these.
        if let Operation::Connect(at, length) = call.operation
            && !self.is_to_own_address(id, call, at, length)
        {
            let _ = seccomp::answer(calls.as_fd(), call.id, Answer::Continue);
            return;
        }
        let answer = match pidfd::duplicate(call.thread, call.fd) {
            _ if call.fd == -1 => self.removal(id, call),
            Ok(socket) if matches!(call.operation, Operation::Connect(..)) => self.refuse_connect(&socket),
            Ok(socket) if !self.is_of_our_network(&socket) => {
                self.warn_once(id, format!(
                    "pid {} binds in another network namespace: what it binds is not adopted (run graceful-run in there)",
                    call.thread
                ));
                Answer::Continue
            }
            Ok(socket) if !self.stopping && seccomp::is_pending(calls.as_fd(), call.id) => {
                match call.operation {
                    Operation::Bind(at, length) => self.bind(id, call, socket, at, length),
                    Operation::Listen(backlog) => self.listen(id, call, socket, backlog),
                    _ => Answer::Continue,
                }
            }
            Ok(_) | Err(Errno::ESRCH | Errno::EBADF | Errno::ENOTSOCK) => Answer::Continue,
            Err(errno) => {
                self.warn_once(id, inspection_failed(call, errno));
                Answer::Continue
            }
        };
        // Before the caller goes on: the next one may be answered by another thread.
        self.update_names();
        // The caller may have ended meanwhile.
        let _ = seccomp::answer(calls.as_fd(), call.id, answer);
    }

    /// Whether the socket is of our network namespace: connections of another cannot be listed.
    pub(super) fn is_of_our_network(&self, socket: &OwnedFd) -> bool {
        self.ours.as_ref().is_none_or(|ours| fd::same_network_namespace(ours.as_fd(), socket.as_fd()))
    }

    fn is_adopted(&self, key: &Key) -> bool {
        self.config.ports.is_empty() || self.config.ports.contains(&key.address.port())
    }

    fn is_shared(&self, key: &Key) -> bool {
        self.config.share || key.transport == Transport::Datagram
    }

    fn bind(&mut self, id: WorkerId, call: &Call, socket: OwnedFd, at: u64, length: usize) -> Answer {
        if self.config.paths && fd::is_unix_stream(socket.as_fd()) {
            return self.bind_unix(id, call, socket, at, length);
        }
        let key = match Key::of_call(socket.as_fd(), call, at, length) {
            Ok(Some(key)) if self.is_adopted(&key) => key,
            Ok(_) => return Answer::Continue,
            Err(errno) => {
                self.warn_once(id, inspection_failed(call, errno));
                return Answer::Continue;
            }
        };
        let Some(worker) = self.workers.get_mut(&id) else { return Answer::Continue };
        let calls = Arc::clone(&worker.calls);
        // If the caller no longer waits, the memory that was read may be another process's.
        if !seccomp::is_pending(calls.as_fd(), call.id) {
            return Answer::Continue;
        }
        worker.ports.insert(key.address.port());
        if worker.bound.len() < MOST_BOUND {
            worker.bound.insert(key.clone());
        }
        if self.is_shared(&key) {
            return self.bind_shared(id, call, &calls, key, socket);
        }
        if let Some(inode) = self.ownerless_socket(id, &key)
            && let Some(group) = self.groups.get_mut(&key)
            && let Some(ours) = group.socket(inode).and_then(Listener::copy)
        {
            let own = fcntl(&socket, F_GETFL).unwrap_or(0) & OFlag::O_NONBLOCK.bits();
            // A caller that already waits on its own socket with epoll(7) keeps it. The connections
            // in the queue of the other are lost then.
            if can_be_replaced(call, &socket) && replace(&calls, call, ours, own != 0, true) {
                report(group.transfer(inode, id), "steer connections to a worker");
                if let Some(worker) = self.workers.get_mut(&id) {
                    worker.inherited.insert(key, inode);
                }
                return Answer::Done;
            }
        }
        if let Err(errno) = steering::set_reuseport(socket.as_fd()) {
            self.warn_once(id, format!("cannot set SO_REUSEPORT for {key}: {}", reason(&errno.into())));
        }
        Answer::Continue
    }

    /// This worker listens in the place of one that has ended. If that one is selected still, as nobody
    /// else serves, connections are steered to this one at once, ready or not.
    fn replace_ended_worker(&mut self, id: WorkerId, key: &Key) {
        let Some(from) = self.predecessor_at(id, key) else { return };
        if let Some(group) = self.groups.get_mut(key)
            && group.serving().contains(&from)
        {
            let serving = group.serving().iter().copied().filter(|other| *other != from).chain([id]);
            let serving = serving.collect();
            report(group.steer(&serving, self.weighed).map(drop), "steer connections to a worker");
        }
        self.remove_from(key, from);
    }

    /// The worker that has ended in the slot of this one, and whose sockets at this address wait for the
    /// next. Of several it is the one that is selected, then the newest.
    fn predecessor_at(&self, id: WorkerId, key: &Key) -> Option<WorkerId> {
        let slot = self.workers.get(&id)?.slot;
        let has_ended =
            |id: &WorkerId| self.workers.get(id).is_none_or(|worker| worker.gone && worker.slot == slot);
        let group = self.groups.get(key)?;
        let ended = group.owned().map(|(owner, ..)| owner).filter(has_ended);
        ended.max_by_key(|owner| (group.serving().contains(owner), *owner))
    }

    /// A socket of this address whose worker has ended, or that this worker has closed itself.
    /// The connections in its queue are for the worker that binds the address next.
    fn ownerless_socket(&mut self, id: WorkerId, key: &Key) -> Option<u64> {
        if let Some(from) = self.predecessor_at(id, key)
            && let Some((inode, _)) = self.groups.get(key)?.next_socket(from)
        {
            return Some(inode);
        }
        let own = self.groups.get(key)?.sockets(id);
        let unseen: BTreeSet<u64> = own
            .filter(|(_, listener)| listener.has_copy() && !listener.is_held_as_before())
            .map(|(inode, _)| inode)
            .collect();
        // A server may close and listen again and again: its descriptors are not read each time, if
        // there are many.
        if unseen.is_empty() || !self.looks.may_read_all_to_bind(self.now) {
            return None;
        }
        let before = drain::cpu_time();
        let held = held::holders(&unseen);
        self.looks.has_read_all(drain::cpu_time().saturating_sub(before), self.now);
        let held = held.ok()?;
        unseen.into_iter().find(|inode| !held.contains_key(inode))
    }

    fn listen(&mut self, id: WorkerId, call: &Call, socket: OwnedFd, backlog: i32) -> Answer {
        let Some(key) = Key::of_bound(socket.as_fd()) else {
            if let Some(answer) = self.listen_unix(id, call, &socket, backlog) {
                return answer;
            }
            let path = SockRef::from(&socket).local_addr().ok();
            if let Some(path) = path.as_ref().and_then(|address| address.as_pathname())
                && let Some(worker) = self.workers.get_mut(&id)
                && worker.unix.len() < MOST_BOUND
            {
                worker.last_listen = self.now;
                worker.unix.insert(path.to_owned());
            }
            return Answer::Continue;
        };
        let asked = |worker: &Adopted| worker.ports.contains(&key.address.port());
        if !self.is_adopted(&key) {
            if let Some(worker) = self.workers.get_mut(&id) {
                worker.others.insert(key);
            }
            return Answer::Continue;
        }
        // A port that the kernel has chosen is another one in the next generation.
        if !self.workers.get(&id).is_some_and(asked) {
            if let Some(worker) = self.workers.get_mut(&id)
                && worker.elsewhere.len() < MOST_BOUND
            {
                worker.last_listen = self.now;
                worker.elsewhere.insert(format!("{key} (a port that the kernel has chosen)"));
                self.looks.begin(self.now);
            }
            return Answer::Continue;
        }
        let Ok((_, inode)) = fd::device_and_inode(socket.as_raw_fd()) else { return Answer::Continue };
        if self.is_shared(&key) {
            return self.listen_shared(id, call, key, socket, inode, backlog);
        }
        if let Some(group) = self.groups.get_mut(&key) {
            group.remove_closed();
        }
        let known = self.groups.get(&key).is_some_and(|group| group.contains(inode));
        if !known {
            // With SO_REUSEPORT the kernel no longer refuses a second server of the same user.
            if let Some(stranger) = self.occupant(&key) {
                self.warn_once(id, format!(
                    "cannot listen on {key}: somebody else does (socket {stranger}; ss -ltnpe says who), and connections could not be steered"
                ));
                return Answer::Failed(Errno::EADDRINUSE);
            }
            if self.groups.get(&key).is_some_and(|group| group.len() >= MOST_MEMBERS) {
                self.warn_once(id, format!(
                    "cannot listen on {key}: {MOST_MEMBERS} sockets do, and connections cannot be steered to more (start fewer workers, or replace fewer at a time with --surge)"
                ));
                return Answer::Failed(Errno::EADDRINUSE);
            }
            if let Err(errno) = steering::set_reuseport(socket.as_fd()) {
                self.warn_once(id, format!("cannot set SO_REUSEPORT for {key}: {}", reason(&errno.into())));
            }
        }
        if let Err(errno) = steering::listen(socket.as_fd(), backlog) {
            return Answer::Failed(errno);
        }
        if !known {
            self.join(id, call, &key, socket, inode);
            self.replace_ended_worker(id, &key);
        }
        self.add_address(id, key);
        self.looks.begin(self.now);
        Answer::Done
    }

    /// The socket joins the group of its address. A port that is opened while the worker serves is
    /// often closed soon: we keep no copy of such a socket, so that this is so at once. But one that
    /// is steered beside another worker's has to stay as long as both do.
    fn join(&mut self, id: WorkerId, call: &Call, key: &Key, socket: OwnedFd, inode: u64) {
        let group = self.groups.entry(key.clone()).or_default();
        let is_early = self.workers.get(&id).is_none_or(|worker| !worker.ready || worker.early.contains(key));
        let beside = group.sockets_mut().fold(false, |_, (_, listener)| {
            listener.take_copy();
            true
        });
        let process = seccomp::process_of(call.thread).unwrap_or(call.thread);
        let copy = Some(socket).filter(|_| is_early || beside);
        if let (Some(arrivals), Some(copy)) = (&self.arrivals, &copy) {
            let _ = arrivals.arm(copy.as_fd());
        }
        let listener = Listener::new(copy, inode, key.address.inet(), Some((process, call.fd)));
        let joined = group.join(listener, inode, id);
        report(joined, "steer connections to a worker");
        // The worker before may have opened this address after the new one was asked for it.
        if self.serving.contains(&id) {
            report(group.steer(&self.serving, self.weighed).map(drop), "steer connections to a worker");
        }
    }
}
