//! A second name for a unix socket's file.
//!
//! Some servers unlink the path of a listener when they close it (php-fpm, node,
//! Python's asyncio from 3.13 on): the old generation's end would take the path
//! away from the new one, and a socket whose last name has gone cannot be linked
//! again. So each path has a hard link beside it, and gets its name back from
//! there, with the same inode.
//!
//! Contract: nothing but a socket is ever unlinked or replaced, and no socket
//! that somebody holds. The name of the link is fixed, so that the next start
//! knows what one that was killed has left behind. Where there can be no link
//! (its file system has none, protected_hardlinks of proc_sys_fs(5) forbids it)
//! there is none.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, renameat};
use nix::unistd::{UnlinkatFlags, linkat, unlinkat};

use super::path::{self, BoundPath, SERVING_PATIENCE};
use crate::error::reason;

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

/// `.app.sock.graceful-run` for `app.sock`.
fn spare_name(name: &OsStr) -> OsString {
    let mut spare = OsString::from(".");
    spare.push(name);
    spare.push(".graceful-run");
    spare
}

/// Links the socket `name` once more, in place of what one that was killed has
/// left. The directory has to be locked.
pub(super) fn make(directory: BorrowedFd<'_>, name: &OsStr, path: &Path) -> Option<OsString> {
    let spare = spare_name(name);
    let linked = remove_leftover(directory, &spare, &path.with_file_name(&spare))
        .and_then(|()| linkat(directory, name, directory, spare.as_os_str(), AtFlags::empty()).map_err(why));
    match linked {
        Ok(()) => Some(spare),
        Err(why) => {
            let place = path.display();
            log::info!("{place} has no second name ({why}): it cannot be put back if a worker unlinks it");
            None
        }
    }
}

fn remove_leftover(directory: BorrowedFd<'_>, spare: &OsStr, place: &Path) -> Result<(), String> {
    match path::look(directory, spare).map_err(why)? {
        None => return Ok(()),
        Some(file) if !path::is_socket(&file) => {
            return Err(format!("something else than a socket is at {}", place.display()));
        }
        Some(_) if path::probe(place) != Err(Errno::ECONNREFUSED) => {
            return Err(format!("a live server holds {}", place.display()));
        }
        Some(_) => {}
    }
    unlinkat(directory, spare, UnlinkatFlags::NoRemoveDir).map_err(why)
}

fn why(errno: Errno) -> String {
    reason(&errno.into())
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
            path::unlink_if_same(old, name, self.inode);
        }
        self.spare = make(home.as_fd(), &self.name, &self.path);
        self.directory = home;
        Found::LinkedBack
    }

    fn keep_name(&self) -> Found {
        let directory = self.directory.as_fd();
        let there = |name: &OsStr| path::look(directory, name).ok().flatten();
        let ours = |name: &OsStr| there(name).is_some_and(|file| path::inode(&file) == self.inode);
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
        if path::acquire(&self.directory, SERVING_PATIENCE).is_err() {
            return Found::Taken("somebody keeps the directory locked");
        }
        let found = self.replace_locked(spare);
        // The lock goes with the directory at the latest.
        let _ = self.directory.unlock();
        found
    }

    fn replace_locked(&self, spare: &OsStr) -> Found {
        let directory = self.directory.as_fd();
        match path::look(directory, &self.name) {
            Ok(Some(file)) if !path::is_socket(&file) => {
                return Found::Taken("something else than a socket is there");
            }
            Ok(Some(_)) if path::probe(&self.path) != Err(Errno::ECONNREFUSED) => {
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
