//! Tries what `--adopt` does on a child or a socket of our own, because the kernel, or a filter
//! between it and us, may forbid it.
//!
//! A child is killed and reaped before a function returns, and ends when we end. Nothing waits for
//! longer than [`TIMEOUT_SECONDS`]. To be called while there is one thread.

use super::child;
use super::pidfd;
use super::process::{self, Exit};
use super::seccomp::{self, Answer, Filter, Operation};
use libc::{c_int, c_ulong};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrIn, bind, listen, setsockopt, socket, socketpair,
    sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};
use nix::unistd::{Pid, getpid, pipe2};
use std::mem;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};

/// How long anything is waited for; all of it takes microseconds.
const TIMEOUT_SECONDS: u16 = 3;
/// What is read from the memory of a child.
static MARKER: [u8; 8] = *b"graceful";

/// A child, which is killed and reaped on drop.
struct Child(Pid);

impl Child {
    /// Forks. `run` makes async-signal-safe calls only; what it returns is the exit
    /// status.
    fn new(run: impl FnOnce() -> c_int) -> nix::Result<Child> {
        let parent = getpid().as_raw();
        // SAFETY: plain system calls; the child makes only such, and leaves by _exit.
        match unsafe { libc::fork() } {
            -1 => Err(Errno::last()),
            0 => {
                // SAFETY: plain system call.
                unsafe {
                    libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as c_ulong);
                    libc::signal(libc::SIGALRM, libc::SIG_DFL);
                    libc::alarm(TIMEOUT_SECONDS.into());
                    libc::_exit(if libc::getppid() == parent { run() } else { 1 })
                }
            }
            pid => Ok(Child(Pid::from_raw(pid))),
        }
    }

    /// Waits until it ends; its alarm limits the time.
    fn wait(self) -> Option<Exit> {
        let exit = process::wait(self.0);
        // Its pid may be another process's from now on.
        mem::forget(self);
        exit
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // It has not been reaped, so the pid is still its own.
        let _ = process::signal(self.0, libc::SIGKILL);
        process::wait(self.0);
    }
}

/// Why the call of a child was not received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProbeError {
    /// We do not know the system call numbers of this architecture.
    Architecture,
    /// There was no child or no channel to it.
    Child(Errno),
    /// The child could not install the filter.
    Filter(Errno),
    /// The filter is installed, but the call was not received, or could not be answered.
    Call(Errno),
}

/// Makes a child call bind(2) under a [`Filter`], receives the call and lets it continue. Returns
/// whether the child had to set PR_SET_NO_NEW_PRIVS for that.
///
/// # Errors
/// [`ProbeError`].
pub fn probe_bind_notification() -> Result<bool, ProbeError> {
    let filter = Filter::new().ok_or(ProbeError::Architecture)?;
    let (receive, send) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)
        .map_err(ProbeError::Child)?;
    setsockopt(&receive, sockopt::ReceiveTimeout, &TimeVal::seconds(TIMEOUT_SECONDS.into()))
        .map_err(ProbeError::Child)?;
    let channel = send.as_raw_fd();
    let child = Child::new(|| bind_invalid_fd(&filter, channel)).map_err(ProbeError::Child)?;
    drop(send);
    let (Some(listener), _) = child::receive_listener(&receive) else {
        return Err(ProbeError::Filter(match child.wait() {
            Some(Exit::Code(errno)) => Errno::from_raw(errno),
            _ => Errno::ECANCELED,
        }));
    };
    let mut set = [PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
    let ready = poll(&mut set, PollTimeout::from(TIMEOUT_SECONDS * 1000)).map_err(ProbeError::Call)?;
    let call = match ready {
        0 => None,
        _ => seccomp::receive(listener.as_fd()).map_err(ProbeError::Call)?,
    };
    let call = call.filter(|call| call.fd == -1 && matches!(call.operation, Operation::Bind(..)));
    let call = call.ok_or(ProbeError::Call(Errno::ETIMEDOUT))?;
    seccomp::answer(listener.as_fd(), call.id, Answer::Continue).map_err(ProbeError::Call)?;
    match child.wait() {
        Some(Exit::Code(value @ 0..=1)) => Ok(value == 1),
        _ => Err(ProbeError::Call(Errno::ENOSYS)),
    }
}

/// Called in the child. Returns 0, or 1 with PR_SET_NO_NEW_PRIVS, if the kernel has executed a call
/// that has to fail; else the errno of the filter, or 255.
fn bind_invalid_fd(filter: &Filter, channel: RawFd) -> c_int {
    const NONE: c_ulong = 0;
    if let Err(errno) = child::install_filter(filter, channel) {
        return errno as c_int;
    }
    // SAFETY: plain system calls; there is no such descriptor, so nothing is bound.
    unsafe {
        let result = libc::syscall(libc::SYS_bind, -1, NONE, NONE);
        match (result, Errno::last()) {
            (-1, Errno::EBADF) => libc::prctl(libc::PR_GET_NO_NEW_PRIVS, NONE, NONE, NONE, NONE),
            _ => 255,
        }
    }
}

/// Which ways to access a child work.
#[derive(Debug)]
pub struct ChildAccess {
    /// pidfd_open(2).
    pub pidfd_open: nix::Result<()>,
    /// pidfd_getfd(2).
    pub pidfd_getfd: nix::Result<()>,
    /// process_vm_readv(2).
    pub process_vm_readv: nix::Result<()>,
}

/// Tries each way to access a child of ours.
///
/// # Errors
/// Those of fork(2) and pipe2(2).
pub fn probe_child_access() -> nix::Result<ChildAccess> {
    let (inherited, _other) = pipe2(OFlag::O_CLOEXEC)?;
    let child = Child::new(|| {
        loop {
            // SAFETY: plain system call.
            unsafe { libc::pause() };
        }
    })?;
    let read = seccomp::read_address(child.0, MARKER.as_ptr() as u64, MARKER.len());
    Ok(ChildAccess {
        pidfd_open: pidfd::open(child.0, 0).map(drop),
        pidfd_getfd: pidfd::duplicate(child.0, inherited.as_raw_fd()).map(drop),
        process_vm_readv: read.and_then(|read| if read == MARKER { Ok(()) } else { Err(Errno::EIO) }),
    })
}

/// A TCP socket that listens on a port of the loopback interface that the kernel
/// chose, with SO_REUSEPORT.
///
/// # Errors
/// Those of the calls for that.
pub fn reuseport_listener() -> nix::Result<OwnedFd> {
    let socket = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    setsockopt(&socket, sockopt::ReusePort, &true)?;
    bind(socket.as_raw_fd(), &SockaddrIn::new(127, 0, 0, 1, 0))?;
    listen(&socket, Backlog::new(1)?)?;
    Ok(socket)
}
