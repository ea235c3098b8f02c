//! Reaping, families and orphans. Reaping takes every child of the process, so
//! the tests here take turns.

use std::ffi::CString;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::fd::AsRawFd;
use std::os::fd::OwnedFd;
use std::sync::{Mutex, MutexGuard, PoisonError};

use graceful_run::sys::child::{Launch, spawn};
use graceful_run::sys::process::{self, Exit};
use graceful_run::sys::tree::{self, Family};
use nix::fcntl::OFlag;
use nix::unistd::{Pid, pipe2};

static TURN: Mutex<()> = Mutex::new(());

fn turn() -> MutexGuard<'static, ()> {
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

fn launch(program: &str, arguments: &[&str]) -> Launch {
    let text = |text: &str| CString::new(text).expect("no NUL");
    Launch {
        program: text(program),
        argv: [program].iter().chain(arguments).map(|argument| text(argument)).collect(),
        env: vec![text("PATH=/usr/bin:/bin")],
        listen: false,
        watchdog: false,
        directory: File::open("/").expect("opens").into(),
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

/// A shell script, the other end of its stdin, and what it prints.
fn script(script: &str, env: &[String]) -> (Pid, OwnedFd, BufReader<File>) {
    let (stdin, hold) = pipe2(OFlag::O_CLOEXEC).expect("pipe");
    let (read, stdout) = pipe2(OFlag::O_CLOEXEC).expect("pipe");
    let mut launch = launch("/bin/sh", &["-c", script]);
    launch.env.extend(env.iter().map(|variable| CString::new(&**variable).expect("no NUL")));
    launch.fds = vec![(stdin.as_raw_fd(), 0), (stdout.as_raw_fd(), 1)];
    let child = spawn(&launch).expect("starts");
    (child.pid, hold, BufReader::new(File::from(read)))
}

fn pid(from: &mut BufReader<File>) -> Pid {
    let mut line = String::new();
    from.read_line(&mut line).expect("a line");
    Pid::from_raw(line.trim().parse().expect("a pid"))
}

/// Waits without reaping until the child has ended.
fn until_ended(pid: Pid) {
    let flags = nix::sys::wait::WaitPidFlag::WEXITED | nix::sys::wait::WaitPidFlag::WNOWAIT;
    // A real-time signal, which nix cannot name, comes as an error.
    let _ = nix::sys::wait::waitid(nix::sys::wait::Id::Pid(pid), flags);
}

#[test]
fn every_end_is_reported_once_real_time_signals_too() {
    let _turn = turn();
    let mut wanted = Vec::new();
    for code in [0, 1, 7, 255] {
        let exit = format!("exit {code}");
        let child = spawn(&launch("/bin/sh", &["-c", &exit])).expect("starts");
        wanted.push((child.pid, Exit::Code(code)));
    }
    for signal in [libc::SIGTERM, libc::SIGKILL, 34, 64] {
        let child = spawn(&launch("/bin/sleep", &["1000"])).expect("starts");
        process::signal(child.pid, signal).expect("signalled");
        wanted.push((child.pid, Exit::Signal(signal)));
    }
    let alive = spawn(&launch("/bin/sleep", &["1000"])).expect("starts");
    wanted.iter().for_each(|&(pid, _)| until_ended(pid));

    let mut got: Vec<_> = process::reap().collect();
    got.sort_by_key(|(pid, _)| *pid);
    wanted.sort_by_key(|(pid, _)| *pid);
    assert_eq!(got, wanted);
    // One that is alive is not waited for.
    assert_eq!(process::reap().count(), 0);

    // A zombie pins its pid and its group; signals to it are done.
    process::signal(alive.pid, libc::SIGKILL).expect("signalled");
    until_ended(alive.pid);
    assert!(!tree::is_live(alive.pid));
    assert!(process::group_exists(alive.pid));
    assert_eq!(process::signal(alive.pid, libc::SIGTERM), Ok(()));
    assert_eq!(process::reap().collect::<Vec<_>>(), [(alive.pid, Exit::Signal(9))]);
    assert!(!process::group_exists(alive.pid));
    assert_eq!(process::signal(alive.pid, libc::SIGTERM), Ok(()));
    // No child at all is no error.
    assert_eq!(process::reap().count(), 0);
    assert_eq!(process::wait(alive.pid), None);
}

#[test]
fn what_a_worker_leaves_behind_is_known_as_its_own() {
    let _turn = turn();
    process::become_subreaper().expect("subreaper");
    let environment =
        |start: u32| vec![format!("GRACEFUL_RUN_PID={}", Pid::this()), format!("GRACEFUL_RUN_START={start}")];
    // One that stays in the group, one in a session of its own, a grandchild
    // whose parent goes at once, and one that has left group and environment.
    let (worker, hold, mut out) = script(
        "sleep 1000 & echo $!
         setsid sh -c 'echo $$; exec sleep 1001' &
         (sh -c 'sleep 1002 & echo $!')
         setsid env -i sh -c 'echo $$; exec sleep 1003' &
         read gone",
        &environment(7),
    );
    let mut pids = [(); 4].map(|()| pid(&mut out));
    let (_, _hold_other, mut other_out) = script("echo $$; read gone", &environment(8));
    let other = pid(&mut other_out);
    let lost = *pids.iter().find(|&&pid| is_lost(pid)).expect("one without environment");
    pids.sort();

    let family = Family { worker, group: worker, supervisor: Pid::this(), start: 7 };
    assert!(family.contains(worker));
    for pid in pids {
        assert!(family.contains(pid), "{pid} descends from it or was left behind");
    }
    let below: Vec<Pid> = tree::descendants(worker);
    assert!(below.contains(&lost));
    assert!(tree::children(worker).iter().all(|pid| below.contains(pid)));
    assert!(tree::descendants(Pid::this()).contains(&lost));
    for stranger in [other, Pid::this(), Pid::parent(), Pid::from_raw(1)] {
        assert!(!family.contains(stranger), "{stranger}");
    }
    assert!(!Family { start: 9, worker: other, group: other, ..family }.contains(worker));

    drop(hold);
    // read(1) fails at the end of its input.
    assert_eq!(process::wait(worker), Some(Exit::Code(1)));
    let mut orphans = family.orphans(&[other]);
    orphans.sort();
    let kept: Vec<Pid> = pids.into_iter().filter(|&pid| pid != lost).collect();
    assert_eq!(orphans, kept);
    assert!(!family.contains(lost), "it has cut every tie");
    assert!(Family { start: 0, worker: other, group: other, ..family }.orphans(&[other]).is_empty());
    assert!(family.orphans(&orphans).is_empty(), "those we know are left out");
    assert!(process::group_exists(worker), "the group outlives its leader");

    for pid in pids.into_iter().chain([other]) {
        process::signal(pid, libc::SIGKILL).expect("signalled");
        until_ended(pid);
    }
    assert!(family.orphans(&[]).is_empty(), "zombies are no orphans");
    assert_eq!(process::reap().count(), 5);
}

fn is_lost(pid: Pid) -> bool {
    let environment = fs::read(format!("/proc/{pid}/environ")).expect("environment");
    !environment.windows(12).any(|part| part == b"GRACEFUL_RUN")
}

#[test]
fn spawning_leaves_no_descriptor_and_no_child() {
    let _turn = turn();
    let open = || fs::read_dir("/proc/self/fd").expect("listed").count();
    let good = launch("/bin/true", &[]);
    let bad = launch("/no/such/program", &[]);
    let before = open();
    for _ in 0..50 {
        let child = spawn(&good).expect("starts");
        assert_eq!(process::wait(child.pid), Some(Exit::Code(0)));
        spawn(&bad).expect_err("does not exist");
    }
    assert_eq!(open(), before);
    assert_eq!(process::wait(Pid::from_raw(-1)), None);
}
