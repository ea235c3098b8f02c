//! Notices that a connection has come to one of several listening sockets: epoll(7). Each socket is
//! reported once, and again after it has been armed again, so that a busy one costs nothing.

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use std::os::fd::{AsFd, BorrowedFd};

/// The sockets.
#[derive(Debug)]
pub struct Arrivals(Epoll);

impl Arrivals {
    /// None yet.
    ///
    /// # Errors
    /// Those of epoll_create1(2).
    pub fn new() -> nix::Result<Arrivals> {
        Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map(Arrivals)
    }

    /// The next connection to this socket is reported, or its shutdown(2); one that waits already is
    /// reported at once.
    ///
    /// # Errors
    /// Those of epoll_ctl(2).
    pub fn arm(&self, socket: BorrowedFd<'_>) -> nix::Result<()> {
        self.set(socket, EpollFlags::EPOLLIN | EpollFlags::EPOLLONESHOT)
    }

    /// Only shutdown(2) of this socket is reported from now on.
    ///
    /// # Errors
    /// Those of epoll_ctl(2).
    pub fn watch_shutdown(&self, socket: BorrowedFd<'_>) -> nix::Result<()> {
        self.set(socket, EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLET)
    }

    fn set(&self, socket: BorrowedFd<'_>, flags: EpollFlags) -> nix::Result<()> {
        let mut event = EpollEvent::new(flags, 0);
        match self.0.modify(socket, &mut event) {
            Err(Errno::ENOENT) => self.0.add(socket, event),
            result => result,
        }
    }

    /// Whether there is any report since the last call.
    pub fn take(&self) -> bool {
        let mut events = [EpollEvent::empty(); 64];
        self.0.wait(&mut events, EpollTimeout::ZERO).is_ok_and(|count| count > 0)
    }
}

impl AsFd for Arrivals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn a_socket_is_reported_once() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let address = listener.local_addr().expect("an address");
        let arrivals = Arrivals::new().expect("epoll");
        arrivals.arm(listener.as_fd()).expect("arm");
        assert!(!arrivals.take());
        let _one = TcpStream::connect(address).expect("connect");
        assert!(arrivals.take());
        let _two = TcpStream::connect(address).expect("connect");
        assert!(!arrivals.take());
        arrivals.arm(listener.as_fd()).expect("arm");
        assert!(arrivals.take(), "both wait");
    }
}
