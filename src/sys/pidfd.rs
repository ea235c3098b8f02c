//! Copies of descriptors that other processes hold: pidfd_getfd(2).
//!
//! A socket that its owner closes stays open as long as we have a copy. So a copy that is
//! made only to inspect the socket is closed at once.

use super::{fd, proc_fd, seccomp};
use libc::{c_int, c_uint};
use nix::errno::Errno;
use nix::unistd::Pid;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

/// A copy of the descriptor `number` of the task `thread`: pidfd_getfd(2), Linux 5.6.
///
/// # Errors
/// EPERM without the right to trace it: another user's without CAP_SYS_PTRACE, one that is not
/// dumpable, or a container's profile that forbids the call. ESRCH if the task has gone, EBADF if
/// the descriptor has.
pub fn duplicate(thread: Pid, number: RawFd) -> nix::Result<OwnedFd> {
    let task = match open(thread, libc::PIDFD_THREAD) {
        // Before Linux 6.9 there are pidfds of whole processes only, which share
        // their descriptors.
        Err(Errno::EINVAL) => open(seccomp::process_of(thread).ok_or(Errno::ESRCH)?, 0)?,
        task => task?,
    };
    let none: c_uint = 0;
    // SAFETY: plain system call; the descriptor that it returns is new and has no other owner.
    unsafe {
        let fd = libc::syscall(libc::SYS_pidfd_getfd, task.as_raw_fd(), number, none) as c_int;
        if fd == -1 { Err(Errno::last()) } else { Ok(OwnedFd::from_raw_fd(fd)) }
    }
}

/// A copy of the socket with this inode, if the process has a descriptor of it.
pub fn duplicate_by_inode(process: Pid, inode: u64) -> Option<OwnedFd> {
    let (number, _) = proc_fd::socket_fds(process).find(|&(_, found)| found == inode)?;
    let socket = duplicate(process, number).ok()?;
    // The number may have been closed and used again since it was read.
    let same = fd::device_and_inode(socket.as_raw_fd()).is_ok_and(|(_, found)| found == inode);
    same.then_some(socket)
}

/// The status, as wait(2) has it, of a process that its parent has reaped: ioctl(PIDFD_GET_INFO), Linux
/// 6.15. None before that, or if the process has not been reaped.
pub fn reaped_status(pidfd: &OwnedFd) -> Option<i32> {
    /// _IOWR(0xFF, 11, struct pidfd_info) of linux/pidfd.h.
    const PIDFD_GET_INFO: libc::Ioctl = 0xC040_FF0B_u32 as libc::Ioctl;
    /// PIDFD_INFO_EXIT.
    const EXIT: u64 = 1 << 3;
    #[repr(C)]
    struct Info {
        mask: u64,
        cgroup: u64,
        ids: [u32; 11],
        status: i32,
    }
    let mut info = Info { mask: EXIT, cgroup: 0, ids: [0; 11], status: 0 };
    // SAFETY: the structure has the size that is part of the request, and outlives the call.
    let done = unsafe { libc::ioctl(pidfd.as_raw_fd(), PIDFD_GET_INFO, &raw mut info) };
    (done == 0 && info.mask & EXIT != 0).then_some(info.status)
}

/// pidfd_open(2).
pub(super) fn open(task: Pid, flags: c_uint) -> nix::Result<OwnedFd> {
    // SAFETY: plain system call; the descriptor that it returns is new and has no other owner.
    unsafe {
        let fd = libc::syscall(libc::SYS_pidfd_open, task.as_raw(), flags) as c_int;
        if fd == -1 { Err(Errno::last()) } else { Ok(OwnedFd::from_raw_fd(fd)) }
    }
}
