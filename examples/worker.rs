//! A worker that can be replaced without anybody noticing.
//!
//! `graceful-run -b 127.0.0.1:5001 -- target/debug/examples/worker`, then
//! `curl 127.0.0.1:5001/sleep?duration=5s` and, meanwhile, a `kill -HUP` of graceful-run.
//! It speaks enough HTTP/1.1 for browsers and load generators. What matters here:
//!
//! - the sockets come from `LISTEN_FDS` (sd_listen_fds(3)): it never binds;
//! - they are shared with the generations before and after, so it polls, and accepts without
//!   blocking: a worker asleep in accept(2) would take one connection more after its TERM;
//! - it says `READY=1` (sd_notify(3)) when it can serve;
//! - on TERM it accepts nothing more, answers all that it has accepted, and exits 0.

use socket2::Socket;
use std::io::{self, PipeReader, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// On TERM, a connection that has had answers may ask once more for this long: its client may
/// have sent a request while we decided to close, and would be told nothing.
const LAST_REQUEST: Duration = Duration::from_secs(1);
/// A connection that has not had one yet is owed an answer, but not for ever.
const FIRST_REQUEST: Duration = Duration::from_secs(5);

pub(crate) fn main() -> io::Result<()> {
    let sockets = inherited()?;
    if sockets.is_empty() {
        let me = std::env::args().next().unwrap_or_default();
        let usage = "no socket in LISTEN_FDS; start me with graceful-run -b 127.0.0.1:5001 --";
        writeln!(io::stderr(), "worker: {usage} {me}")?;
        std::process::exit(1);
    }
    // Nobody reads this pipe: one byte in it, and every poll sees it for good.
    let (stop, on_term) = io::pipe()?;
    signal_hook::low_level::pipe::register(signal_hook::consts::SIGTERM, on_term)?;
    notify(b"READY=1")?;
    std::thread::scope(|connections| {
        loop {
            let fds = sockets.iter().map(AsFd::as_fd);
            let ready = readable([stop.as_fd()].into_iter().chain(fds), None)?;
            if ready[0] {
                break;
            }
            for (socket, _) in sockets.iter().zip(&ready[1..]).filter(|(_, ready)| **ready) {
                // An error is a connection that another worker took, or a client that left.
                if let Ok((client, _)) = socket.accept() {
                    let stop = &stop;
                    connections.spawn(move || serve(client, stop));
                }
            }
        }
        drop(sockets); // The end of this scope waits for the connections.
        Ok(())
    })
}

/// The sockets that we were started with; none if they are meant for another process.
fn inherited() -> io::Result<Vec<Socket>> {
    let fds = sd_notify::listen_fds()?;
    // SAFETY: sd_listen_fds(3) makes these descriptors ours, and this takes them once.
    #[allow(unsafe_code)]
    let sockets: Vec<_> = fds.map(|fd| unsafe { Socket::from_raw_fd(fd) }).collect();
    sockets.iter().try_for_each(|socket| socket.set_nonblocking(true))?;
    Ok(sockets)
}

/// Sends `state` to the supervisor, if it listens: `@` stands for the abstract namespace.
fn notify(state: &[u8]) -> io::Result<()> {
    let Ok(path) = std::env::var("NOTIFY_SOCKET") else { return Ok(()) };
    let address = match path.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(&path)?,
    };
    UnixDatagram::unbound()?.send_to_addr(state, &address).map(drop)
}

/// Waits until one of `fds` can be read, or for `limit`, and says which can.
fn readable<'a>(
    fds: impl IntoIterator<Item = BorrowedFd<'a>>,
    limit: Option<Duration>,
) -> io::Result<Vec<bool>> {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    let mut fds: Vec<_> = fds.into_iter().map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
    let limit = limit.map_or(PollTimeout::NONE, |limit| limit.try_into().unwrap_or(PollTimeout::MAX));
    while let Err(error) = poll(&mut fds, limit) {
        if error != nix::errno::Errno::EINTR {
            return Err(error.into());
        }
    }
    Ok(fds.iter().map(|fd| fd.any() == Some(true)).collect())
}

/// Answers the requests of one connection. Its errors are the client's to notice.
fn serve(client: Socket, stop: &PipeReader) -> io::Result<()> {
    let leaving = || Ok::<_, io::Error>(readable([stop.as_fd()], Some(Duration::ZERO))?[0]);
    let mut unread = Vec::new();
    let mut patience = FIRST_REQUEST;
    while let Some(head) = request(&client, &mut unread, stop, patience)? {
        let path = head.split(' ').nth(1).unwrap_or("/");
        if let Some(("/sleep" | "/sleep/", duration)) = path.split_once("?duration=") {
            std::thread::sleep(seconds(duration).unwrap_or_default());
        }
        let generation = std::env::var("GRACEFUL_RUN_GENERATION").unwrap_or_default();
        let body = format!("pid {} generation {generation}\n", std::process::id());
        let head = head.to_ascii_lowercase();
        let close = head.contains("\r\nconnection: close")
            || head.contains(" http/1.0") && !head.contains("\r\nconnection: keep-alive");
        let close = close || leaving()?;
        let connection = if close { "close" } else { "keep-alive" };
        let length = body.len();
        let answer = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\nConnection: {connection}\r\n\r\n{body}"
        );
        (&client).write_all(answer.as_bytes())?;
        if close {
            break;
        }
        patience = LAST_REQUEST;
    }
    // Bytes that nobody read would make close(2) a reset, which can overtake the answer.
    client.shutdown(Shutdown::Write)?;
    client.set_read_timeout(Some(LAST_REQUEST))?;
    while (&client).read(&mut [0; 4096])? > 0 {}
    Ok(())
}

/// The head of the next request, with its body gone from `unread`; `None` if there is no next:
/// the client has closed, or we have been asked to leave and it is silent for `patience`.
fn request(
    client: &Socket,
    unread: &mut Vec<u8>,
    stop: &PipeReader,
    patience: Duration,
) -> io::Result<Option<String>> {
    loop {
        if let Some(end) = unread.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&unread[..end]).into_owned();
            let length = head
                .to_ascii_lowercase()
                .lines()
                .find_map(|line| line.strip_prefix("content-length:")?.trim().parse::<usize>().ok());
            let end = end + 4 + length.unwrap_or(0);
            if unread.len() >= end {
                unread.drain(..end);
                return Ok(Some(head));
            }
        } else if unread.is_empty() {
            let ready = readable([client.as_fd(), stop.as_fd()], None)?;
            if !ready[0] && !readable([client.as_fd()], Some(patience))?[0] {
                return Ok(None);
            }
        }
        let mut bytes = [0; 4096];
        let read = (&mut &*client).read(&mut bytes)?;
        unread.extend_from_slice(&bytes[..read]);
        if read == 0 {
            return Ok(None);
        }
    }
}

/// `2s`, `500ms`, `1.5s`.
fn seconds(text: &str) -> Option<Duration> {
    let (number, unit) = match text.strip_suffix("ms") {
        Some(number) => (number, 0.001),
        None => (text.strip_suffix('s')?, 1.0),
    };
    Duration::try_from_secs_f64(number.parse::<f64>().ok()? * unit).ok()
}
