//! `--ack`: what makes a worker ready, and what does not.

mod common;

use common::{SERVER, Scene, Signal, Wrapper, quick, says, until};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// The first generation acks by `script`, and the log says that it was `kind`.
fn acks(ack: &str, script: &str, kind: &str) {
    let scene = Scene::of(script);
    let wrapper = scene.start(&quick(&["--ack", ack]));
    wrapper.log.wait(&says::ready_by(1, kind));
    wrapper.stop();
}

/// With `script` the first generation never becomes ready.
fn does_not_ack(ack: &str, script: &str) {
    let scene = Scene::of(script);
    let mut wrapper = scene.start(&quick(&["--ack", ack, "--ack-timeout", "400ms"]));
    assert_eq!(wrapper.exit_status(), 124, "{script}");
    assert!(!wrapper.log.has(&says::ready(1)));
}

#[test]
fn notify_by_the_worker() {
    acks("notify", "ready notify", "notify");
}

#[test]
fn notify_by_a_child_that_has_gone() {
    acks("notify", "ready-by-helper", "notify");
}

#[test]
fn notify_among_other_lines() {
    acks("notify", "send STATUS=up\\nREADY=1\\nX_OTHER=1", "notify");
}

#[test]
fn notify_after_what_is_no_message() {
    acks("notify", "send \nsend garbage\nsend =\nsend READY=0\nsend READY=1", "notify");
}

#[test]
fn notify_that_says_something_else() {
    does_not_ack("notify", "send READY=0\nsend READY=11\nsend STATUS=READY=1\nsend ready=1");
}

#[test]
fn notify_is_not_what_was_asked() {
    does_not_ack("fd", "send READY=1");
}

#[test]
fn a_line_on_the_fd() {
    acks("fd", "ready fd", "fd");
}

#[test]
fn a_line_on_the_fd_with_text_before_and_after() {
    acks("fd", "write-ready-fd listening\\n\nwrite-ready-fd more\\n", "fd");
}

#[test]
fn the_end_of_the_fd_without_a_line() {
    does_not_ack("fd", "write-ready-fd almost\nclose-ready-fd");
}

#[test]
fn the_fd_can_have_a_number() {
    let scene = Scene::of("dump seen\nready fd");
    let wrapper = scene.start(&quick(&["--ack", "fd:9"]));
    wrapper.log.wait(&says::ready_by(1, "fd"));
    let seen = scene.dump("seen");
    assert_eq!(seen["environment"]["READY_FD"], "9");
    assert!(seen["fds"]["9"]["target"].as_str().unwrap().starts_with("pipe:"));
    wrapper.stop();
}

#[test]
fn alive_for_a_time() {
    acks("timer:50ms", "hang", "timer");
}

#[test]
fn not_alive_for_that_time() {
    let scene = Scene::of("exit 4");
    let mut wrapper = scene.start(&quick(&["--ack", "timer:30s"]));
    assert_eq!(wrapper.exit_status(), 4);
}

#[test]
fn a_command_that_succeeds() {
    let scene = Scene::of("count-signals\nsay up\nhang");
    let flag = scene.path("flag");
    let ack = format!("exec:test -e {}", flag.display());
    let wrapper = scene.start(&quick(&["--ack", &ack]));
    scene.log.wait("worker up");
    assert!(!wrapper.log.has(&says::ready(1)));
    std::fs::write(&flag, "").unwrap();
    wrapper.log.wait(&says::ready_by(1, "exec"));
    wrapper.stop();
}

/// The first one hangs; those after it succeed.
#[test]
fn a_command_that_hangs_is_run_again() {
    let scene = Scene::of("count-signals\nhang");
    let ack = format!("exec:sh -c 'mkdir {} && sleep 1000 || true'", scene.path("tried").display());
    let wrapper = scene.start(&quick(&["--ack", &ack, "--ack-timeout", "8s"]));
    wrapper
        .log
        .wait("generation 1: pid *: its check has not ended after 4000 ms: it is killed, and run again");
    wrapper.log.wait(&says::ready_by(1, "exec"));
    wrapper.stop();
}

#[test]
fn a_command_that_never_succeeds() {
    does_not_ack("exec:false", "count-signals\nhang");
}

#[test]
fn a_command_has_the_workers_environment() {
    let scene = Scene::of("hang");
    let ack = "exec:sh -c 'test $GRACEFUL_RUN_GENERATION = 1 && test $COLOUR = blue'";
    let wrapper = scene.start(&quick(&["--ack", ack, "-E", "COLOUR=blue"]));
    wrapper.log.wait(&says::ready_by(1, "exec"));
    wrapper.stop();
}

#[test]
fn the_first_of_several_kinds_counts() {
    acks("notify,fd", "ready fd", "fd");
    acks("notify,fd", "ready notify", "notify");
    acks("notify,timer:50ms", "hang", "timer");
}

#[test]
fn a_second_ack_changes_nothing() {
    let scene = Scene::of("count-signals\nserve\nready notify\nready notify\nready notify");
    let wrapper = scene.ready(&["--ack", "notify,fd"]);
    wrapper.signal(Signal::SIGHUP);
    wrapper.log.wait(&says::exited(1, 0));
    wrapper.stop();
    assert_eq!(scene.log.count("worker TERM"), 2);
}

#[test]
fn a_strangers_ack_is_ignored() {
    let scene = Scene::of("dump seen\ncount-signals\nsay up\nhang");
    let mut wrapper = scene.start(&quick(&["--ack", "notify", "--ack-timeout", "2s"]));
    scene.log.wait("worker up");
    let seen = scene.dump("seen");
    let path = seen["environment"]["NOTIFY_SOCKET"].as_str().unwrap();
    let address = match path.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name).unwrap(),
        None => SocketAddr::from_pathname(path).unwrap(),
    };
    // This test is no descendant of the worker.
    UnixDatagram::unbound().unwrap().send_to_addr(b"READY=1", &address).unwrap();
    assert_eq!(wrapper.exit_status(), 124);
    assert!(!wrapper.log.has(&says::ready(1)));
}

#[test]
fn a_barrier_is_closed_after_what_came_before() {
    let scene = Scene::of("send READY=1\nbarrier\ncount-signals");
    let wrapper = scene.ready(&["--ack", "notify"]);
    scene.log.wait("worker barrier done");
    wrapper.stop();
}

#[test]
fn a_message_that_is_too_long_is_no_ack() {
    does_not_ack("notify", "send-long");
}

#[test]
fn descriptors_in_a_message_are_closed_but_for_one_that_is_stored() {
    let scene = Scene::of("count-signals\nready notify\nwait go\nsend-fds 300\nbarrier");
    let wrapper = scene.ready(&["--ack", "notify"]);
    let before = wrapper.fd_count();
    scene.release("go", 1);
    scene.log.wait("worker barrier done");
    // All of them are one file.
    until("descriptors are left", || wrapper.fd_count() <= before + 1);
    wrapper.stop();
}

#[test]
fn a_flood_from_the_old_generation_does_not_hold_up_the_new_one() {
    let scene = Scene::of(SERVER);
    scene.script("1", "count-signals\nserve\nready notify\nsay flooding\nflood 100000000");
    let wrapper = scene.ready(&["--ack", "notify"]);
    scene.log.wait("g1 s0 worker flooding");
    wrapper.signal(Signal::SIGHUP);
    wrapper.log.wait(&says::ready(2));
    wrapper.log.wait(&says::exited(1, 0));
    wrapper.stop();
}

#[test]
fn extend_timeout_extends_the_time_for_the_ack() {
    let scene = Scene::of("send EXTEND_TIMEOUT_USEC=50000000\nsay up\nwait ack\nready notify");
    let wrapper = scene.start(&quick(&["--ack", "notify,exec:false", "--ack-timeout", "4s"]));
    scene.log.wait("worker up");
    // A worker of another scene runs out of the same time meanwhile, begun later.
    does_not_ack("notify", "hang");
    scene.release("ack", 1);
    wrapper.log.wait(&says::ready_by(1, "notify"));
    wrapper.stop();
}

#[test]
fn auto_takes_any_explicit_ack() {
    acks("auto", "ready notify", "notify");
    acks("auto", "ready fd", "fd");
}

#[test]
fn auto_without_any_ack_takes_the_timer_and_says_so() {
    acks("auto", "hang", "timer");
}

/// What the log says as a program of that name, which gives no sign, is ready by a timer.
fn said_of(name: &str, args: &[&str]) -> String {
    let scene = Scene::of("hang");
    let puppet = scene.puppet();
    let program = scene.puppet_copy(name);
    let command = [&[program.to_string_lossy().into_owned()], &puppet[1..]].concat();
    let args = [&["--ack", "auto,timer:50ms"], args].concat();
    let wrapper = scene.start_command(&args, &command);
    let line = wrapper.log.wait(&says::ready_by(1, "timer"));
    wrapper.stop();
    line
}

#[test]
fn the_timer_says_what_may_be_wrong_with_the_listeners() {
    let bound = ["-b", "127.0.0.1:0"];
    let unicorn = [&bound[..], &["--export", "unicorn"]].concat();
    let other = [&bound[..], &["--export", "einhorn"]].concat();
    let exactly = "(does it listen on exactly the addresses of -b? does it use the sockets that it is given? see --export, or leave -b out if it binds its own)";
    let line = said_of("unicorn", &other);
    assert!(line.ends_with(" (unicorn takes its sockets by --export unicorn)"), "{line}");
    let none = [&other[..], &["--profile", "none"]].concat();
    for (name, options) in [("unicorn", &unicorn[..]), ("unicorn", &none), ("server", &bound)] {
        let line = said_of(name, options);
        assert!(line.ends_with(exactly), "{line}");
    }
    for without in [&["--adopt=never"][..], &["--follow", "USR2"]] {
        let line = said_of("unicorn", without);
        assert!(line.ends_with("the program gave no sign"), "{line}");
    }
}

#[test]
fn auto_expects_an_ack_once_one_was_given() {
    let scene = Scene::of("count-signals\nhang");
    scene.script("1", "count-signals\nready notify");
    let wrapper = scene.ready(&["--ack", "auto", "--ack-timeout", "4s"]);
    wrapper.signal(Signal::SIGHUP);
    wrapper.log.wait(&says::failed(2));
    assert!(!scene.log.has("g1 s0 worker TERM"));
    wrapper.stop();
}

const EPOLL: &str = "import select, signal, socket, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
s = socket.socket(fileno=3); e = select.epoll(); e.register(s.fileno(), select.EPOLLIN)
while True: e.poll()";
const POLL: &str = "import select, signal, socket, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
s = socket.socket(fileno=3); p = select.poll(); p.register(s.fileno(), select.POLLIN)
while True: p.poll()";
const ACCEPT: &str = "import signal, socket, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
s = socket.socket(fileno=3); s.setblocking(True)
while True: s.accept()";
const CHILD: &str = "import os, signal, socket, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
s = socket.socket(fileno=3); s.setblocking(True)
if os.fork() == 0:
    while True: s.accept()
os.wait()";
/// It was started, lives, and does not serve.
const LINGER: &str = "import signal, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
while True: signal.pause()";

fn python(scene: &Scene, args: &[&str], code: &str) -> Wrapper {
    scene.start_command(&quick(args), &["python3", "-c", code])
}

#[test]
fn accepting_is_seen_from_outside() {
    for (name, code) in [("epoll", EPOLL), ("poll", POLL), ("accept", ACCEPT), ("child", CHILD)] {
        // The timer of auto is 2 s, in which a busy machine may not have started python.
        for ack in ["accepting", "auto,timer:1m"] {
            let scene = Scene::new();
            let wrapper = python(&scene, &["--ack", ack, "--ack-timeout", "50s"], code);
            let line = wrapper.log.wait(&says::ready_by(1, ""));
            assert!(line.contains("(accepting"), "{name}, --ack {ack}: {line}");
            wrapper.stop();
        }
    }
}

#[test]
fn a_server_that_lingers_is_not_accepting() {
    let scene = Scene::new();
    let args = ["--ack", "accepting", "--ack-timeout", "1s"];
    assert_eq!(python(&scene, &args, LINGER).exit_status(), 124);
}

#[test]
fn every_listener_has_to_be_accepted_on() {
    let scene = Scene::new();
    let args = ["-b", "127.0.0.1:0", "--ack", "accepting", "--ack-timeout", "1s"];
    assert_eq!(python(&scene, &args, EPOLL).exit_status(), 124);
}

#[test]
fn auto_does_not_let_a_server_that_lingers_replace_one_that_accepts() {
    let scene = Scene::new();
    let program = scene.path("server.py");
    std::fs::write(&program, EPOLL).unwrap();
    let args = quick(&["--ack", "auto", "--ack-timeout", "4s", "--on-ack-timeout", "abort"]);
    let wrapper = scene.start_command(&args, &["python3", program.to_str().unwrap()]);
    wrapper.log.wait(&says::ready_by(1, "accepting"));
    std::fs::write(&program, LINGER).unwrap();
    wrapper.signal(Signal::SIGHUP);
    wrapper.log.wait(&says::failed(2));
    assert!(!wrapper.log.has(&says::exited(1, 0)));
    wrapper.stop();
}
