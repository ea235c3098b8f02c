//! `--on SIGNAL=wait`: whoever stops us signals every process of ours, and a second signal would
//! cut the requests under way.

mod common;

use common::{Scene, Signal, says};
use nix::sys::signal::kill;
use nix::unistd::Pid;

/// Each says what it gets, and goes on until it is released.
const SLOW: &str = "gate-term leave\nready notify";

/// TERM to every process of the scene, us first, as a platform that stops a container does.
fn term_to_all(scene: &Scene, us: Pid) {
    for pid in
        [us.as_raw()].into_iter().chain(scene.processes().into_iter().filter(|pid| *pid != us.as_raw()))
    {
        kill(Pid::from_raw(pid), Signal::SIGTERM).unwrap();
    }
}

#[test]
fn no_worker_of_any_generation_gets_a_second_term() {
    let scene = Scene::of(SLOW);
    let mut wrapper = scene.ready(&["--on", "TERM=wait", "-n", "2"]);
    wrapper.signal(Signal::SIGHUP);
    wrapper.log.wait(&says::ready(2));
    scene.log.wait_nth("g1 * worker TERM", 2);
    for line in scene.log.all().iter().filter(|line| common::matches("g2 * worker ready", line)) {
        kill(Pid::from_raw(common::pid_in(line)), Signal::SIGTERM).unwrap();
    }
    wrapper.signal(Signal::SIGTERM);
    wrapper.log.wait("TERM: a stop; workers have had a signal from whoever sent it (--on TERM=wait)");
    scene.log.wait_nth("g2 * worker TERM", 2);
    let status = scene.status();
    assert_eq!((&status["phase"], &status["waits"]), (&"stopping".into(), &true.into()));
    let shown = scene.ctl(&["status"]);
    assert!(String::from_utf8_lossy(&shown.stdout).contains("workers get no signal"), "{shown:?}");
    scene.release("leave", 4);
    assert_eq!(wrapper.exit_status(), 0);
    assert_eq!(scene.log.count("worker TERM"), 4, "{:?}", scene.log.all());
}

/// A shell ends at its TERM. The server behind it has had one as well, and finishes.
#[test]
fn what_a_worker_leaves_behind_gets_no_second_term_either() {
    let scene = Scene::of(SLOW);
    let server = format!("{} & wait", scene.puppet().join(" "));
    let command = ["sh", "-c", &server];
    let args = common::quick(&["--on", "TERM=wait"]);
    let mut wrapper = scene.start_command(&args, &command);
    wrapper.log.wait(&says::ready(1));
    term_to_all(&scene, wrapper.pid);
    wrapper.log.wait("left behind, may finish");
    scene.log.wait("worker TERM");
    scene.release("leave", 1);
    assert_eq!(wrapper.exit_status(), 0, "{:?}", wrapper.log.all());
    assert_eq!(scene.log.count("worker TERM"), 1);
}

#[test]
fn one_that_nobody_has_signalled_is_killed_after_the_stop_timeout() {
    let scene = Scene::of(SLOW);
    let mut wrapper = scene.ready(&["--on", "TERM=wait", "--stop-timeout", "1s"]);
    wrapper.signal(Signal::SIGTERM);
    assert_eq!(wrapper.exit_status(), 137);
    // Not sooner than after a second; on a busy machine a few milliseconds later.
    wrapper.log.wait("killed after *; it had no signal from us (--on SIGNAL=wait)");
    assert_eq!(scene.log.count("worker TERM"), 0);
}

/// The worker hears the signal before us and ends: what is started in its place has not heard it.
#[test]
fn one_that_was_started_after_the_signal_is_asked_to_stop() {
    let scene = Scene::of(SLOW);
    let mut wrapper = scene.ready(&["--on", "TERM=wait", "--stop-timeout", "0"]);
    kill(Pid::from_raw(common::pid_in(&scene.log.wait("worker ready"))), Signal::SIGTERM).unwrap();
    scene.log.wait("worker TERM");
    scene.release("leave", 1);
    scene.log.wait_nth("worker ready", 2);
    wrapper.signal(Signal::SIGTERM);
    scene.log.wait_nth("worker TERM", 2);
    scene.release("leave", 1);
    assert_eq!(wrapper.exit_status(), 0, "{:?}", wrapper.log.all());
    assert_eq!(scene.log.count("worker TERM"), 2);
}

#[test]
fn what_it_leaves_behind_is_asked_to_stop_as_well() {
    let scene = Scene::of(SLOW);
    let server = format!("{} & wait", scene.puppet().join(" "));
    let args = common::quick(&["--on", "TERM=wait", "--stop-timeout", "0"]);
    let mut wrapper = scene.start_command(&args, &["sh", "-c", &server]);
    wrapper.log.wait(&says::ready(1));
    for pid in scene.processes().into_iter().filter(|pid| *pid != wrapper.pid.as_raw()) {
        kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    }
    scene.log.wait_nth("worker ready", 2);
    wrapper.signal(Signal::SIGTERM);
    wrapper.log.wait("left behind, is asked to stop");
    scene.log.wait("worker TERM");
    scene.release("leave", 1);
    assert_eq!(wrapper.exit_status(), 0, "{:?}", wrapper.log.all());
    assert_eq!(scene.log.count("worker TERM"), 1);
}

#[test]
fn a_second_interrupt_kills() {
    for (row, signal) in [("INT=wait", Signal::SIGINT), ("QUIT=wait", Signal::SIGQUIT)] {
        let scene = Scene::of(SLOW);
        let mut wrapper = scene.ready(&["--on", row, "--stop-timeout", "0"]);
        wrapper.signal(signal);
        wrapper.log.wait("workers have had a signal");
        wrapper.signal(signal);
        assert_eq!(wrapper.exit_status(), 137, "{row}");
        assert_eq!(scene.log.count("worker TERM"), 0);
    }
}

#[test]
fn the_hooks_of_a_stop_run() {
    let scene = Scene::of(SLOW);
    let hooks = ["--hook", "pre-stop=echo its pre-stop: $GRACEFUL_RUN_WORKER >&2"];
    let hooks = [&hooks[..], &["--hook", "post-stop=echo its post-stop >&2"]].concat();
    let mut wrapper = scene.ready(&[&hooks[..], &["--on", "TERM=wait"]].concat());
    let worker = common::pid_in(&scene.log.wait("worker ready"));
    term_to_all(&scene, wrapper.pid);
    wrapper.log.wait(&format!("its pre-stop: {worker}"));
    scene.release("leave", 1);
    assert_eq!(wrapper.exit_status(), 0);
    assert!(wrapper.log.has("its post-stop"));
    assert_eq!(scene.log.count("worker TERM"), 1);
}
