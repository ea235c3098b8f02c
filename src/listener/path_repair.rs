//! Restores a unix path that workers have removed, from its [hard link](super::hard_link), or from
//! that of the [worker's socket](super::worker_socket) that serves there.

use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::AsFd;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, renameat};
use nix::unistd::{UnlinkatFlags, linkat, unlinkat};

use super::hard_link;
use super::path::BoundPath;
use super::socket_file::{
    SERVING_LOCK_TIMEOUT, acquire_lock, inode, is_socket, probe, stat_entry, unlink_if_same,
};

/// What [`BoundPath::repair`] found and did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PathState {
    /// The path leads to the socket that serves: ours, or a worker's own.
    Ours,
    /// The path was restored.
    Restored,
    /// At the path is something that is no socket, or a socket that may be in use.
    Taken(&'static str),
    /// The path was removed, and there is no link.
    Lost,
}

impl BoundPath {
    /// Checks whether the path leads to the socket that serves, ours but for a worker's own, and
    /// restores it if it does not.
    pub(super) fn repair(&mut self) -> PathState {
        self.forget_dead();
        match self.restore_name() {
            PathState::Ours if self.worker.is_none() && !self.is_at(&self.path) => {
                self.link_in_new_directory()
            }
            found => found,
        }
    }

    /// Restores the path after its directory was moved, with our socket in it: the path leads
    /// through another directory now, or through none.
    fn link_in_new_directory(&mut self) -> PathState {
        let Some(Ok(new)) = self.path.parent().map(File::open) else { return PathState::Lost };
        let old = self.directory.as_fd();
        match linkat(old, self.name.as_os_str(), new.as_fd(), self.name.as_os_str(), AtFlags::empty()) {
            Ok(()) => {}
            Err(Errno::EEXIST) => return PathState::Taken("something else is there"),
            Err(_) => return PathState::Lost,
        }
        for name in [Some(&self.name), self.link.as_ref()].into_iter().flatten() {
            unlink_if_same(old, name, self.inode);
        }
        self.link = hard_link::create(new.as_fd(), &self.name, &self.path);
        self.directory = new;
        PathState::Restored
    }

    fn restore_name(&self) -> PathState {
        let directory = self.directory.as_fd();
        let entry = |name: &OsStr| stat_entry(directory, name).ok().flatten();
        let (serving, link) = self.serving();
        let is_ours = |name: &OsStr| entry(name).is_some_and(|file| inode(&file) == serving);
        if is_ours(&self.name) {
            if let Some(link) = link.filter(|link| entry(link).is_none()) {
                // A script that cleans up hidden files has removed the link.
                let _ = linkat(directory, self.name.as_os_str(), directory, link, AtFlags::empty());
            }
            return PathState::Ours;
        }
        let Some(link) = link.filter(|link| is_ours(link)) else {
            return match entry(&self.name) {
                Some(_) => PathState::Taken("something else is there"),
                None => PathState::Lost,
            };
        };
        match linkat(directory, link, directory, self.name.as_os_str(), AtFlags::empty()) {
            Ok(()) => PathState::Restored,
            Err(Errno::EEXIST) => self.replace_stale(link),
            Err(_) => PathState::Lost,
        }
    }

    /// Replaces a stale socket at the path by ours, under the lock that instances hold while they
    /// start.
    fn replace_stale(&self, link: &OsStr) -> PathState {
        if acquire_lock(&self.directory, SERVING_LOCK_TIMEOUT).is_err() {
            return PathState::Taken("somebody keeps the directory locked");
        }
        let found = self.replace_locked(link);
        // If this fails, closing the directory releases the lock.
        let _ = self.directory.unlock();
        found
    }

    fn replace_locked(&self, link: &OsStr) -> PathState {
        let directory = self.directory.as_fd();
        match stat_entry(directory, &self.name) {
            Ok(Some(file)) if !is_socket(&file) => {
                return PathState::Taken("something else than a socket is there");
            }
            Ok(Some(_)) if probe(&self.path) != Err(Errno::ECONNREFUSED) => {
                return PathState::Taken("another socket is there, and is in use");
            }
            _ => {}
        }
        match self.rename_link(link) {
            Ok(()) => PathState::Restored,
            Err(_) => PathState::Taken("a dead socket is there, which cannot be replaced"),
        }
    }

    /// Puts the socket that serves at the path, whatever is there.
    pub(super) fn rename_serving(&self) {
        if let (_, Some(link)) = self.serving() {
            // If it fails, the next check says what is there.
            let _ = self.rename_link(link);
        }
    }

    fn rename_link(&self, link: &OsStr) -> Result<(), Errno> {
        let directory = self.directory.as_fd();
        let mut temporary = link.to_owned();
        temporary.push(".new");
        let linked = linkat(directory, link, directory, temporary.as_os_str(), AtFlags::empty());
        linked
            .and_then(|()| renameat(directory, temporary.as_os_str(), directory, self.name.as_os_str()))
            .inspect_err(|_| {
                let _ = unlinkat(directory, temporary.as_os_str(), UnlinkatFlags::NoRemoveDir);
            })
    }
}
