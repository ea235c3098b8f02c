//! Several workers of a server that binds its own socket (`-n N` with `--adopt`): how connections are
//! spread, and what becomes of them when workers are replaced, killed, started and sent away.

mod common;

use common::{End, Scene, Signal, WATCHDOG, Wrapper, host, pid_in, says, until, who};
use nix::sys::signal::kill;
use nix::unistd::Pid;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Read;
use std::net::{TcpStream, UdpSocket};
use std::process::Output;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

/// It tells everybody its pid, and is ended by TERM wherever it is. `udp://` before an address is UDP,
/// `twice://` are two sockets with SO_REUSEPORT, `look://` is a server that connects to its port to see
/// whether it is free, and takes the next one otherwise. In slot N it waits for `gate-N` before it binds
/// while there is a file `closed-N`, begins no accept(2) while there is `busy-N`, and ends with status 3
/// if there is `bad-N`.
const SERVER: &str = r"
import os, signal, socket, sys, threading, time
slot = os.environ['GRACEFUL_RUN_SLOT']
def wait(name, there):
    while os.path.exists(name + '-' + slot) != there: time.sleep(0.002)
if os.path.exists('closed-' + slot): wait('gate', True)
if os.path.exists('bad-' + slot): sys.exit(3)
def serve(listener):
    while True:
        wait('busy', False)
        client, _ = listener.accept()
        client.sendall(b'pid=%d\n' % os.getpid())
        client.close()
def is_taken(address):
    with socket.socket() as probe: return probe.connect_ex(address) == 0
def bound(kind, host, port, reuse=False):
    one = socket.socket(socket.AF_INET, kind)
    if kind == socket.SOCK_STREAM: one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if reuse: one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    one.bind((host, port))
    if kind == socket.SOCK_STREAM: one.listen(128)
    return one
def echo(one):
    while True: one.sendto(b'pid=%d\n' % os.getpid(), one.recvfrom(100)[1])
def start(work, one): threading.Thread(target=work, args=(one,), daemon=True).start()
for word in sys.argv[1:]:
    kind, _, address = word.rpartition('//')
    host, port = address.rsplit(':', 1)
    port = int(port)
    if kind == 'udp:': start(echo, bound(socket.SOCK_DGRAM, host, port))
    elif kind == 'twice:':
        for one in [bound(socket.SOCK_STREAM, host, port, True) for _ in range(2)]: start(serve, one)
    else:
        while kind == 'look:' and is_taken((host, port)): port += 1
        start(serve, bound(socket.SOCK_STREAM, host, port))
while True: signal.pause()
";

struct Cluster {
    scene: Scene,
    address: String,
}

impl Cluster {
    fn new() -> Cluster {
        let scene = Scene::new();
        fs::write(scene.path("server.py"), SERVER).unwrap();
        Cluster { scene, address: format!("{}:8000", host()) }
    }

    /// Starts it at these addresses, `+` standing for that of the cluster, and waits until it serves.
    fn start(&self, options: &[&str], addresses: &[&str]) -> Wrapper {
        let addresses = addresses.iter().map(|word| word.replace('+', &self.address));
        let command = ["python3".to_owned(), self.scene.arg("server.py")].into_iter().chain(addresses);
        let wrapper = self.scene.start_command(options, &command.collect::<Vec<_>>());
        wrapper.log.wait("generation 1: serving");
        wrapper
    }

    fn ctl(&self, args: &[&str]) -> Output {
        let done = self.scene.ctl(args);
        assert!(done.status.success(), "{args:?}: {done:?}");
        done
    }

    /// The one adopted address, in `ctl status`.
    fn adopted(&self) -> serde_json::Value {
        let status = self.scene.status();
        let addresses = status["adopt"]["addresses"].as_array().expect("addresses");
        assert_eq!(addresses.len(), 1, "{status}");
        addresses[0].clone()
    }

    /// The pids of the workers that get new connections, by slot.
    fn serving(&self) -> BTreeMap<u64, i32> {
        let adopted = self.adopted();
        let serving = adopted["serving"].as_array().expect("workers").clone();
        let pid = |server: &serde_json::Value| server["pid"].as_i64().expect("a pid") as i32;
        serving.iter().map(|server| (server["slot"].as_u64().expect("a slot"), pid(server))).collect()
    }

    /// The generations of the workers that get new connections, in the order of their slots.
    fn generations(&self) -> Vec<u64> {
        let adopted = self.adopted();
        let serving = adopted["serving"].as_array().expect("workers").clone();
        let mut serving: Vec<(u64, u64)> = serving
            .iter()
            .map(|server| (server["slot"].as_u64().unwrap(), server["generation"].as_u64().unwrap()))
            .collect();
        serving.sort_unstable();
        serving.into_iter().map(|(_, generation)| generation).collect()
    }

    /// Who answers so many connections, and how many of them.
    fn count(&self, connections: u32) -> BTreeMap<i32, u32> {
        let mut counts = BTreeMap::new();
        for _ in 0..connections {
            *counts.entry(pid_in(&who(&self.address))).or_default() += 1;
        }
        counts
    }

    /// All of these answer, and nobody else.
    fn await_answers_of(&self, workers: &BTreeSet<i32>) {
        let found: BTreeSet<i32> = self.count(60 * workers.len() as u32).into_keys().collect();
        assert_eq!(&found, workers);
    }

    fn pids(&self) -> BTreeSet<i32> {
        let adopted = self.adopted();
        let serving = adopted["serving"].as_array().expect("workers").iter();
        serving.map(|server| server["pid"].as_i64().expect("a pid") as i32).collect()
    }

    fn connect(&self) -> TcpStream {
        let client = TcpStream::connect(&self.address).expect("connect");
        client.set_read_timeout(Some(WATCHDOG)).expect("a watchdog");
        client
    }

    fn write(&self, name: &str) {
        fs::write(self.scene.path(name), "").unwrap();
    }

    fn remove(&self, name: &str) {
        fs::remove_file(self.scene.path(name)).unwrap();
    }
}

fn answer(mut client: TcpStream) -> i32 {
    let mut answer = String::new();
    client.read_to_string(&mut answer).expect("an answer");
    pid_in(&answer)
}

fn murder(pid: i32) {
    kill(Pid::from_raw(pid), Signal::SIGKILL).expect("it is ours");
}

/// Clients that connect without a pause, and never try again.
struct Load {
    over: Arc<AtomicBool>,
    clients: Vec<JoinHandle<u32>>,
    failed: Arc<Mutex<Vec<String>>>,
}

impl Load {
    fn new(address: &str) -> Load {
        let (over, failed) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
        let client = || {
            let (over, failed, address) = (Arc::clone(&over), Arc::clone(&failed), address.to_owned());
            thread::spawn(move || {
                let mut done = 0;
                while !over.load(Ordering::SeqCst) {
                    match ask(&address) {
                        Ok(()) => done += 1,
                        Err(why) => failed.lock().unwrap().push(why),
                    }
                }
                done
            })
        };
        Load { clients: (0..3).map(|_| client()).collect(), over: Arc::clone(&over), failed }
    }

    /// Nothing was lost.
    fn end(self) {
        drop(End(&self.over));
        let done: u32 = self.clients.into_iter().map(|client| client.join().expect("a client")).sum();
        let failed = self.failed.lock().unwrap();
        assert!(failed.is_empty() && done > 0, "{} of {done} failed: {failed:?}", failed.len());
    }
}

fn ask(address: &str) -> Result<(), String> {
    let mut client = TcpStream::connect(address).map_err(|error| format!("connect: {error}"))?;
    client.set_read_timeout(Some(WATCHDOG)).expect("a watchdog");
    let mut answer = String::new();
    client.read_to_string(&mut answer).map_err(|error| format!("read: {error}"))?;
    match answer.starts_with("pid=") && answer.ends_with('\n') {
        true => Ok(()),
        false => Err(format!("the answer was {answer:?}")),
    }
}

#[test]
fn connections_are_spread_evenly() {
    let cluster = Cluster::new();
    let wrapper = cluster.start(&["-n", "4"], &["+"]);
    wrapper.log.wait("whatever the worker binds is adopted");
    assert_eq!(cluster.serving().keys().copied().collect::<Vec<_>>(), [0, 1, 2, 3]);
    let counts = cluster.count(10_000);
    assert_eq!(counts.keys().copied().collect::<BTreeSet<_>>(), cluster.pids());
    for (pid, count) in &counts {
        assert!((2000..=3000).contains(count), "pid {pid}: {counts:?}");
    }
    let shown = String::from_utf8(cluster.ctl(&["status"]).stdout).expect("UTF-8");
    assert!(shown.contains("SLOTS") && shown.contains(" 0-3 "), "{shown}");
    wrapper.stop();
}

#[test]
fn no_connection_is_lost_when_all_are_replaced() {
    let cluster = Cluster::new();
    let wrapper = cluster.start(&["--adopt", "-n", "3"], &["+"]);
    let load = Load::new(&cluster.address);
    for generation in 2..6 {
        let before = cluster.pids();
        cluster.ctl(&["upgrade"]);
        assert_eq!(cluster.generations(), [generation; 3]);
        assert!(cluster.pids().is_disjoint(&before));
        wrapper.log.wait(&format!("generation {generation}: serves after * drains"));
    }
    load.end();
    cluster.await_answers_of(&cluster.pids());
    wrapper.stop();
}

/// Slot by slot: at any moment three workers serve, and each that is replaced hears of it before its
/// drain. One that fails ends the upgrade half-way.
#[test]
fn slot_by_slot_old_and_new_serve_together() {
    let cluster = Cluster::new();
    let told = cluster.scene.arg("told");
    let hook = format!("pre-stop=echo $GRACEFUL_RUN_SLOT >> {told}");
    let wrapper = cluster.start(&["--adopt", "-n", "3", "--surge", "1", "--hook", &hook], &["+"]);
    let load = Load::new(&cluster.address);
    let first = cluster.serving();
    cluster.write("bad-1");
    let refused = cluster.scene.ctl(&["upgrade"]);
    let why = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && why.contains("1 of 3"), "{why}");
    assert_eq!(cluster.generations(), [2, 1, 1]);
    let mixed = cluster.serving();
    assert_eq!((mixed[&1], mixed[&2]), (first[&1], first[&2]));
    cluster.await_answers_of(&cluster.pids());
    cluster.remove("bad-1");
    cluster.ctl(&["upgrade"]);
    assert_eq!(cluster.generations(), [3, 3, 3]);
    cluster.await_answers_of(&cluster.pids());
    load.end();
    until("all have gone", || wrapper.log.count("* was ended by signal 15 (TERM) *") >= 4);
    assert_eq!(
        fs::read_to_string(&told).expect("the hooks").lines().collect::<Vec<_>>(),
        ["0", "0", "1", "2"]
    );
    wrapper.stop();
}

/// It gets nothing new from its death on, and what waits in its queue is for the one in its place.
#[test]
fn a_worker_that_is_killed_gets_no_connection_and_loses_none_that_waits() {
    let cluster = Cluster::new();
    let wrapper = cluster.start(&["--adopt", "-n", "3"], &["+"]);
    let before = cluster.serving();
    for name in ["busy-0", "closed-0"] {
        cluster.write(name);
    }
    // It was in accept(2) already.
    until("it begins no other", || pid_in(&who(&cluster.address)) == before[&0]);
    let clients: Vec<TcpStream> = (0..60).map(|_| cluster.connect()).collect();
    until("some wait", || cluster.adopted()["queue"].as_u64().is_some_and(|queue| queue >= 5));
    murder(before[&0]);
    wrapper.log.wait(&says::killed(1, 9));
    let others: BTreeSet<i32> = [before[&1], before[&2]].into();
    cluster.await_answers_of(&others);
    assert_eq!(cluster.pids(), others);
    let adopted = cluster.adopted();
    assert_eq!((&adopted["sockets"], &adopted["others"]), (&2.into(), &1.into()), "its queue is kept");
    cluster.remove("busy-0");
    cluster.write("gate-0");
    wrapper.log.wait_nth("generation 1: ready after", 4);
    let after = cluster.serving();
    assert_eq!((after[&1], after[&2], after.len()), (before[&1], before[&2], 3));
    let answers: Vec<i32> = clients.into_iter().map(answer).collect();
    let by_the_next = answers.iter().filter(|&&pid| pid == after[&0]).count();
    assert!(by_the_next >= 5 && !answers.contains(&before[&0]), "{answers:?} after {before:?}");
    cluster.await_answers_of(&cluster.pids());
    assert_eq!(cluster.adopted()["sockets"], 3);
    cluster.ctl(&["upgrade"]);
    assert_eq!(cluster.generations(), [2; 3]);
    wrapper.stop();
}

#[test]
fn connections_wait_while_every_worker_is_down() {
    let cluster = Cluster::new();
    let wrapper = cluster.start(&["--adopt", "-n", "3"], &["+"]);
    for slot in 0..3 {
        cluster.write(&format!("closed-{slot}"));
    }
    let before = cluster.serving();
    before.values().for_each(|&pid| murder(pid));
    wrapper.log.wait_nth(&says::killed(1, 9), 3);
    let clients: Vec<TcpStream> = (0..30).map(|_| cluster.connect()).collect();
    for slot in 0..3 {
        cluster.write(&format!("gate-{slot}"));
    }
    wrapper.log.wait_nth("generation 1: ready after", 6);
    let after = cluster.pids();
    let mut answers = clients.into_iter().map(answer);
    assert!(answers.all(|pid| after.contains(&pid)), "{after:?}");
    assert_eq!(after.len(), 3);
    assert_eq!(cluster.adopted()["sockets"], 3);
    cluster.await_answers_of(&after);
    wrapper.stop();
}

/// A worker that is not wanted any more serves what it has.
#[test]
fn no_connection_is_lost_when_their_number_changes() {
    let cluster = Cluster::new();
    let wrapper = cluster.start(&["--adopt", "-n", "2"], &["+"]);
    let load = Load::new(&cluster.address);
    for number in [5, 1, 3] {
        cluster.ctl(&["scale", &number.to_string()]);
        assert_eq!(cluster.serving().keys().copied().collect::<Vec<_>>(), (0..number).collect::<Vec<_>>());
        cluster.await_answers_of(&cluster.pids());
    }
    wrapper.signal(Signal::SIGTTOU);
    until("it has gone", || cluster.scene.status()["workers"].as_array().is_some_and(|left| left.len() == 2));
    wrapper.signal(Signal::SIGTTIN);
    until("it serves", || cluster.serving().len() == 3);
    load.end();
    assert_eq!(wrapper.log.count("generation 1: pid *: drained after *"), 5);
    wrapper.stop();
}

/// One that is killed while it is not wanted leaves no queue behind.
#[test]
fn a_slot_that_is_removed_keeps_no_socket() {
    let cluster = Cluster::new();
    let wrapper = cluster.start(&["--adopt", "-n", "3"], &["+"]);
    cluster.write("closed-2");
    murder(cluster.serving()[&2]);
    wrapper.log.wait(&says::killed(1, 9));
    until("it is started again", || {
        cluster.scene.status()["workers"].as_array().is_some_and(|all| all.len() == 3)
    });
    cluster.ctl(&["scale", "2"]);
    let adopted = cluster.adopted();
    assert_eq!((&adopted["sockets"], &adopted["others"]), (&2.into(), &0.into()), "{adopted}");
    cluster.await_answers_of(&cluster.pids());
    wrapper.stop();
}

#[test]
fn we_are_replaced_and_all_of_it_stays() {
    let cluster = Cluster::new();
    let wrapper = cluster.start(&["--adopt", "-n", "3"], &["+"]);
    let load = Load::new(&cluster.address);
    let before = cluster.serving();
    cluster.ctl(&["reexec"]);
    assert_eq!(cluster.serving(), before);
    cluster.await_answers_of(&cluster.pids());
    cluster.ctl(&["upgrade"]);
    cluster.ctl(&["reexec"]);
    cluster.ctl(&["scale", "4"]);
    assert_eq!(cluster.generations(), [2; 4]);
    load.end();
    cluster.await_answers_of(&cluster.pids());
    let lost = cluster.serving()[&1];
    murder(lost);
    until("it is replaced", || cluster.serving().get(&1).is_some_and(|&pid| pid != lost));
    assert_eq!(cluster.adopted()["sockets"], 4);
    wrapper.stop();
}

/// The new one gets its part beside all old ones, and a rollback takes it back.
#[test]
fn a_held_upgrade_serves_beside_the_old_ones() {
    let cluster = Cluster::new();
    let wrapper = cluster.start(&["--adopt", "-n", "2"], &["+"]);
    let load = Load::new(&cluster.address);
    let old = cluster.pids();
    cluster.ctl(&["upgrade", "--hold"]);
    let both = cluster.pids();
    assert!(both.is_superset(&old) && both.len() == 3, "{both:?} after {old:?}");
    cluster.await_answers_of(&both);
    cluster.ctl(&["rollback"]);
    assert_eq!(cluster.pids(), old);
    cluster.await_answers_of(&old);
    cluster.ctl(&["upgrade", "--hold"]);
    cluster.ctl(&["reexec"]);
    assert_eq!(cluster.pids().len(), 3);
    cluster.ctl(&["commit"]);
    assert_eq!(cluster.generations(), [3; 2]);
    cluster.await_answers_of(&cluster.pids());
    load.end();
    wrapper.stop();
}

/// A server that has several sockets of its own at one address keeps them.
#[test]
fn each_worker_may_have_several_sockets() {
    let cluster = Cluster::new();
    let wrapper = cluster.start(&["--adopt", "-n", "2"], &["twice://+"]);
    assert_eq!(cluster.adopted()["sockets"], 4);
    let load = Load::new(&cluster.address);
    cluster.ctl(&["upgrade"]);
    load.end();
    assert_eq!(cluster.adopted()["sockets"], 4);
    let lost = cluster.serving()[&0];
    murder(lost);
    until("it is replaced", || cluster.serving().get(&0).is_some_and(|&pid| pid != lost));
    let adopted = cluster.adopted();
    assert_eq!((&adopted["sockets"], &adopted["others"]), (&4.into(), &0.into()), "{adopted}");
    cluster.await_answers_of(&cluster.pids());
    wrapper.stop();
}

/// Each would find the first one, and take the next port.
#[test]
fn servers_that_look_whether_their_port_is_free_are_refused_there() {
    let cluster = Cluster::new();
    let wrapper = cluster.start(&["--adopt", "-n", "3"], &["look://+"]);
    assert_eq!(cluster.adopted()["sockets"], 3);
    cluster.await_answers_of(&cluster.pids());
    cluster.ctl(&["upgrade"]);
    assert_eq!(cluster.generations(), [2; 3]);
    wrapper.stop();
}

/// The first one binds it, and the others get that socket.
#[test]
fn what_is_shared_is_shared_by_all() {
    for mode in ["--adopt=steer", "--adopt=share"] {
        let cluster = Cluster::new();
        let datagrams = format!("udp://{}", cluster.address);
        let wrapper = cluster.start(&[mode, "-n", "3"], &["+", "udp://+"]);
        for _ in 0..2 {
            // What one that is asked to stop has read is lost.
            let mut workers = BTreeSet::new();
            until("the old ones have gone", || {
                let all = cluster.scene.status()["workers"].as_array().expect("workers").clone();
                workers = all.iter().filter_map(|worker| worker["pid"].as_i64()).collect();
                workers.len() == 3
            });
            let client = UdpSocket::bind((host(), 0)).expect("a client");
            client.set_read_timeout(Some(WATCHDOG)).expect("a watchdog");
            let mut found = BTreeSet::new();
            until("each answers", || {
                let mut answer = [0; 32];
                client.send_to(b"x", &cluster.address).expect("sent");
                let length = client.recv(&mut answer).expect("an answer");
                found.insert(i64::from(pid_in(std::str::from_utf8(&answer[..length]).expect("UTF-8"))));
                let pid = i64::from(pid_in(&who(&cluster.address)));
                assert!(workers.contains(&pid), "{pid} is none of {workers:?}");
                found == workers
            });
            cluster.ctl(&["upgrade"]);
        }
        let status = cluster.scene.status();
        let addresses = status["adopt"]["addresses"].as_array().expect("addresses");
        let shared =
            addresses.iter().find(|shown| shown["address"] == datagrams.as_str()).expect("it is shown");
        assert_eq!(shared["sockets"], 1, "{status}");
        wrapper.stop();
    }
}
