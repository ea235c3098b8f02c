//! Our end of a channel: what is read from it, and whose messages count.
//!
//! Those of the worker, of its descendants, and of a helper that has already exited
//! (systemd-notify(1) exits before its datagram is read) count; those of another user never do.

use super::message::{Worker, WorkerMessage};
use super::{einhorn, kind, notify};
use crate::core::event::AckKind;
use crate::sys::notify::NotifySocket;
use nix::errno::Errno;
use nix::sys::signal::kill;
use nix::sys::socket::{MsgFlags, getsockopt, recv, sockopt};
use nix::unistd::{Pid, Uid, read};
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

/// The most messages of one worker that are read before the other workers' are.
const BURST: usize = 16;
/// The length of the longest word that is an ack on a pipe.
const LONGEST_WORD: usize = 2;

/// Our end of a channel.
#[derive(Debug)]
pub(super) enum End {
    /// sd_notify(3).
    Notify(NotifySocket),
    /// A pipe, the kind of its ack, and the part of a longer word that has been read.
    Pipe(OwnedFd, AckKind, Vec<u8>),
    /// crank's pair of datagram sockets.
    Crank(OwnedFd),
    /// einhorn's control socket.
    Einhorn(EinhornSocket),
    /// A connection to that socket.
    Line(Line),
}

/// The result of reading an end once.
#[derive(Debug, Default)]
pub(super) struct Read {
    /// An ack.
    pub ready: Option<AckKind>,
    /// The other messages for the loop.
    pub messages: Vec<WorkerMessage>,
    /// The last `STATUS=`.
    pub status: Option<String>,
    /// Whether a watchdog ping came.
    pub heartbeat: bool,
    /// A descriptor to close once all of this has been handled.
    pub barrier: Option<OwnedFd>,
    /// A request for the store.
    pub store: Option<StoreRequest>,
    /// New connections.
    pub new: Vec<End>,
    /// Whether the other end is closed.
    pub ended: bool,
}

/// A worker's request for the store of descriptors.
#[derive(Debug)]
pub(super) struct StoreRequest {
    pub change: notify::Change,
    pub name: Option<String>,
    pub unpolled: bool,
    pub fds: Vec<OwnedFd>,
}

/// A listening socket; dropping it removes its path.
#[derive(Debug)]
pub(super) struct EinhornSocket {
    pub(super) listener: UnixListener,
    pub(super) path: PathBuf,
    /// A descriptor in reserve. When no other is left, it is closed so that a connection can be
    /// accepted and closed at once: a pending connection would wake us without end.
    reserve: Option<OwnedFd>,
}

/// A connection on which a worker writes lines.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) stream: OwnedFd,
    pub(super) text: Vec<u8>,
    /// Whether the next bytes belong to a line that was too long.
    pub(super) skip_line: bool,
    /// The process that connected; None for the connection that the worker was given.
    pub(super) peer: Option<i32>,
}

impl EinhornSocket {
    /// Listens at `path`. Every user may connect, as to a notify socket: the peer's credentials
    /// decide whether its messages count.
    ///
    /// # Errors
    /// As bind(2).
    pub(super) fn at(path: PathBuf) -> io::Result<EinhornSocket> {
        let listener = UnixListener::bind(&path)?;
        let socket = EinhornSocket { listener, path, reserve: reserve() };
        socket.listener.set_nonblocking(true)?;
        fs::set_permissions(&socket.path, fs::Permissions::from_mode(0o666))?;
        Ok(socket)
    }

    /// A socket that was bound before an execve(2).
    pub(super) fn restore(listener: UnixListener, path: PathBuf) -> EinhornSocket {
        EinhornSocket { listener, path, reserve: reserve() }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for EinhornSocket {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

impl End {
    /// The connection that a worker was given.
    pub(super) fn given_line(stream: OwnedFd) -> End {
        End::Line(Line { stream, text: Vec::new(), skip_line: false, peer: None })
    }

    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            End::Notify(socket) => socket.as_fd(),
            End::Pipe(pipe, ..) => pipe.as_fd(),
            End::Crank(socket) => socket.as_fd(),
            End::Einhorn(socket) => socket.listener.as_fd(),
            End::Line(line) => line.stream.as_fd(),
        }
    }

    /// Reads what is there. `strangers` counts the messages of other processes, which are ignored.
    pub(super) fn read(&mut self, worker: Worker, strangers: &mut u64) -> Read {
        match self {
            End::Notify(socket) => read_notify(socket, worker, strangers),
            End::Pipe(pipe, kind, word) => read_pipe(pipe, *kind, word),
            End::Crank(socket) => read_crank(socket),
            End::Einhorn(socket) => socket.accept(worker, strangers),
            End::Line(line) => line.read(worker, strangers),
        }
    }
}

/// Reads datagrams. Descriptors that are neither for the store nor the one of BARRIER=1
/// (sd_notify_barrier(3)) are closed here. A message for the store ends the reading, because it
/// can bring many descriptors.
fn read_notify(socket: &NotifySocket, worker: Worker, strangers: &mut u64) -> Read {
    let mut read = Read::default();
    for _ in 0..BURST {
        let mut datagram = match socket.receive() {
            Ok(Some(datagram)) => datagram,
            Ok(None) => break,
            Err(error) => {
                log::debug!("cannot read the notify socket of pid {}: {error}", worker.family.worker);
                break;
            }
        };
        if !is_from_worker(datagram.pid, datagram.uid, worker) {
            ignore(datagram.pid, worker, strangers);
            continue;
        }
        let message = notify::parse(&datagram.text);
        if message.ready {
            read.ready = Some(AckKind::Notify);
        }
        if message.stopping {
            log::debug!("generation {}: pid {} says that it stops", worker.generation.0, datagram.pid);
        }
        read.heartbeat |= message.watchdog;
        read.status = message.status.or(read.status);
        read.messages.extend(message.extend.map(WorkerMessage::Extend));
        if message.barrier && datagram.fds.len() == 1 {
            read.barrier = datagram.fds.pop();
            break;
        }
        if let Some(change) = message.store {
            let (name, unpolled) = (message.name, message.unpolled);
            read.store = Some(StoreRequest { change, name, unpolled, fds: datagram.fds });
            break;
        }
    }
    read
}

/// Whether a message of process `pid` counts as the worker's. A living process must belong to
/// the worker, whatever user it runs as; of one that has exited, only the user is known.
fn is_from_worker(pid: i32, uid: u32, worker: Worker) -> bool {
    let (pid, uid) = (Pid::from_raw(pid), Uid::from_raw(uid));
    let known = uid == worker.uid || uid.is_root() || uid == Uid::effective();
    pid.as_raw() > 0 && (worker.family.contains(pid) || known && kill(pid, None) == Err(Errno::ESRCH))
}

/// Ignores a message of another process. Only the first one is logged as a warning.
fn ignore(pid: i32, worker: Worker, strangers: &mut u64) {
    *strangers += 1;
    let level = if *strangers == 1 { log::Level::Warn } else { log::Level::Trace };
    log::log!(
        level,
        "generation {}: ack ignored, pid {pid} is not a process of worker pid {}",
        worker.generation.0,
        worker.family.worker
    );
}

/// Whether `text` holds the word that is the ack of this kind. s6 asks for a newline, whatever
/// stands before or after it; the libraries write their word and nothing else.
fn says_ready(kind: AckKind, text: &[u8]) -> bool {
    kind::word(kind).is_some_and(|word| text.windows(word.len()).any(|part| part == word))
}

fn read_pipe(pipe: &OwnedFd, kind: AckKind, word: &mut Vec<u8>) -> Read {
    let mut buffer = [0; 4096];
    match read(pipe, &mut buffer) {
        Ok(0) => Read { ended: true, ..Read::default() },
        Ok(count) => {
            word.extend(&buffer[..count]);
            let ready = says_ready(kind, word).then_some(kind);
            word.drain(..word.len().saturating_sub(LONGEST_WORD - 1));
            Read { ready, ..Read::default() }
        }
        Err(Errno::EAGAIN | Errno::EINTR) => Read::default(),
        Err(_) => Read { ended: true, ..Read::default() },
    }
}

/// crank's word is a datagram.
fn read_crank(socket: &OwnedFd) -> Read {
    let word = kind::word(AckKind::Crank);
    let mut read = Read::default();
    let mut buffer = [0; 4096];
    for _ in 0..BURST {
        match recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
            Ok(count) if Some(buffer[..count].trim_ascii()) == word => read.ready = Some(AckKind::Crank),
            Ok(_) | Err(Errno::EINTR) => {}
            // A pair of datagram sockets does not report that the other end is closed.
            Err(_) => break,
        }
    }
    read
}

fn reserve() -> Option<OwnedFd> {
    File::open("/dev/null").ok().map(OwnedFd::from)
}

impl EinhornSocket {
    /// Accepts connections of the worker and of its descendants. The process must still live,
    /// because an ack names the process that sends it.
    fn accept(&mut self, worker: Worker, strangers: &mut u64) -> Read {
        let mut read = Read::default();
        for _ in 0..BURST {
            let stream = match self.listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if self.rejects_one(&error) => continue,
                Err(_) => break,
            };
            let Ok(peer) = getsockopt(&stream, sockopt::PeerCredentials) else { continue };
            if !worker.family.contains(Pid::from_raw(peer.pid())) {
                ignore(peer.pid(), worker, strangers);
                continue;
            }
            if stream.set_nonblocking(true).is_ok() {
                let peer = Some(peer.pid());
                read.new.push(End::Line(Line {
                    stream: stream.into(),
                    text: Vec::new(),
                    skip_line: false,
                    peer,
                }));
            }
        }
        read
    }

    /// Closes a pending connection if no descriptor is left; true if it did.
    fn rejects_one(&mut self, error: &io::Error) -> bool {
        let exhausted = [Errno::EMFILE, Errno::ENFILE].map(|errno| Some(errno as i32));
        if !exhausted.contains(&error.raw_os_error()) || self.reserve.take().is_none() {
            return false;
        }
        let turned_away = self.listener.accept().is_ok();
        self.reserve = reserve();
        turned_away
    }
}

impl Line {
    /// An ack counts if the process that it names has sent it. As in einhorn, it is not answered,
    /// and the connection that has brought it is closed.
    fn read(&mut self, worker: Worker, strangers: &mut u64) -> Read {
        let mut outcome = Read::default();
        let mut buffer = [0; 1024];
        let ended = match read(&self.stream, &mut buffer) {
            Ok(0) => true,
            Ok(count) => {
                self.text.extend(&buffer[..count]);
                false
            }
            Err(Errno::EAGAIN | Errno::EINTR) => false,
            Err(_) => true,
        };
        while let Some(end) = self.text.iter().position(|&byte| byte == b'\n') {
            let line: Vec<u8> = self.text.drain(..=end).collect();
            if std::mem::take(&mut self.skip_line) {
                continue;
            }
            let Some(pid) = einhorn::acked(&line[..end]) else { continue };
            let own = match self.peer {
                Some(peer) => peer == pid,
                None => worker.family.contains(Pid::from_raw(pid)),
            };
            if own {
                outcome.ready = Some(AckKind::Einhorn);
            } else {
                ignore(pid, worker, strangers);
            }
        }
        let acked = outcome.ready.is_some() && self.peer.is_some();
        if self.text.len() > einhorn::LONGEST {
            self.text.clear();
            self.skip_line = true;
        }
        outcome.ended = ended || acked;
        outcome
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_has_its_word() {
        let table: [(AckKind, &[u8], &[u8]); 4] = [
            (AckKind::Fd, b"ready\n", b"ready"),
            (AckKind::Tableflip, b"*", b"\n"),
            (AckKind::Ecdysis, b"OK", b"KO"),
            (AckKind::Shellflip, b"1", b"0"),
        ];
        for (kind, word, other) in table {
            assert!(says_ready(kind, word) && !says_ready(kind, other), "{kind:?}");
        }
    }

    #[test]
    fn a_word_in_two_pieces_is_a_word() {
        let (ours, theirs) = nix::unistd::pipe().unwrap();
        let mut word = Vec::new();
        nix::unistd::write(&theirs, b"O").unwrap();
        assert!(read_pipe(&ours, AckKind::Ecdysis, &mut word).ready.is_none());
        nix::unistd::write(&theirs, b"K").unwrap();
        assert_eq!(read_pipe(&ours, AckKind::Ecdysis, &mut word).ready, Some(AckKind::Ecdysis));
        drop(theirs);
        assert!(read_pipe(&ours, AckKind::Ecdysis, &mut word).ended);
    }
}
