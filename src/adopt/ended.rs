//! What becomes of the sockets of a worker that has ended.

use super::key::Key;
use super::{Adopt, Group, report};
use crate::core::event::WorkerId;
use crate::sys::seccomp;
use std::collections::BTreeSet;
use std::os::fd::AsFd;

impl Adopt {
    /// Removes the sockets of workers that have ended and been replaced: no other worker gets them.
    pub fn remove_replaced(&mut self) {
        let gone: Vec<WorkerId> = self.gone().collect();
        gone.into_iter().for_each(|gone| self.remove_sockets(gone));
    }

    /// The worker's own process has ended. Its socket is kept where it served, no other worker
    /// listens, and its replacement has to: connections wait in its queue for the replacement.
    pub fn ended(&mut self, id: WorkerId) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        worker.gone = true;
        // The thread that receives its calls may say so later.
        worker.deserted |= seccomp::has_ended(worker.calls.as_fd());
        (worker.drain, worker.quiet) = (None, None);
        let is_kept = |key: &Key, group: &Group| {
            let stays = |owner| owner != id && self.workers.get(&owner).is_some_and(|other| !other.stop_sent);
            let others = || group.inodes().any(|inode| group.owner(inode).is_some_and(stays));
            let has_copy = group.sockets(id).any(|(_, listener)| listener.copy().is_some());
            self.wanted.contains(key) && group.serving() == Some(id) && has_copy && !others()
        };
        let dropped: Vec<Key> = self
            .groups
            .iter()
            .filter(|(key, group)| !is_kept(key, group))
            .map(|(key, _)| key.clone())
            .collect();
        dropped.iter().for_each(|key| self.remove_from(key, id));
        self.drop_empty_groups();
        self.looks.begin(self.now);
        if self.workers.get(&id).is_some_and(|worker| worker.deserted) {
            self.remove_deserted();
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
            group.serving().into_iter().chain(group.owned().map(|(owner, ..)| owner)).collect()
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

    fn gone(&self) -> impl Iterator<Item = WorkerId> {
        self.workers.iter().filter(|(_, worker)| worker.gone).map(|(&id, _)| id)
    }
}
