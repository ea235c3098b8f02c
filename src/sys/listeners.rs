//! The listening sockets of processes, by inode, and the connections that these have accepted: read
//! from `/proc`.
//!
//! As in [`tree`](super::tree), every result describes a moment that has passed. Without `/proc`,
//! or the right to read it, results are empty.

use super::proc_fd::{socket_fds, socket_inodes};
use super::{connections, fd, pidfd, proc};
use nix::errno::Errno;
use nix::unistd::Pid;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::os::fd::AsRawFd;

/// The listening stream sockets that one of `pids` has open. All are assumed to be in the network
/// namespace of the first process that exists.
pub fn listening_sockets(pids: &[Pid]) -> BTreeSet<u64> {
    let held: BTreeSet<u64> = pids.iter().flat_map(|&pid| socket_inodes(pid)).collect();
    if held.is_empty() {
        return held;
    }
    let listening = pids.iter().find_map(|&pid| listening_inodes(pid)).unwrap_or_default();
    held.intersection(&listening).copied().collect()
}

/// The listening sockets in the network namespace of `pid`.
fn listening_inodes(pid: Pid) -> Option<BTreeSet<u64>> {
    let unix = proc::open(pid, "net/unix").ok()?;
    let mut inodes: BTreeSet<u64> = lines(unix).filter_map(|line| unix_inode(&line)).collect();
    for table in ["tcp", "tcp6"] {
        if let Ok(table) = proc::open(pid, &format!("net/{table}")) {
            // The kernel lists them before all connections, which may be many.
            inodes.extend(lines(table).map_while(|line| tcp_inode(&line)));
        }
    }
    Some(inodes)
}

/// Whether `pids`, and none of `others`, have a TCP connection of each of these listeners, which
/// they must have accepted. A busy server is recognised by this, because it is never seen to wait.
pub fn have_accepted_on_each(pids: &[Pid], others: &[Pid], listeners: &BTreeSet<u64>) -> bool {
    let Some(ports) = pids.iter().find_map(|&pid| namespace_ports(pid)) else { return false };
    !listeners.is_empty()
        && listeners
            .iter()
            .all(|inode| ports.get(inode).is_some_and(|&port| have_accepted_on(pids, others, port)))
}

/// Whether `pids`, and none of `others`, have a connection that came in through `port`.
pub fn have_accepted_on(pids: &[Pid], others: &[Pid], port: u16) -> bool {
    /// A connection may end before it is seen.
    const ATTEMPTS: u32 = 3;
    (0..ATTEMPTS).any(|_| {
        let connections = connections_through(pids, port);
        !connections.is_empty() && !connections.is_subset(&sockets(others))
    })
}

/// The connections of `pids` that came in through a port on which one of them listens.
pub fn accepted(pids: &[Pid]) -> BTreeSet<u64> {
    let ports: BTreeSet<u16> = pids.iter().flat_map(|&pid| listen_ports(pid)).collect();
    ports.into_iter().flat_map(|port| connections_through(pids, port)).collect()
}

/// The connections of `pids` that came in through `port`.
pub fn connections_through(pids: &[Pid], port: u16) -> BTreeSet<u64> {
    match connections_at(pids, port) {
        Ok(connections) => connections,
        // Without the right to duplicate descriptors, the kernel is asked for all connections,
        // which takes longer than many connections last.
        Err(_) => connections::tcp_at_port(port).intersection(&sockets(pids)).copied().collect(),
    }
}

fn sockets(pids: &[Pid]) -> BTreeSet<u64> {
    pids.iter().flat_map(|&pid| socket_inodes(pid)).collect()
}

/// The inodes of the connections through `port` that `pids` have open, read from duplicates of
/// their sockets.
///
/// # Errors
/// Those of [`pidfd::duplicate`], except for a process or a descriptor that has gone.
fn connections_at(pids: &[Pid], port: u16) -> nix::Result<BTreeSet<u64>> {
    let mut seen = BTreeSet::new();
    for &pid in pids {
        for (number, _) in socket_fds(pid) {
            let socket = match pidfd::duplicate(pid, number) {
                Ok(socket) => TcpStream::from(socket),
                Err(Errno::ESRCH | Errno::EBADF) => continue,
                Err(errno) => return Err(errno),
            };
            let ours = socket.local_addr().is_ok_and(|local| local.port() == port);
            if ours && socket.peer_addr().is_ok() {
                seen.extend(fd::device_and_inode(socket.as_raw_fd()).map(|(_, inode)| inode));
            }
        }
    }
    Ok(seen)
}

/// The connections that came in through one of `ports` and that `pid` has open. Empty without the
/// right to duplicate its descriptors.
pub fn accepted_connections(pid: Pid, ports: &BTreeSet<u16>) -> BTreeSet<u64> {
    ports.iter().flat_map(|&port| connections_at(&[pid], port).unwrap_or_default()).collect()
}

/// The TCP ports that `pid` itself listens on.
pub fn listen_ports(pid: Pid) -> BTreeSet<u16> {
    let held = socket_inodes(pid);
    let ports = namespace_ports(pid).unwrap_or_default();
    ports.into_iter().filter(|(inode, _)| held.contains(inode)).map(|(_, port)| port).collect()
}

/// The ports of the listeners in the network namespace of `pid`, by inode.
fn namespace_ports(pid: Pid) -> Option<BTreeMap<u64, u16>> {
    let tables = ["tcp", "tcp6"].map(|table| proc::open(pid, &format!("net/{table}")).ok());
    let [four, six] = tables;
    let rows = |table: File| lines(table).map_while(|line| tcp_row(&line).filter(|row| row.is_listening));
    let rows = rows(four?).chain(six.into_iter().flat_map(rows));
    Some(rows.map(|row| (row.inode, row.port)).collect())
}

/// A line of the TCP tables.
struct Row {
    port: u16,
    is_listening: bool,
    inode: u64,
}

/// The lines below the heading.
fn lines(table: File) -> impl Iterator<Item = String> {
    BufReader::new(table).lines().skip(1).map_while(Result::ok)
}

/// proc_pid_net(5): the second field is the local address, the fourth the state,
/// the tenth the inode.
fn tcp_row(line: &str) -> Option<Row> {
    /// TCP_LISTEN.
    const LISTEN: &str = "0A";
    let mut fields = line.split_whitespace();
    let (_, port) = fields.nth(1)?.rsplit_once(':')?;
    let is_listening = fields.nth(1)? == LISTEN;
    let port = u16::from_str_radix(port, 16).ok()?;
    Some(Row { port, is_listening, inode: fields.nth(5)?.parse().ok()? })
}

/// The inode of a socket that listens.
fn tcp_inode(line: &str) -> Option<u64> {
    tcp_row(line).filter(|row| row.is_listening).map(|row| row.inode)
}

/// The fourth field holds the flags, the seventh the inode.
fn unix_inode(line: &str) -> Option<u64> {
    /// __SO_ACCEPTCON.
    const LISTEN: u32 = 1 << 16;
    let mut fields = line.split_whitespace();
    let flags = u32::from_str_radix(fields.nth(3)?, 16).ok()?;
    (flags & LISTEN != 0).then(|| fields.nth(2)?.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::net::TcpListener;
    use std::os::unix::net::UnixListener;

    fn inode(socket: &impl AsRawFd) -> u64 {
        let link = fs::read_link(format!("/proc/self/fd/{}", socket.as_raw_fd())).expect("a link");
        crate::sys::proc_fd::parse_socket_link(&link.to_string_lossy()).expect("a socket")
    }

    #[test]
    fn listeners_are_distinguished_from_connections() {
        let four = TcpListener::bind("127.0.0.1:0").expect("bind");
        let client = TcpStream::connect(four.local_addr().expect("an address")).expect("connect");
        let path = tempfile::tempdir().expect("a directory");
        let unix = UnixListener::bind(path.path().join("s")).expect("bind");
        let (server, _) = four.accept().expect("accept");
        let (we, listener) = ([Pid::this()], BTreeSet::from([inode(&four)]));
        assert!(have_accepted_on_each(&we, &[], &listener) && !have_accepted_on_each(&we, &we, &listener));
        drop((client.shutdown(std::net::Shutdown::Both), server));
        let held = listening_sockets(&[Pid::from_raw(i32::MAX), Pid::this()]);
        assert!(held.contains(&inode(&four)) && held.contains(&inode(&unix)), "{held:?}");
        assert!(!held.contains(&inode(&client)), "{held:?}");
    }

    #[test]
    fn lines_of_another_form_are_skipped() {
        for line in ["", "sl local_address rem_address st", "0: 0100007F:1389 00000000:0000 01 0 0 0 0 0 7"] {
            assert_eq!(tcp_inode(line), None, "{line}");
        }
        for line in ["", "Num RefCount Protocol Flags", "0: 00000003 00000000 00000000 0001 03 5150"] {
            assert_eq!(unix_inode(line), None, "{line}");
        }
    }
}
