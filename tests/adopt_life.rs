//! What becomes of a worker that binds its own sockets (`--adopt`), and of its sockets: crashes,
//! strangers, other instances, replacements of ourselves, sockets that are shared. What real
//! servers lose by it is in `tests/adopt`.

mod common;

use common::{Scene, Signal, WATCHDOG, Wrapper, am_root, binary, host, pid_in, says, until, who};
use nix::sys::signal::kill;
use nix::sys::socket::{SockaddrIn, setsockopt, sockopt};
use nix::unistd::Pid;
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;

/// It listens on each address that it is given, and tells everybody its pid. `udp:` before one is
/// UDP, `twice:` two sockets with SO_REUSEPORT, each in a process of its own, `late:` one that
/// accepts no connection before it has a request (TCP_DEFER_ACCEPT), `polled:` and `udp-polled:` one
/// that is in an epoll set before it is bound. It prefers multipath TCP. It waits for
/// the file `gate` before it binds, if there is a file `closed`, holds requests while there is a
/// file `hold`, and begins no accept(2) while there is a file `busy`.
const SERVER: &str = r"
import os, select, signal, socket, sys, threading, time
def wait(name, there):
    while os.path.exists(name) != there: time.sleep(0.002)
if os.path.exists('closed'): wait('gate', True)
def serve(listener):
    while True:
        wait('busy', False)
        waited(listener)
        client, _ = listener.accept()
        def answer(client=client):
            wait('hold', False)
            # What is not read would make a reset of the end.
            try: client.recv(100, socket.MSG_DONTWAIT)
            except BlockingIOError: pass
            client.sendall(b'pid=%d\n' % os.getpid())
            client.close()
        threading.Thread(target=answer, daemon=True).start()
sets = {}
def waited(one):
    if one in sets: sets[one].poll()
def bound(kind, word, reuse=False, late=False, polled=False):
    host, port = word.rsplit(':', 1)
    try: one = socket.socket(socket.AF_INET, kind, 262 if kind == socket.SOCK_STREAM else 0)
    except OSError: one = socket.socket(socket.AF_INET, kind)
    if polled:
        sets[one] = select.epoll()
        sets[one].register(one, select.EPOLLIN)
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if reuse: one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    if late: one.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 30)
    one.bind((host, int(port)))
    if kind == socket.SOCK_STREAM: one.listen(64)
    return one
def echo(one):
    while True:
        waited(one)
        one.sendto(b'pid=%d\n' % os.getpid(), one.recvfrom(100)[1])
for word in sys.argv[1:]:
    kind, _, address = word.rpartition('//')
    if kind == 'twice:':
        for _ in range(2):
            if os.fork() == 0: serve(bound(socket.SOCK_STREAM, address, True))
    else:
        udp = kind.startswith('udp')
        polled = kind.endswith('polled:')
        one = bound(socket.SOCK_DGRAM if udp else socket.SOCK_STREAM, address, False, kind == 'late:', polled)
        threading.Thread(target=echo if udp else serve, args=(one,), daemon=True).start()
while True: signal.pause()
";

struct Case {
    scene: Scene,
    address: String,
}

impl Case {
    fn new() -> Case {
        let scene = Scene::new();
        fs::write(scene.path("server.py"), SERVER).unwrap();
        Case { scene, address: format!("{}:8000", host()) }
    }

    /// Starts it at these addresses, `+` standing for that of the case.
    fn start(&self, options: &[&str], addresses: &[&str]) -> Wrapper {
        let addresses = addresses.iter().map(|word| word.replace('+', &self.address));
        let command = ["python3".to_owned(), self.scene.arg("server.py")].into_iter().chain(addresses);
        self.scene.start_command(options, &command.collect::<Vec<_>>())
    }

    fn ready(&self, options: &[&str], addresses: &[&str]) -> Wrapper {
        let wrapper = self.start(options, addresses);
        wrapper.log.wait(&says::ready(1));
        wrapper
    }

    /// Who answers.
    fn serving(&self) -> i32 {
        pid_in(&who(&self.address))
    }

    /// The one adopted address, in `ctl status`.
    fn adopted(&self) -> serde_json::Value {
        let status = self.scene.status();
        let addresses = status["adopt"]["addresses"].as_array().expect("addresses");
        assert_eq!(addresses.len(), 1, "{status}");
        addresses[0].clone()
    }

    fn connect(&self) -> TcpStream {
        let client = TcpStream::connect(&self.address).expect("connect");
        client.set_read_timeout(Some(WATCHDOG)).expect("a watchdog");
        client
    }

    /// Waits until it is seen that the old worker is not done with one connection.
    fn await_held_up(&self) {
        until("it is seen what keeps the old one", || {
            let oldest = self.scene.status()["workers"][0].clone();
            assert_eq!(oldest["generation"], 1, "it has gone, as if nothing kept it");
            oldest["drain"].as_str().is_some_and(|left| left.starts_with("1 connection busy"))
        });
    }

    fn write(&self, name: &str) {
        fs::write(self.scene.path(name), "").unwrap();
    }

    fn remove(&self, name: &str) {
        fs::remove_file(self.scene.path(name)).unwrap();
    }
}

/// Who answers on this connection.
fn answer(mut client: TcpStream) -> i32 {
    let mut answer = String::new();
    client.read_to_string(&mut answer).expect("an answer");
    pid_in(&answer)
}

fn upgrade(case: &Case, to: u32) {
    let done = case.scene.ctl(&["upgrade"]);
    assert!(done.status.success(), "{done:?}");
    assert_eq!(case.adopted()["generation"], to);
}

#[test]
fn an_upgrade_steers_and_drains() {
    let case = Case::new();
    let wrapper = case.ready(&["--adopt", "--idle", "100ms"], &["+"]);
    let first = case.serving();
    let adopted = case.adopted();
    assert_eq!((&adopted["address"], &adopted["sockets"]), (&case.address.as_str().into(), &1.into()));
    assert_eq!(case.scene.status()["adopt"]["mode"], "steer");
    case.write("hold");
    let mut held = case.connect();
    held.write_all(b"x").expect("it asks for something");
    upgrade(&case, 2);
    wrapper.log.wait("generation 2: serves after * generation 1: drains");
    case.await_held_up();
    case.remove("hold");
    assert_eq!(answer(held), first, "it serves what it has accepted");
    wrapper.log.wait(&format!("generation 1: pid {first}: drained after"));
    wrapper.log.wait(&says::killed(1, libc_term()));
    assert_ne!(case.serving(), first);
    wrapper.stop();
}

/// A worker that is slow to accept has connections in its queue and holds none.
#[test]
fn what_waits_at_an_old_worker_is_answered_by_it() {
    let case = Case::new();
    let wrapper = case.ready(&["--adopt"], &["+"]);
    case.write("busy");
    // It was in accept(2) already.
    let first = case.serving();
    let mut waiting = case.connect();
    waiting.write_all(b"x").expect("it asks for something");
    upgrade(&case, 2);
    case.await_held_up();
    case.remove("busy");
    assert_eq!(answer(waiting), first, "it serves what waits at its sockets");
    wrapper.log.wait(&format!("generation 1: pid {first}: drained after"));
    wrapper.stop();
}

/// A connection that the client takes for made may still be a handshake, which is in no list of
/// connections and in no queue.
#[test]
fn a_handshake_with_an_old_worker_is_waited_for() {
    let case = Case::new();
    let wrapper = case.ready(&["--adopt"], &["late://+"]);
    let mut asking = case.connect();
    asking.write_all(b"x").expect("it asks for something");
    let first = answer(asking);
    let mut late = case.connect();
    upgrade(&case, 2);
    case.await_held_up();
    late.write_all(b"x").expect("it asks for something");
    assert_eq!(answer(late), first, "it serves whom it has let in");
    wrapper.log.wait(&format!("generation 1: pid {first}: drained after"));
    wrapper.stop();
}

fn libc_term() -> i32 {
    Signal::SIGTERM as i32
}

#[test]
fn what_waits_at_a_worker_that_crashed_is_answered_by_the_next() {
    let case = Case::new();
    let wrapper = case.ready(&["--adopt"], &["+"]);
    let first = case.serving();
    kill(Pid::from_raw(first), Signal::SIGKILL).expect("kill");
    wrapper.log.wait(&says::killed(1, 9));
    let waiting: Vec<TcpStream> =
        (0..5).map(|_| TcpStream::connect(&case.address).expect("nobody is refused")).collect();
    for mut client in waiting {
        client.set_read_timeout(Some(WATCHDOG)).expect("a watchdog");
        let mut answer = String::new();
        client.read_to_string(&mut answer).expect("an answer");
        assert_ne!(pid_in(&answer), first);
    }
    wrapper.log.wait_nth("generation 1: ready after", 2);
    assert_eq!(case.adopted()["sockets"], 1);
    upgrade(&case, 2);
    wrapper.stop();
}

/// Another socket in the place of one that is in an epoll set would never be seen to have a
/// connection.
#[test]
fn a_worker_that_waits_before_it_binds_is_served_after_a_crash() {
    let case = Case::new();
    let wrapper = case.ready(&["--adopt"], &["polled://+"]);
    let first = case.serving();
    kill(Pid::from_raw(first), Signal::SIGKILL).expect("it is ours");
    wrapper.log.wait_nth("generation 1: ready after", 2);
    assert_ne!(case.serving(), first);
    upgrade(&case, 2);
    wrapper.stop();
}

#[test]
fn stop_first_has_connections_wait_in_the_queue_of_the_one_that_has_gone() {
    let case = Case::new();
    let wrapper = case.ready(&["--adopt", "--stop-first"], &["+"]);
    let first = case.serving();
    case.write("closed");
    let upgrade = case.scene.ctl_started(&["upgrade"]);
    wrapper.log.wait(&says::started(2));
    let mut client = TcpStream::connect(&case.address).expect("nobody is refused");
    case.write("gate");
    let mut answer = String::new();
    client.set_read_timeout(Some(WATCHDOG)).expect("a watchdog");
    client.read_to_string(&mut answer).expect("an answer");
    assert_ne!(pid_in(&answer), first);
    assert!(upgrade.wait_with_output().expect("ctl ends").status.success());
    wrapper.stop();
}

#[test]
fn a_second_instance_is_told_that_the_address_is_in_use() {
    let case = Case::new();
    let wrapper = case.ready(&["--adopt"], &["+"]);
    let mut second = case.start(&["--adopt", "--no-socket"], &["+"]);
    assert_eq!(second.exit_status(), 1);
    assert!(second.log.has(&format!("cannot listen on {}: somebody else does", case.address)));
    assert!(second.log.has("Address already in use"));
    let first = case.serving();
    assert!(wrapper.children().iter().any(|(pid, _)| *pid == first), "it serves undisturbed");
    wrapper.stop();
}

/// So is one that would have it as a part of its own.
#[test]
fn a_second_instance_on_all_addresses_is_told_of_the_one_that_is_in_use() {
    let mut case = Case::new();
    let free = TcpListener::bind((host(), 0)).and_then(|free| free.local_addr()).expect("an address");
    case.address = free.to_string();
    let wrapper = case.ready(&["--adopt"], &["+"]);
    let all = format!("0.0.0.0:{}", free.port());
    let mut second = case.start(&["--adopt", "--no-socket"], &[&all]);
    assert_eq!(second.exit_status(), 1);
    assert!(second.log.has(&format!("cannot listen on {all}: somebody else does")));
    wrapper.stop();
}

#[test]
fn beside_a_stranger_nothing_is_switched() {
    let case = Case::new();
    case.write("closed");
    case.write("gate");
    let wrapper = case.ready(&["--adopt"], &["+"]);
    let first = case.serving();
    case.remove("gate");
    let upgrade = case.scene.ctl_started(&["upgrade"]);
    wrapper.log.wait(&says::started(2));
    // It comes between the first of two addresses and the switch, so only that can tell.
    let stranger =
        socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
    setsockopt(&stranger, sockopt::ReusePort, &true).expect("SO_REUSEPORT");
    let address: std::net::SocketAddr = case.address.parse().expect("an address");
    stranger.bind(&address.into()).expect("the same user may");
    stranger.listen(1).expect("listen");
    case.write("gate");
    let refused = upgrade.wait_with_output().expect("ctl ends");
    assert_eq!(refused.status.code(), Some(1));
    wrapper.log.wait(&says::failed(2));
    drop(stranger);
    assert_eq!(case.serving(), first);
    let done = case.scene.ctl(&["upgrade"]);
    assert!(done.status.success(), "{done:?}");
    wrapper.stop();
}

#[test]
fn a_replacement_of_ourselves_goes_on_steering() {
    let case = Case::new();
    let wrapper = case.ready(&["--adopt", "--idle", "100ms"], &["+", "udp://+"]);
    for generation in 2..5 {
        let done = case.scene.ctl(&["reexec"]);
        assert!(done.status.success(), "{done:?}");
        let done = case.scene.ctl(&["upgrade"]);
        assert!(done.status.success(), "{done:?}");
        let status = case.scene.status();
        let serving =
            status["workers"].as_array().expect("workers").iter().find(|one| one["stage"] == "ready");
        assert_eq!(serving.expect("one")["pid"], case.serving());
        assert_eq!(serving.expect("one")["generation"], generation);
    }
    wrapper.stop();
}

#[test]
fn what_is_bound_in_the_moment_of_a_replacement_is_answered() {
    let case = Case::new();
    case.write("closed");
    let wrapper = case.start(&["--adopt"], &["+"]);
    wrapper.log.wait(&says::started(1));
    let done = case.scene.ctl(&["reexec"]);
    assert!(done.status.success(), "{done:?}");
    case.write("gate");
    wrapper.log.wait(&says::ready(1));
    case.serving();
    wrapper.stop();
}

#[test]
fn a_shared_socket_is_there_before_the_worker() {
    let case = Case::new();
    case.write("closed");
    let wrapper = case.start(&["--adopt=share", "-b", &case.address], &["+"]);
    wrapper.log.wait(&says::started(1));
    let mut early = TcpStream::connect(&case.address).expect("nobody is refused");
    early.set_read_timeout(Some(WATCHDOG)).expect("a watchdog");
    case.write("gate");
    let mut answer = String::new();
    early.read_to_string(&mut answer).expect("an answer");
    wrapper.log.wait(&says::ready(1));
    assert!(case.adopted()["generation"].is_null());
    let done = case.scene.ctl(&["upgrade"]);
    assert!(done.status.success(), "{done:?}");
    wrapper.log.wait(&says::killed(1, libc_term()));
    assert_ne!(case.serving(), pid_in(&answer));
    wrapper.stop();
}

/// Nobody would accept from it.
#[test]
fn no_listener_of_ours_is_added_to_a_worker_that_binds_its_own() {
    let case = Case::new();
    let wrapper = case.ready(&["--adopt"], &["+"]);
    let bound = case.scene.ctl(&["bind", "127.0.0.1:0"]);
    assert_eq!(bound.status.code(), Some(1), "{bound:?}");
    assert!(String::from_utf8_lossy(&bound.stderr).contains("with --adopt the program binds its own"));
    wrapper.stop();
    let mut mistaken = case.start(&["--adopt", "share"], &["+"]);
    assert_eq!(mistaken.exit_status(), 2);
    assert!(mistaken.log.has("cannot run 'share' with --adopt: write --adopt=share"));
}

#[test]
fn an_address_that_is_not_quite_ours_is_named() {
    let case = Case::new();
    let port = "8000";
    let mut wrapper = case.start(&["--adopt=share", "-b", &case.address], &[&format!("0.0.0.0:{port}")]);
    assert_eq!(wrapper.exit_status(), 1);
    let said = format!(
        "the worker binds 0.0.0.0:{port}, and -b holds {}: they are not the same (write -b '*:{port}')",
        case.address
    );
    assert!(wrapper.log.has(&said), "{:?}", wrapper.log.all());
}

#[test]
fn datagrams_find_somebody_at_every_moment() {
    datagrams_find_somebody("udp://+");
}

/// One that is in an epoll set before it is bound has a socket of its own, beside the old one's.
#[test]
fn datagrams_find_a_worker_that_waits_before_it_binds() {
    datagrams_find_somebody("udp-polled://+");
}

fn datagrams_find_somebody(address: &str) {
    let case = Case::new();
    let wrapper = case.ready(&["--adopt"], &[address]);
    let client = UdpSocket::bind((host(), 0)).expect("a socket");
    client.set_read_timeout(Some(WATCHDOG)).expect("a watchdog");
    let ask = || {
        client.send_to(b"x", &case.address).expect("send");
        let mut answer = [0; 100];
        let length = client.recv(&mut answer).expect("an answer");
        pid_in(&String::from_utf8_lossy(&answer[..length]))
    };
    let first = ask();
    let done = case.scene.ctl(&["upgrade"]);
    assert!(done.status.success(), "{done:?}");
    wrapper.log.wait(&says::killed(1, libc_term()));
    assert_ne!(ask(), first);
    wrapper.stop();
}

#[test]
fn a_socket_that_a_process_of_the_worker_has_closed_gets_nothing_more() {
    let case = Case::new();
    let wrapper = case.ready(&["--adopt"], &["twice://+"]);
    until("both of its processes listen", || case.adopted()["sockets"] == 2);
    let one = case.serving();
    kill(Pid::from_raw(one), Signal::SIGKILL).expect("kill");
    until("its socket has left", || case.adopted()["sockets"] == 1);
    for _ in 0..20 {
        assert_ne!(case.serving(), one);
    }
    wrapper.stop();
}

#[test]
fn a_worker_that_never_listens_is_told_so() {
    let scene = Scene::new();
    let mut wrapper = scene.start_command(&["--adopt", "--ack-timeout", "300ms"], &["sleep", "1000"]);
    assert_eq!(wrapper.exit_status(), 124);
    let last = wrapper.last_line();
    assert!(last.contains("it was never seen to listen"), "{last}");
}

#[test]
fn an_ack_counts_once_it_listens() {
    let case = Case::new();
    case.write("closed");
    let wrapper = case.start(&["--adopt", "--ack", "timer:1ms"], &["+"]);
    wrapper.log.wait(&says::started(1));
    let phase = || case.scene.status()["phase"].as_str().expect("a phase").to_owned();
    assert_eq!(phase(), "starting");
    case.write("gate");
    wrapper.log.wait(&says::ready_by(1, "timer"));
    case.serving();
    wrapper.stop();
}

#[test]
fn one_below_another_is_refused_with_a_reason() {
    let case = Case::new();
    let inner = [binary().to_str().expect("utf-8"), "--no-socket", "--adopt", "--", "sleep", "1000"];
    let mut wrapper = case.scene.start_command(&["--adopt", "--no-socket"], &inner);
    assert_eq!(wrapper.exit_status(), 125);
    assert!(wrapper.log.has("cannot adopt * somebody above us watches its system calls already"));
}

#[test]
fn ports_that_are_not_named_are_left_alone() {
    let case = Case::new();
    let other = case.address.replace(":8000", ":8001");
    let wrapper = case.ready(&["--adopt", "--port", "8000", "-v"], &["+", &other]);
    assert_eq!(case.adopted()["address"], case.address.as_str());
    assert!(!who(&other).is_empty());
    wrapper.stop();
}

#[test]
fn a_worker_of_another_user_is_adopted() {
    if !am_root() {
        return;
    }
    let case = Case::new();
    // Where that user may look.
    let place = tempfile::tempdir_in("/var/tmp").expect("a directory");
    let script = place.path().join("server.py");
    fs::write(&script, SERVER).unwrap();
    nix::sys::stat::fchmodat(
        nix::fcntl::AT_FDCWD,
        place.path(),
        nix::sys::stat::Mode::from_bits_truncate(0o755),
        nix::sys::stat::FchmodatFlags::FollowSymlink,
    )
    .unwrap();
    let command = ["/usr/bin/python3", script.to_str().expect("utf-8"), &case.address];
    let options = ["--adopt", "--user", "nobody", "--chdir", place.path().to_str().expect("utf-8")];
    let wrapper = case.scene.start_command(&options, &command);
    wrapper.log.wait(&says::ready(1));
    upgrade(&case, 2);
    case.serving();
    wrapper.stop();
}

#[test]
fn our_address_is_the_workers_again_when_we_stop() {
    let case = Case::new();
    let wrapper = case.ready(&["--adopt"], &["+"]);
    wrapper.stop();
    assert!(TcpStream::connect(&case.address).is_err(), "nobody listens");
    let socket = std::net::TcpListener::bind(&case.address).expect("it is free");
    assert!(nix::sys::socket::getsockname::<SockaddrIn>(socket.as_raw_fd()).is_ok());
}

/// gunicorn does so: a socket that listens already, for a dead worker's is put in the place of its
/// own, is not listened on once more.
#[test]
fn one_that_asks_whether_it_listens_already_is_ready_again_after_a_crash() {
    const ASKS: &str = r"
import os, socket, sys
s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1); s.bind((sys.argv[1], 8000))
if not s.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN): s.listen(64)
while True:
    c, _ = s.accept(); c.sendall(b'pid=%d\n' % os.getpid()); c.close()
";
    let scene = Scene::new();
    fs::write(scene.path("asks.py"), ASKS).unwrap();
    let host = host();
    let wrapper = scene.start_command(&["--adopt"], &["python3", "asks.py", &host]);
    wrapper.log.wait("generation 1: serving");
    let first = pid_in(who(&format!("{host}:8000")).trim());
    kill(Pid::from_raw(first), Signal::SIGKILL).unwrap();
    wrapper.log.wait_nth(&says::ready_by(1, "listen"), 2);
    assert_ne!(pid_in(who(&format!("{host}:8000")).trim()), first);
    wrapper.stop();
}
