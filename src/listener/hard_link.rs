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
use std::os::fd::BorrowedFd;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::AtFlags;
use nix::unistd::{UnlinkatFlags, linkat, unlinkat};

use super::socket_file::{is_socket, look, probe};
use crate::error::reason;

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
    match look(directory, spare).map_err(why)? {
        None => return Ok(()),
        Some(file) if !is_socket(&file) => {
            return Err(format!("something else than a socket is at {}", place.display()));
        }
        Some(_) if probe(place) != Err(Errno::ECONNREFUSED) => {
            return Err(format!("a live server holds {}", place.display()));
        }
        Some(_) => {}
    }
    unlinkat(directory, spare, UnlinkatFlags::NoRemoveDir).map_err(why)
}

fn why(errno: Errno) -> String {
    reason(&errno.into())
}
