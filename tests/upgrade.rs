//! USR2 and HUP: a generation is replaced, or the upgrade is undone and nobody noticed.

mod common;

use common::{SERVER, Scene, Signal, Wrapper, address_in, quick, says, until, who};
use std::fs;

fn first(scene: &Scene, args: &[&str]) -> (Wrapper, String) {
    let wrapper = scene.ready(args);
    let address = address_in(&scene.log.wait("g1 s0 worker serving"));
    (wrapper, address)
}

#[test]
fn usr2_and_hup_replace_the_worker() {
    let scene = Scene::of(SERVER);
    let (wrapper, address) = first(&scene, &[]);
    assert!(who(&address).starts_with("g1 "));
    wrapper.signal(Signal::SIGUSR2);
    scene.log.wait("g1 s0 worker TERM");
    wrapper.log.wait(&says::exited(1, 0));
    assert!(who(&address).starts_with("g2 "));
    wrapper.signal(Signal::SIGHUP);
    scene.log.wait("g2 s0 worker TERM");
    wrapper.log.wait(&says::exited(2, 0));
    assert!(who(&address).starts_with("g3 "));
    wrapper.stop();
    assert_eq!(scene.log.count("worker TERM"), 3);
    assert_eq!(scene.log.count("worker HUP") + scene.log.count("worker USR2"), 0);
}

#[test]
fn the_old_worker_is_asked_only_after_the_ack() {
    let scene = Scene::of(SERVER);
    scene.script("2", "count-signals\nserve\nsay parked\nwait ack\nready notify\n");
    let (wrapper, address) = first(&scene, &[]);
    wrapper.signal(Signal::SIGUSR2);
    scene.log.wait("g2 s0 worker parked");
    // Both hold the listener, and the old one has heard nothing.
    assert!(who(&address).starts_with('g'));
    assert!(!scene.log.has("g1 s0 worker TERM"));
    scene.release("ack", 1);
    scene.log.wait("g1 s0 worker TERM");
    wrapper.stop();
}

/// Generation 2 fails as `script` says; then generation 3 succeeds, which proves that generation
/// 1 was there all the time, and heard of nothing before.
fn replacement_fails(script: &str, args: &[&str], why: &str) {
    let scene = Scene::of(SERVER);
    scene.script("2", script);
    let (wrapper, address) = first(&scene, args);
    wrapper.signal(Signal::SIGUSR2);
    let line = wrapper.log.wait(&says::failed(2));
    assert!(common::matches(why, &line), "the reason is not {why:?}: {line}");
    assert!(who(&address).starts_with("g1 "));
    for signal in ["TERM", "INT", "QUIT", "CONT", "USR1", "USR2", "HUP"] {
        assert_eq!(scene.log.count(&format!("g1 s0 worker {signal}")), 0, "{signal}");
    }
    wrapper.signal(Signal::SIGUSR2);
    scene.log.wait("g1 s0 worker TERM");
    wrapper.log.wait(&says::ready(3));
    wrapper.stop();
}

#[test]
fn a_replacement_that_exits_0_before_its_ack_fails() {
    replacement_fails("exit 0", &[], "status 0");
}

#[test]
fn a_replacement_that_exits_1_before_its_ack_fails() {
    replacement_fails("exit 1", &[], "status 1");
}

#[test]
fn a_replacement_that_a_signal_ends_before_its_ack_fails() {
    replacement_fails("abort-signal SEGV", &[], "SEGV");
}

#[test]
fn a_replacement_that_dies_in_its_soak_fails() {
    replacement_fails("ready notify\nexit 3", &["--soak", "4s"], "status 3");
}

#[test]
fn a_replacement_that_never_acks_is_stopped() {
    replacement_fails("count-signals\nhang", &["--ack-timeout", "4s"], "");
}

#[test]
fn a_replacement_that_never_acks_and_ignores_term_is_killed() {
    let args = ["--ack-timeout", "4s", "--stop-timeout", "4s"];
    let scene = Scene::of(SERVER);
    scene.script("2", "ignore-term\nhang");
    let (wrapper, _) = first(&scene, &args);
    wrapper.signal(Signal::SIGUSR2);
    wrapper.log.wait(&says::failed(2));
    scene.log.wait("g2 s0 worker TERM");
    wrapper.log.wait(&says::killed(2, 9));
    assert_eq!(scene.log.count("g1 s0 worker TERM"), 0);
    wrapper.stop();
}

#[test]
fn a_replacement_that_was_never_ready_gets_term_instead_of_its_stop_signal() {
    let scene = Scene::of(SERVER);
    scene.script("2", "count-signals\nhang");
    let args = ["--ack-timeout", "4s", "--stop-signal", "WINCH", "--stop-timeout", "60s"];
    let (mut wrapper, _) = first(&scene, &args);
    wrapper.signal(Signal::SIGUSR2);
    wrapper.log.wait(&says::failed(2));
    scene.log.wait("g2 s0 worker TERM");
    assert_eq!(scene.log.count("g2 s0 worker WINCH"), 0);
    wrapper.signal(Signal::SIGINT);
    scene.log.wait("g1 s0 worker WINCH");
    wrapper.signal(Signal::SIGINT);
    assert_eq!(wrapper.exit_status(), 137, "the second one kills");
}

#[test]
fn on_ack_timeout_proceed_replaces_all_the_same() {
    let scene = Scene::of(SERVER);
    scene.script("2", "count-signals\nserve\nhang");
    let args = ["--ack-timeout", "4s", "--on-ack-timeout", "proceed"];
    let (wrapper, address) = first(&scene, &args);
    wrapper.signal(Signal::SIGUSR2);
    scene.log.wait("g1 s0 worker TERM");
    wrapper.log.wait(&says::exited(1, 0));
    assert!(who(&address).starts_with("g2 "));
    wrapper.stop();
}

/// The command of generation 1 is replaced by what `spoil` leaves at its path.
fn command_is_spoilt(spoil: impl FnOnce(&std::path::Path), why: &str) {
    let scene = Scene::of(SERVER);
    let program = scene.puppet_copy("program");
    let command = [program.to_str().expect("utf-8").to_owned(), scene.arg("")];
    let wrapper = scene.start_command(&quick(&[]), &command);
    wrapper.log.wait(&says::ready(1));
    let address = address_in(&scene.log.wait("g1 s0 worker serving"));
    fs::remove_file(&program).expect("remove the program");
    spoil(&program);
    wrapper.signal(Signal::SIGUSR2);
    let line = wrapper.log.wait(&says::failed(2));
    assert!(common::matches(why, &line), "the reason is not {why:?}: {line}");
    assert!(who(&address).starts_with("g1 "));
    assert_eq!(scene.log.count("g1 s0 worker TERM"), 0);
    wrapper.stop();
}

fn put(path: &std::path::Path, bytes: &[u8], mode: u32) {
    use std::os::unix::fs::PermissionsExt;
    let fresh = path.with_extension("new");
    fs::write(&fresh, bytes).expect("write a program");
    fs::set_permissions(&fresh, fs::Permissions::from_mode(mode)).expect("chmod");
    fs::rename(fresh, path).expect("rename a program");
}

#[test]
fn a_program_that_is_gone_fails_the_upgrade() {
    command_is_spoilt(|_| (), "");
}

#[test]
fn a_program_that_is_not_executable_fails_the_upgrade() {
    command_is_spoilt(|path| put(path, b"#!/bin/sh\n", 0o644), "");
}

#[test]
fn a_missing_interpreter_fails_the_upgrade_and_is_named() {
    command_is_spoilt(
        |path| put(path, b"#!/nonexistent/sh\n", 0o755),
        "its interpreter /nonexistent/sh is missing",
    );
}

#[test]
fn a_truncated_binary_fails_the_upgrade() {
    command_is_spoilt(|path| put(path, b"\x7fELF\x02", 0o755), "");
}

#[test]
fn a_script_without_interpreter_line_is_not_given_to_a_shell() {
    command_is_spoilt(|path| put(path, b"exit 7\n", 0o755), "");
}

#[test]
fn requests_during_an_upgrade_give_one_more_generation() {
    for requests in [1, 2, 9] {
        let scene = Scene::of(SERVER);
        scene.script("2", "count-signals\nserve\nsay parked\nwait ack\nready notify\n");
        let (wrapper, _) = first(&scene, &[]);
        wrapper.signal(Signal::SIGUSR2);
        scene.log.wait("g2 s0 worker parked");
        for i in 0..requests {
            wrapper.signal(if i % 2 == 0 { Signal::SIGHUP } else { Signal::SIGUSR2 });
        }
        // WINCH comes after them on the same way, and is passed on: once it is here, they are in.
        wrapper.signal(Signal::SIGWINCH);
        scene.log.wait("g1 s0 worker WINCH");
        scene.release("ack", 1);
        wrapper.log.wait(&says::ready(3));
        scene.log.wait("g2 s0 worker TERM");
        wrapper.log.wait(&says::exited(2, 0));
        wrapper.stop();
        assert!(!scene.log.has("g4 "), "{requests} requests gave a fourth generation");
    }
}

#[test]
fn a_kept_request_runs_after_a_failure_too() {
    let scene = Scene::of(SERVER);
    scene.script("2", "say parked\nwait fail\nexit 1");
    let (wrapper, _) = first(&scene, &[]);
    wrapper.signal(Signal::SIGUSR2);
    scene.log.wait("g2 s0 worker parked");
    wrapper.signal(Signal::SIGHUP);
    wrapper.signal(Signal::SIGHUP);
    scene.release("fail", 1);
    wrapper.log.wait(&says::failed(2));
    wrapper.log.wait(&says::ready(3));
    scene.log.wait("g1 s0 worker TERM");
    wrapper.log.wait(&says::exited(1, 0));
    wrapper.stop();
    assert!(!scene.log.has("g4 "));
}

#[test]
fn no_old_worker_is_asked_before_all_are_ready() {
    let scene = Scene::of(SERVER);
    scene.script("2.2", "count-signals\nsay parked\nwait ack\nready notify\n");
    let (wrapper, _) = first(&scene, &["-n", "3"]);
    wrapper.signal(Signal::SIGUSR2);
    scene.log.wait("g2 s0 worker ready");
    scene.log.wait("g2 s1 worker ready");
    scene.log.wait("g2 s2 worker parked");
    assert_eq!(scene.log.count("worker TERM"), 0);
    scene.release("ack", 1);
    for slot in 0..3 {
        scene.log.wait(&format!("g1 s{slot} worker TERM"));
    }
    wrapper.stop();
}

#[test]
fn one_replacement_of_several_that_fails_undoes_all() {
    let scene = Scene::of(SERVER);
    scene.script("2.1", "say parked\nwait fail\nexit 4");
    let (wrapper, _) = first(&scene, &["-n", "3"]);
    wrapper.signal(Signal::SIGUSR2);
    scene.log.wait("g2 s0 worker ready");
    scene.log.wait("g2 s2 worker ready");
    scene.log.wait("g2 s1 worker parked");
    scene.release("fail", 1);
    scene.log.wait("g2 s0 worker TERM");
    scene.log.wait("g2 s2 worker TERM");
    wrapper.log.wait(&says::failed(2));
    assert_eq!(scene.log.count("g1 * worker TERM"), 0);
    wrapper.stop();
    assert_eq!(scene.log.count("g1 * worker TERM"), 3);
}

#[test]
fn surge_replaces_so_many_slots_at_a_time() {
    let scene = Scene::of(SERVER);
    scene.script("2.0", "count-signals\nserve\nsay parked\nwait ack\nready notify\n");
    let (wrapper, _) = first(&scene, &["-n", "3", "--surge", "1", "--soak", "600ms"]);
    // After such a soak, no worker is too young for its stop signal.
    wrapper.signal(Signal::SIGUSR2);
    scene.log.wait("g2 s0 worker parked");
    assert!(!scene.log.has("g2 s1 ") && !scene.log.has("g2 s2 "));
    scene.release("ack", 1);
    scene.log.wait("g1 s0 worker TERM");
    scene.log.wait("g1 s1 worker TERM");
    scene.log.wait("g1 s2 worker TERM");
    wrapper.log.wait_nth(&says::exited(1, 0), 3);
    wrapper.stop();
    let all = scene.log.all();
    let at = |pattern: &str| all.iter().position(|line| common::matches(pattern, line));
    assert!(at("g1 s0 worker TERM") < at("g2 s2 worker ready"));
}

#[test]
fn a_failure_under_surge_stops_there() {
    let scene = Scene::of(SERVER);
    scene.script("2.1", "exit 5");
    let (wrapper, _) = first(&scene, &["-n", "3", "--surge", "1"]);
    wrapper.signal(Signal::SIGUSR2);
    let line = wrapper.log.wait(&says::failed(2));
    assert!(line.contains("1 of 3 replaced"), "{line}");
    scene.log.wait("g1 s0 worker TERM");
    assert!(!scene.log.has("g1 s1 worker TERM") && !scene.log.has("g1 s2 worker TERM"));
    assert!(!scene.log.has("g2 s2 "));
    wrapper.stop();
}

#[test]
fn stop_first_never_has_two() {
    let scene = Scene::of("count-signals\ngate-term leave\nserve\nready notify\n");
    let (wrapper, address) = first(&scene, &["--stop-first"]);
    wrapper.signal(Signal::SIGUSR2);
    scene.log.wait("g1 s0 worker TERM");
    assert!(!scene.log.has("g2 "));
    scene.release("leave", 1);
    scene.log.wait("g2 s0 worker ready");
    assert!(who(&address).starts_with("g2 "));
    scene.release("leave", 1);
    wrapper.stop();
}

#[test]
fn stop_first_starts_the_old_command_again_when_the_new_one_fails() {
    let scene = Scene::of(SERVER);
    scene.script("2", "exit 6");
    let (wrapper, address) = first(&scene, &["--stop-first"]);
    wrapper.signal(Signal::SIGUSR2);
    scene.log.wait("g1 s0 worker TERM");
    wrapper.log.wait(&says::failed(2));
    scene.log.wait_nth("worker serving", 2);
    assert!(!who(&address).is_empty());
    wrapper.stop();
}

#[test]
fn a_worker_that_crashes_while_its_replacement_starts_is_replaced_by_it() {
    let scene = Scene::of(SERVER);
    scene.script("1", "serve\nready notify\nwait crash\nabort-signal KILL");
    scene.script("2", "count-signals\nserve\nsay parked\nwait ack\nready notify\n");
    let (wrapper, address) = first(&scene, &[]);
    wrapper.signal(Signal::SIGUSR2);
    scene.log.wait("g2 s0 worker parked");
    scene.release("crash", 1);
    wrapper.log.wait(&says::killed(1, 9));
    scene.release("ack", 1);
    wrapper.log.wait(&says::ready(2));
    assert!(who(&address).starts_with("g2 "));
    wrapper.stop();
    assert_eq!(scene.log.count("worker parked"), 1, "one replacement is enough");
}

#[test]
fn a_reader_of_the_old_generation_cannot_ack_for_the_new_one() {
    let scene = Scene::of(SERVER);
    scene.script("1", "count-signals\nserve\nready notify\nwait again\nsend READY=1\nsay again");
    scene.script("2", "count-signals\nsay parked\nwait never");
    let (wrapper, _) = first(&scene, &["--ack-timeout", "4s"]);
    wrapper.signal(Signal::SIGUSR2);
    scene.log.wait("g2 s0 worker parked");
    scene.release("again", 1);
    scene.log.wait("g1 s0 worker again");
    wrapper.log.wait(&says::failed(2));
    assert_eq!(scene.log.count("g1 s0 worker TERM"), 0);
    wrapper.stop();
}

#[test]
fn one_that_acks_and_dies_never_pushes_out_one_that_serves() {
    let scene = Scene::of("send READY=1\nexit 3");
    scene.script("1", SERVER);
    let (wrapper, address) = first(&scene, &["--soak", "4s"]);
    for generation in 2..22 {
        wrapper.signal(Signal::SIGHUP);
        wrapper.log.wait(&says::failed(generation));
        assert!(who(&address).starts_with("g1 "));
    }
    assert_eq!(scene.log.count("g1 s0 worker TERM"), 0);
    wrapper.stop();
}

/// However two requests fall together, the last of them is followed by a whole generation.
#[test]
fn the_last_request_always_gets_its_generation() {
    let scene = Scene::of(SERVER);
    let (wrapper, address) = first(&scene, &[]);
    let newest = || scene.log.count("worker serving");
    for round in 0..20_usize {
        let before = newest();
        wrapper.signal(Signal::SIGHUP);
        for _ in 0..round * 20 {
            std::thread::yield_now();
        }
        wrapper.signal(Signal::SIGHUP);
        until("no new generation", || newest() > before);
    }
    // What comes now is asked for after all of them: at most one was kept.
    let before = newest();
    wrapper.signal(Signal::SIGHUP);
    until("no new generation", || newest() > before);
    let started = u32::try_from(newest()).unwrap();
    assert!(started <= 42, "{started} generations for 41 requests");
    wrapper.log.wait(&says::ready(started));
    assert!(who(&address).starts_with('g'));
    wrapper.stop();
    let terms = scene.log.count("worker TERM");
    assert_eq!(terms, newest(), "every generation serves, and is asked to leave once");
}

#[test]
fn max_draining_ends_the_oldest_first() {
    let scene = Scene::of("ignore-term\nserve\nready notify\n");
    let args = ["--max-draining", "1", "--stop-timeout", "0"];
    let (mut wrapper, _) = first(&scene, &args);
    wrapper.signal(Signal::SIGUSR2);
    scene.log.wait("g1 s0 worker TERM");
    wrapper.signal(Signal::SIGUSR2);
    wrapper.log.wait(&says::killed(1, 9));
    scene.log.wait("g2 s0 worker TERM");
    assert!(!wrapper.log.has(&says::killed(2, 9)));
    wrapper.signal(Signal::SIGINT);
    wrapper.log.wait("stopping");
    wrapper.signal(Signal::SIGINT);
    until("a second INT kills", || wrapper.has_ended());
    assert_eq!(wrapper.exit_status(), 137);
}

#[test]
fn a_unix_socket_keeps_its_inode_over_upgrades() {
    use std::os::unix::fs::MetadataExt;
    let scene = Scene::of(SERVER);
    let path = scene.run().join("app.sock");
    let bind = format!("unix:{}", path.display());
    let wrapper = scene.start(&["-b", &bind, "--soak", "1ms"]);
    wrapper.log.wait(&says::ready(1));
    let inode = fs::metadata(&path).expect("the socket").ino();
    for generation in 2..5 {
        wrapper.signal(Signal::SIGHUP);
        wrapper.log.wait(&says::ready(generation));
        wrapper.log.wait(&says::exited(generation - 1, 0));
        assert_eq!(fs::metadata(&path).expect("the socket").ino(), inode);
    }
    wrapper.stop();
    assert!(!path.exists(), "the socket is left");
}
