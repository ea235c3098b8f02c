//! What a worker hears when it binds or listens.

use super::key::{Key, Transport};
use super::{Adopt, Adopted, report};
use crate::core::event::{Time, WorkerId};
use crate::error::reason;
use crate::sys::borrow;
use crate::sys::seccomp::{self, Answer, Call, What};
use crate::sys::{fd, flows, listening, steering};
use nix::errno::Errno;
use nix::fcntl::{F_GETFL, F_SETFL, OFlag, fcntl};
use std::collections::BTreeSet;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

impl Adopt {
    /// Answers a call of a process of the worker. True if it listens on one more address by
    /// that.
    pub fn call(&mut self, id: WorkerId, call: &Call, now: Time) -> bool {
        self.now = now;
        let Some(calls) = self.workers.get(&id).map(|worker| Arc::clone(&worker.calls)) else { return false };
        let before = self.workers.get(&id).map_or(0, |worker| worker.listens.len());
        let answer = match borrow::borrow(call.thread, call.number) {
            Ok(socket) if !self.is_near(&socket) => {
                self.tell(id, format!(
                    "pid {} binds in another network namespace: what it binds is not adopted (run graceful-run in there)",
                    call.thread
                ));
                Answer::Continue
            }
            Ok(socket) if !self.stopping && seccomp::still_waits(calls.as_fd(), call.id) => match call.what {
                What::Bind(at, length) => self.bind(id, call, socket, at, length),
                What::Listen(backlog) => self.listen(id, call, socket, backlog),
            },
            Ok(_) | Err(Errno::ESRCH | Errno::EBADF | Errno::ENOTSOCK) => Answer::Continue,
            Err(errno) => {
                self.tell(id, unseen(call, errno));
                Answer::Continue
            }
        };
        // Whoever has gone meanwhile waits for no answer.
        let _ = seccomp::answer(calls.as_fd(), call.id, answer);
        self.workers.get(&id).is_some_and(|worker| worker.listens.len() > before)
    }

    /// Whether the socket is of our network: of another one we could not see who is connected.
    fn is_near(&self, socket: &OwnedFd) -> bool {
        self.ours.as_ref().is_none_or(|ours| fd::same_network(ours.as_fd(), socket.as_fd()))
    }

    fn concerns(&self, key: &Key) -> bool {
        self.config.ports.is_empty() || self.config.ports.contains(&key.address.port())
    }

    fn is_shared(&self, key: &Key) -> bool {
        self.config.share || key.transport == Transport::Datagram
    }

    fn bind(&mut self, id: WorkerId, call: &Call, socket: OwnedFd, at: u64, length: usize) -> Answer {
        let key = match Key::of_call(socket.as_fd(), call, at, length) {
            Ok(Some(key)) if self.concerns(&key) => key,
            Ok(_) => return Answer::Continue,
            Err(errno) => {
                self.tell(id, unseen(call, errno));
                return Answer::Continue;
            }
        };
        let Some(worker) = self.workers.get_mut(&id) else { return Answer::Continue };
        let calls = Arc::clone(&worker.calls);
        // What was read by a number is of the caller if it still waits.
        if !seccomp::still_waits(calls.as_fd(), call.id) {
            return Answer::Continue;
        }
        worker.ports.insert(key.address.port());
        if self.is_shared(&key) {
            return self.bind_shared(id, call, &calls, key, socket);
        }
        if let Some(inode) = self.without_owner(id, &key)
            && let Some(group) = self.groups.get_mut(&key)
            && let Some(ours) = group.socket(inode)
        {
            let own = fcntl(&socket, F_GETFL).unwrap_or(0) & OFlag::O_NONBLOCK.bits();
            // What the caller already waits on with epoll(7) would be another socket than the one that it
            // listens on: then it has its own, and what waits for the one that has gone is lost.
            if can_be_replaced(call, &socket) && replace(&calls, call, ours.as_fd(), own != 0, true) {
                report(group.inherited(inode, id), "steer connections to a worker");
                if let Some(worker) = self.workers.get_mut(&id) {
                    worker.inherited.insert(key, inode);
                }
                return Answer::Done;
            }
        }
        if let Err(errno) = steering::reuseport(socket.as_fd()) {
            self.tell(id, format!("cannot set SO_REUSEPORT for {key}: {}", reason(&errno.into())));
        }
        Answer::Continue
    }

    /// Nobody serves here but a worker that has died: connections go to this one at once, ready or not.
    fn follow_the_dead(&mut self, id: WorkerId, key: &Key) {
        let Some(from) = self.dead_at(key) else { return };
        if let Some(group) = self.groups.get_mut(key) {
            report(group.steer(id).map(drop), "steer connections to a worker");
        }
        self.take_out(key, from);
    }

    /// The worker that serves at this address, if it has died.
    fn dead_at(&self, key: &Key) -> Option<WorkerId> {
        let dead = |id: &WorkerId| self.workers.get(id).is_none_or(|worker| worker.gone);
        self.groups.get(key)?.serving().filter(dead)
    }

    /// A socket of this address that a worker which has died has left, or that this one has closed itself:
    /// what waits in it is for whoever binds the address next.
    fn without_owner(&self, id: WorkerId, key: &Key) -> Option<u64> {
        let group = self.groups.get(key)?;
        if let Some(from) = self.dead_at(key)
            && let Some((inode, _)) = group.inherit(from)
        {
            return Some(inode);
        }
        group.sockets(id).next()?;
        let held = flows::held(self.workers.get(&id)?.root, &BTreeSet::new()).ok()?;
        group.sockets(id).map(|(inode, _)| inode).find(|inode| !held.contains(inode))
    }

    fn listen(&mut self, id: WorkerId, call: &Call, socket: OwnedFd, backlog: i32) -> Answer {
        let Some(key) = Key::of_bound(socket.as_fd()) else { return Answer::Continue };
        // The next generation would not get a port that the kernel has chosen.
        let asked = |worker: &Adopted| worker.ports.contains(&key.address.port());
        if !self.concerns(&key) {
            if let Some(worker) = self.workers.get_mut(&id) {
                worker.others.insert(key);
            }
            return Answer::Continue;
        }
        if !self.workers.get(&id).is_some_and(asked) {
            return Answer::Continue;
        }
        let Ok((_, inode)) = fd::identity(socket.as_raw_fd()) else { return Answer::Continue };
        if self.is_shared(&key) {
            return self.listen_shared(id, call, key, socket, inode, backlog);
        }
        if let Some(group) = self.groups.get_mut(&key) {
            group.notice();
        }
        let known = self.groups.get(&key).is_some_and(|group| group.knows(inode));
        if !known {
            // With SO_REUSEPORT set the kernel no longer tells a second server of one user.
            if let Some(stranger) = self.occupant(&key) {
                self.tell(id, format!(
                    "cannot listen on {key}: somebody else does (socket {stranger}; ss -ltnpe says who), and connections could not be steered"
                ));
                return Answer::Failed(Errno::EADDRINUSE);
            }
            if let Err(errno) = steering::reuseport(socket.as_fd()) {
                self.tell(id, format!("cannot set SO_REUSEPORT for {key}: {}", reason(&errno.into())));
            }
        }
        if let Err(errno) = steering::relisten(socket.as_fd(), backlog) {
            return Answer::Failed(errno);
        }
        if !known {
            let joined = self.groups.entry(key.clone()).or_default().join(socket, inode, id);
            report(joined, "steer connections to a worker");
            self.follow_the_dead(id, &key);
        }
        self.heard(id, key);
        Answer::Done
    }
}

/// Whether the caller would not go on with its own socket beside one that is put in its place.
pub(super) fn can_be_replaced(call: &Call, socket: &OwnedFd) -> bool {
    let process = seccomp::process_of(call.thread).unwrap_or(call.thread);
    fd::identity(socket.as_raw_fd()).is_ok_and(|(_, inode)| listening::is_held_once(process, inode))
}

/// Puts `ours` in the place of the caller's own socket. Of the flags that the
/// two do not share, close-on-exec is the descriptor's, and `nonblock` is set: a server that asked
/// for it would wait for ever. It is taken away only where nobody else has the socket: `alone`.
pub(super) fn replace(
    calls: &Arc<OwnedFd>,
    call: &Call,
    ours: BorrowedFd<'_>,
    nonblock: bool,
    alone: bool,
) -> bool {
    let flags = OFlag::from_bits_truncate(fcntl(ours, F_GETFL).unwrap_or(0));
    if nonblock != flags.contains(OFlag::O_NONBLOCK) && (nonblock || alone) {
        let mut wanted = flags;
        wanted.set(OFlag::O_NONBLOCK, nonblock);
        let _ = fcntl(ours, F_SETFL(wanted));
    }
    let close = seccomp::closes_on_exec(call.thread, call.number);
    seccomp::put(calls.as_fd(), call.id, ours, call.number, close).is_ok()
}

/// Why a call could not be looked at.
fn unseen(call: &Call, errno: Errno) -> String {
    let next = match errno {
        Errno::EPERM | Errno::EACCES => {
            " (a container: docker run --cap-add SYS_PTRACE; another user or a setcap program: run us as root; see graceful-run doctor)"
        }
        Errno::ENOSYS => " (Linux 5.6 is needed)",
        _ => "",
    };
    format!(
        "cannot look at the socket that pid {} binds: {}, so it is not adopted{next}",
        call.thread,
        reason(&errno.into())
    )
}
