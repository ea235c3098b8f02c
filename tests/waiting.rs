//! What the workers that serve are seen to do, their replacements have to do: with all
//! defaults, a server that boots slowly and says nothing is replaced only by one that waits
//! for connections.

mod common;

use std::collections::VecDeque;
use std::io::Read;
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::thread::{self, JoinHandle};

use common::{Scene, Signal, Wrapper, address_in, says, who};

/// `graceful-run -b ADDRESS ARGS -- puppet`, all else as it comes.
fn start(scene: &Scene, args: &[&str]) -> Wrapper {
    scene.start(&[&["-b", "127.0.0.1:0"], args].concat())
}

fn upgrade(wrapper: &Wrapper) {
    wrapper.signal(Signal::SIGHUP);
}

#[test]
fn a_slow_release_that_fails_at_boot_is_refused() {
    for args in [&[][..], &["-n", "2"], &["--surge", "1", "-n", "2"], &["--stop-first"]] {
        let workers = if args.contains(&"-n") { 2 } else { 1 };
        let scene = Scene::of("count-signals\nwait boot\nserve");
        scene.script("2", "count-signals\nwait boot\nexit 3");
        scene.script("3", "count-signals\nserve");
        let wrapper = start(&scene, args);
        let line = wrapper
            .log
            .wait("generation 1: pid *: not ready after *: it was not seen to wait on 127.0.0.1:*");
        assert!(line.contains("; it counts as ready after 10 s all the same"), "{line}");
        scene.release("boot", workers);
        wrapper.log.wait("generation 1: serving");
        assert!(wrapper.log.has(&says::ready_by(1, "accepting")), "{:?}", wrapper.log.all());
        let address = address_in(&scene.log.wait("g1 * worker serving"));
        upgrade(&wrapper);
        let line = wrapper
            .log
            .wait("generation 2: pid *: not ready after *: it was not seen to wait on 127.0.0.1:*");
        assert!(line.contains("; it replaces no worker until it is"), "{line}");
        // Those of generation 2, and generation 1 once more where it had to leave first.
        scene.release("boot", 2 * workers);
        let line = wrapper.log.wait(&says::failed(2));
        assert!(
            line.contains("exited with status 3 before it was ready: it was not seen to wait on"),
            "{line}"
        );
        let answer = who(&address);
        assert!(answer.starts_with("g1 "), "{args:?}: {answer}");
        upgrade(&wrapper);
        wrapper.log.wait("generation 3: serves after");
        wrapper.stop();
    }
}

#[test]
fn a_shorter_ack_timeout_is_named() {
    let scene = Scene::of("wait boot\nserve");
    let wrapper = start(&scene, &["--ack-timeout", "9s"]);
    wrapper.log.wait("generation 1: pid *: not ready after *; --ack-timeout ends the wait after 9000 ms");
    scene.release("boot", 1);
    wrapper.log.wait("generation 1: serving");
    wrapper.stop();
}

/// gunicorn says so before it has imported the application.
#[test]
fn a_release_that_says_that_it_is_ready_and_fails_then_is_refused() {
    let scene = Scene::of("count-signals\nserve\nready notify");
    scene.script("2", "count-signals\nready notify\nwait import\nexit 3");
    let wrapper = start(&scene, &[]);
    wrapper.log.wait("generation 1: serving");
    upgrade(&wrapper);
    scene.log.wait("g2 s0 worker ready");
    wrapper.log.wait("generation 2: pid *: not ready after *: it was not seen to wait on");
    scene.release("import", 1);
    wrapper.log.wait(&says::failed(2));
    wrapper.stop();
}

/// By a first worker that is ready by its timer and waits only then.
#[test]
fn what_a_worker_does_after_its_timer_counts() {
    let scene = Scene::of("count-signals\nwait boot\nserve");
    scene.script("2", "count-signals\nsay up\nwait boot\nexit 3");
    let wrapper = start(&scene, &[]);
    wrapper.log.wait(&says::ready_by(1, "timer"));
    scene.release("boot", 1);
    scene.log.wait("g1 s0 worker serving");
    upgrade(&wrapper);
    scene.log.wait("g2 s0 worker up");
    wrapper.log.wait("generation 2: pid *: not ready after *; it replaces no worker until it is");
    scene.release("boot", 1);
    wrapper.log.wait(&says::failed(2));
    wrapper.stop();
}

/// Servers of select(2) sit in it, and /proc shows the call and its set.
const BY: [(&str, &str); 4] = [
    ("epoll", "p = select.epoll(); p.register(3, select.EPOLLIN)\nwhile True:\n    p.poll(); answer()"),
    ("select", "while True:\n    select.select([3], [], [], 1.0); answer()"),
    ("poll", "p = select.poll(); p.register(3, select.POLLIN)\nwhile True:\n    p.poll(1000); answer()"),
    ("accept", "while True:\n    answer()"),
];

fn server(way: &str) -> String {
    format!(
        "import os, select, socket\ns = socket.socket(fileno=3)\n\
         def answer():\n    try: c, _ = s.accept()\n    except BlockingIOError: return\n    \
         c.sendall(os.environ['GRACEFUL_RUN_GENERATION'].encode()); c.close()\n{way}\n"
    )
}

#[test]
fn a_release_may_wait_in_another_way() {
    let scene = Scene::new();
    let wrapper = python(&scene, &server(BY[0].1), &[]);
    wrapper.log.wait("generation 1: serving");
    for (generation, (way, text)) in (2..).zip(&BY[1..]) {
        std::fs::write(scene.path("app.py"), server(text)).unwrap();
        upgrade(&wrapper);
        wrapper.log.wait(&format!("generation {generation}: serves after"));
        assert!(wrapper.log.has(&says::ready_by(generation, "accepting")), "{way}");
    }
    wrapper.stop();
}

fn python(scene: &Scene, text: &str, args: &[&str]) -> Wrapper {
    std::fs::write(scene.path("app.py"), text).unwrap();
    scene.start_command(&[&["-b", "127.0.0.1:0"], args].concat(), &["python3", "app.py"])
}

/// As one of io_uring would be: it takes connections, and is never seen to wait for them.
const UNSEEN: &str = "import time\ns.setblocking(False)\nwhile True:\n    time.sleep(0.001); answer()";

#[test]
fn one_that_waits_in_a_way_that_is_not_seen_is_refused_with_the_flag_that_helps() {
    let scene = Scene::new();
    let wrapper = python(&scene, &server(BY[0].1), &["--ack-timeout", "3s"]);
    wrapper.log.wait("generation 1: serving");
    std::fs::write(scene.path("app.py"), server(UNSEEN)).unwrap();
    upgrade(&wrapper);
    let line = wrapper.log.wait(&says::failed(2));
    assert!(line.contains(" ms: it was not seen to wait on 127.0.0.1:"), "{line}");
    assert!(line.contains("--ack exec:CMD, or timer:10s"), "{line}");
    wrapper.stop();
    // And it does help.
    let scene = Scene::new();
    let wrapper = python(&scene, &server(BY[0].1), &["--ack", "auto,timer:1s"]);
    wrapper.log.wait("generation 1: serving");
    std::fs::write(scene.path("app.py"), server(UNSEEN)).unwrap();
    upgrade(&wrapper);
    wrapper.log.wait("generation 2: serves after");
    wrapper.stop();
}

/// It is always busy, as is a server whose clients are many: connections come, and it never waits.
const BUSY: &str = "import time\nfrom collections import deque\nheld = deque(maxlen=100)\ns.setblocking(False)\n\
    n = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)\nn.connect(os.environ['NOTIFY_SOCKET']); n.send(b'READY=1')\n\
    while True:\n    time.sleep(0.001)\n    try: c, _ = s.accept()\n    except BlockingIOError: continue\n    \
    c.sendall(os.environ['GRACEFUL_RUN_GENERATION'].encode()); held.append(c)";

/// Says that it is ready and does nothing, as gunicorn does whose application hangs.
const HANGS: &str = "import threading\n\
    n = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)\nn.connect(os.environ['NOTIFY_SOCKET']); n.send(b'READY=1')\n\
    threading.Event().wait()";

#[test]
fn a_release_that_says_that_it_is_ready_does_not_replace_one_that_is_always_busy() {
    for unix in [false, true] {
        let scene = Scene::new();
        std::fs::write(scene.path("app.py"), server(BUSY)).unwrap();
        let path = scene.path("s").display().to_string();
        let at = if unix { path.as_str() } else { "127.0.0.1:0" };
        let wrapper = scene.start_command(&["-b", at, "--ack-timeout", "5s"], &["python3", "app.py"]);
        let line = wrapper.log.wait("listening on *");
        wrapper.log.wait("generation 1: serving");
        let clients = BusyClients::start(
            (!unix).then(|| {
                line.rsplit(" ").find(|word| word.starts_with("127.")).expect("an address").to_owned()
            }),
            scene.path("s"),
        );
        clients.await_answers(1);
        std::fs::write(scene.path("app.py"), server(HANGS)).unwrap();
        upgrade(&wrapper);
        let line = wrapper.log.wait(&says::failed(2));
        assert!(line.contains("it was not seen to wait on"), "{line}");
        clients.await_answers(1);
        std::fs::write(scene.path("app.py"), server(BUSY)).unwrap();
        upgrade(&wrapper);
        wrapper.log.wait("generation 3: serves after");
        clients.await_answers(3);
        drop(clients);
        wrapper.stop();
    }
}

/// A client that connects again and again, and keeps what it connected for a while.
struct BusyClients {
    ends: Arc<AtomicBool>,
    answers: Receiver<u64>,
    thread: Option<JoinHandle<()>>,
}

impl BusyClients {
    fn start(address: Option<String>, path: PathBuf) -> BusyClients {
        let ends = Arc::new(AtomicBool::new(false));
        let (sender, answers) = mpsc::channel();
        let over = Arc::clone(&ends);
        let thread = thread::spawn(move || {
            let mut held: VecDeque<Box<dyn Read>> = VecDeque::new();
            while !over.load(Ordering::Relaxed) {
                let mut stream: Box<dyn Read> = match &address {
                    Some(address) => Box::new(TcpStream::connect(address).expect("connect")),
                    None => Box::new(UnixStream::connect(&path).expect("connect")),
                };
                let mut answer = [0];
                // A worker that is asked to stop may close what it has just accepted.
                if stream.read_exact(&mut answer).is_ok() {
                    let _ = sender.send(u64::from(answer[0] - b'0'));
                }
                held.push_back(stream);
                held.drain(..held.len().saturating_sub(100));
            }
        });
        BusyClients { ends, answers, thread: Some(thread) }
    }

    /// Waits until this generation has answered ten times from now on.
    fn await_answers(&self, generation: u64) {
        self.answers.try_iter().count();
        let mut left = 10;
        while left > 0 {
            let answer = self.answers.recv_timeout(common::WATCHDOG).expect("an answer");
            left -= u32::from(answer == generation);
        }
    }
}

impl Drop for BusyClients {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        let ended = self.thread.take().map(JoinHandle::join);
        assert!(thread::panicking() || ended.is_some_and(|ended| ended.is_ok()));
    }
}

/// Of two listeners one is never polled: the other one is what counts.
#[test]
fn a_listener_that_nobody_waits_on_is_not_asked_of_the_next() {
    let scene = Scene::new();
    let wrapper = python(&scene, &server(BY[0].1), &["-b", "127.0.0.1:0", "--ack-timeout", "13s"]);
    wrapper.log.wait(&says::ready_by(1, "timer"));
    wrapper.log.wait("generation 1: serving");
    upgrade(&wrapper);
    wrapper.log.wait("generation 2: serves after");
    assert!(wrapper.log.has(&says::ready_by(2, "accepting")), "{:?}", wrapper.log.all());
    std::fs::write(scene.path("app.py"), "import threading\nthreading.Event().wait()").unwrap();
    upgrade(&wrapper);
    let line = wrapper.log.wait(&says::failed(3));
    assert_eq!(line.matches("127.0.0.1:").count(), 1, "{line}");
    wrapper.stop();
}
