//! Whether a new worker waits for connections where one that serves was seen to. A server may
//! listen before it has loaded what it serves, and say that it is ready (gunicorn does).

use super::Adopt;
use super::key::{Key, Transport};
use crate::ack::accepting;
use crate::core::event::WorkerId;
use std::collections::BTreeSet;

/// So many workers that serve are looked at: they are the same program.
const MOST_LOOKED_AT: usize = 4;

impl Adopt {
    /// Whether the worker waits for connections at each address at which one that serves does.
    /// Where the user has named what makes a worker ready, that alone counts. A server that is busy,
    /// or waits in a way that `/proc` does not show, is never seen to.
    pub(super) fn waits_as_before(&mut self, id: WorkerId) -> bool {
        let gone = |id: &WorkerId| self.workers.get(id).is_none_or(|worker| worker.gone);
        let serving = self.serving.iter().copied().filter(|serving| *serving != id && !gone(serving));
        let serving: Vec<WorkerId> = serving.take(MOST_LOOKED_AT).collect();
        if serving.is_empty() || !self.config.must_wait {
            return true;
        }
        let unknown = self.wanted.difference(&self.waited).filter(|key| key.transport != Transport::Datagram);
        let waits = |key: &&Key| serving.iter().any(|&serving| self.waits_at(serving, key));
        let seen: Vec<Key> = unknown.filter(waits).cloned().collect();
        self.waited.extend(seen);
        self.not_waited_at(id).is_empty()
    }

    /// The addresses at which it does not.
    pub(super) fn not_waited_at(&self, id: WorkerId) -> Vec<Key> {
        let waited = self.wanted.intersection(&self.waited);
        waited.filter(|key| !self.waits_at(id, key)).cloned().collect()
    }

    /// Whether a process of the worker waits on a socket of this address. One that all generations
    /// share counts as well.
    fn waits_at(&self, id: WorkerId, key: &Key) -> bool {
        let Some(worker) = self.workers.get(&id) else { return false };
        let group = self.groups.get(key).into_iter();
        let own = group.flat_map(|group| group.sockets(id)).map(|(inode, _)| inode);
        // One that it has bound itself is shared once it is ready.
        let new = self.shared.new.iter().filter(|new| new.worker == id && new.key == *key);
        let new = new.filter(|new| new.key.transport == Transport::Unix).map(|new| new.inode);
        let inodes: BTreeSet<u64> = own.chain(self.shared.of(key)).chain(new).collect();
        accepting::not_waited_on(worker.root, &inodes).len() < inodes.len()
    }
}
