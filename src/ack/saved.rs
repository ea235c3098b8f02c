//! The ack channels across an execve(2). What a worker has written and we have not read waits in
//! the kernel; what is half read is saved.

use super::Directory;
use super::end::{EinhornSocket, End, Line};
use super::message::Worker;
use super::watcher::Channel;
use crate::core::event::{AckKind, Generation, Slot, WorkerId};
use crate::reexec::fd_transfer::{Fd, FdTransfer, InheritedFds, path};
use crate::sys::notify::NotifySocket;
use crate::sys::tree::Family;
use nix::unistd::Uid;
use serde::{Deserialize, Serialize};
use std::io;
use std::path::PathBuf;

/// Every channel that is watched, and the directory of the sockets.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Saved {
    channels: Vec<SavedChannel>,
    directory: SavedDirectory,
    store: super::store::Saved,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct SavedChannel {
    id: WorkerId,
    uid: u32,
    generation: Generation,
    slot: Slot,
    stores: bool,
    family: Family,
    end: SavedEnd,
    acked: bool,
    warned: bool,
    strangers: u64,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
enum SavedEnd {
    Notify { socket: Fd, address: String, path: Option<SavedPath> },
    Pipe(Fd, AckKind, Vec<u8>),
    Crank(Fd),
    Einhorn(Fd, SavedPath),
    Line { stream: Fd, text: Vec<u8>, skip_line: bool, peer: Option<i32> },
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct SavedPath(#[serde(with = "path")] PathBuf);

#[derive(Debug, Clone, Serialize, Deserialize)]
struct SavedDirectory {
    made: Option<SavedPath>,
    next: u32,
}

impl Saved {
    /// Lists the descriptors and copies the other values.
    ///
    /// # Errors
    /// As [`FdTransfer::add`].
    pub fn new(
        watcher: &super::Watcher,
        directory: &Directory,
        transfer: &mut FdTransfer,
    ) -> io::Result<Saved> {
        let channels = watcher.with_channels(|channels| {
            channels.map(|channel| SavedChannel::new(channel, transfer)).collect::<io::Result<_>>()
        })?;
        let (made, next) = directory.save();
        let directory = SavedDirectory { made: made.map(SavedPath), next };
        Ok(Saved { channels, directory, store: watcher.save_store(transfer)? })
    }

    /// Has `watcher` watch the channels again, and uses the directory that was there.
    pub fn restore(self, watcher: &super::Watcher, directory: &Directory, fds: &mut InheritedFds) {
        for saved in self.channels {
            watcher.resume(saved.restore(fds));
        }
        watcher.resume_store(self.store, fds);
        directory.restore(self.directory.made.map(|SavedPath(path)| path), self.directory.next);
    }
}

impl SavedChannel {
    fn new(channel: &Channel, transfer: &mut FdTransfer) -> io::Result<SavedChannel> {
        let end = match &channel.end {
            End::Notify(socket) => SavedEnd::Notify {
                socket: transfer.add(socket)?,
                address: socket.address().into(),
                path: socket.path().cloned().map(SavedPath),
            },
            End::Pipe(pipe, kind, word) => SavedEnd::Pipe(transfer.add(pipe)?, *kind, word.clone()),
            End::Crank(socket) => SavedEnd::Crank(transfer.add(socket)?),
            End::Einhorn(socket) => {
                SavedEnd::Einhorn(transfer.add(&socket.listener)?, SavedPath(socket.path.clone()))
            }
            End::Line(line) => SavedEnd::Line {
                stream: transfer.add(&line.stream)?,
                text: line.text.clone(),
                skip_line: line.skip_line,
                peer: line.peer,
            },
        };
        let Worker { uid, generation, slot, stores, family } = channel.worker;
        Ok(SavedChannel {
            id: channel.id,
            uid: uid.as_raw(),
            generation,
            slot,
            stores,
            family,
            end,
            acked: channel.acked,
            warned: channel.warned,
            strangers: channel.strangers,
        })
    }

    fn restore(self, fds: &mut InheritedFds) -> Channel {
        let end = match self.end {
            SavedEnd::Notify { socket, address, path } => {
                let path = path.map(|SavedPath(path)| path);
                End::Notify(NotifySocket::restore(fds.take(socket), address, path))
            }
            SavedEnd::Pipe(pipe, kind, word) => End::Pipe(fds.take(pipe), kind, word),
            SavedEnd::Crank(socket) => End::Crank(fds.take(socket)),
            SavedEnd::Einhorn(socket, SavedPath(path)) => {
                End::Einhorn(EinhornSocket::restore(fds.take(socket).into(), path))
            }
            SavedEnd::Line { stream, text, skip_line, peer } => {
                End::Line(Line { stream: fds.take(stream), text, skip_line, peer })
            }
        };
        let worker = Worker {
            uid: Uid::from_raw(self.uid),
            generation: self.generation,
            slot: self.slot,
            stores: self.stores,
            family: self.family,
        };
        let (acked, warned, strangers) = (self.acked, self.warned, self.strangers);
        Channel { id: self.id, worker, end, acked, warned, strangers }
    }
}
