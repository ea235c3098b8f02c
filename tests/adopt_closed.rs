//! Listeners that do not stay as they were (`--adopt`): closed, opened again, handed to somebody else,
//! or held while a worker stops. What a server has closed is neither listened on nor asked of the next one.

mod common;

use common::{Scene, WATCHDOG, Wrapper, host, pid_in, says, until, who};
use std::fs;
use std::io::{ErrorKind, Read};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::process::Command;

/// It listens on each address in the file `addresses`, or on those that it is given, says its pid to
/// everybody, and does what is in the file `do`: `open A`, `close A`, `shut A` (by shutdown(2), without
/// close(2)), `hand A PATH` (to whom listens at the path). `udp:` before an address is UDP. When it is asked to stop it does what the file `stop`
/// says to its listeners (close, shutdown), and waits for the file `gate`. With a file `broken` it says
/// READY=1, waits for nobody, and exits at the file `fail`.
const SERVER: &str = r"
import os, select, signal, socket, sys, time
def wait(name):
    while not os.path.exists(name): time.sleep(0.002)
def read(name):
    try: return open(name).read().split()
    except OSError: return []
held, kept = {}, []
def bound(word):
    udp = word.startswith('udp:')
    ip, port = word.removeprefix('udp:').rsplit(':', 1)
    one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM if udp else socket.SOCK_STREAM)
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    one.bind((ip, int(port)))
    if not udp: one.listen(64)
    one.setblocking(False)
    held[word] = one
def done(what, word, *more):
    if what == 'open': return bound(word)
    one = held.pop(word)
    if what == 'shut':
        kept.append(one)
        return one.shutdown(socket.SHUT_RD)
    if what == 'hand':
        with socket.socket(socket.AF_UNIX) as to:
            to.connect(more[0])
            socket.send_fds(to, [b'x'], [one.fileno()])
    one.close()
def stop(*_):
    how = read('stop')
    for one in held.values() if how else []:
        one.shutdown(socket.SHUT_RD) if how == ['shutdown'] else one.close()
    if how:
        print('has let go', file=sys.stderr, flush=True)
        wait('gate')
    os._exit(0)
signal.signal(signal.SIGTERM, stop)
words = read('addresses') or sys.argv[1:]
if os.path.exists('broken'):
    one = socket.socket(); one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    ip, port = words[0].rsplit(':', 1); one.bind((ip, int(port))); one.listen(64)
    socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(b'READY=1', os.environ['NOTIFY_SOCKET'])
    wait('fail'); os._exit(3)
for word in words: bound(word)
while True:
    streams = [one for word, one in held.items() if not word.startswith('udp:')]
    for one in select.select(streams, [], [], 0.01)[0]:
        try: client, _ = one.accept()
        except BlockingIOError: continue
        client.sendall(b'pid=%d\n' % os.getpid())
        client.close()
    if os.path.exists('do'):
        done(*read('do'))
        os.remove('do')
";

/// It gets a listener at a path, and serves it.
const HOLDER: &str = r"
import os, socket, sys
with socket.socket(socket.AF_UNIX) as at:
    at.bind(sys.argv[1] + '.new'); at.listen(1)
    os.rename(sys.argv[1] + '.new', sys.argv[1])
    come, _ = at.accept()
    [number] = socket.recv_fds(come, 1, 1)[1]
one = socket.socket(fileno=number)
one.setblocking(True)
while True:
    client, _ = one.accept()
    client.sendall(b'pid=%d\n' % os.getpid())
    client.close()
";

struct Case {
    scene: Scene,
    /// The first address, and another one.
    address: String,
    other: String,
}

impl Case {
    fn new() -> Case {
        let scene = Scene::new();
        fs::write(scene.path("server.py"), SERVER).unwrap();
        let host = host();
        Case { scene, address: format!("{host}:8000"), other: format!("{host}:8001") }
    }

    fn start(&self, options: &[&str], addresses: &[&str]) -> Wrapper {
        let server = self.scene.arg("server.py");
        let command = ["python3", &server].into_iter().chain(addresses.iter().copied());
        self.scene.start_command(&[&["--adopt"], options].concat(), &command.collect::<Vec<_>>())
    }

    fn ready(&self, options: &[&str], addresses: &[&str]) -> Wrapper {
        let wrapper = self.start(options, addresses);
        wrapper.log.wait(&says::ready(1));
        wrapper
    }

    /// Has the server do something.
    fn ask(&self, what: &str) {
        self.write("asked", what);
        fs::rename(self.scene.path("asked"), self.scene.path("do")).expect("it is ours");
        until("it is done", || !self.scene.path("do").exists());
    }

    fn upgrade(&self) {
        let done = self.scene.ctl(&["upgrade"]);
        assert!(done.status.success(), "{done:?}");
    }

    fn refused_upgrade(&self) -> String {
        let done = self.scene.ctl(&["upgrade"]);
        assert_eq!(done.status.code(), Some(1), "{done:?}");
        String::from_utf8_lossy(&done.stderr).into_owned()
    }

    fn addresses(&self) -> Vec<String> {
        let status = self.scene.status();
        let addresses = status["adopt"]["addresses"].as_array().expect("addresses").iter();
        addresses.map(|one| one["address"].as_str().expect("text").to_owned()).collect()
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.scene.path(name), text).unwrap();
    }
}

fn is_refused(address: &str) -> bool {
    TcpStream::connect(address).is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
}

#[test]
fn a_port_that_is_opened_later_is_refused_at_once_when_it_is_closed() {
    let case = Case::new();
    let wrapper = case.ready(&[], &[&case.address]);
    for _ in 0..3 {
        case.ask(&format!("open {}", case.other));
        assert_eq!(who(&case.other), who(&case.address));
        case.ask(&format!("close {}", case.other));
        assert!(is_refused(&case.other), "nobody has it any more");
    }
    case.upgrade();
    assert_eq!(case.addresses(), [case.address.as_str()]);
    wrapper.stop();
}

/// While it is open, the next generation need not have it either: it was opened for one client.
#[test]
fn a_port_that_is_open_for_one_client_holds_up_no_upgrade() {
    let case = Case::new();
    let wrapper = case.ready(&["--idle", "100ms"], &[&case.address]);
    case.ask(&format!("open {}", case.other));
    let old = who(&case.address);
    let held = TcpStream::connect(&case.other).expect("it is open");
    case.upgrade();
    assert_ne!(who(&case.address), old);
    drop(held);
    wrapper.log.wait(&says::exited(1, 0));
    until("it has gone with its worker", || is_refused(&case.other));
    wrapper.stop();
}

#[test]
fn an_address_that_was_closed_is_not_asked_of_the_next_worker() {
    let case = Case::new();
    let udp = format!("udp:{}", case.other);
    let wrapper = case.ready(&[], &[&case.address, &case.other, &udp]);
    until("all are adopted", || case.addresses().len() == 3);
    case.ask(&format!("close {}", case.other));
    case.ask(&format!("close {udp}"));
    case.write("addresses", &case.address);
    case.upgrade();
    assert_eq!(case.addresses(), [case.address.as_str()]);
    assert!(is_refused(&case.other));
    assert!(UdpSocket::bind(&case.other).is_ok(), "it is free");
    wrapper.stop();
}

#[test]
fn an_address_that_was_closed_is_refused_before_the_next_upgrade() {
    let case = Case::new();
    let wrapper = case.ready(&[], &[&case.address, &case.other]);
    case.ask(&format!("close {}", case.other));
    wrapper.log.wait(&format!("worker pid * has closed {}", case.other));
    until("it is refused", || is_refused(&case.other));
    wrapper.stop();
}

/// Its worker has it open, but nobody can connect.
#[test]
fn an_address_that_was_shut_down_is_not_asked_of_the_next_worker() {
    let case = Case::new();
    let wrapper = case.ready(&[], &[&case.address, &case.other]);
    until("both are adopted", || case.addresses().len() == 2);
    case.ask(&format!("shut {}", case.other));
    until("it is refused", || is_refused(&case.other));
    case.write("addresses", &case.address);
    case.upgrade();
    until("the old worker has gone", || case.addresses() == [case.address.as_str()]);
    wrapper.stop();
}

#[test]
fn an_address_that_was_opened_again_counts_again() {
    let case = Case::new();
    let wrapper = case.ready(&["--ack-timeout", "5s"], &[&case.address, &case.other]);
    case.ask(&format!("close {}", case.other));
    wrapper.log.wait(&format!("worker pid * has closed {}", case.other));
    case.ask(&format!("open {}", case.other));
    let first = pid_in(&who(&case.other));
    case.write("addresses", &case.address);
    let why = case.refused_upgrade();
    assert!(why.contains(&format!("it is to listen on {}", case.other)), "{why}");
    fs::remove_file(case.scene.path("addresses")).expect("it is there");
    case.upgrade();
    assert_ne!(pid_in(&who(&case.other)), first);
    wrapper.stop();
}

/// A server that hands its listener to a process that is not below us, and closes its own.
#[test]
fn a_socket_that_somebody_else_holds_is_never_shut_down() {
    let case = Case::new();
    let wrapper = case.ready(&[], &[&case.address, &case.other]);
    let path = case.scene.path("to");
    let mut holder = case.scene.mark(Command::new("python3"));
    let mut holder = holder.args(["-c", HOLDER]).arg(&path).spawn().expect("python3");
    let holder_pid = holder.id() as i32;
    until("it waits for the socket", || path.exists());
    case.ask(&format!("hand {} {}", case.other, path.display()));
    wrapper.log.wait(&format!("worker pid * has closed {}", case.other));
    let is_theirs = || assert_eq!(pid_in(&who(&case.other)), holder_pid);
    is_theirs();
    case.write("addresses", &case.address);
    case.upgrade();
    wrapper.log.wait(&says::exited(1, 0));
    is_theirs();
    assert_eq!(case.addresses().first(), Some(&case.address));
    wrapper.stop();
    is_theirs();
    holder.kill().expect("it is ours");
    holder.wait().expect("it ends");
}

#[test]
fn an_address_is_held_while_its_worker_stops() {
    for how in ["close", "shutdown"] {
        let case = Case::new();
        let wrapper = case.ready(&["--stop-first"], &[&case.address]);
        let first = pid_in(&who(&case.address));
        case.write("stop", how);
        let upgrade = case.scene.ctl_started(&["upgrade"]);
        wrapper.log.wait("has let go");
        // What was shut down listens again a moment later; what was closed has never stopped.
        if how == "shutdown" {
            until("it is held", || TcpStream::connect(&case.address).is_ok());
        }
        let clients: Vec<TcpStream> = (0..5)
            .map(|_| {
                let client = TcpStream::connect(&case.address).expect("nobody is refused");
                client.set_read_timeout(Some(WATCHDOG)).expect("a watchdog");
                // The one before has been noticed by now.
                case.scene.status();
                client
            })
            .collect();
        case.write("gate", "");
        for mut client in clients {
            let mut answer = String::new();
            client.read_to_string(&mut answer).expect("an answer");
            assert_ne!(pid_in(&answer), first, "{how}");
        }
        assert!(upgrade.wait_with_output().expect("ctl ends").status.success());
        wrapper.stop();
    }
}

#[test]
fn an_address_that_somebody_else_has_is_named() {
    let case = Case::new();
    let taken = TcpListener::bind(&case.address).expect("bind");
    let mut wrapper = case.start(&[], &[&case.address]);
    assert_eq!(wrapper.exit_status(), 1);
    let last = wrapper.last_line();
    let said = format!("it cannot listen on {}, where somebody else does", case.address);
    assert!(last.contains(&said), "{last}");
    drop(taken);
}

/// A load balancer has to hear of it before.
#[test]
fn the_pre_stop_hook_comes_before_the_drain() {
    let case = Case::new();
    let hook = "pre-stop=echo told >&2; until test -e go; do sleep 0.01; done";
    let wrapper = case.ready(&["--idle", "1ms", "--hook", hook], &[&case.address]);
    let first = pid_in(&who(&case.address));
    case.upgrade();
    wrapper.log.wait("told");
    assert!(!wrapper.log.has("generation 1: pid * drained"), "the hook has not ended");
    case.write("go", "");
    wrapper.log.wait(&format!("generation 1: pid {first}: drained after"));
    wrapper.log.wait(&says::exited(1, 0));
    assert_eq!(wrapper.log.count("told"), 1);
    wrapper.stop();
}

/// gunicorn says that it is ready before it has imported the application.
#[test]
fn a_ready_message_before_anybody_waits_for_connections_is_not_believed() {
    let case = Case::new();
    let wrapper = case.ready(&[], &[&case.address]);
    let first = pid_in(&who(&case.address));
    case.write("broken", "");
    let upgrade = case.scene.ctl_started(&["upgrade"]);
    wrapper.log.wait(&says::started(2));
    until("it listens", || {
        let status = case.scene.status();
        status["adopt"]["addresses"][0]["others"] == 1
    });
    assert_eq!(pid_in(&who(&case.address)), first);
    case.write("fail", "");
    assert_eq!(upgrade.wait_with_output().expect("ctl ends").status.code(), Some(1));
    wrapper.log.wait(&says::failed(2));
    assert_eq!(pid_in(&who(&case.address)), first);
    wrapper.stop();
}

/// From the file `go` on it closes its listener and listens anew, again and again. Then it serves.
const LISTENS_ANEW: &str = r"
import os, socket, sys, time
def listener():
    one = socket.socket()
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    ip, port = sys.argv[1].rsplit(':', 1)
    one.bind((ip, int(port)))
    one.listen(64)
    return one
one = listener()
while not os.path.exists('go'): time.sleep(0.002)
for _ in range(50):
    one.close()
    one = listener()
while True:
    client, _ = one.accept()
    client.sendall(b'pid=%d\n' % os.getpid())
    client.close()
";

#[test]
fn a_server_that_listens_anew_all_the_time_loses_no_connection_that_waits() {
    let case = Case::new();
    case.write("server.py", LISTENS_ANEW);
    let wrapper = case.ready(&[], &[&case.address]);
    let before = wrapper.fd_count();
    let mut waits = TcpStream::connect(&case.address).expect("connect");
    waits.set_read_timeout(Some(WATCHDOG)).expect("a watchdog");
    case.write("go", "");
    let mut answer = String::new();
    waits.read_to_string(&mut answer).expect("an answer");
    assert_eq!(pid_in(&answer), pid_in(&who(&case.address)));
    let adopted = case.scene.status()["adopt"]["addresses"][0].clone();
    assert_eq!((&adopted["sockets"], &adopted["others"]), (&1.into(), &0.into()), "{adopted}");
    // The connection of ctl may not have ended yet.
    until("no copy is left", || wrapper.fd_count() <= before);
    wrapper.stop();
}
