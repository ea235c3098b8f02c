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

/// The process of `tree` that listens so, and the address. `ours` are the inodes of all sockets
/// of ours that the worker may have, `waited` those on which it was seen waiting.
pub fn find<'a>(
    tree: &[Pid],
    mut listeners: impl Iterator<Item = &'a Listener>,
    ours: &BTreeSet<u64>,
    waited: &BTreeSet<u64>,
) -> Option<(Pid, &'a Listener)> {
    let own = own_sockets(tree, ours);
    if own.is_empty() {
        return None;
    }
    listeners.find_map(|listener| {
        let found = own.iter().find(|(pid, inode, bound)| listener.is_same_address(*pid, *inode, bound));
        let inodes: BTreeSet<u64> = listener.inodes().collect();
        let (pid, ..) = found.filter(|_| waited.is_disjoint(&inodes))?;
        (!accepting::is_any_waited_on(tree, &inodes)).then_some((*pid, listener))
    })
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
