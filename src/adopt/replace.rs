//! Replaces a socket of a worker with one of ours, in the worker's own descriptor table.

use crate::error::reason;
use crate::sys::fd;
use crate::sys::proc_fd;
use crate::sys::seccomp::{self, Call};
use nix::errno::Errno;
use nix::fcntl::{F_GETFL, F_SETFL, OFlag, fcntl};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

/// Whether the caller would use the replacement: it must hold its own socket by this descriptor
/// alone, with no copy and no epoll set.
pub(super) fn can_be_replaced(call: &Call, socket: &OwnedFd) -> bool {
    let process = seccomp::process_of(call.thread).unwrap_or(call.thread);
    fd::device_and_inode(socket.as_raw_fd())
        .is_ok_and(|(_, inode)| proc_fd::has_single_reference(process, inode))
}

/// Replaces the caller's own socket with `ours`. Close-on-exec stays as it was. O_NONBLOCK is set
/// if the caller had set it (`nonblock`), because it would block otherwise; it is cleared only if
/// no other process uses the socket (`alone`).
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
    let close = seccomp::is_close_on_exec(call.thread, call.fd);
    seccomp::replace_fd(calls.as_fd(), call.id, ours, call.fd, close).is_ok()
}

/// The message for a call whose socket could not be inspected.
pub(super) fn inspection_failed(call: &Call, errno: Errno) -> String {
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
