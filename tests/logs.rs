//! Our log on stderr: it never holds us up, and nobody else writes lines into it.

mod common;

use common::{SERVER, Scene, Signal, address_in, quick, says, who};
use graceful_run::sys::fd;
use std::io::Read;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::process::Command;

#[test]
fn a_reader_that_has_gone_costs_log_lines_and_nothing_else() {
    let scene = Scene::of(SERVER);
    let (reader, writer) = std::io::pipe().unwrap();
    let mut command = scene.command();
    command.args(quick(&["--"])).args(scene.puppet()).stderr(writer);
    let mut wrapper = scene.spawn(command);
    let address = address_in(&scene.log.wait("worker serving"));
    drop(reader);
    scene.log.wait("g1 s0 worker ready");
    for generation in 1..5 {
        wrapper.signal(Signal::SIGHUP);
        scene.log.wait(&format!("g{generation} s0 worker TERM"));
        assert!(who(&address).starts_with('g'));
    }
    wrapper.signal(Signal::SIGTERM);
    assert_eq!(wrapper.exit_status(), 0);
}

#[test]
fn a_filter_that_cannot_be_parsed_is_named_even_to_nobody() {
    let scene = Scene::of("exit 3");
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = scene.command();
    command.args(quick(&["--"])).args(scene.puppet()).env("RUST_LOG", "a=b=c").stderr(writer);
    assert_eq!(scene.spawn(command).exit_status(), 3);
    let mut command = scene.command();
    command.args(quick(&["--"])).args(scene.puppet()).env("RUST_LOG", "a=b=c");
    let mut wrapper = scene.spawn(command);
    assert_eq!(wrapper.exit_status(), 3);
    wrapper.log.wait("graceful-run: RUST_LOG is ignored");
}

#[test]
fn a_pipe_that_is_full_costs_log_lines_and_nothing_else() {
    let scene = Scene::of(SERVER);
    let (reader, mut writer) = std::io::pipe().unwrap();
    let flags = nix::fcntl::OFlag::O_NONBLOCK;
    // Full from the start; and blocking, as the pipes that one is given usually are.
    nix::fcntl::fcntl(&writer, nix::fcntl::FcntlArg::F_SETFL(flags)).unwrap();
    while std::io::Write::write(&mut writer, &[b'.'; 512]).is_ok() {}
    nix::fcntl::fcntl(&writer, nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::empty())).unwrap();
    let mut command = scene.command();
    command.args(quick(&["-v", "--"])).args(scene.puppet()).stderr(writer.try_clone().unwrap());
    let mut wrapper = scene.spawn(command);
    scene.log.wait("g1 s0 worker ready");
    for generation in 1..5 {
        wrapper.signal(Signal::SIGHUP);
        scene.log.wait(&format!("g{generation} s0 worker TERM"));
    }
    // The description is shared with whoever gave it to us: it has to stay as it was.
    let now = nix::fcntl::fcntl(&writer, nix::fcntl::FcntlArg::F_GETFL).unwrap();
    assert_eq!(now & flags.bits(), 0, "O_NONBLOCK was set on an inherited description");
    wrapper.signal(Signal::SIGTERM);
    assert_eq!(wrapper.exit_status(), 0);
    drop(reader);
}

#[test]
fn closed_standard_descriptors_are_no_trouble() {
    let scene = Scene::of("serve\ndump seen\nready notify\ncount-signals");
    let mut command = scene.mark(Command::new("/bin/sh"));
    command.args(["-c", "exec \"$@\" 0<&- 1>&- 2>&-", "sh"]).arg(common::binary());
    command.args(quick(&["--"])).args(scene.puppet());
    let mut wrapper = scene.spawn(command);
    scene.log.wait("worker ready");
    let seen = scene.dump("seen");
    for fd in ["0", "1", "2"] {
        assert_eq!(seen["fds"][fd]["target"], "/dev/null", "fd {fd}");
    }
    wrapper.signal(Signal::SIGHUP);
    scene.log.wait("g1 s0 worker TERM");
    wrapper.signal(Signal::SIGTERM);
    assert_eq!(wrapper.exit_status(), 0);
}

#[test]
fn what_others_say_is_escaped() {
    let scene = Scene::of("stderr fake\\e[2J\\rgraceful-run: generation 9: ready\nexit 3");
    scene.script("1", SERVER);
    let wrapper = scene.ready(&["-E", "A=b"]);
    wrapper.signal(Signal::SIGHUP);
    let line = wrapper.log.wait(&says::failed(2));
    assert!(line.chars().all(|c| !c.is_control()), "{line:?}");
    wrapper.stop();
}

#[test]
fn a_command_line_cannot_forge_a_log_line() {
    let scene = Scene::new();
    let command = "no\ngraceful-run: generation 9: ready\x1b[2J\u{9b}2J";
    let mut wrapper = scene.start_command(&quick(&[]), &[command]);
    assert_eq!(wrapper.exit_status(), 127);
    for line in wrapper.log.wait_end() {
        assert!(!line.starts_with("graceful-run: generation 9"), "{line:?}");
        assert!(line.chars().all(|c| !c.is_control()), "{line:?}");
    }
}

#[test]
fn json_lines_parse() {
    let scene = Scene::of(SERVER);
    scene.script("2", "exit 3");
    let mut wrapper = scene.start(&quick(&["--log-format", "json"]));
    scene.log.wait("g1 s0 worker ready");
    wrapper.log.wait("ready");
    wrapper.signal(Signal::SIGHUP);
    wrapper.log.wait("failed");
    wrapper.signal(Signal::SIGHUP);
    scene.log.wait("g1 s0 worker TERM");
    wrapper.signal(Signal::SIGTERM);
    assert_eq!(wrapper.exit_status(), 0);
    let lines = wrapper.log.wait_end();
    assert!(lines.len() > 4);
    for line in lines {
        let value: serde_json::Value = serde_json::from_str(&line).expect(&line);
        assert!(value.is_object(), "{line}");
    }
}

#[test]
fn quiet_is_quiet_and_verbose_says_more() {
    let lines = |flag: &[&str]| {
        let scene = Scene::of(SERVER);
        let mut wrapper = scene.start(&quick(flag));
        scene.log.wait("worker ready");
        wrapper.signal(Signal::SIGHUP);
        scene.log.wait("g1 s0 worker TERM");
        wrapper.signal(Signal::SIGTERM);
        assert_eq!(wrapper.exit_status(), 0);
        wrapper.log.wait_end().len()
    };
    let (quiet, normal, verbose) = (lines(&["-q"]), lines(&[]), lines(&["-v"]));
    assert!(quiet < normal, "{quiet} < {normal}");
    assert!(normal < verbose, "{normal} < {verbose}");
}

#[test]
fn the_workers_own_output_is_untouched() {
    let scene = Scene::of("stderr hello from the worker\nready notify");
    let wrapper = scene.start(&quick(&[]));
    wrapper.log.wait("hello from the worker");
    assert!(wrapper.log.all().contains(&"hello from the worker".to_owned()));
    wrapper.stop();
}

/// The lines of a service: a failed upgrade, then an end of which we tell the reason. `journal` makes
/// JOURNAL_STREAM of the device and the inode of stderr.
fn service(format: &str, journal: impl Fn((u64, u64)) -> String) -> Vec<String> {
    let scene = Scene::of(SERVER);
    scene.script("2", "exit 3");
    scene.script("1", "count-signals\nready notify\nstderr from the worker");
    let (mut reader, writer) = UnixStream::pair().unwrap();
    let stream = journal(fd::device_and_inode(writer.as_raw_fd()).unwrap());
    let mut command = scene.command();
    command.args(quick(&["-v", "--restart", "never", "--log-format", format, "--"])).args(scene.puppet());
    command.env("JOURNAL_STREAM", stream).stderr(std::os::fd::OwnedFd::from(writer));
    let mut wrapper = scene.spawn(command);
    scene.log.wait("g1 s0 worker ready");
    for (verb, status) in [(&["upgrade"][..], 1), (&["upgrade"], 0), (&["stop", "--now"], 0)] {
        let done = scene.mark(Command::new(common::binary())).arg("ctl").args(verb).output().unwrap();
        assert_eq!(done.status.code(), Some(status), "{done:?}");
    }
    assert_eq!(wrapper.exit_status(), 137);
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    text.lines().map(str::to_owned).collect()
}

#[test]
fn a_journal_is_told_the_priority_of_each_line() {
    let lines = service("text", |(device, inode)| format!("{device}:{inode}"));
    let has = |start: &str, words: &str| {
        let found = lines.iter().any(|line| line.starts_with(start) && line.contains(words));
        assert!(found, "no {start} {words}: {lines:#?}");
    };
    has("<6>graceful-run: generation 1: serving", "");
    has("<4>graceful-run: upgrade to generation 2 failed", "");
    has("<7>graceful-run: (", "asked to stop");
    has("<3>graceful-run: a worker was killed, as was asked for", "");
    has("from the worker", "");
    assert!(lines.iter().all(|line| line.starts_with('<') || line == "from the worker"), "{lines:#?}");

    // journald takes the priority away, and what is left is one object.
    for line in service("json", |(device, inode)| format!("{device}:{inode}")) {
        let json = line.get(3..).filter(|rest| rest.starts_with('{')).unwrap_or("{}");
        serde_json::from_str::<serde_json::Value>(json).expect(&line);
        assert!(line.starts_with('<') || line == "from the worker", "{line}");
    }
}

/// The variable is inherited by everything below a service; its own stderr may lead elsewhere.
#[test]
fn a_stderr_that_is_no_journal_gets_no_priorities() {
    for journal in [|(device, inode)| format!("{device}:{}", inode + 1), |_| String::from("8:x")] {
        let lines = service("text", journal);
        assert!(lines.len() > 4 && !lines.iter().any(|line| line.starts_with('<')), "{lines:#?}");
    }
}
