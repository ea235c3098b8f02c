//! TCP connections on local ports: sock_diag(7), or `/proc/net/tcp` where that cannot be had.
//!
//! Results describe a moment that has passed. What cannot be read is an error and never an empty
//! result, because a worker without connections counts as drained.

use super::diag::inet::{CLOSE_WAIT, ESTABLISHED, FIN_WAIT1, FIN_WAIT2, INODE, LOCAL_PORT, REQUEST};
use super::diag::{self, Query};
use super::port_filter::{Side, with_filter};
use super::proc_tcp::{self, LISTEN, Row};
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::Duration;

/// The size of struct inet_diag_req, the offset of its states, and more offsets in struct
/// inet_diag_msg (linux/inet_diag.h).
const OLD_REQUEST: usize = 60;
const OLD_REQUEST_STATES: usize = 52;
const REMOTE_PORT: usize = 6;
const LOCAL: usize = 8;
const REMOTE: usize = 24;
const DEVICE: usize = 40;
const RQUEUE: usize = 56;
const WQUEUE: usize = 60;
const ATTRIBUTES: usize = 72;

/// Attributes of requests and replies (linux/inet_diag.h).
const INET_DIAG_INFO: u16 = 2;
const INET_DIAG_SKV6ONLY: u16 = 11;

/// States, as bits (tcp_states.h).
const SYN_SENT: u32 = 1 << 2;
const SYN_RECV: u32 = 1 << 3;
const NEW_SYN_RECV: u32 = 1 << 12;

/// The two addresses of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Flow {
    /// Ours.
    pub local: SocketAddr,
    /// The peer's.
    pub remote: SocketAddr,
}

/// A connection that a process may have open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Connection {
    /// The inode of its socket; zero if no process has a descriptor of it, because it waits to be
    /// accepted or has been closed.
    pub inode: u64,
    /// Bytes that were received and have not been read; the peer's FIN counts as one.
    pub rqueue: u32,
    /// Bytes that the peer has not acknowledged.
    pub wqueue: u32,
    /// None where the kernel does not report it.
    pub tcp_info: Option<TcpInfo>,
}

/// The traffic of a connection: tcp_info of tcp(7). Its times have the resolution of the kernel's
/// tick, 1 to 10 ms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TcpInfo {
    /// Time since data was last sent; if none was, since the connection was made.
    pub since_sent: Duration,
    /// Time since data was last received; if none was, since the connection was made.
    pub since_received: Duration,
    /// Bytes received; the peer's FIN counts as one.
    pub bytes_received: u64,
    /// Segments sent since the handshake.
    pub segments_sent: u32,
    /// Those of them that carried data.
    pub data_segments_sent: u32,
}

/// A listening TCP socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListenSocket {
    /// Its inode.
    pub inode: u64,
    /// What it is bound to.
    pub address: SocketAddr,
    /// IPV6_V6ONLY, of a socket of IPv6.
    pub v6only: Option<bool>,
    /// The index of the interface that it is bound to, or zero.
    pub device: u32,
}

/// The handshakes under way at `ports`: each belongs to the listener that received its SYN, and
/// will enter the queue of that listener.
///
/// # Errors
/// As [`connections`].
pub fn handshakes(ports: &BTreeSet<u16>) -> nix::Result<BTreeSet<Flow>> {
    let mut flows = BTreeSet::new();
    let asked = for_each_socket(SYN_RECV | NEW_SYN_RECV, 0, ports, |message| {
        flows.extend(local(message).zip(remote(message)).map(|(local, remote)| Flow { local, remote }));
    });
    or_read_rows(asked, SYN_RECV, |row| {
        if ports.contains(&row.local.port()) {
            flows.insert(Flow { local: row.local, remote: row.remote });
        }
    })?;
    Ok(flows)
}

/// The connections that came in through `ports` and that a process may still serve. LAST_ACK is
/// left out, because both ends have closed. SYN_RECV is included: with TCP Fast Open a socket is
/// accepted, and has an inode, before its handshake is over.
///
/// # Errors
/// The kernel's, for example ENOENT where it was built without tcp_diag; but only without `/proc`,
/// which is read then.
pub fn connections(ports: &BTreeSet<u16>) -> nix::Result<Vec<Connection>> {
    let mut found = Vec::new();
    let states = SYN_RECV | ESTABLISHED | FIN_WAIT1 | FIN_WAIT2 | CLOSE_WAIT;
    let asked = for_each_socket(states, 1 << (INET_DIAG_INFO - 1), ports, |message| {
        found.extend(read_connection(message));
    });
    or_read_rows(asked, states, |row| {
        if ports.contains(&row.local.port()) {
            let Row { inode, rqueue, wqueue, .. } = *row;
            found.push(Connection { inode, rqueue, wqueue, tcp_info: None });
        }
    })?;
    Ok(found)
}

/// Connections that this machine has made to itself, at `ports`, that ended without a byte before
/// anybody has accepted them; and how long ago they were made.
///
/// # Errors
/// The kernel's, where sock_diag(7) cannot be asked.
pub fn closed_in_queue(ports: &BTreeSet<u16>) -> nix::Result<Vec<(SocketAddr, Duration)>> {
    let mut found = Vec::new();
    for_each_socket(CLOSE_WAIT, 1 << (INET_DIAG_INFO - 1), ports, |message| {
        let ended = || {
            let (local, remote) = (local(message)?, remote(message)?);
            let ips = [local, remote].map(|address| address.ip().to_canonical());
            let is_own = ips[0] == ips[1] || ips.iter().all(IpAddr::is_loopback);
            let connection = read_connection(message).filter(|open| is_own && open.inode == 0)?;
            // The FIN counts as one.
            let info = connection.tcp_info.filter(|info| info.bytes_received <= 1)?;
            Some((local, info.since_received))
        };
        found.extend(ended());
    })?;
    Ok(found)
}

/// Connections that are open, or begin, to `ports`: the address that each leads to, and its inode.
///
/// # Errors
/// The kernel's, where sock_diag(7) cannot be asked.
pub fn connections_to(ports: &BTreeSet<u16>) -> nix::Result<Vec<(SocketAddr, u64)>> {
    let mut found = Vec::new();
    for_each_at(Side::Remote, ESTABLISHED | SYN_SENT, 0, ports, |message| {
        found.extend(remote(message).zip(diag::read_u32(message, INODE).map(u64::from)));
    })?;
    Ok(found)
}

/// Every listening socket at `port`, of one family, AF_INET or AF_INET6.
///
/// # Errors
/// As [`connections`].
pub fn listen_sockets(family: i32, port: u16) -> nix::Result<Vec<ListenSocket>> {
    let mut found = Vec::new();
    let mut body = vec![family as u8, libc::IPPROTO_TCP as u8, 0, 0];
    body.extend(LISTEN.to_ne_bytes());
    body.resize(REQUEST, 0);
    let asked = diag::send_query(Query::Dump, &with_filter(body, Side::Local, &[port]), |message| {
        let listening = || {
            Some(ListenSocket {
                inode: diag::read_u32(message, INODE)?.into(),
                address: local(message)?,
                v6only: diag::attribute(message, ATTRIBUTES, INET_DIAG_SKV6ONLY)
                    .and_then(|value| Some(*value.first()? != 0)),
                device: diag::read_u32(message, DEVICE)?,
            })
        };
        found.extend(listening());
    });
    or_read_rows(asked, LISTEN, |row| {
        if row.local.port() == port && row.local.is_ipv4() == (family == libc::AF_INET) {
            found.push(ListenSocket { inode: row.inode, address: row.local, v6only: None, device: 0 });
        }
    })?;
    Ok(found)
}

/// Whether the socket of this inode listens at `address`.
///
/// # Errors
/// As [`connections`].
pub fn is_listening(address: SocketAddr, inode: u64) -> nix::Result<bool> {
    let family = if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    Ok(listen_sockets(family, address.port())?.iter().any(|found| found.inode == inode))
}

/// Reads the rows of `/proc` if sock_diag(7) gave no answer.
fn or_read_rows(asked: nix::Result<()>, states: u32, each: impl FnMut(&Row)) -> nix::Result<()> {
    asked.or_else(|errno| {
        log::debug!("cannot ask sock_diag for TCP sockets ({errno}): /proc/net/tcp is read");
        proc_tcp::for_each(states, each).map_err(|_| errno)
    })
}

/// Whether sock_diag(7) answers. Where it does not, [`connections`] have no [`TcpInfo`].
///
/// # Errors
/// Why it does not.
pub fn can_ask() -> nix::Result<()> {
    for_each_socket(LISTEN, 0, &BTreeSet::from([1]), |_| {})
}

/// Queries the sockets of both families at these ports, and passes each message to `each`.
fn for_each_socket(
    states: u32,
    extra: u8,
    ports: &BTreeSet<u16>,
    each: impl FnMut(&[u8]),
) -> nix::Result<()> {
    for_each_at(Side::Local, states, extra, ports, each)
}

/// The same, where the ports are those of this side.
fn for_each_at(
    side: Side,
    states: u32,
    extra: u8,
    ports: &BTreeSet<u16>,
    mut each: impl FnMut(&[u8]),
) -> nix::Result<()> {
    /// The most ports in one query, whose filter has a length of 16 bits.
    const MAX_PORTS: usize = 100;
    let ports: Vec<u16> = ports.iter().copied().collect();
    for ports in ports.chunks(MAX_PORTS) {
        let mut body = vec![libc::AF_UNSPEC as u8, 0, 0, extra];
        body.resize(OLD_REQUEST_STATES, 0);
        body.extend(states.to_ne_bytes());
        body.resize(OLD_REQUEST, 0);
        diag::send_query(Query::TcpDump, &with_filter(body, side, ports), &mut each)?;
    }
    Ok(())
}

fn read_connection(message: &[u8]) -> Option<Connection> {
    Some(Connection {
        inode: diag::read_u32(message, INODE)?.into(),
        rqueue: diag::read_u32(message, RQUEUE)?,
        wqueue: diag::read_u32(message, WQUEUE)?,
        tcp_info: diag::attribute(message, ATTRIBUTES, INET_DIAG_INFO).and_then(read_tcp_info),
    })
}

/// struct tcp_info (linux/tcp.h); kernels before 4.6 do not have the last of these.
fn read_tcp_info(info: &[u8]) -> Option<TcpInfo> {
    const LAST_DATA_SENT: usize = 44;
    const LAST_DATA_RECV: usize = 52;
    const BYTES_RECEIVED: usize = 128;
    const SEGS_OUT: usize = 136;
    const DATA_SEGS_OUT: usize = 156;
    let milliseconds = |at| Some(Duration::from_millis(diag::read_u32(info, at)?.into()));
    Some(TcpInfo {
        since_sent: milliseconds(LAST_DATA_SENT)?,
        since_received: milliseconds(LAST_DATA_RECV)?,
        bytes_received: u64::from_ne_bytes(info.get(BYTES_RECEIVED..)?.first_chunk().copied()?),
        segments_sent: diag::read_u32(info, SEGS_OUT)?,
        data_segments_sent: diag::read_u32(info, DATA_SEGS_OUT)?,
    })
}

fn local(message: &[u8]) -> Option<SocketAddr> {
    address(message, LOCAL, LOCAL_PORT)
}

fn remote(message: &[u8]) -> Option<SocketAddr> {
    address(message, REMOTE, REMOTE_PORT)
}

fn address(message: &[u8], at: usize, port: usize) -> Option<SocketAddr> {
    let bytes: [u8; 16] = message.get(at..)?.first_chunk().copied()?;
    let ip = match i32::from(*message.first()?) {
        libc::AF_INET => IpAddr::from([bytes[0], bytes[1], bytes[2], bytes[3]]),
        _ => IpAddr::from(Ipv6Addr::from(bytes)),
    };
    let port = u16::from_be_bytes(message.get(port..)?.first_chunk().copied()?);
    Some(SocketAddr::new(ip, port))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsRawFd;

    fn inode(socket: &impl AsRawFd) -> u64 {
        crate::sys::fd::device_and_inode(socket.as_raw_fd()).expect("it is open").1
    }

    fn port(listener: &TcpListener) -> u16 {
        listener.local_addr().expect("an address").port()
    }

    fn single_connection(port: u16) -> Connection {
        let found = connections(&BTreeSet::from([port])).expect("an answer");
        let [open] = found[..] else { panic!("{found:?}") };
        open
    }

    #[test]
    fn tcp_info_is_read_at_its_offsets() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let port = port(&listener);
        let mut client = TcpStream::connect(("127.0.0.1", port)).expect("connect");
        while single_connection(port).tcp_info.is_none() {}
        assert_eq!(single_connection(port).inode, 0, "it waits to be accepted");
        let (mut server, _) = listener.accept().expect("accept");
        let fresh = single_connection(port);
        let info = fresh.tcp_info.expect("tcp_info");
        assert_eq!((fresh.inode, fresh.rqueue, fresh.wqueue), (inode(&server), 0, 0));
        assert_eq!((info.bytes_received, info.segments_sent, info.data_segments_sent), (0, 0, 0));
        client.write_all(&[0; 1234]).expect("write");
        assert_eq!(
            (
                single_connection(port).rqueue,
                single_connection(port).tcp_info.expect("tcp_info").bytes_received
            ),
            (1234, 1234)
        );
        server.read_exact(&mut [0; 1234]).expect("read");
        assert_eq!(single_connection(port).rqueue, 0);
        // Which end has sent last is visible once a tick has passed.
        let order = |open: Connection| {
            let info = open.tcp_info.expect("tcp_info");
            info.since_sent.cmp(&info.since_received)
        };
        loop {
            server.write_all(b"x").expect("write");
            client.read_exact(&mut [0]).expect("read");
            if order(single_connection(port)).is_lt() {
                break;
            }
        }
        let sent = single_connection(port).tcp_info.expect("tcp_info").data_segments_sent;
        loop {
            client.write_all(b"x").expect("write");
            server.read_exact(&mut [0]).expect("read");
            if order(single_connection(port)).is_gt() {
                break;
            }
        }
        let info = single_connection(port).tcp_info.expect("tcp_info");
        assert_eq!(info.data_segments_sent, sent);
        assert!(sent > 0 && info.bytes_received > 1234);
        server.set_nonblocking(true).expect("set");
        while server.write(&[0; 65536]).is_ok() {}
        assert!(single_connection(port).wqueue > 0);
    }

    #[test]
    fn a_connection_that_was_only_a_look_is_found() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let address = listener.local_addr().expect("an address");
        let looks = || closed_in_queue(&BTreeSet::from([address.port()])).expect("an answer");
        let mut client = TcpStream::connect(address).expect("connect");
        client.write_all(b"x").expect("write");
        drop(client);
        let open = TcpStream::connect(address).expect("connect");
        assert_eq!(looks(), [], "one has sent something, and the other is open");
        drop(open);
        let mut found = looks();
        while found.is_empty() {
            found = looks();
        }
        assert_eq!(found.iter().map(|(local, _)| *local).collect::<Vec<_>>(), [address]);
        drop((listener.accept(), listener.accept()));
        assert_eq!(looks(), [], "both have been accepted");
    }

    #[test]
    fn the_kernel_leaves_out_other_ports() {
        let listeners: Vec<TcpListener> =
            (0..3).map(|_| TcpListener::bind("127.0.0.1:0").expect("bind")).collect();
        let pairs: Vec<(TcpStream, TcpStream)> = listeners
            .iter()
            .map(|listener| {
                let client = TcpStream::connect(listener.local_addr().expect("an address")).expect("connect");
                (client, listener.accept().expect("accept").0)
            })
            .collect();
        let inodes = |ports: &BTreeSet<u16>| -> BTreeSet<u64> {
            connections(ports).expect("an answer").iter().map(|open| open.inode).collect()
        };
        let accepted: Vec<u64> = pairs.iter().map(|(_, accepted)| inode(accepted)).collect();
        assert_eq!(inodes(&BTreeSet::new()), BTreeSet::new());
        for (skipped, listener) in listeners.iter().enumerate() {
            assert_eq!(inodes(&BTreeSet::from([port(listener)])), BTreeSet::from([accepted[skipped]]));
            let others = (0..3).filter(|&index| index != skipped);
            let (ports, wanted) = others.map(|index| (port(&listeners[index]), accepted[index])).unzip();
            assert_eq!(inodes(&ports), wanted);
        }
        let many: BTreeSet<u16> = (1..=500).chain(listeners.iter().map(port)).collect();
        assert!(inodes(&many).is_superset(&accepted.iter().copied().collect()));
    }

    #[test]
    fn listeners_are_found_by_port_and_family() {
        let four = TcpListener::bind("127.0.0.1:0").expect("bind");
        let expected = ListenSocket {
            inode: inode(&four),
            address: four.local_addr().expect("an address"),
            v6only: None,
            device: 0,
        };
        assert_eq!(listen_sockets(libc::AF_INET, port(&four)), Ok(vec![expected]));
        let six = TcpListener::bind("[::]:0").expect("bind");
        let expected = ListenSocket {
            inode: inode(&six),
            address: six.local_addr().expect("an address"),
            v6only: Some(false),
            device: 0,
        };
        assert_eq!(listen_sockets(libc::AF_INET6, port(&six)), Ok(vec![expected]));
        assert_eq!(listen_sockets(libc::AF_INET, port(&six)), Ok(vec![]));
    }
}
