//! What becomes of the sockets of a worker that has ended.

use super::key::Key;
use super::{Adopt, Group, report};
use crate::core::event::{Slot, WorkerId};
use crate::sys::seccomp;
use std::collections::BTreeSet;
use std::os::fd::AsFd;

impl Adopt {
    /// Removes the sockets of workers that have ended and been replaced: no other worker gets them.
    pub fn remove_replaced(&mut self) {
        let gone = self.workers.iter().filter(|(_, worker)| worker.gone);
        let replaced = gone.filter(|&(&id, worker)| self.slot_is_served(worker.slot, id));
        let replaced: Vec<WorkerId> = replaced.map(|(&id, _)| id).collect();
        replaced.into_iter().for_each(|gone| self.remove_sockets(gone));
    }

    /// No worker is started in this slot any more, or in those after it: what waits there is given up.
    pub fn give_up_slots(&mut self, which: impl Fn(Slot) -> bool) {
        let gone = self.workers.iter().filter(|(_, worker)| worker.gone && which(worker.slot));
        let gone: Vec<WorkerId> = gone.map(|(&id, _)| id).collect();
        gone.into_iter().for_each(|gone| self.remove_sockets(gone));
    }

    /// The worker's own process has ended; `comes_back`: another one is to be started in its slot.
    /// Where others serve, new connections go to them alone. Its sockets are kept where the next
    /// worker has to listen: what waits in the queues is for the one that is started in its place.
    pub fn ended(&mut self, id: WorkerId, comes_back: bool) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        worker.gone = true;
        // The thread that receives its calls may say so later.
        worker.deserted |= seccomp::has_ended(worker.calls.as_fd());
        (worker.drain, worker.quiet) = (None, None);
        let (slot, was_ready) = (worker.slot, worker.ready);
        let inherited: BTreeSet<Key> = worker.inherited.keys().cloned().collect();
        let is_awaited = comes_back && !self.slot_is_served(slot, id);
        let keys: Vec<Key> = self.groups.keys().cloned().collect();
        for key in keys {
            let others = self.others_at(&key, id);
            let Some(group) = self.groups.get_mut(&key) else { continue };
            let served = group.serving().contains(&id);
            if served && !others.is_empty() {
                report(group.steer(&others, self.weighed).map(drop), "steer connections to a worker");
            }
            let has_copy = group.sockets(id).any(|(_, listener)| listener.copy().is_some());
            let has_queue = was_ready || inherited.contains(&key);
            let waits = served && others.is_empty() || is_awaited && has_queue;
            if !(self.wanted.contains(&key) && has_copy && waits) {
                self.remove_from(&key, id);
            }
        }
        self.drop_empty_groups();
        self.looks.begin(self.now);
        if self.workers.get(&id).is_some_and(|worker| worker.deserted) {
            self.remove_deserted();
        }
    }

    /// The workers that serve at this address once this one is gone: where none of those that are to
    /// serve has a socket there, the newest that lives.
    fn others_at(&self, key: &Key, id: WorkerId) -> BTreeSet<WorkerId> {
        let owners = self.groups.get(key).into_iter().flat_map(Group::owned).map(|(owner, ..)| owner);
        let others: BTreeSet<WorkerId> = owners.filter(|&owner| owner != id && self.lives(owner)).collect();
        match others.is_disjoint(&self.serving) {
            true => others.last().copied().into_iter().collect(),
            false => others.intersection(&self.serving).copied().collect(),
        }
    }

    /// No process of the worker is left. Its own has ended as well, which may be known later.
    pub fn remove(&mut self, id: WorkerId) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        // Its process may have been replaced by another one since.
        worker.deserted = seccomp::has_ended(worker.calls.as_fd());
        if worker.gone && worker.deserted {
            self.remove_deserted();
        }
    }

    /// Removes the workers of which no process is left, unless their socket is kept.
    fn remove_deserted(&mut self) {
        let strangers: BTreeSet<Key> =
            self.groups.keys().filter(|key| self.stranger(key).is_some()).cloned().collect();
        for (_, group) in self.groups.iter_mut().filter(|(key, _)| !strangers.contains(key)) {
            report(group.remove_tombstones(), "close the socket of an old worker");
        }
        self.drop_empty_groups();
        // Also those before it whose sockets it had got: one that crashes before it is ready replaces
        // nobody. Sockets that nobody has got yet still wait for the next one.
        let owners = |group: &Group| -> Vec<WorkerId> {
            group.serving().iter().copied().chain(group.owned().map(|(owner, ..)| owner)).collect()
        };
        let kept: BTreeSet<WorkerId> = self.groups.values().flat_map(owners).collect();
        self.workers.retain(|id, worker| kept.contains(id) || !worker.gone || !worker.deserted);
    }

    /// Removes the sockets of a worker.
    pub(super) fn remove_sockets(&mut self, id: WorkerId) {
        let keys: Vec<Key> = self.groups.keys().cloned().collect();
        keys.iter().for_each(|key| self.remove_from(key, id));
        // The calls of those that are left are still to be answered.
        if self.workers.get(&id).is_some_and(|worker| worker.deserted) {
            self.workers.remove(&id);
        }
        self.drop_empty_groups();
    }

    pub(super) fn drop_empty_groups(&mut self) {
        self.groups.retain(|_, group| {
            group.remove_closed();
            !group.is_empty()
        });
    }
}
