//! Sockets that all generations have in common: the k-th that a worker binds to an
//! address is replaced by the k-th that we have of it.

use super::Adopt;
use super::answers::replace;
use super::key::{Key, Transport};
use crate::core::event::WorkerId;
use crate::sys::seccomp::{Answer, Call};
use crate::sys::{fd, steering};
use nix::fcntl::{F_GETFL, OFlag, fcntl};
use std::collections::BTreeMap;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

/// The sockets, and who has bound them.
#[derive(Debug, Default)]
pub(super) struct Shared {
    pub(super) sockets: BTreeMap<Key, Vec<Socket>>,
    /// How many of each address a worker has bound.
    pub(super) bound: BTreeMap<(WorkerId, Key), usize>,
    /// Bound by a worker that starts, which may give them up again.
    pub(super) new: Vec<(WorkerId, OwnedFd)>,
}

#[derive(Debug)]
pub(super) struct Socket {
    pub(super) fd: OwnedFd,
    pub(super) inode: u64,
    /// It was bound by us.
    pub(super) ours: bool,
}

impl Shared {
    pub(super) fn new<'a>(ours: impl Iterator<Item = BorrowedFd<'a>>) -> Shared {
        let mut shared = Shared::default();
        for socket in ours {
            if let (Some(key), Ok(copy)) = (Key::of_bound(socket), socket.try_clone_to_owned()) {
                shared.hold(key, copy, true);
            }
        }
        shared
    }

    fn hold(&mut self, key: Key, fd: OwnedFd, ours: bool) {
        if let Ok((_, inode)) = fd::identity(fd.as_raw_fd()) {
            self.sockets.entry(key).or_default().push(Socket { fd, inode, ours });
        }
    }

    /// Every socket.
    pub(super) fn all(&self) -> impl Iterator<Item = (&Key, u64)> {
        self.sockets.iter().flat_map(|(key, sockets)| sockets.iter().map(move |socket| (key, socket.inode)))
    }

    fn all_ours(&self) -> impl Iterator<Item = u64> {
        self.sockets.values().flatten().filter(|socket| socket.ours).map(|socket| socket.inode)
    }

    /// Every address, with how many sockets it has and, of TCP, how many connections wait there.
    pub(super) fn counts(&self) -> impl Iterator<Item = (&Key, usize, Option<u32>)> {
        self.sockets.iter().map(|(key, sockets)| {
            let waiting =
                || sockets.iter().filter_map(|socket| steering::waiting(socket.fd.as_fd()).ok()).sum();
            (key, sockets.len(), (key.transport == Transport::Stream).then(waiting))
        })
    }

    pub(super) fn clear(&mut self) {
        *self = Shared::default();
    }

    fn knows(&self, inode: u64) -> bool {
        self.all().any(|(_, known)| known == inode)
    }

    /// What the worker, now ready, has bound to itself and does not hold any more is not kept:
    /// the addresses.
    pub(super) fn settle(&mut self, id: WorkerId, holds: impl Fn(u64) -> bool) -> Vec<Key> {
        self.new.retain(|(of, _)| *of != id);
        self.bound.retain(|(of, _), _| *of >= id);
        let mut lost = Vec::new();
        for (key, sockets) in &mut self.sockets {
            if key.transport == Transport::Datagram {
                sockets.retain(|socket| socket.ours || holds(socket.inode));
                if sockets.is_empty() {
                    lost.push(key.clone());
                }
            }
        }
        self.sockets.retain(|_, sockets| !sockets.is_empty());
        lost
    }
}

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
        let bound = self.shared.bound.entry((id, key.clone())).or_default();
        let place = std::mem::replace(bound, *bound + 1);
        let Some(ours) = self.shared.sockets.get(&key).and_then(|sockets| sockets.get(place)) else {
            self.tell_near(id, &key);
            let starts = self.workers.get(&id).is_some_and(|worker| worker.ready.is_none());
            // It is bound once we have answered; a UDP socket is looked at then.
            if key.transport == Transport::Datagram && starts {
                self.shared.new.push((id, socket));
            }
            return Answer::Continue;
        };
        let nonblock = fcntl(&socket, F_GETFL).unwrap_or(0) & OFlag::O_NONBLOCK.bits() != 0;
        if !replace(calls, call, ours.fd.as_fd(), nonblock, false) {
            return Answer::Continue;
        }
        if let Some(worker) = self.workers.get_mut(&id)
            && (key.transport == Transport::Datagram || listens(ours.fd.as_fd()))
        {
            // UDP has nothing more to do; and some servers that find a socket to listen
            // already leave it at that.
            worker.listens.insert(key);
        }
        Answer::Done
    }

    pub(super) fn listen_shared(
        &mut self,
        id: WorkerId,
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
            self.shared.hold(key.clone(), socket, false);
        }
        if let Some(worker) = self.workers.get_mut(&id) {
            worker.listens.insert(key);
        }
        Answer::Done
    }

    /// Looks at what was bound since. True if the worker has one more address by that.
    pub fn look_bound(&mut self, id: WorkerId) -> bool {
        let (own, others): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.shared.new).into_iter().partition(|(of, _)| *of == id);
        self.shared.new = others;
        let mut more = false;
        for (id, socket) in own {
            match Key::of_bound(socket.as_fd()) {
                Some(key) => {
                    self.shared.hold(key.clone(), socket, false);
                    if let Some(worker) = self.workers.get_mut(&id) {
                        more |= worker.listens.insert(key);
                    }
                }
                None => self.shared.new.push((id, socket)),
            }
        }
        more
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

fn listens(socket: BorrowedFd<'_>) -> bool {
    fd::tcp_queue(socket).is_ok_and(|queue| queue.is_some())
}
