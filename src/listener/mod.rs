//! Listeners: what we hold so that no restart is noticed.
//!
//! [`Bind`] is one `-b`, parsed. [`Upstream`] is what LISTEN_FDS says reached
//! us. [`Listeners::open`] first checks everything that can be checked without
//! a trace (descriptors, accounts, host names, path lengths), then binds in
//! order, and on the first failure closes and unlinks what it made.
//!
//! Every socket is close-on-exec, and blocking unless its BIND says otherwise.
//! It is made once and stays the same until we exit, whatever the number of
//! generations: so a unix path keeps its inode and a `reuseport` socket its
//! place in the group. What workers do to it meanwhile, [`Repair`] undoes. The path goes when [`Listeners`] is dropped, and only if
//! it is still ours; `process::exit` does not drop, so drop before it.

pub mod address;
pub mod change;
mod hard_link;
mod inet;
mod inherit;
mod load;
mod open;
pub mod options;
mod path;
mod private;
pub mod repair;
mod saved;
pub mod upstream;

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::stat::fstat;
use socket2::SockRef;

pub use address::Bind;
pub use private::{PrivateSocket, SavedPrivate};
pub use repair::Repair;
pub use saved::Saved;
pub use upstream::Upstream;

pub use crate::dialect::Kind;

use crate::dialect::Exported;
use crate::sys::fd;
use open::PathBind;
use options::{Family, Options};
use path::BoundPath;

impl Kind {
    /// The word for it in `ctl status`.
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
    fn listens(self) -> bool {
        matches!(self, Kind::Tcp | Kind::Unix | Kind::UnixSeqpacket)
    }

    fn family(self) -> Family {
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
    /// Stands before the sockets because fields are dropped in order and the
    /// inode of the path is safe from reuse only while they are open.
    path: Option<BoundPath>,
    sockets: Vec<OwnedFd>,
    name: String,
    address: String,
    /// The same with the host as the user wrote it.
    written: String,
    /// What to call it in a message about another one: the BIND as parsed.
    origin: String,
    kind: Kind,
    backlog: u32,
    /// Whether it was read or set, not guessed.
    backlog_known: bool,
    /// What its BIND says, or the worker's dialect.
    nonblock: Option<bool>,
    /// How to make another socket at its path.
    again: Option<PathBind>,
    inet: Option<SocketAddr>,
    reuseport: bool,
    v6only: bool,
    /// Which generations are given it.
    since: change::From,
    until: Option<change::From>,
}

impl Listener {
    /// What LISTEN_FDNAMES calls it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where it is bound, as the kernel has it: `[::]:5001` with the real port,
    /// `/run/app.sock`, `@name`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// What the dialects spell of it.
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

    /// The socket for the workers of a slot. Without `reuseport` it is the same
    /// for all; with it, slots beyond those that it was opened for share again.
    pub fn fd(&self, slot: u32) -> BorrowedFd<'_> {
        self.sockets[slot as usize % self.sockets.len()].as_fd()
    }

    /// Inode of that socket in sockfs, as `/proc/PID/fd` shows it; 0 if fstat(2)
    /// fails, which no open socket's does.
    pub fn inode(&self, slot: u32) -> u64 {
        fstat(self.fd(slot)).map_or(0, |file| file.st_ino)
    }

    /// How many connections wait to be accepted before more are turned away: at
    /// most somaxconn, as listen(2) has it. 0 if it takes none.
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

/// All of them, in the order of the descriptors that a worker gets.
#[derive(Debug, Default)]
pub struct Listeners {
    list: Vec<Listener>,
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

    /// Each unix path that is ours to keep.
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

/// Sets the options that a socket may have before or after it is bound.
fn tune(socket: &impl AsFd, options: &Options) -> io::Result<()> {
    // The FORCE options go beyond rmem_max and need CAP_NET_ADMIN: socket(7).
    if let Some(bytes) = options.rcvbuf.map(|bytes| bytes as usize)
        && setsockopt(socket, sockopt::RcvBufForce, &bytes).is_err()
    {
        setsockopt(socket, sockopt::RcvBuf, &bytes)?;
    }
    if let Some(bytes) = options.sndbuf.map(|bytes| bytes as usize)
        && setsockopt(socket, sockopt::SndBufForce, &bytes).is_err()
    {
        setsockopt(socket, sockopt::SndBuf, &bytes)?;
    }
    if let Some(seconds) = options.defer_accept {
        fd::set_defer_accept(socket.as_fd(), seconds)?;
    }
    if let Some(queue) = options.fastopen {
        fd::set_fastopen(socket.as_fd(), queue)?;
    }
    let socket = SockRef::from(socket);
    if options.nodelay {
        socket.set_tcp_nodelay(true)?;
    }
    match options.nonblock {
        Some(nonblock) => socket.set_nonblocking(nonblock),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests;
