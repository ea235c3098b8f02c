//! What is adopted, on its way through an execve(2): calls that nobody has received wait
//! in the kernel, and so do their callers.

use super::drain::Drain;
use super::group::Group;
use super::key::Key;
use super::shared::{Shared, Socket};
use super::{Adopt, Adopted};
use crate::carrier::{Arrivals, Carrier, Fd};
use crate::config;
use crate::core::event::{Time, WorkerId};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;

/// Everything that is adopted.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Saved {
    groups: Vec<SavedGroup>,
    shared: Vec<(Key, Vec<SavedSocket>)>,
    bound: Vec<(WorkerId, Key, usize)>,
    new: Vec<(WorkerId, Fd)>,
    workers: Vec<SavedWorker>,
    wanted: Vec<Key>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct SavedGroup {
    key: Key,
    /// In the order of their indices, with their inodes; nobody's is a tombstone.
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
    ready: Option<Vec<Key>>,
    gone: bool,
    drains: bool,
}

impl Saved {
    /// Lists the descriptors and writes down the rest.
    ///
    /// # Errors
    /// As [`Carrier::carry`].
    pub fn new(adopt: &Adopt, carrier: &mut Carrier) -> io::Result<Saved> {
        let mut groups = Vec::new();
        for (key, group) in &adopt.groups {
            let mut members = Vec::new();
            for (socket, inode, worker) in group.members() {
                members.push((carrier.carry(socket)?, inode, worker));
            }
            let (serving, attached) = (group.serving(), group.attached().to_vec());
            groups.push(SavedGroup { key: key.clone(), members, serving, attached });
        }
        let mut shared = Vec::new();
        for (key, sockets) in &adopt.shared.sockets {
            let save = |socket: &Socket| {
                Ok(SavedSocket { fd: carrier.carry(&socket.fd)?, inode: socket.inode, ours: socket.ours })
            };
            shared.push((key.clone(), sockets.iter().map(save).collect::<io::Result<Vec<_>>>()?));
        }
        let bound = adopt.shared.bound.iter().map(|((id, key), count)| (*id, key.clone(), *count)).collect();
        let mut new = Vec::new();
        for (id, socket) in &adopt.shared.new {
            new.push((*id, carrier.carry(socket)?));
        }
        let mut workers = Vec::new();
        for (&id, worker) in &adopt.workers {
            workers.push(SavedWorker {
                id,
                calls: carrier.carry(&*worker.calls)?,
                ports: worker.ports.clone(),
                listens: worker.listens.iter().cloned().collect(),
                ready: worker.ready.as_ref().map(|keys| keys.iter().cloned().collect()),
                gone: worker.gone,
                drains: worker.drain.is_some(),
            });
        }
        Ok(Saved { groups, shared, bound, new, workers, wanted: adopt.wanted.iter().cloned().collect() })
    }

    /// As it was. Of a worker that drains it is no longer known which handshakes were its own:
    /// those under way `now` are waited for.
    pub fn restore(self, config: config::Adopt, arrivals: &mut Arrivals, now: Time) -> Adopt {
        let groups = self.groups.into_iter().map(|saved| {
            let members = saved.members.into_iter();
            let members = members.map(|(fd, inode, worker)| (arrivals.take(fd), inode, worker)).collect();
            (saved.key, Group::restore(members, saved.serving, saved.attached))
        });
        let groups: BTreeMap<Key, Group> = groups.collect();
        let ports: BTreeSet<u16> = groups.keys().map(|key| key.address.port()).collect();
        let sockets = self.shared.into_iter().map(|(key, sockets)| {
            let restore = |saved: SavedSocket| Socket {
                fd: arrivals.take(saved.fd),
                inode: saved.inode,
                ours: saved.ours,
            };
            (key, sockets.into_iter().map(restore).collect())
        });
        let sockets = sockets.collect();
        let new = self.new.into_iter().map(|(id, fd)| (id, arrivals.take(fd))).collect();
        let bound = self.bound.into_iter().map(|(id, key, count)| ((id, key), count)).collect();
        let workers = self.workers.into_iter().map(|saved| {
            let worker = Adopted {
                calls: Arc::new(arrivals.take(saved.calls)),
                ports: saved.ports,
                listens: saved.listens.into_iter().collect(),
                ready: saved.ready.map(|keys| keys.into_iter().collect()),
                gone: saved.gone,
                drain: saved.drains.then(|| Drain::begin(ports.clone(), now)),
                told: Default::default(),
            };
            (saved.id, worker)
        });
        Adopt {
            config,
            groups,
            workers: workers.collect(),
            shared: Shared { sockets, bound, new },
            wanted: self.wanted.into_iter().collect(),
            stopping: false,
        }
    }
}
