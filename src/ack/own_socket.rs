//! Workers that listen on an address of ours with a socket of their own: a path that they have
//! removed and bound anew, or a port that SO_REUSEPORT lets them share.
//!
//! Contract: such a worker is found only on evidence. A process of it has the other socket, none
//! of them waits on ours, and none was seen waiting there. Where /proc cannot be read, none is
//! found.

use super::accepting;
use crate::listener::Listener;
use crate::sys::bound::{Bound, bound_sockets};
use nix::unistd::Pid;
use std::collections::BTreeSet;
use std::net::SocketAddr;

/// A socket that a process of a worker has at the address of a listener of ours.
#[derive(Debug)]
pub struct OwnSocket<'a> {
    pub pid: Pid,
    inode: u64,
    listener: &'a Listener,
    bound: Bound,
}

impl OwnSocket<'_> {
    /// Its inode, and the address of our listener.
    pub fn at(&self) -> (u64, String) {
        (self.inode, self.listener.address().to_owned())
    }

    /// Where it listens: at a port that may be another address than ours.
    pub fn address(&self) -> String {
        match &self.bound {
            Bound::Tcp(address) | Bound::Udp(address) => address.to_string(),
            Bound::Unix(_) => self.listener.address().to_owned(),
        }
    }
}

/// Those of `tree`, in the order of the listeners. `ours` are the inodes of all sockets of ours
/// that the worker may have, `waited` those on which it was seen waiting.
pub fn find<'a>(
    tree: &[Pid],
    listeners: impl Iterator<Item = &'a Listener>,
    ours: &BTreeSet<u64>,
    waited: &BTreeSet<u64>,
) -> Vec<OwnSocket<'a>> {
    let own = own_sockets(tree, ours);
    if own.is_empty() {
        return Vec::new();
    }
    let at = |listener: &'a Listener| -> Vec<OwnSocket<'a>> {
        let same = own.iter().filter(|(pid, inode, bound)| listener.is_same_address(*pid, *inode, bound));
        let found: Vec<_> = same
            .map(|(pid, inode, bound)| OwnSocket { pid: *pid, inode: *inode, listener, bound: bound.clone() })
            .collect();
        let inodes: BTreeSet<u64> = listener.inodes().collect();
        let uses_ours = !waited.is_disjoint(&inodes) || accepting::is_any_waited_on(tree, &inodes);
        if found.is_empty() || uses_ours { Vec::new() } else { found }
    };
    listeners.flat_map(at).collect()
}

/// The TCP addresses on which processes of `tree` listen, and which are none of `listeners`.
pub fn elsewhere<'a>(
    tree: &[Pid],
    listeners: impl Iterator<Item = &'a Listener> + Clone,
    ours: &BTreeSet<u64>,
) -> BTreeSet<SocketAddr> {
    let is_ours =
        |pid, inode, bound: &Bound| listeners.clone().any(|it| it.is_same_address(pid, inode, bound));
    let others =
        own_sockets(tree, ours).into_iter().filter(|(pid, inode, bound)| !is_ours(*pid, *inode, bound));
    let address = |bound| if let Bound::Tcp(address) = bound { Some(address) } else { None };
    others.filter_map(|(_, _, bound)| address(bound)).collect()
}

fn own_sockets(tree: &[Pid], ours: &BTreeSet<u64>) -> Vec<(Pid, u64, Bound)> {
    let of = |&pid: &Pid| bound_sockets(pid, ours).into_iter().map(move |(inode, bound)| (pid, inode, bound));
    tree.iter().flat_map(of).collect()
}
