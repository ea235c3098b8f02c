//! Servers that listen on unix sockets alone, which `--adopt` does not adopt: they serve all the same.

mod common;

use common::{Scene, Wrapper, says};
use std::fs;
use std::io::Read;
use std::os::unix::net::UnixStream;

/// It takes the path from whoever has it, as redis and memcached do, and says its pid to everybody.
const SERVER: &str = r"
import os, signal, socket, sys
signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
path = sys.argv[1]
if os.path.exists(path): os.remove(path)
one = socket.socket(socket.AF_UNIX)
one.bind(path)
one.listen(64)
while True:
    client, _ = one.accept()
    client.sendall(b'%d' % os.getpid())
    client.close()
";

struct Case {
    scene: Scene,
    wrapper: Wrapper,
}

impl Case {
    fn new(options: &[&str]) -> Case {
        let scene = Scene::new();
        fs::write(scene.path("server.py"), SERVER).unwrap();
        let (server, path) = (scene.arg("server.py"), scene.arg("s"));
        let wrapper = scene.start_command(&[&["--adopt"], options].concat(), &["python3", &server, &path]);
        Case { scene, wrapper }
    }

    fn who(&self) -> String {
        let mut answer = String::new();
        let mut client = UnixStream::connect(self.scene.path("s")).expect("it listens");
        client.read_to_string(&mut answer).expect("an answer");
        answer
    }
}

#[test]
fn a_server_on_a_unix_socket_alone_serves_and_is_told_of() {
    let case = Case::new(&[]);
    let said = case.wrapper.log.wait("listens on the unix socket ");
    assert!(said.contains("no upgrade can be graceful (-b unix:PATH"), "{said}");
    case.wrapper.log.wait(&says::ready_by(1, "listen"));
    let first = case.who();
    let done = case.scene.ctl(&["upgrade"]);
    let why = String::from_utf8_lossy(&done.stderr);
    assert_eq!(done.status.code(), Some(1), "{why}");
    assert!(why.contains("the new one would take the path from it (-b unix:PATH"), "{why}");
    assert!(!case.wrapper.log.has(&says::started(2)), "it would have taken the path");
    assert_eq!(case.who(), first);
    case.wrapper.stop();
}

#[test]
fn a_server_on_a_unix_socket_alone_can_be_stopped_first() {
    let case = Case::new(&["--stop-first"]);
    case.wrapper.log.wait(&says::ready_by(1, "listen"));
    let first = case.who();
    let done = case.scene.ctl(&["upgrade"]);
    assert!(done.status.success(), "{done:?}");
    assert_ne!(case.who(), first);
    assert_eq!(case.wrapper.log.count("no upgrade can be graceful"), 1, "it is known by now");
    case.wrapper.stop();
}
