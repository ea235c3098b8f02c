//! A low limit of open descriptors (RLIMIT_NOFILE): what cannot be done is refused with the limit and
//! the cure, and what serves goes on.

mod common;

use common::{SERVER, Scene, Wrapper, quick, says, until, who};
use std::process::Command;

/// graceful-run under this `ulimit`.
fn start(scene: &Scene, ulimit: &str, args: &[&str]) -> Wrapper {
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

/// From a limit at which nothing starts on, each is enough or is refused, and nobody is lost.
#[test]
fn an_upgrade_without_descriptors_is_refused_and_the_old_one_serves() {
    let (mut refused, mut done) = (0, 0);
    for limit in (18..=36).step_by(2) {
        let scene = Scene::of(SERVER);
        let mut wrapper = start(&scene, &format!("-n {limit}"), &["--capture-stderr"]);
        until("it starts or not", || wrapper.has_ended() || wrapper.log.has(&says::ready(1)));
        if wrapper.has_ended() {
            assert_eq!(wrapper.exit_status(), 125, "{limit}");
            assert!(wrapper.last_line().contains("too many open files"), "{limit}: {:?}", wrapper.log.all());
            continue;
        }
        let address = common::address_in(&scene.log.wait("worker serving"));
        let upgraded = scene.ctl(&["upgrade"]);
        let said = String::from_utf8_lossy(&upgraded.stderr).into_owned();
        if upgraded.status.success() {
            done += 1;
        } else {
            assert!(said.contains("too many open files (the limit is"), "{limit}: {said}");
            assert!(said.contains("generation 1 still serves"), "{limit}: {said}");
            refused += 1;
        }
        let replaced = scene.ctl(&["reexec"]);
        let said = String::from_utf8_lossy(&replaced.stderr).into_owned();
        assert!(replaced.status.success() || said.contains("too many open files"), "{limit}: {said}");
        let serving = if upgraded.status.success() { "g2 " } else { "g1 " };
        assert!(who(&address).starts_with(serving), "{limit}");
        // A crash is answered by a restart, if need be after a while.
        let pid = common::pid_in(&who(&address));
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), common::Signal::SIGKILL).unwrap();
        assert_ne!(common::pid_in(&who(&address)), pid, "{limit}");
        wrapper.stop();
    }
    assert!(refused > 0 && done > 0, "{refused} refused, {done} done");
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
