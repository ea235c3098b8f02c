//! A low limit of open descriptors (RLIMIT_NOFILE): what cannot be done is refused with the limit and
//! the cure, and what serves goes on.

mod common;

use common::{SERVER, Scene, Wrapper, quick, says, until, who};
use std::process::Command;

/// Keeps from what we start what we ourselves were started with: the limit would be another one then.
fn keep_descriptors() {
    for entry in std::fs::read_dir("/proc/self/fd").expect("/proc").flatten() {
        let number = entry.file_name().to_str().and_then(|name| name.parse().ok());
        // The one that lists them is closed by now.
        let _ = number.filter(|&number| number > 2).map(graceful_run::sys::fd::close_on_exec);
    }
}

/// graceful-run under this `ulimit`.
fn start(scene: &Scene, ulimit: &str, args: &[&str]) -> Wrapper {
    keep_descriptors();
    let mut command = scene.mark(Command::new("sh"));
    command.args(["-c", &format!("ulimit {ulimit} && exec \"$@\""), "sh"]).arg(common::binary());
    command.args(quick(args)).arg("--").args(scene.puppet());
    scene.spawn(command)
}

/// Listeners beside the one that every scene has.
fn more(count: usize) -> Vec<&'static str> {
    ["-b", "127.0.0.1:0"].repeat(count)
}

#[test]
fn a_first_start_names_the_limit() {
    for (limit, binds) in [(16, 0), (32, 40), (60, 40)] {
        let scene = Scene::of(SERVER);
        let mut wrapper = start(&scene, &format!("-n {limit}"), &more(binds));
        assert_eq!(wrapper.exit_status(), 125, "{limit}: {:?}", wrapper.log.all());
        let last = wrapper.last_line();
        let cure = format!("too many open files (the limit is {limit}: raise ulimit -n, or LimitNOFILE=");
        assert!(last.contains(&cure), "{limit}: {last}");
    }
}

/// A start that is not refused for its limit can upgrade, and start again after a crash.
#[test]
fn what_starts_can_start_again() {
    let (mut refused, mut started) = (0, 0);
    for limit in (24..=48).step_by(3) {
        let scene = Scene::of(SERVER);
        let mut wrapper = start(&scene, &format!("-n {limit}"), &["--capture-stderr"]);
        until("it starts or not", || wrapper.has_ended() || wrapper.log.has(&says::ready(1)));
        if wrapper.has_ended() {
            assert_eq!(wrapper.exit_status(), 125, "{limit}");
            assert!(wrapper.last_line().contains("too many open files"), "{limit}: {:?}", wrapper.log.all());
            refused += 1;
            continue;
        }
        let address = common::address_in(&scene.log.wait("worker serving"));
        let upgraded = scene.ctl(&["upgrade"]);
        assert!(upgraded.status.success(), "{limit}: {upgraded:?}");
        let replaced = scene.ctl(&["reexec"]);
        let said = String::from_utf8_lossy(&replaced.stderr).into_owned();
        assert!(replaced.status.success() || said.contains("too many open files"), "{limit}: {said}");
        crash(&address);
        wrapper.stop();
        started += 1;
    }
    assert!(refused > 0 && started > 0, "{refused} refused, {started} started");
}

/// The worker there is killed, and answers again.
fn crash(address: &str) {
    let pid = common::pid_in(&who(address));
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), common::Signal::SIGKILL).unwrap();
    assert_ne!(common::pid_in(&who(address)), pid);
}

/// Descriptors that run out later, here because the limit is lowered.
#[test]
fn an_upgrade_without_descriptors_is_refused_and_the_old_one_serves() {
    for room in [0, 2, 4, 6] {
        let scene = Scene::of(SERVER);
        let wrapper = start(&scene, "-S -n 64", &["--capture-stderr"]);
        wrapper.log.wait(&says::ready(1));
        let address = common::address_in(&scene.log.wait("worker serving"));
        wrapper.log.wait("generation 1: serving");
        let pid = wrapper.pid.to_string();
        let limited = |soft: &str| {
            let set = Command::new("prlimit").args(["--pid", &pid, &format!("--nofile={soft}:")]).status();
            assert!(set.expect("prlimit of util-linux").success());
        };
        limited(&(wrapper.fd_count() + room).to_string());
        let upgraded = scene.ctl(&["upgrade"]);
        let said = String::from_utf8_lossy(&upgraded.stderr).into_owned();
        if room < 4 {
            assert!(said.contains("generation 1 still serves"), "{room}: {said}");
            assert!(said.contains("too many open files (the limit is"), "{room}: {said}");
            assert!(who(&address).starts_with("g1 "), "{room}");
        }
        limited("64");
        let upgraded = scene.ctl(&["upgrade"]);
        assert!(upgraded.status.success(), "{room}: {upgraded:?}");
        crash(&address);
        wrapper.stop();
    }
}

#[test]
fn more_listeners_than_a_worker_may_have_open_are_refused() {
    let scene = Scene::of(SERVER);
    let mut wrapper = start(&scene, "-S -n 64", &more(70));
    assert_eq!(wrapper.exit_status(), 125, "{:?}", wrapper.log.all());
    let last = wrapper.last_line();
    let why = "descriptors and may have 64 open, so that none is left for its own files (raise ulimit -n";
    assert!(last.contains(why), "{last}");
}

/// We need more than a worker does, and raise our own limit alone.
#[test]
fn many_workers_have_the_low_limit_that_we_were_started_with() {
    let scene = Scene::of("dump seen\nserve\nready notify");
    let wrapper = start(&scene, "-S -n 24", &["-n", "24", "--capture-stderr"]);
    wrapper.log.wait(&says::ready(1));
    assert!(wrapper.fd_count() > 24);
    for generation in [2, 3] {
        let limits = scene.dump("seen")["limits"].as_str().unwrap().to_owned();
        let files = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
        assert_eq!(files.split_whitespace().nth(3), Some("24"), "{files}");
        let done = scene.ctl(&["upgrade"]);
        assert!(done.status.success(), "{done:?}");
        wrapper.log.wait(&says::ready(generation));
        let replaced = scene.ctl(&["reexec"]);
        assert!(replaced.status.success(), "{replaced:?}");
    }
    wrapper.stop();
}
