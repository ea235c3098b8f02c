//! Servers that bind their own sockets and know nothing of it: what they ask the kernel
//! for, we see, and the listening itself we do for them, on a copy of the socket.
//!
//! So we know every address of a worker and, with *steer*, the order in which its
//! sockets joined the kernel's group of the address ([`group`]): new connections go to
//! one worker's sockets, from one moment on to those of its replacement, while the old
//! one [drains](drain). Sockets that cannot be in such a group, of UDP, and all of them
//! with *share*, are one socket of all generations ([`shared`]).
//!
//! Nothing here is a barrier: what is not understood is let through, and the worker is as
//! it would be without us. Only the main thread calls.

mod answers;
pub mod drain;
pub mod group;
pub mod key;
mod saved;
mod shared;

pub use saved::Saved;

use crate::config;
use crate::core::event::{Time, WorkerId};
use crate::sys::connections::Doors;
use crate::sys::{flows, steering};
use drain::Drain;
use group::Group;
use key::{Key, Transport};
use log::warn;
use nix::unistd::Pid;
use shared::Shared;
use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

/// Every worker whose calls we hear of, and the sockets that they have.
#[derive(Debug)]
pub struct Adopt {
    config: config::Adopt,
    /// The listening sockets of each address, where they are steered.
    groups: BTreeMap<Key, Group>,
    /// The sockets that all generations have in common.
    shared: Shared,
    workers: BTreeMap<WorkerId, Adopted>,
    /// Where the worker that serves listened when it became ready: so has the next one to.
    wanted: BTreeSet<Key>,
    /// Everything is to end, and nothing is held any more.
    stopping: bool,
}

/// A worker, until nothing that it has started is left.
#[derive(Debug)]
struct Adopted {
    /// Where its calls are answered.
    calls: Arc<OwnedFd>,
    /// The ports that it has asked for. What it listens on beside them the kernel has chosen.
    ports: BTreeSet<u16>,
    /// Where it listens.
    listens: BTreeSet<Key>,
    /// Where it did when it became ready.
    ready: Option<BTreeSet<Key>>,
    /// Its own process has ended.
    gone: bool,
    drain: Option<Drain>,
    /// What people have been told of it.
    told: BTreeSet<String>,
}

/// An address, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    /// What is listened on.
    pub address: String,
    /// Whose sockets new connections go to; None where all share one.
    pub serving: Option<WorkerId>,
    /// How many sockets those are.
    pub sockets: usize,
    /// How many there are of workers that drain or start, and of those that have gone.
    pub others: usize,
    /// How many connections wait to be accepted by the worker that serves.
    pub queue: Option<u32>,
}

impl Adopt {
    /// What nobody has bound yet. `ours` are the sockets that are put in the place of
    /// workers' own.
    pub fn new<'a>(config: config::Adopt, ours: impl Iterator<Item = std::os::fd::BorrowedFd<'a>>) -> Adopt {
        Adopt {
            config,
            groups: BTreeMap::new(),
            shared: Shared::new(ours),
            workers: BTreeMap::new(),
            wanted: BTreeSet::new(),
            stopping: false,
        }
    }

    /// A worker has been started whose calls come through `calls`.
    pub fn open(&mut self, id: WorkerId, calls: Arc<OwnedFd>) {
        let worker = Adopted {
            calls,
            ports: BTreeSet::new(),
            listens: BTreeSet::new(),
            ready: None,
            gone: false,
            drain: None,
            told: BTreeSet::new(),
        };
        self.workers.insert(id, worker);
    }

    /// Whether the worker listens wherever it has to.
    pub fn listens(&self, id: WorkerId) -> bool {
        self.workers.get(&id).is_some_and(|worker| {
            !worker.listens.is_empty() && self.wanted.iter().all(|key| worker.listens.contains(key))
        })
    }

    /// What keeps it from that, for people.
    pub fn lacks(&self, id: WorkerId) -> Option<String> {
        let worker = self.workers.get(&id)?;
        let list = |keys: &mut dyn Iterator<Item = &Key>| {
            keys.map(ToString::to_string).collect::<Vec<_>>().join(", ")
        };
        let missing = list(&mut self.wanted.difference(&worker.listens));
        let listens = list(&mut worker.listens.iter());
        Some(match (worker.listens.is_empty(), missing.is_empty()) {
            (true, true) => "it was never seen to listen (on no port but 0, through io_uring, or as a 32-bit program? give it the sockets with -b)".into(),
            (true, false) => format!("it was never seen to listen, and the old one listens on {missing}"),
            (false, false) => format!("it does not listen on {missing}, as the old one does, but on {listens} (--port, or --on-ack-timeout proceed)"),
            (false, true) => return None,
        })
    }

    /// The worker is ready: what it listens on by now is what its successor has to.
    /// `lone` if it serves from now on without having replaced another.
    pub fn ready(&mut self, id: WorkerId, root: Option<Pid>, lone: bool) {
        let held = root.and_then(|root| flows::held(root, &BTreeSet::new()).ok());
        let Some(worker) = self.workers.get_mut(&id) else { return };
        // Sockets that it binds in passing, as resolvers do, are none that it serves with.
        for key in self.shared.settle(id, |inode| held.as_ref().is_none_or(|held| held.contains(&inode))) {
            worker.listens.remove(&key);
        }
        worker.ready = Some(worker.listens.clone());
        if lone {
            self.serves(id);
            for group in self.groups.values_mut() {
                report(group.steer(id).map(drop), "steer connections to a worker");
            }
            let gone: Vec<WorkerId> = self.gone().collect();
            gone.into_iter().for_each(|gone| self.leave(gone));
        }
    }

    /// The worker has replaced the one before it.
    pub fn serves(&mut self, id: WorkerId) {
        if let Some(ready) = self.workers.get(&id).and_then(|worker| worker.ready.clone()) {
            self.wanted = ready;
        }
    }

    /// New connections go to `to` from now on, at once wherever it listens; `back` if they did
    /// before, and all is to be as it was.
    ///
    /// # Errors
    /// Why that cannot be, for people; all is as it was.
    pub fn switch(&mut self, to: WorkerId, back: bool, now: Time) -> Result<(), String> {
        if !back {
            self.check_strangers()?;
        }
        let before: Vec<(Key, Option<WorkerId>)> =
            self.groups.iter().map(|(key, group)| (key.clone(), group.serving())).collect();
        for group in self.groups.values_mut() {
            report(group.bury(), "close the socket of an old worker");
        }
        let failed = self.groups.iter_mut().find_map(|(key, group)| {
            group.steer(to).err().map(|error| format!("cannot steer connections of {key}: {error}"))
        });
        if let Some(why) = failed {
            for (key, serving) in before {
                if let (Some(group), Some(serving)) = (self.groups.get_mut(&key), serving) {
                    report(group.steer(serving).map(drop), "steer connections back");
                }
            }
            return Err(why);
        }
        let ports: BTreeSet<u16> = self.groups.keys().map(|key| key.address.port()).collect();
        for (&id, worker) in &mut self.workers {
            worker.drain = match id == to || worker.gone {
                true => None,
                false => worker.drain.take().or_else(|| Some(Drain::begin(ports.clone(), now))),
            };
        }
        Ok(())
    }

    /// Somebody else's socket in one of our groups would get a share of the connections,
    /// and its index would be one of ours to us.
    fn check_strangers(&self) -> Result<(), String> {
        match self.groups.keys().find_map(|key| Some((key, self.stranger(key)?))) {
            Some((key, inode)) => Err(format!(
                "somebody else listens on {key} too (socket {inode}; ss -ltnpe says who): connections cannot be steered beside it"
            )),
            None => Ok(()),
        }
    }

    /// A socket at the address that is none of ours.
    fn stranger(&self, key: &Key) -> Option<u64> {
        if key.transport == Transport::Datagram {
            return None;
        }
        let family = if key.address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
        let listening = flows::listening(family, key.address.port()).ok()?;
        let ours: BTreeSet<u64> = self.groups.values().flat_map(Group::inodes).collect();
        let same = |found: &flows::Listening| {
            found.address.ip() == key.address.ip()
                && (found.device == 0) == key.device.is_empty()
                && found.v6only.is_none_or(|v6only| v6only == key.v6only)
        };
        let stranger = |found: &&flows::Listening| same(found) && !ours.contains(&found.inode);
        listening.iter().find(stranger).map(|found| found.inode)
    }

    /// Looks whether the worker, whose process is `root`, has something left to serve. When it
    /// has, what that is, for people, and when to look again.
    pub fn look_drained(
        &mut self,
        id: WorkerId,
        root: Pid,
        others: &BTreeSet<Pid>,
        now: Time,
    ) -> Option<(drain::Left, Duration)> {
        let idle = self.config.idle;
        let listeners = self.groups.values().flat_map(|group| group.sockets(id)).map(|(_, fd)| fd.as_fd());
        let drain = self.workers.get_mut(&id)?.drain.as_mut()?;
        let left = drain.look(root, others, listeners, idle, now);
        (!drain.is_drained()).then(|| (left, drain.pause()))
    }

    /// The worker's own process has ended. Where it served, nobody else listens, and the one
    /// that is started in its place has to, what comes waits in its queue for that.
    pub fn ended(&mut self, id: WorkerId) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        worker.gone = true;
        worker.drain = None;
        // A successor that listens elsewhere has not taken these over, but nobody waits for them.
        let awaited = |key: &Key, group: &Group| {
            let others = || group.inodes().any(|inode| group.owner(inode).is_some_and(|owner| owner != id));
            self.wanted.contains(key) && group.serving() == Some(id) && !others()
        };
        for (_, group) in self.groups.iter_mut().filter(|(key, group)| !awaited(key, group)) {
            report(group.remove(id), "close the socket of an old worker");
        }
        self.tidy();
    }

    /// Nothing that the worker has started is left.
    pub fn over(&mut self, id: WorkerId) {
        self.ended(id);
        let served = self.groups.values().any(|group| group.serving() == Some(id));
        if !served {
            self.workers.remove(&id);
        }
    }

    /// Its sockets go.
    fn leave(&mut self, id: WorkerId) {
        for group in self.groups.values_mut() {
            report(group.remove(id), "close the socket of an old worker");
        }
        self.workers.remove(&id);
        self.tidy();
    }

    fn tidy(&mut self) {
        self.groups.retain(|_, group| !group.is_empty());
    }

    /// Everything is to end: what the workers close is closed, and nobody waits in vain.
    pub fn stop(&mut self) {
        self.stopping = true;
        self.groups.clear();
        self.shared.clear();
    }

    fn gone(&self) -> impl Iterator<Item = WorkerId> {
        self.workers.iter().filter(|(_, worker)| worker.gone).map(|(&id, _)| id)
    }

    /// Whether a worker that serves has several sockets at one address, of which it may close one
    /// without our being told.
    pub fn has_several(&self) -> bool {
        let several = |group: &Group| group.serving().is_some_and(|id| group.sockets(id).count() > 1);
        self.groups.values().any(several)
    }

    /// Sockets that the worker, whose process is `root`, has closed leave their groups: new
    /// connections would wait in them for ever.
    pub fn forget_closed(&mut self, id: WorkerId, root: Pid) {
        let Ok(held) = flows::held(root, &BTreeSet::new()) else { return };
        for group in self.groups.values_mut() {
            let own: BTreeSet<u64> = group.sockets(id).map(|(inode, _)| inode).collect();
            if own.len() > 1 {
                let closed = group.abandon(|inode| own.contains(&inode) && !held.contains(&inode));
                report(closed, "close the socket of a worker");
            }
        }
    }

    /// What connections come in through.
    pub fn doors(&self) -> Doors {
        let mut doors = Doors::default();
        for (key, group) in &self.groups {
            doors.listeners.extend(group.inodes());
            doors.at(key.address);
        }
        for (key, inode) in self.shared.all() {
            doors.listeners.insert(inode);
            if key.transport == Transport::Stream {
                doors.at(key.address);
            }
        }
        doors
    }

    /// Every address, for people.
    pub fn addresses(&self) -> Vec<Shown> {
        let steered = self.groups.iter().map(|(key, group)| {
            let sockets = group.serving().map_or(0, |id| group.sockets(id).count());
            let others = group.len() - sockets;
            let own = group.serving().into_iter().flat_map(|id| group.sockets(id));
            let queue = own.filter_map(|(_, socket)| steering::waiting(socket.as_fd()).ok()).sum();
            Shown { address: key.to_string(), serving: group.serving(), sockets, others, queue: Some(queue) }
        });
        let shared = self.shared.counts().map(|(key, sockets, queue)| Shown {
            address: key.to_string(),
            serving: None,
            sockets,
            others: 0,
            queue,
        });
        steered.chain(shared).collect()
    }

    /// How sockets are adopted, as `--adopt` has it.
    pub fn mode(&self) -> &'static str {
        if self.config.share { "share" } else { "steer" }
    }

    /// Every worker whose calls are to be heard, and through what.
    pub fn heard(&self) -> impl Iterator<Item = (WorkerId, Arc<OwnedFd>)> {
        self.workers.iter().map(|(&id, worker)| (id, Arc::clone(&worker.calls)))
    }

    /// Tells people once of a worker.
    fn tell(&mut self, id: WorkerId, line: String) {
        if let Some(worker) = self.workers.get_mut(&id)
            && worker.told.insert(line.clone())
        {
            warn!("{line}");
        }
    }
}

fn report(result: std::io::Result<()>, attempt: &str) {
    if let Err(error) = result {
        warn!("cannot {attempt}: {error}");
    }
}
