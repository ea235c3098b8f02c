//! The key of an address: sockets of the same key are in one SO_REUSEPORT group, or are one
//! socket.

use serde::{Deserialize, Serialize};
use socket2::{Domain, Protocol, SockRef, Type};
use std::ffi::OsStr;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::sys::seccomp::{self, Call};

/// The transport of a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Transport {
    /// TCP: it listens.
    Stream,
    /// UDP: it is bound.
    Datagram,
    /// A unix stream socket: it listens.
    Unix,
}

/// Where a socket is bound.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Address {
    /// The address and the port, of IPv6 with its scope.
    Inet(SocketAddr),
    /// The name of a unix socket.
    Unix {
        /// An absolute path through no links, or an abstract name with a NUL before it.
        unix: Vec<u8>,
    },
}

impl Address {
    /// The port; 0 for a unix socket.
    pub fn port(&self) -> u16 {
        self.inet().map_or(0, |address| address.port())
    }

    /// The address of TCP or UDP.
    pub fn inet(&self) -> Option<SocketAddr> {
        match self {
            Address::Inet(address) => Some(*address),
            Address::Unix { .. } => None,
        }
    }
}

/// An address as a socket is bound to it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Key {
    /// TCP, UDP or a unix stream.
    pub transport: Transport,
    /// Where it is bound.
    pub address: Address,
    /// Whether it takes IPv6 only (IPV6_V6ONLY).
    pub v6only: bool,
    /// The interface that it is bound to (SO_BINDTODEVICE).
    pub device: Vec<u8>,
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let udp = if self.transport == Transport::Datagram { "udp://" } else { "" };
        let address = match &self.address {
            Address::Inet(address) => address,
            Address::Unix { unix } => return write!(f, "unix:{}", shown(unix)),
        };
        write!(f, "{udp}{address}")?;
        if address.is_ipv6() && self.v6only && address.ip().is_unspecified() {
            write!(f, " (IPv6 only)")?;
        }
        if !self.device.is_empty() {
            write!(f, " on {}", String::from_utf8_lossy(&self.device).trim_end_matches('\0'))?;
        }
        Ok(())
    }
}

impl Key {
    /// The key of `socket` once it is bound to `address`; None if its kind is not adopted.
    fn new(socket: BorrowedFd<'_>, address: SocketAddr) -> Option<Key> {
        let socket = SockRef::from(&socket);
        let transport = match socket.r#type().ok()? {
            Type::STREAM => Transport::Stream,
            Type::DGRAM => Transport::Datagram,
            _ => return None,
        };
        // MPTCP and SCTP have no reuseport groups of this kind.
        let usual = match transport {
            Transport::Stream => Protocol::TCP,
            Transport::Datagram | Transport::Unix => Protocol::UDP,
        };
        if socket.protocol().ok()? != Some(usual) || address.port() == 0 {
            return None;
        }
        let v6only = address.is_ipv6() && socket.only_v6().unwrap_or(false);
        let device = socket.device().ok().flatten().unwrap_or_default();
        Some(Key { transport, address: Address::Inet(address), v6only, device })
    }

    /// The key of a unix stream socket of this name.
    pub fn unix(name: Vec<u8>) -> Key {
        Key {
            transport: Transport::Unix,
            address: Address::Unix { unix: name },
            v6only: false,
            device: Vec::new(),
        }
    }

    /// The path of a unix socket that has one.
    pub fn path(&self) -> Option<&Path> {
        match &self.address {
            Address::Unix { unix } if unix.first() != Some(&0) => Some(Path::new(OsStr::from_bytes(unix))),
            _ => None,
        }
    }

    /// The key of a bound socket; None if it is not bound, or its kind is not adopted.
    pub fn of_bound(socket: BorrowedFd<'_>) -> Option<Key> {
        let address = SockRef::from(&socket).local_addr().ok()?.as_socket()?;
        Key::new(socket, address)
    }

    /// The key of a socket that `call` binds to the address at `at`. None for what is not adopted:
    /// other families, and ports that the kernel chooses.
    ///
    /// # Errors
    /// Where the caller's memory cannot be read.
    pub fn of_call(socket: BorrowedFd<'_>, call: &Call, at: u64, length: usize) -> nix::Result<Option<Key>> {
        match SockRef::from(&socket).domain() {
            Ok(Domain::IPV4 | Domain::IPV6) => {}
            _ => return Ok(None),
        }
        let bytes = seccomp::read_address(call.thread, at, length)?;
        Ok(parse(&bytes).and_then(|address| Key::new(socket, address)))
    }

    /// Whether both have the same transport and port and are not the same: the user may have meant one
    /// and written the other.
    pub fn is_similar(&self, other: &Key) -> bool {
        let unix = self.transport == Transport::Unix;
        !unix
            && self.transport == other.transport
            && self.address.port() == other.address.port()
            && self != other
    }
}

/// The name of a unix socket, for people.
fn shown(name: &[u8]) -> String {
    match name.split_first() {
        Some((0, name)) => format!("@{}", String::from_utf8_lossy(name).replace('\0', "@")),
        _ => String::from_utf8_lossy(name).into_owned(),
    }
}

/// The name in the bytes of a sockaddr_un: a path without its NUL, or an abstract name with the NUL before
/// it. None for another family, and for a socket that is to have no name or one that the kernel chooses.
pub(super) fn parse_unix(bytes: &[u8]) -> Option<&[u8]> {
    let (family, name) = bytes.split_at_checked(2)?;
    let is_unix = i32::from(u16::from_ne_bytes(family.try_into().ok()?)) == libc::AF_UNIX;
    let name = match name.first()? {
        0 => name,
        _ => name.split(|&byte| byte == 0).next()?,
    };
    is_unix.then_some(name)
}

/// The address in the bytes of a sockaddr, as bind(2) and connect(2) take it.
pub(super) fn parse(bytes: &[u8]) -> Option<SocketAddr> {
    let family = i32::from(u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?));
    let port = u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?);
    match family {
        libc::AF_INET => {
            let ip: [u8; 4] = bytes.get(4..8)?.try_into().ok()?;
            Some(SocketAddr::new(IpAddr::V4(Ipv4Addr::from(ip)), port))
        }
        libc::AF_INET6 => {
            let ip: [u8; 16] = bytes.get(8..24)?.try_into().ok()?;
            let scope = u32::from_ne_bytes(bytes.get(24..28)?.try_into().ok()?);
            Some(SocketAddr::V6(std::net::SocketAddrV6::new(Ipv6Addr::from(ip), port, 0, scope)))
        }
        _ => None,
    }
}
