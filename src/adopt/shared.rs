//! The sockets that all generations share: the k-th socket that a worker binds to an address is
//! replaced by the k-th shared socket of that address.

use super::key::{Key, Transport};
use super::listener::Holder;
use crate::core::event::WorkerId;
use crate::sys::caller_path::{self, FileId};
use crate::sys::{connections, fd, held, pidfd, proc_fd, steering};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use socket2::SockRef;
use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// The shared sockets, and those that starting workers have bound.
#[derive(Debug, Default)]
pub(super) struct Shared {
    pub(super) sockets: BTreeMap<Key, Vec<Socket>>,
    /// These become shared once the worker is ready, if it still has them. A socket that it closes
    /// again, to test whether an address is free, must leave the address free.
    pub(super) new: Vec<New>,
}

/// A socket that a worker has bound to an address that has no shared socket yet.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct New {
    pub(super) worker: WorkerId,
    pub(super) key: Key,
    /// The process that has bound it.
    pub(super) process: i32,
    pub(super) inode: u64,
    /// The file of a unix socket, once it listens.
    #[serde(default)]
    pub(super) file: Option<FileId>,
}

#[derive(Debug)]
pub(super) struct Socket {
    pub(super) fd: OwnedFd,
    pub(super) inode: u64,
    /// Whether we have bound it (`-b`).
    pub(super) ours: bool,
    /// By whom it was last seen to be held.
    pub(super) holder: Option<Holder>,
    /// The file of a unix socket with a path.
    pub(super) file: Option<FileId>,
    /// A worker that serves has removed that file, as it thinks.
    pub(super) is_unlinked: bool,
}

impl Socket {
    fn is_held_as_before(&self) -> bool {
        self.holder.is_some_and(|(process, number)| proc_fd::is_socket(process, number, self.inode))
    }
}

impl Shared {
    pub(super) fn new<'a>(ours: impl Iterator<Item = BorrowedFd<'a>>) -> Shared {
        let mut shared = Shared::default();
        for socket in ours {
            if let (Some(key), Ok(copy)) = (Key::of_bound(socket), socket.try_clone_to_owned()) {
                shared.add(key, copy, true);
            }
        }
        shared
    }

    pub(super) fn add(&mut self, key: Key, fd: OwnedFd, ours: bool) {
        if let Ok((_, inode)) = fd::device_and_inode(fd.as_raw_fd()) {
            self.sockets.entry(key).or_default().push(Socket {
                fd,
                inode,
                ours,
                holder: None,
                file: None,
                is_unlinked: false,
            });
        }
    }

    /// Every shared socket.
    pub(super) fn all(&self) -> impl Iterator<Item = (&Key, u64)> {
        self.sockets.iter().flat_map(|(key, sockets)| sockets.iter().map(move |socket| (key, socket.inode)))
    }

    /// Sockets that workers have bound, and that are not held as they were before.
    pub(super) fn not_held_as_before(&self) -> impl Iterator<Item = u64> {
        let sockets = self.sockets.values().flatten();
        sockets.filter(|socket| !socket.ours && !socket.is_held_as_before()).map(|socket| socket.inode)
    }

    /// Notes by whom each of `inodes` is held, and drops those that nobody holds. Returns the
    /// addresses that have no socket any more, with the last ones that they had.
    pub(super) fn update(
        &mut self,
        inodes: &BTreeSet<u64>,
        held: &BTreeMap<u64, Holder>,
    ) -> Vec<(Key, Vec<Socket>)> {
        for socket in self.sockets.values_mut().flatten() {
            socket.holder = held.get(&socket.inode).copied().or(socket.holder);
        }
        let closed =
            |socket: &mut Socket| inodes.contains(&socket.inode) && !held.contains_key(&socket.inode);
        let mut lost = Vec::new();
        self.sockets.retain(|key, sockets| {
            let last: Vec<Socket> = sockets.extract_if(.., |socket| closed(socket)).collect();
            let is_open = !sockets.is_empty();
            lost.extend((!is_open).then(|| (key.clone(), last)));
            is_open
        });
        lost
    }

    /// This unix socket is the only one of its address.
    pub(super) fn set_unix(&mut self, key: Key, fd: OwnedFd, file: Option<FileId>) {
        if let Ok((_, inode)) = fd::device_and_inode(fd.as_raw_fd()) {
            let socket = Socket { fd, inode, ours: false, holder: None, file, is_unlinked: false };
            self.sockets.insert(key, vec![socket]);
        }
    }

    /// The shared sockets of an address.
    pub(super) fn of(&self, key: &Key) -> impl Iterator<Item = u64> {
        self.sockets.get(key).into_iter().flatten().map(|socket| socket.inode)
    }

    /// The addresses that we have bound.
    pub(super) fn ours(&self) -> impl Iterator<Item = Key> {
        let ours = |sockets: &[Socket]| sockets.iter().any(|socket| socket.ours);
        self.sockets.iter().filter(move |(_, sockets)| ours(sockets)).map(|(key, _)| key.clone())
    }

    pub(super) fn all_ours(&self) -> impl Iterator<Item = u64> {
        self.sockets.values().flatten().filter(|socket| socket.ours).map(|socket| socket.inode)
    }

    /// Every address, with the number of its sockets and, where they listen, of the connections in their
    /// queues.
    pub(super) fn counts(&self) -> impl Iterator<Item = (&Key, usize, Option<u32>)> {
        self.sockets.iter().map(|(key, sockets)| {
            let queued = match key.transport {
                Transport::Datagram => None,
                Transport::Stream => {
                    Some(sockets.iter().filter_map(|it| steering::queue_length(it.fd.as_fd()).ok()).sum())
                }
                Transport::Unix => {
                    let inodes: Vec<u64> = sockets.iter().map(|socket| socket.inode).collect();
                    Some(connections::unix_queues(&inodes).values().sum())
                }
            };
            (key, sockets.len(), queued)
        })
    }

    /// The unix sockets.
    pub(super) fn unix(&self) -> impl Iterator<Item = (&Key, &Socket)> {
        let unix = self.sockets.iter().filter(|(key, _)| key.transport == Transport::Unix);
        unix.flat_map(|(key, sockets)| sockets.iter().map(move |socket| (key, socket)))
    }

    pub(super) fn clear(&mut self) {
        *self = Shared::default();
    }

    pub(super) fn contains(&self, inode: u64) -> bool {
        self.all().any(|(_, known)| known == inode)
    }

    /// The worker, whose process is `root`, is ready: the sockets that it has bound and still holds
    /// become shared. Returns the addresses of those that it has closed.
    pub(super) fn share_new(&mut self, id: WorkerId, root: Pid) -> Vec<Key> {
        let (own, others): (Vec<New>, Vec<New>) =
            std::mem::take(&mut self.new).into_iter().partition(|new| new.worker == id);
        self.new = others;
        let mut lost = Vec::new();
        for new in own {
            let copy = new.copy(root);
            match copy {
                Some(fd) if new.key.transport == Transport::Unix => match new.is_at_its_path(fd.as_fd()) {
                    true => self.set_unix(new.key, fd, new.file),
                    false => lost.push(new.key),
                },
                Some(fd) if Key::of_bound(fd.as_fd()).as_ref() == Some(&new.key) => {
                    // A TCP socket that does not listen is a client's.
                    if serves(&new.key, fd.as_fd()) {
                        self.add(new.key, fd, false);
                    }
                }
                _ => lost.push(new.key),
            }
        }
        // It may also have closed shared sockets that it was given.
        if let Ok(held) = held::tree_sockets(root, &BTreeSet::new()) {
            for (key, sockets) in
                self.sockets.iter_mut().filter(|(key, _)| key.transport == Transport::Datagram)
            {
                sockets.retain(|socket| socket.ours || held.contains(&socket.inode));
                if sockets.is_empty() {
                    lost.push(key.clone());
                }
            }
        }
        self.sockets.retain(|_, sockets| !sockets.is_empty());
        lost.retain(|key| !self.sockets.contains_key(key));
        lost
    }
}

impl New {
    /// A copy of the socket, from the process that has bound it, or from `root`.
    pub(super) fn copy(&self, root: Pid) -> Option<OwnedFd> {
        let found = pidfd::duplicate_by_inode(Pid::from_raw(self.process), self.inode);
        found.or_else(|| pidfd::duplicate_by_inode(root, self.inode))
    }

    /// Whether this is a unix socket that listens, and its path, if it has one, leads there.
    fn is_at_its_path(&self, socket: BorrowedFd<'_>) -> bool {
        let leads_there = |path| self.file.is_some() && caller_path::socket_at(path) == self.file;
        is_listener(socket) && self.key.path().is_none_or(leads_there)
    }
}

/// Whether a socket that is bound to this address serves: one of a stream has to listen for that.
pub(super) fn serves(key: &Key, socket: BorrowedFd<'_>) -> bool {
    match key.transport {
        Transport::Datagram => true,
        Transport::Stream => listens(socket),
        Transport::Unix => is_listener(socket),
    }
}

pub(super) fn listens(socket: BorrowedFd<'_>) -> bool {
    fd::tcp_queue(socket).is_ok_and(|queue| queue.is_some())
}

/// The same for a unix socket.
pub(super) fn is_listener(socket: BorrowedFd<'_>) -> bool {
    SockRef::from(&socket).is_listener().unwrap_or(false)
}
