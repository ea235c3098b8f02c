//! Sockets that reach us through LISTEN_FDS: ours, somebody else's, or none at all.

mod common;

use common::{Scene, Wrapper, quick, says};
use std::process::Command;

/// `prepare` is Python that leaves a descriptor at 3 and sets the environment.
fn launch(scene: &Scene, prepare: &str, args: &[&str]) -> Wrapper {
    let code = format!(
        "import os, socket, sys
def put(fd, at=3):
    os.dup2(fd, at) if fd != at else None
    os.set_inheritable(at, True)
def listening():
    s = socket.socket(); s.bind(('127.0.0.1', 0)); s.listen(9)
    return os.dup(s.detach())
def say(count, pid=None, names=None):
    os.environ['LISTEN_FDS'] = str(count)
    os.environ['LISTEN_PID'] = str(os.getpid() if pid is None else pid)
    if names: os.environ['LISTEN_FDNAMES'] = names
{prepare}
os.execv(sys.argv[1], sys.argv[1:])"
    );
    let mut command = scene.mark(Command::new("python3"));
    command.args(["-c", &code]).arg(common::binary()).args(args).arg("--").args(scene.puppet());
    scene.spawn(command)
}

const SHOW: &str = "dump seen\nserve\nready notify";

#[test]
fn our_own_sockets_need_no_bind() {
    let scene = Scene::of(SHOW);
    let wrapper = launch(&scene, "put(listening()); say(1)", &["--soak", "1ms"]);
    wrapper.log.wait(&says::ready(1));
    let seen = scene.dump("seen");
    assert_eq!(seen["environment"]["LISTEN_FDS"], "1");
    assert_eq!(seen["environment"]["LISTEN_PID"], seen["pid"].to_string());
    let address = common::address_in(&scene.log.wait("worker serving"));
    assert!(common::who(&address).starts_with("g1 "));
    wrapper.stop();
}

#[test]
fn the_sockets_of_another_process_are_not_ours() {
    for (pid, count) in [("1", 1), ("99999999", 2), ("", 1), ("garbage", 1), ("-1", 1)] {
        let scene = Scene::of(SHOW);
        let prepare = format!("put(listening()); say({count}, {pid:?}, 'stranger')");
        let wrapper = launch(&scene, &prepare, &quick(&["--ack", "notify"]));
        wrapper.log.wait(&says::ready(1));
        let seen = scene.dump("seen");
        assert_eq!(seen["environment"]["LISTEN_FDS"], "1", "LISTEN_PID={pid}");
        assert_eq!(seen["environment"]["LISTEN_FDNAMES"], "socket0", "LISTEN_PID={pid}");
        wrapper.stop();
    }
}

#[test]
fn what_is_no_listener_is_named_and_ends_us() {
    for prepare in [
        "say(1)\nos.closerange(3, 64)",
        "r, w = os.pipe(); r = os.dup(r); put(r); say(1)",
        "put(os.open('/dev/null', os.O_RDONLY)); say(1)",
        "put(listening()); say(2)\nos.closerange(4, 64)",
    ] {
        let scene = Scene::of("say started");
        let mut wrapper = launch(&scene, prepare, &[]);
        assert_eq!(wrapper.exit_status(), 125, "{prepare}: {:?}", wrapper.log.all());
        let last = wrapper.last_line();
        let fd = if prepare.contains("say(2)") { '4' } else { '3' };
        assert!(last.starts_with("graceful-run: ") && last.contains(fd), "{prepare}: {last}");
        assert!(!scene.log.has("started"));
    }
}

/// What we open ourselves must not be taken for what was given to us.
#[test]
fn a_closed_descriptor_that_is_asked_for_is_named() {
    let given = "put(listening(), 9)\nos.closerange(3, 9)";
    for (args, fd) in [
        (&["-b", "fd://9", "-b", "fd://3"][..], '3'),
        (&["-b", "fd://9", "-b", "fd://4"], '4'),
        (&["-b", "fd://9", "--pass-fd", "4"], '4'),
        (&["-b", "fd://9", "--pass-fd", "5"], '5'),
    ] {
        let scene = Scene::of("say started");
        let mut wrapper = launch(&scene, given, args);
        assert_eq!(wrapper.exit_status(), 125, "{args:?}: {:?}", wrapper.log.all());
        let last = wrapper.last_line();
        assert!(last.starts_with("graceful-run: ") && last.contains(fd), "{args:?}: {last}");
        assert!(!scene.log.has("started"));
    }
}
