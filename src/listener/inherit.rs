//! Sockets that we inherited: their kind and address, and whether a worker can serve on them. A
//! worker that gets any other descriptor would fail later, with an error that does not name it.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{OwnedFd, RawFd};

use nix::errno::Errno;
use socket2::{Domain, SockRef, Type};

use super::Kind;
use crate::error::{Error, reason};
use crate::sys::fd;

/// A copy of a socket on which a worker can serve.
pub(super) struct Inherited {
    pub socket: OwnedFd,
    pub kind: Kind,
    /// As in [`super::Listener::address`].
    pub address: String,
    /// The same as a socket address, for TCP and UDP.
    pub inet: Option<SocketAddr>,
}

/// Checks that we inherited this descriptor.
///
/// # Errors
/// [`Error::Inherited`] if it is not open.
pub(super) fn require_open(number: RawFd) -> Result<(), Error> {
    copy(number).map(drop)
}

fn copy(number: RawFd) -> Result<OwnedFd, Error> {
    fd::duplicate(number).map_err(|error| {
        let closed = error.raw_os_error() == Some(Errno::EBADF as i32);
        let why = if closed { "it is not open".to_owned() } else { reason(&error) };
        Error::Inherited { fd: number, why }
    })
}

/// Copies the descriptor `number`, and determines the kind and the address of its socket.
///
/// # Errors
/// [`Error::Inherited`] if it is not open, is no socket, belongs to another family than IP and
/// unix, is not bound, or is a stream socket that does not listen.
pub(super) fn inspect(number: RawFd) -> Result<Inherited, Error> {
    let refuse = |why: &str| Err(Error::Inherited { fd: number, why: why.to_owned() });
    let failed = |error: &io::Error| Error::Inherited { fd: number, why: reason(error) };
    let socket = copy(number)?;
    let view = SockRef::from(&socket);
    let kind = match view.r#type() {
        Ok(kind) => kind,
        Err(error) if error.raw_os_error() == Some(Errno::ENOTSOCK as i32) => {
            return refuse("it is not a socket");
        }
        Err(error) => return Err(failed(&error)),
    };
    let domain = view.domain().map_err(|error| failed(&error))?;
    let is_inet = domain == Domain::IPV4 || domain == Domain::IPV6;
    let kind = match kind {
        Type::STREAM if is_inet => Kind::Tcp,
        Type::DGRAM if is_inet => Kind::Udp,
        Type::STREAM if domain == Domain::UNIX => Kind::Unix,
        Type::DGRAM if domain == Domain::UNIX => Kind::UnixDatagram,
        Type::SEQPACKET if domain == Domain::UNIX => Kind::UnixSeqpacket,
        _ => return refuse("it is neither a tcp, a udp nor a unix socket"),
    };
    if kind.listens() && !view.is_listener().map_err(|error| failed(&error))? {
        return refuse("it is a stream socket that is not listening");
    }
    let local = view.local_addr().map_err(|error| failed(&error))?;
    let inet = local.as_socket();
    let address = match (inet, local.as_pathname(), local.as_abstract_namespace()) {
        (Some(inet), _, _) if inet.port() != 0 => inet.to_string(),
        (None, Some(path), _) => path.display().to_string(),
        (None, None, Some(name)) => format!("@{}", String::from_utf8_lossy(name)),
        _ => return refuse("it is not bound to an address"),
    };
    Ok(Inherited { socket, kind, address, inet })
}
