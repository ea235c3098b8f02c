//! The adopted sockets across an execve(2). Calls that were not received yet wait in the kernel,
//! with their callers.

use super::drain::{self, Drain};
use super::group::Weighed;
use super::guess::Guess;
use super::key::Key;
use super::listener::{Holder, Listener};
use super::looks::Looks;
use super::shared::{New, Shared, Socket};
use super::{Adopt, Adopted, Group};
use crate::config;
use crate::core::event::{Generation, Slot, Time, WorkerId};
use crate::reexec::fd_transfer::{Fd, FdTransfer, InheritedFds};
use crate::sys::caller_path::FileId;
use crate::sys::fd;
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

/// Every adopted socket, and the workers.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Saved {
    groups: Vec<SavedGroup>,
    shared: Vec<(Key, Vec<SavedSocket>)>,
    new: Vec<New>,
    workers: Vec<SavedWorker>,
    serving: Serving,
    #[serde(default)]
    weighed: Option<Weighed>,
    wanted: Vec<Key>,
    #[serde(default)]
    served_by: BTreeSet<PathBuf>,
    #[serde(default)]
    looks_first: bool,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct SavedGroup {
    key: Key,
    /// In the order of their indices.
    members: Vec<SavedMember>,
    serving: Serving,
    attached: Vec<u32>,
}

/// Workers. Before there could be several it was one or none.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(untagged)]
enum Serving {
    All(BTreeSet<WorkerId>),
    One(Option<WorkerId>),
}

impl Serving {
    fn all(self) -> BTreeSet<WorkerId> {
        match self {
            Serving::All(all) => all,
            Serving::One(one) => one.into_iter().collect(),
        }
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct SavedMember {
    copy: Option<Fd>,
    inode: u64,
    holder: Option<(i32, i32)>,
    /// None for a tombstone.
    worker: Option<WorkerId>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct SavedSocket {
    fd: Fd,
    inode: u64,
    ours: bool,
    holder: Option<(i32, i32)>,
    #[serde(default)]
    file: Option<FileId>,
    #[serde(default)]
    is_unlinked: bool,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct SavedWorker {
    id: WorkerId,
    calls: Fd,
    ports: BTreeSet<u16>,
    listens: Vec<Key>,
    root: i32,
    #[serde(default)]
    place: (u32, u32),
    #[serde(default)]
    connects_received: bool,
    #[serde(default)]
    first_listen: Option<Time>,
    early: Vec<Key>,
    late: Vec<(Key, Time)>,
    inherited: Vec<(Key, u64)>,
    #[serde(default)]
    opened: u64,
    #[serde(default)]
    unix: BTreeSet<PathBuf>,
    #[serde(default)]
    unix_alone: bool,
    #[serde(default)]
    socketless: bool,
    stop_sent: bool,
    start: Option<Time>,
    ready: bool,
    gone: bool,
    deserted: bool,
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
            for (listener, inode, worker) in group.members() {
                let copy = listener.owned_copy().map(|copy| transfer.add(copy)).transpose()?;
                members.push(SavedMember { copy, inode, holder: numbers(listener.holder()), worker });
            }
            let (serving, attached) = (Serving::All(group.serving().clone()), group.attached().to_vec());
            groups.push(SavedGroup { key: key.clone(), members, serving, attached });
        }
        let mut shared = Vec::new();
        for (key, sockets) in &adopt.shared.sockets {
            let save = |socket: &Socket| {
                let (inode, ours, holder) = (socket.inode, socket.ours, numbers(socket.holder));
                let (file, is_unlinked) = (socket.file, socket.is_unlinked);
                Ok(SavedSocket { fd: transfer.add(&socket.fd)?, inode, ours, holder, file, is_unlinked })
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
                place: (worker.generation.0, worker.slot.0),
                connects_received: worker.connects_received,
                first_listen: worker.first_listen,
                early: worker.early.iter().cloned().collect(),
                late: worker.late.iter().map(|(key, &opened)| (key.clone(), opened)).collect(),
                stop_sent: worker.stop_sent,
                inherited: worker.inherited.iter().map(|(key, &inode)| (key.clone(), inode)).collect(),
                opened: worker.opened,
                unix: worker.unix.clone(),
                unix_alone: worker.unix_alone,
                socketless: worker.socketless,
                start: worker.start,
                ready: worker.ready,
                gone: worker.gone,
                deserted: worker.deserted,
                drains: worker.drain.is_some(),
            });
        }
        let (new, serving) = (adopt.shared.new.clone(), Serving::All(adopt.serving.clone()));
        let wanted = adopt.wanted.iter().cloned().collect();
        let (served_by, looks_first) = (adopt.unix.clone(), adopt.looks_first);
        let weighed = adopt.weighed;
        Ok(Saved { groups, shared, new, workers, serving, weighed, wanted, served_by, looks_first })
    }

    /// Restores the state. Which handshakes belong to a worker that drains is no longer known: those
    /// under way `now` are waited for.
    pub fn restore(self, config: config::Adopt, fds: &mut InheritedFds, now: Time) -> Adopt {
        let groups = self.groups.into_iter().map(|saved| {
            let members = saved.members.into_iter();
            let address = saved.key.address.inet();
            let members = members.map(|SavedMember { copy, inode, holder, worker }| {
                let copy = copy.map(|copy| fds.take(copy));
                (Listener::new(copy, inode, address, holder_of(holder)), inode, worker)
            });
            let members = members.collect();
            (saved.key, Group::restore(members, saved.serving.all(), self.weighed, saved.attached))
        });
        let groups: BTreeMap<Key, Group> = groups.collect();
        let ports: BTreeSet<u16> = groups.keys().map(|key| key.address.port()).collect();
        let sockets = self.shared.into_iter().map(|(key, sockets)| {
            let restore = |SavedSocket { fd, inode, ours, holder, file, is_unlinked }| Socket {
                fd: fds.take(fd),
                inode,
                ours,
                holder: holder_of(holder),
                file,
                is_unlinked,
            };
            (key, sockets.into_iter().map(restore).collect())
        });
        let sockets = sockets.collect();
        let handshakes = drain::handshakes(&ports);
        let workers = self.workers.into_iter().map(|saved| {
            let (generation, slot) = saved.place;
            let worker = Adopted {
                calls: Arc::new(fds.take(saved.calls)),
                ports: saved.ports,
                listens: saved.listens.into_iter().collect(),
                root: Pid::from_raw(saved.root),
                generation: Generation(generation),
                slot: Slot(slot),
                connects_received: saved.connects_received,
                first_listen: saved.first_listen,
                early: saved.early.into_iter().collect(),
                late: saved.late.into_iter().collect(),
                stop_sent: saved.stop_sent,
                inherited: saved.inherited.into_iter().collect(),
                start: saved.start,
                ready: saved.ready,
                announced: false,
                gone: saved.gone,
                deserted: saved.deserted,
                drain: saved.drains.then(|| Drain::begin(ports.clone(), handshakes.clone(), now)),
                quiet: None,
                warnings: Vec::new(),
                found_taken: None,
                others: BTreeSet::new(),
                elsewhere: BTreeSet::new(),
                opened: saved.opened,
                unix: saved.unix,
                unix_alone: saved.unix_alone,
                socketless: saved.socketless,
                bound: BTreeSet::new(),
                last_listen: now,
            };
            (saved.id, worker)
        });
        let mut looks = Looks::default();
        looks.begin(now);
        let adopt = Adopt {
            config,
            groups,
            workers: workers.collect(),
            shared: Shared { sockets, new: self.new },
            serving: self.serving.all(),
            weighed: self.weighed,
            wanted: self.wanted.into_iter().collect(),
            waited: BTreeSet::new(),
            told_of_blindness: false,
            looks,
            suspects: BTreeMap::new(),
            arrivals: super::new_arrivals(),
            ours: fd::any_socket(),
            now,
            stopping: false,
            unix: self.served_by,
            guess: Guess::default(),
            names: Arc::default(),
            looks_first: self.looks_first,
        };
        adopt.arm_all();
        adopt.update_names();
        adopt
    }
}

fn numbers(holder: Option<Holder>) -> Option<(i32, i32)> {
    holder.map(|(process, number)| (process.as_raw(), number))
}

fn holder_of(saved: Option<(i32, i32)>) -> Option<Holder> {
    saved.map(|(process, number)| (Pid::from_raw(process), number))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The version before knew one worker that serves.
    #[test]
    fn the_state_of_the_version_before_is_read() {
        let read = |text: &str| serde_json::from_str::<Serving>(text).expect("read").all();
        for (text, expected) in [("7", &[7][..]), ("null", &[]), ("[]", &[]), ("[2,7]", &[2, 7])] {
            assert_eq!(read(text), expected.iter().copied().map(WorkerId).collect(), "{text}");
        }
        let saved = Serving::All([WorkerId(3), WorkerId(1)].into());
        assert_eq!(serde_json::to_string(&saved).expect("written"), "[1,3]");
    }
}
