//! Finds sockets that a living worker has closed. We hold copies of them, so that connections would
//! still come into their queues; the kernel does not report the close.

use super::{Adopt, Group, report};
use crate::core::event::WorkerId;
use crate::sys::tcp_diag;
use log::info;
use std::collections::BTreeSet;

impl Adopt {
    /// The inodes of all steered sockets.
    pub fn inodes(&self) -> BTreeSet<u64> {
        self.groups.values().flat_map(|group| group.inodes()).collect()
    }

    /// Whether a worker that serves has several sockets at one address, and may have closed one of
    /// them.
    pub fn has_several(&self) -> bool {
        let several = |group: &Group| group.serving().is_some_and(|id| group.sockets(id).count() > 1);
        self.groups.values().any(several)
    }

    /// Whether there is any socket that may be closed, or may become shared.
    pub fn has_any(&self) -> bool {
        !self.groups.is_empty() || !self.shared.new.is_empty()
    }

    /// Removes sockets that their workers have closed from their groups: new connections would wait
    /// in them for ever. A socket counts as closed if two inspections in a row find no process that
    /// has it open, because it may be in transfer from one process to another.
    pub fn forget_closed(&mut self) {
        self.share_late();
        let before = std::mem::take(&mut self.suspects);
        let Ok(held) = tcp_diag::descendant_sockets() else { return };
        let lives = |id: &WorkerId| self.workers.get(id).is_some_and(|worker| !worker.gone);
        let mut closed = Vec::new();
        for (key, group) in &self.groups {
            for (id, inode) in group.owned().filter(|(id, inode)| lives(id) && !held.contains(inode)) {
                self.suspects.insert(inode);
                if before.contains(&inode) {
                    closed.push((key.clone(), id, inode));
                }
            }
        }
        for (key, id, inode) in closed {
            let stranger = self.stranger(&key).is_some();
            let Some(group) = self.groups.get_mut(&key).filter(|_| !stranger) else { continue };
            report(group.abandon(|one| one == inode), "close the socket of a worker");
            if group.sockets(id).all(|(left, _)| left == inode) {
                info!("the worker has closed {key}");
                report(group.remove(id), "close the socket of a worker");
                self.remove_address(id, &key);
            }
        }
        self.drop_empty_groups();
    }
}
