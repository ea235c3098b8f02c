//! A worker that binds its own sockets (`--adopt`), and the processes and threads that it has: whose
//! each is, and what is said of them.

mod common;

use common::{Scene, WATCHDOG, Wrapper, host, pid_in, says, until};
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;

/// Each connection is served by a process that was forked twice, so that it is our child. It answers
/// with its pid once the file is there that the client has named.
const FORKS_TWICE: &str = r"
import os, socket, sys, time
one = socket.socket()
one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
one.bind((sys.argv[1], 8000))
one.listen(64)
while True:
    client, _ = one.accept()
    child = os.fork()
    if child == 0:
        if os.fork() == 0:
            one.close()
            name = client.recv(100).decode()
            open(name + '.held', 'w').close()
            while not os.path.exists(name): time.sleep(0.002)
            client.sendall(b'pid=%d\n' % os.getpid())
        os._exit(0)
    os.waitpid(child, 0)
    client.close()
";

/// A connection that a process has, which waits for the file of this name.
fn held(scene: &Scene, host: &str, name: &str) -> TcpStream {
    let mut client = TcpStream::connect((host, 8000)).expect("connect");
    client.set_read_timeout(Some(WATCHDOG)).expect("a watchdog");
    client.write_all(name.as_bytes()).expect("a request");
    until("a process has it", || scene.path(&format!("{name}.held")).exists());
    client
}

#[test]
fn children_of_the_new_worker_do_not_hold_up_the_drain_of_the_old_one() {
    let scene = Scene::new();
    fs::write(scene.path("server.py"), FORKS_TWICE).unwrap();
    let host = host();
    // A drain that goes on for so long has failed.
    let args = ["--adopt", "--drain-timeout", "20s", "--idle", "1ms"];
    let wrapper = scene.start_command(&args, &["python3", "server.py", &host]);
    wrapper.log.wait(&says::ready(1));
    let mut of_old = held(&scene, &host, "old");
    let done = scene.ctl(&["upgrade"]);
    assert!(done.status.success(), "{done:?}");
    let mut of_new = held(&scene, &host, "new");
    // A drain that does not see the child of its worker has ended by the time that this one is done.
    let done = scene.ctl(&["upgrade"]);
    assert!(done.status.success(), "{done:?}");
    until("what each of them has left behind counts, and for it alone", || {
        let workers = scene.status()["workers"].as_array().cloned().expect("workers");
        let [oldest, old, _] = workers.as_slice() else { panic!("a child was forgotten: {workers:?}") };
        [oldest, old].into_iter().all(|worker| {
            assert_eq!(worker["stage"], "draining", "{worker}");
            worker["drain"].as_str().is_some_and(|left| left.starts_with("1 connection busy"))
        })
    });
    fs::write(scene.path("old"), "").unwrap();
    wrapper.log.wait("generation 1: pid *: drained after");
    fs::write(scene.path("new"), "").unwrap();
    wrapper.log.wait("generation 2: pid *: drained after");
    for client in [&mut of_old, &mut of_new] {
        let mut answer = String::new();
        client.read_to_string(&mut answer).expect("an answer");
        assert!(pid_in(&answer) > 0);
    }
    wrapper.stop();
}

/// Threads that wait on a socket before they bind it to an address of ours, and one that does not.
const WAITS_FIRST: &str = r"
import os, select, socket, sys, threading
def waits_first():
    one, poll = socket.socket(), select.epoll()
    poll.register(one, select.EPOLLIN)
    try: one.bind((sys.argv[1], 8000))
    except OSError: pass
for _ in range(3):
    thread = threading.Thread(target=waits_first)
    thread.start()
    thread.join()
one = socket.socket()
one.bind((sys.argv[1], 8000))
one.listen(64)
while True:
    client, _ = one.accept()
    client.close()
";

#[test]
fn a_warning_that_names_a_thread_is_told_once_for_its_worker() {
    let scene = Scene::new();
    fs::write(scene.path("server.py"), WAITS_FIRST).unwrap();
    let host = host();
    let address = format!("{host}:8000");
    let wrapper = scene.start_command(&["--adopt=share", "-b", &address], &["python3", "server.py", &host]);
    wrapper.log.wait(&says::ready(1));
    let line = "waits on its socket before it binds it to ";
    assert_eq!(wrapper.log.count(line), 1, "{:?}", wrapper.log.all());
    let done = scene.ctl(&["upgrade"]);
    assert!(done.status.success(), "{done:?}");
    assert_eq!(wrapper.log.count(line), 2, "another worker is told of: {:?}", wrapper.log.all());
    wrapper.stop();
}

/// Several sockets at one address, and many other descriptors.
const MANY: &str = r"
import os, socket, sys, time
held = []
for _ in range(4):
    one = socket.socket()
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    one.bind((sys.argv[1], 8000))
    one.listen(64)
    held.append(one)
held += [socket.socket() for _ in range(500)]
while True: time.sleep(1000)
";

/// The loop waits for the next input, and not until a certain time (futex(2)).
fn rests(wrapper: &Wrapper) -> bool {
    let call = fs::read_to_string(format!("/proc/{}/syscall", wrapper.pid)).expect("its system call");
    let words: Vec<&str> = call.split_whitespace().collect();
    words.first() == Some(&libc::SYS_futex.to_string().as_str()) && words.get(4) == Some(&"0x0")
}

#[test]
fn nothing_is_done_at_rest() {
    let scene = Scene::new();
    fs::write(scene.path("server.py"), MANY).unwrap();
    let wrapper = scene.start_command(&["--adopt"], &["python3", "server.py", &host()]);
    wrapper.log.wait(&says::ready(1));
    assert_eq!(scene.status()["adopt"]["addresses"][0]["sockets"], 4);
    until("it rests", || rests(&wrapper));
    wrapper.stop();
}
