//! The sockets that the processes of a tree have open, read from `/proc`.
//!
//! Results describe a moment that has passed. What cannot be read is an error and never an empty
//! result, because a worker without connections counts as drained.

use super::{proc, proc_fd, tree};
use nix::errno::Errno;
use nix::fcntl::readlinkat;
use nix::sys::signal::kill;
use nix::unistd::Pid;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::io;
use std::os::fd::RawFd;

/// By which of our descendants, workers and their orphans, these sockets are held: for each the
/// process and the number of a descriptor.
///
/// # Errors
/// As [`tree_sockets`].
pub fn holders(inodes: &BTreeSet<u64>) -> io::Result<BTreeMap<u64, (Pid, RawFd)>> {
    let mut found = BTreeMap::new();
    for pid in tree::walk(Pid::this(), &BTreeSet::new()).skip(1) {
        if found.len() == inodes.len() {
            break;
        }
        let added = for_each_fd(pid, |number, inode| {
            if inodes.contains(&inode) {
                found.insert(inode, (pid, number));
            }
        });
        ignore_ended(pid, added)?;
    }
    Ok(found)
}

/// The inodes of the sockets that `root` and its descendants have open, without `others` and their
/// descendants. A process that has ended has none.
///
/// # Errors
/// Why the descriptors of a live process could not be read.
pub fn tree_sockets(root: Pid, others: &BTreeSet<Pid>) -> io::Result<HashSet<u64>> {
    let mut held = HashSet::new();
    for pid in tree::walk(root, others) {
        let added = for_each_fd(pid, |_, inode| {
            held.insert(inode);
        });
        ignore_ended(pid, added)?;
    }
    Ok(held)
}

/// A process that has ended has no descriptors.
fn ignore_ended(pid: Pid, result: io::Result<()>) -> io::Result<()> {
    result.or_else(|error| if has_ended(pid) { Ok(()) } else { Err(error) })
}

/// Passes each descriptor of the process that is a socket to `each`, with its inode.
fn for_each_fd(pid: Pid, mut each: impl FnMut(RawFd, u64)) -> io::Result<()> {
    let directory = proc::open(pid, "fd")?;
    for entry in proc::entries(pid, "fd")? {
        let name = entry?.file_name();
        let number = || name.to_str()?.parse().ok();
        match readlinkat(&directory, name.as_os_str()) {
            Ok(target) => {
                let inode = target.to_str().and_then(proc_fd::parse_socket_link);
                if let Some((number, inode)) = number().zip(inode) {
                    each(number, inode);
                }
            }
            // It has been closed meanwhile.
            Err(Errno::ENOENT) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

/// Whether `pid` has ended. `/proc` may be missing, or hide the processes of other users (hidepid
/// of proc(5)).
fn has_ended(pid: Pid) -> bool {
    match tree::stat(pid) {
        Some(stat) => !stat.is_live(),
        None => kill(pid, None) == Err(Errno::ESRCH),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::fd;
    use std::net::TcpListener;
    use std::os::fd::AsRawFd;

    fn inode(socket: &TcpListener) -> u64 {
        fd::device_and_inode(socket.as_raw_fd()).expect("it is open").1
    }

    #[test]
    fn a_process_that_has_ended_has_no_sockets() {
        let socket = TcpListener::bind("127.0.0.1:0").expect("bind");
        assert!(tree_sockets(Pid::this(), &BTreeSet::new()).expect("ours").contains(&inode(&socket)));
        assert!(tree_sockets(Pid::from_raw(i32::MAX), &BTreeSet::new()).expect("gone").is_empty());
    }
}
