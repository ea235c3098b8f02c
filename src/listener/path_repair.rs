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

/// What [`BoundPath::keep`] found and did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    /// The path leads to our socket.
    Ours,
    /// It did not, and does again.
    LinkedBack,
    /// Something is there that is not a socket, or may be in use.
    Taken(&'static str),
    /// It is gone, and so is the link.
    Lost,
}

impl BoundPath {
    /// Looks whether the path leads to our socket, and sees to it that it does.
    pub(super) fn keep(&mut self) -> Found {
        match self.keep_name() {
            Found::Ours if !self.is_at(&self.path) => self.move_home(),
            found => found,
        }
    }

    /// The directory was moved away with our socket in it, and the path leads
    /// through another one now, or through none.
    fn move_home(&mut self) -> Found {
        let Some(Ok(home)) = self.path.parent().map(File::open) else { return Found::Lost };
        let old = self.directory.as_fd();
        match linkat(old, self.name.as_os_str(), home.as_fd(), self.name.as_os_str(), AtFlags::empty()) {
            Ok(()) => {}
            Err(Errno::EEXIST) => return Found::Taken("something else is there"),
            Err(_) => return Found::Lost,
        }
        for name in [Some(&self.name), self.spare.as_ref()].into_iter().flatten() {
            unlink_if_same(old, name, self.inode);
        }
        self.spare = hard_link::make(home.as_fd(), &self.name, &self.path);
        self.directory = home;
        Found::LinkedBack
    }

    fn keep_name(&self) -> Found {
        let directory = self.directory.as_fd();
        let there = |name: &OsStr| look(directory, name).ok().flatten();
        let ours = |name: &OsStr| there(name).is_some_and(|file| inode(&file) == self.inode);
        let spare = self.spare.as_deref();
        if ours(&self.name) {
            if let Some(spare) = spare.filter(|spare| there(spare).is_none()) {
                // Whoever cleans up hidden files may take it again.
                let _ = linkat(directory, self.name.as_os_str(), directory, spare, AtFlags::empty());
            }
            return Found::Ours;
        }
        let Some(spare) = spare.filter(|spare| ours(spare)) else {
            return match there(&self.name) {
                Some(_) => Found::Taken("something else is there"),
                None => Found::Lost,
            };
        };
        match linkat(directory, spare, directory, self.name.as_os_str(), AtFlags::empty()) {
            Ok(()) => Found::LinkedBack,
            Err(Errno::EEXIST) => self.replace(spare),
            Err(_) => Found::Lost,
        }
    }

    /// Puts our socket in the place of a dead one, under the lock that starters
    /// hold.
    fn replace(&self, spare: &OsStr) -> Found {
        if acquire(&self.directory, SERVING_PATIENCE).is_err() {
            return Found::Taken("somebody keeps the directory locked");
        }
        let found = self.replace_locked(spare);
        // The lock goes with the directory at the latest.
        let _ = self.directory.unlock();
        found
    }

    fn replace_locked(&self, spare: &OsStr) -> Found {
        let directory = self.directory.as_fd();
        match look(directory, &self.name) {
            Ok(Some(file)) if !is_socket(&file) => {
                return Found::Taken("something else than a socket is there");
            }
            Ok(Some(_)) if probe(&self.path) != Err(Errno::ECONNREFUSED) => {
                return Found::Taken("another socket is there, and is in use");
            }
            _ => {}
        }
        let mut fresh = spare.to_owned();
        fresh.push(".new");
        let linked = linkat(directory, spare, directory, fresh.as_os_str(), AtFlags::empty());
        let renamed =
            linked.and_then(|()| renameat(directory, fresh.as_os_str(), directory, self.name.as_os_str()));
        match renamed {
            Ok(()) => Found::LinkedBack,
            Err(_) => {
                let _ = unlinkat(directory, fresh.as_os_str(), UnlinkatFlags::NoRemoveDir);
                Found::Taken("a dead socket is there, which cannot be replaced")
            }
        }
    }
}
