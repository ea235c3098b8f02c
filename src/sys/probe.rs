//! Tries what `--adopt` does on a child or a socket of our own, because the kernel, or a filter
//! between it and us, may forbid it.
//!
//! A child is killed and reaped before a function returns, and ends when we end. Nothing waits for
//! longer than [`TIMEOUT_SECONDS`], but for [`in_child`]. To be called while there is one thread.
//!
//! A system call filter may kill the process that makes a call (SECCOMP_RET_KILL_PROCESS, which
//! systemd's SystemCallFilter= uses). So what may be forbidden is tried [`in_child`].

use super::child;
use super::pidfd;
use super::process::{self, Exit};
use super::seccomp::{self, Answer, Filter, Operation, Received};
use libc::{c_int, c_ulong};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrIn, bind, listen, setsockopt, socket, socketpair,
    sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};
use nix::unistd::{Pid, getpid, pipe2};
use std::fs::File;
use std::io::{Read, Write};
use std::mem;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};

/// How long anything is waited for; all of it takes microseconds.
const TIMEOUT_SECONDS: u16 = 3;
/// How long what is done [`in_child`] may take, which waits for something itself.
const ANSWER_SECONDS: u16 = 3 * TIMEOUT_SECONDS;
/// What is read from the memory of a child.
static MARKER: [u8; 8] = *b"graceful";

/// A child, which is killed and reaped on drop.
struct Child(Pid);

impl Child {
    /// Forks. `run` makes async-signal-safe calls only; what it returns is the exit
    /// status.
    fn new(run: impl FnOnce() -> c_int) -> nix::Result<Child> {
        Child::within(TIMEOUT_SECONDS, run)
    }

    fn within(seconds: u16, run: impl FnOnce() -> c_int) -> nix::Result<Child> {
        let parent = getpid().as_raw();
        // SAFETY: plain system calls; the child makes only such, and leaves by _exit.
        match unsafe { libc::fork() } {
            -1 => Err(Errno::last()),
            0 => {
                // SAFETY: plain system call.
                unsafe {
                    libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as c_ulong);
                    libc::signal(libc::SIGALRM, libc::SIG_DFL);
                    libc::alarm(seconds.into());
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

/// Why a child gave no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Silence {
    /// There was no child, or no pipe to it.
    NoChild(Errno),
    /// A system call filter has killed it: SIGSYS.
    Filtered,
    /// It ended in another way, or not in time.
    Ended,
}

/// Runs `answer` in a child, and returns what that returned. A call that kills the process that
/// makes it kills the child alone. A child of the child then ends by its PR_SET_PDEATHSIG.
///
/// # Errors
/// [`Silence`].
pub fn in_child(answer: impl FnOnce() -> Vec<u8>) -> Result<Vec<u8>, Silence> {
    let (read, write) = pipe2(OFlag::O_CLOEXEC).map_err(Silence::NoChild)?;
    let mut write = File::from(write);
    let child = Child::within(ANSWER_SECONDS, || {
        // SIGSYS writes a core file.
        let _ = setrlimit(Resource::RLIMIT_CORE, 0, 0);
        // There was one thread, so no lock of the allocator is held here.
        c_int::from(write.write_all(&answer()).is_err())
    })
    .map_err(Silence::NoChild)?;
    drop(write);
    let mut text = Vec::new();
    let complete = File::from(read).read_to_end(&mut text).is_ok();
    match child.wait() {
        Some(Exit::Code(0)) if complete => Ok(text),
        Some(Exit::Signal(libc::SIGSYS)) => Err(Silence::Filtered),
        _ => Err(Silence::Ended),
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
    /// A filter that is in force already has killed the child.
    Filtered,
    /// The filter is installed, but the call was not received, or could not be answered.
    Call(Errno),
}

/// Makes a child call bind(2) under a [`Filter`], receives the call and lets it continue. Returns
/// whether the child had to set PR_SET_NO_NEW_PRIVS for that.
///
/// # Errors
/// [`ProbeError`].
pub fn probe_bind_notification() -> Result<bool, ProbeError> {
    let filter = Filter::new(Received::default()).ok_or(ProbeError::Architecture)?;
    let (receive, send) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)
        .map_err(ProbeError::Child)?;
    setsockopt(&receive, sockopt::ReceiveTimeout, &TimeVal::seconds(TIMEOUT_SECONDS.into()))
        .map_err(ProbeError::Child)?;
    let channel = send.as_raw_fd();
    let child = Child::new(|| bind_invalid_fd(&filter, channel)).map_err(ProbeError::Child)?;
    drop(send);
    let (Some(listener), _) = child::receive_listener(&receive) else {
        return Err(match child.wait() {
            Some(Exit::Code(errno)) => ProbeError::Filter(Errno::from_raw(errno)),
            Some(Exit::Signal(libc::SIGSYS)) => ProbeError::Filtered,
            _ => ProbeError::Filter(Errno::ECANCELED),
        });
    };
    let mut set = [PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
    let ready = poll(&mut set, PollTimeout::from(TIMEOUT_SECONDS * 1000)).map_err(ProbeError::Call)?;
    let call = match ready {
        0 => None,
        _ => Some(seccomp::receive(listener.as_fd()).map_err(ProbeError::Call)?),
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

/// A call by which `--adopt` looks into a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// pidfd_open(2).
    PidfdOpen,
    /// pidfd_getfd(2).
    PidfdGetfd,
    /// process_vm_readv(2).
    ProcessVmReadv,
}

/// Why a call was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// It returned this error, or there was no child to make it or to make it on.
    Errno(Errno),
    /// A system call filter kills who makes it.
    Filtered,
}

/// Makes the call [`in_child`], on a child of that one.
///
/// # Errors
/// [`Refused`].
pub fn access_child(access: Access) -> Result<(), Refused> {
    let answer = in_child(|| match try_access(access) {
        Ok(()) => Vec::new(),
        Err(errno) => (errno as c_int).to_ne_bytes().to_vec(),
    });
    match answer {
        Ok(answer) => match <[u8; 4]>::try_from(answer) {
            Ok(errno) => Err(Refused::Errno(Errno::from_raw(c_int::from_ne_bytes(errno)))),
            Err(_) => Ok(()),
        },
        Err(Silence::NoChild(errno)) => Err(Refused::Errno(errno)),
        Err(Silence::Filtered) => Err(Refused::Filtered),
        Err(Silence::Ended) => Err(Refused::Errno(Errno::ECANCELED)),
    }
}

fn try_access(access: Access) -> nix::Result<()> {
    let (inherited, _other) = pipe2(OFlag::O_CLOEXEC)?;
    let child = Child::new(|| {
        loop {
            // SAFETY: plain system call.
            unsafe { libc::pause() };
        }
    })?;
    match access {
        Access::PidfdOpen => pidfd::open(child.0, 0).map(drop),
        Access::PidfdGetfd => pidfd::duplicate(child.0, inherited.as_raw_fd()).map(drop),
        Access::ProcessVmReadv => {
            let read = seccomp::read_address(child.0, MARKER.as_ptr() as u64, MARKER.len())?;
            if read == MARKER { Ok(()) } else { Err(Errno::EIO) }
        }
    }
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
