//! A hard link to a unix socket, from which its path can be restored.
//!
//! Some servers unlink the path of a listener when they close it (php-fpm, node, asyncio of
//! Python from 3.13 on): when the old generation ends, the new one would lose its path. A socket
//! without any name cannot be linked again. So there is a hard link in the same directory, from
//! which the path is restored with the same inode.
//!
//! Contract: only a stale socket is ever unlinked or replaced: no other file, and no socket that
//! is in use. The name of the link is fixed, so that a start finds the link of an instance that
//! was killed. If a link is not possible (the file system has none, or protected_hardlinks of
//! proc_sys_fs(5) forbids it), there is none.

use std::ffi::{OsStr, OsString};
use std::os::fd::BorrowedFd;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::AtFlags;
use nix::unistd::{UnlinkatFlags, linkat, unlinkat};

use super::socket_file::{is_socket, probe, stat_entry};
use crate::error::reason;

/// `.app.sock.graceful-run` for `app.sock`.
fn link_name(name: &OsStr) -> OsString {
    let mut link = OsString::from(".");
    link.push(name);
    link.push(".graceful-run");
    link
}

/// Makes a hard link to the socket `name`, and replaces that of an instance that was killed. The
/// directory must be locked.
pub(super) fn create(directory: BorrowedFd<'_>, name: &OsStr, path: &Path) -> Option<OsString> {
    create_as(link_name(name), directory, name, path)
}

/// As [`create`], to a socket that a worker has bound to the path: `.app.sock.graceful-run.worker`.
pub(super) fn create_for_worker(directory: BorrowedFd<'_>, name: &OsStr, path: &Path) -> Option<OsString> {
    let mut link = link_name(name);
    link.push(".worker");
    create_as(link, directory, name, path)
}

fn create_as(link: OsString, directory: BorrowedFd<'_>, name: &OsStr, path: &Path) -> Option<OsString> {
    let linked = remove_stale(directory, &link, &path.with_file_name(&link))
        .and_then(|()| linkat(directory, name, directory, link.as_os_str(), AtFlags::empty()).map_err(why));
    match linked {
        Ok(()) => Some(link),
        Err(why) => {
            let path = path.display();
            log::info!("{path} has no second name ({why}): it cannot be put back if a worker unlinks it");
            None
        }
    }
}

fn remove_stale(directory: BorrowedFd<'_>, link: &OsStr, path: &Path) -> Result<(), String> {
    match stat_entry(directory, link).map_err(why)? {
        None => return Ok(()),
        Some(file) if !is_socket(&file) => {
            return Err(format!("something else than a socket is at {}", path.display()));
        }
        Some(_) if probe(path) != Err(Errno::ECONNREFUSED) => {
            return Err(format!("a live server holds {}", path.display()));
        }
        Some(_) => {}
    }
    unlinkat(directory, link, UnlinkatFlags::NoRemoveDir).map_err(why)
}

fn why(errno: Errno) -> String {
    reason(&errno.into())
}
