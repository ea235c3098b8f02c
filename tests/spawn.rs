//! What a worker is started with, as the worker itself sees it.
//!
//! Every test here may run beside every other, in one process: each waits for
//! its own children by pid.
#![allow(clippy::print_stderr, reason = "a test that cannot run here says why")]

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use graceful_run::sys::child::{Child, Launch, SpawnError, Step, spawn};
use graceful_run::sys::identity::{Identity, find_identity};
use graceful_run::sys::inherited;
use graceful_run::sys::pidfd;
use graceful_run::sys::process::{self, Exit};
use graceful_run::sys::seccomp::{self, Answer, Call, Filter, Operation, Received, Woken};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::unistd::{Pid, Uid, getpgrp, gettid, pipe2};

fn text(text: impl Into<Vec<u8>>) -> CString {
    CString::new(text).expect("no NUL")
}

fn directory(path: impl AsRef<Path>) -> OwnedFd {
    File::open(path).expect("directory opens").into()
}

fn launch(argv: &[&str]) -> Launch {
    Launch {
        program: text(argv[0]),
        argv: argv.iter().copied().map(text).collect(),
        env: vec![text("PATH=/usr/bin:/bin")],
        listen: false,
        watchdog: false,
        directory: directory("/"),
        fds: Vec::new(),
        own_group: true,
        umask: None,
        identity: None,
        default_signals: Vec::new(),
        no_new_privs: false,
        // A test that fails leaves nothing behind.
        death_signal: Some(libc::SIGKILL),
        filter: None,
        program_fd: None,
    }
}

/// Python itself: what is found in PATH may be a script that starts it.
fn python(code: &str) -> Launch {
    static PYTHON: OnceLock<String> = OnceLock::new();
    let program = PYTHON.get_or_init(|| {
        if Path::new("/usr/bin/python3").exists() {
            return "/usr/bin/python3".to_owned();
        }
        let told = Command::new("python3").args(["-c", "import sys; print(sys.executable)"]).output();
        let told = told.expect("python3 is needed for this test").stdout;
        String::from_utf8(told).expect("a path").trim().to_owned()
    });
    launch(&[program, "-I", "-S", "-c", code])
}

/// Starts it with a pipe as its stdout: what it wrote, its pid, how it ended.
fn run(mut launch: Launch) -> (String, Pid, Exit) {
    let (read, write) = pipe2(OFlag::O_CLOEXEC).expect("pipe");
    launch.fds.push((write.as_raw_fd(), 1));
    let pid = loop {
        match spawn(&launch) {
            Ok(Child { pid, .. }) => break pid,
            // Another test has forked while this one wrote its program.
            Err(error) => assert_eq!(error.errno, Errno::ETXTBSY, "{error}"),
        }
    };
    drop(write);
    let mut output = String::new();
    File::from(read).read_to_string(&mut output).expect("UTF-8");
    (output, pid, process::wait(pid).expect("our child"))
}

fn output(launch: Launch) -> String {
    let (output, _, exit) = run(launch);
    assert_eq!(exit, Exit::Code(0), "{output}");
    output
}

fn failure(launch: &Launch) -> (Step, Errno) {
    loop {
        let error = spawn(launch).expect_err("cannot start");
        if error.errno != Errno::ETXTBSY {
            return (error.step, error.errno);
        }
    }
}

fn is_root(why: &str) -> bool {
    let root = Uid::effective().is_root();
    if !root {
        eprintln!("skipped: only root can {why}");
    }
    root
}

fn this_program() -> String {
    let path = std::env::current_exe().expect("a path");
    path.to_str().expect("UTF-8").to_owned()
}

/// Set for a process that is to run an inner test.
const INNER: &str = "GRACEFUL_TEST_INNER";

/// Inner tests pass at once in the process that runs all tests.
fn is_inner() -> bool {
    std::env::var_os(INNER).is_some()
}

/// Runs one of the inner tests in a process of its own, which `command` brings
/// about.
fn inner(command: &mut Command, test: &str) -> String {
    let output = command.args([test, "--exact", "--nocapture"]).env(INNER, "1").output();
    let output = output.expect("starts");
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
    text
}

/// This program where `system_calls` fail with `error`; None without strace.
fn without(system_calls: &str, error: &str) -> Option<Command> {
    if Command::new("strace").arg("-V").output().is_err() {
        eprintln!("skipped: there is no strace to make {system_calls} fail");
        return None;
    }
    let mut strace = Command::new("strace");
    strace.args(["-f", "-o", "/dev/null", "-e", &format!("trace={system_calls}")]);
    strace.args(["-e", &format!("inject={system_calls}:error={error}")]).arg(this_program());
    Some(strace)
}

/// A line of /proc/PID/status.
fn field<'a>(status: &'a str, name: &str) -> &'a str {
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("no {name} in {status}")).trim()
}

// Descriptors

const LIST_FDS: &str = r"
import os
for fd in sorted(map(int, os.listdir('/proc/self/fd'))):
    try: os.fstat(fd)
    except OSError: continue
    print(fd, os.pread(fd, 9, 0).decode() if fd > 2 else '')
";

/// Files that say their own number.
fn numbered_files(count: usize) -> Vec<File> {
    let numbered = |_| {
        let mut file = tempfile::tempfile().expect("temporary file");
        write!(file, "{}", file.as_raw_fd()).expect("written");
        file
    };
    (0..count).map(numbered).collect()
}

fn assert_fds(pairs: &[(RawFd, RawFd)]) {
    let mut launch = python(LIST_FDS);
    launch.fds = pairs.to_vec();
    let got = output(launch);
    let got: BTreeMap<RawFd, String> = got
        .lines()
        .filter_map(|line| line.split_once(' '))
        .map(|(fd, text)| (fd.parse().expect("a number"), text.to_owned()))
        .collect();
    let mut wanted: BTreeMap<RawFd, String> =
        pairs.iter().map(|&(source, target)| (target, source.to_string())).collect();
    wanted.extend((0..3).map(|fd| (fd, String::new())));
    assert_eq!(got, wanted);
}

#[test]
fn fds_are_exactly_those_passed_whatever_the_permutation() {
    let files = numbered_files(4);
    let [a, b, c, d] = [0, 1, 2, 3].map(|n: usize| files[n].as_raw_fd());
    // From 3 up, as listeners go; their numbers may be any of ours.
    assert_fds(&[(a, 3), (b, 4), (c, 5), (d, 6)]);
    assert_fds(&[(d, 3), (c, 4), (b, 5), (a, 6)]);
    // A circle, and one that stays where it is.
    assert_fds(&[(a, b), (b, c), (c, a), (d, d)]);
    // One source twice, gaps between the targets.
    assert_fds(&[(a, 3), (a, 9), (b, 40)]);
    assert_fds(&[]);
}

#[test]
fn an_inheritable_stray_does_not_reach_the_worker() {
    let files = numbered_files(2);
    fcntl(&files[0], FcntlArg::F_SETFD(FdFlag::empty())).expect("inheritable");
    assert_fds(&[(files[1].as_raw_fd(), 3)]);
}

#[test]
fn the_error_pipe_steps_aside_for_a_target() {
    let files = numbered_files(1);
    // Every low number is a target, those that the pipe gets among them.
    let pairs: Vec<_> = (3..120).map(|target| (files[0].as_raw_fd(), target)).collect();
    assert_fds(&pairs);
    let mut missing = launch(&["/no/such/program"]);
    missing.fds = pairs;
    assert_eq!(failure(&missing), (Step::Exec, Errno::ENOENT));
}

#[test]
fn without_close_range_and_pidfd_the_same_fds_arrive() {
    for error in ["ENOSYS", "EPERM"] {
        if let Some(mut command) = without("close_range,pidfd_open", error) {
            inner(&mut command, "inner_old_kernel");
        }
    }
}

// Run by without_close_range_and_pidfd_the_same_fds_arrive.
#[test]
fn inner_old_kernel() {
    if !is_inner() {
        return;
    }
    an_inheritable_stray_does_not_reach_the_worker();
    let mut launch = python("import os; print(*(name for name in os.environ if 'LISTEN' in name))");
    launch.listen = true;
    assert_eq!(output(launch), "LISTEN_PID\n");
    let child = spawn(&self::launch(&["/bin/true"])).expect("starts");
    assert!(child.pidfd.is_none());
    assert_eq!(process::wait(child.pid), Some(Exit::Code(0)));
}

// Signals

const LAUNCHER: &str = r"
import os, signal, sys
for number in (signal.SIGHUP, signal.SIGUSR2, signal.SIGCHLD, signal.SIGPIPE, 64):
    signal.signal(number, signal.SIG_IGN)
signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
signal.pthread_sigmask(signal.SIG_SETMASK, {signal.SIGUSR1, signal.SIGTERM, 40, 63})
os.execv(sys.argv[1], sys.argv[1:])
";

#[test]
fn mask_and_ignored_signals_are_those_we_were_started_with() {
    let launcher = || {
        let mut command = Command::new("python3");
        command.args(["-c", LAUNCHER]);
        command
    };
    let direct = launcher().args(["/bin/cat", "/proc/self/status"]).output().expect("starts");
    let direct = String::from_utf8_lossy(&direct.stdout).into_owned();
    let ours = inner(launcher().arg(this_program()), "inner_prints_status");

    let bits = |status, name| u64::from_str_radix(field(status, name), 16).expect("hexadecimal");
    let bit = |signal: i32| 1_u64 << (signal - 1);
    assert_eq!(bits(&ours, "SigBlk"), bits(&direct, "SigBlk"));
    assert_eq!(bits(&ours, "SigBlk"), [10, 15, 40, 63].map(bit).iter().sum::<u64>());
    // Whoever started the tests may have ignored more.
    let ignored: u64 = [1, 12, 13, 17, 64].map(bit).iter().sum();
    assert_eq!(bits(&direct, "SigIgn") & ignored, ignored);
    assert_eq!(bits(&ours, "SigIgn"), bits(&direct, "SigIgn"));
    assert_eq!(bits(&ours, "SigCgt"), 0);
    assert_eq!((bits(&ours, "SigPnd"), bits(&ours, "ShdPnd")), (0, 0));
}

// Run by mask_and_ignored_signals_are_those_we_were_started_with.
#[test]
fn inner_prints_status() {
    if !is_inner() {
        return;
    }
    assert!(inherited::ignored(libc::SIGPIPE) && inherited::ignored(libc::SIGCHLD));
    assert!(!inherited::ignored(libc::SIGTERM));
    // Without this the kernel reaps the child, and nobody hears how it ended.
    inherited::default_sigchld();
    inherited::block_all_signals();
    let child = spawn(&launch(&["/bin/cat", "/proc/self/status"])).expect("starts");
    assert_eq!(process::wait(child.pid), Some(Exit::Code(0)));
}

#[test]
fn a_term_between_fork_and_exec_is_not_lost() {
    const ROUNDS: usize = 500;
    // A handler of ours, whose copy in the child would swallow it.
    let _handler = signal_hook::iterator::Signals::new([libc::SIGTERM]).expect("handler");

    let before_exec = AtomicUsize::new(0);
    let done = AtomicBool::new(false);
    let children = format!("/proc/self/task/{}/children", gettid());
    if !Path::new(&children).exists() {
        eprintln!("skipped: this kernel does not list children");
        return;
    }
    thread::scope(|scope| {
        // Signals each new child as soon as it is there.
        scope.spawn(|| {
            let mut last = 0;
            while !done.load(Ordering::SeqCst) {
                let now = fs::read_to_string(&children).unwrap_or_default();
                let newest = now.split_whitespace().next_back();
                let Some(pid) = newest.and_then(|pid| pid.parse().ok()) else {
                    continue;
                };
                if pid != last {
                    last = pid;
                    process::signal(Pid::from_raw(pid), libc::SIGTERM).expect("signalled");
                    // Where nothing was executed our own name is still there.
                    let name = fs::read_to_string(format!("/proc/{pid}/comm"));
                    if name.is_ok_and(|name| name.trim() != "sleep") {
                        before_exec.fetch_add(1, Ordering::SeqCst);
                    }
                }
            }
        });
        let sleep = launch(&["/bin/sleep", "1000"]);
        for round in 0..ROUNDS {
            let child = spawn(&sleep).expect("starts, or dies of the signal");
            // This would hang if the signal were lost.
            assert_eq!(process::wait(child.pid), Some(Exit::Signal(libc::SIGTERM)), "{round}");
        }
        done.store(true, Ordering::SeqCst);
    });
    let early = before_exec.load(Ordering::SeqCst);
    eprintln!("{early} of {ROUNDS} were signalled before exec");
    assert!(early > 0, "the window was never hit, which proves nothing");
}

// The rest of what it is started with

#[test]
fn listen_pid_and_pidfdid_are_the_workers_own() {
    let mut launch = python(
        r"
import os
for variable in sorted(open('/proc/self/environ').read().split('\0')[:-1]): print(variable)
print(os.fstat(os.pidfd_open(os.getpid())).st_ino)
",
    );
    launch.env.push(text("EMPTY="));
    launch.listen = true;
    let (got, pid, _) = run(launch);
    let (got, inode) = got.trim_end().rsplit_once('\n').expect("lines");
    let mut wanted = vec!["EMPTY=".to_owned(), format!("LISTEN_PID={pid}")];
    if got.contains("LISTEN_PIDFDID") {
        wanted.push(format!("LISTEN_PIDFDID={inode}"));
    } else {
        eprintln!("this kernel has no pidfs, and LISTEN_PIDFDID is left out");
    }
    wanted.push("PATH=/usr/bin:/bin".to_owned());
    assert_eq!(got.lines().collect::<Vec<_>>(), wanted);
    assert_eq!(output(self::launch(&["/usr/bin/env"])), "PATH=/usr/bin:/bin\n");
}

#[test]
fn directory_umask_and_group_are_as_asked_for() {
    let place = tempfile::tempdir().expect("temporary directory");
    let path = place.path().canonicalize().expect("a path");
    let code = "import os; print(os.getcwd(), '%o' % os.umask(0), os.getpgrp() == os.getpid())";
    let mut asked = python(code);
    asked.directory = directory(&path);
    asked.umask = Some(0o027);
    assert_eq!(output(asked), format!("{} 27 True\n", path.display()));

    let ours = fs::read_to_string("/proc/self/status").expect("status");
    let umask = field(&ours, "Umask").trim_start_matches('0');
    let mut plain = python("import os; print('%o' % os.umask(0), os.getpgrp())");
    plain.own_group = false;
    assert_eq!(output(plain), format!("{umask} {}\n", getpgrp()));
}

#[test]
fn limits_and_scheduling_are_ours() {
    for file in ["limits", "oom_score_adj"] {
        let file = format!("/proc/self/{file}");
        let ours = fs::read_to_string(&file).expect(&file);
        assert_eq!(output(launch(&["/bin/cat", &file])), ours, "{file}");
    }
    let ours = fs::read_to_string("/proc/self/status").expect("status");
    let theirs = output(launch(&["/bin/cat", "/proc/self/status"]));
    for name in ["NoNewPrivs", "Seccomp", "CapEff", "CapBnd", "CapInh", "Cpus_allowed", "Groups"] {
        assert_eq!(field(&theirs, name), field(&ours, name), "{name}");
    }
}

#[test]
fn no_new_privs_is_set_when_asked_for() {
    let mut launch = launch(&["/bin/cat", "/proc/self/status"]);
    launch.no_new_privs = true;
    assert_eq!(field(&output(launch), "NoNewPrivs"), "1");
}

#[test]
fn the_death_signal_comes_when_the_thread_that_forked_ends() {
    let mut identities = vec![None];
    if is_root("see that it survives a change of user") {
        identities.push(Some(another_user()));
    }
    for identity in identities {
        let mut launch = launch(&["/bin/sleep", "1000"]);
        launch.identity = identity;
        launch.death_signal = Some(libc::SIGTERM);
        let child = thread::spawn(move || spawn(&launch)).join().expect("no panic");
        let pid = child.expect("starts").pid;
        assert_eq!(process::wait(pid), Some(Exit::Signal(libc::SIGTERM)));
    }
}

#[test]
fn the_pidfd_is_the_childs() {
    let child = spawn(&launch(&["/bin/sleep", "1000"])).expect("starts");
    if let Some(pidfd) = &child.pidfd {
        let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd()));
        assert_eq!(field(&info.expect("fdinfo"), "Pid"), child.pid.to_string());
    }
    // Its group is there from the moment that spawn returns.
    process::signal_group(child.pid, libc::SIGKILL).expect("signalled");
    assert_eq!(process::wait(child.pid), Some(Exit::Signal(libc::SIGKILL)));
}

// Another user

fn another_user() -> Identity {
    find_identity("nobody:65533").expect("nobody is a user everywhere")
}

const REGAIN: &str = r"
import os
def attempt(name, *arguments):
    try: getattr(os, name)(*arguments)
    except PermissionError: return
    print('WAY BACK:', name, arguments)
attempt('setuid', 0); attempt('seteuid', 0); attempt('setresuid', 0, 0, 0)
attempt('setgid', 0); attempt('setegid', 0); attempt('setgroups', [0])
print(open('/proc/self/status').read())
";

#[test]
fn root_is_given_up_for_good() {
    if !is_root("become another user") {
        return;
    }
    let nobody = another_user();
    let mut launch = python(REGAIN);
    launch.identity = Some(nobody.clone());
    let status = output(launch);
    assert!(!status.contains("WAY BACK"), "{status}");
    let four = |id: u32| [id; 4].map(|id| id.to_string()).join("\t");
    assert_eq!(field(&status, "Uid"), four(nobody.uid));
    assert_eq!(field(&status, "Gid"), four(nobody.gid));
    let mut groups = nobody.groups;
    groups.sort_unstable();
    groups.dedup();
    let got: Vec<u32> =
        field(&status, "Groups").split_whitespace().map(|group| group.parse().expect("a number")).collect();
    assert_eq!(got, groups);
    for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
        assert_eq!(field(&status, set), "0000000000000000", "{set}");
    }
}

#[test]
fn a_way_back_to_root_fails_the_start() {
    if !is_root("make capabilities survive a change of user") {
        return;
    }
    let mut setpriv = Command::new("setpriv");
    setpriv.args(["--securebits", "+no_setuid_fixup", "--"]).arg(this_program());
    inner(&mut setpriv, "inner_refuses_to_stay_privileged");
}

// Run by a_way_back_to_root_fails_the_start.
#[test]
fn inner_refuses_to_stay_privileged() {
    if !is_inner() {
        return;
    }
    let mut launch = launch(&["/bin/true"]);
    launch.identity = Some(another_user());
    let error = spawn(&launch).expect_err("capabilities stay");
    assert_eq!(error, SpawnError { step: Step::Identity, errno: Errno::EPERM });
    assert_eq!(error.to_string(), "change user: operation not permitted");
}

#[test]
fn who_is_not_root_cannot_become_another() {
    if !is_root("start this as nobody") {
        return;
    }
    // Where nobody can reach it, as the target directory may not be.
    let place = tempfile::tempdir().expect("temporary directory");
    let copy = place.path().join("test");
    fs::copy(this_program(), &copy).expect("copied");
    for path in [place.path(), &copy] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("permitted");
    }
    let copy = copy.to_str().expect("UTF-8");
    let mut launch = launch(&[copy, "inner_not_root", "--exact", "--nocapture"]);
    launch.env.push(CString::new(format!("{INNER}=1")).expect("no NUL"));
    launch.identity = Some(another_user());
    assert!(output(launch).contains("1 passed"));
}

// Run by who_is_not_root_cannot_become_another.
#[test]
fn inner_not_root() {
    if !is_inner() {
        return;
    }
    let message = find_identity("root").expect_err("we are nobody");
    assert!(message.contains("only root can become another user"), "{message}");
    let us = find_identity(&format!("{}:{}", nix::unistd::getuid(), nix::unistd::getgid()));
    let us = us.expect("ourselves");
    assert!(us.is_ours());
    let mut changed = launch(&["/bin/true"]);
    changed.identity = Some(us.clone());
    output(changed);
    let mut changed = launch(&["/bin/true"]);
    changed.identity = Some(Identity { uid: 1, ..us });
    assert_eq!(failure(&changed), (Step::Identity, Errno::EPERM));
}

// Failures

#[test]
fn exec_reports_why_it_failed() {
    let place = tempfile::tempdir().expect("temporary directory");
    let path = |name: &str| place.path().join(name);
    let write = |name: &str, mode: u32, content: &[u8]| {
        let file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path(name));
        file.expect("created").write_all(content).expect("written");
    };
    write("plain", 0o644, b"#!/bin/sh\n");
    write("no-interpreter", 0o755, b"#!/no/such/interpreter\n");
    write("empty", 0o755, b"");
    write("truncated", 0o755, b"\x7fELFx");
    write("script", 0o755, b"exit 7");
    symlink("loop", path("loop")).expect("symlink");

    let long = "n".repeat(300);
    for (name, errno) in [
        ("missing", Errno::ENOENT),
        ("no-interpreter", Errno::ENOENT),
        ("plain", Errno::EACCES),
        ("", Errno::EACCES),
        ("empty", Errno::ENOEXEC),
        ("truncated", Errno::ENOEXEC),
        ("script", Errno::ENOEXEC),
        ("loop", Errno::ELOOP),
        (&long, Errno::ENAMETOOLONG),
    ] {
        let launch = launch(&[path(name).to_str().expect("UTF-8")]);
        assert_eq!(failure(&launch), (Step::Exec, errno), "{name}");
    }
    let mut big = launch(&["/bin/true"]);
    big.env.push(text("A".repeat(4 << 20)));
    assert_eq!(failure(&big), (Step::Exec, Errno::E2BIG));
    let message = spawn(&launch(&["/no/such/program"])).expect_err("missing").to_string();
    assert_eq!(message, "exec: no such file or directory");

    // Each was reaped by spawn itself.
    let left = fs::read_to_string("/proc/thread-self/children").unwrap_or_default();
    assert_eq!(left, "");
}

#[test]
fn a_program_that_is_being_written_is_busy() {
    let place = tempfile::tempdir().expect("temporary directory");
    let path = place.path().join("program");
    fs::copy("/bin/true", &path).expect("copied");
    let writer = OpenOptions::new().append(true).open(&path).expect("opens");
    let launch = launch(&[path.to_str().expect("UTF-8")]);
    let error = spawn(&launch).expect_err("busy");
    assert_eq!(error, SpawnError { step: Step::Exec, errno: Errno::ETXTBSY });
    drop(writer);
    output(launch);
}

#[test]
fn a_failure_before_exec_names_its_step() {
    let failed = |change: &dyn Fn(&mut Launch)| {
        let mut launch = launch(&["/bin/true"]);
        change(&mut launch);
        failure(&launch)
    };
    assert_eq!(failed(&|it| it.fds = vec![(RawFd::MAX - 1, 3)]), (Step::Fds, Errno::EBADF));
    assert_eq!(failed(&|it| it.fds = vec![(0, 3), (1, 3)]), (Step::Fds, Errno::EINVAL));
    assert_eq!(failed(&|it| it.death_signal = Some(4711)), (Step::DeathSignal, Errno::EINVAL));
    assert_eq!(failed(&|it| it.directory = directory("/dev/null")), (Step::Directory, Errno::ENOTDIR));
}

#[test]
fn no_process_and_no_group_is_told_apart() {
    if let Some(mut command) = without("setpgid", "EPERM") {
        inner(&mut command, "inner_no_group");
    }
    // The library forks by clone(2); threads come by clone3(2).
    if let Some(mut command) = without("clone", "EAGAIN") {
        inner(&mut command, "inner_no_process");
    }
}

// Run by no_process_and_no_group_is_told_apart.
#[test]
fn inner_no_group() {
    if !is_inner() {
        return;
    }
    assert_eq!(failure(&launch(&["/bin/true"])), (Step::Group, Errno::EPERM));
}

// Run by no_process_and_no_group_is_told_apart.
#[test]
fn inner_no_process() {
    if !is_inner() {
        return;
    }
    assert_eq!(failure(&launch(&["/bin/true"])), (Step::Fork, Errno::EAGAIN));
}

#[test]
fn quick_exits_are_not_failures_of_exec() {
    thread::scope(|scope| {
        let run = || {
            let child = spawn(&launch(&["/bin/false"])).expect("executes");
            process::wait(child.pid)
        };
        let spawned: Vec<_> = (0..25).map(|_| scope.spawn(run)).collect();
        for spawned in spawned {
            assert_eq!(spawned.join().expect("no panic"), Some(Exit::Code(1)));
        }
    });
}

/// Receives the next call of a child that has a filter.
fn call(calls: &OwnedFd) -> Call {
    assert_eq!(seccomp::wait(calls.as_fd(), None), Ok(Woken::Call), "somebody is left");
    seccomp::receive(calls.as_fd()).expect("a call")
}

/// Starts it with a filter.
fn watched(mut launch: Launch) -> (Pid, OwnedFd) {
    launch.filter = Some(Filter::new(Received::default()).expect("a machine that we know"));
    let child = spawn(&launch).expect("starts");
    (child.pid, child.seccomp_listener.expect("a listener"))
}

#[test]
fn a_child_with_a_filter_waits_for_our_answer() {
    let code = "import socket, sys
for wanted in 0, 98:
    one = socket.socket()
    one.bind(('127.0.0.1', 0))
    try:
        one.listen(7)
        wanted == 0 or sys.exit(3)
    except OSError as error:
        error.errno == wanted or sys.exit(2)
";
    let (pid, calls) = watched(python(code));
    for answer in [Answer::Continue, Answer::Failed(Errno::EADDRINUSE)] {
        let bind = call(&calls);
        let Operation::Bind(at, length) = bind.operation else { panic!("{bind:?}") };
        let address = seccomp::read_address(bind.thread, at, length).expect("readable");
        assert_eq!(address[4..8], [127, 0, 0, 1]);
        assert_eq!(seccomp::process_of(bind.thread), Some(pid));
        assert!(seccomp::is_close_on_exec(bind.thread, bind.fd), "as python makes them");
        seccomp::answer(calls.as_fd(), bind.id, Answer::Continue).expect("waits for it");
        assert!(!seccomp::is_pending(calls.as_fd(), bind.id));

        let listen = call(&calls);
        assert_eq!(listen.operation, Operation::Listen(7));
        assert!(seccomp::is_pending(calls.as_fd(), listen.id));
        let socket = pidfd::duplicate(listen.thread, listen.fd).expect("may be traced");
        assert!(nix::sys::socket::getsockname::<nix::sys::socket::SockaddrIn>(socket.as_raw_fd()).is_ok());
        seccomp::answer(calls.as_fd(), listen.id, answer).expect("waits for it");
    }
    assert_eq!(seccomp::wait(calls.as_fd(), None), Ok(Woken::Ended), "nobody is left");
    assert_eq!(process::wait(pid), Some(Exit::Code(0)));
}

#[test]
fn a_socket_of_ours_can_be_put_in_the_place_of_the_caller_s() {
    let code = "import socket, sys
one = socket.socket()
one.bind(('127.0.0.1', 0))
sys.exit(one.getsockname()[1] == int(sys.argv[1]) and not one.get_inheritable())
";
    let ours = std::net::TcpListener::bind("127.0.0.1:0").expect("binds");
    let port = ours.local_addr().expect("an address").port();
    let mut launch = python(code);
    launch.argv.push(text(port.to_string()));
    let (pid, calls) = watched(launch);
    let bind = call(&calls);
    seccomp::replace_fd(calls.as_fd(), bind.id, ours.as_fd(), bind.fd, true).expect("put");
    seccomp::answer(calls.as_fd(), bind.id, Answer::Done).expect("answered");
    assert_eq!(process::wait(pid), Some(Exit::Code(1)), "it is our socket, and closes at exec");
}

#[test]
fn a_filter_below_another_is_refused() {
    if !is_inner() {
        // Run once more as the watched child itself.
        let mut launch = launch(&[&this_program(), "--exact", "a_filter_below_another_is_refused"]);
        launch.env.push(text(format!("{INNER}=1")));
        let (pid, _calls) = watched(launch);
        return assert_eq!(process::wait(pid), Some(Exit::Code(0)));
    }
    let mut launch = launch(&["/bin/true"]);
    launch.filter = Filter::new(Received::default());
    assert_eq!(failure(&launch), (Step::Filter, Errno::EBUSY));
}

#[test]
fn a_watched_child_becomes_the_user_that_it_is_to_be() {
    if !is_root("become another user") {
        return;
    }
    let mut launch = python("import socket; print(open('/proc/self/status').read())");
    launch.identity = Some(find_identity("nobody").expect("there is one"));
    launch.filter = Filter::new(Received::default());
    let status = output(launch);
    assert!(status.contains("\nNoNewPrivs:\t0\n"), "root needs none: {status}");
    assert!(status.contains("\nSeccomp:\t2\n") && !status.contains("\nUid:\t0"), "{status}");
}
