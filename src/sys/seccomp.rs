//! System calls that we receive before the kernel executes them: seccomp_unotify(2).
//!
//! A child installs a [`Filter`] in itself, which its descendants inherit, and gets a descriptor,
//! the seccomp listener. Its owner receives each bind(2) and listen(2), and what it asks for beside
//! them: connect(2), or the calls that remove or rename a file. The caller waits for the answer.
//! This is no security boundary and need not be one: an answer only concerns the caller's own socket and
//! its path. Calls of another architecture than ours (32 bits, x32) are allowed and not received.
//!
//! Multipath TCP is refused, as by a kernel without it: no reuseport program can be attached to
//! such sockets (EOPNOTSUPP), so they could not be steered. Most programs that ask for one fall
//! back to TCP.

use super::proc;
use libc::{c_uint, c_ulong, pid_t};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::uio::{RemoteIoVec, process_vm_readv};
use nix::unistd::Pid;
use std::io::IoSliceMut;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};

/// linux/audit.h: the value of `seccomp_data.arch` for programs of our own architecture.
#[cfg(target_arch = "x86_64")]
const ARCH: Option<u32> = Some(0xC000_003E);
#[cfg(target_arch = "aarch64")]
const ARCH: Option<u32> = Some(0xC000_00B7);
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
const ARCH: Option<u32> = None;

/// The offsets of the call's number and the architecture in `struct seccomp_data`.
const NUMBER_AT: u32 = 0;
const ARCH_AT: u32 = 4;
/// The third argument, of which the protocol of socket(2) is the lower half.
const PROTOCOL_AT: u32 = if cfg!(target_endian = "little") { 32 } else { 36 };

/// The size of the longest socket address (sockaddr_storage).
const MAX_ADDRESS_LENGTH: usize = 128;

/// The calls that remove or rename a file.
#[cfg(target_arch = "x86_64")]
const REMOVALS: [i64; 5] =
    [libc::SYS_unlink, libc::SYS_unlinkat, libc::SYS_rename, libc::SYS_renameat, libc::SYS_renameat2];
#[cfg(not(target_arch = "x86_64"))]
const REMOVALS: [i64; 3] = [libc::SYS_unlinkat, libc::SYS_renameat, libc::SYS_renameat2];

/// The working directory, as an argument.
#[cfg(target_arch = "x86_64")]
const HERE: u64 = libc::AT_FDCWD as u64;

/// The filter program, prepared before a fork.
#[derive(Debug, Clone)]
pub struct Filter {
    program: Vec<libc::sock_filter>,
}

/// The calls that are received beside bind(2) and listen(2). Each one waits for us, as long as a process
/// under the filter lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Received {
    /// connect(2).
    pub connects: bool,
    /// unlink(2), rename(2) and their kin.
    pub removals: bool,
}

/// The system call, with its arguments after the descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// bind(2): the pointer to the socket address in the caller's memory, and its length.
    Bind(u64, usize),
    /// listen(2): the backlog.
    Listen(i32),
    /// connect(2): as bind(2).
    Connect(u64, usize),
    /// unlink(2), unlinkat(2).
    Unlink(PathAt),
    /// rename(2), renameat(2): from where, and to where.
    Rename(PathAt, PathAt),
    /// A call of these kinds that does something else: removes a directory, exchanges two files.
    Other,
}

/// A path in the caller's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PathAt {
    /// The caller's descriptor of the directory that it is relative to, or AT_FDCWD.
    pub directory: RawFd,
    /// The pointer to its bytes, which end with a NUL.
    pub at: u64,
}

/// A call, whose caller waits for the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Call {
    /// The kernel's id of the call.
    pub id: u64,
    /// The calling thread.
    pub thread: Pid,
    /// The caller's descriptor of the socket; -1 for a call about a file.
    pub fd: RawFd,
    /// The system call.
    pub operation: Operation,
}

/// The answer to a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// The kernel executes the call.
    Continue,
    /// The call succeeds without the kernel: we have done its work.
    Done,
    /// The call fails.
    Failed(Errno),
}

impl Filter {
    /// None on an architecture whose system call numbers we do not know.
    pub fn new(received: Received) -> Option<Filter> {
        let statement = |code: c_uint, k: u32| libc::sock_filter { code: code as u16, jt: 0, jf: 0, k };
        let jump = |k: u32, jt: u8, jf: u8| libc::sock_filter {
            code: (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16,
            jt,
            jf,
            k,
        };
        let load = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
        let end = libc::BPF_RET | libc::BPF_K;
        let mut calls = vec![libc::SYS_bind, libc::SYS_listen];
        calls.extend(received.connects.then_some(libc::SYS_connect));
        if received.removals {
            calls.extend(REMOVALS);
        }
        // The program reads an argument of socket(2) only. The kernel caches which numbers are
        // allowed without reading an argument, so that other calls cost nothing.
        let count = calls.len() as u8;
        let mut program =
            vec![statement(load, ARCH_AT), jump(ARCH?, 0, count + 5), statement(load, NUMBER_AT)];
        program.extend((0..count).zip(calls).map(|(at, call)| jump(call as u32, count - at + 2, 0)));
        program.extend([
            jump(libc::SYS_socket as u32, 0, 3),
            statement(load, PROTOCOL_AT),
            jump(libc::IPPROTO_MPTCP as u32, 2, 1),
            statement(end, libc::SECCOMP_RET_USER_NOTIF),
            statement(end, libc::SECCOMP_RET_ALLOW),
            statement(end, libc::SECCOMP_RET_ERRNO | libc::EPROTONOSUPPORT as u32),
        ]);
        Some(Filter { program })
    }

    /// Installs it in the calling thread, which should be the only one, and returns the seccomp
    /// listener, close-on-exec. For a child between fork and exec: allocates nothing. Without
    /// CAP_SYS_ADMIN the caller must have set PR_SET_NO_NEW_PRIVS.
    ///
    /// # Errors
    /// EACCES without either of the two; EBUSY where an ancestor's filter has a listener already;
    /// EINVAL or ENOSYS where the kernel does not support it.
    pub fn install(&self) -> nix::Result<RawFd> {
        let base = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER | libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW;
        // With this flag a signal does not interrupt a call that we have received (Linux 5.19).
        match self.seccomp(base | libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV) {
            Err(Errno::EINVAL) => self.seccomp(base),
            result => result,
        }
    }

    fn seccomp(&self, flags: c_ulong) -> nix::Result<RawFd> {
        let program =
            libc::sock_fprog { len: self.program.len() as u16, filter: self.program.as_ptr().cast_mut() };
        // SAFETY: the program is as long as said, outlives the call and is only read.
        let fd = unsafe {
            libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program)
        };
        if fd == -1 { Err(Errno::last()) } else { Ok(fd as RawFd) }
    }
}

/// What ends a wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Woken {
    /// A call waits to be received.
    Call,
    /// The other descriptor is readable.
    Other,
    /// Every task under the filter has ended.
    Ended,
}

/// Waits until there is a call, or `other` is readable.
///
/// # Errors
/// Those of poll(2).
pub fn wait(listener: BorrowedFd<'_>, other: Option<BorrowedFd<'_>>) -> nix::Result<Woken> {
    loop {
        let mut set = vec![PollFd::new(listener, PollFlags::POLLIN)];
        set.extend(other.map(|other| PollFd::new(other, PollFlags::POLLIN)));
        match poll(&mut set, PollTimeout::NONE) {
            Ok(_) => {
                let seen = set[0].revents().unwrap_or(PollFlags::empty());
                return Ok(match seen.contains(PollFlags::POLLIN) {
                    true => Woken::Call,
                    false if seen.is_empty() => Woken::Other,
                    false => Woken::Ended,
                });
            }
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

/// Whether a call waits to be received.
pub fn has_pending_call(listener: BorrowedFd<'_>) -> bool {
    let mut set = [PollFd::new(listener, PollFlags::POLLIN)];
    poll(&mut set, PollTimeout::ZERO).is_ok()
        && set[0].revents().is_some_and(|seen| seen.contains(PollFlags::POLLIN))
}

/// Whether every task under the filter has ended.
pub fn has_ended(listener: BorrowedFd<'_>) -> bool {
    let mut set = [PollFd::new(listener, PollFlags::POLLIN)];
    poll(&mut set, PollTimeout::ZERO).is_ok()
        && set[0].revents().is_some_and(|seen| seen.contains(PollFlags::POLLHUP))
}

/// Receives a call; waits if there is none.
///
/// # Errors
/// ENOENT if the caller has gone, and the others of ioctl(2).
pub fn receive(listener: BorrowedFd<'_>) -> nix::Result<Call> {
    // SAFETY: plain integers, for which all zeroes is a value; the kernel requires it.
    let mut notification: libc::seccomp_notif = unsafe { std::mem::zeroed() };
    ioctl(listener, libc::SECCOMP_IOCTL_NOTIF_RECV, &mut notification)?;
    let [first, second, third, fourth, fifth, _] = notification.data.args;
    let at = |directory: u64, at: u64| PathAt { directory: directory as RawFd, at };
    let mut fd = -1;
    let mut socket = |operation| {
        fd = first as RawFd;
        operation
    };
    let operation = match i64::from(notification.data.nr) {
        libc::SYS_bind => socket(Operation::Bind(second, third as usize)),
        libc::SYS_listen => socket(Operation::Listen(second as i32)),
        libc::SYS_connect => socket(Operation::Connect(second, third as usize)),
        #[cfg(target_arch = "x86_64")]
        libc::SYS_unlink => Operation::Unlink(at(HERE, first)),
        #[cfg(target_arch = "x86_64")]
        libc::SYS_rename => Operation::Rename(at(HERE, first), at(HERE, second)),
        libc::SYS_unlinkat if third as i32 == 0 => Operation::Unlink(at(first, second)),
        libc::SYS_renameat => Operation::Rename(at(first, second), at(third, fourth)),
        libc::SYS_renameat2 if fifth as u32 == 0 => Operation::Rename(at(first, second), at(third, fourth)),
        _ => Operation::Other,
    };
    let thread = Pid::from_raw(notification.pid as pid_t);
    Ok(Call { id: notification.id, thread, fd, operation })
}

/// Whether the caller still waits. If it does, what was read by its thread id before is its own.
pub fn is_pending(listener: BorrowedFd<'_>, id: u64) -> bool {
    let mut id = id;
    ioctl(listener, libc::SECCOMP_IOCTL_NOTIF_ID_VALID, &mut id).is_ok()
}

/// Answers a call, so that the caller continues.
///
/// # Errors
/// ENOENT if it has gone, or was interrupted.
pub fn answer(listener: BorrowedFd<'_>, id: u64, answer: Answer) -> nix::Result<()> {
    let (error, flags) = match answer {
        Answer::Continue => (0, libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32),
        Answer::Done => (0, 0),
        Answer::Failed(errno) => (-(errno as i32), 0),
    };
    let mut response = libc::seccomp_notif_resp { id, val: 0, error, flags };
    ioctl(listener, libc::SECCOMP_IOCTL_NOTIF_SEND, &mut response)
}

/// Replaces the caller's descriptor `number` by a duplicate of `ours` (Linux 5.9).
///
/// # Errors
/// ENOENT if the caller has gone, and the others of ioctl(2).
pub fn replace_fd(
    listener: BorrowedFd<'_>,
    id: u64,
    ours: BorrowedFd<'_>,
    number: RawFd,
    close_on_exec: bool,
) -> nix::Result<()> {
    let mut added = libc::seccomp_notif_addfd {
        id,
        flags: libc::SECCOMP_ADDFD_FLAG_SETFD as u32,
        srcfd: ours.as_raw_fd() as u32,
        newfd: number as u32,
        newfd_flags: if close_on_exec { libc::O_CLOEXEC as u32 } else { 0 },
    };
    ioctl(listener, libc::SECCOMP_IOCTL_NOTIF_ADDFD, &mut added)
}

fn ioctl<T>(listener: BorrowedFd<'_>, request: libc::Ioctl, value: &mut T) -> nix::Result<()> {
    loop {
        // SAFETY: each caller passes the struct that its request reads and writes,
        // alive through the call.
        match unsafe { libc::ioctl(listener.as_raw_fd(), request, &raw mut *value) } {
            -1 if Errno::last() == Errno::EINTR => {}
            -1 => return Err(Errno::last()),
            _ => return Ok(()),
        }
    }
}

/// The process that a thread belongs to.
pub fn process_of(thread: Pid) -> Option<Pid> {
    let status = proc::text(thread, "status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("Tgid:"))?;
    line.trim().parse().ok().map(Pid::from_raw)
}

/// Whether the descriptor `number` of the task is close-on-exec. That is a flag of the descriptor,
/// not of the socket.
pub fn is_close_on_exec(thread: Pid, number: RawFd) -> bool {
    let text = proc::text(thread, &format!("fdinfo/{number}")).unwrap_or_default();
    let flags = text.lines().find_map(|line| line.strip_prefix("flags:"));
    let flags = flags.and_then(|flags| i32::from_str_radix(flags.trim(), 8).ok());
    flags.is_some_and(|flags| flags & libc::O_CLOEXEC != 0)
}

/// The bytes of a socket address in the memory of the task.
///
/// # Errors
/// EINVAL if it is longer than any socket address, and those of process_vm_readv(2).
pub fn read_address(thread: Pid, at: u64, length: usize) -> nix::Result<Vec<u8>> {
    if length > MAX_ADDRESS_LENGTH {
        return Err(Errno::EINVAL);
    }
    let mut bytes = vec![0; length];
    let read = process_vm_readv(
        thread,
        &mut [IoSliceMut::new(&mut bytes)],
        &[RemoteIoVec { base: at as usize, len: length }],
    )?;
    bytes.truncate(read);
    Ok(bytes)
}

/// Sends the seccomp listener over `channel`. For a child between fork and exec: allocates nothing.
///
/// # Errors
/// Those of sendmsg(2).
pub(super) fn send_listener(channel: RawFd, listener: RawFd) -> nix::Result<()> {
    /// Room for a header and one descriptor, aligned as a header is.
    #[repr(C)]
    union ControlBuffer {
        header: libc::cmsghdr,
        bytes: [u8; 32],
    }
    let mut byte = 0_u8;
    let mut part = libc::iovec { iov_base: (&raw mut byte).cast(), iov_len: 1 };
    let mut control = ControlBuffer { bytes: [0; 32] };
    let size = size_of::<RawFd>() as c_uint;
    // SAFETY: an all-zero msghdr is valid; the buffer is aligned and large enough for a
    // header and one descriptor (24 bytes), and all of it lives through the call.
    unsafe {
        let mut packet: libc::msghdr = std::mem::zeroed();
        packet.msg_iov = &raw mut part;
        packet.msg_iovlen = 1;
        packet.msg_control = (&raw mut control).cast();
        packet.msg_controllen = libc::CMSG_SPACE(size) as _;
        control.header.cmsg_level = libc::SOL_SOCKET;
        control.header.cmsg_type = libc::SCM_RIGHTS;
        control.header.cmsg_len = libc::CMSG_LEN(size) as _;
        std::ptr::copy_nonoverlapping(
            (&raw const listener).cast::<u8>(),
            libc::CMSG_DATA(&raw const control.header),
            size_of::<RawFd>(),
        );
        match libc::sendmsg(channel, &raw const packet, 0) {
            -1 => Err(Errno::last()),
            _ => Ok(()),
        }
    }
}
