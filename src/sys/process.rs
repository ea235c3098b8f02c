//! Processes by their pid: signals, groups, and how they ended.
//!
//! Signals are numbers and not an enum, because a worker may use a real-time signal, or be killed
//! by one. Only the thread that reaps may signal: until a worker is reaped, its pid is certainly
//! its own.

use super::proc;
use std::ffi::{CStr, OsStr};
use std::fs;
use std::iter;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use libc::c_int;
use nix::errno::Errno;
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::{Pid, getpgrp};

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// It exited with this status.
    Code(i32),
    /// This signal ended it.
    Signal(i32),
}

/// What wait(2) tells of a child.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It has ended, and is reaped.
    Ended(Exit),
    /// This signal has halted it, and nobody has continued it since then.
    Halted(i32),
    /// SIGCONT has continued it.
    Continued,
}

impl Change {
    /// The status as wait(2) has it.
    pub fn from_status(status: c_int) -> Self {
        if libc::WIFSTOPPED(status) {
            Change::Halted(libc::WSTOPSIG(status))
        } else if libc::WIFCONTINUED(status) {
            Change::Continued
        } else {
            Change::Ended(Exit::from_status(status))
        }
    }
}

impl Exit {
    /// The status as wait(2) has it.
    pub fn from_status(status: c_int) -> Self {
        if libc::WIFSIGNALED(status) {
            Exit::Signal(libc::WTERMSIG(status))
        } else {
            Exit::Code(libc::WEXITSTATUS(status))
        }
    }
}

/// For `#[serde(with)]`: a pid as a number.
pub mod serde_pid {
    use super::Pid;
    use serde::{Deserialize, Deserializer, Serializer};

    /// As an i32.
    ///
    /// # Errors
    /// Those of the serializer.
    #[allow(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
    pub fn serialize<S: Serializer>(pid: &Pid, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_i32(pid.as_raw())
    }

    /// From an i32.
    ///
    /// # Errors
    /// Those of the deserializer.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Pid, D::Error> {
        i32::deserialize(deserializer).map(Pid::from_raw)
    }
}

/// Makes us the parent of descendants whose own parent has gone
/// (PR_SET_CHILD_SUBREAPER), as PID 1 is anyway.
///
/// # Errors
/// EINVAL before Linux 3.4.
pub fn become_subreaper() -> nix::Result<()> {
    nix::sys::prctl::set_child_subreaper(true)
}

/// Reaps the children that have ended, one for each item; ends when there is no other (or no child
/// at all). Never blocks.
pub fn reap() -> impl Iterator<Item = (Pid, Exit)> {
    iter::from_fn(|| wait_for(-1, libc::WNOHANG)).map(|(pid, status)| (pid, Exit::from_status(status)))
}

/// The same, with the children that were halted or continued: of each the last such change, if
/// nobody has been told of it. The name is what a process that has ended was called then (comm of
/// proc(5)), which tells a shell from the server that it has executed.
pub fn changes() -> impl Iterator<Item = (Pid, Change, Option<String>)> {
    const ALL: c_int = libc::WNOHANG | libc::WUNTRACED | libc::WCONTINUED;
    iter::from_fn(|| {
        let ended = ended();
        let name = ended.and_then(|pid| proc::text(pid, "comm").ok()).map(|name| name.trim_end().to_owned());
        let (pid, status) = wait_for(ended.map_or(-1, Pid::as_raw), ALL)?;
        Some((pid, Change::from_status(status), name))
    })
}

/// A child that has ended and waits to be reaped.
fn ended() -> Option<Pid> {
    // SAFETY: all zeros are a siginfo_t.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    // SAFETY: the siginfo_t lives through the call.
    let done =
        unsafe { libc::waitid(libc::P_ALL, 0, &raw mut info, libc::WEXITED | libc::WNOHANG | libc::WNOWAIT) };
    // SAFETY: waitid(2) has set it, or left it 0.
    let pid = unsafe { info.si_pid() };
    (done == 0 && pid > 0).then(|| Pid::from_raw(pid))
}

/// Waits until the child `pid` has ended. None when it is not a child of ours.
pub fn wait(pid: Pid) -> Option<Exit> {
    wait_for(pid.as_raw(), 0).map(|(_, status)| Exit::from_status(status))
}

/// Whether `pid` is a child of ours, also if it has ended and waits to be reaped (waitid(2) with
/// WNOWAIT, which does not reap it).
pub fn is_child(pid: Pid) -> bool {
    let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    waitid(Id::Pid(pid), flags) != Err(Errno::ECHILD)
}

/// waitpid(2). Not nix's, which gives an error for a child that a real-time
/// signal ended, when it has been reaped already.
fn wait_for(pid: libc::pid_t, flags: c_int) -> Option<(Pid, c_int)> {
    loop {
        let mut status = 0;
        // SAFETY: the status lives through the call.
        match unsafe { libc::waitpid(pid, &raw mut status, flags) } {
            -1 if Errno::last() == Errno::EINTR => {}
            -1 | 0 => return None,
            pid => return Some((Pid::from_raw(pid), status)),
        }
    }
}

/// Sends `signal` to one process. A process that has gone is no error.
///
/// # Errors
/// EPERM for a process that has changed its user (set-user-ID); EINVAL for a
/// signal that does not exist, and for pids that mean more than one process or
/// PID 1.
pub fn signal(pid: Pid, signal: i32) -> nix::Result<()> {
    if pid.as_raw() <= 1 {
        return Err(Errno::EINVAL);
    }
    ignore_missing(kill(pid.as_raw(), signal))
}

/// Sends `signal` to a halted process, so that its main thread gets it: of a process that runs the
/// kernel chooses that thread, but of one that is halted any that is continued first. Where the main
/// thread blocks the signal another one waits for it (sigwait(3)), and any may get it.
///
/// # Errors
/// As [`signal`].
pub fn signal_halted(pid: Pid, signal: i32) -> nix::Result<()> {
    if pid.as_raw() <= 1 {
        return Err(Errno::EINVAL);
    }
    let status = proc::text(pid, &format!("task/{pid}/status")).unwrap_or_default();
    let blocked = status.lines().find_map(|line| line.strip_prefix("SigBlk:"));
    let blocked = blocked.and_then(|set| u64::from_str_radix(set.trim(), 16).ok());
    // The main thread may have ended before the others.
    let has_ended = status.lines().any(|line| line.starts_with("State:\tZ"));
    let takes_it = !has_ended && blocked.is_some_and(|set| set & 1 << (signal - 1) == 0);
    if !takes_it {
        return self::signal(pid, signal);
    }
    // SAFETY: plain system call: tgkill(2).
    let sent = unsafe { libc::syscall(libc::SYS_tgkill, pid.as_raw(), pid.as_raw(), signal) };
    ignore_missing(Errno::result(sent).map(drop))
}

/// Sends `signal` to every process of a group. A group that has gone is no error.
///
/// # Errors
/// EPERM when not one of them may be signalled; EINVAL for our own group, for
/// one that cannot be a worker's (0 and 1: kill(2) takes them for our own and
/// for everybody), and for a signal that does not exist.
pub fn signal_group(group: Pid, signal: i32) -> nix::Result<()> {
    if group.as_raw() <= 1 || group == getpgrp() {
        return Err(Errno::EINVAL);
    }
    ignore_missing(kill(-group.as_raw(), signal))
}

/// Whether a process group has a member, which may be a zombie.
pub fn group_exists(group: Pid) -> bool {
    group.as_raw() > 1 && kill(-group.as_raw(), 0) != Err(Errno::ESRCH)
}

/// A descriptor that stands for the child `pid` (pidfd_open(2), Linux 5.3) and becomes readable
/// when it ends. None where the kernel lacks or forbids it or no number is left: it is an addition
/// to the pid, which is sufficient.
pub fn pidfd(pid: Pid) -> Option<OwnedFd> {
    // SAFETY: plain system call; the descriptor that it returns is new,
    // close-on-exec, and nobody else's.
    unsafe {
        let fd = libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0) as RawFd;
        (fd >= 0).then(|| OwnedFd::from_raw_fd(fd))
    }
}

/// The file name that execve(2) was called with when we were executed: getauxval(3), AT_EXECFN. It
/// may be relative to the working directory of that time.
pub fn exec_filename() -> Option<PathBuf> {
    // SAFETY: getauxval only reads the auxiliary vector; the result is null, or a string that the
    // kernel has put on the stack for as long as the process lives.
    let name = unsafe {
        let name = libc::getauxval(libc::AT_EXECFN) as *const libc::c_char;
        if name.is_null() {
            return None;
        }
        CStr::from_ptr(name)
    };
    Some(PathBuf::from(OsStr::from_bytes(name.to_bytes())))
}

/// Raises the priority of the calling thread, which reads signals: two signals of one kind that
/// come before it runs are merged (signal(7)). Without the right to do this, nothing changes
/// (setpriority(2); on Linux the priority is that of the thread).
pub fn raise_priority() {
    const CALLING_THREAD: libc::id_t = 0;
    // SAFETY: plain system call.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, CALLING_THREAD, -20) };
}

/// kill(2) with a signal that may be real-time.
fn kill(pid: libc::pid_t, signal: i32) -> nix::Result<()> {
    // SAFETY: plain system call.
    Errno::result(unsafe { libc::kill(pid, signal) }).map(drop)
}

fn ignore_missing(result: nix::Result<()>) -> nix::Result<()> {
    match result {
        Err(Errno::ESRCH) => Ok(()),
        other => other,
    }
}

/// The files that `pid` has open for writing, as far as /proc shows them.
pub fn files_open_for_writing(pid: Pid) -> Vec<PathBuf> {
    let written = |number: &str| {
        let info = proc::text(pid, &format!("fdinfo/{number}")).ok()?;
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:"))?;
        let mode = i32::from_str_radix(flags.trim(), 8).ok()? & libc::O_ACCMODE;
        (mode != libc::O_RDONLY).then_some(())
    };
    let entries = proc::entries(pid, "fd").into_iter().flatten().flatten();
    let open = entries.filter(|entry| entry.file_name().to_str().and_then(written).is_some());
    open.filter_map(|entry| fs::read_link(entry.path()).ok()).filter(|path| path.is_absolute()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Signal 0 checks without sending, should a guard be broken.
    const PROBE: i32 = 0;

    #[test]
    fn everybody_pid_1_and_our_own_group_get_no_signal() {
        for pid in [-1, 0, 1] {
            assert_eq!(signal(Pid::from_raw(pid), PROBE), Err(Errno::EINVAL), "{pid}");
            assert_eq!(signal_group(Pid::from_raw(pid), PROBE), Err(Errno::EINVAL), "{pid}");
            assert!(!group_exists(Pid::from_raw(pid)), "{pid}");
        }
        assert_eq!(signal_group(getpgrp(), PROBE), Err(Errno::EINVAL));
    }

    #[test]
    fn a_process_that_has_gone_is_no_error() {
        // Above every pid_max that a kernel allows.
        let nobody = Pid::from_raw(i32::MAX);
        assert_eq!(signal(nobody, libc::SIGTERM), Ok(()));
        assert_eq!(signal_group(nobody, libc::SIGTERM), Ok(()));
        assert!(!group_exists(nobody));
        assert!(pidfd(nobody).is_none());
        assert_eq!(signal(Pid::this(), 4711), Err(Errno::EINVAL));
    }
}
