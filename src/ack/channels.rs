//! The channels of one start. They are made before the fork.

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

/// The fixed descriptors of tableflip's pipes.
const TABLEFLIP_READY: RawFd = 3;
const TABLEFLIP_NAMES: RawFd = 4;

/// Our ends of the channels, and what the worker is given.
#[derive(Debug, Default)]
pub struct Channels {
    ends: Vec<End>,
    given: Vec<(OwnedFd, RawFd)>,
    variables: Vec<(String, String)>,
    parent_pipe: Option<OwnedFd>,
}

impl Acks {
    /// Makes the channels. A descriptor without a fixed number gets the first number that no
    /// listener, none of the `stored` descriptors after them, and none of `taken` has.
    ///
    /// # Errors
    /// When no descriptor is left.
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
                    // The program takes the end of this pipe for the exit of its parent, and until
                    // then starts no successor of its own.
                    channels.parent_pipe = Some(write);
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
    /// The variables for the worker's environment.
    pub fn environment(&self) -> impl Iterator<Item = (String, String)> {
        self.variables.iter().cloned()
    }

    /// The descriptors for the worker: ours, and the number in the worker.
    pub fn descriptors(&self) -> impl Iterator<Item = (RawFd, RawFd)> {
        self.given.iter().map(|(fd, number)| (fd.as_raw_fd(), *number))
    }

    /// Has the watcher read our ends for `worker`. Our copies of the worker's ends are closed. Our
    /// ends stay open until [`Watcher::forget`], because a pipe without a reader would kill a
    /// worker that acks twice (SIGPIPE). The descriptor that is returned must be closed once no
    /// predecessor of the worker lives.
    ///
    /// # Errors
    /// When the kernel cannot watch another descriptor.
    pub fn watch(self, watcher: &Watcher, id: WorkerId, worker: Worker) -> io::Result<Option<OwnedFd>> {
        for end in self.ends {
            watcher.watch(id, worker, end)?;
        }
        Ok(self.parent_pipe)
    }

    /// A pipe that the worker writes to.
    fn pipe(&mut self, kind: AckKind, number: RawFd) -> io::Result<()> {
        let (read, write) = pipe2(OFlag::O_CLOEXEC)?;
        fcntl(&read, F_SETFL(OFlag::O_NONBLOCK))?;
        self.ends.push(End::Pipe(read, kind, Vec::new()));
        self.give(write, number, kind::variable(kind));
        Ok(())
    }

    /// A pipe with `message` in it, which the worker reads. Returns the writing end.
    fn message(&mut self, message: &[u8], number: RawFd) -> io::Result<OwnedFd> {
        let (read, write_end) = pipe2(OFlag::O_CLOEXEC)?;
        // The worker does not read yet: a write that does not fit must fail and not block.
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

    /// einhorn's control socket at a path, and a connection to it.
    fn einhorn(&mut self, directory: &Directory, number: RawFd) -> io::Result<()> {
        // Its clients cannot use abstract sockets. Without a directory there is only the
        // connection.
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
