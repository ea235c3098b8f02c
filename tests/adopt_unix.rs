//! Unix stream sockets that workers bind themselves (`--adopt`): all generations share one, and its path
//! keeps its inode, whatever servers unlink, rename and bind.

mod common;

use common::{Scene, Signal, WATCHDOG, Wrapper, says, until};
use nix::sys::signal::kill;
use nix::unistd::Pid;
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};

/// It binds the path in the way that the file `how` says, and does what each client asks for: `pid`,
/// `wait FILE` (and then the same), `close` (its listener, and the path), `hand PATH` (its listener, to whom
/// listens there). With a file `broken` it exits where others begin to serve.
const SERVER: &str = r"
import os, signal, socket, sys, threading, time
how = open('how').read().split()
path = sys.argv[1]
def leave(*_):
    if 'tidy' in how: os.unlink(path)
    os._exit(0)
if 'kill' not in how: signal.signal(signal.SIGTERM, leave)
if 'look' in how:
    with socket.socket(socket.AF_UNIX) as look:
        if look.connect_ex(path) == 0: sys.exit(f'{path} is in use')
if 'unlink' in how and os.path.exists(path): os.unlink(path)
if 'at' in how:
    try: os.unlink(os.path.basename(path), dir_fd=os.open(os.path.dirname(path), os.O_RDONLY))
    except FileNotFoundError: pass
one = socket.socket(socket.AF_UNIX)
name = '\0' + path if 'abstract' in how else path
if 'rename' in how: name = path + '.new'
if 'relative' in how:
    os.chdir(os.path.dirname(path))
    name = os.path.basename(path)
if 'pid' in how:
    other = socket.socket(socket.AF_UNIX)
    other.bind(f'{path}.{os.getpid():04}')
    other.listen(8)
one.bind(name)
if 'late' in how: os.rename(name, path)
one.listen(64)
if 'rename' in how and 'late' not in how: os.rename(name, path)
if 'relative' in how: os.chdir('/')
if os.path.exists('broken'): sys.exit(3)
def serve(client):
    words = client.makefile().readline().split()
    if words[0] == 'wait':
        open(words[1]).read(1)
    if words[0] == 'hand':
        with socket.socket(socket.AF_UNIX) as to:
            to.connect(words[1])
            socket.send_fds(to, [b'x'], [one.fileno()])
    if words[0] in ('close', 'hand'):
        if words[0] == 'close': os.unlink(path)
        os.close(one.detach())
    client.sendall(b'%d' % os.getpid())
    client.close()
while True:
    try: client, _ = one.accept()
    except OSError: time.sleep(1000)
    threading.Thread(target=serve, args=(client,)).start()
";

struct Case {
    scene: Scene,
    wrapper: Wrapper,
    is_abstract: bool,
}

impl Case {
    fn new(how: &str, options: &[&str]) -> Case {
        let scene = Scene::new();
        fs::write(scene.path("server.py"), SERVER).unwrap();
        fs::write(scene.path("how"), how).unwrap();
        let (server, path) = (scene.arg("server.py"), scene.arg("s"));
        let options = [&["--adopt"], options].concat();
        let wrapper = scene.start_command(&options, &["python3", &server, &path]);
        Case { scene, wrapper, is_abstract: how.contains("abstract") }
    }

    fn ready(how: &str, options: &[&str]) -> Case {
        let case = Case::new(how, options);
        case.wrapper.log.wait(&says::ready(1));
        case
    }

    fn connect(&self) -> std::io::Result<UnixStream> {
        let path = self.scene.path("s");
        match self.is_abstract {
            true => UnixStream::connect_addr(&SocketAddr::from_abstract_name(
                path.as_os_str().as_encoded_bytes(),
            )?),
            false => UnixStream::connect(path),
        }
    }

    /// Asks for this, and does not wait for the answer.
    fn begin(&self, what: &str) -> UnixStream {
        let mut client = self.connect().expect("it listens");
        client.set_read_timeout(Some(WATCHDOG)).expect("a watchdog");
        writeln!(client, "{what}").expect("a request");
        client
    }

    fn ask(&self, what: &str) -> i32 {
        answer(self.begin(what))
    }

    fn inode(&self) -> u64 {
        fs::metadata(self.scene.path("s")).expect("the path leads somewhere").ino()
    }

    fn upgrade(&self) {
        let done = self.scene.ctl(&["upgrade"]);
        assert!(done.status.success(), "{done:?}");
    }

    fn refuse(&self) -> String {
        let done = self.scene.ctl(&["upgrade"]);
        assert_eq!(done.status.code(), Some(1), "{done:?}");
        String::from_utf8_lossy(&done.stderr).into_owned()
    }
}

fn answer(mut client: UnixStream) -> i32 {
    let mut answer = String::new();
    client.read_to_string(&mut answer).expect("an answer");
    answer.parse().expect("a pid")
}

/// It removes the path before it binds it, binds another name, does neither, or removes it at its end.
#[test]
fn a_path_keeps_its_inode_over_upgrades() {
    for how in
        ["unlink", "at", "none", "unlink tidy", "rename", "rename late", "relative unlink", "unlink kill"]
    {
        let case = Case::ready(how, &[]);
        let inode = case.inode();
        let mut before = case.ask("pid");
        for generation in 2..5 {
            case.upgrade();
            // Its end may go with an unlink.
            case.wrapper.log.wait(&format!("generation {}: pid {before} *", generation - 1));
            case.scene.wait_gone(before);
            assert_eq!(case.inode(), inode, "{how}");
            let now = case.ask("pid");
            assert_ne!(now, before, "{how}");
            before = now;
        }
        assert!(!case.scene.path("s.new").exists(), "{how}");
        let shown = case.scene.status()["adopt"]["addresses"][0].clone();
        assert_eq!(shown["address"], format!("unix:{}", case.scene.arg("s")), "{shown}");
        assert_eq!((shown["shared"].as_bool(), shown["queue"].as_u64()), (Some(true), Some(0)), "{shown}");
        let path = case.scene.path("s");
        case.wrapper.stop();
        assert_eq!(path.exists(), !how.contains("tidy"), "as the server leaves it: {how}");
    }
}

#[test]
fn an_abstract_name_is_shared() {
    let case = Case::ready("abstract", &[]);
    let first = case.ask("pid");
    case.upgrade();
    case.scene.wait_gone(first);
    assert_ne!(case.ask("pid"), first);
    case.wrapper.stop();
}

/// Requests that it has accepted are answered, however long they take.
#[test]
fn an_old_worker_is_stopped_once_it_has_no_connection() {
    let case = Case::ready("unlink kill", &[]);
    case.scene.gate("gate");
    let first = case.ask("pid");
    let waiting = case.begin(&format!("wait {}", case.scene.arg("gate")));
    case.upgrade();
    until("the new one answers", || case.ask("pid") != first);
    let is_old = |worker: &&serde_json::Value| worker["stage"] == "draining" && worker["pid"] == first;
    until("it was looked at", || {
        let shown = case.scene.status()["workers"].clone();
        let old = shown.as_array().expect("workers").iter().find(is_old).expect("it drains").clone();
        old["drain"].as_str().is_some_and(|left| left.starts_with("1 connection busy"))
    });
    case.scene.release("gate", 1);
    assert_eq!(answer(waiting), first);
    case.wrapper.log.wait(&format!("generation 1: pid {first}: drained after"));
    case.scene.wait_gone(first);
    case.wrapper.stop();
}

/// A connection on which nothing happens does not count for longer than `--idle`.
#[test]
fn an_idle_connection_is_not_waited_for_for_ever() {
    let case = Case::ready("unlink", &["--idle", "1s", "--drain-timeout", "1h"]);
    let first = case.ask("pid");
    let mut idle = case.connect().expect("it listens");
    case.upgrade();
    case.scene.wait_gone(first);
    assert_eq!(idle.read(&mut [0]).unwrap_or(0), 0, "it is closed with its worker");
    case.wrapper.stop();
}

#[test]
fn a_replacement_that_fails_leaves_the_path_alone() {
    for how in ["unlink tidy", "rename"] {
        let case = Case::ready(how, &[]);
        let (inode, first) = (case.inode(), case.ask("pid"));
        fs::write(case.scene.path("broken"), "").unwrap();
        case.refuse();
        assert_eq!((case.inode(), case.ask("pid")), (inode, first), "{how}");
        fs::remove_file(case.scene.path("broken")).unwrap();
        case.upgrade();
        case.scene.wait_gone(first);
        assert_eq!(case.inode(), inode, "{how}");
        case.wrapper.stop();
    }
}

#[test]
fn connections_wait_for_the_next_one_if_a_worker_crashes() {
    for how in ["unlink", "look"] {
        let case = Case::ready(how, &[]);
        let (inode, first) = (case.inode(), case.ask("pid"));
        kill(Pid::from_raw(first), Signal::SIGSTOP).expect("it is ours");
        let stat = || fs::read_to_string(format!("/proc/{first}/stat")).expect("it lives");
        until("it accepts no more", || stat().contains(") T "));
        let waiting: Vec<UnixStream> = (0..5).map(|_| case.begin("pid")).collect();
        kill(Pid::from_raw(first), Signal::SIGKILL).expect("it is ours");
        for client in waiting {
            assert_ne!(answer(client), first, "{how}");
        }
        assert_eq!(case.inode(), inode);
        case.wrapper.stop();
    }
}

#[test]
fn a_server_that_is_stopped_first_loses_no_connection_that_comes_meanwhile() {
    let case = Case::ready("unlink tidy", &["--stop-first"]);
    let (inode, first) = (case.inode(), case.ask("pid"));
    case.upgrade();
    assert_eq!(case.inode(), inode);
    assert_ne!(case.ask("pid"), first);
    case.wrapper.stop();
}

/// php-fpm does so.
#[test]
fn a_server_that_looks_whether_its_path_is_free_finds_it_free() {
    let case = Case::ready("look unlink", &[]);
    let inode = case.inode();
    for _ in 0..2 {
        let before = case.ask("pid");
        case.upgrade();
        case.scene.wait_gone(before);
        assert_eq!(case.inode(), inode);
    }
    assert_eq!(case.wrapper.log.count("found unix:* taken"), 1);
    case.wrapper.stop();
}

/// What the server has closed and removed is gone, at once.
#[test]
fn a_path_that_a_worker_gives_up_is_removed() {
    let case = Case::ready("unlink", &[]);
    case.ask("close");
    until("its path is gone", || !case.scene.path("s").exists());
    case.wrapper.log.wait("has closed unix:");
    case.wrapper.stop();
}

/// It closes its socket and leaves the path, whose next client is reset or refused.
#[test]
fn a_listener_that_is_closed_by_all_refuses() {
    let case = Case::ready("unlink", &[]);
    let other = case.scene.path("other");
    let taker = UnixListener::bind(&other).expect("a path of our own");
    case.ask(&format!("hand {}", other.display()));
    // What is in flight is closed with its connection.
    drop(taker);
    until("nobody listens", || {
        let refused = case.connect().err().map(|error| error.kind());
        refused == Some(ErrorKind::ConnectionRefused)
    });
    case.wrapper.log.wait("has closed unix:");
    case.wrapper.stop();
}

/// The listener is on its way for a while, held by no process, and is served by one that is not below us.
#[test]
fn a_listener_that_is_handed_to_somebody_else_is_never_shut_down() {
    let case = Case::ready("unlink", &[]);
    let other = case.scene.path("other");
    let taker = UnixListener::bind(&other).expect("a path of our own");
    case.ask(&format!("hand {}", other.display()));
    let waiting = case.begin("pid");
    case.wrapper.log.wait("has closed unix:");
    let taken = "
import socket, sys
taker = socket.socket(fileno=0)
_, fds, _, _ = socket.recv_fds(taker.accept()[0], 1, 1)
one = socket.socket(fileno=fds[0])
one.setblocking(True)
for _ in range(2):
    client, _ = one.accept()
    client.makefile().readline()
    client.sendall(b'42')
    client.close()
";
    let mut server = case.scene.with_own_run("python3");
    server.args(["-c", taken]).stdin(std::os::fd::OwnedFd::from(taker));
    let mut server = server.spawn().expect("python3");
    assert_eq!(answer(waiting), 42, "it has waited");
    assert_eq!(case.ask("pid"), 42);
    assert!(server.wait().expect("it ends").success());
    case.wrapper.stop();
}

#[test]
fn a_shared_path_outlives_a_new_image_of_ours() {
    let case = Case::ready("unlink tidy", &[]);
    let (inode, first) = (case.inode(), case.ask("pid"));
    let done = case.scene.ctl(&["reexec"]);
    assert!(done.status.success(), "{done:?}");
    assert_eq!((case.inode(), case.ask("pid")), (inode, first));
    case.upgrade();
    case.scene.wait_gone(first);
    assert_eq!(case.inode(), inode);
    assert_ne!(case.ask("pid"), first);
    case.wrapper.stop();
}

/// It has the number of a process in its name, so the next one has another.
#[test]
fn a_path_of_one_process_is_not_asked_of_the_next() {
    let case = Case::ready("unlink pid", &[]);
    let first = case.ask("pid");
    case.upgrade();
    case.scene.wait_gone(first);
    assert_ne!(case.ask("pid"), first);
    assert_eq!(case.scene.status()["adopt"]["addresses"].as_array().expect("a list").len(), 1);
    case.wrapper.stop();
}

/// The loop waits for the next input, and not until a certain time (futex(2)).
#[test]
fn nothing_is_done_at_rest() {
    let case = Case::ready("unlink", &[]);
    case.ask("pid");
    let rests = || {
        let call =
            fs::read_to_string(format!("/proc/{}/syscall", case.wrapper.pid)).expect("its system call");
        let words: Vec<&str> = call.split_whitespace().collect();
        words.first() == Some(&libc::SYS_futex.to_string().as_str()) && words.get(4) == Some(&"0x0")
    };
    until("it rests", rests);
    case.wrapper.stop();
}

/// `--port` names what is adopted.
#[test]
fn a_unix_socket_that_is_left_out_is_told_of() {
    let case = Case::new("unlink", &["--port", "8000"]);
    let said = case.wrapper.log.wait("listens on the unix socket ");
    assert!(said.contains("no upgrade can be graceful (-b unix:PATH"), "{said}");
    case.wrapper.log.wait(&says::ready_by(1, "listen"));
    let first = case.ask("pid");
    let why = case.refuse();
    assert!(why.contains("the new one would take the path from it (-b unix:PATH"), "{why}");
    assert!(!case.wrapper.log.has(&says::started(2)), "it would have taken the path");
    assert_eq!(case.ask("pid"), first);
    case.wrapper.stop();
}

#[test]
fn a_unix_socket_that_is_left_out_can_be_stopped_first() {
    let case = Case::new("unlink", &["--port", "8000", "--stop-first"]);
    case.wrapper.log.wait(&says::ready_by(1, "listen"));
    let first = case.ask("pid");
    case.upgrade();
    assert_ne!(case.ask("pid"), first);
    assert_eq!(case.wrapper.log.count("no upgrade can be graceful"), 1, "it is known by now");
    case.wrapper.stop();
}
