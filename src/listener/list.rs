//! The listeners, in the order of the descriptors that a worker gets.

use super::apart::{Apart, inode};
use super::baseline::Baseline;
use super::lifetime::FirstGeneration;
use super::options::{Family, Options};
use super::path::{BoundPath, PathBind};
use crate::dialect::{Exported, Kind};
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

impl Kind {
    /// Its name in `ctl status`.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Tcp => "tcp",
            Kind::Udp => "udp",
            Kind::Unix => "unix",
            Kind::UnixDatagram => "unix-dgram",
            Kind::UnixSeqpacket => "unix-seqpacket",
        }
    }

    /// Whether connections are accepted from it.
    pub(super) fn listens(self) -> bool {
        matches!(self, Kind::Tcp | Kind::Unix | Kind::UnixSeqpacket)
    }

    pub(super) fn family(self) -> Family {
        match self {
            Kind::Tcp => Family::Tcp { v6: true },
            Kind::Udp => Family::Udp { v6: true },
            Kind::Unix | Kind::UnixSeqpacket => Family::Unix { stream: true, path: true },
            Kind::UnixDatagram => Family::Unix { stream: false, path: true },
        }
    }
}

/// One listener: a socket, or with `reuseport` one for each slot.
#[derive(Debug)]
pub struct Listener {
    /// Declared before the sockets, because fields are dropped in order, and the number of the
    /// path's inode can be used again once they are closed.
    pub(super) path: Option<BoundPath>,
    pub(super) sockets: Vec<OwnedFd>,
    pub(super) name: String,
    pub(super) address: String,
    /// The address with the host as the user wrote it.
    pub(super) written: String,
    /// How the message about another listener names this one: the BIND as parsed.
    pub(super) origin: String,
    pub(super) kind: Kind,
    pub(super) backlog: u32,
    /// Whether the backlog was read or set, not guessed.
    pub(super) backlog_known: bool,
    /// O_NONBLOCK as its BIND or the dialect of the worker wants it.
    pub(super) nonblock: Option<bool>,
    /// How to make another socket at its path.
    pub(super) path_bind: Option<PathBind>,
    pub(super) inet: Option<SocketAddr>,
    pub(super) reuseport: bool,
    /// How to open one more socket there, if it has `reuseport`.
    pub(super) inet_options: Option<Options>,
    /// Sockets that are not, or no longer, those of their slots.
    pub(super) apart: Vec<Apart>,
    /// The inodes of all its sockets, in the order of their group.
    pub(super) order: Vec<u64>,
    pub(super) v6only: bool,
    /// The sockets as workers found them, and what was logged about changes.
    pub(super) baseline: Baseline,
    /// Which generations are given it.
    pub(super) since: FirstGeneration,
    pub(super) until: Option<FirstGeneration>,
}

impl Listener {
    /// Its name in LISTEN_FDNAMES.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its address as the kernel has it: `[::]:5001` with the real port, `/run/app.sock`, `@name`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// What the dialects tell a worker about it.
    pub fn exported(&self) -> Exported<'_> {
        Exported {
            name: &self.name,
            address: &self.address,
            written: &self.written,
            kind: self.kind,
            inet: self.inet,
        }
    }

    /// `tcp`, `udp`, `unix`, `unix-dgram` or `unix-seqpacket`.
    pub fn kind(&self) -> &'static str {
        self.kind.as_str()
    }

    /// The socket for the workers of a slot in a generation. Without `reuseport` all slots share one
    /// socket. With it, slots beyond the number for which it was opened share the sockets of the first
    /// ones, and a generation may have one of its own in one slot.
    pub fn fd(&self, generation: u32, slot: u32) -> BorrowedFd<'_> {
        match self.apart(generation, slot) {
            Some(apart) => apart.fd.as_fd(),
            None => self.sockets[self.index(slot) as usize].as_fd(),
        }
    }

    /// The inode of that socket in sockfs, as `/proc/PID/fd` shows it. 0 if fstat(2) fails, which
    /// does not happen for an open socket.
    pub fn inode(&self, generation: u32, slot: u32) -> u64 {
        inode(self.fd(generation, slot))
    }

    /// How many connections may wait to be accepted: at most somaxconn, as in listen(2). 0 for
    /// datagrams.
    pub fn backlog(&self) -> u32 {
        self.backlog
    }

    /// Whether connections are accepted from it (so not datagrams).
    pub fn is_stream(&self) -> bool {
        self.kind.listens()
    }

    /// Whether it has a socket for each slot.
    pub fn reuseport(&self) -> bool {
        self.reuseport
    }
}

/// All listeners, in the order of the descriptors that a worker gets.
#[derive(Debug, Default)]
pub struct Listeners {
    pub(super) list: Vec<Listener>,
}

impl Listeners {
    /// Each listener in order.
    pub fn iter(&self) -> std::slice::Iter<'_, Listener> {
        self.list.iter()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Each unix path that we have bound.
    pub fn paths(&self) -> Vec<PathBuf> {
        self.list.iter().filter_map(|listener| Some(listener.path.as_ref()?.path.clone())).collect()
    }
}

impl<'a> IntoIterator for &'a Listeners {
    type Item = &'a Listener;
    type IntoIter = std::slice::Iter<'a, Listener>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}
