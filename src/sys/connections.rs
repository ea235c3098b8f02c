//! How many connections of the given listeners each worker has.
//!
//! As all that is read about other processes, it describes a moment that has passed.

use super::diag::inet::{
    CLOSE_WAIT, ESTABLISHED, FIN_WAIT1, FIN_WAIT2, INODE, LAST_ACK, LOCAL_PORT, REQUEST,
};
use super::diag::{self, Query};
use super::proc_fd::socket_inodes;
use super::{proc, tree};
use nix::unistd::Pid;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

/// The size of struct unix_diag_req, and the offsets of the inode and the attributes in struct
/// unix_diag_msg (linux/unix_diag.h).
const UNIX_REQUEST: usize = 24;
const UNIX_INODE: usize = 4;
const UNIX_ATTRIBUTES: usize = 16;
const UDIAG_SHOW_NAME: u32 = 0x1;
const UDIAG_SHOW_RQLEN: u32 = 0x10;
const UNIX_DIAG_NAME: u16 = 0;
const UNIX_DIAG_RQLEN: u16 = 4;

/// The states in which a process may still have a descriptor of a connection.
const STATES: u32 = ESTABLISHED | FIN_WAIT1 | FIN_WAIT2 | CLOSE_WAIT | LAST_ACK;

/// The listeners and ports through which connections come in.
#[derive(Debug, Clone, Default)]
pub struct ListenPorts {
    /// The listeners themselves, by inode.
    pub listeners: BTreeSet<u64>,
    /// TCP ports at IPv4 addresses.
    pub ipv4_ports: BTreeSet<u16>,
    /// TCP ports at IPv6 addresses, which may accept IPv4 as well.
    pub ipv6_ports: BTreeSet<u16>,
    /// Names of unix sockets, as getsockname(2) has them: a path without its NUL,
    /// or an abstract name with the NUL before it.
    pub unix_names: BTreeSet<Vec<u8>>,
}

impl ListenPorts {
    /// Adds the port of this TCP address.
    pub fn add_tcp(&mut self, address: SocketAddr) {
        let ports = if address.is_ipv4() { &mut self.ipv4_ports } else { &mut self.ipv6_ports };
        ports.insert(address.port());
    }
}

/// The inodes of the TCP connections whose local port is `port`, in our network
/// namespace. Empty where the kernel cannot be asked.
pub fn tcp_at_port(port: u16) -> BTreeSet<u64> {
    let families = [libc::AF_INET, libc::AF_INET6];
    families.into_iter().flat_map(|family| tcp_connections(family, &BTreeSet::from([port]))).collect()
}

/// How many connections that came in through `listen_ports` each of these workers has, with its
/// descendants. A descendant that is a worker itself is counted alone. None where the descriptors
/// of a worker cannot be read.
pub fn connection_counts(workers: &[Pid], listen_ports: &ListenPorts) -> Vec<Option<u32>> {
    let others: BTreeSet<Pid> = workers.iter().copied().collect();
    let held = |&worker: &Pid| -> Option<BTreeSet<u64>> {
        proc::entries(worker, "fd").ok()?;
        let sockets = tree::walk(worker, &others).flat_map(socket_inodes);
        Some(sockets.filter(|inode| !listen_ports.listeners.contains(inode)).collect())
    };
    let held: Vec<Option<BTreeSet<u64>>> = workers.iter().map(held).collect();
    // The kernel goes through its whole table, which takes longer than the rest.
    let connections = match held.iter().flatten().all(BTreeSet::is_empty) {
        true => BTreeSet::new(),
        false => connections_through(listen_ports),
    };
    let count = |held: BTreeSet<u64>| held.intersection(&connections).count() as u32;
    held.into_iter().map(|held| held.map(count)).collect()
}

/// Every connection that came in through `listen_ports`.
fn connections_through(listen_ports: &ListenPorts) -> BTreeSet<u64> {
    let mut connections = BTreeSet::new();
    for (family, ports) in
        [(libc::AF_INET, &listen_ports.ipv4_ports), (libc::AF_INET6, &listen_ports.ipv6_ports)]
    {
        if !ports.is_empty() {
            connections.extend(tcp_connections(family, ports));
        }
    }
    if !listen_ports.unix_names.is_empty() {
        connections.extend(unix_connections(&listen_ports.unix_names));
    }
    connections
}

/// The TCP connections at `ports`.
fn tcp_connections(family: i32, ports: &BTreeSet<u16>) -> BTreeSet<u64> {
    let mut inodes = BTreeSet::new();
    // The kernel can select one port, not several.
    let port = if ports.len() == 1 { ports.first().copied().unwrap_or(0) } else { 0 };
    let mut body = vec![family as u8, libc::IPPROTO_TCP as u8, 0, 0];
    body.extend(STATES.to_ne_bytes());
    body.extend(port.to_be_bytes());
    body.resize(REQUEST, 0);
    let found = diag::send_query(Query::Dump, &body, |message| {
        let port = message
            .get(LOCAL_PORT..LOCAL_PORT + 2)
            .and_then(|bytes| bytes.try_into().ok())
            .map(u16::from_be_bytes);
        if port.is_some_and(|port| ports.contains(&port)) {
            inodes.extend(diag::read_u32(message, INODE).map(u64::from));
        }
    });
    if let Err(errno) = found {
        log::debug!("cannot ask for TCP connections: {errno}");
    }
    inodes
}

/// The unix connections of these listeners.
fn unix_connections(names: &BTreeSet<Vec<u8>>) -> BTreeSet<u64> {
    let accepted = unix_accepted(names)
        .inspect_err(|errno| log::debug!("cannot ask for unix connections: {errno}"))
        .unwrap_or_default();
    accepted.into_iter().map(|it| it.inode).collect()
}

/// A unix connection, as its listener's side has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnixConnection {
    /// The inode of that side; 0 before it is accepted.
    pub inode: u64,
    /// Whether something waits to be read there, or by the peer.
    pub queued: bool,
}

/// The connections that these unix listeners have accepted: such a socket has the name of its listener.
///
/// # Errors
/// ENOENT if the kernel was built without unix_diag, and those of sock_diag(7).
pub fn unix_accepted(names: &BTreeSet<Vec<u8>>) -> nix::Result<Vec<UnixConnection>> {
    let mut accepted = Vec::new();
    let body = unix_request(ESTABLISHED, 0, UDIAG_SHOW_NAME | UDIAG_SHOW_RQLEN);
    diag::send_query(Query::Dump, &body, |message| {
        let name = diag::attribute(message, UNIX_ATTRIBUTES, UNIX_DIAG_NAME);
        // The name ends with a NUL if the path was bound with one.
        let is_ours = |name: &[u8]| names.contains(name.strip_suffix(b"\0").unwrap_or(name));
        if let Some(inode) = diag::read_u32(message, UNIX_INODE).filter(|_| name.is_some_and(is_ours)) {
            let queues = diag::attribute(message, UNIX_ATTRIBUTES, UNIX_DIAG_RQLEN).unwrap_or_default();
            let queued = [0, 4].into_iter().any(|at| diag::read_u32(queues, at).is_some_and(|it| it > 0));
            accepted.push(UnixConnection { inode: inode.into(), queued });
        }
    })?;
    Ok(accepted)
}

/// How many connections wait to be accepted at each unix socket of these inodes. A socket that the
/// kernel does not list, because it was built without unix_diag, is left out.
pub fn unix_queues(inodes: &[u64]) -> BTreeMap<u64, u32> {
    let mut queues = BTreeMap::new();
    for &inode in inodes {
        let body = unix_request(u32::MAX, inode as u32, UDIAG_SHOW_RQLEN);
        let found = diag::send_query(Query::Single, &body, |message| {
            let queue = diag::attribute(message, UNIX_ATTRIBUTES, UNIX_DIAG_RQLEN);
            queues.extend(queue.and_then(|queue| Some((inode, diag::read_u32(queue, 0)?))));
        });
        if let Err(errno) = found {
            log::debug!("cannot ask for a unix socket: {errno}");
        }
    }
    queues
}

/// The body of a query for unix sockets: struct unix_diag_req, with any cookie.
pub(super) fn unix_request(states: u32, inode: u32, show: u32) -> Vec<u8> {
    let mut body = vec![libc::AF_UNIX as u8, 0, 0, 0];
    for number in [states, inode, show, u32::MAX, u32::MAX] {
        body.extend(number.to_ne_bytes());
    }
    debug_assert_eq!(body.len(), UNIX_REQUEST);
    body
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::proc_fd::parse_socket_link;
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsRawFd;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::net::{UnixListener, UnixStream};

    fn inode(socket: &impl AsRawFd) -> u64 {
        let link = std::fs::read_link(format!("/proc/self/fd/{}", socket.as_raw_fd())).expect("a link");
        parse_socket_link(&link.to_string_lossy()).expect("a socket")
    }

    #[test]
    fn a_connection_is_found_by_the_port_of_its_listener() {
        for host in ["127.0.0.1:0", "[::]:0"] {
            let Ok(listener) = TcpListener::bind(host) else { continue };
            let port = listener.local_addr().expect("an address").port();
            let client = TcpStream::connect(("127.0.0.1", port)).expect("connect");
            let (server, _) = listener.accept().expect("accept");
            let server_inode = inode(&server);
            assert_eq!(tcp_at_port(port), BTreeSet::from([server_inode]), "{host}");
            let ports = BTreeSet::from([port, 1]);
            let listen_ports = match listener.local_addr().expect("an address").is_ipv4() {
                true => ListenPorts { ipv4_ports: ports, ..ListenPorts::default() },
                false => ListenPorts { ipv6_ports: ports, ..ListenPorts::default() },
            };
            assert!(connections_through(&listen_ports).contains(&server_inode), "{host}");
            assert_eq!(
                connection_counts(&[Pid::this(), Pid::from_raw(i32::MAX)], &listen_ports),
                [Some(1), None]
            );
            drop((server, client));
            assert!(!tcp_at_port(port).contains(&server_inode), "{host}");
        }
    }

    #[test]
    fn a_unix_connection_is_found_by_the_name_of_its_listener() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("s");
        let listener = UnixListener::bind(&path).expect("bind");
        let waiting = UnixStream::connect(&path).expect("connect");
        let another = UnixStream::connect(&path).expect("connect");
        assert_eq!(unix_queues(&[inode(&listener)]), BTreeMap::from([(inode(&listener), 2)]));
        let (server, _) = listener.accept().expect("accept");
        let names = BTreeSet::from([path.as_os_str().as_bytes().to_vec()]);
        assert!(unix_connections(&names).contains(&inode(&server)));
        assert!(!unix_connections(&names).contains(&inode(&waiting)), "the client's end has no name");
        let listen_ports = ListenPorts { unix_names: names, ..ListenPorts::default() };
        assert_eq!(connection_counts(&[Pid::this()], &listen_ports), [Some(1)]);
        assert_eq!(unix_queues(&[inode(&listener), 1]).get(&1), None);
        drop(another);
    }
}
