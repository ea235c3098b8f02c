//! Servers that look whether their port is free by connecting to it (`--adopt`): what answers is our own
//! socket, or the worker that serves. Then some exit, and some take another port.

mod common;

use common::{Scene, Signal, WATCHDOG, Wrapper, host, pid_in, says, until, who};
use nix::sys::signal::kill;
use nix::unistd::Pid;
use std::fs;
use std::io::Read;
use std::net::TcpStream;

/// It connects to its address. If somebody is there it does what the file
/// `how` says: it exits, or does so once it has an answer (`ask`), or takes any port. Then it says its pid
/// to everybody.
const SERVER: &str = r"
import os, signal, socket, sys
signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
ip, port = sys.argv[1].rsplit(':', 1)
how = open('how').read()
with socket.socket() as look:
    if look.connect_ex((ip, int(port))) == 0:
        if how == 'ask': look.recv(1)
        if how != 'move': sys.exit(f'port {port} is in use')
        port = '0'
one = socket.socket()
one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
one.bind((ip, int(port)))
one.listen(64)
while True:
    client, _ = one.accept()
    client.sendall(b'pid=%d\n' % os.getpid())
    client.close()
";

const ALL: [&str; 3] = ["move", "exit", "ask"];

struct Case {
    scene: Scene,
    address: String,
}

impl Case {
    fn new(how: &str) -> Case {
        let scene = Scene::new();
        fs::write(scene.path("server.py"), SERVER).unwrap();
        fs::write(scene.path("how"), how).unwrap();
        Case { scene, address: format!("{}:8000", host()) }
    }

    fn ready(&self, options: &[&str]) -> Wrapper {
        let command = ["python3", &self.scene.arg("server.py"), &self.address];
        let wrapper = self.scene.start_command(options, &command);
        wrapper.log.wait(&says::ready(1));
        wrapper
    }

    fn upgrade(&self) {
        let done = self.scene.ctl(&["upgrade"]);
        assert!(done.status.success(), "{done:?}");
    }
}

/// The connections that wait for it make its port look taken. None of them is lost.
#[test]
fn a_server_that_looks_whether_its_port_is_free_comes_back_after_a_crash() {
    for how in ALL {
        let case = Case::new(how);
        let wrapper = case.ready(&["--adopt"]);
        let mut first = pid_in(&who(&case.address));
        for crash in 1..3 {
            kill(Pid::from_raw(first), Signal::SIGSTOP).expect("it is ours");
            let stat = || fs::read_to_string(format!("/proc/{first}/stat")).expect("it lives");
            until("it accepts no more", || stat().contains(") T "));
            let mut clients: Vec<TcpStream> =
                (0..5).map(|_| TcpStream::connect(&case.address).expect("it listens")).collect();
            kill(Pid::from_raw(first), Signal::SIGKILL).expect("it is ours");
            wrapper.log.wait_nth(&says::ready_by(1, "listen"), crash + 1);
            for client in &mut clients {
                client.set_read_timeout(Some(WATCHDOG)).expect("a watchdog");
                let mut answer = String::new();
                client.read_to_string(&mut answer).expect("an answer");
                assert_ne!(pid_in(&answer), first, "{how}");
            }
            first = pid_in(&who(&case.address));
        }
        let said = format!("found {} taken, as connections wait there", case.address);
        assert_eq!(wrapper.log.count(&said), 1, "the next one is refused there at once ({how})");
        wrapper.stop();
    }
}

#[test]
fn a_server_that_looks_whether_its_port_is_free_can_be_stopped_first() {
    for how in ALL {
        let case = Case::new(how);
        let wrapper = case.ready(&["--adopt", "--stop-first"]);
        for generation in 2..4 {
            let before = pid_in(&who(&case.address));
            case.upgrade();
            assert_ne!(pid_in(&who(&case.address)), before, "{how}");
            assert!(!wrapper.log.has(&says::failed(generation)), "{how}");
        }
        wrapper.stop();
    }
}

/// Our own socket listens at its address before it starts.
#[test]
fn a_server_that_looks_whether_its_port_is_free_takes_the_socket_of_b() {
    for how in ALL {
        let case = Case::new(how);
        let wrapper = case.ready(&["--adopt=share", "-b", &case.address]);
        let first = pid_in(&who(&case.address));
        case.upgrade();
        // Both accept from it until the old one has ended, which loses what it has accepted.
        wrapper.log.wait(&says::exited(1, 0));
        assert_ne!(pid_in(&who(&case.address)), first, "{how}");
        wrapper.stop();
    }
}

/// It finds the one that serves.
#[test]
fn a_new_server_that_takes_another_port_is_started_again() {
    let case = Case::new("move");
    let wrapper = case.ready(&["--adopt"]);
    for _ in 0..2 {
        let before = pid_in(&who(&case.address));
        case.upgrade();
        assert_ne!(pid_in(&who(&case.address)), before);
    }
    let said = wrapper.log.wait("it is ended and started again");
    assert!(said.contains(&format!("it is to listen on {}, and listens on ", case.address)), "{said}");
    assert!(said.contains("(a port that the kernel has chosen)"), "{said}");
    assert_eq!(wrapper.log.count("it is ended and started again"), 1);
    wrapper.stop();
}

#[test]
fn a_new_server_that_finds_the_one_that_serves_and_exits_is_told_of() {
    let case = Case::new("exit");
    let wrapper = case.ready(&["--adopt", "--capture-stderr"]);
    let done = case.scene.ctl(&["upgrade"]);
    assert_eq!(done.status.code(), Some(1), "{done:?}");
    let why = String::from_utf8_lossy(&done.stderr);
    assert!(why.contains(&format!("it never bound {}: ", case.address)), "{why}");
    assert!(why.contains("or say --stop-first"), "{why}");
    wrapper.stop();
}
