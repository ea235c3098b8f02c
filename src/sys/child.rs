//! Fork and exec: one path for every program, errors told apart from quick exits.
//!
//! Everything is made ready before the fork; between fork and exec the child only makes
//! async-signal-safe calls, allocates nothing and cannot panic. All signals are blocked over the
//! fork, so that a signal which reaches the child early stays pending until the child has the
//! worker's own dispositions. A failure comes back through a close-on-exec pipe: an empty pipe
//! means that exec succeeded.

use std::convert::Infallible;
use std::ffi::CString;
use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use libc::{c_int, c_uint, c_ulong, pid_t};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg, socketpair,
};
use nix::unistd::Pid;

use super::credentials::Credentials;
use super::exec_args::ExecArgs;
use super::fd_plan::{FdTable, Plan};
use super::identity::Identity;
use super::seccomp::{self, Filter};
use super::{fd, inherited, process};

/// Where close_range(2) is missing, descriptors are closed one by one up to the soft RLIMIT_NOFILE,
/// and at most up to this number, which takes some 10 ms. An inherited descriptor above it may
/// reach the worker.
const BRUTE_FORCE_END: RawFd = 65_536;

/// A program to start, and the attributes of its process.
#[derive(Debug)]
pub struct Launch {
    /// A path; it goes to execve(2) as it is.
    pub program: CString,
    /// Its arguments, the first of which is its name.
    pub argv: Vec<CString>,
    /// `K=V`, without `LISTEN_PID`, `LISTEN_PIDFDID` and `WATCHDOG_PID`.
    pub env: Vec<CString>,
    /// Adds `LISTEN_PID`, the child's pid, and where the kernel has pidfs (6.9)
    /// `LISTEN_PIDFDID`, the inode number of its pidfd.
    pub listen: bool,
    /// Adds `WATCHDOG_PID`, the child's pid.
    pub watchdog: bool,
    /// The directory to start in.
    pub directory: OwnedFd,
    /// (source, target): the numbers under which the worker gets our
    /// descriptors. Other than these it gets what we have as 0 to 2.
    pub fds: Vec<(RawFd, RawFd)>,
    /// Makes the child the leader of a process group of its own.
    pub own_group: bool,
    /// The file mode creation mask; None leaves ours.
    pub umask: Option<u32>,
    /// The user to become; None, or our own user, changes nothing.
    pub identity: Option<Identity>,
    /// Signals that the child must not ignore, whatever we were started with.
    pub default_signals: Vec<i32>,
    /// PR_SET_NO_NEW_PRIVS: no later exec gains privileges.
    pub no_new_privs: bool,
    /// The signal to get when the thread that called [`spawn`] ends
    /// (PR_SET_PDEATHSIG). A set-user-ID program or one with capabilities loses it.
    pub death_signal: Option<i32>,
    /// Installed in the child: sends us calls of the child and its descendants. A child without
    /// CAP_SYS_ADMIN sets PR_SET_NO_NEW_PRIVS for it.
    pub filter: Option<Filter>,
    /// Executed by execveat(2) instead of the file at `program`. It must be native code: the
    /// interpreter of a script would look for a descriptor that is closed by then. Its number is
    /// above every target.
    pub program_fd: Option<OwnedFd>,
}

/// A child that has executed its program.
#[derive(Debug)]
pub struct Child {
    /// Its pid, ours to reap.
    pub pid: Pid,
    /// None where the kernel lacks or forbids pidfd_open(2), or no descriptor is free.
    pub pidfd: Option<OwnedFd>,
    /// The seccomp listener, on which its calls arrive, if there is a filter.
    pub seccomp_listener: Option<OwnedFd>,
}

/// Why there is no child.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpawnError {
    /// The step that failed.
    pub step: Step,
    /// Its errno.
    pub errno: Errno,
}

impl fmt::Display for SpawnError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let why = crate::error::reason(&io::Error::from(self.errno));
        write!(f, "{}: {why}", self.step)
    }
}

impl std::error::Error for SpawnError {}

macro_rules! steps {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// The steps on the way to a running program.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Step { $($(#[$doc])* $name,)* }

        impl Step {
            const ALL: &[Step] = &[$(Step::$name),*];
        }

        impl fmt::Display for Step {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self { $(Step::$name => $text,)* })
            }
        }
    };
}

steps! {
    /// pipe2(2) for the error pipe.
    Pipe = "pipe",
    /// fork(2).
    Fork = "fork",
    /// setpgid(2).
    Group = "setpgid",
    /// fchdir(2).
    Directory = "chdir",
    /// Duplicating the descriptors to their targets.
    Fds = "pass fds",
    /// seccomp(2): EBUSY where a process above us has a filter with a listener.
    Filter = "watch bind and listen",
    /// Becoming another user, or making sure that there is no way back.
    Identity = "change user",
    /// prctl(PR_SET_NO_NEW_PRIVS).
    NoNewPrivileges = "no_new_privs",
    /// prctl(PR_SET_PDEATHSIG); ESRCH when the parent had ended by then.
    DeathSignal = "set parent death signal",
    /// execve(2).
    Exec = "exec",
}

/// Starts `launch`. Returns when the program has been executed, or could not be.
///
/// Only the thread that lives as long as the process should call this, because
/// `death_signal` fires when the thread ends. `error` gives the step and the
/// errno; a child that failed has been reaped.
///
/// # Errors
/// [`Step::Exec`] with ENOENT (also when it is the `#!` interpreter that is
/// missing), EACCES, ENOEXEC, ETXTBSY, … as execve(2) has them; any other step
/// when the machine or the [`Launch`] does not allow it. [`Step::Fds`] with
/// EINVAL when two sources have one target.
pub fn spawn(launch: &Launch) -> Result<Child, SpawnError> {
    let (receive, send) = match launch.filter {
        // A pipe carries no descriptor.
        Some(_) => socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC),
        None => nix::unistd::pipe2(OFlag::O_CLOEXEC),
    }
    .map_err(|errno| Step::Pipe.failed(errno))?;
    let mut plan = Plan::new(&launch.fds, send.as_raw_fd()).ok_or_else(|| Step::Fds.failed(Errno::EINVAL))?;
    let mut exec_args = ExecArgs::new(&launch.argv, &launch.env);
    let become_other = match &launch.identity {
        Some(identity) if !identity.is_ours() => {
            Some(Credentials::new(identity).map_err(|errno| Step::Identity.failed(errno))?)
        }
        _ => None,
    };
    let parent = nix::unistd::getpid().as_raw();

    let mask = inherited::change_mask(libc::SIG_BLOCK, u64::MAX);
    // SAFETY: the child makes async-signal-safe calls only, on memory that was
    // made ready above, and leaves by execve or _exit.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        run_child(launch, &mut exec_args, &mut plan, become_other.as_ref(), parent);
    }
    let errno = Errno::last();
    inherited::change_mask(libc::SIG_SETMASK, mask);
    if pid == -1 {
        return Err(Step::Fork.failed(errno));
    }

    let pid = Pid::from_raw(pid);
    if launch.own_group {
        // The child does the same, so that the group exists before anybody signals it. The second
        // call fails with EACCES (the program has been executed) or ESRCH (the child has ended).
        let _ = nix::unistd::setpgid(pid, pid);
    }
    drop(send);
    let (seccomp_listener, failed) = match launch.filter {
        Some(_) => receive_listener(&receive),
        None => (None, None),
    };
    match failed.or_else(|| receive_failure(&receive)) {
        None => Ok(Child { pid, pidfd: process::pidfd(pid), seccomp_listener }),
        Some(error) => {
            process::wait(pid);
            Err(error)
        }
    }
}

impl Step {
    fn failed(self, errno: Errno) -> SpawnError {
        SpawnError { step: self, errno }
    }

    /// The result of a system call as a result of this step.
    fn check(self, result: c_int) -> Result<c_int, SpawnError> {
        if result == -1 { Err(self.failed(Errno::last())) } else { Ok(result) }
    }
}

/// Waits for the first message of a child with a filter: its seccomp listener, or what failed
/// before there was one.
pub(super) fn receive_listener(receive: &OwnedFd) -> (Option<OwnedFd>, Option<SpawnError>) {
    let mut message = [0; 8];
    let mut room = nix::cmsg_space!([RawFd; 1]);
    let (length, listener) = loop {
        let mut parts = [io::IoSliceMut::new(&mut message)];
        let flags = MsgFlags::MSG_CMSG_CLOEXEC;
        match recvmsg::<()>(receive.as_raw_fd(), &mut parts, Some(&mut room), flags) {
            Ok(packet) => {
                let given = packet.cmsgs().into_iter().flatten().find_map(|given| match given {
                    ControlMessageOwned::ScmRights(fds) => fds.first().copied(),
                    _ => None,
                });
                break (packet.bytes, given.map(fd::take_ownership));
            }
            Err(Errno::EINTR) => {}
            Err(_) => break (0, None),
        }
    };
    let failed = listener.is_none() && length == message.len();
    (listener, failed.then(|| parse_failure(message)))
}

/// Reads the error pipe until the child has executed or exited.
fn receive_failure(receive: &OwnedFd) -> Option<SpawnError> {
    let mut message = [0; 8];
    let mut length = 0;
    while length < message.len() {
        match nix::unistd::read(receive, &mut message[length..]) {
            Ok(0) => break,
            Ok(more) => length += more,
            Err(Errno::EINTR) => {}
            Err(_) => break,
        }
    }
    (length == message.len()).then(|| parse_failure(message))
}

/// The error in a message of the child.
fn parse_failure(message: [u8; 8]) -> SpawnError {
    let (step, errno) = message.split_at(4);
    let number = |bytes: &[u8]| i32::from_ne_bytes(bytes.try_into().unwrap_or_default());
    let step = Step::ALL.iter().find(|&&known| known as i32 == number(step)).copied();
    step.unwrap_or(Step::Exec).failed(Errno::from_raw(number(errno)))
}

fn run_child(
    launch: &Launch,
    exec_args: &mut ExecArgs,
    plan: &mut Plan,
    become_other: Option<&Credentials<'_>>,
    parent: pid_t,
) -> ! {
    let Err(error) = exec(launch, exec_args, plan, become_other, parent);
    let [a, b, c, d] = (error.step as i32).to_ne_bytes();
    let [e, f, g, h] = (error.errno as i32).to_ne_bytes();
    let message = [a, b, c, d, e, f, g, h];
    // SAFETY: the message is as long as said; _exit runs nothing of ours.
    unsafe {
        libc::write(plan.error_pipe(), message.as_ptr().cast(), message.len());
        libc::_exit(127)
    }
}

fn exec(
    launch: &Launch,
    exec_args: &mut ExecArgs,
    plan: &mut Plan,
    become_other: Option<&Credentials<'_>>,
    parent: pid_t,
) -> Result<Infallible, SpawnError> {
    if launch.own_group {
        // SAFETY: plain system call.
        Step::Group.check(unsafe { libc::setpgid(0, 0) })?;
    }
    inherited::restore_dispositions();
    launch.default_signals.iter().for_each(|&signal| inherited::set_default(signal));
    // Before the descriptors move, because one of them may move onto this one.
    // SAFETY: the descriptor is open, the launch owns it.
    Step::Directory.check(unsafe { libc::fchdir(launch.directory.as_raw_fd()) })?;
    plan.apply(&mut Kernel)?;
    // After the descriptors have moved, because that needs numbers above every target.
    inherited::restore_file_limit();
    if let Some(umask) = launch.umask {
        // SAFETY: plain system call that cannot fail.
        unsafe { libc::umask(umask as libc::mode_t) };
    }
    if let Some(filter) = &launch.filter {
        // Before the change of user, which may give up the privilege for it.
        install_filter(filter, plan.error_pipe()).map_err(|errno| Step::Filter.failed(errno))?;
    }
    if let Some(change) = become_other {
        change.apply().map_err(|errno| Step::Identity.failed(errno))?;
    }
    if launch.no_new_privs {
        prctl(Step::NoNewPrivileges, libc::PR_SET_NO_NEW_PRIVS, 1)?;
    }
    if let Some(signal) = launch.death_signal {
        // After the change of user, which clears it.
        prctl(Step::DeathSignal, libc::PR_SET_PDEATHSIG, signal as c_ulong)?;
        // SAFETY: getppid has no arguments and cannot fail.
        if unsafe { libc::getppid() } != parent {
            return Err(Step::DeathSignal.failed(Errno::ESRCH));
        }
    }
    exec_args.add_process_ids(launch.listen, launch.watchdog);
    inherited::change_mask(libc::SIG_SETMASK, inherited::mask());
    if let Some(file) = &launch.program_fd {
        // SAFETY: as below; the path is empty, and the descriptor is open.
        unsafe {
            libc::syscall(
                libc::SYS_execveat,
                file.as_raw_fd(),
                c"".as_ptr(),
                exec_args.argv.as_ptr(),
                exec_args.envp.as_ptr(),
                libc::AT_EMPTY_PATH,
            )
        };
        return Err(Step::Exec.failed(Errno::last()));
    }
    // SAFETY: the program and both arrays are NUL-terminated strings and
    // null-terminated arrays of such, which live until the process is replaced.
    unsafe { libc::execve(launch.program.as_ptr(), exec_args.argv.as_ptr(), exec_args.envp.as_ptr()) };
    Err(Step::Exec.failed(Errno::last()))
}

/// Installs the filter and sends the seccomp listener to the parent.
pub(super) fn install_filter(filter: &Filter, channel: RawFd) -> nix::Result<()> {
    let listener = match filter.install() {
        Err(Errno::EACCES) => {
            const NONE: c_ulong = 0;
            // SAFETY: this option takes one number.
            unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1 as c_ulong, NONE, NONE, NONE) };
            filter.install()?
        }
        listener => listener?,
    };
    seccomp::send_listener(channel, listener)
}

fn prctl(step: Step, option: c_int, value: c_ulong) -> Result<(), SpawnError> {
    const NONE: c_ulong = 0;
    // SAFETY: both options that we use take one number.
    step.check(unsafe { libc::prctl(option, value, NONE, NONE, NONE) }).map(drop)
}

/// The descriptors of the calling process.
struct Kernel;

impl FdTable for Kernel {
    type Error = SpawnError;

    fn duplicate_above(&mut self, fd: RawFd, least: RawFd) -> Result<RawFd, SpawnError> {
        // SAFETY: plain system call.
        Step::Fds.check(unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, least) })
    }

    fn duplicate_to(&mut self, source: RawFd, target: RawFd) -> Result<(), SpawnError> {
        // SAFETY: plain system call; the child does not need what was open at the target.
        Step::Fds.check(unsafe { libc::dup2(source, target) }).map(drop)
    }

    fn keep_on_exec(&mut self, fd: RawFd) -> Result<(), SpawnError> {
        // SAFETY: plain system calls; FD_CLOEXEC is the only descriptor flag.
        Step::Fds.check(unsafe { libc::fcntl(fd, libc::F_SETFD, 0) }).map(drop)
    }

    fn close_on_exec(&mut self, first: RawFd, last: RawFd) -> Result<(), SpawnError> {
        let numbers = (first as c_uint, last as c_uint);
        // SAFETY: plain system call.
        let result =
            unsafe { libc::syscall(libc::SYS_close_range, numbers.0, numbers.1, libc::CLOSE_RANGE_CLOEXEC) };
        if result == -1 {
            // ENOSYS before Linux 5.9, EINVAL before 5.11, EPERM in containers.
            close_on_exec_by_hand(first, last);
        }
        Ok(())
    }
}

fn close_on_exec_by_hand(first: RawFd, last: RawFd) {
    // SAFETY: an all-zero rlimit is valid, and fcntl on a number that is not
    // open fails with EBADF and does nothing.
    unsafe {
        let mut limit: libc::rlimit = std::mem::zeroed();
        libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit);
        let open_below = limit.rlim_cur.min(BRUTE_FORCE_END as libc::rlim_t) as RawFd;
        for fd in first..open_below.min(last.saturating_add(1)) {
            libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_close_range_descriptors_are_closed_by_hand() {
        let null = std::fs::File::open("/dev/null").expect("opens");
        // No other test uses numbers as high as these.
        let flags = |fd| {
            // SAFETY: plain system call.
            unsafe { libc::fcntl(fd, libc::F_GETFD) }
        };
        // SAFETY: the copy is closed below.
        let copies: Vec<RawFd> = [700, 701, 710]
            .map(|least| unsafe { libc::fcntl(null.as_raw_fd(), libc::F_DUPFD, least) })
            .into();
        assert_eq!(copies, [700, 701, 710]);
        close_on_exec_by_hand(701, RawFd::MAX);
        let got = copies.iter().map(|&fd| flags(fd)).collect::<Vec<_>>();
        for fd in copies {
            // SAFETY: made above, closed once.
            unsafe { libc::close(fd) };
        }
        assert_eq!(got, [0, libc::FD_CLOEXEC, libc::FD_CLOEXEC]);
    }
}
