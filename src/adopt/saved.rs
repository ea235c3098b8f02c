//! The adopted sockets across an execve(2). Calls that were not received yet wait in the kernel,
//! with their callers.

use super::drain::Drain;
use super::group::Group;
use super::key::Key;
use super::shared::{New, Shared, Socket};
use super::{Adopt, Adopted};
use crate::config;
use crate::core::event::{Time, WorkerId};
use crate::reexec::fd_transfer::{Fd, FdTransfer, InheritedFds};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;

/// Every adopted socket, and the workers.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Saved {
    groups: Vec<SavedGroup>,
    shared: Vec<(Key, Vec<SavedSocket>)>,
    new: Vec<New>,
    workers: Vec<SavedWorker>,
    serving: Option<WorkerId>,
    wanted: Vec<Key>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct SavedGroup {
    key: Key,
    /// In the order of their indices, with their inodes; one without a worker is a tombstone.
    members: Vec<(Fd, u64, Option<WorkerId>)>,
    serving: Option<WorkerId>,
    attached: Vec<u32>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct SavedSocket {
    fd: Fd,
    inode: u64,
    ours: bool,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct SavedWorker {
    id: WorkerId,
    calls: Fd,
    ports: BTreeSet<u16>,
    listens: Vec<Key>,
    root: i32,
    early: Vec<Key>,
    inherited: Vec<(Key, u64)>,
    stop_sent: bool,
    start: Option<Time>,
    ready: bool,
    gone: bool,
    drains: bool,
}

impl Saved {
    /// Lists the descriptors and copies the other values.
    ///
    /// # Errors
    /// As [`FdTransfer::add`].
    pub fn new(adopt: &Adopt, transfer: &mut FdTransfer) -> io::Result<Saved> {
        let mut groups = Vec::new();
        for (key, group) in &adopt.groups {
            let mut members = Vec::new();
            for (socket, inode, worker) in group.members() {
                members.push((transfer.add(socket)?, inode, worker));
            }
            let (serving, attached) = (group.serving(), group.attached().to_vec());
            groups.push(SavedGroup { key: key.clone(), members, serving, attached });
        }
        let mut shared = Vec::new();
        for (key, sockets) in &adopt.shared.sockets {
            let save = |socket: &Socket| {
                Ok(SavedSocket { fd: transfer.add(&socket.fd)?, inode: socket.inode, ours: socket.ours })
            };
            shared.push((key.clone(), sockets.iter().map(save).collect::<io::Result<Vec<_>>>()?));
        }
        let mut workers = Vec::new();
        for (&id, worker) in &adopt.workers {
            workers.push(SavedWorker {
                id,
                calls: transfer.add(&*worker.calls)?,
                ports: worker.ports.clone(),
                listens: worker.listens.iter().cloned().collect(),
                root: worker.root.as_raw(),
                early: worker.early.iter().cloned().collect(),
                stop_sent: worker.stop_sent,
                inherited: worker.inherited.iter().map(|(key, &inode)| (key.clone(), inode)).collect(),
                start: worker.start,
                ready: worker.ready,
                gone: worker.gone,
                drains: worker.drain.is_some(),
            });
        }
        let (new, serving) = (adopt.shared.new.clone(), adopt.serving);
        Ok(Saved { groups, shared, new, workers, serving, wanted: adopt.wanted.iter().cloned().collect() })
    }

    /// Restores the state. Which handshakes belong to a worker that drains is no longer known: those
    /// under way `now` are waited for.
    pub fn restore(self, config: config::Adopt, fds: &mut InheritedFds, now: Time) -> Adopt {
        let groups = self.groups.into_iter().map(|saved| {
            let members = saved.members.into_iter();
            let members = members.map(|(fd, inode, worker)| (fds.take(fd), inode, worker)).collect();
            (saved.key, Group::restore(members, saved.serving, saved.attached))
        });
        let groups: BTreeMap<Key, Group> = groups.collect();
        let ports: BTreeSet<u16> = groups.keys().map(|key| key.address.port()).collect();
        let sockets = self.shared.into_iter().map(|(key, sockets)| {
            let restore =
                |saved: SavedSocket| Socket { fd: fds.take(saved.fd), inode: saved.inode, ours: saved.ours };
            (key, sockets.into_iter().map(restore).collect())
        });
        let sockets = sockets.collect();
        let workers = self.workers.into_iter().map(|saved| {
            let worker = Adopted {
                calls: Arc::new(fds.take(saved.calls)),
                ports: saved.ports,
                listens: saved.listens.into_iter().collect(),
                root: Pid::from_raw(saved.root),
                early: saved.early.into_iter().collect(),
                stop_sent: saved.stop_sent,
                inherited: saved.inherited.into_iter().collect(),
                start: saved.start,
                ready: saved.ready,
                gone: saved.gone,
                drain: saved.drains.then(|| Drain::begin(ports.clone(), now)),
                warnings: Vec::new(),
                others: BTreeSet::new(),
            };
            (saved.id, worker)
        });
        Adopt {
            config,
            groups,
            workers: workers.collect(),
            shared: Shared { sockets, new: self.new },
            serving: self.serving,
            wanted: self.wanted.into_iter().collect(),
            suspects: BTreeSet::new(),
            ours: super::any_socket(),
            now,
            stopping: false,
        }
    }
}
