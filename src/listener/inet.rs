//! TCP and UDP sockets: resolves the host, and binds sockets to the address.
//!
//! SO_REUSEADDR is set for TCP, where a restart needs it if old connections are in TIME_WAIT. It
//! is not set for UDP, where two programs could share a port without an error. IPV6_V6ONLY is
//! always set explicitly, to 0 or 1, so net.ipv6.bindv6only has no effect.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, ToSocketAddrs};

use nix::errno::Errno;
use socket2::{Domain, SockAddr, Socket, Type};

use super::address::{Bind, Host};
use super::options::{Family, Options};
use super::tune::tune;
use crate::error::{Error, reason};

/// Resolves a host to the addresses to try: one, or without a host `[::]` and then `0.0.0.0`.
///
/// # Errors
/// [`Error::Usage`] if a name has several addresses, or an IPv4 address with `v6only`;
/// [`Error::Bind`] if a name or an interface is not known.
pub(super) fn resolve(bind: &Bind, host: &Host, port: u16) -> Result<Vec<SocketAddr>, Error> {
    let unknown = |why: String| Error::Bind { bind: bind.address.to_string(), why, advice: None };
    let address = match host {
        Host::Any => {
            let v6 = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
            let v4 = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
            return Ok(if bind.options.v6only { vec![v6] } else { vec![v6, v4] });
        }
        Host::V4(address) => SocketAddr::from((*address, port)),
        Host::V6(address, zone) => {
            let zone = match zone.as_deref().map(|zone| (zone, zone.parse())) {
                None => 0,
                Some((_, Ok(index))) => index,
                Some((zone, Err(_))) => nix::net::if_::if_nametoindex(zone)
                    .map_err(|_| unknown(format!("there is no interface {zone}")))?,
            };
            SocketAddr::from(SocketAddrV6::new(*address, port, 0, zone))
        }
        Host::Name(name) => {
            let found = (name.as_str(), port)
                .to_socket_addrs()
                .map_err(|error| unknown(format!("cannot resolve {name}: {}", reason(&error))))?;
            single_address(bind, name, found)?
        }
    };
    if bind.options.v6only && address.is_ipv4() {
        let family = Family::Tcp { v6: false }.describe();
        let why = format!("option v6only does not go with {family} ({address})");
        return Err(Error::Usage(format!("bad BIND {:?}: {why}", bind.to_string())));
    }
    Ok(vec![address])
}

/// Returns the only address of a host name.
///
/// # Errors
/// As [`resolve`]: which one of several addresses is meant would be a guess.
pub(super) fn single_address(
    bind: &Bind,
    name: &str,
    found: impl Iterator<Item = SocketAddr>,
) -> Result<SocketAddr, Error> {
    let mut distinct: Vec<SocketAddr> = Vec::new();
    for address in found {
        if !distinct.contains(&address) {
            distinct.push(address);
        }
    }
    match distinct[..] {
        [address] => Ok(address),
        [] => Err(Error::Bind {
            bind: bind.address.to_string(),
            why: format!("{name} has no address"),
            advice: None,
        }),
        _ => {
            let list: Vec<String> = distinct.iter().map(|a| a.ip().to_string()).collect();
            let list = list.join(", ");
            let bind = bind.to_string();
            Err(Error::Usage(format!(
                "bad BIND {bind:?}: {name} has several addresses: {list} (give one -b for each)"
            )))
        }
    }
}

/// Calls `make` with the first address whose family the machine has.
///
/// # Errors
/// The address that failed, and why.
pub(super) fn with_available_address<T>(
    candidates: &[SocketAddr],
    mut make: impl FnMut(SocketAddr) -> io::Result<T>,
) -> Result<T, (SocketAddr, io::Error)> {
    let (last, others) = candidates.split_last().expect("resolve gives at least one address");
    for address in others {
        match make(*address) {
            Err(error) if is_unavailable(&error) => {}
            result => return result.map_err(|error| (*address, error)),
        }
    }
    make(*last).map_err(|error| (*last, error))
}

fn is_unavailable(error: &io::Error) -> bool {
    let unavailable = [Errno::EAFNOSUPPORT, Errno::EADDRNOTAVAIL];
    unavailable.iter().any(|errno| error.raw_os_error() == Some(*errno as i32))
}

/// Makes one more socket on an address where ours have SO_REUSEPORT. It does not listen yet.
///
/// # Errors
/// That of the system call.
pub(super) fn bind_beside(address: SocketAddr, options: &Options) -> io::Result<Socket> {
    let socket = unbound(Type::STREAM, address, options)?;
    socket.set_reuse_port(true)?;
    tune(&socket, options)?;
    socket.bind(&SockAddr::from(address))?;
    Ok(socket)
}

/// Makes `count` sockets on one address, bound and, for TCP, listening. With port 0 the kernel
/// chooses one port for all of them.
///
/// With SO_REUSEPORT the kernel would let us share the address of another program, and its
/// connections. So a socket without it first checks whether the address is free.
///
/// # Errors
/// That of the system call; the sockets made until then are closed.
pub(super) fn open(
    ty: Type,
    mut address: SocketAddr,
    options: &Options,
    backlog: u32,
    count: u32,
) -> io::Result<(Vec<Socket>, SocketAddr)> {
    if options.reuseport {
        unbound(ty, address, options)?.bind(&SockAddr::from(address))?;
    }
    let mut sockets = Vec::new();
    for _ in 0..count {
        let socket = unbound(ty, address, options)?;
        if options.reuseport {
            socket.set_reuse_port(true)?;
        }
        tune(&socket, options)?;
        socket.bind(&SockAddr::from(address))?;
        if ty == Type::STREAM {
            socket.listen(i32::try_from(backlog).unwrap_or(i32::MAX))?;
        }
        address = socket.local_addr()?.as_socket().unwrap_or(address);
        sockets.push(socket);
    }
    Ok((sockets, address))
}

fn unbound(ty: Type, address: SocketAddr, options: &Options) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), ty, None)?;
    if address.is_ipv6() {
        socket.set_only_v6(options.v6only)?;
    }
    if ty == Type::STREAM {
        socket.set_reuse_address(true)?;
    }
    match address {
        SocketAddr::V4(_) if options.freebind => socket.set_freebind_v4(true)?,
        SocketAddr::V6(_) if options.freebind => socket.set_freebind_v6(true)?,
        _ => {}
    }
    Ok(socket)
}

/// Whether a socket on `bound` makes a bind to `wanted` fail, both without SO_REUSEPORT: the ports
/// are the same, and so are the addresses, or one is a wildcard that includes the other.
pub(super) fn overlaps(bound: SocketAddr, bound_v6only: bool, wanted: SocketAddr) -> bool {
    if bound.port() != wanted.port() || (bound_v6only && wanted.is_ipv4()) {
        return false;
    }
    let includes = |wide: IpAddr, other: IpAddr| wide.is_unspecified() && (wide.is_ipv6() || other.is_ipv4());
    let (bound, wanted) = (bound.ip().to_canonical(), wanted.ip().to_canonical());
    bound == wanted || includes(bound, wanted) || includes(wanted, bound)
}

/// What the user can do about a bind that failed.
pub(super) fn advice(error: &io::Error, ty: Type, address: SocketAddr) -> Option<String> {
    let port = address.port();
    let advice = match Errno::from_raw(error.raw_os_error()?) {
        Errno::EACCES if port < unprivileged_port_start() => {
            "run as root, or let systemd pass the socket".to_owned()
        }
        Errno::EADDRNOTAVAIL => "no interface has this address; add ,freebind to bind it anyway".to_owned(),
        Errno::EADDRINUSE if ty == Type::STREAM => {
            format!("ss -ltnp 'sport = :{port}' shows who holds it")
        }
        Errno::EADDRINUSE => format!("ss -lunp 'sport = :{port}' shows who holds it"),
        _ => return None,
    };
    Some(advice)
}

/// The sysctl ip_unprivileged_port_start, ip(7); 1024 if it cannot be read.
fn unprivileged_port_start() -> u16 {
    let text = std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start");
    text.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(1024)
}
