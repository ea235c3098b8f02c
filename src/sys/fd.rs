//! Operations on descriptors by number, and on sockets that no crate wraps.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// Copies the descriptor `fd` to a free number from 3 upwards, close-on-exec.
///
/// # Errors
/// EBADF if `fd` is not open, EMFILE if no number is free: fcntl(2), F_DUPFD_CLOEXEC.
pub fn duplicate(fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: F_DUPFD_CLOEXEC reads no memory of ours, whatever the number is.
    let copy = unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 3) };
    if copy < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made `copy` and nobody else knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(copy) })
}

/// A copy, close-on-exec, with a number that is not below `least`.
///
/// # Errors
/// As fcntl(2) has them for F_DUPFD_CLOEXEC.
pub fn duplicate_above(fd: BorrowedFd<'_>, least: RawFd) -> io::Result<OwnedFd> {
    let copy = nix::fcntl::fcntl(fd, nix::fcntl::FcntlArg::F_DUPFD_CLOEXEC(least))?;
    Ok(take_ownership(copy))
}

/// Whether two descriptors of ours are copies of one: kcmp(2), KCMP_FILE. False where the kernel
/// forbids the call.
pub fn is_same_file(one: RawFd, other: RawFd) -> bool {
    const KCMP_FILE: libc::c_int = 0;
    let ours = std::process::id();
    // SAFETY: plain system call, which reads no memory of ours.
    unsafe {
        libc::syscall(libc::SYS_kcmp, ours, ours, KCMP_FILE, one as libc::c_ulong, other as libc::c_ulong)
            == 0
    }
}

/// Makes the descriptor `fd` close itself at exec.
///
/// # Errors
/// EBADF if `fd` is not open.
pub fn close_on_exec(fd: RawFd) -> io::Result<()> {
    // SAFETY: F_SETFD reads no memory of ours, whatever the number is.
    match unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Makes the descriptor `fd` stay open at exec.
///
/// # Errors
/// EBADF if `fd` is not open.
pub fn keep_on_exec(fd: RawFd) -> io::Result<()> {
    // SAFETY: F_SETFD reads no memory of ours, whatever the number is.
    match unsafe { libc::fcntl(fd, libc::F_SETFD, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The device and inode of the descriptor `fd`: fstat(2).
///
/// # Errors
/// EBADF if `fd` is not open.
#[allow(clippy::unnecessary_cast, reason = "the types differ between machines")]
pub fn device_and_inode(fd: RawFd) -> io::Result<(u64, u64)> {
    // SAFETY: an all-zero stat is valid, and the kernel writes to a live one.
    unsafe {
        let mut file: libc::stat = std::mem::zeroed();
        match libc::fstat(fd, &raw mut file) {
            0 => Ok((file.st_dev as u64, file.st_ino as u64)),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

/// An owner of a descriptor that stayed open over execve(2) and that nothing in this process owns.
/// Any other number would get a second owner, and be closed twice.
pub fn take_ownership(fd: RawFd) -> OwnedFd {
    // SAFETY: the caller vouches that the number is open and has no owner.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// Closes the inherited descriptor `fd`, which nothing in this process owns: one of 3..3+LISTEN_FDS
/// after LISTEN_PID was found to be ours. Any other number may have an owner, which would close it
/// again.
pub fn close_inherited(fd: RawFd) {
    // SAFETY: close reads no memory of ours; the caller vouches that no owner
    // of the number exists in this process.
    unsafe { libc::close(fd) };
}

/// Delays accept until the client has sent data, for at most about `seconds`:
/// tcp(7), TCP_DEFER_ACCEPT.
///
/// # Errors
/// Those of setsockopt(2).
pub fn set_defer_accept(socket: BorrowedFd<'_>, seconds: i32) -> io::Result<()> {
    set_option(socket, libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT, seconds)
}

/// Accepts data in the SYN, with at most `queue` such connections pending:
/// tcp(7), TCP_FASTOPEN.
///
/// # Errors
/// Those of setsockopt(2).
pub fn set_fastopen(socket: BorrowedFd<'_>, queue: i32) -> io::Result<()> {
    set_option(socket, libc::IPPROTO_TCP, libc::TCP_FASTOPEN, queue)
}

/// Removes the program that selects the members of the group of `socket`: socket(7),
/// SO_DETACH_REUSEPORT_BPF.
///
/// # Errors
/// Those of setsockopt(2).
pub fn detach_reuseport_program(socket: BorrowedFd<'_>) -> io::Result<()> {
    set_option(socket, libc::SOL_SOCKET, libc::SO_DETACH_REUSEPORT_BPF, 0)
}

/// Value of an integer option of TCP: tcp(7).
///
/// # Errors
/// Those of getsockopt(2).
#[cfg(test)]
pub fn tcp_option(socket: BorrowedFd<'_>, option: i32) -> io::Result<i32> {
    let mut value = 0_i32;
    let mut size = size_of::<i32>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `size` bytes to a live i32.
    let result = unsafe {
        let value = (&raw mut value).cast();
        libc::getsockopt(socket.as_raw_fd(), libc::IPPROTO_TCP, option, value, &mut size)
    };
    match result {
        0 => Ok(value),
        _ => Err(io::Error::last_os_error()),
    }
}

fn set_option(socket: BorrowedFd<'_>, level: i32, option: i32, value: i32) -> io::Result<()> {
    let size = size_of::<i32>() as libc::socklen_t;
    // SAFETY: the pointer is to a live i32 and the size is that of an i32.
    let result =
        unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const value).cast(), size) };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Whether two sockets are of one network namespace (SO_NETNS_COOKIE, Linux 5.14). An older kernel
/// does not report it; then the result is true.
pub fn same_network_namespace(one: BorrowedFd<'_>, other: BorrowedFd<'_>) -> bool {
    let (one, other) = (network_namespace(one), network_namespace(other));
    one.is_none() || other.is_none() || one == other
}

fn network_namespace(socket: BorrowedFd<'_>) -> Option<u64> {
    /// asm-generic/socket.h.
    const SO_NETNS_COOKIE: libc::c_int = 71;
    let mut value = 0_u64;
    let mut size = size_of::<u64>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `size` bytes to a live u64.
    let result = unsafe {
        let value = (&raw mut value).cast();
        libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, SO_NETNS_COOKIE, value, &mut size)
    };
    (result == 0).then_some(value)
}

/// Connections that wait to be accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Queue {
    /// How many there are.
    pub length: u32,
    /// The most that there may be.
    pub backlog: u32,
}

/// The queue of a TCP socket; None if it does not listen, for example because somebody has called
/// shutdown(2) on it. The kernel reports it in `tcpi_unacked` and `tcpi_sacked` of TCP_INFO, which
/// for a listener have no other use.
///
/// # Errors
/// Those of getsockopt(2).
pub fn tcp_queue(socket: BorrowedFd<'_>) -> io::Result<Option<Queue>> {
    /// TCP_LISTEN of the kernel's net/tcp_states.h.
    const LISTEN: u8 = 10;
    // SAFETY: tcp_info is plain integers, for which all zeroes is a value.
    let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
    let mut size = size_of::<libc::tcp_info>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `size` bytes to a live tcp_info of that size.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            (&raw mut info).cast(),
            &mut size,
        )
    };
    match result {
        0 => Ok((info.tcpi_state == LISTEN)
            .then_some(Queue { length: info.tcpi_unacked, backlog: info.tcpi_sacked })),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The backlog alone, as [`tcp_queue`] has it.
///
/// # Errors
/// Those of getsockopt(2).
pub fn tcp_backlog(socket: BorrowedFd<'_>) -> io::Result<Option<u32>> {
    Ok(tcp_queue(socket)?.map(|queue| queue.backlog))
}

/// Undoes shutdown(2) of a TCP socket that does not listen, by connect(2) with AF_UNSPEC.
/// listen(2) alone would not: each connection would begin at its end of file.
///
/// # Errors
/// Those of connect(2).
pub fn disconnect(socket: BorrowedFd<'_>) -> io::Result<()> {
    let nobody = libc::sockaddr { sa_family: libc::AF_UNSPEC as libc::sa_family_t, sa_data: [0; 14] };
    let length = size_of_val(&nobody) as libc::socklen_t;
    // SAFETY: the kernel reads one live sockaddr of this length.
    match unsafe { libc::connect(socket.as_raw_fd(), &raw const nobody, length) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Whether somebody has called shutdown(2) on a unix or a UDP socket, so that it receives nothing
/// any more. SO_ACCEPTCONN stays 1; POLLRDHUP of poll(2), which nix does not define, is the only
/// sign of SHUT_RD.
pub fn is_shut_down(socket: BorrowedFd<'_>) -> bool {
    let mut wait = libc::pollfd { fd: socket.as_raw_fd(), events: libc::POLLRDHUP, revents: 0 };
    // SAFETY: the kernel reads and writes one live pollfd, and does not wait.
    unsafe { libc::poll(&raw mut wait, 1, 0) };
    wait.revents & libc::POLLRDHUP != 0
}

/// Any socket of our network namespace.
pub fn any_socket() -> Option<OwnedFd> {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None);
    socket
        .or_else(|_| socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::DGRAM, None))
        .ok()
        .map(Into::into)
}

/// Whether it is a unix stream socket.
pub fn is_unix_stream(socket: BorrowedFd<'_>) -> bool {
    let socket = socket2::SockRef::from(&socket);
    socket.domain().is_ok_and(|domain| domain == socket2::Domain::UNIX)
        && socket.r#type().is_ok_and(|kind| kind == socket2::Type::STREAM)
}
