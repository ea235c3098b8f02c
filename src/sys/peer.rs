//! The process at the other end of a unix socket.

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use nix::unistd::{Gid, Pid, Uid};
use std::fmt;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

/// The credentials of the process that connected (SO_PEERCRED of unix(7)).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Its pid at connect(2); 0 if it is not in our pid namespace.
    pub pid: Pid,
    /// Its user.
    pub uid: Uid,
    /// Its groups, the effective one first.
    pub groups: Vec<Gid>,
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pid {} (uid {})", self.pid, self.uid)
    }
}

/// The peer, as the kernel has recorded it at connect(2).
///
/// # Errors
/// Those of getsockopt(2). Where the kernel cannot tell supplementary groups
/// (before 4.13), there are none.
pub fn peer(socket: &impl AsFd) -> nix::Result<Peer> {
    let credentials = getsockopt(socket, PeerCredentials)?;
    let mut groups = vec![Gid::from_raw(credentials.gid())];
    groups.extend(supplementary(socket.as_fd()).unwrap_or_default().into_iter().map(Gid::from_raw));
    Ok(Peer { pid: Pid::from_raw(credentials.pid()), uid: Uid::from_raw(credentials.uid()), groups })
}

/// SO_PEERGROUPS. If the buffer is too small, the kernel returns ERANGE and the size that it needs.
fn supplementary(socket: BorrowedFd<'_>) -> nix::Result<Vec<libc::gid_t>> {
    let mut groups: Vec<libc::gid_t> = vec![0; 64];
    loop {
        let mut size = size_of_val(groups.as_slice()) as libc::socklen_t;
        // SAFETY: the kernel writes at most `size` bytes to a live buffer of that size.
        let result = unsafe {
            let (level, name) = (libc::SOL_SOCKET, libc::SO_PEERGROUPS);
            libc::getsockopt(socket.as_raw_fd(), level, name, groups.as_mut_ptr().cast(), &raw mut size)
        };
        let count = size as usize / size_of::<libc::gid_t>();
        match Errno::result(result) {
            Ok(_) => {
                groups.truncate(count);
                return Ok(groups);
            }
            Err(Errno::ERANGE) if count > groups.len() => groups.resize(count, 0),
            Err(errno) => return Err(errno),
        }
    }
}

/// Whether the other end has closed both directions: nobody will read what is written. A peer that
/// has only finished sending is still there.
pub fn has_gone(socket: &impl AsFd) -> bool {
    let mut wait = [PollFd::new(socket.as_fd(), PollFlags::empty())];
    let gone = PollFlags::POLLHUP | PollFlags::POLLERR | PollFlags::POLLNVAL;
    poll(&mut wait, PollTimeout::ZERO).is_ok_and(|count| count > 0)
        && wait[0].revents().is_some_and(|events| events.intersects(gone))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Shutdown;
    use std::os::unix::net::UnixStream;

    #[test]
    fn the_peer_of_our_own_socket_is_ourselves() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let peer = peer(&ours).unwrap();
        assert_eq!((peer.pid, peer.uid), (Pid::this(), Uid::effective()));
        let mut groups = nix::unistd::getgroups().unwrap();
        groups.insert(0, Gid::effective());
        assert_eq!(peer.groups, groups);
    }

    #[test]
    fn a_peer_that_has_only_finished_sending_has_not_gone() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        theirs.shutdown(Shutdown::Write).unwrap();
        assert!(!has_gone(&ours));
        drop(theirs);
        assert!(has_gone(&ours));
    }
}
