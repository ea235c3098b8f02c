//! A worker that serves at a unix path of ours with a socket of its own: it has removed the path
//! and bound it anew, and nobody accepts from ours.
//!
//! Contract: while such a socket serves, the path leads to it, also after a replacement has
//! taken the path and was refused. So its file has a [`hard_link`] as ours has.
//! The path leads to ours again once that worker is asked to stop, or its socket is dead.

use super::Listeners;
use super::hard_link;
use super::path::{BoundPath, WorkerSocket};
use super::socket_file::{
    SERVING_LOCK_TIMEOUT, acquire_lock, inode, is_socket, probe, stat_entry, unlink_if_same,
};
use crate::core::event::WorkerId;
use crate::sys::bound::unix_file;
use nix::errno::Errno;
use std::ffi::OsStr;
use std::os::fd::AsFd;

impl Listeners {
    /// Whether a path leads to another socket than ours.
    pub fn is_any_path_taken(&self) -> bool {
        self.list.iter().filter_map(|listener| listener.path.as_ref()).any(|path| !path.is_at(&path.path))
    }

    /// `worker` serves at this address with the socket `inode` of its own: keeps the file of it.
    /// Returns whether it is kept now.
    pub fn keep_worker_socket(&mut self, address: &str, worker: WorkerId, inode: u64) -> bool {
        self.path_at(address).is_some_and(|path| path.keep(worker, inode))
    }

    /// Takes this address away from the socket `inode` of a worker that was refused.
    pub fn take_back(&mut self, address: &str, inode: u64) {
        if let Some(path) = self.path_at(address)
            && path.leads_to(inode)
        {
            path.rename_serving();
        }
    }

    /// `worker` is asked to stop: paths that it serves lead to our sockets again.
    pub fn release_worker_sockets(&mut self, worker: WorkerId) {
        for path in self.list.iter_mut().filter_map(|listener| listener.path.as_mut()) {
            if path.worker.as_ref().is_some_and(|kept| kept.worker == worker) {
                path.release();
            }
        }
    }

    fn path_at(&mut self, address: &str) -> Option<&mut BoundPath> {
        let mut at = self.list.iter_mut().filter(|listener| listener.address == address);
        at.next().and_then(|listener| listener.path.as_mut())
    }
}

impl BoundPath {
    /// The file that the path should lead to: its inode, and the name of its hard link.
    pub(super) fn serving(&self) -> ((u64, u64), Option<&OsStr>) {
        match &self.worker {
            Some(kept) => (kept.inode, Some(&kept.link)),
            None => (self.inode, self.link.as_deref()),
        }
    }

    /// Forgets the socket of a worker if that is dead.
    pub(super) fn forget_dead(&mut self) {
        if self.worker.as_ref().is_some_and(|kept| !self.is_link(kept) || !self.is_bound(kept)) {
            self.forget();
        }
    }

    fn is_bound(&self, kept: &WorkerSocket) -> bool {
        matches!(
            probe(&self.path.with_file_name(&kept.link)),
            Ok(()) | Err(Errno::EPROTOTYPE | Errno::EAGAIN)
        )
    }

    fn is_link(&self, kept: &WorkerSocket) -> bool {
        let file = stat_entry(self.directory.as_fd(), &kept.link).ok().flatten();
        file.is_some_and(|file| inode(&file) == kept.inode)
    }

    fn forget(&mut self) {
        if let Some(kept) = self.worker.take() {
            unlink_if_same(self.directory.as_fd(), &kept.link, kept.inode);
        }
    }

    fn keep(&mut self, worker: WorkerId, socket: u64) -> bool {
        self.forget_dead();
        let Some(file) = stat_entry(self.directory.as_fd(), &self.name).ok().flatten() else { return false };
        if !is_socket(&file) || inode(&file) == self.inode || !self.leads_to(socket) {
            return false;
        }
        if let Some(kept) = self.worker.as_mut().filter(|kept| kept.inode == inode(&file)) {
            kept.worker = worker;
            return true;
        }
        if acquire_lock(&self.directory, SERVING_LOCK_TIMEOUT).is_err() {
            return false;
        }
        self.forget();
        let link = hard_link::create_for_worker(self.directory.as_fd(), &self.name, &self.path);
        self.worker = link.map(|link| WorkerSocket { worker, inode: inode(&file), link });
        // If this fails, closing the directory releases the lock.
        let _ = self.directory.unlock();
        // It may have been replaced in between. Where the path of the link is too long to be probed
        // it is not kept, because it would not be seen to be dead later.
        self.forget_dead();
        self.worker.is_some()
    }

    fn leads_to(&self, socket: u64) -> bool {
        let file = stat_entry(self.directory.as_fd(), &self.name).ok().flatten();
        file.is_some_and(|file| unix_file(socket) == Some(file.st_ino as u32))
    }

    /// Our socket is at the path again, at once if the worker's is there.
    fn release(&mut self) {
        let Some(kept) = self.worker.take() else { return };
        let there = stat_entry(self.directory.as_fd(), &self.name).ok().flatten();
        if there.is_some_and(|there| inode(&there) == kept.inode) {
            self.rename_serving();
        }
        unlink_if_same(self.directory.as_fd(), &kept.link, kept.inode);
    }
}
