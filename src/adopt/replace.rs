//! A socket of a worker is replaced by one of ours, in the worker itself.

use crate::error::reason;
use crate::sys::fd;
use crate::sys::proc_fd;
use crate::sys::seccomp::{self, Call};
use nix::errno::Errno;
use nix::fcntl::{F_GETFL, F_SETFL, OFlag, fcntl};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

/// Whether the caller would not go on with its own socket beside one that is put in its place.
pub(super) fn can_be_replaced(call: &Call, socket: &OwnedFd) -> bool {
    let process = seccomp::process_of(call.thread).unwrap_or(call.thread);
    fd::identity(socket.as_raw_fd()).is_ok_and(|(_, inode)| proc_fd::is_held_once(process, inode))
}

/// Puts `ours` in the place of the caller's own socket. Of the flags that the
/// two do not share, close-on-exec is the descriptor's, and `nonblock` is set: a server that asked
/// for it would wait for ever. It is taken away only where nobody else has the socket: `alone`.
pub(super) fn replace(
    calls: &Arc<OwnedFd>,
    call: &Call,
    ours: BorrowedFd<'_>,
    nonblock: bool,
    alone: bool,
) -> bool {
    let flags = OFlag::from_bits_truncate(fcntl(ours, F_GETFL).unwrap_or(0));
    if nonblock != flags.contains(OFlag::O_NONBLOCK) && (nonblock || alone) {
        let mut wanted = flags;
        wanted.set(OFlag::O_NONBLOCK, nonblock);
        let _ = fcntl(ours, F_SETFL(wanted));
    }
    let close = seccomp::closes_on_exec(call.thread, call.number);
    seccomp::put(calls.as_fd(), call.id, ours, call.number, close).is_ok()
}

/// Why a call could not be looked at.
pub(super) fn unseen(call: &Call, errno: Errno) -> String {
    let next = match errno {
        Errno::EPERM | Errno::EACCES => {
            " (a container: docker run --cap-add SYS_PTRACE; another user or a setcap program: run us as root; see graceful-run doctor)"
        }
        Errno::ENOSYS => " (Linux 5.6 is needed)",
        _ => "",
    };
    format!(
        "cannot look at the socket that pid {} binds: {}, so it is not adopted{next}",
        call.thread,
        reason(&errno.into())
    )
}
