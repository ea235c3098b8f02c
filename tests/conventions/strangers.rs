//! Acks by the channels of the conventions, from those who may not give them.

use crate::common::{Scene, Signal, quick, says};
use crate::stage::{GO, address_of_our_own, program};
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::process::Command;

fn variable(scene: &Scene, name: &str) -> String {
    let dump = scene.dump("two");
    dump["environment"][name].as_str().unwrap_or_else(|| panic!("no {name} in {dump}")).to_owned()
}

/// Whoever is no process of the worker acks in vain, in whosever name.
#[test]
fn einhorn_s_socket_hears_no_stranger() {
    let scene = Scene::of("count-signals\nserve\ndump two\nhang");
    let mut wrapper = scene.start(&quick(&[
        "--export",
        "einhorn",
        "--ack",
        "einhorn",
        "--ack-timeout",
        "5s",
        "--stop-signal",
        "TERM",
    ]));
    let line = scene.log.wait("g1 s0 worker dump two");
    let pid = crate::common::pid_in(&line);
    let path = variable(&scene, "EINHORN_SOCK_PATH");
    for said in [
        format!("{{\"command\":\"worker:ack\",\"pid\":{pid}}}\n"),
        format!("{{\"command\":\"worker:ack\",\"pid\":{}}}\n", std::process::id()),
        format!("---%0Acommand: worker:ack%0Apid: {pid}%0A\n"),
        "x".repeat(1 << 16),
        String::new(),
    ] {
        let mut stranger = UnixStream::connect(&path).expect("connect");
        // It may be closed before all is written.
        let _ = stranger.write_all(said.as_bytes());
    }
    assert_eq!(wrapper.exit_status(), 124);
    assert!(!wrapper.log.has(&says::ready_by(1, "")), "{:?}", wrapper.log.all());
}

/// By default the kernel would end us by that signal: here it says nothing, and harms nobody.
#[test]
fn goagain_s_signal_of_a_stranger_is_no_ack() {
    let scene = Scene::of("count-signals\nserve\nready notify");
    scene.script("2", "count-signals\nserve\ndump two\nhang");
    let args =
        ["--export", "goagain", "--ack", "notify,goagain", "--ack-timeout", "5s", "--stop-signal", "TERM"];
    let wrapper = scene.ready(&args);
    wrapper.signal(Signal::SIGHUP);
    scene.log.wait("g2 s0 worker dump two");
    let number = variable(&scene, "GOAGAIN_SIGNAL");
    for _ in 0..3 {
        let sent = Command::new("kill").args([format!("-{number}"), wrapper.pid.to_string()]).status();
        assert!(sent.expect("kill(1)").success());
    }
    wrapper.log.wait(&says::failed(2));
    assert_eq!(scene.log.count("g1 s0 worker TERM"), 0);
    wrapper.signal(Signal::SIGHUP);
    wrapper.log.wait(&says::exited(1, 0));
    wrapper.stop();
}

/// Its parent is the shell: it tells the shell, which ends by that, and we hear of an end.
#[test]
fn grace_below_a_shell_that_waits_tells_the_shell() {
    let scene = Scene::new();
    let address = address_of_our_own("below a shell").to_string();
    let Some(worker) = program(GO) else { return };
    let script = format!("'{worker}' grace {address}; true");
    let args = ["-b", &address, "--ack", "parent-term"];
    let mut wrapper = scene.start_command(&args, &["sh", "-c", &script]);
    assert_eq!(wrapper.exit_status(), 128 + 15);
    let log = wrapper.log.wait_end().join("\n");
    assert!(!log.contains("serving"), "{log}");
}
