//! How it is seen that an old worker has nothing left: no handshake that its listeners have begun,
//! nothing in their queues, no connection at which it or its peer has still something to say.
//!
//! A connection goes from the one to the next while we look, so that is the order in which they
//! are looked at. What goes sideways, say from a process to another through a unix socket, or past
//! a look of the kernel's at a table that changes, is caught by a second look: only two in a row
//! that find nothing count. What cannot be seen is never taken to be nothing.

use crate::core::event::Time;
use crate::sys::fd;
use crate::sys::flows::{self, Flow, Moved, Open};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;
use std::collections::{BTreeSet, HashSet};
use std::os::fd::BorrowedFd;
use std::time::Duration;

/// A client that has not ended its handshake by then will not; until then a SYN-ACK that was lost is
/// sent again, after one second and after three.
const HANDSHAKE: Duration = Duration::from_secs(3);

/// The pauses between looks: doubled from the first to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(3);
const LONGEST_PAUSE: Duration = Duration::from_millis(250);
/// Looks may take a fiftieth of a core, whatever one costs.
const SPARE: u32 = 50;
/// But not before they have cost this much together: most drains are over by then.
const FREE: Duration = Duration::from_millis(10);

/// Longer than any acknowledgement is put off (TCP_DELACK_MAX, 200 ms, and a tick).
const ACKNOWLEDGED: Duration = Duration::from_millis(250);
/// Where it cannot be told who spoke last, the silence must be this many times as long.
const DOUBT: u32 = 10;

/// An old worker that is being emptied.
#[derive(Debug)]
pub struct Drain {
    ports: BTreeSet<u16>,
    begun: Time,
    /// Those under way at the beginning, which are the old listeners'; None if unknown.
    handshakes: Option<BTreeSet<Flow>>,
    /// How many looks in a row have found nothing.
    quiet: u32,
    back_off: Duration,
    /// CPU time of all looks.
    spent: Duration,
    /// CPU time of those looks since the last pause that was as long as they called for.
    owed: Duration,
}

/// What one look has found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Left {
    /// Handshakes under way.
    pub arriving: u32,
    /// Connections that wait to be accepted.
    pub waiting: u32,
    /// Connections with something still to come.
    pub busy: u32,
    /// Connections that wait for a request, and do not count.
    pub idle: u32,
    /// What of all that could be seen.
    pub sight: Sight,
}

/// What could be seen of connections, the best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Sight {
    /// Whose they are.
    Clear,
    /// Not whose they are, for `/proc` does not show what the worker holds: all on its ports are
    /// counted, those of its successor among them.
    Ports,
    /// Nothing, for the kernel does not tell of sockets: there may be any number.
    Nothing,
}

impl Left {
    /// Whether nothing is arriving, waiting or busy.
    pub fn is_empty(&self) -> bool {
        let Left { arriving, waiting, busy, idle: _, sight } = *self;
        arriving == 0 && waiting == 0 && busy == 0 && sight != Sight::Nothing
    }
}

impl Drain {
    /// Begins, just after new connections at `ports` have been steered elsewhere: the handshakes
    /// now under way belong to the old listeners.
    pub fn begin(ports: BTreeSet<u16>, now: Time) -> Drain {
        let handshakes = flows::arriving(&ports)
            .inspect_err(|errno| log::debug!("cannot ask for handshakes under way: {errno}"))
            .ok();
        Drain {
            ports,
            begun: now,
            handshakes,
            quiet: 0,
            back_off: FIRST_PAUSE,
            spent: Duration::ZERO,
            owed: Duration::ZERO,
        }
    }

    /// Looks once at what is left. `root` is the worker's process, `others` are the workers that
    /// are not it, `listeners` are duplicates of its listening sockets. A connection on which
    /// nothing has moved for `idle` is let go if it is not the worker's turn to speak.
    pub fn look<'a>(
        &mut self,
        root: Pid,
        others: &BTreeSet<Pid>,
        listeners: impl Iterator<Item = BorrowedFd<'a>>,
        idle: Duration,
        now: Time,
    ) -> Left {
        let before = cpu_time();
        let mut left = Left { arriving: 0, waiting: 0, busy: 0, idle: 0, sight: Sight::Clear };
        self.count_handshakes(&mut left, now);
        left.waiting = listeners.map(waiting).sum();
        self.count_connections(&mut left, root, others, idle);
        let cost = cpu_time().saturating_sub(before);
        self.spent += cost;
        self.owed = if self.quiet == 1 { self.owed + cost } else { cost };
        (self.quiet, self.back_off) = match left.is_empty() {
            true => (self.quiet + 1, FIRST_PAUSE),
            false => (0, (self.back_off * 2).min(LONGEST_PAUSE)),
        };
        left
    }

    /// Whether the last two looks have found nothing.
    pub fn is_drained(&self) -> bool {
        self.quiet >= 2
    }

    /// How long to wait before the next look. It grows while something is left, and with what
    /// looks cost, so that they take a small part of a core, however many connections there
    /// are. Only the look that is to confirm another may come at once, on credit.
    pub fn pause(&self) -> Duration {
        if self.quiet == 1 {
            FIRST_PAUSE
        } else if self.spent <= FREE {
            self.back_off
        } else {
            self.back_off.max(self.owed * SPARE)
        }
    }

    fn count_handshakes(&mut self, left: &mut Left, now: Time) {
        if now.saturating_sub(self.begun) >= HANDSHAKE {
            self.handshakes = Some(BTreeSet::new());
        }
        match &mut self.handshakes {
            Some(under_way) if under_way.is_empty() => {}
            Some(under_way) => match flows::arriving(&self.ports) {
                Ok(arriving) => {
                    // One that begins anew between the same ends is somebody else's.
                    under_way.retain(|flow| arriving.contains(flow));
                    left.arriving = under_way.len() as u32;
                }
                Err(errno) => left.see_nothing(errno),
            },
            None => left.sight = Sight::Nothing,
        }
    }

    fn count_connections(&self, left: &mut Left, root: Pid, others: &BTreeSet<Pid>, idle: Duration) {
        let held = flows::held(root, others)
            .inspect_err(|error| log::debug!("cannot see what process {root} and its children hold: {error}"))
            .ok();
        // The kernel goes through the whole of its table, which is spared a worker that has gone.
        if held.as_ref().is_some_and(HashSet::is_empty) {
            return;
        }
        if held.is_none() {
            left.sight = left.sight.max(Sight::Ports);
        }
        let open = match flows::open(&self.ports) {
            Ok(open) => open,
            Err(errno) => return left.see_nothing(errno),
        };
        for open in open {
            match &held {
                Some(held) if !held.contains(&open.inode) => {}
                _ if open.inode == 0 => {}
                _ if is_idle(&open, idle) => left.idle += 1,
                _ => left.busy += 1,
            }
        }
    }
}

impl Left {
    fn see_nothing(&mut self, errno: nix::Error) {
        log::debug!("cannot ask for connections: {errno}");
        self.sight = Sight::Nothing;
    }
}

/// What waits at a listener; one that somebody has shut down has lost its queue.
fn waiting(listener: BorrowedFd<'_>) -> u32 {
    fd::tcp_queue(listener).ok().flatten().map_or(0, |queue| queue.length)
}

/// Whether the worker has nothing to say on a connection, and its peer has not said anything for
/// `idle`.
fn is_idle(open: &Open, idle: Duration) -> bool {
    let Some(moved) = open.moved else { return false };
    let silence = moved.since_sent.min(moved.since_received);
    open.rqueue == 0 && open.wqueue == 0 && patience(&moved, idle).is_some_and(|patience| silence >= patience)
}

/// How long a silence must be that means that the peer has been answered; None if it waits.
///
/// Of an answer and the next request within the same tick of the kernel the order is not known.
/// But of what comes, the first is acknowledged at once, in a segment without data, and all else
/// only if no data has gone the other way for a while: such a segment more than the first means
/// doubt. (Of a server that greets its peers, the first request is mistaken for one that has been
/// answered, if it came within a tick of the greeting.)
fn patience(moved: &Moved, idle: Duration) -> Option<Duration> {
    let Moved { since_sent, since_received, bytes_received, segments_sent, data_segments_sent } = *moved;
    let has_spoken = data_segments_sent > 0;
    if bytes_received == 0 || (has_spoken && since_sent < since_received) {
        Some(idle)
    } else if !has_spoken || since_received < since_sent {
        None
    } else if segments_sent.saturating_sub(data_segments_sent) <= 1 {
        Some(idle.max(ACKNOWLEDGED))
    } else {
        Some(idle.saturating_mul(DOUBT))
    }
}

/// What this thread has used of the processor: the kernel's answers are made in it.
fn cpu_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::tree;
    use std::io::{BufRead, BufReader, Read, Write};
    use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
    use std::os::fd::AsFd;
    use std::process::{Child, Command, Stdio};

    const FOR_EVER: Duration = Duration::from_secs(3600);

    /// A worker that is this process, as long as nobody else is named.
    struct Server {
        listener: TcpListener,
        drain: Drain,
    }

    impl Server {
        fn new(address: &str) -> Server {
            let listener = TcpListener::bind(address).expect("bind");
            let drain = Drain::begin(ports(&listener), Time::ZERO);
            Server { listener, drain }
        }

        fn connect(&self) -> (TcpStream, TcpStream) {
            let client = TcpStream::connect(self.address()).expect("connect");
            (client, self.listener.accept().expect("accept").0)
        }

        fn address(&self) -> SocketAddr {
            SocketAddr::from(([127, 0, 0, 1], self.listener.local_addr().expect("an address").port()))
        }

        fn look(&mut self, idle: Duration) -> Left {
            self.look_at(Pid::this(), idle, Time::ZERO)
        }

        fn look_at(&mut self, root: Pid, idle: Duration, now: Time) -> Left {
            let listeners = [self.listener.as_fd()].into_iter();
            self.drain.look(root, &BTreeSet::new(), listeners, idle, now)
        }

        /// Looks until what is there is this.
        fn look_for(&mut self, idle: Duration, wanted: Left) {
            while self.look(idle) != wanted {}
        }
    }

    fn ports(listener: &TcpListener) -> BTreeSet<u16> {
        BTreeSet::from([listener.local_addr().expect("an address").port()])
    }

    fn left(arriving: u32, waiting: u32, busy: u32, idle: u32) -> Left {
        Left { arriving, waiting, busy, idle, sight: Sight::Clear }
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
            assert_eq!(server.look(FOR_EVER), left(0, 0, 0, 0));
            assert!(!server.drain.is_drained(), "one look is not enough");
            let mut client = TcpStream::connect(server.address()).expect("connect");
            server.look_for(FOR_EVER, left(0, 1, 0, 0));
            let (mut accepted, _) = server.listener.accept().expect("accept");
            assert_eq!(server.look(FOR_EVER), left(0, 0, 1, 0), "fresh");
            exchange(&mut client, &mut accepted);
            server.look_for(FOR_EVER, left(0, 0, 1, 0));
            server.look_for(Duration::ZERO, left(0, 0, 0, 1));
            assert!(!server.drain.is_drained(), "the look before that has found something");
            send(&mut client, &mut accepted);
            assert_eq!(server.look(FOR_EVER), left(0, 0, 1, 0), "a request in flight");
            drop(accepted);
            assert_eq!(server.look(FOR_EVER), left(0, 0, 0, 0));
            assert_eq!(server.look(FOR_EVER), left(0, 0, 0, 0));
            assert!(server.drain.is_drained());
        }
    }

    #[test]
    fn a_request_that_came_with_the_last_answer_is_in_flight() {
        let mut server = Server::new("127.0.0.1:0");
        let (mut client, mut accepted) = server.connect();
        let open = |server: &Server| flows::open(&ports(&server.listener)).expect("an answer")[..].to_vec();
        let moved = |server: &Server| {
            let open = open(server);
            let [open] = open[..] else { panic!("{open:?}") };
            open.moved.expect("tcp_info")
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
        let own = |moved: Moved| moved.segments_sent - moved.data_segments_sent;
        let after = loop {
            let after = moved(&server);
            if own(after) > own(before) {
                break after;
            }
        };
        if after.since_sent == after.since_received {
            let silent = after.since_sent;
            assert!(patience(&after, silent).expect("in doubt") > silent, "{after:?}");
        }
        assert_eq!(server.look(FOR_EVER), left(0, 0, 1, 0));
    }

    #[test]
    fn silence_is_judged_by_who_spoke_last() {
        let idle = Duration::from_secs(1);
        let moved = |sent, received, bytes_received, segments_sent, data_segments_sent| Moved {
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
            ("answered at once, or asked again", moved(1000, 1000, 5, 3, 1), Some(idle * DOUBT)),
        ] {
            assert_eq!(patience(&moved, idle), expected, "{what}");
        }
        assert_eq!(patience(&moved(1, 1, 5, 2, 1), Duration::ZERO), Some(ACKNOWLEDGED));
        let answered = |rqueue, wqueue| {
            let moved = Some(moved(1000, 1004, 5, 3, 1));
            is_idle(&Open { inode: 1, rqueue, wqueue, moved }, idle)
        };
        assert!(answered(0, 0) && !answered(1, 0) && !answered(0, 1));
        assert!(!is_idle(&Open { inode: 1, rqueue: 0, wqueue: 0, moved: None }, idle), "who knows");
    }

    #[test]
    fn whoever_has_never_said_anything_is_let_go() {
        let mut server = Server::new("127.0.0.1:0");
        let (_client, _accepted) = server.connect();
        assert_eq!(server.look(FOR_EVER), left(0, 0, 1, 0));
        assert_eq!(server.look(Duration::ZERO), left(0, 0, 0, 1));
        assert_eq!(server.look(Duration::ZERO), left(0, 0, 0, 1));
        assert!(server.drain.is_drained());
    }

    #[test]
    fn what_has_not_been_read_or_acknowledged_counts() {
        let mut server = Server::new("127.0.0.1:0");
        let (mut client, mut accepted) = server.connect();
        client.write_all(b"x").expect("write");
        assert_eq!(server.look(Duration::ZERO), left(0, 0, 1, 0));
        accepted.read_exact(&mut [0]).expect("read");
        accepted.set_nonblocking(true).expect("set");
        while accepted.write(&[0; 65536]).is_ok() {}
        assert_eq!(server.look(Duration::ZERO), left(0, 0, 1, 0));
        // Nobody has its descriptor any more, and what has been written arrives without help.
        drop(accepted);
        assert_eq!(server.look(FOR_EVER), left(0, 0, 0, 0));
    }

    #[test]
    fn a_client_that_has_closed_its_half_is_answered() {
        let mut server = Server::new("127.0.0.1:0");
        let (mut client, mut accepted) = server.connect();
        send(&mut client, &mut accepted);
        client.shutdown(Shutdown::Write).expect("shutdown");
        accepted.read_to_end(&mut Vec::new()).expect("the end");
        assert_eq!(server.look(Duration::ZERO), left(0, 0, 1, 0), "CLOSE_WAIT");
        accepted.write_all(b"x").expect("write");
        accepted.shutdown(Shutdown::Write).expect("shutdown");
        assert_eq!(server.look(FOR_EVER), left(0, 0, 0, 0), "LAST_ACK and beyond");
        let (client, accepted) = server.connect();
        accepted.shutdown(Shutdown::Write).expect("shutdown");
        server.look_for(FOR_EVER, left(0, 0, 1, 0));
        drop((client, accepted));
        assert_eq!(server.look(FOR_EVER), left(0, 0, 0, 0));
    }

    /// With TCP_DEFER_ACCEPT, the kernel keeps a connection in its handshake until data comes.
    #[test]
    fn a_handshake_under_way_is_waited_for() {
        for address in ["127.0.0.1:0", "[::]:0"] {
            let mut server = Server::new(address);
            fd::set_defer_accept(server.listener.as_fd(), 10).expect("set");
            let mut client = TcpStream::connect(server.address()).expect("connect");
            server.drain = Drain::begin(ports(&server.listener), Time::ZERO);
            assert_eq!(server.look(FOR_EVER), left(1, 0, 0, 0));
            let later = TcpStream::connect(server.address()).expect("connect");
            assert_eq!(server.look(FOR_EVER), left(1, 0, 0, 0), "the other is not ours");
            client.write_all(b"x").expect("write");
            server.look_for(FOR_EVER, left(0, 1, 0, 0));
            let _accepted = server.listener.accept().expect("accept");
            server.look_for(FOR_EVER, left(0, 0, 1, 0));
            server.drain = Drain::begin(ports(&server.listener), Time::ZERO);
            assert_eq!(server.look_at(Pid::this(), FOR_EVER, HANDSHAKE), left(0, 0, 1, 0), "given up");
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
        assert_eq!(server.look_at(root, FOR_EVER, Time::ZERO), left(0, 0, 1, 0));
        let holder: BTreeSet<Pid> = tree::children(root).into_iter().collect();
        let listeners = std::iter::empty();
        assert_eq!(server.drain.look(root, &holder, listeners, FOR_EVER, Time::ZERO), left(0, 0, 0, 0));
        client.write_all(b"x\n").expect("write");
        child.wait().expect("it ends");
        assert_eq!(server.look_at(root, FOR_EVER, Time::ZERO), left(0, 0, 0, 0), "it has gone");
    }

    #[test]
    fn looks_are_further_apart_the_more_they_cost() {
        let mut server = Server::new("127.0.0.1:0");
        assert_eq!(server.drain.pause(), FIRST_PAUSE);
        let (client, accepted) = server.connect();
        while server.drain.spent <= FREE {
            server.look(FOR_EVER);
            assert!(server.drain.spent > FREE || server.drain.pause() == server.drain.back_off);
        }
        for _ in 0..10 {
            server.look(FOR_EVER);
            assert!(server.drain.pause() >= server.drain.owed * SPARE);
        }
        assert_eq!(server.drain.back_off, LONGEST_PAUSE);
        let mut again = server.connect();
        drop((client, accepted));
        exchange(&mut again.0, &mut again.1);
        server.look_for(Duration::ZERO, left(0, 0, 0, 1));
        assert_eq!(server.drain.pause(), FIRST_PAUSE);
        let owed = server.drain.owed;
        assert_eq!(server.look(FOR_EVER), left(0, 0, 1, 0));
        assert!(server.drain.owed > owed && server.drain.pause() >= owed * SPARE, "it is made up for");
    }
}
