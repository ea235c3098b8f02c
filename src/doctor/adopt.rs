//! Checks of what `--adopt` needs: each call is tried as `--adopt` makes it, on a child or a socket
//! of our own.

use super::check::{Check, State, Subject};
use super::machine::{Machine, SYS_PTRACE};
use crate::error::reason;
use crate::sys::connections::unix_queues;
use crate::sys::probe::{self, Access, ProbeError, Refused};
use crate::sys::{fd, proc, steering, tcp_diag, tree};
use nix::errno::Errno;
use nix::sys::utsname::uname;
use nix::unistd::Pid;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::{fs, io};

/// The feature that they are for.
pub const ADOPT: &str = "--adopt";
const KERNEL: &Subject = &Subject("kernel", ADOPT);
const SECCOMP: &Subject = &Subject("seccomp", ADOPT);
const PRIVILEGES: &Subject = &Subject("no_new_privs", ADOPT);
const PIDFD: &Subject = &Subject("pidfd_open", ADOPT);
const GETFD: &Subject = &Subject("pidfd_getfd", ADOPT);
const READV: &Subject = &Subject("process_vm_readv", ADOPT);
const YAMA: &Subject = &Subject("yama", ADOPT);
const STEERING: &Subject = &Subject("reuseport program", ADOPT);
const TCP: &Subject = &Subject("sock_diag of tcp", ADOPT);
const UNIX: &Subject = &Subject("sock_diag of unix", "ctl status");

/// The most ancestors that are searched.
const MAX_DEPTH: usize = 64;

/// What a filter of systemd has to let through. `pidfd_getfd` and `seccomp` are in none of its
/// sets that services use.
const UNIT: &str = "in our unit: SystemCallFilter=pidfd_getfd seccomp process_vm_readv kcmp, a line \
    after that of @system-service";

/// All checks for `--adopt`.
pub fn checks(machine: &Machine) -> Vec<Check> {
    let release = uname().map(|name| name.release().to_string_lossy().into_owned());
    let yama = yama(machine.number("proc/sys/kernel/yama/ptrace_scope"), machine.can(SYS_PTRACE));
    let forbidden = forbidden(machine, yama.state == State::Missing);
    let access = |subject, access| call(subject, probe::access_child(access), forbidden);
    let on_listener = |subject: &'static Subject, check: fn(&OwnedFd) -> Check| {
        subject.isolated(|| match probe::reuseport_listener() {
            Ok(listener) => check(&listener),
            Err(errno) => subject.note(
                format!("cannot be tried, as there is no port on 127.0.0.1: {}", reason(&errno.into())),
                "ip link set lo up",
            ),
        })
    };
    vec![
        kernel(&release.unwrap_or_default()),
        SECCOMP.isolated_with(UNIT, || seccomp(probe::probe_bind_notification())),
        PRIVILEGES.isolated_with(UNIT, || privileges(machine, probe::probe_bind_notification())),
        access(PIDFD, Access::PidfdOpen),
        access(GETFD, Access::PidfdGetfd),
        access(READV, Access::ProcessVmReadv),
        yama,
        on_listener(STEERING, |listener| steering(steering::attach(listener.as_fd(), &[0]))),
        TCP.isolated(|| diag_check(TCP, tcp_diag::can_ask().map(|()| true).map_err(Into::into))),
        UNIX.isolated(|| {
            diag_check(
                UNIX,
                UnixDatagram::unbound().and_then(|socket| {
                    let inode = inode(&socket)?;
                    Ok(unix_queues(&[inode]).contains_key(&inode))
                }),
            )
        }),
    ]
}

/// What to do where a call that looks into a child is forbidden, by who has probably forbidden it.
fn forbidden(machine: &Machine, by_yama: bool) -> &'static str {
    let unit = machine.variable("INVOCATION_ID").is_some();
    match machine.container() {
        _ if by_yama => "see yama",
        Some(_) if machine.in_nspawn() => "systemd-nspawn --system-call-filter=pidfd_getfd",
        None if machine.is_filtered() && unit => UNIT,
        _ => {
            "a container's default profile: docker run --cap-add SYS_PTRACE, in Kubernetes \
             capabilities: add: [SYS_PTRACE]"
        }
    }
}

fn inode(socket: &impl AsRawFd) -> io::Result<u64> {
    fd::device_and_inode(socket.as_raw_fd()).map(|(_, inode)| inode)
}

/// 5.9 brought SECCOMP_IOCTL_NOTIF_ADDFD, 5.19 SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV.
fn kernel(release: &str) -> Check {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => match (major, minor) {
            version if version < (5, 9) => {
                KERNEL.missing(format!("{release}, older than 5.9"), "a newer kernel")
            }
            version if version < (5, 19) => KERNEL.note(
                format!("{release}: a signal may interrupt a bind(2) that we look at"),
                "5.19 waits; servers that try again do not notice",
            ),
            _ => KERNEL.ok(format!("{release}; --adopt needs 5.9")),
        },
        _ => KERNEL.note(format!("'{}' is no version", release.escape_debug()), "--adopt needs 5.9"),
    }
}

fn seccomp(seen: Result<bool, ProbeError>) -> Check {
    const PROFILE: &str =
        "the kernel needs CONFIG_SECCOMP_FILTER; a container's profile has to allow seccomp(2)";
    match seen {
        Ok(_) => SECCOMP.ok("a bind(2) of a child was seen and let through"),
        Err(ProbeError::Architecture) => SECCOMP
            .missing(format!("{} is not known to us", std::env::consts::ARCH), "run it on x86_64 or aarch64"),
        Err(ProbeError::Filter(Errno::EBUSY)) => {
            let above = seccomp_supervisor().map_or_else(
                || "somebody above us, who cannot be seen from here,".into(),
                |(pid, name)| format!("pid {pid} ({name})"),
            );
            SECCOMP.missing(
                format!("{above} watches our calls already, and there can be one"),
                "run graceful-run outside of that, or hand the sockets over with -b",
            )
        }
        Err(ProbeError::Filtered) => SECCOMP.filtered(UNIT),
        Err(ProbeError::Filter(errno)) => {
            SECCOMP.missing(format!("no filter: {}", text(errno)), advice(errno, PROFILE))
        }
        Err(ProbeError::Call(errno)) => {
            SECCOMP.missing(format!("a bind(2) was not seen: {}", text(errno)), PROFILE)
        }
        Err(ProbeError::Child(errno)) => no_child(SECCOMP, errno),
    }
}

fn no_child(subject: &'static Subject, errno: Errno) -> Check {
    subject.note(
        format!("cannot be tried, as no child can be started: {}", text(errno)),
        "look at RLIMIT_NPROC, RLIMIT_NOFILE and the pids of the control group",
    )
}

/// The closest process above us that has a seccomp listener.
fn seccomp_supervisor() -> Option<(Pid, String)> {
    let mut pid = tree::parent(Pid::this())?;
    for _ in 0..MAX_DEPTH {
        let fds = proc::entries(pid, "fd").into_iter().flatten().flatten();
        let mut links = fds.filter_map(|entry| fs::read_link(entry.path()).ok());
        if links.any(|link| link.as_os_str() == "anon_inode:seccomp notify") {
            let name = proc::text(pid, "comm").unwrap_or_default();
            return Some((pid, name.trim().escape_debug().to_string()));
        }
        pid = tree::parent(pid)?;
    }
    None
}

fn privileges(machine: &Machine, seen: Result<bool, ProbeError>) -> Check {
    match seen {
        _ if machine.status("NoNewPrivs").as_deref() == Some("1") => PRIVILEGES.note(
            "set already: sudo, setuid and setcap programs gain nothing below us, with or without --adopt",
            "NoNewPrivileges=no in systemd, allowPrivilegeEscalation in Kubernetes",
        ),
        Ok(true) => PRIVILEGES.note(
            "workers take it on, as we lack CAP_SYS_ADMIN: sudo, setuid and setcap programs gain nothing there",
            "where they need such, run as root or --cap-add SYS_ADMIN",
        ),
        Ok(false) => PRIVILEGES.ok("not needed, as we have CAP_SYS_ADMIN: sudo and setcap work in workers"),
        Err(_) => PRIVILEGES.note("could not be tried", "see seccomp"),
    }
}

fn call(subject: &'static Subject, result: Result<(), Refused>, forbidden: &'static str) -> Check {
    match result {
        Ok(()) => subject.ok("works on a child"),
        Err(Refused::Filtered) => subject.filtered(UNIT),
        Err(Refused::Errno(errno @ Errno::EAGAIN)) => no_child(subject, errno),
        Err(Refused::Errno(errno)) => subject.missing(text(errno), advice(errno, forbidden)),
    }
}

/// ptrace(2), `/proc/sys/kernel/yama/ptrace_scope`. Workers are our descendants.
fn yama(scope: Option<u64>, can: Option<bool>) -> Check {
    const ADVICE: &str = "sysctl kernel.yama.ptrace_scope=1";
    match (scope, can) {
        (None, _) => YAMA.ok("not here"),
        (Some(0), _) => YAMA.ok("ptrace_scope 0 forbids nothing"),
        (Some(1), _) => YAMA.ok("ptrace_scope 1 lets us look into our descendants"),
        (Some(2), Some(true)) => YAMA.ok("ptrace_scope 2, and we have CAP_SYS_PTRACE"),
        (Some(2), None) => YAMA.note("ptrace_scope 2 asks for CAP_SYS_PTRACE", ADVICE),
        (Some(2), _) => YAMA.missing("ptrace_scope 2, and we lack CAP_SYS_PTRACE", ADVICE),
        (Some(scope), _) => YAMA.missing(
            format!("ptrace_scope {scope} forbids to look into any process, until the next boot"),
            ADVICE,
        ),
    }
}

fn steering(result: nix::Result<()>) -> Check {
    match result {
        Ok(()) => STEERING.ok("can be attached to a group of listeners"),
        Err(errno) => STEERING.missing(text(errno), "setsockopt(2) has to allow SO_ATTACH_REUSEPORT_CBPF"),
    }
}

/// Without it `/proc/net/tcp` is read, which does not tell idle connections from busy ones.
fn diag_check(subject: &'static Subject, result: io::Result<bool>) -> Check {
    const MODULE: &str = "modprobe tcp_diag unix_diag on the host";
    const FAMILY: &str =
        "add AF_NETLINK to RestrictAddressFamilies= in systemd, or to what the sandbox allows";
    let (found, advice) = match result {
        Ok(true) => return subject.ok("tells of a socket of ours"),
        Ok(false) => ("knows nothing of a socket of ours".into(), MODULE),
        Err(error) => {
            let errno = error.raw_os_error().map(Errno::from_raw);
            (reason(&error), if errno == Some(Errno::ENOENT) { MODULE } else { FAMILY })
        }
    };
    let found = match subject.1 {
        ADOPT => format!(
            "{found}; --adopt works, but an old generation with idle connections drains until they are closed, or for --drain-timeout"
        ),
        _ => found,
    };
    subject.note(found, advice)
}

/// The advice for an error; `usual` is for the usual cause.
fn advice(errno: Errno, usual: &'static str) -> &'static str {
    match errno {
        Errno::ENOSYS => "a newer kernel, or another sandbox",
        _ => usual,
    }
}

fn text(errno: Errno) -> String {
    reason(&errno.into())
}

#[cfg(test)]
mod tests {
    use super::super::machine::tests::machine;
    use super::*;

    #[test]
    fn a_kernel_is_old_by_its_numbers() {
        for (release, state) in [
            ("6.18.44-fc", State::Ok),
            ("5.19.0", State::Ok),
            ("5.18.0-1-generic", State::Note),
            ("5.9", State::Note),
            ("5.8.999", State::Missing),
            ("4.19.0", State::Missing),
            ("10.0", State::Ok),
            ("", State::Note),
            ("six", State::Note),
        ] {
            assert_eq!(kernel(release).state, state, "{release}");
        }
    }

    #[test]
    fn another_seccomp_supervisor_is_reported() {
        let busy = seccomp(Err(ProbeError::Filter(Errno::EBUSY)));
        assert_eq!(busy.state, State::Missing);
        assert!(busy.found.ends_with("watches our calls already, and there can be one"), "{busy}");
        assert_eq!(seccomp(Err(ProbeError::Filter(Errno::EPERM))).state, State::Missing);
        assert!(seccomp(Err(ProbeError::Filtered)).to_string().contains("SystemCallFilter=pidfd_getfd"));
        assert_eq!(seccomp(Err(ProbeError::Architecture)).state, State::Missing);
        assert_eq!(seccomp(Err(ProbeError::Child(Errno::EAGAIN))).state, State::Note, "it was not tried");
        assert_eq!(seccomp(Ok(true)).state, State::Ok);
    }

    #[test]
    fn no_new_privs_is_reported() {
        let (_root, plain) = machine(&[], &[]);
        assert_eq!(privileges(&plain, Ok(false)).state, State::Ok);
        assert!(privileges(&plain, Ok(true)).found.contains("we lack CAP_SYS_ADMIN"));
        let (_root, set) = machine(&[("proc/self/status", "NoNewPrivs:\t1\n")], &[]);
        assert!(privileges(&set, Ok(true)).found.starts_with("set already"));
    }

    #[test]
    fn a_forbidden_call_names_the_profile() {
        let (_root, docker) = machine(&[(".dockerenv", "")], &[]);
        let check = call(GETFD, Err(Refused::Errno(Errno::EPERM)), forbidden(&docker, false));
        let line = "missing  pidfd_getfd: operation not permitted; --adopt cannot be had (a container's default profile: docker run --cap-add SYS_PTRACE,";
        assert!(check.to_string().starts_with(line), "{check}");
        assert!(
            call(GETFD, Err(Refused::Errno(Errno::ENOSYS)), "x")
                .advice
                .unwrap()
                .starts_with("a newer kernel")
        );
    }

    #[test]
    fn who_forbids_a_call_is_told_by_the_surroundings() {
        const FILTERED: (&str, &str) = ("proc/self/status", "Seccomp:\t2\n");
        const UNIT_ID: (&str, &str) = ("INVOCATION_ID", "1");
        let nspawn = ("run/systemd/container", "systemd-nspawn\n");
        type Pairs<'a> = &'a [(&'static str, &'static str)];
        for (files, variables, by_yama, words) in [
            (&[FILTERED] as Pairs, &[UNIT_ID] as Pairs, false, "in our unit: SystemCallFilter="),
            (&[FILTERED, nspawn], &[UNIT_ID], false, "systemd-nspawn --system-call-filter=pidfd_getfd"),
            (&[FILTERED], &[("container", "systemd-nspawn")], false, "systemd-nspawn --system-call"),
            (&[FILTERED, (".dockerenv", "")], &[], false, "a container's default profile"),
            (&[FILTERED, (".dockerenv", "")], &[], true, "see yama"),
            (&[], &[UNIT_ID], false, "a container's default profile"),
        ] {
            let (_root, machine) = machine(files, variables);
            let advice = forbidden(&machine, by_yama);
            assert!(advice.starts_with(words), "{files:?} {variables:?}: {advice}");
        }
    }

    #[test]
    fn yama_is_strict_by_degrees() {
        for (scope, can, state) in [
            (None, None, State::Ok),
            (Some(0), None, State::Ok),
            (Some(1), Some(false), State::Ok),
            (Some(2), Some(true), State::Ok),
            (Some(2), Some(false), State::Missing),
            (Some(2), None, State::Note),
            (Some(3), Some(true), State::Missing),
        ] {
            assert_eq!(yama(scope, can).state, state, "{scope:?} {can:?}");
        }
    }

    #[test]
    fn sockets_that_are_not_listed_delay_a_drain() {
        let module = diag_check(TCP, Err(Errno::ENOENT.into()));
        assert_eq!(
            (module.state, module.advice.as_ref().is_some_and(|it| it.contains("modprobe"))),
            (State::Note, true)
        );
        assert!(module.found.starts_with("no such file or directory; --adopt works, but"), "{module}");
        let family = diag_check(TCP, Err(Errno::EAFNOSUPPORT.into()));
        assert!(family.advice.is_some_and(|it| it.contains("AF_NETLINK")));
        assert_eq!(diag_check(UNIX, Ok(false)).state, State::Note);
        assert_eq!(diag_check(UNIX, Err(Errno::ENOENT.into())).found, "no such file or directory");
        assert_eq!(diag_check(TCP, Ok(true)).state, State::Ok);
    }
}
