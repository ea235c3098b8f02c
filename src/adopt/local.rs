//! Unix stream sockets that workers bind to a path, or to an abstract name: all generations share one
//! socket, so that the path keeps its inode.
//!
//! Contract: the first worker's socket is shared once that worker is ready, or another one binds the same
//! path. A later worker gets it in the place of its own at bind(2), or at a rename(2) over the path.
//! While we hold it, nobody below us removes the path ([`removal`](super::removal)). A path counts as held
//! only as long as it leads to the file of our socket: what somebody else has put there is bound and left
//! as without us.

use super::Adopt;
use super::key::{Key, Transport, parse_unix};
use super::replace::{can_be_replaced, inspection_failed, replace};
use super::shared::{New, is_listener};
use super::syscalls::MOST_BOUND;
use crate::core::event::WorkerId;
use crate::error::reason;
use crate::sys::caller_path::{self, FileId, Place};
use crate::sys::seccomp::{self, Answer, Call};
use crate::sys::{bound, fd, steering, tree};
use nix::errno::Errno;
use nix::fcntl::{F_GETFL, OFlag, fcntl};
use nix::unistd::Pid;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

/// A number in a name with fewer digits says nothing.
const LEAST_DIGITS: usize = 3;

impl Adopt {
    /// Whether unix sockets are adopted: where the user has named ports, those alone are.
    pub fn shares_paths(&self) -> bool {
        self.config.paths
    }

    pub(super) fn bind_unix(
        &mut self,
        id: WorkerId,
        call: &Call,
        socket: OwnedFd,
        at: u64,
        length: usize,
    ) -> Answer {
        let Some(calls) = self.workers.get(&id).map(|worker| Arc::clone(&worker.calls)) else {
            return Answer::Continue;
        };
        let name = match seccomp::read_address(call.thread, at, length) {
            Ok(bytes) => parse_unix(&bytes).map(<[u8]>::to_vec),
            Err(errno) => {
                self.warn_once(id, inspection_failed(call, errno));
                return Answer::Continue;
            }
        };
        // If the caller no longer waits, the memory that was read may be another process's.
        let Some(name) = name.filter(|_| seccomp::is_pending(calls.as_fd(), call.id)) else {
            return Answer::Continue;
        };
        let place = match name.first() {
            Some(0) => None,
            _ => match caller_path::resolve(call.thread, libc::AT_FDCWD, &name) {
                Ok(Some(place)) => Some(place),
                // Then bind(2) fails as well.
                Ok(None) | Err(Errno::ENOENT | Errno::ENOTDIR) => return Answer::Continue,
                Err(errno) => {
                    self.warn_once(id, format!(
                        "cannot look at the directory of the unix socket {} that pid {} binds: {}, so it is not adopted (run graceful-run where it can see that directory)",
                        String::from_utf8_lossy(&name),
                        call.thread,
                        reason(&errno.into())
                    ));
                    return Answer::Continue;
                }
            },
        };
        if place.as_ref().is_some_and(|place| self.is_of_one_start(id, call, place)) {
            return Answer::Continue;
        }
        let key = Key::unix(place.as_ref().map_or(name, |place| place.path.as_os_str().as_bytes().to_vec()));
        if let Some(worker) = self.workers.get_mut(&id).filter(|worker| worker.bound.len() < MOST_BOUND) {
            worker.bound.insert(key.clone());
        }
        let Ok((_, inode)) = fd::device_and_inode(socket.as_raw_fd()) else { return Answer::Continue };
        // The call was interrupted and is repeated.
        if self.shared.contains(inode) {
            return Answer::Done;
        }
        if self.hold_unix(&key, place.as_ref(), id) {
            return match self.give_unix(id, call, &calls, &key, &socket) {
                true => Answer::Done,
                false => Answer::Continue,
            };
        }
        self.note_new(id, call, key, inode);
        Answer::Continue
    }

    /// Replaces the caller's own socket with the shared one. False if that cannot be.
    pub(super) fn give_unix(
        &mut self,
        id: WorkerId,
        call: &Call,
        calls: &Arc<OwnedFd>,
        key: &Key,
        socket: &OwnedFd,
    ) -> bool {
        if !can_be_replaced(call, socket) {
            self.warn_once(id, format!(
                "pid {} has copies of its socket, or waits on it, before it binds it to {key}: the shared one cannot be put in its place",
                call.thread
            ));
            return false;
        }
        let Some(ours) = self.shared.sockets.get_mut(key).and_then(|sockets| sockets.first_mut()) else {
            return false;
        };
        let nonblock = fcntl(socket, F_GETFL).unwrap_or(0) & OFlag::O_NONBLOCK.bits() != 0;
        if !replace(calls, call, ours.fd.as_fd(), nonblock, false) {
            return false;
        }
        ours.is_unlinked = false;
        // Some servers do not call listen(2) on a socket that listens already.
        if is_listener(ours.fd.as_fd()) {
            self.add_address(id, key.clone());
        }
        true
    }

    /// Whether we hold the socket of this address, and its path leads there. A socket that another worker
    /// has bound and that is not shared yet becomes shared.
    pub(super) fn hold_unix(&mut self, key: &Key, place: Option<&Place>, id: WorkerId) -> bool {
        let file = place.and_then(Place::socket);
        let leads_there = |of: Option<FileId>| place.is_none() || of.is_some() && of == file;
        if self.shared.sockets.get(key).is_some_and(|sockets| sockets.iter().any(|it| leads_there(it.file))) {
            return true;
        }
        let others = self.shared.new.iter().filter(|new| new.worker != id && new.key == *key);
        let root = |new: &New| self.workers.get(&new.worker).filter(|it| !it.gone).map(|it| it.root);
        let copies = others.filter_map(|new| Some((new.clone(), new.copy(root(new)?)?)));
        let found = copies.into_iter().find(|(new, _)| {
            let own = new.file.or(file.filter(|file| is_bound_to(new.inode, *file)));
            leads_there(own)
        });
        let Some((new, copy)) = found else { return false };
        self.shared.new.retain(|other| other.inode != new.inode);
        self.share_unix(key.clone(), copy, new.file.or(file));
        true
    }

    /// The socket is that of all generations from now on.
    pub(super) fn share_unix(&mut self, key: Key, fd: OwnedFd, file: Option<FileId>) {
        if let Some(arrivals) = self.arrivals.as_ref().filter(|_| is_listener(fd.as_fd())) {
            let _ = arrivals.arm(fd.as_fd());
        }
        self.shared.set_unix(key, fd, file);
    }

    /// The answer to listen(2) on a unix socket that is adopted; None for another one.
    pub(super) fn listen_unix(
        &mut self,
        id: WorkerId,
        call: &Call,
        socket: &OwnedFd,
        backlog: i32,
    ) -> Option<Answer> {
        let (_, inode) = fd::device_and_inode(socket.as_raw_fd()).ok()?;
        let shared =
            self.shared.all().find(|(key, known)| *known == inode && key.transport == Transport::Unix);
        let shared = shared.map(|(key, _)| key.clone());
        let new = self.shared.new.iter().find(|new| new.inode == inode).map(|new| new.key.clone());
        let key = shared.clone().or(new).filter(|key| key.transport == Transport::Unix)?;
        if let Err(errno) = steering::listen(socket.as_fd(), backlog) {
            return Some(Answer::Failed(errno));
        }
        let process = seccomp::process_of(call.thread).unwrap_or(call.thread);
        if shared.is_none() {
            let file = key.path().and_then(caller_path::socket_at);
            for new in self.shared.new.iter_mut().filter(|new| new.inode == inode) {
                (new.file, new.process) = (file, process.as_raw());
            }
            if self.workers.get(&id).is_some_and(|worker| worker.ready)
                && let Ok(copy) = socket.try_clone()
            {
                self.shared.new.retain(|new| new.inode != inode);
                self.share_unix(key.clone(), copy, file);
            }
        } else if let Some(arrivals) = &self.arrivals {
            let _ = arrivals.arm(socket.as_fd());
        }
        self.add_address(id, key);
        self.looks.begin(self.now);
        Some(Answer::Done)
    }

    /// Whether the path is one that no other start of the program binds: its name holds the number of a
    /// process of the worker, or its directory was made for this start.
    fn is_of_one_start(&self, id: WorkerId, call: &Call, place: &Place) -> bool {
        let Some(worker) = self.workers.get(&id) else { return false };
        let process = seccomp::process_of(call.thread).unwrap_or(call.thread);
        let own: Vec<Pid> = tree::lineage(process).line.into_iter().map(|(pid, _)| pid).collect();
        let last: Vec<u8> = {
            let names = place.path.components().rev().take(2);
            names.flat_map(|name| [name.as_os_str().as_bytes(), b"/"].concat()).collect()
        };
        let is_private = |born: u64| worker.opened != 0 && born > worker.opened;
        numbers(&last).any(|number| own.iter().any(|pid| pid.as_raw() == number))
            || place.private_directory_born().is_some_and(is_private)
    }
}

/// Whether the unix socket of this inode is bound to the file. The kernel tells the lower half of a
/// number.
fn is_bound_to(socket: u64, file: FileId) -> bool {
    bound::unix_file(socket) == Some(file.1 as u32)
}

/// The numbers in a text that are long enough to be that of a process.
fn numbers(text: &[u8]) -> impl Iterator<Item = i32> {
    let parts = text.split(|byte| !byte.is_ascii_digit()).filter(|part| part.len() >= LEAST_DIGITS);
    parts.filter_map(|part| std::str::from_utf8(part).ok()?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    #[test]
    fn numbers_of_processes_are_found_in_names() {
        let found = |text: &str| numbers(text.as_bytes()).collect::<Vec<_>>();
        assert_eq!(found("php8.2-fpm.sock/run/"), Vec::<i32>::new());
        assert_eq!(found("dotnet-diagnostic-4711-99-socket/"), [4711]);
        assert_eq!(found("4711.pipe/tsx-1000/"), [4711, 1000]);
        assert_eq!(found("99999999999999/"), Vec::<i32>::new());
    }

    #[test]
    fn a_socket_is_known_by_its_file() {
        let scene = tempfile::tempdir().expect("a directory");
        let path = scene.path().join("s");
        let listener = UnixListener::bind(&path).expect("bind");
        let (_, inode) = fd::device_and_inode(listener.as_raw_fd()).expect("it is open");
        let file = caller_path::socket_at(&path).expect("it is there");
        assert!(
            is_bound_to(inode, file) && fd::is_unix_stream(listener.as_fd()) && is_listener(listener.as_fd())
        );
        assert!(!is_bound_to(inode, (file.0, file.1 + 1)));
    }
}
