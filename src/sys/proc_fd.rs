//! The descriptors of a process, as `/proc/PID/fd` shows them.
//!
//! As in [`tree`](super::tree), every result describes a moment that has passed. Without `/proc`,
//! or the right to read it, results are empty.

use super::proc;
use nix::unistd::Pid;
use std::collections::BTreeSet;
use std::fs;
use std::os::fd::RawFd;

/// The inodes of the sockets that `pid` has open.
pub fn socket_inodes(pid: Pid) -> BTreeSet<u64> {
    socket_fds(pid).map(|(_, inode)| inode).collect()
}

/// The descriptors of `pid` that are sockets, each with the inode of its socket.
pub fn socket_fds(pid: Pid) -> impl Iterator<Item = (RawFd, u64)> {
    let entries = proc::entries(pid, "fd").into_iter().flatten().flatten();
    entries.filter_map(|entry| {
        let inode = parse_socket_link(&fs::read_link(entry.path()).ok()?.to_string_lossy())?;
        Some((entry.file_name().to_str()?.parse().ok()?, inode))
    })
}

/// Whether the descriptor `number` of `pid` is the socket of this inode.
pub fn is_socket(pid: Pid, number: RawFd, inode: u64) -> bool {
    let target = proc::link(pid, &format!("fd/{number}"));
    target.is_ok_and(|target| target.to_str().and_then(parse_socket_link) == Some(inode))
}

/// The inodes of the files in the epoll instances of `pid`; None if it has no epoll instance.
pub fn epoll_inodes(pid: Pid) -> Option<BTreeSet<u64>> {
    let mut polled = None;
    for entry in proc::entries(pid, "fd").into_iter().flatten().flatten() {
        let is_epoll =
            fs::read_link(entry.path()).is_ok_and(|target| target.as_os_str() == "anon_inode:[eventpoll]");
        if !is_epoll {
            continue;
        }
        let set = entry.file_name().to_str().and_then(|name| name.parse().ok());
        let inodes: &mut BTreeSet<u64> = polled.get_or_insert_default();
        inodes.extend(set.into_iter().flat_map(|set| epoll_set_inodes(pid, set)));
    }
    polled
}

/// The inodes of the files in the epoll instance that is the descriptor `set` of `pid`.
pub fn epoll_set_inodes(pid: Pid, set: u64) -> BTreeSet<u64> {
    let info = proc::text(pid, &format!("fdinfo/{set}")).unwrap_or_default();
    // The inode is written in hexadecimal.
    let inode = |line: &str| line.split("ino:").nth(1)?.split_whitespace().next().map(str::to_owned);
    let inodes = info.lines().filter(|line| line.starts_with("tfd:")).filter_map(inode);
    inodes.filter_map(|hex| u64::from_str_radix(&hex, 16).ok()).collect()
}

/// Whether a single descriptor is the only reference of `pid` to the socket of this inode: no other
/// descriptor and no epoll instance refers to it. Then the whole process uses another socket once
/// that descriptor is replaced.
pub fn has_single_reference(pid: Pid, inode: u64) -> bool {
    socket_fds(pid).filter(|&(_, found)| found == inode).count() == 1
        && !epoll_inodes(pid).is_some_and(|polled| polled.contains(&inode))
}

/// The inode in `socket:[123]`, the target of a link in `/proc/PID/fd`.
pub fn parse_socket_link(target: &str) -> Option<u64> {
    target.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}
