//! What a service manager is told: every state, in order, by a mock of it.

mod common;

use common::{SERVER, Scene, Signal, WATCHDOG, Wrapper, quick, says};
use std::fs;
use std::io::ErrorKind;
use std::os::unix::net::UnixDatagram;
use std::process::{Command, Stdio};
use std::time::Duration;

/// The manager's end of NOTIFY_SOCKET.
struct Manager {
    socket: UnixDatagram,
    path: String,
}

/// One message.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Said(String);

impl Said {
    fn value(&self, key: &str) -> Option<&str> {
        self.0.lines().filter_map(|line| line.split_once('=')).find(|(name, _)| *name == key).map(|it| it.1)
    }

    fn number(&self, key: &str) -> u64 {
        self.value(key).and_then(|text| text.parse().ok()).unwrap_or_else(|| panic!("no {key}: {self:?}"))
    }

    fn status(&self) -> &str {
        self.value("STATUS").unwrap_or_default()
    }
}

impl Manager {
    fn new(scene: &Scene) -> Manager {
        let path = scene.arg("manager");
        let socket = UnixDatagram::bind(&path).expect("bound");
        socket.set_read_timeout(Some(WATCHDOG)).expect("a watchdog");
        Manager { socket, path }
    }

    /// A wrapper below it.
    fn start(&self, scene: &Scene, args: &[&str]) -> Wrapper {
        self.start_with(scene, args, |command| command)
    }

    fn start_with(
        &self,
        scene: &Scene,
        args: &[&str],
        configure: impl Fn(&mut Command) -> &mut Command,
    ) -> Wrapper {
        let mut command = scene.command();
        command.args(quick(args)).arg("--").args(scene.puppet()).env("NOTIFY_SOCKET", &self.path);
        configure(&mut command);
        scene.spawn(command)
    }

    /// The next message. More time is asked for wherever something takes long.
    fn next(&self) -> Said {
        loop {
            let said = self.any();
            if said.value("EXTEND_TIMEOUT_USEC").is_none() {
                return said;
            }
        }
    }

    fn any(&self) -> Said {
        let mut text = [0; 4096];
        let length = self.socket.recv(&mut text).expect("nothing more is said");
        let said = Said(std::str::from_utf8(&text[..length]).expect("UTF-8").to_owned());
        for never in ["MAINPID", "ERRNO", "FDSTORE"] {
            assert_eq!(said.value(never), None);
        }
        said
    }

    /// The next message with this key; only `also` may come before it.
    fn await_key(&self, key: &str, also: &[&str]) -> Said {
        loop {
            let said = self.next();
            if said.value(key).is_some() {
                return said;
            }
            assert!(also.iter().any(|key| said.value(key).is_some()), "{said:?} before {key}");
        }
    }

    fn ready(&self) -> Said {
        let said = self.await_key("READY", &["STATUS"]);
        assert_eq!(said.value("READY"), Some("1"));
        said
    }

    /// The time that it gives.
    fn reloading(&self) -> u64 {
        let said = self.await_key("RELOADING", &["STATUS"]);
        assert_eq!(said.value("RELOADING"), Some("1"));
        said.number("MONOTONIC_USEC")
    }

    /// Nothing has been said that was not asked for.
    fn is_silent(&self) -> bool {
        let mut text = [0; 20];
        self.socket.set_nonblocking(true).unwrap();
        let got = loop {
            match self.socket.recv(&mut text).map_err(|error| error.kind()) {
                Ok(20) if &text == b"EXTEND_TIMEOUT_USEC=" => {}
                got => break got,
            }
        };
        self.socket.set_nonblocking(false).unwrap();
        got == Err(ErrorKind::WouldBlock)
    }
}

#[test]
fn each_state_comes_in_its_order() {
    let scene = Scene::of(SERVER);
    scene.script("1", "count-signals\nsay up\nwait go\nready notify");
    scene.script("3", "exit 3");
    let manager = Manager::new(&scene);
    let mut wrapper = manager.start(&scene, &["--ack", "notify"]);
    scene.log.wait("g1 s0 worker up");
    assert!(manager.is_silent(), "it is not ready");
    scene.release("go", 1);
    assert_eq!(manager.ready().status(), "generation 1 serves");
    let mut before = 0;
    for status in ["generation 2 serves", "upgrade to generation 3 failed, generation 2 serves"] {
        wrapper.signal(Signal::SIGHUP);
        let now = manager.reloading();
        assert!(now >= before);
        before = now;
        assert_eq!(manager.ready().status(), status);
    }
    wrapper.signal(Signal::SIGTERM);
    assert_eq!(manager.next().value("STOPPING"), Some("1"));
    assert_eq!(wrapper.exit_status(), 0);
    assert!(manager.is_silent(), "that was the last word");
}

#[test]
fn reloading_is_said_at_once_and_a_stop_meanwhile_ends_it() {
    let scene = Scene::of(SERVER);
    scene.script("2", "count-signals\nsay up\nwait go\nready notify");
    let manager = Manager::new(&scene);
    let mut wrapper = manager.start(&scene, &["--ack", "notify"]);
    manager.ready();
    wrapper.signal(Signal::SIGHUP);
    assert!(manager.reloading() > 0);
    scene.log.wait("g2 s0 worker up");
    wrapper.signal(Signal::SIGTERM);
    assert_eq!(manager.next().value("STOPPING"), Some("1"));
    assert_eq!(wrapper.exit_status(), 0);
    assert!(manager.is_silent());
}

#[test]
fn every_request_that_was_kept_has_its_own_reload() {
    let scene = Scene::of(SERVER);
    scene.script("2", "count-signals\nsay up\nwait go\nready notify");
    let manager = Manager::new(&scene);
    let wrapper = manager.start(&scene, &["--ack", "notify"]);
    manager.ready();
    wrapper.signal(Signal::SIGHUP);
    let first = manager.reloading();
    scene.log.wait("g2 s0 worker up");
    wrapper.signal(Signal::SIGHUP);
    wrapper.log.wait("another follows it");
    scene.release("go", 1);
    assert_eq!(manager.ready().status(), "generation 2 serves");
    assert!(manager.reloading() >= first);
    assert_eq!(manager.ready().status(), "generation 3 serves");
    wrapper.stop();
}

#[test]
fn one_on_hold_is_no_reload_any_more() {
    let scene = Scene::of(SERVER);
    let manager = Manager::new(&scene);
    let wrapper = manager.start(&scene, &["--ack", "notify", "--on", "USR2=start-alongside"]);
    manager.ready();
    wrapper.signal(Signal::SIGUSR2);
    manager.reloading();
    assert_eq!(manager.ready().status(), "generation 1 serves, generation 2 is on hold beside it");
    wrapper.stop();
}

#[test]
fn reloading_is_said_before_the_hook_that_may_refuse_it() {
    let scene = Scene::of(SERVER);
    scene.gate("go");
    let hook = format!("pre-upgrade=echo asked >&2; read -r answer < {}; exit 3", scene.arg("go"));
    let manager = Manager::new(&scene);
    let wrapper = manager.start(&scene, &["--ack", "notify", "--hook", &hook]);
    manager.ready();
    wrapper.signal(Signal::SIGHUP);
    manager.reloading();
    wrapper.log.wait("asked");
    assert!(manager.is_silent(), "the hook has not answered");
    scene.release("go", 1);
    // The shell reads a line.
    fs::write(scene.path("go"), "\n").unwrap();
    assert_eq!(manager.ready().status(), "upgrade to generation 2 failed, generation 1 serves");
    wrapper.stop();
}

#[test]
fn an_upgrade_that_is_superseded_has_its_end_too() {
    let scene = Scene::of(SERVER);
    scene.script("2", "count-signals\nsay up\nhang");
    let manager = Manager::new(&scene);
    let wrapper = manager.start(&scene, &["--ack", "notify"]);
    manager.ready();
    wrapper.signal(Signal::SIGHUP);
    manager.reloading();
    scene.log.wait("g2 s0 worker up");
    let mut ctl = scene.command();
    let done = ctl.args(["ctl", "upgrade", "--now"]).output().unwrap();
    assert!(done.status.success(), "{done:?}");
    assert_eq!(manager.ready().status(), "upgrade to generation 2 was undone, generation 1 serves");
    manager.reloading();
    assert_eq!(manager.ready().status(), "generation 3 serves");
    wrapper.stop();
}

#[test]
fn a_first_worker_that_fails_is_never_ready() {
    let scene = Scene::of("exit 3");
    let manager = Manager::new(&scene);
    let mut wrapper = manager.start(&scene, &["--ack", "notify"]);
    assert_eq!(wrapper.exit_status(), 3);
    assert_eq!(manager.next().value("STOPPING"), Some("1"));
    assert!(manager.is_silent());
}

#[test]
fn what_a_worker_says_of_itself_is_passed_on_in_one_line() {
    let scene = Scene::of(SERVER);
    scene.script(
        "1",
        "count-signals\nsend STATUS=warm\nready notify\nwait go\nsend STATUS=a\x1bb\\nSTOPPING=1",
    );
    let manager = Manager::new(&scene);
    let mut wrapper = manager.start(&scene, &["--ack", "notify"]);
    // What was said before the ack may be told together with it.
    while manager.next().status() != "generation 1 serves: warm" {}
    scene.release("go", 1);
    let said = manager.next();
    assert_eq!((said.status(), said.value("STOPPING")), ("generation 1 serves: a\\u{1b}b", None));
    assert_eq!(scene.status()["workers"][0]["status"], "a\\u{1b}b");
    wrapper.signal(Signal::SIGTERM);
    assert_eq!(manager.next().value("STOPPING"), Some("1"));
    assert_eq!(wrapper.exit_status(), 0);
}

#[test]
fn more_time_is_asked_for_where_a_start_or_a_stop_takes_long() {
    let scene = Scene::of(SERVER);
    scene.script("1", "say up\nwait go\nready notify\ngate-term end");
    scene.gate("end");
    let manager = Manager::new(&scene);
    let mut wrapper = manager.start(&scene, &["--ack", "notify"]);
    let asked = |said: Said| (1_000_000..=25_000_000).contains(&said.number("EXTEND_TIMEOUT_USEC"));
    assert!(asked(manager.any()), "the start takes long");
    scene.release("go", 1);
    manager.ready();
    // From the next word on TERM is the puppet's own.
    wrapper.log.wait(&says::ready(1));
    wrapper.signal(Signal::SIGTERM);
    assert_eq!(manager.next().value("STOPPING"), Some("1"));
    assert!(asked(manager.any()), "the stop takes long");
    scene.release("end", 1);
    assert_eq!(wrapper.exit_status(), 0);
}

/// Whatever else happens, a loop that turns says so, and one that does not is silent.
#[test]
fn pings_tell_that_the_loop_turns() {
    let scene = Scene::of(SERVER);
    scene.script("1", "count-signals\nready notify\nsay flooding\nflood 100000000");
    let manager = Manager::new(&scene);
    let mut wrapper = manager.start_with(&scene, &["--ack", "notify", "-vv"], |command| {
        // Nobody reads the log, which is soon full.
        command.stderr(Stdio::null()).env("WATCHDOG_USEC", "400000")
    });
    let ping = || manager.await_key("WATCHDOG", &["READY", "RELOADING", "STATUS"]);
    ping();
    scene.log.wait("g1 s0 worker flooding");
    for _ in 0..5 {
        assert_eq!(ping().value("WATCHDOG"), Some("1"));
    }
    wrapper.signal(Signal::SIGSTOP);
    common::until("it does not stop", || wrapper.state() == 'T');
    while !manager.is_silent() {}
    manager.socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    assert!(manager.socket.recv(&mut [0; 64]).is_err(), "a ping of one that is stopped");
    manager.socket.set_read_timeout(Some(WATCHDOG)).unwrap();
    wrapper.signal(Signal::SIGCONT);
    ping();
    wrapper.signal(Signal::SIGTERM);
    assert_eq!(wrapper.exit_status(), 0);
}

#[test]
fn pings_are_not_for_another_process() {
    let scene = Scene::of(SERVER);
    let manager = Manager::new(&scene);
    let wrapper = manager.start_with(&scene, &["--ack", "notify"], |command| {
        command.env("WATCHDOG_USEC", "2000").env("WATCHDOG_PID", "1")
    });
    assert_eq!(manager.next().status(), "generation 1 serves");
    wrapper.signal(Signal::SIGHUP);
    assert_eq!(manager.next().value("RELOADING"), Some("1"));
    assert_eq!(manager.next().value("READY"), Some("1"));
    wrapper.stop();
}
