//! `--adopt` where a sandbox forbids what it needs: it fails at once, or goes on and says what it lacks.

mod common;

use common::{DENY, Scene, Wrapper, binary, host, pid_in, says, who};
use std::fs;
use std::process::Command;

const SERVER: &str = r"
import os, socket, sys
one = socket.socket(); one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
one.bind((sys.argv[1], 8000)); one.listen(64)
while True:
    client, _ = one.accept(); client.sendall(b'pid=%d\n' % os.getpid()); client.close()
";

/// graceful-run in a sandbox that denies this.
fn start(scene: &Scene, denied: &str, host: &str) -> Wrapper {
    for (name, text) in [("deny.py", DENY), ("server.py", SERVER)] {
        fs::write(scene.path(name), text).unwrap();
    }
    let mut command = scene.mark(Command::new("python3"));
    command.arg(scene.path("deny.py")).arg(denied).arg(binary());
    command.args(["--adopt", "--idle", "1ms", "--"]);
    command.args(["python3", "server.py", host]);
    scene.spawn(command)
}

#[test]
fn without_pidfd_getfd_it_fails_before_the_first_start() {
    let scene = Scene::new();
    let mut wrapper = start(&scene, "getfd", &host());
    assert_eq!(wrapper.exit_status(), 125);
    let last = wrapper.last_line();
    assert!(last.contains("cannot adopt what workers bind: pidfd_getfd(2) on a child: "), "{last}");
    assert!(!wrapper.log.has(&says::started(1)), "nothing was started");
}

#[test]
fn without_sock_diag_a_drain_is_seen_and_a_warning_says_what_is_not() {
    let scene = Scene::new();
    let host = host();
    let wrapper = start(&scene, "netlink", &host);
    wrapper.log.wait(&says::ready(1));
    let first = pid_in(&who(&format!("{host}:8000")));
    let done = scene.ctl(&["upgrade"]);
    assert!(done.status.success(), "{done:?}");
    wrapper.log.wait("cannot tell idle connections from busy ones");
    wrapper.log.wait(&format!("generation 1: pid {first}: drained after"));
    assert_ne!(pid_in(&who(&format!("{host}:8000"))), first);
    wrapper.stop();
}
