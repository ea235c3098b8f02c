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

mod closed;
pub mod drain;
pub mod group;
pub mod key;
mod replace;
mod saved;
mod shared;
mod sharing;
mod strangers;
mod syscalls;

pub use saved::Saved;

use crate::config;
use crate::core::event::{Time, WorkerId};
use crate::sys::connections::ListenPorts;
use crate::sys::steering;
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

/// The pause between looks at a worker that was to drain and serves again.
const SERVES_AGAIN: Duration = Duration::from_millis(250);

/// Every worker whose calls we hear of, and the sockets that they have.
#[derive(Debug)]
pub struct Adopt {
    config: config::Adopt,
    /// The listening sockets of each address, where they are steered.
    groups: BTreeMap<Key, Group>,
    /// The sockets that all generations have in common.
    shared: Shared,
    workers: BTreeMap<WorkerId, Adopted>,
    /// The worker that serves.
    serving: Option<WorkerId>,
    /// Where it listens: so has the next one to.
    wanted: BTreeSet<Key>,
    /// Sockets that nobody was seen to hold at the last look.
    suspects: BTreeSet<u64>,
    /// A socket of our network.
    ours: Option<OwnedFd>,
    /// The time of what happens.
    now: Time,
    /// Everything is to end, and nothing is held any more.
    stopping: bool,
}

/// A worker, until nothing that it has started is left.
#[derive(Debug)]
struct Adopted {
    /// Where its calls are answered.
    calls: Arc<OwnedFd>,
    /// Its own process.
    root: Pid,
    /// The ports that it has asked for. What it listens on beside them the kernel has chosen.
    ports: BTreeSet<u16>,
    /// Where it listens.
    listens: BTreeSet<Key>,
    /// Sockets of a worker that has gone that it was given at its bind(2): they listen already, so
    /// it need not call listen(2) (gunicorn asks SO_ACCEPTCONN first).
    inherited: BTreeMap<Key, u64>,
    /// Where it does and we have no part in it.
    others: BTreeSet<Key>,
    /// Where it began to until `start`: what it opens later, for a debugger perhaps, its
    /// successor need not have.
    early: BTreeSet<Key>,
    start: Option<Time>,
    ready: bool,
    /// It was asked to stop: what comes to it may be lost.
    asked: bool,
    /// Its own process has ended.
    gone: bool,
    drain: Option<Drain>,
    /// What people have been told of it.
    told: Vec<String>,
}

/// An address, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    /// What is listened on.
    pub address: String,
    /// All generations share its sockets.
    pub shared: bool,
    /// Whose sockets new connections go to; None where all share them.
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
        let shared = Shared::new(ours);
        Adopt {
            config,
            groups: BTreeMap::new(),
            wanted: shared.ours().collect(),
            shared,
            workers: BTreeMap::new(),
            serving: None,
            suspects: BTreeSet::new(),
            ours: socket_of_ours(),
            now: Time::ZERO,
            stopping: false,
        }
    }

    /// A worker has been started, as the process `root`, whose calls come through `calls`. What it
    /// listens on until `start` belongs to it; None: whenever.
    pub fn open(&mut self, id: WorkerId, root: Pid, calls: Arc<OwnedFd>, start: Option<Time>) {
        let worker = Adopted {
            calls,
            root,
            ports: BTreeSet::new(),
            listens: BTreeSet::new(),
            inherited: BTreeMap::new(),
            others: BTreeSet::new(),
            early: BTreeSet::new(),
            start,
            ready: false,
            asked: false,
            gone: false,
            drain: None,
            told: Vec::new(),
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
        let others = list(&mut worker.others.iter());
        let nothing = if let Some(told) = worker.told.last() {
            told.clone()
        } else if others.is_empty() {
            "it was never seen to listen".to_owned()
        } else {
            format!("it listens on {others} alone, which --port leaves out")
        };
        Some(match (worker.listens.is_empty(), missing.is_empty()) {
            (true, true) if others.is_empty() && worker.told.is_empty() => {
                format!(
                    "{nothing} on a TCP port (a unix socket, port 0, io_uring, a 32-bit program? Those are not adopted: let it have its sockets from -b; or it needs a longer --ack-timeout)"
                )
            }
            (true, true) => nothing,
            (true, false) => format!("{nothing}, and is to listen on {missing}"),
            (false, false) => format!("it is to listen on {missing}, and listens on {listens}"),
            (false, true) => return None,
        })
    }

    /// It listens there.
    fn heard(&mut self, id: WorkerId, key: Key) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        if worker.start.is_none_or(|start| self.now <= start) {
            worker.early.insert(key.clone());
            if self.serving == Some(id) {
                self.wanted.insert(key.clone());
            }
        }
        worker.listens.insert(key);
    }

    /// It does so no longer.
    fn unheard(&mut self, id: WorkerId, key: &Key) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        worker.listens.remove(key);
        worker.early.remove(key);
        if self.serving == Some(id) {
            self.wanted.remove(key);
        }
    }

    /// The worker is ready. `lone` if it serves from now on without having replaced another.
    pub fn ready(&mut self, id: WorkerId, lone: bool) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        worker.ready = true;
        let root = worker.root;
        // Sockets that it binds in passing, as resolvers do, are none that it serves with.
        for key in self.shared.settle(id, root) {
            self.unheard(id, &key);
        }
        if lone {
            self.serves(id);
            for group in self.groups.values_mut() {
                report(group.steer(id).map(drop), "steer connections to a worker");
            }
            self.clear_up();
        }
    }

    /// The worker has replaced the one before it.
    pub fn serves(&mut self, id: WorkerId) {
        self.serving = Some(id);
        if let Some(worker) = self.workers.get(&id) {
            self.wanted = worker.early.clone();
            self.wanted.extend(self.shared.ours());
        }
    }

    /// What has died has been replaced, and nobody is given what it had any more.
    pub fn clear_up(&mut self) {
        let gone: Vec<WorkerId> = self.gone().collect();
        gone.into_iter().for_each(|gone| self.leave(gone));
    }

    /// New connections go to `to` from now on, at once wherever it listens; `back` if they did
    /// before, and all is to be as it was.
    ///
    /// # Errors
    /// Why that cannot be, for people; all is as it was.
    pub fn switch(&mut self, to: WorkerId, back: bool, now: Time) -> Result<(), String> {
        if !back {
            self.check_strangers()?;
            if self.workers.get(&to).is_none_or(|worker| worker.listens.is_empty()) && !self.wanted.is_empty()
            {
                return Err("it listens nowhere, and the old one does".into());
            }
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

    /// Looks whether the worker has something left to serve, `others` being the processes of the
    /// others. When it has, what that is, for people, and when to look again.
    pub fn look_drained(
        &mut self,
        id: WorkerId,
        others: &BTreeSet<Pid>,
        now: Time,
    ) -> Option<(drain::Left, Duration)> {
        // Its successor has died, and new connections come to it again.
        if self.groups.iter().any(|(key, group)| self.wanted.contains(key) && group.serving() == Some(id)) {
            let left = drain::Left { arriving: 0, waiting: 0, busy: 1, idle: 0, sight: drain::Sight::Clear };
            return Some((left, SERVES_AGAIN));
        }
        let idle = self.config.idle;
        let listeners = self.groups.values().flat_map(|group| group.sockets(id)).map(|(_, fd)| fd.as_fd());
        let drain = self.workers.get_mut(&id)?.drain.as_mut()?;
        // Whatever is below us and below no other worker: it may have left something to us.
        let left = drain.look(Pid::this(), others, listeners, idle, now);
        (!drain.is_drained()).then(|| (left, drain.pause()))
    }

    /// The worker is asked to stop.
    pub fn asked(&mut self, id: WorkerId) {
        if let Some(worker) = self.workers.get_mut(&id) {
            worker.asked = true;
        }
    }

    /// The worker's own process has ended. Where it served, nobody else listens, and the one
    /// that is started in its place has to, what comes waits in its queue for that.
    pub fn ended(&mut self, id: WorkerId) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        worker.gone = true;
        worker.drain = None;
        // A successor that listens elsewhere has not taken these over, but nobody waits for them.
        let awaited = |key: &Key, group: &Group| {
            let stays = |owner| owner != id && self.workers.get(&owner).is_some_and(|other| !other.asked);
            let others = || group.inodes().any(|inode| group.owner(inode).is_some_and(stays));
            self.wanted.contains(key) && group.serving() == Some(id) && !others()
        };
        let over: Vec<Key> = self
            .groups
            .iter()
            .filter(|(key, group)| !awaited(key, group))
            .map(|(key, _)| key.clone())
            .collect();
        over.iter().for_each(|key| self.take_out(key, id));
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
        let keys: Vec<Key> = self.groups.keys().cloned().collect();
        keys.iter().for_each(|key| self.take_out(key, id));
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

    /// What connections come in through.
    pub fn listen_ports(&self) -> ListenPorts {
        let mut listen_ports = ListenPorts::default();
        for (key, group) in &self.groups {
            listen_ports.listeners.extend(group.inodes());
            listen_ports.at(key.address);
        }
        for (key, inode) in self.shared.all() {
            listen_ports.listeners.insert(inode);
            if key.transport == Transport::Stream {
                listen_ports.at(key.address);
            }
        }
        listen_ports
    }

    /// Every address, for people.
    pub fn addresses(&self) -> Vec<Shown> {
        let steered = self.groups.iter().map(|(key, group)| {
            let sockets = group.serving().map_or(0, |id| group.sockets(id).count());
            let others = group.len() - sockets;
            let own = group.serving().into_iter().flat_map(|id| group.sockets(id));
            let queue = own.filter_map(|(_, socket)| steering::waiting(socket.as_fd()).ok()).sum();
            let (address, serving) = (key.to_string(), group.serving());
            Shown { address, shared: false, serving, sockets, others, queue: Some(queue) }
        });
        let shared = self.shared.counts().map(|(key, sockets, queue)| Shown {
            address: key.to_string(),
            shared: true,
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
    pub fn callers(&self) -> impl Iterator<Item = (WorkerId, Arc<OwnedFd>)> {
        self.workers.iter().map(|(&id, worker)| (id, Arc::clone(&worker.calls)))
    }

    /// Tells people once of a worker.
    fn tell(&mut self, id: WorkerId, line: String) {
        if let Some(worker) = self.workers.get_mut(&id)
            && !worker.told.contains(&line)
        {
            warn!("{line}");
            worker.told.push(line);
        }
    }

    /// What was told of the worker last.
    pub fn told(&self, id: WorkerId) -> Option<&str> {
        self.workers.get(&id)?.told.last().map(String::as_str)
    }
}

/// Whose network is ours.
fn socket_of_ours() -> Option<OwnedFd> {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None);
    socket
        .or_else(|_| socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::DGRAM, None))
        .ok()
        .map(Into::into)
}

fn report(result: std::io::Result<()>, attempt: &str) {
    if let Err(error) = result {
        warn!("cannot {attempt}: {error}");
    }
}
