//! The table of exit statuses, and the last line on stderr that goes with each.

mod common;

use common::{Scene, Signal, Wrapper, am_root, quick, says};
use std::fs;
use std::net::TcpListener;

/// The status, and that the last line of ours on stderr says what, on what and why.
fn ends(mut wrapper: Wrapper, status: i32, words: &[&str]) {
    let got = wrapper.exit_status();
    let last = wrapper.last_line();
    assert_eq!(got, status, "{last}");
    assert!(last.starts_with("graceful-run: "), "{last}");
    for word in words {
        assert!(last.contains(word), "no {word:?} in {last}");
    }
}

#[test]
fn stopped_in_time_is_0() {
    Scene::of("count-signals\nready notify").ready(&[]).stop();
}

#[test]
fn a_worker_that_its_stop_signal_ends_is_0_too() {
    Scene::of("ready notify").ready(&[]).stop();
}

#[test]
fn a_worker_that_had_to_be_killed_is_137() {
    let scene = Scene::of("ignore-term\nready notify");
    let wrapper = scene.ready(&["--stop-timeout", "100ms"]);
    wrapper.signal(Signal::SIGTERM);
    ends(wrapper, 137, &[]);
}

#[test]
fn the_first_worker_gives_its_own_status() {
    for status in [1, 3, 77, 255] {
        let scene = Scene::of(&format!("exit {status}"));
        ends(scene.start(&quick(&[])), status, &[&status.to_string()]);
    }
}

#[test]
fn the_first_worker_that_leaves_with_0_before_its_ack_gives_0() {
    let scene = Scene::of("exit 0");
    let mut wrapper = scene.start(&quick(&[]));
    assert_eq!(wrapper.exit_status(), 0);
    let last = wrapper.last_line();
    assert!(last.contains("exited with status 0 before it was ready: nothing is kept running"), "{last}");
}

#[test]
fn who_sends_the_signal_of_a_system_call_filter_is_told() {
    let scene = Scene::of("abort-signal SYS");
    ends(scene.start(&quick(&[])), 159, &["by signal 31 (SYS), which a system call filter sends", "doctor"]);
}

#[test]
fn the_first_worker_that_a_signal_ends_gives_128_and_its_number() {
    for (signal, status) in [("SEGV", 139), ("KILL", 137), ("TERM", 143)] {
        let scene = Scene::of(&format!("abort-signal {signal}"));
        ends(scene.start(&quick(&[])), status, &[signal]);
    }
}

#[test]
fn restart_never_gives_the_workers_status() {
    for (script, status) in [("exit 0", 0), ("exit 9", 9), ("abort-signal SEGV", 139)] {
        let scene = Scene::of(&format!("ready notify\nwait end\n{script}"));
        let mut wrapper = scene.ready(&["--restart", "never"]);
        scene.release("end", 1);
        assert_eq!(wrapper.exit_status(), status, "{script}");
        assert!(wrapper.last_line().starts_with("graceful-run: "));
        assert!(!wrapper.log.has("*nothing is kept running"), "that is what was asked for");
        assert_eq!(scene.log.count("worker ready"), 1);
    }
}

#[test]
fn restart_on_failure_ends_with_a_worker_that_leaves_with_0() {
    let scene = Scene::of("ready notify\nwait end\nexit 0");
    let mut wrapper = scene.ready(&["--restart", "on-failure"]);
    scene.release("end", 1);
    assert_eq!(wrapper.exit_status(), 0);
    assert_eq!(scene.log.count("worker ready"), 1);
}

#[test]
fn restart_on_failure_restarts_one_that_fails() {
    let scene = Scene::of("ready notify\nwait end\nexit 9");
    let wrapper = scene.ready(&["--restart", "on-failure"]);
    scene.release("end", 1);
    scene.log.wait_nth("worker ready", 2);
    wrapper.stop();
}

#[test]
fn retry_start_starts_the_first_worker_again() {
    let scene = Scene::of("say came\nwait end\nexit 9");
    let mut wrapper = scene.start(&quick(&["--retry-start"]));
    scene.release("end", 3);
    scene.log.wait_nth("worker came", 4);
    assert!(!wrapper.has_ended());
    wrapper.stop();
}

#[test]
fn a_bad_option_is_2() {
    let scene = Scene::of("say started");
    ends(scene.start(&["--no-such-option"]), 2, &["--no-such-option"]);
    ends(scene.start(&["-b", "127.0.0.1:99999"]), 2, &["127.0.0.1:99999"]);
    let mut nothing = scene.command();
    nothing.args(["-b", "127.0.0.1:0"]);
    ends(scene.spawn(nothing), 2, &[]);
    assert!(!scene.log.has("started"));
}

#[test]
fn a_usage_error_has_no_side_effect() {
    let scene = Scene::of("say started");
    let socket = scene.run().join("app.sock");
    let pid_file = scene.run().join("app.pid");
    let (socket, pid_file) = (socket.to_str().unwrap(), pid_file.to_str().unwrap());
    let args = ["-b", socket, "--pid-file", pid_file, "-b", "127.0.0.1:x"];
    ends(scene.start(&args), 2, &["127.0.0.1:x"]);
    assert_eq!(fs::read_dir(scene.run()).unwrap().count(), 0);
    assert!(!scene.log.has("started"));
}

#[test]
fn the_first_worker_that_does_not_ack_in_time_is_124() {
    let scene = Scene::of("count-signals\nhang");
    let args = ["--ack", "notify", "--ack-timeout", "4s"];
    ends(scene.start(&quick(&args)), 124, &["--ack-timeout"]);
    scene.log.wait("worker TERM");
}

#[test]
fn an_address_that_is_taken_is_125() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let scene = Scene::of("say started");
    let socket = scene.run().join("app.sock");
    let args = ["-b", socket.to_str().unwrap(), "-b", &address];
    ends(scene.start(&args), 125, &["cannot bind", &address, "address already in use"]);
    assert!(!socket.exists(), "what was bound before is removed");
    assert!(!scene.log.has("started"));
}

#[test]
fn an_address_that_is_not_here_is_125() {
    let scene = Scene::of("say started");
    ends(scene.start(&["-b", "192.0.2.1:0"]), 125, &["192.0.2.1"]);
    assert!(!scene.log.has("started"));
}

#[test]
fn an_unknown_user_is_125() {
    let scene = Scene::of("say started");
    ends(scene.start(&quick(&["--user", "nobody-of-that-name"])), 125, &["nobody-of-that-name"]);
    assert!(!scene.log.has("started"));
}

#[test]
fn a_pid_file_that_cannot_be_written_is_125() {
    let scene = Scene::of("ready notify");
    let path = scene.arg("nowhere/app.pid");
    ends(scene.start(&quick(&["--pid-file", &path])), 125, &["nowhere/app.pid"]);
}

#[test]
fn a_unix_path_that_is_not_ours_is_125_and_stays() {
    let scene = Scene::of("say started");
    let plain = scene.arg("plain");
    fs::write(&plain, "precious").unwrap();
    ends(scene.start(&["-b", &format!("unix:{plain}")]), 125, &["plain"]);
    assert_eq!(fs::read_to_string(&plain).unwrap(), "precious");

    let live = scene.arg("live.sock");
    let holder = std::os::unix::net::UnixListener::bind(&live).unwrap();
    ends(scene.start(&["-b", &format!("unix:{live}")]), 125, &["live.sock"]);
    assert!(std::os::unix::net::UnixStream::connect(&live).is_ok());
    drop(holder);

    let link = scene.arg("link");
    std::os::unix::fs::symlink(&live, &link).unwrap();
    ends(scene.start(&["-b", &format!("unix:{link}")]), 125, &["link"]);
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert!(!scene.log.has("started"));
}

#[test]
fn a_stale_unix_path_is_replaced_and_removed_at_the_end() {
    let scene = Scene::of("serve\nready notify");
    let path = scene.run().join("stale.sock");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let wrapper = scene.start(&["-b", &format!("unix:{}", path.display())]);
    wrapper.log.wait(&says::ready(1));
    assert!(std::os::unix::net::UnixStream::connect(&path).is_ok());
    wrapper.stop();
    assert!(!path.exists());
}

#[test]
fn a_command_that_cannot_be_executed_is_126() {
    use std::os::unix::fs::PermissionsExt;
    let scene = Scene::new();
    for (name, bytes, mode) in [
        ("plain", &b"#!/bin/sh\n"[..], 0o644),
        ("empty", b"", 0o755),
        ("truncated", b"\x7fELF\x02", 0o755),
        ("no-interpreter-line", b"exit 7\n", 0o755),
    ] {
        let path = scene.arg(name);
        fs::write(&path, bytes).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        ends(scene.start_command(&quick(&[]), &[&path]), 126, &[name]);
    }
    let run = scene.arg("run");
    ends(scene.start_command(&quick(&[]), &[&run]), 126, &["run"]);
}

#[test]
fn a_command_that_is_not_found_is_127() {
    use std::os::unix::fs::PermissionsExt;
    let scene = Scene::new();
    ends(scene.start_command(&quick(&[]), &["no-such-command"]), 127, &["no-such-command"]);
    let path = scene.arg("nothing-here");
    ends(scene.start_command(&quick(&[]), &[&path]), 127, &["nothing-here"]);
    let script = scene.arg("script");
    fs::write(&script, "#!/nonexistent/interpreter\n").unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    ends(scene.start_command(&quick(&[]), &[&script]), 127, &["script", "interpreter"]);
}

#[test]
fn why_a_program_cannot_be_executed_is_named() {
    use std::os::unix::fs::PermissionsExt;
    let scene = Scene::new();
    let program = |name: &str, bytes: &[u8]| {
        let path = scene.arg(name);
        fs::write(&path, bytes).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    };
    for (name, bytes, status, why) in [
        ("empty", &b""[..], 126, "the file is empty"),
        ("arm", b"\x7fELF\x02\x01\x01", 126, "it is built for another kind of machine"),
        ("words", b"exit 7\n", 126, "a script begins with #!"),
        ("windows", b"#!/bin/sh\r\nexit 7\r\n", 127, "its first line ends with a carriage return"),
        ("asks-env", b"#!/usr/bin/env no-such-interpreter\n", 127, "asks env for 'no-such-interpreter'"),
    ] {
        ends(scene.start_command(&quick(&[]), &[&program(name, bytes)]), status, &[why]);
    }
    if am_root() {
        fs::create_dir(scene.path("closed")).unwrap();
        let path = program("closed/server", b"#!/bin/sh\n");
        fs::set_permissions(scene.path("closed"), fs::Permissions::from_mode(0o700)).unwrap();
        let wrapper = scene.start_command(&quick(&["--user", "nobody"]), &[&path]);
        ends(wrapper, 126, &["closed may not be entered, as uid 65534"]);
    }
}

#[test]
fn a_failed_upgrade_never_ends_us() {
    let scene = Scene::of("exit 5");
    scene.script("1", "count-signals\nready notify");
    let mut wrapper = scene.ready(&[]);
    for generation in 2..6 {
        wrapper.signal(Signal::SIGHUP);
        wrapper.log.wait(&says::failed(generation));
    }
    assert!(!wrapper.has_ended());
    wrapper.stop();
}

#[test]
fn what_is_too_long_for_the_kernel_is_named() {
    let scene = Scene::new();
    let long = "x".repeat(140_000);
    fs::write(scene.path("env"), format!("CERTS={long}\n")).unwrap();
    let file = scene.arg("env");
    let wrapper = scene.start_command(&["--restart", "never", "--env-file", &file], &["true"]);
    ends(wrapper, 126, &["the variable CERTS has 140007 bytes, and the kernel takes 131072"]);
    let many: String = (0..90).map(|n| format!("V{n}={}\n", "y".repeat(11_000))).collect();
    let files: Vec<String> = (0..9)
        .map(|n| {
            let name = format!("env{n}");
            fs::write(scene.path(&name), many.replace("V", &format!("V{n}_"))).unwrap();
            scene.arg(&name)
        })
        .collect();
    let args: Vec<&str> = files.iter().flat_map(|file| ["--env-file", file]).collect();
    let wrapper = scene.start_command(&[&["--restart", "never"], &args[..]].concat(), &["true"]);
    ends(wrapper, 126, &["the arguments have ", " bytes, and the environment "]);
}
