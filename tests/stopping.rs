//! TERM, INT, QUIT: every worker is asked once, waited for, and nothing is left.

mod common;

use common::{SERVER, Scene, Signal, Wrapper, quick, says};
use nix::sys::signal::kill;
use nix::unistd::Pid;

fn worker_pid(scene: &Scene) -> i32 {
    common::pid_in(&scene.log.wait("g1 s0 worker ready"))
}

#[test]
fn a_worker_gets_one_term_and_one_cont() {
    let scene = Scene::of("gate-term leave\nready notify");
    let mut wrapper = scene.ready(&[]);
    wrapper.signal(Signal::SIGTERM);
    scene.log.wait("worker TERM");
    scene.log.wait("worker CONT");
    wrapper.signal(Signal::SIGTERM);
    wrapper.signal(Signal::SIGTERM);
    scene.release("leave", 1);
    assert_eq!(wrapper.exit_status(), 0);
    assert_eq!(scene.log.count("worker TERM"), 1);
    assert_eq!(scene.log.count("worker CONT"), 1);
}

#[test]
fn int_and_quit_stop_with_term_too() {
    for signal in [Signal::SIGINT, Signal::SIGQUIT] {
        let scene = Scene::of(SERVER);
        let mut wrapper = scene.ready(&[]);
        wrapper.signal(signal);
        assert_eq!(wrapper.exit_status(), 0, "{signal}");
        assert_eq!(scene.log.count("worker TERM"), 1);
        assert_eq!(scene.log.count("worker INT") + scene.log.count("worker QUIT"), 0);
    }
}

#[test]
fn the_stop_signal_can_be_another() {
    let scene = Scene::of(SERVER);
    let mut wrapper = scene.ready(&["--stop-signal", "QUIT"]);
    wrapper.signal(Signal::SIGTERM);
    assert_eq!(wrapper.exit_status(), 0);
    assert_eq!(scene.log.count("worker QUIT"), 1);
    assert_eq!(scene.log.count("worker TERM"), 0);
}

#[test]
fn a_worker_that_ignores_term_is_killed_after_the_stop_timeout() {
    let scene = Scene::of("ignore-term\nready notify");
    let mut wrapper = scene.ready(&["--stop-timeout", "4s"]);
    wrapper.signal(Signal::SIGTERM);
    assert_eq!(wrapper.exit_status(), 137);
    assert_eq!(scene.log.count("worker TERM"), 1);
    wrapper.log.wait(&says::killed(1, 9));
}

/// Whoever has asked for it, or nobody.
#[test]
fn a_kill_is_told_with_its_one_cause() {
    let last_line = |scene: &Scene, args: &[&str], stop: &dyn Fn(&Scene, &Wrapper)| {
        let mut wrapper = scene.ready(args);
        stop(scene, &wrapper);
        assert_eq!(wrapper.exit_status(), 137);
        wrapper.last_line()
    };
    const STUBBORN: &str = "ignore-term\nready notify";
    let ctl = |scene: &Scene, verb: &[&str]| {
        let output = scene.ctl(verb);
        assert!(output.status.success(), "{verb:?}: {}", String::from_utf8_lossy(&output.stderr));
    };
    type Stop<'a> = &'a dyn Fn(&Scene, &Wrapper);
    let asked: [(&str, Stop<'_>); 4] = [
        ("ctl stop --now", &|scene, _| ctl(scene, &["stop", "--now"])),
        ("ctl hammer", &|scene, wrapper| {
            wrapper.signal(Signal::SIGTERM);
            scene.log.wait("worker TERM");
            ctl(scene, &["hammer"]);
        }),
        ("ALRM", &|scene, wrapper| {
            wrapper.signal(Signal::SIGTERM);
            scene.log.wait("worker TERM");
            wrapper.signal(Signal::SIGALRM);
        }),
        ("a second INT", &|scene, wrapper| {
            wrapper.signal(Signal::SIGQUIT);
            scene.log.wait("worker TERM");
            wrapper.signal(Signal::SIGINT);
        }),
    ];
    for (who, stop) in asked {
        let line = last_line(&Scene::of(STUBBORN), &["--stop-timeout", "0"], stop);
        assert!(line.ends_with(&format!("a worker was killed, as was asked for ({who})")), "{line}");
    }
    // An earlier hammer is not the cause.
    let line = last_line(&Scene::of(STUBBORN), &["--stop-timeout", "1s"], &|scene, wrapper| {
        ctl(scene, &["hammer"]);
        wrapper.signal(Signal::SIGTERM);
    });
    assert!(line.contains(" in time: one had to be killed "), "{line}");
    assert!(line.ends_with(" after it was asked to stop (--stop-timeout)"), "{line}");
    let scene = Scene::of(SERVER);
    scene.script("2", "ignore-term\nsay parked\nwait never");
    let line = last_line(&scene, &["--ack", "notify"], &|scene, wrapper| {
        wrapper.signal(Signal::SIGHUP);
        scene.log.wait("g2 s0 worker parked");
        wrapper.signal(Signal::SIGTERM);
    });
    assert!(line.contains(" in time: one that was not ready yet had to be killed "), "{line}");
    assert!(line.ends_with(" after it was asked to stop"), "{line}");
}

#[test]
fn a_second_int_or_quit_kills_at_once() {
    for (one, two) in [
        (Signal::SIGINT, Signal::SIGINT),
        (Signal::SIGINT, Signal::SIGQUIT),
        (Signal::SIGQUIT, Signal::SIGQUIT),
        (Signal::SIGQUIT, Signal::SIGINT),
    ] {
        let scene = Scene::of("ignore-term\nready notify");
        let mut wrapper = scene.ready(&["--stop-timeout", "0"]);
        wrapper.signal(one);
        scene.log.wait("worker TERM");
        wrapper.signal(two);
        assert_eq!(wrapper.exit_status(), 137, "{one} {two}");
        assert_eq!(scene.log.count("worker TERM"), 1);
    }
}

#[test]
fn nothing_cancels_a_stop() {
    let scene = Scene::of("gate-term leave\nready notify");
    let mut wrapper = scene.ready(&[]);
    wrapper.signal(Signal::SIGTERM);
    scene.log.wait("worker TERM");
    wrapper.signal(Signal::SIGHUP);
    wrapper.signal(Signal::SIGUSR2);
    wrapper.signal(Signal::SIGTTIN);
    scene.release("leave", 1);
    assert_eq!(wrapper.exit_status(), 0);
    assert!(!scene.log.has("g2 "));
    assert!(!scene.log.has("s1 "));
}

#[test]
fn a_stop_ends_an_upgrade() {
    let scene = Scene::of(SERVER);
    scene.script("2", "count-signals\nsay parked\nwait never");
    let mut wrapper = scene.ready(&[]);
    wrapper.signal(Signal::SIGHUP);
    scene.log.wait("g2 s0 worker parked");
    wrapper.signal(Signal::SIGTERM);
    assert_eq!(wrapper.exit_status(), 0);
    assert_eq!(scene.log.count("g1 s0 worker TERM"), 1);
    assert_eq!(scene.log.count("g2 s0 worker TERM"), 1);
}

#[test]
fn a_stop_ends_the_first_start() {
    let scene = Scene::of("count-signals\nsay parked\nwait never");
    let mut wrapper = scene.start(&quick(&["--ack", "notify"]));
    scene.log.wait("worker parked");
    wrapper.signal(Signal::SIGTERM);
    assert_eq!(wrapper.exit_status(), 0);
}

#[test]
fn a_stop_ends_a_soak_and_waits_for_nothing() {
    let scene = Scene::of(SERVER);
    let mut wrapper = scene.start(&["-b", "127.0.0.1:0", "--soak", "1h"]);
    scene.log.wait("worker ready");
    wrapper.signal(Signal::SIGTERM);
    assert_eq!(wrapper.exit_status(), 0);
}

#[test]
fn a_stop_waits_for_a_draining_generation() {
    let scene = Scene::of(SERVER);
    scene.script("1", "gate-term leave\nserve\nready notify");
    let mut wrapper = scene.ready(&[]);
    wrapper.signal(Signal::SIGHUP);
    scene.log.wait("g1 s0 worker TERM");
    wrapper.signal(Signal::SIGTERM);
    scene.log.wait("g2 s0 worker TERM");
    wrapper.log.wait(&says::exited(2, 0));
    assert!(!wrapper.has_ended());
    scene.release("leave", 1);
    assert_eq!(wrapper.exit_status(), 0);
    assert_eq!(scene.log.count("g1 s0 worker TERM"), 1, "one stop signal in its life");
}

#[test]
fn what_is_left_of_the_group_gets_term() {
    let scene = Scene::of("count-signals\nfork-child count-signals\nready notify");
    let mut wrapper = scene.ready(&[]);
    scene.log.wait("child up");
    wrapper.signal(Signal::SIGTERM);
    assert_eq!(wrapper.exit_status(), 0);
    assert_eq!(scene.log.count("child TERM"), 1);
    assert!(scene.processes().is_empty());
}

#[test]
fn what_is_left_of_the_group_and_ignores_term_gets_kill() {
    let scene = Scene::of("count-signals\nfork-child ignore-term\nready notify");
    let mut wrapper = scene.ready(&["--stop-timeout", "4s"]);
    scene.log.wait("child up");
    wrapper.signal(Signal::SIGTERM);
    wrapper.exit_status();
    assert_eq!(scene.log.count("child TERM"), 1);
    assert!(scene.processes().is_empty());
}

#[test]
fn descendants_with_a_session_of_their_own_are_found() {
    let scene = Scene::of("count-signals\nfork-child setsid ignore-term\nready notify");
    let mut wrapper = scene.ready(&["--stop-timeout", "300ms"]);
    scene.log.wait("child up");
    wrapper.signal(Signal::SIGTERM);
    wrapper.exit_status();
    assert!(scene.processes().is_empty());
}

#[test]
fn the_orphans_of_a_crashed_worker_are_ended() {
    let scene = Scene::of(SERVER);
    scene.script("1", "fork-child count-signals\nserve\nready notify\nwait crash\nabort-signal KILL");
    let wrapper = scene.ready(&[]);
    let child = common::pid_in(&scene.log.wait("g1 s0 child up"));
    scene.release("crash", 1);
    scene.log.wait("child TERM");
    scene.wait_gone(child);
    scene.log.wait_nth("worker ready", 2);
    wrapper.stop();
}

#[test]
fn the_orphans_of_an_upgraded_worker_are_ended() {
    let scene = Scene::of(SERVER);
    scene.script("1", "fork-child count-signals\ncount-signals\nserve\nready notify");
    let wrapper = scene.ready(&[]);
    let child = common::pid_in(&scene.log.wait("g1 s0 child up"));
    wrapper.signal(Signal::SIGHUP);
    scene.log.wait("g1 s0 child TERM");
    scene.wait_gone(child);
    wrapper.stop();
}

#[test]
fn a_worker_that_makes_itself_a_daemon_is_told_not_to() {
    let scene = Scene::of("ready notify\ndaemonise");
    let mut wrapper = scene.start(&quick(&["--restart", "never"]));
    wrapper.log.wait("daemon");
    wrapper.exit_status();
    assert!(scene.processes().is_empty(), "the daemon is left");
}

#[test]
fn a_stopped_worker_is_continued_to_take_its_term() {
    let scene = Scene::of("count-signals\nready notify\nstop-self");
    let mut wrapper = scene.ready(&[]);
    let pid = worker_pid(&scene);
    let stopped = || wrapper.children().contains(&(pid, 'T'));
    common::until("the worker does not stop", stopped);
    wrapper.signal(Signal::SIGTERM);
    assert_eq!(wrapper.exit_status(), 0);
    assert_eq!(scene.log.count("worker TERM"), 1);
}

#[test]
fn a_stopped_worker_that_ignores_term_is_killed() {
    let scene = Scene::of("ignore-term\nready notify\nstop-self");
    let mut wrapper = scene.ready(&["--stop-timeout", "200ms"]);
    let pid = worker_pid(&scene);
    common::until("the worker does not stop", || wrapper.children().contains(&(pid, 'T')));
    wrapper.signal(Signal::SIGTERM);
    assert_eq!(wrapper.exit_status(), 137);
}

#[test]
fn every_worker_of_several_is_waited_for() {
    let scene = Scene::of("gate-term leave\nready notify");
    let mut wrapper: Wrapper = scene.ready(&["-n", "4"]);
    wrapper.signal(Signal::SIGTERM);
    for slot in 0..4 {
        scene.log.wait(&format!("s{slot} worker TERM"));
    }
    scene.release("leave", 3);
    wrapper.log.wait_nth(&says::exited(1, 0), 3);
    assert!(!wrapper.has_ended());
    scene.release("leave", 1);
    assert_eq!(wrapper.exit_status(), 0);
}

#[test]
fn a_worker_that_was_ended_from_outside_is_not_our_kill() {
    let scene = Scene::of("gate-term never\nready notify");
    let mut wrapper = scene.ready(&["--stop-timeout", "0"]);
    let pid = worker_pid(&scene);
    wrapper.signal(Signal::SIGTERM);
    scene.log.wait("worker TERM");
    kill(Pid::from_raw(pid), Signal::SIGKILL).expect("kill the worker");
    assert_eq!(wrapper.exit_status(), 0, "gone in time, and we killed nothing");
}
