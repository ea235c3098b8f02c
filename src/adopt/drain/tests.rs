use super::*;
use crate::sys::tree;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::process::{Child, Command, Stdio};

const FOR_EVER: Duration = Duration::from_secs(3600);

/// A worker that is this process, unless another one is named.
struct Server {
    listener: TcpListener,
    drain: Drain,
}

impl Server {
    fn new(address: &str) -> Server {
        let listener = TcpListener::bind(address).expect("bind");
        let drain = begin(&listener);
        Server { listener, drain }
    }

    fn connect(&self) -> (TcpStream, TcpStream) {
        let client = TcpStream::connect(self.address()).expect("connect");
        (client, self.listener.accept().expect("accept").0)
    }

    fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.listener.local_addr().expect("an address").port()))
    }

    fn inspect(&mut self, idle: Duration) -> Remaining {
        self.inspect_process(Pid::this(), idle, Time::ZERO)
    }

    fn inspect_process(&mut self, root: Pid, idle: Duration, now: Time) -> Remaining {
        let listeners = [self.listener.as_fd()].into_iter();
        self.drain.inspect(root, &BTreeSet::new(), listeners, idle, now)
    }

    /// Inspects until the result is `wanted`.
    fn inspect_until(&mut self, idle: Duration, wanted: Remaining) {
        while self.inspect(idle) != wanted {}
    }
}

fn begin(listener: &TcpListener) -> Drain {
    let ports = ports(listener);
    let handshakes = handshakes(&ports);
    Drain::begin(ports, handshakes, Time::ZERO)
}

fn ports(listener: &TcpListener) -> BTreeSet<u16> {
    BTreeSet::from([listener.local_addr().expect("an address").port()])
}

fn left(arriving: u32, waiting: u32, busy: u32, idle: u32) -> Remaining {
    Remaining { arriving, waiting, busy, idle, visibility: Visibility::Full }
}

/// A request and its answer.
fn exchange(client: &mut TcpStream, server: &mut TcpStream) {
    send(client, server);
    send(server, client);
}

fn send(from: &mut TcpStream, to: &mut TcpStream) {
    from.write_all(b"x").expect("write");
    to.read_exact(&mut [0]).expect("read");
}

#[test]
fn a_connection_is_followed_from_the_queue_to_its_end() {
    for address in ["127.0.0.1:0", "[::]:0"] {
        let mut server = Server::new(address);
        assert_eq!(server.inspect(FOR_EVER), left(0, 0, 0, 0));
        assert!(!server.drain.is_drained(), "one inspection is not enough");
        let mut client = TcpStream::connect(server.address()).expect("connect");
        server.inspect_until(FOR_EVER, left(0, 1, 0, 0));
        let (mut accepted, _) = server.listener.accept().expect("accept");
        assert_eq!(server.inspect(FOR_EVER), left(0, 0, 1, 0), "fresh");
        exchange(&mut client, &mut accepted);
        server.inspect_until(FOR_EVER, left(0, 0, 1, 0));
        server.inspect_until(Duration::ZERO, left(0, 0, 0, 1));
        assert!(!server.drain.is_drained(), "the inspection before that has found something");
        send(&mut client, &mut accepted);
        assert_eq!(server.inspect(FOR_EVER), left(0, 0, 1, 0), "a request in flight");
        drop(accepted);
        assert_eq!(server.inspect(FOR_EVER), left(0, 0, 0, 0));
        assert_eq!(server.inspect(FOR_EVER), left(0, 0, 0, 0));
        assert!(server.drain.is_drained());
    }
}

#[test]
fn a_request_that_came_with_the_last_answer_is_in_flight() {
    let mut server = Server::new("127.0.0.1:0");
    let (mut client, mut accepted) = server.connect();
    let open =
        |server: &Server| tcp_diag::connections(&ports(&server.listener)).expect("an answer")[..].to_vec();
    let moved = |server: &Server| {
        let open = open(server);
        let [open] = open[..] else { panic!("{open:?}") };
        open.tcp_info.expect("tcp_info")
    };
    // As soon as the kernel has acknowledged the request by itself.
    let before = loop {
        exchange(&mut client, &mut accepted);
        let before = moved(&server);
        send(&mut client, &mut accepted);
        if moved(&server).since_sent == moved(&server).since_received {
            break before;
        }
        send(&mut accepted, &mut client);
    };
    let own = |moved: TcpInfo| moved.segments_sent - moved.data_segments_sent;
    let after = loop {
        let after = moved(&server);
        if own(after) > own(before) {
            break after;
        }
    };
    if after.since_sent == after.since_received {
        let silent = after.since_sent;
        assert!(required_silence(&after, silent).expect("in doubt") > silent, "{after:?}");
    }
    assert_eq!(server.inspect(FOR_EVER), left(0, 0, 1, 0));
}

#[test]
fn the_required_silence_depends_on_who_sent_last() {
    let idle = Duration::from_secs(1);
    let moved = |sent, received, bytes_received, segments_sent, data_segments_sent| TcpInfo {
        since_sent: Duration::from_millis(sent),
        since_received: Duration::from_millis(received),
        bytes_received,
        segments_sent,
        data_segments_sent,
    };
    for (what, moved, expected) in [
        ("answered", moved(1000, 1004, 5, 3, 1), Some(idle)),
        ("asked", moved(1004, 1000, 5, 3, 1), None),
        ("asked as soon as it was connected", moved(1000, 1000, 5, 1, 0), None),
        ("never asked anything", moved(1000, 1000, 0, 0, 0), Some(idle)),
        ("was greeted", moved(1000, 1004, 0, 1, 1), Some(idle)),
        ("answered at once", moved(1000, 1000, 5, 2, 1), Some(idle)),
        ("answered at once, or asked again", moved(1000, 1000, 5, 3, 1), Some(idle * UNSURE_FACTOR)),
    ] {
        assert_eq!(required_silence(&moved, idle), expected, "{what}");
    }
    assert_eq!(required_silence(&moved(1, 1, 5, 2, 1), Duration::ZERO), Some(ACK_DELAY));
    let answered = |rqueue, wqueue| {
        let moved = Some(moved(1000, 1004, 5, 3, 1));
        is_idle(&Connection { inode: 1, rqueue, wqueue, tcp_info: moved }, idle)
    };
    assert!(answered(0, 0) && !answered(1, 0) && !answered(0, 1));
    assert!(
        !is_idle(&Connection { inode: 1, rqueue: 0, wqueue: 0, tcp_info: None }, idle),
        "unknown counts as busy"
    );
}

#[test]
fn a_client_that_has_never_sent_anything_is_idle() {
    let mut server = Server::new("127.0.0.1:0");
    let (_client, _accepted) = server.connect();
    assert_eq!(server.inspect(FOR_EVER), left(0, 0, 1, 0));
    assert_eq!(server.inspect(Duration::ZERO), left(0, 0, 0, 1));
    assert_eq!(server.inspect(Duration::ZERO), left(0, 0, 0, 1));
    assert!(server.drain.is_drained());
}

#[test]
fn what_has_not_been_read_or_acknowledged_counts() {
    let mut server = Server::new("127.0.0.1:0");
    let (mut client, mut accepted) = server.connect();
    client.write_all(b"x").expect("write");
    assert_eq!(server.inspect(Duration::ZERO), left(0, 0, 1, 0));
    accepted.read_exact(&mut [0]).expect("read");
    accepted.set_nonblocking(true).expect("set");
    while accepted.write(&[0; 65536]).is_ok() {}
    assert_eq!(server.inspect(Duration::ZERO), left(0, 0, 1, 0));
    // Nobody has its descriptor any more, and what has been written arrives without help.
    drop(accepted);
    assert_eq!(server.inspect(FOR_EVER), left(0, 0, 0, 0));
}

#[test]
fn a_client_that_has_closed_its_half_is_answered() {
    let mut server = Server::new("127.0.0.1:0");
    let (mut client, mut accepted) = server.connect();
    send(&mut client, &mut accepted);
    client.shutdown(Shutdown::Write).expect("shutdown");
    accepted.read_to_end(&mut Vec::new()).expect("the end");
    assert_eq!(server.inspect(Duration::ZERO), left(0, 0, 1, 0), "CLOSE_WAIT");
    accepted.write_all(b"x").expect("write");
    accepted.shutdown(Shutdown::Write).expect("shutdown");
    assert_eq!(server.inspect(FOR_EVER), left(0, 0, 0, 0), "LAST_ACK and beyond");
    let (client, accepted) = server.connect();
    accepted.shutdown(Shutdown::Write).expect("shutdown");
    server.inspect_until(FOR_EVER, left(0, 0, 1, 0));
    drop((client, accepted));
    assert_eq!(server.inspect(FOR_EVER), left(0, 0, 0, 0));
}

/// With TCP_DEFER_ACCEPT, the kernel keeps a connection in its handshake until data comes.
#[test]
fn a_handshake_under_way_is_waited_for() {
    for address in ["127.0.0.1:0", "[::]:0"] {
        let mut server = Server::new(address);
        fd::set_defer_accept(server.listener.as_fd(), 10).expect("set");
        let mut client = TcpStream::connect(server.address()).expect("connect");
        server.drain = begin(&server.listener);
        assert_eq!(server.inspect(FOR_EVER), left(1, 0, 0, 0));
        let later = TcpStream::connect(server.address()).expect("connect");
        assert_eq!(server.inspect(FOR_EVER), left(1, 0, 0, 0), "the other is not ours");
        client.write_all(b"x").expect("write");
        server.inspect_until(FOR_EVER, left(0, 1, 0, 0));
        let _accepted = server.listener.accept().expect("accept");
        server.inspect_until(FOR_EVER, left(0, 0, 1, 0));
        server.drain = begin(&server.listener);
        assert_eq!(server.inspect_process(Pid::this(), FOR_EVER, HANDSHAKE), left(0, 0, 1, 0), "given up");
        drop(later);
    }
}

/// A shell that has left what it got as stdin to a child, which ends once it has read a line.
fn grandchild(stdin: TcpStream) -> Child {
    let mut child = Command::new("sh")
        .args(["-c", "exec 3<&0; (read line <&3) & exec 3<&- </dev/null; echo; wait"])
        .stdin(std::os::fd::OwnedFd::from(stdin))
        .stdout(Stdio::piped())
        .spawn()
        .expect("sh");
    let stdout = child.stdout.take().expect("a pipe");
    BufReader::new(stdout).read_line(&mut String::new()).expect("a line");
    child
}

#[test]
fn the_whole_tree_holds_and_other_workers_are_not_of_it() {
    let mut server = Server::new("127.0.0.1:0");
    let (mut client, accepted) = server.connect();
    let mut child = grandchild(accepted);
    let root = Pid::from_raw(child.id() as i32);
    assert_eq!(server.inspect_process(root, FOR_EVER, Time::ZERO), left(0, 0, 1, 0));
    let holder: BTreeSet<Pid> = tree::children(root).into_iter().collect();
    let listeners = std::iter::empty();
    assert_eq!(server.drain.inspect(root, &holder, listeners, FOR_EVER, Time::ZERO), left(0, 0, 0, 0));
    client.write_all(b"x\n").expect("write");
    child.wait().expect("it ends");
    assert_eq!(server.inspect_process(root, FOR_EVER, Time::ZERO), left(0, 0, 0, 0), "it has gone");
}

#[test]
fn inspections_are_further_apart_the_more_they_cost() {
    let mut server = Server::new("127.0.0.1:0");
    assert_eq!(server.drain.pause(1), FIRST_PAUSE);
    let (client, accepted) = server.connect();
    while server.drain.spent <= FREE_COST {
        server.inspect(FOR_EVER);
        assert!(server.drain.spent > FREE_COST || server.drain.pause(1) == server.drain.back_off);
    }
    for _ in 0..10 {
        server.inspect(FOR_EVER);
        assert!(server.drain.pause(1) >= server.drain.owed * COST_FACTOR);
    }
    assert_eq!(server.drain.back_off, LONGEST_PAUSE);
    let mut again = server.connect();
    drop((client, accepted));
    exchange(&mut again.0, &mut again.1);
    server.inspect_until(Duration::ZERO, left(0, 0, 0, 1));
    assert_eq!(server.drain.pause(1), FIRST_PAUSE);
    let owed = server.drain.owed;
    assert_eq!(server.inspect(FOR_EVER), left(0, 0, 1, 0));
    assert!(server.drain.owed > owed && server.drain.pause(1) >= owed * COST_FACTOR, "it is made up for");
    assert!(server.drain.pause(5) >= owed * COST_FACTOR * 5, "five of them take no more");
}
