//! The sockets that a process has bound, with their addresses: read from `/proc`.
//!
//! As in [`tree`](super::tree), every result describes a moment that has passed. Without `/proc`,
//! or the right to read it, results are empty.

use super::connections::unix_request;
use super::diag::{self, Query};
use super::proc;
use super::proc_fd::socket_inodes;
use nix::unistd::Pid;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::io::{BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

/// The offset of the attributes in struct unix_diag_msg, and what asks for the file
/// (linux/unix_diag.h).
const UNIX_ATTRIBUTES: usize = 16;
const UDIAG_SHOW_VFS: u32 = 0x2;
const UNIX_DIAG_VFS: u16 = 1;

/// The address of a socket that connections or datagrams of any client reach.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Bound {
    /// It listens (tcp(7)).
    Tcp(SocketAddr),
    /// It is not connected (udp(7)).
    Udp(SocketAddr),
    /// It listens, or takes datagrams (unix(7)): the path as the process wrote it.
    Unix(PathBuf),
}

/// Such sockets that `pid` has open, by inode, except those that are `known`.
pub fn bound_sockets(pid: Pid, known: &BTreeSet<u64>) -> BTreeMap<u64, Bound> {
    let held: BTreeSet<u64> = socket_inodes(pid).difference(known).copied().collect();
    if held.is_empty() {
        return BTreeMap::new();
    }
    let mut bound = BTreeMap::new();
    for table in ["tcp", "tcp6"] {
        // The kernel lists the listeners before all connections, which may be many.
        let rows = rows(pid, table).map_while(|row| inet_row(&row, "0A"));
        bound.extend(rows.map(|(inode, address)| (inode, Bound::Tcp(address))));
    }
    for table in ["udp", "udp6"] {
        let rows = rows(pid, table).filter_map(|row| inet_row(&row, "07"));
        bound.extend(rows.map(|(inode, address)| (inode, Bound::Udp(address))));
    }
    let paths = rows(pid, "unix").filter_map(|row| unix_row(&row));
    bound.extend(paths.map(|(inode, path)| (inode, Bound::Unix(path))));
    bound.retain(|inode, _| held.contains(inode));
    bound
}

/// Whether two processes are in the same network namespace (network_namespaces(7)).
pub fn share_network(one: Pid, other: Pid) -> bool {
    let namespace = |pid: Pid| proc::link(pid, "ns/net").ok();
    namespace(one).is_some_and(|one| Some(one) == namespace(other))
}

/// The number of the inode of the file that a unix socket of our network namespace is bound to.
pub fn unix_file(socket: u64) -> Option<u32> {
    let mut file = None;
    let body = unix_request(u32::MAX, socket as u32, UDIAG_SHOW_VFS);
    let found = diag::send_query(Query::Single, &body, |message| {
        let vfs = diag::attribute(message, UNIX_ATTRIBUTES, UNIX_DIAG_VFS);
        file = vfs.and_then(|vfs| diag::read_u32(vfs, 0));
    });
    found.ok().and(file)
}

/// Whether one of `pids` has a connection that it has accepted at this path, or abstract name with
/// `@` before it.
pub fn have_accepted_at(pids: &[Pid], name: &OsStr) -> bool {
    !accepted_at(pids, name).is_empty()
}

/// The connections of `pids` that they have accepted at this path or abstract name: an accepted
/// socket has the name of its listener.
pub fn accepted_at(pids: &[Pid], name: &OsStr) -> BTreeSet<u64> {
    let accepted =
        |row: Vec<u8>| unix_fields(&row).filter(|it| !it.listens && it.name == name).map(|it| it.inode);
    let of = |pid: Pid| {
        let held = socket_inodes(pid);
        let table = (!held.is_empty()).then(|| rows(pid, "unix"));
        let found: BTreeSet<u64> = table.into_iter().flatten().filter_map(accepted).collect();
        found.intersection(&held).copied().collect::<Vec<_>>()
    };
    pids.iter().flat_map(|&pid| of(pid)).collect()
}

/// The lines below the heading.
fn rows(pid: Pid, table: &str) -> impl Iterator<Item = Vec<u8>> {
    let table = proc::open(pid, &format!("net/{table}")).ok();
    let lines = table.into_iter().flat_map(|table| BufReader::new(table).split(b'\n'));
    lines.skip(1).map_while(Result::ok)
}

/// The fields of a line, and what comes after the last of them.
fn fields<const N: usize>(row: &[u8]) -> Option<([&str; N], &[u8])> {
    let mut found = [""; N];
    let mut rest = row;
    for field in &mut found {
        rest = rest.trim_ascii_start();
        let end = rest.iter().position(u8::is_ascii_whitespace).unwrap_or(rest.len());
        *field = std::str::from_utf8(&rest[..end]).ok().filter(|field| !field.is_empty())?;
        rest = &rest[end..];
    }
    Some((found, rest))
}

/// proc_pid_net(5): the second field is the local address, the fourth the state, the tenth the
/// inode. None for another state.
fn inet_row(row: &[u8], wanted: &str) -> Option<(u64, SocketAddr)> {
    let ([_, local, _, state, .., inode], _) = fields::<10>(row)?;
    let (host, port) = local.split_once(':').filter(|_| state == wanted)?;
    let port = u16::from_str_radix(port, 16).ok()?;
    Some((inode.parse().ok()?, SocketAddr::new(host_of(host)?, port)))
}

/// Each word of 32 bits of an address is written as a number of this machine.
fn host_of(text: &str) -> Option<IpAddr> {
    let words = text.as_bytes().chunks(8).map(|word| {
        let word = u32::from_str_radix(std::str::from_utf8(word).ok()?, 16).ok()?;
        Some(word.to_ne_bytes())
    });
    let bytes: Vec<u8> = words.collect::<Option<Vec<[u8; 4]>>>()?.concat();
    match <[u8; 4]>::try_from(&*bytes) {
        Ok(bytes) => Some(Ipv4Addr::from(bytes).into()),
        Err(_) => Some(Ipv6Addr::from(<[u8; 16]>::try_from(&*bytes).ok()?).into()),
    }
}

/// A line of the table of unix sockets.
struct UnixRow {
    inode: u64,
    listens: bool,
    is_datagram: bool,
    /// A path, or `@` and an abstract name.
    name: OsString,
}

/// The fourth field holds the flags, the fifth the type, the seventh the inode; then comes the
/// name. None without a name.
fn unix_fields(row: &[u8]) -> Option<UnixRow> {
    /// __SO_ACCEPTCON.
    const LISTENS: u32 = 1 << 16;
    const DATAGRAM: u32 = libc::SOCK_DGRAM as u32;
    let ([_, _, _, flags, kind, _, inode], name) = fields::<7>(row)?;
    let listens = u32::from_str_radix(flags, 16).ok()? & LISTENS != 0;
    let is_datagram = u32::from_str_radix(kind, 16).ok()? == DATAGRAM;
    let name = OsStr::from_bytes(name.strip_prefix(b" ").filter(|name| !name.is_empty())?).into();
    Some(UnixRow { inode: inode.parse().ok()?, listens, is_datagram, name })
}

/// A socket at a path; only one socket can have an abstract name.
fn unix_row(row: &[u8]) -> Option<(u64, PathBuf)> {
    let row = unix_fields(row).filter(|row| row.listens || row.is_datagram)?;
    (!row.name.as_bytes().starts_with(b"@")).then(|| (row.inode, row.name.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::fd;
    use std::net::{TcpListener, TcpStream, UdpSocket};
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::MetadataExt;
    use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};

    fn inode(socket: &impl AsRawFd) -> u64 {
        fd::device_and_inode(socket.as_raw_fd()).expect("an open socket").1
    }

    #[test]
    fn only_sockets_that_any_client_reaches_are_bound() {
        let directory = tempfile::tempdir().expect("a directory");
        let tcp = ["127.0.0.1:0", "[::1]:0"].map(|host| TcpListener::bind(host).expect("bind"));
        let udp = UdpSocket::bind("127.0.0.1:0").expect("bind");
        let connected = UdpSocket::bind("127.0.0.1:0").expect("bind");
        connected.connect(udp.local_addr().expect("an address")).expect("connect");
        let path = directory.path().join("a path");
        let unix = UnixListener::bind(&path).expect("bind");
        let datagram = UnixDatagram::bind(directory.path().join("d")).expect("bind");
        let _client = UnixStream::connect(&path).expect("connect");
        let (accepted, _) = unix.accept().expect("accept");
        let stream = TcpStream::connect(tcp[0].local_addr().expect("an address")).expect("connect");
        let found = bound_sockets(Pid::this(), &BTreeSet::from([inode(&datagram)]));
        for socket in &tcp {
            let address = socket.local_addr().expect("an address");
            assert_eq!(found.get(&inode(socket)), Some(&Bound::Tcp(address)));
        }
        assert_eq!(found.get(&inode(&udp)), Some(&Bound::Udp(udp.local_addr().expect("an address"))));
        assert_eq!(found.get(&inode(&unix)), Some(&Bound::Unix(path.clone())));
        let datagrams = bound_sockets(Pid::this(), &BTreeSet::new());
        assert_eq!(datagrams.get(&inode(&datagram)), Some(&Bound::Unix(directory.path().join("d"))));
        for other in [inode(&datagram), inode(&connected), inode(&accepted), inode(&stream)] {
            assert_eq!(found.get(&other), None);
        }
        assert!(have_accepted_at(&[Pid::this()], path.as_os_str()));
        drop(accepted);
        assert!(!have_accepted_at(&[Pid::this()], path.as_os_str()), "the client's end has no name");
        let file = std::fs::metadata(&path).expect("the file").ino();
        assert_eq!(unix_file(inode(&unix)), Some(file as u32));
        assert!(share_network(Pid::this(), Pid::this()));
    }
}
