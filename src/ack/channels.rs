//! The channels of one start, made before the fork.

use super::end::End;
use super::{Acks, Directory, Watcher, Worker, kind};
use crate::core::event::{AckKind, WorkerId};
use crate::dialect::{Dialect, Exported, FIRST_FD, first_listener, wire};
use crate::error::reason;
use nix::fcntl::{F_SETFL, OFlag, fcntl};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::unistd::{pipe2, write};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

/// Where tableflip looks for its pipes.
const TABLEFLIP_READY: RawFd = 3;
const TABLEFLIP_NAMES: RawFd = 4;

/// What a worker is given to speak through, and what we listen to.
#[derive(Debug, Default)]
pub struct Channels {
    ends: Vec<End>,
    given: Vec<(OwnedFd, RawFd)>,
    variables: Vec<(String, String)>,
    kept: Option<OwnedFd>,
}

impl Acks {
    /// Makes the channels. Those without a number of their own are numbered with
    /// the first that neither a listener, nor one of the `stored` descriptors after
    /// them, nor `taken` has.
    ///
    /// # Errors
    /// When the system has no descriptor to spare.
    pub fn open(
        &self,
        directory: &Directory,
        listeners: &[Exported],
        stored: usize,
        taken: &[RawFd],
    ) -> io::Result<Channels> {
        let first = first_listener(&self.dialects);
        let after = first.map_or(FIRST_FD, |first| first + (listeners.len() + stored) as RawFd);
        let mut free = (after..).filter(|number| !taken.contains(number) && self.fd_number != Some(*number));
        let mut next = || free.next().unwrap_or(after);
        let mut channels = Channels::default();
        if self.notify {
            let socket = directory.socket()?;
            channels.variables.push(("NOTIFY_SOCKET".into(), socket.address().into()));
            channels.ends.push(End::Notify(socket));
        }
        if self.fd {
            let number = self.fd_number.unwrap_or_else(&mut next);
            channels.pipe(AckKind::Fd, number)?;
        }
        if self.einhorn {
            channels.einhorn(directory, next())?;
        }
        for dialect in &self.dialects {
            match dialect {
                Dialect::Crank => channels.crank(next())?,
                Dialect::Shellflip => channels.pipe(AckKind::Shellflip, next())?,
                Dialect::Tableflip => {
                    channels.pipe(AckKind::Tableflip, TABLEFLIP_READY)?;
                    let write = channels.message(&wire::tableflip_names(listeners), TABLEFLIP_NAMES)?;
                    // Its end says that the parent has gone; until then the
                    // program forks no successor of its own.
                    channels.kept = Some(write);
                }
                Dialect::Ecdysis => {
                    let message = wire::ecdysis_listeners(listeners, first.unwrap_or(FIRST_FD));
                    let number = next();
                    channels.message(&message, number)?;
                    channels.variables.push(("ECDYSIS_RUST_PIPE_FDS".into(), number.to_string()));
                    channels.pipe(AckKind::Ecdysis, next())?;
                }
                _ => {}
            }
        }
        Ok(channels)
    }
}

impl Channels {
    /// What the worker finds in its environment.
    pub fn environment(&self) -> impl Iterator<Item = (String, String)> {
        self.variables.iter().cloned()
    }

    /// What the worker is given: our descriptor, and its number there.
    pub fn descriptors(&self) -> impl Iterator<Item = (RawFd, RawFd)> {
        self.given.iter().map(|(fd, number)| (fd.as_raw_fd(), *number))
    }

    /// Has the watcher listen for `worker`. Our copy of what the worker writes
    /// to is closed; what it reads from lives until [`Watcher::forget`], since a
    /// pipe without a reader would kill a worker that acks twice. What comes back
    /// is to be closed once no predecessor of the worker lives.
    ///
    /// # Errors
    /// When the kernel cannot watch another descriptor.
    pub fn watch(self, watcher: &Watcher, id: WorkerId, worker: Worker) -> io::Result<Option<OwnedFd>> {
        for end in self.ends {
            watcher.watch(id, worker, end)?;
        }
        Ok(self.kept)
    }

    /// A pipe that the worker writes to.
    fn pipe(&mut self, kind: AckKind, number: RawFd) -> io::Result<()> {
        let (read, write) = pipe2(OFlag::O_CLOEXEC)?;
        fcntl(&read, F_SETFL(OFlag::O_NONBLOCK))?;
        self.ends.push(End::Pipe(read, kind, Vec::new()));
        self.give(write, number, kind::variable(kind));
        Ok(())
    }

    /// A pipe with `message` in it that the worker reads from; its other end.
    fn message(&mut self, message: &[u8], number: RawFd) -> io::Result<OwnedFd> {
        let (read, write_end) = pipe2(OFlag::O_CLOEXEC)?;
        // We are not to wait for a worker that has not begun.
        fcntl(&write_end, F_SETFL(OFlag::O_NONBLOCK))?;
        if write(&write_end, message)? < message.len() {
            return Err(io::Error::other("too many listeners for a pipe"));
        }
        self.give(read, number, None);
        Ok(write_end)
    }

    fn crank(&mut self, number: RawFd) -> io::Result<()> {
        let (ours, theirs) =
            socketpair(AddressFamily::Unix, SockType::Datagram, None, SockFlag::SOCK_CLOEXEC)?;
        fcntl(&ours, F_SETFL(OFlag::O_NONBLOCK))?;
        self.ends.push(End::Crank(ours));
        self.give(theirs, number, kind::variable(AckKind::Crank));
        Ok(())
    }

    /// Both ways to einhorn: a socket by its path, and a connection to it.
    fn einhorn(&mut self, directory: &Directory, number: RawFd) -> io::Result<()> {
        // Its clients know no abstract sockets; without a directory there is the
        // connection alone.
        match directory.einhorn() {
            Ok(socket) => {
                let path = socket.path().display().to_string();
                self.variables.push(("EINHORN_SOCK_PATH".into(), path));
                self.ends.push(End::Einhorn(socket));
            }
            Err(error) => log::debug!("einhorn has no socket with a path: {}", reason(&error)),
        }
        let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::Stream, None, SockFlag::SOCK_CLOEXEC)?;
        fcntl(&ours, F_SETFL(OFlag::O_NONBLOCK))?;
        self.variables.push(("EINHORN_MASTER_PID".into(), std::process::id().to_string()));
        self.ends.push(End::given_line(ours));
        self.give(theirs, number, Some("EINHORN_SOCK_FD"));
        Ok(())
    }

    fn give(&mut self, fd: OwnedFd, number: RawFd, variable: Option<&str>) {
        if let Some(variable) = variable {
            self.variables.push((variable.into(), number.to_string()));
        }
        self.given.push((fd, number));
    }
}
