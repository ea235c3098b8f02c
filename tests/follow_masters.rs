//! Masters that stay (`--follow`): the worker does not serve itself and, at the signal, starts a
//! new server of its own. The end of it would be the end of what it has started.

mod common;

use common::{Scene, Signal, Wrapper, pid_in, says, who};
use nix::sys::signal::kill;
use nix::unistd::Pid;
use std::fs;
use std::io::Read;
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

/// As overseer does, the master has its server give the listener up before it starts the next one;
/// `starter`: as Server::Starter does, it ends the old server when the new one runs. Both end with
/// their server. The master keeps the listener in an epoll set, as Go's runtime does.
const MASTER: &str = r"
import os, select, signal, socket, sys
manner, place = sys.argv[1:3]
at = lambda name: os.path.join(place, name)
wake, wakes = os.pipe()
os.set_blocking(wakes, False)
signal.set_wakeup_fd(wakes)
def serve(listener):
    epoll = select.epoll()
    epoll.register(listener.fileno(), select.EPOLLIN)
    epoll.register(wake, select.EPOLLIN)
    signal.signal(signal.SIGUSR2, lambda *_: None)
    signal.signal(signal.SIGTERM, (lambda *_: None) if manner == 'starter' else signal.SIG_DFL)
    listener.setblocking(False)
    while True:
        for fd, _ in epoll.poll():
            if fd == wake:
                epoll.close()
                listener.close()
                if manner == 'overseer': os.kill(os.getppid(), signal.SIGUSR1)
                os._exit(0)
            try: client, _ = listener.accept()
            except BlockingIOError: continue
            client.sendall(b'pid=%d\n' % os.getpid())
            client.close()
if len(sys.argv) > 3:
    serve(socket.socket(fileno=int(sys.argv[3])))
listener = socket.socket()
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
listener.bind(('127.0.0.1', 0))
listener.listen(128)
listener.set_inheritable(True)
epoll = select.epoll()
if manner == 'overseer': epoll.register(listener.fileno(), select.EPOLLIN | select.EPOLLET)
with open(at('port.new'), 'w') as file: file.write(str(listener.getsockname()[1]))
os.rename(at('port.new'), at('port'))
def start():
    words = [sys.executable, *sys.argv, str(listener.fileno())]
    return os.posix_spawn(sys.executable, words, os.environ)
came = []
for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM, signal.SIGCHLD):
    signal.signal(number, lambda number, _: came.append(number))
server = start()
old = []
while True:
    if not came: select.select([wake], [], [])
    os.read(wake, 1)
    number = came.pop(0)
    if number == signal.SIGCHLD:
        while True:
            try: pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError: os._exit(3)
            if pid == 0: break
            if pid == server: os._exit(os.waitstatus_to_exitcode(status) % 256)
    elif number == signal.SIGTERM:
        os.kill(server, signal.SIGTERM)
    elif number == signal.SIGUSR2 and manner == 'overseer':
        os.kill(server, signal.SIGUSR2)
        server = 0
    elif number == signal.SIGUSR1:
        server = start()
    elif number == signal.SIGUSR2:
        before, server = server, start()
        os.kill(before, signal.SIGTERM)
";

fn follow(manner: &str) -> (Scene, Wrapper) {
    let scene = Scene::new();
    fs::write(scene.path("master.py"), MASTER).unwrap();
    let command = ["python3".to_owned(), scene.arg("master.py"), manner.to_owned(), scene.arg("")];
    let wrapper = scene.start_command(&["--follow", "USR2", "--ack", "accepting"], &command);
    wrapper.log.wait(&says::ready(1));
    (scene, wrapper)
}

fn address(scene: &Scene) -> String {
    format!("127.0.0.1:{}", fs::read_to_string(scene.path("port")).unwrap())
}

fn master_in(wrapper: &Wrapper) -> i32 {
    let line = wrapper.log.wait("generation 1: ready after * pid ");
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

/// Two upgrades under load: the process stays, its server is another one, and no request fails.
fn upgrade_twice(manner: &str) {
    let (scene, wrapper) = follow(manner);
    let master = master_in(&wrapper);
    let address = address(&scene);
    let mut servers = vec![pid_in(&who(&address))];
    let (finish, answered, failed) = (AtomicBool::new(false), AtomicU32::new(0), AtomicU32::new(0));
    std::thread::scope(|scope| {
        let _end = common::End(&finish);
        scope.spawn(|| {
            while !finish.load(Ordering::SeqCst) {
                let mut answer = String::new();
                let read = TcpStream::connect(&address).and_then(|mut client| {
                    client.set_read_timeout(Some(common::WATCHDOG))?;
                    client.read_to_string(&mut answer)
                });
                let count = if read.is_ok() && answer.starts_with("pid=") { &answered } else { &failed };
                count.fetch_add(1, Ordering::SeqCst);
            }
        });
        for generation in [2, 3] {
            wrapper.signal(Signal::SIGHUP);
            wrapper.log.wait(&format!("generation {generation}: pid {master} stays, as the master of pid "));
            wrapper.log.wait(&format!("generation {generation}: serves after"));
            servers.push(pid_in(&who(&address)));
        }
    });
    assert_eq!(failed.into_inner(), 0, "{manner}");
    assert!(answered.into_inner() > 0);
    servers.dedup();
    assert_eq!(servers.len(), 3, "{servers:?}");
    assert!(!wrapper.log.has("exited with status"), "{:?}", wrapper.log.all());
    let status = scene.status();
    assert_eq!((&status["crashes"], &status["generation"]), (&0.into(), &3.into()), "{status}");
    wrapper.stop();
}

#[test]
fn one_whose_server_leaves_before_the_next_one_starts() {
    upgrade_twice("overseer");
}

#[test]
fn one_that_ends_its_old_server_itself() {
    upgrade_twice("starter");
}

/// Its server is another one, and the worker is the same.
#[test]
fn one_that_is_told_to_restart_by_somebody_else_stays_the_worker() {
    for manner in ["overseer", "starter"] {
        let (scene, wrapper) = follow(manner);
        let master = master_in(&wrapper);
        let address = address(&scene);
        let before = pid_in(&who(&address));
        kill(Pid::from_raw(master), Signal::SIGUSR2).unwrap();
        scene.wait_gone(before);
        assert_ne!(pid_in(&who(&address)), before);
        let status = scene.status();
        assert_eq!(status["generation"], 1, "{status}");
        wrapper.signal(Signal::SIGHUP);
        wrapper.log.wait(&format!("generation 2: pid {master} stays, as the master of pid "));
        assert!(!wrapper.log.has("took over"), "{:?}", wrapper.log.all());
        wrapper.stop();
    }
}

/// What happens to the worker after an upgrade is told of the generation that serves.
#[test]
fn one_that_ends_after_an_upgrade_is_started_again() {
    let (scene, wrapper) = follow("starter");
    let master = master_in(&wrapper);
    wrapper.signal(Signal::SIGHUP);
    wrapper.log.wait("generation 2: serves after");
    kill(Pid::from_raw(pid_in(&who(&address(&scene)))), Signal::SIGKILL).unwrap();
    wrapper.log.wait(&format!("generation 2: pid {master} exited with status"));
    wrapper.log.wait(&says::started(2));
    wrapper.log.wait_nth("generation 2: ready after", 2);
    assert!(pid_in(&who(&address(&scene))) > 0);
    wrapper.stop();
}
