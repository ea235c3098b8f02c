//! The server under load, as modes of this executable.
//!
//! Contract: it answers `GET /ID` with a body that [`body`] gives, so that a
//! client can check every byte. On TERM it stops accepting, answers what it has
//! accepted, says `Connection: close` in each last reply, and exits 0 when its
//! last connection has gone. What it drops it drops because the kernel did.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use socket2::{Domain, Protocol, Socket, Type};

use crate::gate;

/// Names the gate's path for workers.
pub const GATE: &str = "TORTURE_GATE";
/// Names the file that says what becomes of the next worker.
pub const FATE: &str = "TORTURE_FATE";
/// The path prefix of requests that wait at the gate.
pub const HELD: &str = "/held/";

/// How long a worker lives that listens and is to die: within what `--adopt` takes to settle.
const LAST_GASP: u16 = 100;

/// What becomes of a worker after its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fate {
    /// It serves.
    Serve,
    /// It exits before it is ready.
    Exit,
    /// It never becomes ready.
    Hang,
    /// It says that it is ready, or listens, and dies without having served.
    AckAndDie,
}

impl Fate {
    /// The word in the fate file and in the report.
    pub fn name(self) -> &'static str {
        match self {
            Fate::Serve => "serve",
            Fate::Exit => "exit",
            Fate::Hang => "hang",
            Fate::AckAndDie => "ack and die",
        }
    }

    /// All of them.
    pub const ALL: [Fate; 4] = [Fate::Serve, Fate::Exit, Fate::Hang, Fate::AckAndDie];
}

/// Where the worker's listeners come from.
pub enum Source {
    /// Handed over by a supervisor, in LISTEN_FDS.
    Inherited,
    /// Bound by itself, as a server does that knows of no supervisor.
    Bound(SocketAddr),
    /// Bound by itself with SO_REUSEPORT, beside the generation before it.
    ReusePort(SocketAddr),
    /// Bound by itself, by a server that dies of TERM with whatever it has in its hands.
    Careless(Vec<SocketAddr>),
}

enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Listener::Tcp(listener) => listener.as_fd(),
            Listener::Unix(listener) => listener.as_fd(),
        }
    }
}

enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(stream) => stream.read(buffer),
            Stream::Unix(stream) => stream.read(buffer),
        }
    }
}

impl Stream {
    fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Stream::Tcp(stream) => stream.write_all(bytes),
            Stream::Unix(stream) => stream.write_all(bytes),
        }
    }
}

struct Shared {
    generation: u64,
    gate: PathBuf,
    draining: AtomicBool,
    connections: Mutex<usize>,
    gone: Condvar,
}

/// The reply of `generation` to the request for `path`: of a length that depends
/// on the path, and different in every part.
pub fn body(generation: u64, path: &str) -> String {
    let seed = path
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
    let mut body = format!("{generation} {path}\n");
    for part in 0..seed % 40 {
        body.push_str(&format!("{part:x}:{:016x}\n", seed.wrapping_mul(part + 3)));
    }
    body
}

/// Runs the worker to its end and returns its exit status.
pub fn run(source: Source) -> io::Result<u8> {
    let (terminated, end) = UnixStream::pair()?;
    let _end = match source {
        Source::Careless(_) => Some(end),
        _ => {
            signal_hook::low_level::pipe::register(signal_hook::consts::SIGTERM, end)?;
            None
        }
    };
    let generation = std::env::var("GRACEFUL_RUN_GENERATION").ok().and_then(|g| g.parse().ok()).unwrap_or(0);
    let gate = PathBuf::from(std::env::var_os(GATE).ok_or_else(|| io::Error::other("no gate is named"))?);
    let fate = match std::env::var_os(FATE) {
        Some(path) => {
            let written = std::fs::read_to_string(path)?;
            Fate::ALL.into_iter().find(|fate| fate.name() == written).unwrap_or(Fate::Serve)
        }
        None => Fate::Serve,
    };
    match fate {
        Fate::Exit => return Ok(3),
        Fate::Hang => {
            let _ = (&terminated).read(&mut [0]);
            return Ok(0);
        }
        Fate::Serve | Fate::AckAndDie => {}
    }
    let listeners = listeners(source)?;
    if fate == Fate::AckAndDie {
        sd_notify::notify(&[sd_notify::NotifyState::Ready])?;
        // Whoever comes to it meanwhile is lost: nobody may.
        let mut polled: Vec<_> =
            listeners.iter().map(|listener| PollFd::new(listener.as_fd(), PollFlags::POLLIN)).collect();
        poll(&mut polled, LAST_GASP)?;
        return Ok(4);
    }
    let shared = Arc::new(Shared {
        generation,
        gate,
        draining: AtomicBool::new(false),
        connections: Mutex::new(0),
        gone: Condvar::new(),
    });
    sd_notify::notify(&[sd_notify::NotifyState::Ready])?;
    gate::report(&shared.gate, &format!("up {generation}"))?;
    accept_until(&terminated, &listeners, &shared)?;
    shared.draining.store(true, Ordering::SeqCst);
    let mut connections = shared.connections.lock().expect("the count is whole");
    while *connections > 0 {
        connections = shared.gone.wait(connections).expect("the count is whole");
    }
    Ok(0)
}

fn listeners(source: Source) -> io::Result<Vec<Listener>> {
    match source {
        Source::Inherited => {
            let mut inherited = listenfd::ListenFd::from_env();
            let mut listeners = Vec::new();
            for index in 0..inherited.len() {
                // The descriptor's own family decides which of the two it is.
                if let Ok(Some(listener)) = inherited.take_unix_listener(index) {
                    listeners.push(Listener::Unix(listener));
                } else if let Some(listener) = inherited.take_tcp_listener(index)? {
                    listeners.push(Listener::Tcp(listener));
                }
            }
            if listeners.is_empty() {
                return Err(io::Error::other("no listener was handed over"));
            }
            Ok(listeners)
        }
        Source::Bound(address) => Ok(vec![Listener::Tcp(TcpListener::bind(address)?)]),
        Source::Careless(addresses) => {
            addresses.iter().map(|address| Ok(Listener::Tcp(TcpListener::bind(address)?))).collect()
        }
        Source::ReusePort(address) => {
            let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
            socket.set_reuse_port(true)?;
            socket.set_reuse_address(true)?;
            socket.bind(&address.into())?;
            socket.listen(4096)?;
            Ok(vec![Listener::Tcp(socket.into())])
        }
    }
}

fn accept_until(terminated: &UnixStream, listeners: &[Listener], shared: &Arc<Shared>) -> io::Result<()> {
    let mut polled = vec![PollFd::new(terminated.as_fd(), PollFlags::POLLIN)];
    for listener in listeners {
        // All generations share these sockets: one may have emptied the queue
        // between another's poll and accept, which must not block it.
        match listener {
            Listener::Tcp(listener) => listener.set_nonblocking(true)?,
            Listener::Unix(listener) => listener.set_nonblocking(true)?,
        }
        polled.push(PollFd::new(listener.as_fd(), PollFlags::POLLIN));
    }
    loop {
        match poll(&mut polled, PollTimeout::NONE) {
            Ok(_) => {}
            Err(nix::errno::Errno::EINTR) => continue,
            Err(error) => return Err(error.into()),
        }
        if polled[0].any() == Some(true) {
            return Ok(());
        }
        for (listener, polled) in listeners.iter().zip(&polled[1..]) {
            if polled.any() == Some(true) {
                let accepted = match listener {
                    Listener::Tcp(listener) => listener.accept().map(|(stream, _)| {
                        let _ = stream.set_nodelay(true);
                        Stream::Tcp(stream)
                    }),
                    Listener::Unix(listener) => listener.accept().map(|(stream, _)| Stream::Unix(stream)),
                };
                match accepted {
                    Ok(stream) => serve(stream, shared),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) => return Err(error),
                }
            }
        }
    }
}

fn serve(mut stream: Stream, shared: &Arc<Shared>) {
    *shared.connections.lock().expect("the count is whole") += 1;
    let shared = Arc::clone(shared);
    thread::spawn(move || {
        // A connection that ends badly is counted by the client that had it.
        let _ = answer(&mut stream, &shared);
        drop(stream);
        *shared.connections.lock().expect("the count is whole") -= 1;
        shared.gone.notify_all();
    });
}

/// Answers requests until the last of this connection.
fn answer(stream: &mut Stream, shared: &Shared) -> io::Result<()> {
    let mut buffer = [0; 4096];
    let mut length = 0;
    loop {
        while !buffer[..length].ends_with(b"\r\n\r\n") {
            match stream.read(&mut buffer[length..])? {
                0 => return Ok(()),
                n => length += n,
            }
        }
        let request = String::from_utf8_lossy(&buffer[..length]);
        let path = request.split(' ').nth(1).unwrap_or_default();
        if path.starts_with(HELD) {
            gate::wait(gate::report(&shared.gate, &format!("held {}", shared.generation))?);
        }
        let last = request.contains("Connection: close") || shared.draining.load(Ordering::SeqCst);
        let body = body(shared.generation, path);
        let reply = format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: {}\r\n\r\n{body}",
            body.len(),
            if last { "close" } else { "keep-alive" },
        );
        stream.send(reply.as_bytes())?;
        if last {
            // The client closes first, so that the wait for late segments
            // (TIME_WAIT) is on its port and never on ours.
            while stream.read(&mut buffer)? > 0 {}
            return Ok(());
        }
        length = 0;
    }
}

/// Writes the fate of the next worker; a rename, so that none reads half of it.
pub fn decide(file: &Path, fate: Fate) -> Result<(), String> {
    let draft = file.with_extension("draft");
    std::fs::write(&draft, fate.name())
        .and_then(|()| std::fs::rename(&draft, file))
        .map_err(|error| format!("cannot write {}: {error}", file.display()))
}
