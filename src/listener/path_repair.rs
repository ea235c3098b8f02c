//! A unix path that workers have removed gets its name back, from its
//! [second name](super::hard_link).

use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::AsFd;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, renameat};
use nix::unistd::{UnlinkatFlags, linkat, unlinkat};

use super::hard_link;
use super::path::BoundPath;
use super::socket_file::{SERVING_PATIENCE, acquire, inode, is_socket, look, probe, unlink_if_same};

/// What [`BoundPath::repair`] found and did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PathState {
    /// The path leads to our socket.
    Ours,
    /// It did not, and does again.
    Restored,
    /// Something is there that is not a socket, or may be in use.
    Taken(&'static str),
    /// It is gone, and so is the link.
    Lost,
}

impl BoundPath {
    /// Looks whether the path leads to our socket, and sees to it that it does.
    pub(super) fn repair(&mut self) -> PathState {
        match self.repair_name() {
            PathState::Ours if !self.is_at(&self.path) => self.move_home(),
            found => found,
        }
    }

    /// The directory was moved away with our socket in it, and the path leads
    /// through another one now, or through none.
    fn move_home(&mut self) -> PathState {
        let Some(Ok(home)) = self.path.parent().map(File::open) else { return PathState::Lost };
        let old = self.directory.as_fd();
        match linkat(old, self.name.as_os_str(), home.as_fd(), self.name.as_os_str(), AtFlags::empty()) {
            Ok(()) => {}
            Err(Errno::EEXIST) => return PathState::Taken("something else is there"),
            Err(_) => return PathState::Lost,
        }
        for name in [Some(&self.name), self.spare.as_ref()].into_iter().flatten() {
            unlink_if_same(old, name, self.inode);
        }
        self.spare = hard_link::make(home.as_fd(), &self.name, &self.path);
        self.directory = home;
        PathState::Restored
    }

    fn repair_name(&self) -> PathState {
        let directory = self.directory.as_fd();
        let there = |name: &OsStr| look(directory, name).ok().flatten();
        let ours = |name: &OsStr| there(name).is_some_and(|file| inode(&file) == self.inode);
        let spare = self.spare.as_deref();
        if ours(&self.name) {
            if let Some(spare) = spare.filter(|spare| there(spare).is_none()) {
                // Whoever cleans up hidden files may take it again.
                let _ = linkat(directory, self.name.as_os_str(), directory, spare, AtFlags::empty());
            }
            return PathState::Ours;
        }
        let Some(spare) = spare.filter(|spare| ours(spare)) else {
            return match there(&self.name) {
                Some(_) => PathState::Taken("something else is there"),
                None => PathState::Lost,
            };
        };
        match linkat(directory, spare, directory, self.name.as_os_str(), AtFlags::empty()) {
            Ok(()) => PathState::Restored,
            Err(Errno::EEXIST) => self.replace(spare),
            Err(_) => PathState::Lost,
        }
    }

    /// Puts our socket in the place of a dead one, under the lock that starters
    /// hold.
    fn replace(&self, spare: &OsStr) -> PathState {
        if acquire(&self.directory, SERVING_PATIENCE).is_err() {
            return PathState::Taken("somebody keeps the directory locked");
        }
        let found = self.replace_locked(spare);
        // The lock goes with the directory at the latest.
        let _ = self.directory.unlock();
        found
    }

    fn replace_locked(&self, spare: &OsStr) -> PathState {
        let directory = self.directory.as_fd();
        match look(directory, &self.name) {
            Ok(Some(file)) if !is_socket(&file) => {
                return PathState::Taken("something else than a socket is there");
            }
            Ok(Some(_)) if probe(&self.path) != Err(Errno::ECONNREFUSED) => {
                return PathState::Taken("another socket is there, and is in use");
            }
            _ => {}
        }
        let mut fresh = spare.to_owned();
        fresh.push(".new");
        let linked = linkat(directory, spare, directory, fresh.as_os_str(), AtFlags::empty());
        let renamed =
            linked.and_then(|()| renameat(directory, fresh.as_os_str(), directory, self.name.as_os_str()));
        match renamed {
            Ok(()) => PathState::Restored,
            Err(_) => {
                let _ = unlinkat(directory, fresh.as_os_str(), UnlinkatFlags::NoRemoveDir);
                PathState::Taken("a dead socket is there, which cannot be replaced")
            }
        }
    }
}
