//! The key of an address: sockets of the same key are in one SO_REUSEPORT group, or are one
//! socket.

use serde::{Deserialize, Serialize};
use socket2::{Domain, Protocol, SockRef, Type};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::BorrowedFd;

use crate::sys::seccomp::{self, Call};

/// The transport of a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Transport {
    /// TCP: it listens.
    Stream,
    /// UDP: it is bound.
    Datagram,
}

/// An IP address as a socket is bound to it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Key {
    /// TCP or UDP.
    pub transport: Transport,
    /// The address and the port, of IPv6 with its scope.
    pub address: SocketAddr,
    /// Whether it takes IPv6 only (IPV6_V6ONLY).
    pub v6only: bool,
    /// The interface that it is bound to (SO_BINDTODEVICE).
    pub device: Vec<u8>,
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let udp = if self.transport == Transport::Datagram { "udp://" } else { "" };
        write!(f, "{udp}{}", self.address)?;
        if self.address.is_ipv6() && self.v6only && self.address.ip().is_unspecified() {
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
            Transport::Datagram => Protocol::UDP,
        };
        if socket.protocol().ok()? != Some(usual) || address.port() == 0 {
            return None;
        }
        let v6only = address.is_ipv6() && socket.only_v6().unwrap_or(false);
        let device = socket.device().ok().flatten().unwrap_or_default();
        Some(Key { transport, address, v6only, device })
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
        self.transport == other.transport && self.address.port() == other.address.port() && self != other
    }
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
