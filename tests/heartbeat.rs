//! `--worker-watchdog`: a worker that falls silent is replaced.

mod common;

use common::{Scene, Signal, quick, says};

#[test]
fn a_worker_is_told_how_often_and_who() {
    let scene = Scene::of("dump seen\nready notify");
    for (args, expected) in [(&["--worker-watchdog", "1m30s"][..], Some("90000000")), (&[], None)] {
        let mut command = scene.command();
        // Ours are not for workers.
        command.env("WATCHDOG_USEC", "5000000").env("WATCHDOG_PID", "1");
        command.args(quick(args)).arg("--").args(scene.puppet());
        let wrapper = scene.spawn(command);
        wrapper.log.wait(&says::ready(1));
        let seen = scene.dump("seen");
        let variable = |name: &str| seen["environment"][name].as_str().map(str::to_owned);
        assert_eq!(variable("WATCHDOG_USEC").as_deref(), expected);
        assert_eq!(variable("WATCHDOG_PID"), expected.map(|_| seen["pid"].to_string()));
        wrapper.stop();
    }
}

#[test]
fn one_that_falls_silent_is_replaced_and_asked_once() {
    let scene = Scene::of("count-signals\nbeat-until hush\nready notify");
    let wrapper = scene.ready(&["--ack", "notify", "--worker-watchdog", "5s"]);
    scene.release("hush", 1);
    let pid = common::pid_in(&scene.log.wait("worker hushed"));
    wrapper.log.wait(&format!("pid {pid}: silent for * it is replaced"));
    scene.log.wait(&format!("worker TERM pid={pid}"));
    wrapper.log.wait_nth("generation 1: ready after", 2);
    assert_eq!(scene.log.count(&format!("TERM pid={pid}")), 1);
    wrapper.stop();
}

#[test]
fn one_that_never_speaks_is_replaced_too() {
    let scene = Scene::of("count-signals\nready notify");
    let wrapper = scene.ready(&["--ack", "notify", "--worker-watchdog", "100ms"]);
    wrapper.log.wait("silent for");
    wrapper.log.wait_nth("generation 1: ready after", 2);
    wrapper.stop();
}

#[test]
fn a_replacement_that_is_silent_while_it_soaks_has_failed() {
    let scene = Scene::of("count-signals\nbeat-until hush\nready notify");
    scene.script("2", "count-signals\nready notify");
    let wrapper = scene.ready(&["--ack", "notify", "--worker-watchdog", "5s", "--soak", "50s"]);
    wrapper.signal(Signal::SIGHUP);
    let line = wrapper.log.wait(&says::failed(2));
    assert!(line.contains("silent for "), "{line}");
    assert!(!scene.log.has("g1 s0 worker TERM"));
    wrapper.stop();
}

#[test]
fn it_needs_a_worker_that_can_speak() {
    let scene = Scene::of("say started");
    for (args, why) in [
        (&["--worker-watchdog", "1s", "--ack", "fd"][..], "needs NOTIFY_SOCKET"),
        (&["--worker-watchdog", "1ms"], "shorter than 100 ms"),
        (&["--worker-watchdog", "0"], "shorter than 100 ms"),
        (&["--worker-watchdog", "x"], "for '--worker-watchdog'"),
        (&["--worker-watchdog", "1s", "--follow", "USR2"], "cannot go with --follow"),
    ] {
        let mut wrapper = scene.start(args);
        assert_eq!(wrapper.exit_status(), 2, "{args:?}");
        let line = wrapper.last_line();
        assert!(line.contains(why), "{line}");
    }
}
