//! Workers that listen on an address of `-b` with a socket of their own: an upgrade to one would
//! leave our socket without anybody who accepts, so it is refused, whatever it says of itself.

mod common;

use common::{Scene, Signal, Wrapper, says};
use std::fs;
use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// What a worker of generation G does is in `mode.G`, or else in `mode`. It answers with its
/// generation: on what it was handed, or on sockets that it binds itself.
const WORKER: &str = r#"
import errno, os, select, signal, socket, sys
generation = os.environ["GRACEFUL_RUN_GENERATION"]
mode = open(f"mode.{generation}" if os.path.exists(f"mode.{generation}") else "mode").read().split()
handed = socket.socket(fileno=3)
own = []
def bind(family, kind, address):
    s = socket.socket(family, kind)
    if family != socket.AF_UNIX: s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    while True:
        try:
            if family == socket.AF_UNIX and os.path.lexists(address): os.unlink(address)
            s.bind(address)
            break
        except FileNotFoundError: pass
        except OSError as error:
            # The wrapper has put the path back in between.
            if error.errno != errno.EADDRINUSE: raise
    if kind == socket.SOCK_STREAM: s.listen(16)
    return s
if "child" in mode and os.fork():
    signal.signal(signal.SIGTERM, lambda *a: os._exit(0))
    while True: signal.pause()
for word in mode:
    if word.startswith("path="):
        own.append(bind(socket.AF_UNIX, socket.SOCK_STREAM, word[5:]))
    if word.startswith("rename="):
        own.append(bind(socket.AF_UNIX, socket.SOCK_STREAM, "another"))
        os.rename("another", word[7:])
    if word in ("port", "wildcard", "udp"):
        host, port = handed.getsockname()
        kind = socket.SOCK_DGRAM if word == "udp" else socket.SOCK_STREAM
        own.append(bind(socket.AF_INET, kind, ("0.0.0.0" if word == "wildcard" else host, port)))
    if word == "elsewhere": own.append(bind(socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", 0)))
if "drop" in mode: os.close(3)
if "unlink" in mode:
    def end(*a):
        os.unlink(own[0].getsockname())
        os._exit(0)
    signal.signal(signal.SIGTERM, end)
waits = ([handed] if "handed" in mode else []) + own
poll = select.epoll()
for s in waits: poll.register(s.fileno(), select.EPOLLIN)
open(f"bound.{generation}", "w").close()
if "silent" not in mode and "NOTIFY_SOCKET" in os.environ:
    u = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    name = os.environ["NOTIFY_SOCKET"]
    u.connect("\0" + name[1:] if name[0] == "@" else name)
    u.send(b"READY=1")
while True:
    for fd, _ in poll.poll():
        s = next(s for s in waits if s.fileno() == fd)
        if s.type != socket.SOCK_STREAM: continue
        c, _ = s.accept()
        c.recv(100)
        c.sendall(f"generation {generation}\n".encode())
        c.close()
"#;

const OWN: &str = "with a socket of its own";

fn scene(mode: &str) -> Scene {
    let scene = Scene::new();
    fs::write(scene.path("worker.py"), WORKER).unwrap();
    fs::write(scene.path("mode"), mode).unwrap();
    scene
}

fn start(scene: &Scene, args: &[&str]) -> Wrapper {
    let wrapper =
        scene.start_command(&[&["--soak", "1ms"], args].concat(), &["/usr/bin/python3", "worker.py"]);
    wrapper.log.wait(&says::ready(1));
    wrapper
}

/// Who answers, if anybody does.
fn answer(stream: io::Result<impl Read + Write>) -> io::Result<String> {
    let mut stream = stream?;
    stream.write_all(b"who\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

fn is_first(answer: io::Result<String>) -> bool {
    answer.is_ok_and(|text| text == "generation 1\n")
}

/// The upgrade to generation 2 is refused, with what helps; generation 1 lives on.
fn refused(wrapper: &Wrapper) -> String {
    wrapper.signal(Signal::SIGHUP);
    let line = wrapper.log.wait(&format!("{}*{OWN}", says::failed(2)));
    for word in ["generation 1 still serves", "LISTEN_FDS", "--export", "systemd:", "--adopt"] {
        assert!(line.contains(word), "{line}");
    }
    wrapper.log.wait("generation 2: pid * (age ");
    assert!(!wrapper.log.has("generation 1: pid * (age "), "the old one was asked to stop");
    line
}

/// The path leads to our socket once what the refused worker has left is gone.
fn answers_again(scene: &Scene) {
    common::until("the path leads to ours", || is_first(answer(UnixStream::connect(scene.path("run/s")))));
}

#[test]
fn a_path_that_every_generation_binds_anew_is_told_of_at_the_first_start() {
    let scene = scene("path=run/s");
    let wrapper = start(&scene, &["-b", "unix:run/s", "--ack", "notify"]);
    let line = wrapper.log.wait(&format!("generation 1: pid * listens on *run/s {OWN}"));
    assert!(line.contains("it serves there in the place of ours") && line.contains("--adopt"), "{line}");
    let line = refused(&wrapper);
    assert!(line.contains("run/s"), "{line}");
    wrapper.stop();
}

/// What clients of `run/s` get until `over`, apart from answers. None may hang: on a socket from
/// which nobody accepts it would.
fn errors(scene: &Scene, over: &AtomicBool) -> Vec<ErrorKind> {
    let mut errors = Vec::new();
    while !over.load(Ordering::Relaxed) {
        if let Err(error) = ask(scene) {
            let hangs = matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut);
            assert!(!hangs, "a client hangs: {error}");
            errors.push(error.kind());
        }
    }
    errors
}

fn ask(scene: &Scene) -> io::Result<String> {
    let stream = UnixStream::connect(scene.path("run/s"))?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    answer(Ok(stream))
}

fn is_empty(scene: &Scene) -> bool {
    fs::read_dir(scene.path("run")).unwrap().all(|entry| {
        let name = entry.unwrap().file_name().into_string().unwrap();
        name != "s" && !name.contains(".s.graceful-run")
    })
}

#[test]
fn a_refused_upgrade_leaves_the_path_to_the_worker_that_serves_there() {
    for binds in ["path=run/s", "path=run/s unlink", "child path=run/s", "rename=run/s", "path=run/s drop"] {
        let scene = scene(binds);
        let wrapper = start(&scene, &["-b", "unix:run/s", "--ack", "notify"]);
        wrapper.log.wait("*it serves there in the place of ours");
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let clients = scope.spawn(|| errors(&scene, &over));
            let end = common::End(&over);
            wrapper.signal(Signal::SIGHUP);
            // One that finds the path put back before it binds it cannot start either.
            wrapper.log.wait(&says::failed(2));
            wrapper.log.wait("generation 2: pid * (age ");
            common::until("the first one answers", || is_first(ask(&scene)));
            // A new image of ours knows it too.
            assert!(scene.ctl(&["reexec"]).status.success());
            wrapper.signal(Signal::SIGHUP);
            wrapper.log.wait(&says::failed(3));
            wrapper.log.wait("generation 3: pid * (age ");
            common::until("the first one answers", || is_first(ask(&scene)));
            drop(end);
            clients.join().unwrap();
        });
        for _ in 0..20 {
            assert!(is_first(ask(&scene)), "{binds}");
        }
        assert!(!wrapper.log.has("generation 1: pid * (age "), "{binds}: the old one was asked to stop");
        wrapper.stop();
        assert!(is_empty(&scene), "{binds}");
    }
}

#[test]
fn a_replacement_that_takes_our_socket_gets_the_path() {
    for binds in ["path=run/s", "path=run/s unlink"] {
        let scene = scene(binds);
        fs::write(scene.path("mode.2"), "handed").unwrap();
        let wrapper = start(&scene, &["-b", "unix:run/s", "--ack", "notify"]);
        wrapper.log.wait("*it serves there in the place of ours");
        let over = AtomicBool::new(false);
        let errors = std::thread::scope(|scope| {
            let clients = scope.spawn(|| errors(&scene, &over));
            let end = common::End(&over);
            wrapper.signal(Signal::SIGHUP);
            wrapper.log.wait(&says::ready(2));
            wrapper.log.wait("generation 1: pid * (age ");
            common::until("the second one answers", || {
                ask(&scene).is_ok_and(|answer| answer == "generation 2\n")
            });
            drop(end);
            clients.join().unwrap()
        });
        // Those that the old one had not accepted are cut by it; but each found the path, unless the
        // old one has removed it as it ended.
        let missed = |error: &ErrorKind| match error {
            ErrorKind::NotFound => !binds.contains("unlink"),
            error => *error == ErrorKind::ConnectionRefused,
        };
        assert!(!errors.iter().any(missed), "{binds}: {:?}", errors.first());
        wrapper.stop();
        assert!(is_empty(&scene), "{binds}");
    }
}

/// What it has left at the path is dead: the next one starts as the first one did.
#[test]
fn a_worker_that_has_bound_the_path_anew_is_started_again_after_a_crash() {
    let scene = scene("path=run/s");
    let wrapper = start(&scene, &["-b", "unix:run/s", "--ack", "notify"]);
    let line = wrapper.log.wait("generation 1: pid * listens on *run/s");
    let pid = line.split_once("pid ").unwrap().1.split_whitespace().next().unwrap().parse().unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    wrapper.log.wait_nth(&says::started(1), 2);
    common::until("it answers", || is_first(ask(&scene)));
    wrapper.signal(Signal::SIGHUP);
    wrapper.log.wait(&says::failed(2));
    wrapper.log.wait("generation 2: pid * (age ");
    common::until("it answers", || is_first(ask(&scene)));
    wrapper.stop();
    assert!(is_empty(&scene));
}

#[test]
fn a_replacement_that_binds_the_path_anew_is_refused_and_the_old_one_answers() {
    for binds in ["path=run/s", "child path=run/s", "rename=run/s", "path=run/s drop", "path=link/../run/s"] {
        let scene = scene("handed");
        std::os::unix::fs::symlink("run", scene.path("link")).unwrap();
        fs::write(scene.path("mode.2"), binds.replace("link/..", &scene.arg("link/.."))).unwrap();
        let wrapper = start(&scene, &["-b", "unix:run/s", "--ack", "notify"]);
        assert!(!wrapper.log.has(OWN), "{binds}");
        refused(&wrapper);
        answers_again(&scene);
        wrapper.stop();
    }
}

#[test]
fn whatever_makes_it_ready_it_is_refused() {
    let exec = "exec:test -e bound.$GRACEFUL_RUN_GENERATION";
    let kinds = [(exec, "silent"), ("auto", "silent"), ("auto", ""), ("notify,timer:60s", "")];
    for (ack, how) in kinds {
        let scene = scene("handed");
        fs::write(scene.path("mode.2"), format!("path=run/s {how}")).unwrap();
        let wrapper = start(&scene, &["-b", "unix:run/s", "--ack", ack]);
        refused(&wrapper);
        answers_again(&scene);
        wrapper.stop();
    }
}

#[test]
fn a_worker_beside_us_on_one_port_is_refused() {
    for how in ["port", "wildcard", "child port"] {
        let scene = scene("handed");
        fs::write(scene.path("mode.2"), how).unwrap();
        let wrapper = start(&scene, &["-b", "127.0.0.1:0,reuseport", "--ack", "notify"]);
        let line = wrapper.log.wait("listening on ");
        let address = line.split_whitespace().find(|word| word.starts_with("127.")).unwrap().to_owned();
        refused(&wrapper);
        // What it left behind ends soon after it.
        common::until("only generation 1 answers", || {
            (0..8).all(|_| is_first(answer(TcpStream::connect(&address))))
        });
        wrapper.stop();
    }
}

#[test]
fn a_port_that_every_generation_shares_with_us_is_told_of_at_the_first_start() {
    let scene = scene("port");
    let wrapper = start(&scene, &["-b", "127.0.0.1:0,reuseport", "--ack", "notify"]);
    wrapper.log.wait(&format!("generation 1: pid * listens on 127.0.0.1:* {OWN}"));
    refused(&wrapper);
    wrapper.stop();
}

#[test]
fn the_address_that_is_told_is_the_one_that_the_worker_listens_on() {
    let scene = scene("wildcard");
    let wrapper = start(&scene, &["-b", "127.0.0.1:0,reuseport", "--ack", "notify"]);
    wrapper.log.wait(&format!("generation 1: pid * listens on 0.0.0.0:* {OWN}"));
    let line = refused(&wrapper);
    assert!(line.contains("it listens on 0.0.0.0:"), "{line}");
    wrapper.stop();
}

#[test]
fn a_datagram_socket_beside_ours_is_refused() {
    let scene = scene("handed");
    fs::write(scene.path("mode.2"), "udp").unwrap();
    let wrapper = start(&scene, &["-b", "udp://127.0.0.1:0,reuseport", "--ack", "notify"]);
    refused(&wrapper);
    wrapper.stop();
}

/// nginx with `reuseport` has a socket for each of its workers, ours among them.
#[test]
fn a_worker_that_waits_on_ours_as_well_replaces() {
    let scene = scene("handed port");
    let wrapper = start(&scene, &["-b", "127.0.0.1:0,reuseport", "--ack", "notify"]);
    wrapper.signal(Signal::SIGHUP);
    wrapper.log.wait(&says::ready(2));
    assert!(!wrapper.log.has(OWN));
    wrapper.stop();
}

/// Another path, and a port of its own, are its own affair.
#[test]
fn a_worker_that_listens_elsewhere_as_well_replaces() {
    let scene = scene("path=run/other");
    let wrapper = start(&scene, &["-b", "unix:run/s", "--ack", "notify"]);
    wrapper.signal(Signal::SIGHUP);
    wrapper.log.wait(&says::ready(2));
    assert!(!wrapper.log.has(OWN));
    fs::remove_file(scene.path("run/other")).unwrap();
    wrapper.stop();
}

/// It says that it is ready, listens at another port and waits on no socket of ours: its word does not
/// count where the one before it waits there.
#[test]
fn a_worker_that_listens_elsewhere_instead_is_refused() {
    let scene = scene("handed");
    fs::write(scene.path("mode.2"), "elsewhere").unwrap();
    fs::write(scene.path("mode.3"), "elsewhere handed").unwrap();
    let wrapper = start(&scene, &["-b", "unix:run/s", "--ack", "notify", "--ack-timeout", "3s"]);
    wrapper.signal(Signal::SIGHUP);
    let line = wrapper.log.wait(&says::failed(2));
    assert!(line.contains("was not seen to wait on") && line.contains("run/s"), "{line}");
    wrapper.log.wait("generation 2: pid * (age ");
    assert!(is_first(answer(UnixStream::connect(scene.path("run/s")))));
    // One that listens there as well is believed once it waits on ours.
    wrapper.signal(Signal::SIGHUP);
    wrapper.log.wait("generation 3: serves after ");
    wrapper.stop();
}

#[test]
fn a_first_worker_that_says_that_it_is_ready_and_uses_none_of_ours_is_told_of() {
    let scenes = ["elsewhere", "nothing"].map(scene);
    let ack = ["-b", "127.0.0.1:0", "--ack", "notify"];
    let wrappers = [start(&scenes[0], &ack), start(&scenes[1], &ack)];
    let told = "generation 1: pid * said that it is ready (notify)";
    wrappers[0]
        .log
        .wait(&format!("{told}, but listens on 127.0.0.1:*, and was not seen to wait on 127.0.0.1:* in *"));
    wrappers[1].log.wait(&format!("{told}, and was not seen to wait on 127.0.0.1:* in *"));
    wrappers.into_iter().for_each(Wrapper::stop);
}

/// One that says nothing is not ready, or by the timer alone: where it listens is what the user needs.
#[test]
fn where_a_worker_listens_instead_is_named_while_it_is_not_ready_and_after_that() {
    let port = |line: &str| -> u16 {
        let after = line.split("(it listens on 127.0.0.1:").nth(1).unwrap_or_else(|| panic!("{line}"));
        after.split(|c: char| !c.is_ascii_digit()).next().and_then(|port| port.parse().ok()).expect("a port")
    };
    for (ack, counts) in [("auto,timer:3s", true), ("accepting,timer:3s", true), ("accepting", false)] {
        let scene = scene("elsewhere silent");
        let args = ["-b", "127.0.0.1:0", "--ack", ack, "--ack-timeout", "4s"];
        let mut wrapper = scene.start_command(&args, &["/usr/bin/python3", "worker.py"]);
        let last = match counts {
            true => wrapper.log.wait(&says::ready_by(1, "timer")),
            false => {
                assert_eq!(wrapper.exit_status(), 124);
                wrapper.last_line()
            }
        };
        assert!(last.contains("it was not seen to wait on 127.0.0.1:"), "{last}");
        if counts {
            assert!(is_first(answer(TcpStream::connect(("127.0.0.1", port(&last))))), "{last}");
            assert!(last.contains("does it listen on exactly the addresses of -b?"), "{last}");
            if ack.starts_with("auto") {
                let early =
                    wrapper.log.wait("generation 1: pid *: not ready after *: it was not seen to wait on");
                assert_eq!(port(&early), port(&last), "{early}");
            }
            wrapper.stop();
        }
        assert_ne!(port(&last), 0);
    }
    // As a replacement; and one that listens nowhere.
    for (how, names) in [("elsewhere silent", true), ("drop silent", false)] {
        let scene = scene("handed");
        fs::write(scene.path("mode.2"), how).unwrap();
        let wrapper = start(&scene, &["-b", "127.0.0.1:0", "--ack-timeout", "3s"]);
        wrapper.signal(Signal::SIGHUP);
        let line = wrapper.log.wait(&says::failed(2));
        assert!(line.contains("it was not seen to wait on 127.0.0.1:"), "{line}");
        assert_eq!(line.contains("(it listens on 127.0.0.1:"), names, "{line}");
        wrapper.stop();
    }
}

#[test]
fn dbus_daemon_with_a_path_of_its_own_is_refused_and_with_systemd_it_is_replaced() {
    let scene = Scene::new();
    let config = |address: &str| {
        let text = format!(
            "<busconfig><type>session</type><listen>{address}</listen><policy context=\"default\">\
             <allow send_destination=\"*\"/><allow own=\"*\"/></policy></busconfig>"
        );
        fs::write(scene.path("bus.conf"), text).unwrap();
    };
    config("systemd:");
    let file = format!("--config-file={}", scene.arg("bus.conf"));
    let command = ["dbus-daemon", &file, "--nofork", "--nopidfile", "--nosyslog"];
    let wrapper = scene.start_command(
        // Its profile would have it take the socket whatever its file says.
        &["-b", "unix:run/s", "--soak", "1ms", "--profile", "none"],
        &command,
    );
    wrapper.log.wait(&says::ready(1));
    let greets = || {
        let hello = || -> io::Result<[u8; 8]> {
            let mut stream = UnixStream::connect(scene.path("run/s"))?;
            stream.write_all(b"\0AUTH\r\n")?;
            let mut reply = [0; 8];
            stream.read_exact(&mut reply)?;
            Ok(reply)
        };
        hello().is_ok_and(|reply| reply == *b"REJECTED")
    };
    assert!(greets());
    config(&format!("unix:path={}", scene.arg("run/s")));
    wrapper.signal(Signal::SIGHUP);
    // It cannot bind the path where the wrapper has put it back before.
    let line = wrapper.log.wait(&says::failed(2));
    assert!(line.contains("systemd:") || line.contains("exited with status 1"), "{line}");
    wrapper.log.wait("generation 2: pid * (age ");
    common::until("the path leads to ours", greets);
    config("systemd:");
    wrapper.signal(Signal::SIGHUP);
    wrapper.log.wait(&says::ready(3));
    // It cuts what it has accepted when it is asked to stop.
    wrapper.log.wait("generation 1: pid * (age ");
    assert!(greets());
    wrapper.stop();
}
