//! Finds sockets that a living worker has closed. We hold copies of some of them, so that connections
//! would still come into their queues; the kernel does not report the close.
//!
//! A socket that none of our descendants has open may be in transfer from one process to another, or
//! be held by a process that is not below us. So it is never shut down: our copy is closed, as the
//! worker's was. If somebody else holds the socket, it goes on listening, and we take a copy again if
//! it is found in a worker later.

use super::key::{Key, Transport};
use super::listener::{Holder, Listener};
use super::{Adopt, Adopted, drain, report};
use crate::core::event::{Time, WorkerId};
use crate::sys::{fd, held, steering, tree};
use log::info;
use std::collections::BTreeSet;
use std::os::fd::AsFd;
use std::time::Duration;

/// An address that is opened after its worker was ready counts for the replacement if it has been
/// open for this long: a port that is opened for one client (FTP's passive mode, a login's callback)
/// is closed by then.
const SETTLED: Duration = Duration::from_secs(5);
/// A socket whose holder has ended counts as closed after this time: if the whole worker ends, its
/// queue is for the next one. So does one with connections in its queue: some servers listen anew for
/// each connection.
const ENDED: Duration = Duration::from_secs(1);
/// The backlog of a socket whose worker has been asked to stop: nobody accepts until the next one
/// has started.
const HELD_BACKLOG: i32 = 4096;

impl Adopt {
    /// The inodes of all steered sockets.
    pub fn inodes(&self) -> BTreeSet<u64> {
        self.groups.values().flat_map(|group| group.inodes()).collect()
    }

    /// When the next check for sockets that were closed is due.
    pub fn look_due(&self) -> Option<Time> {
        self.looks.due().filter(|_| !self.stopping)
    }

    /// A connection has come to a socket, or somebody has shut one down.
    pub fn on_arrival(&mut self, now: Time) {
        self.keep_listening();
        self.looks.begin(now);
        if self.looks.may_look_on_arrival(now) {
            self.look(now);
        }
    }

    /// Checks which sockets their workers have closed. No address counts any more where no process of
    /// the worker has a socket.
    pub fn look(&mut self, now: Time) {
        let before = drain::cpu_time();
        self.find_closed(now);
        self.looks.has_looked(drain::cpu_time().saturating_sub(before), now);
        if self.looks.end(now) {
            self.arm_all();
        }
    }

    /// Checks it once, outside of the times at which it is due.
    pub fn find_closed(&mut self, now: Time) {
        self.forget_closed(now, self.looks.may_read_all(now), ENDED);
    }

    /// An upgrade begins: its workers have to listen where those that serve do now.
    pub fn begin_upgrade(&mut self, now: Time) {
        self.waited.clear();
        self.forget_closed(now, true, Duration::ZERO);
        self.forget_shut_down();
        for (_, worker) in self.workers.iter_mut().filter(|(id, _)| self.serving.contains(id)) {
            let Adopted { late, listens, early, start, .. } = worker;
            let settled = late.iter().filter(|&(key, &opened)| {
                listens.contains(key) && start.is_none_or(|start| opened <= start) && now >= opened + SETTLED
            });
            early.extend(settled.map(|(key, _)| key.clone()));
            self.wanted.extend(early.intersection(listens).cloned());
        }
    }

    /// A listener that its worker has ended by shutdown(2) listens no more, even if it is still open.
    fn forget_shut_down(&mut self) {
        let listens = |listener: &Listener| {
            listener.copy().is_none_or(|copy| !fd::tcp_queue(copy).is_ok_and(|queue| queue.is_none()))
        };
        let serving = self.serving.iter().filter_map(|id| Some((*id, self.workers.get(id)?)));
        let keys = serving.flat_map(|(id, worker)| worker.listens.iter().map(move |key| (id, key)));
        let ended = keys.filter(|(_, key)| key.transport == Transport::Stream).filter(|&(id, key)| {
            let group = self.groups.get(key);
            group.is_some_and(|group| {
                group.sockets(id).next().is_some()
                    && !group.sockets(id).any(|(_, listener)| listens(listener))
            })
        });
        for (id, key) in ended.map(|(id, key)| (id, key.clone())).collect::<Vec<_>>() {
            self.has_closed(id, &key);
        }
    }

    fn forget_closed(&mut self, now: Time, may_read_all: bool, patience: Duration) {
        self.now = now;
        self.share_late();
        let unseen: BTreeSet<u64> = self.unseen_steered().chain(self.unseen_shared()).collect();
        self.suspects.retain(|inode, _| unseen.contains(inode));
        if unseen.is_empty() || !may_read_all {
            return;
        }
        let before = drain::cpu_time();
        let held = held::holders(&unseen);
        self.looks.has_read_all(drain::cpu_time().saturating_sub(before), now);
        let Ok(held) = held else { return };
        for (key, id, inode) in self.steered(&unseen) {
            match held.get(&inode) {
                Some(&holder) => self.is_held(&key, id, inode, holder),
                None if self.is_certain(&key, inode, patience) => self.is_closed(&key, id, inode),
                None => {}
            }
        }
        self.drop_empty_groups();
        // If a worker is about to end, its shared sockets are for the next one.
        let stays = |id: &WorkerId| {
            let stat = self.workers.get(id).and_then(|worker| tree::stat(worker.root));
            stat.is_some_and(|stat| stat.is_live() && !stat.exiting)
        };
        if self.serving.is_empty() || !self.serving.iter().all(stays) {
            return;
        }
        for (key, last) in self.shared.update(&unseen, &held) {
            let listens =
                |id: &WorkerId| self.workers.get(id).is_some_and(|worker| worker.listens.contains(&key));
            let listening: Vec<WorkerId> = self.serving.iter().copied().filter(listens).collect();
            listening.into_iter().for_each(|id| self.has_closed(id, &key));
            Adopt::remove_path(&key, &last);
        }
        self.update_names();
    }

    /// Whether it is closed for good, where nobody holds it now.
    fn is_certain(&mut self, key: &Key, inode: u64, patience: Duration) -> bool {
        let now = self.now;
        let listener = self.groups.get(key).and_then(|group| group.socket(inode));
        let waiting = listener.and_then(Listener::copy).map_or(0, drain::waiting);
        if listener.is_some_and(Listener::holder_lives) && waiting == 0 {
            return true;
        }
        let since = *self.suspects.entry(inode).or_insert_with(|| {
            self.looks.begin(now);
            now
        });
        now >= since + patience
    }

    /// Sockets of workers that serve or start, which are not held as they were before.
    fn unseen_steered(&self) -> impl Iterator<Item = u64> {
        let owned = self.groups.values().flat_map(|group| group.owned());
        owned
            .filter(move |(id, _, listener)| self.lives(*id) && !listener.is_held_as_before())
            .map(|(_, inode, _)| inode)
    }

    /// The same for sockets that all generations share, if a worker serves.
    fn unseen_shared(&self) -> impl Iterator<Item = u64> {
        let ready = |id: &WorkerId| self.workers.get(id).is_some_and(|worker| worker.ready);
        let serves = self.serving.iter().any(|id| ready(id) && self.lives(*id));
        self.shared.not_held_as_before().filter(move |_| serves)
    }

    fn steered(&self, inodes: &BTreeSet<u64>) -> Vec<(Key, WorkerId, u64)> {
        let mut found = Vec::new();
        for (key, group) in &self.groups {
            let of_group = group.owned().filter(|(_, inode, _)| inodes.contains(inode));
            found.extend(of_group.map(|(id, inode, _)| (key.clone(), id, inode)));
        }
        found
    }

    fn is_held(&mut self, key: &Key, id: WorkerId, inode: u64, holder: Holder) {
        let mut was_given_up = false;
        let is_early = self.workers.get(&id).is_some_and(|worker| worker.early.contains(key));
        let listeners = self.groups.get_mut(key).into_iter().flat_map(|group| group.sockets_mut());
        for (_, listener) in listeners.filter(|(_, listener)| listener.inode() == inode) {
            listener.set_holder(holder);
            was_given_up = is_early && listener.copy().is_none() && listener.take_copy();
        }
        if was_given_up {
            self.add_address(id, key.clone());
        }
    }

    /// The worker no longer listens there.
    fn has_closed(&mut self, id: WorkerId, key: &Key) {
        let pid = self.workers.get(&id).map_or(0, |worker| worker.root.as_raw());
        info!(pid = pid; "worker pid {pid} has closed {key}");
        self.remove_address(id, key);
    }

    fn is_closed(&mut self, key: &Key, id: WorkerId, inode: u64) {
        // A stranger in the group would take the index of one of ours.
        let stranger = self.stranger(key).is_some();
        let Some(group) = self.groups.get_mut(key) else { return };
        if !stranger {
            report(group.give_up(inode), "close the socket of a worker");
        }
        let open = group.sockets(id).any(|(left, listener)| left != inode && listener.is_held_as_before());
        if !open && self.workers.get(&id).is_some_and(|worker| worker.listens.contains(key)) {
            self.has_closed(id, key);
        }
    }

    /// The worker has been asked to stop. Where it serves, its addresses are held for the next one,
    /// even if it closes them at once: connections wait until the next one listens.
    pub fn mark_stop_sent(&mut self, id: WorkerId, now: Time) {
        self.halt_for_signal(id, now);
        let Some(worker) = self.workers.get_mut(&id) else { return };
        worker.stop_sent = true;
        for (_, group) in self.groups.iter().filter(|(_, group)| group.serving().contains(&id)) {
            for copy in group.sockets(id).filter_map(|(_, listener)| listener.copy()) {
                // One that its worker has shut down must not listen again before this.
                if fd::tcp_queue(copy).is_ok_and(|queue| queue.is_some()) {
                    let _ = steering::listen(copy, HELD_BACKLOG);
                }
                if let Some(arrivals) = &self.arrivals {
                    let _ = arrivals.watch_shutdown(copy);
                }
            }
        }
    }

    /// Some servers shut their listeners down when they are asked to stop, which our copies are not
    /// proof against.
    fn keep_listening(&self) {
        let stops = |id: &WorkerId| self.workers.get(id).is_some_and(|worker| worker.stop_sent);
        for (_, group) in self.groups.iter().filter(|(key, _)| self.wanted.contains(key)) {
            let stopping = group.serving().iter().filter(|id| stops(id));
            let sockets = stopping.flat_map(|&id| group.sockets(id));
            for copy in sockets.filter_map(|(_, listener)| listener.copy()) {
                if fd::tcp_queue(copy).is_ok_and(|queue| queue.is_none()) {
                    let again = fd::disconnect(copy).and_then(|()| Ok(steering::listen(copy, HELD_BACKLOG)?));
                    report(again, "hold the address of a worker that stops");
                }
            }
        }
    }

    /// New connections are noticed again.
    pub(super) fn arm_all(&self) {
        let Some(arrivals) = &self.arrivals else { return };
        for (id, _, listener) in self.groups.values().flat_map(|group| group.owned()) {
            if let Some(copy) = listener.copy().filter(|_| self.lives(id)) {
                let _ = arrivals.arm(copy);
            }
        }
        for (_, socket) in self.shared.unix() {
            let _ = arrivals.arm(socket.fd.as_fd());
        }
    }
}
