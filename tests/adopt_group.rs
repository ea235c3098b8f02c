//! The group on real sockets: workers with different numbers of listeners follow each
//! other at one address while clients connect without a pause, and never retry.
//!
//! Beside it stands the control that must lose: the same with books that are right, but
//! without care for the moment in which a socket leaves.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::SeqCst};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use graceful_run::adopt::group::{self, Group, Socket as _};
use graceful_run::core::event::WorkerId;
use graceful_run::sys::{fd, steering};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::pipe;
use socket2::{Domain, SockAddr, SockRef, Socket, Type};

const CLIENTS: usize = 4;

/// Listeners of successive workers: alone after several, several after one.
const SIZES: [usize; 6] = [4, 1, 5, 2, 1, 3];

/// A member whose owner is held up after each system call, as it may be anywhere.
struct Member(OwnedFd);

impl group::Socket for Member {
    fn attach(&self, indices: &[u32]) -> io::Result<()> {
        steering::attach(self.0.as_fd(), indices)?;
        thread::yield_now();
        Ok(())
    }

    fn attach_weighed(&self, weight: u16, chosen: &[u32], others: &[u32]) -> io::Result<()> {
        Ok(steering::attach_weighed(self.0.as_fd(), weight, chosen, others)?)
    }

    /// The servers have copies, so closing this one would not do.
    fn close_copy(&mut self) -> bool {
        steering::leave_group(self.0.as_fd()).expect("leave");
        thread::yield_now();
        true
    }
}

/// What keeps the books of a group.
trait Books: Default {
    fn join(&mut self, socket: Member, inode: u64, worker: WorkerId);
    fn steer(&mut self, to: WorkerId);
    fn remove(&mut self, worker: WorkerId);
}

impl Books for Group<Member> {
    fn join(&mut self, socket: Member, inode: u64, worker: WorkerId) {
        Group::join(self, socket, inode, worker).expect("join");
    }

    fn steer(&mut self, to: WorkerId) {
        self.remove_tombstones().expect("remove tombstones");
        assert!(Group::steer(self, &[to].into(), None).expect("steer"));
    }

    fn remove(&mut self, worker: WorkerId) {
        Group::remove(self, worker).expect("remove");
    }
}

/// Leaves first, and mends the program afterwards.
#[derive(Default)]
struct Careless {
    members: Vec<(Member, WorkerId)>,
    serving: Option<WorkerId>,
}

impl Careless {
    fn attach(&self) {
        let selected = (0..).zip(&self.members).filter(|(_, member)| Some(member.1) == self.serving);
        let selected: Vec<u32> = selected.map(|(index, _)| index).collect();
        self.members[0].0.attach(&selected).expect("attach");
    }
}

impl Books for Careless {
    fn join(&mut self, socket: Member, _inode: u64, worker: WorkerId) {
        self.members.push((socket, worker));
        self.serving.get_or_insert(worker);
        self.attach();
    }

    fn steer(&mut self, to: WorkerId) {
        self.serving = Some(to);
        self.attach();
    }

    fn remove(&mut self, worker: WorkerId) {
        while let Some(index) = self.members.iter().position(|member| member.1 == worker) {
            let (mut socket, _) = self.members.swap_remove(index);
            socket.close_copy();
            self.attach();
        }
    }
}

/// Accepts from its listeners until it is dropped, and answers with its number.
struct Server {
    end: Option<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    fn start(listeners: Vec<TcpListener>, number: u32) -> Server {
        let (stopped, end) = pipe().expect("pipe");
        let thread = thread::spawn(move || {
            loop {
                let mut polled = vec![PollFd::new(stopped.as_fd(), PollFlags::POLLIN)];
                polled.extend(listeners.iter().map(|socket| PollFd::new(socket.as_fd(), PollFlags::POLLIN)));
                poll(&mut polled, PollTimeout::NONE).expect("poll");
                if polled[0].any() == Some(true) {
                    return;
                }
                for (listener, _) in
                    listeners.iter().zip(&polled[1..]).filter(|(_, fd)| fd.any() == Some(true))
                {
                    let (mut client, _) = listener.accept().expect("accept");
                    client.write_all(&number.to_le_bytes()).expect("the client reads");
                }
            }
        });
        Server { end: Some(end), thread: Some(thread) }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.end.take());
        let result = self.thread.take().map(JoinHandle::join);
        assert!(result.is_none_or(|result| result.is_ok()) || thread::panicking());
    }
}

/// What clients and workers know of each other.
#[derive(Default)]
struct Storm {
    /// The worker that is or is about to be the one that serves, and the one that surely is.
    announced: AtomicU32,
    serving: AtomicU32,
    /// Connections that each client has done with.
    done: [AtomicU64; CLIENTS],
    /// Those that had no answer, and those that had one of the wrong worker.
    lost: AtomicU64,
    astray: AtomicU64,
    over: AtomicBool,
}

/// Ends the clients, also if the test fails.
struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}

impl Storm {
    fn client(&self, address: SocketAddr, own: &AtomicU64) {
        while !self.over.load(SeqCst) {
            let from = self.serving.load(SeqCst);
            let answer = ask(address);
            let to = self.announced.load(SeqCst);
            match answer {
                Ok(number) if (from..=to).contains(&number) => {}
                Ok(_) => drop(self.astray.fetch_add(1, SeqCst)),
                Err(_) => drop(self.lost.fetch_add(1, SeqCst)),
            }
            own.fetch_add(1, SeqCst);
        }
    }

    /// Every connection that was there at this moment has got its answer, or none.
    fn settle(&self) {
        let before = self.done.each_ref().map(|done| done.load(SeqCst));
        while self.done.iter().zip(before).any(|(done, before)| done.load(SeqCst) == before) {
            thread::yield_now();
        }
    }
}

/// Who answers a new connection.
fn ask(address: SocketAddr) -> io::Result<u32> {
    let mut stream = TcpStream::connect(address)?;
    // What has been led astray to a queue that nobody looks at is lost too.
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    let mut answer = [0; 4];
    stream.read_exact(&mut answer)?;
    stream.read_to_end(&mut Vec::new())?;
    // No end waits out its TIME_WAIT: there are more connections than ports.
    SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
    Ok(u32::from_le_bytes(answer))
}

/// A bound socket of which nobody has said yet that it listens.
fn bound(address: SocketAddr) -> TcpListener {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    steering::set_reuseport(socket.as_fd()).expect("SO_REUSEPORT");
    socket.bind(&SockAddr::from(address)).expect("bind");
    socket.into()
}

/// A worker that has told `size` sockets to listen, of which `books` know.
fn start(books: &mut impl Books, address: SocketAddr, size: usize, number: u32) -> Server {
    let listeners: Vec<TcpListener> = (0..size).map(|_| bound(address)).collect();
    for listener in &listeners {
        steering::listen(listener.as_fd(), 128).expect("listen");
        let (_, inode) = fd::device_and_inode(listener.as_raw_fd()).expect("an inode");
        let copy = listener.try_clone().expect("a copy");
        books.join(Member(copy.into()), inode, WorkerId(number));
    }
    Server::start(listeners, number)
}

/// What has become of the connections.
#[derive(Debug)]
struct Outcome {
    switches: u32,
    done: u64,
    lost: u64,
    astray: u64,
}

/// One worker follows another, `most` times or until `enough` connections are lost.
fn storm<B: Books>(most: u32, enough: u64) -> Outcome {
    let (mut books, storm) = (B::default(), Storm::default());
    // Holds the port, and does not listen.
    let place = bound(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
    let address = place.local_addr().expect("an address");
    let mut server = start(&mut books, address, SIZES[0], 0);
    let mut switches = 0;
    thread::scope(|scope| {
        for own in &storm.done {
            scope.spawn(|| storm.client(address, own));
        }
        let _end = End(&storm.over);
        while switches < most && storm.lost.load(SeqCst) < enough {
            switches += 1;
            let next = start(&mut books, address, SIZES[switches as usize % SIZES.len()], switches);
            storm.announced.store(switches, SeqCst);
            books.steer(WorkerId(switches));
            storm.serving.store(switches, SeqCst);
            storm.settle();
            server = next;
            books.remove(WorkerId(switches - 1));
        }
        storm.settle();
    });
    drop(server);
    Outcome {
        switches,
        done: storm.done.iter().map(|done| done.load(SeqCst)).sum(),
        lost: storm.lost.into_inner(),
        astray: storm.astray.into_inner(),
    }
}

#[test]
fn workers_follow_each_other_without_a_lost_connection() {
    let outcome = storm::<Group<Member>>(120, u64::MAX);
    assert!(outcome.lost == 0 && outcome.astray == 0, "{outcome:?}");
    assert!(outcome.done > u64::from(outcome.switches), "{outcome:?}");
}

/// So that the test above would see it.
#[test]
fn without_care_connections_are_lost() {
    let outcome = storm::<Careless>(3000, 1);
    assert!(outcome.lost > 0, "{outcome:?}");
}
