//! Socket options that can be set before or after a socket is bound.

use super::options::Options;
use crate::sys::fd;
use nix::sys::socket::{setsockopt, sockopt};
use socket2::SockRef;
use std::io;
use std::os::fd::AsFd;

/// Sets these options of a socket.
pub(super) fn tune(socket: &impl AsFd, options: &Options) -> io::Result<()> {
    // The FORCE options are not limited by rmem_max, and need CAP_NET_ADMIN: socket(7).
    if let Some(bytes) = options.rcvbuf.map(|bytes| bytes as usize)
        && setsockopt(socket, sockopt::RcvBufForce, &bytes).is_err()
    {
        setsockopt(socket, sockopt::RcvBuf, &bytes)?;
    }
    if let Some(bytes) = options.sndbuf.map(|bytes| bytes as usize)
        && setsockopt(socket, sockopt::SndBufForce, &bytes).is_err()
    {
        setsockopt(socket, sockopt::SndBuf, &bytes)?;
    }
    if let Some(seconds) = options.defer_accept {
        fd::set_defer_accept(socket.as_fd(), seconds)?;
    }
    if let Some(queue) = options.fastopen {
        fd::set_fastopen(socket.as_fd(), queue)?;
    }
    let socket = SockRef::from(socket);
    if options.nodelay {
        socket.set_tcp_nodelay(true)?;
    }
    match options.nonblock {
        Some(nonblock) => socket.set_nonblocking(nonblock),
        None => Ok(()),
    }
}
